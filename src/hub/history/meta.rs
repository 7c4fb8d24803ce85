//! What a record says of its lines, as bytes: on disk, and on the way to other machines.
//!
//! Numbers are LEB128 unless a byte is named: the count of parts, and for each its kind (a byte), messages, origin,
//! bytes of its lines; the count of names, and for each the part, the length, the text; the count of sessions, and
//! for each the part, the length, the text, what it has published.

use bytes::Bytes;

use super::record::Record;
use crate::hub::part::{Kind, Part};
use crate::wire::format::Notice;
use crate::wire::ids::{ClientId, Seq};

/// Appends what a record says of its lines.
pub(in crate::hub) fn put_meta(record: &Record, out: &mut Vec<u8>) {
    put(out, record.parts.len() as u64);
    let mut start = 0;
    for ((part, origin), end) in record.parts.iter().zip(&record.origins).zip(&record.ends) {
        out.push(code_of(part.kind));
        put(out, part.messages.into());
        put(out, origin.0);
        put(out, (end - start).into());
        start = *end;
    }
    put(out, record.names.len() as u64);
    for (part, name) in &record.names {
        put(out, (*part).into());
        put_text(out, name.as_str());
    }
    put(out, record.sessions.len() as u64);
    for (part, session, taken) in &record.sessions {
        put(out, (*part).into());
        put_text(out, session.as_str());
        put(out, *taken);
    }
}

fn code_of(kind: Kind) -> u8 {
    match kind {
        Kind::Lines => 0,
        Kind::Notice(Notice::Connect) => 1,
        Kind::Notice(Notice::Disconnect) => 2,
        Kind::Shutdown | Kind::Omitted | Kind::Missed => 3,
    }
}

fn kind_of(code: u8) -> Option<Kind> {
    match code {
        0 => Some(Kind::Lines),
        1 => Some(Kind::Notice(Notice::Connect)),
        2 => Some(Kind::Notice(Notice::Disconnect)),
        3 => Some(Kind::Shutdown),
        _ => None,
    }
}

/// Appends a number as LEB128: 7 bits a byte, the lowest first, the highest bit set if more follow.
pub(in crate::hub) fn put(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Appends a name, or the key of a session: at most 129 bytes.
pub(in crate::hub) fn put_text(out: &mut Vec<u8>, text: &str) {
    put(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

/// What is left to read of a meta part.
pub(in crate::hub) struct Meta<'a>(pub(in crate::hub) &'a [u8]);

impl<'a> Meta<'a> {
    pub(in crate::hub) fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*byte)
    }

    pub(in crate::hub) fn u64(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                return None;
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    pub(in crate::hub) fn u32(&mut self) -> Option<u32> {
        self.u64()?.try_into().ok()
    }

    /// How many of something follow. Each takes a byte at least: a wrong count allocates no more than that.
    pub(in crate::hub) fn count(&mut self) -> Option<usize> {
        let count = usize::try_from(self.u64()?).ok()?;
        (count <= self.0.len()).then_some(count)
    }

    /// The index of one of so many parts.
    pub(in crate::hub) fn part(&mut self, parts: usize) -> Option<u32> {
        let part = self.u32()?;
        ((part as usize) < parts).then_some(part)
    }

    pub(in crate::hub) fn text(&mut self) -> Option<&'a str> {
        let len = self.count()?;
        let (text, rest) = self.0.split_at(len);
        self.0 = rest;
        str::from_utf8(text).ok()
    }

    /// A record without its lines and its place.
    pub(in crate::hub) fn record(&mut self) -> Option<Record> {
        let count = self.count()?;
        let mut parts = Vec::with_capacity(count);
        let mut origins = Vec::with_capacity(count);
        let mut ends = Vec::with_capacity(count);
        let mut end = 0u32;
        for _ in 0..count {
            let kind = kind_of(self.byte()?)?;
            let messages = self.u32()?;
            parts.push(Part { kind, messages });
            origins.push(ClientId(self.u64()?));
            end = end.checked_add(self.u32()?)?;
            ends.push(end);
        }
        let named = self.count()?;
        let mut names = Vec::with_capacity(named);
        for _ in 0..named {
            names.push((self.part(count)?, self.text()?.parse().ok()?));
        }
        let of_sessions = self.count()?;
        let mut sessions = Vec::with_capacity(of_sessions);
        for _ in 0..of_sessions {
            sessions.push((self.part(count)?, self.text()?.parse().ok()?, self.u64()?));
        }
        Some(Record {
            first_seq: Seq(0),
            time_ms: 0,
            origins: origins.into(),
            names: names.into(),
            parts: parts.into(),
            ends: ends.into(),
            raw: Bytes::new(),
            sessions: sessions.into(),
        })
    }
}
