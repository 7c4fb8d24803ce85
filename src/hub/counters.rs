//! What is counted: of each client, of all of them together, and of the daemon itself since its first
//! process, which goes on over a handover.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde::{Deserialize, Serialize};

use crate::wire::close_reason::CloseReason;

/// Counts of the daemon, which any wing may raise.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Counters {
    /// Times an accept loop could not go on, as without descriptors, and waited.
    pub(crate) accept_errors: Count,
    /// Connections that were refused because the server was full.
    pub(crate) refused: Count,
    /// Connections that were refused for asking for a channel that there is none of.
    #[serde(default)]
    pub(crate) no_channel: Count,
    /// Connections that were refused for their hello line.
    #[serde(default)]
    pub(crate) bad_hello: Count,
    /// Connections that were refused because TLS could not be agreed on.
    #[serde(default)]
    pub(crate) tls: Count,
    /// Connections that were refused for a token that was missing or wrong.
    #[serde(default)]
    pub(crate) unauthorized: Count,
    /// Connections that were refused for their address.
    #[serde(default)]
    pub(crate) denied: Count,
    /// Connections that were refused because their address had too many.
    #[serde(default)]
    pub(crate) too_many: Count,
    /// Connections that were refused for their PROXY protocol header.
    #[serde(default)]
    pub(crate) proxy: Count,
    /// Connections that were refused for their HTTP request.
    #[serde(default)]
    pub(crate) bad_request: Count,
    /// Connections that are in their handshake now.
    #[serde(skip)]
    pub(crate) handshakes: Gauge,
    pub(crate) handovers: Handovers,
    pub(crate) reloads: Outcomes,
}

impl Counters {
    /// Connections that were refused for this reason; `None` if it is none to refuse one for.
    pub(crate) fn refused_for(&self, reason: CloseReason) -> Option<&Count> {
        match reason {
            CloseReason::Full => Some(&self.refused),
            CloseReason::NoChannel => Some(&self.no_channel),
            CloseReason::BadHello => Some(&self.bad_hello),
            CloseReason::Tls => Some(&self.tls),
            CloseReason::Unauthorized => Some(&self.unauthorized),
            CloseReason::Denied => Some(&self.denied),
            CloseReason::TooMany => Some(&self.too_many),
            CloseReason::Proxy => Some(&self.proxy),
            CloseReason::BadRequest => Some(&self.bad_request),
            _ => None,
        }
    }
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

/// How many hold it now.
#[derive(Debug, Default)]
pub(crate) struct Gauge(Arc<AtomicU64>);

/// One more in a [`Gauge`], until it is dropped.
#[derive(Debug)]
pub(crate) struct Held(Arc<AtomicU64>);

impl Gauge {
    pub(crate) fn hold(&self) -> Held {
        self.0.fetch_add(1, Relaxed);
        Held(self.0.clone())
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
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

/// Lines and bytes that went through a client. Only its own task writes them. (What it missed is in
/// the hub's own meta of it.)
#[derive(Debug, Default)]
pub(crate) struct ClientCounters {
    /// Messages it sent.
    pub(crate) lines_in: Counter,
    /// Bytes read from it.
    pub(crate) bytes_in: Counter,
    /// Messages it was sent.
    pub(crate) lines_out: Counter,
    /// Bytes its socket took.
    pub(crate) bytes_out: Counter,
}

impl ClientCounters {
    /// Goes on counting from here.
    pub(super) fn restore(&self, totals: TrafficTotals) {
        self.lines_in.add(totals.lines_in);
        self.bytes_in.add(totals.bytes_in);
        self.lines_out.add(totals.lines_out);
        self.bytes_out.add(totals.bytes_out);
    }
}

/// A number with one writer and any readers: no locked instruction on the hot path.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed) + n, Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// What went through one client, or through many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct TrafficTotals {
    /// Messages that clients sent.
    pub(crate) lines_in: u64,
    /// Bytes read from them.
    pub(crate) bytes_in: u64,
    /// Messages that clients were sent, each counted once a client.
    pub(crate) lines_out: u64,
    /// Bytes their sockets took.
    pub(crate) bytes_out: u64,
    /// Messages they missed under `--slow-client skip`.
    pub(crate) skipped: u64,
}

impl TrafficTotals {
    /// Adds what another client counted.
    pub(super) fn add(&mut self, other: TrafficTotals) {
        for (total, count) in [
            (&mut self.lines_in, other.lines_in),
            (&mut self.bytes_in, other.bytes_in),
            (&mut self.lines_out, other.lines_out),
            (&mut self.bytes_out, other.bytes_out),
            (&mut self.skipped, other.skipped),
        ] {
            *total = total.wrapping_add(count);
        }
    }

    /// Whether none of them is beyond this.
    pub(super) fn are_below(&self, most: u64) -> bool {
        let all = [
            self.lines_in,
            self.bytes_in,
            self.lines_out,
            self.bytes_out,
            self.skipped,
        ];
        all.iter().all(|total| *total <= most)
    }
}
