//! What was published and is kept for who comes late: records, one a batch, in memory or on disk.
//!
//! The hub [records](super::recording) what it publishes; a feed [reads](super::past) what it missed, from
//! the same surface wherever that is kept.

#![allow(dead_code, reason = "being built")]

pub(crate) mod disk;
mod kept;
mod ledger;
mod memory;
mod record;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

pub(crate) use kept::{Retention, Slice};
pub(in crate::hub) use ledger::Ledger;
pub(in crate::hub) use memory::Memory;
pub(crate) use record::Record;

use crate::wire::ids::{Epoch, Seq};
use crate::wire::past::Newest;

/// What one reader takes at a time, in bytes: enough to pay for the turn, and little enough for a live client
/// not to notice that it waits for it.
const SLICE_BYTES: usize = 256 * 1024;

/// The history of a channel: what is kept of it, and who reads that.
#[derive(Debug)]
pub(in crate::hub) struct History {
    pub(in crate::hub) store: Store,
    retention: Mutex<Retention>,
    /// Turns of those who read the past, over all channels: see [`turns`].
    turns: Arc<Semaphore>,
    /// Clients that read from it now.
    readers: AtomicUsize,
}

/// Where records are kept.
#[derive(Debug)]
pub(in crate::hub) enum Store {
    Memory(Memory),
}

/// A client that reads from the history.
#[derive(Debug)]
pub(in crate::hub) struct Reader(Arc<History>);

/// The turns that all who read the past share: as many at a time as there are cores, one after the other, so
/// that however many come at once, a live client waits for a few slices at most.
pub(in crate::hub) fn turns() -> Arc<Semaphore> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    Arc::new(Semaphore::new(cores))
}

/// Milliseconds since 1970.
pub(in crate::hub) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

impl History {
    /// A history that keeps records in `store`.
    pub(in crate::hub) fn new(
        store: Store,
        retention: Retention,
        turns: Arc<Semaphore>,
    ) -> Arc<History> {
        Arc::new(History {
            store,
            retention: Mutex::new(retention),
            turns,
            readers: AtomicUsize::new(0),
        })
    }

    pub(in crate::hub) fn retention(&self) -> Retention {
        *self.retention.lock()
    }

    /// Keeps so much from now on.
    pub(in crate::hub) fn set_retention(&self, retention: Retention) {
        *self.retention.lock() = retention;
        self.expire(now_ms());
    }

    /// Lets go of what is too old by now.
    pub(in crate::hub) fn expire(&self, now_ms: u64) {
        match &self.store {
            Store::Memory(memory) => memory.retain(self.retention(), now_ms),
        }
    }

    /// Reads records from the one on that holds `from`, when it is this reader's turn, which lasts as long as
    /// what is returned with them. Cancel safe.
    pub(in crate::hub) async fn read(
        self: Arc<History>,
        from: Seq,
    ) -> (OwnedSemaphorePermit, io::Result<Slice<Arc<Record>>>) {
        let turn = self.turns.clone().acquire_owned().await;
        let turn = turn.expect("turns are never closed");
        let slice = match &self.store {
            Store::Memory(memory) => Ok(memory.read(from, SLICE_BYTES)),
        };
        (turn, slice)
    }

    /// The first number of the newest that is asked for, of what is kept. Cancel safe.
    pub(in crate::hub) async fn locate(self: Arc<History>, newest: Newest) -> io::Result<Seq> {
        match &self.store {
            Store::Memory(memory) => Ok(memory.locate(newest, now_ms())),
        }
    }

    /// The oldest number that is kept, or the next that will be.
    pub(in crate::hub) fn oldest(&self) -> Seq {
        match &self.store {
            Store::Memory(memory) => memory.extent().2,
        }
    }

    /// Counts a client that reads from it, for as long as what is returned lives.
    pub(in crate::hub) fn reader(self: &Arc<History>) -> Reader {
        self.readers.fetch_add(1, Relaxed);
        Reader(self.clone())
    }

    /// What is kept, in a channel of this epoch and next number.
    pub(in crate::hub) fn stats(&self, epoch: Epoch, next: Seq) -> HistoryStats {
        let (bytes, messages, oldest, oldest_at) = match &self.store {
            Store::Memory(memory) => memory.extent(),
        };
        HistoryStats {
            epoch,
            bytes,
            bytes_max: self.retention().bytes,
            oldest,
            next,
            oldest_at: oldest_at.map(|at| UNIX_EPOCH + Duration::from_millis(at)),
            messages,
            on_disk: false,
            segments: 0,
            pending_bytes: 0,
            sync_lag: Duration::ZERO,
            readers: self.readers.load(Relaxed),
            sessions: 0,
            error: None,
        }
    }
}

impl Reader {
    /// What it reads from.
    pub(in crate::hub) fn history(&self) -> &Arc<History> {
        &self.0
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.readers.fetch_sub(1, Relaxed);
    }
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
