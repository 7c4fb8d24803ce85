//! The faults end: everything is to settle, and nothing to be missing.

use super::{LINES, World};
use crate::hub::cluster::batch::{Gone, NodeId};
use crate::hub::cluster::message::Message;

/// Rounds in which everything settles.
const ROUNDS_MAX: usize = 300;

/// Rounds in which a node says of clients that they left, if it knows of them.
const HELD_ROUNDS: usize = 100;

impl World {
    pub(super) fn settle(&mut self) {
        self.limit = usize::MAX;
        (self.is_wild, self.is_settling) = (false, true);
        if !self.processes.iter().any(|process| process.runs) {
            self.start();
        }
        for round in 0.. {
            assert!(round < ROUNDS_MAX, "it does not settle: {self:#?}");
            for at in 0..self.processes.len() {
                if self.processes[at].runs {
                    if round > HELD_ROUNDS {
                        self.let_go(at);
                    }
                    self.go_on(at);
                }
            }
            while !self.way.is_empty() {
                self.arrive(0);
            }
            while !self.answers.is_empty() {
                self.answer(0);
            }
            if self.is_settled() {
                break;
            }
        }
    }

    fn go_on(&mut self, at: usize) {
        self.processes[at].is_stopped = false;
        self.connect(at);
        while self.read(at) {}
        for index in 0..self.senders.len() {
            match self.senders[index].at {
                None => self.join(at, Some(index)),
                Some((of, client)) if of == at => self.send(at, client, LINES),
                Some(_) => {}
            }
        }
        self.publish(at);
        self.keep_house(at);
        if let Some(node) = self.dead_nodes(at).pop() {
            let by = self.processes[at].publisher.node();
            self.send_message(at, &Message::Gone(Gone { node, by }), None);
        }
    }

    /// A process waits no more for another to say that clients left.
    fn let_go(&mut self, at: usize) {
        let outbox = &mut self.processes[at].outbox;
        let held: Vec<_> = outbox.awaited().map(|client| client.0).collect();
        outbox.let_go();
        let is_exact = !self.is_loose() && !self.had_twins;
        for client in held.iter().filter(|_| is_exact) {
            assert!(
                self.exempt.contains(client),
                "nobody says that {client} left"
            );
        }
    }

    /// Nodes that a process takes for living and of which no process runs.
    fn dead_nodes(&self, at: usize) -> Vec<NodeId> {
        let running = |node: u64| {
            let mut running = self.processes.iter().filter(|process| process.runs);
            running.any(|process| process.me() == node)
        };
        let state = self.processes[at].order.state();
        let dead = state.nodes.keys().filter(|node| !running(node.0));
        dead.copied().collect()
    }

    fn is_settled(&self) -> bool {
        let mut running = (0..self.processes.len()).filter(|at| self.processes[*at].runs);
        let all = running.all(|at| {
            let process = &self.processes[at];
            process.order.is_known()
                && self.stream.behind(process.order.place()).is_none()
                && process.publisher.is_settled()
                && process.outbox.is_empty()
                && self.dead_nodes(at).is_empty()
        });
        all && self.senders.iter().all(|sender| sender.acked == LINES)
    }

    /// Nothing is lost, doubled, or out of its order.
    pub(super) fn check(&self) {
        let is_loose = self.is_loose();
        let by_source = self.auditor.by_source();
        for (source, lines) in &by_source {
            for two in lines.windows(2) {
                let in_order = two[0].1 + 1 == two[1].1;
                let is_anew = is_loose && (two[0].0 != two[1].0 || two[0].1 < two[1].1);
                assert!(in_order || is_anew, "{source}: {lines:?}");
            }
            let begins = lines.first().is_some_and(|line| line.1 == 0);
            assert!(begins || is_loose, "{source}: {lines:?}");
        }
        let last_of = |source: &str| {
            let lines = by_source.get(source).and_then(|lines| lines.last());
            lines.map_or(0, |line| line.1 + 1)
        };
        for sender in &self.senders {
            let source = format!("{}.{}", sender.name.as_str(), sender.generation);
            assert!(last_of(&source) == LINES || is_loose, "{sender:?}");
        }
        let running = || self.processes.iter().filter(|process| process.runs);
        let clients = || running().flat_map(|process| &process.clients);
        for (id, client) in clients().filter(|(_, client)| client.session.is_none()) {
            let source = format!("c{id}");
            assert!(
                last_of(&source) == client.sent,
                "{source}: {client:?} {:?} twins {} loose {is_loose}",
                by_source.get(&source),
                self.had_twins
            );
        }
        if is_loose || self.had_twins {
            return;
        }
        let here = self
            .auditor
            .clients(&self.exempt)
            .expect("clients come, speak and leave in turn");
        for id in here.iter().filter(|id| !self.exempt.contains(id)) {
            assert!(clients().any(|(here, _)| here == id), "{id} did not leave");
        }
        for (id, _) in clients().filter(|(id, _)| !self.exempt.contains(id)) {
            assert!(here.contains(id), "{id} did not come");
        }
    }
}
