//! NATS goes away and comes back.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use super::scene::{Publisher, Scene, fence, flood, publish_at};
use super::{
    GONE, PLAIN, greet, hears, is_ready, launch, misses_nats, next_message, nodes, patient_node,
};
use crate::common::nats::Nats;
use crate::common::relay::Relay;
use crate::common::{Client, PATIENCE, Server, exec};

/// The listener behind those of all nodes.
const HTTP: usize = 5;

/// Publishers at each node send all the time while this is done; then all of theirs is in the stream once, and no
/// client was closed.
#[track_caller]
fn while_senders_send(servers: &[Server], trouble: impl FnOnce()) {
    let all: Vec<&Server> = servers.iter().collect();
    let scene = Scene::begin(&all, 2);
    let done = AtomicBool::new(false);
    let publishers: Vec<Publisher> = std::thread::scope(|scope| {
        let publish = |name: String, server| {
            let done = &done;
            move || {
                let mut publisher = Publisher::new(&name);
                publisher.chunk = 10;
                publisher.pace = Duration::from_millis(2);
                while !done.load(Relaxed) {
                    let to = publisher.acked + 200;
                    publisher.publish(to, || publish_at(server));
                }
                publisher
            }
        };
        let senders: Vec<_> = servers
            .iter()
            .enumerate()
            .flat_map(|(i, server)| (0..2).map(move |k| (format!("s{i}{k}"), server)))
            .map(|(name, server)| scope.spawn(publish(name, server)))
            .collect();
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(trouble));
        done.store(true, Relaxed);
        let publishers = senders.into_iter().map(|sender| sender.join().unwrap());
        let publishers = publishers.collect();
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
        publishers
    });
    let seen = scene.end(&servers[0]);
    for publisher in publishers {
        seen.has_all(&publisher.name, publisher.acked);
        assert_eq!(publisher.breaks, 0, "{} was closed", publisher.name);
    }
    seen.is_gapless().nobody_left();
    for server in servers {
        assert_eq!(server.count_log("disconnected reason=slow"), 0);
    }
}

/// A POST with these fields, that waits for its answer.
#[track_caller]
fn post(node: &Server, fields: &str, body: &str) -> TcpStream {
    let address = node.addr(HTTP).to_string();
    let mut stream = TcpStream::connect(&address).unwrap();
    let length = body.len();
    let head = format!("POST /lines HTTP/1.1\r\nHost: {address}\r\n{fields}");
    write!(stream, "{head}Content-Length: {length}\r\n\r\n{body}").unwrap();
    stream
}

/// Waits for its answer: so many lines were taken.
#[track_caller]
fn taken(mut stream: TcpStream, lines: u64) {
    let mut answer = String::new();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer:?}");
    let end = format!("{{\"taken\":{lines}}}\n");
    assert!(answer.ends_with(&end), "{answer:?}");
}

#[test]
fn request_is_answered_when_its_lines_are_in_the_stream_whoever_serves_it_then() {
    let Some(nats) = Nats::start() else { return };
    let url = format!("--nats={}", nats.url());
    let node = patient_node(&["--listen=127.0.0.1:0,http", &url]);
    let (mut reader, _) = greet(&node, "role=subscribe");
    let post = |fields: &str, body: &str| post(&node, fields, body);
    taken(post("", "a\n"), 1);
    nats.stop();
    let requests = [post("", "b\nc\n"), post("Idempotency-Key: k\r\n", "d\n")];
    taken(post("", ""), 0);
    for _ in 0..2 {
        exec(&node);
        // Whoever serves now has served somebody.
        taken(post("", ""), 0);
        for request in &requests {
            request.set_nonblocking(true).unwrap();
            let error = request.peek(&mut [0]).expect_err("no answer yet");
            assert_eq!(error.kind(), ErrorKind::WouldBlock);
            request.set_nonblocking(false).unwrap();
        }
    }
    nats.go_on();
    let [plain, with_key] = requests;
    taken(plain, 2);
    taken(with_key, 1);
    let mut data: Vec<_> = (0..4)
        .map(|_| next_message(&mut reader)["data"].to_string())
        .collect();
    data.sort();
    assert_eq!(data, ["\"a\"", "\"b\"", "\"c\"", "\"d\""]);
}

#[test]
fn request_is_answered_whose_lines_have_left_the_stream_before_its_node_heard_of_them() {
    let Some(nats) = Nats::start() else { return };
    let relay = Relay::to(nats.port());
    let start = |url: String| patient_node(&["--listen=127.0.0.1:0,http", "--no-notices", &url]);
    let one = start(format!("--nats={}", relay.url()));
    let two = start(format!("--nats={}", nats.url()));
    let (mut reader, _) = greet(&two, "role=subscribe");
    relay.mute();
    let request = post(&one, "", "a\n");
    assert_eq!(next_message(&mut reader)["data"], "a");
    for _ in 0..50 {
        flood(&two, "s", 100);
    }
    fence(&two);
    nats.keep("main", 10);
    relay.cut(true);
    misses_nats(&one);
    relay.cut(false);
    taken(request, 1);
}

#[test]
fn nats_killed_and_started_again_loses_and_doubles_nothing() {
    let Some(mut nats) = Nats::start() else {
        return;
    };
    let servers = nodes(&nats, 2, &[]);
    while_senders_send(&servers, || {
        for _ in 0..2 {
            nats.kill();
            servers.iter().for_each(misses_nats);
            nats.restart();
            servers.iter().for_each(is_ready);
        }
    });
}

#[test]
fn nats_stopped_for_some_seconds_loses_and_doubles_nothing() {
    let Some(nats) = Nats::start() else { return };
    let servers = nodes(&nats, 2, &[]);
    while_senders_send(&servers, || {
        nats.stop();
        // Nothing tells that it is stopped but that it does not answer.
        servers.iter().for_each(misses_nats);
        // No node hears of another for longer than one that lives is silent.
        std::thread::sleep(2 * GONE);
        nats.go_on();
        servers.iter().for_each(is_ready);
    });
}

#[test]
fn senders_wait_while_nats_is_away_and_clients_stay() {
    let Some(mut nats) = Nats::start() else {
        return;
    };
    let [one, two] = &nodes(&nats, 2, &["--buffer=1MiB"])[..] else {
        unreachable!()
    };
    let mut reader = Client::connect_to(two, PLAIN);
    let mut sender = Client::connect_to(one, PLAIN);
    nats.kill();
    [one, two].into_iter().for_each(misses_nats);
    let mut flood = crate::common::Flood::default();
    let lines = flood.lines(200_000);
    // Its window closes: what it sends is not taken into memory without a bound.
    assert!(!sender.send_unless_blocked(&lines, Duration::from_secs(1)));
    nats.restart();
    [one, two].into_iter().for_each(is_ready);
    reader.lines_until(&format!("New client connected: {}", sender.id()));
    for n in 1..=1000 {
        reader.expect_message(sender.id(), &crate::common::payload(n));
    }
}

#[test]
fn what_was_sent_is_sent_in_smaller_messages_when_nats_takes_no_others() {
    let Some(mut nats) = Nats::start() else {
        return;
    };
    let [one, two] = &nodes(&nats, 2, &["--max-line=1KiB"])[..] else {
        unreachable!()
    };
    let (mut reader, _) = greet(two, "role=subscribe");
    let (mut sender, _) = greet(one, "role=publish");
    sender.send_line("before");
    while super::next_message(&mut reader)["data"] != "before" {}
    nats.stop();
    sender.send_bytes(&super::scene::lines("s", 1..=3000));
    // It is on its way by the time that it is not answered.
    misses_nats(one);
    nats.kill();
    nats.configure("max_payload: 32768");
    nats.restart();
    [one, two].into_iter().for_each(is_ready);
    for n in 1..=3000 {
        let message = super::next_message(&mut reader);
        assert_eq!(message["data"], super::scene::line("s", n));
    }
}

#[test]
fn outage_longer_than_the_duplicate_window_doubles_nothing() {
    let Some(nats) = Nats::start() else { return };
    let relay = Relay::to(nats.port());
    let start = |url: String| patient_node(&[&format!("--nats={url}")]);
    let (one, two) = (start(relay.url()), start(nats.url()));
    nats.edit("main", |config| {
        config.duplicate_window = Duration::from_millis(100)
    });
    while_senders_send(&[two, one], || {
        // What was stored and not answered, because the connection broke, is found in the stream.
        for _ in 0..20 {
            relay.cut(true);
            std::thread::sleep(Duration::from_millis(300));
            relay.cut(false);
            std::thread::sleep(Duration::from_millis(200));
        }
    });
}

#[test]
fn node_that_is_cut_off_says_why_and_catches_up() {
    let Some(nats) = Nats::start() else { return };
    let relay = Relay::to(nats.port());
    let one = launch(&[&format!("--nats={}", relay.url())]).start();
    is_ready(&one);
    let two = super::node(&nats, &[]);
    let (mut at_one, _) = greet(&one, "role=subscribe");
    hears(&mut at_one, &two, "before");
    relay.cut(true);
    misses_nats(&one);
    for n in 0..100 {
        super::say(&two, format!("{n}\n"));
    }
    relay.cut(false);
    is_ready(&one);
    for n in 0..100 {
        assert_eq!(super::next_message(&mut at_one)["data"], n.to_string());
    }
}
