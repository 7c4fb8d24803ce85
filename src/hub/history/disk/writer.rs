//! The side of a log that writes.

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::Instant;

use super::active::{Active, Unsynced, note_unsynced};
use super::codec::{self, Salt};
use super::create::{NEXT_EPOCH, create_segment, draw, mark_next_epoch, write_next_epoch};
use super::error::HistoryError;
use super::group::{Group, Staged};
use super::header::{Header, Previous};
use super::in_place::verify_in_place;
use super::segment::Segment;
use super::shared::{Files, Kept, Shared};
use super::storage::millis;
use super::totals::{Sessions, Totals};
use crate::hub::history::kept::Retention;
use crate::hub::history::record::Record;
use crate::wire::ids::{Epoch, Seq};

/// A segment is this part of what is kept, in bytes and age: so exact is retention.
const SEGMENTS: u32 = 16;

/// Bounds of a segment's size: small ones cost a file each, large ones are slow to recover.
const SEGMENT_BYTES_MIN: u64 = 64 * 1024;
const SEGMENT_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Zeros that are written behind a record which is to be synced, for those that come: a sync of what has its place
/// on the disk already does not wait for the file system's journal.
static ZEROS: [u8; 256 * 1024] = [0; 256 * 1024];

/// What only the one who writes needs.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) totals: Totals,
    pub(super) sessions: Sessions,
    pub(super) retention: Retention,
    /// The segment that is written to; none before the first append.
    pub(super) active: Option<Active>,
    /// The next append begins a segment, of the epoch that the totals have.
    pub(super) begins_epoch: bool,
    /// What has been written and not synced, in its order.
    pub(super) unsynced: Vec<Unsynced>,
    /// A name in the folder, or that of the folder, has not been synced.
    pub(super) is_folder_unsynced: bool,
    /// Why nothing can be written any more.
    pub(super) failed: Option<String>,
    /// That is since the files are gone, or another daemon's: none may be removed.
    pub(super) is_gone: bool,
    /// Kept to be used again.
    pub(super) staged: Staged,
}

impl Writer {
    /// See [`Log::append`].
    pub(super) fn append(
        &mut self,
        shared: &Shared,
        records: &[Arc<Record>],
        always: bool,
    ) -> io::Result<()> {
        self.check()?;
        let first = records.iter().find(|record| has_numbers(record));
        let Some(first) = first else {
            return Ok(());
        };
        if first.first_seq != self.totals.next {
            let [got, next] = [first.first_seq, self.totals.next];
            let wrong = format!("a record of number {got} cannot follow where {next} is next");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, wrong));
        }
        self.grouped(shared, |writer, group| {
            writer.write(shared, records, always, group)
        })
    }

    /// See [`Log::begin`].
    pub(super) fn begin(&mut self, shared: &Shared, always: bool) -> io::Result<()> {
        if self.active.is_some() {
            return Ok(());
        }
        self.grouped(shared, |writer, group| {
            writer.begin_segment(shared, always, group)
        })
    }

    /// Changes the files, and shows what has come of it, or takes it back.
    pub(super) fn grouped(
        &mut self,
        shared: &Shared,
        change: impl FnOnce(&mut Writer, &mut Group) -> Result<(), HistoryError>,
    ) -> io::Result<()> {
        let mut group = Group::begin(self.totals, self.active.clone());
        match change(self, &mut group) {
            Ok(()) => {
                self.show(shared, group);
                Ok(())
            }
            Err(error) => {
                self.take_back(shared, group);
                Err(error.into())
            }
        }
    }

    fn write(
        &mut self,
        shared: &Shared,
        records: &[Arc<Record>],
        always: bool,
        group: &mut Group,
    ) -> Result<(), HistoryError> {
        if self.needs_segment(shared, always) {
            self.begin_segment(shared, always, group)?;
        }
        let mut records = records.iter().filter(|record| has_numbers(record));
        let mut next = records.next();
        while let Some(record) = next {
            let Some(active) = &self.active else {
                break;
            };
            let salt = active.segment.header.salt;
            let end = active.end.at + self.staged.len();
            let is_empty = end == active.segment.header_len;
            let path = active.segment.path.clone();
            let mark = self.staged.mark();
            let head = self.staged.add(record, salt);
            let head = head.map_err(|codec::TooLarge| HistoryError::System {
                tried: "write to",
                file: path,
                reason: io::ErrorKind::FileTooLarge.into(),
            })?;
            if end + head.record_len() > self.segment_bytes() && !is_empty {
                self.staged.back_to(mark);
                self.flush(shared, group)?;
                self.begin_segment(shared, always, group)?;
                continue;
            }
            group.add(record, &head, active, &mut self.totals, &mut self.sessions);
            next = records.next();
        }
        self.flush(shared, group)
    }

    /// Writes what is staged.
    fn flush(&mut self, shared: &Shared, group: &mut Group) -> Result<(), HistoryError> {
        let segment_bytes = self.segment_bytes();
        let Some(active) = &mut self.active else {
            return Ok(());
        };
        if self.staged.len() == 0 {
            return Ok(());
        }
        group.touches(active);
        note_unsynced(&mut self.unsynced, active);
        let path = &active.segment.path;
        let end = active.end.at + self.staged.len();
        let mut slices = self.staged.slices();
        let zeros = match active.segment.header.is_always && end > active.len {
            true => {
                let room = segment_bytes.saturating_sub(end) as usize;
                let more = ZEROS.len().saturating_sub(self.staged.len() as usize);
                more.min(room)
            }
            false => 0,
        };
        slices.push(IoSlice::new(&ZEROS[..zeros]));
        let written = shared
            .files
            .storage
            .write_at(&active.file, path, &mut slices, active.end.at);
        drop(slices);
        self.staged.clear();
        written?;
        active.len = active.len.max(end + zeros as u64);
        active.end = group.end_run(active, shared.files.storage.boot_ms());
        Ok(())
    }

    /// Whether what comes cannot go to the segment that there is.
    fn needs_segment(&self, shared: &Shared, always: bool) -> bool {
        let Some(active) = &self.active else {
            return true;
        };
        let is_empty = active.end.at == active.segment.header_len;
        let age = shared.files.storage.boot_ms() - active.begun_boot_ms;
        let is_old = self
            .retention
            .age
            .is_some_and(|max| age >= millis(max / SEGMENTS));
        let is_full = active.end.at >= self.segment_bytes();
        self.begins_epoch
            || active.segment.header.is_always != always
            || (!is_empty && (is_old || is_full))
    }

    fn segment_bytes(&self) -> u64 {
        let part = self.retention.bytes / u64::from(SEGMENTS);
        part.clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX)
    }

    /// Goes on in a new file. One that is empty gives it its place.
    pub(super) fn begin_segment(
        &mut self,
        shared: &Shared,
        always: bool,
        group: &mut Group,
    ) -> Result<(), HistoryError> {
        self.verify(shared)?;
        if let Some(active) = &mut self.active
            && active.len > active.end.at
        {
            note_unsynced(&mut self.unsynced, active);
            let path = &active.segment.path;
            let storage = &shared.files.storage;
            storage.truncate(&active.file, path, active.end.at)?;
            active.len = active.end.at;
        }
        if always && !self.unsynced.is_empty() {
            // A segment of `always` says that nothing before it can be lost.
            self.sync_or_fail(&shared.files)?;
        }
        let oldest = shared.kept.lock().oldest();
        // A session is kept as long as its lines.
        let is_kept = |last| last >= oldest;
        let sessions = self.sessions.iter().filter(|(_, it)| is_kept(it.last));
        let header = Header {
            epoch: self.totals.epoch,
            is_always: always,
            salt: Salt(draw()?),
            first_seq: self.totals.next,
            messages_before: self.totals.messages,
            bytes_before: self.totals.bytes,
            next_id: self.totals.next_id,
            last_time_ms: self.totals.last_time_ms,
            created_ms: shared.files.storage.wall_ms(),
            previous: self.previous(),
            sessions: sessions.map(|(name, it)| (name.clone(), *it)).collect(),
        };
        let storage = &shared.files.storage;
        if !shared.files.folder.is_dir() {
            storage.create_folder(&shared.files.folder)?;
        }
        let (segment, file) = create_segment(&shared.files, header)?;
        self.is_folder_unsynced = true;
        let active = Active {
            end: segment.end(),
            len: segment.header_len,
            segment,
            file,
            begun_boot_ms: storage.boot_ms(),
        };
        note_unsynced(&mut self.unsynced, &active);
        group.begins(&active);
        self.active = Some(active);
        Ok(())
    }

    /// What the next segment follows: the one that is written to, or what that follows if it is empty.
    fn previous(&self) -> Option<Previous> {
        let active = self.active.as_ref()?;
        if active.end.at == active.segment.header_len {
            return active.segment.header.previous;
        }
        Some(Previous {
            first_seq: active.segment.header.first_seq,
            len: active.end.at,
        })
    }

    /// Lets readers see what was written.
    pub(super) fn show(&mut self, shared: &Shared, group: Group) {
        let had_epoch = std::mem::take(&mut self.begins_epoch);
        let mut kept = shared.kept.lock();
        for Active { segment, .. } in group.begun {
            self.replace_empty(&mut kept, &segment);
            kept.file_bytes += segment.header_len;
            kept.segments.push_back(segment);
        }
        for written in group.written {
            let segment = Arc::clone(&written.segment);
            kept.file_bytes += written.end.at - segment.end().at;
            segment.show(written);
        }
        kept.epoch = self.totals.epoch;
        kept.next = self.totals.next;
        kept.messages = self.totals.messages;
        kept.bytes = self.totals.bytes;
        kept.last_time_ms = self.totals.last_time_ms;
        kept.sessions = self.sessions.len();
        kept.unsynced.get_or_insert_with(Instant::now);
        drop(kept);
        if had_epoch {
            // A segment has it now. If the file stays, it says what is so already.
            let _ = shared
                .files
                .storage
                .remove(&shared.files.folder.join(NEXT_EPOCH));
        }
    }

    /// Forgets the last segment if it is empty: the new one has its name.
    pub(super) fn replace_empty(&mut self, kept: &mut Kept, new: &Arc<Segment>) {
        if let Some(last) = kept.segments.back()
            && last.path == new.path
        {
            self.unsynced.retain(|it| !Arc::ptr_eq(&it.segment, last));
            kept.file_bytes -= last.end().at;
            kept.segments.pop_back();
        }
    }

    /// See [`Log::sync`].
    pub(super) fn sync(&mut self, shared: &Shared) -> io::Result<()> {
        self.check()?;
        self.sync_or_fail(&shared.files)?;
        shared.kept.lock().unsynced = None;
        Ok(())
    }

    /// Syncs what a daemon has left that was killed.
    pub(super) fn sync_recovered(&mut self, shared: &Shared) -> Result<(), HistoryError> {
        self.sync_all(&shared.files)
    }

    fn sync_or_fail(&mut self, files: &Files) -> Result<(), HistoryError> {
        self.sync_all(files).inspect_err(|error| {
            self.failed = Some(error.to_string());
        })
    }

    fn sync_all(&mut self, files: &Files) -> Result<(), HistoryError> {
        for unsynced in &self.unsynced {
            let path = &unsynced.segment.path;
            let file = match &unsynced.file {
                Some(file) => Arc::clone(file),
                None => unsynced
                    .segment
                    .file()
                    .map_err(HistoryError::of("sync", path))?,
            };
            files.storage.sync(&file, path)?;
        }
        if self.is_folder_unsynced {
            files.storage.sync_folder(&files.folder)?;
            files.storage.sync_folder(&files.directory)?;
        }
        self.unsynced.clear();
        self.is_folder_unsynced = false;
        Ok(())
    }

    /// See [`Log::begin_epoch`].
    pub(super) fn begin_epoch(&mut self, shared: &Shared, epoch: Epoch) -> io::Result<()> {
        self.totals.epoch = epoch;
        self.begins_epoch = true;
        shared.kept.lock().epoch = epoch;
        if self.active.is_none() {
            return Ok(());
        }
        shared.files.verify_lock()?;
        let written = write_next_epoch(&shared.files, epoch);
        Ok(written.or_else(|error| mark_next_epoch(&shared.files).map_err(|_| error))?)
    }

    /// See [`Log::begin_at`].
    pub(super) fn begin_at(&mut self, shared: &Shared, next: Seq, messages: u64) {
        (self.totals.next, self.totals.messages) = (next, messages);
        let mut kept = shared.kept.lock();
        (kept.next, kept.messages) = (next, messages);
    }

    /// See [`Log::verify`].
    pub(super) fn verify(&mut self, shared: &Shared) -> Result<(), HistoryError> {
        if self.failed.is_some() {
            return Ok(());
        }
        let lock = shared.files.verify_lock();
        let verified = lock.and_then(|()| match &self.active {
            Some(active) => verify_in_place(&*active.file, &active.segment.path),
            None => Ok(()),
        });
        verified.inspect_err(|error| {
            self.failed = Some(error.to_string());
            self.is_gone = true;
        })
    }

    /// See [`Log::remove`].
    pub(super) fn remove(&mut self, shared: &Shared) -> io::Result<()> {
        shared.files.verify_lock()?;
        self.failed = Some("the history was removed".to_owned());
        self.active = None;
        self.unsynced.clear();
        let mut kept = shared.kept.lock();
        let segments = std::mem::take(&mut kept.segments);
        kept.file_bytes = 0;
        drop(kept);
        for segment in segments {
            shared.files.storage.remove(&segment.path)?;
        }
        shared
            .files
            .storage
            .remove(&shared.files.folder.join(NEXT_EPOCH))?;
        match std::fs::remove_dir(&shared.files.folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(HistoryError::of("remove", &shared.files.folder)(error).into())
            }
            _ => Ok(()),
        }
    }

    fn check(&self) -> io::Result<()> {
        match &self.failed {
            // Of no kind that would be tried again: a full disk that has room again changes nothing here.
            Some(why) => Err(io::Error::other(why.clone())),
            None => Ok(()),
        }
    }
}

fn has_numbers(record: &Record) -> bool {
    record.next_seq() > record.first_seq
}
