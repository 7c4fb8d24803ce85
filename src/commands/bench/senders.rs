//! Who sends what and when: at a rate, or as fast as the daemon takes it.

use super::histogram::Histogram;
use super::line::LineKind;
use super::plan::Run;

/// What all senders together write at a time without a rate: one of them writes blocks of this, 500
/// write single lines.
const BLOCK_BYTES: usize = 32 * 1024;

/// What they write before readers have a turn.
const TURN_BYTES: usize = 128 * 1024;
const TURN_WRITES: usize = 256;

/// What may be on its way without a rate. Enough that the daemon always has something to read, few
/// enough that latency is the daemon's and not that of a queue before it.
const WAY_BYTES: usize = 4 << 20;

/// What a sender whose socket is full has ready. Beyond that its lines are made when there is room,
/// as late as they then are.
const READY_BYTES: usize = 256 * 1024;

const SECOND: u128 = 1_000_000_000;

/// All senders.
#[derive(Debug)]
pub(super) struct Senders {
    kind: LineKind,
    pace: Pace,
    all: Vec<Sender>,
    /// Lines made, which are as good as sent.
    made: u64,
    /// How late lines were made that had a time.
    pub(super) late: Histogram,
    touched: Vec<usize>,
}

#[derive(Debug)]
enum Pace {
    /// Line `n` of all is due `n / rate` seconds after the start, and is sender `n % senders`'.
    Rate { per_second: u64, begun: u64 },
    /// Each in turn writes so many lines.
    Free { lines: u64, next: usize },
}

#[derive(Debug)]
struct Sender {
    /// Lines made.
    made: u64,
    /// Lines that were due.
    owed: u64,
    out: Vec<u8>,
    written: usize,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Ready,
    /// Its socket is full.
    Blocked,
    Closed,
}

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    Bytes(usize),
    /// The socket is full. [`Senders::unblock`] is to be called when it no longer is.
    Full,
    /// The connection is gone.
    Gone,
}

impl Senders {
    pub(super) fn new(run: &Run, kind: LineKind) -> Senders {
        let sender = || Sender {
            made: 0,
            owed: 0,
            out: Vec::new(),
            written: 0,
            state: State::Ready,
        };
        let pace = match run.rate {
            0 => Pace::Free {
                lines: (BLOCK_BYTES / (run.size + 1) / run.senders).max(1) as u64,
                next: 0,
            },
            rate => Pace::Rate {
                per_second: rate as u64,
                begun: 0,
            },
        };
        Senders {
            kind,
            pace,
            all: (0..run.senders).map(|_| sender()).collect(),
            made: 0,
            late: Histogram::new(),
            touched: Vec::new(),
        }
    }

    /// Lines made so far by all.
    pub(super) fn made(&self) -> u64 {
        self.made
    }

    /// Lines made so far by each.
    pub(super) fn made_by_each(&self) -> Vec<u64> {
        self.all.iter().map(|sender| sender.made).collect()
    }

    pub(super) fn unblock(&mut self, who: usize) {
        if self.all[who].state == State::Blocked {
            self.all[who].state = State::Ready;
            self.touched.push(who);
        }
    }

    pub(super) fn close(&mut self, who: usize) {
        self.all[who].state = State::Closed;
    }

    pub(super) fn all_closed(&self) -> bool {
        self.all.iter().all(|sender| sender.state == State::Closed)
    }

    /// When the next line is due, in nanoseconds since the start. `None` without a rate.
    pub(super) fn next_due(&self) -> Option<u64> {
        match self.pace {
            Pace::Rate { per_second, begun } => Some(due(begun, per_second)),
            Pace::Free { .. } => None,
        }
    }

    /// Sends what there is to send at `now`. `arrived` lines have reached the reader that is ahead.
    /// Returns whether there is more that could be sent at once.
    pub(super) fn turn(
        &mut self,
        now: u64,
        arrived: u64,
        write: &mut dyn FnMut(usize, &[u8]) -> Written,
    ) -> bool {
        self.send_touched(now, write);
        match self.pace {
            Pace::Rate { .. } => {
                self.owe(now);
                let mut touched = std::mem::take(&mut self.touched);
                for who in touched.drain(..) {
                    self.send(who, now, write);
                }
                self.touched = touched;
                false
            }
            Pace::Free { lines, next } => self.send_freely(now, arrived, lines, next, write),
        }
    }

    /// Counts the lines that have become due.
    fn owe(&mut self, now: u64) {
        let senders = self.all.len() as u64;
        let Pace::Rate { per_second, begun } = &mut self.pace else {
            return;
        };
        let due_lines = (u128::from(now) * u128::from(*per_second) / SECOND) as u64 + 1;
        for line in *begun..due_lines {
            let who = (line % senders) as usize;
            self.all[who].owed += 1;
            if self.all[who].state == State::Ready && self.touched.last() != Some(&who) {
                self.touched.push(who);
            }
        }
        *begun = (*begun).max(due_lines);
    }

    fn send_freely(
        &mut self,
        now: u64,
        arrived: u64,
        lines: u64,
        first: usize,
        write: &mut dyn FnMut(usize, &[u8]) -> Written,
    ) -> bool {
        let line_bytes = self.kind.size() + 1;
        let block_bytes = lines as usize * line_bytes;
        let on_the_way = (WAY_BYTES / line_bytes).max(2 * lines as usize) as u64;
        let senders = self.all.len();
        let mut writes = (TURN_BYTES / block_bytes).clamp(1, TURN_WRITES);
        let mut who = first;
        for _ in 0..senders.max(TURN_WRITES) {
            if writes == 0 || self.made - arrived.min(self.made) + lines > on_the_way {
                break;
            }
            if self.all[who].state == State::Ready {
                self.all[who].owed += lines;
                self.send(who, now, write);
                writes -= 1;
            }
            who = (who + 1) % senders;
        }
        self.pace = Pace::Free { lines, next: who };
        writes == 0
    }

    /// Makes the lines that a sender owes and writes them as far as its socket takes them.
    fn send(&mut self, who: usize, now: u64, write: &mut dyn FnMut(usize, &[u8]) -> Written) {
        let senders = self.all.len() as u64;
        let sender = &mut self.all[who];
        while sender.state == State::Ready {
            while sender.made < sender.owed && sender.out.len() - sender.written < READY_BYTES {
                let due = match self.pace {
                    Pace::Rate { per_second, .. } => {
                        let due = due(sender.made * senders + who as u64, per_second);
                        self.late.record(now.saturating_sub(due), 1);
                        due
                    }
                    Pace::Free { .. } => now,
                };
                sender.made += 1;
                self.made += 1;
                self.kind
                    .write(who as u32, sender.made, due, &mut sender.out);
            }
            if sender.written == sender.out.len() {
                sender.out.clear();
                sender.written = 0;
                return;
            }
            match write(who, &sender.out[sender.written..]) {
                Written::Bytes(count) => sender.written += count,
                Written::Full => sender.state = State::Blocked,
                Written::Gone => sender.state = State::Closed,
            }
            // What is left is moved rarely.
            if sender.written > READY_BYTES {
                sender.out.drain(..sender.written);
                sender.written = 0;
            }
        }
    }

    /// Nothing more becomes due. Each sends what it has ready and one line that shows where it ended.
    pub(super) fn finish(&mut self) {
        for (who, sender) in self.all.iter_mut().enumerate() {
            sender.owed = sender.made + 1;
            if sender.state == State::Ready {
                self.touched.push(who);
            }
        }
        if let Pace::Free { lines, .. } = &mut self.pace {
            *lines = 0;
        }
    }

    /// Gives each that was touched its turn to send.
    fn send_touched(&mut self, now: u64, write: &mut dyn FnMut(usize, &[u8]) -> Written) {
        let mut touched = std::mem::take(&mut self.touched);
        for who in touched.drain(..) {
            self.send(who, now, write);
        }
        self.touched = touched;
    }

    /// After [`finish`](Senders::finish): sends what is left. Returns whether all is sent.
    pub(super) fn flush(
        &mut self,
        now: u64,
        write: &mut dyn FnMut(usize, &[u8]) -> Written,
    ) -> bool {
        self.send_touched(now, write);
        let is_done = |sender: &Sender| {
            let is_sent = sender.made == sender.owed && sender.out.is_empty();
            is_sent || sender.state == State::Closed
        };
        self.all.iter().all(is_done)
    }
}

/// When line `line` of all is due, in nanoseconds since the start.
fn due(line: u64, per_second: u64) -> u64 {
    (u128::from(line) * SECOND / u128::from(per_second)) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::framing;
    use std::time::Duration;

    fn run(senders: usize, size: usize, rate: usize) -> Run {
        Run {
            senders,
            readers: 1,
            size,
            rate,
            stuck: 0,
            duration: Duration::from_secs(1),
            format: None,
        }
    }

    fn senders(senders: usize, rate: usize) -> Senders {
        Senders::new(&run(senders, 20, rate), LineKind::new(*b"runA", 20))
    }

    /// What each sent: sender and due time.
    fn sent(bytes: &[(usize, Vec<u8>)]) -> Vec<(u32, u64)> {
        let kind = LineKind::new(*b"runA", 20);
        let lines = bytes.iter().flat_map(|(_, bytes)| framing::lines(bytes));
        lines
            .map(|line| kind.read(line).unwrap())
            .map(|s| (s.sender, s.due))
            .collect()
    }

    #[test]
    fn lines_at_a_rate_are_due_one_after_another_whoever_sends_them() {
        let mut senders = senders(3, 1000);
        let mut out = Vec::new();
        let mut write = |who, bytes: &[u8]| {
            out.push((who, bytes.to_vec()));
            Written::Bytes(bytes.len())
        };
        assert_eq!(senders.next_due(), Some(0));
        senders.turn(0, 0, &mut write);
        assert_eq!(senders.next_due(), Some(1_000_000));
        senders.turn(2_000_000, 0, &mut write);
        assert_eq!(sent(&out), [(0, 0), (1, 1_000_000), (2, 2_000_000)]);
        assert_eq!(senders.late.count(), 3);
        assert!(senders.late.max() >= Some(Duration::from_millis(1)));
    }

    #[test]
    fn line_that_had_to_wait_is_due_when_it_was_due() {
        let mut senders = senders(1, 1000);
        senders.turn(0, 0, &mut |_, _| Written::Full);
        senders.turn(9_000_000, 0, &mut |_, _| panic!("it is blocked"));
        senders.unblock(0);
        let mut out = Vec::new();
        let mut write = |who, bytes: &[u8]| {
            out.push((who, bytes.to_vec()));
            Written::Bytes(bytes.len())
        };
        senders.turn(9_000_000, 0, &mut write);
        let due: Vec<u64> = sent(&out).iter().map(|(_, due)| *due).collect();
        assert_eq!(due, (0..10).map(|n| n * 1_000_000).collect::<Vec<_>>());
        senders.finish();
        assert!(senders.flush(9_000_000, &mut |_, bytes| Written::Bytes(bytes.len())));
        assert_eq!(senders.made_by_each(), [11], "and one that shows the end");
    }

    #[test]
    fn without_a_rate_only_so_much_is_on_its_way() {
        let mut senders = senders(2, 0);
        let mut bytes = 0;
        while senders.turn(0, 0, &mut |_, out| {
            bytes += out.len();
            Written::Bytes(out.len())
        }) {}
        assert!(bytes <= WAY_BYTES, "{bytes}");
        assert!(bytes > WAY_BYTES - TURN_BYTES, "{bytes}");
        assert_eq!(senders.made() * 21, bytes as u64);
        let [one, other] = senders.made_by_each()[..] else {
            panic!()
        };
        assert!(
            one.abs_diff(other) <= 2 * BLOCK_BYTES as u64 / 21,
            "each has its turn"
        );
    }

    #[test]
    fn five_hundred_senders_write_single_lines() {
        let mut senders = Senders::new(&run(500, 64, 0), LineKind::new(*b"runA", 64));
        senders.turn(0, 0, &mut |_, out| {
            assert_eq!(out.len(), 65);
            Written::Bytes(out.len())
        });
    }
}
