//! What is in the directory and in a channel's folder, by names.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::error::HistoryError;
use super::segment::first_of;
use crate::wire::channel::ChannelName;

/// What is in a folder; nothing if there is none.
pub(super) fn list(folder: &Path) -> Result<Vec<PathBuf>, HistoryError> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(HistoryError::of("read", folder))?,
    };
    let paths = entries.map(|entry| Ok(entry?.path()));
    let paths: io::Result<Vec<PathBuf>> = paths.collect();
    paths.map_err(HistoryError::of("read", folder))
}

/// The segments in a folder, by their names in order.
pub(super) fn segments_in(folder: &Path) -> Result<Vec<PathBuf>, HistoryError> {
    let mut segments = list(folder)?;
    segments.retain(|path| first_of(path).is_some());
    segments.sort();
    Ok(segments)
}

/// Files in a folder that a crash has left half made, or that are being made.
pub(super) fn half_made_in(folder: &Path) -> Result<Vec<PathBuf>, HistoryError> {
    let mut paths = list(folder)?;
    paths.retain(|path| path.extension().is_some_and(|kind| kind == "new"));
    Ok(paths)
}

/// Channels that have a folder with segments in this directory, in order.
pub(super) fn channels_in(directory: &Path) -> Result<Vec<ChannelName>, HistoryError> {
    let mut channels = Vec::new();
    for path in list(directory)? {
        let name = path.file_name().and_then(|name| name.to_str());
        let Some(Ok(name)) = name.map(str::parse) else {
            continue;
        };
        if path.is_dir() && !segments_in(&path)?.is_empty() {
            channels.push(name);
        }
    }
    channels.sort();
    Ok(channels)
}
