//! The member of a shared channel: how it stands, what it does, and what of it outlives the daemon.

use std::collections::HashSet;
use std::sync::atomic::Ordering::Relaxed;
#[cfg(feature = "nats")]
use std::time::Duration;

use tokio_util::sync::CancellationToken;
#[cfg(feature = "nats")]
use tracing::error;

use super::Task;
use crate::hub::cluster::batch::Batch;
#[cfg(feature = "nats")]
use crate::hub::cluster::nats::StreamLimits;
use crate::hub::cluster::saved::SavedMember;
use crate::hub::cluster::stats::{SharedChannelStats, Standing};
use crate::hub::order::{Hub, State};
use crate::wire::format::Notice;

/// Bytes that the stream has at least, and time that it keeps them: nodes that are away for a while, or slow, find there
/// what they have missed.
#[cfg(feature = "nats")]
const STREAM_BYTES_MIN: u64 = 16 * 1024 * 1024;
#[cfg(feature = "nats")]
const STREAM_AGE_MIN: Duration = Duration::from_secs(60);

impl Hub {
    /// Nobody shares it.
    #[cfg(not(feature = "nats"))]
    pub(in crate::hub) fn begin_sharing(&self) {}

    /// Says what the member of the cluster comes upon.
    pub(in crate::hub) fn note_standing(&self, standing: &Standing) {
        if let Some(sharing) = &self.sharing {
            let queued_bytes = self.outbox(|outbox| outbox.bytes()).unwrap_or(0);
            *sharing.stats.lock() = standing.stats(queued_bytes);
        }
    }

    /// The member has failed, of which the log says why: nothing goes through the channel any more.
    #[cfg(feature = "nats")]
    pub(in crate::hub) fn note_failed_member(&self) {
        error!(channel = %self.name, "the shared channel has failed: restart this daemon");
        if let Some(sharing) = &self.sharing {
            let failed = "it has failed, as the log says: restart this daemon";
            sharing.stats.lock().error = Some(failed.to_owned());
        }
    }

    /// Bytes of the buffer.
    #[cfg(feature = "nats")]
    pub(in crate::hub) fn buffer_bytes(&self) -> usize {
        self.lock().settings.buffer_bytes
    }

    /// What the stream is to keep.
    #[cfg(feature = "nats")]
    pub(in crate::hub) fn stream_limits(&self) -> StreamLimits {
        let history = self.lock().settings.history.map(|it| it.retention);
        StreamLimits {
            bytes: history.map_or(0, |it| it.bytes).max(STREAM_BYTES_MIN),
            age: history
                .and_then(|it| it.age)
                .map(|age| age.max(STREAM_AGE_MIN)),
        }
    }

    /// Adds what the hub knows to what is saved of its member.
    pub(in crate::hub) fn save_member(&self, saved: SavedMember) -> SavedMember {
        let state = self.lock();
        let sessions = state.recording.as_ref().map(|it| &it.sessions);
        let claims = sessions.map(|them| them.claims()).into_iter().flatten();
        let claims = claims.filter(|(.., is_awaited)| !is_awaited);
        let Some(outbox) = &state.outbox else {
            return saved;
        };
        saved.with_hub(
            sessions.map_or(0, |them| them.last_claim()),
            claims.map(|(name, claim, _)| (name, claim)).collect(),
            &outbox.own,
        )
    }

    /// Goes on with what was saved of its member, and with these batches of its own that have not come back.
    pub(in crate::hub) fn restore_member<'a>(
        &self,
        saved: &SavedMember,
        unsettled: impl Iterator<Item = &'a Batch>,
    ) {
        let mut state = self.lock();
        let State {
            outbox, recording, ..
        } = &mut *state;
        let mut batches = 0;
        for batch in unsettled {
            batches += 1;
            let sessions = recording.as_mut().map(|it| &mut it.sessions);
            let Some(sessions) = sessions else {
                continue;
            };
            for (part, name, taken) in &batch.record.sessions {
                let part = batch.record.parts.get(*part as usize);
                let lines = part.map_or(0, |part| part.messages);
                sessions.note_pending(name, *taken, lines.into());
            }
        }
        if let Some(outbox) = outbox {
            outbox.outstanding = batches;
            outbox.own = saved.own();
        }
        if let Some(recording) = recording {
            let (last, claims) = saved.claims();
            recording.sessions.restore_claims(last, claims.to_vec());
        }
    }

    /// Says of all clients that are here that they left, to the other nodes, and then that this one is gone. Nothing is
    /// published any more.
    pub(in crate::hub) fn leave_cluster(&self, state: &mut State) {
        let mut leaving = HashSet::new();
        if let Some(outbox) = &mut state.outbox {
            let living: Vec<_> = outbox.own.living().collect();
            leaving.extend(living.into_iter().filter(|client| outbox.leave(*client)));
        }
        self.say_of(state, &leaving, Notice::Disconnect);
        self.set_member_task(Task::Leave);
    }

    /// The channel is no more: others go on with it.
    pub(in crate::hub) fn end_sharing(&self) {
        self.set_member_task(Task::Leave);
    }

    /// What the member of the cluster is to do. Once it is to leave, it does nothing else.
    pub(in crate::hub) fn set_member_task(&self, task: Task) {
        if let Some(sharing) = &self.sharing {
            sharing.task.send_if_modified(|before| {
                let changes = *before != Task::Leave && *before != task;
                if changes {
                    *before = task;
                    // What it was asked before says nothing of this.
                    *sharing.rests.lock() = CancellationToken::new();
                }
                changes
            });
        }
    }

    /// Has the member of the cluster stand still, and be saved.
    pub(in crate::hub) fn rest_member(&self) {
        if let Some(sharing) = &self.sharing {
            let rested = sharing.rested.fetch_add(1, Relaxed);
            self.set_member_task(Task::Rest(rested));
        }
    }

    /// Takes what was saved of the member, for the next daemon.
    pub(in crate::hub) fn take_saved_member(&self) -> Option<SavedMember> {
        self.sharing.as_ref()?.saved.lock().take()
    }

    /// Has the member go on where that of the daemon before was.
    pub(in crate::hub) fn set_saved_member(&self, saved: Option<SavedMember>) {
        if let Some(sharing) = &self.sharing {
            *sharing.saved.lock() = saved;
        }
    }

    /// Waits until the member of the cluster has left, or rests. Cancel safe.
    pub(in crate::hub) async fn member_rests(&self) {
        if let Some(sharing) = &self.sharing {
            let rests = sharing.rests.lock().clone();
            rests.cancelled().await;
        }
    }

    /// A shared channel in stats.
    pub(in crate::hub) fn shared_stats(&self) -> Option<SharedChannelStats> {
        let sharing = self.sharing.as_ref()?;
        Some(sharing.stats.lock().clone())
    }
}
