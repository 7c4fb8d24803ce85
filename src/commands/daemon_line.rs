//! Lines of the daemon, as clients of the formats `text` and `json` read them.

use serde::Deserialize;

use crate::wire::close_reason::CloseReason;

/// Meaning of a line; its fields are those of `json`.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub(crate) enum DaemonLine {
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
            let known = [
                ("too slow", CloseReason::Slow),
                ("line too long", CloseReason::LineTooLong),
                ("idle", CloseReason::Idle),
                ("server full", CloseReason::Full),
                ("stalled", CloseReason::Stalled),
            ];
            let reason = known.iter().find(|(words, _)| detail.starts_with(words));
            return Some(DaemonLine::Error {
                reason: reason.map_or("error", |(_, reason)| reason.label()).into(),
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
        let others = [
            ("Message from client ", ": "),
            ("New client connected: ", ""),
            ("Client disconnected: ", ""),
            ("Hello client ", ": "),
            ("[linehub: yes]", ""),
        ];
        let is_other = |(begin, end): &(&str, &str)| {
            let rest = line.strip_prefix(begin);
            let rest = rest.map(|rest| rest.trim_start_matches(|c: char| c.is_ascii_digit()));
            rest.is_some_and(|rest| rest == *end || !end.is_empty() && rest.starts_with(end))
        };
        others.iter().any(is_other).then_some(DaemonLine::Other)
    }
}
