//! The lists of a status, in columns. Pure.

use super::words::{age, bytes, duration, lag, printable};
use crate::commands::table::{Align, Table, thousands};
use crate::ops::admin::documents::{ChannelKind, ChannelRow, ClientRow, ClosedRow, Status};
use crate::wire::role::Role;

/// The column that is there only if there are channels to tell apart.
const CHANNEL: (&str, Align) = ("CHANNEL", Align::Left);

/// The column that is there only if some client has a name.
const NAME: (&str, Align) = ("NAME", Align::Left);

/// An empty line, the head of the list, and so many channels at most, with how many more there are;
/// nothing if all is in `main`, and that is not shared.
pub(super) fn channels(status: &Status, most: usize) -> Vec<String> {
    if !status.lists_channels() {
        return Vec::new();
    }
    let lags = status.channels.iter().any(|row| lag_of(row).is_some());
    let mut columns = vec![
        CHANNEL,
        ("KIND", Align::Left),
        ("CLIENTS", Align::Right),
        ("MESSAGES", Align::Right),
        ("LINES IN", Align::Right),
        ("LINES OUT", Align::Right),
        ("BYTES IN", Align::Right),
        ("BYTES OUT", Align::Right),
        ("BUFFER", Align::Right),
        ("WAITING", Align::Right),
        ("SKIPPED", Align::Right),
        ("DISCARDED", Align::Right),
        ("IGNORED", Align::Right),
    ];
    if lags {
        columns.insert(2, ("STREAM", Align::Left));
    }
    let mut table = Table::new(&columns);
    for row in status.channels.iter().take(most) {
        let fill = 100.0 * row.buffer_used_bytes as f64 / row.buffer_limit_bytes.max(1) as f64;
        let kind = match row.kind {
            ChannelKind::Named => "named",
            ChannelKind::Open => "open",
        };
        let kind = match row.shared {
            Some(_) => format!("{kind}, shared"),
            None => kind.to_owned(),
        };
        let mut cells = vec![
            printable(&row.name),
            kind,
            thousands(row.clients as u64),
            thousands(row.messages),
            thousands(row.lines_in),
            thousands(row.lines_out),
            bytes(row.bytes_in),
            bytes(row.bytes_out),
            format!("{fill:.1} %"),
            thousands(row.senders_waiting as u64),
            thousands(row.messages_skipped),
            thousands(row.lines_discarded),
            thousands(row.lines_ignored),
        ];
        if lags {
            cells.insert(2, lag_of(row).unwrap_or_default());
        }
        table.row(cells);
    }
    let mut lines = table.lines();
    let more = status.channels_count.saturating_sub(lines.len() - 1);
    if more > 0 {
        lines.push(format!("and {} more", thousands(more as u64)));
    }
    lines.insert(0, String::new());
    lines
}

/// What a channel has yet to take from the stream, or to hear of again; `None` if nothing.
fn lag_of(row: &ChannelRow) -> Option<String> {
    let shared = row.shared.as_ref()?;
    let parts = [
        (shared.lag_messages, "to take"),
        (shared.unacknowledged_batches, "sent"),
    ];
    let parts = parts.iter().filter(|(count, _)| *count > 0);
    let mut parts: Vec<_> = parts
        .map(|(count, what)| format!("{} {what}", thousands(*count)))
        .collect();
    if shared.queued_bytes > 0 {
        parts.push(format!("{} waiting", bytes(shared.queued_bytes)));
    }
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// An empty line, the head of the list, and so many daemons at most that share channels, with how many more there
/// are; nothing if this one shares none.
pub(super) fn nodes(status: &Status, most: usize) -> Vec<String> {
    let Some(cluster) = status.cluster.as_ref().filter(|_| most > 0) else {
        return Vec::new();
    };
    let mut table = Table::new(&[
        ("NODE", Align::Left),
        ("CLIENTS", Align::Right),
        ("SEEN", Align::Right),
        ("NAME", Align::Left),
    ]);
    for row in cluster.nodes.iter().take(most) {
        table.row([
            printable(&row.id),
            thousands(row.clients),
            match row.this {
                true => "this one".to_owned(),
                false => format!("{} ago", lag(row.seen_seconds_ago)),
            },
            printable(&row.name),
        ]);
    }
    let mut lines = table.lines();
    let more = cluster.nodes.len().saturating_sub(lines.len() - 1);
    if more > 0 {
        lines.push(format!("and {} more", thousands(more as u64)));
    }
    lines.insert(0, String::new());
    lines
}

/// An empty line, the head of the list, and what so many channels at most keep, with how many more there
/// are; nothing if no channel keeps anything.
pub(super) fn histories(status: &Status, most: usize) -> Vec<String> {
    let all: Vec<_> = status.histories().collect();
    if all.is_empty() {
        return Vec::new();
    }
    // What waits for a disk, and what only senders with a session need, is said where there is any.
    let on_disk = all.iter().any(|(_, history)| history.on_disk);
    let in_stream = all.iter().any(|(_, history)| history.in_stream);
    let has_sessions = all.iter().any(|(_, history)| history.sessions > 0);
    // The most important first: what does not fit into 80 columns is cut off.
    let mut columns = vec![
        ("HISTORY", Align::Left),
        ("EPOCH", Align::Left),
        ("MESSAGES", Align::Right),
        ("KEPT", Align::Right),
        ("FULL", Align::Right),
        ("OLDEST", Align::Right),
        ("READERS", Align::Right),
    ];
    if on_disk {
        columns.extend([("PENDING", Align::Right), ("LAG", Align::Right)]);
    }
    if has_sessions {
        columns.push(("SESSIONS", Align::Right));
    }
    if on_disk {
        columns.push(("FILES", Align::Right));
    }
    if in_stream {
        columns.push(("IN", Align::Left));
    }
    let mut table = Table::new(&columns);
    for (channel, history) in all.iter().take(most) {
        let full = 100.0 * history.bytes as f64 / history.limit_bytes.max(1) as f64;
        let oldest = history.oldest.as_ref();
        let mut cells = vec![
            printable(&channel.name),
            printable(&history.epoch),
            thousands(history.messages),
            bytes(history.bytes),
            format!("{full:.0} %"),
            oldest.map_or_else(|| "-".to_owned(), |oldest| ago(oldest, &status.now, age)),
            thousands(history.readers as u64),
        ];
        if on_disk {
            cells.extend([bytes(history.pending_bytes), lag(history.sync_lag_seconds)]);
        }
        if has_sessions {
            cells.push(thousands(history.sessions as u64));
        }
        if on_disk {
            cells.push(thousands(history.segments as u64));
        }
        if in_stream {
            let place = match (history.in_stream, history.on_disk) {
                (true, _) => "stream",
                (false, true) => "files",
                (false, false) => "memory",
            };
            cells.push(place.to_owned());
        }
        table.row(cells);
    }
    let mut lines = table.lines();
    let more = all.len().saturating_sub(lines.len() - 1);
    if more > 0 {
        lines.push(format!("and {} more", thousands(more as u64)));
    }
    lines.insert(0, String::new());
    lines
}

/// The head of the list, and so many clients at most, with how many more there are.
pub(super) fn clients(status: &Status, most: usize) -> Vec<String> {
    if status.furthest_behind.is_empty() {
        return vec!["no clients".to_owned()];
    }
    let has_channels = status.has_channels();
    let has_names = status
        .furthest_behind
        .iter()
        .any(|row| row.who.name.is_some());
    let mut columns = vec![
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
    ];
    if has_channels {
        columns.insert(1, CHANNEL);
    }
    if has_names {
        columns.insert(1, NAME);
    }
    let mut table = Table::new(&columns);
    let row = |ClientRow {
                   who,
                   bytes_pending,
                   messages_behind,
                   idle_seconds,
                   leaving,
                   throttled,
                   catching_up,
               }: &ClientRow| {
        let mut format = printable(&who.format);
        if who.role != Role::Both.name() {
            format = format!("{format}, {}", printable(&who.role));
        }
        if *leaving {
            format.push_str(", leaving");
        }
        if *throttled {
            format.push_str(", throttled");
        }
        if *catching_up {
            format.push_str(", catching up");
        }
        let mut cells = vec![
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
            format,
        ];
        if has_channels {
            cells.insert(1, printable(&who.channel));
        }
        if has_names {
            cells.insert(1, printable(who.name.as_deref().unwrap_or("")));
        }
        cells
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

/// The head of the list, and so many at most of who was closed last; nothing if nobody was.
pub(super) fn closed(status: &Status, most: usize) -> Vec<String> {
    if status.recently_closed.is_empty() || most == 0 {
        return Vec::new();
    }
    let has_channels = status.has_channels();
    let mut rows = status.recently_closed.iter();
    let has_names = rows.any(|row| row.who.name.is_some());
    let mut columns = vec![
        ("CLOSED", Align::Right),
        ("REASON", Align::Left),
        ("AGO", Align::Right),
        ("LINES IN", Align::Right),
        ("LINES OUT", Align::Right),
        ("BEHIND", Align::Right),
        ("PEER", Align::Left),
        ("LISTENER", Align::Left),
    ];
    if has_channels {
        columns.insert(1, CHANNEL);
    }
    if has_names {
        columns.insert(1, NAME);
    }
    let mut table = Table::new(&columns);
    for ClosedRow {
        who,
        closed_at,
        reason,
        messages_behind,
        ..
    } in status.recently_closed.iter().take(most)
    {
        let mut cells = vec![
            who.id.to_string(),
            printable(reason),
            ago(closed_at, &status.now, duration),
            thousands(who.lines_in),
            thousands(who.lines_out),
            thousands(*messages_behind),
            printable(&who.peer),
            printable(&who.listener),
        ];
        if has_channels {
            cells.insert(1, printable(&who.channel));
        }
        if has_names {
            cells.insert(1, printable(who.name.as_deref().unwrap_or("")));
        }
        table.row(cells);
    }
    table.lines()
}

/// How long before `now` it was, in these words.
fn ago(then: &str, now: &str, say: impl Fn(f64) -> String) -> String {
    let time = |text| humantime::parse_rfc3339(text).ok();
    let ago = time(then)
        .zip(time(now))
        .and_then(|(then, now)| now.duration_since(then).ok());
    ago.map_or_else(|| "?".to_owned(), |ago| say(ago.as_secs_f64()))
}
