//! What everybody is to agree on: an order that missed nothing, and what all others are compared with.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::Bytes;

use crate::hub::cluster::batch::NodeId;
use crate::hub::cluster::here::Clients;
use crate::hub::cluster::message::Message;
use crate::hub::cluster::order::{Delivery, Order};
use crate::hub::cluster::state::State;
use crate::hub::history::Record;
use crate::hub::part::Kind;
use crate::wire::format::Notice;
use crate::wire::ids::{Epoch, Seq};

/// A place, and what has it.
pub(super) type Unit = ((u32, u64), String);

/// Reads the stream as it is written.
#[derive(Debug)]
pub(super) struct Auditor {
    order: Order,
    pub(super) units: HashMap<(u32, u64), String>,
    /// What is known behind each place of each stream.
    pub(super) states: HashMap<(u64, u64), State>,
    stream: u64,
    /// Orders that began.
    pub(super) orders: usize,
    /// Where the first number of a message of the stream is.
    seqs: Vec<(u64, Epoch, Seq)>,
    /// The same in its order.
    pub(super) all: Vec<Unit>,
    /// Clients that were left to a node by another.
    pub(super) left: HashMap<(u64, u64), Clients>,
}

impl Auditor {
    pub(super) fn new(stream: u64) -> Auditor {
        Auditor {
            order: Order::new(NodeId(0), stream),
            units: HashMap::new(),
            states: HashMap::new(),
            stream,
            orders: 0,
            seqs: Vec::new(),
            all: Vec::new(),
            left: HashMap::new(),
        }
    }

    /// Another stream is there.
    pub(super) fn connect(&mut self, stream: u64) {
        self.seqs.clear();
        self.stream = stream;
        self.order.connected(stream, 0);
    }

    pub(super) fn read(&mut self, place: u64, body: &Bytes) {
        let mut out = Vec::new();
        self.order
            .apply(place, 0, Message::decode(body).ok(), &mut out);
        self.order.go_on(&mut out);
        if self.order.is_known() {
            let state = self.order.state().clone();
            self.states.insert((self.stream, place), state);
        }
        for delivery in out {
            match delivery {
                Delivery::Batch { record, .. } => {
                    let epoch = self.order.state().epoch;
                    self.seqs.push((place, epoch, record.first_seq));
                    for unit in units(self.order.state().epoch, &record) {
                        let before = self.units.insert(unit.0, unit.1.clone());
                        assert_eq!(before, None, "a number is used twice");
                        self.all.push(unit);
                    }
                }
                Delivery::Gone { gone, clients } => {
                    self.left.insert((gone.by.0, gone.node.0), clients);
                }
                Delivery::Placed { .. } => self.orders += 1,
                Delivery::Claimed(_) => {}
            }
        }
    }

    /// The first number of what is in the stream from this place on.
    pub(super) fn seq_at(&self, place: u64, epoch: Epoch) -> Option<Seq> {
        let of_epoch = self.seqs.iter().filter(|(_, of, _)| *of == epoch);
        let found = of_epoch.filter(|(at, ..)| *at >= place).map(|it| it.2);
        found.min()
    }

    /// Messages among these numbers.
    pub(super) fn messages(&self, epoch: Epoch, from: u64, to: u64) -> u64 {
        let is_message = |seq: &u64| {
            let unit = self.units.get(&(epoch.0, *seq));
            unit.expect("missed numbers are somebody's")
                .starts_with('=')
        };
        (from..to).filter(is_message).count() as u64
    }

    /// Lines and notices as they follow each other, by who they are of.
    pub(super) fn by_source(&self) -> BTreeMap<String, Vec<(u32, u64)>> {
        let mut lines: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for ((epoch, _), unit) in &self.all {
            let line = unit.strip_prefix('=').and_then(|it| it.split_once('@'));
            if let Some((source, number)) = line.and_then(|(_, line)| line.split_once(':')) {
                let number = number.parse().expect("a number");
                lines
                    .entry(source.to_owned())
                    .or_default()
                    .push((*epoch, number));
            }
        }
        lines
    }

    /// Whether each client came, spoke and left in turn, and those who are here now. Of `exempt` not all is said.
    pub(super) fn clients(&self, exempt: &BTreeSet<u64>) -> Result<BTreeSet<u64>, String> {
        let mut here = BTreeSet::new();
        for (place, unit) in &self.all {
            let in_turn = match (unit.strip_prefix('+'), unit.strip_prefix('-')) {
                (Some(client), _) => here.insert(client.parse().expect("a client")),
                (_, Some(client)) => here.remove(&client.parse().expect("a client")),
                _ => {
                    let line = unit.strip_prefix('=').and_then(|it| it.split_once('@'));
                    let client = line.expect("a line").0.parse().expect("a client");
                    here.contains(&client) || exempt.contains(&client)
                }
            };
            if !in_turn {
                return Err(format!("{unit} out of turn, at {place:?}"));
            }
        }
        Ok(here)
    }
}

/// What a record says, each with its place.
pub(super) fn units(epoch: Epoch, record: &Record) -> Vec<Unit> {
    let (mut units, mut seq, mut start) = (Vec::new(), record.first_seq.0, 0);
    for ((part, client), end) in record.parts.iter().zip(&record.origins).zip(&record.ends) {
        let text = String::from_utf8_lossy(&record.raw[start..*end as usize]);
        start = *end as usize;
        let said: Vec<String> = match part.kind {
            Kind::Notice(Notice::Connect) => vec![format!("+{client}")],
            Kind::Notice(Notice::Disconnect) => vec![format!("-{client}")],
            _ => text
                .lines()
                .map(|line| format!("={client}@{line}"))
                .collect(),
        };
        assert_eq!(said.len() as u64, part.numbers());
        for unit in said {
            units.push(((epoch.0, seq), unit));
            seq += 1;
        }
    }
    units
}
