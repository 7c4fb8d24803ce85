//! The one order of all messages and notices, and the buffer they wait in.
//!
//! [`Hub::join`] makes a connection a client and gives it a [`Feed`]: it publishes through it and
//! walks the stream with it. What was published is kept once, as a chain of batches that every
//! feed walks at its own pace without a lock ([`batch`]); its bytes are charged to one account
//! ([`budget`]); who holds the account up is found by the [`reaper`].
//!
//! - **Order**: one lock, taken once a published read, gives messages and notices their place.
//!   All feeds see the same order.
//! - **Loss**: none. A client that is too slow is ordered to skip, counted to the line, or closed.
//! - **Blocking**: publishing never waits. Senders wait beforehand, in `Feed::poll_permit`.

mod batch;
mod budget;
pub(crate) mod clock;
mod connection;
pub(crate) mod counters;
mod feed;
pub mod memory;
mod reaper;
mod snapshot;
mod stats;
mod subscriber;

use std::collections::HashMap;
use std::mem;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU8, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Waker;
use std::time::Duration;

use slab::Slab;
use tokio::sync::Notify;

use crate::config::{Config, Grace, SlowClient};
use crate::wire::format::Notice;
use crate::wire::framing::Lines;
use crate::wire::ids::{ClientId, Seq};

use batch::{Batch, BatchBuilder, Encoding, Encodings, Kind, Link, Node, SYSTEM};
use budget::Budget;
pub(crate) use budget::{READ_BYTES_MAX, ReadPermit, WaiterId};
pub(crate) use connection::ConnectionInfo;
use connection::{ConnectionMeta, ListenerNames};
pub(crate) use feed::Feed;
#[cfg(test)]
pub(crate) use reaper::Contention;
pub(crate) use reaper::run as sweep;
pub(crate) use snapshot::{SavedFeed, SavedHub};
use stats::Closed;
pub(crate) use stats::{ClientStats, ClosedClient, HubStats, TrafficTotals};
pub(crate) use subscriber::{Commands, Condition, Subscriber};

/// Bytes at which a batch is closed to further parts: about what one read brings at most.
const BATCH_BYTES_MAX: usize = 64 * 1024;

/// Reads of at least this many bytes become a batch of their own, formatted outside the lock;
/// smaller ones are formatted under it, in about a microsecond, straight into the builder.
const OWN_BATCH_BYTES: usize = 4 * 1024;

/// What the hub goes by, and what a reload changes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(crate) notices: bool,
    pub(crate) slow_client: SlowClient,
    pub(crate) slow_grace: Grace,
    pub(crate) stall_timeout: Option<Duration>,
    pub(crate) idle_timeout: Option<Duration>,
}

impl From<&Config> for Settings {
    fn from(config: &Config) -> Settings {
        Settings {
            notices: config.notices,
            slow_client: config.slow_client,
            slow_grace: config.slow_grace,
            stall_timeout: config.stall_timeout,
            idle_timeout: config.idle_timeout,
        }
    }
}

/// Publishes to every client, and knows who has not come for it yet.
#[derive(Debug)]
pub(crate) struct Hub {
    /// Whether clients get what is their own. Fixed: a feed may be in the middle of such a line.
    echo: bool,
    budget: Arc<Budget>,
    state: Mutex<State>,
    /// Raised by every publish: a feed that is on the list to be woken need not look again.
    version: AtomicU64,
    /// [`State::active_encodings`], to prepare a large read by before the lock is taken.
    active_encodings: AtomicU8,
    /// Told when the last client's input is done in a drain.
    drained: Notify,
    /// Told when the last client has frozen for a handover.
    frozen: Notify,
    /// Told to look over the clients at once.
    asked: Notify,
    /// How often the sweep has looked over the clients and not found the buffer jammed.
    looks: AtomicU64,
    /// The time for which the process ran under its eyes, in microseconds.
    ran_us: AtomicU64,
    /// Lines that were dropped for being too long.
    discarded: AtomicU64,
    /// Has the accept loops try once more: see `rest`.
    #[cfg(debug_assertions)]
    pub(crate) nudge: Notify,
}

/// A sign of life: of two that are taken one after the other, different ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Liveness {
    looks: u64,
    published: u64,
    /// Bytes read from clients and taken by them.
    moved: u64,
    /// Whether somebody waits for the buffer, and how many ever got room in it.
    queue: (bool, u64),
}

#[derive(Debug)]
struct State {
    settings: Settings,
    /// The end of the stream.
    tail: Arc<Node>,
    /// Published, but behind no place of the stream yet.
    builder: BatchBuilder,
    next_seq: u64,
    next_id: u64,
    slots: Slab<Slot>,
    /// Messages among what was numbered; the others are notices.
    messages: u64,
    listeners: ListenerNames,
    /// What clients counted whose slots are gone.
    departed: TrafficTotals,
    closed: Closed,
    /// What clients were owed that take no more and are not closed yet: bytes and messages.
    pending: HashMap<usize, (u64, u64)>,
    /// Who is to be woken by the next publish.
    parked: Vec<(Waker, usize)>,
    /// How often that list has been emptied: tells a slot whether its place in it still holds.
    wakes: u64,
    /// Clients by encoding, and the encodings that have any.
    encoded: [usize; 4],
    encodings: Encodings,
    /// Clients whose input a drain still waits for.
    draining: usize,
    /// Clients that a handover still waits for.
    freezing: usize,
    /// Clients are being stopped for a handover, or stand still already.
    is_frozen: bool,
    phase: Phase,
}

/// How far the hub is on its way to the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    /// Clients read what had been sent to them and no more.
    Draining,
    /// The last word has been said: nothing is published behind it.
    Sealed,
}

/// A client's entry in the hub.
#[derive(Debug)]
struct Slot {
    subscriber: Arc<Subscriber>,
    /// What it takes the stream in.
    encoding: Encoding,
    /// Its place in the list of those to be woken, and the emptying it holds for.
    parked: (u64, usize),
    /// Boxed, because it then finds room where the slot itself would not: see [`connection`].
    meta: Box<ConnectionMeta>,
    input_done: bool,
    /// Its disconnect notice is out.
    left: bool,
    /// A handover waits for it to freeze.
    freezing: bool,
}

/// Where the stream begins for a client that joins.
#[derive(Debug)]
struct JoinPoint {
    node: Arc<Node>,
    /// Parts of the batch to come at that place which were there before it.
    parts_before: u32,
}

/// What [`Hub::park`] found.
enum Park {
    /// Something to read.
    MoreCame,
    /// Nothing: the task will be woken by the publish that ends this version.
    Parked { version: u64 },
}

impl Hub {
    /// An empty hub with a buffer of `config.buffer_bytes`.
    pub(crate) fn new(config: &Config) -> Arc<Hub> {
        Arc::new(Hub {
            echo: config.echo,
            budget: Budget::new(config.buffer_bytes),
            state: Mutex::new(State {
                settings: Settings::from(config),
                tail: Node::first(0),
                builder: BatchBuilder::default(),
                next_seq: 1,
                next_id: 1,
                slots: Slab::new(),
                messages: 0,
                listeners: ListenerNames::default(),
                departed: TrafficTotals::default(),
                closed: Closed::default(),
                pending: HashMap::new(),
                parked: Vec::new(),
                wakes: 1,
                encoded: [0; 4],
                encodings: Encodings::default(),
                draining: 0,
                freezing: 0,
                is_frozen: false,
                phase: Phase::Open,
            }),
            version: AtomicU64::new(1),
            active_encodings: AtomicU8::new(0),
            drained: Notify::new(),
            frozen: Notify::new(),
            asked: Notify::new(),
            looks: AtomicU64::new(0),
            ran_us: AtomicU64::new(0),
            discarded: AtomicU64::new(0),
            #[cfg(debug_assertions)]
            nudge: Notify::new(),
        })
    }

    /// Goes by another configuration from now on; all but `echo`, which takes a restart.
    pub(crate) fn set(&self, config: &Config) {
        self.lock().settings = Settings::from(config);
        self.budget.set_limit(config.buffer_bytes);
    }

    /// Waits until the buffer has room for what an accept loop's turn may publish. Cancel safe.
    pub(crate) async fn admit(&self) -> ReadPermit {
        self.budget.admit().await
    }

    /// Makes a connection a client: gives it the next id and tells everybody.
    pub(crate) fn join(self: &Arc<Hub>, connection: ConnectionInfo) -> Feed {
        let encoding = Encoding::from(connection.format);
        let mut state = self.lock();
        let id = ClientId(state.next_id);
        state.next_id += 1;
        state.count_encoding(encoding, 1);
        let start = state.start();
        let subscriber = Arc::new(Subscriber::new(id));
        let messages_before = state.messages;
        let meta = ConnectionMeta::new(&connection, messages_before, &mut state.listeners);
        subscriber.move_to(&start.node, 0, encoding);
        let key = self.insert_slot(&mut state, subscriber.clone(), encoding, meta);
        let mut own_end = 0;
        if state.settings.notices {
            own_end = self.notify(&mut state, Kind::Notice(Notice::Connect), id) + 1;
            self.release_and_wake(state, key);
        }
        Feed::new(self.clone(), subscriber, key, start, own_end, encoding)
    }

    /// Gives a client its slot. Its encoding has been counted.
    fn insert_slot(
        &self,
        state: &mut State,
        subscriber: Arc<Subscriber>,
        encoding: Encoding,
        meta: ConnectionMeta,
    ) -> usize {
        let key = state.slots.insert(Slot {
            subscriber,
            encoding,
            parked: (0, 0),
            meta: Box::new(meta),
            input_done: false,
            left: false,
            freezing: false,
        });
        self.active_encodings_changed(state);
        key
    }

    /// What changes for as long as the hub serves, however busy it is. Takes the buffer's account and
    /// the lock that every publish takes: does not return when one of them hangs.
    pub(crate) fn pulse(&self) -> Liveness {
        // An idle hub shows by this that it is awake.
        self.asked.notify_one();
        let queue = self.budget.queue_state();
        let state = self.lock();
        let moved = state.slots.iter().map(|(_, slot)| {
            let counters = &slot.subscriber.counters;
            counters
                .bytes_in
                .get()
                .wrapping_add(counters.bytes_out.get())
        });
        Liveness {
            looks: self.looks.load(Relaxed),
            published: self.version(),
            moved: moved.fold(0, u64::wrapping_add),
            queue,
        }
    }

    /// Tells every client that its time has come.
    pub(crate) fn command_all(&self, command: Commands) {
        let state = self.lock();
        state
            .slots
            .iter()
            .for_each(|(_, slot)| slot.subscriber.command(command));
    }

    /// What would be different if anything had happened.
    #[cfg(debug_assertions)]
    pub(crate) fn traces(&self) -> String {
        let stats = self.stats();
        let version = self.version();
        format!(
            "version {version}, {:?}",
            stats::HubStats {
                waited: Duration::ZERO,
                ..stats
            }
        )
    }

    /// Whether some client has not seen this order yet.
    #[cfg(debug_assertions)]
    pub(crate) fn is_commanded(&self, command: Commands) -> bool {
        let state = self.lock();
        let mut slots = state.slots.iter();
        slots.any(|(_, slot)| slot.subscriber.is_commanded(command))
    }

    /// Has every client read what it was sent already, and waits until all have. Cancel safe.
    pub(crate) async fn drain(&self) {
        {
            let mut state = self.lock();
            state.phase = Phase::Draining;
            state.draining = state
                .slots
                .iter()
                .filter(|(_, slot)| !slot.input_done)
                .count();
            if state.draining == 0 {
                return;
            }
        }
        self.command_all(Commands::DRAIN);
        self.drained.notified().await;
    }

    /// Says the last word: `Server shutting down`. Nothing is published behind it.
    pub(crate) fn finish(&self) {
        let mut state = self.lock();
        self.notify(&mut state, Kind::Shutdown, SYSTEM);
        state.flush();
        state.phase = Phase::Sealed;
        self.release_and_wake(state, usize::MAX);
        self.command_all(Commands::FINISH);
    }

    /// Has every client's task stop where it is, and waits until all have; nobody may join
    /// meanwhile, and no time passes for those who have. Not cancel safe: whoever has stopped is in
    /// the hands of the caller.
    pub(crate) async fn freeze(&self) {
        {
            let mut state = self.lock();
            state.is_frozen = true;
            state.freezing = state.slots.len();
            state
                .slots
                .iter_mut()
                .for_each(|(_, slot)| slot.freezing = true);
            if state.freezing == 0 {
                return;
            }
        }
        self.command_all(Commands::FREEZE);
        self.frozen.notified().await;
    }

    /// The clients' tasks go on after a [`freeze`](Hub::freeze): time passes for them again.
    pub(crate) fn thaw(&self) {
        self.lock().is_frozen = false;
    }

    /// The client in `key` has stopped, or is gone.
    fn freeze_done(&self, state: &mut State, key: usize) {
        if mem::take(&mut state.slots[key].freezing) {
            state.freezing -= 1;
            if state.freezing == 0 {
                self.frozen.notify_one();
            }
        }
    }

    fn version(&self) -> u64 {
        self.version.load(Acquire)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while it is held is a bug; the chain behind it is whole at every step.
        self.state
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Publishes one read's lines from the client in `key`; the index of the batch they are in.
    fn publish(
        &self,
        key: usize,
        origin: ClientId,
        permit: Option<ReadPermit>,
        lines: &Lines<'_>,
        messages: usize,
    ) -> Option<u64> {
        let large = lines.first.len() + lines.rest.len() >= OWN_BATCH_BYTES;
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
            if state.phase == Phase::Sealed {
                return None;
            }
            if active_encodings == Encodings::default() {
                // Nobody hears it: it takes its numbers, and no batch may count across them.
                state.flush();
                state.take_seqs(messages);
                state.messages += messages as u64;
                return None;
            }
            let first_seq = state.take_seqs(messages);
            state.messages += messages as u64;
            let index = match prepared {
                Some((mut batch, cost)) => {
                    batch.attach(charge(cost));
                    state.flush();
                    state.link(batch.into_batch(active_encodings, first_seq))
                }
                None => {
                    if state.builder.cost() >= BATCH_BYTES_MAX {
                        state.flush();
                    }
                    let builder = &mut state.builder;
                    let cost =
                        builder.add_lines(active_encodings, origin, first_seq, lines, messages);
                    builder.attach(charge(cost));
                    state.tail.index
                }
            };
            self.release_and_wake(state, key);
            return Some(index);
        }
    }

    /// Tells everybody that the client in `key` is gone. Returns the index its own parts end
    /// before, if that adds one.
    fn leave(&self, key: usize, id: ClientId) -> Option<u64> {
        let mut state = self.lock();
        state.slots[key].left = true;
        self.finish_input(&mut state, key);
        if !state.settings.notices || state.phase == Phase::Sealed {
            return None;
        }
        let own = self.notify(&mut state, Kind::Notice(Notice::Disconnect), id);
        self.release_and_wake(state, key);
        Some(own + 1)
    }

    /// The index that the batches of all that was published come before.
    fn end(&self) -> u64 {
        self.lock().flush().index
    }

    /// Gives the slot of a client back.
    fn remove(&self, key: usize, encoding: Encoding) {
        let mut state = self.lock();
        self.finish_input(&mut state, key);
        self.freeze_done(&mut state, key);
        state.pending.remove(&key);
        let slot = state.slots.remove(key);
        state.departed.count(&slot);
        state.unpark(&slot);
        state.count_encoding(encoding, -1);
        if state.slots.is_empty() {
            // Nobody will come for it.
            state.builder.clear();
        }
        self.active_encodings_changed(&state);
    }

    /// Clients, or their encodings, have changed: what a read is prepared in and charged for.
    fn active_encodings_changed(&self, state: &State) {
        let active_encodings = state.active_encodings(self.echo);
        if self.active_encodings.swap(active_encodings.0, Relaxed) != active_encodings.0 {
            self.budget.set_expansion(active_encodings.expansion());
        }
    }

    /// One client's input is done; the last one ends the wait of a drain.
    fn input_done(&self, key: usize) {
        let mut state = self.lock();
        self.finish_input(&mut state, key);
    }

    fn finish_input(&self, state: &mut State, key: usize) {
        let done = mem::replace(&mut state.slots[key].input_done, true);
        if !done && state.phase == Phase::Draining {
            state.draining -= 1;
            if state.draining == 0 {
                self.drained.notify_one();
            }
        }
    }

    fn change_encoding(&self, key: usize, from: Encoding, to: Encoding) {
        let mut state = self.lock();
        state.slots[key].encoding = to;
        state.count_encoding(from, -1);
        state.count_encoding(to, 1);
        self.active_encodings_changed(&state);
    }

    /// Puts a task on the list to be woken, unless something came after `place` meanwhile.
    fn park(&self, place: &Node, key: usize, waker: &Waker) -> Park {
        let mut state = self.lock();
        if place.next.get().is_none() {
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

    /// Adds a notice to the stream; the index of the batch it is in.
    fn notify(&self, state: &mut State, kind: Kind, origin: ClientId) -> u64 {
        let seq = match kind {
            // Not one of the numbered events: it has no `seq`.
            Kind::Shutdown => Seq(state.next_seq),
            Kind::Lines | Kind::Notice(_) => state.take_seqs(1),
        };
        if state.builder.cost() >= BATCH_BYTES_MAX {
            state.flush();
        }
        let encodings = state.encodings;
        let cost = state.builder.add_notice(encodings, origin, seq, kind);
        state.builder.attach(self.budget.charge(cost));
        state.tail.index
    }

    /// Ends the lock, and wakes all who wait for what was published under it, save the client in
    /// `key`, which is awake.
    fn release_and_wake(&self, mut state: MutexGuard<'_, State>, key: usize) {
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

impl State {
    /// The next `count` sequence numbers, as the first of them.
    fn take_seqs(&mut self, count: usize) -> Seq {
        let first = Seq(self.next_seq);
        self.next_seq += count as u64;
        first
    }

    /// The encodings that what is published now has to be in; none when nobody would hear it.
    fn active_encodings(&self, echo: bool) -> Encodings {
        if self.slots.len() > 1 || echo {
            self.encodings
        } else {
            Encodings::default()
        }
    }

    /// Counts a client more or less with this encoding.
    fn count_encoding(&mut self, encoding: Encoding, change: isize) {
        let count = &mut self.encoded[encoding as usize];
        *count = count.wrapping_add_signed(change);
        let encodings = match *count {
            0 => self.encodings.exclude(encoding),
            _ => self.encodings.with(encoding),
        };
        if encodings != self.encodings {
            // A batch is in the same encodings throughout.
            self.flush();
            self.encodings = encodings;
        }
    }

    /// Puts what was assembled into the stream; returns the end of it.
    fn flush(&mut self) -> Arc<Node> {
        if let Some(batch) = self.builder.take(self.encodings) {
            self.link(batch);
        }
        self.tail.clone()
    }

    /// The end of all that was published, for a client to start from.
    ///
    /// Notices are not cut off for that: those of all who join in one turn of an accept loop go out
    /// as one batch. Behind messages a batch begins, which keeps the counting of them simple.
    fn start(&mut self) -> JoinPoint {
        let parts_before = self.builder.notices_only().unwrap_or_else(|| {
            self.flush();
            0
        });
        JoinPoint {
            node: self.tail.clone(),
            parts_before,
        }
    }

    /// Puts a batch at the end of the stream; its index.
    fn link(&mut self, batch: Batch) -> u64 {
        let index = self.tail.index;
        let node = self.tail.after(&batch);
        let next = Link {
            batch,
            node: node.clone(),
        };
        assert!(
            self.tail.next.set(next).is_ok(),
            "only the end of the stream is linked behind"
        );
        self.tail = node;
        index
    }

    /// Takes a client off the list of those to be woken.
    fn unpark(&mut self, slot: &Slot) {
        let (wakes, at) = slot.parked;
        if wakes == self.wakes {
            self.parked.swap_remove(at);
            if let Some((_, moved)) = self.parked.get(at) {
                self.slots[*moved].parked.1 = at;
            }
        }
    }
}
