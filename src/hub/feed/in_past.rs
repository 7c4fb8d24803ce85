//! A feed in the past: out of the stream into the history, through its slices, and back.

use std::sync::Arc;
use std::task::{Context, Poll, ready};

use super::{ENDLESS, Feed, More};
use crate::hub::chain::Node;
use crate::hub::encoding::Encoding;
use crate::hub::past::{Past, SavedPast, Step};
use crate::hub::subscriber::Condition;
use crate::wire::ids::Seq;

impl Feed {
    pub(in crate::hub) fn saved_past(&self) -> Option<SavedPast> {
        self.past().map(Past::save)
    }

    /// Goes on in the history, or back into the stream; what is to be done, if that is not to look again.
    pub(super) fn poll_past(&mut self, cx: &mut Context<'_>) -> Poll<Option<More>> {
        let Some(past) = self.rare.as_mut().and_then(|rare| rare.past.as_mut()) else {
            return Poll::Ready(None);
        };
        self.cursor = None;
        Poll::Ready(match ready!(past.poll(&self.hub, cx)) {
            Step::Walk(first) => {
                (self.cursor, self.offset) = (Some(first), 0);
                self.current = self.encoding;
                None
            }
            Step::Missed(messages) => {
                self.hub.note_skipped(self.key(), messages);
                Some(More::Missed(messages))
            }
            Step::Live(node) => {
                self.leave_past();
                self.subscriber.move_to(&node, 0, self.encoding);
                (self.cursor, self.offset) = (Some(node), 0);
                self.current = self.encoding;
                None
            }
            Step::End => {
                self.detach();
                Some(More::End)
            }
        })
    }

    /// Leaves the buffer to those who keep up, and goes on in the history from where it is. Not in the middle
    /// of a line: [`Feed::take_rest_of_line`] first.
    pub(crate) fn catch_up(&mut self) {
        if self.past().is_some() {
            return;
        }
        if !self.skip_own() {
            let place = self.cursor.as_ref();
            if place.is_some_and(|place| place.index >= self.end()) {
                self.detach();
            }
            return;
        }
        let (Some(history), Some(cursor)) = (self.hub.history(), &self.cursor) else {
            return;
        };
        let Some(link) = cursor.next.get() else {
            return;
        };
        let next = link.batch.seq_at(self.current, self.offset);
        // Where it is now it cannot stay: it is live again at the earliest behind that.
        let mut past = Past::new(history.reader(), next, Seq(next.0 + 1), Seq(0));
        if self.end() != ENDLESS {
            past.end = Some(self.seq_of_end(cursor));
        }
        if self.offset > 0 {
            self.count_begun();
        }
        self.begin_past(past);
    }

    /// The number that comes first behind its end.
    fn seq_of_end(&self, from: &Arc<Node>) -> Seq {
        if let Some(end) = self.hub.pending_end(self.end()) {
            return end;
        }
        let mut next = Seq(0);
        let mut place = from;
        while let Some(link) = place.next.get().filter(|_| place.index < self.end()) {
            next = link.batch.next_seq();
            place = &link.node;
        }
        next
    }

    /// Reads the history from here on, until it is live.
    pub(in crate::hub) fn begin_past(&mut self, past: Past) {
        self.parts_before = 0;
        let next = past.next;
        (self.cursor, self.offset) = (None, 0);
        self.rare().past = Some(past);
        self.subscriber.set(Condition::CatchingUp, true);
        self.subscriber.move_to_past(next);
    }

    pub(super) fn leave_past(&mut self) {
        if let Some(rare) = &mut self.rare {
            rare.past = None;
        }
        self.subscriber.set(Condition::CatchingUp, false);
    }

    /// Whether it walks a slice of the history, which it must not keep for long.
    pub(crate) fn is_in_slice(&self) -> bool {
        self.past().is_some_and(Past::is_walking)
    }

    /// Keeps what it walks of the history over a wait; whether there is room for that. In `raw` alone, where a slice
    /// takes no more than it has of the history.
    pub(crate) fn keep_slice(&mut self) -> bool {
        if self.encoding != Encoding::Raw {
            return false;
        }
        let past = self.rare.as_mut().and_then(|rare| rare.past.as_mut());
        past.is_some_and(Past::keep)
    }

    /// Lets go of what it walks of the history: its turn is over, or its socket takes no more. Not in the middle
    /// of a line: [`Feed::take_rest_of_line`] first.
    pub(crate) fn leave_slice(&mut self) {
        if self.offset > 0 {
            self.count_begun();
        }
        let past = self.rare.as_mut().and_then(|rare| rare.past.as_mut());
        let (Some(past), Some(cursor)) = (past, self.cursor.take()) else {
            return;
        };
        match cursor.next.get() {
            Some(link) => past.let_go(link.batch.seq_at(self.current, self.offset)),
            None => past.finish_walk(),
        }
        self.subscriber.move_to_past(past.next);
        self.offset = 0;
    }

    /// Waits no more for its turn to read the history: its socket takes nothing, and whoever has a turn must use
    /// it.
    pub(crate) fn give_up_turn(&mut self) {
        if let Some(past) = self.rare.as_mut().and_then(|rare| rare.past.as_mut()) {
            past.give_up_turn();
        }
    }
}
