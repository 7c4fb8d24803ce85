//! What standard input gave and the server does not have yet.

use std::fmt;

use memchr::{memchr_iter, memrchr};

/// How much is read at once. A pipe gives 64 KiB; a file gives all of it.
const READ_BYTES: usize = 256 * 1024;

/// How much is held before no more is read. It is more than a socket takes unacknowledged (4 MiB of
/// the kernel's memory by default, less in bytes of lines), so that it does not slow a sender down.
pub(super) const KEPT_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Lines on their way to the server.
///
/// An outbox that `keeps` holds on to what it sent until the server's machine has acknowledged the whole
/// line, so that after a broken connection a line that may be missing, or is there only in part, can
/// be sent again whole. One that does not keep forgets what the socket took.
#[derive(Debug)]
pub(super) struct Outbox {
    /// Buffer whose length never changes; pages never used cost nothing.
    bytes: Vec<u8>,
    /// Offset of the first byte that is held: the first of a line, unless `cut`.
    kept: usize,
    /// Offset of the first byte that the socket has not taken.
    sent: usize,
    /// Offset of the free space.
    end: usize,
    bytes_max: usize,
    keeps: bool,
    cut: bool,
    /// Whether lines of this connection are no longer held.
    released: bool,
}

/// Lines that cannot be sent again.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Lost {
    /// The connection broke inside a line whose begin is no longer held.
    PartialLine,
    /// The server took none of the lines of a connection, and some are no longer held.
    Refused,
}

impl Outbox {
    pub(super) fn new(keeps: bool) -> Outbox {
        let bytes_max = if keeps { KEPT_BYTES_MAX } else { READ_BYTES };
        Outbox::with_bound(keeps, bytes_max)
    }

    fn with_bound(keeps: bool, bytes_max: usize) -> Outbox {
        Outbox {
            // Twice as much, so that moving what is held to the front is rare.
            bytes: vec![0; 2 * bytes_max],
            kept: 0,
            sent: 0,
            end: 0,
            bytes_max,
            keeps,
            cut: false,
            released: false,
        }
    }

    /// Space for the next read; empty when enough is held. [`filled`](Outbox::filled) says how
    /// much was read.
    pub(super) fn room(&mut self) -> &mut [u8] {
        if self.is_full() {
            return &mut [];
        }
        let read_bytes = READ_BYTES.min(self.bytes_max);
        if self.bytes.len() - self.end < read_bytes {
            self.bytes.copy_within(self.kept..self.end, 0);
            self.sent -= self.kept;
            self.end -= self.kept;
            self.kept = 0;
        }
        &mut self.bytes[self.end..][..read_bytes]
    }

    /// Whether no more is to be read for now.
    pub(super) fn is_full(&self) -> bool {
        self.end - self.kept >= self.bytes_max
    }

    /// Notes that so many bytes were read into the room.
    pub(super) fn filled(&mut self, bytes: usize) {
        self.end += bytes;
    }

    /// Takes what is no longer than one read may be, after [`is_full`](Outbox::is_full) was false.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        let room = self.room();
        let taken = bytes.len().min(room.len());
        room[..taken].copy_from_slice(&bytes[..taken]);
        self.filled(taken);
    }

    /// Bytes that the socket is to take next.
    pub(super) fn pending(&self) -> &[u8] {
        &self.bytes[self.sent..self.end]
    }

    /// The socket took so many bytes.
    pub(super) fn taken(&mut self, bytes: usize) {
        self.sent += bytes;
        if !self.keeps {
            self.release(self.sent);
        }
    }

    /// All but so many bytes of what the socket took have been acknowledged: their lines need not be
    /// held any longer.
    pub(super) fn acknowledged_but(&mut self, bytes: usize) {
        if !self.keeps {
            return;
        }
        let acknowledged = self.sent.saturating_sub(bytes).max(self.kept);
        match memrchr(b'\n', &self.bytes[self.kept..acknowledged]) {
            Some(at) => {
                self.cut = false;
                self.release(self.kept + at + 1);
            }
            // One line is all that there is room for: it goes out, but cannot be sent again.
            None if self.is_full()
                && acknowledged > self.kept
                && memrchr(b'\n', &self.bytes[acknowledged..self.end]).is_none() =>
            {
                self.cut = true;
                self.release(acknowledged);
            }
            None => {}
        }
    }

    /// Lets go of all that the socket took: none of it is to be sent again.
    pub(super) fn forget_sent(&mut self) {
        self.cut = false;
        self.release(self.sent);
    }

    fn release(&mut self, to: usize) {
        self.released |= to > self.kept;
        self.kept = to;
        if self.kept == self.end {
            (self.kept, self.sent, self.end) = (0, 0, 0);
        }
    }

    /// The connection is gone, with so many bytes of what the socket took not acknowledged. What is
    /// pending now begins with the first line that is not acknowledged as a whole.
    pub(super) fn rewind(&mut self, unacknowledged: usize) -> Result<(), Lost> {
        self.acknowledged_but(unacknowledged);
        if self.cut {
            return Err(Lost::PartialLine);
        }
        self.sent = self.kept;
        self.released = false;
        Ok(())
    }

    /// The connection is gone, and the server took nothing of what was sent over it. All of that is
    /// pending now.
    pub(super) fn rewind_all(&mut self) -> Result<(), Lost> {
        match self.released {
            true => Err(Lost::Refused),
            false => self.rewind(self.sent - self.kept),
        }
    }

    /// How many lines are pending, the last one perhaps without its end.
    pub(super) fn pending_lines(&self) -> usize {
        let pending = self.pending();
        let unfinished = pending.last().is_some_and(|last| *last != b'\n');
        memchr_iter(b'\n', pending).count() + usize::from(unfinished)
    }
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = KEPT_BYTES_MAX >> 20;
        match self {
            Lost::PartialLine => write!(f, "a line of more than {mib} MiB is lost with it"),
            Lost::Refused => write!(f, "more than {mib} MiB of lines are lost with it"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fill(outbox: &mut Outbox, mut bytes: &[u8]) -> usize {
        let mut total = 0;
        while !bytes.is_empty() {
            let room = outbox.room();
            let n = room.len().min(bytes.len());
            if n == 0 {
                break;
            }
            room[..n].copy_from_slice(&bytes[..n]);
            outbox.filled(n);
            bytes = &bytes[n..];
            total += n;
        }
        total
    }

    fn with(bytes: &[u8], taken: usize) -> Outbox {
        let mut outbox = Outbox::with_bound(true, 16);
        assert_eq!(fill(&mut outbox, bytes), bytes.len());
        outbox.taken(taken);
        outbox
    }

    #[test]
    fn line_that_was_half_sent_is_sent_again_whole() {
        let mut outbox = with(b"one\ntwo\nthree", 6);
        assert_eq!(outbox.rewind(0), Ok(()));
        assert_eq!(outbox.pending(), b"two\nthree");
        assert_eq!(outbox.pending_lines(), 2);
    }

    #[test]
    fn line_that_is_not_acknowledged_to_its_end_is_sent_again() {
        let mut outbox = with(b"one\ntwo\nthree", 8);
        assert_eq!(outbox.rewind(1), Ok(()));
        assert_eq!(outbox.pending(), b"two\nthree");
        let mut outbox = with(b"one\ntwo\nthree", 8);
        assert_eq!(outbox.rewind(0), Ok(()));
        assert_eq!(outbox.pending(), b"three");
    }

    #[test]
    fn line_that_input_has_not_ended_yet_is_sent_again_with_what_comes() {
        let mut outbox = with(b"hel", 3);
        outbox.acknowledged_but(0);
        assert_eq!(outbox.rewind(0), Ok(()));
        fill(&mut outbox, b"lo\n");
        assert_eq!(outbox.pending(), b"hello\n");
    }

    #[test]
    fn what_is_acknowledged_makes_room() {
        let mut outbox = with(b"0123456789abcde\n", 16);
        assert!(outbox.is_full() && outbox.room().is_empty());
        outbox.acknowledged_but(1);
        assert!(outbox.is_full(), "it may have to be sent again");
        outbox.acknowledged_but(0);
        assert!(!outbox.is_full());
    }

    #[test]
    fn line_larger_than_the_outbox_goes_out_and_cannot_be_sent_again() {
        let mut outbox = with(b"0123456789abcdef", 10);
        outbox.acknowledged_but(2);
        assert_eq!(fill(&mut outbox, b"gh\nnext\n"), 8);
        assert_eq!(outbox.pending(), b"abcdefgh\nnext\n");
        outbox.taken(8);
        assert_eq!(outbox.rewind(0), Err(Lost::PartialLine));

        // Its end makes it whole again.
        outbox.taken(1);
        assert_eq!(outbox.rewind(0), Ok(()));
        assert_eq!(outbox.pending(), b"next\n");
    }

    #[test]
    fn lines_that_were_refused_are_sent_again_if_they_are_all_held() {
        let mut outbox = with(b"one\ntwo\nthree", 13);
        assert_eq!(outbox.rewind_all(), Ok(()));
        assert_eq!(outbox.pending(), b"one\ntwo\nthree");
        outbox.taken(13);
        outbox.acknowledged_but(6);
        assert_eq!(outbox.rewind_all(), Err(Lost::Refused));
        // What an earlier connection took is no part of the next one.
        assert_eq!(outbox.rewind(6), Ok(()));
        assert_eq!(outbox.rewind_all(), Ok(()));
        assert_eq!(outbox.pending(), b"two\nthree");
    }

    #[test]
    fn without_keeping_nothing_that_was_taken_is_held() {
        let mut outbox = Outbox::with_bound(false, 16);
        fill(&mut outbox, b"0123456789abcdef");
        outbox.taken(10);
        assert!(!outbox.is_full());
        assert_eq!(outbox.pending(), b"abcdef");
    }

    proptest! {
        /// However input arrives, leaves and is acknowledged, and wherever connections break: the
        /// server has every line, and those it has twice are the ones it had not acknowledged.
        #[test]
        fn no_line_is_lost_over_reconnects(
            steps in prop::collection::vec((1usize..9, 0usize..9, 0usize..9, 0u8..8), 1..200),
        ) {
            let mut outbox = Outbox::with_bound(true, 64);
            let input: Vec<u8> = (0..1000).flat_map(|n| format!("{n}\n").into_bytes()).collect();
            let (mut read, mut unacknowledged) = (0, 0);
            let mut received: Vec<Vec<u8>> = vec![Vec::new()];
            for (fills, takes, unacks, breaks) in steps {
                read += fill(&mut outbox, &input[read..][..fills]);
                let takes = takes.min(outbox.pending().len());
                let now = outbox.pending()[..takes].to_vec();
                received.last_mut().unwrap().extend_from_slice(&now);
                outbox.taken(takes);
                unacknowledged = (unacknowledged + takes).min(unacks);
                outbox.acknowledged_but(unacknowledged);
                if breaks == 0 {
                    // The server has what it acknowledged, and publishes whole lines of it only.
                    let connection = received.last_mut().unwrap();
                    connection.truncate(connection.len() - unacknowledged);
                    let whole = memrchr(b'\n', connection).map_or(0, |at| at + 1);
                    connection.truncate(whole);
                    prop_assert_eq!(outbox.rewind(unacknowledged), Ok(()));
                    unacknowledged = 0;
                    received.push(Vec::new());
                }
            }
            received.push(outbox.pending().to_vec());
            prop_assert_eq!(received.concat(), &input[..read]);
        }
    }
}
