//! The daemon that is loaded: a given one, or a child of this process.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader};
use std::net::ToSocketAddrs;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use rustix::process::{Signal, set_parent_process_death_signal};
use socket2::{Domain, SockAddr, Socket, Type};

use super::plan::Run;
use super::procfs;
use crate::config::Address;
use crate::wire::format::Format;

/// A receive buffer that is soon full. The kernel doubles it.
const STUCK_BUFFER_BYTES: usize = 4096;

/// How long the daemon may take until it listens.
const START_PATIENCE: Duration = Duration::from_secs(30);

/// How long the log may take to say why a connection was closed.
const LOG_PATIENCE: Duration = Duration::from_secs(3);

/// The daemon that is loaded. Dropping it ends one that is our own.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) address: Address,
    pub(super) endpoint: Endpoint,
    pub(super) own: Option<OwnDaemon>,
}

/// Where connections are made to.
#[derive(Debug)]
pub(super) struct Endpoint(SockAddr);

/// A daemon that is a child of this process and ends with it, however that ends.
#[derive(Debug)]
pub(super) struct OwnDaemon {
    child: Child,
    log: Arc<(Mutex<Log>, Condvar)>,
}

/// What the child's log has said so far.
#[derive(Debug, Default)]
struct Log {
    address: Option<String>,
    /// Clients by the address that they came from.
    clients: HashMap<String, String>,
    /// Reasons by client.
    reasons: HashMap<String, String>,
    last: String,
    ended: bool,
}

impl Target {
    /// Reaches the daemon at `address`, or starts one. Returns the first connection to it.
    pub(super) fn reach(address: Option<&Address>, run: &Run) -> Result<(Target, Socket)> {
        let (address, own) = match address {
            Some(address) => (address.clone(), None),
            None => {
                let (own, address) = OwnDaemon::start(run)?;
                (address, Some(own))
            }
        };
        let (endpoint, first) =
            Endpoint::reach(&address).with_context(|| format!("cannot connect to {address}"))?;
        let target = Target {
            address,
            endpoint,
            own,
        };
        Ok((target, first))
    }

    /// The daemon's process, if it is on this machine and ours to look at. `connection` is one that
    /// the daemon serves.
    pub(super) fn pid(&self, connection: &Socket) -> Option<u32> {
        if let Some(own) = &self.own {
            return Some(own.child.id());
        }
        if let Ok(credentials) = rustix::net::sockopt::socket_peercred(connection) {
            let pid = credentials.pid.as_raw_nonzero().get() as u32;
            // A service manager has opened the socket, and somebody else serves it.
            return (pid > 1 && self.address.is_unix()).then_some(pid);
        }
        let ours = connection.local_addr().ok()?.as_socket()?;
        let theirs = connection.peer_addr().ok()?.as_socket()?;
        procfs::server_of(ours, theirs)
    }

    /// Why our own daemon closed a connection, as its log says.
    pub(super) fn reason(&self, connection: &Socket) -> Option<String> {
        let peer = connection.local_addr().ok()?.as_socket()?;
        self.own.as_ref()?.reason(&peer.to_string())
    }
}

impl Address {
    fn is_unix(&self) -> bool {
        matches!(self, Address::Unix(_))
    }
}

impl Endpoint {
    /// The first of an address's meanings that answers.
    fn reach(address: &Address) -> io::Result<(Endpoint, Socket)> {
        let candidates = match address {
            Address::Unix(path) => vec![SockAddr::unix(path)?],
            Address::Tcp { host, port } => (host.as_str(), *port)
                .to_socket_addrs()?
                .map(SockAddr::from)
                .collect(),
        };
        let mut refusal = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for candidate in candidates {
            let endpoint = Endpoint(candidate);
            match endpoint.socket().and_then(|socket| {
                socket.connect(&endpoint.0)?;
                Ok(socket)
            }) {
                Ok(socket) => return Ok((endpoint, socket)),
                Err(error) => refusal = error,
            }
        }
        Err(refusal)
    }

    fn socket(&self) -> io::Result<Socket> {
        let socket = Socket::new(self.0.domain(), Type::STREAM, None)?;
        if self.0.domain() != Domain::UNIX {
            socket.set_tcp_nodelay(true)?;
        }
        Ok(socket)
    }

    /// Begins a connection; whether it is made already. A stuck reader's takes little.
    pub(super) fn dial(&self, stuck: bool) -> io::Result<(Socket, bool)> {
        let socket = self.socket()?;
        if stuck {
            socket.set_recv_buffer_size(STUCK_BUFFER_BYTES)?;
        }
        socket.set_nonblocking(true)?;
        match socket.connect(&self.0) {
            Ok(()) => Ok((socket, true)),
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok((socket, false)),
            Err(error) => Err(error),
        }
    }
}

impl OwnDaemon {
    fn start(run: &Run) -> Result<(OwnDaemon, Address)> {
        let mut command = Command::new("/proc/self/exe");
        command
            .arg0("linehub")
            .args(["--listen", "127.0.0.1:0", "--log", "info"])
            .args(["--format", run.format.unwrap_or(Format::Text).name()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            // A Ctrl-C in the terminal is for this process, which ends the child when it is done.
            .process_group(0);
        // 64 KiB is the default.
        if run.size > 64 * 1024 {
            command.args(["--max-line", &run.size.to_string()]);
        }
        // Those that are not about how lines travel.
        let foreign = [
            "LINEHUB_CONFIG",
            "RUST_LOG",
            "JOURNAL_STREAM",
            "NOTIFY_SOCKET",
            "WATCHDOG_USEC",
            "LISTEN_FDS",
            "LISTEN_PID",
        ];
        for name in foreign {
            command.env_remove(name);
        }
        die_with_parent(&mut command);
        let mut child = command.spawn().context("cannot start a daemon")?;
        let stderr = child.stderr.take().context("it has no stderr")?;
        let log = Arc::new((Mutex::new(Log::default()), Condvar::new()));
        let own = OwnDaemon {
            child,
            log: Arc::clone(&log),
        };
        std::thread::Builder::new()
            .name("daemon-log".to_owned())
            .spawn(move || follow(stderr, &log))?;
        let address = own.wait(START_PATIENCE, |log| {
            let ended = log
                .ended
                .then(|| Err(anyhow!("the daemon ended: {}", log.last)));
            log.address.clone().map(Ok).or(ended)
        });
        let address = address.context("the daemon does not listen")??;
        let address = address.parse().map_err(|error| anyhow!("{error}"))?;
        Ok((own, address))
    }

    /// Waits until the log says something.
    fn wait<T>(&self, patience: Duration, mut said: impl FnMut(&Log) -> Option<T>) -> Option<T> {
        let (log, changed) = &*self.log;
        let log = log.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found = None;
        let waited = changed.wait_timeout_while(log, patience, |log| {
            found = said(log);
            found.is_none() && !log.ended
        });
        drop(waited);
        found
    }

    fn reason(&self, peer: &str) -> Option<String> {
        self.wait(LOG_PATIENCE, |log| {
            let client = log.clients.get(peer)?;
            log.reasons.get(client).cloned()
        })
    }
}

impl Drop for OwnDaemon {
    fn drop(&mut self) {
        // Both fail only if it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Has the kernel kill the child when this process ends, even if it is killed itself.
#[allow(unsafe_code)]
fn die_with_parent(command: &mut Command) {
    // SAFETY: between fork and exec only async-signal-safe functions may run. This one makes a
    // single system call and touches no memory but its own.
    unsafe {
        command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?));
    }
}

fn follow(stderr: ChildStderr, log: &(Mutex<Log>, Condvar)) {
    let (log, changed) = log;
    let mut lines = BufReader::new(stderr).lines();
    loop {
        let line = lines.next().and_then(Result::ok);
        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
        match line {
            Some(line) => log.note(line),
            None => log.ended = true,
        }
        changed.notify_all();
        if log.ended {
            return;
        }
    }
}

impl Log {
    fn note(&mut self, line: String) {
        let field = |name: &str| {
            let mut words = line.split_whitespace();
            words
                .find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
                .map(str::to_owned)
        };
        let is = |words: &str| line.contains(words);
        if is(" listening ") {
            self.address = self.address.take().or(field("address"));
        } else if is("client connected") {
            if let (Some(peer), Some(client)) = (field("peer"), field("client")) {
                self.clients.insert(peer, client);
            }
        } else if is("client disconnected")
            && let (Some(client), Some(reason)) = (field("client"), field("reason"))
        {
            self.reasons.insert(client, reason);
        }
        self.last = line;
    }
}
