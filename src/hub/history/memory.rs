//! The history in memory: the records themselves, which share their lines with the batches they are of.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;

use super::kept::{Retention, Slice};
use super::record::Record;
use crate::wire::ids::Seq;
use crate::wire::past::Newest;

/// The newest records of a channel, in memory.
///
/// What is kept is at most one record more than the retention says: what came in one read goes together.
#[derive(Debug)]
pub(in crate::hub) struct Memory(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    entries: VecDeque<Entry>,
    bytes: u64,
    /// Messages that there ever were, and bytes of their lines.
    messages: u64,
    raw_bytes: u64,
    /// The number behind the last.
    next: u64,
}

/// A record, and the messages and bytes of lines that there were before it: so that nothing is found by going
/// through all records while a publisher waits.
#[derive(Debug)]
struct Entry {
    messages_before: u64,
    raw_bytes_before: u64,
    record: Arc<Record>,
}

impl Memory {
    /// An empty one, which begins with this number.
    pub(in crate::hub) fn new(next: Seq) -> Memory {
        Memory(Mutex::new(Kept {
            next: next.0,
            ..Kept::default()
        }))
    }

    /// Begins anew with this number, before which so many messages were published.
    pub(in crate::hub) fn restart(&self, next: Seq, messages: u64) {
        *self.0.lock() = Kept {
            next: next.0,
            messages,
            ..Kept::default()
        };
    }

    /// Messages that were ever published.
    pub(in crate::hub) fn published(&self) -> u64 {
        self.0.lock().messages
    }

    /// Keeps a record, which is the next, and lets go of what is too much then.
    pub(in crate::hub) fn push(&self, record: Arc<Record>, retention: Retention) {
        let mut kept = self.0.lock();
        let entry = Entry {
            messages_before: kept.messages,
            raw_bytes_before: kept.raw_bytes,
            record,
        };
        let record = &entry.record;
        kept.bytes += record.bytes();
        kept.messages += record.messages();
        kept.raw_bytes += record.raw.len() as u64;
        kept.next = record.next_seq().0;
        let now = record.time_ms;
        kept.entries.push_back(entry);
        kept.retain(retention, now);
    }

    /// Lets go of what is too much, or too old by now.
    pub(in crate::hub) fn retain(&self, retention: Retention, now_ms: u64) {
        self.0.lock().retain(retention, now_ms);
    }

    /// Records from the one on that holds `from`, of about so many bytes.
    pub(in crate::hub) fn read(&self, from: Seq, bytes_max: usize) -> Slice<Arc<Record>> {
        let kept = self.0.lock();
        if from.0 >= kept.next {
            return Slice::End;
        }
        let oldest = kept.oldest();
        if from < oldest {
            return Slice::Gone { oldest };
        }
        let at = kept.last_of(|entry| entry.record.first_seq <= from);
        let mut bytes = 0;
        let more = kept.entries.range(at..).map(|entry| &entry.record);
        let more = more.take_while(|record| {
            let is_room = bytes < bytes_max;
            bytes += record.weight();
            is_room
        });
        Slice::Records(more.cloned().collect())
    }

    /// The first number of the newest that is asked for; the next number if that is none of them.
    pub(in crate::hub) fn locate(&self, newest: Newest, now_ms: u64) -> Seq {
        let kept = self.0.lock();
        let first = match newest {
            Newest::Messages(most) => kept.first_of_messages(most),
            Newest::Bytes(most) => kept.first_of_bytes(most),
            Newest::Age(most) => {
                let age = |record: &Record| u128::from(now_ms.saturating_sub(record.time_ms));
                let is_older = |entry: &Entry| age(&entry.record) > most.as_millis();
                kept.first_in(kept.entries.partition_point(is_older))
            }
        };
        first.unwrap_or(Seq(kept.next))
    }

    /// The number behind the last.
    pub(in crate::hub) fn next(&self) -> Seq {
        Seq(self.0.lock().next)
    }

    /// What is kept.
    pub(in crate::hub) fn records(&self) -> Vec<Arc<Record>> {
        let kept = self.0.lock();
        let records = kept.entries.iter().map(|entry| entry.record.clone());
        records.collect()
    }

    /// Bytes and messages that are kept, the oldest number that is, and when that was published.
    pub(in crate::hub) fn extent(&self) -> (u64, u64, Seq, Option<u64>) {
        let kept = self.0.lock();
        let oldest = kept.entries.front();
        let oldest_at = oldest.map(|entry| entry.record.time_ms);
        let messages_before = oldest.map_or(kept.messages, |entry| entry.messages_before);
        let messages = kept.messages - messages_before;
        (kept.bytes, messages, kept.oldest(), oldest_at)
    }
}

impl Kept {
    fn oldest(&self) -> Seq {
        self.first_in(0).unwrap_or(Seq(self.next))
    }

    /// The first number of the record at this index, if there is one.
    fn first_in(&self, at: usize) -> Option<Seq> {
        let entry = self.entries.get(at)?;
        Some(entry.record.first_seq)
    }

    /// The index of the last entry of which this is true; it is true of none behind one of which it is false.
    fn last_of(&self, is_before: impl Fn(&Entry) -> bool) -> usize {
        let behind = self.entries.partition_point(is_before);
        behind.saturating_sub(1)
    }

    /// The number of the first of the last so many messages.
    fn first_of_messages(&self, most: u64) -> Option<Seq> {
        let oldest = self.entries.front()?.messages_before;
        let first = self.messages.saturating_sub(most).max(oldest);
        if first == self.messages {
            return None;
        }
        let entry = &self.entries[self.last_of(|entry| entry.messages_before <= first)];
        let behind = entry.messages_before + entry.record.messages();
        Some(entry.record.seq_of_last_messages(behind - first))
    }

    /// The number of the first of the last messages whose lines have at most so many bytes.
    fn first_of_bytes(&self, most: u64) -> Option<Seq> {
        let oldest = self.entries.front()?.raw_bytes_before;
        let first = self.raw_bytes.saturating_sub(most).max(oldest);
        if first == self.raw_bytes {
            return None;
        }
        let at = self.last_of(|entry| entry.raw_bytes_before <= first);
        let entry = &self.entries[at];
        let record = &entry.record;
        let room = entry.raw_bytes_before + record.raw.len() as u64 - first;
        let found = record.seq_of_last_bytes(usize::try_from(room).unwrap_or(usize::MAX));
        found.or_else(|| self.first_in(at + 1))
    }

    fn retain(&mut self, retention: Retention, now_ms: u64) {
        while let Some(entry) = self.entries.front() {
            let oldest = &entry.record;
            let is_too_much = self.bytes > retention.bytes && self.entries.len() > 1;
            let age = now_ms.saturating_sub(oldest.time_ms);
            let age_max = retention.age.map(|age| age.as_millis());
            let is_too_old = age_max.is_some_and(|most| u128::from(age) > most);
            if !(is_too_much || is_too_old || retention.bytes == 0) {
                break;
            }
            self.bytes -= oldest.bytes();
            self.entries.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::hub::part::{Kind, Part};
    use crate::wire::format::Notice;
    use crate::wire::ids::ClientId;

    const ALL: Retention = Retention {
        bytes: u64::MAX,
        age: None,
    };

    /// A record of these lines, by their lengths; a notice if there are none.
    fn record(first: u64, lines: &[usize]) -> Arc<Record> {
        let raw: String = lines.iter().map(|len| "x".repeat(*len) + "\n").collect();
        let kind = match lines.is_empty() {
            true => Kind::Notice(Notice::Connect),
            false => Kind::Lines,
        };
        let messages = lines.len() as u32;
        Arc::new(Record {
            first_seq: Seq(first),
            time_ms: first,
            origins: Box::new([ClientId(1)]),
            names: Box::default(),
            parts: Box::new([Part { kind, messages }]),
            ends: Box::new([raw.len() as u32]),
            raw: raw.into(),
            sessions: Box::default(),
        })
    }

    proptest! {
        #[test]
        fn newest_are_found_as_by_counting_back(
            records in prop::collection::vec(prop::collection::vec(0..4_usize, 0..4), 0..12),
            gone in 0..6_usize,
            most in 0..40_u64,
        ) {
            let (memory, mut next) = (Memory::new(Seq(1)), 1);
            // Number, bytes and time of each message.
            let mut messages = Vec::new();
            let gone = gone.min(records.len());
            for (at, lines) in records.iter().enumerate() {
                let kept = record(next, lines);
                memory.push(kept.clone(), ALL);
                let of = lines.iter().zip(next..);
                let of = of.map(|(len, seq)| (seq, *len as u64 + 1, kept.time_ms));
                messages.extend(of.filter(|_| at >= gone));
                next = kept.next_seq().0;
            }
            for _ in 0..gone {
                let mut kept = memory.0.lock();
                let oldest = kept.entries.pop_front().unwrap();
                kept.bytes -= oldest.record.bytes();
            }
            let end = next;
            let count = messages.len().saturating_sub(most as usize);
            let by_count = messages.get(count).map_or(end, |message| message.0);
            prop_assert_eq!(memory.locate(Newest::Messages(most), end), Seq(by_count));
            let mut room = most;
            let fit = messages.iter().rev().take_while(|message| {
                let left = room.checked_sub(message.1);
                room = left.unwrap_or(room);
                left.is_some()
            });
            let by_bytes = messages.len() - fit.count();
            let found = memory.locate(Newest::Bytes(most), end).0;
            // Notices between the two are not shown.
            let between = messages.iter().filter(|it| it.0 >= found).count();
            prop_assert_eq!(between, messages.len() - by_bytes);
            let found = memory.locate(Newest::Age(Duration::from_millis(most)), end).0;
            let young = messages.iter().filter(|it| end - it.2 <= most).count();
            prop_assert_eq!(messages.iter().filter(|it| it.0 >= found).count(), young);
            let (_, kept, ..) = memory.extent();
            prop_assert_eq!(kept, messages.len() as u64);
        }
    }
}
