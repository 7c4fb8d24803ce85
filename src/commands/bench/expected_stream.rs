//! What all readers receive alike, as the one that was ahead received and verified it.
//!
//! Readers send nothing, so that from one line on their streams are the same, byte for byte. Hence
//! the lines are read once, by whoever is first, and all others only compare bytes. What is behind
//! the last reader is forgotten.

use std::collections::VecDeque;
use std::ops::Range;

use super::line::LineHeader;
use super::line_decoder::{LineDecoder, Seen};

/// What is forgotten at a time, so that it is rarely moved.
const FORGET_BYTES: usize = 256 * 1024;

/// The stream from the slowest reader to the fastest.
#[derive(Debug)]
pub(super) struct ExpectedStream {
    pub(super) decoder: LineDecoder,
    /// Where in the stream `bytes` begins; the start of a line.
    base: u64,
    bytes: Vec<u8>,
    /// The number of the line that `bytes` begins with, counted from 0.
    base_line: u64,
    /// Lines of this run before that.
    base_ours: u64,
    lines: VecDeque<Line>,
    /// What each sender's next line is to be at the end.
    next: Vec<u64>,
    gaps: Vec<Gap>,
}

/// A line of the stream.
#[derive(Clone, Copy, Debug)]
struct Line {
    /// The offset after its LF.
    end: u64,
    /// Lines of this run up to this one.
    ours: u64,
    /// `None` for notices and for lines of others.
    of: Option<Ours>,
}

/// A line of this run.
#[derive(Clone, Copy, Debug)]
struct Ours {
    sender: u32,
    number: u64,
    due: u64,
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
            next: vec![1; senders],
            gaps: Vec::new(),
        }
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

    fn index(&self, line: u64) -> usize {
        (line - self.base_line) as usize
    }

    fn before(&self, line: u64) -> Option<&Line> {
        Some(&self.lines[self.index(line).checked_sub(1)?])
    }

    /// Where a line begins.
    pub(super) fn start_of(&self, line: u64) -> u64 {
        self.before(line).map_or(self.base, |before| before.end)
    }

    /// Lines of this run among those before `line`, counted from the stream's beginning.
    pub(super) fn ours_before(&self, line: u64) -> u64 {
        self.before(line)
            .map_or(self.base_ours, |before| before.ours)
    }

    /// How many lines end at or before an offset, given that `at_least` do.
    pub(super) fn lines_until(&self, offset: u64, at_least: u64) -> u64 {
        let from = self.index(at_least);
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
        Some(self.lines[self.index(line)].of?.due)
    }

    /// The lines of this run from `line` on: where each is, its sender and its number.
    pub(super) fn ours_from(&self, line: u64) -> impl Iterator<Item = (u64, u32, u64)> {
        let lines = (line..).zip(self.lines.range(self.index(line)..));
        lines.filter_map(|(at, line)| line.of.map(|of| (at, of.sender, of.number)))
    }

    /// Where a sender's line is, if that is `from` or after it.
    pub(super) fn find(&self, from: u64, sender: u32, number: u64) -> Option<u64> {
        if number >= self.next_of(sender) {
            return None;
        }
        let mut ahead = self.ours_from(from);
        let (at, _, found) = ahead.find(|(_, of, at)| *of == sender && *at >= number)?;
        (found == number).then_some(at)
    }

    /// Whether a sender's line, which is not from here on, may yet be appended, or is in a gap that
    /// follows so many others.
    pub(super) fn may_have(&self, gaps: usize, sender: u32, number: u64) -> bool {
        let is_in = |gap: &Gap| gap.sender == sender && gap.numbers.contains(&number);
        number >= self.next_of(sender) || self.gaps[gaps..].iter().any(is_in)
    }

    /// Which line a header is of.
    pub(super) fn number_of(&self, header: &LineHeader) -> u64 {
        let next = self.next.get(header.sender as usize);
        header.number_near(next.copied().unwrap_or_default())
    }

    /// What a sender's next line is to be; out of reach where there is no such sender.
    fn next_of(&self, sender: u32) -> u64 {
        self.next.get(sender as usize).copied().unwrap_or(u64::MAX)
    }

    /// What each sender's next line is at the end.
    pub(super) fn next(&self) -> &[u64] {
        &self.next
    }

    /// Appends a line, given without its LF, if nothing is wrong with it. A gap before it is noted.
    pub(super) fn lead(&mut self, line: &[u8]) -> bool {
        let of = match self.decoder.read(line) {
            Seen::Ours(header) => {
                let (sender, due, number) = (header.sender, header.due, self.number_of(&header));
                let at = self.end_line();
                let Some(next) = self.next.get_mut(sender as usize) else {
                    return false;
                };
                // One after it came earlier: it is not in its place.
                if number < *next {
                    return false;
                }
                if *next < number {
                    self.gaps.push(Gap {
                        line: at,
                        sender,
                        numbers: *next..number,
                    });
                }
                *next = number + 1;
                Some(Ours {
                    sender,
                    number,
                    due,
                })
            }
            Seen::Other => None,
            Seen::Torn(_) | Seen::Skipped(_) | Seen::CloseNotice(_) => return false,
        };
        let ours = self.ours_before(self.end_line()) + u64::from(of.is_some());
        self.bytes.extend_from_slice(line);
        self.bytes.push(b'\n');
        let end = self.end();
        self.lines.push_back(Line { end, ours, of });
        true
    }

    /// All gaps, in the order of their lines.
    pub(super) fn gaps(&self) -> &[Gap] {
        &self.gaps
    }

    /// Forgets what is before this line, once that is worth it.
    pub(super) fn forget_before(&mut self, line: u64) {
        let bytes = (self.start_of(line) - self.base) as usize;
        if bytes < FORGET_BYTES || bytes < self.bytes.len() / 2 {
            return;
        }
        self.base_ours = self.ours_before(line);
        self.lines.drain(..self.index(line));
        self.bytes.drain(..bytes);
        self.base += bytes as u64;
        self.base_line = line;
    }
}
