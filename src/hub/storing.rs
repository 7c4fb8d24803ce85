//! Storing: what is published in a channel whose history is on disk is written there before anybody gets it; unless
//! that fails, and it is to go on without.
//!
//! One job at a time takes all that is pending, appends it, syncs it where that is asked for, and links it:
//! what comes meanwhile is the next group. It runs where it may block, and holds no lock while it does.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::runtime::Handle;
use tracing::{error, info, warn};

use super::epoch::new_epoch;
use super::history::History;
use super::order::{Hub, State};
use super::recording::{Recording, Senders};
use super::subscriber::Commands;
use crate::config::{HistorySync, OnHistoryError};

/// Bytes of lines that are stored at once, at most: so much less is there to wait for.
const GROUP_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Bytes of lines that are pending at which senders wait: what is then stored is delivered to everybody before more
/// is read, while it is in a processor's cache. Where it is synced first, that is worth the more the more it is.
const PENDING_BYTES: (u64, u64) = (64 * 1024, GROUP_BYTES_MAX as u64);

/// How long a full disk is left alone before it is tried again.
const RETRY_TIME: Duration = Duration::from_millis(500);

/// How often it is tried to write down that an epoch has ended: who repairs a disk takes longer.
const NOTE_TIME: Duration = Duration::from_secs(2);

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
            let history = recording.history.clone();
            self.spawn_on_disk(&runtime, move |hub| hub.store(&history));
        }
    }

    /// The same, once others have had their turn. The job that lets them is taken to be at it meanwhile.
    fn store_in_turn(self: &Arc<Hub>, history: &Arc<History>) {
        let history = history.clone();
        self.spawn_on_disk(&Handle::current(), move |hub| hub.store(&history));
    }

    /// The same, after a while. The job that could not is taken to be at it meanwhile.
    fn store_later(self: &Arc<Hub>, history: &Arc<History>) {
        let (hub, history) = (self.clone(), history.clone());
        Handle::current().spawn(async move {
            tokio::time::sleep(RETRY_TIME).await;
            hub.store_in_turn(&history);
        });
    }

    /// Stores what is pending for this history until nothing is, or nothing can be stored any more.
    fn store(self: &Arc<Hub>, history: &Arc<History>) {
        let mut has_had_turn = false;
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
                    self.has_stored.notify_waiters();
                    return;
                }
                if has_had_turn && self.shared.is_disk_crowded() {
                    return self.store_in_turn(history);
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
                    has_had_turn = true;
                }
                Err(error) => return self.fail_to_store(history, &error),
            }
        }
    }

    /// Links so many of the batches that are pending, and wakes who waits for them.
    fn link_stored(&self, history: &History, batches: usize) {
        let mut state = self.lock();
        let State {
            recording, slots, ..
        } = &mut *state;
        // A reload may have ended it meanwhile, and begun another.
        let Some(recording) = recording.as_mut().filter(|it| it.is_of(history)) else {
            return;
        };
        for key in recording.link_stored(batches) {
            if let Some(slot) = slots.get(key) {
                slot.subscriber.command(Commands::ACK);
            }
        }
        let senders = self.take_senders(&mut state);
        self.has_stored.notify_waiters();
        self.wake(state, usize::MAX);
        // Behind the readers: what has been stored has its turn before more is read.
        drop(senders);
    }

    /// Ready unless so much is pending that a sender has to wait; its task is woken then. A batch is best
    /// delivered before the next is read: a processor has it at hand.
    pub(super) fn poll_stored(&self, key: usize, cx: &mut Context<'_>) -> Poll<()> {
        if !self.is_store_behind.load(Relaxed) {
            return Poll::Ready(());
        }
        match &mut self.lock().recording {
            Some(recording) if is_much(recording) => {
                recording.senders.add(key, cx.waker());
                Poll::Pending
            }
            _ => Poll::Ready(()),
        }
    }

    /// Ready when nothing is pending before this index; its task is woken then.
    pub(super) fn poll_stored_before(
        &self,
        index: u64,
        key: usize,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        let mut state = self.lock();
        state.flush();
        match &mut state.recording {
            Some(recording) if recording.pending_end(index).is_some() => {
                recording.senders.add(key, cx.waker());
                Poll::Pending
            }
            _ => Poll::Ready(()),
        }
    }

    /// How much is pending has changed.
    pub(super) fn note_pending(&self, state: &State) {
        let is_behind = state.recording.as_deref().is_some_and(is_much);
        self.is_store_behind.store(is_behind, Relaxed);
    }

    /// The senders that need not wait any more.
    fn take_senders(&self, state: &mut State) -> Senders {
        self.note_pending(state);
        match &mut state.recording {
            Some(recording) if !is_much(recording) => std::mem::take(&mut recording.senders),
            _ => Senders::default(),
        }
    }

    /// What is pending could not be stored. A full disk is tried again after a while, unless the history ends.
    fn fail_to_store(self: &Arc<Hub>, history: &Arc<History>, error: &io::Error) {
        let is_full = matches!(
            error.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        );
        let channel = &self.name;
        match self.fail_history(history, error) {
            None => {}
            Some(is_news) if is_full => {
                if is_news {
                    error!(%channel, %error, "senders wait until the history can be written");
                }
                self.store_later(history);
            }
            Some(_) => {
                error!(%channel, %error, "senders wait: the history cannot be written, before a restart");
            }
        }
    }

    /// The files of a history are gone, or another daemon's. What is published is treated as after a failed write.
    pub(super) fn lose_files(self: &Arc<Hub>, history: &Arc<History>, error: &io::Error) {
        if self.fail_history(history, error) == Some(true) {
            let channel = &self.name;
            error!(%channel, %error, "senders have to wait: the history cannot be written, before a restart");
        }
    }

    /// Nothing can be stored, for this reason. Whether that is news; `None` if the history ends for it, as was asked for.
    fn fail_history(self: &Arc<Hub>, history: &Arc<History>, error: &io::Error) -> Option<bool> {
        let is_news = history.fail(error);
        // Whoever waits for it looks again, and may wait no more.
        self.has_stored.notify_waiters();
        if is_news {
            self.tell_sessions();
        }
        match history.on_error() {
            OnHistoryError::Stop => Some(is_news),
            OnHistoryError::Drop => {
                self.end_history(history, error);
                None
            }
        }
    }

    /// Keeps nothing any more, for this reason: what is pending is linked as it is, and the numbers that come are of
    /// another epoch. No sender is told that what is pending is stored. Blocks.
    fn end_history(self: &Arc<Hub>, history: &Arc<History>, error: &io::Error) {
        {
            let mut state = self.lock();
            let recording = state.recording.as_ref();
            let is_kept = recording.is_some_and(|recording| recording.is_of(history));
            // Who comes upon the same meanwhile leaves it to the first.
            if !is_kept || std::mem::replace(&mut state.is_history_over, true) {
                return;
            }
        }
        let channel = &self.name;
        error!(%channel, %error, "the history has ended: what comes is not kept");
        // A restart goes on with another epoch than what is kept, and with none that anybody hears of before. It is
        // written down before anybody gets what is pending.
        let ended = history.begin_epoch(new_epoch());
        if let Err(error) = &ended {
            error!(%channel, %error, "a restart may go on with the epoch that ends here");
        }
        let mut state = self.lock();
        if ended.is_err() {
            state.ending = Some(history.clone());
            self.end_epoch_later();
        }
        state.set_recording(None);
        self.set_epoch(new_epoch());
        self.note_pending(&state);
        self.active_encodings_changed(&mut state);
        self.has_stored.notify_waiters();
        self.wake(state, usize::MAX);
    }

    /// Tries after a while to write down that the epoch has ended, until that goes well.
    fn end_epoch_later(self: &Arc<Hub>) {
        let hub = self.clone();
        Handle::current().spawn(async move {
            tokio::time::sleep(NOTE_TIME).await;
            hub.spawn_on_disk(&Handle::current(), Hub::end_epoch);
        });
    }

    fn end_epoch(self: &Arc<Hub>) {
        let Some(history) = self.lock().ending.clone() else {
            return;
        };
        if history.begin_epoch(new_epoch()).is_err() {
            return self.end_epoch_later();
        }
        self.lock().ending = None;
        info!(channel = %self.name, "a restart goes on with another epoch");
        if self.is_open.load(Relaxed) {
            self.shared.note_unused();
        }
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
            hub.spawn_on_disk(&Handle::current(), move |hub| {
                history.is_sync_due.store(false, Relaxed);
                if let Err(error) = history.sync() {
                    // The next append fails for the same reason, and does what is to be done then.
                    history.fail(&error);
                    warn!(channel = %hub.name, %error, "the history cannot be synced");
                }
            });
        });
    }

    /// Waits until its history is opened and nothing is pending, or nothing can be stored. Cancel safe.
    pub(super) async fn settle_history(&self) {
        let is_done = self.when_stored(|state| {
            let recording = state.recording.as_ref();
            let is_done = recording
                .is_none_or(|recording| !recording.is_storing || recording.history.has_failed());
            // Who shares it waits for others, and not for a disk.
            let is_open = !self.is_opening() || self.sharing.is_some();
            (is_done && is_open).then_some(())
        });
        is_done.await;
    }
}

/// Whether so much is pending that senders wait.
fn is_much(recording: &Recording) -> bool {
    let (least, to_sync) = PENDING_BYTES;
    let most = match recording.history.sync_mode() {
        HistorySync::Always => to_sync,
        HistorySync::Os | HistorySync::Every(_) => least,
    };
    recording.pending_bytes() >= most
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
        let shared = Shared::with(Histories::open(&config).unwrap(), None);
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
    fn senders_are_read_from_again_once_a_batch_that_one_has_filled_is_stored() {
        let (_folder, hub) = channel(HistorySync::Os);
        let mut feeds = [(); 2].map(|()| hub.join(ConnectionInfo::test(Format::Raw)));
        let mut cx = Context::from_waker(Waker::noop());
        publish(&mut feeds[1], 64);
        assert!(feeds[1].poll_permit(&mut cx).is_ready());
        publish(&mut feeds[0], 192 * 1024);
        for feed in &mut feeds {
            assert!(feed.poll_permit(&mut cx).is_pending());
            assert!(feed.waits_for_permit());
        }
        assert_eq!(hub.stats().senders_waiting, 2);
        let history = hub.history().unwrap();
        hub.store(&history);
        for feed in &mut feeds {
            assert!(feed.poll_permit(&mut cx).is_ready());
        }
        assert_eq!(hub.stats().senders_waiting, 0);
    }

    #[test]
    fn what_is_to_be_synced_first_gathers_while_the_disk_is_at_it() {
        let (_folder, hub) = channel(HistorySync::Always);
        let mut feed = hub.join(ConnectionInfo::test(Format::Raw));
        publish(&mut feed, 192 * 1024);
        let mut cx = Context::from_waker(Waker::noop());
        assert!(feed.poll_permit(&mut cx).is_ready());
    }
}
