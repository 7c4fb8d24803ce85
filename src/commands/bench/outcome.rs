//! What a run came to.

use std::time::Duration;

use super::connections::Role;
use super::histogram::Histogram;
use super::latency::Latencies;
use super::plan::Run;
use super::tracker::Faults;
use crate::config::Address;
use crate::wire::channel::ChannelName;
use crate::wire::format::Format;

/// What a run came to.
#[derive(Debug)]
pub struct Outcome {
    pub(super) run: Run,
    pub(super) format: Format,
    pub(super) address: Address,
    /// The channel that was asked for.
    pub(super) channel: Option<ChannelName>,
    pub(super) is_tls: bool,
    pub(super) is_own: bool,
    /// Whether the run was ended before its time.
    pub(super) interrupted: bool,
    /// Whether all that was sent was waited for.
    pub(super) complete: bool,
    /// Time from the first connection's begin until the last was served.
    pub(super) connect_time: Duration,
    /// How long was sent. What follows, up to the faults, was counted until then.
    pub elapsed: Duration,
    pub(super) sent: u64,
    /// Lines that connections received, those of senders among them.
    pub received: u64,
    pub(super) received_bytes: u64,
    /// Lines that readers had received once everything had arrived.
    pub(super) delivered: u64,
    pub(super) faults: Faults,
    pub(super) closed: Vec<Closed>,
    /// Stuck readers that the daemon did not close.
    pub(super) stuck_open: usize,
    /// What its process used, if it is on this machine.
    pub daemon: Option<DaemonUsage>,
    /// CPUs' worth of time that the load took.
    pub load_cpu: Option<f64>,
    /// How late lines were sent, when they had a time.
    pub(super) late: Option<Histogram>,
    pub(super) latencies: Latencies,
}

/// A connection that the daemon closed.
#[derive(Clone, Debug)]
pub(super) struct Closed {
    pub(super) role: Role,
    /// The label, as in the daemon's log.
    pub(super) reason: String,
    /// The daemon's words, if it said any.
    pub(super) detail: String,
}

/// What the daemon's process used.
#[derive(Clone, Copy, Debug)]
pub struct DaemonUsage {
    pub(super) pid: u32,
    /// CPUs' worth of time.
    pub cpu: f64,
    /// At the end, in bytes.
    pub(super) rss: Option<u64>,
    /// The most that was seen.
    pub(super) rss_peak: Option<u64>,
}

impl Outcome {
    /// Whether every line reached every reader, once, whole and in one order.
    pub fn is_good(&self) -> bool {
        self.faults == Faults::default() && self.complete && self.unexpected().next().is_none()
    }

    /// The latency that so many percent of the lines do not exceed; `None` without lines.
    pub fn latency(&self, percent: f64) -> Option<Duration> {
        self.latencies.all.percentile(percent)
    }

    /// Connections that were closed and should not have been.
    pub(super) fn unexpected(&self) -> impl Iterator<Item = &Closed> {
        let all = self.closed.iter();
        all.filter(|closed| !closed.role.is_stuck())
    }

    pub(super) fn stuck(&self) -> impl Iterator<Item = &Closed> {
        let all = self.closed.iter();
        all.filter(|closed| closed.role.is_stuck())
    }

    fn per_second(&self, number: u64) -> f64 {
        number as f64 / self.elapsed.as_secs_f64()
    }

    pub(super) fn lines_in_per_second(&self) -> f64 {
        self.per_second(self.sent)
    }

    pub(super) fn bytes_in_per_second(&self) -> f64 {
        self.per_second(self.sent * (self.run.size as u64 + 1))
    }

    pub(super) fn lines_out_per_second(&self) -> f64 {
        self.per_second(self.received)
    }

    pub(super) fn bytes_out_per_second(&self) -> f64 {
        self.per_second(self.received_bytes)
    }

    pub(super) fn connects_per_second(&self) -> f64 {
        self.run.connections() as f64 / self.connect_time.as_secs_f64()
    }
}
