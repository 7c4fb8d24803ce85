//! What the hub does with its history under its lock: each batch that is published becomes a record, and is
//! found again by who comes back from the past.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use super::batch::Batch;
use super::chain::{Link, Node};
use super::encoding::Encoding;
use super::history::{History, HistoryStats, Ledger, Memory, Record, Store, now_ms};
use super::order::{Hub, State};
use super::part::Kind;
use super::sessions::Sessions;
use crate::wire::ids::Seq;
use crate::wire::session::SessionName;

/// What is recorded of a channel.
#[derive(Debug)]
pub(super) struct Recording {
    pub(super) history: Arc<History>,
    /// The places before the last batches, by the first number of each: those that some feed still holds.
    recent: VecDeque<(Seq, Weak<Node>)>,
    /// Which numbers went to messages.
    pub(super) ledger: Ledger,
    pub(super) sessions: Sessions,
    /// Time of the last record: it never goes back.
    last_time_ms: u64,
}

/// Where a feed goes on that has had everything before a number.
#[derive(Debug)]
pub(super) enum Rejoin {
    /// At this place: it is live again.
    At(Arc<Node>),
    /// In the history: no feed holds what it needs any more.
    InHistory,
    /// Nowhere: nothing is kept any more. This is the end of the stream, and the next number.
    Ended(Arc<Node>, Seq),
}

impl Recording {
    /// Nothing is recorded yet; the next number is this.
    pub(super) fn new(history: Arc<History>, next: u64) -> Recording {
        Recording {
            history,
            recent: VecDeque::new(),
            ledger: Ledger::new(next),
            sessions: Sessions::default(),
            last_time_ms: 0,
        }
    }

    /// Records a batch, and puts it into the stream behind `before`.
    fn add(&mut self, before: &Arc<Node>, link: Link) {
        for part in &link.batch.parts {
            let are_messages = part.kind == Kind::Lines;
            self.ledger.push(part.numbers(), are_messages);
        }
        while self
            .recent
            .front()
            .is_some_and(|(_, node)| node.strong_count() == 0)
        {
            self.recent.pop_front();
        }
        let first = link.batch.first_seq;
        if link.batch.next_seq() > first {
            self.last_time_ms = self.last_time_ms.max(now_ms());
            let record = Record::of(&link.batch, self.last_time_ms);
            match &self.history.store {
                Store::Memory(memory) => {
                    for (_, name, taken) in &record.sessions {
                        self.sessions.note_stored(name, *taken);
                    }
                    memory.push(Arc::new(record), self.history.retention());
                }
            }
            self.recent.push_back((first, Arc::downgrade(before)));
        }
        before.link(link);
    }
}

impl State {
    /// Puts a batch at the end of the stream; its index.
    pub(super) fn link(&mut self, batch: Batch) -> u64 {
        let before = self.tail.clone();
        let node = before.after(&batch);
        self.tail = node.clone();
        let link = Link { batch, node };
        match &mut self.recording {
            Some(recording) => recording.add(&before, link),
            None => before.link(link),
        }
        before.index
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
    fn set_recording(&mut self, recording: Option<Recording>) {
        // A batch is recorded whole, or not.
        self.flush();
        // Records are made of the lines as they came.
        let change = isize::from(recording.is_some()) - isize::from(self.recording.is_some());
        self.count_encoding(Encoding::Raw, change);
        self.recording = recording.map(Box::new);
    }
}

impl Hub {
    /// Records as much as the settings say.
    pub(super) fn record(&self, state: &mut State) {
        match (&state.recording, state.settings.history) {
            (Some(recording), Some(retention)) => recording.history.set_retention(retention),
            (None, Some(retention)) => {
                let next = state.next_seq;
                let store = Store::Memory(Memory::new(Seq(next)));
                let history = History::new(store, retention, self.shared.turns.clone());
                state.set_recording(Some(Recording::new(history, next)));
            }
            (Some(_), None) => state.set_recording(None),
            (None, None) => {}
        }
        self.active_encodings_changed(state);
    }

    /// Where a feed goes on that has had everything before `next`.
    pub(super) fn rejoin(&self, next: Seq) -> Rejoin {
        let mut state = self.lock();
        let tail = state.flush();
        if next.0 >= state.next_seq {
            return Rejoin::At(tail);
        }
        let Some(recording) = &state.recording else {
            return Rejoin::Ended(tail, Seq(state.next_seq));
        };
        let at = recording
            .recent
            .binary_search_by_key(&next, |recent| recent.0);
        let node = at.ok().and_then(|at| recording.recent[at].1.upgrade());
        match node {
            Some(node) => Rejoin::At(node),
            None => Rejoin::InHistory,
        }
    }

    /// Messages among the numbers from `from` to before `to`, as far as that is known.
    pub(super) fn messages_between(&self, from: Seq, to: Seq) -> Option<u64> {
        let state = self.lock();
        let recording = state.recording.as_ref()?;
        recording.ledger.messages(from.0, to.0)
    }

    /// Lets go of what is too old by now, and of sessions whose lines are all gone.
    pub(super) fn expire_history(&self) {
        let mut state = self.lock();
        if let Some(recording) = &mut state.recording {
            recording.history.expire(now_ms());
            recording.sessions.expire(recording.history.oldest());
        }
    }

    /// The history in stats, if one is kept.
    pub(super) fn history_stats(&self) -> Option<HistoryStats> {
        let epoch = self.epoch();
        let state = self.lock();
        let recording = state.recording.as_ref()?;
        Some(HistoryStats {
            sessions: recording.sessions.len(),
            ..recording.history.stats(epoch, Seq(state.next_seq))
        })
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
