//! The stats that the system has of this process.

use std::time::{Duration, SystemTime};
use std::{fs, process};

use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

use crate::ops::procfs::{self, Stat};

/// The stats of a process that Prometheus' client libraries expose; `None` where the system does not
/// say.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ProcessStats {
    pub(super) cpu_seconds: Option<f64>,
    pub(super) resident_bytes: Option<u64>,
    pub(super) virtual_bytes: Option<u64>,
    pub(super) open_files: Option<u64>,
    /// `None` also when there is no limit.
    pub(super) open_files_max: Option<u64>,
    pub(super) threads: Option<u64>,
}

impl ProcessStats {
    /// The stats of this process now; see proc(5).
    pub(super) fn now() -> ProcessStats {
        let pid = process::id();
        let stat = Stat::read(pid);
        let field = |n| stat.as_ref().and_then(|stat| stat.field(n));
        ProcessStats {
            cpu_seconds: procfs::cpu_time(pid).map(|time| time.as_secs_f64()),
            resident_bytes: procfs::resident_bytes(pid),
            virtual_bytes: field(Stat::VIRTUAL),
            // The directory that is being listed is open too.
            open_files: fs::read_dir("/proc/self/fd")
                .ok()
                .map(|files| files.count() as u64 - 1),
            open_files_max: getrlimit(Resource::Nofile).current,
            threads: field(Stat::THREADS),
        }
    }
}

/// When this process began, exec or not; now, where the system does not say.
pub(super) fn started() -> SystemTime {
    let now = SystemTime::now();
    let age = Stat::read(process::id()).and_then(|stat| {
        let ticks = stat.field(Stat::STARTED)?;
        let since_boot = ticks as f64 / rustix::param::clock_ticks_per_second() as f64;
        let uptime = clock_gettime(ClockId::Boottime);
        let uptime = Duration::new(uptime.tv_sec as u64, uptime.tv_nsec as u32);
        uptime.checked_sub(Duration::from_secs_f64(since_boot))
    });
    now - age.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_tells_of_this_process() {
        let stats = ProcessStats::now();
        assert!(stats.cpu_seconds.is_some());
        assert!(stats.resident_bytes > Some(100_000));
        assert!(stats.virtual_bytes >= stats.resident_bytes);
        assert!(stats.open_files >= Some(3));
        assert!(stats.threads >= Some(1));
    }

    #[test]
    fn process_began_before_now_and_not_long_ago() {
        let age = started().elapsed().unwrap();
        assert!(age < Duration::from_secs(3600), "{age:?}");
    }
}
