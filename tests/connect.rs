use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::common::{
    BINARY, Client, Exit, Flood, PATIENCE, Program, Server, eventually, payload, tool,
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
    let output = assert_cmd::Command::from_std(connect(args, address))
        .write_stdin(input)
        .timeout(PATIENCE)
        .output()
        .expect("it runs");
    let text = |bytes| String::from_utf8(bytes).expect("output is UTF-8");
    Exit {
        code: output.status.code(),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
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
fn status_goes_to_stderr_in_the_words_of_the_original() {
    let server = Server::start(&["--no-notices"]);
    let address = server.addr(0).to_string();
    let exit = run(&[], &address, b"");
    assert_eq!(exit.code, Some(0));
    assert_eq!(exit.stdout, "");
    assert_eq!(exit.stderr, format!("{CONNECTED}{address}\n{CLOSED}"));
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
        format!("{CONNECTED}{address}\n{CLOSED}")
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
    for n in 1..=1000 {
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

/// In a pipe that has ended long before the daemon says anything.
#[test]
fn lines_that_were_refused_are_never_called_sent() {
    for format in ["text", "json"] {
        let full = Server::start(&["--max-clients=1", "--format", format]);
        let _only = Client::connect(&full);
        let short = Server::start(&["--max-line=10", "--format", format]);
        let mut lines = Flood::default().lines(1000);
        lines.extend_from_slice(b"\n");
        for (server, input, why) in [
            (&full, &lines[..], "server full (1 clients)"),
            (&full, b"one\n", "server full (1 clients)"),
            (
                &short,
                b"short\nlonger than ten",
                "line too long (limit 10 bytes)",
            ),
            (&short, &lines, "line too long (limit 10 bytes)"),
        ] {
            let address = server.addr(0).to_string();
            for args in [&["--send-only"][..], &[]] {
                let exit = run(args, &address, input);
                assert_eq!(exit.code, Some(1), "{format} {args:?} {}", exit.stderr);
                let last = exit.stderr.lines().last().unwrap();
                assert!(last.ends_with(why), "{format} {args:?} {last}");
            }
        }
    }
}

#[test]
fn quiet_says_nothing_but_why_it_failed() {
    let server = Server::start(&["--max-clients=1"]);
    let address = server.addr(0).to_string();
    let exit = run(&["-q", "--send-only"], &address, b"line\n");
    assert_eq!((exit.code, exit.stderr.as_str()), (Some(0), ""));
    let _only = Client::connect(&server);
    let exit = run(&["-q", "--send-only"], &address, b"line\n");
    assert_eq!(exit.code, Some(1));
    assert_eq!(exit.stderr.lines().count(), 1, "{}", exit.stderr);
}

/// A pseudo-terminal that controls nobody is what a serial device looks like.
#[test]
fn serial_device_gets_the_bytes_and_no_prompt() {
    let server = Server::start(&["--format=raw"]);
    let mut other = Client::connect(&server);
    let device =
        rustix::pty::openpt(rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY);
    let device = device.unwrap();
    rustix::pty::grantpt(&device).unwrap();
    rustix::pty::unlockpt(&device).unwrap();
    let name = rustix::pty::ptsname(&device, Vec::new()).unwrap();
    let line = std::fs::File::options()
        .read(true)
        .write(true)
        .open(name.to_str().unwrap())
        .unwrap();
    // As `stty raw -echo` makes a serial line.
    let mut modes = rustix::termios::tcgetattr(&line).unwrap();
    modes.make_raw();
    rustix::termios::tcsetattr(&line, rustix::termios::OptionalActions::Now, &modes).unwrap();
    let mut command = connect(&[], &server.addr(0).to_string());
    let mut child = command
        .stdin(line.try_clone().unwrap())
        .stdout(line.try_clone().unwrap())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    server.wait_log("client connected client=2");
    let mut device = std::fs::File::from(device);
    device.write_all(b"$GPGGA,1\n").unwrap();
    other.expect_line("$GPGGA,1");
    other.send_bytes(b"\x1bc\xff\x01\n");
    let mut got = [0; 5];
    device.read_exact(&mut got).unwrap();
    assert_eq!(got, *b"\x1bc\xff\x01\n");
    child.kill().unwrap();
    child.wait().unwrap();
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
    for (idle, connected) in [(true, 1), (false, 3)] {
        let mut child = connect(&["--listen-only"], &address)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        server.wait_log_count("client connected", connected);
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
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(stderr, format!("{CONNECTED}{address}\n"));
    }
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
    program.wait_output("Connect to server success: ");
    program.wait_output("> ");
    Some(program)
}

/// Types a line and waits for the next prompt: a key that the terminal gets before it is there does
/// what the terminal makes of it, not the editor.
fn enter(person: &mut Program, line: &str) {
    person.type_in(format!("{line}\r").as_bytes());
    // What goes on, such as attempts to connect, may stand between it and the next prompt.
    person.wait_output(&format!("\x1b[J\r> {line}\r\n"));
    person.wait_output("> ");
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
    person.wait_output("\x1b[J\rMessage from client 1: in between\r\n> half a li");
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
fn enter_alone_sends_nothing() {
    let server = Server::start(&["--no-notices"]);
    let mut other = Client::connect(&server);
    let Some(mut person) = person(&[], &server.addr(0).to_string()) else {
        return;
    };
    person.type_in(b"\r\r\r");
    enter(&mut person, "hello");
    other.expect_message(2, "hello");
    person.type_in(b"\x03");
    assert_eq!(person.wait_end().0.code(), Some(0));
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
