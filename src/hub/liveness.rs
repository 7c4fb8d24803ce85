//! Whether the hub is alive.

use std::sync::atomic::Ordering::Relaxed;

use super::order::Hub;

/// A sign of life: of two that are taken one after the other, different ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Liveness {
    looks: u64,
    published: u64,
    /// Bytes read from clients and taken by them.
    moved: u64,
    /// Whether somebody waits for the buffer, and how many ever got room in it.
    queue: (bool, u64),
}

impl Hub {
    /// What changes for as long as the hub serves, however busy it is. Takes the buffer's account and
    /// the lock that every publish takes: does not return when one of them hangs.
    pub(crate) fn pulse(&self) -> Liveness {
        // An idle hub shows by this that it is awake.
        self.shared.asked.notify_one();
        let queue = self.budget.queue_state();
        let state = self.lock();
        let moved = state.slots.iter().map(|(_, slot)| {
            let counters = &slot.subscriber.counters;
            counters
                .bytes_in
                .get()
                .wrapping_add(counters.bytes_out.get())
        });
        Liveness {
            looks: self.shared.looks.load(Relaxed),
            published: self.version(),
            moved: moved.fold(0, u64::wrapping_add),
            queue,
        }
    }
}
