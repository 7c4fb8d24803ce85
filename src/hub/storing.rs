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
            let hub = self.clone();
            runtime.spawn_blocking(move || hub.store());
        }
    }

    /// The same, after a while. The job that could not is taken to be at it meanwhile.
    fn store_later(self: &Arc<Hub>) {
        let hub = self.clone();
        Handle::current().spawn(async move {
            tokio::time::sleep(RETRY_TIME).await;
            tokio::task::spawn_blocking(move || hub.store());
        });
    }

    /// Whether the client in `key`, which has filled a batch, reads on only when that is stored. It is told then.
    pub(super) fn awaits_store(&self, key: usize) -> bool {
        let mut state = self.lock();
        let recording = state.recording.as_mut();
        let Some(recording) = recording.filter(|recording| recording.holds_senders()) else {
            return false;
        };
        recording.wait(key);
        true
    }

    /// Stores what is pending until nothing is, or nothing can be stored any more.
    fn store(self: Arc<Hub>) {
        loop {
            let (history, group) = {
                let mut state = self.lock();
                state.flush();
                let Some(recording) = &mut state.recording else {
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
                (recording.history.clone(), group.collect::<Vec<_>>())
            };
            match history.append(&group) {
                Ok(()) => {
                    if history.take_failure().is_some() {
                        info!(channel = %self.name, "the history is written again");
                    }
                    self.link_stored(group.len());
                    history.expire();
                    self.sync_later(&history);
                }
                Err(error) if !self.goes_on_without(&history, &error) => return,
                Err(_) => {}
            }
        }
    }

    /// Links so many of the batches that are pending, and wakes who waits for them.
    fn link_stored(&self, batches: usize) {
        let mut state = self.lock();
        let State {
            recording, slots, ..
        } = &mut *state;
        let Some(recording) = recording else {
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
    fn goes_on_without(self: &Arc<Hub>, history: &History, error: &io::Error) -> bool {
        let is_full = matches!(
            error.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        );
        let is_news = history.fail(error);
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
                self.store_later();
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
    /// epoch.
    fn end_history(&self, history: &History) {
        let epoch = new_epoch();
        // Before anybody gets what is pending: numbers of what is not kept are given again after a restart.
        if let Err(error) = history.begin_epoch(epoch) {
            error!(channel = %self.name, %error, "a restart may go on with the epoch that ends here");
        }
        let mut state = self.lock();
        let Some(recording) = &mut state.recording else {
            return;
        };
        let pending = recording.pending.len();
        let senders = recording.link_stored(pending);
        state.set_recording(None);
        state.is_history_over = true;
        self.set_epoch(epoch);
        for key in senders {
            if let Some(slot) = state.slots.get(key) {
                slot.subscriber.command(Commands::ACK);
            }
        }
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

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use tempfile::TempDir;

    use super::super::connection::ConnectionInfo;
    use super::super::histories::Histories;
    use super::super::shared::Shared;
    use super::*;
    use crate::config::Config;
    use crate::config::cli::Options;
    use crate::wire::channel::ChannelName;
    use crate::wire::format::Format;
    use crate::wire::framing::Lines;

    /// A channel whose history is in a folder, where nothing is stored before it is asked for.
    fn channel(sync: HistorySync) -> (TempDir, Arc<Hub>) {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::from_options(&Options::default(), 1024).unwrap();
        config.channels.clear();
        config.history_bytes = 1 << 20;
        config.history_dir = Some(folder.path().to_owned());
        config.history_sync = sync;
        let shared = Shared::with(Histories::open(&config).unwrap());
        let (name, epoch) = (ChannelName::main(), new_epoch());
        let hub = Arc::new(Hub::of_channel(name, epoch, shared, &config));
        hub.record(&mut hub.lock());
        (folder, hub)
    }

    /// Lines of one read, so many bytes.
    fn publish(feed: &mut super::super::Feed, bytes: usize) {
        let lines = Lines {
            rest: &b"hello!!\n".repeat(bytes / 8),
            ..Lines::default()
        };
        feed.publish(None, &lines);
    }

    #[test]
    fn sender_that_has_filled_a_batch_is_read_from_again_once_that_is_stored() {
        let (_folder, hub) = channel(HistorySync::Os);
        let mut feeds = [(); 2].map(|()| hub.join(ConnectionInfo::test(Format::Raw)));
        let mut cx = Context::from_waker(Waker::noop());
        publish(&mut feeds[0], 64 * 1024);
        publish(&mut feeds[1], 64);
        assert!(feeds[0].poll_permit(&mut cx).is_pending());
        assert!(feeds[0].waits_for_permit());
        assert!(feeds[1].poll_permit(&mut cx).is_ready());
        feeds[0].subscriber().take_commands();
        hub.clone().store();
        let commands = feeds[0].subscriber().take_commands();
        assert!(commands.contain(Commands::ACK));
        assert!(feeds[0].poll_permit(&mut cx).is_ready());
    }

    #[test]
    fn what_is_to_be_synced_first_gathers_while_the_disk_is_at_it() {
        let (_folder, hub) = channel(HistorySync::Always);
        let mut feed = hub.join(ConnectionInfo::test(Format::Raw));
        publish(&mut feed, 64 * 1024);
        let mut cx = Context::from_waker(Waker::noop());
        assert!(feed.poll_permit(&mut cx).is_ready());
    }
}
