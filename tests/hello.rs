use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use crate::common::{
    Address, Client, Event, Flood, Launch, Manager, PATIENCE, Place, Server, copied, eventually,
    exec, marker, payload, restart, tool,
};

/// A daemon whose listeners, in this order, want a hello: text, json, raw; and a plain one, of text.
#[track_caller]
fn start(args: &[&str]) -> Server {
    let listeners = [
        "--listen=127.0.0.1:0,hello",
        "--listen=127.0.0.1:0,hello,format=json",
        "--listen=127.0.0.1:0,hello,format=raw",
        "--listen=127.0.0.1:0",
    ];
    Server::start(&[args, &listeners].concat())
}

const TEXT: usize = 0;
const JSON: usize = 1;
const RAW: usize = 2;
const PLAIN: usize = 3;

/// Sends this first, in one piece.
#[track_caller]
fn dial(server: &Server, i: usize, first: impl AsRef<[u8]>) -> Client {
    let mut client = Client::dial(server.addr(i));
    client.send_bytes(first.as_ref());
    client
}

/// Sends this first to a listener of `text`, which is refused for this, and then ends.
#[track_caller]
fn refused(server: &Server, first: impl AsRef<[u8]>, words: &str) {
    let mut client = dial(server, TEXT, first);
    client.expect_line(&format!("Error: {words}"));
    client.expect_eof();
}

/// Nobody has become a client meanwhile, and nobody was told of anything.
#[track_caller]
fn nobody_came(server: &Server, watcher: &mut Client, sender: &mut Client) {
    marker(sender, watcher);
    let next = Client::connect_to(server, PLAIN);
    watcher.expect_line(&format!("New client connected: {}", next.id()));
    sender.expect_line(&format!("New client connected: {}", next.id()));
    drop(next);
    watcher.read_line();
    sender.read_line();
}

#[test]
fn answer_is_the_first_line_in_every_format() {
    let server = start(&["--open-channels=1"]);
    let (mut text, place) = Client::introduced(server.addr(TEXT), "");
    assert_eq!((place.client, &*place.channel, place.seq), (1, "main", 0));
    let mut json = dial(&server, JSON, "LINEHUB/1\n");
    let epoch = &place.epoch;
    json.expect_line(&format!(
        r#"{{"event":"hello","client":2,"channel":"main","epoch":"{epoch}","seq":1}}"#
    ));
    text.expect_line("New client connected: 2");
    let mut raw = dial(&server, RAW, "LINEHUB/1\nsaid\n");
    text.expect_line("New client connected: 3");
    text.expect_line("Message from client 3: said");
    assert_eq!(
        json.read_json(),
        json!({"event": "connect", "seq": 3, "client": 3})
    );
    text.send_line("to all");
    raw.expect_line("to all");
    let (_other, place) = Client::introduced(server.addr(TEXT), "channel=other");
    assert_eq!((place.client, &*place.channel, place.seq), (4, "other", 0));
    assert_ne!(place.epoch, *epoch);
}

#[test]
fn who_never_reads_may_publish_and_who_only_publishes_is_answered() {
    let server = start(&["--no-notices"]);
    let mut reader = Client::connect_to(&server, PLAIN);
    let (mut publisher, place) = Client::introduced(server.addr(TEXT), "role=publish");
    assert_eq!(place.client, publisher.id());
    publisher.send_line("one");
    reader.expect_message(publisher.id(), "one");
    reader.send_line("not for publishers");
    publisher.finish();
    publisher.expect_eof();
    let mut subscriber = dial(&server, JSON, "LINEHUB/1 role=subscribe\nthrown away\n");
    assert_eq!(subscriber.read_json()["event"], "hello");
    let mut other = Client::connect_to(&server, PLAIN);
    marker(&mut other, &mut reader);
}

#[test]
fn hello_is_cut_at_every_byte_and_is_the_same() {
    let server = start(&["--no-notices", "--open-channels=1"]);
    let mut reader = Client::in_channel(server.addr(TEXT), "here");
    for end in ["\n", "\r\n"] {
        let input = format!("LINEHUB/1\tchannel=here  role=publish {end}said{end}");
        for at in 0..=input.len() {
            let (first, rest) = input.split_at(at);
            let mut client = dial(&server, TEXT, first);
            // Whole turns of the daemon part the two, and no time is waited for.
            marker_in_plain(&server);
            client.send_bytes(rest.as_bytes());
            let answer = client.read_line();
            let place = Place::parse(answer.strip_suffix('\r').unwrap_or(&answer));
            assert_eq!(answer.ends_with('\r'), end == "\r\n", "{answer:?}");
            assert_eq!(place.channel, "here");
            reader.expect_message(place.client, "said");
        }
        let mut client = Client::dial(server.addr(TEXT));
        for byte in input.as_bytes() {
            client.send_bytes(&[*byte]);
        }
        let place = Place::parse(client.read_line().trim_end());
        reader.expect_message(place.client, "said");
    }
}

/// Passes a line from one plain client to another.
#[track_caller]
fn marker_in_plain(server: &Server) {
    let mut one = Client::connect_to(server, PLAIN);
    let mut two = Client::connect_to(server, PLAIN);
    marker(&mut one, &mut two);
}

#[test]
fn telnet_may_negotiate_before_inside_and_behind_the_hello() {
    let server = start(&["--no-notices"]);
    let mut reader = Client::connect_to(&server, PLAIN);
    let mut telnet = dial(&server, TEXT, b"\xff\xfd\x03LINE\xff\xfb\x18HUB/1 rol");
    assert_eq!(telnet.read_bytes(6), b"\xff\xfc\x03\xff\xfe\x18");
    telnet.send_bytes(b"e=both\r\0hel\xff\xfd\x06lo\r\n");
    let id = Place::parse(telnet.read_line().strip_suffix('\r').unwrap()).client;
    reader.expect_message(id, "hello");
    assert_eq!(telnet.read_bytes(3), b"\xff\xfc\x06");
    // What was answered before the hello is not answered again behind it.
    telnet.send_bytes(b"\xff\xfd\x03\xff\xfd\x06x\r\n");
    assert_eq!(telnet.read_bytes(3), b"\xff\xfc\x06");
    reader.expect_message(id, "x");
    reader.send_line("back");
    telnet.expect_line(&format!("Message from client {}: back\r", reader.id()));
    // A command is cut between hello and line.
    let mut cut = dial(&server, TEXT, b"LINEHUB/1\n\xff");
    let id = Place::parse(&cut.read_line()).client;
    cut.send_bytes(b"\xf1x\n");
    reader.expect_message(id, "x");
    // Who asks to leave instead leaves.
    let mut leaving = dial(&server, TEXT, b"\xff\xec");
    leaving.expect_eof();
}

/// What a client in `json` sees up to its first message: the answer's seq, those of what follows, and
/// the message's data.
#[track_caller]
fn first_message(client: &mut Client) -> (u64, Vec<u64>, String) {
    let hello = client.read_json();
    assert_eq!(hello["event"], "hello");
    let mut seqs = Vec::new();
    loop {
        let event = client.read_json();
        seqs.push(event["seq"].as_u64().expect("a number"));
        if let Some(data) = event["data"].as_str() {
            return (hello["seq"].as_u64().expect("a number"), seqs, data.into());
        }
    }
}

/// Ends what goes by it when a test ends, also when that fails.
struct Until<'a>(&'a AtomicBool);

impl Drop for Until<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

#[test]
fn seq_is_the_last_before_what_follows_under_load() {
    for (args, own_notices) in [
        (&["--no-notices"][..], 0),
        (&["--echo"], 0),
        (&[], 1),
        (&["--echo", "--no-notices"], 0),
    ] {
        let server = start(args);
        let mut sender = dial(&server, RAW, "LINEHUB/1 role=publish\n");
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let _until = Until(&is_over);
            scope.spawn(|| {
                let mut flood = Flood::default();
                while !is_over.load(Relaxed) {
                    flood.send(&mut sender, 20);
                }
            });
            for _ in 0..12 {
                let mut client = dial(&server, JSON, "LINEHUB/1\n");
                let (seq, seqs, data) = first_message(&mut client);
                let first = seq + 1 + own_notices;
                let wanted: Vec<u64> = (first..).take(seqs.len()).collect();
                assert_eq!(seqs, wanted, "after {seq}, {args:?}");
                if args.contains(&"--no-notices") {
                    assert_eq!(data, payload(seqs[0]));
                }
            }
        });
    }
}

#[test]
fn nothing_of_a_hello_reaches_anybody() {
    let server = start(&["--echo"]);
    let mut watcher = Client::connect_to(&server, PLAIN);
    watcher.read_line();
    for first in ["LINEHUB/1\nsaid\n", "LINEHUB/1 role=both\r\nsaid\r\n"] {
        let client = dial(&server, RAW, first);
        let came = watcher.read_line();
        let id = came
            .strip_prefix("New client connected: ")
            .expect("a notice");
        watcher.expect_message(id.parse().unwrap(), "said");
        drop(client);
        watcher.expect_line(&format!("Client disconnected: {id}"));
    }
}

#[test]
fn wrong_hellos_are_told_in_text_and_are_no_clients() {
    let server = start(&[]);
    let mut watcher = Client::connect_to(&server, PLAIN);
    let mut sender = Client::connect_to(&server, PLAIN);
    watcher.read_line();
    for first in [
        "\n",
        "hello\n",
        "\r\n",
        "linehub/1\n",
        "LINEHUB/2\n",
        "LINEHUB/1x\n",
        " LINEHUB/1\n",
        "LINEHUB/10\n",
        "LINEHUB/\nLINEHUB/1\n",
        "LINEHUB/1,channel=main\n",
        "{\"x\":1}\n",
        "\0\n",
        "hello",
    ] {
        let mut client = dial(&server, TEXT, first);
        if !first.ends_with('\n') {
            client.finish();
        }
        let line = client.read_line();
        assert_eq!(
            line.trim_end_matches('\r'),
            "Error: hello expected",
            "{first:?}"
        );
        client.expect_eof();
    }
    for (first, words) in [
        ("LINEHUB/1 x=1\n", r#"unknown key "x" in hello"#),
        ("LINEHUB/1 x\nsaid\n", r#"unknown key "x" in hello"#),
        (
            "LINEHUB/1 role=both Channel=a\n",
            r#"unknown key "Channel" in hello"#,
        ),
        (
            "LINEHUB/1 format=xml\n",
            r#"invalid value of "format" in hello: expected text, json or raw"#,
        ),
        (
            "LINEHUB/1 role=all\n",
            r#"invalid value of "role" in hello: expected both, publish or subscribe"#,
        ),
        ("LINEHUB/1 role=\n", r#""role" without a value in hello"#),
        (
            "LINEHUB/1 role=both role=both\n",
            r#""role" given twice in hello"#,
        ),
        ("LINEHUB/1 channel=nowhere\n", "no such channel"),
    ] {
        refused(&server, first, words);
    }
    for (words, wrong) in [
        (
            "history=64K",
            "invalid value of \"history\" in hello: expected a number, ",
        ),
        (
            "since=4711",
            "invalid value of \"since\" in hello: expected EPOCH:SEQ ",
        ),
        (
            "session=a/b",
            "invalid value of \"session\" in hello: expected 1 to 64 of ",
        ),
        ("ack", "\"ack\" without \"session\" in hello"),
        ("session=a ack=1", "\"ack\" takes no value in hello"),
        (
            "session=a ack",
            "a session is asked for, but this channel keeps no history",
        ),
        (
            "session=a role=subscribe",
            "\"session\" with role subscribe in hello",
        ),
    ] {
        let mut client = dial(&server, TEXT, format!("LINEHUB/1 {words}\n"));
        let line = client.read_line();
        assert!(line.starts_with(&format!("Error: {wrong}")), "{line}");
        client.expect_eof();
    }
    for name in [
        "../etc",
        "a/b",
        ".",
        "..",
        "\x1b[2J",
        "a b=c",
        "caf\u{e9}",
        &"a".repeat(65),
    ] {
        let mut client = dial(&server, TEXT, format!("LINEHUB/1 channel={name}\n"));
        let line = client.read_line();
        assert!(line.starts_with("Error: "), "{name:?}: {line}");
        assert!(line.bytes().all(|b| (b' '..0x7f).contains(&b)), "{line:?}");
        client.expect_eof();
    }
    nobody_came(&server, &mut watcher, &mut sender);
    assert!(!server.log().iter().any(|line| line.contains("secret")));
}

#[test]
fn who_asks_for_the_past_where_nothing_is_kept_gets_what_comes() {
    let server = start(&["--no-notices"]);
    let mut sender = Client::connect_to(&server, PLAIN);
    let (mut reader, place) = Client::introduced(server.addr(TEXT), "");
    let (epoch, mut seq) = (place.epoch, place.seq);
    let mut say = |line: &str| {
        sender.send_line(line);
        reader.expect_message(sender.id(), line);
    };
    say("before");
    seq += 1;
    type Words<'a> = &'a dyn Fn(u64) -> String;
    let cases: [(Words<'_>, Option<bool>); 7] = [
        (&|_| "history=5".to_owned(), None),
        (&|_| "history=1MiB".to_owned(), None),
        (&|_| "since=1h".to_owned(), None),
        (&|seq| format!("since={epoch}:{seq}"), Some(true)),
        (&|seq| format!("since={epoch}:{}", seq - 1), Some(false)),
        (
            &|seq| format!("since={epoch}:{} history=5", seq + 1),
            Some(false),
        ),
        (&|seq| format!("since=00000001:{seq}"), Some(false)),
    ];
    for (words, recovered) in cases {
        let words = words(seq);
        let mut client = dial(&server, JSON, format!("LINEHUB/1 {words}\n"));
        let answer = client.read_json();
        let place = (&answer["event"], &answer["seq"], answer.get("recovered"));
        let recovered = recovered.map(|recovered| json!(recovered));
        assert_eq!(
            place,
            (&json!("hello"), &json!(seq), recovered.as_ref()),
            "{words}"
        );
        assert_eq!(answer.get("taken"), None, "{words}");
        say(&words);
        seq += 1;
        let line = client.read_json();
        assert_eq!((&line["data"], &line["seq"]), (&json!(words), &json!(seq)));
    }
}

#[test]
fn wrong_hellos_are_told_in_the_format_of_the_listener() {
    let server = start(&[]);
    let error = |detail: &str| json!({"event": "error", "reason": "bad_hello", "detail": detail});
    for (first, wanted) in [
        ("x\n", error("hello expected")),
        (
            "LINEHUB/1 format=text x=1\n",
            error("unknown key \"x\" in hello"),
        ),
        ("LINEHUB/1 \"=1\n", error("unknown key \"\"\" in hello")),
        (
            "LINEHUB/1 format=text channel=nowhere\n",
            json!({"event": "error", "reason": "no_channel", "detail": "no such channel"}),
        ),
    ] {
        let mut client = dial(&server, JSON, first);
        let mut said = client.read_json();
        if first.contains('"') {
            // How a quote is shown is not the matter here.
            said["detail"] = wanted["detail"].clone();
        }
        assert_eq!(said, wanted);
        client.expect_eof();
        let mut client = dial(&server, RAW, first);
        assert_eq!(client.next(), Event::Reset);
    }
    // To who ends its lines in CR LF, so does the daemon.
    dial(&server, TEXT, "x\r\n").expect_line("Error: hello expected\r");
    refused(
        &server,
        "LINEHUB/1 format=json x=1\n",
        "unknown key \"x\" in hello",
    );
}

#[test]
fn http_request_is_no_hello() {
    let server = start(&[]);
    for request in [
        "POST / HTTP/1.1\r\nHost: x\r\n\r\nsaid\n",
        "GET / HTTP/1.1\r\n\r\n",
    ] {
        dial(&server, TEXT, request).expect_line("Error: hello expected\r");
        let mut json = dial(&server, JSON, request);
        assert_eq!(json.read_json()["reason"], "bad_hello");
        assert_eq!(dial(&server, RAW, request).next(), Event::Reset);
    }
    // Behind a hello, which no web page sends, it is a line like others.
    let mut reader = Client::connect_to(&server, PLAIN);
    let _writer = dial(&server, TEXT, "LINEHUB/1\nPOST / HTTP/1.1\n");
    reader.expect_line("New client connected: 2");
    reader.expect_message(2, "POST / HTTP/1.1");
}

#[test]
fn hello_has_4096_bytes_and_no_more() {
    let server = start(&[]);
    let padded = |bytes: usize, end: &str| format!("{:<bytes$}{end}", "LINEHUB/1 role=both");
    for end in ["\n", "\r\n"] {
        let mut client = dial(&server, TEXT, padded(4096, end));
        Place::parse(client.read_line().trim_end());
        let mut client = dial(&server, TEXT, padded(4097, end));
        let line = client.read_line();
        assert!(line.starts_with("Error: hello expected"), "{line}");
        assert!(matches!(client.next(), Event::Eof(_)));
    }
    // Whoever never ends it is told before it has.
    for i in [TEXT, JSON] {
        let mut endless = dial(&server, i, padded(5000, ""));
        assert!(endless.read_line().contains("hello expected"));
        endless.expect_eof();
    }
    // The limit is for lines behind it, and not for a hello.
    let server = start(&["--max-line=64"]);
    let mut client = dial(&server, TEXT, padded(4096, "\n"));
    Place::parse(&client.read_line());
    client.send_line(&"x".repeat(65));
    client.expect_line("Error: line too long (limit 64 bytes)");
}

#[test]
fn hello_has_its_time_and_nobody_waits_for_it() {
    let server = start(&["--hello-timeout=1s"]);
    let mut one = Client::connect_to(&server, PLAIN);
    let mut two = Client::connect_to(&server, PLAIN);
    one.read_line();
    let begun = Instant::now();
    let mut silent: Vec<_> = (0..200).map(|i| Client::dial(server.addr(i % 3))).collect();
    let mut slow = Client::dial(server.addr(TEXT));
    for _ in 0..50 {
        marker(&mut one, &mut two);
        marker(&mut two, &mut one);
    }
    // Nobody else has got a number.
    let (client, _) = Client::introduced(server.addr(TEXT), "");
    assert_eq!(client.id(), 3);
    for other in [&mut one, &mut two] {
        other.expect_line("New client connected: 3");
    }
    // A byte now and then makes it no longer.
    let mut line = b"LINEHUB/1 ".iter().cycle();
    while slow.sender().send(&[*line.next().unwrap()]).is_ok() {
        std::thread::sleep(Duration::from_millis(100));
        assert!(begun.elapsed() < PATIENCE);
        if begun.elapsed() > Duration::from_millis(1500) {
            break;
        }
    }
    assert!(slow.read_line().starts_with("Error: hello expected"));
    for (i, client) in silent.iter_mut().enumerate() {
        match i % 3 {
            TEXT => {
                assert!(client.read_line().starts_with("Error: hello expected"));
                client.expect_eof();
            }
            JSON => {
                assert_eq!(client.read_json()["reason"], "bad_hello");
                client.expect_eof();
            }
            _ => assert_eq!(client.next(), Event::Reset),
        }
    }
    assert!(begun.elapsed() < Duration::from_secs(10));
    marker(&mut one, &mut two);
}

#[test]
fn connection_in_its_hello_counts_for_max_clients_and_is_freed() {
    let server = start(&["--max-clients=3"]);
    let mut one = Client::connect_to(&server, PLAIN);
    let mut two = Client::connect_to(&server, PLAIN);
    one.read_line();
    let silent = Client::dial(server.addr(TEXT));
    let full = "Error: server full (3 clients)";
    for i in [TEXT, PLAIN] {
        let mut client = Client::dial(server.addr(i));
        client.expect_line(full);
        client.expect_eof();
    }
    drop(silent);
    // Freed by each of the ways a hello may end.
    for i in 0..4 {
        let introduced = || {
            let mut client = dial(&server, TEXT, "LINEHUB/1\n");
            let answer = client.read_line();
            answer.starts_with("Hello ").then_some(client)
        };
        let mut client = None;
        eventually("there is room", || {
            client = introduced();
            client.is_some()
        });
        drop(client);
        one.read_line();
        one.read_line();
        two.read_line();
        two.read_line();
        let mut ending = Client::dial(server.addr(TEXT));
        ending.send_bytes(b"LINE");
        match i {
            0 => ending.reset(),
            1 => ending.finish(),
            2 => ending.send_line(""),
            _ => drop(ending),
        }
    }
    marker(&mut one, &mut two);
}

#[test]
fn input_that_ends_in_the_hello_is_refused_and_behind_it_is_published() {
    let server = start(&[]);
    let mut watcher = Client::connect_to(&server, PLAIN);
    let mut sender = Client::connect_to(&server, PLAIN);
    watcher.read_line();
    let mut half = dial(&server, TEXT, "LINEH");
    half.finish();
    half.expect_line("Error: hello expected");
    half.expect_eof();
    dial(&server, TEXT, "LINEHUB/1 chan").reset();
    Client::dial(server.addr(TEXT)).reset();
    let mut nothing = Client::dial(server.addr(TEXT));
    nothing.finish();
    nothing.expect_eof();
    nobody_came(&server, &mut watcher, &mut sender);

    for (i, first) in [
        (TEXT, "LINEHUB/1\nx\n"),
        (TEXT, "LINEHUB/1\nx"),
        (RAW, "LINEHUB/1 format=text\nx\n"),
        (TEXT, "LINEHUB/1\r\nx\r\n"),
    ] {
        let mut client = dial(&server, i, first);
        client.finish();
        let id = Place::parse(client.read_line().trim_end()).client;
        client.expect_eof();
        for other in [&mut watcher, &mut sender] {
            other.expect_line(&format!("New client connected: {id}"));
            other.expect_message(id, "x");
            other.expect_line(&format!("Client disconnected: {id}"));
        }
    }
    // A hello whose end is the end of the input is one, as a line is.
    let mut client = dial(&server, TEXT, "LINEHUB/1");
    client.finish();
    let id = Place::parse(&client.read_line()).client;
    client.expect_eof();
    watcher.expect_line(&format!("New client connected: {id}"));
    watcher.expect_line(&format!("Client disconnected: {id}"));
    // A reset behind it takes nothing back.
    let client = dial(&server, TEXT, "LINEHUB/1\nx\n");
    drop(client);
    let came = watcher.read_line();
    let id = came
        .strip_prefix("New client connected: ")
        .expect("it came");
    watcher.expect_message(id.parse().unwrap(), "x");
    watcher.expect_line(&format!("Client disconnected: {id}"));
}

#[test]
fn netcat_types_it_all() {
    let Some(nc) = tool("nc") else { return };
    let server = start(&["--no-notices", "--open-channels=1"]);
    let mut reader = Client::in_channel(server.addr(TEXT), "nmea");
    let Address::Tcp(address) = server.addr(TEXT) else {
        panic!("TCP");
    };
    let script = format!(
        "printf 'LINEHUB/1 channel=nmea\\nx\\n' | {} -N 127.0.0.1 {}",
        nc.display(),
        address.port()
    );
    let output = std::process::Command::new("timeout")
        .args(["20", "sh", "-c", &script])
        .output()
        .unwrap();
    let answer = String::from_utf8(output.stdout).unwrap();
    let place = Place::parse(answer.trim_end());
    assert_eq!((&*place.channel, place.seq), ("nmea", 0));
    reader.expect_message(place.client, "x");
}

#[test]
fn role_may_only_narrow() {
    let server = Server::start(&[
        "--no-notices",
        "--listen=127.0.0.1:0,hello",
        "--listen=127.0.0.1:0,hello,role=publish",
        "--listen=127.0.0.1:0,hello,role=subscribe",
    ]);
    for (i, listed) in [(0, "both"), (1, "publish"), (2, "subscribe")] {
        for asked in ["both", "publish", "subscribe"] {
            let mut client = dial(&server, i, format!("LINEHUB/1 role={asked}\n"));
            let answer = client.read_line();
            if listed == "both" || listed == asked {
                Place::parse(&answer);
            } else {
                assert!(
                    answer.starts_with("Error: role "),
                    "{listed}, {asked}: {answer}"
                );
                client.expect_eof();
            }
        }
    }
    let (mut reader, _) = Client::introduced(server.addr(2), "");
    let (mut narrowed, _) = Client::introduced(server.addr(0), "role=subscribe");
    let (mut writer, _) = Client::introduced(server.addr(0), "role=publish");
    narrowed.send_line("thrown away");
    reader.send_line("thrown away");
    writer.send_line("heard");
    for client in [&mut reader, &mut narrowed] {
        client.expect_message(writer.id(), "heard");
    }
}

#[test]
fn format_may_be_another_than_that_of_the_listener() {
    let server = start(&["--no-notices"]);
    let mut sender = Client::connect_to(&server, PLAIN);
    for i in [TEXT, JSON, RAW] {
        let (mut text, _) = Client::dial(server.addr(i)).introduce("format=text");
        let mut json = dial(&server, i, "LINEHUB/1 format=json\n");
        assert_eq!(json.read_json()["event"], "hello");
        let mut raw = dial(&server, i, "LINEHUB/1 format=raw\nready\n");
        assert!(text.read_line().ends_with(": ready"));
        assert_eq!(json.read_json()["data"], "ready");
        assert!(sender.read_line().trim_end().ends_with(": ready"));
        sender.send_bytes(b"a\xffb\x1b\r\n");
        // The first command by telnet's rules is a stray 0xff, in `text` only.
        sender.send_bytes(b"x\r\n");
        let line = text.read_line();
        assert!(
            line.starts_with(&format!("Message from client {}: ", sender.id())),
            "{line}"
        );
        text.expect_message(sender.id(), "x");
        json.read_json();
        assert_eq!(json.read_json()["data"], "x");
        raw.read_line_bytes();
        raw.expect_line("x\r");
        // Telnet is for who is shown text.
        text.send_bytes(b"\xff\xfd\x06y\n");
        assert_eq!(text.read_bytes(3), b"\xff\xfc\x06");
        assert!(sender.read_line().ends_with("y\r"));
        raw.expect_line("y");
        assert_eq!(json.read_json()["data"], "y");
        raw.send_bytes(b"\xff\xfd\x06z\n");
        assert_eq!(
            sender.read_line(),
            format!("{}\r", text.read_line().trim_end())
        );
        assert!(json.read_json()["data_base64"].is_string());
    }
}

#[test]
fn who_is_in_the_hello_at_a_stop_is_told_and_nothing_hangs() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut server = start(&["--no-notices"]);
        let mut text = Client::dial(server.addr(TEXT));
        let mut begun = dial(&server, TEXT, "LINEHUB/1 role=b");
        let mut json = Client::dial(server.addr(JSON));
        let mut raw = dial(&server, RAW, "LIN");
        marker_in_plain(&server);
        let (mut client, _) = Client::introduced(server.addr(TEXT), "");
        let at = Instant::now();
        server.signal(signal);
        assert_eq!(server.wait_exit(PATIENCE).code(), Some(0));
        assert!(at.elapsed() < Duration::from_secs(5), "{:?}", at.elapsed());
        text.expect_line("Server shutting down");
        text.expect_eof();
        begun.expect_line("Server shutting down");
        begun.expect_eof();
        assert_eq!(json.read_json(), json!({"event": "shutdown"}));
        json.expect_eof();
        assert!(matches!(raw.next(), Event::Reset | Event::Eof(_)));
        client.expect_line("Server shutting down");
        client.expect_eof();
    }
}

#[test]
fn hello_that_was_sent_before_a_stop_is_taken_and_what_follows_is_published() {
    for signal in [Signal::INT, Signal::USR2] {
        let server = start(&["--no-notices"]);
        let mut reader = Client::connect_to(&server, PLAIN);
        // All of it is there before the daemon has seen any, or the signal.
        server.signal(Signal::STOP);
        let mut clients: Vec<_> = (0..50)
            .map(|_| dial(&server, TEXT, "LINEHUB/1\nsaid\n"))
            .collect();
        server.signal(signal);
        server.signal(Signal::CONT);
        for _ in &clients {
            assert!(reader.read_line().ends_with(": said"));
        }
        for client in &mut clients {
            Place::parse(&client.read_line());
        }
        if signal == Signal::INT {
            reader.expect_line("Server shutting down");
        } else {
            server.wait_log_count("phase=running", 2);
            let mut other = Client::connect_to(&server, PLAIN);
            marker(&mut other, &mut reader);
        }
    }
}

#[test]
fn nobody_who_says_hello_is_refused_over_execs() {
    let server = start(&["--no-notices"]);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let until = Until(&is_over);
        let dial_on = || {
            let mut count = 0;
            while !is_over.load(Relaxed) {
                let (mut client, _) = Client::introduced(server.addr(TEXT), "");
                client.finish();
                client.expect_eof();
                count += 1;
            }
            count
        };
        let dialers: Vec<_> = (0..2).map(|_| scope.spawn(dial_on)).collect();
        for _ in 0..3 {
            exec(&server);
        }
        drop(until);
        for dialer in dialers {
            assert!(dialer.join().expect("nobody was refused") > 0);
        }
    });
}

#[test]
fn hello_listeners_go_on_after_an_exec_that_failed() {
    let dir = tempfile::tempdir().unwrap();
    let path = copied(dir.path());
    let server = Launch::new(&["--listen=127.0.0.1:0,hello", "--no-notices"])
        .binary(&path)
        .start();
    let mut one = Client::in_channel(server.addr(0), "main");
    let mut begun = dial(&server, 0, "LINEHUB/1 ");
    std::fs::remove_file(&path).unwrap();
    server.signal(Signal::USR2);
    server.wait_log("handover failed: serving on");
    begun.send_line("role=both");
    let begun_id = Place::parse(&begun.read_line()).client;
    let mut begun = begun.numbered(begun_id);
    marker(&mut begun, &mut one);
    let mut two = Client::in_channel(server.addr(0), "main");
    marker(&mut two, &mut one);
}

#[test]
fn clients_keep_channel_role_format_and_line_ends_over_an_exec() {
    let server = start(&["--no-notices", "--open-channels=2"]);
    let at = |channel: &str| format!("LINEHUB/1 channel={channel}");
    let mut crlf = dial(&server, TEXT, at("a") + "\r\n");
    let crlf_place = Place::parse(crlf.read_line().strip_suffix('\r').unwrap());
    let mut telnet = dial(
        &server,
        TEXT,
        [b"\xff\xfd\x03", &*at("a").into_bytes(), b"\nhalf a "].concat(),
    );
    assert_eq!(telnet.read_bytes(3), b"\xff\xfc\x03");
    let telnet_place = Place::parse(telnet.read_line().trim_end());
    let mut json = dial(&server, TEXT, at("a") + " format=json role=subscribe\n");
    let json_hello = json.read_json();
    let mut raw = dial(&server, TEXT, at("a") + " format=raw role=publish\n");
    // Nothing answers it.
    server.wait_log_count("client connected", 4);
    let mut other = Client::in_channel(server.addr(TEXT), "main");
    raw.send_line("1");
    crlf.expect_line(&format!(
        "Message from client {}: 1\r",
        json_hello["client"].as_u64().unwrap() + 1
    ));
    assert_eq!(json.read_json()["seq"], 1);
    for _ in 0..2 {
        exec(&server);
    }
    json.send_line("thrown away");
    telnet.send_bytes(b"\xff\xfd\x03\xff\xfd\x06line\r\n");
    crlf.expect_line(&format!(
        "Message from client {}: half a line\r",
        telnet_place.client
    ));
    let line = json.read_json();
    assert_eq!(
        (&line["seq"], &line["data"]),
        (&json!(2), &json!("half a line"))
    );
    telnet.read_line();
    assert_eq!(telnet.read_bytes(3), b"\xff\xfc\x06");
    crlf.send_bytes(b"from crlf\r\n");
    telnet.expect_line(&format!(
        "Message from client {}: from crlf\r",
        crlf_place.client
    ));
    assert_eq!(json.read_json()["seq"], 3);
    let (next, place) = Client::introduced(server.addr(TEXT), "channel=a");
    assert_eq!((&place.epoch, place.seq), (&crlf_place.epoch, 3));
    assert_eq!(place.client, other.id() + 1);
    drop(next);
    // Of publishers, nothing comes back.
    raw.sender().shutdown(Shutdown::Write).unwrap();
    raw.expect_eof();
    let mut main = Client::connect_to(&server, PLAIN);
    marker(&mut main, &mut other);
}

#[test]
fn hello_ends_as_lines_of_its_listener_do() {
    let server = Server::start(&[
        "--no-notices",
        "--listen=127.0.0.1:0,hello,line-end=any",
        "--listen=127.0.0.1:0,hello,line-end=nul",
        "--listen=127.0.0.1:0",
    ]);
    let mut reader = Client::connect_to(&server, 2);
    for (i, end) in [(0, "\r"), (0, "\r\n"), (0, "\n"), (1, "\0")] {
        let input = format!("LINEHUB/1 role=both{end}one{end}{end}two{end}");
        for at in 0..=input.len() {
            let (first, rest) = input.split_at(at);
            let mut client = dial(&server, i, first);
            let mut other = Client::connect_to(&server, 2);
            other.send_bytes(b"between\n");
            // Of what has come first, lines may be out already.
            let mut lines = Vec::new();
            while lines
                .last()
                .is_none_or(|line: &String| !line.ends_with("between"))
            {
                lines.push(reader.read_line());
            }
            client.send_bytes(rest.as_bytes());
            let id = Place::parse(client.read_line().trim_end()).client;
            let own = format!("Message from client {id}: ");
            lines.retain(|line| line.starts_with(&own));
            while lines.len() < 3 {
                let line = reader.read_line();
                assert!(line.starts_with(&own), "{line}");
                lines.push(line);
            }
            let said: Vec<_> = lines.iter().map(|line| &line[own.len()..]).collect();
            assert_eq!(said, ["one", "", "two"], "{input:?} cut at {at}");
        }
    }
}

#[test]
fn answer_comes_before_echoes_of_what_was_sent_with_the_hello() {
    let server = start(&["--echo"]);
    let mut client = dial(&server, JSON, "LINEHUB/1\na\nb\n");
    let seen: Vec<_> = (0..4).map(|_| client.read_json()).collect();
    let events: Vec<_> = seen.iter().map(|e| e["event"].as_str().unwrap()).collect();
    assert_eq!(events, ["hello", "connect", "message", "message"]);
    let seqs: Vec<_> = seen.iter().map(|e| e["seq"].as_u64().unwrap()).collect();
    assert_eq!(seqs, [0, 1, 2, 3]);
}

#[test]
fn hello_goes_over_unix_sockets_and_past_the_urgent_mark() {
    let dir = tempfile::tempdir().unwrap();
    let listen = format!("--listen=unix:{},hello", dir.path().join("s").display());
    let server = Server::start(&["--no-notices", &listen, "--listen=127.0.0.1:0,hello"]);
    let (mut unix, _) = Client::introduced(server.addr(0), "");
    let mut urgent = Client::dial(server.addr(1));
    urgent.send_bytes(b"LINE");
    urgent.sender().send_out_of_band(b"H").unwrap();
    urgent.send_bytes(b"UB/1\nx");
    urgent.sender().send_out_of_band(b"y").unwrap();
    urgent.send_bytes(b"z\n");
    let id = Place::parse(&urgent.read_line()).client;
    unix.expect_message(id, "xyz");
    let mut wrong = dial(&server, 0, "x\n");
    wrong.expect_line("Error: hello expected");
    wrong.expect_eof();
}

/// Whoever has not said its hello yet is counted where an operator looks for what fills the server.
#[test]
fn silent_connections_are_counted_while_they_are_there() {
    let server = start(&["--max-clients=9", "--admin=127.0.0.1:0"]);
    let handshakes = || {
        let status = crate::common::http::get_json(&server.admin(), "/status");
        status["handshakes"].as_u64()
    };
    assert_eq!(handshakes(), Some(0));
    let silent = Vec::from_iter((0..4).map(|_| Client::dial(server.addr(TEXT))));
    let begun = dial(&server, TEXT, "LINEHUB/1 ");
    eventually("they are counted", || handshakes() == Some(5));
    let metrics = crate::common::http::get(&server.admin(), "/metrics");
    assert_eq!(metrics.sample("linehub_handshakes"), 5.0);
    drop(silent);
    eventually("those that have gone are not", || handshakes() == Some(1));
    let mut begun = begun;
    begun.send_line("role=both");
    assert!(begun.read_line().starts_with("Hello "));
    eventually("a client is none", || handshakes() == Some(0));
}

/// Half a hello is taken on by the next daemon, wherever it was cut and whatever carries it.
#[test]
fn half_a_hello_is_finished_with_the_next_daemon() {
    let manager = Manager::keeping();
    let args = [
        "--no-notices",
        "--listen=127.0.0.1:0,hello",
        "--listen=127.0.0.1:0,hello,format=json",
    ];
    let mut server = manager.launch(&args).start();
    for by_exec in [true, false, true] {
        let mut silent = Client::dial(server.addr(0));
        // Half a negotiation too, whose answer comes once.
        let mut telnet = dial(&server, 0, b"\xff\xfb\x01LINEHUB/1 ro\xff\xfd");
        assert_eq!(telnet.read_bytes(3), b"\xff\xfe\x01");
        let mut json = dial(&server, 1, "LINEHUB/1 channel=main\r");
        let mut gone = dial(&server, 0, "LINEHUB/1");
        let (mut client, _) = Client::introduced(server.addr(0), "");
        let addresses = [0, 1].map(|i| server.addr(i).clone());
        if by_exec {
            exec(&server);
        } else {
            server = restart(&manager, server, &args);
        }
        assert_eq!([0, 1].map(|i| server.addr(i).clone()), addresses);
        silent.send_bytes(b"LINEHUB/1 role=subscribe\nthrown away\n");
        Place::parse(&silent.read_line());
        telnet.send_bytes(b"\x03\xff\xfb\x01le=publish\r\n");
        assert_eq!(telnet.read_bytes(3), b"\xff\xfc\x03");
        Place::parse(telnet.read_line().strip_suffix('\r').unwrap());
        json.send_bytes(b"\nline\n");
        let json_id = json.read_json()["client"].as_u64().unwrap();
        client.expect_message(json_id, "line");
        gone.send_line(" x=1");
        gone.expect_line("Error: unknown key \"x\" in hello");
        gone.expect_eof();
    }
}
