//! What comes out of the stream: published in its order, and what it means for the node itself.

use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::connection::Connection;
use super::{Member, Trouble};
use crate::hub::cluster::batch::{Gone, NodeId};
use crate::hub::cluster::here::Clients;
use crate::hub::cluster::message::{Message, Unreadable};
use crate::hub::cluster::order::Delivery;
use crate::hub::cluster::outbox::{Outbox, Outgoing};
use crate::hub::cluster::publisher::Settled;
use crate::hub::cluster::state::Claimed;
use crate::hub::history::Record;
use crate::wire::session::SessionKey;

/// How long who comes first waits for a number that no client of another daemon has. Those that are drawn by lot are
/// as good, but longer.
const IDS_TIME: Duration = Duration::from_secs(5);

impl Member {
    /// Takes the next message of the stream.
    pub(super) fn take(&mut self, connection: &mut Connection) -> Result<(), Trouble> {
        let Some(entry) = self.entry.take() else {
            return Ok(());
        };
        let message = match Message::decode(&entry.body) {
            Ok(message) => Some(message),
            Err(Unreadable::Damaged) => {
                let before = self.damaged.map_or(0, |(_, messages)| messages);
                self.damaged = Some((entry.place, before + 1));
                None
            }
            Err(Unreadable::Version(version)) => {
                return Err(Trouble::Wrong(format!(
                    "a newer linehub shares the channel (version {version} of its messages): update this one"
                )));
            }
        };
        if let Some(Message::Checkpoint(checkpoint)) = &message {
            self.past.note_checkpoint(entry.time_ms, checkpoint);
        }
        connection.read = entry.place;
        self.standing.lag = entry.pending;
        let checkpoint = self.order.last_checkpoint();
        let mut out = Vec::new();
        self.order
            .apply(entry.place, entry.time_ms, message, &mut out);
        let is_checkpoint = self.order.last_checkpoint() != checkpoint;
        self.passed.note(&entry, is_checkpoint);
        self.deliver(out);
        self.went_on(connection);
        Ok(())
    }

    /// Takes the next message of what was kept until it was known where it is.
    pub(super) fn take_kept(&mut self, connection: &mut Connection) {
        let mut out = Vec::new();
        self.order.go_on_once(&mut out);
        self.deliver(out);
        self.went_on(connection);
    }

    fn went_on(&mut self, connection: &mut Connection) {
        if self.order.is_known() {
            connection.lost_since = None;
            let state = self.order.state();
            self.past.note_order(state.epoch, state.messages);
            self.open_if_there(connection);
        }
        self.permit = None;
    }

    /// Lets clients in, once all is published that there was, and there are numbers for them; or, for some time, none.
    pub(super) fn open_if_there(&mut self, connection: &Connection) {
        let is_there = self.order.is_known() && connection.read >= connection.info.last;
        if !is_there || !self.hub.is_opening() {
            return;
        }
        let since = *self.there_since.get_or_insert_with(Instant::now);
        if self.hub.has_ids() || since.elapsed() >= IDS_TIME {
            self.there_since = None;
            self.goes_on();
            self.hub.open_shared();
        } else if let Some(error) = self.cluster.ids_error() {
            self.standing.error = Some(format!("there are no numbers for clients yet: {error}"));
        }
    }

    pub(super) fn deliver(&mut self, out: Vec<Delivery>) {
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
                    // What another node was to say may be in what was missed.
                    self.hub.outbox(Outbox::let_go);
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
        self.hub.see_ids(record);
        let permit = self.permit.take();
        self.hub.deliver(record, settled == Settled::Own, permit);
        match settled {
            Settled::Own => {
                self.settled(1);
                self.goes_on();
            }
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
            // They are delivered to nobody here, and are in the stream all the same.
            self.hub.note_shared(&batch.record);
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
            let (nodes, none) = (&self.order.state().nodes, Clients::new());
            let is_own = self.successor.is_some_and(|it| nodes.contains_key(&it));
            self.renew(if is_own { &none } else { &left });
        } else if settled == Settled::Twin {
            self.renew(&Clients::new());
        }
        self.hub
            .note_sessions(|name, claim| self.owned(name, claim));
    }

    /// What was taken of a session, if it is this node's by this claim.
    fn owned(&self, name: &SessionKey, claim: u64) -> Option<u64> {
        let session = self.order.state().sessions.get(name);
        let owner = Some((self.publisher.node(), claim));
        let session = session.filter(|session| session.owner == owner);
        session.map(|session| session.taken)
    }

    fn gone(&mut self, gone: Gone, clients: &Clients) {
        let me = self.publisher.node();
        if gone.node == me {
            if Some(gone.by) == self.successor {
                // It is on this daemon still to say that they leave.
                return self.renew(&Clients::new());
            }
            warn!(channel = %self.hub.name(), by = %gone.by, "another node says that this one is gone: it goes on as another");
            self.renew(clients);
        } else if gone.by == me {
            info!(channel = %self.hub.name(), node = %gone.node, clients = clients.len(), "a node is gone");
            self.hub.inherit(clients);
        }
    }

    /// Goes on as another node.
    pub(super) fn renew(&mut self, left: &Clients) {
        self.cluster.end_node(self.publisher.node());
        let successor = self.successor.take();
        let node = successor.unwrap_or_else(|| self.cluster.new_node());
        let unsent = self.publisher.renew(node);
        let unsent = unsent.zip(self.reservations.drain(..));
        let unsent = unsent.map(|(batch, reservation)| Outgoing {
            reservation,
            ..batch.into()
        });
        let unsent: Vec<_> = unsent.collect();
        self.hub.outbox(|outbox| outbox.put_back(unsent));
        self.order.rename(node);
        self.hub.renew(left);
        self.settled(0);
    }
}
