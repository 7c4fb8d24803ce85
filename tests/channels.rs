use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use crate::common::http::get;
use crate::common::{
    Client, Event, Flood, Launch, Manager, PATIENCE, Place, Server, eventually, exec, free_port,
    marker, restart, run,
};

/// Lines that are more than a reader's kernel takes and the buffers here.
const MUCH: u64 = 100_000;

/// How long no byte is taken from a sender that is blocked.
const BLOCKED: Duration = Duration::from_millis(500);

/// Has a daemon read its file anew, which it is to accept.
#[track_caller]
fn reload(server: &Server, file: &Path, text: &str) {
    server.wait_log("phase=running");
    let (reloaded, running) = ("configuration reloaded", "phase=running");
    let before = (server.count_log(reloaded), server.count_log(running));
    fs::write(file, text).unwrap();
    server.signal(Signal::HUP);
    server.wait_log_count(reloaded, before.0 + 1);
    server.wait_log_count(running, before.1 + 1);
}

/// A file in a directory of its own, and a daemon that goes by it, with so many listeners.
#[track_caller]
fn start_with_file(args: &[&str], text: &str, listeners: usize) -> (Server, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("linehub.toml");
    fs::write(&path, text).unwrap();
    let args = [args, &["--config", path.to_str().unwrap()]].concat();
    let launch = Launch::new(&args).listen_as_configured();
    (launch.listeners(listeners).start(), dir)
}

/// Sends until nothing is taken any more: a reader of this channel does not read, and senders wait for it.
#[track_caller]
fn block(sender: &mut Client, flood: &mut Flood) {
    let lines = flood.lines(MUCH);
    assert!(!sender.send_unless_blocked(&lines, BLOCKED), "not blocked");
}

#[test]
fn channels_are_orders_of_their_own_and_ids_count_over_all() {
    let server = Server::start(&[
        "--listen=127.0.0.1:0,channel=a",
        "--listen=127.0.0.1:0,channel=a,format=json",
        "--listen=127.0.0.1:0,channel=b",
        "--listen=127.0.0.1:0,channel=b,format=json",
        "--listen=127.0.0.1:0",
    ]);
    let mut clients: Vec<_> = (0..5).map(|i| Client::connect_to(&server, i)).collect();
    let ids: Vec<_> = clients.iter().map(Client::id).collect();
    assert_eq!(ids, [1, 2, 3, 4, 5]);
    clients[0].expect_line("New client connected: 2");
    clients[2].expect_line("New client connected: 4");
    for n in 0..3 {
        for i in [0, 2, 4] {
            clients[i].send_line(&format!("{n} of {i}"));
        }
    }
    for (sender, reader) in [(0, 1), (2, 3)] {
        for n in 0..3 {
            let wanted = json!({
                "event": "message",
                "seq": n + 3,
                "client": ids[sender],
                "data": format!("{n} of {sender}"),
            });
            assert_eq!(clients[reader].read_json(), wanted);
        }
    }
    // Of all that, the others see nothing; nor that anybody leaves.
    let mut main = Client::connect_to(&server, 4);
    clients[4].expect_line("New client connected: 6");
    marker(&mut main, &mut clients[4]);
    drop(main);
    clients[4].expect_line("Client disconnected: 6");
    for i in [0, 2] {
        let mut next = Client::connect_to(&server, i);
        clients[i].expect_line(&format!("New client connected: {}", next.id()));
        marker(&mut next, &mut clients[i]);
    }
    let leaving = clients.remove(3);
    drop(leaving);
    clients[2].lines_until("Client disconnected: 4");
}

#[test]
fn full_channel_holds_up_nobody_in_another() {
    for (full, other) in [("a", "b"), ("b", "a")] {
        let server = Server::start(&[
            "--no-notices",
            "--buffer=64KiB",
            "--slow-grace=forever",
            "--stall-timeout=off",
            "--open-channels=1",
            "--admin=127.0.0.1:0",
            &format!("--listen=127.0.0.1:0,channel={full}"),
            &format!("--listen=127.0.0.1:0,channel={other}"),
            &format!("--listen=127.0.0.1:0,channel={full},hello"),
        ]);
        let stuck = Client::connect_stuck(&server, 0);
        let mut sender = Client::connect_to(&server, 0);
        let mut one = Client::connect_to(&server, 1);
        let mut two = Client::connect_to(&server, 1);
        let mut flood = Flood::default();
        block(&mut sender, &mut flood);
        let begun = Instant::now();
        for _ in 0..200 {
            marker(&mut one, &mut two);
            marker(&mut two, &mut one);
        }
        // Who comes is served, too, whether by a listener of the channel or by one of the full one.
        let mut late = Client::connect_to(&server, 1);
        marker(&mut late, &mut one);
        two.read_line();
        let mut asking = Client::in_channel(server.addr(2), other);
        for client in [&mut one, &mut two, &mut late] {
            asking.send_line("asked for");
            client.expect_message(asking.id(), "asked for");
        }
        let mut opening = Client::in_channel(server.addr(2), "opened");
        let mut opened = Client::in_channel(server.addr(2), "opened");
        marker(&mut opening, &mut opened);
        assert_eq!(get(&server.admin(), "/healthz").status, 200);
        // Under load, as much again goes through the other channel.
        drop((two, late));
        let mut load = Flood::default();
        let mut raw = Client::connect_to(&server, 1);
        for _ in 0..20 {
            let next = load.sent + 1;
            load.send(&mut raw, 500);
            for _ in next..=load.sent {
                while one.read_line().ends_with("asked for") {}
            }
        }
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "{:?}",
            begun.elapsed()
        );
        // And those that waited go on when nobody holds them up.
        drop(stuck);
        let mut end = Client::connect_to(&server, 0);
        end.send_line("free");
        sender.expect_message(end.id(), "free");
    }
}

#[test]
fn full_channel_loses_nothing_when_its_reader_goes_on() {
    let server = Server::start(&[
        "--no-notices",
        "--buffer=64KiB",
        "--slow-grace=forever",
        "--stall-timeout=off",
        "--listen=127.0.0.1:0,channel=a",
        "--listen=127.0.0.1:0,channel=b",
    ]);
    let mut readers: Vec<_> = (0..2).map(|i| Client::connect_stuck(&server, i)).collect();
    let mut senders: Vec<_> = (0..2).map(|i| Client::connect_to(&server, i)).collect();
    // Both full at a time; one is freed, and then the other.
    std::thread::scope(|scope| {
        for sender in &mut senders {
            scope.spawn(|| {
                Flood::default().send(sender, MUCH);
                sender.send_line("end");
            });
        }
        for (i, reader) in readers.iter_mut().enumerate() {
            reader.wake();
            // Connected in this order: readers, then senders.
            assert_eq!(Flood::expect_all(reader, 3 + i as u64), MUCH);
        }
    });
}

#[test]
fn table_of_a_channel_is_obeyed_key_by_key() {
    let (server, _dir) = start_with_file(
        &[],
        r#"
        listen = [
            "127.0.0.1:0,channel=told",
            "127.0.0.1:0,channel=skipping",
            "127.0.0.1:0,channel=quiet",
            "127.0.0.1:0,channel=others",
            "127.0.0.1:0,channel=patient",
        ]
        buffer = "64KiB"
        slow-grace = "100ms"
        stall-timeout = "off"
        [channel.told]
        slow-grace = "700ms"
        [channel.skipping]
        slow-client = "skip"
        slow-grace = 0
        [channel.quiet]
        notices = false
        buffer = "256MiB"
        [channel.patient]
        slow-grace = "forever"
        "#,
        5,
    );
    let slow = |i: usize| {
        let mut stuck = Client::connect_stuck(&server, i);
        let mut sender = Client::connect_to(&server, i);
        stuck.expect_line(&format!("New client connected: {}", sender.id()));
        let mut flood = Flood::default();
        flood.send(&mut sender, MUCH);
        let words = format!("client disconnected client={} reason=slow", stuck.id());
        (stuck, sender, flood, words)
    };
    for (i, grace) in [(0, "0.7"), (3, "0.1")] {
        let (mut stuck, mut sender, mut flood, words) = slow(i);
        stuck.wake();
        let mut said = None;
        while let Event::Line(line) = stuck.next() {
            said = Some(String::from_utf8(line).unwrap());
        }
        server.wait_log(&words);
        let said = said.unwrap();
        assert_eq!(
            said,
            format!("Error: too slow (behind for {grace}s with a full buffer)")
        );
        flood.send(&mut sender, 1);
    }
    let (mut stuck, mut sender, _, words) = slow(1);
    sender.send_line("end");
    stuck.wake();
    let lines = stuck.lines_until(&format!("Message from client {}: end", sender.id()));
    assert!(lines.iter().any(|line| line.starts_with("Skipped ")));
    assert_eq!(server.count_log(&words), 0);

    // A buffer of its own that holds it all, and nobody is told of anybody.
    let mut stuck = Client::connect_stuck(&server, 2);
    let mut sender = Client::connect_to(&server, 2);
    let mut flood = Flood::default();
    flood.send(&mut sender, MUCH);
    sender.send_line("end");
    drop(Client::connect_to(&server, 2));
    let mut reader = Client::connect_to(&server, 2);
    sender.send_line("after");
    reader.lines_until(&format!("Message from client {}: after", sender.id()));
    stuck.wake();
    assert_eq!(Flood::expect_all(&mut stuck, sender.id()), MUCH);

    let mut stuck = Client::connect_stuck(&server, 4);
    let mut sender = Client::connect_to(&server, 4);
    stuck.read_line();
    block(&mut sender, &mut Flood::default());
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(300) {
        std::thread::yield_now();
    }
    let words = format!("client disconnected client={}", stuck.id());
    assert_eq!(server.count_log(&words), 0);
}

const LISTENERS: [&str; 2] = [
    "--listen=127.0.0.1:0,hello",
    "--listen=127.0.0.1:0,hello,format=json,channel=named",
];

#[test]
fn clients_open_so_many_channels_and_no_more() {
    let server = Server::start(&[&LISTENERS[..], &["--open-channels=2", "--no-notices"]].concat());
    let at = server.addr(0);
    let (mut one, first) = Client::introduced(at, "channel=one");
    let (mut two, _) = Client::introduced(at, "channel=two");
    one.send_line("counts in one");
    let refused = || {
        let mut text = Client::dial(at);
        text.send_line("LINEHUB/1 channel=three");
        text.expect_line("Error: no such channel");
        text.expect_eof();
        let mut json = Client::dial(server.addr(1));
        json.send_line("LINEHUB/1 channel=three format=text");
        assert_eq!(
            json.read_json(),
            json!({"event": "error", "reason": "no_channel", "detail": "no such channel"})
        );
        json.expect_eof();
    };
    refused();
    // Those that there are may be named, whoever opened them.
    let mut another = Client::in_channel(at, "two");
    marker(&mut two, &mut another);
    let _named = Client::in_channel(at, "named");
    let _main = Client::in_channel(at, "main");
    refused();
    drop(another);
    refused();
    // It ends with its last client, and then another may be opened; at once for who saw the end.
    one.finish();
    one.expect_eof();
    let mut three = None;
    eventually("a channel has ended", || {
        let mut client = Client::dial(at);
        client.send_line("LINEHUB/1 channel=three");
        three = client.read_line().starts_with("Hello").then_some(client);
        three.is_some()
    });
    drop(three);
    eventually("the first channel is gone", || {
        let mut client = Client::dial(at);
        client.send_line("LINEHUB/1 channel=one");
        let answer = client.read_line();
        if !answer.starts_with("Hello") {
            return false;
        }
        let place = Place::parse(&answer);
        assert_ne!(place.epoch, first.epoch);
        assert_eq!(place.seq, 0);
        true
    });
}

#[test]
fn open_channel_whose_client_was_seen_to_leave_begins_anew_each_time() {
    let server = Server::start(&[&LISTENERS[..], &["--open-channels=1"]].concat());
    let mut epochs = Vec::new();
    for n in 0..100 {
        // Another name each second time: there is room for one.
        let hello = format!("LINEHUB/1 channel=c{}", n / 2 % 2);
        eventually("it has begun anew", || {
            let mut client = Client::dial(server.addr(0));
            client.send_line(&hello);
            let answer = client.read_line();
            if answer == "Error: no such channel" {
                return false;
            }
            let place = Place::parse(&answer);
            // Who overtakes the end of the one before is in its channel, and says so.
            let is_new = !epochs.contains(&place.epoch);
            assert_eq!(is_new, place.seq == 0);
            epochs.push(place.epoch);
            client.send_line("counted");
            client.finish();
            while client.next() != Event::Eof(Vec::new()) {}
            server.wait_log(&format!("client disconnected client={}", place.client));
            is_new
        });
    }
}

#[test]
fn without_open_channels_only_those_of_the_configuration_may_be_named() {
    let server = Server::start(&LISTENERS);
    for channel in ["nowhere", "Main", "main2", "open"] {
        let mut client = Client::dial(server.addr(0));
        client.send_line(&format!("LINEHUB/1 channel={channel}"));
        client.expect_line("Error: no such channel");
        client.expect_eof();
    }
    let (_one, place) = Client::introduced(server.addr(0), "");
    assert_eq!(place.channel, "main");
    Client::in_channel(server.addr(0), "named");
}

#[test]
fn names_that_are_none_are_refused_in_flags_and_file() {
    let long = "a".repeat(65);
    for name in [
        "../etc/passwd",
        "a/b",
        "..",
        ".",
        "\u{1b}[2J",
        "caf\u{e9}",
        "a b",
        "",
        &long,
    ] {
        let listen = format!("--listen=127.0.0.1:0,channel={name}");
        let exit = run(&[&listen], &[]);
        assert_eq!(exit.code, Some(2), "{name:?}: {}", exit.stderr);
        assert!(exit.stderr.contains("channel"), "{}", exit.stderr);
        assert!(
            !exit.stderr.contains('\u{1b}'),
            "{}",
            exit.stderr.escape_debug()
        );

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("linehub.toml");
        let quoted: String = name.chars().flat_map(char::escape_unicode).collect();
        let quoted = quoted.replace("\\u{", "\\U").replace('}', "");
        let escaped: String = quoted
            .split("\\U")
            .skip(1)
            .map(|hex| format!("\\U{hex:0>8}"))
            .collect();
        for text in [
            format!("[channel.\"{escaped}\"]\nnotices = false\n"),
            format!("listen = [{{ address = \"127.0.0.1:0\", channel = \"{escaped}\" }}]\n"),
        ] {
            fs::write(&path, &text).unwrap();
            let exit = run(&["--config", path.to_str().unwrap()], &[]);
            assert_eq!(exit.code, Some(2), "{text}: {}", exit.stderr);
            assert!(
                !exit.stderr.contains('\u{1b}'),
                "{}",
                exit.stderr.escape_debug()
            );
        }
    }
}

#[test]
fn reload_adds_removes_and_changes_channels_and_touches_nobody() {
    let port = free_port();
    let file = |channel: &str, rest: &str| {
        format!("listen = [\"127.0.0.1:{port},hello,channel={channel}\"]\n{rest}")
    };
    let (server, dir) = start_with_file(&[], &file("old", "[channel.extra]\nnotices = false\n"), 1);
    let path = dir.path().join("linehub.toml");
    let at = server.addr(0);
    let (mut one, old) = Client::introduced(at, "");
    assert_eq!(old.channel, "old");
    let (mut two, _) = Client::introduced(at, "");
    one.read_line();
    let (mut extra, extra_place) = Client::introduced(at, "channel=extra");
    let mut begun = Client::dial(at);
    begun.send_bytes(b"LINEHUB/1 chan");

    reload(
        &server,
        &path,
        &file("new", "[channel.added]\nnotices = false\n"),
    );
    marker(&mut one, &mut two);
    let (mut fresh, new) = Client::introduced(at, "");
    assert_eq!((&*new.channel, new.seq), ("new", 0));
    // Nobody can open one, but those that still have clients are there.
    let _added = Client::in_channel(at, "added");
    let (still, place) = Client::introduced(at, "channel=old");
    assert_eq!(place.epoch, old.epoch);
    one.read_line();
    two.read_line();
    drop(still);
    one.read_line();
    two.read_line();
    marker(&mut two, &mut one);
    begun.send_bytes(b"nel=added\n");
    assert_eq!(Place::parse(&begun.read_line()).channel, "added");

    // Notices of a channel come and go with the file.
    reload(
        &server,
        &path,
        &file("new", "[channel.new]\nnotices = false\n"),
    );
    let _third = Client::introduced(at, "");
    let mut fourth = Client::introduced(at, "").0;
    marker(&mut fourth, &mut fresh);
    reload(
        &server,
        &path,
        &file("new", "[channel.old]\n[channel.extra]\n"),
    );
    let fifth = Client::introduced(at, "").0;
    fresh.expect_line(&format!("New client connected: {}", fifth.id()));
    // Named again, it is the one it was.
    let (sixth, place) = Client::introduced(at, "channel=old");
    assert_eq!(place.epoch, old.epoch);
    one.expect_line(&format!("New client connected: {}", sixth.id()));
    drop(two);
    let (seventh, place) = Client::introduced(at, "channel=extra");
    assert_eq!(place.epoch, extra_place.epoch);
    extra.expect_line(&format!("New client connected: {}", seventh.id()));

    // And without clients and name it is no more.
    drop((one, sixth));
    reload(&server, &path, &file("new", ""));
    eventually("it has ended", || {
        let mut client = Client::dial(at);
        client.send_line("LINEHUB/1 channel=old");
        client.read_line() == "Error: no such channel"
    });
}

/// Stuck readers with much before them, each in a channel of its own, with the sender of that.
struct Held {
    stuck: Client,
    sender: Client,
    flood: Flood,
    epoch: String,
    seq: u64,
    channel: &'static str,
}

impl Held {
    #[track_caller]
    fn new(server: &Server, channel: &'static str) -> Held {
        let words = format!("channel={channel}");
        let (stuck, _) = Client::dial_stuck(server.addr(0)).introduce(&words);
        let (mut sender, _) = Client::introduced(server.addr(0), &words);
        let mut flood = Flood::default();
        flood.send(&mut sender, MUCH);
        sender.send_bytes(b"half a ");
        let (mut reader, _) = Client::introduced(server.addr(0), &words);
        let sync = format!("sync in {channel}");
        sender.send_bytes(format!("line\n{sync}\nhalf a ").as_bytes());
        reader.lines_until(&format!("Message from client {}: {sync}", sender.id()));
        drop(reader);
        let (_, place) = Client::introduced(server.addr(0), &words);
        Held {
            stuck,
            sender,
            flood,
            epoch: place.epoch,
            seq: place.seq,
            channel,
        }
    }

    /// All that was pending comes, and the order goes on.
    #[track_caller]
    fn check(mut self, server: &Server) {
        let words = format!("channel={}", self.channel);
        let (next, place) = Client::introduced(server.addr(0), &words);
        assert_eq!((&place.epoch, place.seq), (&self.epoch, self.seq));
        self.sender.send_line("line");
        self.stuck.wake();
        let id = self.sender.id();
        Flood::expect(&mut self.stuck, id, 1, self.flood.sent);
        for line in [
            "half a line",
            &format!("sync in {}", self.channel),
            "half a line",
        ] {
            self.stuck.expect_message(id, line);
        }
        marker(&mut self.stuck, &mut self.sender);
        assert!(next.id() > id);
    }
}

#[test]
fn exec_keeps_every_channel_with_what_is_pending_in_it() {
    let text = |rest: &str| {
        format!("no-notices = true\nslow-grace = \"forever\"\nopen-channels = 1\n{rest}")
    };
    let listen = [
        "--listen=127.0.0.1:0,hello",
        "--listen=127.0.0.1:0,channel=listed",
    ];
    let (server, dir) = start_with_file(&listen, &text("[channel.named]\n[channel.empty]\n"), 2);
    let held = ["main", "named", "listed", "opened"].map(|channel| Held::new(&server, channel));
    let (empty, empty_place) = Client::introduced(server.addr(0), "channel=empty");
    drop(empty);
    // The next daemon's file no longer names one, and names one that a client had opened.
    let path = dir.path().join("linehub.toml");
    fs::write(
        &path,
        text("[channel.opened]\nbuffer = \"32MiB\"\n[channel.empty]\n"),
    )
    .unwrap();
    for _ in 0..2 {
        exec(&server);
    }
    // A channel without clients that the file names is the same one, too.
    let (_empty, place) = Client::introduced(server.addr(0), "channel=empty");
    assert_eq!(
        (place.epoch, place.seq),
        (empty_place.epoch, empty_place.seq)
    );
    // `named` is open now, and the only one that may be.
    let mut refused = Client::dial(server.addr(0));
    refused.send_line("LINEHUB/1 channel=another");
    refused.expect_line("Error: no such channel");
    for held in held {
        held.check(&server);
    }
    eventually("the channel that nothing names has ended", || {
        let mut client = Client::dial(server.addr(0));
        client.send_line("LINEHUB/1 channel=another");
        client.read_line().starts_with("Hello")
    });
}

#[test]
fn restart_keeps_every_channel_with_what_is_pending_in_it() {
    let manager = Manager::keeping();
    let listen = [
        "--no-notices",
        "--slow-grace=forever",
        "--open-channels=1",
        "--listen=127.0.0.1:0,hello",
        "--listen=127.0.0.1:0,hello,channel=listed",
    ];
    let mut server = manager.launch(&listen).start();
    let held = ["main", "listed", "opened"].map(|channel| Held::new(&server, channel));
    let next = [
        "--no-notices",
        "--slow-grace=forever",
        "--open-channels=0",
        "--listen=127.0.0.1:0,hello",
    ];
    // The next daemon's configuration names one channel less, and lets clients open none.
    server.stop();
    server.wait_log("handed over to the service manager");
    drop(server);
    let server = manager.relaunch(&next).start();
    server.wait_log("phase=running");
    eventually("the store is emptied", || manager.stored().is_empty());
    let server = restart(&manager, server, &next);
    for held in held {
        held.check(&server);
    }
}

#[test]
fn drain_tells_every_channel_after_what_it_had_sent() {
    let mut server =
        Server::start(&[&LISTENERS[..], &["--open-channels=2", "--no-notices"]].concat());
    let channels = ["main", "named", "x", "y"];
    let mut pairs: Vec<_> = channels
        .iter()
        .map(|channel| {
            let mut reader = Client::in_channel(server.addr(0), channel);
            let mut sender = Client::in_channel(server.addr(0), channel);
            marker(&mut reader, &mut sender);
            (reader, sender)
        })
        .collect();
    // As much as a socket takes at once: what is still with the sender's system is not sent yet.
    for (_, sender) in &mut pairs {
        Flood::default().send(sender, 400);
    }
    server.signal(Signal::INT);
    for (reader, sender) in &mut pairs {
        Flood::expect(reader, sender.id(), 1, 400);
        for client in [reader, sender] {
            client.expect_line("Server shutting down");
            client.expect_eof();
        }
    }
    assert_eq!(server.wait_exit(PATIENCE).code(), Some(0));
}

#[test]
fn drain_is_not_held_up_by_a_full_channel() {
    let mut server = Server::start(&[
        "--no-notices",
        "--buffer=64KiB",
        "--slow-grace=forever",
        "--drain-timeout=3s",
        "--listen=127.0.0.1:0,channel=a",
        "--listen=127.0.0.1:0,channel=b",
    ]);
    let _stuck = Client::connect_stuck(&server, 0);
    let mut sender = Client::connect_to(&server, 0);
    let mut one = Client::connect_to(&server, 1);
    let mut two = Client::connect_to(&server, 1);
    block(&mut sender, &mut Flood::default());
    marker(&mut one, &mut two);
    one.send_line("last");
    server.signal(Signal::INT);
    two.expect_message(one.id(), "last");
    two.expect_line("Server shutting down");
    two.expect_eof();
    assert_eq!(server.wait_exit(PATIENCE).code(), Some(0));
}

#[test]
fn watchdog_is_fed_and_health_is_good_with_several_channels() {
    let manager = Manager::start();
    let args = [
        &LISTENERS[..],
        &["--open-channels=2", "--no-notices", "--admin=127.0.0.1:0"],
    ];
    let launch = manager.launch(&args.concat());
    let server = launch
        .watchdog(Duration::from_millis(200))
        .listeners(2)
        .start();
    for round in 0..3 {
        let mut one = Client::in_channel(server.addr(0), &format!("c{round}"));
        let mut two = Client::in_channel(server.addr(0), &format!("c{round}"));
        marker(&mut one, &mut two);
        manager.wait("WATCHDOG=1");
        assert_eq!(get(&server.admin(), "/healthz").status, 200);
        assert_eq!(get(&server.admin(), "/readyz").status, 200);
    }
    manager.wait("WATCHDOG=1");
}

#[test]
fn max_clients_is_over_all_channels() {
    let server = Server::start(&[
        "--max-clients=3",
        "--open-channels=9",
        "--listen=127.0.0.1:0,hello",
        "--listen=127.0.0.1:0,channel=b",
    ]);
    let one = Client::in_channel(server.addr(0), "a");
    let _two = Client::connect_to(&server, 1);
    let _three = Client::in_channel(server.addr(0), "c");
    for i in 0..2 {
        Client::dial(server.addr(i)).expect_line("Error: server full (3 clients)");
    }
    drop(one);
    eventually("there is room", || {
        let mut client = Client::dial(server.addr(0));
        // Whoever is refused may be so before it has said anything.
        let _ = client.sender().send(b"LINEHUB/1 channel=d\n");
        client.read_line().starts_with("Hello client ")
    });
}

#[test]
fn three_hundred_open_channels_of_three_clients() {
    let server = Server::start(&["--open-channels=300", "--listen=127.0.0.1:0,hello"]);
    let mut channels: Vec<Vec<Client>> = (0..300)
        .map(|n| {
            let name = format!("channel-{n}");
            (0..3)
                .map(|_| Client::in_channel(server.addr(0), &name))
                .collect()
        })
        .collect();
    for clients in &mut channels {
        clients[0].send_line("to two");
    }
    for clients in &mut channels {
        let [one, two, three] = &mut clients[..] else {
            panic!("three clients");
        };
        one.expect_line(&format!("New client connected: {}", two.id()));
        one.expect_line(&format!("New client connected: {}", three.id()));
        two.expect_line(&format!("New client connected: {}", three.id()));
        two.expect_message(one.id(), "to two");
        three.expect_message(one.id(), "to two");
    }
    let mut more = Client::dial(server.addr(0));
    more.send_line("LINEHUB/1 channel=one-more");
    more.expect_line("Error: no such channel");
    exec(&server);
    for clients in &mut channels {
        let [one, two, _] = &mut clients[..] else {
            panic!("three clients");
        };
        marker(two, one);
    }
    drop(channels);
    eventually("all have ended", || {
        let mut more = Client::dial(server.addr(0));
        more.send_line("LINEHUB/1 channel=one-more");
        more.read_line().starts_with("Hello")
    });
    // Idle again, it rests.
    let used = server.cpu();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(500) {
        std::thread::yield_now();
    }
    assert!(server.cpu() - used < Duration::from_millis(250));
}
