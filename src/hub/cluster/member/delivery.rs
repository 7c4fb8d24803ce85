//! What comes out of the stream: published in its order, and what it means for the node itself.

use tracing::{info, warn};

use super::connection::Connection;
use super::{Member, Trouble};
use crate::hub::cluster::batch::{Gone, NodeId};
use crate::hub::cluster::here::Clients;
use crate::hub::cluster::message::{Message, Unreadable};
use crate::hub::cluster::order::Delivery;
use crate::hub::cluster::publisher::Settled;
use crate::hub::cluster::state::Claimed;
use crate::hub::history::Record;
use crate::wire::session::SessionKey;

impl Member {
    /// Takes the next message of the stream.
    pub(super) fn take(&mut self, connection: &mut Connection) -> Result<(), Trouble> {
        let Some(entry) = self.entry.take() else {
            return Ok(());
        };
        let message = match Message::decode(&entry.body) {
            Ok(message) => Some(message),
            Err(Unreadable::Damaged) => None,
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
        let mut out = Vec::new();
        self.order.go_on(&mut out);
        self.deliver(out);
        if self.order.is_known() {
            connection.lost_since = None;
            let state = self.order.state();
            self.past.note_order(state.epoch, state.messages);
            self.open_if_there(connection);
        }
        self.permit = None;
        Ok(())
    }

    /// Lets clients in, once all is published that there was, and there are numbers for them.
    pub(super) fn open_if_there(&self, connection: &Connection) {
        let is_there = self.order.is_known() && connection.read >= connection.info.last;
        if is_there && self.hub.is_opening() && self.hub.has_ids() {
            self.hub.open_shared();
        }
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
}
