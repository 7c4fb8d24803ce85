//! `--slow-client catch-up`: who is behind reads on from the history, and holds nobody up.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::{JSON, PLAIN, RAW, data, start};
use crate::common::http::get_json;
use crate::common::{Client, Event, Flood, PATIENCE, Server, eventually, payload};

/// Lines a chunk: about 200 KiB, so that a reader who has the chunk before is within any buffer here.
const CHUNK: u64 = 2000;

/// More lines than the buffer, a reader's kernel and the sender's hold together.
const BEYOND_THE_KERNEL: u64 = 60_000;

/// A daemon with a buffer that is soon full, and nobody is waited for in it.
#[track_caller]
fn start_full(args: &[&str]) -> Server {
    let common = [
        "--slow-client=catch-up",
        "--slow-grace=0",
        "--buffer=1MiB",
        "--no-notices",
        "--admin=127.0.0.1:0",
    ];
    start(&[&common, args].concat())
}

/// Sends chunks of numbered lines up to this one; a reader takes each before the next is sent.
fn paced(sender: &mut Client, reader: &mut Client, flood: &mut Flood, to: u64) {
    while flood.sent < to {
        let next = flood.sent + 1;
        flood.send(sender, CHUNK);
        Flood::expect(reader, sender.id(), next, flood.sent);
    }
}

/// Waits until so many read from the history.
#[track_caller]
fn wait_readers(server: &Server, readers: usize) {
    let admin = server.admin();
    eventually("they read from the history", || {
        let status = get_json(&admin, "/status");
        status["channels"][0]["history"]["readers"] == readers
    });
}

#[test]
fn readers_that_stop_crawl_and_recover_lose_nothing_and_hold_nobody_up() {
    // The crawling ones are read on last, however long the others take.
    let server = start_full(&["--history=256MiB", "--stall-timeout=off"]);
    let mut sender = Client::connect_to(&server, PLAIN);
    let mut fast = Client::connect_to(&server, PLAIN);
    let id = sender.id();
    let mut stopped: Vec<_> = (0..3)
        .map(|_| Client::connect_stuck(&server, PLAIN))
        .collect();
    let mut crawling: Vec<_> = (0..3)
        .map(|_| Client::connect_stuck(&server, PLAIN))
        .collect();
    let mut raw = Client::dial_stuck(server.addr(RAW));
    raw.send_line("LINEHUB/1 role=subscribe");
    let mut json = Client::dial_stuck(server.addr(JSON));
    json.send_line("LINEHUB/1 role=subscribe");
    assert_eq!(json.read_json()["event"], "hello");
    // In raw, nothing says that it is a client.
    server.wait_log_count("client connected", 10);
    let mut flood = Flood::default();
    let mut crawled = 0;
    while flood.sent < 2 * BEYOND_THE_KERNEL {
        let to = flood.sent + CHUNK;
        paced(&mut sender, &mut fast, &mut flood, to);
        for reader in &mut crawling {
            Flood::expect(reader, id, crawled + 1, crawled + 100);
        }
        crawled += 100;
    }
    // All are in the past, as their kernels do not take so much.
    wait_readers(&server, 8);
    for client in stopped.iter().chain(&crawling).chain([&raw, &json]) {
        client.wake();
    }
    // They catch up while more comes, and are live in the end.
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let more = scope.spawn(|| {
            while !done.load(Relaxed) {
                let to = flood.sent + CHUNK;
                paced(&mut sender, &mut fast, &mut flood, to);
            }
            sender.send_line("end");
        });
        let sent = 2 * BEYOND_THE_KERNEL;
        for n in 1..=sent {
            raw.expect_line(&payload(n));
            assert_eq!(data(&json.read_json()), payload(n));
        }
        for reader in &mut stopped {
            Flood::expect(reader, id, 1, sent);
        }
        done.store(true, Relaxed);
        more.join().unwrap();
    });
    let sent = flood.sent;
    for reader in &mut stopped {
        Flood::expect(reader, id, 2 * BEYOND_THE_KERNEL + 1, sent);
        reader.expect_message(id, "end");
    }
    for reader in &mut crawling {
        Flood::expect(reader, id, crawled + 1, sent);
        reader.expect_message(id, "end");
    }
    for n in 2 * BEYOND_THE_KERNEL + 1..=sent {
        raw.expect_line(&payload(n));
        assert_eq!(data(&json.read_json()), payload(n));
    }
    raw.expect_line("end");
    assert_eq!(data(&json.read_json()), "end");
    fast.expect_message(id, "end");
    wait_readers(&server, 0);
    assert_eq!(server.count_log("client disconnected"), 0);
}

/// Own lines are in the history, too; whoever is behind gets them with `--echo` alone.
#[test]
fn who_is_behind_gets_its_own_lines_with_echo_alone() {
    for echo in [false, true] {
        let mut args = vec!["--history=256MiB"];
        args.extend(echo.then_some("--echo"));
        let server = start_full(&args);
        let mut sender = Client::dial(server.addr(RAW));
        sender.send_line("LINEHUB/1 role=publish");
        let mut fast = Client::dial(server.addr(RAW));
        fast.send_line("LINEHUB/1 role=subscribe");
        let mut behind = Client::connect_stuck(&server, PLAIN);
        server.wait_log_count("client connected", 3);
        let own = format!("Message from client {}: own-", behind.id());
        let mut flood = Flood::default();
        let mut all = Vec::new();
        for n in 0..60 {
            flood.send(&mut sender, CHUNK / 2);
            behind.send_line(&format!("own-{n}"));
            flood.send(&mut sender, CHUNK / 2);
            for _ in 0..=CHUNK {
                all.push(fast.read_line());
            }
        }
        wait_readers(&server, 1);
        sender.send_line("end");
        assert_eq!(fast.read_line(), "end");
        behind.wake();
        let is_own = |line: &&String| line.starts_with("own-");
        assert_eq!(all.iter().filter(is_own).count(), 60);
        for line in all.iter().filter(|line| echo || !is_own(line)) {
            let seen = behind.read_line();
            assert!(seen.ends_with(&format!(": {line}")), "{seen}, not {line}");
            assert_eq!(seen.starts_with(&own), is_own(&line));
        }
        assert!(behind.read_line().ends_with(": end"));
    }
}

#[test]
fn what_has_left_the_history_is_told_as_a_skip_with_its_exact_number() {
    let server = start_full(&["--history=256KiB"]);
    let mut sender = Client::connect_to(&server, PLAIN);
    let mut fast = Client::connect_to(&server, PLAIN);
    let id = sender.id();
    let mut text = Client::connect_stuck(&server, PLAIN);
    let mut json = Client::dial_stuck(server.addr(JSON));
    json.send_line("LINEHUB/1 role=subscribe");
    assert_eq!(json.read_json()["event"], "hello");
    let mut raw = Client::dial_stuck(server.addr(RAW));
    raw.send_line("LINEHUB/1 role=subscribe");
    server.wait_log_count("client connected", 5);
    let mut flood = Flood::default();
    paced(&mut sender, &mut fast, &mut flood, BEYOND_THE_KERNEL);
    sender.send_line("end");
    fast.expect_message(id, "end");
    for client in [&text, &json, &raw] {
        client.wake();
    }
    let (mut next, mut skipped) = (1, 0);
    loop {
        let line = text.read_line();
        if let Some(rest) = line.strip_prefix("Skipped ") {
            let count: u64 = rest.strip_suffix(" messages").unwrap().parse().unwrap();
            assert!(count > 0);
            (next, skipped) = (next + count, skipped + count);
            continue;
        }
        let line = line.split_once(": ").unwrap().1;
        if line == "end" {
            break;
        }
        assert_eq!(line, payload(next));
        next += 1;
    }
    assert_eq!(next, flood.sent + 1);
    assert!(skipped > 0);
    let (mut next, mut skipped) = (1, 0);
    loop {
        let event = json.read_json();
        if event["event"] == "skip" {
            skipped += event["count"].as_u64().unwrap();
            next += event["count"].as_u64().unwrap();
            continue;
        }
        assert_eq!(event["seq"], next);
        if data(&event) == "end" {
            break;
        }
        assert_eq!(data(&event), payload(next));
        next += 1;
    }
    assert_eq!(next, flood.sent + 1);
    assert!(skipped > 0);
    // Raw cannot be told: whole lines, in order, up to the last.
    let mut last = 0;
    loop {
        let line = raw.read_line();
        if line == "end" {
            break;
        }
        let n: u64 = line.split(' ').next().unwrap().parse().unwrap();
        assert!(n > last);
        assert_eq!(line, payload(n));
        last = n;
    }
    assert_eq!(last, flood.sent);
    assert_eq!(server.count_log("client disconnected"), 0);
}

#[test]
fn who_takes_nothing_from_the_history_either_is_closed_as_stalled() {
    let server = start_full(&["--history=256MiB", "--stall-timeout=1s"]);
    let mut sender = Client::connect_to(&server, PLAIN);
    let mut fast = Client::connect_to(&server, PLAIN);
    let mut stuck = Client::connect_stuck(&server, PLAIN);
    let mut flood = Flood::default();
    let stalled = "client disconnected client=3 reason=stalled";
    while server.count_log(stalled) == 0 {
        let to = flood.sent + CHUNK;
        paced(&mut sender, &mut fast, &mut flood, to);
    }
    assert!(Flood::expect_prefix(&mut stuck, sender.id()).0 < flood.sent);
    assert_eq!(server.count_log("client disconnected"), 1);
    wait_readers(&server, 0);
}

#[test]
fn who_shuts_its_sending_side_while_behind_gets_what_came_before_and_is_closed() {
    let server = start_full(&["--history=256MiB"]);
    let mut sender = Client::connect_to(&server, PLAIN);
    let mut fast = Client::connect_to(&server, PLAIN);
    let mut leaver = Client::connect_stuck(&server, PLAIN);
    let mut flood = Flood::default();
    paced(&mut sender, &mut fast, &mut flood, BEYOND_THE_KERNEL);
    wait_readers(&server, 1);
    leaver.send_bytes(b"bye");
    leaver.finish();
    fast.expect_message(leaver.id(), "bye");
    let owed = flood.sent;
    // Long after its end.
    paced(&mut sender, &mut fast, &mut flood, 2 * BEYOND_THE_KERNEL);
    leaver.wake();
    let (seen, error) = Flood::expect_prefix(&mut leaver, sender.id());
    assert_eq!(error, None);
    assert!(seen >= owed && seen < flood.sent, "{seen} of {owed}");
    server.wait_log("client disconnected reason=eof");
}

/// One client of `text` that is behind, in a daemon that stops then; what it is owed.
fn behind_at_a_stop(drain_timeout: &str) -> (Server, Client, u64, u64) {
    let server = start_full(&["--history=256MiB", drain_timeout]);
    let mut sender = Client::connect_to(&server, PLAIN);
    let mut fast = Client::connect_to(&server, PLAIN);
    let behind = Client::connect_stuck(&server, PLAIN);
    let mut flood = Flood::default();
    paced(&mut sender, &mut fast, &mut flood, BEYOND_THE_KERNEL);
    wait_readers(&server, 1);
    server.signal(Signal::TERM);
    server.wait_log("phase=draining");
    fast.expect_line("Server shutting down");
    (server, behind, sender.id(), flood.sent)
}

#[test]
fn who_is_behind_when_the_daemon_stops_gets_the_rest_and_is_told() {
    let (mut server, mut behind, id, sent) = behind_at_a_stop("--drain-timeout=30s");
    behind.wake();
    Flood::expect(&mut behind, id, 1, sent);
    behind.expect_line("Server shutting down");
    behind.expect_eof();
    drop(behind);
    assert_eq!(server.wait_exit(PATIENCE).code(), Some(0));
}

#[test]
fn who_stays_behind_when_the_daemon_stops_is_cut_at_the_drain_timeout() {
    let (mut server, mut behind, id, sent) = behind_at_a_stop("--drain-timeout=300ms");
    let begun = Instant::now();
    assert_eq!(server.wait_exit(PATIENCE).code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(10));
    assert!(Flood::expect_prefix(&mut behind, id).0 < sent);
}

/// What is said to one that is behind alone comes between whole lines.
#[test]
fn answers_of_telnet_and_a_close_notice_come_between_whole_lines_of_the_past() {
    const ANSWER: &[u8] = b"\xff\xfc\x06";
    let server = start_full(&["--history=256MiB", "--max-line=1000", "--stall-timeout=off"]);
    let mut sender = Client::connect_to(&server, PLAIN);
    let mut fast = Client::connect_to(&server, PLAIN);
    let mut telnet = Client::connect_stuck(&server, PLAIN);
    let mut flood = Flood::default();
    let mut asked = 0;
    while flood.sent < 2 * BEYOND_THE_KERNEL {
        let to = flood.sent + CHUNK;
        paced(&mut sender, &mut fast, &mut flood, to);
        telnet.send_bytes(b"\xff\xfd\x06");
        asked += 1;
    }
    wait_readers(&server, 1);
    telnet.wake();
    let (mut next, mut answers) = (1, 0);
    let mut expect = |line: &[u8]| {
        let mut line = line;
        while let Some(rest) = line.strip_prefix(ANSWER) {
            (line, answers) = (rest, answers + 1);
        }
        let wanted = format!("Message from client {}: {}", sender.id(), payload(next));
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let is_next = line == wanted.as_bytes();
        next += u64::from(is_next);
        is_next
    };
    for _ in 0..BEYOND_THE_KERNEL {
        let line = telnet.read_line_bytes();
        assert!(expect(&line), "{}", line.escape_ascii());
    }
    // In the middle of all that, it is closed for what it says.
    telnet.send_bytes(&[b'x'; 2000]);
    loop {
        match telnet.next() {
            Event::Line(line) if expect(&line) => {}
            Event::Line(line) => {
                let line = String::from_utf8_lossy(&line).into_owned();
                assert!(line.starts_with("Error: line too long"), "{line}");
            }
            Event::Eof(rest) => {
                assert_eq!(rest, b"");
                break;
            }
            Event::Reset => panic!("reset"),
        }
    }
    assert_eq!(next, flood.sent + 1, "it gets all it was owed");
    assert_eq!(answers, asked);
}
