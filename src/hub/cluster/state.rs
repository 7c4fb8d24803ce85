//! What follows from the stream alone: the same on every node that knows it, message by message.

use std::collections::{BTreeMap, VecDeque};

use super::batch::{Batch, Claim, Gone, NodeId};
use crate::hub::history::Record;
use crate::wire::ids::{Epoch, Seq};
use crate::wire::session::SessionKey;

/// Sessions of one channel at most: a checkpoint with as many fits into 512 KiB, half of what a NATS server takes as
/// one message by default.
pub(crate) const SESSIONS_MAX: usize = 4096;

/// Nodes at most, and nodes that are remembered as gone: 22 bytes of a checkpoint for each.
pub(crate) const NODES_MAX: usize = 1024;

/// What is known behind one message of the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) epoch: Epoch,
    /// The number that comes next.
    pub(crate) next: Seq,
    /// Messages that were given a number.
    pub(crate) messages: u64,
    /// The last batch of each node: one that is not above it was counted before.
    pub(crate) nodes: BTreeMap<NodeId, Last>,
    /// The same of nodes that are gone, the last of them at the end: nothing more of theirs counts.
    pub(crate) gone: VecDeque<(NodeId, Last)>,
    pub(crate) sessions: BTreeMap<SessionKey, Session>,
}

/// The last batch that was counted of a node: its number, 0 if there is none, and its checksum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Last {
    pub(crate) number: u64,
    pub(crate) crc: u32,
}

/// A session: what one sender has published over all its connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Session {
    /// Lines that were taken of it.
    pub(crate) taken: u64,
    /// The last number that it was given.
    pub(crate) last: Seq,
    /// Whose lines count: of the last claim. `None`: nobody's, and it is forgotten with its lines.
    pub(crate) owner: Option<(NodeId, u64)>,
}

/// A claim has come to its place in the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claimed {
    pub(crate) node: NodeId,
    pub(crate) claim: u64,
    pub(crate) name: SessionKey,
    /// What the session has published before; `None`: it is not granted, there are too many.
    pub(crate) taken: Option<u64>,
}

impl State {
    /// Behind the beginning of an order.
    pub(crate) fn new(epoch: Epoch) -> State {
        State {
            epoch,
            next: Seq(1),
            messages: 0,
            nodes: BTreeMap::new(),
            gone: VecDeque::new(),
            sessions: BTreeMap::new(),
        }
    }

    /// The same in another epoch: who sent, what was taken of sessions and whose they are stays. Its numbers go on where
    /// this node was, so that they rise for who stays connected.
    pub(crate) fn in_epoch(mut self, epoch: Epoch) -> State {
        self.epoch = epoch;
        for session in self.sessions.values_mut() {
            session.last = Seq(0);
        }
        self
    }

    /// The last batch that was counted of a node, gone or not.
    pub(crate) fn last_of(&self, node: NodeId) -> Last {
        let gone = || self.gone.iter().find(|(gone, _)| *gone == node);
        let last = self.nodes.get(&node).copied();
        let last = last.or_else(|| gone().map(|(_, last)| *last));
        last.unwrap_or_default()
    }

    pub(crate) fn is_gone(&self, node: NodeId) -> bool {
        self.gone.iter().any(|(gone, _)| *gone == node)
    }

    /// Counts a batch: its claims, and what of its record counts, with its numbers. `None`: none of it does, as it was
    /// counted before, or its node is gone.
    pub(super) fn batch(&mut self, batch: Batch) -> Option<(Vec<Claimed>, Record)> {
        let last = self.last_of(batch.node);
        let follows = batch.number > last.number && batch.before == last.crc;
        if !follows || self.is_gone(batch.node) {
            return None;
        }
        if self.nodes.len() == NODES_MAX && !self.nodes.contains_key(&batch.node) {
            return None;
        }
        let last = Last {
            number: batch.number,
            crc: batch.crc,
        };
        self.nodes.insert(batch.node, last);
        let (given_up, claims): (Vec<_>, Vec<_>) = batch
            .claims
            .into_iter()
            .partition(|claim| claim.is_given_up);
        let claims = claims.into_iter();
        let claims = claims.map(|claim| self.claim(batch.node, claim)).collect();
        let mut record = batch.record;
        self.leave_out(&mut record, batch.node, &batch.claimed_by);
        record.first_seq = self.next;
        let (mut sessions, mut seq) = (record.sessions.iter().peekable(), self.next);
        for (part, index) in record.parts.iter().zip(0..) {
            seq.0 += part.numbers();
            let Some((_, name, taken)) = sessions.next_if(|(at, ..)| *at == index) else {
                continue;
            };
            if let Some(session) = self.sessions.get_mut(name) {
                session.taken = session.taken.max(*taken);
                session.last = Seq(seq.0 - 1);
            }
        }
        for claim in given_up {
            let session = self.sessions.get_mut(&claim.name);
            let owner = (batch.node, claim.number);
            if let Some(session) = session {
                session.owner.take_if(|has| *has == owner);
            }
        }
        self.next = record.next_seq();
        self.messages += record.messages();
        Some((claims, record))
    }

    fn claim(&mut self, node: NodeId, claim: Claim) -> Claimed {
        let is_full = self.sessions.len() == SESSIONS_MAX;
        let taken = if is_full && !self.sessions.contains_key(&claim.name) {
            None
        } else {
            let session = self.sessions.entry(claim.name.clone());
            let session = session.or_insert(Session {
                taken: 0,
                last: Seq(0),
                owner: None,
            });
            session.owner = Some((node, claim.number));
            Some(session.taken)
        };
        Claimed {
            node,
            claim: claim.number,
            name: claim.name,
            taken,
        }
    }

    /// Leaves out the parts of sessions that are somebody else's at this place: who has them now was told how much
    /// there was before it.
    fn leave_out(&self, record: &mut Record, node: NodeId, claimed_by: &[u64]) {
        let is_owner = |name: &SessionKey, claim: u64| {
            let session = self.sessions.get(name);
            session.is_some_and(|session| session.owner == Some((node, claim)))
        };
        let sessions = record.sessions.iter().zip(claimed_by);
        let out = sessions.filter(|((_, name, _), claim)| !is_owner(name, **claim));
        let out: Vec<u32> = out.map(|((part, ..), _)| *part).collect();
        if !out.is_empty() {
            record.retain(|part, _, _| !out.contains(&(part as u32)));
        }
    }

    /// Counts that a node is gone; `false` if that is no news, or who says so is gone itself.
    pub(super) fn gone(&mut self, gone: Gone) -> bool {
        if self.is_gone(gone.by) {
            return false;
        }
        let Some(last) = self.nodes.remove(&gone.node) else {
            return false;
        };
        if gone.by != gone.node {
            // It may have sent nothing yet, and is left clients: it is not to be gone unnoticed.
            self.nodes.entry(gone.by).or_default();
        }
        if self.gone.len() == NODES_MAX {
            self.gone.pop_front();
        }
        self.gone.push_back((gone.node, last));
        for session in self.sessions.values_mut() {
            let owner = &mut session.owner;
            owner.take_if(|(node, _)| *node == gone.node);
        }
        true
    }

    /// Forgets the sessions that nobody has and whose lines are gone: all before this number are.
    pub(super) fn forget(&mut self, oldest: Seq) {
        let is_kept = |session: &Session| session.owner.is_some() || session.last >= oldest;
        self.sessions.retain(|_, session| is_kept(session));
    }
}
