//! The last ten minutes, one sample a second.

use std::collections::VecDeque;
use std::time::Duration;

use super::documents::{Rates, SamplesDocument};
use crate::hub::{HubStats, TrafficTotals};

/// Time between two samples.
pub(super) const PERIOD: Duration = Duration::from_secs(1);

/// Samples kept: ten minutes of them.
const SAMPLES_MAX: usize = 600;

/// Rates and the buffer's use over time. Empty until stats were added twice.
#[derive(Debug, Default)]
pub(super) struct Samples {
    last: Option<TrafficTotals>,
    /// Oldest first.
    taken: VecDeque<(Rates, usize)>,
}

impl Samples {
    /// Adds the hub's stats, taken `since_last` after the last ones.
    pub(super) fn add(&mut self, stats: &HubStats, since_last: Duration) {
        let now = stats.totals;
        let Some(before) = self.last.replace(now) else {
            return;
        };
        let seconds = since_last.as_secs_f64();
        if seconds <= 0.0 {
            return;
        }
        let rate = |before: u64, now: u64| {
            // To a thousandth, which keeps the document short.
            (now.saturating_sub(before) as f64 / seconds * 1000.0).round() / 1000.0
        };
        let rates = Rates {
            lines_in_per_second: rate(before.lines_in, now.lines_in),
            lines_out_per_second: rate(before.lines_out, now.lines_out),
            bytes_in_per_second: rate(before.bytes_in, now.bytes_in),
            bytes_out_per_second: rate(before.bytes_out, now.bytes_out),
        };
        if self.taken.len() == SAMPLES_MAX {
            self.taken.pop_front();
        }
        self.taken.push_back((rates, stats.buffer_used));
    }

    /// Forgets the last stats: no rate is taken over the time in which nobody looked.
    pub(super) fn pause(&mut self) {
        self.last = None;
    }

    /// The latest rates.
    pub(super) fn rates(&self) -> Rates {
        self.taken
            .back()
            .map_or(Rates::default(), |(rates, _)| *rates)
    }

    pub(super) fn document(&self) -> SamplesDocument {
        let mut document = SamplesDocument {
            period_seconds: PERIOD.as_secs(),
            ..SamplesDocument::default()
        };
        for (rates, buffer_used) in &self.taken {
            document.lines_in_per_second.push(rates.lines_in_per_second);
            document
                .lines_out_per_second
                .push(rates.lines_out_per_second);
            document.buffer_used_bytes.push(*buffer_used);
        }
        document
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(lines_in: u64, buffer_used: usize) -> HubStats {
        HubStats {
            totals: TrafficTotals {
                lines_in,
                lines_out: 10 * lines_in,
                ..TrafficTotals::default()
            },
            buffer_used,
            ..HubStats::default()
        }
    }

    #[test]
    fn samples_are_rates_and_the_oldest_go() {
        let mut samples = Samples::default();
        samples.add(&stats(5, 0), PERIOD);
        assert_eq!(
            samples.document().lines_in_per_second,
            [0.0; 0],
            "there is no rate yet"
        );
        samples.add(&stats(7, 300), PERIOD / 2);
        assert_eq!(samples.rates().lines_in_per_second, 4.0);
        assert_eq!(samples.rates().lines_out_per_second, 40.0);
        assert_eq!(samples.document().buffer_used_bytes, [300]);
        for n in 0..SAMPLES_MAX as u64 {
            samples.add(&stats(8 + n, 0), PERIOD);
        }
        let document = samples.document();
        assert_eq!(document.buffer_used_bytes, [0; SAMPLES_MAX]);
        assert_eq!(document.lines_in_per_second, [1.0; SAMPLES_MAX]);
    }

    #[test]
    fn pause_makes_no_peak() {
        let mut samples = Samples::default();
        samples.add(&stats(5, 0), PERIOD);
        samples.pause();
        samples.add(&stats(5000, 0), PERIOD);
        samples.add(&stats(5001, 0), PERIOD);
        assert_eq!(samples.document().lines_in_per_second, [1.0]);
    }
}
