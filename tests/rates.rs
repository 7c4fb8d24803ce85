use std::fs;
use std::path::PathBuf;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::common::{
    Client, Flood, Manager, PATIENCE, Server, eventually, exec, http, marker, restart,
};

/// Short lines, of which one read brings a hundred: more than two minutes' worth at a line a second.
const SHORT_LINES: usize = 1000;

fn short_lines() -> String {
    (0..SHORT_LINES).map(|n| format!("{}\n", n % 10)).collect()
}

#[track_caller]
fn expect_short_lines(reader: &mut Client, sender: u64, from: usize) {
    for n in from..SHORT_LINES {
        reader.expect_message(sender, &(n % 10).to_string());
    }
}

/// What the admin server says of a client.
fn client(server: &Server, id: u64) -> serde_json::Value {
    let answer = http::get_json(&server.admin(), "/clients");
    let clients = answer["clients"].as_array().expect("clients");
    let client = clients.iter().find(|client| client["id"] == id);
    client.cloned().unwrap_or_default()
}

fn wait_throttled(server: &Server, id: u64) {
    eventually("it waits for its rate", || {
        client(server, id)["throttled"] == true
    });
}

/// A daemon with a file that is read again.
struct Reloaded {
    server: Server,
    file: PathBuf,
    _dir: TempDir,
}

impl Reloaded {
    fn start(args: &[&str], text: &str) -> Reloaded {
        let dir = TempDir::new().unwrap();
        let file = dir.path().join("linehub.toml");
        fs::write(&file, text).unwrap();
        let config = format!("--config={}", file.display());
        let args = [args, &["--admin=127.0.0.1:0", "--no-notices", &config]].concat();
        Reloaded {
            server: Server::start(&args),
            file,
            _dir: dir,
        }
    }

    fn reload(&self, text: &str) {
        let before = self.server.count_log("configuration reloaded");
        fs::write(&self.file, text).unwrap();
        self.server.signal(Signal::HUP);
        self.server
            .wait_log_count("configuration reloaded", before + 1);
    }
}

#[test]
fn sender_over_its_rate_is_made_to_wait_and_nothing_is_lost() {
    for rate in ["--rate-lines=3000/s", "--rate-bytes=200KiB/s"] {
        let server = Server::start(&[rate, "--admin=127.0.0.1:0"]);
        let mut reader = Client::connect(&server);
        let mut sender = Client::connect(&server);
        reader.expect_line("New client connected: 2");
        let mut flood = Flood::default();
        flood.send(&mut sender, 6_000);
        sender.send_bytes(b"the rest");
        sender.finish();
        Flood::expect(&mut reader, 2, 1, flood.sent);
        reader.expect_message(2, "the rest");
        reader.expect_line("Client disconnected: 2");
        sender.expect_eof();
        let metrics = http::get(&server.admin(), "/metrics");
        assert!(
            metrics.sample("linehub_reads_throttled_total") > 0.0,
            "{rate}"
        );
    }
}

#[test]
fn nobody_else_notices_a_throttled_sender_and_it_is_not_idle() {
    let server = Server::start(&[
        "--rate-lines=1/s",
        "--idle-timeout=1s",
        "--no-notices",
        "--half-close=keep",
        "--admin=127.0.0.1:0",
    ]);
    let mut throttled = Client::connect(&server);
    throttled.send_bytes(short_lines().as_bytes());
    wait_throttled(&server, 1);
    let idle = [(); 2].map(|()| Client::connect(&server));
    let mut other = Client::connect(&server);
    other.send_line("hello");
    throttled.expect_message(4, "hello");
    for mut idle in idle {
        idle.expect_message(4, "hello");
        idle.expect_line("Error: idle for 1s");
        idle.expect_eof();
    }
    assert_eq!(client(&server, 1)["throttled"], true);
    assert!(client(&server, 1)["lines_in"].as_u64().unwrap() < SHORT_LINES as u64);
    // Its end is noticed even so, when it breaks the connection off.
    throttled.reset();
}

#[test]
fn drain_waits_for_no_rate_and_loses_nothing() {
    let mut server = Server::start(&[
        "--rate-lines=1/s",
        "--rate-bytes=100/s",
        "--no-notices",
        "--admin=127.0.0.1:0",
    ]);
    let mut reader = Client::connect(&server);
    let mut sender = Client::connect(&server);
    sender.send_bytes(short_lines().as_bytes());
    wait_throttled(&server, 2);
    server.signal(Signal::TERM);
    expect_short_lines(&mut reader, 2, 0);
    reader.expect_line("Server shutting down");
    sender.expect_line("Server shutting down");
    drop((reader, sender));
    assert_eq!(server.wait_exit(PATIENCE).code(), Some(0));
}

#[test]
fn handover_takes_along_what_a_client_owes_and_a_reload_ends_its_wait() {
    let daemon = Reloaded::start(&[], "rate-lines = '1/s'\n");
    let server = &daemon.server;
    let mut reader = Client::connect(server);
    let mut sender = Client::connect(server);
    sender.send_bytes(short_lines().as_bytes());
    wait_throttled(server, 2);
    let before = client(server, 2)["lines_in"].clone();
    for _ in 0..2 {
        exec(server);
        wait_throttled(server, 2);
        assert_eq!(client(server, 2)["lines_in"], before);
    }
    daemon.reload("rate-lines = '1000000/s'\n");
    expect_short_lines(&mut reader, 2, 0);
    marker(&mut sender, &mut reader);
    daemon.reload("");
    marker(&mut sender, &mut reader);
    assert_eq!(client(server, 2)["throttled"], false);
}

#[test]
fn store_takes_along_what_a_client_owes() {
    let manager = Manager::keeping();
    let args = ["--rate-bytes=100/s", "--no-notices", "--admin=127.0.0.1:0"];
    let server = manager.launch(&args).start();
    let mut reader = Client::connect(&server);
    let mut sender = Client::connect(&server);
    sender.send_bytes(short_lines().as_bytes());
    wait_throttled(&server, 2);
    let mut server = restart(&manager, server, &args);
    reader.expect_message(2, "0");
    server.signal(Signal::INT);
    expect_short_lines(&mut reader, 2, 1);
    reader.expect_line("Server shutting down");
    drop((reader, sender));
    assert_eq!(server.wait_exit(PATIENCE).code(), Some(0));
}

#[test]
fn what_is_thrown_away_is_held_to_the_rates_too() {
    let daemon = Reloaded::start(
        &[
            "--listen=127.0.0.1:0,role=subscribe",
            "--listen=127.0.0.1:0",
            "--max-line=2",
            "--long-line=discard",
        ],
        "rate-lines = '1/s'\n",
    );
    let server = &daemon.server;
    let mut senders = [Client::connect_to(server, 0), Client::connect_to(server, 1)];
    let lines = "too long\n".repeat(SHORT_LINES);
    for sender in &mut senders {
        sender.send_bytes(lines.as_bytes());
        wait_throttled(server, sender.id());
    }
    let counts = || {
        let status = http::get_json(&server.admin(), "/status");
        ["lines_ignored", "lines_discarded"].map(|name| status[name].as_u64().unwrap())
    };
    assert!(
        counts()
            .into_iter()
            .all(|count| 0 < count && count < SHORT_LINES as u64)
    );
    daemon.reload("");
    eventually("all is read", || counts() == [SHORT_LINES as u64; 2]);
    // Neither is told anything, nor closed.
    let mut other = Client::connect_to(server, 1);
    other.send_line("ok");
    for sender in &mut senders {
        sender.expect_message(other.id(), "ok");
    }
}
