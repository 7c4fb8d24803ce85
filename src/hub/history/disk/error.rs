//! What can go wrong with the files of a history, each with the file's name.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Why a history cannot be opened, read or written.
#[derive(Debug)]
pub(crate) enum HistoryError {
    /// Another daemon writes to the directory.
    InUse {
        directory: PathBuf,
        /// Its process, if it has said so by now.
        process: Option<u32>,
    },
    /// A directory is, or has, something of another history.
    Foreign {
        directory: PathBuf,
        /// What it is, behind its name.
        what: String,
    },
    /// The system refused something.
    System {
        /// What was tried, as `cannot ... FILE` says it.
        tried: &'static str,
        file: PathBuf,
        reason: io::Error,
    },
    /// A file does not hold what was written to it.
    Damaged(Damage),
}

/// Where a file is damaged, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Damage {
    pub(crate) file: PathBuf,
    /// Bytes from the start of the file.
    pub(crate) offset: u64,
    pub(crate) what: String,
}

/// What was cut off, since a crash had left it unfinished.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    pub(crate) file: PathBuf,
    /// Bytes from the start of the file: it ends here now.
    pub(crate) offset: u64,
    /// Bytes that went, those of later files included.
    pub(crate) bytes: u64,
}

/// Whether what could not be read for this reason is lost: the disk has it in no other way, or not at all.
pub(crate) fn is_lost(error: &io::Error) -> bool {
    let system = error.get_ref().and_then(|it| it.source());
    let system = system.and_then(|it| it.downcast_ref::<io::Error>());
    let code = system.unwrap_or(error).raw_os_error();
    let is_gone = [io::ErrorKind::InvalidData, io::ErrorKind::NotFound];
    is_gone.contains(&error.kind()) || code == Some(rustix::io::Errno::IO.raw_os_error())
}

impl HistoryError {
    /// For `map_err`: says what was tried with which file.
    pub(super) fn of(tried: &'static str, file: &Path) -> impl FnOnce(io::Error) -> HistoryError {
        move |reason| HistoryError::System {
            tried,
            file: file.to_owned(),
            reason,
        }
    }

    /// The system's kind, where it was the system.
    pub(super) fn kind(&self) -> io::ErrorKind {
        match self {
            HistoryError::InUse { .. } => io::ErrorKind::ResourceBusy,
            HistoryError::Foreign { .. } => io::ErrorKind::InvalidInput,
            HistoryError::System { reason, .. } => reason.kind(),
            HistoryError::Damaged(_) => io::ErrorKind::InvalidData,
        }
    }

    pub(super) fn damaged(file: &Path, offset: u64, what: impl Into<String>) -> HistoryError {
        HistoryError::Damaged(Damage {
            file: file.to_owned(),
            offset,
            what: what.into(),
        })
    }
}

impl fmt::Display for HistoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HistoryError::InUse { directory, process } => {
                write!(f, "{} is in use by another linehub", directory.display())?;
                match process {
                    Some(process) => write!(f, " (process {process})"),
                    None => Ok(()),
                }
            }
            HistoryError::Foreign { directory, what } => {
                write!(f, "--history-dir: {} {what}", directory.display())
            }
            HistoryError::System {
                tried,
                file,
                reason,
            } => write!(f, "cannot {tried} {}: {reason}", file.display()),
            HistoryError::Damaged(damage) => {
                let folder = damage.file.parent().unwrap_or(&damage.file).display();
                write!(f, "{damage}; see `linehub history check {folder}`")
            }
        }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Damage { file, offset, what } = self;
        write!(f, "{} is damaged at byte {offset}: {what}", file.display())
    }
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Cut {
            file,
            offset,
            bytes,
        } = self;
        let file = file.display();
        write!(
            f,
            "{bytes} unfinished bytes cut off {file} at byte {offset}"
        )
    }
}

impl std::error::Error for HistoryError {
    /// What the system says, which is part of what is displayed, too.
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            HistoryError::System { reason, .. } => Some(reason),
            HistoryError::InUse { .. }
            | HistoryError::Foreign { .. }
            | HistoryError::Damaged(_) => None,
        }
    }
}

/// Keeps the kind, so that a full disk is known as one.
impl From<HistoryError> for io::Error {
    fn from(error: HistoryError) -> io::Error {
        io::Error::new(error.kind(), error)
    }
}
