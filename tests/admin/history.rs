//! What channels keep for who comes late: in the document, the metrics and the terminal.

use std::time::SystemTime;

use serde_json::{Value, json};

use super::{metrics, start};
use crate::common::http::{Answer, get_json};
use crate::common::{Address, Client, Flood, PATIENCE, Server, eventually, marker, run};

/// A daemon that keeps 1 MiB of each channel: `main`, whose listener takes a hello, and `a`.
fn keeping() -> (Server, Address) {
    start(&[
        "--history=1MiB",
        "--listen=127.0.0.1:0,hello",
        "--listen=127.0.0.1:0,channel=a,format=raw",
    ])
}

/// Two clients in `main`, of which the second has had these lines of the first.
fn talk(server: &Server, lines: &[&str]) -> [Client; 2] {
    let (mut one, _) = Client::introduced(server.addr(0), "");
    let (mut two, _) = Client::introduced(server.addr(0), "");
    one.expect_line("New client connected: 2");
    for line in lines {
        one.send_line(line);
        two.expect_message(1, line);
    }
    [one, two]
}

/// What the channel of this name keeps.
#[track_caller]
fn history(admin: &Address, name: &str) -> Value {
    let status = get_json(admin, "/status");
    let rows = status["channels"].as_array().expect("channels");
    let row = rows.iter().find(|row| row["name"] == name);
    row.unwrap_or_else(|| panic!("no {name} in {status}"))["history"].clone()
}

#[track_caller]
fn sample(metrics: &Answer, name: &str, channel: &str) -> f64 {
    metrics.sample(&format!("linehub_history_{name}{{channel=\"{channel}\"}}"))
}

#[test]
fn status_and_metrics_say_what_a_channel_keeps() {
    let (server, admin) = keeping();
    let _clients = talk(&server, &["one", "two", "three"]);
    let (_three, place) = Client::introduced(server.addr(0), "");
    let kept = history(&admin, "main");
    assert_eq!(kept["epoch"], place.epoch);
    // Its own notice came behind what its answer says.
    assert_eq!(kept["next_seq"], place.seq + 2);
    assert_eq!(kept["oldest_seq"], 1);
    for (key, expected) in [
        ("messages", json!(3)),
        ("limit_bytes", json!(1 << 20)),
        ("on_disk", json!(false)),
        ("segments", json!(0)),
        ("pending_bytes", json!(0)),
        ("sync_lag_seconds", json!(0.0)),
        ("readers", json!(0)),
        ("sessions", json!(0)),
        ("error", Value::Null),
    ] {
        assert_eq!(kept[key], expected, "{key}");
    }
    let bytes = kept["bytes"].as_f64().unwrap();
    assert!(bytes >= "one\ntwo\nthree\n".len() as f64, "{kept}");
    let oldest = humantime::parse_rfc3339(kept["oldest"].as_str().unwrap()).expect("a time");
    assert!(oldest.elapsed().unwrap() < PATIENCE * 4, "{kept}");

    let metrics = metrics(&admin);
    for (name, value) in [
        ("bytes", bytes),
        ("limit_bytes", f64::from(1 << 20)),
        ("messages", 3.0),
        ("pending_bytes", 0.0),
        ("sync_lag_seconds", 0.0),
        ("readers", 0.0),
        ("sessions", 0.0),
        ("failed", 0.0),
    ] {
        assert_eq!(sample(&metrics, name, "main"), value, "{name}");
    }
    let since = oldest.duration_since(SystemTime::UNIX_EPOCH).unwrap();
    assert_eq!(
        sample(&metrics, "oldest_timestamp_seconds", "main"),
        since.as_secs_f64()
    );
    let epoch = format!(
        "linehub_history_info{{channel=\"main\",epoch=\"{}\",kept_in=\"memory\"}}",
        place.epoch
    );
    assert_eq!(metrics.sample(&epoch), 1.0);

    // Nobody has been in the other one.
    let empty = history(&admin, "a");
    assert_eq!(
        (&empty["messages"], &empty["bytes"], &empty["oldest"]),
        (&json!(0), &json!(0), &Value::Null)
    );
    assert_eq!(
        (&empty["oldest_seq"], &empty["next_seq"]),
        (&json!(1), &json!(1))
    );
    assert_ne!(empty["epoch"], kept["epoch"]);
    assert_eq!(sample(&metrics, "messages", "a"), 0.0);
    let oldest = "linehub_history_oldest_timestamp_seconds{channel=\"a\"}";
    assert!(!metrics.body.contains(oldest), "{}", metrics.body);
}

#[test]
fn history_on_disk_says_so_and_how_many_files_it_has() {
    let dir = tempfile::tempdir().unwrap();
    let (server, admin) = start(&[
        "--history=1MiB",
        &format!("--history-dir={}", dir.path().display()),
        "--history-sync=always",
        "--listen=127.0.0.1:0,hello",
    ]);
    let _clients = talk(&server, &["one", "two"]);
    let kept = history(&admin, "main");
    let files = std::fs::read_dir(dir.path().join("main")).unwrap();
    let segments = files.filter(|file| file.as_ref().unwrap().path().extension().is_some());
    for (key, expected) in [
        ("messages", json!(2)),
        ("on_disk", json!(true)),
        ("segments", json!(segments.count())),
        // Nobody has the lines before they are synced.
        ("pending_bytes", json!(0)),
        ("sync_lag_seconds", json!(0.0)),
        ("error", Value::Null),
    ] {
        assert_eq!(kept[key], expected, "{key}");
    }
}

#[test]
fn what_has_left_the_history_is_counted_no_more() {
    let (server, admin) = keeping();
    let line = "x".repeat(60_000);
    let mut clients = talk(&server, &[line.as_str(); 10]);
    let before = history(&admin, "main");
    assert_eq!(
        (&before["messages"], &before["oldest_seq"]),
        (&json!(10), &json!(1))
    );
    let [one, two] = &mut clients;
    for _ in 0..30 {
        one.send_line(&line);
        two.expect_message(1, &line);
    }
    let after = history(&admin, "main");
    assert_eq!(
        after["next_seq"].as_u64(),
        before["next_seq"].as_u64().map(|next| next + 30)
    );
    let number = |key: &str| after[key].as_u64().unwrap();
    assert!(number("bytes") <= 1 << 20, "{after}");
    assert!((10..20).contains(&number("messages")), "{after}");
    // Nothing but messages since the two came.
    assert_eq!(
        number("next_seq") - number("oldest_seq"),
        number("messages"),
        "{after}"
    );
    let time = |kept: &Value| humantime::parse_rfc3339(kept["oldest"].as_str().unwrap()).unwrap();
    assert!(time(&after) >= time(&before), "{after} {before}");
}

#[test]
fn open_channels_are_counted_together_and_without_an_epoch() {
    let (server, admin) = start(&[
        "--history=1MiB",
        "--open-channels=2",
        "--listen=127.0.0.1:0,hello",
    ]);
    let mut open: Vec<_> = ["x", "y"]
        .map(|channel| Client::in_channel(server.addr(0), channel))
        .into();
    open.iter_mut().for_each(|client| client.send_line("hello"));
    eventually("both are kept", || {
        let metrics = metrics(&admin);
        metrics
            .body
            .contains("linehub_history_messages{channel=\"open\"}")
            && sample(&metrics, "messages", "open") == 2.0
    });
    let metrics = metrics(&admin);
    let bytes = ["x", "y"].map(|name| history(&admin, name)["bytes"].as_f64().unwrap());
    assert_eq!(sample(&metrics, "bytes", "open"), bytes.iter().sum::<f64>());
    assert_eq!(sample(&metrics, "limit_bytes", "open"), f64::from(2 << 20));
    let infos = metrics.body.lines();
    let infos: Vec<_> = infos
        .filter(|line| line.starts_with("linehub_history_info{"))
        .collect();
    assert_eq!(infos.len(), 1, "{infos:?}");
    assert!(infos[0].contains("channel=\"main\""), "{infos:?}");
}

#[test]
fn terminal_lists_what_is_kept() {
    let (server, admin) = keeping();
    let _clients = talk(&server, &["one", "two"]);
    let text = run(&["status", "--admin", &admin.to_string()], &[]).stdout;
    let mut list = text
        .lines()
        .skip_while(|line| !line.starts_with("HISTORY "));
    let words = |line: Option<&str>| -> Vec<String> {
        let words = line.unwrap_or_default().split_whitespace();
        words.map(str::to_owned).collect()
    };
    let head = [
        "HISTORY", "EPOCH", "MESSAGES", "KEPT", "FULL", "OLDEST", "READERS",
    ];
    assert_eq!(words(list.next()), head, "{text}");
    let epoch = |name: &str| history(&admin, name)["epoch"].as_str().unwrap().to_owned();
    let rows = [words(list.next()), words(list.next())];
    assert_eq!(
        rows[0][..3],
        ["a".to_owned(), epoch("a"), "0".to_owned()],
        "{text}"
    );
    assert_eq!(
        rows[1][..3],
        ["main".to_owned(), epoch("main"), "2".to_owned()],
        "{text}"
    );
    assert_eq!(list.next(), Some(""), "{text}");
}

#[test]
fn client_that_reads_from_the_history_is_told_from_the_others() {
    let listen = "--listen=127.0.0.1:0,history=64MiB";
    let (server, admin) = start(&[
        "--history=64MiB",
        // What it begins with has left the buffer.
        "--buffer=1MiB",
        "--no-notices",
        "--stall-timeout=off",
        listen,
    ]);
    let mut sender = Client::connect(&server);
    let mut reader = Client::connect(&server);
    let mut flood = Flood::default();
    while flood.sent < 200_000 {
        let from = flood.sent + 1;
        flood.send(&mut sender, 5000);
        Flood::expect(&mut reader, 1, from, flood.sent);
    }
    let mut late = Client::connect_stuck(&server, 0);
    let catching_up = || {
        let clients = get_json(&admin, "/clients")["clients"].clone();
        let of = |at: usize| clients[at]["catching_up"].as_bool().unwrap();
        [of(0), of(1), of(2)]
    };
    let readers = || {
        let readers = history(&admin, "main")["readers"].as_f64();
        let same = sample(&metrics(&admin), "readers", "main");
        readers.filter(|readers| *readers == same)
    };
    eventually("it reads from the history", || {
        catching_up() == [false, false, true] && readers() == Some(1.0)
    });
    let text = run(&["status", "--admin", &admin.to_string()], &[]).stdout;
    let listeners = text.lines().nth(1).unwrap_or_default();
    assert!(listeners.ends_with(" text history=64MiB"), "{text}");
    let line = text
        .lines()
        .find(|line| line.ends_with("  text, catching up"));
    assert!(
        line.is_some_and(|line| line.starts_with("     3  ")),
        "{text}"
    );

    late.wake();
    Flood::expect(&mut late, 1, 1, 200_000);
    marker(&mut reader, &mut late);
    eventually("it is live", || {
        catching_up() == [false; 3] && readers() == Some(0.0)
    });
}

#[test]
fn nobody_is_told_of_a_history_where_there_is_none() {
    let (server, admin) = start(&["--listen=127.0.0.1:0"]);
    let _client = Client::connect(&server);
    let status = get_json(&admin, "/status");
    assert_eq!(status["channels"][0].get("history"), None, "{status}");
    assert_eq!(status["listeners"][0].get("history"), None, "{status}");
    assert_eq!(
        get_json(&admin, "/clients")["clients"][0]["catching_up"],
        false
    );
    let metrics = metrics(&admin).body;
    assert!(!metrics.contains("history"), "{metrics}");
    let text = run(&["status", "--admin", &admin.to_string()], &[]).stdout;
    assert!(!text.to_lowercase().contains("history"), "{text}");
}
