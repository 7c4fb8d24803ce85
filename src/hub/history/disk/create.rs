//! Files that are new: segments, and the note of an epoch that is to begin.

use std::fs::File;
use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;

use super::error::HistoryError;
use super::header::Header;
use super::index::{Index, Place};
use super::segment::{Segment, file_name};
use super::shared::Files;
use crate::wire::ids::Epoch;

/// File of a folder that says which epoch begins with the next segment; an empty one, that it is any other.
pub(super) const NEXT_EPOCH: &str = "next-epoch";

/// Writes down which epoch begins with the next segment.
pub(super) fn write_next_epoch(files: &Files, epoch: Epoch) -> Result<(), HistoryError> {
    let storage = &files.storage;
    let path = files.folder.join(NEXT_EPOCH);
    let new = files.folder.join("next-epoch.new");
    let file = storage.create(&new)?;
    let text = format!("{epoch}\n");
    storage.write_at(&file, &new, &mut [IoSlice::new(text.as_bytes())], 0)?;
    storage.sync(&file, &new)?;
    storage.rename(&new, &path)?;
    storage.sync_folder(&files.folder)
}

/// Writes down that an epoch begins with the next segment, but not which: for that, even a full disk has room.
pub(super) fn mark_next_epoch(files: &Files) -> Result<(), HistoryError> {
    let storage = &files.storage;
    let path = files.folder.join(NEXT_EPOCH);
    let file = storage.create(&path)?;
    storage.sync(&file, &path)?;
    storage.sync_folder(&files.folder)
}

/// Creates a segment. It has its name once its header is written: a crash leaves no half of one.
pub(super) fn create_segment(
    files: &Files,
    header: Header,
) -> Result<(Arc<Segment>, Arc<File>), HistoryError> {
    let storage = &files.storage;
    let path = files.folder.join(file_name(header.first_seq));
    let new = path.with_extension("new");
    let written = write_header(files, &header, &new, &path);
    let (file, len) = written.inspect_err(|_| {
        // It is not taken for a segment; the next of its name replaces it.
        let _ = storage.remove(&new);
    })?;
    let end = Place::first(&header, len);
    let index = Some(Index::default());
    let segment = Segment::new(path, header, len, &file, end, None, index);
    Ok((Arc::new(segment), file))
}

fn write_header(
    files: &Files,
    header: &Header,
    new: &Path,
    path: &Path,
) -> Result<(Arc<File>, u64), HistoryError> {
    let storage = &files.storage;
    let too_large = || HistoryError::of("write to", new)(io::ErrorKind::FileTooLarge.into());
    let bytes = header.write().ok_or_else(too_large)?;
    let file = storage.create(new)?;
    storage.write_at(&file, new, &mut [IoSlice::new(&bytes)], 0)?;
    if header.is_always {
        // The name may reach the disk before what is written.
        storage.sync(&file, new)?;
    }
    storage.rename(new, path)?;
    Ok((file, bytes.len() as u64))
}

/// A random number.
pub(super) fn draw() -> Result<u64, HistoryError> {
    let mut bytes = [0; 8];
    let random = Path::new("/dev/urandom");
    getrandom::fill(&mut bytes)
        .map_err(|error| HistoryError::of("read", random)(io::Error::other(error.to_string())))?;
    Ok(u64::from_ne_bytes(bytes))
}
