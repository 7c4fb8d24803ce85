//! What a client asks for of the past of a channel.

use std::time::Duration;

use super::ids::{Epoch, Seq};

/// How much of the newest a client gets first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Newest {
    /// So many messages.
    Messages(u64),
    /// Messages whose lines have at most so many bytes, their LF included.
    Bytes(u64),
    /// Messages that are at most so old.
    Age(Duration),
}

/// The place that a client goes on from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// Behind this message or notice.
    Place(Epoch, Seq),
    /// What is at most so old.
    Age(Duration),
}
