//! Lines as long as they may be, and servers that take no long messages.

use std::time::Duration;

use super::scene::{Scene, fence};
use super::{greet, hears, is_ready, launch, next_message, node, nodes};
use crate::common::nats::Nats;
use crate::common::{Client, Server};

#[test]
fn lines_as_long_as_allowed_pass_one_by_one_and_many_together() {
    let Some(nats) = Nats::start_with("", "max_payload: 128KB") else {
        return;
    };
    let servers = nodes(&nats, 2, &["--max-line=65536"]);
    let all: Vec<&Server> = servers.iter().collect();
    let scene = Scene::begin(&all, 1);
    const LINES: usize = 60;
    let line = |n: usize| {
        let mut line = format!("{n:03} ");
        let letter = char::from(b'a' + (n % 26) as u8);
        line.extend(std::iter::repeat_n(letter, 65536 - line.len()));
        line
    };
    std::thread::scope(|scope| {
        for (k, server) in servers.iter().enumerate() {
            scope.spawn(move || {
                let mut client = Client::dial(server.addr(super::RAW));
                client.send_line("LINEHUB/1 role=publish");
                for n in (k..LINES).step_by(2) {
                    client.send_line(&line(n));
                }
                client.finish();
                client.lines_to_eof();
            });
        }
    });
    // What was said at the other node is there before the end.
    servers.iter().for_each(fence);
    let seen = scene.end(&servers[0]);
    let lines = seen
        .events
        .iter()
        .filter_map(|event| event["data"].as_str())
        .filter(|data| !data.starts_with("fence"));
    let mut lines: Vec<&str> = lines.collect();
    lines.sort_unstable();
    let wanted: Vec<String> = (0..LINES).map(line).collect();
    assert_eq!(lines.len(), LINES);
    assert!(
        lines
            .iter()
            .zip(&wanted)
            .all(|(line, wanted)| line == wanted)
    );
}

#[test]
fn bytes_of_every_value_pass() {
    let Some(nats) = Nats::start() else { return };
    let [one, two] = &nodes(&nats, 2, &[])[..] else {
        unreachable!()
    };
    let mut raw = Client::connect_to(one, super::RAW_READER);
    let line: Vec<u8> = (0..=255).filter(|byte| *byte != b'\n').collect();
    let mut sent = line.clone();
    sent.extend(b"\n\n\r\n");
    super::say(two, &sent);
    assert_eq!(raw.read_line_bytes(), line);
    assert_eq!(raw.read_line_bytes(), b"");
    assert_eq!(raw.read_line_bytes(), b"\r");
}

#[test]
fn longest_line_that_no_message_holds_is_refused_with_a_plain_error() {
    let Some(nats) = Nats::start_with("", "max_payload: 32KB") else {
        return;
    };
    let mut server = launch(&["--max-line=65536", &format!("--nats={}", nats.url())]).spawn();
    // Either it ends with an error, as a wrong option does, or it says so while it does not serve.
    let words = "max_payload";
    let deadline = std::time::Instant::now() + crate::common::PATIENCE;
    while !server.log().iter().any(|line| line.contains(words)) {
        assert!(std::time::Instant::now() < deadline, "{:#?}", server.log());
        std::thread::sleep(Duration::from_millis(10));
    }
    let line = server
        .log()
        .into_iter()
        .find(|line| line.contains(words))
        .unwrap();
    assert!(line.contains("max-line"), "{line}");
    server.signal(rustix::process::Signal::TERM);
    let _ = server.wait_exit(crate::common::PATIENCE);
    // With shorter lines, it serves.
    let server = node(&nats, &["--max-line=16KiB"]);
    let (mut reader, _) = greet(&server, "role=subscribe");
    hears(&mut reader, &server, &"x".repeat(16 << 10));
}

#[test]
fn message_limit_that_shrinks_while_nodes_run_loses_nothing() {
    let Some(mut nats) = Nats::start_with("", "max_payload: 1MB") else {
        return;
    };
    let [one, two] = &nodes(&nats, 2, &["--max-line=8KiB"])[..] else {
        unreachable!()
    };
    let (mut reader, _) = greet(two, "role=subscribe");
    hears(&mut reader, one, "before");
    nats.kill();
    nats.configure("max_payload: 64KB");
    nats.restart();
    [one, two].into_iter().for_each(is_ready);
    let long = "x".repeat(8 << 10);
    let mut sender = Client::dial(one.addr(super::RAW));
    sender.send_line("LINEHUB/1 role=publish");
    for _ in 0..40 {
        sender.send_line(&long);
    }
    for _ in 0..40 {
        assert_eq!(next_message(&mut reader)["data"], long);
    }
}
