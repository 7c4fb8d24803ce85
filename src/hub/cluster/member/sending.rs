//! What goes into the stream: batches one by one, and beside them what is due now and then.

use std::mem;
use std::time::{Duration, Instant};

use futures::FutureExt;
use tracing::warn;

use super::connection::{Chore, Connection, Done};
use super::{Member, RETRY_TIME, Trouble};
use crate::hub::cluster::batch::Gone;
use crate::hub::cluster::here::Clients;
use crate::hub::cluster::message::Message;
use crate::hub::cluster::nats::StreamError;
use crate::hub::cluster::nats::names::Subject;
use crate::hub::cluster::nats::stream::{PublishError, Stored, StreamInfo};
use crate::hub::cluster::outbox::Outgoing;
use crate::hub::cluster::publisher::Step;
use crate::hub::cluster::state::Last;
use crate::hub::epoch::epoch_after;
use crate::wire::ids::Seq;

/// Messages between two checkpoints: what who comes late has to take before it knows where it is, at most; and, if those
/// are much of what the stream keeps, at least: the last checkpoint and something else.
const CHECKPOINT_EVERY: u64 = 4096;
const CHECKPOINT_EVERY_MIN: u64 = 2;

/// How long nobody has said what the order is until one begins: with no other daemon there, long enough to hear of one;
/// with others, longer than they take to notice that a checkpoint is due, even if nothing comes and the server is slow.
const BEGIN_TIME: (Duration, Duration) = (Duration::from_secs(3), Duration::from_secs(25));

/// Bytes of a message's headers, at most.
const HEADER_BYTES: usize = 256;

/// How often the server is asked about the stream, while something comes, and while nothing does.
const INFO_TIME: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(15));

impl Member {
    pub(super) fn push(&mut self, outgoing: Outgoing) {
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

    /// Bytes of a message that NATS takes, beside its headers.
    pub(super) fn body_bytes_max(&self) -> usize {
        let payload = self.cluster.nats.max_payload();
        payload.saturating_sub(HEADER_BYTES)
    }

    /// Sends what is to be sent, if the last has got there.
    pub(super) fn send(&mut self, connection: &mut Connection) {
        if !self.order.is_known() || self.successor.is_some() {
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
            Step::Send {
                number,
                body,
                has_id,
            } => {
                let id = has_id.then(|| format!("{node}-{number}"));
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

    pub(super) fn note(&mut self, connection: &mut Connection, done: Done) {
        // Only what got there shows that nothing is wrong: that it was not found is no answer to that.
        let got_there = match done {
            Done::Sent(node, number, Ok(Stored::At(place))) => {
                self.publisher.note_stored(node, number, place);
                Ok(true)
            }
            Done::Sent(node, number, Ok(Stored::Duplicate)) => {
                self.publisher.note_duplicate(node, number);
                Ok(false)
            }
            // It has come back before its answer.
            Done::Sent(node, number, Err(_)) if !self.publisher.is_on_way(node, number) => Ok(true),
            Done::Sent(.., Err(error)) => {
                self.publisher.note_doubt();
                Err(match error {
                    PublishError::NotLast => Trouble::Away("another message came first".to_owned()),
                    PublishError::Refused(reason) => {
                        Trouble::Wrong(format!("NATS refuses what is sent: {reason}"))
                    }
                    PublishError::Unknown(reason) => Trouble::Away(reason),
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
                let is_there = self.publisher.note_found(last, place, read);
                let bytes_max = self.body_bytes_max();
                if self.publisher.is_stuck(bytes_max)
                    && self.cut_for.replace(bytes_max) != Some(bytes_max)
                {
                    self.cut_anew();
                }
                Ok(is_there)
            }
            Done::Found(Err(error)) => Err(error.into()),
        };
        match got_there {
            Ok(true) => {
                connection.retry = (Instant::now(), RETRY_TIME.0);
                self.goes_on();
            }
            Ok(false) => {}
            Err(trouble) => {
                let pause = connection.retry.1;
                connection.retry = (Instant::now() + pause, (2 * pause).min(RETRY_TIME.1));
                self.say(Some(&trouble));
            }
        }
    }

    /// What is to be sent again is more than NATS takes, since that was lowered. A batch that may be counted is not to be
    /// sent as another: first this node is to be gone.
    fn cut_anew(&mut self) {
        warn!(channel = %self.hub.name(), "NATS takes smaller messages than before: this node goes on as another, with what it had sent");
        let me = self.publisher.node();
        self.successor = Some(self.cluster.new_node());
        if !self.order.state().nodes.contains_key(&me) {
            // Nobody knows of it.
            self.renew(&Clients::new());
        }
    }

    /// Something of its own got there.
    pub(super) fn goes_on(&mut self) {
        if self.standing.error.is_some() {
            self.say(None);
        }
    }

    pub(super) fn note_chore(
        &mut self,
        connection: &mut Connection,
        chore: Chore,
    ) -> Result<(), Trouble> {
        match chore {
            Chore::Info(Ok(info)) => {
                if info.id != connection.info.id {
                    return Err(Trouble::Wrong(
                        "the stream was deleted and made anew".to_owned(),
                    ));
                }
                (connection.info, connection.info_at) = (info, Some(Instant::now()));
                connection.info_place = self.order.place();
                // Nothing else says how far behind it is while it takes nothing.
                self.standing.lag = info.last.saturating_sub(connection.read);
                self.past.note_info(info);
                Ok(())
            }
            Chore::Info(Err(error)) => Err(error.into()),
            // What it was for is still due, or is not any more.
            Chore::Sent => {
                connection.info_at = None;
                Ok(())
            }
            Chore::Compared(error) => {
                if let Some(StreamError::Differs { what }) = error {
                    warn!(channel = %self.hub.name(), what, "the stream keeps what it did before the reload, and no new connection to it is used until they agree");
                }
                Ok(())
            }
        }
    }

    /// Whether a checkpoint is due in a stream that has this.
    pub(super) fn is_checkpoint_due(&self, info: StreamInfo) -> bool {
        let every = match self.passed.is_much(self.limits) {
            true => CHECKPOINT_EVERY_MIN,
            false => CHECKPOINT_EVERY,
        };
        self.order.is_checkpoint_due(info.first, every)
    }

    /// Does what is due beside sending and taking.
    pub(super) fn look_after(&mut self, connection: &mut Connection) {
        self.open_if_there(connection);
        self.hub.note_standing(&self.standing);
        self.say_damaged();
        let is_read = self.standing.lag == 0 && self.entry.is_none() && !self.order.has_kept();
        self.hub.outbox(|outbox| outbox.note_look(is_read));
        if connection.chore.is_some() {
            return;
        }
        let limits = self.hub.stream_limits();
        if std::mem::replace(&mut self.limits, limits) != limits {
            let (nats, channel) = (self.cluster.nats.clone(), self.hub.name().clone());
            let compared = async move {
                let opened = nats.open_stream(&channel, limits).await;
                Chore::Compared(opened.err())
            };
            connection.chore = Some(compared.boxed());
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
            if let Some(successor) = self.successor {
                let gone = Message::Gone(Gone {
                    node: me,
                    by: successor,
                });
                connection.chore = Some(send(Subject::Gone, &gone, None, None));
                return;
            }
            let nodes = self.order.state().nodes.keys();
            let mut others = nodes.copied().filter(|node| *node != me);
            if let Some(node) = others.find(|node| self.cluster.is_silent(*node)) {
                let gone = Message::Gone(Gone { node, by: me });
                let id = Some(format!("gone-{node}-{me}"));
                connection.chore = Some(send(Subject::Gone, &gone, id, None));
                return;
            }
            if self.is_checkpoint_due(info) {
                let oldest = self.past.oldest().unwrap_or(Seq(0));
                if let Some(checkpoint) = self.order.checkpoint(oldest) {
                    let last = self.order.last_checkpoint();
                    // All who come upon it at once send one; and another, if that one has left the stream unread.
                    let first = Some(info.first).filter(|first| last + 1 < *first);
                    let first = first.unwrap_or(0);
                    let id = Some(format!("checkpoint-{}-{last}-{first}", info.id));
                    let checkpoint = Message::Checkpoint(Box::new(checkpoint));
                    let bytes = checkpoint.encode().0.len();
                    if bytes <= self.body_bytes_max() {
                        connection.chore = Some(send(Subject::Checkpoint, &checkpoint, id, None));
                        return;
                    }
                    if !mem::replace(&mut connection.has_warned, true) {
                        warn!(channel = %self.hub.name(), bytes, "a checkpoint is larger than what NATS takes, and nobody who comes knows where the channel is: raise max_payload of the NATS server");
                    }
                }
            }
        } else if connection.read >= info.last && !self.order.has_kept() {
            let since = *connection.lost_since.get_or_insert_with(Instant::now);
            // In a stream that never had a message, or lost what it had, nobody knows more.
            let nobody_knows = self.order.has_lost() || self.cluster.is_alone(BEGIN_TIME.0);
            let pause = if nobody_knows {
                BEGIN_TIME.0
            } else {
                BEGIN_TIME.1
            };
            if info.last == 0 || since.elapsed() >= pause {
                let epoch = epoch_after(self.order.state().epoch);
                let beginning =
                    Message::Checkpoint(Box::new(self.order.beginning(info.last, epoch)));
                let last = Some(info.last);
                connection.chore = Some(send(Subject::Checkpoint, &beginning, None, last));
                connection.lost_since = None;
                return;
            }
        }
        let is_moving = self.order.place() != connection.info_place
            || !self.order.is_known()
            || self.entry.is_some();
        let pause = if is_moving { INFO_TIME.0 } else { INFO_TIME.1 };
        let newcomers = self.cluster.newcomers();
        if connection.newcomers != newcomers {
            // They may need a checkpoint, and not find any.
            (connection.newcomers, connection.info_at) = (newcomers, None);
        }
        if connection.info_at.is_none_or(|at| at.elapsed() >= pause) {
            let stream = connection.stream.clone();
            connection.chore = Some(async move { Chore::Info(stream.info().await) }.boxed());
        }
    }
}
