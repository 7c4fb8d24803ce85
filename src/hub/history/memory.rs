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
    records: VecDeque<Arc<Record>>,
    bytes: u64,
    messages: u64,
    /// The number behind the last.
    next: u64,
}

impl Memory {
    /// An empty one, which begins with this number.
    pub(in crate::hub) fn new(next: Seq) -> Memory {
        Memory(Mutex::new(Kept {
            next: next.0,
            ..Kept::default()
        }))
    }

    /// Keeps a record, which is the next, and lets go of what is too much then.
    pub(in crate::hub) fn push(&self, record: Arc<Record>, retention: Retention) {
        let mut kept = self.0.lock();
        kept.bytes += record.bytes();
        kept.messages += record.messages();
        kept.next = record.next_seq().0;
        let now = record.time_ms;
        kept.records.push_back(record);
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
        let behind = kept.records.partition_point(|one| one.first_seq <= from);
        let mut bytes = 0;
        let more = kept.records.range(behind - 1..).take_while(|record| {
            let is_room = bytes < bytes_max;
            bytes += record.raw.len() + record.parts.len();
            is_room
        });
        Slice::Records(more.cloned().collect())
    }

    /// The first number of the newest that is asked for.
    pub(in crate::hub) fn locate(&self, newest: Newest, now_ms: u64) -> Seq {
        let kept = self.0.lock();
        let mut search = Search::new(newest, now_ms, Seq(kept.next));
        for record in kept.records.iter().rev() {
            if !search.go_back(record) {
                break;
            }
        }
        search.found
    }

    /// The number behind the last.
    pub(in crate::hub) fn next(&self) -> Seq {
        Seq(self.0.lock().next)
    }

    /// What is kept.
    pub(in crate::hub) fn records(&self) -> Vec<Arc<Record>> {
        self.0.lock().records.iter().cloned().collect()
    }

    /// Bytes and messages that are kept, the oldest number that is, and when that was published.
    pub(in crate::hub) fn extent(&self) -> (u64, u64, Seq, Option<u64>) {
        let kept = self.0.lock();
        let oldest_at = kept.records.front().map(|record| record.time_ms);
        (kept.bytes, kept.messages, kept.oldest(), oldest_at)
    }
}

impl Kept {
    fn oldest(&self) -> Seq {
        let oldest = self.records.front();
        oldest.map_or(Seq(self.next), |record| record.first_seq)
    }

    fn retain(&mut self, retention: Retention, now_ms: u64) {
        while let Some(oldest) = self.records.front() {
            let is_too_much = self.bytes > retention.bytes && self.records.len() > 1;
            let age = now_ms.saturating_sub(oldest.time_ms);
            let age_max = retention.age.map(|age| age.as_millis());
            let is_too_old = age_max.is_some_and(|most| u128::from(age) > most);
            if !(is_too_much || is_too_old || retention.bytes == 0) {
                break;
            }
            self.bytes -= oldest.bytes();
            self.messages -= oldest.messages();
            self.records.pop_front();
        }
    }
}

/// The search for the newest of something, from the last record back.
#[derive(Debug)]
pub(in crate::hub) struct Search {
    newest: Newest,
    now_ms: u64,
    /// What has been passed by, of what is asked for.
    taken: u64,
    /// The first number of what has been found so far.
    pub(in crate::hub) found: Seq,
}

impl Search {
    /// A search that begins behind the last number.
    pub(in crate::hub) fn new(newest: Newest, now_ms: u64, next: Seq) -> Search {
        Search {
            newest,
            now_ms,
            taken: 0,
            found: next,
        }
    }

    /// Takes the record before; whether the search goes on.
    pub(in crate::hub) fn go_back(&mut self, record: &Record) -> bool {
        match self.newest {
            Newest::Messages(most) => {
                let missing = most - self.taken;
                self.taken += record.messages().min(missing);
                if self.taken < most {
                    self.found = record.first_seq;
                    return true;
                }
                if missing > 0 {
                    self.found = record.seq_of_last_messages(missing);
                }
                false
            }
            Newest::Bytes(most) => {
                let bytes = record.raw.len() as u64;
                if self.taken + bytes <= most {
                    self.taken += bytes;
                    self.found = record.first_seq;
                    return true;
                }
                let room = (most - self.taken) as usize;
                if let Some(found) = record.seq_of_last_bytes(room) {
                    self.found = found;
                }
                false
            }
            Newest::Age(most) => {
                let age = self.now_ms.saturating_sub(record.time_ms);
                let is_young = u128::from(age) <= most.as_millis();
                if is_young {
                    self.found = record.first_seq;
                }
                is_young
            }
        }
    }
}
