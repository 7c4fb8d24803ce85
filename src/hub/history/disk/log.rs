//! The history of one channel: written by one thread at a time, read by any number meanwhile.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;
use tracing::warn;

use super::shared::Shared;
use super::writer::Writer;
use crate::hub::history::kept::{Retention, Slice};
use crate::hub::history::record::Record;
use crate::wire::ids::{Epoch, Seq};
use crate::wire::past::Newest;

/// One channel's files. They are appended to, synced and removed by one thread at a time; readers never wait
/// for that.
#[derive(Debug)]
pub(crate) struct Log {
    pub(super) shared: Shared,
    /// Held by who writes, while it does.
    pub(super) writer: Mutex<Writer>,
    /// Somebody wrote when it was to be looked whether the files are still there.
    is_look_due: AtomicBool,
}

/// What is kept of a channel, for stats.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LogStats {
    pub(crate) epoch: Epoch,
    /// Bytes of all files.
    pub(crate) bytes: u64,
    pub(crate) segments: usize,
    /// The oldest number that is kept, and the next that will be given.
    pub(crate) oldest: Seq,
    pub(crate) next: Seq,
    /// When the oldest was published, in milliseconds since 1970; `None` while nothing is kept.
    pub(crate) oldest_time_ms: Option<u64>,
    /// Messages that are kept.
    pub(crate) messages: u64,
    /// Sessions that are known.
    pub(crate) sessions: usize,
    /// For how long the oldest of what was appended has waited to be synced; zero if all is.
    pub(crate) sync_lag: Duration,
}

impl Log {
    pub(super) fn new(shared: Shared, writer: Writer) -> Log {
        Log {
            shared,
            writer: Mutex::new(writer),
            is_look_due: AtomicBool::new(false),
        }
    }

    /// Appends consecutive records, the first of which goes on where the last append ended. A record without a
    /// number is not kept. Readers see all of them or, after an error, none; the files are then as before.
    /// With `always`, nobody is to get them before [`Log::sync`] has returned.
    ///
    /// # Errors
    /// The system's, of the kind it has them (a full disk, for one); and each time after a failed sync.
    pub(crate) fn append(&self, records: &[Arc<Record>], always: bool) -> io::Result<()> {
        let mut writer = self.writer.lock();
        if self.is_look_due.swap(false, Relaxed) {
            writer.verify(&self.shared)?;
        }
        writer.append(&self.shared, records, always)
    }

    /// Returns when all that was appended would survive the loss of power.
    ///
    /// # Errors
    /// The system's. What a failed sync has lost cannot be known, and a second one may say that all is well: after
    /// one, every append and sync fails.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.writer.lock().sync(&self.shared)
    }

    /// Removes the oldest segments until the files have at most `retention.bytes` bytes, and those whose last
    /// record is older than it says; never the one that is written to, whose size is a sixteenth of that, 64
    /// KiB at least and 64 MiB at most, or what one record takes if that is more. So many bytes are kept even
    /// if fewer were asked for.
    ///
    /// # Errors
    /// The system's: what could not be removed is still kept.
    pub(crate) fn retain(&self, retention: Retention) -> io::Result<()> {
        self.writer.lock().retain(&self.shared, retention)
    }

    /// The next append starts a segment of this epoch; it is the epoch of what is appended even if the daemon
    /// ends before. Of files that are gone, or another daemon's, nothing is gone on with, and nothing is written.
    ///
    /// # Errors
    /// The system's: then only if it does not end before.
    pub(crate) fn begin_epoch(&self, epoch: Epoch) -> io::Result<()> {
        let begun = self.writer.lock().begin_epoch(&self.shared, epoch);
        let files = &self.shared.files;
        let is_gone =
            || files.verify_lock().is_err() || matches!(files.folder.try_exists(), Ok(false));
        begun.or_else(|error| if is_gone() { Ok(()) } else { Err(error) })
    }

    /// Begins with this number in place of the first, in a channel that had so many messages before anything of
    /// it was kept: only while nothing has been appended.
    pub(crate) fn begin_at(&self, next: Seq, messages: u64) {
        self.writer.lock().begin_at(&self.shared, next, messages);
    }

    /// Begins the first segment, if there is none: a daemon that is killed before anything is appended leaves the
    /// epoch that it has told, and the number that comes first.
    ///
    /// # Errors
    /// The system's. The first append tries again.
    pub(crate) fn begin(&self, always: bool) -> io::Result<()> {
        self.writer.lock().begin(&self.shared, always)
    }

    /// Looks whether the files are still those of this daemon: once they are not, nothing can be written any more. Then
    /// sees to what is too old, as [`Log::retain`] does. Never waits for who writes: while somebody does, the next append
    /// looks first.
    ///
    /// # Errors
    /// The files are gone, or another daemon's, as was not known before.
    pub(crate) fn look_after(&self, retention: Retention) -> io::Result<()> {
        let Some(mut writer) = self.writer.try_lock() else {
            self.is_look_due.store(true, Relaxed);
            return Ok(());
        };
        writer.verify(&self.shared)?;
        if retention.age.is_some()
            && let Err(error) = writer.retain(&self.shared, retention)
        {
            warn!(%error, "cannot remove old history");
        }
        Ok(())
    }

    /// Removes all files of the channel. Who is reading keeps what it has; nothing can be appended any more.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn remove(&self) -> io::Result<()> {
        self.writer.lock().remove(&self.shared)
    }

    /// Records from the one that holds `from` on: one at least, more as long as they have at most `bytes_max`
    /// bytes together. Their lines share one buffer.
    ///
    /// # Errors
    /// The system's, and damage, with the file and the offset.
    pub(crate) fn read(&self, from: Seq, bytes_max: usize) -> io::Result<Slice<Record>> {
        self.shared.read(from, bytes_max)
    }

    /// The first number behind `from` that may be read when that cannot be: of the next segment, or the next to
    /// be given.
    pub(crate) fn behind(&self, from: Seq) -> Seq {
        let kept = self.shared.kept.lock();
        let mut firsts = kept.segments.iter().map(|it| it.header.first_seq);
        firsts.find(|first| *first > from).unwrap_or(kept.next)
    }

    /// The first number of the newest so many; the next number to be given if that is none of them. Of what is lost,
    /// or may not be read, a number from which on so many are missed.
    ///
    /// # Errors
    /// Those of [`Log::read`], where it may go well another time.
    pub(crate) fn locate(&self, newest: Newest) -> io::Result<Seq> {
        self.shared.locate(newest)
    }

    /// What is kept.
    pub(crate) fn stats(&self) -> LogStats {
        let kept = self.shared.kept.lock();
        let oldest = kept.segments.front();
        let mut times = kept.segments.iter().filter_map(|segment| segment.times());
        LogStats {
            epoch: kept.epoch,
            bytes: kept.file_bytes,
            segments: kept.segments.len(),
            oldest: kept.oldest(),
            next: kept.next,
            oldest_time_ms: times.next().map(|times| times.first_ms),
            messages: kept.messages - oldest.map_or(kept.messages, |it| it.header.messages_before),
            sessions: kept.sessions,
            sync_lag: kept
                .unsynced
                .map_or(Duration::ZERO, |since| since.elapsed()),
        }
    }

    /// Messages among the numbers from `from` to before `oldest`, as long as that is the oldest that is kept, where it is
    /// known: of all numbers there ever were before that, or where no notice ever had one.
    pub(crate) fn messages_gone(&self, from: Seq, oldest: Seq) -> Option<u64> {
        let kept = self.shared.kept.lock();
        let header = &kept.segments.front()?.header;
        let messages = header.messages_before;
        if header.first_seq != oldest {
            return None;
        }
        match oldest.0.checked_sub(from.0)? {
            _ if from == Seq(1) => Some(messages),
            gone => (messages == oldest.0 - 1).then_some(gone),
        }
    }

    /// The oldest number that is kept; the next to be given if none is.
    pub(crate) fn oldest(&self) -> Seq {
        self.shared.kept.lock().oldest()
    }

    /// The next number to be given.
    pub(crate) fn next(&self) -> Seq {
        self.shared.kept.lock().next
    }
}
