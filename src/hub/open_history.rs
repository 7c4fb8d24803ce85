//! Where a channel begins to record, goes on with what was kept before, and ends.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::channels::Channels;
use super::epoch::new_epoch;
use super::histories::Histories;
use super::history::disk::{HistoryError, Log, Recovered};
use super::history::{History, HistorySettings, Memory, Store, Stream};
use super::order::{Hub, State};
use super::recording::Recording;
use super::sessions::Sessions;
use crate::config::HistorySync;
use crate::wire::ids::Seq;

/// A history that is being opened. Whoever waits for it goes on when this is dropped, whatever has come of it.
struct Opening(Arc<Hub>);

impl Drop for Opening {
    fn drop(&mut self) {
        let hub = &self.0;
        hub.is_opening.store(false, Release);
        hub.has_stored.notify_waiters();
        if hub.is_open.load(Relaxed) {
            hub.shared.note_unused();
        }
    }
}

impl Hub {
    /// Records as the settings say: from now on, no more, or more or less than before.
    pub(super) fn record(&self, state: &mut State) {
        match (&state.recording, state.settings.history) {
            (Some(recording), Some(settings)) => recording.history.set(settings),
            (None, Some(settings)) if !state.is_history_over && !self.is_opening() => {
                self.begin_recording(state, settings)
            }
            (Some(_), None) => state.set_recording(None),
            (None, _) => {}
        }
        self.note_pending(state);
        self.active_encodings_changed(state);
    }

    /// Records from now on, if the settings say so: before anybody joins. Blocks where that is on disk.
    pub(super) fn record_now(self: &Arc<Hub>, _: Option<CancellationToken>) {
        self.record(&mut self.lock());
    }

    /// The same without blocking: what is on disk is opened by a job, behind the removal of what had its place.
    pub(super) fn record_soon(self: &Arc<Hub>, removal: Option<CancellationToken>) {
        let is_on_disk = self.shared.histories.get().is_some() && self.sharing.is_none();
        let is_wanted = is_on_disk && self.lock().settings.history.is_some();
        let Some(runtime) = Handle::try_current().ok().filter(|_| is_wanted) else {
            return self.record_now(removal);
        };
        self.is_opening.store(true, Release);
        let opening = Opening(self.clone());
        runtime.spawn(async move {
            if let Some(removal) = removal {
                removal.cancelled().await;
            }
            let hub = opening.0.clone();
            hub.spawn_on_disk(&Handle::current(), move |_| opening.0.open_history());
        });
    }

    /// Does something for it where it may block: see [`Shared::spawn_on_disk`](super::shared::Shared::spawn_on_disk).
    pub(super) fn spawn_on_disk(
        self: &Arc<Hub>,
        runtime: &Handle,
        job: impl FnOnce(&Arc<Hub>) + Send + 'static,
    ) -> JoinHandle<()> {
        let hub = self.clone();
        self.shared.spawn_on_disk(runtime, move || job(&hub))
    }

    /// Opens the history of a channel that nobody has joined yet. Blocks.
    fn open_history(&self) {
        let settings = self.lock().settings.history;
        let opened = settings.zip(self.shared.histories.get());
        let opened = opened.map(|(settings, histories)| {
            let taken = histories.take(&self.name, settings, self.epoch());
            taken.inspect(|(log, _)| self.begin_log(log, settings))
        });
        let mut state = self.lock();
        // A reload may have changed them meanwhile.
        if let Some((opened, settings)) = opened.zip(state.settings.history) {
            if let Ok((_, recovered)) = &opened {
                state.go_on_from(recovered);
            }
            self.take_up(&mut state, settings, opened);
        }
        self.is_opening.store(false, Release);
        // It may have brought them only now.
        self.record(&mut state);
    }

    /// Whether its history is still to be opened: nobody may join before.
    pub(crate) fn is_opening(&self) -> bool {
        self.is_opening.load(Acquire)
    }

    /// Waits until its history is opened, if it is to have one. Cancel safe.
    pub(super) async fn opened(&self) {
        if self.is_opening() {
            self.when_stored(|_| (!self.is_opening()).then_some(()))
                .await;
        }
    }

    /// Removes what there is of it on disk, by a job that cancels what is returned when it is done: the channel is no
    /// more.
    pub(super) fn remove_history(self: &Arc<Hub>) -> Option<CancellationToken> {
        let history = self.history().filter(|history| history.is_on_disk())?;
        let done = CancellationToken::new();
        let at_end = done.clone().drop_guard();
        let remove = move |hub: &Arc<Hub>| {
            let _at_end = at_end;
            if let Err(error) = history.remove() {
                warn!(channel = %hub.name, %error, "cannot remove the history of a channel that ended");
            }
        };
        match Handle::try_current() {
            Ok(runtime) => drop(self.spawn_on_disk(&runtime, remove)),
            Err(_) => remove(self),
        }
        Some(done)
    }

    fn begin_recording(&self, state: &mut State, settings: HistorySettings) {
        if let Some(sharing) = &self.sharing {
            let next = state.flush_next();
            let store = Store::Stream(Stream {
                recent: Memory::new(next),
                remote: sharing.past.clone(),
            });
            let history = History::new(store, settings, self.shared.turns.clone());
            let mut recording = Recording::new(history, next.0, 0);
            recording.restart(next, state.messages);
            state.set_recording(Some(recording));
            return;
        }
        let Some(histories) = self.shared.histories.get() else {
            let next = state.flush_next();
            let store = Store::Memory(Memory::new(next));
            let history = History::new(store, settings, self.shared.turns.clone());
            state.set_recording(Some(Recording::new(history, next.0, 0)));
            return;
        };
        let taken = histories.take(&self.name, settings, self.epoch());
        let fitting = taken.and_then(|taken| self.fit(state, histories, settings, taken));
        if let Ok((log, _)) = &fitting {
            self.begin_log(log, settings);
        }
        self.take_up(state, settings, fitting);
    }

    /// Begins the first segment. Blocks.
    fn begin_log(&self, log: &Log, settings: HistorySettings) {
        if let Err(error) = log.begin(settings.sync == HistorySync::Always) {
            // Whoever publishes first finds the same, and waits, or has the history end.
            warn!(channel = %self.name, %error, "the history is not begun yet");
        }
    }

    /// Records in what was opened on disk.
    fn take_up(
        &self,
        state: &mut State,
        settings: HistorySettings,
        opened: Result<(Log, Recovered), HistoryError>,
    ) {
        let (log, recovered) = match opened {
            Ok(opened) => opened,
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
        if next == Seq(1) {
            state.go_on_from(&recovered);
            return Ok((log, recovered));
        }
        if recovered.epoch == self.epoch() && recovered.next_seq >= next {
            return Ok((log, recovered));
        }
        // The channel has gone on without it. Of one in which there is nothing, nothing is put away.
        let stats = log.stats();
        if stats.oldest < stats.next || log.remove().is_err() {
            drop(log);
            histories.set_aside(&self.name, recovered.epoch)?;
        }
        let (log, recovered) = histories.take(&self.name, settings, self.epoch())?;
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

    /// Goes on with the numbers that were kept.
    fn go_on_from(&mut self, recovered: &Recovered) {
        self.next_seq = recovered.next_seq.0;
        self.messages = recovered.messages;
    }
}

/// What a stop or a handover does with the histories of all channels.
impl Channels {
    /// Waits until all that was published is stored, as far as it can be. Cancel safe.
    pub(crate) async fn settle_histories(&self) {
        for hub in self.hubs() {
            hub.settle_history().await;
        }
        self.settle_removals().await;
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
        let hubs = self.hubs();
        let histories: Vec<_> = hubs.iter().filter_map(|hub| hub.history()).collect();
        let ending: Vec<_> = hubs
            .iter()
            .filter_map(|hub| hub.lock().ending.clone())
            .collect();
        let close = move || {
            let mut ending = ending.iter();
            let ended = ending.try_for_each(|history| history.begin_epoch(new_epoch()));
            let mut histories = histories.iter();
            let synced = histories.try_for_each(|history| history.sync());
            let synced: io::Result<()> = synced.and(ended);
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
