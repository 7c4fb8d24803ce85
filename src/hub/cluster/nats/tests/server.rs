//! A nats-server of a test's own.

use std::io::ErrorKind;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::hub::cluster::nats::stream::ChannelStream;
use crate::hub::cluster::nats::{Nats, NatsOptions, StreamLimits};

/// Ends with the test, by force.
pub(super) struct Server {
    dir: TempDir,
    port: u16,
    child: Child,
}

impl Server {
    /// `None`, which is said, if the program is not here; under CI it must be. The variable `LINEHUB_NATS_SERVER` names another.
    pub(super) fn start(options: &[&str]) -> Option<Server> {
        let dir = tempfile::tempdir().unwrap();
        let port = free_port();
        let child = match run(&dir, port, options) {
            Ok(child) => child,
            Err(error)
                if error.kind() == ErrorKind::NotFound && std::env::var_os("CI").is_none() =>
            {
                eprintln!("skipped: nats-server is not installed");
                return None;
            }
            Err(error) => panic!("nats-server: {error}"),
        };
        Some(Server { dir, port, child })
    }

    pub(super) fn url(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(super) fn options(&self) -> NatsOptions {
        NatsOptions {
            urls: vec![format!("nats://{}", self.url())],
            creds: None,
            nkey: None,
            ca: None,
            cert: None,
            replicas: 1,
        }
    }

    pub(super) async fn connect(&self) -> Nats {
        let nats = Nats::connect(&self.options(), "test").await.unwrap();
        within(nats.watch().wait_for(|state| state.is_connected))
            .await
            .unwrap();
        nats
    }

    pub(super) async fn connect_stream(&self) -> (Nats, ChannelStream) {
        let nats = self.connect().await;
        let stream = open(&nats, LIMITS).await;
        (nats, stream)
    }

    /// Lets it stand still; it does when this returns.
    pub(super) fn stop(&self) {
        let pid = Pid::from_raw(self.child.id() as i32);
        kill(pid, Signal::SIGSTOP).unwrap();
        waitpid(pid, Some(WaitPidFlag::WUNTRACED)).unwrap();
    }

    pub(super) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again, on the same port and directory.
    pub(super) fn restart(&mut self) {
        self.child = run(&self.dir, self.port, &[]).unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port that is free and stays so for who was told of it: the system gives none of these by itself.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = (std::process::id() % 200) as u16 * 100;
    let ports = std::iter::repeat_with(|| NEXT.fetch_add(1, Ordering::Relaxed));
    ports
        .map(|next| 10_000 + (first + next) % 20_000)
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("it does not end")
}

fn run(dir: &TempDir, port: u16, options: &[&str]) -> std::io::Result<Child> {
    Command::new(std::env::var_os("LINEHUB_NATS_SERVER").unwrap_or("nats-server".into()))
        .args(["-js", "-a", "127.0.0.1", "-p", &port.to_string(), "-sd"])
        .arg(dir.path())
        .args(options)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
}

pub(super) const LIMITS: StreamLimits = StreamLimits {
    bytes: 64 * 1024 * 1024,
    age: None,
};

/// The stream of the channel `a.b`: JetStream may answer some time after the server takes connections.
pub(super) async fn open(nats: &Nats, limits: StreamLimits) -> ChannelStream {
    let channel = "a.b".parse().unwrap();
    within(async {
        loop {
            match nats.open_stream(&channel, limits).await {
                Ok(stream) => return stream,
                Err(super::StreamError::Away(_)) => tokio::task::yield_now().await,
                Err(error) => panic!("{error}"),
            }
        }
    })
    .await
}

/// What is done within 15 s.
pub(super) async fn within<T>(what: impl Future<Output = T>) -> T {
    let what = tokio::time::timeout(Duration::from_secs(15), what);
    what.await.expect("it takes too long")
}
