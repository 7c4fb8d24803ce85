//! Who holds the buffer up, and who has gone quiet: one look over all clients every now and then,
//! so that no client needs a timer of its own.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::member::DETACHED;
use super::{Hub, Orders, Seat, State};
use crate::close::CloseReason;
use crate::config::{Grace, SlowClient};

/// How long a client that is being closed may take over its last words and its own close.
const GOODBYE: Duration = Duration::from_secs(2);

/// The looks while nothing presses: often enough for the shortest timeout, rare enough for nothing
/// to be seen of them with 15,000 clients.
const CALM_TICK: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// The looks while senders wait: a client that is behind is found at most this long after its
/// grace.
const PRESSED_TICK: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(25));

/// A buffer that held this much, in bytes, and is nearly empty again leaves memory worth returning.
const TRIM_BYTES: usize = 1024 * 1024;

/// What the sweep remembers of a client between two looks. Small: there is one for each client.
#[derive(Debug)]
pub(super) struct Watch {
    /// Bytes that had gone through it either way, and when that was last seen to change.
    moved: u64,
    moved_at: Option<Moment>,
    /// Bytes that its socket had taken, and since when it has taken none of what waits for it.
    taken: u64,
    refuses_since: Option<Moment>,
    leaves_since: Option<Moment>,
    /// For how long it has kept the others waiting since it last had everything, in microseconds.
    held_us: u64,
    /// It was told that it is behind when it stood here; [`DETACHED`] if it never was.
    told_at: u64,
}

impl Default for Watch {
    fn default() -> Watch {
        Watch {
            moved: 0,
            moved_at: None,
            taken: 0,
            refuses_since: None,
            leaves_since: None,
            held_us: 0,
            told_at: DETACHED,
        }
    }
}

/// A moment in the hub's life, to the microsecond: eight bytes, even where there may be none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moment(NonZeroU64);

impl Moment {
    /// How long after `earlier` it is; zero if it is before.
    pub(super) fn since(self, earlier: Moment) -> Duration {
        Duration::from_micros(self.0.get().saturating_sub(earlier.0.get()))
    }
}

/// In microseconds, for 584,000 years.
fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

impl Watch {
    /// Since when this many bytes have gone through the client; `None` when that is news.
    pub(super) fn still_since(&self, moved: u64) -> Option<Moment> {
        self.moved_at.filter(|_| self.moved == moved)
    }
}

/// Who stands at the oldest line still needed, and since when.
#[derive(Clone, Copy, Debug)]
struct Oldest {
    index: u64,
    since: Moment,
}

/// Looks after the clients for as long as the hub lives: closes those that stall, idle, fall
/// behind, or take too long over their goodbye.
pub(crate) async fn run(hub: Arc<Hub>) {
    let mut oldest = None;
    let mut looked = hub.moment();
    let mut pressed = false;
    let mut peak = 0;
    loop {
        let tick = hub.tick(pressed);
        if pressed {
            tokio::time::sleep(tick).await;
        } else {
            // No arm loses anything when it is cancelled: a notice that comes meanwhile is kept.
            tokio::select! {
                () = tokio::time::sleep(tick) => {}
                () = hub.budget.pressed() => {}
                () = hub.asked.notified() => {}
            }
        }
        let now = hub.moment();
        pressed = hub.budget.is_pressed();
        let mut state = hub.lock();
        hub.look_for_the_quiet(&mut state, now);
        if pressed {
            hub.look_for_the_behind(&mut state, now, now.since(looked), &mut oldest);
        } else {
            oldest = None;
        }
        looked = now;
        drop(state);
        hub.looks.fetch_add(1, Relaxed);

        let used = hub.budget.used();
        peak = peak.max(used);
        if peak >= TRIM_BYTES && used <= peak / 8 {
            peak = used;
            give_memory_back();
        }
    }
}

/// Hands what the storm left free in the allocator back to the system. Left to itself, glibc keeps
/// whatever lies below the last small piece that is still in use.
#[cfg(target_env = "gnu")]
#[allow(unsafe_code)]
fn give_memory_back() {
    // SAFETY: malloc_trim(3) may be called at any time from any thread; it only releases pages that
    // hold nothing.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(not(target_env = "gnu"))]
fn give_memory_back() {}

impl Hub {
    pub(super) fn moment(&self) -> Moment {
        // From one on.
        Moment(NonZeroU64::MIN.saturating_add(micros(self.began.elapsed())))
    }

    fn tick(&self, pressed: bool) -> Duration {
        let settings = self.lock().settings;
        if pressed {
            return match settings.slow_grace {
                Grace::For(grace) => (grace / 16).clamp(PRESSED_TICK.0, PRESSED_TICK.1),
                Grace::Forever => PRESSED_TICK.1,
            };
        }
        let timeouts = [settings.stall_timeout, settings.idle_timeout];
        let shortest = timeouts
            .into_iter()
            .flatten()
            .chain([GOODBYE])
            .min()
            .unwrap_or(GOODBYE);
        (shortest / 16).clamp(CALM_TICK.0, CALM_TICK.1)
    }

    /// Stalled, idle, or at its goodbye for too long.
    fn look_for_the_quiet(&self, state: &mut State, now: Moment) {
        let settings = state.settings;
        let over = |since: Moment, timeout: Option<Duration>| {
            timeout.is_some_and(|timeout| now.since(since) >= timeout)
        };
        for (_, seat) in &mut state.seats {
            let (member, watch) = (&seat.member, &mut seat.record.watch);
            if member.leaving.load(Relaxed) {
                if over(*watch.leaves_since.get_or_insert(now), Some(GOODBYE)) {
                    member.order(Orders::ABORT);
                }
                continue;
            }
            let taken = member.tally.bytes_out.get();
            let moved = taken.wrapping_add(member.tally.bytes_in.get());
            if watch.moved_at.is_none() || watch.moved != moved {
                (watch.moved, watch.moved_at) = (moved, Some(now));
            }
            if !member.blocked.load(Relaxed) {
                watch.refuses_since = None;
            } else if watch.refuses_since.is_none() || watch.taken != taken {
                (watch.taken, watch.refuses_since) = (taken, Some(now));
            }
            if watch
                .refuses_since
                .is_some_and(|since| over(since, settings.stall_timeout))
            {
                member.order(Orders::close(CloseReason::Stalled));
            } else if !seat.left
                && watch
                    .moved_at
                    .is_some_and(|since| over(since, settings.idle_timeout))
            {
                member.order(Orders::close(CloseReason::Idle));
            }
        }
    }

    /// Behind: still in need of the oldest line after its grace, or kept others waiting for as long.
    ///
    /// The first is the rule for a reader that stands still. The second is for one that takes a
    /// little just before its grace ends, again and again, which would hold everybody to its pace:
    /// time in which senders wait, while at least half of the others have everything, counts
    /// against whoever is at the oldest line, until it has everything itself. Readers that are all
    /// as slow as each other only slow the senders down.
    fn look_for_the_behind(
        &self,
        state: &mut State,
        now: Moment,
        since_last_look: Duration,
        oldest: &mut Option<Oldest>,
    ) {
        let Grace::For(grace) = state.settings.slow_grace else {
            return;
        };
        let tail = state.cut().index;
        let mut first = None;
        for (_, seat) in &mut state.seats {
            let position = seat.member.position.load(Relaxed);
            let watch = &mut seat.record.watch;
            if position >= tail {
                watch.held_us = 0;
            } else if watch.told_at == position {
                // What it holds is about to be released: nobody else has to go for that.
                return;
            } else {
                first = Some(first.map_or(position, |first: u64| first.min(position)));
            }
        }
        let Some(index) = first else {
            return *oldest = None;
        };
        let since = match *oldest {
            Some(held) if held.index == index => held.since,
            _ => now,
        };
        let waited = if oldest.is_some() {
            since_last_look
        } else {
            Duration::ZERO
        };
        *oldest = Some(Oldest { index, since });

        let at_oldest = |seat: &Seat| seat.member.position.load(Relaxed) == index;
        let holders = state
            .seats
            .iter()
            .filter(|(_, seat)| at_oldest(seat))
            .count();
        let senders = self.budget.waiting();
        let others = state.seats.len().saturating_sub(holders + senders);
        let served = state.parked.len().saturating_sub(senders);
        let waited = if others > 0 && 2 * served >= others {
            waited
        } else {
            Duration::ZERO
        };

        for (_, seat) in &mut state.seats {
            if !at_oldest(seat) {
                continue;
            }
            let watch = &mut seat.record.watch;
            watch.held_us += micros(waited);
            if now.since(since) < grace && watch.held_us < micros(grace) {
                continue;
            }
            watch.told_at = index;
            watch.held_us = 0;
            seat.member.order(match state.settings.slow_client {
                SlowClient::Disconnect => Orders::close(CloseReason::Slow),
                SlowClient::Skip => Orders::SKIP,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Options;
    use crate::config::Config;

    #[tokio::test]
    async fn idle_hub_has_a_pulse_for_as_long_as_its_sweep_runs() {
        let config = Config::from_options(&Options::default(), 1024).unwrap();
        let hub = Hub::new(&config);
        let sweep = tokio::spawn(run(hub.clone()));
        let first = hub.pulse();
        while hub.pulse() == first {
            tokio::task::yield_now().await;
        }
        sweep.abort();
        assert!(sweep.await.unwrap_err().is_cancelled());
        assert_eq!(hub.pulse(), hub.pulse());
    }
}
