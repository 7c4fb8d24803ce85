//! What all channels of the daemon share.

use std::num::NonZeroU64;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore};
use tokio::task::{JoinHandle, spawn_blocking};

use super::activity::{Micros, micros};
use super::closed::LastClosed;
use super::cluster::ids::IdBlocks;
use super::cluster::node::Cluster;
use super::histories::Histories;
use super::history::Turns;
use super::settings::Settings;
use super::sharing::Sharing;
use crate::wire::ids::ClientId;

/// Jobs that may wait for the disk at a time, over all channels: enough for it to be busy, and few enough for one that
/// hangs to leave most of the runtime's 512 threads to everything else.
const DISK_JOBS_MAX: usize = 64;

/// What all channels of the daemon share: client numbers, running time, and who was closed last.
#[derive(Debug)]
pub(super) struct Shared {
    next_id: AtomicU64,
    /// Numbers that no other daemon gives, where some share channels with this one.
    pub(super) ids: OnceLock<IdBlocks>,
    /// What this daemon is among those.
    pub(super) cluster: OnceLock<Arc<Cluster>>,
    /// Clients that were closed last, in any channel.
    pub(super) closed: Mutex<LastClosed>,
    /// Asks the reaper to look over the clients at once: a buffer is full, or somebody asks for a sign of
    /// life.
    pub(super) asked: Arc<Notify>,
    /// Turns of those who read the past of some channel.
    pub(super) turns: Turns,
    /// Turns of those who write to the disk, [`DISK_JOBS_MAX`] at a time.
    disk: Arc<Semaphore>,
    /// Where the histories are, if they are on disk.
    pub(super) histories: OnceLock<Histories>,
    /// Looks of the reaper over the clients that found no buffer jammed.
    pub(super) looks: AtomicU64,
    /// Time in which the process ran, as the reaper counts it, in microseconds.
    ran_us: AtomicU64,
    /// Time stands still for a handover, which stops the clients.
    is_frozen: AtomicBool,
    /// A channel that clients opened may have none any more.
    may_be_unused: AtomicBool,
    /// Has the accept loops try once more: see `rest`.
    #[cfg(debug_assertions)]
    pub(super) nudge: Notify,
}

impl Default for Shared {
    fn default() -> Shared {
        Shared {
            next_id: AtomicU64::new(1),
            ids: OnceLock::new(),
            cluster: OnceLock::new(),
            closed: Mutex::default(),
            asked: Arc::default(),
            turns: Turns::default(),
            disk: Arc::new(Semaphore::new(DISK_JOBS_MAX)),
            histories: OnceLock::new(),
            looks: AtomicU64::new(0),
            ran_us: AtomicU64::new(0),
            is_frozen: AtomicBool::new(false),
            may_be_unused: AtomicBool::new(false),
            #[cfg(debug_assertions)]
            nudge: Notify::new(),
        }
    }
}

impl Shared {
    /// Has the histories of all channels there, and what this daemon is among others.
    pub(super) fn with(histories: Option<Histories>, cluster: Option<Arc<Cluster>>) -> Arc<Shared> {
        let shared = Shared::default();
        if let Some(histories) = histories {
            shared.histories.get_or_init(|| histories);
        }
        if let Some(cluster) = cluster {
            shared.ids.get_or_init(IdBlocks::default);
            shared.cluster.get_or_init(|| cluster);
        }
        Arc::new(shared)
    }

    /// Does something where it may block, in the order in which it is asked for: [`DISK_JOBS_MAX`] at a time.
    pub(super) fn spawn_on_disk(
        &self,
        runtime: &Handle,
        job: impl FnOnce() + Send + 'static,
    ) -> JoinHandle<()> {
        let in_turn = |turn| {
            move || {
                let _turn = turn;
                job();
            }
        };
        match self.disk.clone().try_acquire_owned() {
            Ok(turn) => runtime.spawn_blocking(in_turn(turn)),
            Err(_) => {
                let turn = self.disk.clone().acquire_owned();
                runtime.spawn(async move {
                    // Turns are never closed. A job that panics has said so.
                    if let Ok(turn) = turn.await {
                        let _ = spawn_blocking(in_turn(turn)).await;
                    }
                })
            }
        }
    }

    /// Whether who is at the disk for long is to let others have their turn.
    pub(super) fn is_disk_crowded(&self) -> bool {
        self.disk.available_permits() == 0
    }

    /// A number that no client had before. Taken under a channel's lock, numbers rise in its order, where none of them
    /// are of blocks.
    pub(super) fn take_id(&self) -> ClientId {
        let Some(ids) = self.ids.get() else {
            return ClientId(self.next_id.fetch_add(1, Relaxed));
        };
        let id = ids.take();
        self.next_id.fetch_max(id + 1, Relaxed);
        ClientId(id)
    }

    /// What a channel of these settings shares with other daemons, if it does.
    pub(super) fn share(&self, settings: &Settings) -> Option<Box<Sharing>> {
        let cluster = self.cluster.get().filter(|_| !settings.is_local)?;
        Some(Box::new(Sharing::new(settings, cluster.past())))
    }

    /// The number that the next client gets.
    pub(super) fn next_id(&self) -> u64 {
        self.next_id.load(Relaxed)
    }

    /// Gives no number below this one any more.
    pub(super) fn skip_ids_to(&self, next_id: u64) {
        self.next_id.fetch_max(next_id, Relaxed);
        if let Some(ids) = self.ids.get() {
            ids.skip_to(next_id);
        }
    }

    /// The time for which this process ran, as of the reaper's last look.
    pub(super) fn moment(&self) -> Micros {
        // From one on.
        Micros(NonZeroU64::MIN.saturating_add(self.ran_us.load(Acquire)))
    }

    /// The process ran for so long since the last look. Returns whether that counts: no time passes for
    /// frozen clients.
    pub(super) fn add_time(&self, ran: Duration) -> bool {
        let counts = !self.is_frozen.load(Acquire);
        if counts {
            self.ran_us.fetch_add(micros(ran), Relaxed);
        }
        counts
    }

    /// Notes that a channel which clients opened may have none any more.
    pub(super) fn note_unused(&self) {
        self.may_be_unused.store(true, Release);
    }

    /// Whether that was noted since the last call.
    pub(super) fn take_unused(&self) -> bool {
        self.may_be_unused.swap(false, AcqRel)
    }

    /// Stops the time, or lets it go on.
    pub(super) fn set_frozen(&self, is_frozen: bool) {
        self.is_frozen.store(is_frozen, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn jobs_on_a_disk_that_hangs_leave_threads_to_others() {
        let shared = Shared::default();
        let runtime = Handle::current();
        let (begun, count) = mpsc::channel();
        let (hangs, hold) = mpsc::channel::<()>();
        let hold = Arc::new(Mutex::new(hold));
        let jobs = (0..3 * DISK_JOBS_MAX).map(|_| {
            let (begun, hold) = (begun.clone(), hold.clone());
            shared.spawn_on_disk(&runtime, move || {
                begun.send(()).unwrap();
                // One waits for the end of the sender, the others for that one.
                let _ = hold.lock().recv();
            })
        });
        let jobs: Vec<_> = jobs.collect();
        let mut has_begun = 0;
        while has_begun < DISK_JOBS_MAX {
            has_begun += count.try_iter().count();
            tokio::task::yield_now().await;
        }
        assert!(shared.is_disk_crowded());
        spawn_blocking(|| ()).await.unwrap();
        assert_eq!(has_begun + count.try_iter().count(), DISK_JOBS_MAX);
        drop(hangs);
        for job in jobs {
            job.await.unwrap();
        }
        assert!(!shared.is_disk_crowded());
    }
}
