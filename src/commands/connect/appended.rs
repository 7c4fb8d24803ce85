//! Standard output, where it is a file that is appended to: how long it is, and what is cut off it.

use std::io;
use std::os::fd::AsFd;

use rustix::fs::{FileType, FlockOperation, OFlags, fcntl_getfl, flock, fstat, ftruncate};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

/// A regular file that is opened for append, and how long it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AppendedFile {
    device: u64,
    inode: u64,
    bytes: u64,
}

impl AppendedFile {
    /// The output, if it is such a file.
    pub(super) fn of(output: impl AsFd) -> Option<AppendedFile> {
        let stat = fstat(&output).ok()?;
        let appends = fcntl_getfl(&output).is_ok_and(|flags| flags.contains(OFlags::APPEND));
        let bytes = u64::try_from(stat.st_size).ok()?;
        (appends && is_regular(stat.st_mode)).then_some(AppendedFile {
            device: stat.st_dev,
            inode: stat.st_ino,
            bytes,
        })
    }

    fn is_same(&self, other: &AppendedFile) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }
}

fn is_regular(mode: u32) -> bool {
    FileType::from_raw_mode(mode).is_file()
}

/// Locks a file against other processes.
///
/// # Errors
/// Of kind `WouldBlock`, if another one has it.
pub(super) fn try_lock(file: impl AsFd) -> io::Result<()> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => Err(io::ErrorKind::WouldBlock.into()),
        // A file system without locks has none to respect.
        _ => Ok(()),
    }
}

/// Locks the output, if it is a file that is appended to: what another command appends would be cut off.
///
/// # Errors
/// Another one has locked it.
pub(super) fn lock(output: impl AsFd) -> Result<(), &'static str> {
    match AppendedFile::of(&output).map(|_| try_lock(&output)) {
        Some(Err(_)) => Err("another process appends to standard output"),
        _ => Ok(()),
    }
}

/// Cuts off the output what comes behind what is recorded of it. Returns what a person should know.
///
/// # Errors
/// It cannot be cut.
pub(super) fn cut(
    output: impl AsFd,
    recorded: Option<AppendedFile>,
) -> Result<Option<String>, String> {
    let Some(found) = AppendedFile::of(&output) else {
        let is_file = fstat(&output).is_ok_and(|stat| is_regular(stat.st_mode));
        let warning = "standard output is a file that is not opened for append (>>): after a crash the \
                       last lines can come twice";
        return Ok(is_file.then(|| warning.to_owned()));
    };
    match recorded.filter(|recorded| recorded.is_same(&found)) {
        Some(recorded) if found.bytes > recorded.bytes => {
            let cut = ftruncate(&output, recorded.bytes);
            cut.map_err(|error| format!("standard output cannot be cut: {error}"))?;
            Ok(None)
        }
        Some(recorded) if found.bytes < recorded.bytes => Ok(Some(format!(
            "standard output has {} bytes less than --state knows of: what was there does not come again",
            recorded.bytes - found.bytes
        ))),
        _ => Ok(None),
    }
}
