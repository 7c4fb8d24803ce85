//! What happens to the daemon itself, counted since its first process: it goes on over a handover.
//! (What goes through it, its clients and the hub count.)

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde::{Deserialize, Serialize};

/// The counts, which any room may raise.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Counters {
    /// Times an accept loop could not go on, as without descriptors, and waited.
    pub(crate) accept_errors: Count,
    /// Connections that were refused because the server was full.
    pub(crate) refused: Count,
    pub(crate) handovers: Handovers,
    pub(crate) reloads: Outcomes,
}

/// Handovers, by what carries them.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Handovers {
    exec: Outcomes,
    store: Outcomes,
}

/// What carries a handover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HandoverMethod {
    /// The process becomes another program.
    Exec,
    /// The service manager's store.
    Store,
}

impl HandoverMethod {
    /// As it is called in the metrics.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            HandoverMethod::Exec => "exec",
            HandoverMethod::Store => "store",
        }
    }
}

/// How often something went well, and how often it did not.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Outcomes {
    pub(crate) ok: Count,
    pub(crate) failed: Count,
}

/// A number that only rises.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn add_one(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

impl Outcomes {
    /// Counts one more, by how it went.
    pub(crate) fn add<T, E>(&self, outcome: &Result<T, E>) {
        match outcome {
            Ok(_) => self.ok.add_one(),
            Err(_) => self.failed.add_one(),
        }
    }
}

impl Handovers {
    pub(crate) fn by(&self, carrier: HandoverMethod) -> &Outcomes {
        match carrier {
            HandoverMethod::Exec => &self.exec,
            HandoverMethod::Store => &self.store,
        }
    }
}
