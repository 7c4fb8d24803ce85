use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use crate::common::{
    Address, BINARY, Client, Exit, Flood, PATIENCE, Program, Server, eventually, payload,
};

fn connect(args: &[&str], address: &str) -> Command {
    let mut command = Command::new(BINARY);
    command.arg("connect").args(args).arg(address);
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

/// A connection whose hello was read.
struct Caller {
    stream: BufReader<TcpStream>,
    hello: String,
}

impl Puppet {
    fn new() -> Puppet {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        Puppet { listener, address }
    }

    fn accept(&self) -> Caller {
        let (stream, _) = self.listener.accept().unwrap();
        Caller::greet(stream)
    }
}

impl Caller {
    fn greet(stream: TcpStream) -> Caller {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut caller = Caller {
            stream: BufReader::new(stream),
            hello: String::new(),
        };
        caller.hello = caller.read_line().expect("a hello");
        caller
    }

    /// The next whole line; `None` when the connection has ended.
    fn read_line(&mut self) -> Option<String> {
        let mut line = String::new();
        match self.stream.read_line(&mut line) {
            Ok(_) => line.strip_suffix('\n').map(str::to_owned),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => None,
            Err(error) => panic!("{error}"),
        }
    }

    fn write(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).unwrap();
    }

    /// Says no more. What comes until the end is dropped, so that nothing that was said is lost to a reset.
    fn close(mut self) {
        let _ = self.stream.get_mut().shutdown(Shutdown::Write);
        let _ = self.stream.read_to_end(&mut Vec::new());
    }
}

fn answer(seq: u64, more: &str) -> String {
    format!(
        "{{\"event\":\"hello\",\"client\":7,\"channel\":\"main\",\"epoch\":\"5f3a9c11\",\"seq\":{seq}{more}}}\n"
    )
}

fn message(seq: u64) -> String {
    let data = payload(seq);
    format!("{{\"event\":\"message\",\"seq\":{seq},\"client\":1,\"data\":\"{data}\"}}\n")
}

/// Runs something for each of these numbers, several at a time: most of what they do is to wait.
fn for_each(numbers: std::ops::RangeInclusive<usize>, each: impl Fn(usize) + Sync) {
    let numbers = Mutex::new(numbers);
    thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                loop {
                    let number = numbers.lock().unwrap().next();
                    let Some(number) = number else { return };
                    each(number);
                }
            });
        }
    });
}

#[test]
fn reader_goes_on_behind_the_last_whole_line_wherever_the_stream_is_cut() {
    const LINES: u64 = 4;
    let stream = answer(0, "") + &(1..=LINES).map(message).collect::<String>();
    let lines = (1..=LINES).map(|n| payload(n) + "\n").collect::<String>();
    for_each(0..=stream.len(), |cut| {
        let puppet = Puppet::new();
        let args = [
            "-q",
            "--listen-only",
            "--resume",
            "--format=raw",
            "--history=9",
        ];
        let mut reader = Program::spawn(&mut connect(&args, &puppet.address));
        let mut first = puppet.accept();
        assert_eq!(first.hello, "LINEHUB/1 format=json history=9");
        first.write(&stream.as_bytes()[..cut]);
        first.close();
        let mut second = puppet.accept();
        let whole = stream[..cut].matches('\n').count() as u64;
        let (wanted, next) = match whole.checked_sub(1) {
            None => ("LINEHUB/1 format=json history=9".to_owned(), 1),
            Some(seq) => (
                format!("LINEHUB/1 format=json since=5f3a9c11:{seq}"),
                seq + 1,
            ),
        };
        assert_eq!(second.hello, wanted, "cut at {cut}");
        second.write(answer(next - 1, ",\"recovered\":true").as_bytes());
        second.write((next..=LINES).map(message).collect::<String>().as_bytes());
        reader.wait_output(&payload(LINES));
        reader.signal(Signal::TERM);
        let output = String::from_utf8(reader.wait_end().1).unwrap();
        assert_eq!(output, lines, "cut at {cut}");
    });
}

#[test]
fn own_lines_do_not_come_back_after_a_reconnect() {
    let server = Server::start(&["--listen=127.0.0.1:0,hello", "--history=1MiB"]);
    let Address::Tcp(address) = server.addr(0) else {
        panic!("the listener is TCP");
    };
    let mut other = Client::introduced(server.addr(0), "").0;
    // The answer comes through, and nothing else: whatever it sends is still to come when it is back.
    let network = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = network.local_addr().unwrap().to_string();
    let mut both = Program::spawn(&mut connect(&["-q", "--resume", "--retry"], &at));
    let mut caller = Caller::greet(network.accept().unwrap().0);
    let mut upstream = TcpStream::connect(address).unwrap();
    writeln!(upstream, "{}", caller.hello).unwrap();
    let mut answer = String::new();
    let mut upstream = BufReader::new(upstream);
    upstream.read_line(&mut answer).unwrap();
    caller.write(answer.as_bytes());
    both.type_in(b"mine\n");
    let line = caller.read_line().unwrap();
    writeln!(upstream.get_mut(), "{line}").unwrap();
    while !other.read_line().ends_with("mine") {}
    other.send_line("of another");
    drop((upstream, caller));
    let caller = network.accept().unwrap().0;
    let network = thread::spawn({
        let (address, caller) = (*address, caller);
        move || {
            let upstream = TcpStream::connect(address).unwrap();
            let mut back = (upstream.try_clone().unwrap(), caller.try_clone().unwrap());
            thread::spawn(move || std::io::copy(&mut back.0, &mut back.1));
            let _ = std::io::copy(&mut &caller, &mut &upstream);
        }
    });
    both.wait_output("of another");
    both.type_in(b"mine again\n");
    while !other.read_line().ends_with("mine again") {}
    other.send_line("last");
    both.wait_output("last");
    both.signal(Signal::TERM);
    let output = String::from_utf8(both.wait_end().1).unwrap();
    assert!(!output.contains("mine"), "{output}");
    network.join().unwrap();
}

#[test]
fn reader_says_what_is_missed_even_if_it_is_to_be_quiet() {
    let puppet = Puppet::new();
    let mut command = connect(&["-q", "--listen-only", "--resume"], &puppet.address);
    let mut reader = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = BufReader::new(reader.stdout.take().unwrap()).lines();
    let mut stderr = BufReader::new(reader.stderr.take().unwrap()).lines();
    let mut first = puppet.accept();
    first.write(answer(4, "").as_bytes());
    first.write(message(5).as_bytes());
    first.close();
    let mut second = puppet.accept();
    assert_eq!(second.hello, "LINEHUB/1 format=json since=5f3a9c11:5");
    second.write(answer(9, ",\"recovered\":false").as_bytes());
    second.write(b"{\"event\":\"skip\",\"count\":4}\n");
    second.write(message(10).as_bytes());
    for n in [5, 10] {
        let line = stdout.next().unwrap().unwrap();
        assert_eq!(line, format!("Message from client 1: {}", payload(n)));
    }
    for wanted in [
        "linehub: the server does not have all that was missed: what comes next is not what came next",
        "linehub: 4 messages are missed",
    ] {
        assert_eq!(stderr.next().unwrap().unwrap(), wanted);
    }
    reader.kill().unwrap();
    reader.wait().unwrap();
}

#[test]
fn reader_needs_a_listener_with_hello_and_says_so() {
    const WHY: &str = "linehub: the server has not answered the hello: --resume needs a listener with \
                       `hello`, and others may have got it as a line\n";
    for format in ["text", "json", "raw"] {
        let server = Server::start(&["--format", format]);
        let mut other = Client::connect(&server);
        let mut command = connect(
            &["-q", "--listen-only", "--resume"],
            &server.addr(0).to_string(),
        );
        let mut reader = Program::spawn(command.stderr(Stdio::inherit()));
        server.wait_log("client connected client=2");
        other.send_line("hello?");
        let (status, output) = reader.wait_end();
        assert_eq!((status.code(), output.len()), (Some(1), 0), "{format}");
    }
    let server = Server::start(&["--echo"]);
    let exit = run(&["-q", "--resume"], &server.addr(0).to_string(), b"");
    assert_eq!((exit.code, &*exit.stderr), (Some(1), WHY));
    assert_eq!(exit.stdout, "");
}

#[test]
fn state_of_another_server_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("place");
    let state = state.to_str().unwrap();
    let puppet = Puppet::new();
    let args = ["-q", "--listen-only", "--resume", "--state", state];
    let mut reader = Program::spawn(&mut connect(&args, &puppet.address));
    let mut caller = puppet.accept();
    caller.write(answer(4, "").as_bytes());
    caller.write(message(5).as_bytes());
    reader.wait_output(&payload(5));
    eventually("the state is written", || {
        fs::read_to_string(state).unwrap().contains("\"seq\":5")
    });

    // One at a time goes by it.
    let exit = run(&args, &puppet.address, b"");
    assert_eq!(exit.code, Some(1));
    assert!(
        exit.stderr.ends_with(": another process goes by it\n"),
        "{}",
        exit.stderr
    );
    reader.signal(Signal::KILL);
    reader.wait_end();

    let exit = run(&args, "127.0.0.1:1", b"");
    assert_eq!(exit.code, Some(1));
    let wanted = format!(
        "has a place of the server {}, not 127.0.0.1:1;",
        puppet.address
    );
    assert!(exit.stderr.contains(&wanted), "{}", exit.stderr);
    let exit = run(
        &[&args[..], &["--channel=ais"]].concat(),
        &puppet.address,
        b"",
    );
    assert!(
        exit.stderr
            .contains("has a place of channel main, not ais;"),
        "{}",
        exit.stderr
    );
    drop(caller);

    // The listener's channel is another one now.
    let mut reader = Program::spawn(&mut connect(&args, &puppet.address));
    let mut caller = puppet.accept();
    assert_eq!(caller.hello, "LINEHUB/1 format=json since=5f3a9c11:5");
    caller.write(answer(5, "").replace("main", "other").as_bytes());
    assert_eq!(reader.wait_end().0.code(), Some(1));
    assert!(
        fs::read_to_string(state)
            .unwrap()
            .contains("\"channel\":\"main\"")
    );
}

/// What a server with sessions has: how many lines, and which.
#[derive(Default)]
struct Session {
    published: Vec<String>,
}

impl Session {
    /// Serves a connection until it ends, or until so many bytes were said to it. Acknowledges every
    /// `step` lines, and at the end of what is wanted.
    fn serve(&mut self, mut caller: Caller, cut: usize, step: usize, wanted: usize) {
        let mut left = cut;
        let mut say = |caller: &mut Caller, line: String| {
            let part = left.min(line.len());
            caller.write(&line.as_bytes()[..part]);
            left -= part;
            left > 0
        };
        let taken = format!(",\"taken\":{}", self.published.len());
        let mut goes_on = say(&mut caller, answer(0, &taken));
        while goes_on && let Some(line) = caller.read_line() {
            self.published.push(line);
            let taken = self.published.len();
            if taken.is_multiple_of(step) || taken == wanted {
                let ack = format!("{{\"event\":\"ack\",\"taken\":{taken}}}\n");
                goes_on = say(&mut caller, ack);
            }
        }
        caller.close();
    }
}

#[test]
fn sender_is_in_the_stream_once_wherever_answers_are_cut() {
    const LINES: usize = 7;
    let lines = (1..=LINES as u64).map(payload).collect::<Vec<_>>();
    // The last line ends without LF.
    let input = lines.join("\n");
    // An acknowledgement for each line, for every third, and for the last alone.
    for (step, said) in [(1, 330), (3, 200), (100, 150)] {
        for_each(0..=said, |cut| {
            let puppet = Puppet::new();
            let args = ["--send-only", "--session=s"];
            let mut command = assert_cmd::Command::from_std(connect(&args, &puppet.address));
            command.write_stdin(input.as_bytes()).timeout(PATIENCE);
            let mut session = Session::default();
            thread::scope(|scope| {
                let sender = scope.spawn(move || Exit::of(&mut command));
                let caller = puppet.accept();
                assert_eq!(
                    caller.hello,
                    "LINEHUB/1 session=s ack format=json role=publish"
                );
                session.serve(caller, cut, step, LINES);
                // It ends by itself once it has heard of the last line, and comes again until then.
                while !sender.is_finished() {
                    puppet.listener.set_nonblocking(true).unwrap();
                    if let Ok((stream, _)) = puppet.listener.accept() {
                        puppet.listener.set_nonblocking(false).unwrap();
                        stream.set_nonblocking(false).unwrap();
                        session.serve(Caller::greet(stream), usize::MAX, step, LINES);
                    }
                    thread::sleep(Duration::from_millis(1));
                }
                let exit = sender.join().unwrap();
                assert_eq!(exit.code, Some(0), "{}", exit.stderr);
                let said = "linehub: the server has 7 lines of session s: all\n";
                assert!(exit.stderr.ends_with(said), "{}", exit.stderr);
            });
            assert_eq!(session.published, lines, "cut at {cut}, step {step}");
        });
    }
}

#[test]
fn sender_ends_where_trying_again_cannot_help() {
    let error = |reason: &str| {
        format!("{{\"event\":\"error\",\"reason\":\"{reason}\",\"detail\":\"because\"}}\n")
    };
    let closed = "the server closed the connection: because";
    let taken = |taken: u64| answer(0, &format!(",\"taken\":{taken}"));
    let has = |lines: &str| format!("; the server has {lines} of session s\n");
    for (said, why) in [
        (error("unauthorized"), format!("{closed}\n")),
        (error("bad_hello"), format!("{closed}\n")),
        (error("no_channel"), format!("{closed}\n")),
        (taken(1) + &error("session_taken"), closed.to_owned() + &has("1 line")),
        (taken(0) + &error("line_too_long"), closed.to_owned() + &has("0 lines")),
        (
            taken(4),
            "the server has 4 lines of the session, and standard input has 3: it is not the one that \
             the session began with; the server has 4 lines of session s\n"
                .to_owned(),
        ),
        (
            answer(0, ""),
            "the server says nothing of the session in its answer\n".to_owned(),
        ),
        (
            "New client connected: 2\n".to_owned(),
            "the server has not answered the hello: --session needs a listener with `hello`, and \
             others may have got it as a line; no more was sent\n"
                .to_owned(),
        ),
        (
            taken(2) + "{\"event\":\"ack\",\"taken\":1}\n",
            "the server has 1 lines of the session and had 2: they have left its history, and nothing \
             says any more what was published; the server has 2 lines of session s\n"
                .to_owned(),
        ),
        (
            taken(0) + "{\"event\":\"ack\",\"taken\":4}\n",
            "the server has acknowledged lines that were not sent: it ends them otherwise, and a \
             session needs a listener with line-end=lf; the server has 0 lines of session s\n"
                .to_owned(),
        ),
    ] {
        let puppet = Puppet::new();
        thread::scope(|scope| {
            let sender = scope.spawn(|| run(&["-q", "--send-only", "--session=s"], &puppet.address, b"1\n2\n3"));
            let mut caller = puppet.accept();
            caller.write(said.as_bytes());
            caller.close();
            let exit = sender.join().unwrap();
            assert_eq!((exit.code, exit.stderr), (Some(1), format!("linehub: {why}")), "{said}");
        });
    }
}

#[test]
fn what_is_kept_and_what_comes_are_printed_as_a_client_of_the_format_gets_them() {
    const LINES: &[u8] =
        b"hello\n\n\x1b[31mred\n\xff\xfe \x80\ntab\t \"quoted\" \\ \xc3\xa4\na\rb\n";
    let server = Server::start(&["--listen=127.0.0.1:0,hello", "--history=1MiB"]);
    let address = server.addr(0);
    let mut sender = Client::introduced(address, "role=publish").0;
    for format in ["text", "json", "raw"] {
        // Kept before they come.
        sender.send_line("begin");
        sender.send_bytes(LINES);
        let kept = format!("kept in {format}");
        sender.send_line(&kept);
        // Whoever sends next has seen it come, or it may come behind that.
        let mut other = Client::introduced(address, "history=1").0;
        other.lines_until(&format!("Message from client {}: {kept}", sender.id()));
        other.send_line("known");
        let printed = |args: &[&str]| {
            let args = [&["-q", "--listen-only", "--history=8"], args].concat();
            let mut printed = connect(&args, &address.to_string());
            printed.args(["--format", format]);
            let printed = Program::spawn(&mut printed);
            printed.wait_output("known");
            printed
        };
        let mut both = [printed(&[]), printed(&["--resume"])];
        // Notices and lines of another one as they happen.
        other.send_bytes(LINES);
        let left = format!("client disconnected client={}", other.id());
        drop(other);
        server.wait_log(&left);
        sender.send_line(&format!("end of {format}"));
        let end = format!("end of {format}");
        let outputs = both.each_mut().map(|program| {
            program.wait_output(&end);
            program.signal(Signal::TERM);
            let output = program.wait_end().1;
            // Without the answer, and what one sees of the other.
            let whole = memchr::memmem::find(&output, end.as_bytes()).unwrap();
            let lines = output[..whole].split_inclusive(|byte| *byte == b'\n');
            let is_seen = |line: &&[u8]| {
                let line = String::from_utf8_lossy(line);
                ![
                    "Hello client",
                    "\"event\":\"hello\"",
                    "New client",
                    "\"event\":\"connect\"",
                ]
                .iter()
                .any(|begin| line.contains(begin))
            };
            lines.filter(is_seen).collect::<Vec<_>>().concat()
        });
        let [plain, resumed] = outputs.map(|output| String::from_utf8_lossy(&output).into_owned());
        assert_eq!(resumed, plain, "{format}");
        assert!(plain.contains("known") && plain.contains("tab"), "{plain}");
    }
}

/// Ends a process as a crash of it would.
fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Time until something is killed: from before it has done anything to after it has done much.
fn pause_at_most(millis: u64) {
    thread::sleep(Duration::from_micros(fastrand::u64(0..millis * 1000)));
}

/// How often a test kills something. A longer run is for once in a while.
fn rounds() -> usize {
    let rounds = std::env::var("TEST_ROUNDS").ok();
    rounds.map_or(20, |rounds| rounds.parse().expect("a number"))
}

/// What a reader leaves on disk: the lines, and its place.
struct Record {
    state: PathBuf,
    lines: PathBuf,
}

impl Record {
    fn in_directory(dir: &Path) -> Record {
        let [state, lines] = ["place", "lines"].map(|name| dir.join(name));
        fs::write(&lines, "before\n").unwrap();
        Record { state, lines }
    }

    /// A reader that goes on with it.
    fn start(&self, address: &str) -> Child {
        let mut options = OpenOptions::new();
        let mut command = connect(
            &["-q", "--listen-only", "--resume", "--format=raw"],
            address,
        );
        command
            .arg("--state")
            .arg(&self.state)
            .stdin(Stdio::null())
            .stdout(options.append(true).open(&self.lines).unwrap())
            .spawn()
            .unwrap()
    }

    fn wait_begun(&self) {
        eventually("the reader has a place", || {
            fs::read_to_string(&self.state).is_ok_and(|state| state.contains("epoch"))
        });
    }

    /// All lines of the flood, and the line `end`.
    #[track_caller]
    fn expect_all(&self, flood: &Flood) {
        eventually("the last line is printed", || {
            fs::read(&self.lines).unwrap().ends_with(b"\nend\n")
        });
        let wanted = Flood::default().lines(flood.sent);
        let wanted = [b"before\n", &wanted[..], b"end\n"].concat();
        let printed = fs::read(&self.lines).unwrap();
        if let Some(at) = (0..printed.len()).find(|at| printed.get(*at) != wanted.get(*at)) {
            let around = |bytes: &[u8]| {
                let around = &bytes[at.saturating_sub(200)..bytes.len().min(at + 200)];
                String::from_utf8_lossy(around).into_owned()
            };
            panic!("at {at}: {}\nnot {}", around(&printed), around(&wanted));
        }
        assert_eq!(printed.len(), wanted.len());
    }
}

#[test]
fn reader_killed_at_random_misses_and_doubles_nothing() {
    let server = Server::start(&[
        "--listen=127.0.0.1:0,hello",
        "--listen=127.0.0.1:0",
        "--history=1GiB",
    ]);
    let address = server.addr(0).to_string();
    let dir = tempfile::tempdir().unwrap();
    let record = Record::in_directory(dir.path());
    let mut reader = record.start(&address);
    record.wait_begun();

    let mut sender = Client::dial(server.addr(1));
    let mut flood = Flood::default();
    let length = || fs::metadata(&record.lines).unwrap().len();
    for _ in 0..rounds() {
        // Lines before, while and after it is killed, from a few to more than one read.
        let before = length();
        for _ in 0..5 {
            flood.send(&mut sender, fastrand::u64(1..2000));
            pause_at_most(10);
        }
        // Often before it has done anything, and often amid what it does.
        let older = fs::read(&record.state).unwrap();
        if fastrand::bool() {
            eventually("something is printed", || length() > before);
            pause_at_most(5);
        }
        kill(reader);
        // As if it had been killed before it wrote this, but after all that it printed.
        if fastrand::bool() {
            fs::write(&record.state, older).unwrap();
        }
        flood.send(&mut sender, fastrand::u64(0..100));
        reader = record.start(&address);
    }
    sender.send_line("end");
    record.expect_all(&flood);
    kill(reader);
}

/// A way to a server on which connections are cut: all at once, or each behind a random byte.
struct Network {
    address: String,
    connections: Arc<Mutex<Vec<TcpStream>>>,
    /// Whether new connections are left alone.
    calm: Arc<AtomicBool>,
}

impl Network {
    fn before(server: &str) -> Network {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let network = Network {
            address: listener.local_addr().unwrap().to_string(),
            connections: Arc::default(),
            calm: Arc::default(),
        };
        let (connections, calm) = (network.connections.clone(), network.calm.clone());
        let server = server.to_owned();
        // Until the test's process ends.
        thread::spawn(move || {
            for client in listener.incoming() {
                let client = client.unwrap();
                let Ok(server) = TcpStream::connect(&server) else {
                    continue;
                };
                let both = [&client, &server].map(|stream| stream.try_clone().unwrap());
                connections.lock().unwrap().extend(both);
                for (from, to) in [(&client, &server), (&server, &client)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let left = match calm.load(Ordering::Relaxed) {
                        true => usize::MAX,
                        false => fastrand::usize(0..300_000),
                    };
                    thread::spawn(move || Network::carry(from, to, left));
                }
            }
        });
        network
    }

    fn carry(mut from: TcpStream, mut to: TcpStream, mut left: usize) {
        let mut bytes = [0; 4096];
        while left > 0 {
            let room = bytes.len().min(left);
            let read = from.read(&mut bytes[..room]).unwrap_or(0);
            if read == 0 || to.write_all(&bytes[..read]).is_err() {
                break;
            }
            left -= read;
            // A slow way: what happens, happens while lines are on it.
            thread::sleep(Duration::from_micros(100));
        }
        for stream in [from, to] {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Cuts all connections.
    fn cut(&self) {
        for stream in self.connections.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

#[test]
fn sender_daemon_network_and_reader_killed_at_random_leave_each_line_in_the_stream_once() {
    const LINES: u64 = 6000;
    let dir = tempfile::tempdir().unwrap();
    let (input, kept) = (dir.path().join("input"), dir.path().join("history"));
    let start = |listen: &str| {
        let listen = format!("--listen={listen},hello");
        let kept = format!("--history-dir={}", kept.display());
        Server::start(&[&listen, "--history=1GiB", &kept, "--no-notices"])
    };
    // An address that no other test is given a port of.
    let mut server = start("127.83.69.86:0");
    let address = server.addr(0).to_string();
    let network = Network::before(&address);
    let record = Record::in_directory(dir.path());
    let mut reader = record.start(&network.address);
    record.wait_begun();
    let mut flood = Flood::default();
    for round in 0..rounds() {
        fs::write(&input, flood.lines(LINES)).unwrap();
        let session = format!("--session=round-{round}");
        let sender = || {
            connect(&["-q", "--send-only", &session], &network.address)
                .stdin(File::open(&input).unwrap())
                .spawn()
                .unwrap()
        };
        let mut sending = sender();
        network.calm.store(fastrand::bool(), Ordering::Relaxed);
        for _ in 0..3 {
            pause_at_most(40);
            match fastrand::u8(0..4) {
                0 => network.cut(),
                1 => {
                    kill(sending);
                    sending = sender();
                }
                2 => {
                    kill(reader);
                    reader = record.start(&network.address);
                }
                _ => {
                    server.signal(Signal::KILL);
                    server.wait_exit(PATIENCE);
                    server = start(&address);
                }
            }
        }
        network.calm.store(true, Ordering::Relaxed);
        let mut status = None;
        eventually("all is acknowledged", || {
            status = sending.try_wait().unwrap();
            status.is_some()
        });
        assert_eq!(status.unwrap().code(), Some(0), "round {round}");
    }
    let exit = run(&["-q", "--send-only", "--session=end"], &address, b"end\n");
    assert_eq!(exit.code, Some(0), "{}", exit.stderr);
    // A new one does not wait as long as it would by now.
    kill(reader);
    let reader = record.start(&network.address);
    record.expect_all(&flood);
    kill(reader);
    // The daemon has what the reader was told.
    let mut kept = Client::dial(server.addr(0));
    kept.send_line("LINEHUB/1 history=1099511627776 format=raw role=subscribe");
    for n in 1..=flood.sent {
        kept.expect_line(&payload(n));
    }
    kept.expect_line("end");
}
