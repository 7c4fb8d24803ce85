//! The chain of batches that each feed walks at its own pace.

use std::sync::{Arc, OnceLock};

use super::batch::Batch;
use super::budget::Reservation;
use super::encodings::Sizes;

/// The position of a client that takes nothing from the stream.
pub(super) const DETACHED: u64 = u64::MAX;

/// A place in the stream: everything before it is behind, `next` is what comes.
///
/// A feed holds the node it has come to, which keeps everything after it alive; a batch is freed,
/// and its bytes released, when the last feed has moved past it. The last node is empty, so a
/// client that has everything holds nothing.
#[derive(Debug)]
pub(super) struct Node {
    /// Batches before this place.
    pub(super) index: u64,
    /// Their bytes, own lines included.
    pub(super) sizes_before: Sizes,
    /// What they cost the buffer, in bytes: rises with every batch.
    pub(super) cost_before: u64,
    pub(super) next: OnceLock<Link>,
}

/// What comes after a place: a batch, and the place behind it.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) batch: Batch,
    pub(super) node: Arc<Node>,
}

impl Node {
    /// The place before the first batch of a stream, which has this index: at least 1, as 0 is the past's.
    pub(super) fn first(index: u64) -> Arc<Node> {
        Arc::new(Node {
            index,
            sizes_before: Sizes::default(),
            cost_before: 0,
            next: OnceLock::new(),
        })
    }

    /// A place in the past, which one feed walks: in no stream, before none of what the buffer holds.
    pub(super) fn apart() -> Arc<Node> {
        Arc::new(Node {
            index: 0,
            sizes_before: Sizes::default(),
            cost_before: DETACHED,
            next: OnceLock::new(),
        })
    }

    /// Puts a batch behind this place, which is the end of its chain.
    pub(super) fn link(&self, link: Link) {
        let is_end = self.next.set(link).is_ok();
        assert!(is_end, "only the end of a chain is linked behind");
    }

    /// The place behind this batch, which comes next here.
    pub(super) fn after(&self, batch: &Batch) -> Arc<Node> {
        let cost = batch.reservation.as_ref().map_or(0, Reservation::bytes);
        Arc::new(Node {
            index: self.index + 1,
            sizes_before: self.sizes_before.plus(batch.sizes),
            cost_before: self.cost_before + (cost as u64).max(1),
            next: OnceLock::new(),
        })
    }
}

impl Drop for Node {
    /// Frees the chain behind it one by one: left to itself it would recurse once a batch.
    fn drop(&mut self) {
        let mut next = self.next.take();
        while let Some(Link { batch, node }) = next {
            drop(batch);
            next = Arc::into_inner(node).and_then(|mut node| node.next.take());
        }
    }
}
