//! How a channel goes by what is recorded of it: publishing into it, and coming back from it.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::batch::Batch;
use super::chain::{Link, Node};
use super::encoding::Encoding;
use super::history::{History, HistoryStats};
use super::order::{Hub, State};
use super::recording::Recording;
use super::subscriber::Commands;
use crate::wire::close_reason::CloseReason;
use crate::wire::ids::{Epoch, Seq};
use crate::wire::session::SessionKey;

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

impl State {
    fn epoch(&self) -> Epoch {
        Epoch(self.epoch.load(Relaxed))
    }

    /// Puts a batch at the end of the stream; its index.
    pub(super) fn link(&mut self, mut batch: Batch) -> u64 {
        batch.epoch = self.epoch();
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
    pub(super) fn link_again(&mut self, mut batch: Batch) {
        if let Some(recording) = &mut self.recording {
            let stored = recording.history.next();
            if stored >= batch.next_seq() {
                batch.epoch = self.epoch();
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
        let tail = self.flush();
        match &self.recording {
            Some(recording) => recording.stored_end(tail),
            None => tail,
        }
    }

    /// Whether what is published has to be stored before anybody gets it.
    pub(super) fn stores_first(&self) -> bool {
        let recording = self.recording.as_ref();
        recording.is_some_and(|recording| recording.history.is_on_disk())
    }

    /// Senders that wait until less is to be stored.
    pub(super) fn senders_storing(&self) -> usize {
        let recording = self.recording.as_ref();
        recording.map_or(0, |recording| recording.senders.len())
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
    pub(super) fn take_lines(&mut self, key: usize, lines: u64) -> Option<(SessionKey, u64)> {
        let last = Seq(self.next_seq - 1);
        self.recording.as_mut()?.sessions.take(key, lines, last)
    }

    /// Records from now on, or no more: then what is pending is linked as it is, and sessions end, without an ack
    /// of what was not stored.
    pub(super) fn set_recording(&mut self, recording: Option<Recording>) {
        // A batch is recorded whole, or not.
        self.flush();
        if let Some(ended) = &mut self.recording {
            ended.link_unstored();
            for slot in ended.sessions.end().filter_map(|key| self.slots.get(key)) {
                let closed = Commands::close(CloseReason::SessionEnded);
                slot.subscriber.command(closed);
            }
        }
        // Records are made of the lines as they came.
        let change = isize::from(recording.is_some()) - isize::from(self.recording.is_some());
        self.count_encoding(Encoding::Raw, change);
        self.recording = recording.map(Box::new);
    }
}

impl Hub {
    /// Where a feed goes on that has had everything before `next`, and may be live from `live_from` on: of what
    /// was published before it joined, batches may not be in its encoding, and where it was told to catch up it
    /// cannot stay. And it is live again only in the newer half of the buffer: of two who are behind, each would find the other
    /// where neither may stay.
    pub(super) fn rejoin(&self, next: Seq, live_from: Seq) -> Rejoin {
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
            return Rejoin::At(recording.end(tail));
        }
        let half = 4 * self.budget.permit_bytes() as u64;
        // What is not stored yet is nobody's delay.
        let is_pending = next >= recording.history.next();
        let is_near = |node: &Arc<Node>| is_pending || tail.cost_before - node.cost_before <= half;
        let place = (next >= live_from).then(|| recording.place_before(next));
        match place.flatten().filter(is_near) {
            Some(node) => Rejoin::At(node),
            None => Rejoin::InHistory(recording.history.clone()),
        }
    }

    /// Waits until this number is stored in this history, or nothing more is. Cancel safe.
    pub(super) async fn stored(&self, history: &Arc<History>, seq: Seq) {
        let is_over = self.when_stored(|state| {
            let recording = state.recording.as_ref();
            let is_current = recording.is_some_and(|recording| recording.is_of(history));
            (history.next() > seq || !is_current).then_some(())
        });
        is_over.await;
    }

    /// Waits until `look` finds what it looks for, each time that something has been stored, or nothing more can be, or
    /// the history is opened. Cancel safe.
    pub(super) async fn when_stored<T>(&self, mut look: impl FnMut(&State) -> Option<T>) -> T {
        loop {
            // Registered before the look, so that nothing is missed.
            let mut stored = std::pin::pin!(self.has_stored.notified());
            stored.as_mut().enable();
            let found = look(&self.lock());
            if let Some(found) = found {
                return found;
            }
            stored.await;
        }
    }

    /// Waits until all up to this number is stored, where it has to be. Cancel safe.
    pub(crate) async fn stored_up_to(&self, seq: Seq) {
        let history = self.history().filter(|history| history.is_on_disk());
        if let Some(history) = history {
            self.stored(&history, seq).await;
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

    /// The number that comes first behind what is not stored yet before this index; `None` if all of that is.
    pub(super) fn pending_end(&self, index: u64) -> Option<Seq> {
        let state = self.lock();
        state.recording.as_ref()?.pending_end(index)
    }

    /// Whether the client in `key`, which came with a session, still has it.
    pub(super) fn keeps_session(&self, key: usize) -> bool {
        let state = self.lock();
        state
            .recording
            .as_ref()
            .is_some_and(|it| it.sessions.has(key))
    }

    /// Whether the client in `key`, which came with a session, still has it, and what it sent is still to be stored.
    pub(super) fn acks_session(&self, key: usize) -> bool {
        let state = self.lock();
        let recording = state.recording.as_ref();
        recording.is_some_and(|it| it.sessions.has(key) && !it.history.has_failed())
    }

    /// Has those who wait for what they sent in a session to be stored look again.
    pub(super) fn tell_sessions(&self) {
        let state = self.lock();
        let recording = state.recording.as_ref();
        let clients = recording.into_iter().flat_map(|it| it.sessions.clients());
        for slot in clients.filter_map(|key| state.slots.get(key)) {
            slot.subscriber.command(Commands::ACK);
        }
    }

    /// Messages among the numbers from `from` to before `to`, as far as that is known.
    pub(super) fn messages_between(&self, from: Seq, to: Seq) -> Option<u64> {
        let state = self.lock();
        let recording = state.recording.as_ref()?;
        recording.ledger.messages(from.0, to.0)
    }

    /// Lets go of what is too old by now in memory, and of sessions whose lines are all gone.
    pub(super) fn expire_history(&self) {
        let Some(history) = self.history() else {
            return;
        };
        if !history.is_on_disk() {
            history.expire();
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

    /// Whether nothing is kept, or is still to be, or to be written down.
    pub(super) fn keeps_nothing(&self) -> bool {
        let history = self.history();
        let state = self.lock();
        // In this order: what is stored is kept then.
        let is_done = !state.is_storing() && state.ending.is_none();
        is_done && history.is_none_or(|history| history.is_empty())
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
