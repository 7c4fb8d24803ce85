//! What is seen of the nodes that share channels.

use std::time::Duration;

/// The cluster in stats: this daemon, the other nodes, and its connection to NATS.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ClusterStats {
    pub(crate) is_connected: bool,
    /// Host and port of the server that it is connected to, or was last.
    pub(crate) server: Option<String>,
    /// Connections that this process made after the first.
    pub(crate) reconnects: u64,
    /// Why it is not connected.
    pub(crate) error: Option<String>,
    /// This daemon, and all others that live.
    pub(crate) nodes: Vec<NodeStats>,
}

impl ClusterStats {
    /// That NATS is away, and why; `None` while it is there.
    pub(crate) fn away(&self) -> Option<String> {
        let why = self.error.as_deref().unwrap_or("not connected yet");
        (!self.is_connected).then(|| format!("NATS is away: {why}"))
    }
}

/// A daemon that shares channels.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct NodeStats {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) is_self: bool,
    pub(crate) clients: u64,
    pub(crate) seen_ago: Duration,
}

/// A shared channel in stats.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct SharedChannelStats {
    /// Messages of the stream that this daemon has not taken yet.
    pub(crate) lag: u64,
    /// Batches that were sent and have not come back.
    pub(crate) outstanding: u64,
    /// Bytes of lines that wait to be sent.
    pub(crate) queued_bytes: u64,
    /// Why nothing goes through the channel.
    pub(crate) error: Option<String>,
}

/// How a node stands.
#[derive(Clone, Debug, Default)]
pub(in crate::hub) struct Standing {
    /// Messages of the stream that are not taken yet.
    pub(super) lag: u64,
    pub(super) outstanding: u64,
    pub(super) error: Option<String>,
}

impl Standing {
    pub(in crate::hub) fn stats(&self, queued_bytes: u64) -> SharedChannelStats {
        SharedChannelStats {
            lag: self.lag,
            outstanding: self.outstanding,
            queued_bytes,
            error: self.error.clone(),
        }
    }
}
