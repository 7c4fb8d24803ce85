//! Stats as no test would wait for a daemon to have them.

use std::time::{Duration, SystemTime};

use crate::hub::history::HistoryStats;
use crate::hub::{ChannelStats, HubStats};
use crate::wire::ids::{Epoch, Seq};

/// A channel that the configuration names, without clients.
pub(super) fn channel(name: &str, history: Option<HistoryStats>) -> ChannelStats {
    ChannelStats {
        name: name.parse().unwrap(),
        is_open: false,
        stats: HubStats::default(),
        history,
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
