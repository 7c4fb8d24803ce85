//! What the daemon says last: why it closes the connection.

use memchr::{memchr, memrchr};

use crate::commands::daemon_line::DaemonLine;
use crate::wire::telnet::IAC;

/// How much of the end of the stream is kept: more than the daemon's last lines have.
const TAIL_BYTES_MAX: usize = 4096;

/// How much of the first line is kept: enough to know the format by.
const HEAD_BYTES_MAX: usize = 64;

/// The begin and the end of what came, in case the daemon says there why it closes.
#[derive(Debug, Default)]
pub(super) struct CloseNotice {
    head: Vec<u8>,
    tail: Vec<u8>,
}

impl CloseNotice {
    pub(super) fn note(&mut self, read: &[u8]) {
        let wanted = HEAD_BYTES_MAX.saturating_sub(self.head.len());
        self.head.extend_from_slice(&read[..wanted.min(read.len())]);
        let last = &read[read.len().saturating_sub(TAIL_BYTES_MAX)..];
        let before = TAIL_BYTES_MAX - last.len();
        self.tail.drain(..self.tail.len().saturating_sub(before));
        self.tail.extend_from_slice(last);
    }

    /// Whether anything came.
    pub(super) fn is_empty(&self) -> bool {
        self.head.is_empty()
    }

    /// The daemon's reason for closing, when it gave one. `raw` has none.
    pub(super) fn reason(&self) -> Option<String> {
        self.said().find_map(|said| match said {
            DaemonLine::Error { detail, .. } => Some(detail),
            _ => None,
        })
    }

    /// Whether the daemon said that it stops.
    pub(super) fn is_shutdown(&self) -> bool {
        self.said().any(|said| said == DaemonLine::Shutdown)
    }

    /// Whether what came is `text`; `None` while that is not known.
    pub(super) fn is_text(&self) -> Option<bool> {
        let line = first_line(&self.head);
        // Telnet's answers say nothing of what comes after them.
        let is_known = line.len() < self.head.len() || self.head.len() == HEAD_BYTES_MAX;
        let is_known = is_known && !line.starts_with(&[IAC]);
        is_known.then(|| is_text(line))
    }

    /// The lines at the end, the latest first. None of a `raw` stream, which is told by its lines: in
    /// it, whatever looks like the daemon's words is somebody's payload.
    fn said(&self) -> impl Iterator<Item = DaemonLine> {
        let whole = memrchr(b'\n', &self.tail).map_or(0, |at| at + 1);
        let mut lines = self.tail[..whole].split_inclusive(|byte| *byte == b'\n');
        let is_cut = self.tail.len() == TAIL_BYTES_MAX;
        if is_cut {
            lines.next();
        }
        let said: Option<Vec<DaemonLine>> = match is_cut && !is_known_head(&self.head) {
            true => None,
            false => lines.map(understand).collect(),
        };
        said.unwrap_or_default().into_iter().rev()
    }
}

/// Whether a stream that begins so is `text` or `json`.
fn is_known_head(head: &[u8]) -> bool {
    is_text(first_line(head)) || head.starts_with(b"{\"event\":\"")
}

fn is_text(line: &[u8]) -> bool {
    DaemonLine::from_text(&String::from_utf8_lossy(line)).is_some()
}

fn first_line(head: &[u8]) -> &[u8] {
    &head[..memchr(b'\n', head).unwrap_or(head.len())]
}

/// Meaning of a line, if the line can be the daemon's.
fn understand(mut line: &[u8]) -> Option<DaemonLine> {
    // Telnet's answers, of three bytes each, come before a line.
    while let [IAC, _, _, after @ ..] = line {
        line = after;
    }
    DaemonLine::read(line)
}

/// Whether the reason for closing holds again when the same lines are sent again.
pub(super) fn is_final(reason: &str) -> bool {
    reason.starts_with("line too long") || reason.contains("HTTP")
}

/// Whether the reason says that nothing at all was taken.
pub(super) fn is_refusal(reason: &str) -> bool {
    reason.starts_with("server full")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notice(reads: &[&[u8]]) -> CloseNotice {
        let mut notice = CloseNotice::default();
        for read in reads {
            notice.note(read);
        }
        notice
    }

    fn reason(reads: &[&[u8]]) -> Option<String> {
        notice(reads).reason()
    }

    #[test]
    fn error_line_is_the_reason_wherever_reads_are_cut() {
        let full = Some("server full (2 clients)".to_owned());
        let text = b"Message from client 1: x\nError: server full (2 clients)\r\n";
        for at in 0..=text.len() {
            assert_eq!(reason(&[&text[..at], &text[at..]]), full, "{at}");
        }
        let json =
            b"{\"event\":\"error\",\"reason\":\"full\",\"detail\":\"server full (2 clients)\"}\n";
        let message = b"{\"event\":\"message\",\"seq\":1,\"client\":2,\"data\":\"x\"}\n";
        assert_eq!(reason(&[message, json]), full);
        assert_eq!(
            reason(&[b"Error: a\nServer shutting down\n"]),
            Some("a".to_owned())
        );
        assert_eq!(reason(&[]), None);
        assert_eq!(reason(&[b"Message from client 1: Error: x\n"]), None);
    }

    #[test]
    fn answers_to_telnet_do_not_hide_the_reason() {
        let answers = b"\xff\xfc\x06\xff\xfe\x01[linehub: yes]\r\n\xff\xfc\x06Error: a\r\n";
        assert_eq!(reason(&[answers]), Some("a".to_owned()));
        let told = b"Message from client 1: x\n\xff\xfc\x06Error: a\r\n";
        assert_eq!(reason(&[told]), Some("a".to_owned()));
    }

    #[test]
    fn text_is_known_by_its_first_line() {
        let is_text = |bytes: &[u8]| notice(&[bytes]).is_text();
        assert_eq!(is_text(b""), None);
        assert_eq!(is_text(b"Message from cl"), None);
        assert_eq!(is_text(b"\xff\xfc\x06payload\n"), None);
        assert_eq!(is_text(b"Message from client 1: x\n"), Some(true));
        assert_eq!(is_text(b"[linehub: yes]\r\n"), Some(true));
        assert_eq!(is_text(b"payload\n"), Some(false));
        assert_eq!(is_text(&[b'x'; HEAD_BYTES_MAX]), Some(false));
        let json = b"{\"event\":\"connect\",\"seq\":1,\"client\":2}\n";
        assert_eq!(is_text(json), Some(false));
    }

    #[test]
    fn stop_of_the_daemon_is_no_error() {
        for line in [
            &b"Server shutting down\r\n"[..],
            b"{\"event\":\"shutdown\"}\n",
        ] {
            assert_eq!(reason(&[line]), None);
            assert!(notice(&[line]).is_shutdown());
        }
        assert!(!notice(&[b"Message from client 1: Server shutting down\n"]).is_shutdown());
    }

    #[test]
    fn payload_of_a_raw_stream_is_no_error() {
        assert_eq!(reason(&[b"disk 1 ok\nError: disk 2\n"]), None);
        let mut long = notice(&[b"disk 1 ok\n"]);
        for _ in 0..1000 {
            long.note(b"Error: disk 2\n");
        }
        assert_eq!(long.reason(), None);
        assert_eq!(long.tail.len(), TAIL_BYTES_MAX);
    }

    #[test]
    fn end_of_a_long_stream_is_looked_at() {
        let mut long = CloseNotice::default();
        for _ in 0..1000 {
            long.note(b"Message from client 1: x\n");
        }
        long.note(b"Error: idle for 60s\n");
        assert_eq!(long.reason(), Some("idle for 60s".to_owned()));
        // A line that is longer than what is kept, too.
        long.note(&[b'x'; 3 * TAIL_BYTES_MAX]);
        long.note(b"\nError: idle for 60s\n");
        assert_eq!(long.reason(), Some("idle for 60s".to_owned()));
    }
}
