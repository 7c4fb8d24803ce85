//! The segments of a channel, each of which says what it follows.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::codec::Salt;
use super::error::{Cut, HistoryError};
use super::header::{Header, NoHeader, says_always};
use super::segment::first_of;
use super::storage::open_regular;
use super::window::{Window, is_blank_from, read_at};
use crate::wire::ids::Seq;

/// Where a header has its salt: after the checksum, flags and epoch.
const SALT_AT: usize = 28;

/// Bytes that are searched at once.
const STEP: usize = 1024 * 1024;

/// How the daemon ended that wrote last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// All was synced.
    Clean,
    /// It was killed: the system has what it had written.
    Killed,
    /// The machine went down, perhaps: what was not synced may be gone, in any part.
    Down,
}

/// A segment that was opened.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) path: PathBuf,
    pub(super) file: Arc<File>,
    pub(super) header: Header,
    pub(super) header_len: u64,
    /// Length of the file.
    pub(super) len: u64,
}

/// Segments that follow each other.
#[derive(Debug, Default)]
pub(super) struct Chain {
    pub(super) segments: Vec<Opened>,
    /// What a crash has left behind them, and the files that it is in.
    pub(super) cut: Option<Cut>,
    pub(super) to_remove: Vec<PathBuf>,
}

/// Opens the segments of these files, which are in order.
///
/// # Errors
/// The system's, and damage that no crash explains.
pub(super) fn open(paths: &[PathBuf], ended: Ended) -> Result<Chain, HistoryError> {
    let mut chain = Chain::default();
    for (at, path) in paths.iter().enumerate() {
        let is_last = at + 1 == paths.len();
        let may_be_torn = is_last || ended == Ended::Down;
        let file = open_file(path, may_be_torn)?;
        let (header, header_len, len) = match Header::read(&file, path) {
            Ok(read) => read,
            Err(NoHeader::Refused(error)) => return Err(error),
            Err(NoHeader::Bad(what)) if may_be_torn && is_torn(&file, path, ended)? => {
                chain.cut_from(&paths[at..], what)?;
                return Ok(chain);
            }
            Err(NoHeader::Bad(what)) => return Err(HistoryError::damaged(path, 0, what)),
        };
        if first_of(path) != Some(header.first_seq) {
            let what = format!("its records begin with {}", header.first_seq);
            return Err(HistoryError::damaged(path, 0, what));
        }
        if let Some(before) = chain.segments.last_mut()
            && let Err(gap) = follows(before, &header, ended)
        {
            let is_torn = ended == Ended::Down && gap.is_shortened;
            if !is_torn {
                return Err(HistoryError::damaged(&gap.file, gap.offset, gap.what));
            }
            chain.cut_from(&paths[at..], "what is before it is lost")?;
            return Ok(chain);
        }
        chain.segments.push(Opened {
            path: path.clone(),
            file,
            header,
            header_len,
            len,
        });
    }
    Ok(chain)
}

/// Why a segment does not go on where the one before it ends.
pub(super) struct Gap {
    pub(super) file: PathBuf,
    pub(super) offset: u64,
    pub(super) what: String,
    /// The one before has become shorter.
    is_shortened: bool,
}

/// Whether a segment of this header goes on where the one before it ends.
pub(super) fn follows(before: &mut Opened, header: &Header, ended: Ended) -> Result<(), Gap> {
    let previous = header.previous.map(|it| (it.first_seq, it.len));
    if let Some((_, len)) = previous
        && ended == Ended::Down
    {
        // Bytes that were taken back again, which the disk may not have heard of.
        before.len = before.len.min(len);
    }
    if previous == Some((before.header.first_seq, before.len)) {
        return Ok(());
    }
    let gap = match previous {
        Some((first, len)) if first == before.header.first_seq => Gap {
            file: before.path.clone(),
            offset: before.len.min(len),
            what: format!("it has {} bytes, and {len} were written", before.len),
            is_shortened: before.len < len,
        },
        previous => Gap {
            file: before.path.clone(),
            offset: before.len,
            what: match previous {
                Some((first, _)) => {
                    format!("the file that begins with {first} is missing behind it")
                }
                None => format!("number {} begins anew behind it", header.first_seq),
            },
            is_shortened: false,
        },
    };
    Err(gap)
}

impl Chain {
    /// Leaves out these files, the first of which a crash has left unfinished.
    fn cut_from(&mut self, paths: &[PathBuf], what: &'static str) -> Result<(), HistoryError> {
        let mut bytes = 0;
        for path in paths {
            let file = open_file(path, false)?;
            let len = file
                .metadata()
                .map_err(HistoryError::of("read", path))?
                .len();
            bytes += len;
            // Nothing before a segment of `always` can be lost in a crash.
            let header = Header::read(&file, path);
            if header.is_ok_and(|(header, ..)| header.is_always) {
                return Err(HistoryError::damaged(&paths[0], 0, what));
            }
        }
        self.cut = paths.first().map(|file| Cut {
            file: file.clone(),
            offset: 0,
            bytes,
        });
        self.to_remove = paths.to_vec();
        Ok(())
    }
}

/// Whether a file without a header is one that was not written to its end: it is too short for one and has no
/// record in it, or it has nothing but zeros. When the machine was down, any part of it may be missing, and
/// there may be records behind that; but not with `always`, which syncs a header before its file has the name.
pub(super) fn is_torn(file: &File, path: &Path, ended: Ended) -> Result<bool, HistoryError> {
    let failed = |error| HistoryError::of("read", path)(error);
    let len = file.metadata().map_err(failed)?.len();
    let start = read_at(file, 0, SALT_AT + 8).map_err(failed)?;
    if ended == Ended::Down {
        return Ok(!says_always(&start));
    }
    if start.iter().all(|byte| *byte == 0) {
        return is_blank_from(file, 0, len).map_err(failed);
    }
    let said = start.get(12..16).and_then(|len| len.try_into().ok());
    if said.is_some_and(|said| u64::from(u32::from_le_bytes(said)) <= len) {
        return Ok(false);
    }
    let salt = start.get(SALT_AT..).and_then(|salt| salt.try_into().ok());
    let Some(salt) = salt else {
        return Ok(true);
    };
    let salt = Salt(u64::from_le_bytes(salt));
    let mut window = Window::new(file, salt, SALT_AT as u64, len, STEP);
    Ok(window.search(Seq(0)).map_err(failed)?.is_none())
}

/// Opens a segment to be read, and the last to be written as well.
fn open_file(path: &Path, is_last: bool) -> Result<Arc<File>, HistoryError> {
    let mut options = OpenOptions::new();
    open_regular(path, options.read(true).write(is_last)).map(Arc::new)
}
