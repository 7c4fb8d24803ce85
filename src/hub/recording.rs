//! What the hub does with its history under its lock: each batch that is published becomes a record, and is
//! found again by who comes back from the past.
//!
//! In memory, a batch is recorded and linked into the stream at once. On disk it is pending first, until the
//! [store](super::storing) has it: nobody gets what is not stored.

use std::collections::VecDeque;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};

use tracing::warn;

use super::batch::Batch;
use super::chain::{Link, Node};
use super::encoding::Encoding;
use super::history::{History, HistoryStats, Ledger, Record, Store, now_ms};
use super::order::{Hub, State};
use super::part::Kind;
use super::saved_batch::CorruptState;
use super::sessions::{SavedSession, Sessions};
use crate::wire::ids::Seq;
use crate::wire::session::SessionName;

/// What is recorded of a channel.
#[derive(Debug)]
pub(super) struct Recording {
    pub(super) history: Arc<History>,
    /// The places before the last batches, by the first number of each: those that some feed still holds.
    recent: VecDeque<(Seq, Weak<Node>)>,
    /// The place before the shutdown notice, which has no number to be found by.
    before_shutdown: Option<Arc<Node>>,
    /// Which numbers went to messages.
    pub(super) ledger: Ledger,
    pub(super) sessions: Sessions,
    /// What is published and not stored yet, in order; bounded by the buffer, as it is charged to that.
    pub(super) pending: VecDeque<Pending>,
    /// A job stores what is pending, or has given up for good.
    pub(super) is_storing: bool,
    /// Time of the last record: it never goes back.
    last_time_ms: u64,
}

/// A batch that is published and not stored yet.
#[derive(Debug)]
pub(super) struct Pending {
    before: Arc<Node>,
    pub(super) link: Link,
    pub(super) record: Arc<Record>,
}

/// Where a feed goes on that has had everything before a number.
#[derive(Debug)]
pub(super) enum Rejoin {
    /// At this place: it is live again.
    At(Arc<Node>),
    /// In the history, which is this one: no feed holds what it needs any more.
    InHistory(Arc<History>),
    /// Nowhere: nothing is kept any more. This is the end of the stream, and the next number.
    Ended(Arc<Node>, Seq),
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
            is_storing: false,
            last_time_ms,
        }
    }

    /// Records a batch that comes behind `before`, and links it unless it has to be stored first.
    fn add(&mut self, before: Arc<Node>, link: Link) {
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
            Store::Disk(_) => self.pending.push_back(Pending {
                before,
                link,
                record,
            }),
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

    /// Links what is pending, so much of it; the slots of the clients that are to be told of their sessions.
    pub(super) fn link_stored(&mut self, batches: usize) -> Vec<usize> {
        let mut senders = Vec::new();
        for stored in self.pending.drain(..batches) {
            for (_, name, taken) in &stored.record.sessions {
                senders.extend(self.sessions.note_stored(name, *taken));
            }
            stored.before.link(stored.link);
        }
        senders.sort_unstable();
        senders.dedup();
        senders
    }

    /// Bytes of lines that are published and not stored yet.
    fn pending_bytes(&self) -> u64 {
        let pending = self.pending.iter().map(|it| it.record.raw.len() as u64);
        pending.sum()
    }
}

impl State {
    /// Puts a batch at the end of the stream; its index.
    pub(super) fn link(&mut self, batch: Batch) -> u64 {
        let before = self.tail.clone();
        let index = before.index;
        let node = before.after(&batch);
        self.tail = node.clone();
        let link = Link { batch, node };
        match &mut self.recording {
            Some(recording) => recording.add(before, link),
            None => before.link(link),
        }
        index
    }

    /// Puts a batch of another daemon at the end of the stream, which that had not stored, or had just stored
    /// without knowing.
    pub(super) fn link_again(&mut self, batch: Batch) {
        if let Some(recording) = &mut self.recording {
            let stored = recording.history.next();
            if stored >= batch.next_seq() {
                let before = self.tail.clone();
                self.tail = before.after(&batch);
                let node = self.tail.clone();
                before.link(Link { batch, node });
                return;
            }
            for (part, name, taken) in &batch.sessions {
                let lines = batch.parts.get(*part as usize).map_or(0, |it| it.messages);
                recording.sessions.note_pending(name, *taken, lines.into());
            }
        }
        self.link(batch);
    }

    /// The end of what readers can get: of the stream, or of what is stored of it.
    pub(super) fn readable_end(&mut self) -> Arc<Node> {
        let end = self.flush();
        let recording = self.recording.as_ref();
        let pending = recording.and_then(|recording| recording.pending.front());
        pending.map_or(end, |pending| pending.before.clone())
    }

    /// Whether what is published has to be stored before anybody gets it.
    pub(super) fn stores_first(&self) -> bool {
        let recording = self.recording.as_ref();
        recording.is_some_and(|recording| recording.history.is_on_disk())
    }

    /// Whether what is published is still to be stored.
    pub(super) fn is_storing(&self) -> bool {
        let recording = self.recording.as_ref();
        recording.is_some_and(|recording| !recording.pending.is_empty())
    }

    /// Whether the client in `key`, which came with a session, still has it.
    pub(super) fn has_session(&self, key: usize) -> bool {
        let recording = self.recording.as_ref();
        recording.is_some_and(|recording| recording.sessions.has(key))
    }

    /// Takes so many lines of a session's client, of which the last number is the last that was given.
    pub(super) fn take_lines(&mut self, key: usize, lines: u64) -> Option<(SessionName, u64)> {
        let last = Seq(self.next_seq - 1);
        self.recording.as_mut()?.sessions.take(key, lines, last)
    }

    /// Records from now on, or no more.
    pub(super) fn set_recording(&mut self, recording: Option<Recording>) {
        // A batch is recorded whole, or not.
        self.flush();
        // Records are made of the lines as they came.
        let change = isize::from(recording.is_some()) - isize::from(self.recording.is_some());
        self.count_encoding(Encoding::Raw, change);
        self.recording = recording.map(Box::new);
    }
}

impl Hub {
    /// Where a feed goes on that has had everything before `next`, and joined before `joined` was given.
    ///
    /// What was published before that may not be in its encoding, so that it reads that from the history. And
    /// it is live again only in the newer half of the buffer: of two who are behind, each would find the other
    /// where neither may stay.
    pub(super) fn rejoin(&self, next: Seq, joined: Seq) -> Rejoin {
        let mut state = self.lock();
        let tail = state.flush();
        let next_seq = Seq(state.next_seq);
        let Some(recording) = &state.recording else {
            return match next >= next_seq {
                true => Rejoin::At(tail),
                false => Rejoin::Ended(tail, next_seq),
            };
        };
        if next >= next_seq {
            return Rejoin::At(recording.before_shutdown.clone().unwrap_or(tail));
        }
        let at = recording
            .recent
            .binary_search_by_key(&next, |recent| recent.0);
        let at = at.ok().filter(|_| next >= joined);
        let half = 4 * self.budget.permit_bytes() as u64;
        let node = at.and_then(|at| recording.recent[at].1.upgrade());
        match node.filter(|node| tail.cost_before - node.cost_before <= half) {
            Some(node) => Rejoin::At(node),
            None => Rejoin::InHistory(recording.history.clone()),
        }
    }

    /// The place before the shutdown notice, for a feed that has had everything before `next`, if that comes
    /// next. Who has left before does not get it.
    pub(super) fn before_shutdown(&self, next: Seq) -> Option<Arc<Node>> {
        let state = self.lock();
        let recording = state.recording.as_ref()?;
        let is_next = next.0 >= state.next_seq;
        recording.before_shutdown.clone().filter(|_| is_next)
    }

    /// Messages among the numbers from `from` to before `to`, as far as that is known.
    pub(super) fn messages_between(&self, from: Seq, to: Seq) -> Option<u64> {
        let state = self.lock();
        let recording = state.recording.as_ref()?;
        recording.ledger.messages(from.0, to.0)
    }

    /// Lets go of what is too old by now, and of sessions whose lines are all gone.
    pub(super) fn expire_history(&self) {
        let Some(history) = self.history() else {
            return;
        };
        match history.is_on_disk() {
            false => history.expire(),
            true if history.retention().age.is_some() => {
                let history = history.clone();
                tokio::task::spawn_blocking(move || history.expire());
            }
            true => {}
        }
        if self.is_open.load(Relaxed) {
            self.shared.note_unused();
        }
        let oldest = history.oldest();
        if let Some(recording) = &mut self.lock().recording {
            recording.sessions.expire(oldest);
        }
    }

    /// The history in stats, if one is kept.
    pub(super) fn history_stats(&self) -> Option<HistoryStats> {
        let epoch = self.epoch();
        let mut state = self.lock();
        state.flush();
        let next = Seq(state.next_seq);
        let recording = state.recording.as_ref()?;
        let (history, sessions) = (recording.history.clone(), recording.sessions.len());
        let pending_bytes = recording.pending_bytes();
        drop(state);
        Some(HistoryStats {
            sessions,
            pending_bytes,
            ..history.stats(epoch, next)
        })
    }

    /// Whether nothing is kept, or is still to be.
    pub(super) fn keeps_nothing(&self) -> bool {
        let history = self.history();
        !self.lock().is_storing() && history.is_none_or(|history| history.is_empty())
    }

    /// Removes what there is of it on disk: the channel is no more.
    pub(super) fn remove_history(&self) {
        let history = self.history();
        if let Some(Err(error)) = history.map(|history| history.remove()) {
            warn!(channel = %self.name, %error, "cannot remove the history of a channel that ended");
        }
    }

    /// The history, if one is kept.
    pub(super) fn history(&self) -> Option<Arc<History>> {
        let mut state = self.lock();
        // What is being put together is part of it.
        state.flush();
        let recording = state.recording.as_ref()?;
        Some(recording.history.clone())
    }
}
