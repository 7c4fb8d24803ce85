//! Lines of a session that the server has not acknowledged, by their number in the input.

use std::fmt;

use memchr::{memchr_iter, memrchr};

/// How much is read at once. A pipe gives 64 KiB; a file gives all of it.
const READ_BYTES: usize = 256 * 1024;

/// How much is held before no more is read: what a fast sender has on its way while the server syncs.
/// Twice as much memory, at most.
const HELD_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Lines from the first that the server has not acknowledged to the last that was read.
#[derive(Debug)]
pub(super) struct Backlog {
    /// Buffer; what is behind `end` is room.
    bytes: Vec<u8>,
    /// Offset of the first byte that is held, which is the first of a line.
    begin: usize,
    /// Offset of the first byte that the socket has not taken.
    sent: usize,
    /// Offset behind the last whole line.
    whole: usize,
    end: usize,
    bytes_max: usize,
    /// Lines of the input before `begin`.
    passed: u64,
    /// Whole lines before `sent`.
    sent_lines: u64,
    /// Lines before `whole`.
    read: u64,
    /// Lines that the server has: what is read of them is passed at once.
    taken: u64,
}

/// Why a count of the server does not fit the input.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Mismatch {
    /// It has fewer lines than it had acknowledged.
    Fewer {
        /// Lines that it has now.
        taken: u64,
        /// Lines that it had.
        before: u64,
    },
    /// It has more lines than were sent to it.
    MoreThanSent,
    /// It has more lines than the whole input.
    MoreThanInput {
        /// Lines that it has.
        taken: u64,
        /// Lines of the input.
        input: u64,
    },
    /// A line that is longer than what is held.
    LineTooLong,
}

impl Backlog {
    pub(super) fn new() -> Backlog {
        Backlog::with_bound(HELD_BYTES_MAX)
    }

    fn with_bound(bytes_max: usize) -> Backlog {
        Backlog {
            bytes: Vec::new(),
            begin: 0,
            sent: 0,
            whole: 0,
            end: 0,
            bytes_max,
            passed: 0,
            sent_lines: 0,
            read: 0,
            taken: 0,
        }
    }

    /// Whether no more is to be read for now.
    pub(super) fn is_full(&self) -> bool {
        self.end - self.begin >= self.bytes_max
    }

    /// Space for the next read. [`filled`](Backlog::filled) says how much was read.
    pub(super) fn room(&mut self) -> &mut [u8] {
        let read_bytes = READ_BYTES.min(self.bytes_max);
        // Moving what is held only where as much is passed keeps that rare.
        if self.begin > 0 && self.begin >= self.end / 2 {
            self.bytes.copy_within(self.begin..self.end, 0);
            self.sent -= self.begin;
            self.whole -= self.begin;
            self.end -= self.begin;
            self.begin = 0;
        }
        if self.bytes.len() < self.end + read_bytes {
            self.bytes.resize(self.end + read_bytes, 0);
        }
        &mut self.bytes[self.end..][..read_bytes]
    }

    /// Notes that so many bytes were read into the room.
    ///
    /// # Errors
    /// A line is longer than what is held.
    pub(super) fn filled(&mut self, bytes: usize) -> Result<(), Mismatch> {
        let read = &self.bytes[self.end..][..bytes];
        self.read += count(read);
        if let Some(at) = memrchr(b'\n', read) {
            self.whole = self.end + at + 1;
        }
        self.end += bytes;
        self.pass();
        match self.is_full() && self.whole == self.begin {
            true => Err(Mismatch::LineTooLong),
            false => Ok(()),
        }
    }

    /// The input has ended: its last line ends there, with LF or without.
    ///
    /// # Errors
    /// The server has more lines than there are.
    pub(super) fn finish(&mut self) -> Result<(), Mismatch> {
        if self.whole < self.end {
            self.room()[0] = b'\n';
            self.filled(1)?;
        }
        self.check_input()
    }

    /// The server has so many lines, and goes on behind them: what is pending now begins there.
    ///
    /// # Errors
    /// It had more before, or, where the input has ended, it has more than that.
    pub(super) fn go_on(&mut self, taken: u64, input_ended: bool) -> Result<(), Mismatch> {
        self.take(taken)?;
        self.sent = self.begin;
        self.sent_lines = self.passed;
        match input_ended {
            true => self.check_input(),
            false => Ok(()),
        }
    }

    /// The server has acknowledged so many lines: they need not be held any longer.
    ///
    /// # Errors
    /// It had more before, or has more than it was sent.
    pub(super) fn acknowledged(&mut self, taken: u64) -> Result<(), Mismatch> {
        if taken > self.sent_lines.max(self.taken) {
            return Err(Mismatch::MoreThanSent);
        }
        self.take(taken)
    }

    fn take(&mut self, taken: u64) -> Result<(), Mismatch> {
        if taken < self.taken {
            let before = self.taken;
            return Err(Mismatch::Fewer { taken, before });
        }
        self.taken = taken;
        self.pass();
        Ok(())
    }

    /// Lets go of the lines that the server has.
    fn pass(&mut self) {
        let lines = (self.taken - self.passed).min(self.read - self.passed);
        if lines == 0 {
            return;
        }
        let held = &self.bytes[self.begin..self.whole];
        // As many as there are, if there are no more.
        let last = usize::try_from(lines - 1).ok();
        let end = last.and_then(|last| memchr_iter(b'\n', held).nth(last));
        self.begin += end.map_or(held.len(), |at| at + 1);
        self.passed += lines;
        if self.sent < self.begin {
            self.sent = self.begin;
            self.sent_lines = self.passed;
        }
    }

    fn check_input(&self) -> Result<(), Mismatch> {
        let (taken, input) = (self.taken, self.read);
        match taken > input {
            true => Err(Mismatch::MoreThanInput { taken, input }),
            false => Ok(()),
        }
    }

    /// Bytes of whole lines that the socket is to take next.
    pub(super) fn pending(&self) -> &[u8] {
        &self.bytes[self.sent..self.whole.max(self.sent)]
    }

    /// The socket took so many bytes.
    pub(super) fn sent(&mut self, bytes: usize) {
        self.sent_lines += count(&self.bytes[self.sent..][..bytes]);
        self.sent += bytes;
    }

    /// Lines that the server has.
    pub(super) fn taken(&self) -> u64 {
        self.taken
    }

    /// Whether the server has all that was read.
    pub(super) fn is_empty(&self) -> bool {
        self.begin == self.end
    }
}

fn count(bytes: &[u8]) -> u64 {
    memchr_iter(b'\n', bytes).count() as u64
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Mismatch::Fewer { taken, before } => write!(
                f,
                "the server has {taken} lines of the session and had {before}: they have left its history, \
                 and nothing says any more what was published"
            ),
            Mismatch::MoreThanSent => f.write_str(
                "the server has acknowledged lines that were not sent: it ends them otherwise, and a \
                 session needs a listener with line-end=lf",
            ),
            Mismatch::MoreThanInput { taken, input } => write!(
                f,
                "the server has {taken} lines of the session, and standard input has {input}: it is not \
                 the one that the session began with"
            ),
            Mismatch::LineTooLong => write!(
                f,
                "standard input has a line of more than {} MiB",
                HELD_BYTES_MAX >> 20
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fill(backlog: &mut Backlog, bytes: &[u8]) -> Result<(), Mismatch> {
        for byte in bytes {
            backlog.room()[0] = *byte;
            backlog.filled(1)?;
        }
        Ok(())
    }

    fn with(bytes: &[u8]) -> Backlog {
        let mut backlog = Backlog::with_bound(16);
        fill(&mut backlog, bytes).unwrap();
        backlog
    }

    #[test]
    fn only_whole_lines_are_sent_and_the_last_gets_its_lf() {
        let mut backlog = with(b"one\ntw");
        assert_eq!(backlog.pending(), b"one\n");
        backlog.sent(4);
        assert_eq!(backlog.pending(), b"");
        fill(&mut backlog, b"o\nthree").unwrap();
        assert_eq!(backlog.pending(), b"two\n");
        assert_eq!(backlog.finish(), Ok(()));
        assert_eq!(backlog.pending(), b"two\nthree\n");
        backlog.sent(10);
        assert_eq!(backlog.acknowledged(2), Ok(()));
        assert!(!backlog.is_empty());
        assert_eq!(backlog.acknowledged(3), Ok(()));
        assert!(backlog.is_empty());
        assert_eq!(backlog.taken(), 3);
        let mut empty = Backlog::with_bound(16);
        assert_eq!(empty.finish(), Ok(()));
        assert!(empty.is_empty());
    }

    #[test]
    fn lines_that_the_server_has_are_skipped_before_and_after_they_are_read() {
        let mut backlog = with(b"one\ntwo\nthr");
        assert_eq!(backlog.go_on(1, false), Ok(()));
        assert_eq!(backlog.pending(), b"two\n");
        assert_eq!(backlog.go_on(4, false), Ok(()));
        assert_eq!(backlog.pending(), b"");
        fill(&mut backlog, b"ee\nfour\nfive\n").unwrap();
        assert_eq!(backlog.pending(), b"five\n");
        assert_eq!(backlog.finish(), Ok(()));
    }

    #[test]
    fn next_connection_goes_on_where_the_server_is() {
        let mut backlog = with(b"1\n2\n3\n4\n");
        backlog.sent(7);
        assert_eq!(backlog.acknowledged(1), Ok(()));
        assert_eq!(backlog.go_on(2, false), Ok(()));
        assert_eq!(backlog.pending(), b"3\n4\n");
        assert_eq!(backlog.acknowledged(3), Err(Mismatch::MoreThanSent));
        let (taken, before) = (1, 2);
        assert_eq!(
            backlog.go_on(1, false),
            Err(Mismatch::Fewer { taken, before })
        );
    }

    #[test]
    fn server_with_more_than_the_input_is_told_of() {
        let mismatch = Err(Mismatch::MoreThanInput { taken: 3, input: 2 });
        let mut backlog = with(b"1\n2");
        assert_eq!(backlog.go_on(3, false), Ok(()));
        assert_eq!(backlog.finish(), mismatch);
        let mut backlog = with(b"1\n2");
        assert_eq!(backlog.finish(), Ok(()));
        assert_eq!(backlog.go_on(3, true), mismatch);
        assert_eq!(with(b"").go_on(u64::MAX, false), Ok(()));
    }

    #[test]
    fn what_is_held_has_a_bound_and_a_line_beyond_it_is_refused() {
        let mut backlog = with(b"0123456789\nabcd\n");
        assert!(backlog.is_full());
        backlog.sent(11);
        assert_eq!(backlog.acknowledged(1), Ok(()));
        assert!(!backlog.is_full());
        let mut backlog = Backlog::with_bound(16);
        assert_eq!(fill(&mut backlog, &[b'x'; 15]), Ok(()));
        assert_eq!(fill(&mut backlog, b"x"), Err(Mismatch::LineTooLong));
    }

    proptest! {
        /// However input arrives, leaves and is acknowledged, and wherever connections break: the server
        /// has each line once, in order.
        #[test]
        fn every_line_is_taken_once(
            steps in prop::collection::vec((0usize..9, 0usize..9, 0u64..3, 0u8..8, any::<bool>()), 1..300),
        ) {
            let input: Vec<u8> = (0..1000).flat_map(|n| format!("{n}\n").into_bytes()).collect();
            let mut backlog = Backlog::with_bound(64);
            let (mut read, mut published) = (0, Vec::new());
            // Begin of a line that the connection has brought.
            let mut partial = Vec::new();
            for (fills, sends, acks, breaks, starts_anew) in steps {
                if !backlog.is_full() {
                    fill(&mut backlog, &input[read..][..fills]).unwrap();
                    read += fills;
                }
                let sends = sends.min(backlog.pending().len());
                partial.extend_from_slice(&backlog.pending()[..sends]);
                backlog.sent(sends);
                let whole = memrchr(b'\n', &partial).map_or(0, |at| at + 1);
                published.extend(partial.drain(..whole));
                let taken = count(&published);
                let acknowledged = taken.saturating_sub(acks).max(backlog.taken());
                prop_assert_eq!(backlog.acknowledged(acknowledged), Ok(()));
                if breaks == 0 {
                    partial.clear();
                    if starts_anew {
                        (backlog, read) = (Backlog::with_bound(64), 0);
                    }
                    prop_assert_eq!(backlog.go_on(taken, false), Ok(()));
                }
            }
            prop_assert!(input.starts_with(&published));
            // All the rest is still to come from here, if the input has come to it again.
            if backlog.taken <= backlog.read {
                let begun = backlog.end - backlog.whole;
                let rest = [&partial, backlog.pending(), &input[read - begun..]].concat();
                prop_assert_eq!([published, rest].concat(), input);
            }
        }
    }
}
