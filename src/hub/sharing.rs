//! A channel that is shared with other daemons: what its clients say goes out, and what comes back is published.
//!
//! Nothing has a number here before it [comes back](Hub::deliver) in the order that all share. Who is at work between is
//! the channel's member of the cluster ([`cluster`](super::cluster)).

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, Release};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::batch::Batch;
use super::budget::{Budget, ReadPermit};
use super::builder::BatchBuilder;
use super::chain::Link;
#[cfg(feature = "nats")]
use super::cluster::StreamLimits;
use super::cluster::{
    Batch as NodeBatch, Claim, Claimed, Clients, Outbox, Outgoing, SavedMember, SharedChannelStats,
    Standing, StreamPast,
};
use super::encoding::{EncodedBatch, Encodings};
use super::history::Record;
use super::order::{Hub, Phase, SENT_INDEX, State, origin};
use super::part::{Kind, Part, missed};
use super::settings::Settings;
use super::subscriber::{Commands, Subscriber};
use crate::wire::client_name::Origin;
use crate::wire::close_reason::CloseReason;
use crate::wire::format::{Format, Notice};
use crate::wire::framing::Lines;
use crate::wire::ids::{ClientId, Epoch, Seq};
use crate::wire::session::SessionKey;

/// What a shared channel has beside what every channel has.
#[derive(Debug)]
pub(super) struct Sharing {
    /// Room for what is still to be sent. It is not that of what readers have still to take: neither is to wait for the
    /// other.
    pub(super) budget: Arc<Budget>,
    /// Notified when something is to be sent.
    pub(super) queued: Notify,
    /// What the stream has of the past.
    pub(super) past: Arc<StreamPast>,
    /// What the member of the cluster is to do.
    pub(super) task: watch::Sender<Task>,
    /// What was kept of the member for a handover, by the daemon before or for the next.
    pub(super) saved: Mutex<Option<SavedMember>>,
    /// Cancelled when the member has left, or stands still for a handover.
    pub(super) rests: Mutex<CancellationToken>,
    pub(super) stats: Mutex<SharedChannelStats>,
}

/// Bytes that the stream has at least, and time that it keeps them: nodes that are away for a while, or slow, find there
/// what they have missed.
const STREAM_BYTES_MIN: u64 = 16 * 1024 * 1024;
const STREAM_AGE_MIN: Duration = Duration::from_secs(60);

/// How far behind another a node may be, in time, that goes on for who was there.
const AHEAD_TIME: Duration = Duration::from_secs(2);

/// What the member of the cluster does for a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Task {
    Serve,
    /// Stands still, so that it can be saved.
    Rest,
    /// Sends what there is, says that it is gone, and ends.
    Leave,
}

impl Sharing {
    pub(super) fn new(settings: &Settings, past: Arc<StreamPast>) -> Sharing {
        Sharing {
            budget: Budget::new(settings.buffer_bytes, Arc::default()),
            queued: Notify::new(),
            past,
            task: watch::Sender::new(Task::Serve),
            saved: Mutex::default(),
            rests: Mutex::default(),
            stats: Mutex::default(),
        }
    }
}

/// What clients say.
impl Hub {
    /// The room that what a client sends takes first.
    pub(super) fn sending_budget(&self) -> &Arc<Budget> {
        match &self.sharing {
            Some(sharing) => &sharing.budget,
            None => &self.budget,
        }
    }

    /// Has one read's lines from the client in `key` sent; an index below which it is told nothing of its own.
    pub(super) fn send_lines(
        &self,
        key: usize,
        subscriber: &Subscriber,
        permit: Option<ReadPermit>,
        lines: &Lines<'_>,
        messages: usize,
    ) -> Option<u64> {
        let mut state = self.lock();
        if state.phase == Phase::Sealed || subscriber.has_session && !state.has_session(key) {
            return None;
        }
        let mut session = None;
        if subscriber.has_session {
            let taken = state.take_lines(key, messages as u64 + lines.discarded);
            let sessions = state.recording.as_ref().map(|it| &it.sessions);
            let claim = sessions.and_then(|them| them.claim_of(key));
            session = taken
                .zip(claim)
                .map(|((name, taken), claim)| (name, taken, claim));
        }
        let State {
            outbox, identities, ..
        } = &mut *state;
        let (outbox, sharing) = (outbox.as_mut()?, self.sharing.as_ref()?);
        let origin = origin(subscriber.id, identities.get(&key));
        let mut permit = permit;
        outbox.add_lines(origin, lines, session, |cost| match permit.take() {
            Some(permit) => permit.charge(cost),
            None => sharing.budget.charge(cost),
        });
        drop(state);
        sharing.queued.notify_one();
        Some(SENT_INDEX)
    }

    /// Has a notice about the client in `key` sent, if the channel is shared.
    pub(super) fn queue_notice(
        &self,
        state: &mut State,
        kind: Kind,
        client: ClientId,
        key: usize,
    ) -> bool {
        let State {
            outbox, identities, ..
        } = state;
        let (Some(outbox), Some(sharing)) = (outbox, &self.sharing) else {
            return false;
        };
        let origin = origin(client, identities.get(&key));
        outbox.add_notice(origin, kind, |cost| sharing.budget.charge(cost));
        sharing.queued.notify_one();
        true
    }

    /// Has a claim to a session sent, or that it is given up, if the channel is shared.
    pub(super) fn queue_claim(
        &self,
        state: &mut State,
        name: &SessionKey,
        number: u64,
        is_given_up: bool,
    ) {
        let (Some(outbox), Some(sharing)) = (&mut state.outbox, &self.sharing) else {
            return;
        };
        outbox.add_claim(Claim {
            name: name.clone(),
            number,
            is_given_up,
        });
        if is_given_up && let Some(recording) = &mut state.recording {
            recording.sessions.forget(name);
        }
        sharing.queued.notify_one();
    }
}

/// What the member of the cluster does with the hub.
impl Hub {
    /// Publishes what has come to its place in the order.
    pub(super) fn deliver(
        self: &Arc<Hub>,
        record: &Record,
        is_own: bool,
        mut permit: Option<ReadPermit>,
    ) {
        let mut seen = Encodings(self.active_encodings.load(Relaxed));
        loop {
            // Outside the lock: it may be many lines.
            let mut batch = BatchBuilder::default();
            let cost = match seen == Encodings::default() {
                true => 0,
                false => add_record(&mut batch, seen, record),
            };
            let mut state = self.lock();
            if state.phase == Phase::Sealed {
                return;
            }
            let active_encodings = state.active_encodings(self.echo);
            if active_encodings != seen {
                seen = active_encodings;
                continue;
            }
            if state.next_seq != record.first_seq.0 {
                error!(channel = %self.name, next = state.next_seq, found = record.first_seq.0, "numbers do not follow");
                state.next_seq = record.first_seq.0;
            }
            state.next_seq = record.next_seq().0;
            state.messages += record.messages();
            let sessions = record.sessions.iter().filter(|_| is_own);
            for (_, name, taken) in sessions {
                state.note_taken(name, *taken);
            }
            if cost > 0 {
                batch.attach(match permit.take() {
                    Some(permit) => permit.charge(cost),
                    None => self.budget.charge(cost),
                });
                let index = state.link(batch.into_batch(active_encodings, record.first_seq));
                debug_assert!(index < SENT_INDEX);
            }
            self.has_stored.notify_waiters();
            return self.wake(state, usize::MAX);
        }
    }

    /// Numbers go on here from now on. `missed`: messages that nobody here gets any more; `None`: they are of another
    /// epoch.
    pub(super) fn place(
        self: &Arc<Hub>,
        (epoch, next): (Epoch, Seq),
        messages: u64,
        missed: Option<u64>,
    ) {
        let mut state = self.lock();
        if state.phase == Phase::Sealed {
            return;
        }
        state.flush();
        let is_same = self.epoch() == epoch && state.next_seq <= next.0;
        let missed = match missed {
            // As this daemon has it from the one before it.
            None if is_same => Some(messages.saturating_sub(state.messages)),
            missed => missed,
        };
        match missed.filter(|_| is_same) {
            Some(0) => {}
            Some(missed) => self.tell_missed(&mut state, missed),
            None => state.close_numbered(),
        }
        if state.next_seq != next.0 || !is_same {
            (state.next_seq, state.messages) = (next.0, messages);
            self.set_epoch(epoch);
            if let Some(recording) = &mut state.recording {
                recording.restart(next, messages);
            }
        }
        self.has_stored.notify_waiters();
        self.wake(state, usize::MAX);
    }

    /// Whether there are numbers for clients that nobody had to draw by lot.
    pub(super) fn has_ids(&self) -> bool {
        self.shared.ids.get().is_none_or(|ids| !ids.is_empty())
    }

    /// All there was is published: who joins now begins where everybody is.
    pub(super) fn open_shared(&self) {
        self.is_opening.store(false, Release);
        self.has_stored.notify_waiters();
        if self.is_open.load(Relaxed) {
            self.shared.note_unused();
        }
    }

    /// Tells every client that it has missed so many messages.
    fn tell_missed(&self, state: &mut State, messages: u64) {
        let part = Part {
            kind: Kind::Missed,
            messages: 0,
        };
        let raw = EncodedBatch {
            ends: Box::new([0]),
            ..EncodedBatch::default()
        };
        let (first, origins) = (Seq(state.next_seq), Box::new([missed(messages)]));
        let batch = Batch::of_past(first, origins, Box::default(), Box::new([part]), raw);
        let before = state.tail.clone();
        state.tail = before.after(&batch);
        let node = state.tail.clone();
        before.link(Link { batch, node });
    }

    /// A claim has come to its place.
    pub(super) fn note_claimed(&self, claimed: &Claimed, is_own: bool) {
        let mut state = self.lock();
        let Some(recording) = &mut state.recording else {
            return;
        };
        let sessions = &mut recording.sessions;
        match is_own {
            true => sessions.grant(&claimed.name, claimed.claim, claimed.taken),
            false => state.lose_session(&claimed.name),
        }
        self.has_stored.notify_waiters();
    }

    /// It is known again what was taken of sessions: `taken` says so of those that this node still has.
    pub(super) fn note_sessions(&self, taken: impl Fn(&SessionKey, u64) -> Option<u64>) {
        let mut state = self.lock();
        let sessions = state.recording.as_ref().map(|it| it.sessions.claims());
        for (name, claim, is_awaited) in sessions.into_iter().flatten() {
            match taken(&name, claim) {
                Some(taken) if !is_awaited => state.note_taken(&name, taken),
                None if !is_awaited => state.lose_session(&name),
                _ => {}
            }
        }
    }

    /// This node goes on as a new one: it has no session any more, and another says that these clients left.
    pub(super) fn renew(&self, left: &Clients) {
        if let Some(outbox) = &mut self.lock().outbox {
            outbox.lose(left);
        }
        self.note_sessions(|_, _| None);
    }

    /// These clients are left to this node: it says that they left, unless they are here.
    pub(super) fn inherit(&self, clients: &Clients) {
        let mut state = self.lock();
        let (Some(outbox), Some(sharing)) = (&mut state.outbox, &self.sharing) else {
            return;
        };
        for (client, name) in clients {
            if outbox.own.inherit(*client) {
                let origin = Origin {
                    client: *client,
                    name: name.as_ref(),
                };
                let kind = Kind::Notice(Notice::Disconnect);
                outbox.add_notice(origin, kind, |cost| sharing.budget.charge(cost));
            }
        }
        sharing.queued.notify_one();
    }

    /// Another node has said this: of clients that it said have left, and that are here, it is said that they came.
    pub(super) fn see_notices(&self, record: &Record) {
        let parts = record.parts.iter().zip(&record.origins);
        let left = parts.filter(|(part, _)| part.kind == Kind::Notice(Notice::Disconnect));
        let left: Vec<_> = left.map(|(_, client)| *client).collect();
        if left.is_empty() {
            return;
        }
        let mut state = self.lock();
        let own = state.outbox.as_mut().map(|outbox| &mut outbox.own);
        let back = own
            .into_iter()
            .flat_map(|own| left.iter().filter(|it| own.is_back(**it)));
        let back: HashSet<_> = back.copied().collect();
        self.say_of(&mut state, &back, Notice::Connect);
    }

    /// Says this of clients that are here.
    fn say_of(&self, state: &mut State, clients: &HashSet<ClientId>, notice: Notice) {
        if clients.is_empty() {
            return;
        }
        let slots = state.slots.iter();
        let keys = slots.map(|(key, slot)| (key, slot.subscriber.id));
        let keys: Vec<_> = keys.filter(|(_, id)| clients.contains(id)).collect();
        for (key, id) in keys {
            self.queue_notice(state, Kind::Notice(notice), id, key);
        }
    }

    /// Room for a batch among what readers have still to take. Cancel safe.
    pub(super) async fn admit_delivery(&self) -> ReadPermit {
        self.budget.admit().await
    }

    /// Waits until this number is published here, if others have it: who asks for what comes behind it had it there. Not
    /// for long, as nobody may have it. Cancel safe.
    pub(super) async fn when_there(&self, seq: Seq) {
        if self.sharing.is_some() {
            let is_there = self.when_stored(|state| (state.next_seq > seq.0).then_some(()));
            let _ = tokio::time::timeout(AHEAD_TIME, is_there).await;
        }
    }

    /// Looks at what is to be sent; `None` if nothing ever is, as it is not shared.
    pub(super) fn outbox<T>(&self, look: impl FnOnce(&mut Outbox) -> T) -> Option<T> {
        self.lock().outbox.as_mut().map(|outbox| look(outbox))
    }

    /// The next batch to be sent, if there is any: it is outstanding from now on.
    pub(super) fn take_outgoing(&self) -> Option<Outgoing> {
        let take = |outbox: &mut Outbox| {
            let taken = outbox.take()?;
            outbox.outstanding += 1;
            Some(taken)
        };
        self.outbox(take).flatten()
    }

    /// So many batches have not come back.
    pub(super) fn note_outstanding(&self, batches: usize) {
        self.outbox(|outbox| outbox.outstanding = batches);
        if batches == 0 {
            self.has_stored.notify_waiters();
        }
    }

    /// What the stream is to keep.
    #[cfg(feature = "nats")]
    pub(super) fn stream_limits(&self) -> StreamLimits {
        let history = self.lock().settings.history.map(|it| it.retention);
        StreamLimits {
            bytes: history.map_or(0, |it| it.bytes).max(STREAM_BYTES_MIN),
            age: history
                .and_then(|it| it.age)
                .map(|age| age.max(STREAM_AGE_MIN)),
        }
    }

    /// Adds what the hub knows to what is saved of its member.
    pub(super) fn save_member(&self, saved: SavedMember) -> SavedMember {
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
    pub(super) fn restore_member<'a>(
        &self,
        saved: &SavedMember,
        unsettled: impl Iterator<Item = &'a NodeBatch>,
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

    /// Says what the member of the cluster comes upon.
    pub(super) fn note_standing(&self, standing: &Standing) {
        if let Some(sharing) = &self.sharing {
            let queued_bytes = self.outbox(|outbox| outbox.bytes()).unwrap_or(0);
            *sharing.stats.lock() = standing.stats(queued_bytes);
        }
    }
}

/// What the server does with a shared channel.
impl Hub {
    /// Waits until all that was sent has come back. Cancel safe.
    pub(super) async fn settle_outbox(&self) {
        let is_settled = self.when_stored(|state| {
            let outbox = state.outbox.as_deref();
            outbox.is_none_or(Outbox::is_settled).then_some(())
        });
        is_settled.await;
    }

    /// Says of all clients that are here that they left, to the other nodes, and then that this one is gone. Nothing is
    /// published any more.
    pub(super) fn leave_cluster(&self, state: &mut State) {
        let Some(sharing) = &self.sharing else {
            return;
        };
        let announced = state.outbox.as_ref().map(|outbox| outbox.own.announced());
        let announced: HashSet<_> = announced.into_iter().flatten().collect();
        self.say_of(state, &announced, Notice::Disconnect);
        sharing.task.send_replace(Task::Leave);
    }

    /// Warns if something of its clients is not in the order, when it is too late.
    pub(super) fn warn_of_unsent(&self) {
        let is_unsent = self.outbox(|outbox| !outbox.is_settled());
        if is_unsent == Some(true) {
            warn!(channel = %self.name, "what clients sent last is not shared: NATS did not take it in time");
        }
    }

    /// The channel is no more: others go on with it.
    pub(super) fn end_sharing(&self) {
        self.set_member_task(Task::Leave);
    }

    /// What the member of the cluster is to do.
    pub(super) fn set_member_task(&self, task: Task) {
        if let Some(sharing) = &self.sharing {
            sharing.task.send_replace(task);
        }
    }

    /// Takes what was saved of the member, for the next daemon.
    pub(super) fn take_saved_member(&self) -> Option<SavedMember> {
        self.sharing.as_ref()?.saved.lock().take()
    }

    /// Has the member go on where that of the daemon before was.
    pub(super) fn set_saved_member(&self, saved: Option<SavedMember>) {
        if let Some(sharing) = &self.sharing {
            *sharing.saved.lock() = saved;
        }
    }

    /// Waits until the member of the cluster has left, or rests. Cancel safe.
    pub(super) async fn member_rests(&self) {
        if let Some(sharing) = &self.sharing {
            let rests = sharing.rests.lock().clone();
            rests.cancelled().await;
        }
    }

    /// A shared channel in stats.
    pub(super) fn shared_stats(&self) -> Option<SharedChannelStats> {
        let sharing = self.sharing.as_ref()?;
        Some(sharing.stats.lock().clone())
    }
}

impl State {
    /// So much of a session is in the order: who has it is told.
    fn note_taken(&mut self, name: &SessionKey, taken: u64) {
        let sessions = self.recording.as_mut().map(|it| &mut it.sessions);
        let key = sessions.and_then(|them| them.note_ordered(name, taken));
        if let Some(slot) = key.and_then(|key| self.slots.get(key)) {
            slot.subscriber.command(Commands::ACK);
        }
    }

    /// Somebody elsewhere has this session now.
    fn lose_session(&mut self, name: &SessionKey) {
        let sessions = self.recording.as_mut().map(|it| &mut it.sessions);
        let key = sessions.and_then(|them| them.lose(name));
        if let Some(slot) = key.and_then(|key| self.slots.get(key)) {
            slot.subscriber
                .command(Commands::close(CloseReason::SessionTaken));
        }
    }

    /// Closes those who go by numbers, which count anew.
    fn close_numbered(&mut self) {
        for (_, slot) in &self.slots {
            if slot.encoding == Format::Json.into() {
                let ended = Commands::close(CloseReason::SessionEnded);
                slot.subscriber.command(ended);
            }
        }
    }
}

/// Adds all parts of a record; what they cost.
fn add_record(batch: &mut BatchBuilder, encodings: Encodings, record: &Record) -> usize {
    let mut names = record.names.iter().peekable();
    let mut cost = 0;
    for (at, seq, part, bytes) in record.each_part() {
        let name = names.next_if(|(of, _)| *of as usize == at);
        let origin = Origin {
            client: record.origins[at],
            name: name.map(|(_, name)| name),
        };
        cost += match part.kind {
            Kind::Lines => {
                let lines = Lines {
                    rest: bytes,
                    ..Lines::default()
                };
                batch.add_lines(encodings, origin, seq, &lines, part.messages as usize)
            }
            kind => batch.add_notice(encodings, origin, seq, kind),
        };
    }
    cost
}
