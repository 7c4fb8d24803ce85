//! A status in lines and columns. Pure.

use std::fmt::Write as _;
use std::time::Duration;

use bytesize::ByteSize;

use crate::commands::table::{Align, Table, thousands};
use crate::ops::admin::documents::{ClientRow, ClosedRow, ListenerRow, Status};

/// The last closed that are shown.
const CLOSED_ROWS: usize = 8;

/// The text in place of what was there, cut to a screen of so many columns and rows.
pub(super) fn redraw(text: &str, columns: usize, rows: usize) -> String {
    const HOME: &str = "\x1b[H";
    const CLEAR_LINE: &str = "\x1b[K";
    const CLEAR_BELOW: &str = "\x1b[J";

    let lines = text.lines().take(rows.saturating_sub(1)).map(|line| {
        let cut: String = line.chars().take(columns).collect();
        format!("{cut}{CLEAR_LINE}\r\n")
    });
    format!("{HOME}{}{CLEAR_BELOW}", lines.collect::<String>())
}

/// The status in at most so many rows, if they are enough for what is not a list.
pub(super) fn text(status: &Status, rows: usize) -> String {
    let mut text = head(status);
    let closed = closed(status);
    // Two empty lines, the head of the list, how many more there are, and the last one of the screen.
    let taken = text.lines().count() + closed.len() + 5;
    text.push('\n');
    for line in clients(status, rows.saturating_sub(taken).max(1)) {
        text.push_str(&line);
        text.push('\n');
    }
    if !closed.is_empty() {
        text.push('\n');
    }
    for line in closed {
        text.push_str(&line);
        text.push('\n');
    }
    text
}

fn head(status: &Status) -> String {
    // What is soon over counts from its own beginning.
    let lasts = duration(match status.phase.as_str() {
        "running" => status.uptime_seconds,
        _ => status.phase_seconds,
    });
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        // A String takes everything.
        let _ = writeln!(text, "{name:<10}{value}");
    };
    line(
        "linehub",
        format!(
            "{} {} for {lasts}, PID {}",
            printable(&status.version),
            printable(&status.phase),
            status.pid
        ),
    );
    let listener = |row: &ListenerRow| format!("{} {}", printable(&row.address), row.format);
    let listeners: Vec<String> = status.listeners.iter().map(listener).collect();
    line("listening", listeners.join(", "));
    let max = status
        .clients_max
        .map(|max| format!(" of {}", thousands(max as u64)));
    line(
        "clients",
        format!(
            "{}{}, {} ever",
            thousands(status.clients as u64),
            max.unwrap_or_default(),
            thousands(status.clients_connected_total)
        ),
    );
    line(
        "lines",
        format!(
            "{}/s in, {}/s out; {} in, {} out",
            rate(status.rates.lines_in_per_second),
            rate(status.rates.lines_out_per_second),
            thousands(status.lines_in),
            thousands(status.lines_out)
        ),
    );
    line(
        "bytes",
        format!(
            "{}/s in, {}/s out; {} in, {} out",
            bytes(status.rates.bytes_in_per_second as u64),
            bytes(status.rates.bytes_out_per_second as u64),
            bytes(status.bytes_in),
            bytes(status.bytes_out)
        ),
    );
    let fill = 100.0 * status.buffer_used_bytes as f64 / status.buffer_limit_bytes.max(1) as f64;
    line(
        "buffer",
        format!(
            "{fill:.1} % of {}; {} waiting to send, waited {} in all",
            bytes(status.buffer_limit_bytes as u64),
            thousands(status.senders_waiting as u64),
            duration(status.sender_wait_seconds)
        ),
    );
    let closed = status
        .closed_by_reason
        .iter()
        .filter(|(_, count)| **count > 0);
    let closed: Vec<String> = closed
        .map(|(reason, count)| format!("{} {}", thousands(*count), printable(reason)))
        .collect();
    line(
        "closed",
        match closed.is_empty() {
            true => "none".to_owned(),
            false => closed.join(", "),
        },
    );
    line(
        "skipped",
        format!("{} messages", thousands(status.messages_skipped)),
    );
    text
}

/// The head of the list, and so many clients at most, with how many more there are.
fn clients(status: &Status, most: usize) -> Vec<String> {
    if status.furthest_behind.is_empty() {
        return vec!["no clients".to_owned()];
    }
    let mut table = Table::new(&[
        ("CLIENT", Align::Right),
        ("BEHIND", Align::Right),
        ("PENDING", Align::Right),
        ("SKIPPED", Align::Right),
        ("IDLE", Align::Right),
        ("LINES IN", Align::Right),
        ("LINES OUT", Align::Right),
        ("BYTES IN", Align::Right),
        ("BYTES OUT", Align::Right),
        ("PEER", Align::Left),
        ("LISTENER", Align::Left),
        ("FORMAT", Align::Left),
    ]);
    let row = |ClientRow {
                   who,
                   bytes_pending,
                   messages_behind,
                   idle_seconds,
                   leaving,
               }: &ClientRow| {
        let leaving = if *leaving { ", leaving" } else { "" };
        [
            who.id.to_string(),
            thousands(*messages_behind),
            bytes(*bytes_pending),
            thousands(who.messages_skipped),
            duration(*idle_seconds),
            thousands(who.lines_in),
            thousands(who.lines_out),
            bytes(who.bytes_in),
            bytes(who.bytes_out),
            printable(&who.peer),
            printable(&who.listener),
            format!("{}{leaving}", printable(&who.format)),
        ]
    };
    let shown = status.furthest_behind.iter().take(most);
    shown.for_each(|client| table.row(row(client)));
    let mut lines = table.lines();
    let more = status.clients.saturating_sub(lines.len() - 1);
    if more > 0 {
        lines.push(format!(
            "and {} more that are less behind",
            thousands(more as u64)
        ));
    }
    lines
}

fn closed(status: &Status) -> Vec<String> {
    if status.recently_closed.is_empty() {
        return Vec::new();
    }
    let mut table = Table::new(&[
        ("CLOSED", Align::Right),
        ("REASON", Align::Left),
        ("AGO", Align::Right),
        ("LINES IN", Align::Right),
        ("LINES OUT", Align::Right),
        ("BEHIND", Align::Right),
        ("PEER", Align::Left),
        ("LISTENER", Align::Left),
    ]);
    for ClosedRow {
        who,
        closed_at,
        reason,
        messages_behind,
        ..
    } in status.recently_closed.iter().take(CLOSED_ROWS)
    {
        table.row([
            who.id.to_string(),
            printable(reason),
            ago(closed_at, &status.now),
            thousands(who.lines_in),
            thousands(who.lines_out),
            thousands(*messages_behind),
            printable(&who.peer),
            printable(&who.listener),
        ]);
    }
    table.lines()
}

/// How long before `now` it was.
fn ago(then: &str, now: &str) -> String {
    let time = |text| humantime::parse_rfc3339(text).ok();
    let ago = time(then)
        .zip(time(now))
        .and_then(|(then, now)| now.duration_since(then).ok());
    ago.map_or_else(|| "?".to_owned(), |ago| duration(ago.as_secs_f64()))
}

/// A number of seconds, as somebody would say it: the two largest units, and whole seconds.
fn duration(seconds: f64) -> String {
    let whole = Duration::from_secs(seconds.max(0.0) as u64);
    let text = humantime::format_duration(whole).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

fn bytes(bytes: u64) -> String {
    ByteSize(bytes).display().iec().to_string()
}

/// A rate: whole, unless it is small.
fn rate(rate: f64) -> String {
    match rate {
        small if small < 10.0 && small.fract() > 0.0 => format!("{small:.1}"),
        _ => thousands(rate.round() as u64),
    }
}

/// Names of sockets can have any character in them: none may reach the terminal that moves it.
fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::admin::documents::{Rates, Who};

    fn who(id: u64, peer: &str) -> Who {
        Who {
            id,
            peer: peer.to_owned(),
            listener: "127.0.0.1:2345".to_owned(),
            format: "text".to_owned(),
            connected_since: "2026-01-05T10:00:00.000Z".to_owned(),
            lines_in: 1_234_567,
            bytes_in: 2048,
            lines_out: 3,
            bytes_out: 4,
            messages_skipped: 0,
        }
    }

    fn status(clients: u64) -> Status {
        let client = |id| ClientRow {
            who: who(id, "192.0.2.1:40000"),
            bytes_pending: 64 << 20,
            messages_behind: 5000 - id,
            idle_seconds: 75.5,
            leaving: id == 2,
        };
        let closed = ClosedRow {
            who: who(99, "unix"),
            closed_at: "2026-01-05T10:00:07.000Z".to_owned(),
            reason: "slow".to_owned(),
            bytes_pending: 0,
            messages_behind: 1234,
        };
        Status {
            version: "0.1.0".to_owned(),
            phase: "running".to_owned(),
            phase_seconds: 3600.0,
            pid: 7,
            now: "2026-01-05T10:00:10.000Z".to_owned(),
            started: "2026-01-05T09:00:00.000Z".to_owned(),
            uptime_seconds: 3610.0,
            listeners: vec![ListenerRow {
                address: "unix:/x\x1b[2J".to_owned(),
                format: "raw".to_owned(),
            }],
            clients: clients as usize,
            clients_max: Some(960),
            clients_connected_total: 1000,
            lines_in: 12,
            lines_out: 34,
            bytes_in: 5,
            bytes_out: 6,
            rates: Rates {
                lines_in_per_second: 3400.4,
                lines_out_per_second: 0.5,
                ..Rates::default()
            },
            buffer_used_bytes: 32 << 20,
            buffer_limit_bytes: 64 << 20,
            senders_waiting: 1,
            sender_wait_seconds: 61.9,
            messages_skipped: 0,
            lines_discarded: 0,
            closed_by_reason: [("eof".to_owned(), 0), ("slow".to_owned(), 2)].into(),
            furthest_behind: (1..=clients.min(50)).map(client).collect(),
            recently_closed: vec![closed],
        }
    }

    #[test]
    fn everything_that_matters_is_said_and_lines_up() {
        let text = text(&status(2), usize::MAX);
        let expected = "\
linehub   0.1.0 running for 1h 10s, PID 7
listening unix:/x\u{fffd}[2J raw
clients   2 of 960, 1,000 ever
lines     3,400/s in, 0.5/s out; 12 in, 34 out
bytes     0 B/s in, 0 B/s out; 5 B in, 6 B out
buffer    50.0 % of 64.0 MiB; 1 waiting to send, waited 1m 1s in all
closed    2 slow
skipped   0 messages

CLIENT  BEHIND   PENDING  SKIPPED    IDLE   LINES IN  LINES OUT  BYTES IN  BYTES OUT  PEER             LISTENER        FORMAT
     1   4,999  64.0 MiB        0  1m 15s  1,234,567          3   2.0 KiB        4 B  192.0.2.1:40000  127.0.0.1:2345  text
     2   4,998  64.0 MiB        0  1m 15s  1,234,567          3   2.0 KiB        4 B  192.0.2.1:40000  127.0.0.1:2345  text, leaving

CLOSED  REASON  AGO   LINES IN  LINES OUT  BEHIND  PEER  LISTENER
    99  slow     3s  1,234,567          3   1,234  unix  127.0.0.1:2345
";
        assert_eq!(text, expected);
    }

    #[test]
    fn list_is_cut_to_the_rows_there_are() {
        let text = text(&status(2000), 24);
        assert!(text.lines().count() <= 23, "{text}");
        assert!(
            text.contains("and 1,991 more that are less behind\n"),
            "{text}"
        );
        assert!(text.contains("\n    99  slow"), "{text}");
    }

    #[test]
    fn screen_is_redrawn_in_place_and_never_scrolls() {
        let drawn = redraw("abcdef\nx\ny\nz\n", 3, 4);
        assert_eq!(drawn, "\x1b[Habc\x1b[K\r\nx\x1b[K\r\ny\x1b[K\r\n\x1b[J");
    }
}
