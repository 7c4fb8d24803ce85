//! A stream with its faults, and what is on its way to it.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::hub::cluster::batch::Batch;
use crate::hub::cluster::message::Message;
use crate::hub::cluster::state::Last;

/// The stream as the server has it.
#[derive(Debug, Default)]
pub(super) struct Stream {
    /// When it was created.
    pub(super) id: u64,
    pub(super) last: u64,
    /// Places, subjects and bodies.
    pub(super) messages: VecDeque<(u64, Subject, Bytes)>,
}

/// The node of a batch, or 0, and its number.
pub(super) type Subject = (u64, u64);

/// A message on its way to the stream.
#[derive(Clone, Debug)]
pub(super) struct OnWay {
    /// Which process waits for the answer.
    pub(super) from: usize,
    pub(super) subject: Subject,
    pub(super) body: Bytes,
    pub(super) expected_last: Option<u64>,
}

impl Stream {
    pub(super) fn first(&self) -> u64 {
        self.messages.front().map_or(self.last + 1, |it| it.0)
    }

    /// The first message behind `place`.
    pub(super) fn behind(&self, place: u64) -> Option<&(u64, Subject, Bytes)> {
        self.messages.iter().find(|it| it.0 > place)
    }

    /// The place of the last batch of a node, and which it is.
    pub(super) fn last_of(&self, node: u64) -> (u64, Last) {
        let own = self.messages.iter().rev().find(|it| it.1.0 == node);
        let place = own.map_or(0, |it| it.0);
        match own.map(|it| Message::decode(&it.2)) {
            Some(Ok(Message::Batch(Batch { number, crc, .. }))) => (place, Last { number, crc }),
            _ => (place, Last::default()),
        }
    }

    /// Stores a message, unless another is the last than was expected: whether it did.
    pub(super) fn store(&mut self, message: &OnWay) -> bool {
        if message.expected_last.is_some_and(|last| last != self.last) {
            return false;
        }
        self.last += 1;
        self.messages
            .push_back((self.last, message.subject, message.body.clone()));
        true
    }
}
