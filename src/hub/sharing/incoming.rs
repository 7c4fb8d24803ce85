//! What has come to its place in the order that all share.

use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, Release};
use std::time::Duration;

use tracing::error;

use crate::hub::batch::Batch;
use crate::hub::budget::ReadPermit;
use crate::hub::builder::BatchBuilder;
use crate::hub::chain::Link;
use crate::hub::cluster::here::Clients;
use crate::hub::cluster::state::Claimed;
use crate::hub::encodings::Encodings;
use crate::hub::history::Record;
use crate::hub::order::{Hub, Phase, SENT_INDEX, State};
use crate::hub::part::{Kind, Part, missed};
use crate::hub::subscriber::Commands;
use crate::hub::views::EncodedBatch;
use crate::wire::close_reason::CloseReason;
use crate::wire::format::Format;
use crate::wire::framing::Lines;
use crate::wire::ids::{Epoch, Seq};
use crate::wire::session::SessionKey;

/// How far behind another a node may be, in time, that goes on for who was there.
const AHEAD_TIME: Duration = Duration::from_secs(2);

impl Hub {
    /// Publishes what has come to its place in the order.
    pub(in crate::hub) fn deliver(
        self: &Arc<Hub>,
        record: &Record,
        is_own: bool,
        mut permit: Option<ReadPermit>,
    ) {
        let mut seen = Encodings(self.active_encodings.load(Relaxed));
        loop {
            // Outside the lock: it may be many lines.
            let mut batch = BatchBuilder::default();
            let cost = match seen == Encodings::default() {
                true => 0,
                false => add_record(&mut batch, seen, record),
            };
            let mut state = self.lock();
            if state.phase == Phase::Sealed {
                return;
            }
            let active_encodings = state.active_encodings(self.echo);
            if active_encodings != seen {
                seen = active_encodings;
                continue;
            }
            let sessions = record.sessions.iter().filter(|_| is_own);
            for (_, name, taken) in sessions {
                state.note_taken(name, *taken);
            }
            if record.next_seq().0 <= state.next_seq {
                // There is nothing in it, or it was published by the daemon before.
                return self.has_stored.notify_waiters();
            }
            if state.next_seq != record.first_seq.0 {
                error!(channel = %self.name, next = state.next_seq, found = record.first_seq.0, "numbers do not follow");
                state.next_seq = record.first_seq.0;
            }
            state.next_seq = record.next_seq().0;
            state.messages += record.messages();
            if is_own {
                state.note_shared(record);
            }
            if cost > 0 {
                batch.attach(match permit.take() {
                    Some(permit) => permit.charge(cost),
                    None => self.budget.charge(cost),
                });
                let mut batch = batch.into_batch(active_encodings, record.first_seq);
                batch.is_foreign = !is_own;
                let index = state.link(batch);
                debug_assert!(index < SENT_INDEX);
            }
            self.has_stored.notify_waiters();
            return self.wake(state, usize::MAX);
        }
    }

    /// What this says of the lines of clients here is in the order, although it was not delivered.
    pub(in crate::hub) fn note_shared(&self, record: &Record) {
        self.lock().note_shared(record);
    }

    /// Numbers go on here from now on. `missed`: messages that nobody here gets any more; `None`: they are of another
    /// epoch.
    pub(in crate::hub) fn place(
        self: &Arc<Hub>,
        (epoch, next): (Epoch, Seq),
        messages: u64,
        missed: Option<u64>,
    ) {
        let mut state = self.lock();
        if state.phase == Phase::Sealed {
            return;
        }
        state.flush();
        if self.epoch() == epoch && next.0 < state.next_seq {
            // The daemon before knew more: what comes first was published by that.
            return;
        }
        let is_same = self.epoch() == epoch;
        let missed = match missed {
            // As this daemon has it from the one before it.
            None if is_same => Some(messages.saturating_sub(state.messages)),
            missed => missed,
        };
        match missed.filter(|_| is_same) {
            Some(0) => {}
            Some(missed) => self.tell_missed(&mut state, missed),
            None if next.0 < state.next_seq => state.close_numbered(),
            None => {}
        }
        if state.next_seq != next.0 || !is_same {
            (state.next_seq, state.messages) = (next.0, messages);
            self.set_epoch(epoch);
            if let Some(recording) = &mut state.recording {
                recording.restart(next, messages);
            }
        }
        self.has_stored.notify_waiters();
        self.wake(state, usize::MAX);
    }

    /// Whether there are numbers for clients that nobody had to draw by lot.
    pub(in crate::hub) fn has_ids(&self) -> bool {
        self.shared.ids.get().is_none_or(|ids| !ids.is_empty())
    }

    /// Clients have these numbers, of whatever node.
    #[cfg(feature = "nats")]
    pub(in crate::hub) fn see_ids(&self, record: &Record) {
        if let Some(ids) = self.shared.ids.get() {
            record.origins.iter().for_each(|client| ids.see(client.0));
        }
    }

    /// All there was is published: who joins now begins where everybody is.
    pub(in crate::hub) fn open_shared(&self) {
        self.is_opening.store(false, Release);
        self.has_stored.notify_waiters();
        if self.is_open.load(Relaxed) {
            self.shared.note_unused();
        }
    }

    /// Tells every client that it has missed so many messages.
    fn tell_missed(&self, state: &mut State, messages: u64) {
        let part = Part {
            kind: Kind::Missed,
            messages: 0,
        };
        let raw = EncodedBatch {
            ends: Box::new([0]),
            ..EncodedBatch::default()
        };
        let (first, origins) = (Seq(state.next_seq), Box::new([missed(messages)]));
        let batch = Batch::of_past(first, origins, Box::default(), Box::new([part]), raw);
        let before = state.tail.clone();
        state.tail = before.after(&batch);
        let node = state.tail.clone();
        before.link(Link { batch, node });
    }

    /// A claim has come to its place.
    pub(in crate::hub) fn note_claimed(&self, claimed: &Claimed, is_own: bool) {
        let mut state = self.lock();
        let Some(recording) = &mut state.recording else {
            return;
        };
        let sessions = &mut recording.sessions;
        match is_own {
            true => sessions.grant(&claimed.name, claimed.claim, claimed.taken),
            false => state.lose_session(&claimed.name),
        }
        self.has_stored.notify_waiters();
    }

    /// It is known again what was taken of sessions: `taken` says so of those that this node still has.
    pub(in crate::hub) fn note_sessions(&self, taken: impl Fn(&SessionKey, u64) -> Option<u64>) {
        let mut state = self.lock();
        let sessions = state.recording.as_ref().map(|it| it.sessions.claims());
        for (name, claim, is_awaited) in sessions.into_iter().flatten() {
            match taken(&name, claim) {
                Some(taken) if !is_awaited => state.note_taken(&name, taken),
                None if !is_awaited => state.lose_session(&name),
                _ => {}
            }
        }
    }

    /// This node goes on as a new one: it has no session any more, and another says that these clients left.
    pub(in crate::hub) fn renew(&self, left: &Clients) {
        let mut state = self.lock();
        let is_open = state.phase == Phase::Open;
        if let Some(outbox) = &mut state.outbox {
            outbox.lose(left);
            if !is_open {
                outbox.let_go();
            }
        }
        drop(state);
        self.note_sessions(|_, _| None);
    }

    /// Waits until this number is published here, if others have it: who asks for what comes behind it had it there. Not
    /// for long, as nobody may have it. Cancel safe.
    pub(in crate::hub) async fn when_there(&self, seq: Seq) {
        if self.sharing.is_some() {
            let is_there = self.when_stored(|state| (state.next_seq > seq.0).then_some(()));
            let _ = tokio::time::timeout(AHEAD_TIME, is_there).await;
        }
    }
}

impl State {
    /// So much of a session is in the order: who has it is told.
    fn note_taken(&mut self, name: &SessionKey, taken: u64) {
        let sessions = self.recording.as_mut().map(|it| &mut it.sessions);
        let key = sessions.and_then(|them| them.note_ordered(name, taken));
        if let Some(slot) = key.and_then(|key| self.slots.get(key)) {
            slot.subscriber.command(Commands::ACK);
        }
    }

    /// These lines are in the order: who waited for the last of theirs is told.
    fn note_shared(&mut self, record: &Record) {
        let Some(outbox) = self.outbox.as_mut().filter(|it| !it.waiting.is_empty()) else {
            return;
        };
        for (part, client) in record.parts.iter().zip(&record.origins) {
            let unshared = outbox.waiting.get_mut(client);
            let Some(unshared) = unshared.filter(|_| part.kind == Kind::Lines) else {
                continue;
            };
            unshared.lines = unshared.lines.saturating_sub(part.messages.into());
            if unshared.lines == 0
                && let Some(slot) = self.slots.get(unshared.key)
            {
                slot.subscriber.command(Commands::ACK);
            }
        }
    }

    /// Somebody elsewhere has this session now.
    fn lose_session(&mut self, name: &SessionKey) {
        let sessions = self.recording.as_mut().map(|it| &mut it.sessions);
        let key = sessions.and_then(|them| them.lose(name));
        if let Some(slot) = key.and_then(|key| self.slots.get(key)) {
            slot.subscriber
                .command(Commands::close(CloseReason::SessionTaken));
        }
    }

    /// Closes those who go by numbers, which go back.
    fn close_numbered(&mut self) {
        for (_, slot) in &self.slots {
            if slot.encoding == Format::Json.into() {
                let ended = Commands::close(CloseReason::SessionEnded);
                slot.subscriber.command(ended);
            }
        }
    }
}

/// Adds all parts of a record; what they cost.
fn add_record(batch: &mut BatchBuilder, encodings: Encodings, record: &Record) -> usize {
    let mut cost = 0;
    for (_, seq, part, origin, bytes) in record.each_part_of() {
        cost += match part.kind {
            Kind::Lines => {
                let lines = Lines {
                    rest: bytes,
                    ..Lines::default()
                };
                batch.add_lines(encodings, origin, seq, &lines, part.messages as usize)
            }
            kind => batch.add_notice(encodings, origin, seq, kind),
        };
    }
    cost
}
