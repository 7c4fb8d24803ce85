//! What the history keeps of a batch.

use bytes::Bytes;

use crate::hub::batch::Batch;
use crate::hub::encoding::{EncodedBatch, Encoding};
use crate::hub::part::{Kind, Part};
use crate::wire::client_name::ClientName;
use crate::wire::format::Format;
use crate::wire::ids::{ClientId, Seq};
use crate::wire::session::SessionName;

/// Consecutive messages and notices as the history keeps them: one batch, without what was formatted of
/// it.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    /// The number of the first of them; they have those that follow.
    pub(crate) first_seq: Seq,
    /// When it was published, in milliseconds since 1970; never less than in the record before.
    pub(crate) time_ms: u64,
    /// Who each part is from.
    pub(crate) origins: Box<[ClientId]>,
    /// Names of the origins that have one, by the index of the part, in its order.
    pub(crate) names: Box<[(u32, ClientName)]>,
    pub(crate) parts: Box<[Part]>,
    /// Where each part ends in `raw`.
    pub(crate) ends: Box<[u32]>,
    /// The lines as they came, each with its LF; notices have no bytes.
    pub(crate) raw: Bytes,
    /// Sessions of the parts that have one, by the index of the part, in its order; and what the session
    /// has published with it: the same number that `taken` says in a hello's answer.
    pub(crate) sessions: Box<[(u32, SessionName, u64)]>,
}

impl Record {
    /// The number behind the last of it.
    pub(crate) fn next_seq(&self) -> Seq {
        let numbers = self.parts.iter().map(|part| part.numbers());
        Seq(self.first_seq.0 + numbers.sum::<u64>())
    }

    /// Messages in it.
    pub(crate) fn messages(&self) -> u64 {
        let messages = self.parts.iter().map(|part| u64::from(part.messages));
        messages.sum()
    }
}

impl Record {
    /// What the history keeps of a batch.
    pub(in crate::hub) fn of(batch: &Batch, time_ms: u64) -> Record {
        let view = batch.view(Encoding::Raw);
        Record {
            first_seq: batch.first_seq,
            time_ms,
            origins: batch.origins.clone(),
            names: batch.names.clone(),
            parts: batch.parts.clone(),
            ends: view.ends.clone(),
            raw: view.bytes.clone(),
            sessions: batch.sessions.clone(),
        }
    }

    /// Bytes that it takes, its lines and what is known of them.
    pub(crate) fn bytes(&self) -> u64 {
        let of_parts = size_of::<ClientId>() + size_of::<Part>() + size_of::<u32>();
        let bytes = size_of::<Record>()
            + self.raw.len()
            + self.parts.len() * of_parts
            + self.names.len() * size_of::<(u32, ClientName)>()
            + self.sessions.len() * size_of::<(u32, SessionName, u64)>();
        bytes as u64
    }

    /// Each part: the number of its first, what it is, and its bytes.
    fn each_part(&self) -> impl Iterator<Item = (usize, Seq, Part, &[u8])> {
        let (mut next, mut start) = (self.first_seq, 0);
        let parts = self.parts.iter().zip(&self.ends).enumerate();
        parts.map(move |(at, (part, end))| {
            let (seq, from) = (next, start);
            next = Seq(seq.0 + part.numbers());
            start = *end as usize;
            (at, seq, *part, &self.raw[from..start])
        })
    }

    /// The number of the first of its last so many messages, of which it has as many.
    pub(in crate::hub) fn seq_of_last_messages(&self, messages: u64) -> Seq {
        let mut before = self.messages() - messages;
        for (_, seq, part, _) in self.each_part() {
            let here = u64::from(part.messages);
            if before < here {
                return Seq(seq.0 + before);
            }
            before -= here;
        }
        self.next_seq()
    }

    /// The number of the first of its last messages whose lines have at most so many bytes; `None` if the
    /// last one alone has more.
    pub(in crate::hub) fn seq_of_last_bytes(&self, bytes: usize) -> Option<Seq> {
        let cut = self.raw.len() - bytes.min(self.raw.len());
        // The line that the cut is in is not among them, unless it begins there.
        let begun = match cut {
            0 => 0,
            _ => memchr::memchr(b'\n', &self.raw[cut - 1..])? + cut,
        };
        let lines = memchr::memchr_iter(b'\n', &self.raw[begun..]).count();
        (lines > 0).then(|| self.seq_of_last_messages(lines as u64))
    }

    /// What a client of this format gets of it that has all that comes before `from`.
    pub(crate) fn formatted(&self, format: Format, from: Seq) -> Bytes {
        let batch = self.batch_from(from, Seq(0));
        batch.view(format.into()).bytes.clone()
    }

    /// The batch of what somebody gets of it who has all that comes before `from`, and no notices from
    /// before `notices_from`.
    pub(in crate::hub) fn batch_from(&self, from: Seq, notices_from: Seq) -> Batch {
        let shows_notices = notices_from <= self.first_seq;
        let is_whole = from <= self.first_seq
            && (shows_notices || self.parts.iter().all(|part| part.kind == Kind::Lines));
        if is_whole {
            let raw = EncodedBatch {
                bytes: self.raw.clone(),
                ends: self.ends.clone(),
            };
            let (origins, names) = (self.origins.clone(), self.names.clone());
            return Batch::of_past(self.first_seq, origins, names, self.parts.clone(), raw);
        }
        let first_seq = from.max(self.first_seq);
        let (mut origins, mut names, mut parts) = (Vec::new(), Vec::new(), Vec::new());
        let (mut ends, mut bytes_before) = (Vec::new(), None);
        let mut start = 0;
        for (at, seq, mut part, bytes) in self.each_part() {
            let end = start + bytes.len();
            let part_start = std::mem::replace(&mut start, end);
            if seq.0 + part.numbers() <= first_seq.0 {
                continue;
            }
            let skipped = first_seq.0.saturating_sub(seq.0) as usize;
            let mut begin = part_start;
            if let Some(last) = skipped.checked_sub(1) {
                let line_end = memchr::memchr_iter(b'\n', bytes).nth(last);
                begin += line_end.map_or(bytes.len(), |at| at + 1);
                part.messages -= skipped as u32;
            }
            if part.kind != Kind::Lines && seq < notices_from {
                part.kind = Kind::Omitted;
            }
            let before = *bytes_before.get_or_insert(begin);
            let name = self.names.iter().find(|(of, _)| *of as usize == at);
            names.extend(name.map(|(_, name)| (parts.len() as u32, name.clone())));
            origins.push(self.origins[at]);
            parts.push(part);
            ends.push((end - before) as u32);
        }
        let raw = EncodedBatch {
            bytes: self.raw.slice(bytes_before.unwrap_or(self.raw.len())..),
            ends: ends.into(),
        };
        Batch::of_past(first_seq, origins.into(), names.into(), parts.into(), raw)
    }
}
