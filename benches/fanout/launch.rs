//! The servers under test: each a child process on a core of its own, ended when dropped.

use std::env;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{self, Command};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use linehub::commands::bench::{Daemon, Endpoint};
use linehub::ops::procfs;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use tempfile::TempDir;

use crate::peers::{self, Peer};
use crate::tls::{Front, Pair};

/// First argument with which the benchmark starts itself as the raw loop.
pub(crate) const RAW_LOOP: &str = "__raw-loop";

/// Which cores the server and the load may use.
#[derive(Clone, Debug)]
pub(crate) struct Cores {
    all: Vec<usize>,
}

impl Cores {
    /// The cores this process may run on.
    pub(crate) fn available() -> Result<Cores> {
        let set = sched_getaffinity(None)?;
        let all = (0..CpuSet::MAX_CPU).filter(|&core| set.is_set(core));
        Ok(Cores { all: all.collect() })
    }

    /// Whether there are two, one for the server and one for the load.
    pub(crate) fn can_pin(&self) -> bool {
        self.all.len() >= 2
    }

    /// Does something on the core of the servers, and goes back to that of the load.
    pub(crate) fn on_the_servers<T>(&self, work: impl FnOnce() -> T) -> Result<T> {
        let (for_server, for_load) = self.shares(true);
        run_on(for_server)?;
        let done = work();
        run_on(for_load)?;
        Ok(done)
    }

    /// The cores for the server and for the load.
    fn shares(&self, pinned: bool) -> (&[usize], &[usize]) {
        if pinned && self.can_pin() {
            (&self.all[..1], &self.all[1..2])
        } else {
            (&self.all, &self.all)
        }
    }
}

/// Moves this thread, and what it starts, to these cores.
fn run_on(cores: &[usize]) -> Result<()> {
    let mut set = CpuSet::new();
    cores.iter().for_each(|core| set.set(*core));
    sched_setaffinity(None, &set).with_context(|| format!("cannot move to cores {cores:?}"))
}

/// What to start.
#[derive(Clone, Debug)]
pub(crate) enum Program {
    /// The daemon's binary.
    Linehub(PathBuf),
    /// The baseline, in this binary: it takes so many bytes from a socket at a time.
    RawLoop { read_bytes: usize },
    /// Another server that keeps what is published.
    Peer(Peer),
}

/// How to start it.
#[derive(Clone, Debug)]
pub(crate) struct Launch {
    pub program: Program,
    /// Options for the daemon; the raw loop has none.
    pub flags: Vec<String>,
    /// One core for the server and another for the load, or all for both.
    pub pinned: bool,
    /// Whether clients say hello first.
    pub hello: bool,
    /// Whether clients speak HTTP.
    pub http: bool,
    /// Whether clients speak TLS.
    pub tls: bool,
    /// What speaks TLS for the daemon, on the same core; without, it does so itself.
    pub front: Option<Front>,
    /// Whether the daemon keeps its history on disk, in a folder of its own.
    pub on_disk: bool,
}

impl Launch {
    /// With these options, pinned, and nothing special.
    pub(crate) fn new(program: &Program, flags: &[&str]) -> Launch {
        Launch {
            program: program.clone(),
            flags: flags.iter().map(ToString::to_string).collect(),
            pinned: true,
            hello: false,
            http: false,
            tls: false,
            front: None,
            on_disk: false,
        }
    }

    /// Whether lines stay whole however their bytes arrive.
    pub(crate) fn frames_lines(&self) -> bool {
        !matches!(self.program, Program::RawLoop { .. })
    }

    /// Starts the server, waits until it listens, and moves the load to its core.
    pub(crate) fn start(&self, cores: &Cores) -> Result<Server> {
        let pair = self.tls.then(Pair::new).transpose()?;
        let has_files = self.on_disk || matches!(self.program, Program::Peer(_));
        let folder = has_files.then(tempfile::tempdir).transpose()?;
        // Where it will listen, if it does not say so itself.
        let mut known = None;
        let mut command = match &self.program {
            Program::Linehub(path) => {
                let mut command = Command::new(path);
                let mut listen = "127.0.0.1:0".to_owned();
                listen += if self.hello { ",hello" } else { "" };
                listen += if self.http { ",http" } else { "" };
                if let (Some(pair), None) = (&pair, self.front) {
                    listen += ",tls";
                    command.arg("--tls-cert").arg(pair.certificate());
                    command.arg("--tls-key").arg(pair.key());
                }
                command.args(["--listen", &listen]).args(&self.flags);
                if let Some(folder) = &folder {
                    command.arg("--history-dir").arg(folder.path());
                }
                command
            }
            Program::RawLoop { read_bytes } => {
                let mut command = Command::new(env::current_exe()?);
                command.arg(RAW_LOOP).arg(read_bytes.to_string());
                command
            }
            Program::Peer(peer) => {
                let folder = folder.as_ref().context("a peer without a folder")?;
                let (command, address) = peer.command(folder.path())?;
                known = Some(address);
                command
            }
        };
        // The environment could configure the daemon or its log.
        command.env_clear();
        // It has one core.
        command.env("GOMAXPROCS", "1");
        let (for_server, for_load) = cores.shares(self.pinned);
        run_on(for_server)?;
        let started = Daemon::start(command).and_then(|mut daemon| {
            let address = match known {
                Some(address) => {
                    peers::wait_for(&mut daemon, address)?;
                    address
                }
                None => daemon.address("listening")?,
            };
            let front = self.front.zip(pair.as_ref());
            let front = front.map(|(front, pair)| front.start(pair, address));
            Ok((daemon, address, front.transpose()?))
        });
        run_on(for_load)?;
        let (daemon, address, front) = started?;
        let (front, address) = match front {
            Some((front, address)) => (Some(front), address),
            None => (None, address),
        };
        Ok(Server {
            daemon,
            front,
            address,
            pair,
            _folder: folder,
        })
    }
}

/// A running server.
pub(crate) struct Server {
    daemon: Daemon,
    /// What clients are connected to, if that is not the daemon.
    front: Option<Daemon>,
    address: SocketAddr,
    /// What is shown to clients, if they speak TLS.
    pair: Option<Pair>,
    /// Its files, which are removed when it has ended.
    _folder: Option<TempDir>,
}

impl Server {
    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where clients are connected to, and how.
    pub(crate) fn endpoint(&self) -> Result<Endpoint> {
        match &self.pair {
            Some(pair) => pair.endpoint(self.address),
            None => Ok(Endpoint::resetting(self.address)),
        }
    }

    /// Where it serves its status page and metrics, if it was told to.
    pub(crate) fn admin(&mut self) -> Result<SocketAddr> {
        self.daemon.address("admin listening")
    }

    /// CPU time that it and the load have used.
    pub(crate) fn usage(&self) -> Result<Usage> {
        let time = |pid| procfs::cpu_time(pid).context("the server is gone");
        let front = self.front.as_ref().map(|front| time(front.pid()));
        Ok(Usage {
            server: time(self.daemon.pid())? + front.transpose()?.unwrap_or_default(),
            load: time(process::id())?,
            at: Instant::now(),
        })
    }

    /// Resident bytes now.
    pub(crate) fn resident_bytes(&self) -> Result<u64> {
        procfs::resident_bytes_exact(self.daemon.pid()).context("the server is gone")
    }

    /// The most bytes that were resident since it started.
    pub(crate) fn resident_bytes_max(&self) -> Result<u64> {
        procfs::resident_bytes_max(self.daemon.pid()).context("the server is gone")
    }
}

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
    /// What was used until `later`, by the same server.
    pub(crate) fn until(&self, later: &Usage) -> Busy {
        Busy {
            elapsed: later.at - self.at,
            server: later.server - self.server,
            load: later.load - self.load,
        }
    }
}
