//! The segment that is written to, and those of which the disk may not have all.

use std::fs::File;
use std::sync::Arc;

use super::index::Place;
use super::segment::Segment;

/// Files that are kept open until they are synced, so that the system tells of all that went wrong with them;
/// with `os`, nobody may ever ask.
const UNSYNCED_FILES_MAX: usize = 64;

/// The segment that is written to.
#[derive(Clone, Debug)]
pub(super) struct Active {
    pub(super) segment: Arc<Segment>,
    pub(super) file: Arc<File>,
    /// Where the next record goes.
    pub(super) end: Place,
    /// Length of the file, at most: behind the last record, it has zeros.
    pub(super) len: u64,
    /// When it was begun, by the clock that goes on steadily.
    pub(super) begun_boot_ms: i64,
}

/// A segment of which something may not have reached the disk.
#[derive(Debug)]
pub(super) struct Unsynced {
    pub(super) segment: Arc<Segment>,
    pub(super) file: Option<Arc<File>>,
}

/// Something of the segment is about to be written.
pub(super) fn note_unsynced(unsynced: &mut Vec<Unsynced>, active: &Active) {
    if unsynced
        .last()
        .is_some_and(|last| Arc::ptr_eq(&last.segment, &active.segment))
    {
        return;
    }
    if let Some(oldest) = unsynced.len().checked_sub(UNSYNCED_FILES_MAX) {
        unsynced[oldest].file = None;
    }
    unsynced.push(Unsynced {
        segment: Arc::clone(&active.segment),
        file: Some(Arc::clone(&active.file)),
    });
}
