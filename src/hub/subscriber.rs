//! What the hub and a client know of each other: the counters one keeps, the commands the other gives.

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, fence};
use std::sync::{Arc, OnceLock};
use std::task::Waker;

use super::chain::{DETACHED, Node};
use super::connection::ConnectionMeta;
use super::counters::{ClientCounters, TrafficTotals};
use super::encoding::Encoding;
use crate::wire::close_reason::CloseReason;
use crate::wire::ids::{ClientId, Seq};

/// One client, as the hub sees it.
#[derive(Debug)]
pub(crate) struct Subscriber {
    /// Number of the client.
    pub(crate) id: ClientId,
    /// Whether the hub has an identity of it: few have.
    pub(super) is_named: bool,
    /// Whether it came with a session.
    pub(super) has_session: bool,
    /// Traffic, as the client itself counts it.
    pub(crate) counters: ClientCounters,
    /// Commands that the client has been given and has not yet taken.
    commands: AtomicU32,
    /// The place in the stream it has come to, as what the batches before it cost the buffer;
    /// [`DETACHED`] once it takes no more.
    pub(super) position: AtomicU64,
    /// Bytes of the stream in its encoding before that place, less those that its socket had taken
    /// when it came there (modulo 2^64): with `bytes_out` it says how far along the stream it is. While it
    /// reads from the history, the next number that it gets.
    pub(super) lead: AtomicU64,
    /// A set of [`Condition`]s, which only the client's own task changes.
    conditions: AtomicU8,
    /// Whether the peer has acknowledged something since the reaper last asked.
    pub(super) progressed: AtomicBool,
    /// Waker of the client's task, which stays the same for life.
    waker: OnceLock<Waker>,
}

/// States of a client that the reaper has to know.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub(crate) enum Condition {
    /// Output waits that the socket does not take.
    Blocked = 1,
    /// The client is being closed, which has a deadline.
    Leaving = 1 << 1,
    /// The client has something to send, and the daemon makes it wait.
    Waiting = 1 << 2,
    /// When last probed, its peer had not acknowledged all that was sent to it.
    Unacknowledged = 1 << 3,
    /// The client has something to send, and its rates make it wait.
    Throttled = 1 << 4,
    /// The client holds memory that only work needs, and can do without while it is quiet.
    Warm = 1 << 5,
    /// The client reads from the history, and is in need of nothing in the buffer.
    CatchingUp = 1 << 6,
}

/// A set of commands to a client, taken all at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Commands(u32);

impl Commands {
    /// Jump to the newest line: the client is behind.
    pub(crate) const SKIP: Commands = Commands(1 << 8);
    /// See what of your session is stored.
    pub(crate) const ACK: Commands = Commands(1 << 19);
    /// Read on from the history: the client is behind.
    pub(crate) const CATCH_UP: Commands = Commands(1 << 18);
    /// The daemon stops: read what is there already, then no more.
    pub(crate) const DRAIN: Commands = Commands(1 << 9);
    /// Everything has been published: write it out and go.
    pub(crate) const FINISH: Commands = Commands(1 << 10);
    /// Stop where you are: a handover saves the client.
    pub(crate) const FREEZE: Commands = Commands(1 << 12);
    /// Go now, whatever is left.
    pub(crate) const ABORT: Commands = Commands(1 << 11);
    /// Poll once more: see `rest`.
    #[cfg(debug_assertions)]
    pub(crate) const NUDGE: Commands = Commands(1 << 14);
    /// Count your permit by your address.
    pub(crate) const COUNT: Commands = Commands(1 << 15);
    /// See whether your certificate has been revoked.
    pub(crate) const CERTIFICATE: Commands = Commands(1 << 17);
    /// Give back what only work needs.
    pub(crate) const REST: Commands = Commands(1 << 16);
    /// Have the peer show that it is there, if its transport can.
    pub(crate) const BEAT: Commands = Commands(1 << 20);
    /// See how far the peer has come, and whether it is still there.
    pub(crate) const PROBE: Commands = Commands(1 << 13);

    /// Close for this reason.
    pub(crate) fn close(reason: CloseReason) -> Commands {
        Commands(reason as u32)
    }

    /// Whether `command` is among them.
    pub(crate) fn contain(self, command: Commands) -> bool {
        self.0 & command.0 != 0
    }

    /// The reason to close for, if that was ordered.
    pub(crate) fn close_reason(self) -> Option<CloseReason> {
        CloseReason::from_code(self.0 as u8)
    }
}

/// A client's entry in the hub.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) subscriber: Arc<Subscriber>,
    /// Encoding that the client takes the stream in.
    pub(super) encoding: Encoding,
    /// `State::wakes` and the index in `State::parked` that holds as long as `wakes` stays the same.
    pub(super) parked: (u64, usize),
    /// Boxed, because 104 bytes find room where the whole slot would not: see [`connection`](super::connection).
    pub(super) meta: Box<ConnectionMeta>,
    pub(super) input_done: bool,
    /// Whether the client's disconnect notice is out.
    pub(super) left: bool,
}

impl Slot {
    /// What was counted of this client by now.
    pub(super) fn totals(&self) -> TrafficTotals {
        let counters = &self.subscriber.counters;
        TrafficTotals {
            lines_in: counters.lines_in.get(),
            bytes_in: counters.bytes_in.get(),
            lines_out: counters.lines_out.get(),
            bytes_out: counters.bytes_out.get(),
            skipped: self.meta.skipped,
        }
    }
}

impl Subscriber {
    /// A subscriber that takes nothing until it is said to have come somewhere: [`Subscriber::move_to`].
    pub(super) fn new(id: ClientId, is_named: bool, has_session: bool) -> Subscriber {
        Subscriber {
            id,
            is_named,
            has_session,
            counters: ClientCounters::default(),
            commands: AtomicU32::new(0),
            position: AtomicU64::new(DETACHED),
            lead: AtomicU64::new(0),
            conditions: AtomicU8::new(0),
            progressed: AtomicBool::new(false),
            waker: OnceLock::new(),
        }
    }

    /// It has come to this place, and `offset` bytes beyond it, and takes what follows in this
    /// encoding.
    pub(super) fn move_to(&self, node: &Node, offset: usize, encoding: Encoding) {
        let taken = self.counters.bytes_out.get();
        let place = node.sizes_before.of(encoding).wrapping_add(offset as u64);
        let lead = place.wrapping_sub(taken);
        self.lead.store(lead, Relaxed);
        // What it has freed is seen to be free by whoever sees this.
        self.position.store(node.cost_before, Release);
    }

    /// It reads from the history, and has had everything before this number.
    pub(super) fn move_to_past(&self, next: Seq) {
        self.lead.store(next.0, Relaxed);
        self.position.store(DETACHED, Relaxed);
    }

    /// Says which task to wake when a command is given. Only the first call counts.
    pub(crate) fn wake_with(&self, waker: &Waker) {
        if self.waker.get().is_none() {
            self.waker.get_or_init(|| waker.clone());
            // Pairs with the fence in `command`: either the command finds the waker, or the task,
            // which looks for commands next, finds the command.
            fence(SeqCst);
        }
    }

    /// Whether the client has this command still to take.
    #[cfg(debug_assertions)]
    pub(super) fn is_commanded(&self, command: Commands) -> bool {
        Commands(self.commands.load(Acquire)).contain(command)
    }

    /// Takes the commands given since the last call.
    pub(crate) fn take_commands(&self) -> Commands {
        // The load keeps the common case free of a locked instruction.
        match self.commands.load(Relaxed) {
            0 => Commands::default(),
            _ => Commands(self.commands.swap(0, Acquire)),
        }
    }

    /// Says whether a condition holds. To be called by the client's own task only.
    pub(crate) fn set(&self, condition: Condition, holds: bool) {
        let held = self.conditions.load(Relaxed);
        let bit = condition as u8;
        let conditions = if holds { held | bit } else { held & !bit };
        if conditions != held {
            self.conditions.store(conditions, Relaxed);
        }
    }

    pub(crate) fn is(&self, condition: Condition) -> bool {
        self.conditions.load(Relaxed) & condition as u8 != 0
    }

    pub(crate) fn command(&self, command: Commands) {
        // Of two reasons to close, the first stays.
        let _ = self.commands.fetch_update(AcqRel, Relaxed, |held| {
            let reason = if held & 0xff == 0 {
                command.0 & 0xff
            } else {
                held & 0xff
            };
            Some((held | command.0) & !0xff | reason)
        });
        fence(SeqCst);
        if let Some(waker) = self.waker.get() {
            waker.wake_by_ref();
        }
    }
}
