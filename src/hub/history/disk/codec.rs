//! A record as its bytes in a segment.
//!
//! Numbers are little endian. The [meta part](super::super::meta) says what the lines are; they follow it.
//!
//! | bytes | head: 44 |
//! |---|---|
//! | 4 | marker of the segment |
//! | 4 | crc32c of the rest of the head |
//! | 4 | crc32c of meta and lines |
//! | 4, 4 | length of the meta part, of the lines |
//! | 4, 4 | numbers, messages in it |
//! | 8 | first number |
//! | 8 | milliseconds since 1970 |

use bytes::Bytes;

use crate::hub::history::meta::{Meta, put_meta};
use crate::hub::history::record::Record;
use crate::wire::ids::Seq;

/// Length of a record's head.
pub(super) const HEAD_BYTES: usize = 44;

/// Drawn for each segment: its marker, and what its checksums start from. A line that looks like a record can so
/// never be taken for one, since no client knows them; nor can what an older file left on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Salt(pub(super) u64);

/// What the head of a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    body_crc: u32,
    pub(super) meta_len: u32,
    pub(super) raw_len: u32,
    pub(super) numbers: u32,
    pub(super) messages: u32,
    pub(super) first_seq: Seq,
    pub(super) time_ms: u64,
}

/// A record has more parts or bytes than the format can say: 4 GiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooLarge;

impl Salt {
    pub(super) fn marker(self) -> [u8; 4] {
        ((self.0 >> 32) as u32).to_le_bytes()
    }

    fn checksum(self, bytes: &[u8]) -> u32 {
        crc32c::crc32c_append(self.0 as u32, bytes)
    }
}

impl Head {
    /// Reads a head; what is wrong with it, if it is none.
    pub(super) fn read(salt: Salt, bytes: &[u8; HEAD_BYTES]) -> Result<Head, &'static str> {
        if bytes[..4] != salt.marker() {
            return Err("no record begins here");
        }
        let u32_at = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        if u32_at(4) != salt.checksum(&bytes[8..]) {
            return Err("wrong checksum of a record's head");
        }
        Ok(Head {
            body_crc: u32_at(8),
            meta_len: u32_at(12),
            raw_len: u32_at(16),
            numbers: u32_at(20),
            messages: u32_at(24),
            first_seq: Seq(u64_at(28)),
            time_ms: u64_at(36),
        })
    }

    fn write(&self, salt: Salt) -> [u8; HEAD_BYTES] {
        let mut bytes = [0; HEAD_BYTES];
        bytes[..4].copy_from_slice(&salt.marker());
        let numbers = [
            self.body_crc,
            self.meta_len,
            self.raw_len,
            self.numbers,
            self.messages,
        ];
        for (number, at) in numbers.iter().zip((8..).step_by(4)) {
            bytes[at..at + 4].copy_from_slice(&number.to_le_bytes());
        }
        bytes[28..36].copy_from_slice(&self.first_seq.0.to_le_bytes());
        bytes[36..].copy_from_slice(&self.time_ms.to_le_bytes());
        let crc = salt.checksum(&bytes[8..]);
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Bytes of meta and lines.
    pub(super) fn body_len(&self) -> u64 {
        u64::from(self.meta_len) + u64::from(self.raw_len)
    }

    /// Bytes of the record.
    pub(super) fn record_len(&self) -> u64 {
        HEAD_BYTES as u64 + self.body_len()
    }

    /// The number behind the last of it.
    pub(super) fn next_seq(&self) -> Seq {
        Seq(self.first_seq.0.saturating_add(u64::from(self.numbers)))
    }
}

/// Appends the head and the meta part of a record to `out`; its lines are to follow. On an error, `out` is as it
/// was.
pub(super) fn encode(record: &Record, salt: Salt, out: &mut Vec<u8>) -> Result<Head, TooLarge> {
    let start = out.len();
    out.resize(start + HEAD_BYTES, 0);
    let meta = start + HEAD_BYTES;
    put_meta(record, out);
    let head = head_of(record, salt, &out[meta..]);
    match &head {
        Ok(head) => out[start..meta].copy_from_slice(&head.write(salt)),
        Err(TooLarge) => out.truncate(start),
    }
    head
}

fn head_of(record: &Record, salt: Salt, meta: &[u8]) -> Result<Head, TooLarge> {
    let numbers = record.next_seq().0 - record.first_seq.0;
    let body_crc = crc32c::crc32c_append(salt.checksum(meta), &record.raw);
    Ok(Head {
        body_crc,
        meta_len: u32::try_from(meta.len()).map_err(|_| TooLarge)?,
        raw_len: u32::try_from(record.raw.len()).map_err(|_| TooLarge)?,
        numbers: u32::try_from(numbers).map_err(|_| TooLarge)?,
        messages: u32::try_from(record.messages()).map_err(|_| TooLarge)?,
        first_seq: record.first_seq,
        time_ms: record.time_ms,
    })
}

/// Reads what follows a head, all of it, as the record. The lines share the memory of `body`.
pub(super) fn decode(head: &Head, salt: Salt, body: &Bytes) -> Result<Record, &'static str> {
    check(head, salt, body)?;
    let meta_len = head.meta_len as usize;
    parse(head, &body[..meta_len], body.slice(meta_len..)).ok_or("a record contradicts itself")
}

/// Whether what follows a head is what it was written with.
pub(super) fn check(head: &Head, salt: Salt, body: &[u8]) -> Result<(), &'static str> {
    match body.len() as u64 == head.body_len() && salt.checksum(body) == head.body_crc {
        true => Ok(()),
        false => Err("wrong checksum of a record"),
    }
}

fn parse(head: &Head, meta: &[u8], raw: Bytes) -> Option<Record> {
    let mut meta = Meta(meta);
    let record = Record {
        first_seq: head.first_seq,
        time_ms: head.time_ms,
        raw,
        ..meta.record()?
    };
    let numbers: u64 = record.parts.iter().map(|part| part.numbers()).sum();
    let is_whole = meta.0.is_empty()
        && record.ends.last().copied().unwrap_or(0) == head.raw_len
        && numbers == u64::from(head.numbers)
        && record.messages() == u64::from(head.messages);
    is_whole.then_some(record)
}

/// The head that a body would have: for tests of what a right checksum does not prove.
#[cfg(test)]
pub(super) fn forge(body: &[u8], meta_len: usize, record: &Record, salt: Salt) -> Head {
    let (meta, raw) = body.split_at(meta_len);
    let raw = Bytes::copy_from_slice(raw);
    let first = head_of(record, salt, meta);
    let body_crc = crc32c::crc32c_append(salt.checksum(meta), &raw);
    Head {
        body_crc,
        ..first.unwrap_or_else(|TooLarge| unreachable!())
    }
}
