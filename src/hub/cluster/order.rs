//! The order of one channel, as one node delivers it.

use std::collections::VecDeque;

use super::batch::{Batch, Gone, NodeId};
use super::here::{Clients, Here};
use super::message::{Checkpoint, Message};
use super::saved::SavedOrder;
use super::state::{Claimed, State};
use crate::hub::history::Record;
use crate::wire::ids::{Epoch, Seq};

/// What a node has of the order, and what it delivers of it next.
///
/// A node knows the [`State`] behind the last message that it took, or it does not: it has just started, or missed
/// messages. Then it keeps what comes until a checkpoint says what it was in between.
#[derive(Debug)]
pub(crate) struct Order {
    me: NodeId,
    stream: u64,
    /// Sequence of the last message; 0 before the first.
    place: u64,
    /// What was known last.
    state: State,
    was_known: bool,
    /// Whether `state` is what is behind the messages before those that are kept.
    is_known: bool,
    /// The last messages up to `place`, while the state is not known, and until they are counted.
    kept: Kept,
    /// The stream has lost what was in this epoch: its numbers could be given again, so it ends.
    lost: Option<Epoch>,
    here: Here,
    /// The last place that a checkpoint was about.
    checkpoint: u64,
}

/// Consecutive messages without their numbers.
#[derive(Debug)]
struct Kept {
    messages: VecDeque<Entry>,
    bytes: u64,
    bytes_max: u64,
}

/// What has a place in the stream: its time in milliseconds since 1970, and what it is, unless it is
/// [damaged](super::message::Unreadable::Damaged).
type Entry = (u64, Option<Message>);

/// Bytes of messages that are kept at most while the state is not known, unless [less is said](Order::keep_at_most). The
/// oldest go first: a later checkpoint is needed then.
const KEPT_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// What comes next for the clients of a node.
#[derive(Debug)]
pub(crate) enum Delivery {
    /// The numbers go on, or begin, with this one.
    Placed {
        epoch: Epoch,
        next: Seq,
        /// What was missed of this epoch: numbers, and messages among them. `None`: it is another one.
        missed: Option<(u64, u64)>,
    },
    /// A batch with its numbers. Its sessions are those of which something was taken.
    Batch {
        node: NodeId,
        number: u64,
        crc: u32,
        record: Record,
    },
    Claimed(Claimed),
    /// A node is gone, and its clients that are here are left to another.
    Gone {
        gone: Gone,
        clients: Clients,
    },
}

impl Order {
    /// What a node has that has just started. It needs the messages behind the place that the last checkpoint of the
    /// stream is about.
    pub(crate) fn new(me: NodeId, stream: u64) -> Order {
        Order {
            me,
            stream,
            place: 0,
            state: State::new(Epoch(0)),
            was_known: false,
            is_known: false,
            kept: Kept::default(),
            lost: None,
            here: Here::default(),
            checkpoint: 0,
        }
    }

    /// What the daemon before had. `None` if that cannot be read.
    pub(super) fn restore(me: NodeId, saved: &SavedOrder) -> Option<Order> {
        let checkpoint = saved.read()?;
        Some(Order {
            place: checkpoint.place,
            state: checkpoint.state,
            was_known: true,
            is_known: true,
            here: Here::restore(&saved.here),
            ..Order::new(me, checkpoint.stream)
        })
    }

    /// What is known, for the next daemon; `None` if that is not enough to go on.
    pub(super) fn save(&self) -> Option<SavedOrder> {
        let checkpoint = Box::new(self.checkpoint(Seq(0))?);
        Some(SavedOrder {
            checkpoint: Message::Checkpoint(checkpoint).encode().0,
            here: self.here.save(),
        })
    }

    /// This node goes on as a new one.
    pub(crate) fn rename(&mut self, me: NodeId) {
        self.me = me;
    }

    /// Whether it is known what follows. While it is not, the node publishes nothing.
    pub(crate) fn is_known(&self) -> bool {
        self.is_known && self.kept.messages.is_empty()
    }

    /// Whether the stream has lost what was in this order: no node that was connected to it knows what follows.
    pub(crate) fn has_lost(&self) -> bool {
        self.lost.is_some()
    }

    /// What is known, or was known last.
    pub(crate) fn state(&self) -> &State {
        &self.state
    }

    /// Sequence of the last message that was taken.
    pub(crate) fn place(&self) -> u64 {
        self.place
    }

    /// The node is connected to this stream, whose last message is `last`. Another stream than before, or one without
    /// its end, has lost the order: none of its numbers may be given again, so another one is to begin.
    pub(crate) fn connected(&mut self, stream: u64, last: u64) {
        if stream == self.stream && last >= self.place {
            return;
        }
        (self.stream, self.place, self.checkpoint) = (stream, 0, 0);
        self.lost = self.was_known.then_some(self.state.epoch);
        self.miss();
    }

    fn miss(&mut self) {
        self.is_known = false;
        self.kept.clear();
        self.here.keep_only(self.me);
    }

    /// Takes the message at this place; what is delivered with it. Behind [`Delivery::Placed`], [`Order::go_on`] tells
    /// the rest: until then, the state is the one at that place.
    pub(crate) fn apply(
        &mut self,
        place: u64,
        time_ms: u64,
        message: Option<Message>,
        out: &mut Vec<Delivery>,
    ) {
        if place <= self.place {
            return;
        }
        if place != self.place + 1 && self.place > 0 {
            self.miss();
        }
        self.place = place;
        if let Some(Message::Checkpoint(checkpoint)) = &message
            && checkpoint.stream == self.stream
        {
            self.checkpoint = self.checkpoint.max(checkpoint.place);
            if checkpoint.begins {
                // Of several that begin, the first: the others are not behind what they say.
                if checkpoint.place + 1 == self.place {
                    self.kept.clear();
                    self.know(checkpoint.state.clone(), out);
                } else if !self.is_known() {
                    // It has its place all the same.
                    self.kept.push((time_ms, None));
                }
                return;
            }
            self.find_place(checkpoint, out);
        }
        if self.is_known() {
            self.count(time_ms, message, out);
        } else {
            self.kept.push((time_ms, message));
        }
    }

    /// Keeps so many bytes of messages at most while the state is not known.
    #[cfg(feature = "nats")]
    pub(super) fn keep_at_most(&mut self, bytes: u64) {
        self.kept.bytes_max = bytes.min(KEPT_BYTES_MAX);
    }

    /// Counts what was kept until its place was known; what is delivered with it.
    pub(crate) fn go_on(&mut self, out: &mut Vec<Delivery>) {
        while self.has_kept() {
            self.go_on_once(out);
        }
    }

    /// The same, with one message of it.
    pub(crate) fn go_on_once(&mut self, out: &mut Vec<Delivery>) {
        if self.has_kept()
            && let Some((time_ms, message)) = self.kept.pop()
        {
            self.count(time_ms, message, out);
        }
    }

    /// Whether something is kept whose place is known.
    pub(crate) fn has_kept(&self) -> bool {
        self.is_known && !self.kept.messages.is_empty()
    }

    /// Knows the state by a checkpoint, if all that is behind its place was kept.
    fn find_place(&mut self, checkpoint: &Checkpoint, out: &mut Vec<Delivery>) {
        let kept_from = self.place - self.kept.messages.len() as u64;
        let is_of_use = !self.is_known
            && (kept_from - 1..self.place).contains(&checkpoint.place)
            && self.lost != Some(checkpoint.state.epoch);
        if is_of_use {
            let before = (checkpoint.place + 1 - kept_from) as usize;
            for _ in 0..before {
                self.kept.pop();
            }
            self.know(checkpoint.state.clone(), out);
        }
    }

    fn know(&mut self, state: State, out: &mut Vec<Delivery>) {
        let before = &self.state;
        let is_same = self.was_known && before.epoch == state.epoch;
        let missed = is_same.then(|| {
            let numbers = state.next.0.saturating_sub(before.next.0);
            (numbers, state.messages.saturating_sub(before.messages))
        });
        out.push(Delivery::Placed {
            epoch: state.epoch,
            next: state.next,
            missed,
        });
        (self.state, self.is_known, self.was_known) = (state, true, true);
        self.lost = None;
    }

    fn count(&mut self, time_ms: u64, message: Option<Message>, out: &mut Vec<Delivery>) {
        match message {
            Some(Message::Batch(batch)) => self.count_batch(time_ms, batch, out),
            Some(Message::Gone(gone)) if self.state.gone(gone) => {
                let clients = self.here.leave(gone.node, gone.by);
                out.push(Delivery::Gone { gone, clients });
            }
            Some(Message::Checkpoint(checkpoint)) => {
                let is_of_now = checkpoint.state.epoch == self.state.epoch;
                if is_of_now && checkpoint.stream == self.stream {
                    self.state.forget(checkpoint.oldest);
                }
            }
            Some(Message::Gone(_)) | None => {}
        }
    }

    fn count_batch(&mut self, time_ms: u64, batch: Batch, out: &mut Vec<Delivery>) {
        let (node, number, crc) = (batch.node, batch.number, batch.crc);
        let Some((claims, mut record)) = self.state.batch(batch) else {
            return;
        };
        record.time_ms = time_ms;
        self.here.note(node, &record);
        out.push(Delivery::Batch {
            node,
            number,
            crc,
            record,
        });
        out.extend(claims.into_iter().map(Delivery::Claimed));
    }

    /// A batch of this node was counted in what it missed.
    pub(crate) fn note_own(&mut self, record: &Record) {
        self.here.note(self.me, record);
    }

    /// This node was found gone when it came back to what it had missed: its clients that were left to another.
    pub(crate) fn leave(&mut self) -> Clients {
        self.here.leave(self.me, self.me)
    }

    /// What those that do not know the state are to be told, if this node knows it. `oldest`: the first number of the
    /// stream, or the next one if nothing is in it.
    pub(crate) fn checkpoint(&self, oldest: Seq) -> Option<Checkpoint> {
        self.is_known().then(|| Checkpoint {
            stream: self.stream,
            place: self.place,
            begins: false,
            oldest,
            state: self.state.clone(),
        })
    }

    /// What begins another order behind `last`, the last message of the stream, with what this node knew last of who
    /// sent what. To be sent with `last` as the last sequence that is expected: of several nodes that begin, one does.
    pub(crate) fn beginning(&self, last: u64, epoch: Epoch) -> Checkpoint {
        Checkpoint {
            stream: self.stream,
            place: last,
            begins: true,
            oldest: Seq(0),
            state: self.state.clone().in_epoch(epoch),
        }
    }

    /// The last place that a checkpoint was about.
    pub(crate) fn last_checkpoint(&self) -> u64 {
        self.checkpoint
    }

    /// The stream has a checkpoint about this place.
    pub(crate) fn note_checkpoint(&mut self, place: u64) {
        self.checkpoint = self.checkpoint.max(place.min(self.place));
    }

    /// Whether a checkpoint is due: the last was about a place so many messages ago, or what is behind that place is
    /// not in the stream any more, whose first message is `first`.
    pub(crate) fn is_checkpoint_due(&self, first: u64, every: u64) -> bool {
        let is_old = self.place - self.checkpoint >= every;
        self.is_known() && (is_old || self.checkpoint + 1 < first)
    }
}

impl Kept {
    fn push(&mut self, entry: Entry) {
        self.bytes += bytes_of(&entry);
        self.messages.push_back(entry);
        while self.bytes > self.bytes_max {
            self.pop();
        }
    }

    fn pop(&mut self) -> Option<Entry> {
        let oldest = self.messages.pop_front()?;
        self.bytes -= bytes_of(&oldest);
        Some(oldest)
    }

    fn clear(&mut self) {
        self.messages.clear();
        self.bytes = 0;
    }
}

impl Default for Kept {
    fn default() -> Kept {
        Kept {
            messages: VecDeque::new(),
            bytes: 0,
            bytes_max: KEPT_BYTES_MAX,
        }
    }
}

/// What a message takes while it is kept, about.
fn bytes_of((_, message): &Entry) -> u64 {
    let bytes = match message {
        Some(Message::Batch(batch)) => batch.record.bytes(),
        Some(Message::Checkpoint(_) | Message::Gone(_)) | None => 0,
    };
    bytes + size_of::<Entry>() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beginning_that_comes_late_is_kept_as_nothing() {
        let checkpoint = |place, begins, next| {
            let mut state = State::new(Epoch(7));
            state.next = Seq(next);
            Some(Message::Checkpoint(Box::new(Checkpoint {
                stream: 1,
                place,
                begins,
                oldest: Seq(1),
                state,
            })))
        };
        let mut order = Order::new(NodeId(1), 1);
        let mut out = Vec::new();
        order.apply(11, 0, None, &mut out);
        // It begins behind 9, and something came between.
        order.apply(12, 0, checkpoint(9, true, 100), &mut out);
        order.apply(13, 0, None, &mut out);
        assert!(out.is_empty());
        order.apply(14, 0, checkpoint(11, false, 5), &mut out);
        order.go_on(&mut out);
        assert!(order.is_known());
        assert_eq!(order.state().next, Seq(5));
        assert_eq!(out.len(), 1);
    }

    #[test]
    fn checkpoint_of_a_place_that_was_missed_is_of_no_use_behind_a_beginning_that_came_late() {
        let mut order = Order::new(NodeId(1), 1);
        let mut out = Vec::new();
        let checkpoint = |place, begins| {
            Some(Message::Checkpoint(Box::new(Checkpoint {
                stream: 1,
                place,
                begins,
                oldest: Seq(1),
                state: State::new(Epoch(7)),
            })))
        };
        order.apply(11, 0, checkpoint(9, true), &mut out);
        order.apply(12, 0, checkpoint(10, false), &mut out);
        order.go_on(&mut out);
        assert!(order.is_known() && out.len() == 1);
    }
}
