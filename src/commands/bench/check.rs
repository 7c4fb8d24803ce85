//! Whether every reader gets every line, once, whole, and in the order that is the same for all.
//!
//! A reader is *in step* while what it gets is the [`ExpectedStream`], byte for byte, which costs no more
//! than comparing. One that gets more than the expected stream has yet appends to it what it can verify.
//! One that gets something else goes *alone*: its lines are read one by one, so that what is wrong
//! can be told and counted, until they are where the expected stream is again.

use std::mem;

use super::expected_stream::ExpectedStream;
use super::line::LineHeader;
use super::line_decoder::{CloseNotice, LineDecoder, Seen};
use super::tracker::{Arrival, Faults, Tracker};
use crate::wire::framing::Framer;

/// Longest line that any format makes of what is sent.
const LINE_BYTES_MAX: usize = 8 << 20;

/// A reader that is further behind the first is read alone, without comparing its order to that of
/// the others. It takes a daemon with a buffer well above the default.
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
    /// The byte of it that comes next. While alone, its beginning.
    offset: u64,
    alone: bool,
    /// Whether, while alone, the last line was where the expected stream is.
    in_step: bool,
    /// Whether the reader is too far behind for the expected stream to wait for it.
    detached: bool,
    /// The line that is under way, if the expected stream does not have it or the reader is alone.
    framer: Framer,
    /// How many of the expected stream's gaps it knows of.
    gaps_seen: usize,
    /// Only readers with faults need one.
    tracker: Option<Box<Tracker>>,
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
            alone: false,
            in_step: false,
            detached: false,
            framer: Framer::new(LINE_BYTES_MAX),
            gaps_seen: 0,
            tracker: None,
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
        for reader in &mut self.readers {
            if end - reader.offset > BEHIND_BYTES_MAX && !reader.closed && !reader.detached {
                reader.detach(&self.expected);
            }
        }
        let waited_for = self
            .readers
            .iter()
            .filter(|reader| !reader.closed && !reader.detached);
        let slowest = waited_for.map(|reader| reader.line).min();
        self.expected
            .forget_before(slowest.unwrap_or(self.expected.end_line()));
    }

    /// A reader's connection ended. What it misses from here on was not promised to it. Returns what
    /// it was told last.
    pub(super) fn close(&mut self, who: usize) -> Option<CloseNotice> {
        let reader = &mut self.readers[who];
        // The reader's place in the expected stream will be forgotten.
        reader.know(&self.expected);
        reader.closed = true;
        reader.notice.clone()
    }

    /// Lines that the reader who is ahead has got.
    pub(super) fn arrived(&self) -> u64 {
        self.expected.ours()
    }

    /// The last line of a sender that this reader has got.
    pub(super) fn arrived_of(&self, sender: usize) -> u64 {
        self.expected.next_at_end()[sender] - 1
    }

    /// Lines delivered to all readers together.
    pub(super) fn delivered(&self) -> u64 {
        self.readers.iter().map(|reader| reader.delivered).sum()
    }

    /// Whether all readers that are still connected have got everything.
    pub(super) fn is_complete(&self, sent: &[u64]) -> bool {
        let is_all = |next: &[u64]| next.iter().zip(sent).all(|(next, sent)| *next > *sent);
        let expected_is = is_all(self.expected.next_at_end());
        self.readers
            .iter()
            .filter(|reader| !reader.closed)
            .all(|reader| {
                let tracker = reader.tracker.as_ref().filter(|_| reader.alone);
                match tracker {
                    Some(tracker) => is_all(tracker.all_next()),
                    None => expected_is && reader.offset == self.expected.end(),
                }
            })
    }

    /// What went wrong at all readers together, once nothing more comes.
    pub(super) fn faults(&mut self, sent: &[u64]) -> Faults {
        let mut faults = Faults::default();
        for reader in &mut self.readers {
            if !reader.closed {
                reader.know(&self.expected);
            }
            if let Some(tracker) = &reader.tracker {
                faults += tracker.faults((!reader.closed).then_some(sent));
            }
        }
        faults
    }
}

impl Reader {
    fn receive(
        &mut self,
        expected: &mut ExpectedStream,
        bytes: &[u8],
        timed: &mut dyn FnMut(u64, u64),
    ) {
        if !self.alone && self.offset < expected.end() && !self.framer.unfinished().is_empty() {
            // The reader was ahead with the beginning of a line, and no longer is.
            let framer = mem::replace(&mut self.framer, Framer::new(LINE_BYTES_MAX));
            self.follow(expected, framer.unfinished(), timed);
        }
        if self.alone || !self.framer.unfinished().is_empty() {
            self.read(expected, bytes, timed);
        } else {
            self.follow(expected, bytes, timed);
        }
    }

    /// Compares with the expected stream, and reads what that does not have.
    fn follow(
        &mut self,
        expected: &mut ExpectedStream,
        bytes: &[u8],
        timed: &mut dyn FnMut(u64, u64),
    ) {
        let ahead = expected.after(self.offset);
        let common = ahead.len().min(bytes.len());
        let same = if ahead[..common] == bytes[..common] {
            common
        } else {
            let pairs = ahead.iter().zip(bytes);
            pairs.take_while(|(theirs, mine)| theirs == mine).count()
        };
        self.pass(expected, self.offset + same as u64, timed);
        if same < common {
            let begun = self.go_alone(expected);
            self.framer = Framer::resume(LINE_BYTES_MAX, begun);
        }
        if same < bytes.len() {
            self.read(expected, &bytes[same..], timed);
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
        if let Some(tracker) = &mut self.tracker {
            tracker.keep_place();
        }
        let looked_at = lines.min(LINES_LOOKED_AT);
        for nth in 0..looked_at {
            let (at, next) = (nth * lines / looked_at, (nth + 1) * lines / looked_at);
            if let Some(due) = expected.due(from + at) {
                timed(due, next - at);
            }
        }
        // What was not there when the expected stream was made is not here either, unless it came before.
        while let Some(gap) = expected.gaps().get(self.gaps_seen) {
            if gap.line >= self.line {
                break;
            }
            let tracker = tracker(&mut self.tracker, expected);
            tracker.pass_gap(gap.sender, gap.numbers.clone());
            self.gaps_seen += 1;
        }
    }

    /// Lets the reader's lines be read one by one from here on. Returns the beginning of the line
    /// under way.
    fn go_alone(&mut self, expected: &ExpectedStream) -> Vec<u8> {
        self.know(expected);
        self.alone = true;
        self.in_step = false;
        let start = expected.start_of(self.line);
        let begun = expected.after(start)[..(self.offset - start) as usize].to_vec();
        self.offset = start;
        begun
    }

    /// Makes its tracker know what it has got with the expected stream.
    fn know(&mut self, expected: &ExpectedStream) {
        if !self.alone {
            let next = expected.next_before(self.line);
            tracker(&mut self.tracker, expected).advance(&next);
        }
    }

    /// The expected goes on without it.
    fn detach(&mut self, expected: &ExpectedStream) {
        if !self.alone {
            let begun = self.go_alone(expected);
            self.framer = Framer::resume(LINE_BYTES_MAX, begun);
        }
        self.detached = true;
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
        for line in lines.iter() {
            if !self.alone {
                if lead(expected, line) {
                    continue;
                }
                self.pass(expected, expected.end(), timed);
                self.go_alone(expected);
            }
            self.read_alone(expected, line, timed);
        }
        if lines.too_long && !mem::replace(&mut self.endless, true) {
            tracker(&mut self.tracker, expected).cut();
        }
        self.framer = framer;
        if !self.alone {
            self.pass(expected, expected.end(), timed);
        } else if self.in_step && !self.detached {
            self.alone = false;
        }
    }

    fn read_alone(
        &mut self,
        expected: &mut ExpectedStream,
        line: &[u8],
        timed: &mut dyn FnMut(u64, u64),
    ) {
        let seen = expected.decoder().read(line);
        let tracker = tracker(&mut self.tracker, expected);
        match seen {
            Seen::Ours(header) => {
                let number = header.number_near(tracker.next(header.sender).unwrap_or_default());
                let arrival = tracker.arrive(header.sender, number);
                if arrival != Arrival::Again {
                    self.delivered += 1;
                    timed(header.due, 1);
                }
                self.keep_step(expected, line, Some((header, number, arrival)));
            }
            Seen::Other => self.keep_step(expected, line, None),
            Seen::Torn(headers) => {
                // What has neither head nor tail is a line as well.
                for _ in 0..headers.len().max(1) {
                    tracker.cut();
                }
                for header in headers {
                    let next = tracker.next(header.sender).unwrap_or_default();
                    tracker.arrive_cut(header.sender, header.number_near(next));
                }
            }
            Seen::Skipped(count) => tracker.tell(count),
            Seen::CloseNotice(notice) => self.notice = Some(notice),
        }
    }

    /// Finds the place in the expected stream that goes with a line, and goes there.
    fn keep_step(
        &mut self,
        expected: &mut ExpectedStream,
        line: &[u8],
        ours: Option<(LineHeader, u64, Arrival)>,
    ) {
        if self.detached {
            return;
        }
        if self.line == expected.end_line() {
            let appended = match ours {
                Some((header, number, Arrival::Next | Arrival::AfterGap)) => {
                    expected.append_ours(line, header.sender, number, header.due)
                }
                Some(_) => false,
                None => {
                    expected.append_other(line);
                    true
                }
            };
            self.line += u64::from(appended);
            self.in_step = true;
        } else if expected.line(self.line) == line {
            self.line += 1;
            self.in_step = true;
            if ours.is_some_and(|(.., arrival)| arrival == Arrival::Next) {
                tracker(&mut self.tracker, expected).keep_place();
            }
        } else {
            let found = ours.and_then(|(header, number, arrival)| match arrival {
                Arrival::Next | Arrival::AfterGap => expected.line_of(header.sender, number),
                Arrival::Late | Arrival::Again => None,
            });
            let found = found.filter(|found| *found > self.line);
            self.in_step = found.is_some();
            let tracker = tracker(&mut self.tracker, expected);
            if let (None, Some((header, number, Arrival::Next))) = (found, ours) {
                tracker.be_early(header.sender, number);
            }
            if let Some(found) = found {
                for passed in self.line..found {
                    let passed = expected.decoder().read(expected.line(passed));
                    if let Seen::Ours(header) = passed {
                        let next = tracker.next(header.sender).unwrap_or_default();
                        tracker.overtake(header.sender, header.number_near(next));
                    }
                }
                tracker.keep_place();
                self.line = found + 1;
            }
        }
        self.offset = expected.start_of(self.line);
        // The reader's own tracker knows better what is missing here.
        let gaps = &expected.gaps()[self.gaps_seen..];
        self.gaps_seen += gaps.iter().take_while(|gap| gap.line < self.line).count();
    }
}

/// Appends a line to the expected stream if nothing is wrong with it.
fn lead(expected: &mut ExpectedStream, line: &[u8]) -> bool {
    match expected.decoder().read(line) {
        Seen::Ours(header) => {
            let next = expected.next_at_end().get(header.sender as usize);
            let number = header.number_near(next.copied().unwrap_or_default());
            expected.append_ours(line, header.sender, number, header.due)
        }
        Seen::Other => {
            expected.append_other(line);
            true
        }
        Seen::Torn(_) | Seen::Skipped(_) | Seen::CloseNotice(_) => false,
    }
}

fn tracker<'a>(
    tracker: &'a mut Option<Box<Tracker>>,
    expected: &ExpectedStream,
) -> &'a mut Tracker {
    let senders = expected.next_at_end().len();
    tracker.get_or_insert_with(|| Box::new(Tracker::new(senders)))
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
