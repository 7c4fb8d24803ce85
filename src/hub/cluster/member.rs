//! A node at work: between the hub of its channel and the stream.
//!
//! One task a channel takes the stream's messages in their order and publishes what counts of them, sends what the
//! clients say, and looks after the rest: checkpoints, nodes that are gone, an order to begin. Whatever goes wrong with
//! the connection, it begins again behind the last message that it took.

mod connection;
mod delivery;
mod passed;
mod sending;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering::Release;
use std::time::{Duration, Instant};

use futures::FutureExt;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tracing::{info, warn};

use self::connection::{Connection, on};
use self::passed::Passed;
use super::backoff::Backoff;
use super::batch::{Batch, Gone, NodeId};
use super::message::Message;
use super::nats::names::Subject;
use super::nats::stream::{ChannelStream, Entry, StreamInfo};
use super::nats::{NatsError, StreamError, StreamLimits};
use super::node::Cluster;
use super::order::Order;
use super::outbox::Outbox;
use super::past::StreamPast;
use super::publisher::Publisher;
use super::saved::SavedMember;
use super::stats::Standing;
use crate::hub::budget::{ReadPermit, Reservation};
use crate::hub::order::Hub;
use crate::hub::sharing::Task;

/// How often it is looked whether something is due.
const LOOK_TIME: Duration = Duration::from_millis(250);

/// How long what the server refused is left alone, and a connection that failed.
const RETRY_TIME: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// How often the log says at most that messages were passed over.
const DAMAGED_TIME: Duration = Duration::from_secs(60);

/// How long a node that leaves tries to send its last notices. All that its clients said before was sent by then, unless
/// a drain took too long for that.
const LEAVE_TIME: Duration = Duration::from_secs(10);

/// Messages before the end that are taken where nothing says what is behind which: a checkpoint about one of them may
/// be on its way.
const UNPLACED: u64 = 1024;

/// One channel's node.
pub(in crate::hub) struct Member {
    hub: Arc<Hub>,
    cluster: Arc<Cluster>,
    past: Arc<StreamPast>,
    limits: StreamLimits,
    order: Order,
    publisher: Publisher,
    /// What the batches cost that have not come back, in their order.
    reservations: VecDeque<Option<Reservation>>,
    /// A message that waits for room among what readers have still to take.
    entry: Option<Entry>,
    permit: Option<ReadPermit>,
    /// What has come since the last checkpoint.
    passed: Passed,
    standing: Standing,
    /// As which node it goes on, as soon as this one is gone, which it has asked for: NATS does not take what it has sent.
    successor: Option<NodeId>,
    /// Bytes of a message that NATS took when that was last so: once is enough for what can be cut at all.
    cut_for: Option<usize>,
    /// Since when clients could be let in, but for their numbers.
    there_since: Option<Instant>,
    /// What was last said in the log to be wrong.
    logged: Option<Trouble>,
    /// The last message that nobody understands, and how many there were since that was said in the log.
    damaged: Option<(u64, u64)>,
    damaged_said: Option<Instant>,
}

/// Why a channel stands still.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Trouble {
    /// NATS cannot be reached, or does not answer: it passes.
    Away(String),
    /// It takes somebody to mend it.
    Wrong(String),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::Away(reason) => write!(f, "NATS is away: {reason}"),
            Trouble::Wrong(reason) => f.write_str(reason),
        }
    }
}

impl From<NatsError> for Trouble {
    fn from(error: NatsError) -> Trouble {
        match error {
            NatsError::Away(_) | NatsError::NoStream => Trouble::Away(error.to_string()),
            NatsError::Denied(reason) => Trouble::Wrong(reason),
        }
    }
}

impl Hub {
    /// Has it take part in what other daemons share, if it does. Nobody joins before its place is known.
    pub(in crate::hub) fn begin_sharing(self: &Arc<Hub>) {
        let Some(sharing) = &self.sharing else {
            return;
        };
        let Some(cluster) = self.shared.cluster.get() else {
            return;
        };
        self.is_opening.store(true, Release);
        let member = Member::new(self, cluster, sharing.past.clone());
        let hub = self.clone();
        tokio::spawn(async move {
            // It is gone with what it knew: nobody is to take the channel for one that goes on.
            if AssertUnwindSafe(member.run()).catch_unwind().await.is_err() {
                hub.note_failed_member();
            }
        });
    }
}

impl Member {
    fn new(hub: &Arc<Hub>, cluster: &Arc<Cluster>, past: Arc<StreamPast>) -> Member {
        let saved = hub.sharing.as_ref().and_then(|it| it.saved.lock().take());
        let restored = saved.and_then(|saved| Some((restore(&saved)?, saved)));
        let ((mut order, publisher), saved) = restored.unwrap_or_else(|| {
            let node = cluster.new_node();
            let order = Order::new(node, 0);
            ((order, Publisher::new(node)), SavedMember::default())
        });
        cluster.add_node(publisher.node());
        let budget = hub.sharing.as_ref().map(|it| &it.budget);
        let charge = |batch: &Batch| {
            let bytes = usize::try_from(batch.record.bytes()).unwrap_or(usize::MAX);
            budget.map(|budget| budget.charge(bytes))
        };
        order.keep_at_most(hub.buffer_bytes() as u64);
        let mut member = Member {
            limits: hub.stream_limits(),
            hub: hub.clone(),
            cluster: cluster.clone(),
            past,
            reservations: publisher.unsettled().map(charge).collect(),
            order,
            publisher,
            entry: None,
            permit: None,
            passed: Passed::default(),
            standing: Standing::default(),
            successor: None,
            cut_for: None,
            there_since: None,
            logged: None,
            damaged: None,
            damaged_said: None,
        };
        member
            .hub
            .restore_member(&saved, member.publisher.unsettled());
        if member.order.is_known() {
            // As it was before the handover.
            let state = member.order.state();
            member.past.note_order(state.epoch, state.messages);
            let next = (state.epoch, state.next);
            member.hub.place(next, state.messages, None);
        } else {
            member.standing.error = Some("it is not known yet where the channel is".to_owned());
        }
        member
    }

    /// Takes part until it is to leave.
    async fn run(mut self) {
        let hub = self.hub.clone();
        let Some(sharing) = &hub.sharing else {
            return;
        };
        let mut task = sharing.task.subscribe();
        loop {
            let asked = tokio::select! {
                // What is under way is in doubt then.
                () = self.serve() => return,
                asked = task.wait_for(|task| *task != Task::Serve) => asked.map(|task| *task),
            };
            match asked {
                Ok(asked @ Task::Rest(_)) => {
                    self.save();
                    sharing.rests.lock().cancel();
                    let _ = task.wait_for(|task| *task != asked).await;
                }
                Ok(Task::Leave) | Err(_) => break,
                Ok(Task::Serve) => {}
            }
        }
        self.leave().await;
        sharing.rests.lock().cancel();
    }

    /// Sends what there is, and says that the node is gone. If neither gets there in time, others notice.
    async fn leave(&mut self) {
        let hub = self.hub.clone();
        let settled = tokio::select! {
            () = self.serve() => return,
            settled = timeout(LEAVE_TIME, hub.settle_outbox()) => settled,
        };
        let me = self.publisher.node();
        if settled.is_ok()
            && let Ok(stream) = self.open().await
        {
            let gone = Message::Gone(Gone { node: me, by: me }).encode().0;
            let _ = stream.publish(Subject::Gone, gone, None, None).await;
        }
        self.cluster.end_node(me);
    }

    /// Saves it for a handover: what waits to be sent, too.
    fn save(&mut self) {
        let mut out = Vec::new();
        self.order.go_on(&mut out);
        self.deliver(out);
        self.publisher.note_doubt();
        self.hub.outbox(Outbox::let_go);
        while let Some(outgoing) = self.hub.take_outgoing() {
            self.push(outgoing);
        }
        let saved = self.hub.save_member(SavedMember {
            node: self.publisher.node().0,
            order: self.order.save(),
            publisher: self.publisher.save(),
            ..SavedMember::default()
        });
        if let Some(sharing) = &self.hub.sharing {
            *sharing.saved.lock() = Some(saved);
        }
    }

    /// Serves, for ever.
    async fn serve(&mut self) {
        let cluster = self.cluster.clone();
        cluster.begun.cancelled().await;
        let mut backoff = Backoff::new(RETRY_TIME);
        loop {
            self.connected().await;
            let began = Instant::now();
            let Err(trouble) = self.serve_once().await;
            self.say(Some(&trouble));
            if began.elapsed() > RETRY_TIME.1 {
                backoff.reset();
            }
            sleep(backoff.pause()).await;
        }
    }

    /// Waits until there is a connection. Why there is none, the log says of all channels at once.
    async fn connected(&mut self) {
        let mut connection = self.cluster.nats.watch();
        while !connection.borrow_and_update().is_connected {
            let reason = self.cluster.nats.status().error;
            let trouble = Trouble::Away(reason.unwrap_or_else(|| "not connected yet".to_owned()));
            self.standing.error = Some(trouble.to_string());
            self.hub.note_standing(&self.standing);
            // The reason may become another, which is not said by itself.
            let waited = timeout(RETRY_TIME.1, connection.changed()).await;
            if waited.is_err() && self.order.is_known() {
                // As far as this daemon knows, nothing has come since the one before it.
                self.hub.open_shared();
            }
        }
    }

    async fn open(&mut self) -> Result<ChannelStream, Trouble> {
        // A reload may have changed them.
        self.limits = self.hub.stream_limits();
        let channel = self.hub.name();
        let opened = self.cluster.nats.open_stream(channel, self.limits).await;
        opened.map_err(|error| match error {
            StreamError::Away(error) => error.into(),
            StreamError::Differs { what: reason } | StreamError::Denied(reason) => {
                Trouble::Wrong(reason)
            }
        })
    }

    /// Connects to the stream, and serves until that fails.
    async fn serve_once(&mut self) -> Result<Infallible, Trouble> {
        // What the connection before had under way ended with it, wherever it was dropped.
        self.publisher.note_doubt();
        self.entry = None;
        let stream = self.open().await?;
        let (payload, line) = (self.cluster.nats.max_payload(), self.cluster.line_bytes_max);
        if self.hub.outbox(|outbox| outbox.fit(payload, line)) == Some(false) {
            return Err(Trouble::Wrong(format!(
                "NATS takes messages of {payload} bytes, in which no line of {line} bytes fits: lower --max-line, or \
                 raise max_payload of the NATS server"
            )));
        }
        let info = stream.info().await?;
        self.order.connected(info.id, info.last);
        self.past.connect(&stream, info).await?;
        if let Some((place, time_ms)) = self.past.last_checkpoint() {
            self.order.note_checkpoint(place);
            self.passed
                .connect(self.order.place(), place, time_ms, info);
        }
        if self.order.is_known() {
            let state = self.order.state();
            self.past.note_order(state.epoch, state.messages);
        }
        let mut from = self.order.place();
        if from == 0 {
            from = self.begin_behind(&stream, info).await?;
        }
        let mut reader = stream.read_behind(from);
        let mut connection = Connection {
            stream,
            info,
            info_at: Some(Instant::now()),
            info_place: 0,
            newcomers: self.cluster.newcomers(),
            read: from,
            lost_since: None,
            way: None,
            chore: None,
            retry: (Instant::now(), RETRY_TIME.0),
            has_warned: false,
        };
        self.standing.lag = info.last.saturating_sub(from);
        if self.order.is_known() {
            self.say(None);
        }
        let hub = self.hub.clone();
        let Some(sharing) = &hub.sharing else {
            return Err(Trouble::Wrong("it is not shared".to_owned()));
        };
        let mut look = interval(LOOK_TIME);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.send(&mut connection);
            tokio::select! {
                // Each of these has done all of what it does, or nothing.
                entry = reader.next(), if self.entry.is_none() => self.entry = Some(entry?),
                permit = hub.budget.admit(), if self.entry.is_some() || self.order.has_kept() => {
                    self.permit = Some(permit);
                    match self.order.has_kept() {
                        true => self.take_kept(&mut connection),
                        false => self.take(&mut connection)?,
                    }
                    if self.passed.becomes_much(self.limits) {
                        look.reset_immediately();
                    }
                }
                done = on(&mut connection.way) => {
                    connection.way = None;
                    self.note(&mut connection, done);
                }
                chore = on(&mut connection.chore) => {
                    connection.chore = None;
                    self.note_chore(&mut connection, chore)?;
                }
                () = sharing.queued.notified() => {}
                _ = look.tick() => self.look_after(&mut connection),
            }
        }
    }

    /// The place behind which a node reads that knows none.
    async fn begin_behind(
        &self,
        stream: &ChannelStream,
        info: StreamInfo,
    ) -> Result<u64, NatsError> {
        let entry = stream.last_checkpoint().await?;
        let message = entry.map(|entry| Message::decode(&entry.body));
        Ok(match message {
            Some(Ok(Message::Checkpoint(it))) if it.stream == info.id => it.place,
            _ => info
                .last
                .saturating_sub(UNPLACED)
                .max(info.first.saturating_sub(1)),
        })
    }

    /// Says how it stands; once in the log, if something is wrong or is no more.
    fn say(&mut self, trouble: Option<&Trouble>) {
        let channel = self.hub.name().clone();
        self.standing.error = trouble.map(Trouble::to_string);
        self.hub.note_standing(&self.standing);
        // What is said of the connection is said of all channels at once.
        let is_news = trouble.is_none_or(|_| self.cluster.nats.watch().borrow().is_connected);
        if !is_news || self.logged.as_ref() == trouble {
            return;
        }
        match trouble {
            Some(trouble) => warn!(%channel, error = %trouble, "the shared channel stands still"),
            None => info!(%channel, "the shared channel goes on"),
        }
        self.logged = trouble.cloned();
    }

    /// Says in the log that messages were passed over, if there were any.
    fn say_damaged(&mut self) {
        let said = self.damaged_said;
        let is_due = said.is_none_or(|at| at.elapsed() >= DAMAGED_TIME);
        if let Some((place, messages)) = self.damaged.take_if(|_| is_due) {
            self.damaged_said = Some(Instant::now());
            let channel = self.hub.name();
            warn!(%channel, messages, stream_seq = place, "what is damaged in the stream, or no linehub's, is passed over");
        }
    }
}

/// What a daemon before had of the order, and what it had sent.
fn restore(saved: &SavedMember) -> Option<(Order, Publisher)> {
    let node = NodeId(saved.node);
    let order = saved.order.as_ref();
    let order = order.and_then(|saved| Order::restore(node, saved));
    let order = order.unwrap_or_else(|| Order::new(node, 0));
    Some((order, Publisher::restore(node, &saved.publisher)?))
}
