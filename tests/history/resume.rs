//! Clients that come back, and say where they were.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use serde_json::{Value, json};

use super::{JSON, RAW, TEXT, data, expect_numbers, greet, nothing_else_comes, said, start};
use crate::common::http::get_json;
use crate::common::{Client, Event, Flood, Server, payload};

/// The epoch, and the last number that was given.
#[track_caller]
fn head(server: &Server) -> (String, u64) {
    let (mut client, answer) = greet(server, "role=subscribe");
    // It comes and goes, which is two numbers where there are notices.
    client.finish();
    client.lines_to_eof();
    let seq = answer["seq"].as_u64().unwrap();
    (answer["epoch"].as_str().unwrap().to_owned(), seq)
}

/// A client of `json` that goes on behind this place, what it is told of that, and the number before what follows.
#[track_caller]
fn resume(server: &Server, place: impl std::fmt::Display, more: &str) -> (Client, bool, u64) {
    let (client, answer) = greet(server, &format!("since={place} {more}"));
    let recovered = answer["recovered"].as_bool().expect("recovered");
    (client, recovered, answer["seq"].as_u64().unwrap())
}

#[test]
fn place_in_what_is_kept_is_gone_on_behind_and_any_other_is_not() {
    let server = start(&["--history=1MiB", "--no-notices"]);
    // One read, one batch: places in the middle of it, too.
    said(&server, "1\n2\n3\n4\n5\n6\n7\n8\n");
    said(&server, "9\n");
    let (epoch, head) = head(&server);
    assert_eq!(head, 9);
    for seq in 0..=head {
        let (mut client, recovered, at) = resume(&server, format!("{epoch}:{seq}"), "history=2");
        assert!(recovered);
        assert_eq!(at, seq);
        for event in expect_numbers(&mut client, seq + 1..=head) {
            assert_eq!(data(&event), event["seq"].to_string());
        }
    }
    let other = if epoch == "00000001" {
        "00000002"
    } else {
        "00000001"
    };
    let unknown = [
        format!("{epoch}:{}", head + 1),
        format!("{epoch}:{}", u64::MAX),
        format!("{other}:3"),
    ];
    for place in &unknown {
        let (mut client, recovered, at) = resume(&server, place, "");
        assert!(!recovered, "{place}");
        assert_eq!(at, head);
        // And the newest, if it asks for that.
        let (mut newest, recovered, at) = resume(&server, place, "history=2");
        assert!(!recovered, "{place}");
        assert_eq!(at, head - 2);
        expect_numbers(&mut newest, head - 1..=head);
        drop(newest);
        let mut text = Client::dial(server.addr(TEXT));
        text.send_line(&format!("LINEHUB/1 since={place} role=subscribe"));
        let answer = text.read_line();
        assert!(
            answer.ends_with(&format!(" at {epoch}:{head}, not recovered")),
            "{answer}"
        );
        drop(text);
        client.finish();
        client.lines_to_eof();
    }
    let mut text = Client::dial(server.addr(TEXT));
    text.send_line(&format!("LINEHUB/1 since={epoch}:8"));
    let answer = text.read_line();
    assert!(
        answer.ends_with(&format!(" at {epoch}:8, recovered")),
        "{answer}"
    );
    assert!(text.read_line().ends_with(": 9"));
    let (mut last, ..) = resume(&server, format!("{epoch}:{head}"), "");
    nothing_else_comes(&server, &mut last);
}

#[test]
fn place_that_is_none_is_refused() {
    let server = start(&["--history=1MiB"]);
    for place in [
        "",
        "x",
        "12345678",
        "1234567:1",
        "12345678:-1",
        "12345678:1x",
        "0s",
        "11y",
    ] {
        let mut client = Client::dial(server.addr(TEXT));
        client.send_line(&format!("LINEHUB/1 since={place}"));
        let error = client.read_line();
        assert!(
            error.starts_with("Error: ") && error.contains("\"since\""),
            "{error}"
        );
        client.expect_eof();
    }
}

#[test]
fn who_comes_back_gets_the_notices_too_as_they_were() {
    let server = start(&["--history=1MiB"]);
    let (mut watcher, answer) = greet(&server, "");
    let epoch = answer["epoch"].as_str().unwrap().to_owned();
    for lines in ["one\n", "two\nthree\n", ""] {
        said(&server, lines);
    }
    // Its own connect notice is 1.
    let seen = expect_numbers(&mut watcher, 2..=10);
    for place in 1..=10 {
        let (mut client, recovered, at) = resume(&server, format!("{epoch}:{place}"), "");
        assert!(recovered);
        assert_eq!(at, place);
        let rest: Vec<Value> = seen.iter().skip(place as usize - 1).cloned().collect();
        assert_eq!(expect_numbers(&mut client, place + 1..=10), rest);
        let own = watcher.read_json();
        assert_eq!(own["event"], "connect");
        client.finish();
        // Those who came and went since are in what it gets, but not itself.
        let others = client.lines_to_eof();
        assert_eq!(others.len() as u64, 2 * (place - 1));
        assert_eq!(watcher.read_json()["client"], own["client"]);
    }
}

#[test]
fn what_is_not_kept_any_more_is_counted_and_all_that_is_follows() {
    let server = start(&["--history=64KiB", "--no-notices"]);
    let mut flood = Flood::default();
    while flood.sent < 5000 {
        said(&server, flood.lines(100));
    }
    let (epoch, head) = head(&server);
    assert_eq!(head, 5000);
    let mut oldest = 0;
    for place in [0, 1, 77, 100] {
        let (mut client, recovered, at) = resume(&server, format!("{epoch}:{place}"), "");
        assert!(!recovered);
        assert_eq!(
            client.read_json(),
            json!({"event": "skip", "count": at - place})
        );
        for event in expect_numbers(&mut client, at + 1..=head) {
            assert_eq!(data(&event), payload(event["seq"].as_u64().unwrap()));
        }
        oldest = at + 1;
        let mut text = Client::dial(server.addr(TEXT));
        text.send_line(&format!("LINEHUB/1 since={epoch}:{place}"));
        assert!(text.read_line().ends_with(", not recovered"));
        text.expect_line(&format!("Skipped {} messages", at - place));
    }
    assert!(oldest > 1000 && oldest < head, "{oldest}");
    for (place, is_kept) in [(oldest - 1, true), (oldest, true), (oldest - 2, false)] {
        let (_client, recovered, at) = resume(&server, format!("{epoch}:{place}"), "");
        assert_eq!((recovered, at), (is_kept, place.max(oldest - 1)));
    }
}

/// What comes between the answer and the first that it is about is in no history yet: who comes is announced there.
#[test]
fn what_is_pushed_out_by_who_comes_back_is_told_before_anything_else() {
    let server = start(&["--history=64KiB", "--admin=127.0.0.1:0"]);
    let line = "x".repeat(1000);
    for _ in 0..60 {
        said(&server, format!("{line}\n"));
    }
    let (epoch, _) = head(&server);
    let mut were_recovered = Vec::new();
    for _ in 0..40 {
        let status = get_json(&server.admin(), "/status");
        let oldest = status["channels"][0]["history"]["oldest_seq"]
            .as_u64()
            .unwrap();
        let place = format!("{epoch}:{}", oldest - 1);
        let (mut client, recovered, at) = resume(&server, place, "role=subscribe");
        assert_eq!(recovered, at == oldest - 1, "{at} behind {}", oldest - 1);
        let mut first = client.read_json();
        if first["event"] == "skip" {
            assert!(!recovered, "{first}");
            first = client.read_json();
        }
        assert_eq!(first["seq"], at + 1, "{first}");
        were_recovered.push(recovered);
    }
    assert!(were_recovered.contains(&false), "{were_recovered:?}");
}

#[test]
fn who_comes_back_when_nothing_is_kept_any_more_is_told_how_much_it_missed() {
    let server = start(&["--history=64KiB", "--history-age=300ms", "--no-notices"]);
    said(&server, "1\n2\n3\n");
    let (epoch, head) = head(&server);
    assert_eq!(head, 3);
    // Nothing says when that is but the answer.
    crate::common::eventually("the lines expire", || {
        let (mut client, recovered, at) = resume(&server, format!("{epoch}:1"), "");
        if recovered {
            return false;
        }
        assert_eq!(at, head);
        assert_eq!(client.read_json(), json!({"event": "skip", "count": 2}));
        nothing_else_comes(&server, &mut client);
        true
    });
}

/// Whole lines of a connection that is cut at some byte.
fn lines_before_cut(client: &mut Client, bytes: usize) -> Vec<String> {
    let read = client.read_bytes(bytes);
    let end = memchr::memrchr(b'\n', &read).map_or(0, |at| at + 1);
    let lines = String::from_utf8(read[..end].to_vec()).unwrap();
    lines.lines().map(str::to_owned).collect()
}

#[test]
fn reader_whose_connection_is_cut_again_and_again_gets_each_line_once() {
    const ROUNDS: usize = 60;
    let server = start(&["--history=256MiB", "--buffer=1MiB", "--no-notices"]);
    let (_, answer) = greet(&server, "");
    let epoch = answer["epoch"].as_str().unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let server = &server;
        let flood = scope.spawn(|| {
            let mut sender = Client::dial(server.addr(RAW));
            sender.send_line("LINEHUB/1 role=publish");
            let mut flood = Flood::default();
            while !done.load(Relaxed) && flood.sent < 1_000_000 {
                flood.send(&mut sender, 100);
            }
            sender.finish();
            assert_eq!(sender.next(), Event::Eof(Vec::new()));
            flood.sent
        });
        let mut rng = fastrand::Rng::with_seed(15);
        let mut last = 0;
        let read_on = |last: &mut u64, line: &str| {
            let event: Value = serde_json::from_str(line).unwrap();
            assert_eq!(event["seq"], json!(*last + 1), "{line}");
            *last += 1;
            assert_eq!(data(&event), payload(*last));
        };
        for _ in 0..ROUNDS {
            let mut client = Client::dial(server.addr(JSON));
            client.send_line(&format!("LINEHUB/1 role=subscribe since={epoch}:{last}"));
            let answer = client.read_json();
            assert_eq!(
                (&answer["recovered"], &answer["seq"]),
                (&json!(true), &json!(last))
            );
            for line in lines_before_cut(&mut client, rng.usize(1..100_000)) {
                read_on(&mut last, &line);
            }
            match rng.bool() {
                true => client.reset(),
                false => drop(client),
            }
        }
        done.store(true, Relaxed);
        let sent = flood.join().unwrap();
        let (mut client, ..) = resume(server, format!("{epoch}:{last}"), "");
        while last < sent {
            let line = client.read_line();
            read_on(&mut last, &line);
        }
        nothing_else_comes(server, &mut client);
    });
}
