use std::io::Write;
use std::time::Duration;

use crate::common::{Client, Flood, Launch, PATIENCE, Server, eventually, payload};

const MIB: u64 = 1024 * 1024;

/// Lines a chunk: about 200 KiB, so that a reader who has the chunk before is within any buffer here.
const CHUNK: u64 = 2000;

/// What a client's socket may hold beside the daemon's buffer is up to the kernel, but with a small
/// receive buffer it is at most net.ipv4.tcp_wmem, 4 MiB. This many lines are well beyond that.
const BEYOND_THE_KERNEL: u64 = 60_000;

/// Sends numbered lines until `done`, and then the line `end`; a reader takes each chunk before the
/// next is sent, so it is never behind.
fn paced(sender: &mut Client, reader: &mut Client, mut done: impl FnMut(u64) -> bool) -> u64 {
    let mut flood = Flood::default();
    while !done(flood.sent) {
        let next = flood.sent + 1;
        flood.send(sender, CHUNK);
        Flood::expect(reader, sender.id(), next, flood.sent);
    }
    sender.send_line("end");
    reader.expect_message(sender.id(), "end");
    flood.sent
}

#[test]
fn a_stuck_reader_under_full_load_loses_only_itself_and_is_told() {
    let server = Server::start(&["--no-notices", "--buffer=1MiB", "--slow-grace=2s"]);
    let mut stuck = Client::connect_stuck(&server, 0);
    let mut sender = Client::connect(&server);
    let id = sender.id();
    let readers: Vec<_> = (0..3)
        .map(|_| {
            let mut reader = Client::connect(&server);
            std::thread::spawn(move || (Flood::expect_all(&mut reader, id), reader))
        })
        .collect();

    let mut flood = Flood::default();
    let slow = "client disconnected client=1 reason=slow";
    while server.count_log(slow) == 0 {
        // Waits here for the grace, once the buffer is full.
        flood.send(&mut sender, CHUNK);
    }
    flood.send(&mut sender, CHUNK);
    sender.send_line("end");
    let readers: Vec<_> = readers
        .into_iter()
        .map(|t| t.join().expect("a reader"))
        .collect();
    for (seen, _) in &readers {
        assert_eq!(*seen, flood.sent);
    }
    let (seen, error) = Flood::expect_prefix(&mut stuck, id);
    assert!(seen < flood.sent);
    if let Some(error) = error {
        assert!(
            error.contains("slow") || error.contains("behind"),
            "{error}"
        );
    }
    assert_eq!(server.count_log("client disconnected"), 1);
}

#[test]
fn a_grace_of_zero_never_makes_senders_wait() {
    let server = Server::start(&["--no-notices", "--buffer=1MiB", "--slow-grace=0"]);
    let mut stuck = Client::connect_stuck(&server, 0);
    let mut sender = Client::connect(&server);
    let mut reader = Client::connect(&server);
    let slow = "client disconnected client=1 reason=slow";
    let sent = paced(&mut sender, &mut reader, |_| server.count_log(slow) > 0);
    stuck.wake();
    assert!(Flood::expect_prefix(&mut stuck, sender.id()).0 < sent);
    assert_eq!(server.count_log("client disconnected"), 1);
}

/// Reads numbered lines and skips up to `end`; every number is seen or counted as skipped, in its
/// place. Returns how many were seen and skipped.
fn seen_and_skipped(mut next: impl FnMut() -> Step) -> (u64, u64) {
    let (mut seen, mut skipped) = (0, 0);
    loop {
        match next() {
            Step::Line(line) if line == "end" => return (seen, skipped),
            Step::Line(line) => {
                seen += 1;
                assert_eq!(
                    line,
                    payload(seen + skipped),
                    "after {seen} seen, {skipped} skipped"
                );
            }
            Step::Skipped(count) => {
                assert!(count > 0);
                skipped += count;
            }
        }
    }
}

enum Step {
    Line(String),
    Skipped(u64),
}

fn text_step(reader: &mut Client, sender: u64) -> Step {
    let line = reader.read_line();
    if let Some(rest) = line.strip_prefix("Skipped ") {
        let count = rest.strip_suffix(" messages").expect("messages");
        return Step::Skipped(count.parse().expect("a count"));
    }
    let prefix = format!("Message from client {sender}: ");
    Step::Line(
        line.strip_prefix(&prefix)
            .unwrap_or_else(|| panic!("cut: {line}"))
            .to_owned(),
    )
}

fn json_step(reader: &mut Client) -> Step {
    let event = reader.read_json();
    match event["event"].as_str() {
        Some("skip") => Step::Skipped(event["count"].as_u64().expect("a count")),
        Some("message") => Step::Line(event["data"].as_str().expect("data").to_owned()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn with_skip_what_a_stuck_reader_saw_and_what_it_skipped_is_what_was_sent() {
    let server = Server::start(&[
        "--no-notices",
        "--buffer=1MiB",
        "--slow-client=skip",
        "--slow-grace=0",
        "--listen=127.0.0.1:0",
        "--listen=127.0.0.1:0,format=json",
    ]);
    let mut sender = Client::connect(&server);
    let mut reader = Client::connect(&server);
    let mut text = Client::connect_stuck(&server, 0);
    let mut json = Client::connect_stuck(&server, 1);
    let sent = paced(&mut sender, &mut reader, |sent| sent >= BEYOND_THE_KERNEL);

    let id = sender.id();
    text.wake();
    let (seen, skipped) = seen_and_skipped(|| text_step(&mut text, id));
    assert!(skipped > 0);
    assert_eq!(seen + skipped, sent);
    json.wake();
    let (seen, skipped) = seen_and_skipped(|| json_step(&mut json));
    assert!(skipped > 0);
    assert_eq!(seen + skipped, sent);
    assert_eq!(server.count_log("client disconnected"), 0);
}

#[test]
fn with_skip_a_reader_that_is_stuck_again_and_again_counts_exactly() {
    let args = [
        "--no-notices",
        "--buffer=1MiB",
        "--slow-client=skip",
        "--slow-grace=0",
    ];
    let server = Server::start(&args);
    let mut sender = Client::connect(&server);
    let mut reader = Client::connect(&server);
    let mut stuck = Client::connect_stuck(&server, 0);
    let id = sender.id();

    // The stuck reader wakes up for a moment every now and then, in the middle of anything.
    let mut steps = Vec::new();
    let sent = paced(&mut sender, &mut reader, |sent| {
        if sent % 20_000 == 0 && sent > 0 {
            steps.extend((0..500).map(|_| text_step(&mut stuck, id)));
        }
        sent >= 160_000
    });
    let mut steps = steps.into_iter();
    let next = || steps.next().unwrap_or_else(|| text_step(&mut stuck, id));
    let (seen, skipped) = seen_and_skipped(next);
    assert!(skipped > 0);
    assert_eq!(seen + skipped, sent);
}

#[test]
fn a_grace_of_forever_makes_senders_wait_and_loses_nothing() {
    let args = [
        "--no-notices",
        "--buffer=1MiB",
        "--slow-grace=forever",
        "--stall-timeout=off",
    ];
    let server = Server::start(&args);
    let mut stuck = Client::connect_stuck(&server, 0);
    let sender = Client::connect(&server);
    let id = sender.id();

    // Sends until the daemon takes no more; the rest follows from another thread.
    let mut flood = Flood::default();
    // More than the daemon, and the kernel on both sides of it, take while nothing is read.
    let bytes = flood.lines(200_000);
    let (blocked, is_blocked) = std::sync::mpsc::channel();
    let socket = sender.sender();
    let sending = std::thread::spawn(move || {
        let mut rest = &bytes[..];
        socket
            .set_write_timeout(Some(Duration::from_secs(1)))
            .expect("SO_SNDTIMEO");
        while !rest.is_empty() {
            match (&socket).write(rest) {
                Ok(n) => rest = &rest[n..],
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                    let _ = blocked.send(());
                }
                Err(e) => panic!("send: {e}"),
            }
        }
        (&socket).write_all(b"end\n").expect("send");
    });
    is_blocked
        .recv_timeout(PATIENCE)
        .expect("the sender waits for the stuck reader");
    stuck.wake();
    assert_eq!(Flood::expect_all(&mut stuck, id), flood.sent);
    sending.join().expect("all was sent");
    assert_eq!(server.count_log("client disconnected"), 0);
}

#[test]
fn a_socket_that_takes_no_byte_for_the_stall_timeout_is_closed() {
    let args = [
        "--no-notices",
        "--buffer=1MiB",
        "--slow-grace=forever",
        "--stall-timeout=1s",
    ];
    let server = Server::start(&args);
    let mut stuck = Client::connect_stuck(&server, 0);
    let mut sender = Client::connect(&server);
    let mut reader = Client::connect(&server);
    let id = sender.id();
    let reading = std::thread::spawn(move || (Flood::expect_all(&mut reader, id), reader));

    let mut flood = Flood::default();
    while server.count_log("client disconnected client=1 reason=stalled") == 0 {
        flood.send(&mut sender, CHUNK);
    }
    flood.send(&mut sender, CHUNK);
    sender.send_line("end");
    let (seen, _reader) = reading.join().expect("the reader");
    assert_eq!(seen, flood.sent);

    assert!(Flood::expect_prefix(&mut stuck, id).0 < flood.sent);
    assert_eq!(server.count_log("client disconnected"), 1);
}

#[test]
fn three_hundred_stuck_readers_cost_the_buffer_once_and_it_is_given_back() {
    const BUFFER: u64 = 32 * MIB;
    const EACH: u64 = 32 * 1024;
    let dir = tempfile::tempdir().unwrap();
    // Unix sockets: the kernel keeps little for each, so the daemon's own memory is what fills.
    let listen = format!("unix:{}", dir.path().join("hub.sock").display());
    let server = Server::start(&[
        "--no-notices",
        "--buffer=32MiB",
        "--slow-grace=forever",
        "--stall-timeout=off",
        "--listen",
        &listen,
    ]);
    let mut sender = Client::connect(&server);
    let empty = server.rss();
    let stuck: Vec<_> = (0..300).map(|_| Client::connect_to(&server, 0)).collect();

    let mut flood = Flood::default();
    while {
        let bytes = flood.lines(CHUNK);
        sender.send_unless_blocked(&bytes, Duration::from_secs(2))
    } {}
    let full = server.rss();
    let allowed = empty + BUFFER + BUFFER / 4 + 300 * EACH;
    println!("empty {} KiB, full {} KiB", empty / 1024, full / 1024);
    assert!(
        full > empty + BUFFER / 2,
        "the buffer is not full: {full} bytes, {empty} when empty"
    );
    assert!(
        full < allowed,
        "{full} bytes, {allowed} allowed, {empty} when empty"
    );

    drop(stuck);
    eventually("memory goes back down", || {
        server.rss() < empty + BUFFER / 4
    });
    println!("after {} KiB", server.rss() / 1024);
    // And the daemon goes on.
    drop(sender);
    // What it had sent is all read, or it would come before the marker.
    server.wait_log_count("client disconnected", 301);
    let mut sender = Client::connect(&server);
    let mut reader = Client::connect(&server);
    crate::common::marker(&mut sender, &mut reader);
}

/// What the README says of memory, against all at once that could make it untrue: clients that are
/// stuck, that ask telnet's questions and read no answer, that send nothing but line ends while the
/// buffer is full, that never end a line, and many that only are there.
#[test]
fn memory_stays_within_what_the_readme_says_whatever_clients_do() {
    const BUFFER: u64 = 32 * MIB;
    const IDLE: usize = 2000;
    const EACH: usize = 60;
    const BEGUN: usize = 60_000;
    let server = Launch::new(&[
        "--no-notices",
        "--buffer=32MiB",
        "--slow-grace=forever",
        "--stall-timeout=off",
        "--worker-threads=4",
        "--admin=127.0.0.1:0",
        "--listen=127.0.0.1:0",
    ])
    // Not what each client does: this test would keep all of it.
    .env(
        "RUST_LOG",
        "warn,linehub::server=info,linehub::ops=info,linehub::net=info",
    )
    .start();
    crate::common::raise_open_files();
    let dial = |_| Client::dial(server.addr(0));
    let empty = server.rss();
    let idle: Vec<_> = (0..IDLE).map(dial).collect();
    let mut stuck: Vec<_> = (0..EACH).map(dial).collect();
    let mut begun: Vec<_> = (0..EACH).map(dial).collect();
    for client in &mut begun {
        for _ in 0..10 {
            client.send_bytes(&[b'x'; BEGUN / 10]);
        }
    }
    let attack = |bytes: &'static [u8]| {
        let attackers: Vec<_> = (0..EACH).map(dial).collect();
        let senders = attackers.iter().map(Client::sender).map(|mut socket| {
            std::thread::spawn(move || {
                let wait = Some(Duration::from_secs(2));
                socket.set_write_timeout(wait).unwrap();
                // Until it waits for good, as all do in the end.
                while socket.write_all(bytes).is_ok() {}
            })
        });
        let senders: Vec<_> = senders.collect();
        (attackers, senders)
    };
    static QUESTIONS: [[u8; 3]; 100_000] = [*b"\xff\xfd\x06"; 100_000];
    let asking = attack(QUESTIONS.as_flattened());
    let ending = attack(&[b'\n'; 256 * 1024]);
    for sender in asking.1.into_iter().chain(ending.1) {
        sender.join().unwrap();
    }
    let status = crate::common::http::get_json(&server.admin(), "/status");
    assert!(status["senders_waiting"].as_u64() > Some(0), "{status}");
    // A read that is under way when an encoding comes into use costs more than it was admitted for: up
    // to one permit, which is an eighth of the buffer.
    assert!(
        status["buffer_used_bytes"].as_u64() <= Some(BUFFER * 9 / 8),
        "{status}"
    );
    let clients = (IDLE + 4 * EACH) as u64;
    let lines = EACH as u64 * BEGUN as u64 * 9 / 8;
    let allowed = empty + BUFFER * 9 / 8 + 2048 * clients + lines + 10 * MIB;
    let (now, peak) = (server.rss(), server.peak_rss());
    println!("empty {empty}, now {now}, peak {peak}, allowed {allowed}");
    assert!(now > empty + BUFFER / 2, "the buffer is not full: {now}");
    assert!(
        peak < allowed,
        "{peak} bytes, {allowed} allowed, {empty} when empty"
    );
    stuck.clear();
    drop((idle, begun, asking.0, ending.0));
}

/// Twenty senders that never read, all at once, each 1.6 MB; then whether a line goes from `healthy`
/// to a reader that saw only whole lines. Returns the clients that never read, too.
fn senders_that_never_read(policy: &str, grace: &str) -> (Server, Vec<Client>) {
    let server = Server::start(&[
        "--no-notices",
        "--buffer=1MiB",
        "--slow-client",
        policy,
        "--slow-grace",
        grace,
    ]);
    let deaf: Vec<_> = (0..20).map(|_| Client::connect_stuck(&server, 0)).collect();
    let sending: Vec<_> = deaf
        .into_iter()
        .map(|client| {
            let bytes = Flood::default().lines(20_000);
            // Ends with an error when the daemon closes this client, and never with a time-out.
            std::thread::spawn(move || {
                let result = client.sender().write_all(&bytes);
                (client, result)
            })
        })
        .collect();
    // Nobody leaves before all have sent.
    let deaf: Vec<_> = sending
        .into_iter()
        .map(|t| t.join().expect("a sender"))
        .collect();
    for (client, result) in &deaf {
        if let Err(e) = result {
            assert_ne!(
                e.kind(),
                std::io::ErrorKind::WouldBlock,
                "client {} is locked",
                client.id()
            );
            assert_eq!(policy, "disconnect", "client {}: {e}", client.id());
        }
    }
    let mut healthy = Client::connect(&server);
    let mut reader = Client::connect(&server);
    healthy.send_line("marker");
    // Lines of the last senders may still be on their way.
    let wanted = format!("Message from client {}: marker", healthy.id());
    for line in reader.lines_until(&wanted) {
        assert!(
            line.starts_with("Message from client ") || line.starts_with("Skipped "),
            "{line}"
        );
    }
    (server, deaf.into_iter().map(|(client, _)| client).collect())
}

#[test]
fn senders_that_never_read_are_disconnected_and_lock_nobody() {
    let (server, _deaf) = senders_that_never_read("disconnect", "1s");
    server.wait_log("client disconnected reason=slow");
}

#[test]
fn senders_that_never_read_skip_and_lock_nobody() {
    let (server, _deaf) = senders_that_never_read("skip", "100ms");
    assert_eq!(server.count_log("client disconnected reason=slow"), 0);
}

#[test]
fn a_reader_that_pauses_within_the_buffer_loses_nothing() {
    let server = Server::start(&["--no-notices", "--buffer=32MiB", "--slow-grace=0"]);
    let mut sleeper = Client::connect_stuck(&server, 0);
    let mut sender = Client::connect(&server);
    let mut reader = Client::connect(&server);
    let sent = paced(&mut sender, &mut reader, |sent| sent >= BEYOND_THE_KERNEL);
    sleeper.wake();
    Flood::expect(&mut sleeper, sender.id(), 1, sent);
    sleeper.expect_message(sender.id(), "end");
}

/// Each has taken one line less than the one before, and no more: each would have a grace of its own.
#[test]
fn stuck_readers_one_line_apart_have_one_grace_together() {
    const STUCK: usize = 8;
    let grace = Duration::from_secs(2);
    let dir = tempfile::tempdir().unwrap();
    let unix = format!("--listen=unix:{}", dir.path().join("hub.sock").display());
    let server = Server::start(&[
        "--no-notices",
        "--format=raw",
        "--buffer=1MiB",
        "--slow-grace=2s",
        "--listen=127.0.0.1:0",
        &unix,
    ]);
    let mut sender = Client::connect(&server);
    let mut reader = Client::connect(&server);
    let mut say = |sender: &mut Client, text: String| {
        sender.send_line(&text);
        reader.expect_line(&text);
    };
    let stuck: Vec<_> = (0..STUCK)
        .map(|n| {
            let client = Client::connect_to(&server, 1);
            say(&mut sender, format!("{n:0>999}"));
            client
        })
        .collect();
    let started = std::time::Instant::now();
    let slow = "client disconnected reason=slow";
    for n in 0.. {
        if server.count_log(slow) == STUCK {
            break;
        }
        // Waits here once the buffer is full.
        say(&mut sender, format!("{n:0>9999}"));
    }
    assert!(started.elapsed() < 4 * grace, "one after the other");
    drop(stuck);
}

#[test]
fn client_that_got_its_end_of_stream_and_does_not_close_holds_nobody_up() {
    let server = Server::start(&["--no-notices", "--buffer=64KiB", "--slow-grace=forever"]);
    let mut leaver = Client::connect(&server);
    let mut sender = Client::connect(&server);
    let mut reader = Client::connect(&server);
    leaver.send_bytes(b"\xff\xec");
    leaver.expect_eof();
    let mut flood = Flood::default();
    for _ in 0..5 {
        let next = flood.sent + 1;
        flood.send(&mut sender, CHUNK);
        Flood::expect(&mut reader, sender.id(), next, flood.sent);
    }
    // Nor did they wait for its end: the close timeout is two seconds.
    assert_eq!(server.count_log("client disconnected"), 0);
    drop(leaver);
}

#[test]
fn client_that_has_shut_its_sending_side_skips_as_others_do() {
    let server = Server::start(&[
        "--no-notices",
        "--buffer=256KiB",
        "--slow-client=skip",
        "--slow-grace=200ms",
        "--stall-timeout=off",
    ]);
    let mut sender = Client::connect(&server);
    let mut reader = Client::connect(&server);
    let mut shut = Client::connect_stuck(&server, 0);
    let mut half = Flood::default();
    half.send(&mut sender, BEYOND_THE_KERNEL / 2);
    shut.finish();
    Flood::expect(&mut reader, sender.id(), 1, half.sent);
    let next = half.sent + 1;
    // Nobody else ends the wait that there would be.
    let mut done = 0;
    while done < BEYOND_THE_KERNEL {
        let from = half.sent + 1;
        half.send(&mut sender, CHUNK);
        Flood::expect(&mut reader, sender.id(), from, half.sent);
        done += CHUNK;
    }
    assert!(half.sent > next);
}

/// It is owed the rest of a line, which it does not take, and nothing of what comes after its end.
#[test]
fn client_that_leaves_in_the_middle_of_a_line_holds_nobody_up_with_skip() {
    let server = Server::start(&[
        "--no-notices",
        "--buffer=1MiB",
        "--slow-client=skip",
        "--slow-grace=100ms",
        "--stall-timeout=off",
    ]);
    let mut sender = Client::connect(&server);
    let mut reader = Client::connect(&server);
    let mut leavers: Vec<_> = (0..4).map(|_| Client::connect_stuck(&server, 0)).collect();
    let line = "x".repeat(50_000);
    let mut say = |rounds: usize| {
        for _ in 0..rounds {
            sender.send_line(&line);
            reader.expect_message(1, &line);
        }
    };
    // Well beyond what their kernels take.
    say(150);
    leavers[0].finish();
    leavers[1].send_line("\x04");
    leavers[2].send_bytes(b"\xff\xec");
    say(150);
    leavers[3].finish();
    say(150);
}

#[test]
fn what_a_full_buffer_makes_wait_is_not_idle() {
    let server = Server::start(&[
        "--no-notices",
        "--buffer=64KiB",
        "--slow-grace=4s",
        "--idle-timeout=1s",
    ]);
    let _stuck = Client::connect_stuck(&server, 0);
    let mut sender = Client::connect(&server);
    let mut reader = Client::connect(&server);
    let mut flood = Flood::default();
    let slow = "client disconnected client=1 reason=slow";
    while server.count_log(slow) == 0 {
        let next = flood.sent + 1;
        flood.send(&mut sender, CHUNK);
        Flood::expect(&mut reader, sender.id(), next, flood.sent);
    }
    assert_eq!(server.count_log("client disconnected"), 1);
}

#[test]
fn time_in_which_the_daemon_was_stopped_counts_against_nobody() {
    let server = Server::start(&[
        "--no-notices",
        "--buffer=64KiB",
        "--idle-timeout=1s",
        "--stall-timeout=1s",
        "--slow-grace=1s",
    ]);
    let mut sender = Client::connect(&server);
    let mut reader = Client::connect_stuck(&server, 0);
    // Its socket refuses, and it is behind, at the moment of the stop.
    let mut flood = Flood::default();
    let bytes = flood.lines(BEYOND_THE_KERNEL);
    let mut half = sender.sender();
    let sending = std::thread::spawn(move || half.write_all(&bytes).unwrap());
    let reading = std::thread::spawn(move || {
        reader.wake();
        Flood::expect(&mut reader, 1, 1, BEYOND_THE_KERNEL / 2);
        reader
    });
    server.signal(rustix::process::Signal::STOP);
    // Nothing tells how long a process has been stopped but the time.
    std::thread::sleep(Duration::from_secs(3));
    server.signal(rustix::process::Signal::CONT);
    let mut reader = reading.join().unwrap();
    Flood::expect(&mut reader, 1, BEYOND_THE_KERNEL / 2 + 1, BEYOND_THE_KERNEL);
    sending.join().unwrap();
    sender.send_line("end");
    reader.expect_message(1, "end");
    assert_eq!(server.count_log("client disconnected"), 0);
}

#[test]
fn reader_that_was_reset_is_told_from_one_that_left() {
    let server = Server::start(&[
        "--no-notices",
        "--buffer=64KiB",
        "--slow-grace=forever",
        "--stall-timeout=off",
    ]);
    let readers: Vec<_> = (0..20).map(|_| Client::connect_stuck(&server, 0)).collect();
    let mut sender = Client::connect(&server);
    let mut flood = Flood::default();
    // They are in the middle of the stream, and nobody is read from.
    while sender.send_unless_blocked(&flood.lines(CHUNK), Duration::from_millis(300)) {}
    readers.into_iter().for_each(Client::reset);
    server.wait_log_count("client disconnected reason=reset", 20);
}

#[test]
fn reader_that_only_reads_and_is_gone_is_noticed_though_nothing_is_sent() {
    let server = Server::start(&["--no-notices", "--half-close=keep"]);
    let mut reader = Client::connect(&server);
    reader.finish();
    let mut other = Client::connect(&server);
    other.send_line("hello");
    reader.expect_message(2, "hello");
    reader.reset();
    server.wait_log("client disconnected client=1 reason=reset");
}
