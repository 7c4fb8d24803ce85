//! What is seen of the nodes that share channels.

use std::time::Duration;

/// The cluster in stats: this daemon, the other nodes, and its connection to NATS.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ClusterStats {
    pub(crate) is_connected: bool,
    pub(crate) server: Option<String>,
    pub(crate) reconnects: u64,
    pub(crate) error: Option<String>,
    pub(crate) nodes: Vec<NodeStats>,
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
    pub(crate) lag: u64,
    pub(crate) outstanding: u64,
    pub(crate) queued_bytes: u64,
    pub(crate) error: Option<String>,
}
