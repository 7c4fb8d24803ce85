//! What the history keeps of a batch.

use std::sync::Arc;

use bytes::Bytes;

use crate::hub::batch::Batch;
use crate::hub::encoding::Encoding;
use crate::hub::part::{Kind, Part};
use crate::hub::views::EncodedBatch;
use crate::wire::client_name::{ClientName, Origin};
use crate::wire::format::Format;
use crate::wire::ids::{ClientId, Seq};
use crate::wire::session::SessionKey;

/// Bytes that a part counts for beside its lines, which a notice has none of.
const PART_WEIGHT: usize = 32;

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
    pub(crate) sessions: Box<[(u32, SessionKey, u64)]>,
}

/// What a record takes beside what it says: the counts and the rests of its allocations, and its place among the
/// others.
const ALLOCATIONS_BYTES: usize = 128;

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
    /// Nothing.
    pub(in crate::hub) fn empty() -> Record {
        Record {
            first_seq: Seq(0),
            time_ms: 0,
            origins: Box::default(),
            names: Box::default(),
            parts: Box::default(),
            ends: Box::default(),
            raw: Bytes::new(),
            sessions: Box::default(),
        }
    }

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

    /// Consecutive records as one, for a reader: of small ones, each would cost it as much as a large one.
    pub(in crate::hub) fn joined(records: &[Arc<Record>]) -> Option<Record> {
        let first = records.first()?;
        let parts = || records.iter().map(|record| record.parts.len());
        let (mut origins, mut kinds) = (Vec::new(), Vec::new());
        let (mut ends, mut names) = (Vec::new(), Vec::new());
        origins.reserve_exact(parts().sum());
        kinds.reserve_exact(parts().sum());
        ends.reserve_exact(parts().sum());
        let mut raw = Vec::with_capacity(records.iter().map(|record| record.raw.len()).sum());
        for record in records {
            let (parts_before, bytes_before) = (kinds.len() as u32, raw.len() as u32);
            let named = record.names.iter();
            names.extend(named.map(|(part, name)| (parts_before + part, name.clone())));
            origins.extend_from_slice(&record.origins);
            kinds.extend_from_slice(&record.parts);
            ends.extend(record.ends.iter().map(|end| bytes_before + end));
            raw.extend_from_slice(&record.raw);
        }
        Some(Record {
            first_seq: first.first_seq,
            time_ms: first.time_ms,
            origins: origins.into(),
            names: names.into(),
            parts: kinds.into(),
            ends: ends.into(),
            raw: raw.into(),
            sessions: Box::default(),
        })
    }

    /// Keeps only these parts, by index, kind and origin.
    pub(in crate::hub) fn retain(&mut self, is_kept: impl Fn(usize, Kind, ClientId) -> bool) {
        let (mut origins, mut parts, mut ends) = (Vec::new(), Vec::new(), Vec::new());
        let (mut raw, mut places) = (Vec::with_capacity(self.raw.len()), Vec::new());
        for (at, _, part, bytes) in self.each_part() {
            let is_kept = is_kept(at, part.kind, self.origins[at]);
            places.push(is_kept.then_some(parts.len() as u32));
            if is_kept {
                raw.extend_from_slice(bytes);
                origins.push(self.origins[at]);
                parts.push(part);
                ends.push(raw.len() as u32);
            }
        }
        let place = |part: u32| places[part as usize];
        let names = self.names.iter();
        let names = names.filter_map(|(part, name)| Some((place(*part)?, name.clone())));
        let sessions = self.sessions.iter();
        let sessions =
            sessions.filter_map(|(part, name, taken)| Some((place(*part)?, name.clone(), *taken)));
        (self.names, self.sessions) = (names.collect(), sessions.collect());
        (self.origins, self.parts) = (origins.into(), parts.into());
        (self.ends, self.raw) = (ends.into(), raw.into());
    }

    /// Bytes that it takes, its lines and what is known of them.
    pub(crate) fn bytes(&self) -> u64 {
        let of_parts = size_of::<ClientId>() + size_of::<Part>() + size_of::<u32>();
        let bytes = size_of::<Record>()
            + ALLOCATIONS_BYTES
            + self.raw.len()
            + self.parts.len() * of_parts
            + self.names.len() * size_of::<(u32, ClientName)>()
            + self.sessions.len() * size_of::<(u32, SessionKey, u64)>();
        bytes as u64
    }

    /// What it counts for in what one reader takes at a time: its lines, and about as much for each part as that
    /// takes in what is made of it.
    pub(in crate::hub) fn weight(&self) -> usize {
        self.raw.len() + PART_WEIGHT * self.parts.len()
    }

    /// Each part: its index, the number of its first, what it is, who it is from, and its bytes.
    pub(in crate::hub) fn each_part_of(
        &self,
    ) -> impl Iterator<Item = (usize, Seq, Part, Origin<'_>, &[u8])> {
        let mut names = self.names.iter().peekable();
        self.each_part().map(move |(at, seq, part, bytes)| {
            let name = names.next_if(|(of, _)| *of as usize == at);
            let origin = Origin {
                client: self.origins[at],
                name: name.map(|(_, name)| name),
            };
            (at, seq, part, origin, bytes)
        })
    }

    /// Each part: its index, the number of its first, what it is, and its bytes.
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
            let named = self.names.binary_search_by_key(&at, |(of, _)| *of as usize);
            let name = named.ok().map(|named| self.names[named].1.clone());
            names.extend(name.map(|name| (parts.len() as u32, name)));
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::format::Notice;

    /// Consecutive records of these parts: `None` is a notice, a number a part of so many lines.
    fn records(of: &[Vec<Option<u32>>]) -> Vec<Arc<Record>> {
        let (mut next, mut line) = (Seq(7), 0);
        let record = |parts: &Vec<Option<u32>>| {
            let (mut raw, mut ends, mut kinds) = (Vec::new(), Vec::new(), Vec::new());
            for part in parts {
                let messages = part.unwrap_or(0);
                for _ in 0..messages {
                    line += 1;
                    raw.extend_from_slice("x".repeat(line % 5).as_bytes());
                    raw.extend_from_slice(format!("{line}\n").as_bytes());
                }
                ends.push(raw.len() as u32);
                let kind = part.map_or(Kind::Notice(Notice::Connect), |_| Kind::Lines);
                kinds.push(Part { kind, messages });
            }
            let count = parts.len() as u64;
            let record = Record {
                first_seq: next,
                time_ms: next.0,
                origins: (0..count).map(|at| ClientId(next.0 + at)).collect(),
                names: Box::new([(count as u32 - 1, "meter-7".parse().unwrap())]),
                parts: kinds.into(),
                ends: ends.into(),
                raw: raw.into(),
                sessions: Box::default(),
            };
            next = record.next_seq();
            Arc::new(record)
        };
        of.iter().map(record).collect()
    }

    fn shown(batches: &[Batch], encoding: Encoding) -> String {
        let views = batches.iter().map(|batch| batch.view(encoding));
        views
            .map(|view| String::from_utf8_lossy(&view.bytes))
            .collect()
    }

    /// Units of a stream by their numbers, as `json` says them; and whether each is a message.
    fn numbered(json: &str) -> Vec<(u64, bool)> {
        let lines = json.lines().map(|line| {
            let event: serde_json::Value = serde_json::from_str(line).unwrap();
            (event["seq"].as_u64().unwrap(), event["event"] == "message")
        });
        lines.collect()
    }

    proptest! {
        #[test]
        fn reader_gets_the_rest_from_any_number_on_whether_records_are_joined_or_not(
            of in prop::collection::vec(
                prop::collection::vec(prop::option::of(1..4_u32), 1..5), 1..5),
            from in 0..30_u64,
            notices_from in 0..30_u64,
        ) {
            let records = records(&of);
            let whole = [Record::joined(&records).unwrap()];
            let all = shown(&whole.each_ref().map(|it| it.batch_from(Seq(0), Seq(0))), Encoding::Json);
            let (from, notices_from) = (Seq(from), Seq(notices_from));
            let expected: Vec<_> = numbered(&all)
                .into_iter()
                .filter(|(seq, is_message)| {
                    *seq >= from.0 && (*is_message || *seq >= notices_from.0)
                })
                .collect();
            let behind = records.iter().filter(|record| record.next_seq() > from);
            let apart: Vec<_> = behind.map(|it| it.batch_from(from, notices_from)).collect();
            prop_assert_eq!(numbered(&shown(&apart, Encoding::Json)), expected);
            if !apart.is_empty() {
                let joined = whole.each_ref().map(|it| it.batch_from(from, notices_from));
                for encoding in Encoding::ALL {
                    prop_assert_eq!(shown(&joined, encoding), shown(&apart, encoding));
                }
                prop_assert_eq!(joined[0].next_seq(), apart[apart.len() - 1].next_seq());
            }
        }
    }
}
