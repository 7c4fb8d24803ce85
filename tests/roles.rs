use std::io::Write;
use std::time::Duration;

use rustix::process::Signal;
use socket2::Socket;

use crate::common::{Client, Event, Flood, Server, eventually, marker, payload};

const FORMATS: [&str; 3] = ["text", "json", "raw"];

const MIB: u64 = 1024 * 1024;

/// A listener for both directions, and one with these keys for each format.
fn launched(args: &[&str], keys: &str) -> Server {
    let others = FORMATS.map(|format| format!("--listen=127.0.0.1:0,format={format},{keys}"));
    let mut all = vec!["--listen=127.0.0.1:0"];
    all.extend(others.iter().map(String::as_str));
    all.extend(args);
    Server::start(&all)
}

/// Sends the same bytes again and again, from a thread of its own, until the connection is over.
fn flood_for_ever(mut socket: Socket, bytes: Vec<u8>) -> std::thread::JoinHandle<u64> {
    socket.set_write_timeout(None).expect("SO_SNDTIMEO");
    std::thread::spawn(move || {
        let mut sent = 0;
        while let Ok(more) = socket.write(&bytes) {
            sent += more as u64;
        }
        sent
    })
}

/// A line as a client of this format gets it.
fn line_in(format: &str, client: &mut Client) -> String {
    let line = match format {
        "json" => client.read_json()["data"].as_str().unwrap().to_owned(),
        "text" => {
            let line = client.read_line();
            line.split_once(": ").unwrap().1.to_owned()
        }
        _ => client.read_line(),
    };
    // Whether its own CR LF has been read by then is not known.
    line.trim_end_matches('\r').to_owned()
}

#[test]
fn what_a_subscriber_sends_reaches_nobody_and_closes_nobody() {
    let server = launched(&["--no-notices", "--max-line=100"], "role=subscribe");
    let mut sender = Client::connect(&server);
    let mut observer = Client::connect(&server);
    for (i, format) in FORMATS.into_iter().enumerate() {
        let mut subscriber = Client::connect_to(&server, i + 1);
        let long = "x".repeat(1000);
        let mut input = format!("lost\n\n{long}\nlost too\r\n{long}\r{long}\n").into_bytes();
        input.extend_from_slice(&[0, 0xfe, 0xc3, b'\n']);
        input.extend_from_slice(long.repeat(100).as_bytes());
        for piece in input.chunks(7001) {
            subscriber.send_bytes(piece);
        }
        // It gets what others send, meanwhile and after.
        sender.send_line("for all");
        assert_eq!(line_in(format, &mut subscriber), "for all");
        observer.expect_message(sender.id(), "for all");
        subscriber.send_bytes(b"half a line");
        subscriber.finish();
        // Read to its end, counted in bytes, and no line of it.
        let bytes = input.len() + "half a line".len();
        server.wait_log(&format!(
            "client disconnected client={} reason=eof lines_in=0 bytes_in={bytes}",
            subscriber.id()
        ));
        subscriber.expect_eof();
        marker(&mut sender, &mut observer);
    }
}

#[test]
fn subscriber_that_floods_is_read_while_the_buffer_is_full() {
    let server = launched(
        &[
            "--no-notices",
            "--buffer=256KiB",
            "--slow-grace=forever",
            "--stall-timeout=off",
        ],
        "role=subscribe",
    );
    let _stuck = Client::connect_stuck(&server, 0);
    // Nobody comes in, either, while the buffer is full.
    let mut subscribers: Vec<_> = (1..=3).map(|i| Client::connect_to(&server, i)).collect();
    let mut sender = Client::connect(&server);
    let mut flood = Flood::default();
    while sender.send_unless_blocked(&flood.lines(1000), Duration::from_millis(500)) {}
    // Nobody may send, and who is not heard is read all the same: more than any socket holds.
    for subscriber in &mut subscribers {
        let lines = b"noise\n".repeat(MIB as usize * 4);
        for piece in lines.chunks(65_536) {
            assert!(subscriber.send_unless_blocked(piece, Duration::from_secs(20)));
        }
        let endless = vec![b'x'; 4 * MIB as usize];
        assert!(subscriber.send_unless_blocked(&endless, Duration::from_secs(20)));
    }
    assert_eq!(server.count_log("reason=line_too_long"), 0);
}

#[test]
fn subscribers_that_flood_hold_up_no_stop() {
    let mut server = launched(&["--no-notices", "--drain-timeout=20s"], "role=subscribe");
    let mut reader = Client::connect(&server);
    let subscribers: Vec<_> = (0..30)
        .map(|i| Client::connect_to(&server, 1 + i % 3))
        .collect();
    let floods: Vec<_> = subscribers
        .iter()
        .map(|client| flood_for_ever(client.sender(), b"noise\n".repeat(10_000)))
        .collect();
    let readers: Vec<_> = subscribers
        .into_iter()
        .map(|mut client| std::thread::spawn(move || while let Event::Line(_) = client.next() {}))
        .collect();
    server.signal(Signal::TERM);
    reader.expect_line("Server shutting down");
    reader.expect_eof();
    drop(reader);
    let status = server.wait_exit(Duration::from_secs(15));
    assert_eq!(status.code(), Some(0));
    for flood in floods {
        flood.join().unwrap();
    }
    for reader in readers {
        reader.join().unwrap();
    }
}

#[test]
fn subscriber_may_leave_in_every_way_and_is_answered_by_telnet() {
    let server = launched(&["--no-notices"], "role=subscribe");
    let mut sender = Client::connect(&server);
    let mut observer = Client::connect(&server);
    for leave in [&b"\x04\r\n"[..], b"\xff\xec", b"noise\n\x04\n", b"\x04\n"] {
        let mut telnet = Client::connect_to(&server, 1);
        // DO SUPPRESS-GO-AHEAD, WILL NAWS, DO TIMING-MARK twice.
        telnet.send_bytes(b"\xff\xfd\x03\xff\xfb\x1f\xff\xfd\x06\xff\xfd\x06");
        let answers = b"\xff\xfc\x03\xff\xfe\x1f\xff\xfc\x06\xff\xfc\x06";
        assert_eq!(telnet.read_bytes(answers.len()), answers);
        sender.send_line("x");
        telnet.expect_message(sender.id(), "x\r");
        observer.expect_message(sender.id(), "x");
        telnet.send_bytes(leave);
        telnet.expect_eof();
        let id = telnet.id();
        drop(telnet);
        server.wait_log(&format!("client disconnected client={id} reason=eof"));
    }
    // Of those that are no telnet, these are bytes like any other.
    let mut raw = Client::connect_to(&server, 3);
    raw.send_bytes(b"\x04\n\xff\xec\n");
    sender.send_line("y");
    raw.expect_line("y");
    observer.expect_message(sender.id(), "y");
    raw.reset();
    server.wait_log("client disconnected reason=reset");
    marker(&mut sender, &mut observer);
}

#[test]
fn web_page_is_refused_whether_or_not_it_would_be_heard() {
    for role in ["subscribe", "publish"] {
        let server = launched(&["--no-notices"], &format!("role={role}"));
        for i in 1..=3 {
            let mut page = Client::connect_to(&server, i);
            page.send_bytes(b"POST / HTTP/1.1\r\nHost: x\r\n\r\nevil\n");
            page.finish();
            server.wait_log(&format!(
                "client disconnected client={} reason=http",
                page.id()
            ));
        }
    }
    let server = launched(&["--no-notices"], "role=subscribe,http-guard=off");
    let mut sender = Client::connect(&server);
    let mut page = Client::connect_to(&server, 1);
    page.send_bytes(b"POST / HTTP/1.1\r\nHost: x\r\n\r\nevil\n");
    sender.send_line("x");
    assert_eq!(line_in("text", &mut page), "x");
}

#[test]
fn input_of_a_subscriber_is_activity_and_a_silent_publisher_is_idle() {
    let server = launched(&["--idle-timeout=2s", "--no-notices"], "role=subscribe");
    let mut subscriber = Client::connect_to(&server, 1);
    // A second daemon is the clock: when it closes its idle clients, the time was up here, too.
    let clock = launched(&["--idle-timeout=2s"], "role=publish");
    let mut publishers: Vec<_> = (1..=3).map(|i| Client::connect_to(&clock, i)).collect();
    while clock.count_log("client disconnected reason=idle") < 3 {
        subscriber.send_bytes(b"noise\n");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(server.count_log("client disconnected"), 0);
    publishers[0].expect_line("Error: idle for 2s");
    assert_eq!(publishers[1].read_json()["reason"], "idle");
    publishers.iter_mut().for_each(Client::expect_eof);
}

#[test]
fn publisher_gets_no_line_and_no_notice_and_its_lines_reach_the_others() {
    for echo in [&[][..], &["--echo"]] {
        let mut server = launched(echo, "role=publish");
        let mut reader = Client::connect(&server);
        if !echo.is_empty() {
            reader.expect_line("New client connected: 1");
        }
        let mut publishers: Vec<_> = (1..=3).map(|i| Client::connect_to(&server, i)).collect();
        for publisher in &publishers {
            reader.expect_line(&format!("New client connected: {}", publisher.id()));
        }
        for n in 0..100 {
            for publisher in &mut publishers {
                publisher.send_line(&payload(n));
                reader.expect_message(publisher.id(), &payload(n));
            }
        }
        reader.send_line("for nobody else");
        if !echo.is_empty() {
            reader.expect_message(reader.id(), "for nobody else");
        }
        let mut other = Client::connect(&server);
        reader.expect_line(&format!("New client connected: {}", other.id()));
        other.send_line("heard");
        reader.expect_message(other.id(), "heard");
        // The end of the daemon is told to others.
        server.stop();
        reader.expect_line("Server shutting down");
        publishers.iter_mut().for_each(Client::expect_eof);
        for publisher in &publishers {
            let line = format!(
                "client disconnected client={} reason=shutdown lines_in=100 lines_out=0 bytes_out=0",
                publisher.id()
            );
            assert_eq!(server.count_log(&line), 1, "{line}");
        }
    }
}

#[test]
fn publisher_is_told_why_it_is_closed_and_answered_by_telnet() {
    let server = launched(&["--no-notices", "--max-line=10"], "role=publish");
    let mut reader = Client::connect(&server);
    let mut text = Client::connect_to(&server, 1);
    text.send_bytes(b"\xff\xfd\x03one\r\n12345678901\r\n");
    assert_eq!(text.read_bytes(3), b"\xff\xfc\x03");
    text.expect_line("Error: line too long (limit 10 bytes)\r");
    text.expect_eof();
    reader.expect_message(text.id(), "one");
    let mut json = Client::connect_to(&server, 2);
    json.send_line("two");
    json.send_line("12345678901");
    assert_eq!(json.read_json()["reason"], "line_too_long");
    json.expect_eof();
    reader.expect_message(json.id(), "two");
    // There is no word for it: an end would look as if all had been taken.
    let mut raw = Client::connect_to(&server, 3);
    raw.send_line("three");
    raw.send_line("12345678901");
    raw.finish();
    assert_eq!(raw.next(), Event::Reset);
    reader.expect_message(raw.id(), "three");
}

#[test]
fn fin_of_a_publisher_closes_it_whatever_is_kept_of_others() {
    for half_close in ["--half-close=close", "--half-close=keep"] {
        let server = launched(&[half_close], "role=publish");
        let mut reader = Client::connect(&server);
        for i in 1..=3 {
            let mut publisher = Client::connect_to(&server, i);
            let id = publisher.id();
            reader.expect_line(&format!("New client connected: {id}"));
            publisher.send_bytes(b"one\nand the rest");
            publisher.finish();
            publisher.expect_eof();
            reader.expect_message(id, "one");
            reader.expect_message(id, "and the rest");
            reader.expect_line(&format!("Client disconnected: {id}"));
        }
    }
    // A subscriber is what is kept.
    let server = launched(&["--half-close=keep", "--no-notices"], "role=subscribe");
    let mut sender = Client::connect(&server);
    let mut subscriber = Client::connect_to(&server, 1);
    subscriber.send_bytes(b"noise");
    subscriber.finish();
    for _ in 0..3 {
        marker(&mut sender, &mut subscriber);
    }
}

#[test]
fn numbers_go_on_while_nobody_reads() {
    let server = launched(&["--listen=127.0.0.1:0,format=json"], "role=publish");
    let mut publisher = Client::connect_to(&server, 1);
    let mut other = Client::connect_to(&server, 3);
    let mut flood = Flood::default();
    // Its own notice is the third number, or stands before some of these lines.
    flood.send(&mut publisher, 1000);
    other.send_line("x");
    publisher.finish();
    publisher.expect_eof();
    other.finish();
    other.expect_eof();
    server.wait_log_count("client disconnected", 2);
    let mut reader = Client::connect_to(&server, 4);
    let mut late = Client::connect_to(&server, 2);
    late.send_line("heard");
    // Two notices of each publisher that has been, 1,001 lines, and the reader's own notice.
    let connect = reader.read_json();
    assert_eq!(connect["event"], "connect");
    assert_eq!(connect["seq"], 1007);
    assert_eq!(connect["client"], late.id());
    let message = reader.read_json();
    assert_eq!(
        (&message["seq"], &message["data"]),
        (&1008.into(), &"heard".into())
    );
}

#[test]
fn publishers_that_never_read_are_never_behind() {
    let server = launched(
        &[
            "--no-notices",
            "--buffer=256KiB",
            "--slow-grace=1s",
            "--stall-timeout=1s",
        ],
        "role=publish",
    );
    let mut publishers: Vec<_> = (0..30)
        .map(|i| Client::connect_stuck(&server, 1 + i % 3))
        .collect();
    let mut reader = Client::connect(&server);
    let mut flood = Flood::default();
    let mut sender = Client::connect(&server);
    let id = sender.id();
    // 16 MiB and more, at the reader's pace: far beyond all buffers.
    for _ in 0..200 {
        let from = flood.sent + 1;
        flood.send(&mut sender, 1000);
        Flood::expect(&mut reader, id, from, flood.sent);
    }
    for publisher in &mut publishers {
        publisher.send_line("still here");
        reader.expect_message(publisher.id(), "still here");
    }
    assert_eq!(server.count_log("client disconnected"), 0);
    // Nothing is kept for them.
    drop(publishers);
    server.wait_log_count("client disconnected lines_in=1 lines_out=0 skipped=0", 30);
}

#[test]
fn subscribers_that_flood_and_publishers_that_never_read_disturb_nobody() {
    const EACH: usize = 200;
    const LINES: u64 = 50;
    crate::common::raise_open_files();
    let server = Server::start(&[
        "--no-notices",
        "--buffer=1MiB",
        "--slow-grace=forever",
        "--stall-timeout=off",
        "--listen=127.0.0.1:0,format=raw",
        "--listen=127.0.0.1:0,role=subscribe",
        "--listen=127.0.0.1:0,role=publish",
    ]);
    let empty = server.rss();
    let connect =
        |i, count| -> Vec<Client> { (0..count).map(|_| Client::connect_to(&server, i)).collect() };
    let (flooding, mut silent, mut normal) = (connect(1, EACH), connect(2, EACH), connect(0, 20));
    // What they get has to be read: they are readers like any other.
    let threads: Vec<_> = flooding
        .into_iter()
        .enumerate()
        .map(|(i, mut client)| {
            let noise = match i % 3 {
                0 => b"noise\n".repeat(1000),
                1 => vec![b'x'; 8192],
                _ => b"\xff\xfb\x01\r\0\n\r".repeat(1000),
            };
            let thread = flood_for_ever(client.sender(), noise);
            let reader = std::thread::spawn(move || while let Event::Line(_) = client.next() {});
            (thread, reader)
        })
        .collect();
    let senders: Vec<_> = silent.iter().chain(&normal).map(Client::id).collect();
    let writers: Vec<_> = silent
        .iter()
        .chain(&normal)
        .map(|client| {
            let (id, mut socket) = (client.id(), client.sender());
            std::thread::spawn(move || {
                for n in 1..=LINES {
                    let line = format!("{id} {}\n", payload(n));
                    socket.write_all(line.as_bytes()).unwrap();
                }
            })
        })
        .collect();
    let readers: Vec<_> = normal
        .drain(..)
        .map(|mut client| {
            let mut next: std::collections::HashMap<u64, u64> =
                senders.iter().map(|id| (*id, 1)).collect();
            next.remove(&client.id());
            std::thread::spawn(move || {
                let mut left = next.len() as u64 * LINES;
                let mut order = Vec::new();
                while left > 0 {
                    let line = client.read_line();
                    let (id, rest) = line.split_once(' ').unwrap();
                    let id = id.parse().unwrap();
                    let n = next.get_mut(&id).expect("one who may send");
                    assert_eq!(rest, payload(*n));
                    *n += 1;
                    left -= 1;
                    order.push((id, *n));
                }
                (client, order)
            })
        })
        .collect();
    for writer in writers {
        writer.join().unwrap();
    }
    let results: Vec<_> = readers
        .into_iter()
        .map(|reader| reader.join().unwrap())
        .collect();
    // One order for all, less what is each one's own.
    let (ids, orders): (Vec<u64>, Vec<Vec<(u64, u64)>>) = results
        .iter()
        .map(|(client, order)| (client.id(), order.clone()))
        .unzip();
    let without = |i: usize, id: u64| orders[i].iter().filter(move |(from, _)| *from != id);
    for i in 1..ids.len() {
        let mine = without(i, ids[0]);
        assert!(mine.eq(without(0, ids[i])), "{} and {}", ids[0], ids[i]);
    }
    let peak = server.peak_rss();
    let clients = (2 * EACH + 20) as u64;
    // The buffer, and of each client what it costs to be there and a line that it has begun.
    let allowed = empty + 2 * MIB + clients * (2048 + 65_536 * 9 / 8) + 10 * MIB;
    assert!(peak < allowed, "{peak}, allowed {allowed}, empty {empty}");
    assert_eq!(server.count_log("client disconnected"), 0);
    silent.clear();
    eventually("publishers leave", || {
        server.count_log("client disconnected") == EACH
    });
    drop(server);
    for (flood, reader) in threads {
        assert!(flood.join().unwrap() > 0);
        reader.join().unwrap();
    }
}
