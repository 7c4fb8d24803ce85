//! Senders, and when each sends: at a rate, or as fast as the daemon takes it.

use super::histogram::Histogram;
use super::line_source::LineSource;

/// What all senders together write at a time without a rate: one of them writes blocks of this, 500
/// write single lines.
const BLOCK_BYTES: usize = 32 * 1024;

/// What they write before readers have a turn.
const TURN_BYTES: usize = 128 * 1024;
const TURN_WRITES: usize = 256;

/// What a sender whose socket is full has ready. Beyond that its lines are made when there is room,
/// as late as they then are.
const READY_BYTES: usize = 256 * 1024;

const SECOND: u128 = 1_000_000_000;

/// All senders.
#[derive(Debug)]
pub struct Senders {
    source: LineSource,
    pace: Pace,
    all: Vec<Sender>,
    /// Lines made, which are as good as sent.
    made: u64,
    /// The line that is due next; without a rate, whose turn it is, modulo their number.
    next: u64,
    /// How late lines were made that had a time.
    pub(super) late: Histogram,
    /// Senders that have something to send besides what the pace says.
    touched: Vec<usize>,
}

/// When lines are sent.
#[derive(Clone, Copy, Debug)]
pub enum Pace {
    /// Line `n` of all is due `n / rate` seconds after the start, and is sender `n % senders`'.
    Rate(u64),
    /// As fast as the daemon takes them, with at most so many of all on their way.
    Free(u64),
}

#[derive(Clone, Debug)]
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
    /// The socket is full.
    Blocked,
    Closed,
}

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// Bytes that went out.
    Bytes(usize),
    /// The socket is full. [`Senders::unblock`] is to be called when it no longer is.
    Full,
    /// The connection is gone.
    Gone,
}

/// Writes for a sender.
type Write<'a> = &'a mut dyn FnMut(usize, &[u8]) -> Written;

impl Senders {
    /// Senders that have sent nothing yet.
    pub fn new(source: LineSource, senders: usize, pace: Pace) -> Senders {
        let sender = Sender {
            made: 0,
            owed: 0,
            out: Vec::new(),
            written: 0,
            state: State::Ready,
        };
        Senders {
            source,
            pace,
            all: vec![sender; senders],
            made: 0,
            next: 0,
            late: Histogram::default(),
            touched: Vec::new(),
        }
    }

    /// Lines made so far by all.
    pub fn made(&self) -> u64 {
        self.made
    }

    /// Lines made so far by each.
    pub fn made_by_each(&self) -> Vec<u64> {
        self.all.iter().map(|sender| sender.made).collect()
    }

    /// The sender's socket is no longer full.
    pub fn unblock(&mut self, who: usize) {
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
            Pace::Rate(per_second) => Some(due(self.next, per_second)),
            Pace::Free(_) => None,
        }
    }

    /// Sends what there is to send at `now`, in nanoseconds since the start. `arrived` lines have
    /// reached the reader that is ahead. Returns whether there is more that could be sent at once.
    pub fn turn(&mut self, now: u64, arrived: u64, write: Write<'_>) -> bool {
        match self.pace {
            Pace::Rate(per_second) => {
                self.owe(now, per_second);
                self.send_touched(now, write);
                false
            }
            Pace::Free(on_the_way) => {
                self.send_touched(now, write);
                self.send_freely(now, arrived, on_the_way, write)
            }
        }
    }

    /// Counts the lines that have become due.
    fn owe(&mut self, now: u64, per_second: u64) {
        let senders = self.all.len() as u64;
        let due_lines = (u128::from(now) * u128::from(per_second) / SECOND) as u64 + 1;
        for line in self.next..due_lines {
            let who = (line % senders) as usize;
            self.all[who].owed += 1;
            if self.all[who].state == State::Ready && self.touched.last() != Some(&who) {
                self.touched.push(who);
            }
        }
        self.next = self.next.max(due_lines);
    }

    fn send_freely(&mut self, now: u64, arrived: u64, on_the_way: u64, write: Write<'_>) -> bool {
        let senders = self.all.len();
        let line_bytes = self.source.line_bytes();
        let lines = (BLOCK_BYTES / line_bytes / senders).max(1) as u64;
        let on_the_way = on_the_way.max(2 * lines);
        let mut writes = (TURN_BYTES / (lines as usize * line_bytes)).clamp(1, TURN_WRITES);
        for _ in 0..senders.max(TURN_WRITES) {
            if writes == 0 || self.made - arrived.min(self.made) + lines > on_the_way {
                break;
            }
            let who = self.next as usize % senders;
            if self.all[who].state == State::Ready {
                self.all[who].owed += lines;
                self.send(who, now, write);
                writes -= 1;
            }
            self.next += 1;
        }
        writes == 0
    }

    /// Makes the lines that a sender owes and writes them as far as its socket takes them.
    fn send(&mut self, who: usize, now: u64, write: Write<'_>) {
        let senders = self.all.len() as u64;
        let sender = &mut self.all[who];
        while sender.state == State::Ready {
            while sender.made < sender.owed && sender.out.len() - sender.written < READY_BYTES {
                let (count, due) = match self.pace {
                    Pace::Rate(per_second) => {
                        let due = due(sender.made * senders + who as u64, per_second);
                        self.late.record(now.saturating_sub(due), 1);
                        (1, due)
                    }
                    Pace::Free(_) => (sender.owed - sender.made, now),
                };
                let out = &mut sender.out;
                self.source.write(who as u32, sender.made, count, due, out);
                sender.made += count;
                self.made += count;
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

    /// Ends the sending: each sender has left what is ready, and one line that shows where it ended.
    pub fn finish(&mut self) {
        for (who, sender) in self.all.iter_mut().enumerate() {
            sender.owed = sender.made + 1;
            if sender.state == State::Ready {
                self.touched.push(who);
            }
        }
    }

    /// Gives each that was touched its turn to send.
    fn send_touched(&mut self, now: u64, write: Write<'_>) {
        let mut touched = std::mem::take(&mut self.touched);
        for who in touched.drain(..) {
            self.send(who, now, write);
        }
        self.touched = touched;
    }

    /// After [`finish`](Senders::finish): sends what is left. Returns whether all is sent.
    pub fn flush(&mut self, now: u64, write: Write<'_>) -> bool {
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
    use super::super::line::LineKind;
    use super::*;
    use crate::wire::framing;
    use std::time::Duration;

    /// What may be on its way in these tests.
    const WAY_BYTES: usize = 4 << 20;

    fn paced(senders: usize, size: usize, pace: Pace) -> Senders {
        let source = LineSource::headed(LineKind::new(*b"runA", size));
        Senders::new(source, senders, pace)
    }

    fn senders(senders: usize, rate: u64) -> Senders {
        let free = Pace::Free(WAY_BYTES as u64 / 21);
        paced(senders, 20, if rate > 0 { Pace::Rate(rate) } else { free })
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
        let mut senders = paced(500, 64, Pace::Free(1 << 20));
        senders.turn(0, 0, &mut |_, out| {
            assert_eq!(out.len(), 65);
            Written::Bytes(out.len())
        });
    }

    #[test]
    fn few_lines_are_sent_over_and_over() {
        let payloads = [b"one".to_vec(), b"two".to_vec(), b"six".to_vec()];
        let source = LineSource::rotating(&payloads);
        let mut senders = Senders::new(source, 1, Pace::Free(7));
        let mut out = Vec::new();
        senders.all[0].made = 1;
        senders.all[0].owed = 6;
        senders.send(0, 0, &mut |_, bytes| {
            out.extend_from_slice(bytes);
            Written::Bytes(bytes.len())
        });
        assert_eq!(out, b"two\nsix\none\ntwo\nsix\n");
    }
}
