//! A channel's files as they are read without its lock, beside the daemon that writes them.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::chain::{Ended, is_torn};
use super::error::{Damage, HistoryError};
use super::folder::{channels_in, segments_in};
use super::header::{Header, NoHeader};
use super::index::Place;
use super::segment::{Segment, Times, Written, first_time};
use super::shared::{Files, Kept, Shared};
use super::storage::{self, Storage};
use super::window::{Found, Window};
use crate::hub::history::kept::Slice;
use crate::hub::history::record::Record;
use crate::wire::channel::ChannelName;
use crate::wire::ids::{Epoch, Seq};
use crate::wire::past::Newest;

/// Bytes that are read at once.
const STEP: usize = 1024 * 1024;

/// How often a folder is looked at anew whose files go while they are opened.
const TRIES_MAX: u32 = 10;

/// What has been appended to a channel by now.
#[derive(Debug)]
pub(crate) struct Archive {
    shared: Shared,
    /// The file of the last segment.
    last: Option<Arc<File>>,
    /// What stands behind the last record, if that is not the beginning of one.
    damage: Option<Damage>,
}

/// The folders with segments that a path stands for, by the names of their channels: itself, or those in it.
///
/// # Errors
/// The system's.
pub(crate) fn channels(path: &Path) -> Result<Vec<(String, PathBuf)>, HistoryError> {
    std::fs::read_dir(path).map_err(HistoryError::of("read", path))?;
    if !segments_in(path)?.is_empty() {
        let name = path.file_name().unwrap_or(path.as_os_str());
        return Ok(vec![(name.to_string_lossy().into_owned(), path.to_owned())]);
    }
    let channels = channels_in(path)?.into_iter();
    let folder = |name: ChannelName| (name.to_string(), path.join(name.as_str()));
    Ok(channels.map(folder).collect())
}

impl Archive {
    /// Opens what is in a folder.
    ///
    /// # Errors
    /// The system's, and damage.
    pub(crate) fn open(folder: &Path) -> Result<Archive, HistoryError> {
        for _ in 1..TRIES_MAX {
            match Archive::try_open(folder) {
                // It was removed as the oldest; the next look does not find it any more.
                Err(HistoryError::System { reason, .. })
                    if reason.kind() == io::ErrorKind::NotFound => {}
                opened => return opened,
            }
        }
        Archive::try_open(folder)
    }

    fn try_open(folder: &Path) -> Result<Archive, HistoryError> {
        let files = Files {
            storage: Storage::default(),
            folder: folder.to_owned(),
            directory: folder.to_owned(),
            lock: None,
        };
        let kept = Kept {
            segments: VecDeque::new(),
            file_bytes: 0,
            epoch: Epoch(0),
            next: Seq(1),
            messages: 0,
            bytes: 0,
            last_time_ms: 0,
            sessions: 0,
            unsynced: None,
        };
        let mut archive = Archive {
            shared: Shared {
                files,
                kept: Mutex::new(kept),
            },
            last: None,
            damage: None,
        };
        archive.push_all(segments_in(folder)?)?;
        archive.grow()?;
        Ok(archive)
    }

    /// Takes in what has been appended since.
    ///
    /// # Errors
    /// The system's, and damage.
    pub(crate) fn refresh(&mut self) -> Result<(), HistoryError> {
        self.grow()?;
        let kept = self.shared.kept.lock();
        let last = kept.segments.back().map(Arc::clone);
        drop(kept);
        let paths = segments_in(&self.shared.files.folder)?;
        let is_same = last.as_ref().is_some_and(|last| self.is_in_place(last));
        let newest = last.as_ref().map(|last| &last.path);
        match paths.iter().any(|path| Some(path) > newest) || !is_same {
            true if is_same => {
                let newer = paths.into_iter().filter(|path| Some(path) > newest);
                self.push_all(newer.collect())?;
                self.grow()
            }
            true => {
                *self = Archive::open(&self.shared.files.folder)?;
                Ok(())
            }
            false => Ok(()),
        }
    }

    /// Whether the last segment still has its name.
    fn is_in_place(&self, last: &Segment) -> bool {
        let held = self.last.as_ref().and_then(|file| file.metadata().ok());
        let named = std::fs::metadata(&last.path).ok();
        held.map(|held| held.ino()) == named.map(|named| named.ino())
    }

    /// Adds the next segments, but for a last one that the next start removes.
    fn push_all(&mut self, paths: Vec<PathBuf>) -> Result<(), HistoryError> {
        let count = paths.len();
        for (at, path) in paths.into_iter().enumerate() {
            let file = storage::open(&path)?;
            match Header::read(&file, &path) {
                Ok((header, header_len, _)) => self.push(path, file, header, header_len),
                Err(NoHeader::Bad(_))
                    if at + 1 == count && is_torn(&file, &path, Ended::Killed)? => {}
                Err(NoHeader::Bad(what)) => return Err(HistoryError::damaged(&path, 0, what)),
                Err(NoHeader::Refused(error)) => return Err(error),
            }
        }
        Ok(())
    }

    /// Adds the next segment: what came before it is complete.
    fn push(&mut self, path: PathBuf, file: File, header: Header, header_len: u64) {
        let file = Arc::new(file);
        let mut kept = self.shared.kept.lock();
        if let Some(before) = kept.segments.back() {
            let len = header
                .previous
                .map_or(before.end().at, |previous| previous.len);
            before.show(Written {
                segment: Arc::clone(before),
                end: Place::first(&header, len),
                times: Times::default(),
                entries: Vec::new(),
            });
            before.forget_index();
        }
        kept.epoch = header.epoch;
        kept.next = header.first_seq;
        (kept.messages, kept.bytes) = (header.messages_before, header.bytes_before);
        kept.last_time_ms = header.last_time_ms;
        let end = Place::first(&header, header_len);
        let times = first_time(&file, &header, header_len).map(|first_ms| Times {
            first_ms,
            ..Times::default()
        });
        let segment = Segment::new(path, header, header_len, &file, end, times, None);
        kept.segments.push_back(Arc::new(segment));
        drop(kept);
        self.last = Some(file);
    }

    /// Takes in what has been appended to the last segment.
    fn grow(&mut self) -> Result<(), HistoryError> {
        let last = self.shared.kept.lock().segments.back().map(Arc::clone);
        let (Some(segment), Some(file)) = (last, &self.last) else {
            return Ok(());
        };
        let failed = |error| HistoryError::of("read", &segment.path)(error);
        let len = file.metadata().map_err(failed)?.len();
        let mut end = segment.end();
        let mut window = Window::new(file, segment.header.salt, end.at, len, STEP);
        window.ends_in_zeros = segment.header.is_always;
        let mut last_time_ms = None;
        self.damage = None;
        loop {
            let bad = match window.head(end.seq).map_err(failed)? {
                Found::End => break,
                Found::Bad(bad) => bad,
                Found::Record(head) => match window.check(&head).map_err(failed)? {
                    Found::Record(()) => {
                        end = end.behind(&head);
                        last_time_ms = Some(head.time_ms);
                        continue;
                    }
                    Found::End => break,
                    Found::Bad(bad) => bad,
                },
            };
            // An end that the next start cuts off is none.
            let is_end = bad.is_unfinished
                || window.search(end.seq).map_err(failed)?.is_none()
                    && !window.is_marked().map_err(failed)?;
            if !is_end {
                self.damage = Some(Damage {
                    file: segment.path.clone(),
                    offset: end.at,
                    what: bad.what.to_owned(),
                });
            }
            break;
        }
        let Some(last_time_ms) = last_time_ms else {
            return Ok(());
        };
        let mut kept = self.shared.kept.lock();
        segment.show(Written {
            segment: Arc::clone(&segment),
            end,
            times: Times::default(),
            entries: Vec::new(),
        });
        // What the index has ends where the segment ended.
        segment.forget_index();
        kept.next = end.seq;
        (kept.messages, kept.bytes) = (end.messages, end.bytes);
        kept.last_time_ms = last_time_ms;
        Ok(())
    }

    /// Records from the one that holds `from` on, as [`Log::read`](super::Log::read).
    ///
    /// # Errors
    /// As there; a file that was removed meanwhile is found by [`Archive::refresh`].
    pub(crate) fn read(&self, from: Seq, bytes_max: usize) -> io::Result<Slice<Record>> {
        self.shared.read(from, bytes_max)
    }

    /// The first number of the newest so many, as [`Log::locate`](super::Log::locate).
    ///
    /// # Errors
    /// As there.
    pub(crate) fn locate(&self, newest: Newest) -> io::Result<Seq> {
        self.shared.locate(newest)
    }

    /// The number behind a place; `None` if it is not known to be one of this history.
    pub(crate) fn behind(&self, epoch: Epoch, seq: Seq) -> Option<Seq> {
        let next = Seq(seq.0.checked_add(1)?);
        let kept = self.shared.kept.lock();
        let of_epoch = |segment: &&Arc<Segment>| segment.header.epoch == epoch;
        let last = kept.segments.iter().rfind(of_epoch)?;
        let first = kept.segments.iter().find(of_epoch)?;
        let is_oldest = kept
            .segments
            .front()
            .is_some_and(|oldest| Arc::ptr_eq(oldest, first));
        let is_begun = is_oldest || first.header.first_seq <= next;
        (is_begun && next <= last.end().seq).then_some(next)
    }

    /// The oldest number that is kept.
    pub(crate) fn oldest(&self) -> Seq {
        self.shared.kept.lock().oldest()
    }

    /// What stands behind the last record, if that is not the beginning of one.
    pub(crate) fn damage(&self) -> Option<&Damage> {
        self.damage.as_ref()
    }
}
