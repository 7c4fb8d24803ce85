//! A daemon that is a child of this process and ends with it, however that ends.

use std::collections::HashMap;
use std::fs::File;
use std::net::SocketAddr;
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Signal, set_parent_process_death_signal};

/// How long the daemon may take to say where it listens.
const START_PATIENCE: Duration = Duration::from_secs(30);

/// How long the log may take to say why connections were closed.
const LOG_PATIENCE: Duration = Duration::from_secs(3);

/// How often the log is looked at.
const LOG_PERIOD: Duration = Duration::from_millis(5);

/// A running daemon. Dropping it ends it.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    /// A file rather than a pipe: nobody has to empty it while the daemon runs.
    log: File,
}

impl Daemon {
    /// Starts a daemon, with its log in place of stderr. The calling thread must not end before the daemon.
    pub fn start(mut command: Command) -> Result<Daemon> {
        let log = File::from(memfd_create("daemon-log", MemfdFlags::CLOEXEC)?);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.try_clone()?);
        die_with_parent(&mut command);
        let child = command.spawn().context("cannot start a daemon")?;
        Ok(Daemon { child, log })
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the first line of the log that says this and has an address, which is returned.
    pub fn address(&mut self, words: &str) -> Result<SocketAddr> {
        let deadline = Instant::now() + START_PATIENCE;
        loop {
            let ended = self.child.try_wait()?;
            let log = self.read_log();
            let line = log.lines().find(|line| line.contains(words));
            if let Some(address) = line.and_then(|line| field(line, "address")) {
                return Ok(address.parse()?);
            }
            if ended.is_some() {
                bail!(
                    "the daemon ended: {}",
                    log.lines().last().unwrap_or("no log")
                );
            }
            if Instant::now() > deadline {
                bail!("the daemon does not say where it is {words}");
            }
            thread::sleep(LOG_PERIOD);
        }
    }

    /// Reasons for which it closed the connections from these addresses, as far as its log says.
    pub(super) fn reasons(&self, peers: &[String]) -> HashMap<String, String> {
        let deadline = Instant::now() + LOG_PATIENCE;
        loop {
            let reasons = close_reasons(&self.read_log());
            let is_known = |peer| reasons.contains_key(peer);
            if peers.iter().all(is_known) || Instant::now() > deadline {
                return reasons;
            }
            thread::sleep(LOG_PERIOD);
        }
    }

    /// The whole lines so far.
    fn read_log(&self) -> String {
        let size = self.log.metadata().map_or(0, |metadata| metadata.len());
        let mut bytes = vec![0; size as usize];
        let count = self.log.read_at(&mut bytes, 0).unwrap_or(0);
        let end = memchr::memrchr(b'\n', &bytes[..count]).unwrap_or(0);
        String::from_utf8_lossy(&bytes[..end]).into_owned()
    }
}

impl Drop for Daemon {
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

/// Reasons for which connections were closed, by the address that they came from.
fn close_reasons(log: &str) -> HashMap<String, String> {
    let (mut peers, mut reasons) = (HashMap::new(), HashMap::new());
    for line in log.lines() {
        let Some(client) = field(line, "client") else {
            continue;
        };
        if let Some(peer) = field(line, "peer").filter(|_| line.contains("client connected")) {
            peers.insert(client, peer);
        } else if line.contains("client disconnected")
            && let (Some(peer), Some(reason)) = (peers.get(client), field(line, "reason"))
        {
            reasons.insert((*peer).to_owned(), reason.to_owned());
        }
    }
    reasons
}

/// The value of `name=value` in a line of the log.
fn field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let mut words = line.split_whitespace();
    words.find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
}
