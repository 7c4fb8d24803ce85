//! Other servers that keep what is published, and how each is told to have it safe before it says so.

use std::env;
use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use linehub::commands::bench::Daemon;

const START_PATIENCE: Duration = Duration::from_secs(10);

/// Where Debian keeps daemons, which is not in everybody's PATH.
const FOLDERS_OF_DAEMONS: [&str; 2] = ["/usr/sbin", "/usr/local/sbin"];

/// Names the nats-server, if it is not the one in PATH.
const NATS_SERVER: &str = "LINEHUB_NATS_SERVER";

/// A server that linehub's publishing is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    /// Redis Streams, with `appendfsync always`.
    Redis,
    /// NATS JetStream: a stream in files, with `sync_interval: always`, which needs NATS 2.10.
    Nats,
    /// NATS without JetStream, by WebSocket.
    NatsWebSocket,
}

impl Peer {
    /// The program's name.
    pub(crate) fn program(self) -> &'static str {
        match self {
            Peer::Redis => "redis-server",
            Peer::Nats | Peer::NatsWebSocket => "nats-server",
        }
    }

    /// Where the program is, if it is installed.
    pub(crate) fn path(self) -> Option<PathBuf> {
        if let (Peer::Nats | Peer::NatsWebSocket, Some(path)) = (self, env::var_os(NATS_SERVER)) {
            return Some(path.into());
        }
        let path = env::var_os("PATH").unwrap_or_default();
        let folders = env::split_paths(&path).chain(FOLDERS_OF_DAEMONS.map(PathBuf::from));
        let mut files = folders.map(|folder| folder.join(self.program()));
        files.find(|file| file.is_file())
    }

    /// How it is started, with its files in `folder`, and where it will listen.
    pub(crate) fn command(self, folder: &Path) -> Result<(Command, SocketAddr)> {
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let path = self.path();
        let path = path.with_context(|| format!("no {}", self.program()))?;
        let mut command = Command::new(path);
        let port = address.port().to_string();
        match self {
            Peer::Redis => {
                command.args(["--bind", "127.0.0.1", "--port", &port, "--save", ""]);
                command.args(["--appendonly", "yes", "--appendfsync", "always"]);
                command.arg("--dir").arg(folder);
            }
            Peer::Nats => {
                let configuration = folder.join("nats.conf");
                let store = folder.join("store");
                let text = format!(
                    "listen: {address:?}\njetstream {{ store_dir: {store:?}, sync_interval: always }}\n",
                    address = address.to_string()
                );
                fs::write(&configuration, text)?;
                command.arg("-c").arg(configuration);
            }
            Peer::NatsWebSocket => {
                let configuration = folder.join("nats.conf");
                let text = format!(
                    "listen: \"127.0.0.1:-1\"\nwebsocket {{ listen: {address:?}, no_tls: true }}\n",
                    address = address.to_string()
                );
                fs::write(&configuration, text)?;
                command.arg("-c").arg(configuration);
            }
        }
        Ok((command, address))
    }
}

/// Waits until something listens there.
pub(crate) fn wait_for(daemon: &mut Daemon, address: SocketAddr) -> Result<()> {
    let deadline = Instant::now() + START_PATIENCE;
    while TcpStream::connect(address).is_err() {
        let pid = daemon.pid();
        ensure!(Instant::now() < deadline, "process {pid} does not listen");
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}
