//! What the kernel says a process has used.

use std::fs;
use std::process;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

/// CPU time used up to a moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    at: Instant,
    server: Duration,
    load: Duration,
}

/// What was used between two moments.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Busy {
    /// Wall-clock time.
    pub elapsed: Duration,
    /// CPU time of the server.
    pub server: Duration,
    /// CPU time of the load. If it is near `elapsed`, the load was the limit, not the server; if
    /// neither is, something else had the cores.
    pub load: Duration,
}

impl Usage {
    /// Now, for the server `pid` and this process.
    pub(crate) fn now(pid: u32) -> Result<Usage> {
        let (server, load) = (cpu_time(pid)?, cpu_time(process::id())?);
        Ok(Usage {
            at: Instant::now(),
            server,
            load,
        })
    }

    /// From then to `later`, for the same server.
    pub(crate) fn until(&self, later: &Usage) -> Busy {
        Busy {
            elapsed: later.at - self.at,
            server: later.server - self.server,
            load: later.load - self.load,
        }
    }
}

/// Time all threads of a process have run, in user and kernel together.
fn cpu_time(pid: u32) -> Result<Duration> {
    let mut nanos = 0;
    let tasks = format!("/proc/{pid}/task");
    for task in fs::read_dir(&tasks).with_context(|| tasks.clone())? {
        let path = task?.path().join("schedstat");
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let first = text.split_whitespace().next().context("empty schedstat")?;
        nanos += first.parse::<u64>().context("schedstat")?;
    }
    Ok(Duration::from_nanos(nanos))
}

/// Resident bytes of a process now.
pub(crate) fn resident_bytes(pid: u32) -> Result<u64> {
    field_bytes(&format!("/proc/{pid}/smaps_rollup"), "Rss:")
}

/// The most bytes of a process that were ever resident.
pub(crate) fn resident_bytes_max(pid: u32) -> Result<u64> {
    field_bytes(&format!("/proc/{pid}/status"), "VmHWM:")
}

fn field_bytes(path: &str, field: &str) -> Result<u64> {
    let text = fs::read_to_string(path).with_context(|| path.to_owned())?;
    let value = text.lines().find_map(|line| line.strip_prefix(field));
    let number = value.and_then(|value| value.split_whitespace().next());
    let kilobytes = number.with_context(|| format!("no {field} in {path}"))?;
    Ok(kilobytes.parse::<u64>()? * 1024)
}
