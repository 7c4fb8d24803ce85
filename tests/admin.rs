//! The admin server, asked over HTTP; `linehub status` on top of it.

mod channels;
#[cfg(feature = "nats")]
mod cluster;
mod history;

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::common::http::{self, Answer, get, get_json};
use crate::common::{
    Address, BINARY, Client, Event, Flood, Launch, Manager, PATIENCE, Program, Server, eventually,
    marker, run, tool,
};

/// How long a request may take to arrive.
const REQUEST_TIME: Duration = Duration::from_secs(10);

const ADMIN: &str = "--admin=127.0.0.1:0";

/// Options with which the metrics have every family, and each that has labels more than one series.
const EVERY_SERIES: [&str; 4] = [
    "--history=1MiB",
    "--listen=127.0.0.1:0,channel=a.b_c-1",
    "--listen=127.0.0.1:0,role=subscribe",
    "--open-channels=3",
];

/// Starts a daemon with these options beside a TCP admin address.
fn start(args: &[&str]) -> (Server, Address) {
    let server = Server::start(&[&[ADMIN], args].concat());
    let admin = server.admin();
    (server, admin)
}

#[track_caller]
fn metrics(admin: &Address) -> Answer {
    let answer = get(admin, "/metrics");
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(
        answer.has("content-type: text/plain; version=0.0.4; charset=utf-8"),
        "{answer:?}"
    );
    answer
}

#[test]
fn metrics_say_what_went_through() {
    let (server, admin) = start(&["--listen=127.0.0.1:0"]);
    let mut one = Client::connect(&server);
    let mut two = Client::connect(&server);
    one.expect_line("New client connected: 2");
    one.send_line("hello");
    one.send_line("there");
    two.expect_message(1, "hello");
    two.expect_message(1, "there");
    two.finish();
    two.expect_eof();
    drop(two);
    one.expect_line("Client disconnected: 2");
    server.wait_log("client disconnected client=2");

    let metrics = metrics(&admin);
    let sent = "Message from client 1: hello\nMessage from client 1: there\n".len()
        + "New client connected: 2\nClient disconnected: 2\n".len();
    for (name, value) in [
        ("linehub_clients", 1.0),
        ("linehub_clients_connected_total", 2.0),
        ("linehub_lines_received_total", 2.0),
        ("linehub_lines_sent_total", 2.0),
        ("linehub_received_bytes_total", 12.0),
        ("linehub_sent_bytes_total", sent as f64),
        ("linehub_messages_published_total", 2.0),
        ("linehub_notices_published_total", 3.0),
        ("linehub_connections_closed_total{reason=\"eof\"}", 1.0),
        ("linehub_connections_closed_total{reason=\"slow\"}", 0.0),
        ("linehub_buffer_used_bytes", 0.0),
        ("linehub_buffer_limit_bytes", f64::from(64 << 20)),
        ("linehub_senders_waiting", 0.0),
        ("linehub_phase{phase=\"running\"}", 1.0),
        (
            concat!(
                "linehub_build_info{version=\"",
                env!("CARGO_PKG_VERSION"),
                "\"}"
            ),
            1.0,
        ),
    ] {
        assert_eq!(metrics.sample(name), value, "{name}");
    }
    let started = metrics.sample("process_start_time_seconds");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let age = now.unwrap().as_secs_f64() - started;
    assert!((0.0..600.0).contains(&age), "{age}");
}

#[test]
fn promtool_finds_nothing_to_mend() {
    let (_server, admin) = start(&EVERY_SERIES);
    let Some(promtool) = tool("promtool") else {
        return;
    };
    let text = metrics(&admin).body;
    let mut child = Command::new(promtool)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let words = [output.stdout, output.stderr].concat();
    assert!(
        output.status.success() && words.is_empty(),
        "{}",
        String::from_utf8_lossy(&words)
    );
}

/// Every line of the text format, version 0.0.4, held to its rules.
#[test]
fn metrics_are_strictly_what_the_format_allows() {
    let (server, admin) = start(&EVERY_SERIES);
    let _client = Client::connect(&server);
    let text = metrics(&admin).body;
    assert!(text.ends_with('\n'));
    let is_name = |name: &str| {
        name.starts_with(|c: char| c.is_ascii_lowercase())
            && name
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    let mut described = std::collections::HashSet::new();
    let mut seen = std::collections::HashSet::new();
    let (mut helped, mut current) = (String::new(), (String::new(), String::new()));
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, words) = help.split_once(' ').expect("words");
            assert!(is_name(name) && !words.is_empty(), "{line}");
            helped = name.to_owned();
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').expect("a kind");
            assert_eq!(helped, name, "its help comes before it");
            assert!(described.insert(name.to_owned()), "twice: {line}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            assert!(["counter", "gauge"].contains(&kind), "{line}");
            current = (name.to_owned(), kind.to_owned());
        } else {
            let (sample, value) = line.rsplit_once(' ').expect("a value");
            assert!(seen.insert(sample.to_owned()), "twice: {line}");
            let (name, labels) = sample.split_once('{').unwrap_or((sample, "}"));
            assert_eq!(name, current.0, "under its own description: {line}");
            let labels = labels.strip_suffix('}').expect("an end of the labels");
            for label in labels.split(',').filter(|label| !label.is_empty()) {
                let (name, value) = label.split_once('=').expect("a label");
                let value = value
                    .strip_prefix('"')
                    .and_then(|value| value.strip_suffix('"'));
                assert!(
                    is_name(name) && !value.expect("quotes").contains('"'),
                    "{line}"
                );
            }
            let value: f64 = value.parse().expect("a number");
            assert!(
                value.is_finite() && (value >= 0.0 || current.1 == "gauge"),
                "{line}"
            );
        }
    }
    assert!(seen.len() > 30, "{text}");
    // Each of these comes once a channel, and no other label has come with it.
    let of_channels = described
        .iter()
        .filter(|name| name.starts_with("linehub_channel_"));
    let of_channels: Vec<_> = of_channels.collect();
    assert_eq!(of_channels.len(), 15, "{of_channels:?}");
    for name in of_channels {
        for channel in ["a.b_c-1", "main", "open"] {
            let series = format!("{name}{{channel=\"{channel}\"}}");
            assert!(seen.contains(&series), "no {series} in {text}");
        }
        let all = seen
            .iter()
            .filter(|series| series.starts_with(&format!("{name}{{")));
        assert_eq!(all.count(), 3, "{name}");
    }
}

#[test]
fn open_metrics_are_there_for_who_asks_for_them() {
    let (_server, admin) = start(&EVERY_SERIES);
    let answer = http::request(
        &admin,
        "GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept: application/openmetrics-text;version=1.0.0\r\n\
         Connection: close\r\n\r\n",
    );
    assert!(
        answer.head.contains("application/openmetrics-text"),
        "{answer:?}"
    );
    assert!(answer.body.ends_with("# EOF\n"), "{answer:?}");
}

#[test]
fn clients_are_listed_with_where_they_stand() {
    let dir = tempfile::tempdir().unwrap();
    let unix = format!("unix:{}", dir.path().join("hub.sock").display());
    let listen = format!("--listen={unix},format=raw");
    let (server, admin) = start(&["--listen=127.0.0.1:0,format=json", &listen]);
    let mut json = Client::connect_to(&server, 0);
    let mut raw = Client::connect_to(&server, 1);
    raw.send_line("hello");
    let notice = json.read_json();
    assert_eq!(notice["event"], "connect");
    assert_eq!(json.read_json()["data"], "hello");

    // What was written is counted behind that.
    let counted = || get_json(&admin, "/clients")["clients"][0]["lines_out"] == 1;
    eventually("its line is counted", counted);
    let page = get_json(&admin, "/clients");
    assert_eq!(
        (&page["total"], &page["offset"], &page["limit"]),
        (&2.into(), &0.into(), &100.into())
    );
    let clients = page["clients"].as_array().unwrap();
    assert_eq!(clients.len(), 2);
    assert_eq!(clients[0]["id"], 1);
    assert_eq!(clients[0]["peer"], json.local_address().to_string());
    assert_eq!(clients[0]["listener"], server.addr(0).to_string());
    assert_eq!(clients[0]["format"], "json");
    assert_eq!(
        (&clients[0]["lines_in"], &clients[0]["lines_out"]),
        (&0.into(), &1.into())
    );
    assert_eq!(clients[1]["id"], 2);
    assert_eq!(clients[1]["peer"], "unix");
    assert_eq!(clients[1]["listener"], unix);
    assert_eq!(clients[1]["format"], "raw");
    assert_eq!(
        (&clients[1]["lines_in"], &clients[1]["bytes_in"]),
        (&1.into(), &6.into())
    );
    for client in clients {
        let since = client["connected_since"].as_str().unwrap();
        let since = humantime::parse_rfc3339(since).expect("a time");
        assert!(since.elapsed().unwrap() < PATIENCE * 4);
        assert_eq!(
            (&client["bytes_pending"], &client["messages_behind"]),
            (&0.into(), &0.into())
        );
        assert!(client["idle_seconds"].as_f64().unwrap() >= 0.0);
    }

    let page = get_json(&admin, "/clients?offset=1&limit=1");
    assert_eq!(page["total"], 2);
    assert_eq!(page["clients"].as_array().unwrap().len(), 1);
    assert_eq!(page["clients"][0]["id"], 2);
    assert_eq!(
        get_json(&admin, "/clients?offset=7")["clients"],
        serde_json::json!([])
    );
}

#[test]
fn who_is_behind_comes_first_with_what_waits_for_it() {
    let (server, admin) = start(&["--slow-grace=forever", "--buffer=32MiB"]);
    let mut sender = Client::connect(&server);
    let mut reader = Client::connect(&server);
    let stuck = Client::connect_stuck(&server, 0);
    sender.lines_until("New client connected: 3");
    let mut flood = Flood::default();
    flood.send(&mut sender, 100_000);
    reader.expect_line("New client connected: 3");
    Flood::expect(&mut reader, sender.id(), 1, 100_000);
    let behind = || get_json(&admin, "/clients?sort=behind")["clients"][0].clone();
    eventually("all is published", || {
        behind()["messages_behind"].as_u64() > Some(0)
            && metrics(&admin).sample("linehub_lines_received_total") == 100_000.0
    });
    let first = behind();
    assert_eq!(first["id"], stuck.id());
    let (got, waits) = (
        first["lines_out"].as_u64().unwrap(),
        first["messages_behind"].as_u64().unwrap(),
    );
    assert_eq!(got + waits, 100_000);
    let line = "Message from client 1: ".len() as u64 + 60;
    assert!(
        first["bytes_pending"].as_u64().unwrap() > waits / 2 * line,
        "{first}"
    );
    assert!(metrics(&admin).sample("linehub_buffer_used_bytes") > 0.0);
    let others = get_json(&admin, "/clients?sort=behind");
    for other in &others["clients"].as_array().unwrap()[1..] {
        assert_eq!(
            (&other["messages_behind"], &other["bytes_pending"]),
            (&0.into(), &0.into())
        );
    }
}

#[test]
fn closed_clients_are_remembered_with_why_and_what_they_had() {
    let (server, admin) = start(&["--max-line=5", "--max-clients=2"]);
    let mut one = Client::connect(&server);
    let mut two = Client::connect(&server);
    let two_address = two.local_address().to_string();
    one.expect_line("New client connected: 2");
    let mut refused = Client::dial(server.addr(0));
    refused.expect_line("Error: server full (2 clients)");
    refused.expect_eof();
    two.send_line("hi");
    two.send_line("longer than that");
    two.expect_line("Error: line too long (limit 5 bytes)");
    two.expect_eof();
    drop(two);
    one.expect_message(2, "hi");
    one.expect_line("Client disconnected: 2");
    server.wait_log("client disconnected client=2");
    one.reset();
    server.wait_log("client disconnected client=1");

    let page = get_json(&admin, "/closed");
    assert_eq!(page["total"], 2);
    let closed = page["closed"].as_array().unwrap();
    assert_eq!(
        (&closed[0]["id"], &closed[0]["reason"]),
        (&1.into(), &"reset".into())
    );
    assert_eq!(
        (&closed[1]["id"], &closed[1]["reason"]),
        (&2.into(), &"line_too_long".into())
    );
    assert_eq!(closed[1]["peer"], two_address);
    assert_eq!(closed[1]["lines_in"], 1);
    assert_eq!(closed[0]["lines_out"], 1);
    humantime::parse_rfc3339(closed[0]["closed_at"].as_str().unwrap()).expect("a time");
    assert_eq!(
        get_json(&admin, "/closed?limit=1&offset=1")["closed"][0]["id"],
        2
    );

    let metrics = metrics(&admin);
    assert_eq!(
        metrics.sample("linehub_connections_closed_total{reason=\"full\"}"),
        1.0
    );
    assert_eq!(
        metrics.sample("linehub_connections_closed_total{reason=\"line_too_long\"}"),
        1.0
    );
    assert_eq!(
        metrics.sample("linehub_connections_closed_total{reason=\"reset\"}"),
        1.0
    );
    assert_eq!(metrics.sample("linehub_clients"), 0.0);
}

#[test]
fn skipped_messages_and_waiting_senders_are_counted() {
    let args = [
        "--buffer=128KiB",
        "--slow-client=skip",
        "--slow-grace=100ms",
        "--listen=127.0.0.1:0,format=json",
    ];
    let (server, admin) = start(&args);
    let mut sender = Client::connect(&server);
    let mut stuck = Client::connect_stuck(&server, 0);
    let mut flood = Flood::default();
    let bytes = flood.lines(100_000);
    // The sender's own feed has nothing but the notice: it needs no reader.
    sender.send_bytes(&bytes);
    sender.finish();
    // What the kernel had of it has had to wait for the one that is stuck.
    server.wait_log("client disconnected client=1");
    stuck.wake();
    let mut told = 0;
    while let Event::Line(line) = stuck.next() {
        let event: serde_json::Value = serde_json::from_slice(&line).unwrap();
        if event["event"] == "skip" {
            told += event["count"].as_u64().unwrap();
        }
        if event["event"] == "disconnect" {
            break;
        }
    }
    assert!(told > 0, "it was never skipped");
    let metrics = metrics(&admin);
    assert_eq!(
        metrics.sample("linehub_messages_skipped_total"),
        told as f64
    );
    assert!(metrics.sample("linehub_senders_waited_seconds_total") > 0.05);
    assert_eq!(metrics.sample("linehub_senders_waiting"), 0.0);
    assert_eq!(
        get_json(&admin, "/clients")["clients"][0]["messages_skipped"],
        told
    );
}

#[test]
fn events_begin_with_the_last_ten_minutes_and_go_on_every_second() {
    let (server, admin) = start(&[]);
    let mut connection = http::connect(&admin);
    connection
        .write_all(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .unwrap();
    let mut lines = BufReader::new(connection).lines();
    let mut data_of = |event: &str| -> serde_json::Value {
        loop {
            if lines.next().unwrap().unwrap() == format!("event: {event}") {
                let data = lines.next().unwrap().unwrap();
                return serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
            }
        }
    };
    let samples = data_of("samples");
    assert_eq!(samples["period_seconds"], 1);
    let status = data_of("status");
    assert_eq!(status["clients"], 0);
    let _client = Client::connect(&server);
    while data_of("status")["clients"] != 1 {}
}

#[test]
fn health_and_readiness_are_plain_words() {
    let (_server, admin) = start(&[]);
    let health = get(&admin, "/healthz");
    assert_eq!((health.status, health.body.as_str()), (200, "ok\n"));
    let readiness = get(&admin, "/readyz");
    assert_eq!(
        (readiness.status, readiness.body.as_str()),
        (200, "running\n")
    );
}

#[test]
fn draining_daemon_is_healthy_and_not_ready() {
    let (mut server, admin) = start(&["--drain-timeout=10s"]);
    let stuck = connect_one_to_wait_for(&server);
    server.signal(Signal::TERM);
    wait_until_it_drains(&server, &admin);
    let readiness = get(&admin, "/readyz");
    assert_eq!(
        (readiness.status, readiness.body.as_str()),
        (503, "draining\n")
    );
    assert_eq!(get(&admin, "/healthz").status, 200);
    drop(stuck);
    assert_eq!(server.wait_exit(PATIENCE).code(), Some(0));
}

/// Waits until the daemon drains. It logs a phase an instant before it is in it.
fn wait_until_it_drains(server: &Server, admin: &Address) {
    server.wait_log("phase=draining");
    eventually("it drains", || {
        get_json(admin, "/status")["phase"] == "draining"
    });
}

/// A client that has more to take than fits into sockets, and takes nothing: a drain waits for it.
fn connect_one_to_wait_for(server: &Server) -> Client {
    let stuck = Client::connect_stuck(server, 0);
    let mut sender = Client::connect(server);
    let mut reader = Client::connect(server);
    let mut flood = Flood::default();
    flood.send(&mut sender, 100_000);
    Flood::expect(&mut reader, sender.id(), 1, 100_000);
    stuck
}

#[test]
fn only_hosts_that_no_other_page_can_have_are_answered() {
    let (_server, admin) = start(&["--admin-host=status.example", "--admin-host=Other.Example"]);
    let status = |line: &str, host: &str| {
        http::request(
            &admin,
            &format!("{line}\r\n{host}Connection: close\r\n\r\n"),
        )
        .status
    };
    let get = "GET /status HTTP/1.1";
    for host in [
        "127.0.0.1",
        "localhost:80",
        "[::1]",
        "10.1.2.3:9",
        "status.example",
        "other.example:1",
    ] {
        assert_eq!(status(get, &format!("Host: {host}\r\n")), 200, "{host}");
    }
    for host in [
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example:80",
        "",
    ] {
        assert_eq!(status(get, &format!("Host: {host}\r\n")), 403, "{host}");
    }
    assert_eq!(status(get, ""), 400, "no host");
    assert_eq!(status("GET /status HTTP/1.0", ""), 400, "no host");
    assert_eq!(
        status(get, "Host: localhost\r\nHost: evil.example\r\n"),
        400,
        "two hosts"
    );
    assert_eq!(
        status(
            "GET http://evil.example/status HTTP/1.1",
            "Host: localhost\r\n"
        ),
        403
    );
    for path in ["/", "/metrics", "/events", "/healthz"] {
        let line = format!("GET {path} HTTP/1.1");
        assert_eq!(status(&line, "Host: evil.example\r\n"), 403, "{path}");
    }
}

#[test]
fn unix_socket_takes_any_host_but_one_that_may_have_come_through_a_tunnel() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("admin.sock");
    let admin = Address::Unix(path.clone());
    let mut server = Server::start(&[&format!("--admin={admin}")]);
    assert_eq!(server.admin(), admin);
    let status = |host: &str| {
        let head = format!("GET /healthz HTTP/1.1\r\n{host}Connection: close\r\n\r\n");
        http::request(&admin, &head).status
    };
    assert_eq!(status("Host: linehub\r\n"), 200);
    // By a tunnel from port 80.
    assert_eq!(status("Host: any.example\r\n"), 403);
    assert_eq!(status("Host: localhost:9345\r\n"), 200);
    assert_eq!(status("Host: evil.example:9345\r\n"), 403);
    server.stop();
    assert!(!path.exists(), "its file goes at the end");
}

#[test]
fn scripts_of_other_pages_are_not_answered() {
    let (_server, admin) = start(&[]);
    let status = |site: &str, mode: &str| {
        let head = format!(
            "GET /events HTTP/1.0\r\nHost: a.localhost\r\nSec-Fetch-Site: {site}\r\n\
             Sec-Fetch-Mode: {mode}\r\n\r\n"
        );
        http::request(&admin, &head).status
    };
    assert_eq!(status("cross-site", "no-cors"), 403);
    // A link to the page is one. (Events take HTTP/1.1.)
    assert_eq!(status("cross-site", "navigate"), 505);
    assert_eq!(status("same-origin", "cors"), 505);
}

#[test]
fn full_server_refuses_and_hands_over_whatever_asks_at_its_admin_address() {
    let server = Launch::new(&[ADMIN, "--listen=127.0.0.1:0"])
        .ulimit("-n 200")
        .start();
    let admin = server.admin();
    let _clients: Vec<_> = (0..200 - 64 - 40)
        .map(|_| Client::connect(&server))
        .collect();
    let _idle: Vec<_> = (0..100).map(|_| http::connect(&admin)).collect();
    assert_eq!(get(&admin, "/healthz").status, 200);
    let mut refused = Client::dial(server.addr(0));
    refused.expect_line("Error: server full (96 clients)");
    server.signal(Signal::USR2);
    server.wait_log_count("phase=running", 2);
    assert_eq!(server.count_log("handover failed: serving on"), 0);
}

#[test]
fn client_that_leaves_while_it_is_owed_something_stays_in_sight_until_its_end() {
    let args = [
        "--slow-grace=forever",
        "--stall-timeout=1s",
        "--buffer=32MiB",
    ];
    let (server, admin) = start(&args);
    let mut sender = Client::connect(&server);
    let mut stuck = Client::connect_stuck(&server, 0);
    sender.expect_line("New client connected: 2");
    let mut flood = Flood::default();
    flood.send(&mut sender, 100_000);
    stuck.finish();
    sender.expect_line("Client disconnected: 2");
    let first = get_json(&admin, "/clients?sort=behind")["clients"][0].clone();
    assert_eq!((&first["id"], &first["leaving"]), (&2.into(), &true.into()));
    assert!(first["bytes_pending"].as_u64() > Some(0), "{first}");
    assert_eq!(metrics(&admin).sample("linehub_clients"), 1.0);
    server.wait_log("client disconnected client=2 reason=stalled");
    let closed = get_json(&admin, "/closed")["closed"][0].clone();
    assert_eq!(closed["reason"], "stalled");
    assert!(closed["bytes_pending"].as_u64() > Some(0), "{closed}");
    assert!(closed["messages_behind"].as_u64() > Some(0), "{closed}");
}

#[test]
fn only_get_and_head_are_allowed_and_only_what_there_is() {
    let (_server, admin) = start(&[]);
    for path in ["/", "/status", "/metrics", "/healthz"] {
        let request =
            format!("HEAD {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let answer = http::request(&admin, &request);
        assert_eq!((answer.status, answer.body.as_str()), (200, ""), "{path}");
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "TRACE"] {
        let request =
            format!("{method} /status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let answer = http::request(&admin, &request);
        assert_eq!(answer.status, 405, "{method}");
        assert!(answer.has("allow: GET, HEAD"), "{answer:?}");
    }
    assert_eq!(get(&admin, "/nothing").status, 404);
    assert_eq!(get(&admin, "/../etc/passwd").status, 404);
    assert_eq!(get(&admin, "/clients?limit=1001").status, 400);
    assert_eq!(get(&admin, "/clients?page=1").status, 400);
    let page = get(&admin, "/");
    assert_eq!(page.status, 200);
    assert!(
        page.has("content-type: text/html; charset=utf-8"),
        "{}",
        page.head
    );
    assert!(page.head.contains("default-src 'none'"), "{}", page.head);
    assert!(page.has("cache-control: no-store"), "{}", page.head);
}

/// Reads until the other side closes, which it must; whether it gave no answer, or one that refuses.
fn is_turned_away(mut connection: Box<dyn http::Connection>) -> bool {
    let mut bytes = Vec::new();
    if let Err(error) = connection.read_to_end(&mut bytes) {
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
    }
    let text = String::from_utf8_lossy(&bytes);
    bytes.is_empty() || text.starts_with("HTTP/1.1 4") || text.starts_with("HTTP/1.0 4")
}

#[test]
fn hostile_requests_are_turned_away() {
    let (server, admin) = start(&[]);
    let long = "x".repeat(100_000);
    let many = "X: y\r\n".repeat(1000);
    for request in [
        "\0\0\0\0\r\n\r\n".to_owned(),
        "GET\r\n\r\n".to_owned(),
        "GET / HTTP/9.9\r\n\r\n".to_owned(),
        format!("GET /{long} HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {long}\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nHost: localhost\r\n{many}\r\n"),
    ] {
        let mut connection = http::connect(&admin);
        // It may be closed before it has all of it.
        let _ = connection.write_all(request.as_bytes());
        assert!(
            is_turned_away(connection),
            "{}",
            &request[..30.min(request.len())]
        );
    }
    assert_eq!(get(&admin, "/healthz").status, 200);
    drop(server);
}

#[test]
fn connections_that_ask_nothing_keep_nobody_out() {
    let (server, admin) = start(&[]);
    let began = Instant::now();
    let mut idle: Vec<_> = (0..300).map(|_| http::connect(&admin)).collect();
    for connection in idle.iter_mut().skip(1).step_by(2) {
        let _ = connection.write_all(b"GET /status HT");
    }
    assert_eq!(get(&admin, "/healthz").status, 200);
    assert!(server.open_files() < 150, "{}", server.open_files());
    // The oldest were closed for the newer ones, long before their time was up.
    for connection in idle.drain(..200) {
        assert!(is_turned_away(connection));
    }
    assert!(began.elapsed() < REQUEST_TIME, "{:?}", began.elapsed());
    let mut client = Client::connect(&server);
    let mut other = Client::connect(&server);
    client.expect_line("New client connected: 2");
    marker(&mut other, &mut client);
}

#[test]
fn connections_that_ask_without_end_keep_nobody_out() {
    let (_server, admin) = start(&[]);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..64 {
            scope.spawn(|| {
                let requests = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(100);
                while !stop.load(Relaxed) {
                    let mut connection = http::connect(&admin);
                    let _ = connection.write_all(requests.as_bytes());
                    let _ = connection.read(&mut [0; 1]);
                }
            });
        }
        let mut answered = 0;
        for _ in 0..20 {
            let mut connection = http::connect(&admin);
            let asked = connection
                .write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
            let mut answer = String::new();
            let read = asked.and_then(|()| connection.read_to_string(&mut answer));
            answered += usize::from(read.is_ok() && answer.starts_with("HTTP/1.1 200"));
        }
        stop.store(true, Relaxed);
        assert!(answered >= 10, "{answered} of 20 were answered");
    });
}

#[test]
fn slow_request_ends_with_its_time() {
    let (_server, admin) = start(&[]);
    let began = Instant::now();
    let mut connection = http::connect(&admin);
    connection
        .write_all(b"GET / HTTP/1.1\r\nHost: local")
        .unwrap();
    // Nobody sends the rest.
    assert!(is_turned_away(connection));
    assert!(began.elapsed() >= REQUEST_TIME, "{:?}", began.elapsed());
}

#[test]
fn watcher_too_many_ends_the_oldest_and_nobody_else() {
    let (_server, admin) = start(&[]);
    let watch = || {
        let mut connection = http::connect(&admin);
        connection
            .write_all(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .unwrap();
        let mut lines = BufReader::new(connection).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "HTTP/1.1 200 OK");
        lines
    };
    let mut watchers: Vec<_> = (0..20).map(|_| watch()).collect();
    assert_eq!(get(&admin, "/healthz").status, 200);
    for mut oldest in watchers.drain(..4) {
        // It ends, however it does.
        while oldest.next().is_some_and(|line| line.is_ok()) {}
    }
    for other in &mut watchers {
        let mut seen = other.by_ref().map_while(Result::ok);
        assert!((0..3).all(|_| seen.any(|line| line == "event: status")));
    }
}

#[test]
fn counters_lists_and_reasons_outlive_an_exec() {
    let (server, admin) = start(&["--listen=127.0.0.1:0"]);
    let mut one = Client::connect(&server);
    let mut two = Client::connect(&server);
    let gone = Client::connect(&server);
    one.lines_until("New client connected: 3");
    two.expect_line("New client connected: 3");
    gone.reset();
    one.expect_line("Client disconnected: 3");
    two.expect_line("Client disconnected: 3");
    server.wait_log("client disconnected client=3");
    one.send_line("before");
    two.expect_message(1, "before");
    let before = get_json(&admin, "/clients")["clients"].clone();

    server.signal(Signal::USR2);
    server.wait_log_count("phase=running", 2);
    // A port of 0 is another port now.
    let admin = server.admin();
    let after = get_json(&admin, "/clients")["clients"].clone();
    for (before, after) in before
        .as_array()
        .unwrap()
        .iter()
        .zip(after.as_array().unwrap())
    {
        for key in [
            "id",
            "peer",
            "listener",
            "format",
            "connected_since",
            "lines_in",
            "bytes_out",
        ] {
            assert_eq!(before[key], after[key], "{key}");
        }
    }
    let closed = get_json(&admin, "/closed");
    assert_eq!(
        (&closed["total"], &closed["closed"][0]["id"]),
        (&1.into(), &3.into())
    );
    let metrics = metrics(&admin);
    for (name, value) in [
        (
            "linehub_handovers_total{carrier=\"exec\",result=\"ok\"}",
            1.0,
        ),
        (
            "linehub_handovers_total{carrier=\"exec\",result=\"failed\"}",
            0.0,
        ),
        ("linehub_clients_connected_total", 3.0),
        ("linehub_lines_received_total", 1.0),
        ("linehub_messages_published_total", 1.0),
        ("linehub_connections_closed_total{reason=\"reset\"}", 1.0),
    ] {
        assert_eq!(metrics.sample(name), value, "{name}");
    }
    two.send_line("after");
    one.expect_message(2, "after");
}

#[test]
fn counters_outlive_a_restart_under_a_manager() {
    let manager = Manager::keeping();
    let dir = tempfile::tempdir().unwrap();
    let admin = Address::Unix(dir.path().join("admin.sock"));
    let admin_arg = format!("--admin={admin}");
    let args = ["--listen=127.0.0.1:0", admin_arg.as_str()];
    let mut server = manager.launch(&args).start();
    let mut one = Client::connect(&server);
    let mut two = Client::connect(&server);
    one.expect_line("New client connected: 2");
    one.send_line("before");
    two.expect_message(1, "before");
    server.stop();
    server.wait_log("handed over to the service manager");
    drop(server);
    let server = manager.relaunch(&args).start();
    server.wait_log("phase=running");
    let metrics = metrics(&admin);
    assert_eq!(
        metrics.sample("linehub_handovers_total{carrier=\"store\",result=\"ok\"}"),
        1.0
    );
    assert_eq!(metrics.sample("linehub_lines_sent_total"), 1.0);
    assert_eq!(metrics.sample("linehub_clients"), 2.0);
    marker(&mut two, &mut one);
}

#[test]
fn reload_moves_closes_and_opens_the_admin_address_and_counts() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("linehub.toml");
    let at = |name: &str| Address::Unix(dir.path().join(name));
    let write = |admin: &str| {
        std::fs::write(&file, format!("listen = '127.0.0.1:0'\n{admin}\n")).unwrap();
    };
    write("");
    let server = Launch::new(&["--config", file.to_str().unwrap()])
        .listen_as_configured()
        .start();
    let reload = |log: &str| {
        let before = server.count_log(log);
        server.signal(Signal::HUP);
        server.wait_log_count(log, before + 1);
    };
    write(&format!("admin = '{}'", at("one")));
    reload("configuration reloaded changed=max-clients,admin");
    assert_eq!(
        metrics(&at("one")).sample("linehub_reloads_total{result=\"ok\"}"),
        1.0
    );

    write(&format!("admin = '{}'", at("two")));
    reload("configuration reloaded changed=admin");
    assert_eq!(
        metrics(&at("two")).sample("linehub_reloads_total{result=\"ok\"}"),
        2.0
    );
    assert!(!dir.path().join("one").exists());

    // One that cannot be opened changes nothing.
    write("admin = 'unix:/nonexistent/socket'");
    reload("nothing changed");
    assert_eq!(
        metrics(&at("two")).sample("linehub_reloads_total{result=\"failed\"}"),
        1.0
    );

    write("admin = '127.0.0.1:0'");
    reload("configuration reloaded changed=admin");
    let admin = server.admin();
    let named = "GET /healthz HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n";
    assert_eq!(http::request(&admin, named).status, 403);
    write("admin = '127.0.0.1:0'\nadmin-host = ['a.example']");
    reload("configuration reloaded changed=admin-host");
    assert_eq!(http::request(&admin, named).status, 200);

    write("");
    reload("configuration reloaded changed=max-clients,admin,admin-host");
    assert!(!dir.path().join("two").exists());
    let Address::Tcp(address) = admin else {
        panic!("a TCP address")
    };
    assert!(std::net::TcpStream::connect(address).is_err());
}

#[test]
fn admin_address_that_cannot_be_opened_is_one_clear_line() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let exit = run(
        &["--listen=127.0.0.1:0", &format!("--admin={address}")],
        &[],
    );
    assert_eq!(exit.code, Some(1));
    let last = exit.stderr.lines().last().unwrap();
    assert_eq!(
        last,
        format!(
            "linehub: cannot listen on {address} for --admin: Address already in use (os error 98)"
        )
    );
    let exit = run(&["--admin=nowhere"], &[]);
    assert_eq!(exit.code, Some(2));
    assert_eq!(
        exit.stderr,
        "linehub: --admin: 'nowhere' has no port; allowed: HOST:PORT, [IPV6]:PORT or unix:PATH, or off\n"
    );
    let exit = run(&["--admin-host=a:1"], &[]);
    assert_eq!(exit.code, Some(2));
    assert!(
        exit.stderr
            .starts_with("linehub: --admin-host: 'a:1' is no host name; allowed: "),
        "{}",
        exit.stderr
    );
}

#[test]
fn status_shows_the_daemon_in_a_terminal() {
    let (server, admin) = start(&[]);
    let mut one = Client::connect(&server);
    let mut two = Client::connect(&server);
    one.expect_line("New client connected: 2");
    two.send_line("hello");
    one.expect_message(2, "hello");
    let address = admin.to_string();
    let exit = run(&["status", "--admin", &address], &[]);
    assert_eq!((exit.code, exit.stderr.as_str()), (Some(0), ""));
    let head = exit.stdout.lines().next().unwrap();
    assert!(head.starts_with("linehub   "), "{head}");
    assert!(head.ends_with(&format!(", PID {}", server.pid())), "{head}");
    assert!(exit.stdout.contains("\nclients   2 of "), "{}", exit.stdout);
    let columns = exit
        .stdout
        .lines()
        .find(|line| line.starts_with("CLIENT"))
        .expect("a head");
    let peer = columns.find("PEER").expect("a column");
    for client in [&one, &two] {
        let address = client.local_address().to_string();
        let line = exit
            .stdout
            .lines()
            .find(|line| line.contains(&address))
            .expect("its line");
        assert_eq!(line.find(&address), Some(peer), "{}", exit.stdout);
    }

    let exit = run(&["status", "--json"], &[("LINEHUB_ADMIN", &address)]);
    let status: serde_json::Value = serde_json::from_str(&exit.stdout).expect("JSON");
    assert_eq!(status["clients"], 2);
    assert_eq!(status["lines_in"], 1);
    assert_eq!(status["pid"], server.pid());
}

#[test]
fn status_watches_until_nobody_reads_it() {
    let (server, admin) = start(&[]);
    let mut child = Command::new(BINARY)
        .args(["status", "--watch", "--json", "--admin", &admin.to_string()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut clients = || -> u64 {
        let line = lines.next().unwrap().unwrap();
        let status: serde_json::Value = serde_json::from_str(&line).unwrap();
        status["clients"].as_u64().unwrap()
    };
    assert_eq!(clients(), 0);
    let _client = Client::connect(&server);
    while clients() != 1 {}
    drop(lines);
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr), (Some(0), Vec::new()));
}

#[test]
fn status_is_redrawn_in_place_in_a_terminal() {
    let Some(script) = tool("script") else { return };
    let (server, admin) = start(&[]);
    let command = format!("{BINARY} status --watch --admin {admin}");
    let mut terminal = Command::new(script);
    terminal.args(["-qfc", &command, "/dev/null"]);
    let mut terminal = Program::spawn(&mut terminal);
    terminal.wait_output("\x1b[Hlinehub ");
    terminal.wait_output("no clients\x1b[K");
    let client = Client::connect(&server);
    terminal.wait_output(&client.local_address().to_string());
    drop(server);
    terminal.wait_output("trying again");
    // Ctrl-C.
    terminal.type_in(b"\x03");
    terminal.wait_end();
}

/// `linehub status --watch` in a terminal of its own, in whose foreground it is.
struct Watching {
    child: Child,
    keyboard: File,
    terminal: File,
    before: String,
}

impl Watching {
    fn start(admin: &Address) -> Option<Watching> {
        use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
        let setsid = tool("setsid")?;
        let keyboard = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&keyboard).unwrap();
        unlockpt(&keyboard).unwrap();
        let name = ptsname(&keyboard, Vec::new()).unwrap();
        let terminal = File::options()
            .read(true)
            .write(true)
            .open(name.to_str().unwrap())
            .unwrap();
        let keyboard = File::from(keyboard);
        let mut screen = keyboard.try_clone().unwrap();
        // Ends when the terminal does.
        std::thread::spawn(move || std::io::copy(&mut screen, &mut std::io::sink()));
        let before = modes(&terminal);
        let child = Command::new(setsid)
            .args(["--ctty", BINARY, "status", "--watch", "--admin"])
            .arg(admin.to_string())
            .stdin(terminal.try_clone().unwrap())
            .stdout(terminal.try_clone().unwrap())
            .spawn()
            .unwrap();
        let watching = Watching {
            child,
            keyboard,
            terminal,
            before,
        };
        eventually("it takes the keys", || watching.has_keys());
        Some(watching)
    }

    fn has_keys(&self) -> bool {
        modes(&self.terminal) != self.before
    }

    fn is_stopped(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        stat.contains(") T ")
    }

    fn press(&mut self, key: &[u8]) {
        self.keyboard.write_all(key).unwrap();
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id() as i32).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Its exit code; the terminal is as it was.
    #[track_caller]
    fn end(mut self) -> Option<i32> {
        let mut status = None;
        eventually("it ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        assert_eq!(modes(&self.terminal), self.before);
        status.unwrap().code()
    }
}

/// All that a terminal has to be given back.
fn modes(terminal: &File) -> String {
    format!("{:?}", rustix::termios::tcgetattr(terminal).unwrap())
}

#[test]
fn status_watch_leaves_the_terminal_as_it_was_however_it_ends() {
    let (_server, admin) = start(&[]);
    for (key, code) in [(b"q", 0), (b"\x04", 0), (b"\x03", 130), (b"\x1c", 131)] {
        let Some(mut watching) = Watching::start(&admin) else {
            return;
        };
        watching.press(b"xyz");
        watching.press(key);
        assert_eq!(watching.end(), Some(code), "{key:?}");
    }
    for (signal, code) in [(Signal::TERM, 143), (Signal::HUP, 129)] {
        let Some(watching) = Watching::start(&admin) else {
            return;
        };
        watching.signal(signal);
        assert_eq!(watching.end(), Some(code), "{signal:?}");
    }
}

#[test]
fn status_watch_gives_the_terminal_back_while_it_is_stopped() {
    let (_server, admin) = start(&[]);
    let Some(mut watching) = Watching::start(&admin) else {
        return;
    };
    for _ in 0..2 {
        watching.press(b"\x1a");
        eventually("it is stopped", || watching.is_stopped());
        assert!(!watching.has_keys(), "{}", modes(&watching.terminal));
        watching.signal(Signal::CONT);
        eventually("it takes the keys again", || watching.has_keys());
    }
    watching.press(b"q");
    assert_eq!(watching.end(), Some(0));
}

#[test]
fn status_watch_ends_while_the_daemon_does_not_answer() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let Some(mut watching) = Watching::start(&Address::Tcp(silent.local_addr().unwrap())) else {
        return;
    };
    let asked = silent.accept().unwrap();
    let pressed = Instant::now();
    watching.press(b"q");
    assert_eq!(watching.end(), Some(0));
    // It would wait for an answer for 5 s.
    assert!(pressed.elapsed() < Duration::from_secs(4));
    drop(asked);
}

#[test]
fn status_of_a_drain_counts_from_its_beginning() {
    let (server, admin) = start(&["--drain-timeout=1m"]);
    let _stuck = connect_one_to_wait_for(&server);
    eventually("it runs for more than a second", || {
        get_json(&admin, "/status")["uptime_seconds"].as_f64() > Some(1.5)
    });
    let status = get_json(&admin, "/status");
    assert!(status["phase_seconds"].as_f64() > Some(1.0), "{status}");
    server.signal(Signal::INT);
    wait_until_it_drains(&server, &admin);
    let status = get_json(&admin, "/status");
    let drained = status["phase_seconds"].as_f64().unwrap();
    assert!(
        drained < status["uptime_seconds"].as_f64().unwrap() - 1.0,
        "{status}"
    );
    let exit = run(&["status", "--admin", &admin.to_string()], &[]);
    let head = exit.stdout.lines().next().unwrap();
    assert!(head.contains(" draining for "), "{head}");
}

#[test]
fn status_says_plainly_that_no_daemon_answers() {
    let dir = tempfile::tempdir().unwrap();
    let address = format!("unix:{}", dir.path().join("none.sock").display());
    let exit = run(&["status", "--admin", &address], &[]);
    assert_eq!(exit.code, Some(1));
    assert_eq!(
        exit.stderr,
        format!(
            "linehub: no daemon answers at {address}: No such file or directory (os error 2); is one \
             running with --admin?\n"
        )
    );
    let exit = run(&["status", "--admin", "x"], &[]);
    assert_eq!(exit.code, Some(2));
    assert!(
        exit.stderr.starts_with("linehub: --admin: 'x' has no port"),
        "{}",
        exit.stderr
    );
}
