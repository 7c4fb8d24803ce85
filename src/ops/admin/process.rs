//! What the system says of this process.

use std::fs;
use std::time::{Duration, SystemTime};

use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

/// The stats that Prometheus' client libraries have of every process; `None` where the system does
/// not say.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ProcessFigures {
    pub(super) cpu_seconds: Option<f64>,
    pub(super) resident_bytes: Option<u64>,
    pub(super) virtual_bytes: Option<u64>,
    pub(super) open_files: Option<u64>,
    /// `None` also when there is no limit.
    pub(super) open_files_max: Option<u64>,
    pub(super) threads: Option<u64>,
}

impl ProcessFigures {
    /// As they are now; see proc(5).
    pub(super) fn now() -> ProcessFigures {
        let stat = Stat::read();
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        let page = rustix::param::page_size() as u64;
        let field = |n| stat.as_ref().and_then(|stat| stat.field(n));
        let times = field(Stat::UTIME).zip(field(Stat::STIME));
        ProcessFigures {
            cpu_seconds: times.map(|(user, system)| (user + system) as f64 / ticks),
            resident_bytes: field(Stat::RESIDENT).map(|pages| pages * page),
            virtual_bytes: field(Stat::VIRTUAL),
            // The listing has itself open.
            open_files: fs::read_dir("/proc/self/fd")
                .ok()
                .map(|files| files.count() as u64 - 1),
            open_files_max: getrlimit(Resource::Nofile).current,
            threads: field(Stat::THREADS),
        }
    }
}

/// When this process began, whatever program it was then; now, where the system does not say.
pub(super) fn started() -> SystemTime {
    let now = SystemTime::now();
    let age = Stat::read().and_then(|stat| {
        let ticks = stat.field(Stat::STARTED)?;
        let since_boot = ticks as f64 / rustix::param::clock_ticks_per_second() as f64;
        let uptime = clock_gettime(ClockId::Boottime);
        let uptime = Duration::new(uptime.tv_sec as u64, uptime.tv_nsec as u32);
        uptime.checked_sub(Duration::from_secs_f64(since_boot))
    });
    now - age.unwrap_or_default()
}

/// `/proc/self/stat`, from the field behind the program's name on, which is the third.
struct Stat(String);

impl Stat {
    const UTIME: usize = 14;
    const STIME: usize = 15;
    const THREADS: usize = 20;
    const STARTED: usize = 22;
    const VIRTUAL: usize = 23;
    const RESIDENT: usize = 24;

    fn read() -> Option<Stat> {
        let text = fs::read_to_string("/proc/self/stat").ok()?;
        Some(Stat(text.rsplit_once(") ")?.1.to_owned()))
    }

    /// The field with this number in proc(5).
    fn field(&self, number: usize) -> Option<u64> {
        self.0.split(' ').nth(number - 3)?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_tells_of_this_process() {
        let stats = ProcessFigures::now();
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
