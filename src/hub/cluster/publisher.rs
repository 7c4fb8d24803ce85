//! What one node sends into the stream of one channel, and what became of it.

use std::collections::VecDeque;

use bytes::Bytes;

use super::batch::{Batch, Claim, NodeId};
use super::message::Message;
use super::saved::SavedPublisher;
use super::state::Last;
use crate::hub::history::Record;

/// Batches that are stored and have not come back, at most: what a node has sent waits in its memory until it is in
/// the order.
const UNSETTLED_MAX: usize = 64;

/// The batches of a node that have not come back yet, in order. One at a time is on its way to the stream.
#[derive(Debug)]
pub(crate) struct Publisher {
    node: NodeId,
    last_number: u64,
    /// The last that came back.
    settled: Last,
    unsettled: VecDeque<Sent>,
    /// How many of them are stored, as the server said; the one behind them is the one on its way.
    stored: usize,
    way: Way,
}

#[derive(Debug)]
struct Sent {
    batch: Batch,
    body: Bytes,
    /// Where it is stored, if it is.
    place: u64,
    /// The server knows its id, wherever it is.
    is_duplicate: bool,
}

/// Where the batch is that is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// It is to be sent.
    Due,
    /// It was sent.
    Sent,
    /// It was sent, and no answer came: it is to be looked for.
    InDoubt,
}

/// What is to be done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Send this batch. Of its node and number a `Nats-Msg-Id` is made, by which the server stores no batch twice that
    /// is on its way twice; but for one that the server says that it has and that is not there: that goes without.
    Send {
        number: u64,
        body: Bytes,
        has_id: bool,
    },
    /// Look for the last message of the node's own subject.
    Look,
    /// Nothing: an answer is to come, or there is nothing to send.
    Wait,
}

/// What a batch that came back means for the publisher of its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Settled {
    /// It is this node's, and in the order.
    Own,
    /// It is another node's.
    Other,
    /// Another process publishes as this node: what has not come back never counts, so it is to be
    /// [sent as a new one](Publisher::renew).
    Twin,
}

impl Publisher {
    pub(crate) fn new(node: NodeId) -> Publisher {
        Publisher {
            node,
            last_number: 0,
            settled: Last::default(),
            unsettled: VecDeque::new(),
            stored: 0,
            way: Way::Due,
        }
    }

    /// Goes on with what the daemon before had sent, or was about to: each is looked for before it is sent again. `None`
    /// if that cannot be read.
    pub(super) fn restore(node: NodeId, saved: &SavedPublisher) -> Option<Publisher> {
        let (number, crc) = saved.settled;
        let batches = saved.read(node)?;
        let last = batches.last().map_or(number, |batch| batch.number);
        let unsettled = batches.into_iter().zip(&saved.unsettled);
        let unsettled = unsettled.map(|(batch, body)| Sent {
            batch,
            body: body.clone(),
            place: 0,
            is_duplicate: false,
        });
        Some(Publisher {
            last_number: last,
            settled: Last { number, crc },
            unsettled: unsettled.collect(),
            way: Way::InDoubt,
            ..Publisher::new(node)
        })
    }

    /// What has not come back, for the next daemon.
    pub(super) fn save(&self) -> SavedPublisher {
        SavedPublisher {
            settled: (self.settled.number, self.settled.crc),
            unsettled: self.unsettled.iter().map(|it| it.body.clone()).collect(),
        }
    }

    /// The batches that have not come back.
    pub(super) fn unsettled(&self) -> impl Iterator<Item = &Batch> {
        self.unsettled.iter().map(|sent| &sent.batch)
    }

    /// The node as which it publishes.
    pub(crate) fn node(&self) -> NodeId {
        self.node
    }

    /// Whether a new batch can be [pushed](Publisher::push): what comes meanwhile is one batch.
    pub(crate) fn is_free(&self) -> bool {
        self.stored == self.unsettled.len() && self.stored < UNSETTLED_MAX
    }

    /// Whether the one that is to be sent next has more bytes than this.
    #[cfg(feature = "nats")]
    pub(super) fn is_stuck(&self, bytes: usize) -> bool {
        let due = self.unsettled.get(self.stored);
        // Those before it may count still.
        let is_first = self.stored == 0 && self.way == Way::Due;
        is_first && due.is_some_and(|sent| sent.body.len() > bytes)
    }

    /// Whether this batch has neither come back nor is known to be stored.
    #[cfg(feature = "nats")]
    pub(super) fn is_on_way(&self, node: NodeId, number: u64) -> bool {
        let on_way = self.unsettled.get(self.stored);
        node == self.node && on_way.is_some_and(|sent| sent.batch.number == number)
    }

    /// Whether all that was pushed has come back.
    #[cfg(test)]
    pub(crate) fn is_settled(&self) -> bool {
        self.unsettled.is_empty()
    }

    /// Adds what is to be published next.
    pub(crate) fn push(&mut self, claims: Vec<Claim>, record: Record, claimed_by: Vec<u64>) {
        self.last_number += 1;
        let before = self.unsettled.back().map(|sent| sent.batch.crc);
        let batch = Batch {
            node: self.node,
            number: self.last_number,
            before: before.unwrap_or(self.settled.crc),
            claims: claims.into(),
            record,
            claimed_by: claimed_by.into(),
            crc: 0,
        };
        self.unsettled.push_back(Sent::new(batch));
    }

    /// What is to be done now. Only while it is known what follows from the stream, of which all up to `read` was
    /// taken.
    pub(crate) fn next(&mut self, read: u64) -> Step {
        let first = self.unsettled.front();
        if self.stored > 0 && first.is_some_and(|sent| sent.place <= read) {
            // It has a place, and did not count there: an order began behind it.
            (self.stored, self.way) = (0, Way::Due);
        }
        let Some(sent) = self.unsettled.get(self.stored) else {
            return Step::Wait;
        };
        match self.way {
            Way::Due => {
                self.way = Way::Sent;
                Step::Send {
                    number: sent.batch.number,
                    body: sent.body.clone(),
                    has_id: !sent.is_duplicate,
                }
            }
            Way::Sent => Step::Wait,
            Way::InDoubt => Step::Look,
        }
    }

    /// The server has stored this batch at this place. No answer of another stream is to come here.
    pub(crate) fn note_stored(&mut self, node: NodeId, number: u64, place: u64) {
        if let Some(sent) = self.unsettled.get_mut(self.stored)
            && (node, number) == (self.node, sent.batch.number)
        {
            sent.place = place;
            self.stored += 1;
            self.way = Way::Due;
        }
    }

    /// No answer came in time, the connection was lost, or the answer is an error: what is on its way may be stored
    /// or not.
    pub(crate) fn note_doubt(&mut self) {
        if self.way == Way::Sent {
            self.way = Way::InDoubt;
        }
    }

    /// The server had the id of this batch already. It may be there, and is to be looked for; or it was, and did not
    /// count, or the stream has lost it.
    pub(crate) fn note_duplicate(&mut self, node: NodeId, number: u64) {
        if let Some(sent) = self.unsettled.get_mut(self.stored)
            && (node, number) == (self.node, sent.batch.number)
        {
            sent.is_duplicate = true;
        }
        self.note_doubt();
    }

    /// This is the last batch of the own subject, and its place; all up to `read` was taken. It is what is on its way,
    /// or that is to be sent again. If it is another process's, what comes back will tell. Whether all that was sent is
    /// there.
    pub(crate) fn note_found(&mut self, last: Last, place: u64, read: u64) -> bool {
        if self.way != Way::InDoubt {
            return false;
        }
        let on_way = self.unsettled.get(self.stored);
        let on_way = on_way.map(|sent| last_of(&sent.batch)).unwrap_or_default();
        self.way = match last.number < on_way.number || place <= read {
            true => Way::Due,
            false => Way::Sent,
        };
        let is_there = last == on_way && place > read;
        if is_there {
            self.note_stored(self.node, last.number, place);
        }
        is_there
    }

    /// A batch has come back with its numbers, with or without its answer.
    pub(crate) fn settle(&mut self, node: NodeId, number: u64, crc: u32) -> Settled {
        if node != self.node {
            return Settled::Other;
        }
        let next = self.unsettled.front().map(|sent| &sent.batch);
        if next.is_none_or(|batch| batch.number != number || batch.crc != crc) {
            return Settled::Twin;
        }
        self.pop();
        Settled::Own
    }

    fn pop(&mut self) -> Option<Batch> {
        match self.stored.checked_sub(1) {
            Some(stored) => self.stored = stored,
            None => self.way = Way::Due,
        }
        let batch = self.unsettled.pop_front()?.batch;
        self.settled = last_of(&batch);
        Some(batch)
    }

    /// It is known again what follows from the stream, and which batch was the last that was counted: those up to it
    /// were, the rest was not, and is sent again. Those that were counted, and whether another process publishes as
    /// this node.
    pub(crate) fn place(&mut self, last: Last) -> (Vec<Batch>, Settled) {
        (self.stored, self.way) = (0, Way::Due);
        let mut own = self.unsettled.iter().map(|sent| last_of(&sent.batch));
        let own = match last.number == self.settled.number {
            true => Some(self.settled),
            false => own.find(|own| own.number == last.number),
        };
        // Neither are numbers before those that came back ours, if an order began that did not know them.
        let is_twin = own.is_none_or(|own| own != last);
        if is_twin {
            return (Vec::new(), Settled::Twin);
        }
        let is_counted = |sent: &Sent| sent.batch.number <= last.number;
        let counted = self.unsettled.iter().take_while(|sent| is_counted(sent));
        let counted = 0..counted.count();
        (counted.filter_map(|_| self.pop()).collect(), Settled::Own)
    }

    /// Goes on as a new node, which is to send what was not counted of the old one.
    pub(crate) fn renew(&mut self, node: NodeId) -> impl Iterator<Item = Batch> + use<> {
        let renewed = Publisher::new(node);
        let unsettled = std::mem::replace(self, renewed).unsettled;
        unsettled.into_iter().map(|sent| sent.batch)
    }
}

fn last_of(batch: &Batch) -> Last {
    Last {
        number: batch.number,
        crc: batch.crc,
    }
}

impl Sent {
    fn new(mut batch: Batch) -> Sent {
        let (body, crc) = Message::Batch(batch.clone()).encode();
        batch.crc = crc;
        Sent {
            batch,
            body,
            place: 0,
            is_duplicate: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batch_that_the_server_knows_and_that_is_not_there_is_sent_without_its_id() {
        let node = NodeId(7);
        let mut publisher = Publisher::new(node);
        publisher.push(Vec::new(), Record::empty(), Vec::new());
        let sends = |publisher: &mut Publisher| match publisher.next(0) {
            Step::Send { has_id, .. } => Some(has_id),
            Step::Look | Step::Wait => None,
        };
        assert_eq!(sends(&mut publisher), Some(true));
        publisher.note_doubt();
        assert_eq!(publisher.next(0), Step::Look);
        assert!(!publisher.note_found(Last::default(), 0, 0));
        assert_eq!(sends(&mut publisher), Some(true));
        publisher.note_duplicate(node, 1);
        assert_eq!(publisher.next(0), Step::Look);
        assert!(!publisher.note_found(Last::default(), 0, 0));
        assert_eq!(sends(&mut publisher), Some(false));
    }
}
