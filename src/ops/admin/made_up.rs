//! Stats as no test would wait for a daemon to have them.

use std::time::{Duration, SystemTime};

use crate::hub::history::HistoryStats;
use crate::hub::{ChannelStats, ClusterStats, HubStats, NodeStats, SharedChannelStats};
use crate::wire::ids::{Epoch, Seq};

/// A channel that the configuration names, without clients.
pub(super) fn channel(name: &str, history: Option<HistoryStats>) -> ChannelStats {
    ChannelStats {
        name: name.parse().unwrap(),
        is_open: false,
        stats: HubStats::default(),
        history,
        shared: None,
    }
}

/// A channel that is shared, from which no two numbers are the same.
pub(super) fn shared(name: &str, error: Option<&str>) -> ChannelStats {
    ChannelStats {
        shared: Some(SharedChannelStats {
            lag: 12,
            outstanding: 1,
            queued_bytes: 34_567,
            error: error.map(str::to_owned),
        }),
        ..channel(name, Some(history()))
    }
}

/// Two daemons, of which this one is connected or is not.
pub(super) fn cluster(is_connected: bool) -> ClusterStats {
    let node = |number: u64, is_self| NodeStats {
        id: format!("{number:016x}"),
        name: format!("host-{number}:4711"),
        is_self,
        clients: 100 * number,
        seen_ago: Duration::from_millis(if is_self { 0 } else { 1500 }),
    };
    ClusterStats {
        is_connected,
        server: Some("nats.example:4222".to_owned()),
        reconnects: 3,
        error: (!is_connected).then(|| "connection refused".to_owned()),
        nodes: vec![node(1, true), node(2, false)],
    }
}

/// A history on disk, from which no two numbers are the same.
pub(super) fn history() -> HistoryStats {
    HistoryStats {
        epoch: Epoch(0x5f3a_9c11),
        bytes: 48 << 20,
        bytes_max: 64 << 20,
        oldest: Seq(4711),
        next: Seq(90_210),
        oldest_at: Some(SystemTime::UNIX_EPOCH + Duration::from_millis(1_900_000_000_250)),
        messages: 85_000,
        on_disk: true,
        segments: 6,
        pending_bytes: 1234,
        sync_lag: Duration::from_millis(1500),
        readers: 2,
        sessions: 3,
        error: None,
    }
}
