use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::common::{Address, BINARY, Client, Launch, PATIENCE, Server, eventually, marker};

#[test]
fn listening_with_the_bound_address_and_format_comes_before_anything_is_served() {
    let dir = tempfile::tempdir().unwrap();
    let unix = format!("unix:{}", dir.path().join("hub.sock").display());
    let server = Server::start(&[
        "--listen=127.0.0.1:0",
        "--listen",
        &format!("{unix},format=raw"),
        "--format=json",
    ]);
    assert_eq!(server.addr(1).to_string(), unix);
    let Address::Tcp(tcp) = server.addr(0) else {
        panic!("{}", server.addr(0))
    };
    assert_ne!(tcp.port(), 0);
    server.wait_log(&format!("INFO listening address={tcp} format=json"));
    server.wait_log(&format!("INFO listening address={unix} format=raw"));

    Client::connect(&server);
    let log = server.log();
    let at = |words: &str| {
        log.iter()
            .rposition(|line| line.contains(words))
            .expect("logged")
    };
    assert!(at("listening") < at("client connected"), "{log:#?}");
}

#[test]
fn connect_and_disconnect_are_logged_with_reason_lines_and_bytes() {
    let server = Server::start(&["--no-notices"]);
    let mut one = Client::connect(&server);
    let mut two = Client::connect(&server);
    let peer = two.local_address();
    let listener = server.addr(0);
    server.wait_log(&format!(
        "INFO client connected client=2 peer={peer} listener={listener}"
    ));

    two.send_bytes("hello\nwörld\r\n\n".as_bytes());
    for line in ["hello", "wörld", ""] {
        one.expect_message(2, line);
    }
    one.send_line("hi");
    let answer = "Message from client 1: hi\r\n";
    assert_eq!(two.read_bytes(answer.len()), answer.as_bytes());
    two.send_bytes(b"rest");
    two.finish();
    two.expect_eof();
    one.expect_message(2, "rest");
    let line = server.wait_log(&format!(
        "INFO client disconnected client=2 reason=eof lines_in=4 bytes_in={} lines_out=1 bytes_out={}",
        "hello\nwörld\r\n\nrest".len(),
        answer.len()
    ));
    assert!(
        !line.contains('\x1b'),
        "colour without a terminal: {line:?}"
    );
}

#[test]
fn a_reset_is_a_reason_of_its_own() {
    let server = Server::start(&[]);
    let client = Client::connect(&server);
    client.reset();
    server.wait_log("INFO client disconnected client=1 reason=reset lines_in=0 bytes_in=0");
}

#[test]
fn under_systemd_lines_carry_a_priority_and_neither_time_nor_colour() {
    let server = Launch::new(&[]).journal().start();
    drop(Client::connect(&server));
    server.wait_log("client disconnected client=1");
    for line in server.log() {
        let bytes = line.as_bytes();
        let priority = bytes.len() > 3 && bytes[0] == b'<' && bytes[2] == b'>';
        assert!(priority && (b'0'..=b'7').contains(&bytes[1]), "{line:?}");
        assert!(!line.contains('\x1b'), "{line:?}");
        let rest = &line[3..];
        assert!(
            !rest.trim_start().starts_with(|c: char| c.is_ascii_digit()),
            "a time: {line:?}"
        );
    }
    let log = server.log();
    let line = log
        .iter()
        .find(|line| line.contains("listening"))
        .expect("logged");
    assert!(line.starts_with("<6>"), "{line}");
}

#[test]
fn a_journal_stream_that_is_not_stderr_means_nothing() {
    let server = Launch::new(&[]).env("JOURNAL_STREAM", "1:1").start();
    let line = server.wait_log("INFO listening");
    assert!(!line.starts_with('<'), "{line}");
}

#[test]
fn line_contents_are_not_logged_below_trace() {
    for launch in [
        Launch::new(&[]),
        Launch::new(&["-v"]),
        Launch::new(&[]).env("RUST_LOG", "debug"),
        Launch::new(&[]).env("RUST_LOG", "linehub=debug,info"),
    ] {
        let mut server = launch.start();
        let mut one = Client::connect(&server);
        let mut two = Client::connect(&server);
        one.expect_line("New client connected: 2");
        one.send_line("my secret is out");
        two.expect_message(1, "my secret is out");
        two.send_bytes(b"half a secret");
        two.finish();
        one.expect_message(2, "half a secret");
        drop((one, two));
        server.wait_log("client disconnected client=1");
        server.stop();
        let log = server.log().join("\n");
        assert!(!log.contains("secret"), "{log}");
    }
}

#[test]
fn quiet_logs_no_clients_and_rust_log_wins_over_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hub.sock");
    let listen = format!("unix:{}", path.display());
    let mut server = Launch::new(&["-q", "--listen", &listen]).spawn();
    let connect = || UnixStream::connect(&path);
    eventually("it listens", || connect().is_ok());
    server.stop();
    assert_eq!(server.log(), Vec::<String>::new());

    let server = Launch::new(&["-q"]).env("RUST_LOG", "info").start();
    Client::connect(&server);
}

#[test]
fn at_the_default_level_nothing_is_logged_per_line() {
    let server = Server::start(&["--no-notices"]);
    let mut one = Client::connect(&server);
    let mut two = Client::connect(&server);
    for _ in 0..100 {
        marker(&mut one, &mut two);
    }
    drop(one);
    server.wait_log("client disconnected client=1 lines_in=100");
    let log = server.log();
    assert!(log.len() < 20, "{log:#?}");
}

/// `linehub 2>&1 | less`, a supervisor that hangs: a pipe holds some hundred lines.
#[test]
fn log_that_nobody_reads_stops_nobody() {
    let (reader, writer) = std::io::pipe().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hub.sock");
    let mut daemon = std::process::Command::new(crate::common::BINARY)
        .arg(format!("--listen=unix:{}", path.display()))
        .arg("--no-notices")
        .stderr(writer)
        .spawn()
        .unwrap();
    let address = Address::Unix(path.clone());
    eventually("it listens", || path.exists());
    for _ in 0..3_000 {
        drop(Client::dial(&address));
    }
    let mut one = Client::dial(&address);
    let mut two = Client::dial(&address);
    one.send_line("hello");
    assert!(two.read_line().ends_with(": hello"));
    let pid = rustix::process::Pid::from_raw(daemon.id() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(two.read_line(), "Server shutting down");
    assert_eq!(daemon.wait().unwrap().code(), Some(0));
    drop(reader);
}

#[test]
fn panic_and_what_is_complained_of_at_the_end_stay_in_the_log() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let exit = crate::common::run(&["--listen", &address], &[]);
    assert_eq!(exit.code, Some(1));
    let last = exit.stderr.lines().last().unwrap();
    assert!(
        last.starts_with(&format!("linehub: cannot listen on {address}: ")),
        "{last}"
    );
}

/// A daemon whose stderr is the test's own.
struct Logging {
    daemon: Child,
    hub: Address,
    admin: Address,
    _dir: tempfile::TempDir,
}

impl Logging {
    #[track_caller]
    fn to(stderr: impl Into<Stdio>) -> Logging {
        let dir = tempfile::tempdir().unwrap();
        let [hub, admin] = ["hub.sock", "admin.sock"].map(|name| dir.path().join(name));
        let daemon = Command::new(BINARY)
            .arg(format!("--listen=unix:{}", hub.display()))
            .arg(format!("--admin=unix:{}", admin.display()))
            .arg("--no-notices")
            .stderr(stderr)
            .spawn()
            .unwrap();
        let hub = Address::Unix(hub);
        let admin = Address::Unix(admin);
        let logging = Logging {
            daemon,
            hub,
            admin,
            _dir: dir,
        };
        eventually("it is running", || {
            let metrics = logging.ask();
            metrics.is_some_and(|metrics| metrics.contains("linehub_phase{phase=\"running\"} 1"))
        });
        logging
    }

    /// The metrics, if it answers: in an exec it does not.
    fn ask(&self) -> Option<String> {
        let Address::Unix(path) = &self.admin else {
            unreachable!("a socket's file")
        };
        let mut connection = UnixStream::connect(path).ok()?;
        let request = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        connection.write_all(request).ok()?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer).ok()?;
        Some(answer).filter(|answer| answer.contains("linehub_phase"))
    }

    /// The value of a sample in the metrics.
    #[track_caller]
    fn sample(&self, name: &str) -> usize {
        let mut metrics = None;
        eventually("it answers", || {
            metrics = self.ask();
            metrics.is_some()
        });
        let metrics = metrics.unwrap();
        let value = |line: &str| line.strip_prefix(name)?.trim().parse().ok();
        metrics.lines().find_map(value).expect("a sample")
    }

    fn lost(&self) -> usize {
        self.sample("linehub_log_lines_lost_total ")
    }

    fn execs(&self) -> usize {
        self.sample("linehub_handovers_total{carrier=\"exec\",result=\"ok\"}")
    }

    /// So many clients come and go, which is two lines each.
    fn visit(&self, clients: usize) {
        let closed = || self.sample("linehub_connections_closed_total{reason=\"eof\"}");
        let before = closed();
        for _ in 0..clients {
            drop(Client::dial(&self.hub));
        }
        eventually("all were served", || closed() == before + clients);
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.daemon.id() as i32).unwrap();
        kill_process(pid, signal).unwrap();
    }
}

impl Drop for Logging {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

/// Reads a log in a thread until its end, or so many lines.
fn read_log(log: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (send, lines) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(log).lines() {
            if send.send(line.unwrap()).is_err() {
                return;
            }
        }
    });
    lines
}

/// Takes lines until one has these words, that one included.
#[track_caller]
fn lines_until(log: &mpsc::Receiver<String>, words: &str) -> Vec<String> {
    let mut lines = Vec::new();
    loop {
        let line = log.recv_timeout(PATIENCE);
        lines.push(line.unwrap_or_else(|_| panic!("no {words:?} after {:?}", lines.last())));
        if lines[lines.len() - 1].contains(words) {
            return lines;
        }
    }
}

/// Sees that each is one whole line, and returns how many lines they say were lost.
#[track_caller]
fn lost_in(lines: &[String]) -> usize {
    let lost = lines.iter().map(|line| {
        let is_whole = line.starts_with("20") && line.matches("Z ").count() == 1;
        assert!(is_whole, "torn: {line:?}");
        let lost = line.contains("log lines were lost");
        let count = line.rsplit_once("lines=").filter(|_| lost);
        count.map_or(0, |(_, lines)| lines.parse().unwrap())
    });
    lost.sum()
}

#[test]
fn exec_says_what_it_left_out_of_a_log_that_nobody_reads_and_tears_no_line() {
    const CLIENTS: usize = 3_000;
    let (reader, writer) = std::io::pipe().unwrap();
    let logging = Logging::to(writer);
    logging.visit(CLIENTS);
    assert_eq!(logging.lost(), 0);
    logging.signal(Signal::USR2);
    eventually("it is another program", || logging.execs() == 1);
    let lost = logging.lost();
    assert!(lost > 0);

    let log = read_log(reader);
    let mut lines = lines_until(&log, "log lines were lost");
    assert_eq!(lost_in(&lines), lost);
    let is_of_client = |line: &&String| line.contains(" client ") && line.contains("connected ");
    let read = lines.iter().filter(is_of_client).count();
    // What else it left out are its own last few lines.
    let missing = 2 * CLIENTS - read;
    assert!(
        (missing..missing + 10).contains(&lost),
        "{missing} of {lost}"
    );
    logging.visit(CLIENTS);
    for _ in 0..2 * CLIENTS {
        let mut next = lines_until(&log, "connected ");
        lines.append(&mut next);
    }
    assert_eq!(lost_in(&lines), lost);
    assert_eq!(logging.lost(), lost);
}

#[test]
fn exec_leaves_nothing_out_of_a_log_that_is_read() {
    let (reader, writer) = std::io::pipe().unwrap();
    let logging = Logging::to(writer);
    let log = read_log(reader);
    for n in 1..=10 {
        logging.signal(Signal::USR2);
        eventually("it is another program", || logging.execs() == n);
        let mut lines = lines_until(&log, "phase phase=\"handing over\"");
        lines.extend(lines_until(&log, "INFO handing over"));
        lines.extend(lines_until(&log, "taking over"));
        assert_eq!(lost_in(&lines), 0);
    }
    assert_eq!(logging.lost(), 0);
}

#[test]
fn exec_does_not_hold_clients_up_for_a_log_that_nobody_reads() {
    let (_reader, writer) = std::io::pipe().unwrap();
    let logging = Logging::to(writer);
    let mut one = Client::dial(&logging.hub);
    let mut two = Client::dial(&logging.hub);
    logging.visit(1_000);
    // The shortest of three: the machine may have been busy with something else.
    let gaps = (1..=3).map(|n| {
        logging.signal(Signal::USR2);
        let mut longest = Duration::ZERO;
        while logging.execs() < n {
            let sent = Instant::now();
            one.send_line("hello");
            assert!(two.read_line().ends_with(": hello"));
            longest = longest.max(sent.elapsed());
        }
        longest
    });
    let gap = gaps.min().unwrap();
    assert!(gap < Duration::from_millis(700), "{gap:?}");
}

#[test]
fn log_that_takes_no_more_for_now_is_waited_for_and_loses_nothing() {
    let (reader, writer) = std::io::pipe().unwrap();
    rustix::io::ioctl_fionbio(&writer, true).unwrap();
    let logging = Logging::to(writer);
    logging.visit(3_000);
    let log = read_log(reader);
    let lines = lines_until(&log, "client disconnected client=3000");
    assert_eq!(lost_in(&lines), 0);
    let came = lines
        .iter()
        .filter(|line| line.contains("client connected"));
    assert_eq!(came.count(), 3_000);
    assert_eq!(logging.lost(), 0);
}

#[test]
fn lines_that_the_system_refuses_are_counted_and_said_once_it_takes_some_again() {
    let full = std::fs::File::options()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let logging = Logging::to(full);
    let before = logging.lost();
    logging.visit(100);
    eventually("they are counted", || logging.lost() >= before + 200);
    drop(logging);

    // The reader of a FIFO may come back, as room on a disk may.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RWXU).unwrap();
    let open = || {
        use std::os::unix::fs::OpenOptionsExt;
        let nonblock = rustix::fs::OFlags::NONBLOCK.bits() as i32;
        let reader = std::fs::File::options()
            .read(true)
            .custom_flags(nonblock)
            .open(&path);
        let reader = reader.unwrap();
        rustix::io::ioctl_fionbio(&reader, false).unwrap();
        reader
    };
    let reader = open();
    let writer = std::fs::File::options().write(true).open(&path).unwrap();
    let logging = Logging::to(writer);
    drop(reader);
    logging.visit(100);
    eventually("they are counted", || logging.lost() >= 200);
    let lost = logging.lost();
    let log = read_log(open());
    logging.visit(101);
    let lines = lines_until(&log, "client disconnected client=101");
    assert_eq!(lost_in(&lines), lost);
    let at = |words: &str| lines.iter().position(|line| line.contains(words));
    assert!(
        at("log lines were lost") < at("client connected client=101"),
        "{lines:?}"
    );
}
