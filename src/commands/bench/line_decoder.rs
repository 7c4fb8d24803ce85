//! What a reader's line says, in the format that the daemon speaks.

use memchr::memmem;

use super::line::{LineHeader, LineKind, TAG_BYTES};
use crate::commands::daemon_line::DaemonLine;
use crate::wire::close_reason::CloseReason;
use crate::wire::format::Format;

/// What a received line is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// A line of this run, whole.
    Ours(LineHeader),
    /// A torn line, or several in one: what can still be told of the lines of this run in it.
    Torn(Vec<LineHeader>),
    /// A notice, or a line of a client that is not ours.
    Other,
    /// The reader is told that it missed so many.
    Skipped(u64),
    /// The reader is told that it is being closed.
    CloseNotice(CloseNotice),
}

/// Why a connection was closed, as far as the daemon said it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CloseNotice {
    /// The label, as in the daemon's log.
    pub(super) reason: String,
    /// The daemon's own words.
    pub(super) detail: String,
}

/// Reads what is received.
#[derive(Clone, Debug)]
pub(super) struct LineDecoder {
    format: Format,
    kind: LineKind,
}

impl LineDecoder {
    pub(super) fn new(format: Format, kind: LineKind) -> LineDecoder {
        LineDecoder { format, kind }
    }

    /// Reads a line, given without its LF.
    pub(super) fn read(&self, line: &[u8]) -> Seen {
        match payload(self.format, line) {
            Some(payload) => match self.kind.read(payload) {
                Some(header) => Seen::Ours(header),
                None => self.read_foreign(line),
            },
            None => self.read_unusual(line),
        }
    }

    /// A line that has the form of a message, but not of ours.
    fn read_foreign(&self, line: &[u8]) -> Seen {
        if memmem::find(line, self.kind.tag()).is_some() {
            self.torn(line)
        } else {
            Seen::Other
        }
    }

    /// A line that is no message.
    fn read_unusual(&self, line: &[u8]) -> Seen {
        let said = DaemonLine::read(line).filter(|_| self.format != Format::Raw);
        match said {
            None => self.torn(line),
            Some(DaemonLine::Other | DaemonLine::Hello) => Seen::Other,
            Some(DaemonLine::Skip { count }) => Seen::Skipped(count),
            Some(said) => CloseNotice::of(said).map_or(Seen::Other, Seen::CloseNotice),
        }
    }

    fn torn(&self, line: &[u8]) -> Seen {
        let heads = memmem::find_iter(line, self.kind.tag());
        Seen::Torn(
            heads
                .filter_map(|at| self.kind.read_head(&line[at..]))
                .collect(),
        )
    }
}

/// The payload of a message in this format, if it is one.
fn payload(format: Format, line: &[u8]) -> Option<&[u8]> {
    match format {
        Format::Raw => Some(line),
        Format::Text => {
            after_number(line.strip_prefix(b"Message from client ")?).strip_prefix(b": ")
        }
        Format::Json => {
            let rest = after_number(line.strip_prefix(br#"{"event":"message","seq":"#)?);
            let rest = after_number(rest.strip_prefix(br#","client":"#)?);
            let rest = after_name(rest)?;
            rest.strip_prefix(br#","data":""#)?.strip_suffix(br#""}"#)
        }
    }
}

fn after_number(text: &[u8]) -> &[u8] {
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    &text[digits..]
}

/// What stands behind the name of the sender, if it has one. A name has no quotes.
fn after_name(text: &[u8]) -> Option<&[u8]> {
    let Some(name) = text.strip_prefix(br#","name":""#) else {
        return Some(text);
    };
    let end = memchr::memchr(b'"', name)?;
    Some(&name[end + 1..])
}

/// The format in which the daemon showed a line that holds `tag`.
pub(super) fn format_of(line: &[u8], tag: &[u8; TAG_BYTES]) -> Format {
    let begins = |format| payload(format, line).is_some_and(|payload| payload.starts_with(tag));
    let formats = [Format::Text, Format::Json];
    formats
        .into_iter()
        .find(|format| begins(*format))
        .unwrap_or(Format::Raw)
}

impl CloseNotice {
    /// The notice in the last lines of a connection of whatever format, if they hold one.
    pub(super) fn in_last_lines(bytes: &[u8]) -> Option<CloseNotice> {
        let mut lines = bytes.rsplit(|byte| *byte == b'\n');
        lines.find_map(|line| CloseNotice::of(DaemonLine::read(line)?))
    }

    fn of(said: DaemonLine) -> Option<CloseNotice> {
        let (reason, detail) = match said {
            DaemonLine::Error { reason, detail } => (reason, format!("Error: {detail}")),
            DaemonLine::Shutdown => (
                CloseReason::Shutdown.label().to_owned(),
                "Server shutting down".to_owned(),
            ),
            DaemonLine::Hello | DaemonLine::Skip { .. } | DaemonLine::Other => return None,
        };
        Some(CloseNotice { reason, detail })
    }

    /// The notice of a connection that ended without a word.
    pub(super) fn silent(reason: CloseReason) -> CloseNotice {
        CloseNotice {
            reason: reason.label().to_owned(),
            detail: String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::format::{self, Notice};
    use crate::wire::ids::{ClientId, Seq};

    fn decoder(format: Format) -> LineDecoder {
        LineDecoder::new(format, LineKind::new(*b"runA", 40))
    }

    fn sent(number: u64) -> Vec<u8> {
        let mut out = Vec::new();
        LineKind::new(*b"runA", 40).write(2, number, 0, &mut out);
        out
    }

    fn shown(format: Format, run: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        match format {
            Format::Raw => out.extend_from_slice(run),
            Format::Text => format::text_lines(ClientId(7), run, &mut out),
            Format::Json => drop(format::json_lines(ClientId(7), Seq(41), run, &mut out)),
        }
        out.pop();
        out
    }

    #[test]
    fn own_lines_are_known_in_every_format() {
        for format in Format::ALL {
            let line = shown(format, &sent(5));
            assert_eq!(format_of(&line, b"runA"), format);
            let Seen::Ours(header) = decoder(format).read(&line) else {
                panic!("{format}: {}", String::from_utf8_lossy(&line));
            };
            assert_eq!((header.sender, header.number_near(4)), (2, 5));
            for payload in [&b"hello"[..], b"", b"say \"hi\"", b"\xff\xfe"] {
                let line = shown(format, &[payload, b"\n"].concat());
                assert_eq!(decoder(format).read(&line), Seen::Other, "{format}");
            }
        }
    }

    #[test]
    fn what_is_left_of_lines_is_told() {
        for format in Format::ALL {
            let (one, two) = (shown(format, &sent(5)), shown(format, &sent(6)));
            let numbers = |line: &[u8]| -> Vec<u64> {
                match decoder(format).read(line) {
                    Seen::Torn(headers) => headers.iter().map(|s| s.number_near(5)).collect(),
                    seen => panic!("{format}: {seen:?}"),
                }
            };
            assert_eq!(numbers(&one[..one.len() - 1]), [5], "{format}");
            assert_eq!(numbers(&[&one[..], &two[..]].concat()), [5, 6], "{format}");
            assert_eq!(
                numbers(&[&one[..one.len() - 3], &two[..]].concat()),
                [5, 6],
                "{format}"
            );
            if format != Format::Raw {
                assert_eq!(numbers(&one[one.len() - 10..]), [0; 0], "{format}");
            }
        }
    }

    #[test]
    fn what_the_daemon_says_is_understood() {
        for format in [Format::Text, Format::Json] {
            let read = |say: &dyn Fn(&mut Vec<u8>)| {
                let mut out = Vec::new();
                say(&mut out);
                out.pop();
                decoder(format).read(&out)
            };
            for notice in [Notice::Connect, Notice::Disconnect] {
                let seen = read(&|out| match format {
                    Format::Json => format::json_notice(notice, ClientId(3), Seq(1), out),
                    _ => format::text_notice(notice, ClientId(3), out),
                });
                assert_eq!(seen, Seen::Other);
            }
            assert_eq!(
                read(&|out| format::skip(format, 120, out)),
                Seen::Skipped(120)
            );
            let told = |reason: &str, detail: &str| {
                let (reason, detail) = (reason.to_owned(), detail.to_owned());
                Seen::CloseNotice(CloseNotice { reason, detail })
            };
            let slow =
                |out: &mut Vec<u8>| format::error(format, CloseReason::Slow, "too slow", out);
            assert_eq!(read(&slow), told("slow", "Error: too slow"));
            let shutdown = |out: &mut Vec<u8>| format::shutdown(format, out);
            assert_eq!(read(&shutdown), told("shutdown", "Server shutting down"));
        }
    }
}
