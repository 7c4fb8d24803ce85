//! Whether files still have their names: a history that was removed or replaced under a daemon is not gone on with.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{fstat, stat};
use rustix::io::Errno;

use super::error::HistoryError;
use super::shared::Files;

/// File of the directory that the one daemon has locked that writes to it. No channel can have such a name.
pub(super) const LOCK: &str = "@lock";

/// Checks that an open file still has its name.
///
/// # Errors
/// It has none any more, or another file has it. What else may be wrong is left for a write to find.
pub(super) fn verify_in_place(file: impl AsFd, path: &Path) -> Result<(), HistoryError> {
    let identity = |stat: rustix::fs::Stat| (stat.st_dev, stat.st_ino);
    let held = fstat(file).map(identity);
    match stat(path).map(identity) {
        Ok(named) if Ok(named) != held => {}
        Err(Errno::NOENT | Errno::NOTDIR) => {}
        Ok(_) | Err(_) => return Ok(()),
    }
    let reason = io::Error::other("it was removed or replaced");
    Err(HistoryError::of("go on with", path)(reason))
}

impl Files {
    /// Checks that the directory is still this daemon's: another one may have it whose lock has that name.
    ///
    /// # Errors
    /// Those of [`verify_in_place`].
    pub(super) fn verify_lock(&self) -> Result<(), HistoryError> {
        match &self.lock {
            Some(lock) => verify_in_place(&**lock, &self.directory.join(LOCK)),
            None => Ok(()),
        }
    }
}
