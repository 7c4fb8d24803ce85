//! The start of a segment: all that has to be known of what came before it, so that no other segment has to be
//! read to go on.
//!
//! | bytes | little endian |
//! |---|---|
//! | 8 | magic |
//! | 4 | version |
//! | 4 | length of the header |
//! | 4 | crc32c of what is before it and of what is behind it |
//! | 4 | flags: 1, written with `always` |
//! | 4 | epoch |
//! | 8 each | salt; first number; messages and bytes of lines ever before it; next client id; time of the last record before it; its own time; first number and length of the segment before it, or 0 |
//! | 4 | count of sessions; each: length of the name (a byte), name, published (8), last number (8) |

use std::fs::File;
use std::io;
use std::path::Path;

use super::codec::Salt;
use super::error::HistoryError;
use super::storage;
use super::window::read_at;
use crate::wire::ids::{Epoch, Seq};
use crate::wire::session::SessionKey;

const MAGIC: [u8; 8] = *b"LHubHist";

/// Raised when what follows is to be read otherwise. Magic, version, length and checksum stay where they are.
const VERSION: u32 = 1;

/// Bytes up to the checksum, and with it.
const CHECKED: usize = 16;
const PREFIX: usize = CHECKED + 4;

/// Header without sessions.
const FIXED: usize = PREFIX + 2 * 4 + 9 * 8 + 4;

/// Bytes of a header that are read at once: few have more.
const READ: usize = 4096;

/// Written with `always`: nobody got anything of it before it was synced.
const ALWAYS: u32 = 1;

/// A session: what was published in it, and the last number of that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Published {
    pub(super) taken: u64,
    pub(super) last: Seq,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) epoch: Epoch,
    pub(super) is_always: bool,
    pub(super) salt: Salt,
    pub(super) first_seq: Seq,
    pub(super) messages_before: u64,
    pub(super) bytes_before: u64,
    pub(super) next_id: u64,
    pub(super) last_time_ms: u64,
    pub(super) created_ms: u64,
    pub(super) previous: Option<Previous>,
    pub(super) sessions: Vec<(SessionKey, Published)>,
}

/// The segment before, as it was when it was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Previous {
    pub(super) first_seq: Seq,
    pub(super) len: u64,
}

/// Why there is no header.
#[derive(Debug)]
pub(super) enum NoHeader {
    /// It was not written to its end, or is damaged.
    Bad(&'static str),
    /// The file cannot be read, or is of another version.
    Refused(HistoryError),
}

impl Header {
    /// The bytes; `None` if they were 4 GiB or more.
    pub(super) fn write(&self) -> Option<Vec<u8>> {
        let mut bytes = Vec::with_capacity(FIXED);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&[0; PREFIX - 12]);
        let flags = if self.is_always { ALWAYS } else { 0 };
        bytes.extend_from_slice(&flags.to_le_bytes());
        bytes.extend_from_slice(&self.epoch.0.to_le_bytes());
        let previous = self
            .previous
            .map_or((0, 0), |before| (before.first_seq.0, before.len));
        let numbers = [
            self.salt.0,
            self.first_seq.0,
            self.messages_before,
            self.bytes_before,
            self.next_id,
            self.last_time_ms,
            self.created_ms,
            previous.0,
            previous.1,
        ];
        for number in numbers {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        let count = u32::try_from(self.sessions.len()).ok()?;
        bytes.extend_from_slice(&count.to_le_bytes());
        for (name, published) in &self.sessions {
            bytes.push(u8::try_from(name.as_str().len()).ok()?);
            bytes.extend_from_slice(name.as_str().as_bytes());
            bytes.extend_from_slice(&published.taken.to_le_bytes());
            bytes.extend_from_slice(&published.last.0.to_le_bytes());
        }
        let len = u32::try_from(bytes.len()).ok()?;
        bytes[12..CHECKED].copy_from_slice(&len.to_le_bytes());
        let crc = checksum(&bytes);
        bytes[CHECKED..PREFIX].copy_from_slice(&crc.to_le_bytes());
        Some(bytes)
    }

    /// The header of a file, its length, and the length of the file.
    pub(super) fn read(file: &File, path: &Path) -> Result<(Header, u64, u64), NoHeader> {
        let failed = |error: io::Error| NoHeader::Refused(HistoryError::of("read", path)(error));
        let file_len = file.metadata().map_err(failed)?.len();
        let mut bytes = read_at(file, 0, READ).map_err(failed)?;
        if bytes.len() < PREFIX {
            return Err(NoHeader::Bad("the header is not complete"));
        }
        if bytes[..8] != MAGIC {
            return Err(NoHeader::Bad("this is no segment of a history"));
        }
        let mut fields = Fields(&bytes[8..]);
        let (version, len, crc) = (fields.u32(), fields.u32(), fields.u32());
        let (Some(version), Some(len), Some(crc)) = (version, len, crc) else {
            return Err(NoHeader::Bad("the header is not complete"));
        };
        if u64::from(len) > file_len || (len as usize) < PREFIX {
            return Err(NoHeader::Bad("the header is not complete"));
        }
        if bytes.len() < len as usize {
            bytes = read_at(file, 0, len as usize).map_err(failed)?;
        }
        bytes.truncate(len as usize);
        if bytes.len() < len as usize || checksum(&bytes) != crc {
            return Err(NoHeader::Bad("wrong checksum of the header"));
        }
        if version != VERSION {
            let what = format!("it is of version {version}, and this linehub reads {VERSION}");
            return Err(NoHeader::Refused(HistoryError::damaged(path, 8, what)));
        }
        let header = Header::parse(&bytes[PREFIX..]);
        let header = header.ok_or(NoHeader::Bad("the header contradicts itself"))?;
        Ok((header, len.into(), file_len))
    }

    fn parse(bytes: &[u8]) -> Option<Header> {
        let mut fields = Fields(bytes);
        let flags = fields.u32()?;
        let epoch = Epoch(fields.u32()?);
        let mut header = Header {
            epoch,
            is_always: flags & ALWAYS != 0,
            salt: Salt(fields.u64()?),
            first_seq: Seq(fields.u64()?),
            messages_before: fields.u64()?,
            bytes_before: fields.u64()?,
            next_id: fields.u64()?,
            last_time_ms: fields.u64()?,
            created_ms: fields.u64()?,
            previous: None,
            sessions: Vec::new(),
        };
        let previous = Previous {
            first_seq: Seq(fields.u64()?),
            len: fields.u64()?,
        };
        header.previous = (previous.len > 0).then_some(previous);
        for _ in 0..fields.u32()? {
            let len = fields.take(1)?[0];
            let name = str::from_utf8(fields.take(len.into())?).ok()?;
            let published = Published {
                taken: fields.u64()?,
                last: Seq(fields.u64()?),
            };
            header.sessions.push((name.parse().ok()?, published));
        }
        fields.0.is_empty().then_some(header)
    }
}

/// Whether a file begins as a segment does.
pub(super) fn is_segment(path: &Path) -> bool {
    let start = storage::open(path)
        .ok()
        .and_then(|file| read_at(&file, 0, MAGIC.len()).ok());
    start.is_some_and(|start| start == MAGIC)
}

/// Whether what may be the start of a header says that it was written with `always`.
pub(super) fn says_always(start: &[u8]) -> bool {
    start
        .get(PREFIX)
        .is_some_and(|flags| u32::from(*flags) & ALWAYS != 0)
}

/// Checksum of a header: of all but the checksum itself.
fn checksum(bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&bytes[..CHECKED]), &bytes[PREFIX..])
}

/// What is left to read of a header.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }
}
