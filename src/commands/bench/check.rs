//! Whether every reader gets every line, once, whole, and in the order that is the same for all.
//!
//! A reader is *in step* while what it gets is the [`Reference`], byte for byte, which costs no more
//! than comparing. One that gets more than the reference has yet appends to it what it can verify.
//! One that gets something else goes *alone*: its lines are read one by one, so that what is wrong
//! can be told and counted, until they are where the reference is again.

use std::mem;

use super::dialect::{Dialect, Farewell, Seen};
use super::line::Stamp;
use super::reference::Reference;
use super::tracker::{Arrival, Faults, Tracker};
use crate::wire::framing::Framer;

/// No format makes a longer line of what is sent.
const LINE_BYTES_MAX: usize = 8 << 20;

/// A reader that is further behind the first is read alone, without comparing its order to that of
/// the others. It takes a daemon with a buffer well above the default.
const BEHIND_BYTES_MAX: u64 = 512 << 20;

/// How far a line out of its place is looked for; one after a gap, anywhere.
const SEARCH_BYTES: usize = 64 * 1024;
/// How often one after a gap is looked for so and not found.
const SEARCHES_MAX: u32 = 16;

/// Lines of one read whose latency is looked at. If there are more, each stands for some.
const LINES_LOOKED_AT: u64 = 16;

/// How often the slowest reader is looked for, in bytes of the reference.
const FORGET_EVERY: u64 = 256 * 1024;

/// All readers and what they get alike.
#[derive(Debug)]
pub(super) struct Check {
    reference: Reference,
    readers: Vec<Reader>,
    forgotten_at: u64,
}

#[derive(Debug)]
struct Reader {
    /// The line of the reference that comes next or is under way.
    line: u64,
    /// The byte of it that comes next. While alone, its beginning.
    offset: u64,
    alone: bool,
    /// While alone: the last line was where the reference is.
    in_step: bool,
    /// It is too far behind for the reference to wait for it.
    detached: bool,
    /// The line that is under way, if the reference does not have it or the reader is alone.
    framer: Framer,
    /// How many of the reference's gaps it knows of.
    gaps_seen: usize,
    /// Only readers with faults need one.
    tracker: Option<Box<Tracker>>,
    searches: u32,
    delivered: u64,
    farewell: Option<Farewell>,
    endless: bool,
    closed: bool,
}

impl Check {
    pub(super) fn new(dialect: Dialect, senders: usize, readers: usize) -> Check {
        let reader = || Reader {
            line: 0,
            offset: 0,
            alone: false,
            in_step: false,
            detached: false,
            framer: Framer::new(LINE_BYTES_MAX),
            gaps_seen: 0,
            tracker: None,
            searches: 0,
            delivered: 0,
            farewell: None,
            endless: false,
            closed: false,
        };
        Check {
            reference: Reference::new(dialect, senders),
            readers: (0..readers).map(|_| reader()).collect(),
            forgotten_at: 0,
        }
    }

    /// A reader got these bytes. `timed` is called for the lines they complete, with the time each
    /// was due and how many lines it stands for.
    pub(super) fn receive(&mut self, who: usize, bytes: &[u8], mut timed: impl FnMut(u64, u64)) {
        self.readers[who].receive(&mut self.reference, bytes, &mut timed);
        if self.reference.end() - self.forgotten_at > FORGET_EVERY {
            self.forget();
        }
    }

    fn forget(&mut self) {
        let end = self.reference.end();
        self.forgotten_at = end;
        for reader in &mut self.readers {
            if end - reader.offset > BEHIND_BYTES_MAX && !reader.closed && !reader.detached {
                reader.detach(&self.reference);
            }
        }
        let waited_for = self
            .readers
            .iter()
            .filter(|reader| !reader.closed && !reader.detached);
        let slowest = waited_for.map(|reader| reader.line).min();
        self.reference
            .forget_before(slowest.unwrap_or(self.reference.end_line()));
    }

    /// A reader's connection ended. What it misses from here on was not promised to it. Returns what
    /// it was told last.
    pub(super) fn close(&mut self, who: usize) -> Option<Farewell> {
        let reader = &mut self.readers[who];
        // Its place in the reference will be forgotten.
        reader.know(&self.reference);
        reader.closed = true;
        reader.farewell.clone()
    }

    /// Lines that the reader who is ahead has got.
    pub(super) fn arrived(&self) -> u64 {
        self.reference.ours()
    }

    /// The last line of a sender that this reader has got.
    pub(super) fn arrived_of(&self, sender: usize) -> u64 {
        self.reference.next_at_end()[sender] - 1
    }

    /// Lines delivered to all readers together.
    pub(super) fn delivered(&self) -> u64 {
        self.readers.iter().map(|reader| reader.delivered).sum()
    }

    /// Whether all readers that are still connected have got everything.
    pub(super) fn is_complete(&self, sent: &[u64]) -> bool {
        let is_all = |next: &[u64]| next.iter().zip(sent).all(|(next, sent)| *next > *sent);
        let reference_is = is_all(self.reference.next_at_end());
        self.readers
            .iter()
            .filter(|reader| !reader.closed)
            .all(|reader| {
                let tracker = reader.tracker.as_ref().filter(|_| reader.alone);
                match tracker {
                    Some(tracker) => is_all(tracker.all_next()),
                    None => reference_is && reader.offset == self.reference.end(),
                }
            })
    }

    /// What went wrong at all readers together, once nothing more comes.
    pub(super) fn faults(&mut self, sent: &[u64]) -> Faults {
        let mut faults = Faults::default();
        for reader in &mut self.readers {
            if !reader.closed {
                reader.know(&self.reference);
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
        reference: &mut Reference,
        bytes: &[u8],
        timed: &mut dyn FnMut(u64, u64),
    ) {
        if !self.alone && self.offset < reference.end() && !self.framer.unfinished().is_empty() {
            // It was ahead with the beginning of a line, and no longer is.
            let framer = mem::replace(&mut self.framer, Framer::new(LINE_BYTES_MAX));
            self.follow(reference, framer.unfinished(), timed);
        }
        if self.alone || !self.framer.unfinished().is_empty() {
            self.read(reference, bytes, timed);
        } else {
            self.follow(reference, bytes, timed);
        }
    }

    /// Compares with the reference, and reads what that does not have.
    fn follow(&mut self, reference: &mut Reference, bytes: &[u8], timed: &mut dyn FnMut(u64, u64)) {
        let ahead = reference.after(self.offset);
        let common = ahead.len().min(bytes.len());
        let same = if ahead[..common] == bytes[..common] {
            common
        } else {
            let pairs = ahead.iter().zip(bytes);
            pairs.take_while(|(theirs, mine)| theirs == mine).count()
        };
        self.pass(reference, self.offset + same as u64, timed);
        if same < common {
            let begun = self.go_alone(reference);
            self.framer = Framer::resume(LINE_BYTES_MAX, begun);
        }
        if same < bytes.len() {
            self.read(reference, &bytes[same..], timed);
        }
    }

    /// It has got the same as the reference up to this offset.
    fn pass(&mut self, reference: &Reference, offset: u64, timed: &mut dyn FnMut(u64, u64)) {
        self.offset = offset;
        let from = self.line;
        self.line = reference.lines_until(offset, from);
        let lines = self.line - from;
        if lines == 0 {
            return;
        }
        self.delivered += reference.ours_before(self.line) - reference.ours_before(from);
        if let Some(tracker) = &mut self.tracker {
            tracker.keep_place();
        }
        let looked_at = lines.min(LINES_LOOKED_AT);
        for nth in 0..looked_at {
            let (at, next) = (nth * lines / looked_at, (nth + 1) * lines / looked_at);
            if let Some(due) = reference.due(from + at) {
                timed(due, next - at);
            }
        }
        // What was not there when the reference was made is not here either, unless it came before.
        while let Some(gap) = reference.gaps().get(self.gaps_seen) {
            if gap.line >= self.line {
                break;
            }
            let tracker = tracker(&mut self.tracker, reference);
            tracker.pass_gap(gap.sender, gap.numbers.clone());
            self.gaps_seen += 1;
        }
    }

    /// From here on its lines are read one by one. Returns the beginning of the line under way.
    fn go_alone(&mut self, reference: &Reference) -> Vec<u8> {
        self.know(reference);
        self.alone = true;
        self.in_step = false;
        let start = reference.start_of(self.line);
        let begun = reference.after(start)[..(self.offset - start) as usize].to_vec();
        self.offset = start;
        begun
    }

    /// Makes its tracker know what it has got with the reference.
    fn know(&mut self, reference: &Reference) {
        if !self.alone {
            let next = reference.next_before(self.line);
            tracker(&mut self.tracker, reference).advance(&next);
        }
    }

    /// The reference goes on without it.
    fn detach(&mut self, reference: &Reference) {
        if !self.alone {
            let begun = self.go_alone(reference);
            self.framer = Framer::resume(LINE_BYTES_MAX, begun);
        }
        self.detached = true;
    }

    /// Reads what the reference does not have, or what is not the same.
    fn read(&mut self, reference: &mut Reference, bytes: &[u8], timed: &mut dyn FnMut(u64, u64)) {
        let mut framer = mem::replace(&mut self.framer, Framer::new(LINE_BYTES_MAX));
        let lines = framer.push(bytes);
        for line in lines.iter() {
            if !self.alone {
                if lead(reference, line) {
                    continue;
                }
                self.pass(reference, reference.end(), timed);
                self.go_alone(reference);
            }
            self.read_alone(reference, line, timed);
        }
        if lines.too_long && !mem::replace(&mut self.endless, true) {
            tracker(&mut self.tracker, reference).cut();
        }
        self.framer = framer;
        if !self.alone {
            self.pass(reference, reference.end(), timed);
        } else if self.in_step && !self.detached {
            self.alone = false;
        }
    }

    fn read_alone(
        &mut self,
        reference: &mut Reference,
        line: &[u8],
        timed: &mut dyn FnMut(u64, u64),
    ) {
        let seen = reference.dialect().read(line);
        let tracker = tracker(&mut self.tracker, reference);
        match seen {
            Seen::Ours(stamp) => {
                let number = stamp.number_near(tracker.next(stamp.sender).unwrap_or_default());
                let arrival = tracker.arrive(stamp.sender, number);
                if arrival != Arrival::Again {
                    self.delivered += 1;
                    timed(stamp.due, 1);
                }
                self.keep_step(reference, line, Some((stamp, number, arrival)));
            }
            Seen::Other => self.keep_step(reference, line, None),
            Seen::Torn(stamps) => {
                // What has neither head nor tail is a line as well.
                for _ in 0..stamps.len().max(1) {
                    tracker.cut();
                }
                for stamp in stamps {
                    let next = tracker.next(stamp.sender).unwrap_or_default();
                    tracker.arrive_cut(stamp.sender, stamp.number_near(next));
                }
            }
            Seen::Skipped(count) => tracker.tell(count),
            Seen::Farewell(farewell) => self.farewell = Some(farewell),
        }
    }

    /// Finds the place in the reference that goes with a line, and goes there.
    fn keep_step(
        &mut self,
        reference: &mut Reference,
        line: &[u8],
        ours: Option<(Stamp, u64, Arrival)>,
    ) {
        if self.detached {
            return;
        }
        if self.line == reference.end_line() {
            let appended = match ours {
                Some((stamp, number, Arrival::Next | Arrival::AfterGap)) => {
                    reference.append_ours(line, stamp.sender, number, stamp.due)
                }
                Some(_) => false,
                None => {
                    reference.append_other(line);
                    true
                }
            };
            self.line += u64::from(appended);
            self.in_step = true;
        } else if reference.line(self.line) == line {
            self.line += 1;
            self.in_step = true;
            if ours.is_some_and(|(.., arrival)| arrival == Arrival::Next) {
                tracker(&mut self.tracker, reference).keep_place();
            }
        } else {
            let found = ours.and_then(|(stamp, number, arrival)| {
                self.find(reference, line, stamp.sender, number, arrival)
            });
            self.in_step = found.is_some();
            let tracker = tracker(&mut self.tracker, reference);
            if let (None, Some((stamp, number, Arrival::Next))) = (found, ours) {
                tracker.be_early(stamp.sender, number);
            }
            if let Some(found) = found {
                for passed in self.line..found {
                    let passed = reference.dialect().read(reference.line(passed));
                    if let Seen::Ours(stamp) = passed {
                        let next = tracker.next(stamp.sender).unwrap_or_default();
                        tracker.overtake(stamp.sender, stamp.number_near(next));
                    }
                }
                tracker.keep_place();
                self.line = found + 1;
            }
        }
        self.offset = reference.start_of(self.line);
        // Its own tracker knows better what is missing here.
        let gaps = &reference.gaps()[self.gaps_seen..];
        self.gaps_seen += gaps.iter().take_while(|gap| gap.line < self.line).count();
    }

    /// Where in the reference a line is that is not in its place.
    fn find(
        &mut self,
        reference: &Reference,
        line: &[u8],
        sender: u32,
        number: u64,
        arrival: Arrival,
    ) -> Option<u64> {
        let within = match arrival {
            Arrival::Again | Arrival::Late => return None,
            Arrival::AfterGap if self.searches < SEARCHES_MAX => usize::MAX,
            Arrival::AfterGap | Arrival::Next => SEARCH_BYTES,
        };
        // The one who made the reference did not get it.
        let gaps = &reference.gaps()[self.gaps_seen..];
        if gaps
            .iter()
            .any(|gap| gap.sender == sender && gap.numbers.contains(&number))
        {
            return None;
        }
        let found = reference.find(line, self.line, within);
        self.searches += u32::from(found.is_none() && within == usize::MAX);
        found
    }
}

/// Appends a line to the reference if nothing is wrong with it.
fn lead(reference: &mut Reference, line: &[u8]) -> bool {
    match reference.dialect().read(line) {
        Seen::Ours(stamp) => {
            let next = reference.next_at_end().get(stamp.sender as usize);
            let number = stamp.number_near(next.copied().unwrap_or_default());
            reference.append_ours(line, stamp.sender, number, stamp.due)
        }
        Seen::Other => {
            reference.append_other(line);
            true
        }
        Seen::Torn(_) | Seen::Skipped(_) | Seen::Farewell(_) => false,
    }
}

fn tracker<'a>(tracker: &'a mut Option<Box<Tracker>>, reference: &Reference) -> &'a mut Tracker {
    let senders = reference.next_at_end().len();
    tracker.get_or_insert_with(|| Box::new(Tracker::new(senders)))
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
