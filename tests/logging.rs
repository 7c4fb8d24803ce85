use crate::common::{Address, Client, Launch, Server, eventually, marker};

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
    let connect = || std::os::unix::net::UnixStream::connect(&path);
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
