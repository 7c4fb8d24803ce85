//! The way of the log to stderr: nobody waits for whoever reads it.
//!
//! Stderr may be a pipe that nobody reads, such as that of `linehub 2>&1 | less`. Lines wait in a
//! queue for a thread that alone writes them, and may wait there for ever. What finds the queue full
//! is lost, and so is what the system refuses (a full disk) and what an exec leaves behind; all of it
//! is counted, and said in the log where it is missing.

use std::io::{self, Write};
use std::mem;
use std::thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

/// Bytes that wait at most, beside as many that are being written: twice what a storm of 15,000
/// clients makes, whose lines may come faster than a terminal shows them.
const QUEUE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Bytes of one write. A pipe takes so many whole or not at all (PIPE_BUF in pipe(7)): neither an
/// exec nor somebody else who writes there tears a line that is not longer.
const WRITE_BYTES_MAX: usize = libc::PIPE_BUF;

/// How long lines gather behind those that were written: of a storm of connections, each would have this thread
/// woken, on a core that clients wait for.
const GATHER_TIME: Duration = Duration::from_millis(1);

/// How long the end of the daemon waits for what is still to be written.
const FLUSH_TIME: Duration = Duration::from_secs(1);

/// How long a write may take that is under way when nothing more is to be written: it does not wait for
/// a reader, but perhaps for a core.
const WRITE_TIME: Duration = Duration::from_millis(100);

/// How long to leave stderr alone that can be written to, and then does not take it.
const RETRY_TIME: Duration = Duration::from_millis(10);

/// No log loses so many lines; beyond it, counting on might overflow.
const COUNT_MAX: u64 = 1 << 60;

static QUEUE: LogQueue = LogQueue {
    state: Mutex::new(State {
        waiting: Lines::NONE,
        batch: Lines::NONE,
        batch_at: 0,
        hand: Hand::EMPTY,
        losses: Losses::NONE,
        is_writing: false,
        is_refused: false,
        is_sealed: false,
    }),
    changed: Condvar::new(),
};

struct LogQueue {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// What was logged since the batch was taken.
    waiting: Lines,
    /// What is written next, from `batch_at` on.
    batch: Lines,
    batch_at: usize,
    /// What is written now.
    hand: Hand,
    losses: Losses,
    /// A write is under way.
    is_writing: bool,
    /// The last write was refused. That is said before the next line, and not by itself: it would be
    /// refused again and again.
    is_refused: bool,
    /// Nothing is written any more.
    is_sealed: bool,
}

/// Whole lines, and how many were lost behind them.
struct Lines {
    bytes: Vec<u8>,
    lost: u64,
}

/// A few lines, and before them what has to be said of others.
struct Hand {
    bytes: Vec<u8>,
    written: usize,
    /// Where the lines begin.
    preface: usize,
    /// How many lost lines the preface tells of.
    told: u64,
}

/// Lines that were lost. A handover passes it on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Losses {
    /// Ever.
    lost: u64,
    /// Of them, those of which the log does not tell yet.
    untold: u64,
    /// The last line that was written has no end.
    is_torn: bool,
}

/// Where lines are put: each call of `write` brings whole ones. Never blocks, never fails.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LogWriter;

impl Write for LogWriter {
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        let mut state = QUEUE.state.lock();
        if state.waiting.bytes.len() + lines.len() > QUEUE_BYTES_MAX {
            let lost = count(lines);
            state.losses.lost += lost;
            state.waiting.lost += lost;
        } else {
            state.waiting.bytes.extend_from_slice(lines);
            QUEUE.changed.notify_all();
        }
        Ok(lines.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Lines {
    const NONE: Lines = Lines {
        bytes: Vec::new(),
        lost: 0,
    };
}

impl Losses {
    const NONE: Losses = Losses {
        lost: 0,
        untold: 0,
        is_torn: false,
    };
}

impl Hand {
    const EMPTY: Hand = Hand {
        bytes: Vec::new(),
        written: 0,
        preface: 0,
        told: 0,
    };

    fn is_empty(&self) -> bool {
        self.written == self.bytes.len()
    }

    /// What one write is to bring.
    fn next(&self) -> &[u8] {
        let rest = &self.bytes[self.written..];
        &rest[..rest.len().min(WRITE_BYTES_MAX)]
    }

    /// Lines that are not written, or not whole.
    fn lines(&self) -> u64 {
        count(&self.bytes[self.written.max(self.preface)..])
    }
}

impl State {
    /// Lines that were lost and that the log does not tell of.
    fn untold(&self) -> u64 {
        self.losses.untold + self.batch.lost + self.waiting.lost
    }

    /// Lines that are not written yet.
    fn unwritten(&self) -> u64 {
        self.hand.lines() + count(&self.batch.bytes[self.batch_at..]) + count(&self.waiting.bytes)
    }

    /// Whether there is something to write.
    fn has_work(&self) -> bool {
        let has_lines = !self.hand.is_empty()
            || self.batch_at < self.batch.bytes.len()
            || !self.waiting.bytes.is_empty();
        !self.is_sealed && (has_lines || (self.untold() > 0 && !self.is_refused))
    }

    /// Sees that the hand has something in it, if there is anything.
    fn fill_hand(&mut self, tell: fn(u64) -> String) {
        if !self.hand.is_empty() {
            return;
        }
        if self.batch_at == self.batch.bytes.len() {
            let lost = mem::replace(&mut self.waiting.lost, 0);
            self.losses.untold += mem::replace(&mut self.batch.lost, lost);
            self.batch_at = 0;
            // The room of both is kept, for as long as it is not that of a storm.
            self.batch.bytes.clear();
            self.batch.bytes.shrink_to(QUEUE_BYTES_MAX / 64);
            mem::swap(&mut self.batch.bytes, &mut self.waiting.bytes);
        }
        if self.batch.bytes.is_empty() {
            self.losses.untold += mem::take(&mut self.batch.lost);
        }
        let bytes = &mut self.hand.bytes;
        bytes.clear();
        if self.losses.is_torn {
            bytes.push(b'\n');
        }
        self.hand.told = self.losses.untold;
        if self.hand.told > 0 {
            bytes.extend_from_slice(tell(self.hand.told).as_bytes());
        }
        self.hand.preface = bytes.len();
        self.hand.written = 0;
        let rest = &self.batch.bytes[self.batch_at..];
        let room = WRITE_BYTES_MAX.saturating_sub(bytes.len());
        let fits = &rest[..rest.len().min(room)];
        let end = match fits.iter().rposition(is_end) {
            // One that is longer goes in several writes.
            None => rest.iter().position(is_end),
            last => last,
        };
        let lines = &rest[..end.map_or(rest.len(), |end| end + 1)];
        bytes.extend_from_slice(lines);
        self.batch_at += lines.len();
    }

    /// Notes what came of a write.
    fn note(&mut self, outcome: Result<usize, Errno>) {
        match outcome {
            Err(Errno::INTR | Errno::AGAIN) => {}
            Ok(written) if written > 0 => {
                self.is_refused = false;
                self.hand.written += written;
                self.losses.is_torn = self.hand.bytes[self.hand.written - 1] != b'\n';
                if self.hand.written >= self.hand.preface {
                    self.losses.untold -= mem::take(&mut self.hand.told);
                }
            }
            // Such as of a full disk, or whose reader is gone.
            _ => {
                let lost = self.hand.lines();
                self.losses.lost += lost;
                self.losses.untold += lost;
                self.hand = Hand::EMPTY;
                self.is_refused = true;
            }
        }
    }
}

impl LogQueue {
    /// Waits while this holds, at most until then; returns whether it did not hold any more.
    fn wait_while(&self, time: Duration, holds: impl Fn(&State) -> bool) -> bool {
        let mut state = self.state.lock();
        self.changed
            .wait_while_for(&mut state, |state| holds(state), time);
        !holds(&state)
    }

    fn write_all(&self, tell: fn(u64) -> String) {
        let stderr = io::stderr();
        let mut bytes = Vec::new();
        loop {
            let mut state = self.state.lock();
            self.changed
                .wait_while(&mut state, |state| !state.has_work());
            drop(state);
            // Here it waits for the reader, and not in the write: between the two an exec finds it
            // with nothing half done. Whatever is wrong, the write says it.
            let _ = poll(&mut [PollFd::new(&stderr, PollFlags::OUT)], None);
            state = self.state.lock();
            if !state.has_work() {
                continue;
            }
            state.fill_hand(tell);
            bytes.clear();
            bytes.extend_from_slice(state.hand.next());
            state.is_writing = true;
            drop(state);
            let outcome = rustix::io::write(&stderr, &bytes);
            state = self.state.lock();
            state.is_writing = false;
            state.note(outcome);
            self.changed.notify_all();
            let is_done = !state.has_work();
            drop(state);
            if outcome == Err(Errno::AGAIN) {
                thread::sleep(RETRY_TIME);
            } else if is_done {
                thread::sleep(GATHER_TIME);
            }
        }
    }
}

fn is_end(byte: &u8) -> bool {
    *byte == b'\n'
}

fn count(lines: &[u8]) -> u64 {
    lines.iter().filter(|byte| is_end(byte)).count() as u64
}

/// Starts the thread that writes. `tell` makes a line of how many were lost before it.
///
/// # Errors
/// The system refuses the thread.
pub(crate) fn start(tell: fn(u64) -> String) -> io::Result<()> {
    thread::Builder::new()
        .name("linehub-log".to_owned())
        .spawn(move || QUEUE.write_all(tell))?;
    Ok(())
}

/// Lines that were lost.
pub(crate) fn lost() -> u64 {
    QUEUE.state.lock().losses.lost
}

/// Waits until all that was logged is written, but not for long: before the process ends.
pub fn flush() {
    flush_within(FLUSH_TIME);
}

/// Waits until all that was logged is written, at most so long; returns whether it is.
pub(crate) fn flush_within(time: Duration) -> bool {
    QUEUE.wait_while(time, |state| state.has_work() || state.is_writing)
}

/// Has nothing more written, and returns what is lost by that too: for the daemon that goes on where
/// this one is.
pub(crate) fn seal() -> Losses {
    QUEUE.state.lock().is_sealed = true;
    QUEUE.wait_while(WRITE_TIME, |state| state.is_writing);
    let state = QUEUE.state.lock();
    let unwritten = state.unwritten();
    Losses {
        lost: state.losses.lost + unwritten,
        untold: state.untold() + unwritten,
        is_torn: state.losses.is_torn,
    }
}

/// Goes on writing: there is no other daemon.
pub(crate) fn unseal() {
    QUEUE.state.lock().is_sealed = false;
    QUEUE.changed.notify_all();
}

/// Goes on counting where the daemon before stopped.
pub(crate) fn resume(before: Losses) {
    let mut state = QUEUE.state.lock();
    let losses = &mut state.losses;
    losses.lost += before.lost.min(COUNT_MAX);
    losses.untold += before.untold.min(COUNT_MAX);
    losses.is_torn |= before.is_torn;
    QUEUE.changed.notify_all();
}
