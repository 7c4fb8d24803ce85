//! What happens, and what goes wrong.

use super::World;
use crate::hub::cluster::batch::{Gone, NodeId};
use crate::hub::cluster::message::Message;
use crate::wire::ids::{Epoch, Seq};

/// Processes that run at once, at most.
const PROCESSES_MAX: usize = 5;

impl World {
    /// One thing happens.
    pub(super) fn step(&mut self) {
        let at = self.dice.below(self.processes.len());
        match self.dice.below(100) {
            0..8 if self.processes[at].runs => {
                let sender = self.dice.below(6);
                let is_away = self.senders.get(sender).is_some();
                self.join(at, is_away.then_some(sender));
            }
            8..24 => {
                if let Some(client) = self.client_of(at) {
                    let lines = 1 + self.dice.below(3) as u64;
                    self.send(at, client, lines);
                }
            }
            24..27 => {
                if let Some(client) = self.client_of(at) {
                    self.close(at, client);
                }
            }
            27..45 => self.publish(at),
            45..59 if !self.way.is_empty() => {
                let index = self.dice.below(self.way.len());
                match self.dice.below(12) {
                    0 => drop(self.way.remove(index)),
                    // What is sent may also come twice.
                    1 => {
                        self.way.push(self.way[index].clone());
                        self.arrive(index);
                    }
                    _ => self.arrive(index),
                }
            }
            59..67 if !self.answers.is_empty() => {
                let index = self.dice.below(self.answers.len());
                match self.dice.one_in(5) {
                    true => drop(self.answers.remove(index)),
                    false => self.answer(index),
                }
            }
            67..69 => self.processes[at].publisher.note_doubt(),
            69..84 if self.processes[at].is_up() => {
                for _ in 0..=self.dice.below(8) {
                    self.read(at);
                }
            }
            84..92 => self.keep_house(at),
            92..94 => self.processes[at].is_connected = false,
            94..96 => self.connect(at),
            96 => {
                let process = &mut self.processes[at];
                process.is_stopped = !process.is_stopped;
            }
            97 if self.dice.one_in(3) => self.kill(at),
            98 => match self.dice.below(8) {
                0 => self.purge(),
                1 if self.is_wild => self.delete(),
                2 => self.twin(at),
                _ => {}
            },
            99 if self.running() < PROCESSES_MAX => self.start(),
            _ => {}
        }
    }

    fn running(&self) -> usize {
        self.processes.iter().filter(|process| process.runs).count()
    }

    fn client_of(&mut self, at: usize) -> Option<u64> {
        let process = &self.processes[at];
        let clients: Vec<_> = process.clients.keys().copied().collect();
        let can = process.runs && !process.is_stopped && !clients.is_empty();
        can.then(|| clients[self.dice.below(clients.len())])
    }

    /// The connection of a process is back: it sees which stream is there, and does not know what was stored.
    pub(super) fn connect(&mut self, at: usize) {
        let process = &mut self.processes[at];
        process.is_connected = true;
        process.publisher.note_doubt();
        let is_new = process.stream != self.stream.id;
        process.order.connected(self.stream.id, self.stream.last);
        process.stream = self.stream.id;
        if is_new {
            process.start = 0;
            let start = self.checkpointed();
            self.processes[at].start = start;
        }
    }

    pub(super) fn kill(&mut self, at: usize) {
        let process = &mut self.processes[at];
        process.runs = false;
        process.clients.clear();
        for sender in &mut self.senders {
            sender.at.take_if(|of| of.0 == at);
        }
    }

    /// Messages go, but not the stream.
    fn purge(&mut self) {
        self.stream.messages.clear();
        self.was_trimmed = true;
    }

    fn delete(&mut self) {
        self.stream.messages.clear();
        (self.stream.last, self.stream.id) = (0, self.stream.id + 1);
        self.auditor.connect(self.stream.id);
    }

    /// Another process begins that takes itself for the same node.
    fn twin(&mut self, at: usize) {
        if self.processes[at].runs && self.running() < PROCESSES_MAX {
            let node = self.processes[at].me();
            self.start();
            let twin = self.processes.last_mut().expect("it was started");
            *twin = super::Process::new(node, twin.stream, twin.start);
            self.had_twins = true;
        }
    }

    /// A process does what is to be done for all: checkpoints, a beginning, who is gone.
    pub(super) fn keep_house(&mut self, at: usize) {
        if !self.processes[at].is_up() {
            return;
        }
        if !self.processes[at].order.is_known() {
            self.begin(at);
            return;
        }
        let running = |process: &&super::Process| process.runs;
        let asks = self.processes.iter().filter(running);
        let is_asked = asks.clone().any(|process| !process.order.is_known());
        let order = &self.processes[at].order;
        let is_due = order.is_checkpoint_due(self.stream.first(), super::CHECKPOINT_EVERY);
        if is_due || is_asked {
            let oldest = self
                .auditor
                .seq_at(self.stream.first(), order.state().epoch);
            let oldest = oldest.unwrap_or(order.state().next).min(order.state().next);
            if let Some(checkpoint) = order.checkpoint(Seq(oldest.0)) {
                let message = Message::Checkpoint(Box::new(checkpoint));
                self.send_message(at, &message, None);
            }
        }
        let by = self.processes[at].publisher.node();
        let suspects_all = !self.is_settling && self.dice.one_in(20);
        let state = self.processes[at].order.state();
        let is_seen = |node: &NodeId| {
            let mut up = self.processes.iter().filter(|process| process.is_up());
            up.any(|process| process.me() == node.0)
        };
        let nodes = state.nodes.keys().copied().filter(|node| *node != by);
        let gone: Vec<_> = nodes
            .filter(|node| suspects_all || !is_seen(node))
            .collect();
        if !gone.is_empty() && self.dice.one_in(3) {
            let node = gone[self.dice.below(gone.len())];
            self.send_message(at, &Message::Gone(Gone { node, by }), None);
        }
    }

    /// A process that knows nothing begins an order, if nobody answers.
    fn begin(&mut self, at: usize) {
        let is_answered = self
            .processes
            .iter()
            .any(|process| process.runs && process.order.is_known());
        let is_rash = self.is_wild && self.dice.one_in(30);
        let process = &self.processes[at];
        let read = process.order.place().max(process.start);
        let is_there = process.stream == self.stream.id;
        let is_read = is_there && self.stream.behind(read).is_none();
        if is_read && (!is_answered || is_rash) {
            let last = self.stream.last;
            let epoch = Epoch(self.new_id() as u32);
            let beginning = self.processes[at].order.beginning(last, epoch);
            let message = Message::Checkpoint(Box::new(beginning));
            self.send_message(at, &message, Some(last));
        }
    }
}
