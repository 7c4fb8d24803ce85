//! What a channel's files are taken up with: the last segment is read whole, the others are checked to follow
//! each other.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;

use super::active::{Active, Unsynced};
use super::chain::{self, Chain, Ended, Opened};
use super::create::{NEXT_EPOCH, write_next_epoch};
use super::error::{Cut, HistoryError};
use super::folder::{half_made_in, segments_in};
use super::group::Staged;
use super::index::{Index, Place};
use super::log::Log;
use super::scan::scan;
use super::segment::{Segment, Times, first_time};
use super::shared::{Files, Kept, Shared};
use super::storage;
use super::totals::{Sessions, Totals};
use super::window::has_hole;
use super::writer::Writer;
use crate::hub::epoch::epoch_after;
use crate::hub::history::kept::Retention;
use crate::wire::ids::{Epoch, Seq};
use crate::wire::session::SessionKey;

/// What was found of a channel.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub(crate) epoch: Epoch,
    pub(crate) next_seq: Seq,
    /// Messages ever, in all epochs.
    pub(crate) messages: u64,
    /// Above every client's that is named in the records.
    pub(crate) next_id: u64,
    /// When the last record was published, in milliseconds since 1970; 0 if there was none.
    pub(crate) last_time_ms: u64,
    /// Sessions, what was published in each, and the last number of that.
    pub(crate) sessions: Vec<(SessionKey, u64, Seq)>,
    /// What a crash had left unfinished and was cut off.
    pub(crate) cut: Option<Cut>,
    /// No client knows the epoch: there was no history, or numbers of the last one may be given again.
    pub(crate) is_new_epoch: bool,
}

/// Takes up a channel's files; makes none if there are none.
pub(super) fn open(
    files: Files,
    retention: Retention,
    if_new: Epoch,
    ended: Ended,
) -> Result<(Log, Recovered), HistoryError> {
    remove_half_made(&files)?;
    let paths = segments_in(&files.folder)?;
    let Chain {
        mut segments,
        mut cut,
        to_remove,
    } = chain::open(&paths, ended)?;
    let mut is_lost = cut.is_some();
    let Some(last) = segments.pop() else {
        remove_newest_first(&files, &to_remove)?;
        return Ok(fresh(files, retention, if_new, cut));
    };
    let scanned = scan(&last)?;
    if let Some((bad, follows)) = scanned.bad {
        let Place { at, .. } = scanned.end;
        if let Some((follows, _)) = follows.filter(|_| ended != Ended::Down) {
            let what = format!("{}, and records follow at byte {follows}", bad.what);
            return Err(HistoryError::damaged(&last.path, at, what));
        }
        is_lost |= match ended {
            Ended::Clean => true,
            Ended::Killed => !bad.is_unfinished,
            // What was not synced was shown to nobody with `always`.
            Ended::Down => match follows {
                Some((found, _)) => !has_hole(&last.file, at, found)
                    .map_err(HistoryError::of("read", &last.path))?,
                None => false,
            },
        };
        let earlier = last.len - at;
        cut = Some(Cut {
            file: last.path.clone(),
            offset: at,
            bytes: earlier + cut.map_or(0, |cut| cut.bytes),
        });
    }
    is_lost |= ended == Ended::Down && !last.header.is_always;
    let mut totals = scanned.totals;
    let begun = next_epoch(&files, last.header.epoch)?.filter(|epoch| *epoch != last.header.epoch);
    if is_lost {
        totals.epoch = epoch_after(last.header.epoch);
        // Before anything is cut off: what is left then looks whole.
        write_next_epoch(&files, totals.epoch)?;
    } else if let Some(epoch) = begun {
        totals.epoch = epoch;
    }
    remove_newest_first(&files, &to_remove)?;
    for earlier in segments.iter().filter(|_| ended == Ended::Down) {
        // A truncation that the disk had not heard of.
        let found = earlier.file.metadata();
        let found = found.map_err(HistoryError::of("read", &earlier.path))?;
        if found.len() > earlier.len {
            let Opened { file, path, .. } = earlier;
            files.storage.truncate(file, path, earlier.len)?;
        }
    }
    if scanned.end.at < last.len {
        files
            .storage
            .truncate(&last.file, &last.path, scanned.end.at)?;
    }
    let oldest = segments.first().unwrap_or(&last).header.first_seq;
    let mut sessions = scanned.sessions;
    sessions.retain(|_, it| it.last >= oldest);
    let recovered = Recovered {
        epoch: totals.epoch,
        next_seq: totals.next,
        messages: totals.messages,
        next_id: totals.next_id,
        last_time_ms: totals.last_time_ms,
        sessions: sessions
            .iter()
            .map(|(name, it)| (name.clone(), it.taken, it.last))
            .collect(),
        cut,
        is_new_epoch: is_lost,
    };
    let is_synced = ended == Ended::Clean && recovered.cut.is_none();
    let clocks = Clocks::read(&files);
    let (kept, active) = keep(
        &clocks,
        segments,
        (last, scanned.end, scanned.index),
        totals.last_time_ms,
    );
    let unsynced = kept.iter().filter(|_| !is_synced).map(|segment| Unsynced {
        segment: Arc::clone(segment),
        file: None,
    });
    let writer = Writer {
        totals,
        retention,
        begins_epoch: is_lost || begun.is_some(),
        unsynced: unsynced.collect(),
        is_folder_unsynced: !is_synced,
        failed: None,
        is_gone: false,
        staged: Staged::default(),
        active: Some(active),
        sessions,
    };
    let is_always = writer
        .active
        .as_ref()
        .is_some_and(|it| it.segment.header.is_always);
    let log = log_of(files, kept, writer);
    if is_always && !is_synced {
        // It was not to be seen before it is.
        log.writer.lock().sync_recovered(&log.shared)?;
    }
    Ok((log, recovered))
}

/// A channel without history.
fn fresh(files: Files, retention: Retention, epoch: Epoch, cut: Option<Cut>) -> (Log, Recovered) {
    let totals = Totals {
        epoch,
        next: Seq(1),
        messages: 0,
        bytes: 0,
        next_id: 1,
        last_time_ms: 0,
    };
    let writer = Writer {
        totals,
        sessions: Sessions::new(),
        retention,
        active: None,
        begins_epoch: false,
        unsynced: Vec::new(),
        is_folder_unsynced: false,
        failed: None,
        is_gone: false,
        staged: Staged::default(),
    };
    let recovered = Recovered {
        epoch,
        next_seq: totals.next,
        messages: 0,
        next_id: totals.next_id,
        last_time_ms: 0,
        sessions: Vec::new(),
        cut,
        is_new_epoch: true,
    };
    (log_of(files, VecDeque::new(), writer), recovered)
}

fn log_of(files: Files, segments: VecDeque<Arc<Segment>>, writer: Writer) -> Log {
    let totals = &writer.totals;
    let shared = Shared {
        files,
        kept: Mutex::new(Kept {
            file_bytes: segments.iter().map(|segment| segment.end().at).sum(),
            segments,
            epoch: totals.epoch,
            next: totals.next,
            messages: totals.messages,
            bytes: totals.bytes,
            last_time_ms: totals.last_time_ms,
            sessions: writer.sessions.len(),
            unsynced: None,
        }),
    };
    Log::new(shared, writer)
}

/// Removes what a crash has left half made.
fn remove_half_made(files: &Files) -> Result<(), HistoryError> {
    let mut half_made = half_made_in(&files.folder)?.into_iter();
    half_made.try_for_each(|path| files.storage.remove(&path))
}

/// The epoch that begins with the next segment, if one does; `last` is that of the last.
fn next_epoch(files: &Files, last: Epoch) -> Result<Option<Epoch>, HistoryError> {
    let path = files.folder.join(NEXT_EPOCH);
    match storage::read_text(&path)? {
        None => Ok(None),
        Some(text) if text.is_empty() => Ok(Some(epoch_after(last))),
        Some(text) => match u32::from_str_radix(text.trim_end(), 16) {
            Ok(epoch) => Ok(Some(Epoch(epoch))),
            Err(_) => Err(HistoryError::damaged(&path, 0, "this is no epoch")),
        },
    }
}

/// If it ends in between, what is left is the beginning.
fn remove_newest_first(files: &Files, to_remove: &[PathBuf]) -> Result<(), HistoryError> {
    let mut newest_first = to_remove.iter().rev();
    newest_first.try_for_each(|path| files.storage.remove(path))
}

/// Both clocks at one moment.
struct Clocks {
    boot_ms: i64,
    wall_ms: u64,
}

impl Clocks {
    fn read(files: &Files) -> Clocks {
        Clocks {
            boot_ms: files.storage.boot_ms(),
            wall_ms: files.storage.wall_ms(),
        }
    }

    /// The steady clock at a time of the wall clock, which is not in the future.
    fn boot_at(&self, wall_ms: u64) -> i64 {
        let age = i64::try_from(self.wall_ms.saturating_sub(wall_ms));
        self.boot_ms.saturating_sub(age.unwrap_or(i64::MAX))
    }
}

/// The segments as readers see them, and the last as it is written to.
fn keep(
    clocks: &Clocks,
    earlier: Vec<Opened>,
    (last, end, index): (Opened, Place, Index),
    last_time_ms: u64,
) -> (VecDeque<Arc<Segment>>, Active) {
    let mut kept = VecDeque::with_capacity(earlier.len() + 1);
    let mut earlier = earlier.into_iter().peekable();
    while let Some(opened) = earlier.next() {
        let next = &earlier.peek().unwrap_or(&last).header;
        let last_time_ms = next.last_time_ms;
        let end = Place::first(next, opened.len);
        kept.push_back(Arc::new(segment_of(
            clocks,
            opened,
            end,
            last_time_ms,
            None,
        )));
    }
    let begun_boot_ms = clocks.boot_at(last.header.created_ms);
    let file = Arc::clone(&last.file);
    let segment = Arc::new(segment_of(clocks, last, end, last_time_ms, Some(index)));
    kept.push_back(Arc::clone(&segment));
    let active = Active {
        segment,
        file,
        end,
        len: end.at,
        begun_boot_ms,
    };
    (kept, active)
}

fn segment_of(
    clocks: &Clocks,
    opened: Opened,
    end: Place,
    last_time_ms: u64,
    index: Option<Index>,
) -> Segment {
    let Opened {
        path,
        file,
        header,
        header_len,
        ..
    } = opened;
    let times = (end.at > header_len).then(|| Times {
        first_ms: first_time(&file, &header, header_len).unwrap_or(header.last_time_ms),
        last_boot_ms: clocks.boot_at(last_time_ms),
    });
    Segment::new(path, header, header_len, &file, end, times, index)
}
