//! Who holds the buffer up, and who has gone quiet: one look over all clients every now and then,
//! so that no client needs a timer of its own.
//!
//! Time is counted in which this process ran: while it is stopped, the machine is suspended, or the
//! clients are frozen for a handover, nobody can be served, and nobody is late.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::time::Duration;

use super::activity::{Micros, Said, micros};
use super::clock::RunningTime;
use super::memory;
use super::order::{Hub, Settings, State};
use super::subscriber::{Commands, Condition, DETACHED, Slot};
use crate::config::{Grace, SlowClient};
use crate::wire::close_reason::CloseReason;

/// How long a client that is being closed may take over its last words and its own close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// The looks while nothing presses: often enough for the shortest timeout, rare enough for nothing
/// to be seen of them with 15,000 clients.
const CALM_TICK: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// The looks while senders wait: a client that is behind is found at most this long after its
/// grace.
const FULL_TICK: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(25));

/// A look may take one such part of all time: with many clients, there are fewer of them.
const LOOK_SHARE: u32 = 4;

/// How often a client whose socket refuses is asked what its peer has acknowledged.
const BLOCKED_PROBE: Duration = Duration::from_millis(250);

/// How often one is that only reads (`--half-close keep`): nothing else tells that it has gone.
const READER_PROBE: Duration = Duration::from_secs(1);

/// How often all others are that were sent something: so much later at most than a silent peer could
/// be known to be.
const PROBE: Duration = Duration::from_secs(5);

/// How long senders wait at most for one who holds them up when they have no patience left: about
/// what a person notices, and more than others may have their turn before it on a busy machine.
const HELD_MIN: Duration = Duration::from_millis(100);

/// Who stands still for this long while others move on is none of those who set the pace.
const STANDSTILL: Duration = Duration::from_millis(250);

/// The patience of senders grows back in so many times the time that it was spent in: over any
/// minute, slow clients make them wait for the grace and this part of the minute at most.
const PATIENCE_REGROWTH: u32 = 32;

/// Nobody has got room in the buffer for this long after the grace, although somebody waits: nothing
/// that clients may do leads to that.
const JAM: Duration = Duration::from_secs(5);

/// A buffer that held this much, in bytes, and is nearly empty again leaves memory worth returning.
const TRIM_BYTES: usize = 1024 * 1024;

/// What holds the buffer up, from one look to the next.
#[derive(Debug)]
pub(crate) struct Contention {
    /// Somebody waited for the buffer at the last look.
    full: bool,
    /// How long senders may still be made to wait by clients that are slower than the others: the
    /// grace, less what was waited lately.
    patience: Duration,
    /// Where the oldest line stood that somebody still needed, and since when.
    oldest: Option<(u64, Micros)>,
    /// How many had ever got room in the buffer, and when that was last seen to change.
    permits: u64,
    admitted_at: Micros,
}

impl Contention {
    pub(crate) fn new(hub: &Hub) -> Contention {
        Contention {
            full: false,
            // Cut down to the grace by the first look.
            patience: Duration::MAX,
            oldest: None,
            permits: 0,
            admitted_at: hub.moment(),
        }
    }

    /// Nobody waits: patience grows back.
    fn ease(&mut self, ran: Duration, settings: &Settings) {
        self.oldest = None;
        if let Grace::For(grace) = settings.slow_grace {
            let regrown = self.patience.saturating_add(ran / PATIENCE_REGROWTH);
            self.patience = regrown.min(grace);
        }
    }
}

/// Looks after the clients for as long as the hub lives: closes those that stall, idle, fall
/// behind, or take too long over their goodbye.
pub(crate) async fn run(hub: Arc<Hub>) {
    let mut contention = Contention::new(&hub);
    let mut running = RunningTime::start();
    let mut look_took = Duration::ZERO;
    let mut peak = 0;
    loop {
        let tick = hub.tick(&contention).max(look_took * LOOK_SHARE);
        if contention.full {
            tokio::time::sleep(tick).await;
        } else {
            // No arm loses anything when it is cancelled: a notice that comes meanwhile is kept.
            tokio::select! {
                () = tokio::time::sleep(tick) => {}
                () = hub.budget.full() => {}
                () = hub.asked.notified() => {}
            }
        }
        let ran = running.lap(tick);
        hub.look(&mut contention, ran);
        if !hub.is_jammed(&mut contention) {
            hub.looks.fetch_add(1, Relaxed);
        }
        look_took = running.since_lap();

        let used = hub.budget.used();
        peak = peak.max(used);
        if peak >= TRIM_BYTES && used <= peak / 8 {
            peak = used;
            memory::give_back();
        }
    }
}

impl Hub {
    /// The time for which this process ran, as of the last look.
    pub(super) fn moment(&self) -> Micros {
        // From one on.
        Micros(NonZeroU64::MIN.saturating_add(self.ran_us.load(Acquire)))
    }

    /// Stops the time that the reaper counts: nobody is late while a handover stops the clients.
    pub(crate) fn freeze(&self) {
        self.lock().is_frozen = true;
    }

    /// Time goes on after a [`freeze`](Hub::freeze).
    pub(crate) fn thaw(&self) {
        self.lock().is_frozen = false;
    }

    fn tick(&self, contention: &Contention) -> Duration {
        let settings = self.lock().settings;
        if contention.full {
            let (least, most) = FULL_TICK;
            return match settings.slow_grace {
                Grace::For(_) if contention.patience.is_zero() => least,
                Grace::For(grace) => (grace / 16).clamp(least, most),
                Grace::Forever => most,
            };
        }
        let timeouts = [settings.stall_timeout, settings.idle_timeout];
        let shortest = timeouts
            .into_iter()
            .flatten()
            .chain([CLOSE_TIMEOUT])
            .min()
            .unwrap_or(CLOSE_TIMEOUT);
        (shortest / 16).clamp(CALM_TICK.0, CALM_TICK.1)
    }

    /// Looks at every client once. `ran` is how long it is since the last look.
    pub(crate) fn look(&self, contention: &mut Contention, ran: Duration) {
        let is_full = self.budget.is_full();
        let mut state = self.lock();
        if state.is_frozen {
            return;
        }
        self.ran_us.fetch_add(micros(ran), Relaxed);
        let now = self.moment();
        let was_full = std::mem::replace(&mut contention.full, is_full);
        let settings = state.settings;
        let tail = state.flush().cost_before;
        for (_, slot) in &mut state.slots {
            close_idle_and_stalled(slot, &settings, now, contention.full);
            let position = slot.subscriber.position.load(Relaxed);
            let blocked = slot.subscriber.is(Condition::Blocked);
            let activity = &mut slot.meta.activity;
            activity.note_position(position, tail, blocked, now);
        }
        if contention.full {
            let waited = if was_full { ran } else { Duration::ZERO };
            self.evict_slow(&mut state, tail, now, waited, contention);
        } else {
            contention.ease(ran, &settings);
        }
    }

    /// Whether those who wait for the buffer wait for nothing: a bug, which must not pass for life.
    pub(crate) fn is_jammed(&self, contention: &mut Contention) -> bool {
        let now = self.moment();
        let (somebody_waits, permits) = self.budget.queue_state();
        if !somebody_waits || contention.permits != permits {
            (contention.permits, contention.admitted_at) = (permits, now);
            return false;
        }
        let state = self.lock();
        let grace = match state.settings.slow_grace {
            Grace::For(grace) => grace,
            Grace::Forever => Duration::ZERO,
        };
        let waited = now.since(contention.admitted_at);
        let mut clients = state.slots.iter().map(|(_, slot)| &slot.subscriber);
        let is_held_up = state.settings.slow_grace == Grace::Forever
            && clients.any(|subscriber| subscriber.is(Condition::Blocked));
        waited >= grace.saturating_add(JAM) && !is_held_up
    }

    /// Behind: in need of the oldest line after its grace, or holding others up for as long as senders
    /// have patience.
    ///
    /// The first is the rule for a reader that stands still. The second is for those that take a
    /// little just before their grace ends, or come one after the other, each with a grace of its own:
    /// time in which senders wait, while at least half of those that move on have everything, is held
    /// against whoever is at the oldest line, or about to be and standing still. Readers most of whom
    /// are slow only slow the senders down.
    ///
    /// Those near the oldest line whose sockets have refused for a grace go with it: what one of them
    /// holds may not be enough to let anybody in. One that was told to skip, and has not had
    /// everything since, gets no new grace.
    fn evict_slow(
        &self,
        state: &mut State,
        tail: u64,
        now: Micros,
        waited: Duration,
        contention: &mut Contention,
    ) {
        let Grace::For(grace) = state.settings.slow_grace else {
            return;
        };
        let patience = contention.patience.min(grace);
        contention.patience = patience;
        let position = |slot: &Slot| slot.subscriber.position.load(Relaxed);
        let slots = || state.slots.iter().map(|(_, slot)| slot);
        let behind = slots().map(position).filter(|position| *position < tail);
        let Some(oldest) = behind.min() else {
            contention.oldest = None;
            return;
        };
        let since = match contention.oldest {
            Some((held, since)) if held == oldest => since,
            _ => now,
        };
        contention.oldest = Some((oldest, since));
        let overdue = now.since(since) >= grace;

        let near = oldest.saturating_add(self.budget.permit_bytes() as u64);
        let is_near = |slot: &Slot| position(slot) < near.min(tail);
        if slots().any(|slot| is_near(slot) && slot.meta.activity.said == Said::Behind) {
            // What it holds is about to be released: nobody else has to go for that. It has only to
            // come round to it; one that does not must not be what all the others wait for.
            let told = state.slots.iter_mut().map(|(_, slot)| slot);
            for slot in told.filter(|slot| slot.meta.activity.said == Said::Behind) {
                let activity = &mut slot.meta.activity;
                activity.held_us = activity.held_us.saturating_add(micros(waited) as u32);
                if Duration::from_micros(activity.held_us.into()) >= CLOSE_TIMEOUT {
                    slot.subscriber.command(Commands::ABORT);
                }
            }
            return;
        }
        let moves_on = |slot: &&Slot| {
            !slot.left
                && !slot.subscriber.is(Condition::Waiting)
                && ![oldest, DETACHED].contains(&position(slot))
                && !slot.meta.activity.stands_still(grace.min(STANDSTILL), now)
        };
        let (mut move_on, mut have_all) = (0, 0);
        for position in slots().filter(moves_on).map(position) {
            move_on += 1;
            have_all += usize::from(position >= tail);
        }
        let hold_others_up = move_on > 0 && 2 * have_all >= move_on;

        let command = match state.settings.slow_client {
            SlowClient::Disconnect => Commands::close(CloseReason::Slow),
            SlowClient::Skip => Commands::SKIP,
        };
        for (_, slot) in &mut state.slots {
            if !is_near(slot) {
                continue;
            }
            let is_oldest = position(slot) == oldest;
            let activity = &mut slot.meta.activity;
            if hold_others_up && (is_oldest || activity.stands_still(waited, now)) {
                activity.held_us = activity.held_us.saturating_add(micros(waited) as u32);
            }
            let held = Duration::from_micros(activity.held_us.into());
            let refused = |since| now.since(since) >= grace.max(HELD_MIN);
            if overdue && is_oldest
                || held >= patience.max(HELD_MIN)
                || (overdue || patience.is_zero()) && activity.refuses_since.is_some_and(refused)
                || activity.said == Said::WasBehind
            {
                let spent = if overdue { grace } else { held };
                contention.patience = contention.patience.min(patience.saturating_sub(spent));
                (activity.said, activity.held_us) = (Said::Behind, 0);
                slot.subscriber.command(command);
            }
        }
    }
}

/// Stalled, idle, gone without a word, or at its goodbye for too long.
fn close_idle_and_stalled(slot: &mut Slot, settings: &Settings, now: Micros, full: bool) {
    let (subscriber, activity) = (&slot.subscriber, &mut slot.meta.activity);
    let over = |since: Option<Micros>, timeout: Option<Duration>| {
        since.is_some_and(|since| timeout.is_some_and(|timeout| now.since(since) >= timeout))
    };
    // What the daemon makes wait is not the client's doing; nor is what it gets nothing of because
    // the buffer is full.
    let waits = subscriber.is(Condition::Waiting);
    if subscriber.is(Condition::Leaving) {
        if waits || activity.said != Said::Leaving {
            (activity.said, activity.refuses_since) = (Said::Leaving, Some(now));
        } else if over(activity.refuses_since, Some(CLOSE_TIMEOUT)) {
            subscriber.command(Commands::ABORT);
        } else if subscriber.is(Condition::Unacknowledged) {
            subscriber.command(Commands::PROBE);
        }
        return;
    }
    let taken = subscriber.counters.bytes_out.get() as u32;
    let moved = taken.wrapping_add(subscriber.counters.bytes_in.get() as u32);
    if activity.moved_at.is_none() || activity.moved != moved || waits || full {
        (activity.moved, activity.moved_at) = (moved, Some(now));
    }
    let blocked = subscriber.is(Condition::Blocked);
    let progressed = subscriber.progressed.load(Relaxed);
    if progressed {
        subscriber.progressed.store(false, Relaxed);
    }
    if !blocked {
        activity.refuses_since = None;
    } else if activity.refuses_since.is_none() || activity.taken != taken || progressed {
        (activity.taken, activity.refuses_since) = (taken, Some(now));
    }
    if over(activity.refuses_since, settings.stall_timeout) {
        subscriber.command(Commands::close(CloseReason::Stalled));
    } else if !slot.left && over(activity.moved_at, settings.idle_timeout) {
        subscriber.command(Commands::close(CloseReason::Idle));
    }
    let probe = match (blocked, slot.input_done) {
        (true, _) => BLOCKED_PROBE,
        (_, true) => READER_PROBE,
        _ => PROBE,
    };
    // An idle peer that owes no answer is asked by the system.
    let may_owe = blocked
        || slot.input_done
        || subscriber.is(Condition::Unacknowledged)
        || activity.moved_at.is_some_and(|at| now.since(at) <= PROBE);
    if may_owe && over(Some(*activity.probed_at.get_or_insert(now)), Some(probe)) {
        activity.probed_at = Some(now);
        subscriber.command(Commands::PROBE);
    }
}

#[cfg(test)]
mod tests {
    use super::super::connection::ConnectionInfo;
    use super::*;
    use crate::config::Config;
    use crate::config::cli::Options;
    use crate::wire::format::Format;
    use crate::wire::framing::Lines;

    /// How long a handover takes is up to the service manager, and a failed one is undone.
    #[test]
    fn nobody_is_late_while_all_are_frozen() {
        let mut config = Config::from_options(&Options::default(), 1024).unwrap();
        config.buffer_bytes = 1000;
        let hub = Hub::new(&config);
        let mut feeds = [(); 2].map(|()| hub.join(ConnectionInfo::test(Format::Raw)));
        let lines = Lines {
            rest: &b"hello\n".repeat(1000),
            ..Lines::default()
        };
        feeds[0].publish(None, &lines);
        feeds[0].detach();
        let mut contention = Contention::new(&hub);
        let mut is_late_after = |time| {
            for _ in 0..2 {
                hub.look(&mut contention, time);
            }
            feeds[1]
                .subscriber()
                .take_commands()
                .close_reason()
                .is_some()
        };
        assert!(!is_late_after(Duration::from_millis(100)));
        hub.freeze();
        assert!(!is_late_after(Duration::from_secs(60)));
        hub.thaw();
        assert!(!is_late_after(Duration::from_millis(100)));
        assert!(is_late_after(Duration::from_secs(60)));
    }

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
