//! What the daemon says to one client, in every format that can say it.

use super::json::json_string;
use super::names::Format;
use super::scan::append;
use super::text::escape_text;
use crate::wire::close_reason::CloseReason;

/// Line of `json` that says only that the daemon is there.
pub const BEAT: &[u8] = b"{\"event\":\"beat\"}\n";

/// Appends what a client is told that has missed `count` messages and notices. `raw` cannot say it.
pub fn skip(format: Format, count: u64, out: &mut Vec<u8>) {
    match format {
        Format::Text => append(out, format_args!("Skipped {count} messages\n")),
        Format::Json => append(
            out,
            format_args!("{{\"event\":\"skip\",\"count\":{count}}}\n"),
        ),
        Format::Raw => {}
    }
}

/// Appends what a client is told that is being closed. `raw` cannot say it.
pub fn error(format: Format, reason: CloseReason, detail: &str, out: &mut Vec<u8>) {
    match format {
        Format::Text => {
            out.extend_from_slice(b"Error: ");
            escape_text(detail.as_bytes(), out);
            out.push(b'\n');
        }
        Format::Json => {
            let reason = reason.label();
            append(
                out,
                format_args!("{{\"event\":\"error\",\"reason\":\"{reason}\",\"detail\":"),
            );
            json_string(detail, out);
            out.extend_from_slice(b"}\n");
        }
        Format::Raw => {}
    }
}

/// Appends what a sender is told whose session's first `taken` lines are as safe as they get: in every
/// format, since a sender waits for it.
pub fn ack(format: Format, taken: u64, out: &mut Vec<u8>) {
    match format {
        Format::Text | Format::Raw => append(out, format_args!("Taken {taken}\n")),
        Format::Json => append(
            out,
            format_args!("{{\"event\":\"ack\",\"taken\":{taken}}}\n"),
        ),
    }
}

/// Appends what every client is told when the daemon stops. `raw` cannot say it.
pub fn shutdown(format: Format, out: &mut Vec<u8>) {
    out.extend_from_slice(match format {
        Format::Text => b"Server shutting down\n",
        Format::Json => b"{\"event\":\"shutdown\"}\n",
        Format::Raw => b"",
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ack_is_said_in_every_format() {
        for (format, expected) in [
            (Format::Text, "Taken 4711\n"),
            (Format::Raw, "Taken 4711\n"),
            (Format::Json, "{\"event\":\"ack\",\"taken\":4711}\n"),
        ] {
            let mut out = b"before\n".to_vec();
            ack(format, 4711, &mut out);
            let said = String::from_utf8(out).unwrap();
            assert_eq!(said, format!("before\n{expected}"), "{format}");
        }
    }
}
