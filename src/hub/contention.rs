//! What holds a channel's buffer up, from one look of the reaper to the next.

use std::time::Duration;

use super::activity::Micros;
use super::settings::Settings;
use crate::config::Grace;

/// The patience of senders grows back in so many times the time that it was spent in: over any
/// minute, slow clients make them wait for the grace and this part of the minute at most.
const PATIENCE_REGROWTH: u32 = 32;

/// What holds the buffer up, from one look to the next.
#[derive(Debug)]
pub(super) struct Contention {
    /// Somebody waited for the buffer at the last look.
    pub(super) full: bool,
    /// How long senders may still be made to wait by clients that are slower than the others: the
    /// grace, less what was waited lately.
    pub(super) patience: Duration,
    /// Where the oldest line stood that somebody still needed, and since when.
    pub(super) oldest: Option<(u64, Micros)>,
    /// How many had ever got room in the buffer, and when that was last seen to change.
    pub(super) permits: u64,
    pub(super) admitted_at: Micros,
    /// The last look.
    pub(super) looked_at: Micros,
}

impl Contention {
    pub(super) fn new(now: Micros) -> Contention {
        Contention {
            full: false,
            // Cut down to the grace by the first look.
            patience: Duration::MAX,
            oldest: None,
            permits: 0,
            admitted_at: now,
            looked_at: now,
        }
    }

    /// Nobody waits: patience grows back.
    pub(super) fn ease(&mut self, ran: Duration, settings: &Settings) {
        self.oldest = None;
        if let Grace::For(grace) = settings.slow_grace {
            let regrown = self.patience.saturating_add(ran / PATIENCE_REGROWTH);
            self.patience = regrown.min(grace);
        }
    }
}
