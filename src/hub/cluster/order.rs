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
#[derive(Debug, Default)]
struct Kept {
    messages: VecDeque<Entry>,
    bytes: u64,
}

/// What has a place in the stream: its time in milliseconds since 1970, and what it is, unless it is
/// [damaged](super::message::Unreadable::Damaged).
type Entry = (u64, Option<Message>);

/// Bytes of messages that are kept at most while the state is not known. The oldest go first: a later checkpoint is
/// needed then.
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
        (self.is_known, self.kept) = (false, Kept::default());
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
                    self.kept = Kept::default();
                    self.know(checkpoint.state.clone(), out);
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

    /// Counts what was kept until its place was known; what is delivered with it.
    pub(crate) fn go_on(&mut self, out: &mut Vec<Delivery>) {
        if self.is_known {
            for (time_ms, message) in std::mem::take(&mut self.kept).messages {
                self.count(time_ms, message, out);
            }
        }
    }

    /// Knows the state by a checkpoint, if all that is behind its place was kept.
    fn find_place(&mut self, checkpoint: &Checkpoint, out: &mut Vec<Delivery>) {
        let kept_from = self.place - self.kept.messages.len() as u64;
        let is_of_use = !self.is_known
            && (kept_from - 1..self.place).contains(&checkpoint.place)
            && self.lost != Some(checkpoint.state.epoch);
        if is_of_use {
            let before = (checkpoint.place + 1 - kept_from) as usize;
            self.kept.messages.drain(..before);
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
        while self.bytes > KEPT_BYTES_MAX {
            let Some(oldest) = self.messages.pop_front() else {
                return;
            };
            self.bytes -= bytes_of(&oldest);
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
