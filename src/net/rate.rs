//! The bucket that holds somebody to a rate.

use std::num::NonZeroU64;
use std::time::Duration;

use tokio::time::Instant;

/// How long a bucket takes to fill: what may come at once is what may come in this time.
const BURST: Duration = Duration::from_secs(1);

/// A token bucket, full at first, that holds what may come in a second. The rate is told at each call, so
/// that it may change at any time.
///
/// Kept as the time at which it will be full: filling costs nothing, and no fraction is lost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bucket {
    full_at: Instant,
}

impl Bucket {
    /// A bucket that is full at this time.
    pub(crate) fn full_at(full_at: Instant) -> Bucket {
        Bucket { full_at }
    }

    /// A bucket that is full in so long a time.
    pub(crate) fn full_in(time: Duration) -> Bucket {
        Bucket {
            full_at: Instant::now() + time,
        }
    }

    /// How long it takes to be full.
    pub(crate) fn time_to_fill(&self) -> Duration {
        self.full_at.saturating_duration_since(Instant::now())
    }

    /// What is in it.
    pub(crate) fn available(&self, rate: NonZeroU64, now: Instant) -> u64 {
        let filled = BURST.saturating_sub(self.full_at.saturating_duration_since(now));
        (filled.as_nanos() * u128::from(rate.get()) / BURST.as_nanos()) as u64
    }

    /// How long it takes until so much is in it, of what it holds at most.
    pub(crate) fn time_until(&self, amount: u64, rate: NonZeroU64, now: Instant) -> Duration {
        let to_fill = self.full_at.saturating_duration_since(now);
        (to_fill + time_for(amount, rate)).saturating_sub(BURST)
    }

    /// Takes so much out of it, even if that is not in it: it is owed then.
    pub(crate) fn take(&mut self, amount: u64, rate: NonZeroU64, now: Instant) {
        self.full_at = self.full_at.max(now) + time_for(amount, rate);
    }
}

/// How long it takes for so much to come, in whole nanoseconds, rounded up.
fn time_for(amount: u64, rate: NonZeroU64) -> Duration {
    let nanos = u128::from(amount) * BURST.as_nanos();
    let nanos = nanos.div_ceil(u128::from(rate.get()));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// The model: in no window, however it is laid, does more pass than the rate allows in it and a
        /// burst, and who takes what there is gets the rate.
        #[test]
        fn no_window_has_more_than_its_rate_and_a_burst(
            rate in prop_oneof![1_u64..20, 1_000_u64..100_000, 1_u64 << 30..1 << 40],
            steps in prop::collection::vec((0_u64..3_000_000_000, 0.0..1.0), 1..40),
        ) {
            let rate = NonZeroU64::new(rate).unwrap();
            let start = Instant::now();
            let mut bucket = Bucket { full_at: start };
            let (mut at, mut taken) = (0, Vec::<(u64, u64)>::new());
            for (pause, share) in steps {
                at += pause;
                let now = start + Duration::from_nanos(at);
                let available = bucket.available(rate, now);
                prop_assert!(available <= rate.get());
                let amount = (available as f64 * share) as u64;
                bucket.take(amount, rate, now);
                taken.push((at, amount));
                for (from, (began, _)) in taken.iter().enumerate() {
                    let passed: u128 = taken[from..].iter().map(|(_, amount)| u128::from(*amount)).sum();
                    let nanos = u128::from(at - began) + BURST.as_nanos();
                    prop_assert!(passed <= nanos * u128::from(rate.get()) / BURST.as_nanos());
                }
            }
        }

        #[test]
        fn what_is_waited_for_is_there_then_and_not_much_earlier(
            rate in 1_u64..1_000_000,
            debt in 0_u64..1_000_000,
            share in 0.0..1.0,
        ) {
            let amount = ((rate as f64 * share) as u64).max(1);
            let rate = NonZeroU64::new(rate).unwrap();
            let start = Instant::now();
            let mut bucket = Bucket { full_at: start };
            bucket.take(rate.get() + debt, rate, start);
            let time = bucket.time_until(amount, rate, start);
            prop_assert!(bucket.available(rate, start + time) >= amount);
            let earlier = time.saturating_sub(Duration::from_nanos(3));
            prop_assert!(time.is_zero() || bucket.available(rate, start + earlier) <= amount);
            // What is owed is paid off at the rate, to within the nanoseconds that are rounded.
            let owed = time_for(debt + amount, rate);
            prop_assert!(time <= owed + Duration::from_nanos(3) && owed <= time + Duration::from_nanos(3));
        }
    }
}
