//! A real nats-server with JetStream, alone or three together, and its administration.

use std::fs::{self, File};
use std::future::Future;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use async_nats::ConnectOptions;
use async_nats::jetstream::{self, Context, stream};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::{eventually, free_port, tool, within};

/// The server's path: the program on PATH, or the one that LINEHUB_NATS_SERVER names.
#[track_caller]
pub(crate) fn nats_server() -> Option<PathBuf> {
    match std::env::var_os("LINEHUB_NATS_SERVER") {
        Some(path) => Some(path.into()),
        None => tool("nats-server"),
    }
}

/// How long what waits for a leader waits: three servers of which one is gone take half a minute at times to elect one.
pub(crate) const ELECTION: Duration = Duration::from_secs(90);

/// Exit status of a Go program that has crashed.
const CRASHED: i32 = 2;

/// A server. Dropping it kills it.
pub(crate) struct Nats {
    folder: TempDir,
    port: u16,
    process: Arc<Mutex<Process>>,
    /// How its administrator comes in.
    admin: ConnectOptions,
    login: String,
}

impl Nats {
    /// A server that takes everybody, or none where the program is missing.
    #[track_caller]
    pub(crate) fn start() -> Option<Nats> {
        Nats::start_with("", "")
    }

    /// A server with more in its configuration, whose administrator has this `USER:PASSWORD`.
    #[track_caller]
    pub(crate) fn start_with(login: &str, config: &str) -> Option<Nats> {
        let nats = Nats::at(free_port(), login, config)?;
        Some(nats.started())
    }

    /// A server that is not started: its port is known and closed.
    #[track_caller]
    pub(crate) fn away() -> Option<Nats> {
        Nats::at(free_port(), "", "")
    }

    #[track_caller]
    fn at(port: u16, login: &str, config: &str) -> Option<Nats> {
        let admin = match login.split_once(':') {
            Some((user, password)) => {
                ConnectOptions::with_user_and_password(user.into(), password.into())
            }
            None => ConnectOptions::new(),
        };
        let folder = tempfile::tempdir().expect("a folder");
        let process = Process {
            program: nats_server()?,
            folder: folder.path().to_owned(),
            child: None,
        };
        let nats = Nats {
            folder,
            port,
            process: Arc::new(Mutex::new(process)),
            admin,
            login: login.to_owned(),
        };
        nats.configure(config);
        Some(nats)
    }

    fn started(mut self) -> Nats {
        self.restart();
        self
    }

    /// Writes its configuration, for the next start or [`Nats::reload`].
    pub(crate) fn configure(&self, more: &str) {
        let store = self.folder.path().join("store");
        let text = format!(
            "host: 127.0.0.1\nport: {}\nserver_name: n{}\njetstream {{ store_dir: {:?} }}\n{more}\n",
            self.port, self.port, store
        );
        fs::write(self.folder.path().join("conf"), text).expect("a file");
    }

    pub(crate) fn reload(&self) {
        self.signal(Signal::HUP);
    }

    /// Where nodes find it, as who its administrator is.
    pub(crate) fn url(&self) -> String {
        match &*self.login {
            "" => format!("nats://127.0.0.1:{}", self.port),
            login => format!("nats://{login}@127.0.0.1:{}", self.port),
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Starts it on the same port and store, and waits until it takes connections.
    #[track_caller]
    pub(crate) fn restart(&mut self) {
        self.launch();
        eventually("NATS listens", || {
            std::net::TcpStream::connect(("127.0.0.1", self.port)).is_ok()
        });
    }

    fn launch(&mut self) {
        self.process().launch();
        let process = Arc::downgrade(&self.process);
        std::thread::spawn(move || guard(&process));
    }

    fn process(&self) -> MutexGuard<'_, Process> {
        self.process.lock().expect("no panic")
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        let mut child = self.process().child.take().expect("it runs");
        child.kill().expect("it runs");
        child.wait().expect("our child");
    }

    /// SIGSTOP: its connections stay and nothing answers.
    pub(crate) fn stop(&self) {
        self.signal(Signal::STOP);
    }

    pub(crate) fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let process = self.process();
        let child = process.child.as_ref().expect("it runs");
        let pid = Pid::from_raw(child.id() as i32).expect("a pid");
        kill_process(pid, signal).expect("it is alive");
    }

    /// Does something with JetStream as its administrator.
    #[track_caller]
    pub(crate) fn run<T, F: Future<Output = T>>(&self, with: impl FnOnce(Context) -> F) -> T {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let address = format!("127.0.0.1:{}", self.port);
            let client = self.admin.clone().connect(address).await;
            with(jetstream::new(client.expect("NATS is there"))).await
        })
    }

    /// What the stream of a channel is like now, if there is one.
    #[track_caller]
    pub(crate) fn stream(&self, channel: &str) -> Option<stream::Info> {
        self.run(|context| async move {
            let stream = context.get_stream(stream_of(channel)).await.ok()?;
            Some(stream.cached_info().clone())
        })
    }

    /// Makes a stream.
    #[track_caller]
    pub(crate) fn create(&self, config: stream::Config) {
        self.run(|context| async move { context.create_stream(config).await.expect("a stream") });
    }

    /// Changes how the stream of a channel is kept.
    #[track_caller]
    pub(crate) fn edit(&self, channel: &str, change: impl FnOnce(&mut stream::Config)) {
        let mut config = self.stream(channel).expect("a stream").config;
        change(&mut config);
        self.run(|context| async move { context.update_stream(config).await.expect("changed") });
    }

    #[track_caller]
    pub(crate) fn purge(&self, channel: &str) {
        self.run(|context| async move {
            let stream = context.get_stream(stream_of(channel)).await;
            stream.expect("a stream").purge().await.expect("purged");
        });
    }

    /// Purges all but so many messages at the end.
    #[track_caller]
    pub(crate) fn keep(&self, channel: &str, messages: u64) {
        self.run(|context| async move {
            let stream = context.get_stream(stream_of(channel)).await;
            let purge = stream.expect("a stream").purge().keep(messages);
            purge.await.expect("purged");
        });
    }

    #[track_caller]
    pub(crate) fn delete(&self, channel: &str) {
        self.run(|context| async move {
            let deleted = context.delete_stream(stream_of(channel)).await;
            deleted.expect("deleted");
        });
    }

    /// Puts a message into a stream, and waits until it is stored.
    #[track_caller]
    pub(crate) fn publish(&self, subject: &str, payload: &[u8]) {
        let (subject, payload) = (subject.to_owned(), payload.to_vec());
        self.run(|context| async move {
            let sent = context.publish(subject, payload.into()).await;
            sent.expect("sent").await.expect("stored");
        });
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let tail = &log[log.len().saturating_sub(2000)..];
            let _ = writeln!(std::io::stderr(), "nats-server's log ends: {tail}");
        }
        if let Ok(mut process) = self.process.lock()
            && let Some(mut child) = process.child.take()
        {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The program that runs, or will.
struct Process {
    program: PathBuf,
    folder: PathBuf,
    child: Option<Child>,
}

impl Process {
    fn launch(&mut self) {
        assert!(self.child.is_none(), "it runs");
        let log = File::options()
            .append(true)
            .create(true)
            .open(self.folder.join("log"));
        let mut command = Command::new(&self.program);
        command.arg("-c").arg(self.folder.join("conf"));
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.stderr(log.expect("a file")).spawn();
        self.child = Some(child.expect("it starts"));
    }

    /// Whether it still runs, perhaps again.
    fn keep_up(&mut self) -> bool {
        let Some(child) = &mut self.child else {
            return false;
        };
        match child.try_wait() {
            Ok(None) => true,
            Ok(Some(status)) if status.code() == Some(CRASHED) => {
                let _ = writeln!(
                    std::io::stderr(),
                    "nats-server has crashed: it is started again"
                );
                self.child = None;
                self.launch();
                true
            }
            Ok(Some(_)) | Err(_) => false,
        }
    }
}

/// Starts a server again that crashes, as its service manager would: that of Debian does once in a thousand tests.
fn guard(process: &Weak<Mutex<Process>>) {
    while let Some(process) = process.upgrade()
        && process.lock().is_ok_and(|mut process| process.keep_up())
    {
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The stream of a channel.
pub(crate) fn stream_of(channel: &str) -> String {
    format!("LINEHUB_{channel}")
}

/// Three servers that are one.
pub(crate) struct NatsCluster {
    pub(crate) servers: Vec<Nats>,
}

impl NatsCluster {
    /// Starts three and waits until they keep streams thrice.
    #[track_caller]
    pub(crate) fn start() -> Option<NatsCluster> {
        let routes: Vec<u16> = (0..3).map(|_| free_port()).collect();
        // A name of its own: servers that meet others of their name become one with them.
        let name = format!("c{}", routes[0]);
        let urls: Vec<_> = routes
            .iter()
            .map(|port| format!("nats://127.0.0.1:{port}"))
            .collect();
        let mut servers = Vec::new();
        for port in &routes {
            let config = format!(
                "cluster {{ name: {name}\n listen: \"127.0.0.1:{port}\"\n routes: [{}] }}",
                urls.join(",")
            );
            servers.push(Nats::at(free_port(), "", &config)?);
        }
        for server in &mut servers {
            server.launch();
        }
        let cluster = NatsCluster { servers };
        for server in &cluster.servers {
            eventually("NATS listens", || {
                std::net::TcpStream::connect(("127.0.0.1", server.port)).is_ok()
            });
        }
        cluster.is_whole();
        Some(cluster)
    }

    /// Waits until they keep streams thrice, all of them at the end of each.
    #[track_caller]
    pub(crate) fn is_whole(&self) {
        within(ELECTION, "the three are one", || {
            let whole = |server: &Nats| {
                server.run(|mut context| async move {
                    context.set_timeout(Duration::from_secs(1));
                    let config = stream::Config {
                        name: "probe".into(),
                        num_replicas: 3,
                        ..stream::Config::default()
                    };
                    let made = context.create_stream(config).await.is_ok();
                    let main = context.get_stream(stream_of("main")).await;
                    let of_main = main
                        .ok()
                        .and_then(|main| main.cached_info().cluster.clone());
                    let mut clusters = of_main.into_iter();
                    made && clusters.all(|cluster| {
                        let mut replicas = cluster.replicas.iter();
                        cluster.leader.is_some()
                            && replicas.all(|replica| replica.current && !replica.offline)
                    })
                })
            };
            self.servers.iter().all(whole)
        });
    }

    /// Options that name them all.
    pub(crate) fn options(&self) -> Vec<String> {
        let option = |server: &Nats| format!("--nats={}", server.url());
        self.servers.iter().map(option).collect()
    }

    /// The server that leads the stream of this channel.
    #[track_caller]
    pub(crate) fn leader(&self, channel: &str) -> usize {
        let info = self.servers[0].stream(channel).expect("a stream");
        let leader = info.cluster.expect("a cluster").leader.expect("a leader");
        let named = |server: &Nats| leader == format!("n{}", server.port);
        self.servers.iter().position(named).expect("one of them")
    }
}
