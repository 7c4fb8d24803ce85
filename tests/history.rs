//! What a channel keeps in memory: for newcomers, for who comes back, for who is behind, and for sessions.

mod catch_up;
mod memory;
mod newcomers;
mod reload;
mod resume;
mod sessions;

use serde_json::{Value, json};

use crate::common::{Client, Server};

const LISTENERS: [&str; 4] = [
    "--listen=127.0.0.1:0,hello",
    "--listen=127.0.0.1:0,hello,format=json",
    "--listen=127.0.0.1:0,hello,format=raw",
    "--listen=127.0.0.1:0",
];
const TEXT: usize = 0;
const JSON: usize = 1;
const RAW: usize = 2;
const PLAIN: usize = 3;

/// A daemon whose listeners, in this order, want a hello: text, json, raw; and a plain one, of text.
#[track_caller]
fn start(args: &[&str]) -> Server {
    Server::start(&[args, &LISTENERS].concat())
}

/// A client that sends all this and leaves, once it is published.
#[track_caller]
fn said(server: &Server, lines: impl AsRef<[u8]>) {
    let mut client = Client::dial(server.addr(PLAIN));
    client.send_bytes(lines.as_ref());
    client.finish();
    client.lines_to_eof();
}

/// A client of `json` that asks for this, and the answer.
#[track_caller]
fn greet(server: &Server, words: &str) -> (Client, Value) {
    let mut client = Client::dial(server.addr(JSON));
    client.send_line(&format!("LINEHUB/1 {words}"));
    let answer = client.read_json();
    assert_eq!(answer["event"], "hello", "{answer}");
    (client, answer)
}

/// Nothing more comes to a client of `json` before what is said now.
#[track_caller]
fn nothing_else_comes(server: &Server, client: &mut Client) {
    let mut sender = Client::dial(server.addr(RAW));
    sender.send_line("LINEHUB/1 role=publish");
    sender.send_line("marker");
    let mut event = client.read_json();
    if event["event"] == "connect" {
        event = client.read_json();
    }
    assert_eq!(event["data"], "marker");
}

/// What a message is in `json`, as far as it says what was sent.
fn data(event: &Value) -> &str {
    assert_eq!(event["event"], "message", "{event}");
    event["data"].as_str().expect("data")
}

/// Messages and notices in `json`, as many as there are of these numbers, each once and in order.
#[track_caller]
fn expect_numbers(client: &mut Client, numbers: impl IntoIterator<Item = u64>) -> Vec<Value> {
    let event = |number| {
        let event = client.read_json();
        assert_eq!(event["seq"], json!(number), "{event}");
        event
    };
    numbers.into_iter().map(event).collect()
}
