//! The daemon that is loaded: a given one, or one of this process's own.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context as _, Result};
use socket2::Socket;

use super::daemon::Daemon;
use super::endpoint::Endpoint;
use super::hello;
use super::plan::{Plan, Run};
use crate::config::Address;
use crate::config::cli::TOKEN_VARIABLE;
use crate::ops::procfs;
use crate::wire::channel::ChannelName;
use crate::wire::format::Format;

/// The daemon that is loaded. Dropping it ends one that is our own.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) address: Address,
    pub(super) endpoint: Endpoint,
    /// The channel that all connections ask for; `None` if they say no hello.
    pub(super) channel: Option<ChannelName>,
    pub(super) is_tls: bool,
    pub(super) own: Option<Daemon>,
}

impl Target {
    /// Reaches the daemon of a plan, or starts one. Returns the first connection to it.
    pub(super) fn reach(plan: &Plan, run: &Run) -> Result<(Target, Socket)> {
        let hello = plan.hello.as_ref();
        let (address, own) = match &plan.address {
            Some(address) => (address.clone(), None),
            None => {
                let mut own = Daemon::start(own_command(run, hello.is_some()))?;
                let address = own.address(" listening ")?;
                let (host, port) = (address.ip().to_string(), address.port());
                (Address::Tcp { host, port }, Some(own))
            }
        };
        let (endpoint, first) =
            Endpoint::reach(&address).with_context(|| format!("cannot connect to {address}"))?;
        let mut endpoint = endpoint.over(plan.tls.clone());
        if let Some(hello) = hello {
            if own.is_none() {
                hello::try_out(&endpoint, &address, hello)?;
            }
            endpoint = endpoint.saying([hello.line(run.format)]);
        }
        let target = Target {
            address,
            endpoint,
            channel: hello.map(|hello| hello.channel.clone()),
            is_tls: plan.tls.is_some(),
            own,
        };
        Ok((target, first))
    }

    /// The daemon's process, if it is on this machine and ours to look at. `connection` is one that
    /// the daemon serves.
    pub(super) fn pid(&self, connection: &Socket) -> Option<u32> {
        if let Some(own) = &self.own {
            return Some(own.pid());
        }
        if let Ok(credentials) = rustix::net::sockopt::socket_peercred(connection) {
            let pid = credentials.pid.as_raw_nonzero().get() as u32;
            // A service manager has opened the socket, and somebody else serves it.
            let is_server = pid > 1 && matches!(self.address, Address::Unix(_));
            return is_server.then_some(pid);
        }
        let ours = connection.local_addr().ok()?.as_socket()?;
        let theirs = connection.peer_addr().ok()?.as_socket()?;
        procfs::server_of(ours, theirs)
    }
}

fn own_command(run: &Run, with_hello: bool) -> Command {
    let listen = match with_hello {
        true => ["--listen", "127.0.0.1:0,hello", "--open-channels", "1"].as_slice(),
        false => &["--listen", "127.0.0.1:0"],
    };
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("linehub")
        .args(listen)
        .args(["--log", "info"])
        .args(["--format", run.format.unwrap_or(Format::Text).name()])
        // A Ctrl-C in the terminal is for this process, which ends the child when it is done.
        .process_group(0);
    // 64 KiB is the default.
    if run.size > 64 * 1024 {
        command.args(["--max-line", &run.size.to_string()]);
    }
    // Variables that are not about how lines travel.
    for name in [
        "LINEHUB_CONFIG",
        TOKEN_VARIABLE,
        "RUST_LOG",
        "JOURNAL_STREAM",
        "NOTIFY_SOCKET",
        "WATCHDOG_USEC",
        "LISTEN_FDS",
        "LISTEN_PID",
    ] {
        command.env_remove(name);
    }
    command
}
