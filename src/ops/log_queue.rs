//! The way of the log to stderr: nobody waits for whoever reads it.
//!
//! Stderr may be a pipe that nobody reads, such as that of `linehub 2>&1 | less`. Lines wait in a
//! queue for a thread that alone writes them, and may wait there for ever; what finds the queue full
//! is lost, and counted.

use std::io::{self, Write};
use std::mem;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

/// Bytes that wait at most, beside as many that are being written: twice what a storm of 15,000
/// clients makes, whose lines may come faster than a terminal shows them.
const QUEUE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// How long the end of the daemon waits for what is still to be written.
const FLUSH_TIME: Duration = Duration::from_secs(1);

static QUEUE: LogQueue = LogQueue {
    state: Mutex::new(State {
        waiting: Vec::new(),
        is_writing: false,
        lost_since: 0,
        lost: 0,
    }),
    changed: Condvar::new(),
};

struct LogQueue {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// Whole lines.
    waiting: Vec<u8>,
    /// Others are being written.
    is_writing: bool,
    /// Lines that were lost since that was last said, and ever.
    lost_since: u64,
    lost: u64,
}

/// Where lines are put: each call of `write` brings whole ones. Never blocks, never fails.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LogWriter;

impl Write for LogWriter {
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        let mut state = QUEUE.lock();
        if state.waiting.len() + lines.len() > QUEUE_BYTES_MAX {
            state.lost += 1;
            state.lost_since += 1;
        } else {
            state.waiting.extend_from_slice(lines);
            QUEUE.changed.notify_all();
        }
        Ok(lines.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl LogQueue {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held.
        self.state
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn write_all(&self, say_lost: fn(u64) -> String) {
        let mut state = self.lock();
        loop {
            let lost = mem::take(&mut state.lost_since);
            let mut lines = mem::take(&mut state.waiting);
            state.is_writing = lost > 0 || !lines.is_empty();
            if !state.is_writing {
                self.changed.notify_all();
                state = self
                    .changed
                    .wait(state)
                    .unwrap_or_else(|poisoned| poisoned.into_inner());
                continue;
            }
            drop(state);
            if lost > 0 {
                lines.extend_from_slice(say_lost(lost).as_bytes());
            }
            // Who closed the other end wants none of it.
            let _ = io::stderr().write_all(&lines);
            state = self.lock();
        }
    }
}

/// Starts the thread that writes. `say_lost` makes a line of how many were lost before it.
///
/// # Errors
/// The system refuses the thread.
pub(crate) fn start(say_lost: fn(u64) -> String) -> io::Result<()> {
    thread::Builder::new()
        .name("linehub-log".to_owned())
        .spawn(move || QUEUE.write_all(say_lost))?;
    Ok(())
}

/// Lines that were lost.
pub(crate) fn lost() -> u64 {
    QUEUE.lock().lost
}

/// Waits until all that was logged is written, but not for long: before the process ends, or becomes
/// another one.
pub fn flush() {
    let deadline = Instant::now() + FLUSH_TIME;
    let mut state = QUEUE.lock();
    while state.is_writing || !state.waiting.is_empty() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        state = match QUEUE.changed.wait_timeout(state, left) {
            Ok((state, _)) => state,
            Err(poisoned) => poisoned.into_inner().0,
        };
    }
}
