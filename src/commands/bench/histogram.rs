//! Durations of which percentiles are wanted.

use std::time::Duration;

/// Durations that are told apart, in nanoseconds, to three digits. Longer ones count as the longest.
const LEAST: u64 = 1;
const MOST: u64 = 24 * 3_600_000_000_000;

/// Durations of which percentiles are wanted.
#[derive(Clone, Debug)]
pub struct Histogram(hdrhistogram::Histogram<u64>);

impl Default for Histogram {
    fn default() -> Histogram {
        let counts = hdrhistogram::Histogram::new_with_bounds(LEAST, MOST, 3);
        Histogram(counts.expect("the bounds are in order"))
    }
}

impl Histogram {
    /// Counts `lines` lines that were late by so many nanoseconds.
    pub fn record(&mut self, nanos: u64, lines: u64) {
        self.0.saturating_record_n(nanos, lines);
    }

    /// The duration that so many percent do not exceed; `None` when there are none.
    pub fn percentile(&self, percent: f64) -> Option<Duration> {
        (!self.0.is_empty()).then(|| Duration::from_nanos(self.0.value_at_percentile(percent)))
    }

    pub(super) fn max(&self) -> Option<Duration> {
        (!self.0.is_empty()).then(|| Duration::from_nanos(self.0.max()))
    }

    /// How many lines were counted.
    pub(super) fn count(&self) -> u64 {
        self.0.len()
    }

    /// Counts what the other has counted.
    pub(super) fn add(&mut self, other: &Histogram) {
        self.0.add(&other.0).expect("both have the same bounds");
    }

    /// Forgets everything.
    pub(super) fn reset(&mut self) {
        self.0.reset();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_exact_to_three_digits() {
        let mut histogram = Histogram::default();
        assert_eq!((histogram.percentile(50.0), histogram.max()), (None, None));
        for nanos in 1..=10_000 {
            histogram.record(nanos * 1000, 1);
        }
        for (percent, micros) in [(50.0, 5_000.0), (99.0, 9_900.0), (99.9, 9_990.0)] {
            let measured = histogram.percentile(percent).unwrap().as_secs_f64() * 1e6;
            assert!(
                (measured / micros - 1.0).abs() < 0.001,
                "{percent} is {measured}"
            );
        }
        assert_eq!(histogram.count(), 10_000);
    }
}
