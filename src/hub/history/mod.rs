//! What was published and is kept for who comes late: records, one a batch, in memory or on disk.

#![allow(dead_code, reason = "being built")]

pub(crate) mod disk;
mod record;

use std::time::{Duration, SystemTime};

pub(crate) use record::Record;

use crate::wire::ids::{Epoch, Seq};

/// How much of a channel is kept. A reload changes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Retention {
    /// Bytes: as records take them.
    pub(crate) bytes: u64,
    /// How old a record may become; `None`: as old as it likes.
    pub(crate) age: Option<Duration>,
}

/// Outcome of a read.
#[derive(Debug)]
pub(crate) enum Slice<R> {
    /// Records without a gap, the first of which holds the number asked for.
    Records(Vec<R>),
    /// What was asked for is not kept any more: the oldest number that is, or the next that will be.
    Gone { oldest: Seq },
    /// It has not been published, or not been stored yet.
    End,
}

/// The history of a channel in stats.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct HistoryStats {
    pub(crate) epoch: Epoch,
    /// Bytes that are kept, and how many may be.
    pub(crate) bytes: u64,
    pub(crate) bytes_max: u64,
    /// The oldest number that is kept, and the next that will be given.
    pub(crate) oldest: Seq,
    pub(crate) next: Seq,
    /// When the oldest was published; `None` while nothing is kept.
    pub(crate) oldest_at: Option<SystemTime>,
    /// Messages that are kept.
    pub(crate) messages: u64,
    /// Whether it is kept on disk.
    pub(crate) on_disk: bool,
    /// Segment files.
    pub(crate) segments: usize,
    /// Bytes published and not stored yet.
    pub(crate) pending_bytes: u64,
    /// For how long the oldest of what was stored has waited to be synced; zero if all is.
    pub(crate) sync_lag: Duration,
    /// Clients that read from the history now.
    pub(crate) readers: usize,
    /// Sessions that are known.
    pub(crate) sessions: usize,
    /// Why nothing can be stored any more.
    pub(crate) error: Option<String>,
}
