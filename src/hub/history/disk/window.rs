//! A file read through a window: one buffer, whose slices are handed out without a copy.

use std::fs::File;
use std::io;

use bytes::Bytes;
use rustix::buffer::spare_capacity;

use super::codec::{self, HEAD_BYTES, Head, Salt};
use crate::hub::history::record::Record;
use crate::wire::ids::Seq;

/// Bytes that are looked through at once for one that is not zero.
const BLANK_STEP: usize = 1024 * 1024;

/// Bytes that the system writes at once, or not at all when the daemon is killed.
const PAGE_BYTES: u64 = 4096;

/// Bytes that a disk writes at once, or not at all when the machine goes down.
const SECTOR_BYTES: usize = 512;

/// What was found where a record could begin.
#[derive(Debug)]
pub(super) enum Found<T> {
    Record(T),
    /// The records end here.
    End,
    Bad(Bad),
}

/// Something that is no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bad {
    pub(super) what: &'static str,
    /// It has the beginning of a record, and the file ends before the rest, or has zeros in its place: as the end of a
    /// daemon leaves it that was writing.
    pub(super) is_unfinished: bool,
}

/// Reads `len` bytes from `at` on, or as many as there are.
pub(super) fn read_at(file: &File, at: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        let so_far = bytes.len() as u64;
        // It reads at most what the vector has room for, which may be more than was asked for.
        match rustix::io::pread(file, spare_capacity(&mut bytes), at + so_far) {
            Ok(0) => break,
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    bytes.truncate(len);
    Ok(bytes)
}

/// Whether a file has nothing but zeros from `at` to `end`, or to where it ends before.
pub(super) fn is_blank_from(file: &File, mut at: u64, end: u64) -> io::Result<bool> {
    while at < end {
        let bytes = read_at(file, at, BLANK_STEP.min((end - at) as usize))?;
        if bytes.is_empty() || bytes.iter().any(|byte| *byte != 0) {
            return Ok(bytes.is_empty());
        }
        at += bytes.len() as u64;
    }
    Ok(true)
}

/// Whether a sector of a file has nothing but zeros from `at` on, and before `end`: what was written there last never
/// came to the disk.
pub(super) fn has_hole(file: &File, at: u64, end: u64) -> io::Result<bool> {
    let first_end = at.next_multiple_of(SECTOR_BYTES as u64);
    if at < first_end.min(end) && is_blank_from(file, at, first_end.min(end))? {
        return Ok(true);
    }
    let mut at = first_end;
    while at < end {
        let bytes = read_at(file, at, BLANK_STEP.min((end - at) as usize))?;
        let mut sectors = bytes.chunks_exact(SECTOR_BYTES);
        if sectors.any(|sector| sector.iter().all(|byte| *byte == 0)) {
            return Ok(true);
        }
        if bytes.is_empty() {
            break;
        }
        at += bytes.len() as u64;
    }
    Ok(false)
}

/// Records of a file from a place on.
#[derive(Debug)]
pub(super) struct Window<'a> {
    file: &'a File,
    salt: Salt,
    /// Where the records end, as far as the reader goes.
    limit: u64,
    /// Bytes to read at once.
    step: usize,
    /// What has nothing but zeros behind it is the end: the last segment of `always` is so, while it is written to.
    pub(super) ends_in_zeros: bool,
    /// Where the next record begins.
    at: u64,
    buffer: Bytes,
    buffer_at: u64,
}

impl<'a> Window<'a> {
    pub(super) fn new(file: &'a File, salt: Salt, at: u64, limit: u64, step: usize) -> Window<'a> {
        Window {
            file,
            salt,
            limit,
            step,
            ends_in_zeros: false,
            at,
            buffer: Bytes::new(),
            buffer_at: at,
        }
    }

    /// Where the next record begins, from the start of the file.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// Where the records end, as far as it goes.
    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    /// Reads again what is at the place, of a file that has this length by now.
    pub(super) fn look_again(&mut self, limit: u64) {
        self.limit = limit;
        self.buffer = Bytes::new();
        self.buffer_at = self.at;
    }

    /// The head of the next record, which has to have the number `seq`.
    pub(super) fn head(&mut self, seq: Seq) -> io::Result<Found<Head>> {
        loop {
            let found = self.look(seq)?;
            if !matches!(found, Found::Bad(_)) || !self.has_changed(HEAD_BYTES as u64)? {
                return Ok(found);
            }
        }
    }

    /// Whether a daemon has written to the next so many bytes since they were read: records take the place of zeros
    /// that the buffer may still have. They are read anew.
    fn has_changed(&mut self, len: u64) -> io::Result<bool> {
        if !self.ends_in_zeros {
            return Ok(false);
        }
        let seen = self.bytes(self.at, len)?;
        self.look_again(self.limit);
        Ok(self.bytes(self.at, len)? != seen)
    }

    fn look(&mut self, seq: Seq) -> io::Result<Found<Head>> {
        if self.at >= self.limit {
            return Ok(Found::End);
        }
        let bytes = self.bytes(self.at, HEAD_BYTES as u64)?;
        let is_blank = self.ends_in_zeros && bytes.iter().all(|byte| *byte == 0);
        if is_blank && is_blank_from(self.file, self.at, self.limit)? {
            return Ok(Found::End);
        }
        let Ok(head) = bytes[..].try_into() else {
            return Ok(Found::Bad(Bad {
                what: "the head of a record is not complete",
                is_unfinished: self.is_beginning(&bytes),
            }));
        };
        let head = match Head::read(self.salt, head) {
            Ok(head) => head,
            // The rest of a record is never blank.
            Err(what) => return self.bad(what, self.at + HEAD_BYTES as u64),
        };
        if head.first_seq != seq {
            return Ok(Found::bad("a record is out of order"));
        }
        if head.numbers == 0 {
            return Ok(Found::bad("a record has no number"));
        }
        if self.at.saturating_add(head.record_len()) > self.limit {
            return Ok(Found::Bad(Bad {
                what: "a record is not complete",
                is_unfinished: true,
            }));
        }
        Ok(Found::Record(head))
    }

    /// Whether these could be the first bytes of a record.
    fn is_beginning(&self, bytes: &[u8]) -> bool {
        let marker = self.salt.marker();
        let len = bytes.len().min(marker.len());
        bytes[..len] == marker[..len]
    }

    /// Whether what is next begins as a record does.
    pub(super) fn is_marked(&mut self) -> io::Result<bool> {
        let bytes = self.bytes(self.at, self.salt.marker().len() as u64)?;
        Ok(self.is_beginning(&bytes))
    }

    /// The record whose head was just read; goes on behind it unless it is bad.
    pub(super) fn record(&mut self, head: &Head) -> io::Result<Found<Record>> {
        loop {
            let body = self.body(head)?;
            match codec::decode(head, self.salt, &body) {
                Ok(record) => {
                    self.skip(head);
                    return Ok(Found::Record(record));
                }
                Err(_) if self.has_changed(head.record_len())? => {}
                Err(what) => return self.bad_record(what, head),
            }
        }
    }

    /// Goes on behind the record whose head was just read, once its checksum is right.
    pub(super) fn check(&mut self, head: &Head) -> io::Result<Found<()>> {
        loop {
            let body = self.body(head)?;
            match codec::check(head, self.salt, &body) {
                Ok(()) => {
                    self.skip(head);
                    return Ok(Found::Record(()));
                }
                Err(_) if self.has_changed(head.record_len())? => {}
                Err(what) => return self.bad_record(what, head),
            }
        }
    }

    /// A record that is not as its head says. Of lines, the last byte is not zero once all of it is there; of
    /// notices alone, it is. A daemon that is killed leaves off between two pages.
    fn bad_record<T>(&self, what: &'static str, head: &Head) -> io::Result<Found<T>> {
        let last = self.at + head.record_len() - 1;
        match head.raw_len {
            0 if last - last % PAGE_BYTES <= self.at => Ok(Found::bad(what)),
            0 => self.bad(what, last - last % PAGE_BYTES),
            _ => self.bad(what, last),
        }
    }

    /// Something that is no record, but the beginning of one if zeros go on from this byte.
    fn bad<T>(&self, what: &'static str, zeros_at: u64) -> io::Result<Found<T>> {
        let is_unfinished = self.ends_in_zeros && is_blank_from(self.file, zeros_at, self.limit)?;
        Ok(Found::Bad(Bad {
            what,
            is_unfinished,
        }))
    }

    /// Goes on behind the record whose head was just read.
    pub(super) fn skip(&mut self, head: &Head) {
        self.at += head.record_len();
    }

    /// Whether all of the record has been read already.
    pub(super) fn has(&self, head: &Head) -> bool {
        let end = self.buffer_at + self.buffer.len() as u64;
        self.buffer_at <= self.at && self.at + head.record_len() <= end
    }

    fn body(&mut self, head: &Head) -> io::Result<Bytes> {
        // The head as well: what the buffer is filled with begins at a record.
        let record = self.bytes(self.at, head.record_len())?;
        Ok(record.slice(HEAD_BYTES.min(record.len())..))
    }

    /// So many bytes from `at` on; fewer where the limit or the file ends.
    fn bytes(&mut self, at: u64, len: u64) -> io::Result<Bytes> {
        let end = at.saturating_add(len).min(self.limit);
        if at < self.buffer_at || end > self.buffer_at + self.buffer.len() as u64 {
            let len = (end - at).max((self.step as u64).min(self.limit - at));
            let len = usize::try_from(len).map_err(|_| io::ErrorKind::FileTooLarge)?;
            self.buffer = read_at(self.file, at, len)?.into();
            self.buffer_at = at;
        }
        let start = (at - self.buffer_at) as usize;
        let end = ((end - self.buffer_at) as usize).min(self.buffer.len());
        Ok(self.buffer.slice(start.min(end)..end))
    }

    /// Goes on from there.
    pub(super) fn go_to(&mut self, at: u64) {
        self.at = at;
    }

    /// Looks from the next byte on for a whole record that has the number `seq` or a later one: where it
    /// begins, and its number.
    pub(super) fn search(&mut self, seq: Seq) -> io::Result<Option<(u64, Seq)>> {
        let marker = self.salt.marker();
        let mut at = self.at + 1;
        while at < self.limit {
            let bytes = self.bytes(at, HEAD_BYTES.max(self.step) as u64)?;
            if bytes.is_empty() {
                break;
            }
            let Some(found) = memchr::memmem::find(&bytes, &marker) else {
                // The last bytes could be the beginning of a marker.
                at += (bytes.len() as u64).saturating_sub(3).max(1);
                continue;
            };
            at += found as u64;
            if let Some(found) = self.record_from(at, seq)? {
                return Ok(Some((at, found)));
            }
            at += 1;
        }
        Ok(None)
    }

    /// The number of the whole record at this byte, if there is one and it is not before `seq`.
    fn record_from(&mut self, at: u64, seq: Seq) -> io::Result<Option<Seq>> {
        let bytes = self.bytes(at, HEAD_BYTES as u64)?;
        let Ok(head) = bytes[..].try_into() else {
            return Ok(None);
        };
        let Ok(head) = Head::read(self.salt, head) else {
            return Ok(None);
        };
        let is_inside = at.saturating_add(head.record_len()) <= self.limit;
        if head.first_seq < seq || !is_inside {
            return Ok(None);
        }
        let record = self.bytes(at, head.record_len())?;
        let body = record.get(HEAD_BYTES..);
        let is_good = body.is_some_and(|body| codec::check(&head, self.salt, body).is_ok());
        Ok(is_good.then_some(head.first_seq))
    }
}

impl<T> Found<T> {
    fn bad(what: &'static str) -> Found<T> {
        Found::Bad(Bad {
            what,
            is_unfinished: false,
        })
    }
}
