//! A model of nodes, their clients and a stream, with all that goes wrong between them, driven by a seed.
//!
//! Everything that is delivered anywhere is compared with an [`Auditor`], who reads the stream as it is written.
//! Afterwards the faults end, everything settles, and nothing may be lost, doubled or out of its order.

mod check;
mod faults;
mod process;
mod settle;
mod stream;

use std::collections::BTreeSet;

use proptest::prelude::*;

use self::check::Auditor;
use self::process::{Client, Process, origin};
use self::stream::{OnWay, Stream};
use super::batch::{Claim, NodeId};
use super::message::Message;
use super::outbox::Outgoing;
use super::publisher::Step;
use crate::wire::format::Notice;
use crate::wire::framing::Lines;
use crate::wire::ids::ClientId;
use crate::wire::session::SessionKey;

/// Where the choices come from: a list, and when that is used up, a seed.
#[derive(Debug)]
struct Dice {
    list: std::vec::IntoIter<u16>,
    rng: fastrand::Rng,
}

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        match self.list.next() {
            Some(number) => usize::from(number) % bound,
            None => self.rng.usize(..bound),
        }
    }

    fn one_in(&mut self, of: usize) -> bool {
        self.below(of) == of - 1
    }
}

/// Somebody who sends lines by a session, over all connections.
#[derive(Debug)]
struct Sender {
    name: SessionKey,
    /// Raised when the session was forgotten, with its lines.
    generation: u64,
    /// Lines of the session that it was told are taken.
    acked: u64,
    /// Lines that it ever sent.
    sent: u64,
    /// The process and the client that it is now.
    at: Option<(usize, u64)>,
}

/// Lines that a sender has to send in all.
const LINES: u64 = 12;

/// Messages of the stream between two checkpoints.
const CHECKPOINT_EVERY: u64 = 8;

#[derive(Debug)]
struct World {
    dice: Dice,
    stream: Stream,
    /// Messages that a full stream keeps.
    limit: usize,
    way: Vec<OnWay>,
    /// Which process is to be told that which batch is stored, and in which stream and place.
    answers: Vec<(usize, stream::Subject, (u64, u64))>,
    processes: Vec<Process>,
    senders: Vec<Sender>,
    last_id: u64,
    auditor: Auditor,
    /// Streams are deleted, and orders begin while somebody knows one.
    is_wild: bool,
    was_trimmed: bool,
    had_twins: bool,
    is_settling: bool,
    /// Clients of whom the node that was left them does not know.
    exempt: BTreeSet<u64>,
}

impl World {
    fn new(list: Vec<u16>, seed: u64) -> World {
        let mut dice = Dice {
            list: list.into_iter(),
            rng: fastrand::Rng::with_seed(seed),
        };
        let is_wild = dice.one_in(4);
        let senders = (0..3).map(|at| Sender {
            name: format!("s{at}").parse().unwrap(),
            generation: 0,
            acked: 0,
            sent: 0,
            at: None,
        });
        let mut world = World {
            limit: [20, 60, 1000][dice.below(3)],
            dice,
            stream: Stream::default(),
            way: Vec::new(),
            answers: Vec::new(),
            processes: Vec::new(),
            senders: senders.collect(),
            last_id: 0,
            auditor: Auditor::new(0),
            is_wild,
            was_trimmed: false,
            had_twins: false,
            is_settling: false,
            exempt: BTreeSet::new(),
        };
        for _ in 0..3 {
            world.start();
        }
        world
    }

    fn new_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// Whether numbers began anew, so that what was sent before may come again.
    fn is_loose(&self) -> bool {
        self.auditor.orders > 1
    }

    fn start(&mut self) {
        let node = self.new_id();
        let start = self.checkpointed();
        let process = Process::new(node, self.stream.id, start);
        self.processes.push(process);
    }

    /// The place that the last checkpoint of the stream is about.
    fn checkpointed(&self) -> u64 {
        let mut messages = self.stream.messages.iter().rev();
        let place = messages.find_map(|(_, _, body)| match Message::decode(body) {
            Ok(Message::Checkpoint(checkpoint)) => Some(checkpoint.place),
            _ => None,
        });
        place.unwrap_or(0)
    }

    /// A client comes to a process, for a sender if there is one.
    fn join(&mut self, at: usize, sender: Option<usize>) {
        let id = self.new_id();
        let process = &mut self.processes[at];
        let mut client = Client::default();
        if let Some(index) = sender {
            process.claims += 1;
            let claim = process.claims;
            client.session = Some((index, claim));
            process.outbox.add_claim(Claim {
                name: self.senders[index].name.clone(),
                number: claim,
                is_given_up: false,
            });
            self.senders[index].at = Some((at, id));
        }
        process.outbox.own.join(ClientId(id));
        process.say(ClientId(id), Notice::Connect);
        process.clients.insert(id, client);
    }

    /// A client sends some lines, if it can.
    fn send(&mut self, at: usize, id: u64, lines: u64) {
        let process = &mut self.processes[at];
        let Some(client) = process.clients.get_mut(&id) else {
            return;
        };
        let (mut source, mut lines, mut session) = (format!("c{id}"), lines, None);
        if let Some((index, claim)) = client.session {
            let sender = &mut self.senders[index];
            if !client.is_granted || sender.at != Some((at, id)) {
                return;
            }
            lines = lines.min(LINES - client.sent);
            source = format!("{}.{}", sender.name.as_str(), client.generation);
            session = Some((sender.name.clone(), client.sent + lines, claim));
            sender.sent = sender.sent.max(client.sent + lines);
        }
        if lines == 0 {
            return;
        }
        let numbers = client.sent..client.sent + lines;
        client.sent += lines;
        let lines: String = numbers.map(|it| format!("{source}:{it}\n")).collect();
        let lines = Lines {
            rest: lines.as_bytes(),
            ..Lines::default()
        };
        let origin = origin(ClientId(id));
        process.outbox.add_lines(origin, &lines, session, |_| None);
    }

    /// A sender is told what was taken, and goes on there.
    fn grant(&mut self, index: usize, taken: u64) {
        let is_loose = self.is_loose();
        let sender = &mut self.senders[index];
        let is_forgotten = taken == 0 && self.was_trimmed || is_loose;
        assert!(
            taken >= sender.acked || is_forgotten,
            "{taken} of {sender:?}"
        );
        assert!(taken <= sender.sent || is_loose, "{taken} of {sender:?}");
        if is_forgotten && sender.sent > 0 {
            sender.generation += 1;
            sender.sent = taken;
        }
        sender.acked = taken;
    }

    /// A process sends what is to be sent.
    fn publish(&mut self, at: usize) {
        let process = &mut self.processes[at];
        if !process.is_up() || !process.order.is_known() {
            return;
        }
        if process.publisher.is_free()
            && let Some(Outgoing {
                claims,
                record,
                claimed_by,
                ..
            }) = process.outbox.take()
        {
            process.publisher.push(claims, record, claimed_by);
        }
        let read = process.order.place();
        match process.publisher.next(read) {
            Step::Send { number, body, .. } => self.way.push(OnWay {
                from: at,
                subject: (process.me(), number),
                body,
                expected_last: None,
            }),
            Step::Look => {
                let (place, last) = self.stream.last_of(process.me());
                process.publisher.note_found(last, place, read);
            }
            Step::Wait => {}
        }
    }

    /// A process sends something else than a batch.
    fn send_message(&mut self, at: usize, message: &Message, expected_last: Option<u64>) {
        self.way.push(OnWay {
            from: at,
            subject: (0, 0),
            body: message.encode().0,
            expected_last,
        });
    }

    /// A message that is on its way comes to the stream.
    fn arrive(&mut self, index: usize) {
        let message = self.way.remove(index);
        if self.stream.store(&message) {
            self.auditor.read(self.stream.last, &message.body);
            let place = (self.stream.id, self.stream.last);
            self.answers.push((message.from, message.subject, place));
        }
        while self.stream.messages.len() > self.limit {
            self.stream.messages.pop_front();
            self.was_trimmed = true;
        }
    }

    /// A process is told that a batch of it is stored.
    fn answer(&mut self, index: usize) {
        let (at, (node, number), (stream, place)) = self.answers.remove(index);
        let process = &mut self.processes[at];
        if process.stream == stream {
            process.publisher.note_stored(NodeId(node), number, place);
        }
    }
}

fn run(list: Vec<u16>, seed: u64, steps: usize) -> World {
    let mut world = World::new(list, seed);
    for _ in 0..steps {
        world.step();
    }
    world.settle();
    world.check();
    world
}

#[test]
fn nodes_agree_whatever_goes_wrong() {
    let seeds = std::env::var("LINEHUB_MODEL_SEEDS").ok();
    let seeds = seeds.map_or(1000, |seeds| seeds.parse().expect("a number of seeds"));
    let mut sums = [0; 6];
    for seed in 0..seeds {
        let ran = std::panic::catch_unwind(|| run(Vec::new(), seed, 400));
        let world = ran.unwrap_or_else(|_| panic!("seed {seed}"));
        let counts = [
            world.auditor.all.len(),
            world.processes.len(),
            world.is_loose().into(),
            world.was_trimmed.into(),
            world.exempt.len(),
            world.had_twins.into(),
        ];
        for (sum, count) in sums.iter_mut().zip(counts) {
            *sum += count;
        }
    }
    println!("units, processes, loose, trimmed, exempt, twins: {sums:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn nodes_agree_by_any_choices(list in prop::collection::vec(any::<u16>(), 0..600)) {
        let steps = list.len() / 3;
        run(list, 0, steps);
    }
}
