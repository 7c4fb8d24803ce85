//! How late lines were, in all and over time.

use std::time::Duration;

use super::histogram::Histogram;

/// Points of the curves at most: beyond it, each stands for a longer time.
const POINTS_MAX: u32 = 600;
const INTERVAL_LEAST: Duration = Duration::from_millis(100);

/// What was measured up to a moment and since the one before it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Point {
    /// The end of the interval, since the run began.
    pub(super) at: Duration,
    pub(super) length: Duration,
    /// Lines in it.
    pub(super) sent: u64,
    pub(super) delivered: u64,
    /// Latency of what arrived in it; `None` if nothing did.
    pub(super) latency: Option<(Duration, Duration)>,
}

/// All latencies of a run.
#[derive(Debug)]
pub(super) struct Latencies {
    pub(super) all: Histogram,
    recent: Histogram,
    pub(super) points: Vec<Point>,
    interval: Duration,
    sent: u64,
    delivered: u64,
}

impl Latencies {
    /// Latencies of a run that is to take so long.
    pub(super) fn new(duration: Duration) -> Latencies {
        Latencies {
            all: Histogram::default(),
            recent: Histogram::default(),
            points: Vec::new(),
            interval: INTERVAL_LEAST.max(duration / POINTS_MAX),
            sent: 0,
            delivered: 0,
        }
    }

    pub(super) fn interval(&self) -> Duration {
        self.interval
    }

    /// Lines arrived so long after they were due.
    pub(super) fn record(&mut self, nanos: u64, lines: u64) {
        self.recent.record(nanos, lines);
    }

    /// Ends an interval, given the lines sent and delivered so far.
    pub(super) fn end_interval(&mut self, at: Duration, sent: u64, delivered: u64) {
        let before = self.points.last().map_or(Duration::ZERO, |point| point.at);
        let percentiles = (self.recent.percentile(50.0), self.recent.percentile(99.0));
        self.points.push(Point {
            at,
            length: at - before,
            sent: sent - self.sent,
            delivered: delivered - self.delivered,
            latency: percentiles.0.zip(percentiles.1),
        });
        (self.sent, self.delivered) = (sent, delivered);
        self.settle();
    }

    /// What came after the last interval counts too.
    pub(super) fn settle(&mut self) {
        self.all.add(&self.recent);
        self.recent.reset();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interval_holds_what_came_in_it_and_the_whole_holds_all() {
        let mut latencies = Latencies::new(Duration::from_secs(1));
        latencies.record(1_000, 10);
        latencies.end_interval(Duration::from_millis(100), 5, 10);
        latencies.end_interval(Duration::from_millis(200), 5, 10);
        latencies.record(9_000, 1);
        latencies.settle();
        let [first, second] = latencies.points[..] else {
            panic!()
        };
        assert_eq!((first.sent, first.delivered), (5, 10));
        assert_eq!((second.sent, second.latency), (0, None));
        assert_eq!(latencies.all.count(), 11);
        assert_eq!(
            Latencies::new(Duration::from_secs(600)).interval(),
            Duration::from_secs(1)
        );
    }
}
