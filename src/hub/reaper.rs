//! Who holds the buffer up, and who has gone quiet: one look over all clients every now and then,
//! so that no client needs a timer of its own.
//!
//! Time is counted in which this process ran: while it is stopped, the machine is suspended, or the
//! clients are frozen for a handover, nobody can be served, and nobody is late.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use tokio::task::{JoinHandle, spawn_blocking};

use super::activity::{Micros, Said, micros};
use super::channels::Channels;
use super::clock::RunningTime;
use super::eviction::CLOSE_TIMEOUT;
use super::memory;
use super::order::Hub;
use super::settings::Settings;
use super::subscriber::{Commands, Condition, Slot};
use crate::config::Grace;
use crate::net::tls::take_put_away;
use crate::wire::close_reason::CloseReason;
use crate::wire::transport::Transport;

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

/// How often a client of WebSocket is asked whether it is there, and how long it may take over that; and how often one
/// of events gets what keeps proxies from taking its connection for a dead one.
const PING: Duration = Duration::from_secs(30);
const COMMENT: Duration = Duration::from_secs(15);

/// How long a client is quiet before it gives back what only work needs: getting that again takes it some
/// ten microseconds.
const REST_TIME: Duration = Duration::from_secs(1);

/// Nobody has got room in the buffer for this long after the grace, although somebody waits: nothing
/// that clients may do leads to that.
const JAM: Duration = Duration::from_secs(5);

/// A buffer that held this much, in bytes, and is nearly empty again leaves memory worth returning.
const TRIM_BYTES: usize = 1024 * 1024;

/// So many encrypted clients that have gone quiet leave as much.
const TRIM_SESSIONS: usize = 64;

/// Looks after the clients for as long as the daemon lives: closes those that stall, idle, fall
/// behind, or take too long over their close, or whose tokens expire. Ends channels that their clients have
/// left.
pub(crate) async fn run(channels: Arc<Channels>) {
    let shared = channels.shared();
    let mut running = RunningTime::start();
    let mut look_took = Duration::ZERO;
    let mut peak = 0;
    let (mut put_away, mut looked_at) = (0, Instant::now());
    let mut disk = None;
    loop {
        let hubs = channels.hubs();
        let tick = hubs.iter().map(|hub| hub.tick()).min();
        let tick = tick.unwrap_or(CALM_TICK.1).max(look_took * LOOK_SHARE);
        if hubs.iter().any(|hub| hub.contention.lock().full) {
            tokio::time::sleep(tick).await;
        } else {
            // No arm loses anything when it is cancelled: a notice that comes meanwhile is kept.
            tokio::select! {
                () = tokio::time::sleep(tick) => {}
                () = shared.asked.notified() => {}
            }
        }
        let ran = running.lap(tick);
        // Somebody may have opened one meanwhile, and filled it.
        let hubs = channels.hubs();
        if shared.add_time(ran) {
            hubs.iter().for_each(|hub| hub.look(ran));
        }
        if !hubs.iter().any(|hub| hub.is_jammed()) {
            shared.looks.fetch_add(1, Relaxed);
        }
        look_took = running.since_lap();

        let used = hubs.iter().map(|hub| hub.budget.used()).sum();
        peak = peak.max(used);
        if peak >= TRIM_BYTES && used <= peak / 8 {
            peak = used;
            memory::give_back();
        }
        if looked_at.elapsed() >= CALM_TICK.1 {
            looked_at = Instant::now();
            hubs.iter().for_each(|hub| hub.expire_history());
            if disk.as_ref().is_none_or(JoinHandle::is_finished) {
                disk = look_after_disk(&hubs);
            }
            // As many again may be put away before the next second is over.
            put_away += take_put_away();
            if put_away >= TRIM_SESSIONS {
                put_away = 0;
                memory::give_back();
            }
        }
        drop(hubs);
        channels.end_unused();
        channels.close_expired();
    }
}

/// Looks after the histories on disk, one after the other in one job: on a disk that hangs, one thread waits.
fn look_after_disk(hubs: &[Arc<Hub>]) -> Option<JoinHandle<()>> {
    let on_disk = |hub: &Arc<Hub>| {
        let history = hub.history().filter(|history| history.is_on_disk());
        history.map(|history| (hub.clone(), history))
    };
    let on_disk: Vec<_> = hubs.iter().filter_map(on_disk).collect();
    if on_disk.is_empty() {
        return None;
    }
    Some(spawn_blocking(move || {
        for (hub, history) in &on_disk {
            if let Err(error) = history.look_after() {
                hub.lose_files(history, &error);
            }
        }
    }))
}

impl Hub {
    /// How long it is until the next look.
    fn tick(&self) -> Duration {
        let settings = self.lock().settings;
        let contention = self.contention.lock();
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
    fn look(&self, ran: Duration) {
        let is_full = self.budget.is_full();
        let mut contention = self.contention.lock();
        let contention = &mut *contention;
        let mut state = self.lock();
        let now = self.shared.moment();
        let was_full = std::mem::replace(&mut contention.full, is_full);
        let settings = state.settings;
        let tail = state.readable_end().cost_before;
        let before = std::mem::replace(&mut contention.looked_at, now);
        for (key, slot) in &mut state.slots {
            beat(key, slot, before, now);
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
    pub(crate) fn is_jammed(&self) -> bool {
        let now = self.shared.moment();
        let mut contention = self.contention.lock();
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
        // What cannot be stored is said elsewhere.
        waited >= grace.saturating_add(JAM) && !is_held_up && !state.is_storing()
    }
}

#[cfg(test)]
impl Hub {
    /// A look at a channel that is the only one, so long after the last.
    pub(crate) fn pass(&self, ran: Duration) {
        if self.shared.add_time(ran) {
            self.look(ran);
        }
    }
}

/// Has a client show that it is there whose transport can, when it is its time: not all of them at once.
fn beat(key: usize, slot: &Slot, before: Micros, now: Micros) {
    let every = match slot.meta.transport {
        Transport::WebSocket => PING,
        Transport::Events => COMMENT,
        Transport::Plain | Transport::Lines | Transport::Post => return,
    };
    // Multiples of the golden ratio are spread evenly.
    let offset = micros(every.mul_f64((key as f64 * 0.618_034).fract()));
    let beats = |moment: Micros| moment.0.get().saturating_add(offset) / micros(every);
    if beats(before) != beats(now) {
        slot.subscriber.command(Commands::BEAT);
    }
}

/// Stalled, idle, gone without a word, or closing for too long.
fn close_idle_and_stalled(slot: &mut Slot, settings: &Settings, now: Micros, full: bool) {
    let (subscriber, activity) = (&slot.subscriber, &mut slot.meta.activity);
    let over = |since: Option<Micros>, timeout: Option<Duration>| {
        since.is_some_and(|since| timeout.is_some_and(|timeout| now.since(since) >= timeout))
    };
    // What the daemon makes wait is not the client's doing; nor is what it gets nothing of because
    // the buffer is full.
    let reads_on = subscriber.is(Condition::CatchingUp) && !subscriber.is(Condition::Blocked);
    let is_held = subscriber.is(Condition::Waiting) || subscriber.is(Condition::Throttled);
    let waits = is_held || reads_on;
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
    if subscriber.is(Condition::Warm) && over(activity.moved_at, Some(REST_TIME)) {
        subscriber.command(Commands::REST);
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
        // Without options of its own, the channel goes by those of all.
        config.channels.clear();
        let hub = Hub::new(&config);
        let mut feeds = [(); 2].map(|()| hub.join(ConnectionInfo::test(Format::Raw)));
        let lines = Lines {
            rest: &b"hello\n".repeat(1000),
            ..Lines::default()
        };
        feeds[0].publish(None, &lines);
        feeds[0].detach();
        let is_late_after = |time| {
            for _ in 0..2 {
                hub.pass(time);
            }
            feeds[1]
                .subscriber()
                .take_commands()
                .close_reason()
                .is_some()
        };
        assert!(!is_late_after(Duration::from_millis(100)));
        hub.shared.set_frozen(true);
        assert!(!is_late_after(Duration::from_secs(60)));
        hub.shared.set_frozen(false);
        assert!(!is_late_after(Duration::from_millis(100)));
        assert!(is_late_after(Duration::from_secs(60)));
    }

    #[test]
    fn clients_whose_transport_can_are_asked_in_their_time_and_not_all_at_once() {
        let config = Config::from_options(&Options::default(), 1024).unwrap();
        let hub = Hub::new(&config);
        let came_by = |transport| {
            hub.join(ConnectionInfo {
                transport,
                ..ConnectionInfo::test(Format::Json)
            })
        };
        for (transport, every) in [
            (Transport::Plain, None),
            (Transport::Lines, None),
            (Transport::Events, Some(COMMENT)),
            (Transport::WebSocket, Some(PING)),
        ] {
            let feeds = [(); 30].map(|()| came_by(transport));
            let asked = || {
                let commands = feeds.iter().map(|feed| feed.subscriber().take_commands());
                commands.filter(|it| it.contain(Commands::BEAT)).count()
            };
            hub.pass(Duration::from_millis(1));
            asked();
            let mut seen = Vec::new();
            for _ in 0..every.map_or(60, |every| every.as_secs()) {
                hub.pass(Duration::from_secs(1));
                seen.push(asked());
            }
            let all = if every.is_some() { 30 } else { 0 };
            assert_eq!(seen.iter().sum::<usize>(), all, "{transport}");
            assert!(
                seen.iter().all(|count| *count <= 6),
                "{transport}: {seen:?}"
            );
        }
    }

    #[tokio::test]
    async fn idle_channels_have_a_pulse_for_as_long_as_their_reaper_runs() {
        let config = Config::from_options(&Options::default(), 1024).unwrap();
        let channels = Channels::new(&config);
        let reaper = tokio::spawn(run(channels.clone()));
        let first = channels.pulse();
        while channels.pulse() == first {
            tokio::task::yield_now().await;
        }
        reaper.abort();
        assert!(reaper.await.unwrap_err().is_cancelled());
        assert_eq!(channels.pulse(), channels.pulse());
    }
}
