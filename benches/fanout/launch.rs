//! The servers under test: each a child process on a core of its own, ended when dropped.

use std::env;
use std::ffi::OsString;
use std::fs::File;
use std::net::SocketAddrV4;
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Signal, set_parent_process_death_signal};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::procfs::{self, Usage};

/// First argument with which the benchmark starts itself to become a server.
pub(crate) const LAUNCH: &str = "__launch";
/// First argument with which the benchmark starts itself as the raw loop.
pub(crate) const RAW_LOOP: &str = "__raw-loop";

const START_LIMIT: Duration = Duration::from_secs(10);

/// Which cores the server and the load may use.
#[derive(Clone, Debug)]
pub(crate) struct Cores {
    all: Vec<usize>,
}

impl Cores {
    /// The cores this process may run on.
    pub(crate) fn available() -> Result<Cores> {
        let set = sched_getaffinity(None)?;
        Ok(Cores {
            all: (0..CpuSet::MAX_CPU)
                .filter(|&core| set.is_set(core))
                .collect(),
        })
    }

    /// Whether there are two, one for the server and one for the load.
    pub(crate) fn can_pin(&self) -> bool {
        self.all.len() >= 2
    }

    /// Moves the load to its core, or lets it run on all, and says where the server is to run.
    fn place(&self, pinned: bool) -> Result<&[usize]> {
        let (server, load) = if pinned && self.can_pin() {
            (&self.all[..1], &self.all[1..2])
        } else {
            (&self.all[..], &self.all[..])
        };
        run_on(load)?;
        Ok(server)
    }
}

fn run_on(cores: &[usize]) -> Result<()> {
    let mut set = CpuSet::new();
    for &core in cores {
        set.set(core);
    }
    sched_setaffinity(None, &set).with_context(|| format!("cannot move to cores {cores:?}"))
}

/// What to start.
#[derive(Clone, Debug)]
pub(crate) enum Program {
    /// The daemon's binary.
    Linehub(PathBuf),
    /// The baseline, in this binary: it takes so many bytes from a socket at a time.
    RawLoop { read_bytes: usize },
}

/// How to start it.
#[derive(Clone, Debug)]
pub(crate) struct Launch {
    pub program: Program,
    /// Options for the daemon; the raw loop has none.
    pub flags: Vec<String>,
    /// One core for the server and another for the load, or all for both.
    pub pinned: bool,
}

impl Launch {
    /// Whether lines stay whole however their bytes arrive.
    pub(crate) fn frames_lines(&self) -> bool {
        matches!(self.program, Program::Linehub(_))
    }

    /// Starts the server and waits until it listens.
    pub(crate) fn start(&self, cores: &Cores) -> Result<Server> {
        let cores: Vec<String> = cores
            .place(self.pinned)?
            .iter()
            .map(usize::to_string)
            .collect();
        // A file rather than a pipe: nobody has to empty it while the server runs.
        let log = File::from(memfd_create("server-log", MemfdFlags::CLOEXEC)?);
        let this = env::current_exe()?;
        let mut command = Command::new(&this);
        command.arg(LAUNCH).arg(cores.join(","));
        match &self.program {
            Program::Linehub(path) => command
                .arg(path)
                .args(["--listen", "127.0.0.1:0"])
                .args(&self.flags),
            Program::RawLoop { read_bytes } => {
                command.arg(&this).arg(RAW_LOOP).arg(read_bytes.to_string())
            }
        };
        // The environment could configure the daemon or its log.
        command
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.try_clone()?);
        let child = command.spawn()?;
        let mut server = Server {
            child,
            log,
            address: None,
        };
        server
            .wait_until_listening()
            .with_context(|| server.describe_log())?;
        Ok(server)
    }
}

/// Becomes the server: `CORES PROGRAM ARGUMENTS…`. Returns only if that fails.
pub(crate) fn become_server(mut arguments: impl Iterator<Item = OsString>) -> Result<()> {
    let cores = arguments
        .next()
        .and_then(|cores| cores.into_string().ok())
        .context("no cores")?;
    let cores: Vec<usize> = cores.split(',').map(str::parse).collect::<Result<_, _>>()?;
    let program = arguments.next().context("no program")?;
    run_on(&cores)?;
    // However the benchmark ends, its servers end with it.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let error = Command::new(&program).args(arguments).exec();
    Err(error).with_context(|| format!("cannot start {}", program.to_string_lossy()))
}

/// A running server.
pub(crate) struct Server {
    child: Child,
    log: File,
    address: Option<SocketAddrV4>,
}

impl Server {
    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddrV4 {
        self.address
            .expect("`start` returns only servers that listen")
    }

    /// Where it serves its status page and metrics, if it was told to.
    pub(crate) fn admin(&self) -> Result<SocketAddrV4> {
        // That line comes right behind the one that was waited for.
        let deadline = Instant::now() + START_LIMIT;
        loop {
            let found = address_in(&self.read_log(), "admin listening");
            if found.is_some() || Instant::now() > deadline {
                return found.context("the server does not say where its admin address is");
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// CPU time it and the load have used.
    pub(crate) fn usage(&self) -> Result<Usage> {
        Usage::now(self.child.id())
    }

    /// Resident bytes now.
    pub(crate) fn resident_bytes(&self) -> Result<u64> {
        procfs::resident_bytes(self.child.id())
    }

    /// The most bytes that were resident since it started.
    pub(crate) fn resident_bytes_max(&self) -> Result<u64> {
        procfs::resident_bytes_max(self.child.id())
    }

    fn wait_until_listening(&mut self) -> Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            if let Some(address) = address_in(&self.read_log(), "listening") {
                self.address = Some(address);
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("the server ended at its start: {status}");
            }
            if Instant::now() > deadline {
                bail!("the server does not say where it listens");
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn read_log(&self) -> String {
        let size = self.log.metadata().map_or(0, |metadata| metadata.len());
        let mut bytes = vec![0; size.min(64 * 1024) as usize];
        let count = self.log.read_at(&mut bytes, 0).unwrap_or(0);
        String::from_utf8_lossy(&bytes[..count]).into_owned()
    }

    /// The first lines the server logged, for an error message.
    fn describe_log(&self) -> String {
        let log = self.read_log();
        let lines: Vec<&str> = log.lines().take(5).collect();
        format!(
            "server log: {}",
            if lines.is_empty() {
                "empty".into()
            } else {
                lines.join(" | ")
            }
        )
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself; there is nobody left to tell.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The address in the first log line that says this and has `address=HOST:PORT`.
fn address_in(log: &str, words: &str) -> Option<SocketAddrV4> {
    // The last piece may be a line that is still being written.
    let (whole, _) = log.rsplit_once('\n')?;
    let line = whole.lines().find(|line| line.contains(words))?;
    let (_, rest) = line.split_once("address=")?;
    rest.trim_start_matches('"')
        .split([' ', '"', ','])
        .next()?
        .parse()
        .ok()
}
