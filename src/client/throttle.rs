//! A client that is held to rates: how much of it may be read, and when.

use std::num::NonZeroU64;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::{Instant, Sleep, sleep};

use crate::net::rate::Bucket;

/// Parts of a second's worth that have to be there for a read: so often at most is a client read from that
/// always has more.
const READS_A_SECOND: u64 = 16;

/// Bytes that are read for each line that may come, and at least: how many lines they are shows only then. What
/// that is too many is made up for before the next read.
const BYTES_A_LINE: (u64, u64) = (64, 256);

/// The longest wait in one piece: a reload may have changed the rate.
const WAIT_MAX: Duration = Duration::from_secs(1);

/// Rates that clients are held to, each on its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Rates {
    pub(super) lines: Option<NonZeroU64>,
    pub(super) bytes: Option<NonZeroU64>,
}

/// What one client has left of its rates.
#[derive(Debug)]
pub(super) struct Throttle {
    /// Rates that it counts by; `None` until it is asked.
    rates: Option<Rates>,
    lines: Bucket,
    bytes: Bucket,
    /// While the client has to wait.
    wait: Option<Pin<Box<Sleep>>>,
}

/// A [`Throttle`], as the time that each rate takes until it is as if nothing had come. What a handover
/// takes counts for nobody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SavedThrottle {
    lines: Duration,
    bytes: Duration,
}

impl Rates {
    pub(super) fn are_off(self) -> bool {
        self == Rates::default()
    }
}

/// Of a client that has sent nothing.
impl Default for Throttle {
    fn default() -> Throttle {
        Throttle::restore(SavedThrottle::default())
    }
}

impl Throttle {
    pub(super) fn save(&self) -> SavedThrottle {
        SavedThrottle {
            lines: self.lines.time_to_fill(),
            bytes: self.bytes.time_to_fill(),
        }
    }

    /// Goes on where [`Throttle::save`] was called.
    pub(super) fn restore(saved: SavedThrottle) -> Throttle {
        Throttle {
            rates: None,
            lines: Bucket::full_in(saved.lines),
            bytes: Bucket::full_in(saved.bytes),
            wait: None,
        }
    }

    /// Ready with how many bytes the next read may bring. With other rates than before, it begins afresh.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, rates: Rates) -> Poll<usize> {
        if self.rates.is_some_and(|before| before != rates) {
            *self = Throttle::default();
        }
        self.rates = Some(rates);
        loop {
            let now = Instant::now();
            let both = [(&self.lines, rates.lines), (&self.bytes, rates.bytes)];
            let time = both.into_iter().filter_map(|(bucket, rate)| {
                let least = (rate?.get() / READS_A_SECOND).max(1);
                Some(bucket.time_until(least, rate?, now))
            });
            let time = time.max().unwrap_or_default();
            if time.is_zero() {
                self.wait = None;
                let [lines, bytes] = both.map(|(bucket, rate)| {
                    rate.map_or(u64::MAX, |rate| bucket.available(rate, now))
                });
                let (a_line, least) = BYTES_A_LINE;
                let most = bytes.min(lines.saturating_mul(a_line).max(least));
                return Poll::Ready(usize::try_from(most).unwrap_or(usize::MAX));
            }
            let wait = || Box::pin(sleep(time.min(WAIT_MAX)));
            ready!(self.wait.get_or_insert_with(wait).as_mut().poll(cx));
            self.wait = None;
        }
    }

    /// Notes what a read has brought.
    pub(super) fn take(&mut self, lines: usize, bytes: usize) {
        let now = Instant::now();
        let rates = self.rates.unwrap_or_default();
        if let Some(rate) = rates.lines {
            self.lines.take(lines as u64, rate, now);
        }
        if let Some(rate) = rates.bytes {
            self.bytes.take(bytes as u64, rate, now);
        }
    }
}

#[cfg(test)]
impl Throttle {
    /// Whether it waits until the next read is allowed.
    pub(super) fn is_waiting(&self) -> bool {
        self.wait.is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use proptest::prelude::*;
    use tokio::runtime::Builder;
    use tokio::time::advance;

    use super::*;

    proptest! {
        /// The model: a sender that always has more, in lines of some length, is read from as the client
        /// does it; a read brings no more than it may, and lines exceed their rate by one read at most.
        #[test]
        fn sender_that_always_has_more_gets_its_rates_and_no_more(
            lines in prop::option::of(1_u64..5_000),
            bytes in prop::option::of(1_u64..1_000_000),
            line_bytes in 1_usize..300,
            handed_over in any::<bool>(),
        ) {
            let rates = Rates { lines: lines.and_then(NonZeroU64::new), bytes: bytes.and_then(NonZeroU64::new) };
            prop_assume!(!rates.are_off());
            let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
            runtime.block_on(async {
                let start = Instant::now();
                let mut throttle = Throttle::default();
                let mut cx = Context::from_waker(Waker::noop());
                let (mut read, mut read_before) = (0, 0);
                let seconds = 100;
                for _ in 0..seconds * 20 {
                    let passed = start.elapsed().as_secs_f64();
                    while let Poll::Ready(most) = throttle.poll(&mut cx, rates) {
                        if let Some(lines) = lines {
                            let allowed = lines as f64 * (passed + 1.0) + 0.001;
                            assert!((read / line_bytes) as f64 <= allowed, "in debt");
                        }
                        let brought = most.min(65_536);
                        read_before = read;
                        read += brought;
                        throttle.take(read / line_bytes - read_before / line_bytes, brought);
                        if let Some(bytes) = bytes {
                            assert!(read as f64 <= bytes as f64 * (passed + 1.0) + 0.001);
                        }
                    }
                    if handed_over {
                        throttle = Throttle::restore(throttle.save());
                    }
                    advance(Duration::from_millis(50)).await;
                }
                let least = |rate: u64| rate as f64 * start.elapsed().as_secs_f64() * 0.9;
                let enough_lines = lines.is_some_and(|lines| (read / line_bytes) as f64 >= least(lines) - 1.0);
                let enough_bytes = bytes.is_some_and(|bytes| read as f64 >= least(bytes));
                assert!(enough_lines || enough_bytes, "{read} {read_before}");
            });
        }
    }
}
