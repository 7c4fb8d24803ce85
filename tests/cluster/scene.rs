//! Readers of every format at every node, whose streams are held against each other; and senders.

use std::collections::{HashMap, HashSet};
use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{JSON, RAW_READER, TEXT, greet, say};
use crate::common::nats::ELECTION;
use crate::common::{Address, Client, Server, payload};

const BEGIN: &str = "the scene begins";
const END: &str = "the scene ends";

/// How readers see the stream.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Format {
    Text,
    Json,
    Raw,
}

/// A reader in a thread of its own.
struct Reader {
    format: Format,
    id: u64,
    thread: JoinHandle<Vec<String>>,
}

/// Readers that read all the time, from when all of them are there.
pub(super) struct Scene {
    /// The last is one of `json` at the first node, against which the others are held.
    readers: Vec<Reader>,
}

impl Scene {
    /// So many readers of each format at each node.
    #[track_caller]
    pub(super) fn begin(nodes: &[&Server], each: usize) -> Scene {
        let (mut watcher, _) = greet(nodes[0], "role=subscribe");
        let mut clients = Vec::new();
        for server in nodes {
            for _ in 0..each {
                let text = Client::introduced(server.addr(TEXT), "role=subscribe").0;
                clients.push((Format::Text, text));
                clients.push((Format::Json, greet(server, "role=subscribe").0));
                let raw = Client::connect_to(server, RAW_READER);
                clients.push((Format::Raw, raw));
            }
        }
        // The stream behind the notice of the last of them is the same for all.
        let mut missing: HashSet<u64> = clients.iter().map(|(_, client)| client.id()).collect();
        assert_eq!(missing.len(), clients.len(), "ids given twice");
        while !missing.is_empty() {
            let event = watcher.read_json();
            if event["event"] == "connect" {
                missing.remove(&event["client"].as_u64().expect("an id"));
            }
        }
        clients.push((Format::Json, watcher));
        let reader = |(format, client): (Format, Client)| Reader {
            format,
            id: client.id(),
            // As patient as who sends.
            thread: std::thread::spawn(move || read(client.patient_for(ELECTION))),
        };
        let readers = clients.into_iter().map(reader).collect();
        say(nodes[0], format!("{BEGIN}\n"));
        fence(nodes[0]);
        Scene { readers }
    }

    /// Ends it by a line that is said at this node. All readers have seen the same, less what is about themselves;
    /// it is returned.
    #[track_caller]
    pub(super) fn end(self, at: &Server) -> Seen {
        say(at, format!("{END}\n"));
        let join = |reader: Reader| (reader.format, reader.id, reader.thread.join().ok());
        let mut streams: Vec<_> = self.readers.into_iter().map(join).collect();
        let failed = streams.iter().filter(|(.., lines)| lines.is_none()).count();
        assert_eq!(failed, 0, "readers that failed");
        let all = streams
            .pop()
            .and_then(|(.., lines)| lines)
            .expect("the watcher");
        let events: Vec<Value> = all
            .iter()
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect();
        let readers = streams.iter().map(|(_, id, _)| *id).collect();
        for (format, id, lines) in streams {
            let is_own = |event: &Value| event["client"] == id;
            let as_seen = events.iter().zip(&all).filter(|(event, _)| !is_own(event));
            let wanted: Vec<String> = match format {
                Format::Json => as_seen.map(|(_, line)| line.clone()).collect(),
                Format::Text => as_seen.filter_map(|(event, _)| as_text(event)).collect(),
                Format::Raw => as_seen.filter_map(|(event, _)| as_raw(event)).collect(),
            };
            assert_same(
                &format!("{format:?} reader {id}"),
                &wanted,
                &lines.expect("all have"),
            );
        }
        let seen = Seen { events, readers };
        seen.is_in_turn();
        seen
    }
}

/// Reads to the end of the scene, and returns what is in it.
fn read(mut client: Client) -> Vec<String> {
    let is = |line: &str, what: &str| line.trim_end_matches(['"', '}']).ends_with(what);
    while !is(&client.read_line(), BEGIN) {}
    let mut lines = Vec::new();
    loop {
        let line = client.read_line();
        if is(&line, END) {
            return lines;
        }
        lines.push(line);
    }
}

#[track_caller]
fn assert_same(who: &str, one: &[String], other: &[String]) {
    let differ = one.iter().zip(other).position(|(one, other)| one != other);
    let at = differ.unwrap_or(one.len().min(other.len()));
    let around = |lines: &[String]| lines[at.saturating_sub(3)..lines.len().min(at + 4)].to_vec();
    assert!(
        differ.is_none() && one.len() == other.len(),
        "{who}: streams of {} and {} lines differ at {at}: {:#?} and {:#?}",
        one.len(),
        other.len(),
        around(one),
        around(other)
    );
}

fn as_text(event: &Value) -> Option<String> {
    let client = &event["client"];
    let word = |key: &str| event[key].as_str().expect("a string").to_owned();
    Some(match event["event"].as_str().expect("an event") {
        "connect" => format!("New client connected: {client}"),
        "disconnect" => format!("Client disconnected: {client}"),
        "message" => format!("Message from client {client}: {}", word("data")),
        "skip" => format!("Skipped {} messages", event["count"]),
        _ => panic!("not of a stream: {event}"),
    })
}

fn as_raw(event: &Value) -> Option<String> {
    Some(event["data"].as_str()?.to_owned())
}

/// What all readers of a scene saw.
pub(super) struct Seen {
    pub(super) events: Vec<Value>,
    readers: Vec<u64>,
}

impl Seen {
    /// Numbers go on without a gap.
    #[track_caller]
    pub(super) fn is_gapless(&self) -> &Seen {
        for pair in self.events.windows(2) {
            let (one, next) = (pair[0]["seq"].as_u64(), pair[1]["seq"].as_u64());
            assert_eq!(one.map(|seq| seq + 1), next, "{pair:?}");
        }
        self
    }

    /// A client comes and leaves in turn, and says nothing once it has left.
    #[track_caller]
    fn is_in_turn(&self) {
        let mut notices = HashMap::new();
        for event in &self.events {
            let client = event["client"].as_u64();
            let what = event["event"].as_str().expect("an event");
            if what == "skip" {
                notices.clear();
            }
            let before = match what {
                "connect" | "disconnect" => notices.insert(client, what),
                _ => notices.get(&client).copied(),
            };
            let is_in_turn = before.is_none_or(|it| (it == "connect") == (what != "connect"));
            assert!(is_in_turn, "{event}");
        }
    }

    /// Nobody was told that a reader, which is there all the time, came or left.
    #[track_caller]
    pub(super) fn nobody_left(&self) -> &Seen {
        for id in &self.readers {
            assert_eq!(self.notices(*id), (0, 0), "client {id}");
        }
        self
    }

    /// The numbered lines of a sender.
    pub(super) fn of(&self, sender: &str) -> Vec<u64> {
        let prefix = format!("{sender} ");
        let lines = self
            .events
            .iter()
            .filter_map(|event| event["data"].as_str());
        lines
            .filter_map(|line| {
                let (number, _) = line.strip_prefix(&prefix)?.split_once(' ')?;
                Some(number.parse().expect("a number"))
            })
            .collect()
    }

    /// All of so many numbered lines of a sender, each once and in order.
    #[track_caller]
    pub(super) fn has_all(&self, sender: &str, count: u64) -> &Seen {
        let numbers = self.of(sender);
        let wrong = numbers.iter().zip(1..).position(|(n, wanted)| *n != wanted);
        if let Some(at) = wrong {
            let around = &numbers[at.saturating_sub(3)..numbers.len().min(at + 4)];
            panic!("line {} of {sender} is not: {around:?}", at + 1);
        }
        assert_eq!(numbers.len() as u64, count, "lines of {sender}");
        self
    }

    /// How often it is said that this client came, and that it left.
    pub(super) fn notices(&self, client: u64) -> (usize, usize) {
        let count = |word| {
            let is = |event: &&Value| event["event"] == word && event["client"] == client;
            self.events.iter().filter(is).count()
        };
        (count("connect"), count("disconnect"))
    }
}

/// A numbered line of a sender.
pub(super) fn line(sender: &str, number: u64) -> String {
    format!("{sender} {}", payload(number))
}

/// Numbered lines of a sender, as bytes.
pub(super) fn lines(sender: &str, numbers: impl IntoIterator<Item = u64>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for number in numbers {
        bytes.extend_from_slice(line(sender, number).as_bytes());
        bytes.push(b'\n');
    }
    bytes
}

/// The socket address of a listener.
pub(super) fn socket(server: &Server, listener: usize) -> SocketAddr {
    match server.addr(listener) {
        Address::Tcp(address) => *address,
        Address::Unix(_) => unreachable!("all are TCP"),
    }
}

/// A sender in a session, which goes on where it is told to over any number of connections.
pub(super) struct Publisher {
    pub(super) name: String,
    /// Lines that are acknowledged.
    pub(super) acked: u64,
    /// Lines that it has sent, some of them perhaps for nothing.
    sent: u64,
    /// How often it came in.
    pub(super) connections: usize,
    /// How often it came in and was closed before it was through.
    pub(super) breaks: usize,
    /// Lines sent at a time, and the most that are sent and not acknowledged.
    pub(super) chunk: u64,
    /// After so many lines it closes its connection with a reset.
    pub(super) breaks_after: Option<u64>,
    /// Time between two chunks: a sender that is there all the time, not one that is fast.
    pub(super) pace: Duration,
}

impl Publisher {
    pub(super) fn new(name: &str) -> Publisher {
        Publisher {
            name: name.to_owned(),
            acked: 0,
            sent: 0,
            connections: 0,
            breaks: 0,
            chunk: 50,
            breaks_after: None,
            pace: Duration::ZERO,
        }
    }

    /// Publishes up to this line, at the node that this says each time it has to connect.
    #[track_caller]
    pub(super) fn publish(&mut self, to: u64, mut at: impl FnMut() -> SocketAddr) {
        let deadline = Instant::now() + ELECTION;
        while self.acked < to {
            assert!(
                Instant::now() < deadline,
                "{} is at {} of {to}",
                self.name,
                self.acked
            );
            let before = self.connections;
            if self.connected(to, at(), deadline).is_err() {
                self.breaks += self.connections - before;
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }

    /// One connection, to its end.
    fn connected(&mut self, to: u64, at: SocketAddr, deadline: Instant) -> std::io::Result<()> {
        let mut socket = TcpStream::connect_timeout(&at, Duration::from_secs(1))?;
        socket.set_read_timeout(Some(Duration::from_millis(500)))?;
        let mut reader = BufReader::new(socket.try_clone()?);
        writeln!(socket, "LINEHUB/1 role=publish session={} ack", self.name)?;
        let answer = next(&mut reader, deadline)?;
        let taken = answer["taken"].as_u64().ok_or(ErrorKind::InvalidData)?;
        self.connections += 1;
        assert!(
            taken >= self.acked,
            "{}: {taken} were taken after {}",
            self.name,
            self.acked
        );
        assert!(
            taken <= self.sent,
            "{}: {taken} were taken of {}",
            self.name,
            self.sent
        );
        self.acked = taken;
        let mut sent = taken;
        let mut left = self.breaks_after;
        while self.acked < to {
            if sent < to && sent - self.acked < 4 * self.chunk {
                let end = to.min(sent + self.chunk);
                self.sent = self.sent.max(end);
                socket.write_all(&lines(&self.name, sent + 1..=end))?;
                if let Some(left) = &mut left {
                    *left = left.saturating_sub(end - sent);
                    if *left == 0 {
                        let socket = socket2::Socket::from(socket);
                        socket.set_linger(Some(Duration::ZERO))?;
                        return Ok(());
                    }
                }
                sent = end;
                std::thread::sleep(self.pace);
                continue;
            }
            let ack = next(&mut reader, deadline)?;
            let taken = ack["taken"].as_u64().ok_or(ErrorKind::InvalidData)?;
            assert!(
                taken > self.acked && taken <= sent,
                "{}: {ack} after {}",
                self.name,
                self.acked
            );
            self.acked = taken;
        }
        Ok(())
    }
}

/// The next line in `json`, or the end: of the connection, or of patience.
fn next(reader: &mut BufReader<TcpStream>, deadline: Instant) -> std::io::Result<Value> {
    let mut line = String::new();
    loop {
        match reader.read_line(&mut line) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(_) if line.ends_with('\n') => return Ok(serde_json::from_str(&line)?),
            Ok(_) => return Err(ErrorKind::UnexpectedEof.into()),
            Err(e) if e.kind() == ErrorKind::WouldBlock && Instant::now() < deadline => {}
            Err(e) => return Err(e),
        }
    }
}

/// Where publishers connect: `json` with a hello.
pub(super) fn publish_at(server: &Server) -> SocketAddr {
    socket(server, JSON)
}

/// Publishes so many numbered lines through a client without a session, which leaves when they are taken.
#[track_caller]
pub(super) fn flood(server: &Server, name: &str, count: u64) {
    let mut client = Client::dial(server.addr(super::RAW));
    client.send_line("LINEHUB/1 role=publish");
    for first in (1..=count).step_by(100) {
        client.send_bytes(&lines(name, first..=count.min(first + 99)));
    }
    client.finish();
    assert_eq!(client.lines_to_eof(), [""; 0], "it was closed");
    fence(server);
}

/// Waits until all that this node has taken is in the stream: what another says now comes behind it.
#[track_caller]
pub(super) fn fence(server: &Server) {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let name = format!("fence-{}", NEXT.fetch_add(1, Relaxed));
    Publisher::new(&name).publish(1, || publish_at(server));
}
