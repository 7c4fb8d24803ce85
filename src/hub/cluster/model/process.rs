//! A process of the model: a node with its clients, as the daemon is to use the parts.

use std::collections::BTreeMap;

use super::World;
use super::check::units;
use crate::hub::cluster::batch::{Claim, Gone, NodeId};
use crate::hub::cluster::here::Clients;
use crate::hub::cluster::message::Message;
use crate::hub::cluster::order::{Delivery, Order};
use crate::hub::cluster::outbox::{Outbox, Outgoing};
use crate::hub::cluster::publisher::{Publisher, Settled};
use crate::hub::cluster::state::Claimed;
use crate::hub::history::Record;
use crate::hub::part::Kind;
use crate::wire::client_name::Origin;
use crate::wire::format::Notice;
use crate::wire::ids::{ClientId, Epoch};
use crate::wire::session::SessionKey;

#[derive(Debug)]
pub(super) struct Process {
    pub(super) order: Order,
    pub(super) publisher: Publisher,
    pub(super) outbox: Outbox,
    pub(super) clients: BTreeMap<u64, Client>,
    pub(super) claims: u64,
    /// Where it begins to read.
    pub(super) start: u64,
    /// The stream that it knows of.
    pub(super) stream: u64,
    pub(super) runs: bool,
    pub(super) is_stopped: bool,
    pub(super) is_connected: bool,
    /// The epoch and number that its clients have next.
    pub(super) next: Option<(Epoch, u64)>,
}

#[derive(Debug, Default)]
pub(super) struct Client {
    /// Lines that it sent.
    pub(super) sent: u64,
    /// The session that it has or has asked for, and its claim.
    pub(super) session: Option<(usize, u64)>,
    pub(super) is_granted: bool,
    /// The sender's when it was granted.
    pub(super) generation: u64,
}

impl Process {
    pub(super) fn new(node: u64, stream: u64, start: u64) -> Process {
        Process {
            order: Order::new(NodeId(node), stream),
            publisher: Publisher::new(NodeId(node)),
            outbox: Outbox::default(),
            clients: BTreeMap::new(),
            claims: 0,
            start,
            stream,
            runs: true,
            is_stopped: false,
            is_connected: true,
            next: None,
        }
    }

    pub(super) fn me(&self) -> u64 {
        self.publisher.node().0
    }

    pub(super) fn is_up(&self) -> bool {
        self.runs && !self.is_stopped && self.is_connected
    }

    pub(super) fn say(&mut self, client: ClientId, notice: Notice) {
        let kind = Kind::Notice(notice);
        self.outbox.add_notice(origin(client), kind, |_| None);
    }

    fn owns(&self, name: &SessionKey, claim: u64) -> Option<u64> {
        let session = self.order.state().sessions.get(name);
        let session = session.filter(|it| it.owner == Some((NodeId(self.me()), claim)));
        session.map(|session| session.taken)
    }
}

/// A client without a name.
pub(super) fn origin(client: ClientId) -> Origin<'static> {
    Origin { client, name: None }
}

impl World {
    /// A process takes the next message, if it is connected to this stream and there is one.
    pub(super) fn read(&mut self, at: usize) -> bool {
        let process = &mut self.processes[at];
        let from = process.order.place().max(process.start);
        let next = self.stream.behind(from);
        let Some((place, _, body)) = next.filter(|_| process.stream == self.stream.id) else {
            return false;
        };
        let mut out = Vec::new();
        let message = Message::decode(body).ok();
        process.order.apply(*place, 0, message, &mut out);
        self.take(at, out);
        let mut out = Vec::new();
        self.processes[at].order.go_on(&mut out);
        self.take(at, out);
        let process = &self.processes[at];
        if process.order.is_known() {
            let place = (process.stream, process.order.place());
            let state = self.auditor.states.get(&place).expect("it was read");
            assert_eq!(process.order.state(), state, "at {place:?}");
        }
        true
    }

    fn take(&mut self, at: usize, out: Vec<Delivery>) {
        for delivery in out {
            match delivery {
                Delivery::Placed {
                    epoch,
                    next,
                    missed,
                    ..
                } => self.placed(at, (epoch, next.0), missed),
                Delivery::Batch {
                    node,
                    number,
                    crc,
                    record,
                } => {
                    self.show(at, &record);
                    let settled = self.processes[at].publisher.settle(node, number, crc);
                    if settled == Settled::Own {
                        self.acknowledge(at);
                        continue;
                    }
                    if settled == Settled::Twin {
                        self.renew(at, &Clients::new());
                    }
                    self.see_notices(at, &record);
                }
                Delivery::Claimed(claimed) => self.claimed(at, &claimed),
                Delivery::Gone { gone, clients } => self.gone(at, gone, &clients),
            }
        }
    }

    /// Its clients get this.
    fn show(&mut self, at: usize, record: &Record) {
        let next = self.processes[at].next.as_mut().expect("it is placed");
        for (place, unit) in units(next.0, record) {
            assert_eq!(place, (next.0.0, next.1), "numbers follow each other");
            assert_eq!(self.auditor.units.get(&place), Some(&unit), "at {place:?}");
            next.1 += 1;
        }
    }

    fn see_notices(&mut self, at: usize, record: &Record) {
        let process = &mut self.processes[at];
        for (part, client) in record.parts.iter().zip(&record.origins) {
            let has_left = part.kind == Kind::Notice(Notice::Disconnect);
            if has_left && process.outbox.is_back(*client) {
                process.say(*client, Notice::Connect);
            }
        }
    }

    fn placed(&mut self, at: usize, next: (Epoch, u64), missed: Option<(u64, u64)>) {
        let process = &mut self.processes[at];
        let before = process.next.replace(next);
        if let Some((numbers, messages)) = missed {
            let (epoch, from) = before.expect("it was placed");
            assert_eq!((epoch, from + numbers), next);
            assert_eq!(messages, self.auditor.messages(epoch, from, next.1));
            let left = self.auditor.left.iter();
            let left = left.filter(|((by, _), _)| *by == process.me());
            self.exempt
                .extend(left.flat_map(|(_, of)| of.keys().map(|it| it.0)));
        } else {
            assert!(before.is_none_or(|before| before.0 != next.0));
        }
        let me = process.publisher.node();
        let last = process.order.state().last_of(me);
        let (counted, settled) = process.publisher.place(last);
        let mut claims = Vec::new();
        for batch in counted {
            process.order.note_own(&batch.record);
            claims.extend(batch.claims.into_iter().filter(|it| !it.is_given_up));
        }
        for claim in claims {
            let taken = self.processes[at].owns(&claim.name, claim.number);
            let claimed = Claimed {
                node: me,
                claim: claim.number,
                name: claim.name,
                taken,
            };
            self.claimed(at, &claimed);
        }
        let process = &mut self.processes[at];
        if process.order.state().is_gone(me) {
            let left = process.order.leave();
            self.renew(at, &left);
        } else if settled == Settled::Twin {
            self.renew(at, &Clients::new());
        }
        let outbox = &mut self.processes[at].outbox;
        if missed.is_some() {
            let unsaid = outbox.own.unannounced().chain(outbox.awaited());
            self.exempt.extend(unsaid.map(|client| client.0));
        }
        outbox.let_go();
        self.acknowledge(at);
    }

    /// Tells those who have sessions what is stored of them, and closes those who have them no more.
    fn acknowledge(&mut self, at: usize) {
        let process = &self.processes[at];
        let mut lost = Vec::new();
        for (id, client) in &process.clients {
            let Some((sender, claim)) = client.session.filter(|_| client.is_granted) else {
                continue;
            };
            let sender = &mut self.senders[sender];
            match process.owns(&sender.name, claim) {
                Some(taken) if sender.at == Some((at, *id)) => {
                    sender.acked = sender.acked.max(taken);
                }
                Some(_) => {}
                None => lost.push(*id),
            }
        }
        for client in lost {
            self.close(at, client);
        }
    }

    fn claimed(&mut self, at: usize, claimed: &Claimed) {
        let process = &self.processes[at];
        let is_own = claimed.node.0 == process.me();
        let mut closed = Vec::new();
        let mut granted = None;
        for (id, client) in &process.clients {
            let Some((sender, claim)) = client.session else {
                continue;
            };
            let is_this = is_own && claim == claimed.claim && !client.is_granted;
            if self.senders[sender].name != claimed.name {
                continue;
            }
            match claimed.taken {
                Some(taken) if is_this => granted = Some((*id, sender, taken)),
                _ if client.is_granted || is_this => closed.push(*id),
                _ => {}
            }
        }
        for client in closed {
            self.close(at, client);
        }
        if let Some((id, sender, taken)) = granted {
            if self.senders[sender].at == Some((at, id)) {
                self.grant(sender, taken);
            }
            if let Some(client) = self.processes[at].clients.get_mut(&id) {
                (client.is_granted, client.sent) = (true, taken);
                client.generation = self.senders[sender].generation;
            }
        }
    }

    fn gone(&mut self, at: usize, gone: Gone, clients: &Clients) {
        let process = &mut self.processes[at];
        let me = process.publisher.node();
        if gone.node == me {
            self.renew(at, clients);
        } else if gone.by == me {
            process.outbox.inherit(clients, |_| None);
            let all = self.auditor.left.get(&(gone.by.0, gone.node.0));
            let missed = all.into_iter().flat_map(Clients::keys);
            let missed = missed.filter(|client| !clients.contains_key(client));
            self.exempt.extend(missed.map(|client| client.0));
        }
    }

    fn renew(&mut self, at: usize, left: &Clients) {
        let node = self.new_id();
        let process = &mut self.processes[at];
        let unsent = process.publisher.renew(NodeId(node));
        let unsent = unsent.map(Outgoing::from).collect();
        process.outbox.put_back(unsent);
        process.order.rename(NodeId(node));
        process.outbox.lose(left);
        let of_sessions = process
            .clients
            .iter()
            .filter(|(_, client)| client.is_granted);
        let closed: Vec<_> = of_sessions.map(|(id, _)| *id).collect();
        for client in closed {
            self.close(at, client);
        }
    }

    /// A client leaves, or is closed.
    pub(super) fn close(&mut self, at: usize, id: u64) {
        let process = &mut self.processes[at];
        let Some(client) = process.clients.remove(&id) else {
            return;
        };
        if let Some((sender, number)) = client.session {
            let sender = &mut self.senders[sender];
            sender.at.take_if(|of| *of == (at, id));
            process.outbox.add_claim(Claim {
                name: sender.name.clone(),
                number,
                is_given_up: true,
            });
        }
        if process.outbox.leave(ClientId(id)) {
            process.say(ClientId(id), Notice::Disconnect);
        }
    }
}
