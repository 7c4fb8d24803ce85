//! What a client sends: room for it, its lines, its session, and its leave.

use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};

use super::Feed;
use crate::hub::budget::{ReadPermit, Who};
use crate::hub::counters::TrafficTotals;
use crate::hub::sessions::SessionHandle;
use crate::hub::subscriber::Condition;
use crate::wire::close_reason::CloseReason;
use crate::wire::framing::Lines;
use crate::wire::session::SessionKey;

impl Feed {
    /// Ready when the buffer has room for what one read may bring. To be called before reading.
    pub(crate) fn poll_permit(&mut self, cx: &mut Context<'_>) -> Poll<ReadPermit> {
        if self.waiter.is_none() && self.hub.poll_stored(self.key(), cx).is_pending() {
            self.subscriber.set(Condition::Waiting, true);
            return Poll::Pending;
        }
        let budget = self.hub.sending_budget();
        let permit = budget.poll_permit(Who::Sender, &mut self.waiter, cx);
        self.subscriber.set(Condition::Waiting, permit.is_pending());
        permit
    }

    /// Stops waiting for room: to be called when [`Feed::poll_permit`] is not asked again, so that
    /// nobody waits for what this client has been given and does not come for.
    pub(crate) fn give_up_permit(&mut self) {
        if let Some(waiter) = self.waiter.take() {
            self.hub.sending_budget().give_up(waiter);
        }
        self.subscriber.set(Condition::Waiting, false);
    }

    /// Whether [`Feed::poll_permit`] was pending when it was last asked.
    pub(crate) fn waits_for_permit(&self) -> bool {
        self.subscriber.is(Condition::Waiting)
    }

    /// Says whether the client is not read from because of its rates, although it has sent something.
    pub(crate) fn set_throttled(&self, throttled: bool) {
        if throttled && !self.subscriber.is(Condition::Throttled) {
            self.hub.throttled.fetch_add(1, Relaxed);
        }
        self.subscriber.set(Condition::Throttled, throttled);
    }

    /// Publishes one read's lines: they take the next places in the one order, together. Returns how many
    /// there are.
    ///
    /// Never waits: the waiting was in [`Feed::poll_permit`]. Only the last line of a client that
    /// leaves goes without permit.
    pub(crate) fn publish(&mut self, permit: Option<ReadPermit>, lines: &Lines<'_>) -> usize {
        let messages = lines.count();
        if messages > 0 {
            self.subscriber.counters.lines_in.add(messages as u64);
            let published = self
                .hub
                .publish(self.key(), &self.subscriber, permit, lines, messages);
            match published {
                Some(index) => {
                    self.own_end = index + 1;
                    self.note_taken(messages as u64 + lines.discarded);
                }
                None => self.rare().was_refused = true,
            }
        } else if lines.discarded > 0 && self.session().is_some() {
            self.hub
                .drop_lines(self.key(), &self.subscriber, permit, lines);
            self.note_taken(lines.discarded);
        }
        messages
    }

    fn note_taken(&mut self, lines: u64) {
        if let Some(session) = self.rare.as_mut().and_then(|rare| rare.session.as_mut()) {
            session.taken += lines;
        }
    }

    /// Goes by a session from now on.
    pub(in crate::hub) fn set_session(&mut self, session: Option<SessionHandle>) {
        if session.is_some() {
            self.rare().session = session;
        }
    }

    pub(in crate::hub) fn saved_session(&self) -> Option<(SessionKey, bool, Option<u64>)> {
        let session = self.session()?;
        Some((session.name.clone(), session.acks, session.told))
    }

    /// Whether lines that it was to publish were not: its channel had come to its end, or its session to another.
    pub(crate) fn was_refused(&self) -> bool {
        self.rare.as_ref().is_some_and(|rare| rare.was_refused)
    }

    /// Lines that its session has taken, if it came with one.
    pub(crate) fn session_taken(&self) -> Option<u64> {
        Some(self.session()?.taken)
    }

    /// Whether it still has its session.
    pub(crate) fn keeps_session(&self) -> bool {
        self.hub.keeps_session(self.key())
    }

    /// Whether its client publishes in a session.
    pub(crate) fn has_session(&self) -> bool {
        self.session().is_some()
    }

    /// What is to be acknowledged of its session, if it asked for that and it is more than what was. Several are
    /// one.
    pub(crate) fn take_ack(&mut self) -> Option<u64> {
        self.rare.as_mut()?.session.as_mut()?.take_ack()
    }

    /// Whether something that it sent is still to be acknowledged; its task is woken then. Whoever has taken its
    /// session over is told in its place.
    pub(crate) fn awaits_ack(&self) -> bool {
        self.session().is_some_and(SessionHandle::awaits_ack) && self.hub.acks_session(self.key())
    }

    /// From now on it is known when what it publishes is in the stream: see [`Feed::poll_stored`].
    pub(crate) fn await_stored(&self) {
        self.hub.count_unshared(self.key(), self.subscriber.id, 0);
    }

    /// Ready when what it has published is in the stream: stored, where that is kept on disk, and in the order that
    /// all share, where others do. Else its task is woken then.
    pub(crate) fn poll_stored(&self, cx: &mut Context<'_>) -> Poll<()> {
        match self.hub.is_shared() {
            // Its task is woken by a command.
            true if self.hub.is_unshared(self.subscriber.id) => Poll::Pending,
            true => Poll::Ready(()),
            false => self.hub.poll_stored_before(self.own_end, self.key(), cx),
        }
    }

    /// Tells everybody that this client is gone. It still gets what is published until it looks
    /// for more: a client that gives others the time to leave too has all their notices go out as
    /// one batch.
    pub(crate) fn leave(&mut self) {
        if !self.left {
            self.left = true;
            if let Some(own_end) = self.hub.leave(self.key(), self.subscriber.id) {
                self.own_end = own_end;
            }
        }
    }

    /// Its connection ends, for this reason, which the hub remembers. Returns what went through it.
    pub(crate) fn closed(&self, reason: CloseReason) -> TrafficTotals {
        self.hub.note_closed(self.key(), reason)
    }

    /// Its input has been read as far as it will be, which a drain waits for.
    pub(crate) fn input_done(&self) {
        self.hub.input_done(self.key());
    }

    /// Lines of this client are thrown away: it may not publish.
    pub(crate) fn ignore(&self, lines: u64) {
        self.hub.ignored.fetch_add(lines, Relaxed);
    }

    /// Lines of this client were dropped for being too long.
    pub(crate) fn note_discarded(&self, lines: u64) {
        self.hub.discarded.fetch_add(lines, Relaxed);
    }
}
