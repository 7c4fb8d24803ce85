//! Channels that several daemons share, through a real nats-server.

mod history;
mod messages;
mod nodes;
mod outages;
mod scene;
mod security;
mod sessions;
mod sharing;
mod start;
mod stream;
mod three_servers;

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::http::{Answer, get};
use crate::common::nats::Nats;
use crate::common::{Client, Launch, Server, eventually};

const LISTENERS: [&str; 5] = [
    "--listen=127.0.0.1:0,hello",
    "--listen=127.0.0.1:0,hello,format=json",
    "--listen=127.0.0.1:0,hello,format=raw",
    "--listen=127.0.0.1:0",
    "--listen=127.0.0.1:0,format=raw,role=subscribe",
];
const TEXT: usize = 0;
const JSON: usize = 1;
const RAW: usize = 2;
const PLAIN: usize = 3;
const RAW_READER: usize = 4;

/// Silence after which the others take a node for gone.
const GONE: Duration = Duration::from_secs(2);

/// A node that has these options, and may wait for NATS still.
fn launch(args: &[&str]) -> Launch {
    let more = ["--history=64MiB", "--admin=127.0.0.1:0"];
    Launch::new(&[&LISTENERS, &more[..], args].concat())
        .env("LINEHUB_NODE_TIMEOUT_MS", &GONE.as_millis().to_string())
        .shared()
}

/// A node of this server, once it serves.
#[track_caller]
fn node(nats: &Nats, args: &[&str]) -> Server {
    let server = launch(&[args, &[&format!("--nats={}", nats.url())]].concat()).start();
    is_ready(&server);
    server
}

/// A node that has these options, once it serves, which takes nobody for gone that is away for some seconds.
#[track_caller]
fn patient_node(args: &[&str]) -> Server {
    let node = launch(args).env("LINEHUB_NODE_TIMEOUT_MS", "30000");
    let server = node.start();
    is_ready(&server);
    server
}

/// So many nodes of this server.
#[track_caller]
fn nodes(nats: &Nats, count: usize, args: &[&str]) -> Vec<Server> {
    (0..count).map(|_| node(nats, args)).collect()
}

/// Waits until a node serves.
#[track_caller]
fn is_ready(server: &Server) {
    let admin = server.admin();
    let mut last = None;
    let deadline = Instant::now() + crate::common::PATIENCE;
    loop {
        let answer = get(&admin, "/readyz");
        if answer.status == 200 {
            return;
        }
        assert!(Instant::now() < deadline, "not ready: {answer:?} {last:?}");
        last = Some(answer.body);
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Waits until a node does not serve, and returns what it says about that.
#[track_caller]
fn is_not_ready(server: &Server) -> Answer {
    let admin = server.admin();
    let mut answer = None;
    eventually("it says that it is not ready", || {
        let now = get(&admin, "/readyz");
        let is_not = now.status == 503;
        answer = Some(now);
        is_not
    });
    answer.expect("an answer")
}

/// The same, and that it names NATS.
#[track_caller]
fn misses_nats(server: &Server) {
    let mut body = String::new();
    eventually("it has started", || {
        body = is_not_ready(server).body.to_lowercase();
        body != "starting\n"
    });
    assert!(body.contains("nats"), "{body}");
}

/// A client of `json` that asks for this, and the answer.
#[track_caller]
fn greet(server: &Server, words: &str) -> (Client, Value) {
    let mut client = Client::dial(server.addr(JSON));
    client.send_line(&format!("LINEHUB/1 {words}"));
    let answer = client.read_json();
    assert_eq!(answer["event"], "hello", "{answer}");
    let id = answer["client"].as_u64().expect("an id");
    (client.numbered(id), answer)
}

/// A client that sends all this and leaves, once it is taken.
#[track_caller]
fn say(server: &Server, lines: impl AsRef<[u8]>) {
    let mut client = Client::dial(server.addr(RAW));
    client.send_line("LINEHUB/1 role=publish");
    client.send_bytes(lines.as_ref());
    client.finish();
    assert_eq!(client.lines_to_eof(), [""; 0]);
}

/// The next message in `json`: notices before it are passed over.
#[track_caller]
fn next_message(client: &mut Client) -> Value {
    loop {
        let event = client.read_json();
        match event["event"].as_str().expect("an event") {
            "message" => return event,
            "connect" | "disconnect" => {}
            _ => panic!("not a message: {event}"),
        }
    }
}

/// What is said at one node comes to this client of `json`, behind what was said before.
#[track_caller]
fn hears(client: &mut Client, from: &Server, line: &str) {
    say(from, format!("{line}\n"));
    while next_message(client)["data"] != line {}
}
