//! A status in lines and columns. Pure.

use std::fmt::Write as _;

use super::lists::{channels, clients, closed};
use super::words::{bytes, duration, printable, rate};
use crate::commands::table::thousands;
use crate::ops::admin::documents::{ListenerRow, Status};
use crate::wire::channel;
use crate::wire::line_end::LineEnd;
use crate::wire::role::Role;

/// Channels and closed clients that a screen has at most, so that the clients have room.
const LIST_ROWS: usize = 8;

/// Rows with which a screen has room for that many of both.
const LOW_SCREEN: usize = 40;

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
    let (channel_rows, closed_rows) = match rows {
        // There is no screen to fit into.
        usize::MAX => (usize::MAX, LIST_ROWS),
        low if low < LOW_SCREEN && status.has_channels() => (3, 2),
        _ => (LIST_ROWS, LIST_ROWS),
    };
    for line in channels(status, channel_rows) {
        text.push_str(&line);
        text.push('\n');
    }
    let closed = closed(status, closed_rows);
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
    let listeners: Vec<String> = status.listeners.iter().map(listener).collect();
    line("listening", listeners.join(", "));
    for certificate in &status.certificates {
        let file = printable(&certificate.file);
        let end = match certificate.days_left {
            days @ 0.. => format!("ends in {days} days"),
            _ => "has ended".to_owned(),
        };
        line("TLS", format!("{file} {end}"));
    }
    let max = status
        .clients_max
        .map(|max| format!(" of {}", thousands(max as u64)));
    line(
        "clients",
        format!(
            "{}{}, {} ever{}",
            thousands(status.clients as u64),
            max.unwrap_or_default(),
            thousands(status.clients_connected_total),
            match status.handshakes {
                0 => String::new(),
                some => format!("; {} in their hello", thousands(some)),
            }
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
    if status.lines_ignored > 0 {
        let count = thousands(status.lines_ignored);
        line(
            "ignored",
            format!("{count} lines of clients that may not publish"),
        );
    }
    text
}

/// A listener with what is not as usual about it, as its options have it.
fn listener(row: &ListenerRow) -> String {
    let mut text = format!("{} {}", printable(&row.address), printable(&row.format));
    for (key, value, usual) in [
        ("channel", &row.channel, channel::MAIN),
        ("role", &row.role, Role::Both.name()),
        ("line-end", &row.line_end, LineEnd::Lf.name()),
    ] {
        if value != usual {
            // A String takes everything.
            let _ = write!(text, " {key}={}", printable(value));
        }
    }
    if row.tls {
        text.push_str(" tls");
    }
    if row.hello {
        text.push_str(" hello");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::admin::documents::{
        CertificateRow, ChannelKind, ChannelRow, ClientRow, ClosedRow, Rates, Who,
    };

    fn who(id: u64, peer: &str) -> Who {
        Who {
            id,
            name: None,
            peer: peer.to_owned(),
            listener: "127.0.0.1:2345".to_owned(),
            format: "text".to_owned(),
            channel: "main".to_owned(),
            role: "both".to_owned(),
            connected_since: "2026-01-05T10:00:00.000Z".to_owned(),
            lines_in: 1_234_567,
            bytes_in: 2048,
            lines_out: 3,
            bytes_out: 4,
            messages_skipped: 0,
        }
    }

    fn channel_row(name: &str, kind: ChannelKind) -> ChannelRow {
        ChannelRow {
            name: name.to_owned(),
            kind,
            clients: 3,
            clients_connected_total: 4,
            messages: 1234,
            notices: 5,
            lines_in: 6,
            lines_out: 70_000,
            bytes_in: 1024,
            bytes_out: 64 << 20,
            buffer_used_bytes: 1 << 20,
            buffer_limit_bytes: 64 << 20,
            senders_waiting: 1,
            sender_wait_seconds: 0.0,
            messages_skipped: 7,
            lines_discarded: 8,
            lines_ignored: 9,
        }
    }

    fn status(clients: u64) -> Status {
        let client = |id| ClientRow {
            who: who(id, "192.0.2.1:40000"),
            bytes_pending: 64 << 20,
            messages_behind: 5000 - id,
            idle_seconds: 75.5,
            leaving: id == 2,
            throttled: false,
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
                channel: "main".to_owned(),
                role: "both".to_owned(),
                line_end: "lf".to_owned(),
                hello: false,
                tls: false,
            }],
            certificates: Vec::new(),
            clients: clients as usize,
            clients_max: Some(960),
            handshakes: 0,
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
            lines_ignored: 0,
            channels: vec![channel_row("main", ChannelKind::Named)],
            channels_count: 1,
            closed_by_reason: [("eof".to_owned(), 0), ("slow".to_owned(), 2)].into(),
            furthest_behind: (1..=clients.min(50)).map(client).collect(),
            recently_closed: vec![closed],
        }
    }

    #[test]
    fn everything_that_matters_is_said_and_lines_up() {
        let mut status = status(2);
        status.listeners[0].tls = true;
        status.certificates.push(CertificateRow {
            file: "/etc/x.pem".to_owned(),
            ends: "2026-02-05T10:00:10.000Z".to_owned(),
            days_left: 31,
        });
        let text = text(&status, usize::MAX);
        let expected = "\
linehub   0.1.0 running for 1h 10s, PID 7
listening unix:/x\u{fffd}[2J raw tls
TLS       /etc/x.pem ends in 31 days
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
    fn channels_are_shown_where_there_is_more_than_main() {
        let mut status = status(1);
        status.listeners[0].address = "[::]:1".to_owned();
        status.listeners.push(ListenerRow {
            address: "unix:/y".to_owned(),
            format: "json".to_owned(),
            channel: "nmea".to_owned(),
            role: "subscribe".to_owned(),
            line_end: "nul".to_owned(),
            tls: false,
            hello: true,
        });
        let nmea = channel_row("nmea", ChannelKind::Named);
        status.channels.push(nmea);
        let open = channel_row("x\x1b[2J", ChannelKind::Open);
        status.channels.push(open);
        status.channels_count = 1003;
        status.lines_ignored = 18;
        status.recently_closed[0].who.channel = "gone".to_owned();
        let client = &mut status.furthest_behind[0].who;
        client.channel = "nmea".to_owned();
        client.role = "subscribe".to_owned();
        let text = text(&status, usize::MAX);
        let (_, text) = text.split_once("PID 7\n").unwrap();
        let expected = "\
listening [::]:1 raw, unix:/y json channel=nmea role=subscribe line-end=nul hello
clients   1 of 960, 1,000 ever
lines     3,400/s in, 0.5/s out; 12 in, 34 out
bytes     0 B/s in, 0 B/s out; 5 B in, 6 B out
buffer    50.0 % of 64.0 MiB; 1 waiting to send, waited 1m 1s in all
closed    2 slow
skipped   0 messages
ignored   18 lines of clients that may not publish

CHANNEL  KIND   CLIENTS  MESSAGES  LINES IN  LINES OUT  BYTES IN  BYTES OUT  BUFFER  WAITING  SKIPPED  DISCARDED  IGNORED
main     named        3     1,234         6     70,000   1.0 KiB   64.0 MiB   1.6 %        1        7          8        9
nmea     named        3     1,234         6     70,000   1.0 KiB   64.0 MiB   1.6 %        1        7          8        9
x\u{fffd}[2J    open         3     1,234         6     70,000   1.0 KiB   64.0 MiB   1.6 %        1        7          8        9
and 1,000 more

CLIENT  CHANNEL  BEHIND   PENDING  SKIPPED    IDLE   LINES IN  LINES OUT  BYTES IN  BYTES OUT  PEER             LISTENER        FORMAT
     1  nmea      4,999  64.0 MiB        0  1m 15s  1,234,567          3   2.0 KiB        4 B  192.0.2.1:40000  127.0.0.1:2345  text, subscribe

CLOSED  CHANNEL  REASON  AGO   LINES IN  LINES OUT  BEHIND  PEER  LISTENER
    99  gone     slow     3s  1,234,567          3   1,234  unix  127.0.0.1:2345
";
        assert_eq!(text, expected);
    }

    #[test]
    fn screen_has_room_for_channels_clients_and_who_was_closed() {
        let mut status = status(2000);
        let names = (0..30).map(|number| format!("c{number}"));
        status.channels = names
            .map(|name| channel_row(&name, ChannelKind::Named))
            .collect();
        status.channels_count = 30;
        status.lines_ignored = 1;
        status.recently_closed = vec![status.recently_closed[0].clone(); 50];
        for (rows, last, more) in [
            (24, "c2", "and 27 more"),
            (39, "c2", "and 27 more"),
            (40, "c7", "and 22 more"),
        ] {
            let text = text(&status, rows);
            assert!(text.lines().count() < rows, "{rows}: {text}");
            let mut list = text.lines().skip_while(|line| !line.starts_with(last));
            assert_eq!(list.nth(1), Some(more), "{text}");
            assert!(text.contains("\n     1  main "), "{text}");
            assert!(text.contains("\n    99  main     slow"), "{text}");
        }
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
