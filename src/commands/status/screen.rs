//! A status in lines and columns. Pure.

use std::fmt::Write as _;

use super::lists::{channels, clients, closed, histories, nodes};
use super::words::{bytes, duration, printable, rate};
use crate::commands::table::thousands;
use crate::ops::admin::documents::{ClusterRow, ListenerRow, Status};
use crate::wire::channel;
use crate::wire::line_end::LineEnd;
use crate::wire::role::Role;

/// Rows of each list but the clients', which have the room that is left.
struct ListRows {
    channels: usize,
    histories: usize,
    nodes: usize,
    closed: usize,
}

/// Rows of a list that a screen has at most.
const LIST_ROWS: usize = 8;

/// Rows of each list on a screen that has room for that of nodes, too.
const NODES: usize = 3;

/// Rows with which a screen has room for that many of two lists.
const LOW_SCREEN: usize = 40;

impl ListRows {
    fn new(status: &Status, screen_rows: usize) -> ListRows {
        let is_low = screen_rows < LOW_SCREEN;
        let has_histories = status.histories().next().is_some();
        let has_nodes = status.cluster.is_some();
        let (channels, histories, closed) = match (status.lists_channels(), has_histories) {
            // There is no screen to fit into.
            _ if screen_rows == usize::MAX => (usize::MAX, usize::MAX, LIST_ROWS),
            (true, true) if is_low => (1, 1, 0),
            _ if has_nodes && !is_low => (NODES, NODES, NODES),
            (true, true) => (5, 5, 5),
            (true, false) if is_low => (3, 0, 2),
            (false, true) if is_low => (0, 1, 2),
            _ => (LIST_ROWS, LIST_ROWS, LIST_ROWS),
        };
        ListRows {
            channels,
            histories,
            nodes: match screen_rows {
                usize::MAX => usize::MAX,
                _ if is_low => 0,
                _ => NODES,
            },
            closed,
        }
    }
}

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
    let list_rows = ListRows::new(status, rows);
    let channels = channels(status, list_rows.channels);
    let histories = histories(status, list_rows.histories);
    let nodes = nodes(status, list_rows.nodes);
    for line in channels.iter().chain(&histories).chain(&nodes) {
        text.push_str(line);
        text.push('\n');
    }
    let closed = closed(status, list_rows.closed);
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
    if let Some(cluster) = &status.cluster {
        line("NATS", connection(cluster));
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
    let mut failed = status.histories().filter_map(|(channel, history)| {
        let error = printable(history.error.as_ref()?);
        Some(format!(
            "of channel {} has failed: {error}",
            printable(&channel.name)
        ))
    });
    if let Some(first) = failed.next() {
        let more = match failed.count() {
            0 => String::new(),
            more => format!(" (and {} more)", thousands(more as u64)),
        };
        line("history", format!("{first}{more}"));
    }
    let mut stopped = status.channels.iter().filter_map(|channel| {
        let error = printable(channel.shared.as_ref()?.error.as_ref()?);
        Some(format!(
            "channel {} stands still: {error}",
            printable(&channel.name)
        ))
    });
    let is_connected = status
        .cluster
        .as_ref()
        .is_some_and(|cluster| cluster.connected);
    if is_connected && let Some(first) = stopped.next() {
        let more = match stopped.count() {
            0 => String::new(),
            more => format!(" (and {} more)", thousands(more as u64)),
        };
        line("stream", format!("{first}{more}"));
    }
    if status.lines_ignored > 0 {
        let count = thousands(status.lines_ignored);
        line(
            "ignored",
            format!("{count} lines of clients that may not publish"),
        );
    }
    text
}

/// The connection to NATS, and how many share it.
fn connection(cluster: &ClusterRow) -> String {
    let server = cluster.server.as_deref().map(printable);
    let mut text = match (cluster.connected, &cluster.error) {
        (true, _) => server.unwrap_or_default(),
        (false, Some(error)) => format!("is away: {}", printable(error)),
        (false, None) => "is away: not connected yet".to_owned(),
    };
    let count = |count: u64, what: &str| match count {
        1 => format!("1 {what}"),
        several => format!("{} {what}s", thousands(several)),
    };
    let nodes = count(cluster.nodes.len() as u64, "node");
    let reconnects = count(cluster.reconnects, "reconnect");
    // A String takes everything.
    let _ = write!(text, "; {nodes}, {reconnects}");
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
    if let Some(history) = &row.history {
        let _ = write!(text, " history={}", printable(history));
    }
    if row.tls {
        text.push_str(" tls");
    }
    if row.hello {
        text.push_str(" hello");
    }
    if row.http {
        text.push_str(" http");
    }
    text
}

#[cfg(test)]
mod tests;
