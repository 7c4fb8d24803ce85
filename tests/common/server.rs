//! The daemon as a process: started on a free port, watched through its log, ended in `Drop`.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, PipeReader};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use command_fds::{CommandFdExt, FdMapping};
use rustix::process::{Pid, Signal, kill_process};

use super::PATIENCE;

/// Stands for the daemon's own PID in its environment.
const OWN_PID: &str = "$$";

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_linehub");

/// Where a listener listens, as its `listening` line says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    Tcp(std::net::SocketAddr),
    Unix(PathBuf),
}

impl Address {
    fn parse(text: &str) -> Address {
        match text.strip_prefix("unix:") {
            Some(path) => Address::Unix(path.into()),
            None => Address::Tcp(
                text.parse()
                    .unwrap_or_else(|e| panic!("address={text}: {e}")),
            ),
        }
    }

    pub(crate) fn port(&self) -> u16 {
        match self {
            Address::Tcp(address) => address.port(),
            Address::Unix(path) => panic!("{} has no port", path.display()),
        }
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Address::Tcp(address) => address.fmt(f),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// How a daemon is started: arguments, environment, limits.
#[derive(Default)]
pub(crate) struct Launch {
    args: Vec<OsString>,
    envs: Vec<(String, String)>,
    ulimit: Option<String>,
    journal: bool,
    listens_as_configured: bool,
    passed: Vec<(String, OwnedFd)>,
    listeners: Option<usize>,
    binary: Option<PathBuf>,
    is_shared: bool,
}

impl Launch {
    pub(crate) fn new(args: &[&str]) -> Launch {
        Launch {
            args: args.iter().map(OsString::from).collect(),
            ..Launch::default()
        }
    }

    pub(crate) fn env(mut self, name: &str, value: &str) -> Launch {
        self.envs.push((name.into(), value.into()));
        self
    }

    /// Leaves it to the configuration file where to listen, instead of picking a free port.
    pub(crate) fn listen_as_configured(mut self) -> Launch {
        self.listens_as_configured = true;
        self
    }

    /// Arguments of the shell's `ulimit`, run before the daemon: `-n 64`.
    pub(crate) fn ulimit(mut self, limit: &str) -> Launch {
        self.ulimit = Some(limit.into());
        self
    }

    /// Sets JOURNAL_STREAM to what stderr really is, as systemd does.
    pub(crate) fn journal(mut self) -> Launch {
        self.journal = true;
        self
    }

    /// Passes a descriptor under a name, as a service manager does.
    pub(crate) fn pass(mut self, name: &str, descriptor: impl Into<OwnedFd>) -> Launch {
        self.passed.push((name.into(), descriptor.into()));
        self
    }

    /// Starts the daemon from this path.
    pub(crate) fn binary(mut self, path: &Path) -> Launch {
        self.binary = Some(path.into());
        self
    }

    /// Other daemons have its channels too: what they say is no disturbance of its rest.
    #[cfg(feature = "nats")]
    pub(crate) fn shared(mut self) -> Launch {
        self.is_shared = true;
        self
    }

    /// How many listeners there will be, where the arguments and what is passed do not tell.
    pub(crate) fn listeners(mut self, count: usize) -> Launch {
        self.listeners = Some(count);
        self
    }

    /// The service manager's watchdog, for this very process.
    pub(crate) fn watchdog(self, timeout: Duration) -> Launch {
        let usec = timeout.as_micros().to_string();
        self.env("WATCHDOG_USEC", &usec)
            .env("WATCHDOG_PID", OWN_PID)
    }

    fn command(&mut self) -> Command {
        let mut script = String::new();
        if let Some(limit) = &self.ulimit {
            script.push_str(&format!("ulimit {limit} && "));
        }
        if !self.passed.is_empty() && !self.envs.iter().any(|(name, _)| name == "LISTEN_PID") {
            self.envs.push(("LISTEN_PID".into(), OWN_PID.into()));
        }
        for (name, _) in self.envs.iter().filter(|(_, value)| value == OWN_PID) {
            script.push_str(&format!("export {name}=$$ && "));
        }
        let binary = self.binary.clone().unwrap_or_else(|| BINARY.into());
        let mut command = match script.as_str() {
            "" => Command::new(binary),
            _ => {
                let mut shell = Command::new("sh");
                shell
                    .arg("-c")
                    .arg(script + "exec \"$0\" \"$@\"")
                    .arg(binary);
                shell
            }
        };
        command
            .args(&self.args)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let ours = [
            "RUST_LOG",
            "NO_COLOR",
            "JOURNAL_STREAM",
            "NOTIFY_SOCKET",
            "WATCHDOG_USEC",
            "LISTEN_FDS",
        ];
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("LINEHUB_") || ours.contains(&&*text) {
                command.env_remove(&name);
            }
        }
        if !self.passed.is_empty() {
            let names: Vec<&str> = self.passed.iter().map(|(name, _)| name.as_str()).collect();
            command.env("LISTEN_FDS", names.len().to_string());
            command.env("LISTEN_FDNAMES", names.join(":"));
        }
        command.envs(self.envs.iter().map(|(name, value)| (name, value)));
        let mappings = std::mem::take(&mut self.passed).into_iter().zip(3..);
        let mappings = mappings.map(|((_, parent_fd), child_fd)| FdMapping {
            parent_fd,
            child_fd,
        });
        command
            .fd_mappings(mappings.collect())
            .expect("each has a number of its own");
        // A group of its own: a Ctrl-C on the test run is not a signal to the daemon.
        command.process_group(0);
        command
    }

    /// Starts the daemon and does not wait for anything.
    pub(crate) fn spawn(mut self) -> Server {
        super::raise_open_files();
        let given = |arg: &OsString| arg.to_string_lossy().starts_with("--listen");
        let listeners = self.args.iter().filter(|arg| given(arg)).count();
        let passed = self.passed.len();
        let named = listeners + passed > 0 || self.listens_as_configured;
        if !named && !self.envs.iter().any(|(name, _)| name == "LINEHUB_LISTEN") {
            self.args.extend(["--listen".into(), "127.0.0.1:0".into()]);
        }
        let (reader, writer) = std::io::pipe().expect("a pipe");
        if self.journal {
            let stat = rustix::fs::fstat(writer.as_fd()).expect("fstat");
            self.envs.push((
                "JOURNAL_STREAM".into(),
                format!("{}:{}", stat.st_dev, stat.st_ino),
            ));
        }
        // The command is a temporary: it holds the write end, which only the daemon may keep.
        let child = self
            .command()
            .stderr(writer)
            .spawn()
            .expect("the daemon starts");
        let log = Arc::new(Log::default());
        let thread = std::thread::spawn({
            let log = Arc::clone(&log);
            move || log.follow(reader)
        });
        Server {
            child,
            log,
            addresses: Vec::new(),
            listeners: self.listeners.unwrap_or((listeners + passed).max(1)),
            is_shared: self.is_shared,
            thread: Some(thread),
        }
    }

    /// Runs the daemon to its end. One that serves instead is killed, and has no code.
    pub(crate) fn run(mut self) -> Exit {
        Exit::of(&mut assert_cmd::Command::from_std(self.command()))
    }

    /// Starts the daemon and waits until it listens everywhere it was told to.
    #[track_caller]
    pub(crate) fn start(self) -> Server {
        let mut server = self.spawn();
        let lines = server.wait_log_count("listening", server.listeners);
        let address = |line: &String| Address::parse(field(line, "address").expect("address="));
        server.addresses = lines.iter().map(address).collect();
        server
    }
}

/// A run that ends by itself: a wrong flag, `--help`, `--check`.
#[derive(Debug)]
pub(crate) struct Exit {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Exit {
    /// Runs a command to its end. One that goes on instead is killed, and has no code.
    pub(crate) fn of(command: &mut assert_cmd::Command) -> Exit {
        let output = command.timeout(PATIENCE).output().expect("it runs");
        let text = |bytes| String::from_utf8(bytes).expect("output is UTF-8");
        Exit {
            code: output.status.code(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }
}

/// Runs the daemon to its end. One that serves instead is killed, and has no code.
pub(crate) fn run(args: &[&str], envs: &[(&str, &str)]) -> Exit {
    let mut launch = Launch::new(args);
    for (name, value) in envs {
        launch = launch.env(name, value);
    }
    launch.run()
}

/// A running daemon. Dropping it kills it, and fails the test if it ever panicked.
pub(crate) struct Server {
    child: Child,
    log: Arc<Log>,
    addresses: Vec<Address>,
    listeners: usize,
    is_shared: bool,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    #[track_caller]
    pub(crate) fn start(args: &[&str]) -> Server {
        Launch::new(args).start()
    }

    /// The address of the listener that was given as number `i`, from 0.
    pub(crate) fn addr(&self, i: usize) -> &Address {
        &self.addresses[i]
    }

    /// Where the status page and the metrics are served, by the last that the log says of it.
    #[track_caller]
    pub(crate) fn admin(&self) -> Address {
        self.wait_log("admin listening");
        let words = ["admin", "listening"];
        let log = self.log();
        let line = log
            .iter()
            .rfind(|line| holds(line, &words))
            .expect("one came");
        Address::parse(field(line, "address").expect("address="))
    }

    /// Waits for a log line that holds all these words, in whatever order, and returns it.
    #[track_caller]
    pub(crate) fn wait_log(&self, words: &str) -> String {
        self.wait_log_count(words, 1).remove(0)
    }

    /// Waits until `count` log lines hold all these words, and returns them.
    #[track_caller]
    pub(crate) fn wait_log_count(&self, words: &str, count: usize) -> Vec<String> {
        let words: Vec<&str> = words.split_whitespace().collect();
        let mut scanned = 0;
        let mut found = Vec::new();
        let done = self.log.wait(|state| {
            for line in &state.lines[scanned..] {
                if holds(line, &words) {
                    found.push(line.clone());
                }
            }
            scanned = state.lines.len();
            found.len() >= count || state.ended
        });
        assert!(
            done && found.len() >= count,
            "{} of {count} log lines with {words:?}; the log ends: {:#?}",
            found.len(),
            self.log_tail()
        );
        found
    }

    /// How many log lines so far hold all these words.
    pub(crate) fn count_log(&self, words: &str) -> usize {
        let words: Vec<&str> = words.split_whitespace().collect();
        self.log
            .state
            .lock()
            .unwrap()
            .lines
            .iter()
            .filter(|line| holds(line, &words))
            .count()
    }

    /// The log so far; after [`Server::wait_exit`], all of it.
    pub(crate) fn log(&self) -> Vec<String> {
        self.log.state.lock().unwrap().lines.clone()
    }

    fn log_tail(&self) -> Vec<String> {
        let lines = self.log();
        lines[lines.len().saturating_sub(30)..].to_vec()
    }

    /// Waits for the `client connected` line of this peer of a listener, and returns the client's id.
    #[track_caller]
    pub(super) fn wait_peer(&self, peer: &str, listener: &Address) -> u64 {
        let key = (peer.to_owned(), listener.to_string());
        let mut id = None;
        self.log.wait(|state| {
            id = state.peers.remove(&key);
            id.is_some() || state.ended
        });
        id.unwrap_or_else(|| panic!("{peer} did not become a client: {:#?}", self.log_tail()))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.pid() as i32).expect("a pid");
        kill_process(pid, signal).expect("the daemon is alive");
    }

    /// Stops the daemon where it is, all threads of it, until SIGCONT.
    #[track_caller]
    pub(crate) fn freeze(&self) {
        self.signal(Signal::STOP);
        let tasks = format!("/proc/{}/task", self.pid());
        let is_stopped = |task: std::fs::DirEntry| {
            let stat = std::fs::read_to_string(task.path().join("stat"));
            stat.is_ok_and(|stat| {
                stat.rsplit(')')
                    .next()
                    .is_some_and(|it| it.starts_with(" T"))
            })
        };
        super::eventually("it is stopped", || {
            let mut tasks = std::fs::read_dir(&tasks).expect("the daemon is alive");
            tasks.all(|task| task.is_ok_and(is_stopped))
        });
    }

    /// Waits for the daemon to end by itself.
    #[track_caller]
    pub(crate) fn wait_exit(&mut self, timeout: Duration) -> ExitStatus {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(status) = self.child.try_wait().expect("our child") {
                if let Some(thread) = self.thread.take() {
                    thread.join().expect("the log was read");
                }
                return status;
            }
            assert!(Instant::now() < deadline, "still running after {timeout:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// SIGTERM, and exit 0.
    #[track_caller]
    pub(crate) fn stop(&mut self) {
        self.signal(Signal::TERM);
        let status = self.wait_exit(PATIENCE);
        assert_eq!(status.code(), Some(0), "{status}: {:#?}", self.log_tail());
    }

    fn proc(&self, file: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{file}", self.pid()))
            .expect("the daemon is alive")
    }

    /// The variables it was started with, or became another program with.
    pub(crate) fn environment(&self) -> Vec<String> {
        self.proc("environ")
            .split('\0')
            .map(str::to_owned)
            .collect()
    }

    /// Resident memory in bytes.
    pub(crate) fn rss(&self) -> u64 {
        self.memory("VmRSS:")
    }

    /// The most it ever was.
    pub(crate) fn peak_rss(&self) -> u64 {
        self.memory("VmHWM:")
    }

    fn memory(&self, name: &str) -> u64 {
        let status = self.proc("status");
        let line = status.lines().find(|line| line.starts_with(name));
        let kib = line.and_then(|line| line.split_whitespace().nth(1));
        kib.expect(name).parse::<u64>().expect("a number") * 1024
    }

    /// Processor time used so far, user and system.
    pub(crate) fn cpu(&self) -> Duration {
        let stat = self.proc("stat");
        let fields = stat.rsplit_once(')').expect("the command's name").1;
        let ticks = |i| {
            fields
                .split_whitespace()
                .nth(i)
                .and_then(|t: &str| t.parse::<u64>().ok())
        };
        // Fields 14 and 15 of proc(5), in ticks of 10 ms on every Linux.
        let sum = ticks(11).expect("utime") + ticks(12).expect("stime");
        Duration::from_millis(sum * 10)
    }

    pub(crate) fn open_files(&self) -> usize {
        let files = std::fs::read_dir(format!("/proc/{}/fd", self.pid()));
        files.expect("the daemon is alive").count()
    }

    /// The soft and the hard open-file limit.
    pub(crate) fn open_files_limit(&self) -> (String, String) {
        let limits = self.proc("limits");
        let line = limits
            .lines()
            .find_map(|line| line.strip_prefix("Max open files"));
        let mut words = line.expect("a limit").split_whitespace().map(str::to_owned);
        (words.next().expect("soft"), words.next().expect("hard"))
    }
}

impl Server {
    /// Has a daemon that rests poll everything once more, which must change nothing: else somebody was
    /// waiting for a wake-up that had been lost. One that is busy, stopped or on its way out does not
    /// rest, and none that is no debug build can be asked.
    fn check_rest(&mut self) {
        if self.is_shared || !cfg!(debug_assertions) || !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        self.signal(Signal::USR1);
        let mut answer = String::new();
        self.log.wait_at_most(Duration::from_secs(5), |state| {
            let found = state.lines.iter().rfind(|line| line.starts_with("rest: "));
            answer = found.cloned().unwrap_or_default();
            found.is_some() || state.ended
        });
        assert!(!answer.starts_with("rest: disturbed"), "{answer}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.check_rest();
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        if std::thread::panicking() {
            eprintln!("the daemon's log ends: {:#?}", self.log_tail());
        } else {
            let panics = |line: &String| line.contains("panicked at");
            assert!(
                !self.log().iter().any(panics),
                "the daemon panicked: {:#?}",
                self.log_tail()
            );
        }
    }
}

/// `value` of `name=value` in a log line.
fn field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    line.split_whitespace()
        .find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
}

fn holds(line: &str, words: &[&str]) -> bool {
    // Under systemd, the first word has a priority before it.
    let line = line.strip_prefix("<6>").unwrap_or(line);
    words
        .iter()
        .all(|word| line.split_whitespace().any(|w| w == *word))
}

/// What the daemon wrote to stderr, and who waits for it.
#[derive(Default)]
struct Log {
    state: Mutex<LogState>,
    changed: Condvar,
}

#[derive(Default)]
struct LogState {
    lines: Vec<String>,
    /// Clients that connected and were not yet asked for, by their address and that of the listener: to
    /// another one, the system gives the same address again.
    peers: HashMap<(String, String), u64>,
    ended: bool,
}

impl Log {
    fn follow(&self, pipe: PipeReader) {
        let mut lines = BufReader::new(pipe).split(b'\n');
        while let Some(Ok(line)) = lines.next() {
            let line = String::from_utf8_lossy(&line).into_owned();
            let mut state = self.state.lock().unwrap();
            if line.contains("client connected")
                && let (Some(peer), Some(id)) = (field(&line, "peer"), field(&line, "client"))
                && let Some(listener) = field(&line, "listener")
                && let Ok(id) = id.parse()
            {
                state.peers.insert((peer.into(), listener.into()), id);
            }
            state.lines.push(line);
            self.changed.notify_all();
        }
        self.state.lock().unwrap().ended = true;
        self.changed.notify_all();
    }

    /// Waits until `ready` holds; false if patience ended first.
    fn wait(&self, ready: impl FnMut(&mut LogState) -> bool) -> bool {
        self.wait_at_most(PATIENCE, ready)
    }

    fn wait_at_most(&self, time: Duration, mut ready: impl FnMut(&mut LogState) -> bool) -> bool {
        let state = self.state.lock().unwrap();
        let (_state, timeout) = self
            .changed
            .wait_timeout_while(state, time, |state| !ready(state))
            .unwrap();
        !timeout.timed_out()
    }
}
