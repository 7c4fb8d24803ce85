//! What is recorded of a channel: each batch that is published becomes a record, and is found again by who
//! comes back from the past.
//!
//! In memory, a batch is recorded and linked into the stream at once. On disk it is pending first, until the
//! [store](super::storing) has it: nobody gets what is not stored.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Weak};
use std::task::Waker;

use super::chain::{Link, Node};
use super::history::{History, Ledger, Record, Store, now_ms};
use super::part::Kind;
use super::saved_batch::CorruptState;
use super::sessions::{SavedSession, Sessions};
use crate::wire::ids::Seq;

/// What is recorded of a channel.
#[derive(Debug)]
pub(super) struct Recording {
    pub(super) history: Arc<History>,
    /// The places before the last batches, by the first number of each: those that some feed still holds.
    recent: VecDeque<(Seq, Weak<Node>)>,
    /// The place before the shutdown notice, which has no number to be found by.
    pub(super) before_shutdown: Option<Arc<Node>>,
    /// Which numbers went to messages.
    pub(super) ledger: Ledger,
    pub(super) sessions: Sessions,
    /// What is published and not stored yet, in order; bounded by the buffer, as it is charged to that.
    pub(super) pending: VecDeque<Pending>,
    /// Bytes of lines in that.
    pending_bytes: u64,
    /// Senders that wait until less is pending: see [`Hub::poll_stored`](super::order::Hub::poll_stored).
    pub(super) senders: Senders,
    /// A job stores what is pending, or has given up for good.
    pub(super) is_storing: bool,
    /// Time of the last record: it never goes back.
    last_time_ms: u64,
}

/// Tasks of senders that wait, by their slots; woken when it is dropped.
#[derive(Debug, Default)]
pub(super) struct Senders(HashMap<usize, Waker>);

impl Senders {
    /// Has the task of the client in `key` woken, too, in place of one that had that slot and is gone.
    pub(super) fn add(&mut self, key: usize, waker: &Waker) {
        let waiting = self.0.entry(key).or_insert_with(|| waker.clone());
        waiting.clone_from(waker);
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

impl Drop for Senders {
    fn drop(&mut self) {
        self.0.drain().for_each(|(_, waker)| waker.wake());
    }
}

/// A batch that is published and not stored yet.
#[derive(Debug)]
pub(super) struct Pending {
    before: Arc<Node>,
    pub(super) link: Link,
    pub(super) record: Arc<Record>,
}

impl Recording {
    /// Nothing is recorded yet; the next number is this.
    pub(super) fn new(history: Arc<History>, next: u64, last_time_ms: u64) -> Recording {
        Recording {
            history,
            recent: VecDeque::new(),
            before_shutdown: None,
            ledger: Ledger::new(next),
            sessions: Sessions::default(),
            pending: VecDeque::new(),
            pending_bytes: 0,
            senders: Senders::default(),
            is_storing: false,
            last_time_ms,
        }
    }

    /// Records a batch that comes behind `before`, and links it unless it has to be stored first.
    pub(super) fn add(&mut self, before: Arc<Node>, link: Link) {
        for part in &link.batch.parts {
            let are_messages = part.kind == Kind::Lines;
            self.ledger.push(part.numbers(), are_messages);
        }
        let is_gone = |(_, node): &(Seq, Weak<Node>)| node.strong_count() == 0;
        while self.recent.front().is_some_and(is_gone) {
            self.recent.pop_front();
        }
        let first = link.batch.first_seq;
        let is_numbered = link.batch.next_seq() > first;
        match is_numbered {
            true => self.recent.push_back((first, Arc::downgrade(&before))),
            false => self.before_shutdown = Some(before.clone()),
        }
        self.last_time_ms = self.last_time_ms.max(now_ms());
        let record = Arc::new(Record::of(&link.batch, self.last_time_ms));
        match &self.history.store {
            Store::Memory(memory) => {
                for (_, name, taken) in &record.sessions {
                    self.sessions.note_stored(name, *taken);
                }
                if is_numbered {
                    memory.push(record, self.history.retention());
                }
                before.link(link);
            }
            Store::Stream(stream) => {
                if is_numbered {
                    stream.push(record, self.history.retention());
                }
                before.link(link);
            }
            Store::Disk(_) => {
                self.pending_bytes += record.raw.len() as u64;
                self.pending.push_back(Pending {
                    before,
                    link,
                    record,
                });
            }
        }
    }

    /// Goes on with what another daemon kept in memory, and with the sessions it knew. On disk, they are what is
    /// there, and what has been dropped of them since.
    ///
    /// # Errors
    /// The records do not follow each other, or do not end where the numbers do.
    pub(super) fn restore(
        &mut self,
        records: Vec<Arc<Record>>,
        sessions: Vec<SavedSession>,
    ) -> Result<(), CorruptState> {
        if !sessions.is_empty() {
            self.sessions = Sessions::restore(sessions);
        }
        let Store::Memory(memory) = &self.history.store else {
            return Ok(());
        };
        let Some(first) = records.first() else {
            return Ok(());
        };
        let next = self.ledger.next();
        self.ledger = Ledger::new(first.first_seq.0);
        for record in records {
            if record.first_seq.0 != self.ledger.next() {
                return Err(CorruptState("the history has a gap"));
            }
            for part in &record.parts {
                self.ledger.push(part.numbers(), part.kind == Kind::Lines);
            }
            self.last_time_ms = self.last_time_ms.max(record.time_ms);
            memory.push(record, self.history.retention());
        }
        match self.ledger.next() == next {
            true => Ok(()),
            false => Err(CorruptState("the history ends elsewhere than the channel")),
        }
    }

    /// Numbers go on from here, before which so many messages were published: none of those before are in memory.
    pub(super) fn restart(&mut self, next: Seq, messages: u64) {
        self.recent.clear();
        self.ledger = Ledger::new(next.0);
        if let Store::Stream(stream) = &self.history.store {
            stream.recent.restart(next, messages);
        }
    }

    /// Whether this is the history that it is kept in.
    pub(super) fn is_of(&self, history: &History) -> bool {
        std::ptr::eq(&*self.history, history)
    }

    /// The number that comes first behind what is pending before this index; `None` if nothing is.
    pub(super) fn pending_end(&self, index: u64) -> Option<Seq> {
        let pending = self.pending.iter();
        let last = pending.take_while(|it| it.before.index < index).last()?;
        Some(last.link.batch.next_seq())
    }

    /// Links what is pending, so much of it; the slots of the clients that are to be told of their sessions.
    pub(super) fn link_stored(&mut self, batches: usize) -> Vec<usize> {
        let mut senders = Vec::new();
        for stored in self.pending.drain(..batches) {
            self.pending_bytes -= stored.record.raw.len() as u64;
            for (_, name, taken) in &stored.record.sessions {
                senders.extend(self.sessions.note_stored(name, *taken));
            }
            stored.before.link(stored.link);
        }
        senders.sort_unstable();
        senders.dedup();
        senders
    }

    /// Links all that is pending, although nothing of it is stored: nobody is told that it is.
    pub(super) fn link_unstored(&mut self) {
        self.pending_bytes = 0;
        for unstored in self.pending.drain(..) {
            unstored.before.link(unstored.link);
        }
    }

    /// The place before a batch of this first number, if some feed still holds it.
    pub(super) fn place_before(&self, first: Seq) -> Option<Arc<Node>> {
        let at = self.recent.binary_search_by_key(&first, |recent| recent.0);
        self.recent[at.ok()?].1.upgrade()
    }

    /// The place behind all that has a number; `tail` is the end of the stream.
    pub(super) fn end(&self, tail: Arc<Node>) -> Arc<Node> {
        self.before_shutdown.clone().unwrap_or(tail)
    }

    /// The end of what is stored; `tail` is the end of the stream.
    pub(super) fn stored_end(&self, tail: Arc<Node>) -> Arc<Node> {
        let pending = self.pending.front();
        pending.map_or(tail, |pending| pending.before.clone())
    }

    /// Bytes of lines that are published and not stored yet.
    pub(super) fn pending_bytes(&self) -> u64 {
        self.pending_bytes
    }
}
