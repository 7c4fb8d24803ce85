//! Senders whose lines are counted over all their connections.

use std::io::Write;

use serde_json::json;

use super::{JSON, RAW, TEXT, data, greet, said, start};
use crate::common::{Address, Client, Event, Flood, Server, eventually, payload};

/// A sender of `text` in this session, with what was taken of it before.
#[track_caller]
fn sender(address: &Address, words: &str) -> (Client, u64) {
    let mut client = Client::dial(address);
    client.send_line(&format!("LINEHUB/1 role=publish {words}"));
    let answer = client.read_line();
    let taken = answer.rsplit_once(", taken ").expect("taken").1;
    let taken = taken.parse().expect("a number");
    (client, taken)
}

/// Acknowledgements, each more than the one before, up to this one.
#[track_caller]
fn expect_acks(from: u64, to: u64, mut next: impl FnMut() -> u64) {
    let mut last = from;
    while last < to {
        let taken = next();
        assert!(taken > last && taken <= to, "{taken} after {last}");
        last = taken;
    }
}

fn text_ack(client: &mut Client) -> u64 {
    let line = client.read_line();
    let taken = line.strip_prefix("Taken ").expect("an ack");
    taken.parse().expect("a number")
}

#[test]
fn session_counts_its_lines_over_all_its_connections() {
    let server = start(&["--history=1MiB", "--no-notices"]);
    let (mut one, taken) = sender(server.addr(TEXT), "session=meter-7 ack");
    assert_eq!(taken, 0);
    one.send_bytes(b"1\n2\n3\n");
    expect_acks(0, 3, || text_ack(&mut one));
    one.send_line("4");
    one.finish();
    // It is told of the last one before it is closed, and of nothing else.
    assert_eq!(one.lines_to_eof(), ["Taken 4"]);
    let (mut json, answer) = greet(&server, "role=publish session=meter-7 ack");
    assert_eq!(answer["taken"], 4);
    json.send_bytes(b"5\n6\n");
    expect_acks(4, 6, || {
        let ack = json.read_json();
        assert_eq!(ack, json!({"event": "ack", "taken": ack["taken"]}));
        ack["taken"].as_u64().unwrap()
    });
    drop(json);
    let mut raw = Client::dial(server.addr(RAW));
    raw.send_line("LINEHUB/1 role=publish session=meter-7 ack");
    raw.send_line("7");
    // It has no answer that says what was taken before: the first ack may.
    expect_acks(5, 7, || text_ack(&mut raw));
    // Another one is another one, and without `ack` it is told nothing.
    let (mut other, taken) = sender(server.addr(TEXT), "session=meter-8");
    assert_eq!(taken, 0);
    other.send_line("8");
    other.finish();
    other.expect_eof();
    let (mut reader, _) = greet(&server, "history=100");
    for n in 1..=8 {
        assert_eq!(data(&reader.read_json()), n.to_string());
    }
}

#[test]
fn session_that_also_reads_is_told_between_whole_lines() {
    let server = start(&["--history=64MiB", "--no-notices"]);
    let (mut both, _) = greet(&server, "session=both ack");
    let mut flood = Flood::default();
    let lines = flood.lines(5000);
    let mut half = both.sender();
    let mut others = Client::connect_to(&server, super::PLAIN);
    let mut more = others.sender();
    std::thread::scope(|scope| {
        scope.spawn(|| half.write_all(&lines).unwrap());
        scope.spawn(|| more.write_all(&lines).unwrap());
        scope.spawn(|| Flood::expect(&mut others, 1, 1, 5000));
        let (mut taken, mut seen) = (0, 0);
        while taken < 5000 || seen < 5000 {
            let event = both.read_json();
            if event["event"] == "ack" {
                let now = event["taken"].as_u64().unwrap();
                assert!(now > taken && now <= 5000);
                taken = now;
            } else {
                seen += 1;
                assert_eq!(data(&event), payload(seen));
            }
        }
    });
}

#[test]
fn session_goes_to_who_comes_last_and_counts_what_came_of_the_one_before() {
    let server = start(&["--history=64MiB", "--no-notices"]);
    let (mut reader, _) = greet(&server, "role=subscribe");
    let (mut one, _) = sender(server.addr(TEXT), "session=s");
    let mut socket = one.sender();
    let flood = std::thread::spawn(move || {
        let lines = Flood::default().lines(1_000_000);
        // Ends with an error when it is closed.
        socket.write_all(&lines)
    });
    for n in 1..=100 {
        assert_eq!(data(&reader.read_json()), payload(n));
    }
    let (mut two, taken) = sender(server.addr(TEXT), "session=s");
    assert!(taken >= 100);
    two.send_line("two");
    for n in 101..=taken {
        assert_eq!(data(&reader.read_json()), payload(n));
    }
    assert_eq!(data(&reader.read_json()), "two");
    let mut said = Vec::new();
    while let Event::Line(line) = one.next() {
        said.push(String::from_utf8(line).unwrap());
    }
    // A reset, over what it still sends, may come before it has read that.
    let error = "Error: session taken over by another connection";
    assert!(said.is_empty() || said == [error], "{said:?}");
    let _ = flood.join().unwrap();
    drop(one);
    server.wait_log("client disconnected reason=session_taken");
    let (_three, taken_by_two) = sender(server.addr(TEXT), "session=s");
    assert_eq!(taken_by_two, taken + 1);
}

#[test]
fn client_that_lost_its_session_is_told_and_what_it_sends_then_is_nothing() {
    let server = start(&["--history=1MiB", "--no-notices"]);
    let (mut reader, _) = greet(&server, "role=subscribe");
    let (mut one, _) = greet(&server, "session=s");
    let (mut two, answer) = greet(&server, "session=s");
    assert_eq!(answer["taken"], 0);
    let error = one.read_json();
    assert_eq!(error["reason"], "session_taken", "{error}");
    one.send_line("not heard");
    one.finish();
    one.expect_eof();
    two.send_line("heard");
    assert_eq!(data(&reader.read_json()), "heard");
}

#[test]
fn of_many_at_once_one_has_the_session() {
    const MANY: usize = 20;
    let server = start(&["--history=1MiB", "--no-notices"]);
    let mut clients: Vec<_> = (0..MANY)
        .map(|_| {
            let mut client = Client::dial(server.addr(JSON));
            client.send_line("LINEHUB/1 session=s");
            client.send_line("line");
            client
        })
        .collect();
    let mut published = 0;
    let mut there = 0;
    for client in &mut clients {
        client.finish();
        for line in client.lines_to_eof() {
            there += usize::from(line.contains("\"event\":\"hello\""));
        }
    }
    let (_, answer) = greet(&server, "session=s");
    let taken = answer["taken"].as_u64().unwrap();
    let (mut reader, answer) = greet(&server, "history=1000");
    for _ in answer["seq"].as_u64().unwrap()..taken {
        assert_eq!(data(&reader.read_json()), "line");
        published += 1;
    }
    assert!(published >= 1 && published <= there as u64);
    assert_eq!(published, taken);
}

#[test]
fn unfinished_line_at_the_end_of_a_session_is_none_and_a_dropped_one_counts() {
    let server = start(&[
        "--history=1MiB",
        "--no-notices",
        "--max-line=100",
        "--long-line=discard",
    ]);
    let (mut one, _) = sender(server.addr(TEXT), "session=s ack");
    one.send_bytes(b"1\n2\nhalf");
    one.finish();
    assert_eq!(one.lines_to_eof().last().unwrap(), "Taken 2");
    let (mut two, taken) = sender(server.addr(TEXT), "session=s ack");
    assert_eq!(taken, 2);
    let long = "x".repeat(101);
    two.send_bytes(format!("{long}\n4\n{long}\n{long}\n").as_bytes());
    two.finish();
    assert_eq!(two.lines_to_eof().last().unwrap(), "Taken 6");
    let (mut three, taken) = sender(server.addr(TEXT), "session=s");
    assert_eq!(taken, 6);
    three.send_line("7");
    let (mut reader, _) = greet(&server, "history=10");
    for line in ["1", "2", "4", "7"] {
        assert_eq!(data(&reader.read_json()), line);
    }
    // Without a session, it is a line.
    said(&server, "half");
    assert_eq!(data(&reader.read_json()), "half");
}

#[test]
fn sender_that_is_cut_at_random_and_goes_on_where_it_is_told_to_is_in_the_stream_once() {
    const LINES: u64 = 3000;
    let server = start(&["--history=64MiB", "--no-notices"]);
    let mut rng = fastrand::Rng::with_seed(15);
    let mut cuts = 0;
    loop {
        let (mut client, taken) = sender(server.addr(TEXT), "session=s ack");
        let lines = Flood { sent: taken }.lines(LINES - taken);
        let cut = rng.usize(1..15_000);
        if cuts < 50 && cut < lines.len() {
            cuts += 1;
            client.send_bytes(&lines[..cut]);
            match rng.u8(0..3) {
                0 => client.reset(),
                1 => drop(client),
                _ => {
                    client.finish();
                    let acks = client.lines_to_eof();
                    let whole = memchr::memchr_iter(b'\n', &lines[..cut]).count() as u64;
                    let last = acks
                        .last()
                        .map(|ack| ack.strip_prefix("Taken ").unwrap().to_owned());
                    let last = last.map_or(taken, |last| last.parse().unwrap());
                    assert_eq!(last, taken + whole);
                }
            }
            continue;
        }
        client.send_bytes(&lines);
        expect_acks(taken, LINES, || text_ack(&mut client));
        break;
    }
    println!("{cuts} cuts");
    assert!(cuts >= 10);
    let (mut reader, _) = greet(&server, "history=1000000");
    for n in 1..=LINES {
        assert_eq!(data(&reader.read_json()), payload(n));
    }
    super::nothing_else_comes(&server, &mut reader);
}

#[test]
fn session_ends_with_its_lines() {
    let server = start(&["--history=1MiB", "--history-age=300ms", "--no-notices"]);
    let (mut one, _) = sender(server.addr(TEXT), "session=s ack");
    one.send_line("1");
    one.expect_line("Taken 1");
    // While it has a client, it stays.
    eventually("its line expires", || {
        let (_, answer) = greet(&server, "history=1 role=subscribe");
        answer["seq"] == 1
    });
    one.send_line("2");
    one.expect_line("Taken 2");
    drop(one);
    eventually("the session expires", || {
        sender(server.addr(TEXT), "session=s").1 == 0
    });
}

#[track_caller]
fn refused(server: &Server, words: &str, error: &str) {
    let mut client = Client::dial(server.addr(JSON));
    client.send_line(&format!("LINEHUB/1 {words}"));
    let told = client.read_json();
    assert_eq!(told["reason"], "bad_hello", "{told}");
    let detail = told["detail"].as_str().unwrap();
    assert!(detail.contains(error), "{detail}");
    client.expect_eof();
}

#[test]
fn session_is_refused_where_nothing_is_kept_and_to_who_may_not_publish() {
    refused(&start(&[]), "session=s", "session");
    let server = start(&["--history=1MiB"]);
    refused(&server, "session=s role=subscribe", "role subscribe");
    refused(&server, "ack", "\"ack\" without \"session\"");
    refused(&server, "session=a/b", "\"session\"");
    refused(&server, "session=s ack=1", "\"ack\" takes no value");
}

#[test]
fn numbers_go_on_without_a_gap_behind_lone_senders_that_break() {
    let dir = tempfile::tempdir().unwrap();
    let on_disk = format!("--history-dir={}", dir.path().display());
    for args in [&["--history=1MiB"][..], &["--history=1MiB", &on_disk]] {
        let server = start(args);
        for _ in 0..30 {
            let mut sender = Client::dial(server.addr(RAW));
            sender.send_line("LINEHUB/1 role=publish");
            sender.send_line("line");
            sender.reset();
        }
        let (reader, answer) = greet(&server, "");
        drop(reader);
        let epoch = answer["epoch"].as_str().unwrap();
        let (mut reader, again) = greet(&server, &format!("since={epoch}:0"));
        assert_eq!(again["recovered"], true);
        super::expect_numbers(&mut reader, 1..=answer["seq"].as_u64().unwrap());
    }
}
