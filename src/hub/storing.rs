//! Storing: what is published in a channel whose history is on disk is written there before anybody gets it.
//!
//! One job at a time takes all that is pending, appends it, syncs it where that is asked for, and links it:
//! what comes meanwhile is the next group. It runs where it may block, and holds no lock while it does.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::runtime::Handle;
use tracing::{error, info, warn};

use super::history::History;
use super::new_epoch::new_epoch;
use super::order::{Hub, State};
use super::subscriber::Commands;
use crate::config::{HistorySync, OnHistoryError};

/// Bytes of lines that are stored at once, at most: so much less is there to wait for.
const GROUP_BYTES_MAX: usize = 4 * 1024 * 1024;

/// How long a full disk is left alone before it is tried again.
const RETRY_TIME: Duration = Duration::from_millis(500);

impl Hub {
    /// Has what is pending stored, if no job is at it. The hub's own lock is released.
    pub(super) fn store_soon(self: &Arc<Hub>, state: &mut State) {
        let Some(recording) = &mut state.recording else {
            return;
        };
        // Without a runtime the daemon has ended, and drops its clients.
        if !recording.is_storing
            && let Ok(runtime) = Handle::try_current()
        {
            recording.is_storing = true;
            let (hub, history) = (self.clone(), recording.history.clone());
            runtime.spawn_blocking(move || hub.store(&history));
        }
    }

    /// The same, after a while. The job that could not is taken to be at it meanwhile.
    fn store_later(self: &Arc<Hub>, history: &Arc<History>) {
        let (hub, history) = (self.clone(), history.clone());
        Handle::current().spawn(async move {
            tokio::time::sleep(RETRY_TIME).await;
            tokio::task::spawn_blocking(move || hub.store(&history));
        });
    }

    /// Stores what is pending for this history until nothing is, or nothing can be stored any more.
    fn store(self: &Arc<Hub>, history: &Arc<History>) {
        loop {
            let group = {
                let mut state = self.lock();
                state.flush();
                let recording = state.recording.as_mut().filter(|it| it.is_of(history));
                let Some(recording) = recording else {
                    // A reload has ended it. Should another have begun, that has a job of its own.
                    return;
                };
                if recording.pending.is_empty() {
                    recording.is_storing = false;
                    self.stored.notify_waiters();
                    return;
                }
                let mut bytes = 0;
                let group = recording.pending.iter().map(|it| it.record.clone());
                let group = group.take_while(|record| {
                    let is_room = bytes < GROUP_BYTES_MAX;
                    bytes += record.raw.len();
                    is_room
                });
                group.collect::<Vec<_>>()
            };
            match history.append(&group) {
                Ok(()) => {
                    if history.take_failure().is_some() {
                        info!(channel = %self.name, "the history is written again");
                    }
                    self.link_stored(history, group.len());
                    history.expire();
                    self.sync_later(history);
                }
                Err(error) if !self.goes_on_without(history, &error) => return,
                Err(_) => {}
            }
        }
    }

    /// Links so many of the batches that are pending for this history, and wakes who waits for them.
    fn link_stored(&self, history: &History, batches: usize) {
        let mut state = self.lock();
        let State {
            recording, slots, ..
        } = &mut *state;
        // A reload may have ended it, and begun another.
        let Some(recording) = recording.as_mut().filter(|it| it.is_of(history)) else {
            return;
        };
        for key in recording.link_stored(batches) {
            if let Some(slot) = slots.get(key) {
                slot.subscriber.command(Commands::ACK);
            }
        }
        self.stored.notify_waiters();
        self.wake(state, usize::MAX);
    }

    /// What is pending could not be stored. Whether the job goes on, letting that pass without being kept, if that
    /// is what was asked for. Else a full disk is tried again after a while.
    fn goes_on_without(self: &Arc<Hub>, history: &Arc<History>, error: &io::Error) -> bool {
        let is_full = matches!(
            error.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        );
        let is_news = history.fail(error);
        // Whoever waits for it looks again, and may wait no more.
        self.stored.notify_waiters();
        let channel = &self.name;
        match history.on_error() {
            OnHistoryError::Drop => {
                error!(%channel, %error, "the history has ended: what comes is not kept");
                self.end_history(history);
            }
            OnHistoryError::Stop if is_full => {
                if is_news {
                    error!(%channel, %error, "senders wait until the history can be written");
                }
                self.store_later(history);
                return false;
            }
            OnHistoryError::Stop => {
                error!(%channel, %error, "senders wait: the history cannot be written, before a restart");
                return false;
            }
        }
        true
    }

    /// Keeps nothing any more: what is pending is linked as it is, and the numbers that come are of another
    /// epoch. No sender is told that what is pending is stored.
    fn end_history(&self, history: &History) {
        let epoch = new_epoch();
        // Before anybody gets what is pending: numbers of what is not kept are given again after a restart.
        if let Err(error) = history.begin_epoch(epoch) {
            error!(channel = %self.name, %error, "a restart may go on with the epoch that ends here");
        }
        let mut state = self.lock();
        let recording = state.recording.as_ref();
        if !recording.is_some_and(|it| it.is_of(history)) {
            return;
        }
        state.set_recording(None);
        state.is_history_over = true;
        self.set_epoch(epoch);
        self.active_encodings_changed(&mut state);
        self.stored.notify_waiters();
        self.wake(state, usize::MAX);
    }

    /// Has what was written synced, once as long has passed as it may wait.
    fn sync_later(self: &Arc<Hub>, history: &Arc<History>) {
        let HistorySync::Every(time) = history.sync_mode() else {
            return;
        };
        if history.is_sync_due.swap(true, Relaxed) {
            return;
        }
        let (hub, history) = (self.clone(), history.clone());
        Handle::current().spawn(async move {
            tokio::time::sleep(time).await;
            let synced = tokio::task::spawn_blocking(move || {
                history.is_sync_due.store(false, Relaxed);
                if let Err(error) = history.sync() {
                    // The next append fails for the same reason, and does what is to be done then.
                    history.fail(&error);
                    warn!(channel = %hub.name, %error, "the history cannot be synced");
                }
            });
            // It does not panic.
            let _ = synced.await;
        });
    }

    /// Waits until nothing is pending, or nothing can be stored. Cancel safe.
    pub(super) async fn settle_history(&self) {
        loop {
            // Registered before the look, so that nothing is missed.
            let mut stored = std::pin::pin!(self.stored.notified());
            stored.as_mut().enable();
            {
                let state = self.lock();
                let is_done = state.recording.as_ref().is_none_or(|recording| {
                    !recording.is_storing || recording.history.has_failed()
                });
                if is_done {
                    return;
                }
            }
            stored.await;
        }
    }
}
