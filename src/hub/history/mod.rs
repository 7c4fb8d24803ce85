//! What was published and is kept for who comes late: records, one a batch, in memory or on disk.
//!
//! The hub [records](super::recording) what it publishes; a feed [reads](super::past) what it missed, from
//! the same surface wherever that is kept.

pub(crate) mod disk;
mod kept;
mod ledger;
mod memory;
pub(in crate::hub) mod meta;
mod record;
mod remote;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::warn;

pub(crate) use kept::{Retention, Slice};
pub(in crate::hub) use ledger::Ledger;
pub(in crate::hub) use memory::Memory;
pub(crate) use record::Record;
pub(in crate::hub) use remote::{Remote, RemoteExtent};

use crate::config::{HistorySync, OnHistoryError};
use crate::wire::ids::{Epoch, Seq};
use crate::wire::past::Newest;

/// What one reader takes at a time, in bytes: enough to pay for the turn, and little enough for a live client
/// not to notice that it waits for it.
pub(in crate::hub) const SLICE_BYTES: usize = 256 * 1024;

/// Slices that are kept while their readers wait, together: 8 MiB. Few in tests, which try both ways.
const KEPT_MAX: usize = if cfg!(test) { 2 } else { 32 };

/// The history of a channel: what is kept of it, and who reads that.
#[derive(Debug)]
pub(in crate::hub) struct History {
    pub(in crate::hub) store: Store,
    settings: Mutex<HistorySettings>,
    turns: Turns,
    /// Clients that read from it now.
    readers: AtomicUsize,
    /// Why nothing can be stored.
    failure: Mutex<Option<String>>,
    /// Why something of it could last not be read.
    unreadable: Mutex<Option<String>>,
    /// What was written is synced soon.
    pub(in crate::hub) is_sync_due: AtomicBool,
}

/// What of the configuration a history goes by. A reload changes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::hub) struct HistorySettings {
    pub(in crate::hub) retention: Retention,
    pub(in crate::hub) sync: HistorySync,
    pub(in crate::hub) on_error: OnHistoryError,
}

/// Where records are kept.
#[derive(Debug)]
pub(in crate::hub) enum Store {
    Memory(Memory),
    Disk(Box<disk::Log>),
    Stream(Stream),
}

/// What nodes share: the stream has all of it, and the newest is in memory, where almost all is read that is.
#[derive(Debug)]
pub(in crate::hub) struct Stream {
    pub(in crate::hub) recent: Memory,
    pub(in crate::hub) remote: Arc<dyn Remote>,
}

/// Bytes of the newest that are in memory of what nodes share, at most: what a crowd asks for that comes back at once.
const RECENT_BYTES: u64 = 16 * 1024 * 1024;

/// A client that reads from the history.
#[derive(Debug)]
pub(in crate::hub) struct Reader(Arc<History>);

/// What all who read the past share, over all channels.
#[derive(Clone, Debug)]
pub(in crate::hub) struct Turns {
    /// Turns to read: as many at a time as there are cores, one after the other, so that however many come at
    /// once, a live client waits for a few slices at most.
    pub(in crate::hub) reading: Arc<Semaphore>,
    /// Slices that wait for their sockets, [`KEPT_MAX`] at most. Who finds no room lets go of its own, and reads it
    /// again.
    kept: Arc<Semaphore>,
}

impl Default for Turns {
    fn default() -> Turns {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Turns {
            reading: Arc::new(Semaphore::new(cores)),
            kept: Arc::new(Semaphore::new(KEPT_MAX)),
        }
    }
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
        settings: HistorySettings,
        turns: Turns,
    ) -> Arc<History> {
        Arc::new(History {
            store,
            settings: Mutex::new(settings),
            turns,
            readers: AtomicUsize::new(0),
            failure: Mutex::default(),
            unreadable: Mutex::default(),
            is_sync_due: AtomicBool::new(false),
        })
    }

    pub(in crate::hub) fn retention(&self) -> Retention {
        self.settings.lock().retention
    }

    pub(in crate::hub) fn sync_mode(&self) -> HistorySync {
        self.settings.lock().sync
    }

    pub(in crate::hub) fn on_error(&self) -> OnHistoryError {
        self.settings.lock().on_error
    }

    /// Goes by these from now on.
    pub(in crate::hub) fn set(&self, settings: HistorySettings) {
        *self.settings.lock() = settings;
    }

    /// Whether it is kept on disk: what is published has to be stored before anybody gets it.
    pub(in crate::hub) fn is_on_disk(&self) -> bool {
        matches!(self.store, Store::Disk(_))
    }

    /// Stores these records, which come next, as safe as they are to be. Blocks.
    ///
    /// # Errors
    /// Those of [`disk::Log::append`] and [`disk::Log::sync`].
    pub(in crate::hub) fn append(&self, records: &[Arc<Record>]) -> io::Result<()> {
        let Store::Disk(log) = &self.store else {
            return Ok(());
        };
        let is_always = self.sync_mode() == HistorySync::Always;
        let next = records.last().map(|record| record.next_seq());
        // Of what could not be synced, it is not tried again.
        if next.is_some_and(|next| log.next() < next) {
            log.append(records, is_always)?;
        }
        match is_always {
            true => log.sync(),
            false => Ok(()),
        }
    }

    /// Sees that all that was stored outlives a loss of power. Blocks.
    ///
    /// # Errors
    /// Those of [`disk::Log::sync`].
    pub(in crate::hub) fn sync(&self) -> io::Result<()> {
        match &self.store {
            Store::Memory(_) | Store::Stream(_) => Ok(()),
            Store::Disk(log) => log.sync(),
        }
    }

    /// What is stored next is of this epoch, even if the daemon ends before. Blocks.
    ///
    /// # Errors
    /// Those of [`disk::Log::begin_epoch`].
    pub(in crate::hub) fn begin_epoch(&self, epoch: Epoch) -> io::Result<()> {
        match &self.store {
            Store::Memory(_) | Store::Stream(_) => Ok(()),
            Store::Disk(log) => log.begin_epoch(epoch),
        }
    }

    /// Where to go on, when what holds `from` is damaged: in the next segment.
    pub(in crate::hub) fn behind(&self, from: Seq) -> Seq {
        match &self.store {
            Store::Memory(memory) => memory.next(),
            Store::Disk(log) => log.behind(from),
            Store::Stream(stream) => stream.recent.extent().2,
        }
    }

    /// Something of it cannot be read, for this reason. Whether that is news: many may come upon it.
    pub(in crate::hub) fn note_unreadable(&self, error: &io::Error) -> bool {
        let reason = error.to_string();
        let mut last = self.unreadable.lock();
        let is_news = last.as_ref() != Some(&reason);
        *last = Some(reason);
        is_news
    }

    /// Nothing can be stored, for this reason. Whether that is news.
    pub(in crate::hub) fn fail(&self, error: &io::Error) -> bool {
        let reason = error.to_string();
        self.failure.lock().replace(reason).is_none()
    }

    /// Why nothing could be stored, now that something could.
    pub(in crate::hub) fn take_failure(&self) -> Option<String> {
        self.failure.lock().take()
    }

    pub(in crate::hub) fn has_failed(&self) -> bool {
        self.failure.lock().is_some()
    }

    /// Lets go of what is too much, or too old by now. Removing files blocks.
    pub(in crate::hub) fn expire(&self) {
        let retention = self.retention();
        match &self.store {
            Store::Memory(memory) => memory.retain(retention, now_ms()),
            Store::Stream(stream) => stream.recent.retain(recent(retention), now_ms()),
            Store::Disk(log) => {
                if let Err(error) = log.retain(retention) {
                    warn!(%error, "cannot remove old history");
                }
            }
        }
    }

    /// Looks after what is on disk: whether its files are still there, and whether some are too old. Blocks, but not for
    /// who stores, and then looks there first.
    ///
    /// # Errors
    /// Those of [`disk::Log::look_after`].
    pub(in crate::hub) fn look_after(&self) -> io::Result<()> {
        match &self.store {
            Store::Memory(_) | Store::Stream(_) => Ok(()),
            Store::Disk(log) => log.look_after(self.retention()),
        }
    }

    /// Messages among the numbers from `from` to before the oldest that is kept, where files tell.
    pub(in crate::hub) fn messages_gone(&self, from: Seq, oldest: Seq) -> Option<u64> {
        match &self.store {
            Store::Memory(_) => None,
            Store::Disk(log) => log.messages_gone(from, oldest),
            // Of those before the first number there were none.
            Store::Stream(stream) if from == Seq(1) => stream.messages_before(oldest),
            Store::Stream(_) => None,
        }
    }

    /// Waits until it is known whether this number is kept. Cancel safe.
    pub(in crate::hub) async fn known(&self, seq: Seq) {
        if let Store::Stream(stream) = &self.store
            && seq < stream.recent.extent().2
        {
            stream.remote.clone().known().await;
        }
    }

    /// Reads records from the one on that holds `from`, when it is this reader's turn, which lasts as long as
    /// what is returned with them. Cancel safe.
    pub(in crate::hub) async fn read(
        self: Arc<History>,
        from: Seq,
    ) -> (OwnedSemaphorePermit, io::Result<Slice<Arc<Record>>>) {
        let mut fetched = None;
        if let Store::Stream(stream) = &self.store
            && from < stream.recent.extent().2
        {
            // Not in a turn, which others would wait for as long as this takes.
            let remote = stream.remote.clone();
            let slice = remote.read(from, SLICE_BYTES).await;
            let recent = stream.recent.extent().2;
            fetched = Some(slice.map(|slice| match slice {
                Slice::Gone { oldest } => Slice::Gone {
                    oldest: oldest.min(recent),
                },
                // Nothing of that is there any more.
                Slice::End => Slice::Gone { oldest: recent },
                records @ Slice::Records(_) => records,
            }));
        }
        let turn = self.turns.reading.clone().acquire_owned().await;
        let turn = turn.expect("turns are never closed");
        if let Some(fetched) = fetched {
            return (turn, fetched);
        }
        // Behind all that is ready, and behind what has come to sockets: a crowd of readers that are woken together
        // would otherwise have a slice each before any live client has its turn, or keep the disk's threads from who
        // stores.
        tokio::task::yield_now().await;
        let slice = match &self.store {
            Store::Memory(memory) | Store::Stream(Stream { recent: memory, .. }) => {
                Ok(memory.read(from, SLICE_BYTES))
            }
            Store::Disk(_) => {
                let slice = self.on_disk(move |log| log.read(from, SLICE_BYTES)).await;
                slice.map(Slice::shared)
            }
        };
        (turn, slice)
    }

    /// The first number of the newest that is asked for, of what is kept. Cancel safe.
    ///
    /// # Errors
    /// What is kept on disk cannot be read.
    pub(in crate::hub) async fn locate(self: Arc<History>, newest: Newest) -> io::Result<Seq> {
        match &self.store {
            Store::Memory(memory) => Ok(memory.locate(newest, now_ms())),
            Store::Stream(stream) => {
                let found = stream.recent.locate(newest, now_ms());
                if found <= stream.recent.extent().2 && found > Seq(1) {
                    stream.remote.clone().known().await;
                }
                // What is not the oldest there is all that was asked for.
                if found > stream.recent.extent().2 || !stream.has_older() {
                    return Ok(found);
                }
                let oldest = stream.remote.clone().locate(newest).await?;
                Ok(oldest.min(found))
            }
            Store::Disk(_) => {
                // However many come at once, a thread is left for who stores.
                let _turn = self.turns.reading.clone().acquire_owned().await;
                self.on_disk(move |log| log.locate(newest)).await
            }
        }
    }

    /// Does something where it may block.
    async fn on_disk<T: Send + 'static>(
        self: Arc<History>,
        read: impl FnOnce(&disk::Log) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let read = move || match &self.store {
            Store::Disk(log) => read(log),
            Store::Memory(_) | Store::Stream(_) => Err(io::ErrorKind::Unsupported.into()),
        };
        let read = tokio::task::spawn_blocking(read).await;
        read.unwrap_or_else(|panicked| Err(io::Error::other(panicked)))
    }

    /// The oldest number that is kept, or the next that will be.
    pub(in crate::hub) fn oldest(&self) -> Seq {
        match &self.store {
            Store::Memory(memory) => memory.extent().2,
            Store::Disk(log) => log.oldest(),
            Store::Stream(stream) => stream.oldest(),
        }
    }

    /// Removes what there is of it on disk. Nothing can be stored any more.
    ///
    /// # Errors
    /// The system's.
    pub(in crate::hub) fn remove(&self) -> io::Result<()> {
        match &self.store {
            Store::Memory(_) | Store::Stream(_) => Ok(()),
            Store::Disk(log) => log.remove(),
        }
    }

    /// The next number that is to be kept.
    pub(in crate::hub) fn next(&self) -> Seq {
        match &self.store {
            Store::Memory(memory) | Store::Stream(Stream { recent: memory, .. }) => memory.next(),
            Store::Disk(log) => log.next(),
        }
    }

    /// What is kept in memory; none of what is on disk.
    pub(in crate::hub) fn records(&self) -> Vec<Arc<Record>> {
        match &self.store {
            Store::Memory(memory) => memory.records(),
            Store::Disk(_) | Store::Stream(_) => Vec::new(),
        }
    }

    /// Whether nothing is kept.
    pub(in crate::hub) fn is_empty(&self) -> bool {
        match &self.store {
            Store::Memory(memory) => memory.extent().1 == 0,
            Store::Disk(log) => log.stats().messages == 0,
            // It is there without this daemon.
            Store::Stream(_) => true,
        }
    }

    /// Room for a slice to be kept between two polls, if there is any.
    pub(in crate::hub) fn try_keep(&self) -> Option<OwnedSemaphorePermit> {
        self.turns.kept.clone().try_acquire_owned().ok()
    }

    /// Counts a client that reads from it, for as long as what is returned lives.
    pub(in crate::hub) fn reader(self: &Arc<History>) -> Reader {
        self.readers.fetch_add(1, Relaxed);
        Reader(self.clone())
    }

    /// What is kept, in a channel of this epoch and next number.
    pub(in crate::hub) fn stats(&self, epoch: Epoch, next: Seq) -> HistoryStats {
        let (mut segments, mut sync_lag) = (0, Duration::ZERO);
        let (bytes, messages, oldest, oldest_ms) = match &self.store {
            Store::Memory(memory) => memory.extent(),
            Store::Stream(stream) => stream.extent(),
            Store::Disk(log) => {
                let stats = log.stats();
                (segments, sync_lag) = (stats.segments, stats.sync_lag);
                (
                    stats.bytes,
                    stats.messages,
                    stats.oldest,
                    stats.oldest_time_ms,
                )
            }
        };
        HistoryStats {
            epoch,
            bytes,
            bytes_max: self.retention().bytes,
            oldest,
            next,
            oldest_at: oldest_ms.map(|at| UNIX_EPOCH + Duration::from_millis(at)),
            messages,
            on_disk: self.is_on_disk(),
            segments,
            pending_bytes: 0,
            sync_lag,
            readers: self.readers.load(Relaxed),
            sessions: 0,
            error: self.failure.lock().clone(),
        }
    }
}

impl Stream {
    /// The oldest number that is kept.
    fn oldest(&self) -> Seq {
        let recent = self.recent.extent().2;
        let oldest = self.remote.extent().oldest;
        oldest.map_or(recent, |oldest| oldest.min(recent))
    }

    /// Whether more is kept than is in memory.
    fn has_older(&self) -> bool {
        self.oldest() < self.recent.extent().2
    }

    /// Messages that were published before the oldest that is kept, unless that is another by now.
    fn messages_before(&self, oldest: Seq) -> Option<u64> {
        let all = self.remote.extent();
        if all.oldest == Some(oldest) {
            return Some(all.messages_before);
        }
        let (_, messages, recent, _) = self.recent.extent();
        (recent == oldest).then(|| self.recent.published().saturating_sub(messages))
    }

    /// Keeps a record in memory, which is the next.
    pub(in crate::hub) fn push(&self, record: Arc<Record>, retention: Retention) {
        self.recent.push(record, recent(retention));
    }

    /// Bytes and messages that are kept, the oldest number that is, and when that was published.
    fn extent(&self) -> (u64, u64, Seq, Option<u64>) {
        let (bytes, messages, oldest, oldest_ms) = self.recent.extent();
        let all = self.remote.extent();
        let messages = match self.has_older() {
            true => self.recent.published().saturating_sub(all.messages_before),
            false => messages,
        };
        let oldest_ms = all.oldest_ms.filter(|_| self.has_older()).or(oldest_ms);
        (
            all.bytes.max(bytes),
            messages,
            self.oldest().min(oldest),
            oldest_ms,
        )
    }
}

/// What of that is in memory.
fn recent(retention: Retention) -> Retention {
    Retention {
        bytes: retention.bytes.min(RECENT_BYTES),
        ..retention
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
