//! Pauses between tries.

use std::time::Duration;

/// Pauses between tries, each twice as long as the one before, up to a longest.
#[derive(Debug)]
pub(super) struct Backoff {
    next: Duration,
    shortest: Duration,
    longest: Duration,
}

impl Backoff {
    pub(super) fn new((shortest, longest): (Duration, Duration)) -> Backoff {
        Backoff {
            next: shortest,
            shortest,
            longest,
        }
    }

    /// The next pause: half as long or half as long again, so that daemons do not come all at once.
    pub(super) fn pause(&mut self) -> Duration {
        let pause = self.next;
        self.next = (2 * pause).min(self.longest);
        let jitter = 0.5 + f64::from(getrandom::u32().unwrap_or(0)) / f64::from(u32::MAX);
        pause.mul_f64(jitter)
    }

    /// It went well: the next pause is the shortest.
    pub(super) fn reset(&mut self) {
        self.next = self.shortest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let ms = Duration::from_millis;
        let mut backoff = Backoff::new((ms(100), ms(300)));
        for _ in 0..2 {
            for about in [100, 200, 300, 300] {
                let pause = backoff.pause();
                assert!(
                    pause >= ms(about / 2) && pause <= ms(about + about / 2),
                    "{pause:?}"
                );
            }
            backoff.reset();
        }
    }
}
