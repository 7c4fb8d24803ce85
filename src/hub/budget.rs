//! The buffer's bytes: who may add to them, and who waits.
//!
//! Everything that clients have still to receive is charged here before it is accepted, and
//! released when the last client has it. A sender asks before it *reads*, so one that waits holds
//! nothing but its unfinished line, and its TCP window closes by itself.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use tokio::sync::Notify;

/// What one read takes, in bytes, at least and at most: a 256th of the buffer between them.
///
/// One read is one batch, and a batch is one write to each client: what a write costs beside its
/// bytes, above all waking whoever reads at the other end, is paid less often the larger it is,
/// until the batch no longer stays in a core's cache while it is written a hundred times.
const READ_BYTES: (usize, usize) = (64 * 1024, READ_BYTES_MAX);

/// What any read takes at most, in bytes.
pub(crate) const READ_BYTES_MAX: usize = 256 * 1024;

/// The account of the buffer.
#[derive(Debug)]
pub(crate) struct Budget {
    account: Mutex<Account>,
    /// What one admitted read may bring, in bytes.
    read_bytes_max: usize,
    /// Told when the buffer fills, so that whoever holds it up is looked for at once.
    pressed: Notify,
}

#[derive(Debug)]
struct Account {
    limit: usize,
    used: usize,
    /// What one sender is admitted for: one read, and as much again for what formatting adds, but
    /// no more than half of a small buffer. What the read really costs is settled afterwards; lines
    /// so short that their prefixes outweigh them may take the buffer over its limit by that read.
    admission: usize,
    /// Senders in the order they came. Tickets rise from front to back; `None` gave up.
    queue: VecDeque<(Ticket, Option<Waker>)>,
    /// The number of the last ticket given out.
    issued: u64,
    /// The number of the last ticket admitted: every one up to it is.
    admitted: u64,
}

/// A place in the queue for the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticket(NonZeroU64);

/// The right to put one read into the buffer. Gives the bytes back when dropped.
#[derive(Debug)]
pub(crate) struct Admission {
    budget: Arc<Budget>,
    bytes: usize,
}

/// Bytes that are in the buffer. Released when dropped.
#[derive(Debug)]
pub(crate) struct Charge {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Budget {
    pub(crate) fn new(limit: usize) -> Arc<Budget> {
        let read_bytes_max = (limit / 256).clamp(READ_BYTES.0, READ_BYTES.1);
        Arc::new(Budget {
            account: Mutex::new(Account {
                limit,
                used: 0,
                admission: (2 * read_bytes_max).min(limit / 2),
                queue: VecDeque::new(),
                issued: 0,
                admitted: 0,
            }),
            read_bytes_max,
            pressed: Notify::new(),
        })
    }

    /// Ready once there is room for one read, first come first served. `ticket` keeps the place
    /// between polls; whoever stops waiting hands it to [`Budget::give_up`].
    pub(crate) fn poll_admit(
        self: &Arc<Budget>,
        ticket: &mut Option<Ticket>,
        cx: &mut Context<'_>,
    ) -> Poll<Admission> {
        let mut account = self.lock();
        let admission = account.admission;
        match *ticket {
            Some(held) if held.0.get() <= account.admitted => *ticket = None,
            Some(held) => {
                account.keep_waiting(held, cx.waker());
                return Poll::Pending;
            }
            None if account.queue.is_empty() && account.has_room() => account.used += admission,
            None => {
                *ticket = Some(account.line_up(cx.waker().clone()));
                drop(account);
                self.pressed.notify_one();
                return Poll::Pending;
            }
        }
        drop(account);
        Poll::Ready(Admission {
            budget: self.clone(),
            bytes: admission,
        })
    }

    /// [`Budget::poll_admit`] as a future of its own. Cancel safe: it gives its place up.
    pub(crate) async fn admit(self: &Arc<Budget>) -> Admission {
        struct Place<'a>(&'a Budget, Option<Ticket>);
        impl Drop for Place<'_> {
            fn drop(&mut self) {
                if let Some(ticket) = self.1.take() {
                    self.0.give_up(ticket);
                }
            }
        }
        let mut place = Place(self, None);
        poll_fn(|cx| self.poll_admit(&mut place.1, cx)).await
    }

    /// Leaves the queue, or gives back the admission that `ticket` had got meanwhile.
    pub(crate) fn give_up(&self, ticket: Ticket) {
        let mut account = self.lock();
        if ticket.0.get() <= account.admitted {
            let bytes = account.admission;
            self.release(account, bytes);
        } else if let Ok(at) = account
            .queue
            .binary_search_by_key(&ticket, |(held, _)| *held)
        {
            account.queue[at].1 = None;
        }
    }

    /// Charges what cannot wait: notices, which are short and follow from an admitted accept.
    pub(crate) fn charge(self: &Arc<Budget>, bytes: usize) -> Charge {
        self.lock().used += bytes;
        Charge {
            budget: self.clone(),
            bytes,
        }
    }

    /// Whether the buffer is full: a sender waits, or more is in it than fits.
    pub(crate) fn is_pressed(&self) -> bool {
        let account = self.lock();
        !account.queue.is_empty() || account.used > account.limit
    }

    /// Waits until the buffer fills. Cancel safe.
    pub(crate) async fn pressed(&self) {
        self.pressed.notified().await;
    }

    /// Bytes in the buffer now, admissions included.
    pub(crate) fn used(&self) -> usize {
        self.lock().used
    }

    /// Senders that wait for room now.
    pub(crate) fn waiting(&self) -> usize {
        self.lock().queue.len()
    }

    fn lock(&self) -> MutexGuard<'_, Account> {
        // Nothing panics while it is held; were it so, the numbers would still be whole.
        self.account
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn release(&self, mut account: MutexGuard<'_, Account>, bytes: usize) {
        account.used -= bytes;
        // Wakers run outside the lock: a woken task may come straight back for it.
        let woken = account.admit_waiting();
        drop(account);
        woken.into_iter().for_each(Waker::wake);
    }
}

impl Account {
    /// An empty buffer has room for anything: otherwise a line longer than it could never pass.
    fn has_room(&self) -> bool {
        self.used == 0 || self.used + self.admission <= self.limit
    }

    fn line_up(&mut self, waker: Waker) -> Ticket {
        self.issued += 1;
        let ticket = Ticket(NonZeroU64::new(self.issued).expect("it was just raised above zero"));
        self.queue.push_back((ticket, Some(waker)));
        ticket
    }

    fn keep_waiting(&mut self, ticket: Ticket, waker: &Waker) {
        if let Ok(at) = self.queue.binary_search_by_key(&ticket, |(held, _)| *held) {
            match &mut self.queue[at].1 {
                Some(held) => held.clone_from(waker),
                none => *none = Some(waker.clone()),
            }
        }
    }

    /// Admits from the front of the queue while there is room.
    fn admit_waiting(&mut self) -> Vec<Waker> {
        let mut woken = Vec::new();
        while let Some((ticket, waker)) = self.queue.front() {
            // One that gave up needs no room.
            if waker.is_some() && !self.has_room() {
                break;
            }
            self.admitted = ticket.0.get();
            if let Some((_, Some(waker))) = self.queue.pop_front() {
                woken.push(waker);
                self.used += self.admission;
            }
        }
        woken
    }
}

impl Admission {
    /// What the read may bring at most, in bytes.
    pub(crate) fn read_bytes_max(&self) -> usize {
        self.budget.read_bytes_max
    }

    /// Turns the admission into what the read really costs.
    pub(crate) fn charge(mut self, bytes: usize) -> Charge {
        let admitted = std::mem::take(&mut self.bytes);
        let budget = self.budget.clone();
        let mut account = budget.lock();
        account.used += bytes;
        budget.release(account, admitted);
        Charge { budget, bytes }
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.budget.release(self.budget.lock(), self.bytes);
        }
    }
}

impl Charge {
    /// Bytes of the buffer it stands for.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes the other charge's bytes over.
    pub(crate) fn merge(&mut self, mut other: Charge) {
        self.bytes += std::mem::take(&mut other.bytes);
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.budget.release(self.budget.lock(), self.bytes);
        }
    }
}
