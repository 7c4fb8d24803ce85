//! How the hub comes to its end: commands to all clients, and the wait for them.

use std::sync::Arc;

use super::connection::ConnectionInfo;
use super::order::{Hub, Phase};
use super::part::{Kind, SYSTEM};
use super::subscriber::Commands;
use crate::wire::close_reason::CloseReason;

impl Hub {
    /// Tells every client that its time has come.
    pub(crate) fn command_all(&self, command: Commands) {
        let state = self.lock();
        state
            .slots
            .iter()
            .for_each(|(_, slot)| slot.subscriber.command(command));
    }

    /// Closes every client of which this holds, for this reason. It is not told who a client is.
    pub(super) fn close_where(
        &self,
        reason: CloseReason,
        holds: &impl Fn(&ConnectionInfo) -> bool,
    ) {
        let state = self.lock();
        for (_, slot) in &state.slots {
            if holds(&slot.meta.connection(&state.listeners, &self.name, None)) {
                slot.subscriber.command(Commands::close(reason));
            }
        }
    }

    /// Whether some client has not seen this command yet.
    #[cfg(debug_assertions)]
    pub(crate) fn is_commanded(&self, command: Commands) -> bool {
        let state = self.lock();
        let mut slots = state.slots.iter();
        slots.any(|(_, slot)| slot.subscriber.is_commanded(command))
    }

    /// Has every client read what it was sent already, and waits until all have. Cancel safe.
    pub(crate) async fn drain(&self) {
        {
            let mut state = self.lock();
            state.phase = Phase::Draining;
            if let (Some(outbox), Some(sharing)) = (&mut state.outbox, &self.sharing) {
                outbox.let_go();
                sharing.queued.notify_one();
            }
            state.draining = state
                .slots
                .iter()
                .filter(|(_, slot)| !slot.input_done)
                .count();
            if state.draining == 0 {
                return;
            }
        }
        self.command_all(Commands::DRAIN);
        self.drained.notified().await;
    }

    /// Publishes the shutdown notice, once. Nothing is published behind it.
    pub(crate) fn finish(self: &Arc<Hub>) {
        let mut state = self.lock();
        if state.phase == Phase::Sealed {
            return;
        }
        self.leave_cluster(&mut state);
        // A batch of its own: it is no part of the history.
        state.flush();
        self.notify(&mut state, Kind::Shutdown, SYSTEM, usize::MAX);
        state.flush();
        state.phase = Phase::Sealed;
        self.release_and_wake(state, usize::MAX);
        self.command_all(Commands::FINISH);
    }

    /// One client's input is done; the last one ends the wait of a drain.
    pub(super) fn input_done(&self, key: usize) {
        let mut state = self.lock();
        self.finish_input(&mut state, key);
    }
}
