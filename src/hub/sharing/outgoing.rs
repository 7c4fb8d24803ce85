//! What the clients of a shared channel say, until it has come back.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use tracing::warn;

use crate::hub::budget::{Budget, ReadPermit};
use crate::hub::cluster::batch::Claim;
use crate::hub::cluster::here::Clients;
use crate::hub::cluster::outbox::{Outbox, Outgoing, Unshared};
use crate::hub::history::Record;
use crate::hub::order::{Hub, Phase, SENT_INDEX, State, origin};
use crate::hub::part::Kind;
use crate::hub::subscriber::Subscriber;
use crate::wire::format::Notice;
use crate::wire::framing::Lines;
use crate::wire::ids::ClientId;
use crate::wire::session::SessionKey;

impl Hub {
    /// Whether other daemons share it.
    pub(crate) fn is_shared(&self) -> bool {
        self.sharing.is_some()
    }

    /// The room that what a client sends takes first.
    pub(in crate::hub) fn sending_budget(&self) -> &Arc<Budget> {
        match &self.sharing {
            Some(sharing) => &sharing.budget,
            None => &self.budget,
        }
    }

    /// Has one read's lines from the client in `key` sent; an index below which it is told nothing of its own.
    pub(in crate::hub) fn send_lines(
        &self,
        key: usize,
        subscriber: &Subscriber,
        mut permit: Option<ReadPermit>,
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
        if let Some(unshared) = outbox.waiting.get_mut(&subscriber.id) {
            unshared.lines += messages as u64;
        }
        let origin = origin(subscriber.id, identities.get(&key));
        outbox.add_lines(origin, lines, session, |cost| match permit.take() {
            Some(permit) => Some(permit.charge(cost)),
            None => Some(sharing.budget.charge(cost)),
        });
        drop(state);
        sharing.queued.notify_one();
        Some(SENT_INDEX)
    }

    /// Counts the lines of a client that are not in the order yet, from now on, beginning with `lines`.
    pub(in crate::hub) fn count_unshared(&self, key: usize, client: ClientId, lines: u64) {
        self.outbox(|outbox| outbox.waiting.insert(client, Unshared { key, lines }));
    }

    /// Whether lines of a client are not in the order yet, if that is counted.
    pub(in crate::hub) fn is_unshared(&self, client: ClientId) -> bool {
        self.lock().unshared(client) > Some(0)
    }

    /// Has a notice about the client in `key` sent, if the channel is shared.
    pub(in crate::hub) fn queue_notice(
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
        outbox.add_notice(origin, kind, |cost| Some(sharing.budget.charge(cost)));
        sharing.queued.notify_one();
        true
    }

    /// Has a claim to a session sent, or that it is given up, if the channel is shared.
    pub(in crate::hub) fn queue_claim(
        &self,
        state: &mut State,
        name: &SessionKey,
        number: u64,
        is_given_up: bool,
    ) {
        if state.phase == Phase::Sealed {
            // A node that is gone has no session.
            return;
        }
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
        if outbox.is_settled() {
            self.note_settled();
        }
        sharing.queued.notify_one();
    }

    /// All that was ever to be sent is in the order, or not to be sent any more.
    fn note_settled(&self) {
        self.has_stored.notify_waiters();
        if self.is_open.load(Relaxed) {
            self.shared.note_unused();
        }
    }

    /// Says this of clients that are here.
    pub(super) fn say_of(&self, state: &mut State, clients: &HashSet<ClientId>, notice: Notice) {
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

    /// Another node has said this: of clients that it said have left, and that are here, it is said that they came.
    pub(in crate::hub) fn see_notices(&self, record: &Record) {
        let parts = record.parts.iter().zip(&record.origins);
        let left = parts.filter(|(part, _)| part.kind == Kind::Notice(Notice::Disconnect));
        let left: Vec<_> = left.map(|(_, client)| *client).collect();
        if left.is_empty() {
            return;
        }
        let mut state = self.lock();
        let (Some(outbox), Some(sharing)) = (&mut state.outbox, &self.sharing) else {
            return;
        };
        let back = left.into_iter().filter(|it| outbox.is_back(*it));
        let back: HashSet<_> = back.collect();
        self.say_of(&mut state, &back, Notice::Connect);
        sharing.queued.notify_one();
    }

    /// These clients are left to this node: it says that they left, unless they are here.
    pub(in crate::hub) fn inherit(&self, clients: &Clients) {
        let mut state = self.lock();
        let (Some(outbox), Some(sharing)) = (&mut state.outbox, &self.sharing) else {
            return;
        };
        outbox.inherit(clients, |cost| Some(sharing.budget.charge(cost)));
        sharing.queued.notify_one();
    }

    /// Looks at what is to be sent; `None` if nothing ever is, as it is not shared.
    pub(in crate::hub) fn outbox<T>(&self, look: impl FnOnce(&mut Outbox) -> T) -> Option<T> {
        self.lock().outbox.as_mut().map(|outbox| look(outbox))
    }

    /// The next batch to be sent, if there is any: it is outstanding from now on.
    pub(in crate::hub) fn take_outgoing(&self) -> Option<Outgoing> {
        let take = |outbox: &mut Outbox| {
            let (had, taken) = (!outbox.is_empty(), outbox.take());
            outbox.outstanding += usize::from(taken.is_some());
            // What waited may have been for another node to say.
            (had && outbox.is_settled(), taken)
        };
        let (is_settled, taken) = self.outbox(take)?;
        if is_settled {
            self.note_settled();
        }
        taken
    }

    /// So many batches have not come back.
    pub(in crate::hub) fn note_outstanding(&self, batches: usize) {
        self.outbox(|outbox| outbox.outstanding = batches);
        if batches == 0 {
            self.note_settled();
        }
    }

    /// Waits until all that was sent has come back. Cancel safe.
    pub(in crate::hub) async fn settle_outbox(&self) {
        let is_settled = self.when_stored(|state| {
            let outbox = state.outbox.as_deref();
            outbox.is_none_or(Outbox::is_settled).then_some(())
        });
        is_settled.await;
    }

    /// Whether something that its clients said is not in the order yet.
    pub(in crate::hub) fn is_unsent(&self) -> bool {
        self.outbox(|outbox| !outbox.is_settled()) == Some(true)
    }

    /// Warns if something of its clients is not in the order, when it is too late.
    pub(in crate::hub) fn warn_of_unsent(&self) {
        if self.is_unsent() {
            warn!(channel = %self.name, "what clients sent last is not shared: NATS did not take it in time");
        }
    }
}

impl State {
    /// So many lines of a client are not in the order yet, if that is counted.
    pub(in crate::hub) fn unshared(&self, client: ClientId) -> Option<u64> {
        let unshared = self.outbox.as_ref()?.waiting.get(&client)?;
        Some(unshared.lines)
    }
}
