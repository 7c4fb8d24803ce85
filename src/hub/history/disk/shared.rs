//! What readers of a log and the one who writes it share.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

use super::segment::Segment;
use super::storage::Storage;
use crate::wire::ids::{Epoch, Seq};

/// A channel's files, and what of them is to be seen.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) files: Files,
    /// Never held while a file is read or written.
    pub(super) kept: Mutex<Kept>,
}

/// Where the files are.
#[derive(Clone, Debug)]
pub(super) struct Files {
    pub(super) storage: Storage,
    /// The folder of the channel, and the directory with all of them.
    pub(super) folder: PathBuf,
    pub(super) directory: PathBuf,
    /// Held for as long as anything is written. The lock goes with the last.
    /// `None` where nothing is written.
    pub(super) lock: Option<Arc<OwnedFd>>,
}

/// What readers see.
#[derive(Debug)]
pub(super) struct Kept {
    /// The oldest first; the last is written to.
    pub(super) segments: VecDeque<Arc<Segment>>,
    /// Bytes of their files.
    pub(super) file_bytes: u64,
    pub(super) epoch: Epoch,
    pub(super) next: Seq,
    /// Messages ever, and bytes of their lines.
    pub(super) messages: u64,
    pub(super) bytes: u64,
    pub(super) last_time_ms: u64,
    pub(super) sessions: usize,
    /// Since when something has waited to be synced.
    pub(super) unsynced: Option<Instant>,
}

impl Kept {
    pub(super) fn oldest(&self) -> Seq {
        let oldest = self.segments.front();
        oldest.map_or(self.next, |segment| segment.header.first_seq)
    }

    /// The last segment of which `is_before` is true; it is true of none behind one of which it is false.
    /// The first if it is true of none. There is one.
    pub(super) fn segment(&self, is_before: impl Fn(&Segment) -> bool) -> Arc<Segment> {
        let behind = self.segments.partition_point(|segment| is_before(segment));
        Arc::clone(&self.segments[behind.saturating_sub(1)])
    }
}
