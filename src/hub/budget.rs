//! The buffer's bytes: who may add to them, and who waits.
//!
//! Everything that clients have still to receive is charged here before it is accepted, and
//! released when the last client has it. A sender asks before it *reads*, so one that waits holds
//! nothing but its unfinished line, and its TCP window closes by itself.
//!
//! What formatting may make of a read is part of what it is charged for beforehand: a read of
//! nothing but LFs becomes thirty times its size in `text` alone.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

/// What one read takes, in bytes, at least and at most: a 256th of the buffer between them, as far
/// as a permit covers the worst that can become of it.
///
/// One read is one batch, and a batch is one write to each client: what a write costs beside its
/// bytes, above all waking whoever reads at the other end, is paid less often the larger it is,
/// until the batch no longer stays in a core's cache while it is written a hundred times.
const READ_BYTES: (usize, usize) = (64 * 1024, READ_BYTES_MAX);

/// What any read takes at most, in bytes.
pub(crate) const READ_BYTES_MAX: usize = 256 * 1024;

/// What any read takes at least, in bytes: with a buffer of almost nothing, lines still pass.
const READ_BYTES_MIN: usize = 256;

/// The largest permit of a buffer of up to eight times as much: half of a small buffer, so that
/// reads are not cut too short, and an eighth of a large one, so that several workers read at once.
const ADMISSION_BYTES: usize = 4 * 1024 * 1024;

/// The account of the buffer.
#[derive(Debug)]
pub(crate) struct Budget {
    account: Mutex<BudgetState>,
    /// What one admitted read may bring, in bytes.
    read_bytes_max: AtomicUsize,
    /// Told when the buffer fills, so that whoever holds it up is looked for at once.
    full: Arc<Notify>,
}

#[derive(Debug)]
struct BudgetState {
    limit: usize,
    used: usize,
    /// The part of it that stands for permits, and becomes what the reads cost.
    reserved: usize,
    /// What becomes of a byte that is read, at worst, in all encodings in use.
    expansion: usize,
    /// What one sender is admitted for, in bytes. What the read really costs is settled afterwards.
    permit: usize,
    /// Who waits, in the order they came.
    queue: BTreeMap<WaiterId, Waiting>,
    /// The number of the last waiter given out.
    issued: u64,
    /// The number of the last waiter admitted: every one up to it is, or was given up.
    admitted: u64,
    /// Tickets admitted, and charged, that nobody has come back with yet.
    uncollected: usize,
    /// Senders and accept loops that were ever admitted: stands still when nobody gets in.
    permits: u64,
    waits: Waits,
}

/// Somebody in the queue.
#[derive(Debug)]
struct Waiting {
    waker: Waker,
    who: Who,
}

/// Who asks for room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    /// A client, to send; how long it waits is counted.
    Sender,
    /// An accept loop, for the notices of those who come.
    Listener,
}

/// How long senders waited, all together: kept up whenever one begins or ends to wait.
#[derive(Debug, Default)]
struct Waits {
    waiting: usize,
    /// When that last changed; meaningless while nobody waits.
    since: Option<Instant>,
    total: Duration,
}

impl Waits {
    /// So many wait from now on.
    fn set(&mut self, waiting: usize) {
        let now = Instant::now();
        self.total = self.until(now);
        self.since = Some(now);
        self.waiting = waiting;
    }

    fn until(&self, now: Instant) -> Duration {
        let Some(since) = self.since.filter(|_| self.waiting > 0) else {
            return self.total;
        };
        let waiting = u32::try_from(self.waiting).unwrap_or(u32::MAX);
        let time = now.saturating_duration_since(since);
        self.total.saturating_add(time.saturating_mul(waiting))
    }
}

/// The account in stats, see [`HubStats`](super::HubStats).
#[derive(Clone, Copy, Debug)]
pub(super) struct BudgetStats {
    pub(super) used: usize,
    pub(super) limit: usize,
    pub(super) waiting: usize,
    pub(super) waited: Duration,
}

/// A place in the queue for the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct WaiterId(NonZeroU64);

/// The right to put one read into the buffer. Gives the bytes back when dropped.
#[derive(Debug)]
pub(crate) struct ReadPermit {
    budget: Arc<Budget>,
    bytes: usize,
}

/// Bytes that are in the buffer. Released when dropped.
#[derive(Debug)]
pub(crate) struct Reservation {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Budget {
    /// A budget of `limit` bytes, which tells `full` when the buffer fills.
    pub(super) fn new(limit: usize, full: Arc<Notify>) -> Arc<Budget> {
        Arc::new(Budget {
            account: Mutex::new(BudgetState {
                limit,
                used: 0,
                reserved: 0,
                expansion: 1,
                permit: permit(limit),
                queue: BTreeMap::new(),
                issued: 0,
                admitted: 0,
                uncollected: 0,
                permits: 0,
                waits: Waits::default(),
            }),
            read_bytes_max: AtomicUsize::new(read_bytes_max(limit, 1)),
            full,
        })
    }

    /// From now on the buffer has so many bytes. Who waits is admitted if that is more; if it is less
    /// than what is used, the buffer is full until that has gone.
    pub(crate) fn set_limit(&self, limit: usize) {
        let mut account = self.lock();
        // What was charged for a permit is what will be released for it.
        let outstanding = account.uncollected;
        let before = outstanding * account.permit;
        account.limit = limit;
        account.permit = permit(limit);
        let after = outstanding * account.permit;
        account.used = account.used - before + after;
        account.reserved = account.reserved - before + after;
        self.set_read_bytes_max(&account);
        self.release(account, 0);
        self.full.notify_one();
    }

    /// From now on a byte that is read becomes so many at worst.
    pub(super) fn set_expansion(&self, expansion: usize) {
        let mut account = self.lock();
        account.expansion = expansion.max(1);
        self.set_read_bytes_max(&account);
    }

    fn set_read_bytes_max(&self, account: &BudgetState) {
        let bytes = read_bytes_max(account.limit, account.expansion);
        self.read_bytes_max.store(bytes, Relaxed);
    }

    /// Ready once there is room for one read, first come first served. `waiter` keeps the place
    /// between polls; whoever stops waiting hands it to [`Budget::give_up`].
    pub(crate) fn poll_permit(
        self: &Arc<Budget>,
        who: Who,
        waiter: &mut Option<WaiterId>,
        cx: &mut Context<'_>,
    ) -> Poll<ReadPermit> {
        let mut account = self.lock();
        let permit = account.permit;
        match *waiter {
            Some(held) if held.0.get() <= account.admitted => {
                account.uncollected -= 1;
                *waiter = None;
            }
            Some(held) => {
                account.keep_waiting(held, cx.waker());
                return Poll::Pending;
            }
            None if account.queue.is_empty() && account.has_room() => {
                account.reserve();
            }
            None => {
                *waiter = Some(account.enqueue(cx.waker().clone(), who));
                drop(account);
                self.full.notify_one();
                return Poll::Pending;
            }
        }
        drop(account);
        Poll::Ready(ReadPermit {
            budget: self.clone(),
            bytes: permit,
        })
    }

    /// [`Budget::poll_permit`] as a future of its own. Cancel safe: it gives its place up.
    pub(crate) async fn admit(self: &Arc<Budget>) -> ReadPermit {
        struct Place<'a>(&'a Budget, Option<WaiterId>);
        impl Drop for Place<'_> {
            fn drop(&mut self) {
                if let Some(waiter) = self.1.take() {
                    self.0.give_up(waiter);
                }
            }
        }
        let mut place = Place(self, None);
        poll_fn(|cx| self.poll_permit(Who::Listener, &mut place.1, cx)).await
    }

    /// Leaves the queue, or gives back the permit that `waiter` had got meanwhile.
    pub(crate) fn give_up(&self, waiter: WaiterId) {
        let mut account = self.lock();
        if waiter.0.get() <= account.admitted {
            let bytes = account.permit;
            account.uncollected -= 1;
            account.reserved -= bytes;
            self.release(account, bytes);
        } else if let Some(waiting) = account.queue.remove(&waiter)
            && waiting.who == Who::Sender
        {
            let waiting = account.waits.waiting - 1;
            account.waits.set(waiting);
        }
    }

    /// Charges what cannot wait: notices, which are short and follow from an admitted accept.
    pub(crate) fn charge(self: &Arc<Budget>, bytes: usize) -> Reservation {
        self.lock().used += bytes;
        Reservation {
            budget: self.clone(),
            bytes,
        }
    }

    /// Whether the buffer is full of what clients have still to receive: more is in it than fits, or
    /// so much that whoever waits cannot be let in. What is only reserved for reads that are under way
    /// is no client's fault.
    pub(crate) fn is_full(&self) -> bool {
        let account = self.lock();
        let held = account.used - account.reserved;
        let waits = !account.queue.is_empty() && held > 0;
        held > account.limit || (waits && held + account.permit > account.limit)
    }

    /// Senders and accept loops that wait for room now.
    #[cfg(test)]
    fn waiting(&self) -> usize {
        self.lock().queue.len()
    }

    /// Bytes in the buffer now, permits included.
    pub(crate) fn used(&self) -> usize {
        self.lock().used
    }

    /// Whether somebody waits for room, and how many ever got it.
    pub(super) fn queue_state(&self) -> (bool, u64) {
        let account = self.lock();
        (!account.queue.is_empty(), account.permits)
    }

    /// What one sender is admitted for: so much has to be free for the next one.
    pub(super) fn permit_bytes(&self) -> usize {
        self.lock().permit
    }

    /// The account as it stands.
    pub(super) fn stats(&self) -> BudgetStats {
        let account = self.lock();
        BudgetStats {
            used: account.used,
            limit: account.limit,
            waiting: account.waits.waiting,
            waited: account.waits.until(Instant::now()),
        }
    }

    /// Goes on counting where the daemon before stopped.
    pub(super) fn add_waited(&self, waited: Duration) {
        self.lock().waits.total += waited;
    }

    fn lock(&self) -> MutexGuard<'_, BudgetState> {
        self.account.lock()
    }

    fn release(&self, mut account: MutexGuard<'_, BudgetState>, bytes: usize) {
        account.used -= bytes;
        // Wakers run outside the lock: a woken task may come straight back for it.
        let woken = account.admit_waiting();
        drop(account);
        woken.into_iter().for_each(Waker::wake);
    }
}

/// What one read may bring with a buffer of `limit` bytes, each of which may become `expansion`.
fn read_bytes_max(limit: usize, expansion: usize) -> usize {
    let covered = permit(limit) / expansion;
    let read = (limit / 256).clamp(READ_BYTES.0, READ_BYTES.1);
    read.min(covered).max(READ_BYTES_MIN)
}

/// What one sender is admitted for in a buffer of `limit` bytes.
fn permit(limit: usize) -> usize {
    (limit / 8).max(ADMISSION_BYTES.min(limit / 2))
}

impl BudgetState {
    /// An empty buffer has room for anything: otherwise a line longer than it could never pass.
    fn has_room(&self) -> bool {
        self.used == 0 || self.used + self.permit <= self.limit
    }

    /// Admits somebody.
    fn reserve(&mut self) {
        self.used += self.permit;
        self.reserved += self.permit;
        self.permits += 1;
    }

    fn enqueue(&mut self, waker: Waker, who: Who) -> WaiterId {
        self.issued += 1;
        let waiter = WaiterId(NonZeroU64::new(self.issued).expect("it was just raised above zero"));
        self.queue.insert(waiter, Waiting { waker, who });
        if who == Who::Sender {
            self.waits.set(self.waits.waiting + 1);
        }
        waiter
    }

    fn keep_waiting(&mut self, waiter: WaiterId, waker: &Waker) {
        if let Some(waiting) = self.queue.get_mut(&waiter) {
            waiting.waker.clone_from(waker);
        }
    }

    /// Admits from the front of the queue while there is room.
    fn admit_waiting(&mut self) -> Vec<Waker> {
        let mut woken = Vec::new();
        let mut senders = 0;
        while self.has_room()
            && let Some((waiter, waiting)) = self.queue.pop_first()
        {
            self.admitted = waiter.0.get();
            self.reserve();
            self.uncollected += 1;
            senders += usize::from(waiting.who == Who::Sender);
            woken.push(waiting.waker);
        }
        if senders > 0 {
            self.waits.set(self.waits.waiting - senders);
        }
        woken
    }
}

impl ReadPermit {
    /// What the read may bring at most, in bytes.
    pub(crate) fn read_bytes_max(&self) -> usize {
        self.budget.read_bytes_max.load(Relaxed)
    }

    /// Turns the permit into what the read really costs.
    pub(crate) fn charge(mut self, bytes: usize) -> Reservation {
        let admitted = std::mem::take(&mut self.bytes);
        let budget = self.budget.clone();
        let mut account = budget.lock();
        account.used += bytes;
        account.reserved -= admitted;
        budget.release(account, admitted);
        Reservation { budget, bytes }
    }
}

impl Drop for ReadPermit {
    fn drop(&mut self) {
        if self.bytes > 0 {
            let mut account = self.budget.lock();
            account.reserved -= self.bytes;
            self.budget.release(account, self.bytes);
        }
    }
}

impl Reservation {
    /// Bytes of the buffer it stands for.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes the other charge's bytes over.
    pub(crate) fn merge(&mut self, mut other: Reservation) {
        self.bytes += std::mem::take(&mut other.bytes);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.budget.release(self.budget.lock(), self.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asks once; whether it was admitted.
    fn ask(budget: &Arc<Budget>, waiter: &mut Option<WaiterId>) -> Option<ReadPermit> {
        match budget.poll_permit(Who::Sender, waiter, &mut Context::from_waker(Waker::noop())) {
            Poll::Ready(permit) => Some(permit),
            Poll::Pending => None,
        }
    }

    #[test]
    fn larger_buffer_admits_who_waits_and_a_smaller_one_keeps_the_account_whole() {
        let budget = Budget::new(8192, Arc::default());
        let held = [ask(&budget, &mut None), ask(&budget, &mut None)];
        let held = held.map(|permit| permit.unwrap().charge(4096));
        let mut waiting = [None, None];
        assert!(
            waiting
                .iter_mut()
                .all(|waiter| ask(&budget, waiter).is_none())
        );
        assert_eq!((budget.used(), budget.waiting()), (8192, 2));

        // Admitted, but nobody has come back for it when the limit changes again.
        budget.set_limit(1 << 26);
        assert_eq!(budget.waiting(), 0);
        budget.set_limit(4096);
        assert!(budget.is_full());
        assert_eq!(budget.used(), 8192 + 2 * 2048);
        let collected = ask(&budget, &mut waiting[0]);
        assert_eq!(collected.as_ref().map(|permit| permit.bytes), Some(2048));
        budget.give_up(waiting[1].take().unwrap());
        drop((held, collected));
        assert_eq!(budget.used(), 0);
        assert!(!budget.is_full());
    }

    #[test]
    fn who_gives_up_leaves_nothing_behind_that_looks_like_waiting() {
        let budget = Budget::new(8192, Arc::default());
        let held = [ask(&budget, &mut None), ask(&budget, &mut None)];
        let mut waiting = None;
        assert!(ask(&budget, &mut waiting).is_none());
        assert!(!budget.is_full(), "no client holds anything");
        let held = held.map(|permit| permit.unwrap().charge(4096));
        assert!(budget.is_full());
        budget.give_up(waiting.take().unwrap());
        assert!(!budget.is_full());
        assert_eq!(budget.queue_state(), (false, 2));
        drop(held);
    }

    #[test]
    fn read_is_never_admitted_for_less_than_may_become_of_it() {
        for shift in 12..30 {
            let limit = 1 << shift;
            for expansion in [1, 33, 76, 150, 216] {
                let read = read_bytes_max(limit, expansion);
                let covered = permit(limit).max(READ_BYTES_MIN * expansion);
                assert!(read * expansion <= covered, "{limit} {expansion}");
                assert!(2 * permit(limit) <= limit, "{limit}");
            }
        }
        assert_eq!(read_bytes_max(64 << 20, 32), READ_BYTES_MAX, "text alone");
    }
}
