//! One append: what it writes, and how it is taken back.

use std::io::IoSlice;
use std::sync::Arc;

use bytes::Bytes;

use super::active::Active;
use super::codec::{self, Head, Salt, TooLarge};
use super::index::{Later, Place};
use super::segment::{Times, Written};
use super::totals::{Before, Sessions, Totals, add_sessions};
use crate::hub::history::record::Record;

/// Lines of a record up to this are copied to its head: the system takes one piece faster than two.
const COPIED_MAX: usize = 4096;

/// Records as they are to be written.
#[derive(Debug, Default)]
pub(super) struct Staged {
    /// All but the long lines.
    bytes: Vec<u8>,
    /// Long lines, and where among the bytes they go.
    lines: Vec<(usize, Bytes)>,
    len: u64,
}

/// What was staged at a moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    bytes: usize,
    lines: usize,
    len: u64,
}

impl Staged {
    /// Adds a record. On an error, nothing is added.
    pub(super) fn add(&mut self, record: &Record, salt: Salt) -> Result<Head, TooLarge> {
        let head = codec::encode(record, salt, &mut self.bytes)?;
        match record.raw.len() <= COPIED_MAX {
            true => self.bytes.extend_from_slice(&record.raw),
            false => self.lines.push((self.bytes.len(), record.raw.clone())),
        }
        self.len += head.record_len();
        Ok(head)
    }

    /// Bytes to write.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn mark(&self) -> Mark {
        Mark {
            bytes: self.bytes.len(),
            lines: self.lines.len(),
            len: self.len,
        }
    }

    /// Takes out what was added since.
    pub(super) fn back_to(&mut self, mark: Mark) {
        self.bytes.truncate(mark.bytes);
        self.lines.truncate(mark.lines);
        self.len = mark.len;
    }

    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.lines.clear();
        self.len = 0;
    }

    /// All of it, in its order.
    pub(super) fn slices(&self) -> Vec<IoSlice<'_>> {
        let mut slices = Vec::with_capacity(2 * self.lines.len() + 1);
        let mut from = 0;
        for (at, lines) in &self.lines {
            slices.push(IoSlice::new(&self.bytes[from..*at]));
            slices.push(IoSlice::new(lines));
            from = *at;
        }
        slices.push(IoSlice::new(&self.bytes[from..]));
        slices
    }
}

/// What an append has done so far. Readers see nothing of it.
#[derive(Debug)]
pub(super) struct Group {
    /// What there was before.
    pub(super) totals: Totals,
    pub(super) sessions: Before,
    pub(super) active: Option<Active>,
    /// Something was written to the segment that was there.
    pub(super) is_written: bool,
    /// Segments that were begun.
    pub(super) begun: Vec<Active>,
    /// Records that were written, a run for each segment.
    pub(super) written: Vec<Written>,
    run: Option<Run>,
}

/// Records that are staged for one segment.
#[derive(Debug)]
struct Run {
    end: Place,
    first_ms: u64,
    later: Later,
}

impl Group {
    pub(super) fn begin(totals: Totals, active: Option<Active>) -> Group {
        Group {
            totals,
            sessions: Vec::new(),
            active,
            is_written: false,
            begun: Vec::new(),
            written: Vec::new(),
            run: None,
        }
    }

    /// Takes in a record that is staged for the segment.
    pub(super) fn add(
        &mut self,
        record: &Record,
        head: &Head,
        active: &Active,
        totals: &mut Totals,
        sessions: &mut Sessions,
    ) {
        let run = self.run.get_or_insert_with(|| Run {
            end: active.end,
            first_ms: head.time_ms,
            later: active.segment.later(),
        });
        run.later.add(run.end, head);
        run.end = run.end.behind(head);
        totals.add(record);
        add_sessions(sessions, record, &mut self.sessions);
    }

    /// A segment is written to.
    pub(super) fn touches(&mut self, active: &Active) {
        let is_old = |old: &Active| Arc::ptr_eq(&old.segment, &active.segment);
        self.is_written |= self.active.as_ref().is_some_and(is_old);
    }

    /// A segment was begun.
    pub(super) fn begins(&mut self, active: &Active) {
        self.begun.push(active.clone());
    }

    /// What was staged for the segment is written: where it ends.
    pub(super) fn end_run(&mut self, active: &Active, boot_ms: i64) -> Place {
        let Some(run) = self.run.take() else {
            return active.end;
        };
        self.written.push(Written {
            segment: Arc::clone(&active.segment),
            end: run.end,
            times: Times {
                first_ms: run.first_ms,
                last_boot_ms: boot_ms,
            },
            entries: run.later.entries,
        });
        run.end
    }
}
