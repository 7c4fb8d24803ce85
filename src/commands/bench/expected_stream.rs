//! What all readers receive alike, as the one that was ahead received and verified it.
//!
//! Readers send nothing, so that from one line on their streams are the same, byte for byte. Hence
//! the lines are read once, by whoever is first, and all others only compare bytes. What is behind
//! the last reader is forgotten.

use std::collections::VecDeque;
use std::ops::Range;

use super::line_decoder::LineDecoder;

/// What is forgotten at a time, so that it is rarely moved.
const FORGET_BYTES: usize = 256 * 1024;

/// The stream from the slowest reader to the fastest.
#[derive(Debug)]
pub(super) struct ExpectedStream {
    decoder: LineDecoder,
    /// Where in the stream `bytes` begins; the start of a line.
    base: u64,
    bytes: Vec<u8>,
    /// The number of the line that `bytes` begins with, counted from 0.
    base_line: u64,
    /// Lines of this run before that.
    base_ours: u64,
    lines: VecDeque<LineEnd>,
    /// Where each sender's lines are: number and line, in this order.
    places: Vec<VecDeque<(u64, u64)>>,
    /// What each sender's next line was to be at `base`, and is at the end.
    next_at_base: Vec<u64>,
    next_at_end: Vec<u64>,
    gaps: Vec<Gap>,
}

/// A line of the stream.
#[derive(Clone, Copy, Debug)]
struct LineEnd {
    /// The offset after its LF.
    end: u64,
    /// When it was due; `None` for notices and for lines of others.
    due: Option<u64>,
    /// Lines of this run up to this one.
    ours: u64,
}

/// Lines that were not there when later ones of their sender came.
#[derive(Clone, Debug)]
pub(super) struct Gap {
    /// The line that came instead.
    pub(super) line: u64,
    pub(super) sender: u32,
    pub(super) numbers: Range<u64>,
}

impl ExpectedStream {
    pub(super) fn new(decoder: LineDecoder, senders: usize) -> ExpectedStream {
        ExpectedStream {
            decoder,
            base: 0,
            bytes: Vec::new(),
            base_line: 0,
            base_ours: 0,
            lines: VecDeque::new(),
            places: vec![VecDeque::new(); senders],
            next_at_base: vec![1; senders],
            next_at_end: vec![1; senders],
            gaps: Vec::new(),
        }
    }

    pub(super) fn decoder(&self) -> &LineDecoder {
        &self.decoder
    }

    /// The offset after the last line.
    pub(super) fn end(&self) -> u64 {
        self.base + self.bytes.len() as u64
    }

    #[cfg(test)]
    pub(super) fn held_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Lines so far.
    pub(super) fn end_line(&self) -> u64 {
        self.base_line + self.lines.len() as u64
    }

    /// What follows an offset.
    pub(super) fn after(&self, offset: u64) -> &[u8] {
        &self.bytes[(offset - self.base) as usize..]
    }

    /// Where a line begins.
    pub(super) fn start_of(&self, line: u64) -> u64 {
        match line.checked_sub(self.base_line + 1) {
            Some(before) => self.lines[before as usize].end,
            None => self.base,
        }
    }

    /// A line without its LF.
    pub(super) fn line(&self, line: u64) -> &[u8] {
        let (from, to) = (self.start_of(line), self.start_of(line + 1));
        &self.after(from)[..(to - from) as usize - 1]
    }

    /// How many lines end at or before an offset, given that `at_least` do.
    pub(super) fn lines_until(&self, offset: u64, at_least: u64) -> u64 {
        let from = (at_least - self.base_line) as usize;
        let is_before = |index: usize| self.lines.get(index).is_some_and(|line| line.end <= offset);
        // Lines are about as long as one another: steps that double find the place in few.
        let mut step = 1;
        while is_before(from + step - 1) {
            step *= 2;
        }
        let (mut low, mut high) = (from + step / 2, from + step - 1);
        while low < high {
            let middle = usize::midpoint(low, high);
            if is_before(middle) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        self.base_line + low as u64
    }

    /// When a line was due, if it is of this run.
    pub(super) fn due(&self, line: u64) -> Option<u64> {
        self.lines[(line - self.base_line) as usize].due
    }

    /// Lines of this run among those before `line`, counted from the stream's beginning.
    pub(super) fn ours_before(&self, line: u64) -> u64 {
        match line.checked_sub(self.base_line + 1) {
            Some(before) => self.lines[before as usize].ours,
            None => self.base_ours,
        }
    }

    /// Lines of this run in all.
    pub(super) fn ours(&self) -> u64 {
        self.lines.back().map_or(self.base_ours, |line| line.ours)
    }

    /// Appends a whole line, given without its LF.
    fn append(&mut self, line: &[u8], due: Option<u64>) {
        let ours = self.ours() + u64::from(due.is_some());
        self.bytes.extend_from_slice(line);
        self.bytes.push(b'\n');
        let end = self.end();
        self.lines.push_back(LineEnd { end, due, ours });
    }

    /// Appends a line of nobody of ours.
    pub(super) fn append_other(&mut self, line: &[u8]) {
        self.append(line, None);
    }

    /// Appends a line of this run, unless one after it came earlier: then it is not in its place.
    /// A gap before it is noted.
    pub(super) fn append_ours(&mut self, line: &[u8], sender: u32, number: u64, due: u64) -> bool {
        let Some(next) = self.next_at_end.get_mut(sender as usize) else {
            return false;
        };
        if number < *next {
            return false;
        }
        let numbers = *next..number;
        *next = number + 1;
        if !numbers.is_empty() {
            self.gaps.push(Gap {
                line: self.end_line(),
                sender,
                numbers,
            });
        }
        let line_number = self.end_line();
        self.places[sender as usize].push_back((number, line_number));
        self.append(line, Some(due));
        true
    }

    /// What each sender's next line is at the end.
    pub(super) fn next_at_end(&self) -> &[u64] {
        &self.next_at_end
    }

    /// What each sender's next line is before this line.
    pub(super) fn next_before(&self, line: u64) -> Vec<u64> {
        let before = |(places, at_base): (&VecDeque<(u64, u64)>, &u64)| {
            let count = places.partition_point(|(_, at)| *at < line);
            let last = count.checked_sub(1).map(|last| places[last].0);
            last.map_or(*at_base, |number| number + 1)
        };
        self.places
            .iter()
            .zip(&self.next_at_base)
            .map(before)
            .collect()
    }

    /// All gaps, in the order of their lines.
    pub(super) fn gaps(&self) -> &[Gap] {
        &self.gaps
    }

    /// Where a sender's line is, unless it is not there or forgotten.
    pub(super) fn line_of(&self, sender: u32, number: u64) -> Option<u64> {
        let places = self.places.get(sender as usize)?;
        let found = places.binary_search_by_key(&number, |(number, _)| *number);
        found.ok().map(|at| places[at].1)
    }

    /// Forgets what is before this line, once that is worth it.
    pub(super) fn forget_before(&mut self, line: u64) {
        let bytes = (self.start_of(line) - self.base) as usize;
        if bytes < FORGET_BYTES || bytes < self.bytes.len() / 2 {
            return;
        }
        self.next_at_base = self.next_before(line);
        for places in &mut self.places {
            places.drain(..places.partition_point(|(_, at)| *at < line));
        }
        self.base_ours = self.ours_before(line);
        self.lines.drain(..(line - self.base_line) as usize);
        self.bytes.drain(..bytes);
        self.base += bytes as u64;
        self.base_line = line;
    }
}
