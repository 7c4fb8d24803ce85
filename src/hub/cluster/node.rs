//! This daemon among those that share channels: its connection to NATS, who else lives, and its numbers for clients.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::backoff::Backoff;
use super::batch::NodeId;
use super::ids::{BLOCK, IdBlocks};
use super::nats::{Nats, NatsOptions};
use super::past::StreamPast;
use super::stats::{ClusterStats, NodeStats};
use crate::config::Config;

/// How long nothing is heard of a node until it is taken for gone: long enough for a process that is stopped by a
/// debugger, a full disk or a busy machine for a moment to come back.
const NODE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long what failed is left alone: to take numbers, or to hear who lives.
const RETRY_TIME: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(2));

/// This daemon among those that share channels.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(super) nats: Nats,
    /// Bytes of the longest line.
    pub(super) line_bytes_max: usize,
    /// What this daemon is known by among others, whatever nodes it is in its channels.
    id: NodeId,
    name: String,
    pub(super) node_timeout: Duration,
    presence: Mutex<Presence>,
    /// Why there are no numbers for clients.
    ids_error: Mutex<Option<String>>,
    /// Cancelled when all clients of the daemon before are there: what comes earlier, none of them would get.
    pub(super) begun: CancellationToken,
}

#[derive(Debug, Default)]
struct Presence {
    /// The nodes that this daemon is: one a channel.
    own: BTreeSet<NodeId>,
    /// When each node was last heard of, or first looked for.
    seen: HashMap<NodeId, Instant>,
    daemons: BTreeMap<NodeId, (SignOfLife, Instant)>,
    /// Nodes that were heard of for the first time.
    newcomers: u64,
    /// Since when all that is said is heard.
    listening_since: Option<Instant>,
    /// When this daemon last heard itself: what others said until then, it has heard, too.
    heard_self: Option<Instant>,
}

/// What a daemon says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct SignOfLife {
    daemon: u64,
    name: String,
    clients: u64,
    /// It ends.
    #[serde(default)]
    leaves: bool,
}

impl Cluster {
    /// Reads the files that a configuration names, as [`Cluster::connect`] would.
    ///
    /// # Errors
    /// One of them cannot be used.
    pub(crate) fn check(config: &Config) -> anyhow::Result<()> {
        let options = NatsOptions::of(config);
        options.map_or(Ok(()), |options| options.check())
    }

    /// Begins to connect to the NATS servers of the configuration; `None` if it names none. `goes_on`: whether there are
    /// clients to go on with, for whom files that cannot be used are waited for.
    ///
    /// # Errors
    /// What no retry mends: a URL that is none; and a file that cannot be used, unless it goes on.
    pub(crate) async fn connect(
        config: &Config,
        goes_on: bool,
    ) -> anyhow::Result<Option<Arc<Cluster>>> {
        let Some(options) = NatsOptions::of(config) else {
            return Ok(None);
        };
        if let Err(error) = options.check() {
            if !goes_on {
                return Err(error);
            }
            let error = format!("{error:#}");
            error!(
                error,
                "shared channels stand still: NATS cannot be reached without this"
            );
        }
        let id = random_node();
        let host = rustix::system::uname();
        let host = host.nodename().to_string_lossy();
        let name = format!("{host}:{}", std::process::id());
        let nats = Nats::connect(&options, &format!("linehub {name}")).await?;
        Ok(Some(Arc::new(Cluster {
            nats,
            line_bytes_max: config.line_bytes_max,
            id,
            name,
            node_timeout: node_timeout(),
            presence: Mutex::default(),
            ids_error: Mutex::default(),
            begun: CancellationToken::new(),
        })))
    }

    /// What the stream of one channel has of the past.
    pub(in crate::hub) fn past(&self) -> Arc<StreamPast> {
        Arc::default()
    }

    /// A node that there was not before. This daemon says that it lives until [`Cluster::end_node`].
    pub(super) fn new_node(&self) -> NodeId {
        let node = random_node();
        self.add_node(node);
        node
    }

    /// This daemon is this node, too.
    pub(super) fn add_node(&self, node: NodeId) {
        self.presence.lock().own.insert(node);
    }

    /// This daemon is not this node any more.
    pub(super) fn end_node(&self, node: NodeId) {
        self.presence.lock().own.remove(&node);
    }

    /// Whether nothing was heard of a node for so long that it is gone. Of what is not heard while nothing is, nothing
    /// follows.
    pub(super) fn is_silent(&self, node: NodeId) -> bool {
        let mut presence = self.presence.lock();
        if presence.own.contains(&node) {
            return false;
        }
        let seen = *presence.seen.entry(node).or_insert_with(Instant::now);
        presence.is_silent_since(seen, self.node_timeout)
    }

    /// Nodes that were heard of for the first time, in any channel.
    pub(super) fn newcomers(&self) -> u64 {
        self.presence.lock().newcomers
    }

    /// Whether this daemon has heard what is said for so long, and no other daemon.
    pub(super) fn is_alone(&self, time: Duration) -> bool {
        let presence = self.presence.lock();
        let both = presence.listening_since.zip(presence.heard_self);
        let has_heard = both.is_some_and(|(since, _)| since.elapsed() >= time);
        has_heard && presence.daemons.is_empty()
    }

    /// What there is to see of it.
    pub(in crate::hub) fn stats(&self, clients: u64) -> ClusterStats {
        let status = self.nats.status();
        let presence = self.presence.lock();
        let this = NodeStats {
            id: self.id.to_string(),
            name: self.name.clone(),
            is_self: true,
            clients,
            seen_ago: Duration::ZERO,
        };
        let others = presence.daemons.iter().map(|(id, (sign, at))| NodeStats {
            id: id.to_string(),
            name: sign.name.clone(),
            is_self: false,
            clients: sign.clients,
            seen_ago: at.elapsed(),
        });
        ClusterStats {
            is_connected: status.is_connected,
            server: status.server,
            reconnects: status.reconnects,
            error: status.error,
            nodes: std::iter::once(this).chain(others).collect(),
        }
    }

    fn note_sign(&self, node: NodeId, body: &Bytes) {
        let now = Instant::now();
        let mut presence = self.presence.lock();
        if presence.seen.insert(node, now).is_none() {
            presence.newcomers += 1;
        }
        let Ok(sign) = serde_json::from_slice::<SignOfLife>(body) else {
            return;
        };
        let id = NodeId(sign.daemon);
        if id == self.id {
            let before = presence.heard_self.replace(now);
            // Nothing was heard meanwhile, or this process stood still: what others said may come behind this.
            if before.is_some_and(|before| now - before > self.node_timeout / 2) {
                presence.listening_since = Some(now);
            }
            return;
        }
        if sign.leaves {
            if presence.daemons.remove(&id).is_some() {
                info!(node = %id, name = sign.name, "a node has left");
            }
        } else if presence.daemons.insert(id, (sign.clone(), now)).is_none() {
            info!(node = %id, name = sign.name, "a node has come");
        }
    }

    pub(super) fn forget_silent(&self) {
        let timeout = self.node_timeout;
        let mut presence = self.presence.lock();
        let mut daemons = mem::take(&mut presence.daemons);
        daemons.retain(|id, (sign, at)| {
            let is_here = !presence.is_silent_since(*at, timeout);
            if !is_here {
                warn!(node = %id, name = sign.name, "a node is gone");
            }
            is_here
        });
        presence.daemons = daemons;
        // Ten times as long: who is still in a channel's order has been said to be gone by then.
        presence.seen.retain(|_, at| at.elapsed() <= 10 * timeout);
    }

    /// Says that this daemon lives, in each of its nodes.
    pub(super) async fn say_alive(&self, clients: u64, leaves: bool) {
        let sign = SignOfLife {
            daemon: self.id.0,
            name: self.name.clone(),
            clients,
            leaves,
        };
        let body = Bytes::from(serde_json::to_vec(&sign).unwrap_or_default());
        let own: Vec<_> = self.presence.lock().own.iter().copied().collect();
        for node in own.into_iter().chain([self.id]) {
            // Who hears nothing for long enough says so.
            let _ = self.nats.say_alive(node, body.clone()).await;
        }
    }

    /// Says to the other daemons that this one ends. Cancel safe: they notice it, too.
    pub(in crate::hub) async fn say_left(&self) {
        self.say_alive(0, true).await;
    }

    /// Hears who lives, as long as there is a connection.
    pub(super) async fn listen(&self) {
        let mut connection = self.nats.watch();
        let mut backoff = Backoff::new(RETRY_TIME);
        loop {
            // It does not end before the connection does, which never ends.
            let connected = connection.wait_for(|state| state.is_connected).await;
            let Ok(connections) = connected.map(|state| state.connections) else {
                return;
            };
            if let Ok(mut signs) = self.nats.listen_alive().await {
                backoff.reset();
                self.presence.lock().listening_since = Some(Instant::now());
                loop {
                    tokio::select! {
                        sign = signs.next() => match sign {
                            Some((node, body)) => self.note_sign(node, &body),
                            None => break,
                        },
                        _ = connection.wait_for(|it| !it.is_connected || it.connections != connections) => break,
                    }
                }
                let mut presence = self.presence.lock();
                (presence.listening_since, presence.heard_self) = (None, None);
                drop(presence);
            }
            tokio::time::sleep(backoff.pause()).await;
        }
    }

    /// Why there are no numbers for clients.
    pub(super) fn ids_error(&self) -> Option<String> {
        self.ids_error.lock().clone()
    }

    /// Sees that there are numbers for clients.
    pub(super) async fn take_ids(&self, ids: &IdBlocks) {
        let mut backoff = Backoff::new(RETRY_TIME);
        loop {
            while let Some(at_least) = ids.wants() {
                match self.nats.take_ids(BLOCK, at_least).await {
                    Ok(block) => {
                        ids.put(block);
                        *self.ids_error.lock() = None;
                        backoff.reset();
                    }
                    Err(error) => {
                        let why = error.to_string();
                        let before = self.ids_error.lock().replace(why.clone());
                        // What is said of the connection is said there; it may be there since.
                        if before != Some(why) && self.nats.watch().borrow().is_connected {
                            warn!(%error, "no numbers for clients: they are drawn by lot");
                        }
                        tokio::time::sleep(backoff.pause()).await;
                    }
                }
            }
            ids.low.notified().await;
        }
    }
}

impl Presence {
    /// Whether this daemon has heard itself so long after `at`, and listened since before that.
    fn is_silent_since(&self, at: Instant, time: Duration) -> bool {
        let both = self.listening_since.zip(self.heard_self);
        both.is_some_and(|(since, heard)| heard.saturating_duration_since(at.max(since)) > time)
    }
}

fn random_node() -> NodeId {
    // The system has random numbers, or nothing starts.
    NodeId(getrandom::u64().unwrap_or_else(|_| u64::from(std::process::id())))
}

/// [`NODE_TIMEOUT`]; tests need not wait so long.
fn node_timeout() -> Duration {
    #[cfg(debug_assertions)]
    if let Some(ms) = std::env::var("LINEHUB_NODE_TIMEOUT_MS")
        .ok()
        .and_then(|ms| ms.parse().ok())
    {
        return Duration::from_millis(ms);
    }
    NODE_TIMEOUT
}
