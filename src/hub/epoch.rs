//! Drawing epochs.

use std::hash::{BuildHasher, RandomState};

use crate::wire::ids::Epoch;

/// An epoch that no other is likely to be.
pub(super) fn new_epoch() -> Epoch {
    // The state of each is random.
    Epoch(RandomState::new().hash_one(()) as u32)
}

/// An epoch that is not this one.
pub(in crate::hub) fn epoch_after(last: Epoch) -> Epoch {
    loop {
        let epoch = new_epoch();
        if epoch != last {
            return epoch;
        }
    }
}
