//! All channels of the daemon, by name.
//!
//! A channel is an order of its own, with a buffer of its own: its [`Hub`]. What channels share is in
//! [`Shared`]. Those that the configuration names exist always; others exist as long as they have
//! clients, or places to come back to from a handover.

use std::collections::{BTreeMap, HashMap};
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::time::{Duration, SystemTime};

use futures::future::join_all;
use parking_lot::Mutex;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::error;

use super::closed::ClosedClient;
use super::cluster::node::Cluster;
use super::cluster::stats::{ClusterStats, SharedChannelStats};
use super::connection::ConnectionInfo;
use super::epoch::new_epoch;
use super::histories::Histories;
use super::history::HistoryStats;
use super::liveness::Liveness;
use super::order::Hub;
use super::shared::Shared;
use super::sharing::Task;
use super::stats::{ClientStats, HubStats};
use super::subscriber::Commands;
use crate::config::{Config, Tokens};
use crate::wire::channel::ChannelName;
use crate::wire::close_reason::CloseReason;

/// All channels of the daemon, by name.
#[derive(Debug)]
pub(crate) struct Channels {
    shared: Arc<Shared>,
    state: Mutex<State>,
}

/// How a new channel begins to record, once what this job does is done.
type BeginRecording = fn(&Arc<Hub>, Option<CancellationToken>);

#[derive(Debug)]
struct State {
    config: Config,
    hubs: BTreeMap<ChannelName, Arc<Hub>>,
    /// How many of them clients have opened.
    open: usize,
    /// Jobs that remove the files of channels that ended, each of which cancels its token when it is done.
    removals: HashMap<ChannelName, CancellationToken>,
    /// The next time at which a token expires.
    next_expiry: Option<SystemTime>,
    /// What was counted in channels that are no more.
    ended: HubStats,
}

/// A channel that somebody is about to join: it does not end meanwhile.
#[derive(Debug)]
pub(crate) struct Joining(Arc<Hub>);

/// One channel in stats.
#[derive(Clone, Debug)]
pub(crate) struct ChannelStats {
    pub(crate) name: ChannelName,
    /// Clients opened it.
    pub(crate) is_open: bool,
    pub(crate) stats: HubStats,
    /// `None` where none is kept.
    pub(crate) history: Option<HistoryStats>,
    /// `None` where it is this daemon's alone.
    pub(crate) shared: Option<SharedChannelStats>,
}

/// All channels in stats, at one time.
#[derive(Clone, Debug, Default)]
pub(crate) struct ChannelsStats {
    /// Those there are, in the order of their names.
    pub(crate) each: Vec<ChannelStats>,
    /// What was counted in channels that are no more.
    pub(crate) ended: HubStats,
    /// How many channels clients may open.
    pub(crate) open_max: usize,
    /// `None` where nothing is shared with other daemons.
    pub(crate) cluster: Option<ClusterStats>,
}

impl ChannelsStats {
    /// All channels together, those that are no more included.
    pub(crate) fn total(&self) -> HubStats {
        let mut total = self.ended.clone();
        let each = self.each.iter();
        each.for_each(|channel| total += channel.stats.clone());
        total
    }
}

impl Channels {
    /// The channels that the configuration names, without clients and in memory.
    #[cfg(test)]
    pub(crate) fn new(config: &Config) -> Arc<Channels> {
        Channels::open_all(config, None, None)
    }

    /// The channels that the configuration names, and those that have a history, without clients.
    pub(crate) fn open_all(
        config: &Config,
        histories: Option<Histories>,
        cluster: Option<Arc<Cluster>>,
    ) -> Arc<Channels> {
        let shared = Shared::with(histories, cluster);
        Channels::with(config, shared, BTreeMap::new(), HubStats::default())
    }

    /// Channels that there are already, and those that the configuration names.
    pub(super) fn with(
        config: &Config,
        shared: Arc<Shared>,
        hubs: BTreeMap<ChannelName, Arc<Hub>>,
        ended: HubStats,
    ) -> Arc<Channels> {
        hubs.values().for_each(|hub| hub.begin_sharing());
        let state = State {
            config: config.clone(),
            hubs,
            open: 0,
            removals: HashMap::new(),
            next_expiry: None,
            ended,
        };
        let channels = Channels {
            shared,
            state: Mutex::new(state),
        };
        channels.apply(config, Hub::record_now);
        Arc::new(channels)
    }

    /// Goes by another configuration from now on. A channel that it no longer names ends with its last
    /// client. Blocks where one that is there begins to keep a history on disk: everybody who asks for a channel,
    /// or is in that one, waits meanwhile.
    pub(crate) fn set(&self, config: &Config) {
        self.apply(config, Hub::record_soon);
    }

    /// The same, where channels that are new begin to record in this way.
    fn apply(&self, config: &Config, record: BeginRecording) {
        let mut state = self.state.lock();
        state.config = config.clone();
        for hub in state.hubs.values() {
            hub.set(config);
            let is_named = config.channels.contains_key(&hub.name);
            hub.is_open.store(!is_named, Relaxed);
        }
        for name in config.channels.keys() {
            if !state.hubs.contains_key(name) {
                self.make(&mut state, name, false, record);
            }
        }
        let kept = self.shared.histories.get().map(Histories::names);
        for name in kept.into_iter().flatten() {
            self.make(&mut state, &name, true, record);
        }
        let open = state.hubs.values().filter(|hub| hub.is_open.load(Relaxed));
        state.open = open.count();
        state.end_unused();
        drop(state);
        self.close_denied();
    }

    /// The tokens there are, which are looked at now and again when the next one expires.
    pub(super) fn tokens_until(&self, now: SystemTime) -> Option<Arc<Tokens>> {
        let mut state = self.state.lock();
        let tokens = state.config.tokens.clone();
        state.next_expiry = tokens.as_ref().and_then(|tokens| tokens.next_expiry(now));
        tokens
    }

    /// Whether a token has expired since they were last looked at.
    pub(super) fn has_expired(&self, now: SystemTime) -> bool {
        let next_expiry = self.state.lock().next_expiry;
        next_expiry.is_some_and(|expiry| expiry <= now)
    }

    fn make(
        &self,
        state: &mut State,
        name: &ChannelName,
        is_open: bool,
        record: BeginRecording,
    ) -> Arc<Hub> {
        let (name, shared) = (name.clone(), self.shared.clone());
        let hub = Hub::of_channel(name.clone(), new_epoch(), shared, &state.config);
        hub.is_open.store(is_open, Relaxed);
        let hub = Arc::new(hub);
        record(&hub, state.removals.get(&name).cloned());
        hub.begin_sharing();
        state.hubs.insert(name, hub.clone());
        state.open += usize::from(is_open);
        hub
    }

    /// The channel that a listener names. It exists, unless a reload has just taken it out.
    pub(crate) fn of_listener(&self, name: &ChannelName) -> Joining {
        let mut state = self.state.lock();
        let hub = state.hubs.get(name).cloned();
        Joining::new(hub.unwrap_or_else(|| self.make_open(&mut state, name)))
    }

    /// The channel that a client asks for; `None` if there is none of this name and clients have opened
    /// as many as they may.
    pub(crate) fn open(&self, name: &ChannelName) -> Option<Joining> {
        let mut state = self.state.lock();
        match state.hubs.get(name) {
            Some(hub) if !hub.is_unused() => return Some(Joining::new(hub.clone())),
            // Its clients have just left it: what comes now is another.
            Some(_) => state.end(name),
            None if state.is_full() && self.shared.take_unused() => state.end_unused(),
            None => {}
        }
        let is_full = state.is_full();
        (!is_full).then(|| Joining::new(self.make_open(&mut state, name)))
    }

    fn make_open(&self, state: &mut State, name: &ChannelName) -> Arc<Hub> {
        self.make(state, name, true, Hub::record_soon)
    }

    /// Waits until nothing is being removed of channels that ended. Cancel safe.
    pub(super) async fn settle_removals(&self) {
        let removals: Vec<_> = self.state.lock().removals.values().cloned().collect();
        join_all(removals.iter().map(CancellationToken::cancelled)).await;
    }

    /// The channel `main`.
    #[cfg(test)]
    pub(crate) fn main(&self) -> Arc<Hub> {
        self.of_listener(&ChannelName::main()).0.clone()
    }

    /// Ends the channels that clients opened and have left, if there may be any.
    pub(super) fn end_unused(&self) {
        if self.shared.take_unused() {
            self.state.lock().end_unused();
        }
    }

    /// All channels there are.
    pub(super) fn hubs(&self) -> Vec<Arc<Hub>> {
        self.hubs_and_ended().0
    }

    /// All channels there are, and what was counted in those that are no more. Taken together: a channel
    /// that ends meanwhile is in one of the two, and in one only.
    pub(super) fn hubs_and_ended(&self) -> (Vec<Arc<Hub>>, HubStats) {
        let state = self.state.lock();
        (state.hubs.values().cloned().collect(), state.ended.clone())
    }

    pub(super) fn shared(&self) -> Arc<Shared> {
        self.shared.clone()
    }

    /// Clients that have not left.
    pub(crate) fn clients(&self) -> usize {
        self.hubs().iter().map(|hub| hub.clients()).sum()
    }

    /// What went through each channel so far, and through those that are no more. Takes the lock that
    /// every publish takes for one look at each client.
    pub(crate) fn each(&self) -> ChannelsStats {
        let (hubs, ended) = self.hubs_and_ended();
        let open_max = self.state.lock().config.open_channels;
        let stats = |hub: &Arc<Hub>| ChannelStats {
            name: hub.name.clone(),
            is_open: hub.is_open.load(Relaxed),
            stats: hub.stats(),
            history: hub.history_stats(),
            shared: hub.shared_stats(),
        };
        ChannelsStats {
            each: hubs.iter().map(stats).collect(),
            ended,
            open_max,
            cluster: self.cluster_stats(),
        }
    }

    /// The daemons that share channels, and the connection to NATS; `None` where nothing is shared.
    pub(crate) fn cluster_stats(&self) -> Option<ClusterStats> {
        let cluster = self.shared.cluster.get()?;
        Some(cluster.stats(self.clients() as u64))
    }

    /// What went through all channels so far, those that are no more included: see [`Channels::each`].
    pub(crate) fn stats(&self) -> HubStats {
        self.each().total()
    }

    /// Every client of every channel, those that are still owed something after they have left among
    /// them, in no particular order.
    pub(crate) fn client_stats(&self) -> Vec<ClientStats> {
        let hubs = self.hubs();
        hubs.iter().flat_map(|hub| hub.client_stats()).collect()
    }

    /// The last clients that were closed, the latest first: so many of them at most, after the first
    /// `from`; and how many are remembered.
    pub(crate) fn closed(&self, from: usize, most: usize) -> (Vec<ClosedClient>, usize) {
        self.shared.closed.lock().page(from, most)
    }

    /// What changes for as long as all channels serve: see [`Hub::pulse`]. Nothing does while one of them
    /// is jammed, whatever the others do.
    pub(crate) fn pulse(&self) -> Vec<Liveness> {
        let hubs = self.hubs();
        let mut pulse: Vec<_> = hubs.iter().map(|hub| hub.pulse()).collect();
        if hubs.iter().any(|hub| hub.is_jammed()) {
            pulse.clear();
        }
        pulse
    }

    /// Tells every client of every channel to do something.
    pub(crate) fn command_all(&self, command: Commands) {
        self.hubs().iter().for_each(|hub| hub.command_all(command));
    }

    /// Closes every client of which this holds, for this reason.
    pub(crate) fn close_where(&self, reason: CloseReason, holds: impl Fn(&ConnectionInfo) -> bool) {
        let hubs = self.hubs();
        hubs.iter().for_each(|hub| hub.close_where(reason, &holds));
    }

    /// From now on, the numbers of all channels are of other epochs.
    pub(crate) fn begin_epochs(&self) {
        self.hubs()
            .iter()
            .for_each(|hub| hub.set_epoch(new_epoch()));
    }

    /// Stops the time that the reaper counts: nobody is late while a handover stops the clients.
    pub(crate) fn stop_clock(&self) {
        self.shared.set_frozen(true);
    }

    /// Lets time go on after [`stop_clock`](Channels::stop_clock).
    pub(crate) fn start_clock(&self) {
        self.shared.set_frozen(false);
    }

    /// Has every client read what it was sent already, waits until all of a channel have, and finishes that
    /// channel: none waits for another. Cancel safe: [`Channels::finish`] is for those that are left.
    pub(crate) async fn drain(&self) {
        let hubs = self.hubs();
        let drain = |hub: Arc<Hub>| async move {
            hub.drain().await;
            hub.settle_outbox().await;
            hub.finish();
        };
        join_all(hubs.into_iter().map(drain)).await;
    }

    /// Waits until the other daemons that share a channel know that this one has left. Cancel safe: then they notice
    /// it.
    pub(crate) async fn leave_cluster(&self) {
        let hubs = self.hubs();
        join_all(hubs.iter().map(|hub| hub.member_rests())).await;
        if let Some(cluster) = self.shared.cluster.get() {
            cluster.say_left().await;
        }
    }

    /// Warns of what was not sent to the other daemons, when it is too late.
    pub(crate) fn warn_of_unsent(&self) {
        self.hubs().iter().for_each(|hub| hub.warn_of_unsent());
    }

    /// Has no shared channel send or take anything, so that it can be saved for a handover. What does not come to rest in
    /// this time is not saved, which is said.
    pub(crate) async fn rest_members(&self, time: Duration) {
        let hubs = self.hubs();
        hubs.iter().for_each(|hub| hub.rest_member());
        let rests = hubs.iter().map(|hub| async move {
            if timeout(time, hub.member_rests()).await.is_err() {
                error!(channel = %hub.name, "the shared channel does not come to rest: what it has not sent is not handed over");
            }
        });
        join_all(rests).await;
    }

    /// Goes on after [`rest_members`](Channels::rest_members).
    pub(crate) fn wake_members(&self) {
        let hubs = self.hubs();
        hubs.iter().for_each(|hub| hub.set_member_task(Task::Serve));
    }

    /// Publishes the shutdown notice in every channel that has not got it yet: see [`Hub::finish`].
    pub(crate) fn finish(&self) {
        self.hubs().iter().for_each(|hub| hub.finish());
    }
}

impl Joining {
    /// To be called with the lock on the channels, or before they are there.
    pub(super) fn new(hub: Arc<Hub>) -> Joining {
        hub.joining.fetch_add(1, Relaxed);
        Joining(hub)
    }
}

impl Deref for Joining {
    type Target = Arc<Hub>;

    fn deref(&self) -> &Arc<Hub> {
        &self.0
    }
}

impl Drop for Joining {
    fn drop(&mut self) {
        self.0.joining.fetch_sub(1, Release);
        if self.0.is_open.load(Relaxed) {
            self.0.shared.note_unused();
        }
    }
}

impl Hub {
    /// Whether clients opened it, and have left it, nothing is kept of it, and other daemons have what they said. To be called with the lock on the channels.
    fn is_unused(&self) -> bool {
        // Nobody is about to join who did not hold that lock. Looked at before the clients: who joins is
        // one by the time that it is no longer awaited.
        let is_awaited = self.joining.load(Acquire) > 0;
        let is_in_use = is_awaited || self.is_opening() || !self.has_no_clients();
        let is_unused = self.is_open.load(Relaxed) && !is_in_use;
        is_unused && self.keeps_nothing() && !self.is_unsent()
    }
}

impl State {
    /// Whether clients have opened as many channels as they may.
    fn is_full(&self) -> bool {
        self.open >= self.config.open_channels
    }

    /// Ends one channel that clients opened.
    fn end(&mut self, name: &ChannelName) {
        if let Some(hub) = self.hubs.remove(name) {
            self.removals.retain(|_, done| !done.is_cancelled());
            hub.end_sharing();
            if let Some(done) = hub.remove_history() {
                self.removals.insert(name.clone(), done);
            }
            self.open -= 1;
            self.ended += hub.stats().counters();
        }
    }

    /// Ends all channels that clients opened and have left.
    fn end_unused(&mut self) {
        let unused = self.hubs.values().filter(|hub| hub.is_unused());
        let unused: Vec<_> = unused.map(|hub| hub.name.clone()).collect();
        unused.iter().for_each(|name| self.end(name));
    }
}

/// For the check at rest, in debug builds: see `rest`.
#[cfg(debug_assertions)]
impl Channels {
    /// What would be different if anything had happened in some channel. One that has been left is no more.
    pub(crate) fn traces(&self) -> Vec<String> {
        self.end_unused();
        self.hubs().iter().map(|hub| hub.traces()).collect()
    }

    /// Whether some client has not seen this command yet.
    pub(crate) fn is_commanded(&self, command: Commands) -> bool {
        self.hubs().iter().any(|hub| hub.is_commanded(command))
    }

    /// Has every accept loop try once more.
    pub(crate) fn nudge(&self) {
        self.shared.nudge.notify_waiters();
    }

    /// Waits until [`Channels::nudge`] is called.
    pub(crate) async fn nudged(&self) {
        self.shared.nudge.notified().await;
    }
}
