//! How many clients there may be: the open-file limit, and the permits that are given out under it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft open-file limit to the hard one and returns the soft limit now in force, in
/// descriptors. `u64::MAX` means that there is none. A system that refuses keeps what it had.
///
/// The soft limit is low (often 1,024) only for programs that use `select`, which cannot handle
/// larger descriptors; linehub does not use it.
pub fn raise_open_files() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        };
        // A refusal shows in what is read back, and that is what the caller is told.
        let _ = setrlimit(Resource::Nofile, raised);
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Limit of connections, and how many permits are given out under it.
#[derive(Debug)]
pub(crate) struct ConnectionLimit {
    /// `usize::MAX` when nothing but the open-file limit bounds them.
    max: AtomicUsize,
    taken: AtomicUsize,
}

/// Permit of one connection. Given back when dropped.
#[derive(Debug)]
pub(crate) struct ConnectionPermit(Arc<ConnectionLimit>);

impl ConnectionLimit {
    /// Limit of `max` permits; `None` when nothing but the open-file limit bounds them.
    pub(crate) fn new(max: Option<usize>) -> Arc<ConnectionLimit> {
        Arc::new(ConnectionLimit {
            max: AtomicUsize::new(max.unwrap_or(usize::MAX)),
            taken: AtomicUsize::new(0),
        })
    }

    /// Sets how many permits there are from now on. Nobody who has one loses it.
    pub(crate) fn set_max(&self, max: Option<usize>) {
        self.max.store(max.unwrap_or(usize::MAX), Relaxed);
    }

    /// How many permits there are; `None` when nothing but the open-file limit bounds them.
    pub(crate) fn max(&self) -> Option<usize> {
        Some(self.max.load(Relaxed)).filter(|max| *max < usize::MAX)
    }

    /// A permit, or how many there are if all are taken.
    pub(crate) fn try_acquire(self: &Arc<ConnectionLimit>) -> Result<ConnectionPermit, usize> {
        let max = self.max.load(Relaxed);
        let taken = self
            .taken
            .fetch_update(Relaxed, Relaxed, |taken| (taken < max).then_some(taken + 1));
        taken
            .map(|_| ConnectionPermit(self.clone()))
            .map_err(|_| max)
    }

    /// A permit for a client that is there already, whatever the maximum.
    pub(crate) fn force_acquire(self: &Arc<ConnectionLimit>) -> ConnectionPermit {
        self.taken.fetch_add(1, Relaxed);
        ConnectionPermit(self.clone())
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fewer_places_take_none_away_and_give_none_out() {
        let permits = ConnectionLimit::new(Some(2));
        let held = (
            permits.try_acquire().unwrap(),
            permits.try_acquire().unwrap(),
        );
        assert_eq!(permits.try_acquire().unwrap_err(), 2);
        permits.set_max(Some(1));
        drop(held.0);
        assert_eq!(permits.try_acquire().unwrap_err(), 1, "one is still taken");
        permits.set_max(None);
        assert!(permits.try_acquire().is_ok());
    }

    #[test]
    fn soft_limit_becomes_the_hard_limit() {
        let hard = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
        assert_eq!(raise_open_files(), hard);
        assert_eq!(raise_open_files(), hard, "a second call changes nothing");
    }
}
