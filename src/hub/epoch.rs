//! Drawing epochs.

use std::hash::{BuildHasher, RandomState};

use crate::wire::ids::Epoch;

/// An epoch that no other is likely to be.
pub(super) fn new_epoch() -> Epoch {
    // The state of each is random.
    Epoch(RandomState::new().hash_one(()) as u32)
}
