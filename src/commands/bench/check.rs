//! Whether every reader gets every line, once, whole, and in the order that is the same for all.
//!
//! A reader is *in step* while what it gets is the [`ExpectedStream`], byte for byte, which costs no more
//! than comparing. One that gets more than the expected stream has yet appends to it what it can verify.
//! Of one that gets something else the lines are read one by one, so that what is wrong can be told
//! and counted, and each is looked for in the expected stream.

use std::mem;

use super::expected_stream::ExpectedStream;
use super::line_decoder::{CloseNotice, LineDecoder, Seen};
use super::tracker::{Faults, Tracker};
use crate::wire::framing::Framer;

/// Longest line that any format makes of what is sent.
const LINE_BYTES_MAX: usize = 8 << 20;

/// The expected stream does not wait for a reader that is further behind the first, whose order is then
/// not compared to that of the others. It takes a daemon with a buffer well above the default.
const BEHIND_BYTES_MAX: u64 = 512 << 20;

/// Lines of one read whose latency is looked at. If there are more, each stands for some.
const LINES_LOOKED_AT: u64 = 16;

/// How often the slowest reader is looked for, in bytes of the expected stream.
const FORGET_EVERY: u64 = 256 * 1024;

/// All readers and what they get alike.
#[derive(Debug)]
pub(super) struct Check {
    expected: ExpectedStream,
    readers: Vec<Reader>,
    forgotten_at: u64,
}

#[derive(Debug)]
struct Reader {
    /// The line of the expected stream that comes next or is under way.
    line: u64,
    /// The byte of it that comes next; its first, while `framer` has a line that is under way.
    offset: u64,
    /// The line that is under way, if it is not known to be the expected one.
    framer: Framer,
    /// How many of the expected stream's gaps it has passed.
    gaps_passed: usize,
    tracker: Tracker,
    delivered: u64,
    notice: Option<CloseNotice>,
    endless: bool,
    closed: bool,
}

impl Check {
    pub(super) fn new(decoder: LineDecoder, senders: usize, readers: usize) -> Check {
        let reader = || Reader {
            line: 0,
            offset: 0,
            framer: Framer::new(LINE_BYTES_MAX),
            gaps_passed: 0,
            tracker: Tracker::default(),
            delivered: 0,
            notice: None,
            endless: false,
            closed: false,
        };
        Check {
            expected: ExpectedStream::new(decoder, senders),
            readers: (0..readers).map(|_| reader()).collect(),
            forgotten_at: 0,
        }
    }

    /// A reader got these bytes. `timed` is called for the lines they complete, with the time each
    /// was due and how many lines it stands for.
    pub(super) fn receive(&mut self, who: usize, bytes: &[u8], mut timed: impl FnMut(u64, u64)) {
        self.readers[who].receive(&mut self.expected, bytes, &mut timed);
        if self.expected.end() - self.forgotten_at > FORGET_EVERY {
            self.forget();
        }
    }

    fn forget(&mut self) {
        let end = self.expected.end();
        self.forgotten_at = end;
        let open = self.readers.iter_mut().filter(|reader| !reader.closed);
        let lines = open.map(|reader| {
            if end - reader.offset > BEHIND_BYTES_MAX {
                reader.leave_behind(&self.expected);
            }
            reader.line
        });
        let slowest = lines.min().unwrap_or(self.expected.end_line());
        self.expected.forget_before(slowest);
    }

    /// A reader's connection ended. What it misses from here on was not promised to it. Returns what
    /// it was told last.
    pub(super) fn close(&mut self, who: usize) -> Option<CloseNotice> {
        let reader = &mut self.readers[who];
        reader.closed = true;
        reader.notice.clone()
    }

    /// Lines that the reader who is ahead has got.
    pub(super) fn arrived(&self) -> u64 {
        self.expected.ours_before(self.expected.end_line())
    }

    /// The last line of a sender that a reader has got.
    pub(super) fn arrived_of(&self, sender: usize) -> u64 {
        self.expected.next()[sender] - 1
    }

    /// Lines delivered to all readers together.
    pub(super) fn delivered(&self) -> u64 {
        self.readers.iter().map(|reader| reader.delivered).sum()
    }

    /// Whether all readers that are still connected have got everything.
    pub(super) fn is_complete(&self, sent: &[u64]) -> bool {
        let mut all = self.expected.next().iter().zip(sent);
        let mut open = self.readers.iter().filter(|reader| !reader.closed);
        all.all(|(next, sent)| next > sent)
            && open
                .all(|reader| reader.offset == self.expected.end() && !reader.tracker.is_behind())
    }

    /// What went wrong at all readers together, once nothing more comes of what was sent.
    pub(super) fn faults(&mut self, sent: &[u64]) -> Faults {
        for reader in self.readers.iter_mut().filter(|reader| !reader.closed) {
            reader.overtake(&self.expected, self.expected.end_line());
            for (sender, (next, sent)) in (0..).zip(self.expected.next().iter().zip(sent)) {
                reader.tracker.pass_gap(sender, *next..sent + 1);
            }
        }
        self.faults_so_far()
    }

    /// What went wrong at all readers together, whatever more may come.
    pub(super) fn faults_so_far(&self) -> Faults {
        let mut faults = Faults::default();
        for reader in &self.readers {
            faults += reader.tracker.faults();
        }
        faults
    }
}

impl Reader {
    /// Compares with the expected stream, and reads what that does not have.
    fn receive(
        &mut self,
        expected: &mut ExpectedStream,
        mut bytes: &[u8],
        timed: &mut dyn FnMut(u64, u64),
    ) {
        if self.tracker.has_early() {
            self.catch_up(expected);
        }
        let begun = self.framer.unfinished();
        if !begun.is_empty() && expected.after(self.offset).starts_with(begun) {
            // The reader was ahead with the beginning of a line, and no longer is.
            self.offset += begun.len() as u64;
            self.framer = Framer::new(LINE_BYTES_MAX);
        }
        if self.framer.unfinished().is_empty() {
            let ahead = expected.after(self.offset);
            let common = ahead.len().min(bytes.len());
            let same = if ahead[..common] == bytes[..common] {
                common
            } else {
                let pairs = ahead.iter().zip(bytes);
                pairs.take_while(|(theirs, mine)| theirs == mine).count()
            };
            self.pass(expected, self.offset + same as u64, timed);
            bytes = &bytes[same..];
        }
        if !bytes.is_empty() {
            self.step_out(expected);
            self.read(expected, bytes, timed);
        }
    }

    /// The line that is under way need not be the expected one.
    fn step_out(&mut self, expected: &ExpectedStream) {
        let start = expected.start_of(self.line);
        if start < self.offset {
            let begun = &expected.after(start)[..(self.offset - start) as usize];
            self.framer = Framer::resume(LINE_BYTES_MAX, begun.to_vec());
            self.offset = start;
        }
    }

    /// Counts what is the same as the expected stream up to this offset.
    fn pass(&mut self, expected: &ExpectedStream, offset: u64, timed: &mut dyn FnMut(u64, u64)) {
        self.offset = offset;
        let from = self.line;
        self.line = expected.lines_until(offset, from);
        let lines = self.line - from;
        if lines == 0 {
            return;
        }
        self.delivered += expected.ours_before(self.line) - expected.ours_before(from);
        self.tracker.keep_place();
        let looked_at = lines.min(LINES_LOOKED_AT);
        for nth in 0..looked_at {
            let (at, next) = (nth * lines / looked_at, (nth + 1) * lines / looked_at);
            if let Some(due) = expected.due(from + at) {
                timed(due, next - at);
            }
        }
        self.pass_gaps(expected);
    }

    /// What was not there when the expected stream was made is not here either, unless it came before.
    fn pass_gaps(&mut self, expected: &ExpectedStream) {
        let gaps = &expected.gaps()[self.gaps_passed..];
        for gap in gaps.iter().take_while(|gap| gap.line < self.line) {
            self.tracker.pass_gap(gap.sender, gap.numbers.clone());
            self.gaps_passed += 1;
        }
    }

    /// Goes on to a line of the expected stream: those before it that have not come are missing.
    fn overtake(&mut self, expected: &ExpectedStream, to: u64) {
        self.step_out(expected);
        let lines = expected.ours_from(self.line);
        for (_, sender, number) in lines.take_while(|(at, ..)| *at < to) {
            self.tracker.overtake(sender, number);
        }
        self.line = to;
        self.offset = expected.start_of(to);
        self.pass_gaps(expected);
    }

    /// Goes on to after the lines that came before the expected stream had them.
    fn catch_up(&mut self, expected: &ExpectedStream) {
        let lines = expected.ours_from(self.line);
        let early = lines.filter(|(_, sender, number)| self.tracker.is_early(*sender, *number));
        if let Some((last, ..)) = early.last() {
            self.overtake(expected, last + 1);
        }
    }

    /// The expected stream goes on without it.
    fn leave_behind(&mut self, expected: &ExpectedStream) {
        self.overtake(expected, expected.end_line());
        self.tracker.be_left_behind();
    }

    /// Reads what the expected stream does not have, or what is not the same.
    fn read(
        &mut self,
        expected: &mut ExpectedStream,
        bytes: &[u8],
        timed: &mut dyn FnMut(u64, u64),
    ) {
        let mut framer = mem::replace(&mut self.framer, Framer::new(LINE_BYTES_MAX));
        let lines = framer.push(bytes);
        let mut leads = self.offset == expected.end();
        for line in lines.iter() {
            if leads && !self.is_early(expected, line) && expected.lead(line) {
                continue;
            }
            if leads {
                self.pass(expected, expected.end(), timed);
            }
            self.read_line(expected, line, timed);
            leads = self.offset == expected.end();
        }
        if leads {
            self.pass(expected, expected.end(), timed);
        }
        if lines.too_long && !mem::replace(&mut self.endless, true) {
            self.tracker.cut();
        }
        self.framer = framer;
    }

    /// Whether a line came before.
    fn is_early(&self, expected: &ExpectedStream, line: &[u8]) -> bool {
        self.tracker.has_early()
            && matches!(expected.decoder.read(line), Seen::Ours(header)
                if self.tracker.is_early(header.sender, expected.number_of(&header)))
    }

    /// Finds the place in the expected stream that goes with a line, and goes there.
    fn read_line(
        &mut self,
        expected: &ExpectedStream,
        line: &[u8],
        timed: &mut dyn FnMut(u64, u64),
    ) {
        let tracker = &mut self.tracker;
        match expected.decoder.read(line) {
            Seen::Ours(header) => {
                let (sender, number) = (header.sender, expected.number_of(&header));
                let is_late = tracker.find(sender, number);
                if let (false, Some(at)) = (is_late, expected.find(self.line, sender, number)) {
                    self.overtake(expected, at);
                    self.pass(expected, expected.start_of(at + 1), timed);
                } else if is_late
                    || expected.may_have(self.gaps_passed, sender, number)
                        && tracker.be_early(sender, number)
                {
                    self.delivered += 1;
                    timed(header.due, 1);
                } else {
                    tracker.double();
                }
            }
            Seen::Other => {
                let ahead = expected.after(self.offset).strip_prefix(line);
                if ahead.is_some_and(|rest| rest.first() == Some(&b'\n')) {
                    self.pass(expected, self.offset + line.len() as u64 + 1, timed);
                }
            }
            Seen::Torn(headers) => {
                // What has neither head nor tail is a line as well.
                for _ in 0..headers.len().max(1) {
                    tracker.cut();
                }
                for header in headers {
                    let (sender, number) = (header.sender, expected.number_of(&header));
                    let is_expected = expected.find(self.line, sender, number).is_some()
                        || expected.may_have(self.gaps_passed, sender, number);
                    tracker.find_cut(sender, number, is_expected);
                }
            }
            Seen::Skipped(count) => tracker.tell(count),
            Seen::CloseNotice(notice) => self.notice = Some(notice),
        }
    }
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
