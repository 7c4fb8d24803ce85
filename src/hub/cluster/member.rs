//! A node at work: between the hub of its channel and the stream.
//!
//! One task a channel takes the stream's messages in their order and publishes what counts of them, sends what the
//! clients say, and looks after the rest: checkpoints, nodes that are gone, an order to begin. Whatever goes wrong with
//! the connection, it begins again behind the last message that it took.

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::batch::{Gone, NodeId};
use super::here::Clients;
use super::message::{Message, Unreadable};
use super::nats::stream::{ChannelStream, Entry, PublishError, Stored, StreamInfo, Subject};
use super::nats::{NatsError, StreamError, StreamLimits};
use super::node::Cluster;
use super::order::{Delivery, Order};
use super::outbox::Outgoing;
use super::past::StreamPast;
use super::publisher::{Publisher, Settled, Step};
use super::saved::SavedMember;
use super::state::{Claimed, Last};
use super::stats::SharedChannelStats;
use crate::hub::ReadPermit;
use crate::hub::budget::Reservation;
use crate::hub::epoch::epoch_after;
use crate::hub::history::Record;
use crate::hub::order::Hub;
use crate::hub::sharing::Task;
use crate::wire::ids::Seq;

/// Messages between two checkpoints: what who comes late has to take before it knows where it is, at most.
const CHECKPOINT_EVERY: u64 = 4096;

/// How long nobody has said what the order is until one begins: longer than the others take to notice that a checkpoint
/// is due.
const BEGIN_TIME: Duration = Duration::from_secs(3);

/// How often it is looked whether something is due.
const LOOK_TIME: Duration = Duration::from_millis(250);

/// How often the server is asked about the stream, while something comes, and while nothing does.
const INFO_TIME: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(15));

/// How long what the server refused is left alone, and a connection that failed.
const RETRY_TIME: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

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
    /// Room for the next batch among what readers have still to take.
    permit: Option<ReadPermit>,
    standing: Standing,
    /// What was last said in the log to be wrong.
    logged: Option<String>,
}

/// How a node stands.
#[derive(Clone, Debug, Default)]
pub(in crate::hub) struct Standing {
    /// Messages of the stream that are not taken yet.
    lag: u64,
    outstanding: u64,
    error: Option<String>,
}

impl Standing {
    pub(in crate::hub) fn stats(&self, queued_bytes: u64) -> SharedChannelStats {
        SharedChannelStats {
            lag: self.lag,
            outstanding: self.outstanding,
            queued_bytes,
            error: self.error.clone(),
        }
    }
}

/// What is under way for a batch: it is sent, or looked for.
enum Done {
    Sent(NodeId, u64, Result<Stored, PublishError>),
    Found(Result<Option<Entry>, NatsError>),
}

/// What is under way beside that.
enum Chore {
    Info(Result<StreamInfo, NatsError>),
    Sent,
}

/// What a connection to the stream has.
struct Connection {
    stream: ChannelStream,
    info: StreamInfo,
    /// When that was asked for; `None`: it is to be asked for anew.
    info_at: Option<Instant>,
    /// Place of the order when that was asked for.
    info_place: u64,
    /// All up to here was taken, or is of no use.
    read: u64,
    /// Since when all there is was taken, and still it is not known what it means.
    lost_since: Option<Instant>,
    way: Option<BoxFuture<'static, Done>>,
    chore: Option<BoxFuture<'static, Chore>>,
    retry: (Instant, Duration),
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
        self.is_opening
            .store(true, std::sync::atomic::Ordering::Release);
        let member = Member::new(self, cluster, sharing.past.clone());
        *sharing.rests.lock() = CancellationToken::new();
        tokio::spawn(member.run());
    }
}

impl Member {
    fn new(hub: &Arc<Hub>, cluster: &Arc<Cluster>, past: Arc<StreamPast>) -> Member {
        let saved = hub.sharing.as_ref().and_then(|it| it.saved.lock().take());
        let restored = saved.and_then(|saved| Some((restore(&saved)?, saved)));
        let ((order, publisher), saved) = restored.unwrap_or_else(|| {
            let node = cluster.new_node();
            let order = Order::new(node, 0);
            ((order, Publisher::new(node)), SavedMember::default())
        });
        cluster.add_node(publisher.node());
        let mut member = Member {
            limits: hub.stream_limits(),
            hub: hub.clone(),
            cluster: cluster.clone(),
            past,
            reservations: publisher.unsettled().map(|_| None).collect(),
            order,
            publisher,
            permit: None,
            standing: Standing::default(),
            logged: None,
        };
        member
            .hub
            .restore_member(&saved, member.publisher.unsettled());
        if member.order.is_known() {
            // As it was before the handover.
            let state = member.order.state();
            member.past.note_order(state.epoch, state.messages);
            member
                .hub
                .place((state.epoch, state.next), state.messages, None);
            member.hub.open_shared();
        } else {
            member.say(Some("it is not known yet where the channel is".to_owned()));
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
                // Whatever it waits for, it has done all of or nothing.
                () = self.serve() => return,
                asked = task.wait_for(|task| *task != Task::Serve) => asked.map(|task| *task),
            };
            match asked {
                Ok(Task::Rest) => {
                    self.save();
                    sharing.rests.lock().cancel();
                    let _ = task.wait_for(|task| *task != Task::Rest).await;
                    *sharing.rests.lock() = CancellationToken::new();
                }
                Ok(Task::Leave) | Err(_) => break,
                Ok(Task::Serve) => {}
            }
        }
        self.leave().await;
        sharing.rests.lock().cancel();
    }

    /// Sends what there is, and says that the node is gone.
    async fn leave(&mut self) {
        let hub = self.hub.clone();
        tokio::select! {
            () = self.serve() => {}
            () = hub.settle_outbox() => {}
        }
        let me = self.publisher.node();
        let gone = Message::Gone(Gone { node: me, by: me }).encode().0;
        if let Ok(stream) = self.open().await {
            // If it does not get there, others notice.
            let _ = stream.publish(Subject::Gone, gone, None, None).await;
        }
        self.cluster.end_node(me);
    }

    /// Saves it for a handover: what waits to be sent, too.
    fn save(&mut self) {
        self.publisher.note_doubt();
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
        let mut pause = RETRY_TIME.0;
        loop {
            let began = Instant::now();
            let Err(error) = self.serve_once().await;
            self.publisher.note_doubt();
            self.permit = None;
            self.say(Some(error));
            if began.elapsed() > RETRY_TIME.1 {
                pause = RETRY_TIME.0;
            }
            let jitter = 0.5 + f64::from(getrandom::u32().unwrap_or(0)) / f64::from(u32::MAX);
            tokio::time::sleep(pause.mul_f64(jitter)).await;
            pause = (2 * pause).min(RETRY_TIME.1);
        }
    }

    async fn open(&mut self) -> Result<ChannelStream, String> {
        let channel = self.hub.name();
        match self.cluster.nats.open_stream(channel, self.limits).await {
            Ok(stream) => Ok(stream),
            Err(StreamError::Away(error)) => Err(format!("NATS is away: {error}")),
            Err(StreamError::Differs { what }) => Err(what),
            Err(StreamError::Denied(reason)) => Err(reason),
        }
    }

    /// Connects to the stream, and serves until that fails.
    async fn serve_once(&mut self) -> Result<std::convert::Infallible, String> {
        let stream = self.open().await?;
        let (payload, line) = (self.cluster.nats.max_payload(), self.cluster.line_bytes_max);
        if self.hub.outbox(|outbox| outbox.fit(payload, line)) == Some(false) {
            return Err(format!(
                "NATS takes messages of {payload} bytes, in which no line of {line} bytes fits: lower --max-line, or \
                 raise max_payload of the NATS server"
            ));
        }
        let away = |error: NatsError| format!("NATS is away: {error}");
        let info = stream.info().await.map_err(away)?;
        self.order.connected(info.id, info.last);
        self.past.connect(&stream, info);
        if self.past.needs_checkpoints() {
            for entry in stream.checkpoints().await.map_err(away)? {
                if let Ok(Message::Checkpoint(checkpoint)) = Message::decode(&entry.body) {
                    self.past.note_checkpoint(entry.time_ms, &checkpoint);
                }
            }
        }
        let mut from = self.order.place();
        if from == 0 {
            from = self.begin_behind(&stream, info).await.map_err(away)?;
        }
        let mut reader = stream.read_behind(from);
        let mut connection = Connection {
            stream,
            info,
            info_at: Some(Instant::now()),
            info_place: 0,
            read: from,
            lost_since: None,
            way: None,
            chore: None,
            retry: (Instant::now(), RETRY_TIME.0),
        };
        self.standing.lag = info.last.saturating_sub(from);
        if self.order.is_known() {
            self.say(None);
        }
        let hub = self.hub.clone();
        let Some(sharing) = &hub.sharing else {
            return Err("it is not shared".to_owned());
        };
        let mut look = tokio::time::interval(LOOK_TIME);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            self.send(&mut connection);
            tokio::select! {
                // Each of these has done all of what it does, or nothing.
                permit = hub.admit_delivery(), if self.permit.is_none() => self.permit = Some(permit),
                entry = reader.next(), if self.permit.is_some() => {
                    self.take(&mut connection, entry.map_err(away)?)?;
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

    /// Takes the next message of the stream.
    fn take(&mut self, connection: &mut Connection, entry: Entry) -> Result<(), String> {
        let message = match Message::decode(&entry.body) {
            Ok(message) => Some(message),
            Err(Unreadable::Damaged) => None,
            Err(Unreadable::Version(version)) => {
                return Err(format!(
                    "a newer linehub shares the channel (version {version} of its messages): update this one"
                ));
            }
        };
        if let Some(Message::Checkpoint(checkpoint)) = &message {
            self.past.note_checkpoint(entry.time_ms, checkpoint);
        }
        connection.read = entry.place;
        self.standing.lag = entry.pending;
        let mut out = Vec::new();
        self.order
            .apply(entry.place, entry.time_ms, message, &mut out);
        self.deliver(out);
        let mut out = Vec::new();
        self.order.go_on(&mut out);
        self.deliver(out);
        if self.order.is_known() {
            connection.lost_since = None;
            if self.hub.is_opening() && connection.read >= connection.info.last {
                self.hub.open_shared();
            }
            let state = self.order.state();
            self.past.note_order(state.epoch, state.messages);
        }
        Ok(())
    }

    fn deliver(&mut self, out: Vec<Delivery>) {
        for delivery in out {
            match delivery {
                Delivery::Placed {
                    epoch,
                    next,
                    missed,
                } => {
                    let missed = missed.map(|(_, messages)| messages);
                    let messages = self.order.state().messages;
                    if missed.is_none_or(|missed| missed > 0) {
                        info!(channel = %self.hub.name(), %epoch, next = next.0, missed, "the order goes on here");
                    }
                    self.hub.place((epoch, next), messages, missed);
                    self.placed();
                    self.say(None);
                }
                Delivery::Batch {
                    node,
                    number,
                    crc,
                    record,
                } => self.batch(node, number, crc, &record),
                Delivery::Claimed(claimed) => {
                    let is_own = claimed.node == self.publisher.node();
                    self.hub.note_claimed(&claimed, is_own);
                }
                Delivery::Gone { gone, clients } => self.gone(gone, &clients),
            }
        }
    }

    fn batch(&mut self, node: NodeId, number: u64, crc: u32, record: &Record) {
        let settled = self.publisher.settle(node, number, crc);
        let permit = self.permit.take();
        self.hub.deliver(record, settled == Settled::Own, permit);
        match settled {
            Settled::Own => self.settled(1),
            Settled::Other => self.hub.see_notices(record),
            Settled::Twin => {
                warn!(channel = %self.hub.name(), "another process is the same node: this one goes on as another");
                self.renew(&Clients::new());
                self.hub.see_notices(record);
            }
        }
    }

    /// So many batches are in the order.
    fn settled(&mut self, batches: usize) {
        self.reservations.drain(..batches);
        let left = self.reservations.len();
        self.standing.outstanding = left as u64;
        self.hub.note_outstanding(left);
    }

    /// It is known where the order is, after it was not.
    fn placed(&mut self) {
        let me = self.publisher.node();
        let last = self.order.state().last_of(me);
        let (counted, settled) = self.publisher.place(last);
        for batch in &counted {
            self.order.note_own(&batch.record);
        }
        self.settled(counted.len());
        let claims = counted.into_iter().flat_map(|batch| batch.claims);
        for claim in claims.filter(|it| !it.is_given_up) {
            let taken = self.owned(&claim.name, claim.number);
            let claimed = Claimed {
                node: me,
                claim: claim.number,
                name: claim.name,
                taken,
            };
            self.hub.note_claimed(&claimed, true);
        }
        if self.order.state().is_gone(me) {
            let left = self.order.leave();
            self.renew(&left);
        } else if settled == Settled::Twin {
            self.renew(&Clients::new());
        }
        let order = &self.order;
        let me = self.publisher.node();
        self.hub.note_sessions(|name, claim| {
            let session = order.state().sessions.get(name);
            let session = session.filter(|it| it.owner == Some((me, claim)));
            session.map(|session| session.taken)
        });
    }

    /// What was taken of a session, if it is this node's by this claim.
    fn owned(&self, name: &crate::wire::session::SessionKey, claim: u64) -> Option<u64> {
        let session = self.order.state().sessions.get(name);
        let owner = Some((self.publisher.node(), claim));
        let session = session.filter(|session| session.owner == owner);
        session.map(|session| session.taken)
    }

    fn gone(&mut self, gone: Gone, clients: &Clients) {
        let me = self.publisher.node();
        if gone.node == me {
            warn!(channel = %self.hub.name(), by = %gone.by, "another node says that this one is gone: it goes on as another");
            self.renew(clients);
        } else if gone.by == me {
            info!(channel = %self.hub.name(), node = %gone.node, clients = clients.len(), "a node is gone");
            self.hub.inherit(clients);
        }
    }

    /// Goes on as another node.
    fn renew(&mut self, left: &Clients) {
        self.cluster.end_node(self.publisher.node());
        let node = self.cluster.new_node();
        self.publisher.renew(node, left);
        self.order.rename(node);
        self.hub.renew(left);
    }

    fn push(&mut self, outgoing: Outgoing) {
        let Outgoing {
            claims,
            record,
            claimed_by,
            reservation,
        } = outgoing;
        self.reservations.push_back(reservation);
        self.standing.outstanding = self.reservations.len() as u64;
        self.publisher.push(claims, record, claimed_by);
    }

    /// Sends what is to be sent, if the last has got there.
    fn send(&mut self, connection: &mut Connection) {
        if !self.order.is_known() {
            return;
        }
        if self.publisher.is_free()
            && let Some(outgoing) = self.hub.take_outgoing()
        {
            self.push(outgoing);
        }
        if connection.way.is_some() || connection.retry.0 > Instant::now() {
            return;
        }
        let node = self.publisher.node();
        let stream = connection.stream.clone();
        connection.way = match self.publisher.next(self.order.place()) {
            Step::Send { number, body } => {
                let id = Some(format!("{node}-{number}"));
                let sent = async move {
                    let sent = stream.publish(Subject::Batch(node), body, id, None).await;
                    Done::Sent(node, number, sent)
                };
                Some(sent.boxed())
            }
            Step::Look => {
                let found = async move { Done::Found(stream.last_batch_of(node).await) };
                Some(found.boxed())
            }
            Step::Wait => None,
        };
    }

    fn note(&mut self, connection: &mut Connection, done: Done) {
        let failed = match done {
            Done::Sent(node, number, Ok(Stored::At(place))) => {
                self.publisher.note_stored(node, number, place);
                None
            }
            Done::Sent(.., Ok(Stored::Duplicate)) => {
                self.publisher.note_doubt();
                None
            }
            Done::Sent(.., Err(error)) => {
                self.publisher.note_doubt();
                Some(match error {
                    PublishError::NotLast => "the server expected another message".to_owned(),
                    PublishError::Refused(reason) => {
                        format!("NATS refuses what is sent: {reason}")
                    }
                    PublishError::Unknown(reason) => format!("NATS is away: {reason}"),
                })
            }
            Done::Found(Ok(entry)) => {
                let place = entry.as_ref().map_or(0, |entry| entry.place);
                let last = match entry.map(|entry| Message::decode(&entry.body)) {
                    Some(Ok(Message::Batch(batch))) => Last {
                        number: batch.number,
                        crc: batch.crc,
                    },
                    _ => Last::default(),
                };
                let read = self.order.place();
                self.publisher.note_found(last, place, read);
                None
            }
            Done::Found(Err(error)) => Some(format!("NATS is away: {error}")),
        };
        match failed {
            None => {
                connection.retry = (Instant::now(), RETRY_TIME.0);
                if self.standing.error.is_some() {
                    self.say(None);
                }
            }
            Some(error) => {
                let pause = connection.retry.1;
                connection.retry = (Instant::now() + pause, (2 * pause).min(RETRY_TIME.1));
                self.say(Some(error));
            }
        }
    }

    fn note_chore(&mut self, connection: &mut Connection, chore: Chore) -> Result<(), String> {
        match chore {
            Chore::Info(Ok(info)) => {
                if info.id != connection.info.id {
                    return Err("the stream was deleted and made anew".to_owned());
                }
                (connection.info, connection.info_at) = (info, Some(Instant::now()));
                connection.info_place = self.order.place();
                self.past.note_info(info);
                Ok(())
            }
            Chore::Info(Err(error)) => Err(format!("NATS is away: {error}")),
            // What it was for is still due, or is not any more.
            Chore::Sent => {
                connection.info_at = None;
                Ok(())
            }
        }
    }

    /// Does what is due beside sending and taking.
    fn look_after(&mut self, connection: &mut Connection) {
        self.hub.note_standing(&self.standing);
        if connection.chore.is_some() {
            return;
        }
        let stream = connection.stream.clone();
        let send = |subject, message: &Message, id, expected| {
            let body = message.encode().0;
            async move {
                // Whatever came of it is to be seen in the stream.
                let _ = stream.publish(subject, body, id, expected).await;
                Chore::Sent
            }
            .boxed()
        };
        let info = connection.info;
        if self.order.is_known() {
            let me = self.publisher.node();
            let nodes = self.order.state().nodes.keys();
            let silent = nodes.copied().filter(|node| *node != me);
            if let Some(node) = silent
                .into_iter()
                .find(|node| self.cluster.is_silent(*node))
            {
                let gone = Message::Gone(Gone { node, by: me });
                let id = Some(format!("gone-{node}-{me}"));
                connection.chore = Some(send(Subject::Gone, &gone, id, None));
                return;
            }
            if self.order.is_checkpoint_due(info.first, CHECKPOINT_EVERY) {
                let oldest = self.past.oldest().unwrap_or(Seq(0));
                if let Some(checkpoint) = self.order.checkpoint(oldest) {
                    let (last, first) = (self.order.last_checkpoint(), info.first);
                    // All who come upon it at once send one.
                    let id = Some(format!("checkpoint-{}-{last}-{first}", info.id));
                    let checkpoint = Message::Checkpoint(Box::new(checkpoint));
                    connection.chore = Some(send(Subject::Checkpoint, &checkpoint, id, None));
                    return;
                }
            }
        } else if connection.read >= info.last {
            let since = *connection.lost_since.get_or_insert_with(Instant::now);
            // In a stream that never had a message, nobody knows more.
            if info.last == 0 || since.elapsed() >= BEGIN_TIME {
                let epoch = epoch_after(self.order.state().epoch);
                let beginning =
                    Message::Checkpoint(Box::new(self.order.beginning(info.last, epoch)));
                let last = Some(info.last);
                connection.chore = Some(send(Subject::Checkpoint, &beginning, None, last));
                connection.lost_since = None;
                return;
            }
        }
        let is_moving = self.order.place() != connection.info_place || !self.order.is_known();
        let pause = if is_moving { INFO_TIME.0 } else { INFO_TIME.1 };
        if connection.info_at.is_none_or(|at| at.elapsed() >= pause) {
            let stream = connection.stream.clone();
            connection.chore = Some(async move { Chore::Info(stream.info().await) }.boxed());
        }
    }

    /// Says how it stands; once in the log, if something is wrong or is no more.
    fn say(&mut self, error: Option<String>) {
        let channel = self.hub.name().clone();
        let before = mem::replace(&mut self.logged, error.clone());
        match (&before, &error) {
            (Some(before), Some(error)) if before == error => {}
            (_, Some(error)) => error!(%channel, %error, "the shared channel stands still"),
            (Some(_), None) => info!(%channel, "the shared channel goes on"),
            (None, None) => {}
        }
        self.standing.error = error;
        self.hub.note_standing(&self.standing);
    }
}

/// What a daemon before had of the order, and what it had sent.
fn restore(saved: &SavedMember) -> Option<(Order, Publisher)> {
    let node = NodeId(saved.node);
    let order = Order::restore(node, saved.order.as_ref()?)?;
    Some((order, Publisher::restore(node, &saved.publisher)?))
}

/// What is under way, when it is done.
async fn on<T>(way: &mut Option<BoxFuture<'static, T>>) -> T {
    match way {
        Some(way) => way.await,
        None => std::future::pending().await,
    }
}
