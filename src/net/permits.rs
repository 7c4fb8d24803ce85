//! How many clients there may be: the open-file limit, and the permits that are given out under it.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::peer::Peer;
use super::source::Source;

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

/// Limits of connections: of all, and of those from one source.
#[derive(Debug)]
pub(crate) struct ConnectionLimit {
    /// `usize::MAX` when nothing but the open-file limit bounds them.
    max: AtomicUsize,
    /// `usize::MAX` when there is no such limit.
    max_per_source: AtomicUsize,
    all: Arc<Account>,
    /// Sources that hold permits, and so no more than there are permits.
    sources: Mutex<HashMap<Source, Arc<Account>>>,
}

/// Permits that are given out: to everybody, or to one source.
#[derive(Debug)]
struct Account {
    /// Those to everybody include those to each source. These change only under the lock on the sources.
    taken: AtomicUsize,
    /// `None` if it is everybody's.
    source: Option<Source>,
    limit: Weak<ConnectionLimit>,
}

/// Permit of one connection. Given back when dropped.
///
/// One pointer, as every client has one: who is not counted by source has that to the account of all.
#[derive(Debug)]
pub(crate) struct ConnectionPermit(Arc<Account>);

/// As many connections as there may be from one source are there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooMany;

impl ConnectionLimit {
    /// Limit of `max` permits; `None` when nothing but the open-file limit bounds them.
    pub(crate) fn new(max: Option<usize>) -> Arc<ConnectionLimit> {
        Arc::new_cyclic(|limit| ConnectionLimit {
            max: AtomicUsize::new(max.unwrap_or(usize::MAX)),
            max_per_source: AtomicUsize::new(usize::MAX),
            all: Account::new(None, limit.clone()),
            sources: Mutex::default(),
        })
    }

    /// Sets how many permits there are from now on. Nobody who has one loses it.
    pub(crate) fn set_max(&self, max: Option<usize>) {
        self.max.store(max.unwrap_or(usize::MAX), Relaxed);
    }

    /// Sets how many permits each source may have from now on. Nobody who has one loses it.
    pub(crate) fn set_max_per_source(&self, max: Option<NonZeroUsize>) {
        let max = max.map_or(usize::MAX, NonZeroUsize::get);
        self.max_per_source.store(max, Relaxed);
    }

    /// Whether permits are counted by source.
    pub(crate) fn counts_by_source(&self) -> bool {
        self.max_per_source.load(Relaxed) < usize::MAX
    }

    /// How many permits there are; `None` when nothing but the open-file limit bounds them.
    pub(crate) fn max(&self) -> Option<usize> {
        Some(self.max.load(Relaxed)).filter(|max| *max < usize::MAX)
    }

    /// A permit, or how many there are if all are taken. It is not counted by its source yet.
    pub(crate) fn try_acquire(&self) -> Result<ConnectionPermit, usize> {
        let max = self.max.load(Relaxed);
        let taken = &self.all.taken;
        let taken =
            taken.fetch_update(Relaxed, Relaxed, |taken| (taken < max).then_some(taken + 1));
        taken
            .map(|_| ConnectionPermit(self.all.clone()))
            .map_err(|_| max)
    }

    /// A permit for a client that is there already, whatever the maximum.
    pub(crate) fn force_acquire(&self) -> ConnectionPermit {
        self.all.taken.fetch_add(1, Relaxed);
        ConnectionPermit(self.all.clone())
    }
}

impl ConnectionPermit {
    /// Counts it by its source from now on, if there is a limit for that and it is not counted already.
    ///
    /// # Errors
    /// The source has as many as it may.
    pub(crate) fn count_by(&mut self, peer: Peer) -> Result<(), TooMany> {
        self.count_within(peer, |limit| limit.max_per_source.load(Relaxed))
    }

    /// As [`ConnectionPermit::count_by`], for a client that is there already, whatever the maximum.
    pub(crate) fn force_count_by(&mut self, peer: Peer) {
        // There is no more than this.
        let _ = self.count_within(peer, |_| usize::MAX);
    }

    fn count_within(
        &mut self,
        peer: Peer,
        max: impl Fn(&ConnectionLimit) -> usize,
    ) -> Result<(), TooMany> {
        let Some((limit, source)) = self.0.limit.upgrade().zip(Source::of(peer)) else {
            return Ok(());
        };
        if self.0.source.is_some() || !limit.counts_by_source() {
            return Ok(());
        }
        let mut sources = limit.sources.lock();
        let held = sources.get(&source);
        if held.map_or(0, |held| held.taken.load(Relaxed)) >= max(&limit) {
            return Err(TooMany);
        }
        let account = sources
            .entry(source)
            .or_insert_with(|| Account::new(Some(source), self.0.limit.clone()));
        account.taken.fetch_add(1, Relaxed);
        self.0 = account.clone();
        Ok(())
    }
}

impl Account {
    fn new(source: Option<Source>, limit: Weak<ConnectionLimit>) -> Arc<Account> {
        Arc::new(Account {
            taken: AtomicUsize::new(0),
            source,
            limit,
        })
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let Some(source) = self.0.source else {
            self.0.taken.fetch_sub(1, Relaxed);
            return;
        };
        // Without it, nobody counts any more.
        let Some(limit) = self.0.limit.upgrade() else {
            return;
        };
        let mut sources = limit.sources.lock();
        if self.0.taken.fetch_sub(1, Relaxed) == 1 {
            sources.remove(&source);
            if sources.len() < sources.capacity() / 4 {
                sources.shrink_to(0);
            }
        }
        drop(sources);
        limit.all.taken.fetch_sub(1, Relaxed);
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

    fn peer(ip: &str) -> Peer {
        Peer::Tcp((ip.parse::<std::net::IpAddr>().unwrap(), 1).into())
    }

    fn per_source(max: usize) -> Arc<ConnectionLimit> {
        let permits = ConnectionLimit::new(None);
        permits.set_max_per_source(NonZeroUsize::new(max));
        permits
    }

    #[test]
    fn each_source_has_so_many_permits_and_gets_them_back() {
        let permits = per_source(2);
        let count = |ip: &str| {
            let mut permit = permits.try_acquire().unwrap();
            permit.count_by(peer(ip)).map(|()| permit)
        };
        let held = (
            count("10.0.0.1").unwrap(),
            count("::ffff:10.0.0.1").unwrap(),
        );
        assert_eq!(count("10.0.0.1").unwrap_err(), TooMany);
        let other = count("10.0.0.2").unwrap();
        assert_eq!(permits.all.taken.load(Relaxed), 3);
        drop(held.0);
        let mut again = count("10.0.0.1").unwrap();
        assert_eq!(again.count_by(peer("10.0.0.1")), Ok(()), "counted once");
        let mut unix = permits.force_acquire();
        assert_eq!(unix.count_by(Peer::Unix), Ok(()));
        drop((held.1, again, other, unix));
        assert_eq!(permits.all.taken.load(Relaxed), 0);
        assert!(permits.sources.lock().is_empty());
    }

    #[test]
    fn those_who_were_there_before_the_limit_are_counted_when_it_comes() {
        let permits = ConnectionLimit::new(None);
        let mut held: Vec<_> = (0..3).map(|_| permits.force_acquire()).collect();
        held[0].force_count_by(peer("::1"));
        assert!(permits.sources.lock().is_empty(), "there is no limit yet");
        permits.set_max_per_source(NonZeroUsize::new(2));
        for permit in &mut held {
            permit.force_count_by(peer("::1"));
        }
        let mut permit = permits.force_acquire();
        assert_eq!(permit.count_by(peer("::2")), Err(TooMany));
        held.truncate(1);
        assert_eq!(permit.count_by(peer("::2")), Ok(()));
    }

    #[test]
    fn million_sources_leave_nothing_behind() {
        let permits = per_source(1);
        let held: Vec<_> = (0..1_000_000_u32)
            .map(|ip| {
                let mut permit = permits.force_acquire();
                permit.force_count_by(Peer::Tcp((ip.to_be_bytes(), 1).into()));
                permit
            })
            .collect();
        assert_eq!(permits.sources.lock().len(), 1_000_000);
        drop(held);
        assert!(permits.sources.lock().capacity() < 100);
        assert_eq!(permits.all.taken.load(Relaxed), 0);
    }

    #[test]
    fn soft_limit_becomes_the_hard_limit() {
        let hard = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
        assert_eq!(raise_open_files(), hard);
        assert_eq!(raise_open_files(), hard, "a second call changes nothing");
    }
}
