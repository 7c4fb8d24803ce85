//! Readers that come late or come back, at whatever node.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use serde_json::{Value, json};

use super::scene::{fence, flood, line};
use super::{JSON, LISTENERS, greet, hears, is_ready, misses_nats, next_message, node, nodes, say};
use crate::common::nats::Nats;
use crate::common::{Client, Launch, Server, eventually, exec};

/// A client of `json` that goes on behind this number, and what it is told.
#[track_caller]
fn resume(server: &Server, epoch: &Value, seq: u64) -> (Client, Value) {
    let epoch = epoch.as_str().expect("an epoch");
    greet(server, &format!("role=subscribe since={epoch}:{seq}"))
}

/// A node that has other options than most, once it serves.
#[track_caller]
fn few(nats: &Nats, args: &[&str]) -> Server {
    let url = format!("--nats={}", nats.url());
    let args = [&LISTENERS, args, &["--admin=127.0.0.1:0", &url]].concat();
    let server = Launch::new(&args).shared().start();
    is_ready(&server);
    server
}

#[test]
fn reader_goes_on_at_another_node_without_a_gap_and_with_notices() {
    let Some(nats) = Nats::start() else { return };
    let [one, two] = &nodes(&nats, 2, &[])[..] else {
        unreachable!()
    };
    let (mut reader, answer) = greet(one, "role=subscribe");
    for n in 1..=10 {
        say([one, two][n % 2], format!("{n}\n"));
    }
    let mut seen = Vec::new();
    while seen
        .last()
        .is_none_or(|event: &Value| event["data"] != "10")
    {
        seen.push(reader.read_json());
    }
    // One that starts now knows of it what the stream does.
    let three = node(&nats, &[]);
    for server in [one, two, &three] {
        for (at, event) in seen.iter().enumerate() {
            let seq = event["seq"].as_u64().unwrap();
            let (mut client, told) = resume(server, &answer["epoch"], seq);
            assert_eq!(
                (&told["recovered"], &told["seq"]),
                (&json!(true), &json!(seq))
            );
            // It sees that the first reader came, which that one itself does not.
            let mut next = || loop {
                let event = client.read_json();
                if event["client"] != reader.id() {
                    return event;
                }
            };
            for wanted in &seen[at + 1..] {
                assert_eq!(next(), *wanted);
            }
        }
    }
}

#[test]
fn newcomer_with_history_gets_the_same_newest_lines_at_all_nodes() {
    let Some(nats) = Nats::start() else { return };
    let one = node(&nats, &[]);
    flood(&one, "s", 1000);
    let two = node(&nats, &[]);
    let mut readers = [&one, &two].map(|server| greet(server, "").0);
    say(&two, "last\n");
    for reader in &mut readers {
        while next_message(reader)["data"] != "last" {}
    }
    for server in [&one, &two] {
        // Behind them come the end of the flood, and the last line.
        for count in [1, 2, 10, 1002, 5000] {
            let (mut reader, _) = greet(server, &format!("role=subscribe history={count}"));
            let messages = 1002.min(count);
            for n in 1002 - messages + 1..=1000 {
                assert_eq!(reader.read_json()["data"], line("s", n), "history={count}");
            }
            if messages > 1 {
                let end = reader.read_json();
                assert!(end["data"].as_str().unwrap().starts_with("fence"), "{end}");
            }
            assert_eq!(reader.read_json()["data"], "last");
        }
    }
}

#[test]
fn newcomers_during_a_flood_from_another_node_miss_and_double_nothing() {
    let Some(nats) = Nats::start() else { return };
    let [one, two] = &nodes(&nats, 2, &["--no-notices"])[..] else {
        unreachable!()
    };
    std::thread::scope(|scope| {
        scope.spawn(|| flood(one, "s", 20_000));
        for _ in 0..20 {
            let (mut reader, answer) = greet(two, "role=subscribe history=1000000");
            let first = answer["seq"].as_u64().unwrap();
            assert_eq!(first, 0, "all is kept");
            for n in 1..=500 {
                let event = reader.read_json();
                assert_eq!(
                    (&event["seq"], &event["data"]),
                    (&json!(n), &json!(line("s", n)))
                );
            }
        }
    });
}

#[test]
fn reader_that_is_cut_again_and_again_and_goes_from_node_to_node_gets_each_line_once() {
    let Some(nats) = Nats::start() else { return };
    let servers = nodes(&nats, 3, &["--no-notices"]);
    let (_, answer) = greet(&servers[0], "role=subscribe");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let sent = scope.spawn(|| {
            let mut client = Client::dial(servers[0].addr(super::RAW));
            client.send_line("LINEHUB/1 role=publish");
            let mut sent = 0;
            while !done.load(Relaxed) && sent < 200_000 {
                client.send_bytes(&super::scene::lines("s", sent + 1..=sent + 100));
                sent += 100;
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            client.finish();
            client.lines_to_eof();
            sent
        });
        let mut rng = fastrand::Rng::with_seed(15);
        let mut last = 0;
        for _ in 0..40 {
            let server = &servers[rng.usize(..3)];
            // A node may be behind another, and then it does not know this place yet.
            let mut found = None;
            eventually("it catches up", || {
                let (client, told) = resume(server, &answer["epoch"], last);
                let is_there = told["recovered"] == true;
                found = is_there.then_some((client, told));
                is_there
            });
            let (mut client, told) = found.unwrap();
            assert_eq!(told["seq"], last);
            let read = client.read_bytes(rng.usize(1..50_000));
            let end = memchr::memrchr(b'\n', &read).map_or(0, |at| at + 1);
            for text in String::from_utf8(read[..end].to_vec()).unwrap().lines() {
                let event: Value = serde_json::from_str(text).unwrap();
                last += 1;
                assert_eq!(
                    (&event["seq"], &event["data"]),
                    (&json!(last), &json!(line("s", last)))
                );
            }
        }
        done.store(true, Relaxed);
        let sent = sent.join().unwrap();
        assert!(last <= sent);
    });
}

#[test]
fn what_is_not_in_the_stream_any_more_is_counted_at_every_node() {
    let Some(nats) = Nats::start() else { return };
    let servers = nodes(&nats, 2, &["--no-notices"]);
    let (_, answer) = greet(&servers[0], "role=subscribe");
    for k in 0..50 {
        flood(&servers[k % 2], "s", 100);
    }
    hears(
        &mut greet(&servers[1], "role=subscribe").0,
        &servers[0],
        "before",
    );
    nats.keep("main", 10);
    let three = node(&nats, &["--no-notices"]);
    hears(&mut greet(&three, "").0, &servers[0], "last");
    // Each flood ends with one line more.
    let before_last = 50 * 101 + 1;
    // The others still have what the stream has not.
    for (server, missed) in [(&servers[0], 0), (&servers[1], 0), (&three, before_last)] {
        let (mut client, told) = resume(server, &answer["epoch"], 0);
        let wanted = json!([missed == 0, missed]);
        assert_eq!(json!([told["recovered"], told["seq"]]), wanted, "{told}");
        if missed > 0 {
            let skip = json!({"event": "skip", "count": missed});
            assert_eq!(client.read_json(), skip);
        }
        for seq in missed + 1..=before_last + 1 {
            assert_eq!(client.read_json()["seq"], seq);
        }
    }
}

#[test]
fn most_of_what_a_full_stream_has_can_be_gone_on_from() {
    /// Of 60 KiB: a stream of 16 MiB has room for 270 of them.
    const LINES: u64 = 400;
    let Some(nats) = Nats::start() else { return };
    let small = ["--history=1MiB", "--no-notices"];
    let one = few(&nats, &small);
    let (_, answer) = greet(&one, "role=subscribe");
    let mut sender = Client::dial(one.addr(super::RAW));
    sender.send_line("LINEHUB/1 role=publish");
    for n in 1..=LINES {
        sender.send_line(&format!("{n} {}", "x".repeat(60 * 1024)));
        // Not all at once, in a few batches.
        if n % 4 == 0 {
            fence(&one);
        }
        if n % 100 == 0 {
            let at = n + n / 4;
            let wanted = at.saturating_sub(230);
            let (mut reader, told) = resume(&one, &answer["epoch"], wanted);
            assert_eq!(
                (&told["recovered"], &told["seq"]),
                (&json!(true), &json!(wanted))
            );
            assert_eq!(reader.read_json()["seq"], wanted + 1);
        }
    }
    sender.finish();
    sender.lines_to_eof();
    let (_, told) = resume(
        &few(&nats, &small),
        &answer["epoch"],
        LINES + LINES / 4 - 230,
    );
    assert_eq!(told["recovered"], true, "{told}");
}

#[test]
fn place_of_another_epoch_is_not_recovered() {
    let Some(nats) = Nats::start() else { return };
    let server = node(&nats, &[]);
    say(&server, "line\n");
    let (_, told) = resume(&server, &json!("00000001"), 1);
    assert_eq!(told["recovered"], false);
    let mut client = Client::dial(server.addr(JSON));
    client.send_line("LINEHUB/1 since=5m role=subscribe");
    assert_eq!(client.read_json()["event"], "hello");
    assert_eq!(next_message(&mut client)["data"], "line");
}

#[test]
fn who_comes_behind_a_handover_without_nats_gets_what_the_stream_has_when_it_is_back() {
    let Some(mut nats) = Nats::start() else {
        return;
    };
    let server = node(&nats, &["--no-notices"]);
    let (_, answer) = greet(&server, "role=subscribe");
    flood(&server, "s", 100);
    nats.kill();
    misses_nats(&server);
    exec(&server);
    let epoch = answer["epoch"].as_str().unwrap();
    let ask = |words: &str| {
        let mut client = Client::dial(server.addr(JSON));
        client.send_line(&format!("LINEHUB/1 role=subscribe {words}"));
        client
    };
    // At the end, nothing is missing.
    let end = ask(&format!("since={epoch}:101")).read_json();
    assert_eq!(
        (&end["recovered"], &end["seq"]),
        (&json!(true), &json!(101))
    );
    let mut late = [
        (ask(&format!("since={epoch}:50")), 50),
        (ask("history=10"), 91),
    ];
    nats.restart();
    for (client, seq) in &mut late {
        let told = client.read_json();
        assert_eq!(told["seq"], *seq, "{told}");
        for seq in *seq + 1..=100 {
            assert_eq!(client.read_json()["data"], line("s", seq));
        }
    }
}
