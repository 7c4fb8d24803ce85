//! Lines of the daemon, as clients of the formats `text` and `json` read them.

use serde::Deserialize;

use crate::wire::close_reason::CloseReason;

/// Meaning of a line; its fields are those of `json`.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub(crate) enum DaemonLine {
    /// The hello was taken: what comes next is the channel's.
    Hello,
    /// The client missed so many messages.
    Skip { count: u64 },
    /// The daemon closes this connection: the reason's label, and why in the daemon's words.
    Error { reason: String, detail: String },
    /// The daemon stops.
    Shutdown,
    /// A message or a notice, which is about others.
    #[serde(other)]
    Other,
}

impl DaemonLine {
    /// Reads a line; `None` if it can be no line of the daemon.
    pub(crate) fn read(line: &[u8]) -> Option<DaemonLine> {
        let line = str::from_utf8(line).ok()?;
        DaemonLine::from_text(line).or_else(|| serde_json::from_str(line).ok())
    }

    /// Reads a line of the format `text`.
    pub(crate) fn from_text(line: &str) -> Option<DaemonLine> {
        let line = line.trim_end_matches(['\r', '\n']);
        if let Some(detail) = line.strip_prefix("Error: ") {
            return Some(DaemonLine::Error {
                reason: reason_of(detail).map_or("error", CloseReason::label).into(),
                detail: detail.to_owned(),
            });
        }
        if let Some(skipped) = line.strip_prefix("Skipped ") {
            let count = skipped.strip_suffix(" messages")?.parse().ok()?;
            return Some(DaemonLine::Skip { count });
        }
        if line == "Server shutting down" {
            return Some(DaemonLine::Shutdown);
        }
        // What each begins with, and what follows the client's number.
        let known = [
            ("Message from client ", ": ", DaemonLine::Other),
            ("New client connected: ", "", DaemonLine::Other),
            ("Client disconnected: ", "", DaemonLine::Other),
            ("Hello client ", ": ", DaemonLine::Hello),
            ("Taken ", "", DaemonLine::Other),
            ("[linehub: yes]", "", DaemonLine::Other),
        ];
        let is_it = |(begin, end, _): &(&str, &str, DaemonLine)| {
            let rest = line.strip_prefix(begin);
            let rest = rest.map(|rest| rest.trim_start_matches(|c: char| c.is_ascii_digit()));
            rest.is_some_and(|rest| rest == *end || !end.is_empty() && rest.starts_with(end))
        };
        known.into_iter().find(is_it).map(|(.., meaning)| meaning)
    }
}

/// The reason for closing that the daemon has these words for.
fn reason_of(detail: &str) -> Option<CloseReason> {
    let begins = [
        ("too slow", CloseReason::Slow),
        ("line too long", CloseReason::LineTooLong),
        ("idle", CloseReason::Idle),
        ("server full", CloseReason::Full),
        ("stalled", CloseReason::Stalled),
        ("HTTP request", CloseReason::Http),
        ("TLS", CloseReason::Tls),
        ("no such channel", CloseReason::NoChannel),
        ("hello expected", CloseReason::BadHello),
        ("role ", CloseReason::BadHello),
        ("not authorized", CloseReason::Unauthorized),
        ("not allowed", CloseReason::Denied),
        ("session taken over", CloseReason::SessionTaken),
        ("session ended", CloseReason::SessionEnded),
        ("too many ", CloseReason::TooMany),
    ];
    let begins = begins.iter().find(|(words, _)| detail.starts_with(words));
    let in_hello = || {
        detail
            .contains(" in hello")
            .then_some(CloseReason::BadHello)
    };
    begins.map(|(_, reason)| *reason).or_else(in_hello)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::channel::ChannelName;
    use crate::wire::format::{self, Format};
    use crate::wire::hello;
    use crate::wire::ids::{ClientId, Epoch, Seq};

    #[test]
    fn answer_to_a_hello_is_known() {
        for format in [Format::Text, Format::Json] {
            for crlf in [false, true] {
                let channel: ChannelName = "a".repeat(64).parse().unwrap();
                let mut line = Vec::new();
                let answer = hello::Answer {
                    client: ClientId(7),
                    channel: channel.clone(),
                    epoch: Epoch(1),
                    seq: Seq(2),
                    recovered: Some(true),
                    taken: Some(3),
                    echo: false,
                    role: None,
                };
                answer.append(format, crlf, &mut line);
                assert_eq!(DaemonLine::read(&line), Some(DaemonLine::Hello), "{format}");
            }
        }
    }

    #[test]
    fn refused_hello_has_one_reason_in_every_format_and_whatever_is_wrong() {
        let of = |line: &[u8]| hello::parse(line).unwrap_err().to_string();
        let long = [b"LINEHUB/1 x=".as_slice(), &[b'x'; 5000]].concat();
        for (detail, reason) in [
            (of(b"x"), CloseReason::BadHello),
            (of(&long), CloseReason::BadHello),
            (of(b"LINEHUB/1 \xff"), CloseReason::BadHello),
            (of(b"LINEHUB/1 x=1"), CloseReason::BadHello),
            (of(b"LINEHUB/1 since=x"), CloseReason::BadHello),
            (of(b"LINEHUB/1 role=both role=both"), CloseReason::BadHello),
            (of(b"LINEHUB/1 channel="), CloseReason::BadHello),
            (of(b"LINEHUB/1 format=x"), CloseReason::BadHello),
            (
                "role both is not allowed here, only publish".into(),
                CloseReason::BadHello,
            ),
            ("hello expected within 10s".into(), CloseReason::BadHello),
            ("no such channel".into(), CloseReason::NoChannel),
            ("server full (2 clients)".into(), CloseReason::Full),
        ] {
            for format in [Format::Text, Format::Json] {
                let mut line = Vec::new();
                format::error(format, reason, &detail, &mut line);
                let said = DaemonLine::read(&line);
                let reason = reason.label().to_owned();
                let detail = detail.clone();
                assert_eq!(said, Some(DaemonLine::Error { reason, detail }), "{format}");
            }
        }
    }
}
