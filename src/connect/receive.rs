//! The receiving half of a connection: what comes in goes to the output, a read at a time.

use std::io::{self, ErrorKind};
use std::sync::Arc;

use memchr::memrchr;
use rustix::io::Errno;
use rustix::net::RecvFlags;
use serde_json::Value;
use socket2::Socket;

use super::output::Output;

/// How much one read takes: what a fast stream brings while the last batch is written.
const READ_BYTES: usize = 256 * 1024;

/// The longest last words that are looked at; what the daemon says is shorter.
const WORDS_BYTES_MAX: usize = 512;

/// How a connection ended, as the receiving half saw it.
pub(super) struct Received {
    /// Where it all went; the next connection goes on with it.
    pub(super) output: Output,
    pub(super) ending: Ending,
    pub(super) words: LastWords,
}

#[derive(Debug)]
pub(super) enum Ending {
    /// The server sends no more.
    Closed,
    /// The connection was lost.
    Lost(io::Error),
    /// The output cannot be written; `BrokenPipe` when nobody reads it any more.
    OutputFailed(io::Error),
}

/// Receives until the server has closed. Blocks, also for as long as the output is not taken.
pub(super) fn receive(socket: &Arc<Socket>, mut output: Output) -> Received {
    let mut words = LastWords::default();
    let mut bytes = vec![0; READ_BYTES];
    let ending = loop {
        match rustix::net::recv(socket, &mut bytes[..], RecvFlags::empty()) {
            Ok((0, _)) => break Ending::Closed,
            Ok((read, _)) => {
                words.note(&bytes[..read]);
                if let Err(error) = output.take(&bytes[..read]) {
                    break Ending::OutputFailed(error);
                }
            }
            Err(Errno::INTR) => {}
            Err(error) => break Ending::Lost(error.into()),
        }
    };
    let ending = match (output.end(), ending) {
        (Err(error), Ending::Closed | Ending::Lost(_)) => Ending::OutputFailed(error),
        (_, ending) => ending,
    };
    Received {
        output,
        ending,
        words,
    }
}

impl Ending {
    /// Nobody reads standard output any more.
    pub(super) fn is_closed_output(&self) -> bool {
        matches!(self, Ending::OutputFailed(error) if error.kind() == ErrorKind::BrokenPipe)
    }
}

/// The last line that came, in case it is the daemon's reason for closing.
#[derive(Debug, Default)]
pub(super) struct LastWords {
    tail: Vec<u8>,
}

impl LastWords {
    fn note(&mut self, read: &[u8]) {
        let last = &read[read.len().saturating_sub(WORDS_BYTES_MAX)..];
        let before = WORDS_BYTES_MAX - last.len();
        self.tail.drain(..self.tail.len().saturating_sub(before));
        self.tail.extend_from_slice(last);
    }

    /// The daemon's reason for closing, when it gave one. `raw` has none.
    pub(super) fn reason(&self) -> Option<String> {
        let line = self.tail.strip_suffix(b"\n")?;
        let line = &line[memrchr(b'\n', line).map_or(0, |at| at + 1)..];
        let line = str::from_utf8(line).ok()?.trim_end_matches('\r');
        if let Some(reason) = line.strip_prefix("Error: ") {
            return Some(reason.to_owned());
        }
        let event: Value = serde_json::from_str(line).ok()?;
        (event.get("event")? == "error")
            .then(|| event.get("detail")?.as_str().map(str::to_owned))?
    }
}

/// Whether the reason for closing holds again when the same lines are sent again.
pub(super) fn is_final(reason: &str) -> bool {
    reason.starts_with("line too long")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(reads: &[&[u8]]) -> Option<String> {
        let mut words = LastWords::default();
        for read in reads {
            words.note(read);
        }
        words.reason()
    }

    #[test]
    fn last_line_is_the_reason_if_the_daemon_gave_one() {
        assert_eq!(reason(&[]), None);
        assert_eq!(reason(&[b"Message from client 1: Error: x\n"]), None);
        let full = Some("server full (2 clients)".to_owned());
        assert_eq!(reason(&[b"Error: server full (2 clients)\n"]), full);
        assert_eq!(
            reason(&[b"x\nError: server ", b"full (2 clients)\r\n"]),
            full
        );
        assert_eq!(reason(&[b"Error: server full (2 clients)\nx\n"]), None);
        let json =
            b"{\"event\":\"error\",\"reason\":\"full\",\"detail\":\"server full (2 clients)\"}\n";
        assert_eq!(reason(&[b"{}\n", json]), full);
        assert_eq!(reason(&[b"{\"event\":\"shutdown\"}\n"]), None);
    }

    #[test]
    fn last_words_are_bounded() {
        let mut words = LastWords::default();
        for _ in 0..5 {
            words.note(&[b'x'; 300]);
            words.note(&[b'y'; 3000]);
        }
        words.note(b"\nError: idle for 60s\n");
        assert_eq!(words.tail.len(), WORDS_BYTES_MAX);
        assert_eq!(words.reason(), Some("idle for 60s".to_owned()));
    }
}
