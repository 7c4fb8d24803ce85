//! How many clients there may be: the open-file limit, and the places that are given out under it.

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

/// Places for clients, of which there are only so many.
#[derive(Debug)]
pub(crate) struct Places {
    max: Option<usize>,
    taken: AtomicUsize,
}

/// One client's place. Free again when dropped.
#[derive(Debug)]
pub(crate) struct Place(Arc<Places>);

impl Places {
    /// `None` when nothing but the open-file limit bounds them.
    pub(crate) fn new(max: Option<usize>) -> Arc<Places> {
        Arc::new(Places {
            max,
            taken: AtomicUsize::new(0),
        })
    }

    /// A place, or how many there are if all are taken.
    pub(crate) fn take(self: &Arc<Places>) -> Result<Place, usize> {
        let max = self.max.unwrap_or(usize::MAX);
        let taken = self
            .taken
            .fetch_update(Relaxed, Relaxed, |taken| (taken < max).then_some(taken + 1));
        taken.map(|_| Place(self.clone())).map_err(|_| max)
    }

    /// A place for a client that is there already, whatever the maximum.
    pub(crate) fn keep(self: &Arc<Places>) -> Place {
        self.taken.fetch_add(1, Relaxed);
        Place(self.clone())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn soft_limit_becomes_the_hard_limit() {
        let hard = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
        assert_eq!(raise_open_files(), hard);
        assert_eq!(raise_open_files(), hard, "a second call changes nothing");
    }
}
