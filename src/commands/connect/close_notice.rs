//! What the daemon says last: why it closes the connection.

use memchr::{memchr, memrchr};

use crate::commands::daemon_line::DaemonLine;
use crate::wire::close_reason::CloseReason;
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

    /// Whether the first line came, or as much of it as is kept.
    pub(super) fn has_first_line(&self) -> bool {
        self.head.len() == HEAD_BYTES_MAX || self.head.contains(&b'\n')
    }

    /// The daemon's reason for closing, when it gave one. `raw` has none.
    pub(super) fn reason(&self) -> Option<Reason> {
        self.said().find_map(|said| match said {
            DaemonLine::Error { reason, detail } => Some(Reason {
                label: reason,
                detail,
            }),
            _ => None,
        })
    }

    /// Whether the first that came is about other clients: a hello was not taken as one. In `raw`,
    /// which has no answer to a hello, that is not known.
    pub(super) fn is_about_others(&self) -> bool {
        const OTHERS: [&[u8]; 3] = [
            b"{\"event\":\"message\"",
            b"{\"event\":\"connect\"",
            b"{\"event\":\"disconnect\"",
        ];
        let line = String::from_utf8_lossy(first_line(&self.head));
        DaemonLine::from_text(&line) == Some(DaemonLine::Other)
            || OTHERS.iter().any(|begin| self.head.starts_with(begin))
    }

    /// Whether the daemon stopped before it took a hello, and so nothing of what followed that.
    pub(super) fn is_shutdown_at_once(&self) -> bool {
        DaemonLine::read(first_line(&self.head)) == Some(DaemonLine::Shutdown)
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

/// Why the daemon closes a connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reason {
    /// The label, as in the daemon's log.
    label: String,
    /// The daemon's own words.
    pub(super) detail: String,
}

impl Reason {
    /// Whether it holds again for the same lines.
    pub(super) fn is_final(&self) -> bool {
        self.is(&[
            CloseReason::LineTooLong,
            CloseReason::Http,
            CloseReason::Tls,
        ])
    }

    /// Whether nothing at all was taken, for now.
    pub(super) fn is_refusal(&self) -> bool {
        self.is(&[CloseReason::Full, CloseReason::TooMany])
    }

    /// Whether nothing at all was taken, nor will be however often it is tried: the hello is not what the
    /// listener wants, or who says it may not come in.
    pub(super) fn refuses_hello(&self) -> bool {
        self.is(&[
            CloseReason::BadHello,
            CloseReason::NoChannel,
            CloseReason::Unauthorized,
            CloseReason::Denied,
        ])
    }

    /// Whether another connection has this one's session now.
    pub(super) fn is_taken_over(&self) -> bool {
        self.is(&[CloseReason::SessionTaken])
    }

    fn is(&self, reasons: &[CloseReason]) -> bool {
        reasons.iter().any(|reason| reason.label() == self.label)
    }
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
        notice(reads).reason().map(|reason| reason.detail)
    }

    #[test]
    fn reason_says_whether_trying_again_can_help() {
        let told = |line: &str| {
            let reason = notice(&[line.as_bytes()]).reason().expect(line);
            (
                reason.is_final(),
                reason.is_refusal(),
                reason.refuses_hello(),
            )
        };
        let json = |label: &str| {
            told(&format!(
                "{{\"event\":\"error\",\"reason\":\"{label}\",\"detail\":\"x\"}}\n"
            ))
        };
        for (text, label, wanted) in [
            (
                "line too long (limit 9 bytes)",
                "line_too_long",
                (true, false, false),
            ),
            (
                "HTTP request, but this is no HTTP server",
                "http",
                (true, false, false),
            ),
            ("server full (2 clients)", "full", (false, true, false)),
            ("hello expected", "bad_hello", (false, false, true)),
            ("no such channel", "no_channel", (false, false, true)),
            ("not authorized", "unauthorized", (false, false, true)),
            ("not allowed", "denied", (false, false, true)),
            (
                "too many connections from ::1",
                "too_many",
                (false, true, false),
            ),
            ("idle for 60s", "idle", (false, false, false)),
        ] {
            assert_eq!(told(&format!("Error: {text}\r\n")), wanted, "{text}");
            assert_eq!(json(label), wanted, "{label}");
        }
    }

    #[test]
    fn first_line_tells_whether_a_hello_was_taken() {
        for line in [
            "Message from client 1: LINEHUB/1\n",
            "New client connected: 2\r\n",
            "{\"event\":\"message\",\"seq\":1,\"client\":2,\"data\":\"x\"}\n",
        ] {
            let all = notice(&[line.as_bytes(), b"Hello client 7: channel a, at 0:0\n"]);
            assert!(all.is_about_others(), "{line}");
        }
        let channel = "a".repeat(64);
        for line in [
            &format!("Hello client 7: channel {channel}, at 5f3a9c11:0\n"),
            "{\"event\":\"hello\",\"client\":7,\"channel\":\"a\",\"epoch\":\"0\",\"seq\":0}\n",
            "Error: hello expected\n",
            "Server shutting down\n",
            "payload\n",
            "",
        ] {
            let all = notice(&[line.as_bytes(), b"Message from client 1: x\n"]);
            assert!(line.is_empty() || !all.is_about_others(), "{line}");
            assert_eq!(
                all.is_shutdown_at_once(),
                line.starts_with("Server"),
                "{line}"
            );
        }
        assert!(!notice(&[]).is_about_others());
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
        assert_eq!(reason(&[b"Taken 3\nError: a\n"]), Some("a".to_owned()));
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
        let idle = |long: &CloseNotice| long.reason().map(|reason| reason.detail);
        assert_eq!(idle(&long).as_deref(), Some("idle for 60s"));
        // A line that is longer than what is kept, too.
        long.note(&[b'x'; 3 * TAIL_BYTES_MAX]);
        long.note(b"\nError: idle for 60s\n");
        assert_eq!(idle(&long).as_deref(), Some("idle for 60s"));
    }
}
