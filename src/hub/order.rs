//! The one order: what is published takes its place in it under one lock, and everybody is woken.

use std::collections::HashMap;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize};
use std::task::Waker;

use parking_lot::{Mutex, MutexGuard};
use slab::Slab;
use tokio::sync::Notify;

use super::budget::{Budget, ReadPermit};
use super::builder::BatchBuilder;
use super::chain::Node;
use super::closed::ByReason;
use super::cluster::outbox::Outbox;
use super::connection::ListenerNames;
use super::contention::Contention;
use super::counters::TrafficTotals;
use super::encodings::{Encodings, PerEncoding};
use super::history::History;
use super::part::Kind;
use super::recording::Recording;
use super::settings::Settings;
use super::shared::Shared;
use super::sharing::Sharing;
use super::subscriber::{Slot, Subscriber};
use crate::config::{Config, Identity};
use crate::wire::channel::ChannelName;
use crate::wire::client_name::Origin;
use crate::wire::framing::Lines;
use crate::wire::ids::{ClientId, Epoch, Seq};

/// Bytes at which a batch is closed to further parts: about what one read brings at most.
const BATCH_BYTES_MAX: usize = 64 * 1024;

/// Reads of at least this many bytes become a batch of their own, formatted outside the lock;
/// smaller ones are formatted under it, in about a microsecond, straight into the builder.
const OWN_BATCH_BYTES: usize = 4 * 1024;

/// The index of what was sent to be published: a batch that is still to come, whichever it is.
pub(super) const SENT_INDEX: u64 = u64::MAX - 1;

/// The broadcaster of one channel: gives every message and notice its place, and wakes the clients that
/// wait for one.
#[derive(Debug)]
pub(crate) struct Hub {
    /// Name of the channel.
    pub(super) name: ChannelName,
    /// Names this count of `seq`; another one begins with each hub that does not go on with an old one.
    pub(super) epoch: Arc<AtomicU32>,
    pub(super) shared: Arc<Shared>,
    /// Whether clients get what is their own. Fixed: a feed may be in the middle of such a line.
    pub(super) echo: bool,
    pub(super) budget: Arc<Budget>,
    /// What it has if other daemons share it.
    pub(super) sharing: Option<Box<Sharing>>,
    state: Mutex<State>,
    /// Raised by every publish: a feed that is on the list to be woken need not look again.
    version: AtomicU64,
    /// [`State::active_encodings`], to prepare a large read by before the lock is taken.
    pub(super) active_encodings: AtomicU8,
    /// So much is pending that senders wait before they read: see [`Hub::poll_stored`].
    pub(super) is_store_behind: AtomicBool,
    /// A job opens the history: who joins waits for it, so that nothing has a number before. Cleared under the lock.
    pub(super) is_opening: AtomicBool,
    /// Notified when something has been stored in the history, or that is opened.
    pub(super) has_stored: Notify,
    /// Notified when the last client's input is done in a drain.
    pub(super) drained: Notify,
    /// Clients opened the channel, and it ends with the last of them: the configuration does not name it.
    pub(super) is_open: AtomicBool,
    /// Those who are about to join, so that it does not end.
    pub(super) joining: AtomicUsize,
    pub(super) contention: Mutex<Contention>,
    /// Lines that were dropped for being too long.
    pub(super) discarded: AtomicU64,
    /// Reads that had to wait for a client's rates.
    pub(super) throttled: AtomicU64,
    /// Lines that were thrown away, from clients that may not publish.
    pub(super) ignored: AtomicU64,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) settings: Settings,
    /// That of the hub.
    pub(super) epoch: Arc<AtomicU32>,
    /// The end of the stream.
    pub(super) tail: Arc<Node>,
    /// What becomes of it that is kept; boxed, as most channels keep nothing.
    pub(super) recording: Option<Box<Recording>>,
    /// What a daemon before kept on disk is left behind, unless it is found here.
    pub(super) has_history_elsewhere: bool,
    /// Nothing is kept any more, whatever the settings say: it could not be.
    pub(super) is_history_over: bool,
    /// What was kept before, until it is written down that its epoch has ended: a restart would go on with that.
    pub(super) ending: Option<Arc<History>>,
    /// Parts that are published and not yet linked into the stream.
    pub(super) builder: BatchBuilder,
    /// What is to be sent to all daemons that share the channel: it is published when it comes back.
    pub(super) outbox: Option<Box<Outbox>>,
    pub(super) next_seq: u64,
    /// Clients that ever joined.
    pub(super) joined: u64,
    pub(super) slots: Slab<Slot>,
    /// Messages that were given a number; the other numbers went to notices.
    pub(super) messages: u64,
    pub(super) listeners: ListenerNames,
    /// Traffic of the clients whose slots have been removed.
    pub(super) departed: TrafficTotals,
    /// Clients that were closed, by the code of the reason.
    pub(super) closed: ByReason,
    /// Who the clients are that have shown it, by slot.
    pub(super) identities: HashMap<usize, Arc<Identity>>,
    /// Bytes and messages never delivered to clients that are detached and not closed yet, by slot.
    pub(super) pending: HashMap<usize, (u64, u64)>,
    /// Wakers, with their slots, for the next publish to wake.
    parked: Vec<(Waker, usize)>,
    /// Times that `parked` was emptied: tells a slot whether its index in `parked` still holds.
    wakes: u64,
    /// Clients by encoding; `encodings` is the set of those that have any.
    pub(super) encoded: PerEncoding<usize>,
    pub(super) encodings: Encodings,
    /// What a byte that is read becomes at worst, as the budget was told.
    pub(super) expansion: usize,
    /// Clients whose input a drain still waits for.
    pub(super) draining: usize,
    pub(super) phase: Phase,
}

/// How far the hub is on its way to the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Open,
    /// Clients' inputs are read as far as they were already sent, and no further.
    Draining,
    /// The shutdown notice is out: nothing is published behind it.
    Sealed,
}

/// Outcome of [`Hub::park`].
pub(super) enum Park {
    /// Something to read.
    MoreCame,
    /// Nothing: the task will be woken by the publish that ends this version.
    Parked { version: u64 },
}

impl Hub {
    /// The hub of one channel, without clients.
    pub(super) fn of_channel(
        name: ChannelName,
        epoch: Epoch,
        shared: Arc<Shared>,
        config: &Config,
    ) -> Hub {
        let settings = Settings::of(config, &name);
        let sharing = shared.share(&settings);
        let epoch = Arc::new(AtomicU32::new(epoch.0));
        Hub {
            echo: config.echo,
            budget: Budget::new(settings.buffer_bytes, shared.asked.clone()),
            contention: Mutex::new(Contention::new(shared.moment())),
            is_open: AtomicBool::new(false),
            joining: AtomicUsize::new(0),
            name,
            epoch: epoch.clone(),
            shared,
            state: Mutex::new(State {
                epoch,
                settings,
                tail: Node::first(1),
                recording: None,
                has_history_elsewhere: false,
                is_history_over: false,
                ending: None,
                builder: BatchBuilder::default(),
                outbox: sharing.as_ref().map(|_| Box::default()),
                next_seq: 1,
                joined: 0,
                slots: Slab::new(),
                messages: 0,
                listeners: ListenerNames::default(),
                departed: TrafficTotals::default(),
                closed: ByReason::default(),
                identities: HashMap::new(),
                pending: HashMap::new(),
                parked: Vec::new(),
                wakes: 1,
                encoded: PerEncoding::default(),
                encodings: Encodings::default(),
                expansion: 1,
                draining: 0,
                phase: Phase::Open,
            }),
            version: AtomicU64::new(1),
            active_encodings: AtomicU8::new(0),
            is_store_behind: AtomicBool::new(false),
            is_opening: AtomicBool::new(false),
            has_stored: Notify::new(),
            drained: Notify::new(),
            sharing,
            discarded: AtomicU64::new(0),
            throttled: AtomicU64::new(0),
            ignored: AtomicU64::new(0),
        }
    }

    /// Goes by another configuration from now on; all but `echo`, which takes a restart.
    pub(crate) fn set(&self, config: &Config) {
        let settings = Settings::of(config, &self.name);
        self.budget.set_limit(settings.buffer_bytes);
        if let Some(sharing) = &self.sharing {
            sharing.budget.set_limit(settings.buffer_bytes);
        }
        let mut state = self.lock();
        state.settings = settings;
        self.record(&mut state);
        self.note_pending(&state);
        // What was still to be stored in a history that ends can be read now.
        self.has_stored.notify_waiters();
        self.wake(state, usize::MAX);
    }

    /// Waits until the buffer has room for what an accept loop's turn may publish. Cancel safe.
    pub(crate) async fn admit(&self) -> ReadPermit {
        if let Some(sharing) = &self.sharing {
            // Their notices are to be sent.
            drop(sharing.budget.admit().await);
        }
        self.budget.admit().await
    }

    /// A channel that is the only one.
    #[cfg(test)]
    pub(crate) fn new(config: &Config) -> Arc<Hub> {
        let (name, shared) = (ChannelName::main(), Arc::default());
        let hub = Hub::of_channel(name, Epoch(0x5f3a_9c11), shared, config);
        hub.record(&mut hub.lock());
        Arc::new(hub)
    }

    /// Names the count of the numbers in this channel.
    pub(crate) fn epoch(&self) -> Epoch {
        Epoch(self.epoch.load(Relaxed))
    }

    /// From now on, numbers are of this one.
    pub(super) fn set_epoch(&self, epoch: Epoch) {
        self.epoch.store(epoch.0, Relaxed);
    }

    /// Name of the channel.
    pub(crate) fn name(&self) -> &ChannelName {
        &self.name
    }

    /// The next number that a message or a notice gets.
    pub(super) fn next_seq(&self) -> Seq {
        Seq(self.lock().next_seq)
    }

    pub(super) fn version(&self) -> u64 {
        self.version.load(Acquire)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while it is held is a bug; the chain behind it is whole at every step.
        self.state.lock()
    }

    /// Publishes one read's lines from the client in `key`; the index of the batch they are in. Few lines
    /// stay in the builder until the first reader comes for them: see [`Hub::park`].
    pub(super) fn publish(
        self: &Arc<Hub>,
        key: usize,
        subscriber: &Subscriber,
        permit: Option<ReadPermit>,
        lines: &Lines<'_>,
        messages: usize,
    ) -> Option<u64> {
        if self.sharing.is_some() {
            return self.send_lines(key, subscriber, permit, lines, messages);
        }
        let client = subscriber.id;
        let large = lines.first.len() + lines.rest.len() >= OWN_BATCH_BYTES;
        // What is formatted outside the lock needs the name there.
        let named = large && subscriber.is_named;
        let identity = named.then(|| self.lock().identities.get(&key).cloned());
        let identity = identity.flatten();
        let mut seen = Encodings(self.active_encodings.load(Relaxed));
        let charge = |cost| match permit {
            Some(permit) => permit.charge(cost),
            None => self.budget.charge(cost),
        };
        let mut prepared = None;
        loop {
            if large {
                // Outside the lock: others go on publishing meanwhile.
                let mut batch = BatchBuilder::default();
                // Its numbers come with its place; what they cost is taken at their longest.
                let origin = origin(client, identity.as_ref());
                let cost = batch.add_lines(seen, origin, Seq(u64::MAX / 2), lines, messages);
                prepared = Some((batch, cost));
            }
            let mut state = self.lock();
            let active_encodings = state.active_encodings(self.echo);
            if large && active_encodings != seen && active_encodings != Encodings::default() {
                // Somebody joined with an encoding that was not in use.
                seen = active_encodings;
                continue;
            }
            if state.phase == Phase::Sealed || subscriber.has_session && !state.has_session(key) {
                return None;
            }
            if active_encodings == Encodings::default() {
                // Nobody hears it: it takes its numbers, and no batch may count across them.
                let index = state.flush().index;
                state.take_seqs(messages);
                state.messages += messages as u64;
                return Some(index);
            }
            let first_seq = state.take_seqs(messages);
            state.messages += messages as u64;
            let session = match subscriber.has_session {
                true => state.take_lines(key, messages as u64 + lines.discarded),
                false => None,
            };
            let index = match prepared {
                Some((mut batch, cost)) => {
                    batch.attach(charge(cost));
                    batch.note_session(session);
                    state.flush();
                    state.link(batch.into_batch(active_encodings, first_seq))
                }
                None => {
                    if state.builder.cost() >= BATCH_BYTES_MAX {
                        state.flush();
                    }
                    let State {
                        builder,
                        identities,
                        ..
                    } = &mut *state;
                    let origin = origin(client, identities.get(&key));
                    let cost =
                        builder.add_lines(active_encodings, origin, first_seq, lines, messages);
                    builder.attach(charge(cost));
                    builder.note_session(session);
                    state.tail.index
                }
            };
            if subscriber.has_session {
                // Its sender waits to hear that it is stored, and may be the only client.
                state.flush();
            }
            self.release_and_wake(state, key);
            return Some(index);
        }
    }

    /// The index that the batches of all that was published come before, and the next number.
    pub(super) fn end(&self) -> (u64, Seq) {
        let mut state = self.lock();
        let end = state.flush().index;
        (end, Seq(state.next_seq))
    }

    /// Puts a task on the list to be woken, unless something came after `place` meanwhile.
    pub(super) fn park(&self, place: &Node, key: usize, waker: &Waker) -> Park {
        let mut state = self.lock();
        if place.next.get().is_none() && !state.stores_first() {
            state.flush();
        }
        if place.next.get().is_some() {
            return Park::MoreCame;
        }
        let parked = (state.wakes, state.parked.len());
        let slot = &mut state.slots[key];
        if slot.parked.0 != parked.0 {
            slot.parked = parked;
            state.parked.push((waker.clone(), key));
        }
        Park::Parked {
            version: self.version(),
        }
    }

    /// Adds a notice about the client in `key` to the stream; the index of the batch it is in.
    pub(super) fn notify(
        &self,
        state: &mut State,
        kind: Kind,
        client: ClientId,
        key: usize,
    ) -> u64 {
        if kind != Kind::Shutdown && self.queue_notice(state, kind, client, key) {
            return SENT_INDEX;
        }
        let seq = match kind {
            // Not one of the numbered events: it has no `seq`.
            Kind::Shutdown | Kind::Missed => Seq(state.next_seq),
            Kind::Lines | Kind::Notice(_) | Kind::Omitted => state.take_seqs(1),
        };
        if state.builder.cost() >= BATCH_BYTES_MAX {
            state.flush();
        }
        let origin = origin(client, state.identities.get(&key));
        let cost = state.builder.add_notice(state.encodings, origin, seq, kind);
        state.builder.attach(self.budget.charge(cost));
        state.tail.index
    }

    /// Ends the lock, and wakes all who wait for what was published under it, save the client in
    /// `key`, which is awake. Where that has to be stored first, they are woken when it is.
    pub(super) fn release_and_wake(self: &Arc<Hub>, mut state: MutexGuard<'_, State>, key: usize) {
        if self.sharing.is_some() && state.phase != Phase::Sealed {
            // What was sent has not come back.
        } else if state.stores_first() {
            self.store_soon(&mut state);
            self.note_pending(&state);
        } else {
            self.wake(state, key);
        }
    }

    /// Ends the lock, and wakes all who wait for what can be read since, save the client in `key`.
    pub(super) fn wake(&self, mut state: MutexGuard<'_, State>, key: usize) {
        self.version.fetch_add(1, Release);
        if state.parked.is_empty() {
            return;
        }
        state.wakes += 1;
        let mut parked = mem::take(&mut state.parked);
        drop(state);
        for (waker, parked_slot) in parked.drain(..) {
            if parked_slot != key {
                waker.wake();
            }
        }
        // Its memory is worth keeping, unless it is a storm's that is over.
        let mut state = self.lock();
        if state.parked.is_empty() && parked.capacity() <= 4 * state.slots.len() {
            state.parked = parked;
        }
    }
}

/// A client as the origin of what it publishes.
pub(super) fn origin(client: ClientId, identity: Option<&Arc<Identity>>) -> Origin<'_> {
    Origin {
        client,
        name: identity.map(|identity| &identity.name),
    }
}

impl State {
    /// The next `count` sequence numbers, as the first of them.
    fn take_seqs(&mut self, count: usize) -> Seq {
        let first = Seq(self.next_seq);
        self.next_seq += count as u64;
        first
    }

    /// Puts what was assembled into the stream; returns the end of it.
    pub(super) fn flush(&mut self) -> Arc<Node> {
        if let Some(batch) = self.builder.take(self.encodings) {
            self.link(batch);
        }
        self.tail.clone()
    }

    /// Takes a client off the list of those to be woken.
    pub(super) fn unpark(&mut self, slot: &Slot) {
        let (wakes, at) = slot.parked;
        if wakes == self.wakes {
            self.parked.swap_remove(at);
            if let Some((_, moved)) = self.parked.get(at) {
                self.slots[*moved].parked.1 = at;
            }
        }
    }
}
