//! What a node says: the lines and notices of its clients, whose sessions they are, and that another node is gone.

use std::fmt;

use crate::hub::history::Record;
use crate::wire::session::SessionKey;

/// One start of a daemon, by 64 random bits, kept over handovers. Displays as 16 hexadecimal digits, as the subject
/// has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct NodeId(pub(crate) u64);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Lines and notices of one node's clients.
#[derive(Clone, Debug)]
pub(crate) struct Batch {
    pub(crate) node: NodeId,
    /// Counts the node's batches, from 1.
    pub(crate) number: u64,
    /// Checksum of the one before, 0 in the first: what another process sends as this node is not in this chain.
    pub(crate) before: u32,
    /// They come before all lines of the batch, and those that are given up behind them.
    pub(crate) claims: Box<[Claim]>,
    /// Its numbers and its time follow from its place in the stream: they are 0 here.
    pub(crate) record: Record,
    /// By which claim of the node each of the record's sessions is published, in their order.
    pub(crate) claimed_by: Box<[u64]>,
    /// Checksum of its bytes: tells the node's own batch from one that another process gave the same number. Set by
    /// [`Message::decode`](super::message::Message::decode); [`Message::encode`](super::message::Message::encode) makes it.
    pub(crate) crc: u32,
}

/// A client of the node takes a session over, or leaves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) name: SessionKey,
    /// Counts the node's claims: one client has one.
    pub(crate) number: u64,
    pub(crate) is_given_up: bool,
}

/// A node is gone: it publishes nothing any more, and `by` says that its clients left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gone {
    pub(crate) node: NodeId,
    pub(crate) by: NodeId,
}
