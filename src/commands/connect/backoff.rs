//! How long to wait before the next attempt to connect.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

/// The first pause: a daemon that is restarted is back before anybody notices.
const FIRST: Duration = Duration::from_millis(100);

/// The longest pause: what a thousand clients cost a daemon that is down for long, and how late they
/// notice that it is back.
const LONGEST: Duration = Duration::from_secs(10);

/// Pauses that double from [`FIRST`] to [`LONGEST`]. Each is cut to between a half and the whole of
/// itself by chance, so that clients which lost one daemon do not come back all at once.
#[derive(Debug)]
pub(super) struct Backoff {
    whole: Duration,
}

impl Backoff {
    pub(super) fn new() -> Backoff {
        Backoff { whole: FIRST }
    }

    /// The next pause, after a connection that `lasted` so long; zero if there was none.
    ///
    /// Only one that lasted longer than the longest pause makes the pauses short again: a server that
    /// accepts and closes at once is not asked more often than one that does not answer.
    pub(super) fn pause(&mut self, lasted: Duration) -> Duration {
        if lasted > LONGEST {
            self.whole = FIRST;
        }
        let half = self.whole / 2;
        self.whole = (self.whole * 2).min(LONGEST);
        half + half.mul_f64(chance())
    }
}

/// A number from 0 to 1. The standard library has no random numbers, but keys its hashes with some.
fn chance() -> f64 {
    let random = RandomState::new().build_hasher().finish();
    random as f64 / u64::MAX as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn assert_half_to_whole(pause: Duration, whole: Duration) {
        assert!((whole / 2..=whole).contains(&pause), "{pause:?}, {whole:?}");
    }

    #[test]
    fn pauses_double_up_to_the_longest() {
        let mut backoff = Backoff::new();
        for power in 0..20 {
            let whole = (FIRST * (1 << power)).min(LONGEST);
            assert_half_to_whole(backoff.pause(Duration::ZERO), whole);
        }
    }

    #[test]
    fn pauses_are_short_again_only_after_a_connection_that_lasted() {
        let mut backoff = Backoff::new();
        backoff.pause(Duration::ZERO);
        backoff.pause(Duration::ZERO);
        assert_half_to_whole(backoff.pause(LONGEST), FIRST * 4);
        assert_half_to_whole(backoff.pause(LONGEST + FIRST), FIRST);
    }

    #[test]
    fn chance_spreads_clients() {
        let chances: Vec<f64> = (0..100).map(|_| chance()).collect();
        assert!(chances.iter().all(|chance| (0.0..=1.0).contains(chance)));
        assert!(chances.iter().any(|chance| *chance < 0.3));
        assert!(chances.iter().any(|chance| *chance > 0.7));
    }
}
