//! An append that failed is taken back.

use std::sync::Arc;

use super::active::Active;
use super::error::HistoryError;
use super::group::Group;
use super::shared::Shared;
use super::totals::restore_sessions;
use super::writer::Writer;

impl Writer {
    /// Leaves the files and the writer as they were. If that fails as well, nothing more is written: what
    /// follows could not be told from what is left.
    pub(super) fn take_back(&mut self, shared: &Shared, group: Group) {
        self.staged.clear();
        self.totals = group.totals;
        restore_sessions(&mut self.sessions, group.sessions);
        self.active = group.active;
        if let Err(error) = take_back_files(group.is_written, group.begun, self, shared) {
            self.failed = Some(error.to_string());
        }
    }
}

fn take_back_files(
    is_written: bool,
    begun: Vec<Active>,
    writer: &mut Writer,
    shared: &Shared,
) -> Result<(), HistoryError> {
    let storage = &shared.files.storage;
    for new in begun.into_iter().rev() {
        let path = &new.segment.path;
        let is_in_place_of = |old: &Active| old.segment.path == *path;
        if writer.active.as_ref().is_some_and(is_in_place_of) {
            // The empty one that it replaced is gone: it is as good.
            storage.truncate(&new.file, path, new.segment.header_len)?;
            let mut kept = shared.kept.lock();
            writer.replace_empty(&mut kept, &new.segment);
            kept.file_bytes += new.segment.header_len;
            kept.segments.push_back(Arc::clone(&new.segment));
            drop(kept);
            writer.active = Some(new);
            return Ok(());
        }
        storage.remove(path)?;
        let unsynced = &mut writer.unsynced;
        unsynced.retain(|it| !Arc::ptr_eq(&it.segment, &new.segment));
    }
    match &mut writer.active {
        Some(active) if is_written => {
            active.len = active.end.at;
            storage.truncate(&active.file, &active.segment.path, active.end.at)
        }
        _ => Ok(()),
    }
}
