//! The clients that are no more.

use std::array;
use std::collections::VecDeque;
use std::ops::{AddAssign, Index, IndexMut};
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
    pub(crate) connection: ConnectionInfo,
    pub(crate) totals: TrafficTotals,
    pub(crate) reason: CloseReason,
    pub(crate) at: SystemTime,
    /// What it was owed at the end and never got, as in [`ClientStats`](super::stats::ClientStats).
    pub(crate) bytes_pending: u64,
    pub(crate) messages_behind: u64,
}

/// How many clients were closed for each reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct ByReason([u64; CloseReason::ALL.len()]);

impl ByReason {
    /// The counts, in the order of the reasons.
    pub(super) fn counts(&self) -> impl Iterator<Item = u64> {
        self.0.iter().copied()
    }
}

impl Index<CloseReason> for ByReason {
    type Output = u64;

    fn index(&self, reason: CloseReason) -> &u64 {
        &self.0[reason.index()]
    }
}

impl IndexMut<CloseReason> for ByReason {
    fn index_mut(&mut self, reason: CloseReason) -> &mut u64 {
        &mut self.0[reason.index()]
    }
}

impl AddAssign for ByReason {
    fn add_assign(&mut self, other: ByReason) {
        for (count, more) in self.0.iter_mut().zip(other.0) {
            *count += more;
        }
    }
}

/// Reasons are only ever added behind those there are: what this daemon knows of them is kept.
impl<'de> Deserialize<'de> for ByReason {
    fn deserialize<D: Deserializer<'de>>(saved: D) -> Result<ByReason, D::Error> {
        let counts: Vec<u64> = Vec::deserialize(saved)?;
        let count = |at| counts.get(at).copied().unwrap_or(0);
        Ok(ByReason(array::from_fn(count)))
    }
}

/// The clients that were closed last, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LastClosed(VecDeque<ClosedClient>);

impl LastClosed {
    /// Adds one; of more than [`CLOSED_MAX`] the oldest is forgotten.
    pub(super) fn push(&mut self, client: ClosedClient) {
        if self.0.len() == CLOSED_MAX {
            self.0.pop_front();
        }
        self.0.push_back(client);
    }

    /// Adds those that another one remembers.
    pub(super) fn append(&mut self, other: LastClosed) {
        other.0.into_iter().for_each(|client| self.push(client));
    }

    /// The latest first: so many of them at most, after the first `from`; and how many there are.
    pub(super) fn page(&self, from: usize, most: usize) -> (Vec<ClosedClient>, usize) {
        let page = self.0.iter().rev().skip(from).take(most).cloned();
        (page.collect(), self.0.len())
    }
}
