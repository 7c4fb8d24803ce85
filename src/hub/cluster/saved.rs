//! A node put away for a handover, and taken up again.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::batch::{Batch, NodeId};
use super::here::{Clients, OwnClients};
use super::message::{Checkpoint, Message};
use crate::wire::ids::ClientId;
use crate::wire::session::SessionKey;

/// What outlives a daemon of its part in a shared channel.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(in crate::hub) struct SavedMember {
    pub(super) node: u64,
    pub(super) order: Option<SavedOrder>,
    pub(super) publisher: SavedPublisher,
    /// Claims to sessions that there ever were, and that of each session that some client has.
    pub(super) last_claim: u64,
    pub(super) claims: Vec<(SessionKey, u64)>,
    /// Clients that are here, and those of whom this node says that they leave.
    pub(super) living: Vec<ClientId>,
    pub(super) announced: Vec<ClientId>,
}

/// What was known of the order.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct SavedOrder {
    /// A message of the kind that says so to other nodes.
    pub(super) checkpoint: Bytes,
    pub(super) here: Vec<(u64, Clients)>,
}

/// Batches that have not come back.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct SavedPublisher {
    /// Number and checksum of the last that did.
    pub(super) settled: (u64, u32),
    /// As they were sent, or would have been next.
    pub(super) unsettled: Vec<Bytes>,
}

impl SavedMember {
    /// With what the hub knows: claims that there ever were, those that clients have, and its own clients.
    pub(in crate::hub) fn with_hub(
        self,
        last_claim: u64,
        claims: Vec<(SessionKey, u64)>,
        own: &OwnClients,
    ) -> SavedMember {
        SavedMember {
            last_claim,
            claims,
            living: own.living().collect(),
            announced: own.announced().collect(),
            ..self
        }
    }

    pub(in crate::hub) fn claims(&self) -> (u64, &[(SessionKey, u64)]) {
        (self.last_claim, &self.claims)
    }

    /// The node's own clients.
    pub(in crate::hub) fn own(&self) -> OwnClients {
        OwnClients::restore(&self.living, &self.announced)
    }
}

impl SavedOrder {
    /// What was known, if it can be read.
    pub(super) fn read(&self) -> Option<Checkpoint> {
        match Message::decode(&self.checkpoint) {
            Ok(Message::Checkpoint(checkpoint)) => Some(*checkpoint),
            _ => None,
        }
    }
}

impl SavedPublisher {
    /// The batches, if they can be read and are this node's.
    pub(super) fn read(&self, node: NodeId) -> Option<Vec<Batch>> {
        let batches = self
            .unsettled
            .iter()
            .map(|body| match Message::decode(body) {
                Ok(Message::Batch(batch)) if batch.node == node => Some(batch),
                _ => None,
            });
        batches.collect()
    }
}
