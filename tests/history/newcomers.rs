//! What a newcomer gets first.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::{JSON, RAW, data, expect_numbers, greet, nothing_else_comes, said, start};
use crate::common::{Client, Flood, Server, marker, payload};

#[test]
fn newcomer_gets_the_newest_messages_and_no_old_notices_in_every_format() {
    let server = Server::start(&[
        "--history=1MiB",
        "--listen=127.0.0.1:0,history=3",
        "--listen=127.0.0.1:0,history=3,format=json",
        "--listen=127.0.0.1:0,history=3,format=raw",
    ]);
    // Each is gone when the next comes: what the last one leaves behind is kept, too.
    for line in ["one", "two", "three", "four"] {
        let mut client = Client::dial(server.addr(0));
        client.send_line(line);
        client.finish();
        client.lines_to_eof();
    }
    let mut text = Client::connect_to(&server, 0);
    for (id, line) in [(2, "two"), (3, "three"), (4, "four")] {
        text.expect_message(id, line);
    }
    let mut json = Client::connect_to(&server, 1);
    text.expect_line(&format!("New client connected: {}", json.id()));
    let past: Vec<_> = (0..3).map(|_| json.read_json()).collect();
    assert_eq!(
        past.iter().map(data).collect::<Vec<_>>(),
        ["two", "three", "four"]
    );
    let mut raw = Client::connect_to(&server, 2);
    for line in ["two", "three", "four"] {
        raw.expect_line(line);
    }
    text.expect_line(&format!("New client connected: {}", raw.id()));
    assert_eq!(json.read_json()["client"], raw.id());
    marker(&mut raw, &mut text);
    text.send_line("said");
    raw.expect_line("said");
}

#[test]
fn hello_asks_for_messages_bytes_or_time_instead_of_what_the_listener_gives() {
    let server = Server::start(&[
        "--history=1MiB",
        "--no-notices",
        "--listen=127.0.0.1:0",
        "--listen=127.0.0.1:0,hello,format=json,history=2",
        "--listen=127.0.0.1:0,hello,format=raw",
        "--listen=127.0.0.1:0",
    ]);
    said(&server, "one\ntwo\n");
    said(&server, "\nthree\nfour\nfive\n");
    let all = ["one", "two", "", "three", "four", "five"];
    for (asked, count) in [
        ("", 2),
        ("history=0", 0),
        ("history=1", 1),
        ("history=4", 4),
        ("history=6", 6),
        ("history=1000000", 6),
        ("history=4B", 0),
        ("history=5B", 1),
        ("history=15B", 2),
        ("history=16B", 3),
        ("history=17B", 4),
        ("history=20B", 4),
        ("history=21B", 5),
        ("history=1MiB", 6),
        ("history=1h", 6),
        ("since=1h", 6),
    ] {
        let (mut client, answer) = greet(&server, asked);
        let first = 6 - count as u64;
        assert_eq!(answer["seq"], first, "{asked}");
        assert_eq!(answer.get("recovered"), None);
        let past = expect_numbers(&mut client, first + 1..=6);
        let past: Vec<_> = past.iter().map(data).collect();
        assert_eq!(past, all[all.len() - count..], "{asked}");
    }
    let (mut client, _) = greet(&server, "history=3");
    expect_numbers(&mut client, 4..=6);
    nothing_else_comes(&server, &mut client);
}

/// What is published meanwhile comes from the history, from the buffer, or from both, one after the other.
#[test]
fn thousand_newcomers_at_random_moments_of_a_flood_miss_and_double_nothing() {
    const THREADS: u64 = 8;
    const EACH: u64 = 125;
    const LIVE: u64 = 150;
    let server = start(&["--history=8MiB", "--buffer=1MiB", "--no-notices"]);
    said(&server, Flood::default().lines(1000));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let flood = scope.spawn(|| {
            let mut sender = Client::dial(server.addr(RAW));
            sender.send_line("LINEHUB/1 role=publish");
            let mut flood = Flood { sent: 1000 };
            while !done.load(Relaxed) {
                flood.send(&mut sender, 200);
            }
            flood.sent
        });
        let newcomers = |thread: u64| {
            let mut rng = fastrand::Rng::with_seed(thread);
            for _ in 0..EACH {
                let newest = rng.u64(0..1000);
                let (words, count) = (format!("history={newest}"), newest + LIVE);
                if rng.bool() {
                    let words = words + " role=subscribe";
                    let (mut client, answer) = greet(&server, &words);
                    let first = answer["seq"].as_u64().unwrap() + 1;
                    for event in expect_numbers(&mut client, first..first + count) {
                        assert_eq!(data(&event), payload(event["seq"].as_u64().unwrap()));
                    }
                } else {
                    let mut client = Client::dial(server.addr(RAW));
                    client.send_line(&format!("LINEHUB/1 {words}"));
                    let first = client.read_line();
                    let first: u64 = first.split(' ').next().unwrap().parse().unwrap();
                    for n in first + 1..first + count {
                        client.expect_line(&payload(n));
                    }
                }
            }
        };
        let threads: Vec<_> = (0..THREADS)
            .map(|n| scope.spawn(move || newcomers(n)))
            .collect();
        let ended: Vec<_> = threads.into_iter().map(|thread| thread.join()).collect();
        done.store(true, Relaxed);
        let sent = flood.join().unwrap();
        assert!(ended.iter().all(Result::is_ok));
        println!("{sent} lines");
    });
    assert_eq!(server.count_log("client disconnected reason=slow"), 0);
    let _ = JSON;
}
