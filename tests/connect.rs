use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::common::{
    BINARY, Client, Exit, Flood, PATIENCE, Program, Server, Tmux, eventually, payload, tool,
};

const CONNECTED: &str = "Connect to server success: ";
const CLOSED: &str = "Server connection closed\n";

fn connect(args: &[&str], address: &str) -> Command {
    let mut command = Command::new(BINARY);
    command.arg("connect").args(args).arg(address);
    command
}

/// The same, with what it says on stderr among its output.
fn connect_and_tell(args: &[&str], address: &str) -> Command {
    let mut command = Command::new("sh");
    command
        .args(["-c", "exec \"$0\" connect \"$@\" 2>&1", BINARY])
        .args(args)
        .arg(address);
    command
}

/// Runs it to its end with this standard input.
fn run(args: &[&str], address: &str, input: &[u8]) -> Exit {
    Exit::of(assert_cmd::Command::from_std(connect(args, address)).write_stdin(input))
}

/// A server that does just what the test says.
struct Puppet {
    listener: TcpListener,
    address: String,
}

impl Puppet {
    fn new() -> Puppet {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        Puppet { listener, address }
    }

    fn accept(&self) -> TcpStream {
        let (stream, _) = self.listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }
}

/// What is said of a connection that was made, and then ended.
fn connected(address: &str) -> String {
    format!("{CONNECTED}{address}\n")
}

fn read_exactly(stream: &mut TcpStream, wanted: &str) {
    let mut bytes = vec![0; wanted.len()];
    stream.read_exact(&mut bytes).unwrap();
    assert_eq!(String::from_utf8_lossy(&bytes), wanted);
}

#[test]
fn lines_go_both_ways_over_tcp_and_unix() {
    let dir = tempfile::tempdir().unwrap();
    let unix = format!("unix:{}", dir.path().join("hub.sock").display());
    let server = Server::start(&["--listen=127.0.0.1:0", "--listen", &unix]);
    let mut witness = Client::connect(&server);
    for (i, address) in [server.addr(0).to_string(), unix].iter().enumerate() {
        let id = 2 + i as u64;
        let mut program = Program::spawn(&mut connect_and_tell(&[], address));
        program.wait_output(CONNECTED);
        witness.expect_line(&format!("New client connected: {id}"));
        program.type_in(b"hello\n");
        witness.expect_message(id, "hello");
        witness.send_line("hello yourself");
        program.wait_output("Message from client 1: hello yourself\n");
        program.end_input();
        witness.expect_line(&format!("Client disconnected: {id}"));
        let (status, output) = program.wait_end();
        assert!(status.success(), "{status}");
        assert!(output.ends_with(CLOSED.as_bytes()));
    }
}

#[test]
fn what_comes_in_goes_out_unchanged() {
    let server = Server::start(&["--format", "raw"]);
    let mut sender = Client::connect(&server);
    let address = server.addr(0).to_string();
    let mut program = Program::spawn(connect(&["--listen-only"], &address).stderr(Stdio::null()));
    server.wait_log("client connected client=2");
    let bytes = b"\x1b[31mred\r\n\xff\xfe\0\n\n\tend\n";
    sender.send_bytes(bytes);
    program.wait_output("\tend\n");
    drop(server);
    drop(sender);
    program.signal(rustix::process::Signal::TERM);
    assert_eq!(program.wait_end().1, bytes);
}

#[test]
fn status_goes_to_stderr_in_the_words_of_the_original_with_the_address() {
    let server = Server::start(&["--no-notices"]);
    let address = server.addr(0).to_string();
    let exit = run(&[], &address, b"");
    assert_eq!(exit.code, Some(0));
    assert_eq!(exit.stdout, "");
    assert_eq!(exit.stderr, connected(&address) + CLOSED);

    // A name, and what it meant.
    let port = server.addr(0).port();
    let exit = run(&[], &format!("localhost:{port}"), b"");
    let wanted = connected(&format!("localhost:{port} ({address})"));
    assert_eq!(exit.stderr, wanted + CLOSED);

    let exit = run(&["-q"], &address, b"");
    assert_eq!((exit.code, &*exit.stderr), (Some(0), ""));
}

#[test]
fn quiet_says_only_why_it_failed() {
    let server = Server::start(&["--max-clients=1"]);
    let _only = Client::connect(&server);
    let exit = run(
        &["--quiet", "--send-only"],
        &server.addr(0).to_string(),
        b"x\n",
    );
    assert_eq!(exit.code, Some(1));
    let wanted = "linehub: the server closed the connection: server full (1 clients)\n";
    assert_eq!(exit.stderr, wanted);
}

#[test]
fn without_an_address_it_is_the_daemons_default() {
    // Somebody may listen there or not; either way it is named.
    let output = Command::new(BINARY)
        .args(["connect", "--send-only"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.lines().next().unwrap().contains("127.0.0.1:2345"),
        "{said}"
    );
}

#[test]
fn after_the_end_of_input_comes_all_that_is_still_owed() {
    let server = Server::start(&["--echo"]);
    let exit = run(&[], &server.addr(0).to_string(), b"one\ntwo\nrest");
    assert_eq!(exit.code, Some(0), "{}", exit.stderr);
    let wanted = "New client connected: 1\nMessage from client 1: one\n\
        Message from client 1: two\nMessage from client 1: rest\n";
    assert!(exit.stdout.starts_with(wanted), "{}", exit.stdout);
}

#[test]
fn send_only_prints_nothing_and_ends_when_all_is_taken() {
    for half_close in ["close", "keep"] {
        let server = Server::start(&["--echo", "--half-close", half_close]);
        let mut witness = Client::connect(&server);
        witness.expect_line("New client connected: 1");
        let mut flood = Flood::default();
        let lines = [flood.lines(1000), b"end\n".to_vec()].concat();
        let exit = run(&["--send-only"], &server.addr(0).to_string(), &lines);
        assert_eq!((exit.code, &*exit.stdout), (Some(0), ""), "{}", exit.stderr);
        witness.expect_line("New client connected: 2");
        assert_eq!(Flood::expect_all(&mut witness, 2), 1000);
    }
}

#[test]
fn send_only_takes_what_it_does_not_print_so_that_nobody_waits_for_it() {
    let server = Server::start(&["--buffer=256KiB", "--slow-grace=forever", "--no-notices"]);
    let address = server.addr(0).to_string();
    let mut program = Program::spawn(&mut connect_and_tell(&["--send-only"], &address));
    program.wait_output(CONNECTED);
    let mut sender = Client::connect(&server);
    // More than all buffers on the way hold.
    Flood::default().send(&mut sender, 200_000);
    program.type_in(b"still here\n");
    sender.expect_message(1, "still here");
    program.end_input();
    let (status, output) = program.wait_end();
    assert!(status.success(), "{status}");
    assert_eq!(
        String::from_utf8_lossy(&output),
        connected(&address) + CLOSED
    );
}

#[test]
fn listen_only_leaves_standard_input_alone() {
    let server = Server::start(&[]);
    let mut witness = Client::connect(&server);
    let address = server.addr(0).to_string();
    let mut program = Program::spawn(&mut connect_and_tell(&["--listen-only"], &address));
    witness.expect_line("New client connected: 2");
    program.type_in(b"not a line\n");
    program.end_input();
    witness.send_line("one");
    program.wait_output("Message from client 1: one\n");
    let mut other = Client::connect(&server);
    witness.expect_line("New client connected: 3");
    other.send_line("two");
    witness.expect_message(3, "two");
    program.wait_output("Message from client 3: two\n");
}

#[test]
fn megabytes_from_one_to_another_arrive_whole() {
    let server = Server::start(&["--format=raw", "--slow-grace=forever"]);
    let address = server.addr(0).to_string();
    let dir = tempfile::tempdir().unwrap();
    let bytes = Flood::default().lines(200_000);
    let sent = dir.path().join("sent");
    std::fs::write(&sent, &bytes).unwrap();

    let mut listener =
        Program::spawn(connect(&["--listen-only", "--retry=no"], &address).stderr(Stdio::null()));
    server.wait_log("client connected client=1");
    let mut sender = connect(&["--send-only"], &address);
    let status = sender
        .stdin(std::fs::File::open(&sent).unwrap())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success(), "{status}");
    let mut server = server;
    server.stop();
    let (status, received) = listener.wait_end();
    assert_eq!(status.code(), Some(1), "the server ended it");
    assert!(received == bytes, "{} of {}", received.len(), bytes.len());
}

#[test]
fn lines_typed_while_the_daemon_is_down_arrive_when_it_is_back() {
    let dir = tempfile::tempdir().unwrap();
    let unix = format!("unix:{}", dir.path().join("hub.sock").display());
    // An address that no other test is given a port of.
    for listen in [unix, "127.83.69.84:0".to_owned()] {
        let mut server = Server::start(&["--listen", &listen]);
        let address = server.addr(0).to_string();
        let mut program = Program::spawn(&mut connect_and_tell(&["--retry"], &address));
        program.wait_output(CONNECTED);
        // It is connected before the daemon has accepted it.
        server.wait_log("client connected client=1");
        let mut witness = Client::connect(&server);
        program.type_in(b"before\n");
        witness.expect_message(1, "before");

        // A client that does not close would hold the stop up.
        drop(witness);
        server.stop();
        program.wait_output(CLOSED);
        program.type_in(b"one\ntwo\nthr");
        program.wait_output("cannot connect to");
        program.type_in(b"ee\n");

        let server = Server::start(&["--listen", &address]);
        server.wait_log("client connected client=1");
        let mut witness = Client::connect(&server);
        program.type_in(b"after\n");
        // What was sent before the witness came, it cannot have seen.
        let line = witness.read_line();
        let lines = ["one", "two", "three", "after"].map(|l| format!("Message from client 1: {l}"));
        let at = lines.iter().position(|known| *known == line);
        let at = at.unwrap_or_else(|| panic!("{line}"));
        for line in &lines[at + 1..] {
            witness.expect_line(line);
        }
        program.end_input();
        assert!(program.wait_end().0.success());
        server.wait_log("client disconnected client=1 reason=eof lines_in=4");
    }
}

#[test]
fn line_that_a_broken_connection_took_half_of_is_sent_again_whole() {
    let server = Puppet::new();
    let mut program = Program::spawn(&mut connect_and_tell(&["--retry"], &server.address));
    let mut first = server.accept();
    program.type_in(b"one\ntwo\nthr");
    read_exactly(&mut first, "one\ntwo\nthr");
    drop(first);
    let mut second = server.accept();
    program.type_in(b"ee\n");
    read_exactly(&mut second, "three\n");
    program.end_input();
    assert_eq!(second.read(&mut [0; 16]).unwrap(), 0);
    drop(second);
    assert!(program.wait_end().0.success());
}

#[test]
fn after_a_reset_sending_goes_on_at_the_begin_of_a_line() {
    const LINES: u64 = 200_000;
    let server = Puppet::new();
    let mut program = Program::spawn(&mut connect_and_tell(
        &["--retry", "--send-only"],
        &server.address,
    ));
    let first = server.accept();
    let bytes = Flood::default().lines(LINES);
    let typist = std::thread::spawn(move || {
        program.type_in(&bytes);
        program.end_input();
        program
    });
    let mut read = BufReader::new(first);
    let mut line = String::new();
    // More than is kept to be sent again: what came first was known to have come.
    for n in 1..=100_000 {
        line.clear();
        read.read_line(&mut line).unwrap();
        assert_eq!(line.trim_end(), payload(n));
    }
    // Closed with much unread, which makes it a reset.
    drop(read);

    let mut lines = BufReader::new(server.accept()).lines();
    let mut next = || lines.next().map(|line| line.unwrap());
    let first = next().unwrap();
    let number: u64 = first[..10]
        .parse()
        .unwrap_or_else(|e| panic!("{e}: {first}"));
    assert!(number > 1000, "{first}");
    assert_eq!(first, payload(number));
    for n in number + 1..=LINES {
        assert_eq!(next(), Some(payload(n)));
    }
    assert_eq!(next(), None);
    drop(lines);
    let mut program = typist.join().unwrap();
    let (status, output) = program.wait_end();
    assert!(status.success(), "{}", String::from_utf8_lossy(&output));
}

#[test]
fn input_beyond_the_bound_waits_while_there_is_no_connection() {
    const BOUND: usize = 4 << 20;
    // The bound, the last read, and what the pipe holds.
    const MOST: usize = BOUND + (256 << 10) + (64 << 10);
    let dir = tempfile::tempdir().unwrap();
    let address = format!("unix:{}", dir.path().join("hub.sock").display());
    let mut child = connect(&["--retry", "--send-only"], &address)
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut flood = Flood::default();
    let bytes = [flood.lines(150_000), b"end\n".to_vec()].concat();
    assert!(bytes.len() > 2 * MOST);
    let taken = Arc::new(AtomicUsize::new(0));
    let typist = std::thread::spawn({
        let taken = taken.clone();
        move || {
            for chunk in bytes.chunks(4096) {
                stdin.write_all(chunk).unwrap();
                taken.fetch_add(chunk.len(), Ordering::Relaxed);
            }
        }
    });
    let taken = || taken.load(Ordering::Relaxed);
    eventually("input is taken up to the bound", || taken() >= BOUND);
    assert!(taken() <= MOST, "{}", taken());

    let server = Server::start(&["--listen", &address, "--listen=127.0.0.1:0"]);
    typist.join().unwrap();
    assert!(child.wait().unwrap().success());
    server.wait_log("client disconnected lines_in=150001");
}

#[test]
fn connection_closed_by_the_server_is_a_failure() {
    let server = Server::start(&["--max-clients=1", "--no-notices"]);
    let _only = Client::connect(&server);
    let address = server.addr(0).to_string();
    for (args, shown) in [(&[][..], true), (&["--send-only"], false)] {
        let mut program = Program::spawn(&mut connect_and_tell(args, &address));
        let (status, output) = program.wait_end();
        assert_eq!(status.code(), Some(1));
        let output = String::from_utf8(output).unwrap();
        assert!(output.starts_with(CONNECTED), "{output}");
        let why = "linehub: the server closed the connection: server full (1 clients)\n";
        assert!(output.ends_with(&(CLOSED.to_owned() + why)), "{output}");
        assert_eq!(output.contains("Error: server full"), shown, "{output}");
    }
}

/// Whatever the format, and wherever it listens: lines that were refused are not said to be sent.
#[test]
fn refused_lines_are_not_sent() {
    let dir = tempfile::tempdir().unwrap();
    let lines: String = (1..=1000).map(|n| format!("{n}\n")).collect();
    let too_long = format!("short\n{}\n", "x".repeat(2000));
    for format in ["text", "json"] {
        let unix = format!("unix:{}", dir.path().join(format).display());
        let server = Server::start(&[
            "--listen=127.0.0.1:0",
            "--listen",
            &unix,
            "--format",
            format,
            "--max-clients=1",
            "--max-line=1000",
        ]);
        let addresses = [server.addr(0).to_string(), unix];
        let refused = |address: &str, input: &str, why: &str| {
            // With --retry, what can never go well is not tried again.
            for args in [&["--send-only"][..], &[]] {
                let exit = run(args, address, input.as_bytes());
                assert_eq!(exit.code, Some(1), "{format} {address} {args:?}: {exit:?}");
                assert!(exit.stderr.contains(why), "{format} {address}: {exit:?}");
            }
        };
        for address in &addresses {
            refused(address, &too_long, "line too long (limit 1000 bytes)");
        }
        server.wait_log_count("client disconnected", 4);
        let only = TcpStream::connect(&addresses[0]).unwrap();
        server.wait_log_count("client connected", 5);
        for _ in 0..3 {
            for address in &addresses {
                refused(address, &lines, "server full (1 clients)");
                refused(address, "", "server full (1 clients)");
            }
        }
        drop(only);
    }
}

/// A daemon has no words for them in `raw`: a reset says it.
#[test]
fn lines_that_a_raw_listener_refuses_are_not_said_to_be_sent() {
    let dir = tempfile::tempdir().unwrap();
    let unix = format!("unix:{}", dir.path().join("hub.sock").display());
    let server = Server::start(&[
        "--format=raw",
        "--max-clients=1",
        "--max-line=1000",
        "--listen=127.0.0.1:0",
        "--listen",
        &unix,
    ]);
    let tcp = server.addr(0).to_string();
    let too_long = format!("short\n{}\nlast\n", "x".repeat(2000));
    let unfinished = "x".repeat(2000);
    let http = "GET / HTTP/1.1\nHost: a\n";
    for input in [&too_long, &unfinished, http] {
        let exit = run(&["--send-only"], &tcp, input.as_bytes());
        assert_eq!(exit.code, Some(1), "{exit:?}");
        assert!(exit.stderr.contains("reset"), "{exit:?}");
    }
    server.wait_log_count("client disconnected", 3);
    let only = TcpStream::connect(&tcp).unwrap();
    server.wait_log_count("client connected", 4);
    let lines: String = (1..=1000).map(|n| format!("{n}\n")).collect();
    for _ in 0..5 {
        for address in [&tcp, &unix] {
            let exit = run(&["--send-only"], address, lines.as_bytes());
            assert_eq!(exit.code, Some(1), "{address}: {exit:?}");
        }
    }
    drop(only);
}

/// The lines that it gets itself meanwhile are none the less for it.
#[test]
fn raw_sender_of_a_line_too_long_gets_what_came_before() {
    let server = Server::start(&[
        "--format=raw",
        "--max-line=1000",
        "--slow-grace=forever",
        "--no-notices",
    ]);
    let address = server.addr(0).to_string();
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut child = connect(&["-q"], &address)
        .stdin(Stdio::piped())
        .stdout(writer)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    server.wait_log("client connected client=1");
    let lines = Flood::default().lines(20_000);
    let mut other = TcpStream::connect(&address).unwrap();
    other.write_all(&lines).unwrap();
    other.shutdown(std::net::Shutdown::Write).unwrap();
    server.wait_log("client disconnected client=2");
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all("x".repeat(2000).as_bytes()).unwrap();
    drop(stdin);
    let mut received = vec![0; lines.len()];
    reader.read_exact(&mut received).unwrap();
    assert!(received == lines);
    assert_eq!(child.wait().unwrap().code(), Some(1));
}

/// Nor is it said when the sender has not acknowledged yet what others sent meanwhile.
#[test]
fn lines_that_a_busy_raw_listener_refuses_are_not_said_to_be_sent() {
    let server = Server::start(&[
        "--format=raw",
        "--max-line=1000",
        "--slow-grace=forever",
        "--no-notices",
    ]);
    let address = server.addr(0).to_string();
    let mut other = TcpStream::connect(&address).unwrap();
    let is_over = Arc::new(AtomicBool::new(false));
    let flood = std::thread::spawn({
        let is_over = is_over.clone();
        move || {
            let mut flood = Flood::default();
            while !is_over.load(Ordering::Relaxed) {
                other.write_all(&flood.lines(1)).unwrap();
            }
        }
    });
    let too_long = format!("short\n{}\nlast\n", "x".repeat(2000));
    for _ in 0..30 {
        let exit = run(&["--send-only"], &address, too_long.as_bytes());
        assert_eq!(exit.code, Some(1), "{exit:?}");
    }
    is_over.store(true, Ordering::Relaxed);
    flood.join().unwrap();
}

#[test]
fn refused_lines_are_sent_when_there_is_a_place() {
    let server = Server::start(&["--max-clients=1"]);
    let address = server.addr(0).to_string();
    let only = Client::connect(&server);
    let mut program = Program::spawn(&mut connect_and_tell(&["--retry", "--send-only"], &address));
    let lines: String = (1..=1000).map(|n| format!("{n}\n")).collect();
    program.type_in(lines.as_bytes());
    program.end_input();
    program.wait_output("server full (1 clients)\n");
    program.wait_output("trying again in ");
    drop(only);
    let (status, output) = program.wait_end();
    assert!(status.success(), "{}", String::from_utf8_lossy(&output));
    server.wait_log("reason=eof lines_in=1000");
}

/// Ctrl-D on a line of its own, and telnet's end of file, end a client of a `text` listener: what
/// follows them is not sent to anybody.
#[test]
fn lines_after_a_wish_to_leave_are_not_said_to_be_sent() {
    let dir = tempfile::tempdir().unwrap();
    let unix = format!("unix:{}", dir.path().join("hub.sock").display());
    let server = Server::start(&["--listen=127.0.0.1:0", "--listen", &unix]);
    let mut witness = Client::connect(&server);
    let mut id = 1;
    let more: String = (1..=10_000).map(|n| format!("{n}\n")).collect();
    for wish in [&b"\x04\n"[..], b"\x04\r\n", b"\xff\xec"] {
        for follows in ["two\n", "two", &more] {
            for address in [server.addr(0).to_string(), unix.clone()] {
                let input = [b"one\n", wish, follows.as_bytes()].concat();
                let exit = run(&["--send-only"], &address, &input);
                id += 1;
                assert_eq!(exit.code, Some(1), "{exit:?}");
                assert!(exit.stderr.contains("as a wish to leave"), "{exit:?}");
                witness.expect_line(&format!("New client connected: {id}"));
                witness.expect_message(id, "one");
                witness.expect_line(&format!("Client disconnected: {id}"));
            }
        }
        // When nothing follows, nothing is lost.
        let exit = run(
            &["--send-only"],
            &server.addr(0).to_string(),
            &[b"one\n", wish].concat(),
        );
        assert_eq!(exit.code, Some(0), "{exit:?}");
        id += 1;
        witness.lines_until(&format!("Client disconnected: {id}"));
    }
}

#[test]
fn with_retry_lines_after_a_wish_to_leave_are_sent_over_another_connection() {
    let server = Server::start(&[]);
    let mut witness = Client::connect(&server);
    let input = b"one\n\x04\ntwo\nth\xff\xecree\n";
    let address = server.addr(0).to_string();
    let exit = run(&["--send-only", "--retry"], &address, input);
    assert_eq!(exit.code, Some(0), "{exit:?}");
    for (id, lines) in [(2, &["one"][..]), (3, &["two", "th"]), (4, &["ree"])] {
        witness.expect_line(&format!("New client connected: {id}"));
        for line in lines {
            witness.expect_message(id, line);
        }
        witness.expect_line(&format!("Client disconnected: {id}"));
    }
}

#[test]
fn no_line_is_a_wish_to_leave_where_there_is_no_telnet() {
    for format in ["json", "raw"] {
        let server = Server::start(&[
            "--no-notices",
            "--listen=127.0.0.1:0",
            "--listen",
            &format!("127.0.0.1:0,format={format}"),
        ]);
        let mut witness = Client::connect(&server);
        let input = b"one\n\x04\n\xff\xec\n\x04\nend\n";
        let exit = run(&["--send-only"], &server.addr(1).to_string(), input);
        assert_eq!(exit.code, Some(0), "{format}: {exit:?}");
        for line in ["one", "\\x04", "\\xff\\xec", "\\x04", "end"] {
            witness.expect_message(2, line);
        }
    }
}

/// What a server does with a client that has sent a line and the end, and what comes of it.
#[test]
fn close_is_success_only_as_an_answer() {
    const STOPS: &str = "the server closed the connection: it is shutting down";
    let json = "{\"event\":\"error\",\"reason\":\"idle\",\"detail\":\"idle for 60s\"}\n";
    for (last_words, why) in [
        ("", None),
        ("Message from client 2: Error: x\n", None),
        // Somebody's payload.
        ("disk 1 ok\nError: disk 2 failed\n", None),
        ("Error: idle for 60s\n", Some("idle for 60s")),
        (
            "Message from client 2: x\r\nError: idle for 60s\r\n",
            Some("idle for 60s"),
        ),
        (json, Some("idle for 60s")),
        (
            "Error: idle for 60s\nServer shutting down\n",
            Some("idle for 60s"),
        ),
        ("Server shutting down\n", Some(STOPS)),
        ("{\"event\":\"shutdown\"}\n", Some(STOPS)),
    ] {
        for args in [&["--send-only"][..], &[], &["--send-only", "--retry"]] {
            let server = Puppet::new();
            let mut program = Program::spawn(&mut connect_and_tell(args, &server.address));
            let mut stream = server.accept();
            program.type_in(b"line\n");
            program.end_input();
            read_exactly(&mut stream, "line\n");
            assert_eq!(stream.read(&mut [0]).unwrap(), 0);
            stream.write_all(last_words.as_bytes()).unwrap();
            drop(stream);
            let (status, output) = program.wait_end();
            let output = String::from_utf8_lossy(&output).into_owned();
            let code = i32::from(why.is_some());
            assert_eq!(status.code(), Some(code), "{args:?} {last_words}: {output}");
            assert!(output.contains(why.unwrap_or(CLOSED)), "{output}");
        }
    }
}

/// The kernel takes connections and lines on behalf of a daemon that hangs.
#[test]
fn lines_that_nobody_answers_are_not_said_to_be_sent() {
    let server = Puppet::new();
    let exit = run(&["--send-only"], &server.address, b"line\n");
    assert_eq!(exit.code, Some(1));
    assert!(exit.stderr.contains("does not answer"), "{}", exit.stderr);
}

#[test]
fn close_before_the_end_is_no_success() {
    let server = Puppet::new();
    let mut program = Program::spawn(&mut connect_and_tell(&["--send-only"], &server.address));
    let mut stream = server.accept();
    program.type_in(b"line\n");
    read_exactly(&mut stream, "line\n");
    drop(stream);
    let (status, _) = program.wait_end();
    assert_eq!(status.code(), Some(1));
}

#[test]
fn line_that_the_daemon_refuses_is_not_tried_again() {
    let server = Server::start(&["--max-line=10", "--no-notices"]);
    let address = server.addr(0).to_string();
    let mut program = Program::spawn(&mut connect_and_tell(&["--retry"], &address));
    program.type_in(b"short\nlonger than ten\n");
    let (status, output) = program.wait_end();
    let output = String::from_utf8(output).unwrap();
    assert_eq!(status.code(), Some(1), "{output}");
    let why = "linehub: the server closed the connection: line too long (limit 10 bytes)\n";
    assert!(output.ends_with(why), "{output}");
}

#[test]
fn server_that_does_not_answer_is_a_failure() {
    let dir = tempfile::tempdir().unwrap();
    let address = format!("unix:{}", dir.path().join("none").display());
    let exit = run(&["--send-only"], &address, b"line\n");
    assert_eq!(exit.code, Some(1));
    let wanted = format!("linehub: cannot connect to {address}: No such file or directory");
    assert!(exit.stderr.starts_with(&wanted), "{}", exit.stderr);
    assert_eq!(exit.stderr.lines().count(), 1, "{}", exit.stderr);
}

#[test]
fn wrong_arguments_are_named_in_one_line() {
    for (args, address, wanted) in [
        (&[][..], "localhost", "'localhost' has no port; allowed: "),
        (&[], "::1", "'::1' looks like IPv6, which needs brackets"),
        (&[], "localhost:0", "'localhost:0' has port 0"),
        (&["--retry=perhaps"], "a:1", "--retry: 'perhaps' is neither"),
        (&["--retry", "no"], "a:1", "'a:1': unexpected"),
        (
            &["--listen-only", "--send-only"],
            "a:1",
            "the argument '--listen-only' cannot be used with '--send-only'",
        ),
        (
            &["--channel=a", "--hello=role=both channel=b"],
            "a:1",
            "--channel: --hello has a channel too; allowed: one of them",
        ),
        (
            &["--channel=a", "--hello", &"x".repeat(4080)],
            "a:1",
            "--hello: the line has 4100 bytes with what is put before it; allowed: at most 4096",
        ),
    ] {
        let exit = run(args, address, b"");
        assert_eq!(exit.code, Some(2), "{args:?} {address}");
        assert_eq!(exit.stderr.lines().count(), 1, "{}", exit.stderr);
        let wanted = format!("linehub: {wanted}");
        assert!(exit.stderr.starts_with(&wanted), "{}", exit.stderr);
    }
}

#[test]
fn output_that_nobody_reads_any_more_ends_it_without_noise() {
    let server = Server::start(&[]);
    let address = server.addr(0).to_string();
    // While nothing comes, and with the line that finds the pipe closed.
    for (idle, clients) in [(true, 1), (false, 3)] {
        let mut child = connect(&["--listen-only"], &address)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        server.wait_log_count("client connected", clients);
        let mut sender = Client::connect(&server);
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        sender.send_line("one");
        let mut line = String::new();
        while !line.ends_with(": one\n") {
            line.clear();
            assert!(stdout.read_line(&mut line).unwrap() > 0);
        }
        if !idle {
            sender.send_line("two");
        }
        drop(stdout);
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        assert_eq!(String::from_utf8_lossy(&output.stderr), connected(&address));
    }
}

/// As a program that shares it may have made it.
#[test]
fn nonblocking_output_gets_everything() {
    let server = Server::start(&["--format=raw", "--slow-grace=forever"]);
    let address = server.addr(0).to_string();
    let (mut reader, writer) = std::io::pipe().unwrap();
    rustix::io::ioctl_fionbio(&writer, true).unwrap();
    let mut child = connect(&["--listen-only", "--retry=no", "-q"], &address)
        .stdout(writer)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    server.wait_log("client connected client=1");
    // More than a pipe holds, and nobody reads before all of it is sent.
    let lines = Flood::default().lines(50_000);
    assert_eq!(run(&["--send-only"], &address, &lines).code, Some(0));
    let mut received = vec![0; lines.len()];
    reader.read_exact(&mut received).unwrap();
    assert!(received == lines);
    drop(server);
    let mut rest = Vec::new();
    reader.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b"");
    assert_eq!(child.wait().unwrap().code(), Some(1));
}

/// A person at a terminal, connected.
fn person(args: &[&str], address: &str) -> Option<Program> {
    let script = tool("script")?;
    let program = Program::spawn(
        Command::new(script)
            .arg("-qec")
            .arg(format!("{BINARY} connect {} {address}", args.join(" ")))
            .arg("/dev/null")
            .env("TERM", "xterm"),
    );
    program.wait_output(CONNECTED);
    program.wait_output("> ");
    Some(program)
}

/// Types a line and waits for the next prompt: a key that the terminal gets before it is there does
/// what the terminal makes of it, not the editor.
fn enter(person: &mut Program, line: &str) {
    person.type_in(format!("{line}\r").as_bytes());
    person.wait_output(&format!("\r \x1b[J\r> {line}\r\n"));
}

#[test]
fn lines_that_come_while_a_person_types_do_not_tear_their_line() {
    let server = Server::start(&[]);
    let mut other = Client::connect(&server);
    let Some(mut person) = person(&[], &server.addr(0).to_string()) else {
        return;
    };
    other.expect_line("New client connected: 2");
    person.type_in(b"half a li");
    person.wait_output("half a li");
    other.send_line("in between");
    // The line is cleared, what came is printed in its place, and the prompt is below it again.
    person.wait_output("\r \x1b[J\rMessage from client 1: in between\r\n> half a li");
    person.type_in(b"ne\r");
    other.expect_message(2, "half a line");
}

#[test]
fn arrow_up_brings_back_what_was_typed() {
    let server = Server::start(&[]);
    let mut other = Client::connect(&server);
    let Some(mut person) = person(&[], &server.addr(0).to_string()) else {
        return;
    };
    other.expect_line("New client connected: 2");
    person.type_in(b"one\rtwo\r");
    other.expect_message(2, "one");
    other.expect_message(2, "two");
    person.type_in(b"\x1b[A\x1b[A again\r");
    other.expect_message(2, "one again");
}

#[test]
fn person_leaves_with_ctrl_c_or_ctrl_d_and_with_what_was_typed() {
    for (key, half_close) in [(b"\x03", "close"), (b"\x04", "close"), (b"\x04", "keep")] {
        let server = Server::start(&["--half-close", half_close]);
        let mut other = Client::connect(&server);
        let Some(mut person) = person(&[], &server.addr(0).to_string()) else {
            return;
        };
        other.expect_line("New client connected: 2");
        enter(&mut person, "bye");
        person.type_in(key);
        other.expect_message(2, "bye");
        let (status, output) = person.wait_end();
        let output = String::from_utf8_lossy(&output).into_owned();
        assert_eq!(status.code(), Some(0), "{key:?}: {output}");
        if half_close == "close" {
            other.expect_line("Client disconnected: 2");
        }
    }
}

#[test]
fn person_leaves_while_there_is_no_server() {
    let dir = tempfile::tempdir().unwrap();
    let address = format!("unix:{}", dir.path().join("hub.sock").display());
    let mut server = Server::start(&["--listen", &address]);
    let Some(mut one) = person(&[], &address) else {
        return;
    };
    let Some(mut two) = person(&[], &address) else {
        return;
    };
    server.stop();
    one.wait_output("trying again");
    two.wait_output("trying again");
    one.type_in(b"\x03");
    assert_eq!(one.wait_end().0.code(), Some(0));
    enter(&mut two, "lost");
    two.type_in(b"\x04");
    let (status, output) = two.wait_end();
    let output = String::from_utf8_lossy(&output).into_owned();
    assert_eq!(status.code(), Some(1), "{output}");
    assert!(
        output.contains("linehub: 1 line was not sent\r\n"),
        "{output}"
    );
}

#[test]
fn person_whose_server_closes_sees_its_last_words() {
    let mut server = Server::start(&[]);
    let Some(mut person) = person(&["--retry=no"], &server.addr(0).to_string()) else {
        return;
    };
    person.type_in(b"half a li");
    person.wait_output("half a li");
    server.stop();
    let (status, output) = person.wait_end();
    let output = String::from_utf8_lossy(&output).into_owned();
    assert_eq!(status.code(), Some(1), "{output}");
    let at = |text: &str| {
        output
            .find(text)
            .unwrap_or_else(|| panic!("no {text} in {output}"))
    };
    assert!(at("Server shutting down\r\n") < at("Server connection closed\r\n"));
    assert!(at("Server connection closed\r\n") < at("linehub: the server closed the connection"));
}

#[test]
fn control_characters_are_made_visible_to_a_person() {
    let server = Server::start(&["--format=raw"]);
    let mut other = Client::connect(&server);
    let Some(person) = person(&[], &server.addr(0).to_string()) else {
        return;
    };
    server.wait_log("client connected client=2");
    other.send_bytes(b"\x1b]0;title\x07\xff\r\n");
    person.wait_output("\\x1b]0;title\\x07\\xff\r\n");
}

/// A terminal that controls nobody, as a serial line: its two ends.
fn serial_line() -> (std::fs::File, std::fs::File) {
    use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
    use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&ours).unwrap();
    unlockpt(&ours).unwrap();
    let theirs = ioctl_tiocgptpeer(&ours, OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    let mut modes = tcgetattr(&theirs).unwrap();
    modes.make_raw();
    tcsetattr(&theirs, OptionalActions::Now, &modes).unwrap();
    (ours.into(), theirs.into())
}

/// Reads until the text has come, and returns all that came up to its end.
fn read_until(from: &mut std::fs::File, wanted: &str) -> String {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while !bytes.ends_with(wanted.as_bytes()) {
        from.read_exact(&mut byte).unwrap();
        bytes.push(byte[0]);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn serial_line_gets_lines_as_they_come_and_no_prompt() {
    let server = Server::start(&["--format=raw"]);
    let address = server.addr(0).to_string();
    for (i, args) in [&[][..], &["--listen-only"]].iter().enumerate() {
        let mut other = Client::connect(&server);
        let (mut instrument, line) = serial_line();
        let mut child = connect(args, &address)
            .stdin(line.try_clone().unwrap())
            .stdout(line)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        server.wait_log_count("client connected", 2 * i + 2);
        other.send_bytes(b"\x1b[31m\x07\xffSET 1\r\nend\n");
        let wanted = String::from_utf8_lossy(b"\x1b[31m\x07\xffSET 1\r\nend\n").into_owned();
        assert_eq!(read_until(&mut instrument, "end\n"), wanted, "{args:?}");
        if args.is_empty() {
            instrument.write_all(b"VALUE 7\n").unwrap();
            other.expect_line("VALUE 7");
            // Nor was it echoed.
            other.send_line("next");
            assert_eq!(read_until(&mut instrument, "next\n"), "next\n");
        }
        child.kill().unwrap();
        child.wait().unwrap();
        drop(other);
        server.wait_log_count("client disconnected", 2 * i + 2);
    }
}

#[test]
fn interactive_gives_a_prompt_in_any_terminal_and_plain_in_none() {
    let server = Server::start(&["--format=raw"]);
    let address = server.addr(0).to_string();
    let (mut line, theirs) = serial_line();
    let mut child = connect(&["--interactive", "-q"], &address)
        .stdin(theirs.try_clone().unwrap())
        .stdout(theirs)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    read_until(&mut line, "> ");
    line.write_all(b"\x03").unwrap();
    assert!(child.wait().unwrap().success());

    let exit = run(&["--interactive"], &address, b"");
    assert_eq!(exit.code, Some(2));
    let wanted = "linehub: --interactive: standard input and output are no terminal\n";
    assert_eq!(exit.stderr, wanted);

    let Some(script) = tool("script") else {
        return;
    };
    let mut other = Client::connect(&server);
    let mut person = Program::spawn(
        Command::new(script)
            .arg("-qec")
            .arg(format!("{BINARY} connect --plain {address}"))
            .arg("/dev/null"),
    );
    person.wait_output(CONNECTED);
    server.wait_log_count("client connected", 3);
    other.send_bytes(b"\x1b[31mred\n");
    person.wait_output("\x1b[31mred\r\n");
    person.type_in(b"typed\n");
    other.expect_line("typed");
    person.type_in(b"\x04");
    let (status, output) = person.wait_end();
    assert!(status.success());
    assert!(!String::from_utf8_lossy(&output).contains("> "));
}

#[test]
fn enter_on_an_empty_prompt_sends_nothing_and_an_empty_line_from_a_pipe_is_one() {
    let server = Server::start(&[]);
    let mut other = Client::connect(&server);
    let address = server.addr(0).to_string();
    if let Some(mut person) = person(&[], &address) {
        other.expect_line("New client connected: 2");
        person.type_in(b"\r\r");
        enter(&mut person, "something");
        other.expect_message(2, "something");
        person.type_in(b"\x03");
        other.expect_line("Client disconnected: 2");
    }
    let id = 2 + u64::from(tool("script").is_some());
    assert_eq!(run(&["--send-only"], &address, b"\n").code, Some(0));
    other.expect_line(&format!("New client connected: {id}"));
    other.expect_message(id, "");
}

/// How often the text is on the screen.
fn times(screen: &str, text: &str) -> usize {
    screen.matches(text).count()
}

/// A person in a terminal of their own, at the prompt, as client 2; client 1 is there before.
fn person_in_tmux(server: &Server) -> Option<(Tmux, Client)> {
    let tmux = Tmux::new(80, 24)?;
    let other = Client::connect(server);
    tmux.press(&[&format!("{BINARY} connect {}", server.addr(0)), "Enter"]);
    tmux.wait("a prompt", |screen| screen.ends_with("\n>"));
    Some((tmux, other))
}

#[test]
fn window_that_is_resized_loses_nothing_and_keeps_no_fragments() {
    let server = Server::start(&["--no-notices"]);
    let Some((tmux, mut other)) = person_in_tmux(&server) else {
        return;
    };
    let messages: Vec<String> = (1..=3)
        .map(|n| format!("Message from client 1: {n} {} end", "m".repeat(70)))
        .collect();
    for message in &messages {
        other.send_line(message.strip_prefix("Message from client 1: ").unwrap());
    }
    let line = format!("typed {} LINE", "y".repeat(100));
    let prompt = format!("\n> {line}");
    tmux.press(&["-l", &line]);
    let is_whole = |screen: &str| {
        screen.ends_with(&prompt)
            && times(screen, "typed") == 1
            && times(screen, "LINE") == 1
            && times(screen, "\n>") == 1
            && messages.iter().all(|message| times(screen, message) == 1)
    };
    tmux.wait("all", is_whole);
    for (n, columns) in [120, 50, 160, 33, 79, 80].into_iter().enumerate() {
        // Before it has said so, nobody can know; from then on, it counts.
        tmux.resize(columns, 24);
        other.send_line(&format!("resized {n} times"));
        let resized = format!("Message from client 1: resized {n} times\n> ");
        tmux.wait(&format!("{columns} columns"), |screen| {
            screen.contains(&resized) && is_whole(screen)
        });
    }
    tmux.press(&["C-a", "x", "Enter"]);
    other.expect_message(2, &format!("x{line}"));
}

#[test]
fn stopped_and_continued_the_prompt_is_there_again() {
    let server = Server::start(&["--no-notices"]);
    let Some((tmux, mut other)) = person_in_tmux(&server) else {
        return;
    };
    tmux.press(&["-l", "half a"]);
    for n in 0..3 {
        tmux.wait("the line", |screen| screen.ends_with("\n> half a"));
        tmux.press(&["C-z"]);
        tmux.wait("the shell", |screen| screen.ends_with("\n$"));
        let ask = format!("stty -a | grep -ow -e '-icanon' -e icanon; echo shell {n}");
        tmux.press(&[&ask, "Enter"]);
        let answered = format!("\nicanon\nshell {n}\n$");
        tmux.wait("its answer", |screen| screen.ends_with(&answered));
        other.send_line(&format!("meanwhile {n}"));
        tmux.press(&["fg", "Enter"]);
        let message = format!("\nMessage from client 1: meanwhile {n}\n> half a");
        tmux.wait("what came", |screen| screen.ends_with(&message));
    }
    // It takes keys, not lines: this one deletes.
    tmux.press(&["C-w", "C-w", "whole", "Enter"]);
    other.expect_message(2, "whole");
    tmux.press(&["C-c"]);
    tmux.wait("the shell", |screen| {
        screen.ends_with("Server connection closed\n$")
    });
}

#[test]
fn retries_take_one_line_of_a_terminal() {
    let dir = tempfile::tempdir().unwrap();
    let address = format!("unix:{}", dir.path().join("s").display());
    let Some(tmux) = Tmux::new(150, 24) else {
        return;
    };
    // With a prompt, and without one.
    for option in ["", "--listen-only </dev/null"] {
        let mut server = Server::start(&["--listen", &address]);
        tmux.press(&[
            &format!("clear; {BINARY} connect {address} {option}"),
            "Enter",
        ]);
        server.wait_log("client connected");
        server.stop();
        // A pause so long comes after several attempts, each of which has said its own.
        tmux.wait("one status", |screen| {
            let (_, pause) = screen.rsplit_once("trying again in ").unwrap_or_default();
            let pause = pause.split(' ').next().unwrap_or_default();
            let pause: f32 = pause.parse().unwrap_or_default();
            let statuses = times(screen, "trying again");
            assert!(statuses <= 1, "{screen}");
            pause > 0.8 && statuses == 1
        });
        let server = Server::start(&["--listen", &address]);
        server.wait_log("client connected");
        tmux.wait("the connection", |screen| {
            times(screen, "trying again") == 0
                && times(screen, "cannot connect") == 0
                && times(screen, "Connect to server success") == 2
        });
        tmux.press(&["C-c"]);
        tmux.wait("the shell", |screen| screen.ends_with('$'));
    }
}

/// A daemon with a listener that asks for a hello, in each format, and one that does not. There are
/// the channels `main`, `a` and `b`.
fn server_with_hello() -> Server {
    Server::start(&[
        "--listen=127.0.0.1:0,hello",
        "--listen=127.0.0.1:0,hello,format=json",
        "--listen=127.0.0.1:0,hello,format=raw",
        "--listen=127.0.0.1:0",
        "--listen=127.0.0.1:0,channel=a",
        "--listen=127.0.0.1:0,channel=b",
    ])
}

#[test]
fn hello_comes_first_and_its_answer_is_the_first_output() {
    let server = server_with_hello();
    let mut others = Client::connect_to(&server, 3);
    for (listener, args, wanted) in [
        (0, &["--channel=a"][..], "Hello client 2: channel a, at "),
        (
            0,
            &["--hello=channel=b format=text"],
            "Hello client 3: channel b, at ",
        ),
        (
            1,
            &["--channel=a", "--hello=role=subscribe"],
            "{\"event\":\"hello\",\"client\":4,",
        ),
        (0, &["--channel=a", "--send-only"], ""),
        (2, &["--channel=a"], ""),
    ] {
        let exit = run(args, &server.addr(listener).to_string(), b"hello\n");
        assert_eq!(exit.code, Some(0), "{args:?}: {exit:?}");
        assert_eq!(
            exit.stderr,
            connected(&server.addr(listener).to_string()) + CLOSED
        );
        assert!(exit.stdout.starts_with(wanted), "{args:?}: {exit:?}");
        let lines = usize::from(!wanted.is_empty());
        assert_eq!(exit.stdout.lines().count(), lines, "{args:?}: {exit:?}");
    }
    // Without keys it is the listener's own channel.
    let exit = run(&["--hello="], &server.addr(0).to_string(), b"to all\n");
    assert!(
        exit.stdout.starts_with("Hello client 7: channel main, at "),
        "{exit:?}"
    );
    others.expect_line("New client connected: 7");
    others.expect_message(7, "to all");
}

#[test]
fn channel_is_joined_in_both_directions_and_by_nobody_else() {
    let server = server_with_hello();
    let address = server.addr(0).to_string();
    let mut elsewhere = Client::connect_to(&server, 3);
    let mut one = Program::spawn(&mut connect_and_tell(&["--channel=a"], &address));
    one.wait_output("Hello client 2: channel a, at ");
    let mut two = Program::spawn(&mut connect_and_tell(&["--channel=a"], &address));
    two.wait_output("Hello client 3: channel a, at ");
    one.wait_output("New client connected: 3\n");
    one.type_in(b"from one\n");
    two.wait_output("Message from client 2: from one\n");
    two.type_in(b"from two\n");
    one.wait_output("Message from client 3: from two\n");
    let marker = Client::connect_to(&server, 3);
    elsewhere.expect_line(&format!("New client connected: {}", marker.id()));
}

#[test]
fn hello_that_is_refused_ends_it_with_the_daemons_words_and_is_not_tried_again() {
    let server = server_with_hello();
    const HINT: &str = "; --channel NAME or --hello KEYS says it";
    for (args, words) in [
        (&["--channel=none"][..], "no such channel".to_owned()),
        (&["--hello=x=1"], "unknown key \"x\" in hello".to_owned()),
        (
            &["--hello=role=x"],
            "invalid value of \"role\" in hello: expected both, publish or subscribe".to_owned(),
        ),
        (&[], format!("hello expected{HINT}")),
    ] {
        for listener in [0, 1] {
            let address = server.addr(listener).to_string();
            for more in [&["--retry"][..], &["--retry", "--send-only"], &[]] {
                let exit = run(&[args, more].concat(), &address, b"one\ntwo\n");
                assert_eq!(exit.code, Some(1), "{args:?} {more:?}: {exit:?}");
                let why = format!("linehub: the server closed the connection: {words}\n");
                let wanted = connected(&address) + CLOSED + &why;
                assert_eq!(exit.stderr, wanted, "{args:?} {more:?}");
                let is_shown = !more.contains(&"--send-only");
                assert_eq!(
                    exit.stdout.lines().count(),
                    usize::from(is_shown),
                    "{exit:?}"
                );
            }
            if !args.is_empty() {
                // It only listens, and would be told the same for ever.
                let exit = run(&[args, &["--listen-only"]].concat(), &address, b"");
                assert_eq!(exit.code, Some(1), "{args:?}: {exit:?}");
            }
        }
        // In `raw` a reset says it.
        let exit = run(args, &server.addr(2).to_string(), b"one\ntwo\n");
        assert_eq!(exit.code, Some(1), "{args:?}: {exit:?}");
    }
}

#[test]
fn hello_over_a_unix_socket_is_taken_or_refused_before_the_lines_are() {
    let dir = tempfile::tempdir().unwrap();
    for format in ["text", "json", "raw"] {
        let unix = format!("unix:{}", dir.path().join(format).display());
        let listen = format!("{unix},hello,format={format}");
        let server = Server::start(&["--listen=127.0.0.1:0", "--listen", &listen]);
        let mut witness = Client::connect(&server);
        let exit = run(&["--send-only", "--hello="], &unix, b"one\ntwo\n");
        assert_eq!(exit.code, Some(0), "{format}: {exit:?}");
        witness.expect_line("New client connected: 2");
        witness.expect_message(2, "one");
        witness.expect_message(2, "two");
        witness.expect_line("Client disconnected: 2");
        for hello in ["--hello=x=1", "--channel=none"] {
            let exit = run(&["--send-only", hello], &unix, b"one\ntwo\n");
            assert_eq!(exit.code, Some(1), "{format}: {exit:?}");
        }
        // Whoever was refused was no client.
        let last = Client::connect(&server);
        witness.expect_line(&format!("New client connected: {}", last.id()));
        assert_eq!(last.id(), 3);
    }
}

#[test]
fn hello_is_said_again_on_each_connection_and_is_no_part_of_what_is_sent_again() {
    let server = Puppet::new();
    let hello = "LINEHUB/1 channel=a\n";
    let mut program = Program::spawn(&mut connect_and_tell(
        &["--retry", "--channel=a"],
        &server.address,
    ));
    let mut first = server.accept();
    read_exactly(&mut first, hello);
    program.type_in(b"one\ntwo\nthr");
    read_exactly(&mut first, "one\ntwo\nthr");
    drop(first);
    let mut second = server.accept();
    program.type_in(b"ee\n");
    read_exactly(&mut second, &format!("{hello}three\n"));
    // A daemon that stops before it has taken a hello has taken no line either.
    second.write_all(b"Server shutting down\n").unwrap();
    drop(second);
    let mut third = server.accept();
    read_exactly(&mut third, &format!("{hello}three\n"));
    third
        .write_all(b"Hello client 1: channel a, at 00000001:0\n")
        .unwrap();
    program.end_input();
    assert_eq!(third.read(&mut [0; 16]).unwrap(), 0);
    drop(third);
    let (status, output) = program.wait_end();
    assert!(status.success(), "{}", String::from_utf8_lossy(&output));
}

#[test]
fn hello_to_a_daemon_that_comes_back_joins_the_channel_again() {
    let mut server = server_with_hello();
    let listen = format!("{},hello", server.addr(0));
    let args = ["--listen-only", "--channel=a"];
    let program = Program::spawn(&mut connect_and_tell(&args, &server.addr(0).to_string()));
    program.wait_output("Hello client 1: channel a, at ");
    server.stop();
    program.wait_output("trying again in ");
    let server = Server::start(&["--listen", &listen, "--listen=127.0.0.1:0,channel=a"]);
    server.wait_log("client connected channel=a");
    let exit = run(&["--channel=a"], &server.addr(0).to_string(), b"again\n");
    assert_eq!(exit.code, Some(0), "{exit:?}");
    program.wait_output("Message from client 2: again\n");
}

#[test]
fn listener_that_takes_the_hello_for_a_line_is_told_of() {
    let server = server_with_hello();
    let mut witness = Client::connect_to(&server, 3);
    let address = server.addr(3).to_string();
    let program = Program::spawn(&mut connect_and_tell(&["--channel=a"], &address));
    witness.expect_line("New client connected: 2");
    witness.expect_message(2, "LINEHUB/1 channel=a");
    witness.send_line("what?");
    program.wait_output("Message from client 1: what?\n");
    program.wait_output("linehub: the server has not answered the hello: ");
}

#[test]
fn answer_to_a_hello_is_shown_to_a_person() {
    let server = server_with_hello();
    let Some(mut person) = person(&["--channel", "a"], &server.addr(0).to_string()) else {
        return;
    };
    person.wait_output("\r \x1b[J\rHello client 1: channel a, at ");
    enter(&mut person, "hello");
    server.wait_log("client connected channel=a");
}

/// What is meant for a channel is not said to all, when the listener takes no hello.
#[test]
fn send_only_sends_nothing_before_its_hello_is_answered() {
    let server = Server::start(&[
        "--listen=127.0.0.1:0",
        "--listen=127.0.0.1:0,hello,format=raw",
        "--open-channels=1",
    ]);
    let mut witness = Client::connect(&server);
    let args = ["--send-only", "--channel=a"];
    // A listener without hello, and somebody there who speaks.
    let mut program = Program::spawn(&mut connect_and_tell(&args, &server.addr(0).to_string()));
    witness.expect_line("New client connected: 2");
    program.type_in(b"secret\n");
    witness.expect_message(2, "LINEHUB/1 channel=a format=json");
    witness.send_line("to all");
    program.wait_output("has not answered the hello");
    let (status, _) = program.wait_end();
    assert_eq!(status.code(), Some(1));
    witness.expect_line("Client disconnected: 2");
    // A listener of raw, which answers a hello that asks for json.
    let exit = run(&args, &server.addr(1).to_string(), b"for a\n");
    assert_eq!(exit.code, Some(0), "{}", exit.stderr);
    server.wait_log("client disconnected client=3 reason=eof channel=a lines_in=1");
}
