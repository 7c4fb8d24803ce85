//! Where a channel begins to record, goes on with what was kept before, and ends.

use std::io;
use std::sync::Arc;

use tracing::{error, warn};

use super::channels::Channels;
use super::epoch::new_epoch;
use super::histories::Histories;
use super::history::disk::{HistoryError, Log, Recovered};
use super::history::{History, HistorySettings, Memory, Store};
use super::order::{Hub, State};
use super::recording::Recording;
use super::sessions::Sessions;
use crate::config::HistorySync;
use crate::wire::ids::Seq;

impl Hub {
    /// Records as the settings say: from now on, no more, or more or less than before.
    pub(super) fn record(&self, state: &mut State) {
        match (&state.recording, state.settings.history) {
            (Some(recording), Some(settings)) => recording.history.set(settings),
            (None, Some(settings)) if !state.is_history_over => {
                self.begin_recording(state, settings)
            }
            (Some(_), None) => state.set_recording(None),
            (None, _) => {}
        }
        self.note_pending(state);
        self.active_encodings_changed(state);
    }

    fn begin_recording(&self, state: &mut State, settings: HistorySettings) {
        let Some(histories) = self.shared.histories.get() else {
            let next = state.flush_next();
            let store = Store::Memory(Memory::new(next));
            let history = History::new(store, settings, self.shared.turns.clone());
            state.set_recording(Some(Recording::new(history, next.0, 0)));
            return;
        };
        let taken = histories.take(&self.name, settings, self.epoch());
        let (log, recovered) =
            match taken.and_then(|taken| self.fit(state, histories, settings, taken)) {
                Ok(fitting) => fitting,
                Err(error) => {
                    let channel = &self.name;
                    error!(%channel, %error, "the history cannot be opened: nothing is kept");
                    state.is_history_over = true;
                    // What is there may be gone on with another time.
                    self.set_epoch(new_epoch());
                    return;
                }
            };
        if let Some(cut) = &recovered.cut {
            warn!(channel = %self.name, %cut, "the end of the history was not whole, and was cut off");
        }
        if let Err(error) = log.begin(settings.sync == HistorySync::Always) {
            // Whoever publishes first finds the same, and waits, or has the history end.
            warn!(channel = %self.name, %error, "the history is not begun yet");
        }
        self.set_epoch(recovered.epoch);
        self.shared.skip_ids_to(recovered.next_id);
        let history = History::new(
            Store::Disk(Box::new(log)),
            settings,
            self.shared.turns.clone(),
        );
        let mut recording = Recording::new(history, state.next_seq, recovered.last_time_ms);
        recording.sessions = Sessions::restore(recovered.sessions);
        state.set_recording(Some(recording));
    }

    /// Has a history on disk and the channel go by the same numbers.
    fn fit(
        &self,
        state: &mut State,
        histories: &Histories,
        settings: HistorySettings,
        (log, recovered): (Log, Recovered),
    ) -> Result<(Log, Recovered), HistoryError> {
        let next = state.flush_next();
        let is_new = log.stats().segments == 0;
        if next == Seq(1) {
            state.next_seq = recovered.next_seq.0;
            state.messages = recovered.messages;
            return Ok((log, recovered));
        }
        if recovered.epoch == self.epoch() && recovered.next_seq >= next {
            return Ok((log, recovered));
        }
        let (log, recovered) = match is_new {
            true => (log, recovered),
            // The channel has gone on without it.
            false => {
                drop(log);
                histories.set_aside(&self.name, recovered.epoch)?;
                histories.take(&self.name, settings, self.epoch())?
            }
        };
        log.begin_at(next, state.messages);
        let mut epoch = self.epoch();
        if state.has_history_elsewhere {
            // There, numbers of this epoch may be gone on with another time. Nothing is written for that here, as there
            // is no file yet.
            epoch = new_epoch();
            log.begin_epoch(epoch).unwrap_or_default();
        }
        let recovered = Recovered {
            epoch,
            next_seq: next,
            ..recovered
        };
        Ok((log, recovered))
    }
}

impl State {
    /// The next number, when all that was published is linked.
    fn flush_next(&mut self) -> Seq {
        self.flush();
        Seq(self.next_seq)
    }
}

/// What a stop or a handover does with the histories of all channels.
impl Channels {
    /// Waits until all that was published is stored, as far as it can be. Cancel safe.
    pub(crate) async fn settle_histories(&self) {
        for hub in self.hubs() {
            hub.settle_history().await;
        }
    }

    /// Has all that is kept on disk outlive a loss of power: the daemon has ended. Nothing may be published any
    /// more.
    pub(crate) async fn close_histories(&self) {
        let shared = self.shared();
        if shared.histories.get().is_none() {
            return;
        }
        self.settle_histories().await;
        if self.hubs().iter().any(|hub| hub.lock().is_storing()) {
            let error = "what was published last could not be stored";
            error!(%error, "the history may not outlive a loss of power");
            return;
        }
        let histories: Vec<Arc<History>> =
            self.hubs().iter().filter_map(|hub| hub.history()).collect();
        let close = move || {
            let synced: io::Result<()> = histories.iter().try_for_each(|history| history.sync());
            let closed = synced.and_then(|()| match shared.histories.get() {
                Some(histories) => histories.mark_clean(),
                None => Ok(()),
            });
            if let Err(error) = closed {
                error!(%error, "the history may not outlive a loss of power");
            }
        };
        // It does not panic.
        let _ = tokio::task::spawn_blocking(close).await;
    }
}
