//! The clients that are no more.

use std::array;
use std::collections::VecDeque;
use std::time::SystemTime;

use serde::{Deserialize, Deserializer, Serialize};

use super::connection::ConnectionInfo;
use super::counters::TrafficTotals;
use crate::wire::close_reason::CloseReason;
use crate::wire::ids::ClientId;

/// Closed connections that are remembered, the last ones.
pub(super) const CLOSED_MAX: usize = 1000;

/// A client that is no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ClosedClient {
    pub(crate) id: ClientId,
    #[serde(alias = "arrival")]
    pub(crate) connection: ConnectionInfo,
    pub(crate) totals: TrafficTotals,
    pub(crate) reason: CloseReason,
    pub(crate) at: SystemTime,
    /// What it was owed at the end and never got, as in [`ClientStats`](super::stats::ClientStats).
    pub(crate) bytes_pending: u64,
    pub(crate) messages_behind: u64,
}

/// Clients that are no more: all of them by their reason, and the last ones.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Closed {
    #[serde(deserialize_with = "by_reason")]
    pub(super) by_reason: [u64; CloseReason::ALL.len()],
    /// Oldest first.
    pub(super) last: VecDeque<ClosedClient>,
}

/// Reasons are only ever added behind those there are: what this daemon knows of them is kept.
fn by_reason<'de, D: Deserializer<'de>>(
    saved: D,
) -> Result<[u64; CloseReason::ALL.len()], D::Error> {
    let counts = Vec::deserialize(saved)?;
    Ok(array::from_fn(|at| counts.get(at).copied().unwrap_or(0)))
}

impl Closed {
    /// Adds one; of more than [`CLOSED_MAX`] the oldest is forgotten.
    pub(super) fn push(&mut self, client: ClosedClient) {
        if self.last.len() == CLOSED_MAX {
            self.last.pop_front();
        }
        self.last.push_back(client);
    }
}
