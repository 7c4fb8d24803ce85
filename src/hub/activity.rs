//! What the reaper remembers of a client from one look to the next.

use std::num::NonZeroU64;
use std::time::Duration;

/// What the reaper remembers of a client between two looks. Small: there is one for each client.
#[derive(Debug, Default)]
pub(super) struct Activity {
    /// Bytes that had gone through it either way (modulo 2^32), and when that was last seen to
    /// change.
    pub(super) moved: u32,
    pub(super) moved_at: Option<Micros>,
    /// Bytes that its socket had taken (modulo 2^32), and since when its peer has taken none of what
    /// waits for it; once it is leaving, since when it is.
    pub(super) taken: u32,
    pub(super) refuses_since: Option<Micros>,
    /// Where in the stream it was (modulo 2^32), and since when it has been there, while more has come.
    pub(super) position: u32,
    pub(super) stands_since: Option<Micros>,
    /// Time for which the client has kept others waiting since it last had everything, in microseconds.
    pub(super) held_us: u32,
    /// Time of the last probe of how far the peer has come.
    pub(super) probed_at: Option<Micros>,
    pub(super) said: Said,
}

/// Last command of the reaper to a client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Said {
    #[default]
    Nothing,
    /// Told that it is behind, and still where it was then.
    Behind,
    /// Told that it is behind; has moved on since, but not had everything.
    WasBehind,
    /// Leaving: told nothing but the end of its time.
    Leaving,
}

/// A moment in the hub's running time, to the microsecond: eight bytes, even where there may be none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Micros(pub(super) NonZeroU64);

impl Micros {
    /// Time since `earlier`; zero if `earlier` is later.
    pub(super) fn since(self, earlier: Micros) -> Duration {
        Duration::from_micros(self.0.get().saturating_sub(earlier.0.get()))
    }
}

/// In microseconds, for 584,000 years.
pub(super) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

impl Activity {
    /// Since when this many bytes have gone through the client; `None` when that is news.
    pub(super) fn still_since(&self, moved: u64) -> Option<Micros> {
        self.moved_at.filter(|_| self.moved == moved as u32)
    }

    /// Whether it has been at the same place for so long although more has come.
    pub(super) fn stands_still(&self, time: Duration, now: Micros) -> bool {
        self.stands_since
            .is_some_and(|since| now.since(since) >= time)
    }

    /// Notes where the client is in a stream that ends at `tail`.
    pub(super) fn note_position(&mut self, position: u64, tail: u64, blocked: bool, now: Micros) {
        let moved = self.position != position as u32;
        self.position = position as u32;
        if moved && self.said == Said::Behind {
            self.said = Said::WasBehind;
        }
        if position < tail {
            if moved || self.stands_since.is_none() {
                self.stands_since = Some(now);
            }
            return;
        }
        self.stands_since = None;
        if !blocked {
            self.held_us = 0;
            if self.said == Said::WasBehind {
                self.said = Said::Nothing;
            }
        }
    }
}
