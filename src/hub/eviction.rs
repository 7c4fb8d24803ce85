//! Who is behind, and goes or skips, so that the buffer has room again.

use std::sync::atomic::Ordering::Acquire;
use std::time::Duration;

use super::activity::{Micros, Said, micros};
use super::chain::DETACHED;
use super::contention::Contention;
use super::order::{Hub, State};
use super::subscriber::{Commands, Condition, Slot};
use crate::config::{Grace, SlowClient};
use crate::wire::close_reason::CloseReason;

/// How long a client that is being closed may take over its close notice and its own close.
pub(super) const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// How long senders wait at most for one who holds them up when they have no patience left: about
/// what a person notices, and more than others may have their turn before it on a busy machine.
const HELD_MIN: Duration = Duration::from_millis(100);

/// Who stands still for this long while others move on is none of those who set the pace.
const STANDSTILL: Duration = Duration::from_millis(250);

impl Hub {
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
    pub(super) fn evict_slow(
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
        let position = |slot: &Slot| slot.subscriber.position.load(Acquire);
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
        if !self.budget.is_full() {
            // Who held what it was full of has left that meanwhile, and is not among those behind.
            return;
        }
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
            SlowClient::CatchUp if state.recording.is_some() => Commands::CATCH_UP,
            SlowClient::Skip | SlowClient::CatchUp => Commands::SKIP,
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
