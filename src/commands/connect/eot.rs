//! What a `text` daemon takes for a client's wish to leave: a line of only Ctrl-D, or telnet's end of
//! file. It closes then, and what follows reaches nobody.

use std::time::{Duration, Instant};

use memchr::{memchr2, memrchr};

use crate::wire::telnet::{self, END_OF_TRANSMISSION, HEADROOM, IAC, Telnet};

/// Longer than a line of only Ctrl-D is with its end.
const LINE_BYTES_MAX: usize = 4;

/// How long a daemon that has not sent anything may take to close for it, from when its machine has it:
/// longer than a daemon makes senders wait as a rule.
const REACTION_TIME: Duration = Duration::from_secs(2);

/// Holds back what follows such a wish, until it is known whether the daemon has closed for it. One
/// for each connection.
#[derive(Debug, Default)]
pub(super) struct EotGuard {
    telnet: Telnet,
    /// The begin of the line that is being looked at, as the daemon sees it.
    line: Vec<u8>,
    /// How many of the pending bytes may be sent.
    clear: usize,
    /// Whether those end with a wish to leave.
    found: bool,
    /// Since when the daemon's machine has the wish.
    arrived: Option<Instant>,
    /// Whether nothing is a wish to leave here.
    lifted: bool,
}

impl EotGuard {
    /// Bytes of the pending ones that may be sent.
    pub(super) fn sendable<'a>(&mut self, pending: &'a [u8]) -> &'a [u8] {
        if self.lifted {
            return pending;
        }
        if !self.found && self.clear < pending.len() {
            let end = self.find(&pending[self.clear..]);
            self.found = end.is_some();
            self.clear = end.map_or(pending.len(), |end| self.clear + end);
        }
        &pending[..self.clear]
    }

    /// Notes that so many bytes were sent.
    pub(super) fn sent(&mut self, bytes: usize) {
        self.clear = self.clear.saturating_sub(bytes);
    }

    /// Whether the last that was sent is a wish to leave.
    pub(super) fn holds(&self) -> bool {
        self.found && self.clear == 0 && !self.lifted
    }

    /// The daemon's machine has the wish, and the daemon has not closed so far. Whether it speaks `text`
    /// may be known: only then it will.
    pub(super) fn arrived(&mut self, is_text: Option<bool>) {
        let since = *self.arrived.get_or_insert_with(Instant::now);
        self.lifted = match is_text {
            Some(is_text) => !is_text,
            None => since.elapsed() >= REACTION_TIME,
        };
    }

    /// Offset of the end of the first wish to leave.
    fn find(&mut self, bytes: &[u8]) -> Option<usize> {
        let begun = self.telnet.is_amid_command() || self.line.contains(&END_OF_TRANSMISSION);
        let mut end = 0;
        if !begun && memchr2(IAC, END_OF_TRANSMISSION, bytes).is_none() {
            // Of bytes without either, the last two, which may be CR NUL, tell how the next ones begin.
            end = bytes.len().saturating_sub(2);
            self.line.push(b'?');
        }
        for part in bytes[end..].split_inclusive(|byte| matches!(*byte, b'\n' | 0 | telnet::EOF)) {
            end += part.len();
            let mut read = [&[0; HEADROOM], part].concat();
            self.line
                .extend_from_slice(self.telnet.filter(&mut read, &mut Vec::new()));
            if self.telnet.wants_to_leave() || telnet::find_eot_line(&self.line).is_some() {
                return Some(end);
            }
            let whole = memrchr(b'\n', &self.line).map_or(0, |at| at + 1);
            self.line.drain(..whole);
            self.line.truncate(LINE_BYTES_MAX);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What may be sent of bytes that become pending in these pieces.
    fn sendable(pieces: &[&[u8]]) -> Vec<u8> {
        let mut guard = EotGuard::default();
        let mut pending = Vec::new();
        for piece in pieces {
            pending.extend_from_slice(piece);
            guard.sendable(&pending);
        }
        guard.sendable(&pending).to_vec()
    }

    #[test]
    fn what_follows_a_wish_to_leave_is_held_back_wherever_reads_are_cut() {
        for (sent, held) in [
            (&b"a\n\x04\n"[..], &b"b\n\x04\n"[..]),
            (b"\x04\r\n", b"\n"),
            (b"a\r\0\x04\r\0", b"b"),
            (b"\xff\xf1\x04\n", b"b\n"),
            (b"\xff\xfa\x01\xff\xec\xff\xf0a\xff\xec", b"b\xff\xec"),
            (b"a\x04\n\x04b\n\xff\xff\xec\xec\n\x04\x04\n\x04\r\r\n", b""),
        ] {
            let all = [sent, held].concat();
            for at in 0..=all.len() {
                let (one, two) = all.split_at(at);
                assert_eq!(sendable(&[one, two]), sent, "{all:x?} at {at}");
            }
        }
    }

    #[test]
    fn what_is_held_back_follows_when_nobody_leaves() {
        let mut guard = EotGuard::default();
        assert_eq!(guard.sendable(b"\x04\na\n"), b"\x04\n");
        guard.sent(1);
        assert!(!guard.holds());
        guard.sent(1);
        assert!(guard.holds());
        guard.arrived(None);
        guard.arrived(Some(true));
        assert!(guard.holds());
        guard.arrived(Some(false));
        assert!(!guard.holds());
        assert_eq!(guard.sendable(b"a\n\x04\nb\n"), b"a\n\x04\nb\n");
    }
    /// Whether the daemon closes for what it has got.
    fn is_wish(input: &[u8]) -> bool {
        let mut telnet = Telnet::new();
        let mut read = [&[0; HEADROOM], input].concat();
        let data = telnet.filter(&mut read, &mut Vec::new());
        telnet::find_eot_line(data).is_some() || telnet.wants_to_leave()
    }

    const INTERESTING: &[u8] = b"abc\r\r\n\n\0\x04\x04\x04\xec\xf0\xf1\xfa\xfb\xff\xff";

    proptest! {
        #[test]
        fn all_is_sent_up_to_the_byte_that_the_daemon_closes_for(
            input in prop::collection::vec(prop::sample::select(INTERESTING), 0..40),
            mut cuts in prop::collection::vec(0usize..40, 0..6),
        ) {
            let end = (0..=input.len()).find(|end| is_wish(&input[..*end]));
            let wanted = &input[..end.unwrap_or(input.len())];
            cuts.push(input.len());
            cuts.sort_unstable();
            let mut guard = EotGuard::default();
            for cut in cuts {
                let sendable = guard.sendable(&input[..cut.min(input.len())]);
                prop_assert!(wanted.starts_with(sendable));
            }
            prop_assert_eq!(guard.sendable(&input), wanted);
        }
    }
}
