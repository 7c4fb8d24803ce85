//! The JSON documents that the admin server writes and `linehub status` reads.
//!
//! Keys carry their unit. Numbers are totals since the daemon began, over handovers, unless they say
//! otherwise.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::wire::channel;
use crate::wire::line_end::LineEnd;
use crate::wire::role::Role;

/// `/status`, and the `status` event of `/events`: the daemon at a glance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Status {
    pub(crate) version: String,
    pub(crate) phase: String,
    /// For how long the daemon has been in this phase.
    #[serde(default)]
    pub(crate) phase_seconds: f64,
    pub(crate) pid: u32,
    /// Times are RFC 3339, in UTC.
    pub(crate) now: String,
    /// When the process began, exec or not.
    pub(crate) started: String,
    pub(crate) uptime_seconds: f64,
    pub(crate) listeners: Vec<ListenerRow>,
    /// Certificates that listeners show.
    #[serde(default)]
    pub(crate) certificates: Vec<CertificateRow>,
    pub(crate) clients: usize,
    /// `None` when nothing but the open-file limit bounds the clients.
    pub(crate) clients_max: Option<usize>,
    /// Connections that have not said their hello yet, which count for `clients_max`.
    #[serde(default)]
    pub(crate) handshakes: u64,
    pub(crate) clients_connected_total: u64,
    pub(crate) lines_in: u64,
    pub(crate) lines_out: u64,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    /// Rates of the last second.
    #[serde(flatten)]
    pub(crate) rates: Rates,
    pub(crate) buffer_used_bytes: usize,
    pub(crate) buffer_limit_bytes: usize,
    pub(crate) senders_waiting: usize,
    pub(crate) sender_wait_seconds: f64,
    pub(crate) messages_skipped: u64,
    /// Lines that were dropped for being too long.
    #[serde(default)]
    pub(crate) lines_discarded: u64,
    /// Thrown away, from clients that may not publish.
    #[serde(default)]
    pub(crate) lines_ignored: u64,
    /// The channels there are: those that the configuration names, then those that clients opened, the
    /// first 1,000. What went through channels that have ended is in the totals alone.
    #[serde(default)]
    pub(crate) channels: Vec<ChannelRow>,
    /// How many channels there are.
    #[serde(default)]
    pub(crate) channels_count: usize,
    /// The daemons that share channels; absent where this one shares none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cluster: Option<ClusterRow>,
    /// Closed connections, with an entry for every reason.
    pub(crate) closed_by_reason: BTreeMap<String, u64>,
    /// The 50 clients furthest behind, the furthest first.
    pub(crate) furthest_behind: Vec<ClientRow>,
    /// The last 50 that were closed, the latest first.
    pub(crate) recently_closed: Vec<ClosedRow>,
}

/// Lines and bytes a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Rates {
    pub(crate) lines_in_per_second: f64,
    pub(crate) lines_out_per_second: f64,
    pub(crate) bytes_in_per_second: f64,
    pub(crate) bytes_out_per_second: f64,
}

/// A certificate that listeners show.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CertificateRow {
    /// Path of its file.
    pub(crate) file: String,
    /// When it ends.
    pub(crate) ends: String,
    /// Whole days until then; less than none when it has ended.
    pub(crate) days_left: i64,
}

/// A listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ListenerRow {
    pub(crate) address: String,
    pub(crate) format: String,
    #[serde(default = "main")]
    pub(crate) channel: String,
    #[serde(default = "both")]
    pub(crate) role: String,
    /// What ends a line that its clients send.
    #[serde(default = "lf")]
    pub(crate) line_end: String,
    /// Whether its clients have to begin with a hello.
    #[serde(default)]
    pub(crate) hello: bool,
    /// Whether its clients speak HTTP.
    #[serde(default)]
    pub(crate) http: bool,
    /// Whether its clients speak TLS.
    #[serde(default)]
    pub(crate) tls: bool,
    /// What its clients get of the history first; absent if nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) history: Option<String>,
}

/// A channel. Its keys are those of the totals in [`Status`], of this channel alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ChannelRow {
    pub(crate) name: String,
    pub(crate) kind: ChannelKind,
    pub(crate) clients: usize,
    pub(crate) clients_connected_total: u64,
    /// Lines that got a place in its order.
    pub(crate) messages: u64,
    /// Notices that got one.
    pub(crate) notices: u64,
    pub(crate) lines_in: u64,
    pub(crate) lines_out: u64,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    pub(crate) buffer_used_bytes: usize,
    pub(crate) buffer_limit_bytes: usize,
    pub(crate) senders_waiting: usize,
    pub(crate) sender_wait_seconds: f64,
    pub(crate) messages_skipped: u64,
    pub(crate) lines_discarded: u64,
    pub(crate) lines_ignored: u64,
    /// What it keeps for who comes late; absent where it keeps nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) history: Option<HistoryRow>,
    /// How it stands with the stream that it shares with other daemons; absent where it is this one's alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) shared: Option<SharedRow>,
}

/// What a channel shares with other daemons.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct SharedRow {
    /// Messages of the stream that this daemon has not taken yet.
    pub(crate) lag_messages: u64,
    /// Batches that were sent and have not come back.
    pub(crate) unacknowledged_batches: u64,
    /// Bytes of lines that wait to be sent.
    pub(crate) queued_bytes: u64,
    /// Why nothing goes through the channel, so that senders wait.
    pub(crate) error: Option<String>,
}

/// The daemons that share channels, and how they are connected.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ClusterRow {
    /// Whether this one is connected to NATS.
    pub(crate) connected: bool,
    /// The server that it is connected to, or was last.
    pub(crate) server: Option<String>,
    /// Connections that this process made after the first.
    pub(crate) reconnects: u64,
    /// Why it is not connected.
    pub(crate) error: Option<String>,
    pub(crate) nodes: Vec<NodeRow>,
}

/// A daemon that shares channels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct NodeRow {
    pub(crate) id: String,
    /// Its host, and its PID there.
    pub(crate) name: String,
    /// It is the one that says this.
    pub(crate) this: bool,
    pub(crate) clients: u64,
    /// For how long nothing was heard of it.
    pub(crate) seen_seconds_ago: f64,
}

/// The history of a channel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct HistoryRow {
    /// Which order its numbers are of, as the answer to a hello says it.
    pub(crate) epoch: String,
    /// Bytes that are kept, and how many may be.
    pub(crate) bytes: u64,
    pub(crate) limit_bytes: u64,
    /// Messages that are kept.
    pub(crate) messages: u64,
    /// The oldest number that is kept, and the next that will be given: the same if nothing is kept.
    pub(crate) oldest_seq: u64,
    pub(crate) next_seq: u64,
    /// When the oldest was published; `None` if nothing is kept.
    pub(crate) oldest: Option<String>,
    /// Whether it is kept on disk here, and in how many files.
    pub(crate) on_disk: bool,
    /// Whether it is in the stream that daemons share.
    #[serde(default)]
    pub(crate) in_stream: bool,
    pub(crate) segments: usize,
    /// Bytes published and not stored yet.
    pub(crate) pending_bytes: u64,
    /// For how long the oldest of what was stored has waited to be synced; zero if all is.
    pub(crate) sync_lag_seconds: f64,
    /// Clients that read from it now.
    pub(crate) readers: usize,
    /// Sessions that it knows.
    pub(crate) sessions: usize,
    /// Why nothing can be stored any more, so that senders wait.
    pub(crate) error: Option<String>,
}

/// Why a channel exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ChannelKind {
    /// The configuration names it: always.
    Named,
    /// Clients opened it: as long as it has any.
    Open,
}

/// The columns that a connected and a closed client have in common.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Who {
    pub(crate) id: u64,
    /// Name of the token that the client came in by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    /// The client's address, or `unix`.
    pub(crate) peer: String,
    pub(crate) listener: String,
    pub(crate) format: String,
    /// By what its lines go to and fro; absent if as they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) transport: Option<String>,
    #[serde(default = "main")]
    pub(crate) channel: String,
    #[serde(default = "both")]
    pub(crate) role: String,
    pub(crate) connected_since: String,
    pub(crate) lines_in: u64,
    pub(crate) bytes_in: u64,
    pub(crate) lines_out: u64,
    pub(crate) bytes_out: u64,
    pub(crate) messages_skipped: u64,
}

/// A client that is connected.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ClientRow {
    #[serde(flatten)]
    pub(crate) who: Who,
    pub(crate) bytes_pending: u64,
    pub(crate) messages_behind: u64,
    pub(crate) idle_seconds: f64,
    /// The client has left, with output pending: it does not count as connected any more.
    pub(crate) leaving: bool,
    /// It has something to send, and its rates make it wait.
    #[serde(default)]
    pub(crate) throttled: bool,
    /// It reads from the history now.
    #[serde(default)]
    pub(crate) catching_up: bool,
}

/// A client that was closed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ClosedRow {
    #[serde(flatten)]
    pub(crate) who: Who,
    pub(crate) closed_at: String,
    pub(crate) reason: String,
    /// Output that the client never received.
    pub(crate) bytes_pending: u64,
    pub(crate) messages_behind: u64,
}

/// The channel, the role and the line end of who came before there were others.
fn main() -> String {
    channel::MAIN.to_owned()
}

fn both() -> String {
    Role::Both.name().to_owned()
}

fn lf() -> String {
    LineEnd::Lf.name().to_owned()
}

impl Status {
    /// Whether some channel is not `main`, so that it is worth saying which one.
    pub(crate) fn has_channels(&self) -> bool {
        let channels = self.channels.iter().map(|row| &row.name);
        let clients = self.furthest_behind.iter().map(|row| &row.who.channel);
        let closed = self.recently_closed.iter().map(|row| &row.who.channel);
        let mut all = channels.chain(clients).chain(closed);
        all.any(|name| name != channel::MAIN)
    }

    /// Whether something is to be said of each channel.
    pub(crate) fn lists_channels(&self) -> bool {
        self.has_channels() || self.channels.iter().any(|row| row.shared.is_some())
    }

    /// The channels that keep a history, and what they keep.
    pub(crate) fn histories(&self) -> impl Iterator<Item = (&ChannelRow, &HistoryRow)> {
        let channels = self.channels.iter();
        channels.filter_map(|row| Some((row, row.history.as_ref()?)))
    }
}

/// `/clients`: a page of those who are connected.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ClientsPage {
    pub(crate) total: usize,
    pub(crate) offset: usize,
    pub(crate) limit: usize,
    pub(crate) clients: Vec<ClientRow>,
}

/// `/closed`: a page of the clients that were closed last, the latest first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ClosedPage {
    pub(crate) total: usize,
    pub(crate) offset: usize,
    pub(crate) limit: usize,
    pub(crate) closed: Vec<ClosedRow>,
}

/// The `samples` event of `/events`: the last ten minutes, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct SamplesDocument {
    pub(crate) period_seconds: u64,
    pub(crate) lines_in_per_second: Vec<f64>,
    pub(crate) lines_out_per_second: Vec<f64>,
    pub(crate) buffer_used_bytes: Vec<usize>,
}
