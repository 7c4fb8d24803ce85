//! Where the records of a segment are: a sparse index, by number, message, byte and time.

use super::codec::Head;
use super::header::Header;
use crate::wire::ids::Seq;

/// Bytes between two entries at least: what is read in vain at most to find a record.
pub(super) const STEP: u64 = 64 * 1024;

/// A place between two records of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// From the start of the file.
    pub(super) at: u64,
    /// The next number.
    pub(super) seq: Seq,
    /// Messages ever before it, in all segments that there were.
    pub(super) messages: u64,
    /// Bytes of lines ever before it.
    pub(super) bytes: u64,
}

impl Place {
    /// The first place of a segment.
    pub(super) fn first(header: &Header, header_len: u64) -> Place {
        Place {
            at: header_len,
            seq: header.first_seq,
            messages: header.messages_before,
            bytes: header.bytes_before,
        }
    }

    /// The place behind a record that begins here.
    pub(super) fn behind(self, record: &Head) -> Place {
        Place {
            at: self.at + record.record_len(),
            seq: record.next_seq(),
            messages: self.messages + u64::from(record.messages),
            bytes: self.bytes + u64::from(record.raw_len),
        }
    }
}

/// A record that the index leads to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) place: Place,
    /// When it was published.
    pub(super) time_ms: u64,
}

/// Entries in the order of the file, the first record's first.
#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    entries: Vec<Entry>,
}

impl Index {
    /// Takes in the record that begins at `place`, the next of the file.
    pub(super) fn add(&mut self, place: Place, record: &Head) {
        let is_far = |last: &Entry| place.at >= last.place.at + STEP;
        if self.entries.last().is_none_or(is_far) {
            self.entries.push(Entry {
                place,
                time_ms: record.time_ms,
            });
        }
    }

    /// Takes in what was added elsewhere to go on here.
    pub(super) fn append(&mut self, later: Vec<Entry>) {
        self.entries.extend(later);
    }

    /// To go on with behind the last entry.
    pub(super) fn later(&self) -> Later {
        Later {
            last: self.entries.last().map(|entry| entry.place.at),
            entries: Vec::new(),
        }
    }

    /// The last entry of which `is_before` is true; it is true of none behind one of which it is false.
    pub(super) fn last(&self, is_before: impl FnMut(&Entry) -> bool) -> Option<Place> {
        let behind = self.entries.partition_point(is_before);
        Some(self.entries[behind.checked_sub(1)?].place)
    }
}

/// Entries of records that readers do not see yet.
#[derive(Debug, Default)]
pub(super) struct Later {
    last: Option<u64>,
    pub(super) entries: Vec<Entry>,
}

impl Later {
    /// As [`Index::add`].
    pub(super) fn add(&mut self, place: Place, record: &Head) {
        if self.last.is_none_or(|last| place.at >= last + STEP) {
            self.last = Some(place.at);
            self.entries.push(Entry {
                place,
                time_ms: record.time_ms,
            });
        }
    }
}
