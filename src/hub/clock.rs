//! Time in which this process ran. While it is stopped (SIGSTOP, a frozen container, a suspended
//! machine), clocks go on, and what waits for somebody else's deadline must not take that for time
//! that the other had.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// What a task may come late to its turn on a machine that is not idle, and has had its time all
/// the same; beside a part of the time that it slept.
const LATENESS: Duration = Duration::from_millis(5);

/// Pieces of a [`sleep`], as what comes late to the end of one is not counted: as long at least, and so many at most,
/// as each is a wake of its own.
const SLEEP_STEP: Duration = Duration::from_millis(100);
const SLEEP_STEPS_MAX: u32 = 10;

/// Counts laps of time in which this process ran.
#[derive(Debug)]
pub(crate) struct RunningTime {
    lap: Instant,
    /// What the process had computed for by then, in all its threads.
    computed: Duration,
}

impl RunningTime {
    pub(crate) fn start() -> RunningTime {
        RunningTime {
            lap: Instant::now(),
            computed: computed(),
        }
    }

    /// The time since the last lap, of which `slept` were spent asleep: what goes beyond that counts
    /// as far as the process was computing, or was a little late.
    pub(crate) fn lap(&mut self, slept: Duration) -> Duration {
        let now = RunningTime::start();
        let passed = now.lap.saturating_duration_since(self.lap);
        let busy = now.computed.saturating_sub(self.computed);
        *self = now;
        passed.min(slept + slept / 4 + LATENESS + busy)
    }

    /// The time since the last lap began.
    pub(crate) fn since_lap(&self) -> Duration {
        self.lap.elapsed()
    }
}

fn computed() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap_or_default()
}

/// Sleeps for so long a time in which this process ran. Cancel safe.
pub(crate) async fn sleep(duration: Duration) {
    let mut running = RunningTime::start();
    let step_max = SLEEP_STEP.max(duration / SLEEP_STEPS_MAX);
    let mut left = duration;
    while !left.is_zero() {
        let step = left.min(step_max);
        tokio::time::sleep(step).await;
        left = left.saturating_sub(running.lap(step));
    }
}
