//! What the daemon knows of its listeners, channels and clients, as the rows of documents.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use super::documents::{
    CertificateRow, ChannelKind, ChannelRow, ClientRow, ClosedRow, ClusterRow, HistoryRow,
    ListenerRow, NodeRow, SharedRow, Who,
};
use crate::hub::history::HistoryStats;
use crate::hub::{
    ChannelStats, ClientStats, ClosedClient, ClusterStats, ConnectionInfo, NodeStats,
    SharedChannelStats, TrafficTotals,
};
use crate::net::listener::Listener;
use crate::net::tls::CertificateEnd;
use crate::wire::format::Format;
use crate::wire::ids::ClientId;
use crate::wire::transport::Transport;

impl From<&Listener> for ListenerRow {
    fn from(listener: &Listener) -> ListenerRow {
        let options = listener.options();
        ListenerRow {
            address: listener.name().to_string(),
            format: listener.format().name().to_owned(),
            channel: options.channel.to_string(),
            role: options.role.name().to_owned(),
            line_end: options.line_end.name().to_owned(),
            hello: options.hello,
            http: options.http,
            tls: options.tls,
            history: (!options.history.is_none()).then(|| options.history.to_string()),
        }
    }
}

impl From<&CertificateEnd> for CertificateRow {
    fn from(certificate: &CertificateEnd) -> CertificateRow {
        const DAY_SECONDS: u64 = 24 * 60 * 60;
        let days = |time: Duration| (time.as_secs() / DAY_SECONDS) as i64;
        CertificateRow {
            file: certificate.file.display().to_string(),
            ends: rfc3339(certificate.at),
            days_left: match certificate.at.duration_since(SystemTime::now()) {
                Ok(left) => days(left),
                Err(ended) => -1 - days(ended.duration()),
            },
        }
    }
}

impl From<&ChannelStats> for ChannelRow {
    fn from(channel: &ChannelStats) -> ChannelRow {
        let ChannelStats {
            name,
            is_open,
            stats,
            history,
            shared,
        } = channel;
        ChannelRow {
            name: name.to_string(),
            kind: match is_open {
                true => ChannelKind::Open,
                false => ChannelKind::Named,
            },
            clients: stats.clients,
            clients_connected_total: stats.joined,
            messages: stats.messages,
            notices: stats.notices,
            lines_in: stats.totals.lines_in,
            lines_out: stats.totals.lines_out,
            bytes_in: stats.totals.bytes_in,
            bytes_out: stats.totals.bytes_out,
            buffer_used_bytes: stats.buffer_used,
            buffer_limit_bytes: stats.buffer_limit,
            senders_waiting: stats.senders_waiting,
            sender_wait_seconds: seconds(stats.waited),
            messages_skipped: stats.totals.skipped,
            lines_discarded: stats.discarded,
            lines_ignored: stats.ignored,
            history: history.as_ref().map(|history| HistoryRow {
                in_stream: shared.is_some(),
                ..HistoryRow::from(history)
            }),
            shared: shared.as_ref().map(SharedRow::from),
        }
    }
}

impl From<&HistoryStats> for HistoryRow {
    fn from(history: &HistoryStats) -> HistoryRow {
        HistoryRow {
            epoch: history.epoch.to_string(),
            bytes: history.bytes,
            limit_bytes: history.bytes_max,
            messages: history.messages,
            oldest_seq: history.oldest.0,
            next_seq: history.next.0,
            oldest: history.oldest_at.map(rfc3339),
            on_disk: history.on_disk,
            in_stream: false,
            segments: history.segments,
            pending_bytes: history.pending_bytes,
            sync_lag_seconds: seconds(history.sync_lag),
            readers: history.readers,
            sessions: history.sessions,
            error: history.error.clone(),
        }
    }
}

impl From<&SharedChannelStats> for SharedRow {
    fn from(shared: &SharedChannelStats) -> SharedRow {
        SharedRow {
            lag_messages: shared.lag,
            unacknowledged_batches: shared.outstanding,
            queued_bytes: shared.queued_bytes,
            error: shared.error.clone(),
        }
    }
}

impl From<&ClusterStats> for ClusterRow {
    fn from(cluster: &ClusterStats) -> ClusterRow {
        ClusterRow {
            connected: cluster.is_connected,
            server: cluster.server.clone(),
            reconnects: cluster.reconnects,
            error: cluster.error.clone(),
            nodes: cluster.nodes.iter().map(NodeRow::from).collect(),
        }
    }
}

impl From<&NodeStats> for NodeRow {
    fn from(node: &NodeStats) -> NodeRow {
        NodeRow {
            id: node.id.clone(),
            name: node.name.clone(),
            this: node.is_self,
            clients: node.clients,
            seen_seconds_ago: seconds(node.seen_ago),
        }
    }
}

impl Who {
    fn new(id: ClientId, connection: &ConnectionInfo, totals: &TrafficTotals) -> Who {
        Who {
            id: id.0,
            name: connection.identity.as_ref().map(|it| it.name.to_string()),
            peer: connection.peer.to_string(),
            listener: connection.listener.to_string(),
            format: Format::name(connection.format).to_owned(),
            transport: (connection.transport != Transport::Plain)
                .then(|| connection.transport.to_string()),
            channel: connection.channel.to_string(),
            role: connection.role.name().to_owned(),
            connected_since: rfc3339(connection.at),
            lines_in: totals.lines_in,
            bytes_in: totals.bytes_in,
            lines_out: totals.lines_out,
            bytes_out: totals.bytes_out,
            messages_skipped: totals.skipped,
        }
    }
}

impl From<&ClientStats> for ClientRow {
    fn from(client: &ClientStats) -> ClientRow {
        ClientRow {
            who: Who::new(client.id, &client.connection, &client.totals),
            bytes_pending: client.bytes_pending,
            messages_behind: client.messages_behind,
            idle_seconds: seconds(client.idle),
            leaving: client.leaving,
            throttled: client.throttled,
            catching_up: client.catching_up,
        }
    }
}

impl From<&ClosedClient> for ClosedRow {
    fn from(client: &ClosedClient) -> ClosedRow {
        ClosedRow {
            who: Who::new(client.id, &client.connection, &client.totals),
            closed_at: rfc3339(client.at),
            reason: client.reason.label().to_owned(),
            bytes_pending: client.bytes_pending,
            messages_behind: client.messages_behind,
        }
    }
}

pub(super) fn rfc3339(time: SystemTime) -> String {
    let mut text = String::new();
    match write!(text, "{}", humantime::format_rfc3339_millis(time)) {
        Ok(()) => text,
        // Beyond the year 9999 there is no such form.
        Err(_) => String::new(),
    }
}

/// To the millisecond.
pub(super) fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::made_up;
    use super::*;
    use crate::hub::history::HistoryStats;

    fn row(history: Option<HistoryStats>) -> Value {
        let channel = made_up::channel("nmea", history);
        serde_json::to_value(ChannelRow::from(&channel)).unwrap()
    }

    #[test]
    fn channel_has_a_history_where_it_keeps_one() {
        let kept = row(Some(made_up::history()));
        let mut expected = json!({
            "epoch": "5f3a9c11",
            "bytes": 48 << 20,
            "limit_bytes": 64 << 20,
            "messages": 85_000,
            "oldest_seq": 4711,
            "next_seq": 90_210,
            "oldest": "2030-03-17T17:46:40.250Z",
            "on_disk": true,
            "in_stream": false,
            "segments": 6,
            "pending_bytes": 1234,
            "sync_lag_seconds": 1.5,
            "readers": 2,
            "sessions": 3,
            "error": null,
        });
        assert_eq!(kept["history"], expected);
        let failed = row(Some(HistoryStats {
            oldest_at: None,
            error: Some("Input/output error (os error 5)".to_owned()),
            ..made_up::history()
        }));
        expected["oldest"] = Value::Null;
        expected["error"] = json!("Input/output error (os error 5)");
        assert_eq!(failed["history"], expected);

        // Nothing is said of it where there is none, and a daemon that says nothing has none.
        let none = row(None);
        assert_eq!(none.get("history"), None);
        let none: ChannelRow = serde_json::from_value(none).unwrap();
        assert_eq!(none.history, None);
    }

    #[test]
    fn shared_channel_says_how_it_stands_and_that_its_history_is_in_the_stream() {
        let channel = made_up::shared("nmea", Some("the stream is full"));
        let shared = serde_json::to_value(ChannelRow::from(&channel)).unwrap();
        let expected = json!({
            "lag_messages": 12,
            "unacknowledged_batches": 1,
            "queued_bytes": 34_567,
            "error": "the stream is full",
        });
        assert_eq!(shared["shared"], expected);
        assert_eq!(shared["history"]["in_stream"], true);
        assert_eq!(row(None).get("shared"), None);
    }

    #[test]
    fn cluster_has_its_nodes_and_says_which_one_this_is() {
        let cluster = ClusterRow::from(&made_up::cluster(false));
        let expected = json!({
            "connected": false,
            "server": "nats.example:4222",
            "reconnects": 3,
            "error": "connection refused",
            "nodes": [
                { "id": "0000000000000001", "name": "host-1:4711", "this": true, "clients": 100, "seen_seconds_ago": 0.0 },
                { "id": "0000000000000002", "name": "host-2:4711", "this": false, "clients": 200, "seen_seconds_ago": 1.5 },
            ],
        });
        assert_eq!(serde_json::to_value(cluster).unwrap(), expected);
    }
}
