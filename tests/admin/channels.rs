//! Channels, side by side: what is counted in each, in the document, the metrics and the terminal.

use rustix::process::Signal;
use serde_json::{Value, json};

use super::{ADMIN, metrics, start};
use crate::common::http::{get, get_json};
use crate::common::{Address, Client, Launch, Server, eventually, marker, run};

/// Channel `a` for everybody, `b` for everybody, and `b` for those who only listen.
const LISTENERS: [&str; 3] = [
    "--listen=127.0.0.1:0,channel=a",
    "--listen=127.0.0.1:0,channel=b,format=json,line-end=any",
    "--listen=127.0.0.1:0,channel=b,role=subscribe",
];

/// A daemon in which `a` had two lines of one of two clients, and `b` one line of one client, and two
/// more of one that may not publish.
struct Talk {
    server: Server,
    admin: Address,
    /// Two in `a`, one in `b`, and one that subscribes to `b`.
    clients: [Client; 4],
}

impl Talk {
    fn start() -> Talk {
        let (server, admin) = start(&LISTENERS);
        let mut one = Client::connect_to(&server, 0);
        let mut two = Client::connect_to(&server, 0);
        let mut three = Client::connect_to(&server, 1);
        let mut four = Client::connect_to(&server, 2);
        one.expect_line("New client connected: 2");
        one.send_line("a1");
        one.send_line("a2");
        two.expect_message(1, "a1");
        two.expect_message(1, "a2");
        assert_eq!(three.read_json()["event"], "connect");
        three.send_line("b1");
        four.expect_message(3, "b1");
        four.send_line("nobody");
        four.send_line("hears it");
        // A line is counted as sent when the client may have it already.
        eventually("all is counted", || {
            let status = get_json(&admin, "/status");
            let keys = ["lines_ignored", "lines_out", "buffer_used_bytes"];
            keys.map(|key| status[key].as_u64()) == [Some(2), Some(3), Some(0)]
        });
        Talk {
            server,
            admin,
            clients: [one, two, three, four],
        }
    }
}

/// The row of this channel.
#[track_caller]
fn row(status: &Value, name: &str) -> Value {
    let rows = status["channels"].as_array().expect("channels");
    let found = rows.iter().find(|row| row["name"] == name);
    found
        .unwrap_or_else(|| panic!("no {name} in {status}"))
        .clone()
}

#[test]
fn status_has_each_channel_beside_the_sums() {
    let talk = Talk::start();
    let status = get_json(&talk.admin, "/status");
    assert_eq!(status["channels_count"], 3);
    let names: Vec<_> = status["channels"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["name"].as_str().unwrap())
        .collect();
    // Nobody listens for `main`, which exists always.
    assert_eq!(names, ["a", "b", "main"]);
    let (a, b, main) = (row(&status, "a"), row(&status, "b"), row(&status, "main"));
    for (key, in_a, in_b) in [
        ("kind", json!("named"), json!("named")),
        ("clients", json!(2), json!(2)),
        ("clients_connected_total", json!(2), json!(2)),
        ("messages", json!(2), json!(1)),
        ("notices", json!(2), json!(2)),
        ("lines_out", json!(2), json!(1)),
        ("bytes_in", json!(6), json!(19)),
        ("buffer_used_bytes", json!(0), json!(0)),
        ("buffer_limit_bytes", json!(64 << 20), json!(64 << 20)),
        ("senders_waiting", json!(0), json!(0)),
        ("sender_wait_seconds", json!(0.0), json!(0.0)),
        ("messages_skipped", json!(0), json!(0)),
        ("lines_discarded", json!(0), json!(0)),
        ("lines_ignored", json!(0), json!(2)),
    ] {
        assert_eq!((&a[key], &b[key]), (&in_a, &in_b), "{key}");
    }
    // The totals go by the same keys.
    for key in [
        "clients",
        "clients_connected_total",
        "lines_in",
        "lines_out",
        "bytes_in",
        "bytes_out",
        "buffer_used_bytes",
        "buffer_limit_bytes",
        "senders_waiting",
        "messages_skipped",
        "lines_discarded",
        "lines_ignored",
    ] {
        let each = [&a, &b, &main].map(|row| row[key].as_u64().unwrap());
        assert_eq!(status[key], each.iter().sum::<u64>(), "{key}");
    }
    let listeners = status["listeners"].as_array().unwrap();
    let options = ["format", "channel", "role", "line_end", "hello"];
    let expected = [
        json!(["text", "a", "both", "lf", false]),
        json!(["json", "b", "both", "any", false]),
        json!(["text", "b", "subscribe", "lf", false]),
    ];
    for (listener, expected) in listeners.iter().zip(expected) {
        let found: Vec<_> = options.iter().map(|key| listener[key].clone()).collect();
        assert_eq!(json!(found), expected);
    }
}

#[test]
fn lists_say_the_channel_and_the_role_and_are_cut_to_a_channel() {
    let mut talk = Talk::start();
    let ids = |path: &str, list: &str| -> Vec<u64> {
        let page = get_json(&talk.admin, path);
        let rows = page[list].as_array().unwrap();
        rows.iter().map(|row| row["id"].as_u64().unwrap()).collect()
    };
    let clients = get_json(&talk.admin, "/clients")["clients"].clone();
    let said: Vec<_> = clients
        .as_array()
        .unwrap()
        .iter()
        .map(|row| json!([row["id"], row["channel"], row["role"]]))
        .collect();
    let expected = [
        json!([1, "a", "both"]),
        json!([2, "a", "both"]),
        json!([3, "b", "both"]),
        json!([4, "b", "subscribe"]),
    ];
    assert_eq!(said, expected);
    assert_eq!(ids("/clients?channel=a", "clients"), [1, 2]);
    assert_eq!(ids("/clients?channel=b&sort=behind", "clients"), [3, 4]);
    assert_eq!(ids("/clients?channel=nowhere", "clients"), [0; 0]);
    let page = get_json(&talk.admin, "/clients?channel=b&limit=1&offset=1");
    assert_eq!((&page["total"], &page["offset"]), (&json!(2), &json!(1)));
    assert_eq!(page["clients"][0]["id"], 4);
    assert_eq!(page["clients"][1], Value::Null);
    let wrong = get(&talk.admin, "/clients?channel=a%2Fb");
    assert_eq!(wrong.status, 400);
    assert!(
        wrong
            .body
            .starts_with("channel takes a name: 1 to 64 of A-Z"),
        "{wrong:?}"
    );

    for (client, id) in [(1, 2), (3, 4)] {
        talk.clients[client].finish();
        let log = format!("client disconnected client={id}");
        talk.server.wait_log(&log);
    }
    let closed = get_json(&talk.admin, "/closed")["closed"].clone();
    assert_eq!(
        json!([closed[0]["channel"], closed[0]["role"]]),
        json!(["b", "subscribe"])
    );
    assert_eq!(closed[1]["channel"], "a");
    let ids = |path: &str| -> Value {
        let page = get_json(&talk.admin, path);
        json!([page["total"], page["closed"][0]["id"]])
    };
    assert_eq!(ids("/closed?channel=a"), json!([1, 2]));
    assert_eq!(ids("/closed?channel=b"), json!([1, 4]));
    assert_eq!(ids("/closed?channel=b&offset=1"), json!([1, null]));
}

#[test]
fn metrics_have_a_series_a_channel_that_add_up_to_those_without() {
    let talk = Talk::start();
    let metrics = metrics(&talk.admin);
    let sample = |name: &str, channel: &str| {
        let series = format!("linehub_channel_{name}{{channel=\"{channel}\"}}");
        metrics.sample(&series)
    };
    let limit = f64::from(64 << 20);
    for (name, expected) in [
        ("clients", Some([2.0, 2.0, 0.0])),
        ("clients_connected_total", Some([2.0, 2.0, 0.0])),
        ("lines_received_total", None),
        ("lines_sent_total", Some([2.0, 1.0, 0.0])),
        ("received_bytes_total", Some([6.0, 19.0, 0.0])),
        ("sent_bytes_total", None),
        ("messages_published_total", Some([2.0, 1.0, 0.0])),
        ("notices_published_total", Some([2.0, 2.0, 0.0])),
        ("messages_skipped_total", Some([0.0; 3])),
        ("lines_discarded_total", Some([0.0; 3])),
        ("lines_ignored_total", Some([0.0, 2.0, 0.0])),
        ("buffer_used_bytes", Some([0.0; 3])),
        ("buffer_limit_bytes", Some([limit; 3])),
        ("senders_waiting", Some([0.0; 3])),
        ("senders_waited_seconds_total", Some([0.0; 3])),
    ] {
        let each = ["a", "b", "main"].map(|channel| sample(name, channel));
        assert_eq!(each, expected.unwrap_or(each), "{name}");
        let sum: f64 = each.iter().sum();
        assert_eq!(metrics.sample(&format!("linehub_{name}")), sum, "{name}");
    }
    // Nobody can open a channel here.
    assert!(!metrics.body.contains("\"open\""), "{}", metrics.body);
}

#[test]
fn metrics_keep_what_was_counted_in_channels_that_are_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("linehub.toml");
    let path = |name: &str| Address::Unix(dir.path().join(name));
    let write = |listeners: &str| {
        let text = format!("listen = [{listeners}]\nadmin = '{}'\n", path("admin"));
        std::fs::write(&file, text).unwrap();
    };
    let (kept, gone) = (path("kept"), path("gone"));
    write(&format!("'{kept}', '{gone},channel=gone'"));
    let server = Launch::new(&["--config", file.to_str().unwrap()])
        .listen_as_configured()
        .listeners(2)
        .start();
    let admin = server.admin();
    let mut one = Client::connect_to(&server, 1);
    let mut two = Client::connect_to(&server, 1);
    one.expect_line("New client connected: 2");
    marker(&mut two, &mut one);
    let messages = |channel: &str| {
        let name = "linehub_channel_messages_published_total";
        metrics(&admin).sample(&format!("{name}{{channel=\"{channel}\"}}"))
    };
    let before = messages("gone");
    assert!(before > 0.0);

    write(&format!("'{kept}'"));
    server.signal(Signal::HUP);
    server.wait_log("configuration reloaded");
    // It goes on for as long as it has clients, as one that they opened.
    marker(&mut two, &mut one);
    let status = get_json(&admin, "/status");
    assert_eq!(row(&status, "gone")["kind"], "open");
    assert_eq!(row(&status, "main")["kind"], "named");
    assert!(messages("open") > before);
    let labels = metrics(&admin).body;
    assert!(!labels.contains("\"gone\""), "{labels}");

    let before = messages("open");
    one.finish();
    two.finish();
    server.wait_log_count("client disconnected", 2);
    eventually("the channel ends", || {
        get_json(&admin, "/status")["channels_count"] == 1
    });
    assert_eq!(messages("open"), before);
    assert_eq!(
        metrics(&admin).sample("linehub_channel_clients{channel=\"open\"}"),
        0.0
    );
}

#[test]
fn open_channels_have_a_series_before_there_are_any() {
    let (_server, admin) = start(&["--open-channels=3"]);
    let metrics = metrics(&admin);
    for channel in ["main", "open"] {
        let series = format!("linehub_channel_clients{{channel=\"{channel}\"}}");
        assert_eq!(metrics.sample(&series), 0.0);
    }
}

#[test]
fn terminal_shows_channels_where_there_is_more_than_main() {
    let talk = Talk::start();
    let address = talk.admin.to_string();
    let text = run(&["status", "--admin", &address], &[]).stdout;
    let listening = text.lines().nth(1).unwrap();
    let expected = format!(
        "listening {} text channel=a, {} json channel=b line-end=any, {} text channel=b role=subscribe",
        talk.server.addr(0),
        talk.server.addr(1),
        talk.server.addr(2),
    );
    assert_eq!(listening, expected);
    let line = |begin: &str| {
        let line = text.lines().find(|line| line.starts_with(begin));
        line.unwrap_or_else(|| panic!("no {begin} in {text}"))
    };
    let words = |line: &str| -> Vec<String> {
        let words = line.split_whitespace();
        words.map(str::to_owned).collect()
    };
    line("ignored   2 lines ");
    assert_eq!(words(line("CHANNEL"))[..3], ["CHANNEL", "KIND", "CLIENTS"]);
    assert_eq!(words(line("a "))[..4], ["a", "named", "2", "2"]);
    assert_eq!(words(line("b "))[..4], ["b", "named", "2", "1"]);
    assert_eq!(words(line("CLIENT "))[..3], ["CLIENT", "CHANNEL", "BEHIND"]);
    let four = line("     4  b ");
    assert!(four.ends_with("  text, subscribe"), "{four}");

    let exit = run(&["status", "--json", "--admin", &address], &[]);
    let status: Value = serde_json::from_str(&exit.stdout).unwrap();
    assert_eq!(row(&status, "b")["messages"], 1);
}

#[test]
fn nobody_is_told_of_channels_where_there_is_only_main() {
    let (server, admin) = start(&["--listen=127.0.0.1:0"]);
    let _client = Client::connect(&server);
    let gone = Client::connect(&server);
    gone.reset();
    server.wait_log("client disconnected client=2");
    let text = run(&["status", "--admin", &admin.to_string()], &[]).stdout;
    for word in ["CHANNEL", "main", "both", "channel=", "ignored"] {
        assert!(!text.contains(word), "{text}");
    }
    assert_eq!(server.count_log("channel=main"), 0);
    assert!(
        !server.log().iter().any(|line| line.contains("channel=")),
        "{:?}",
        server.log()
    );
    // Who reads by program finds them all the same.
    let status = get_json(&admin, "/status");
    assert_eq!(row(&status, "main")["clients"], 1);
    assert_eq!(
        get_json(&admin, "/clients")["clients"][0]["channel"],
        "main"
    );
}

#[test]
fn log_says_the_channel_without_quotes() {
    let server = Server::start(&[&[ADMIN], &LISTENERS[..]].concat());
    let client = Client::connect_to(&server, 1);
    let line = server.wait_log("client connected client=1");
    let end = format!(
        "INFO client connected client=1 peer={} listener={} channel=b",
        client.local_address(),
        server.addr(1)
    );
    assert!(line.ends_with(&end), "{line}");
    let address = server.addr(1);
    let line = server.wait_log(&format!("listening address={address}"));
    assert!(
        line.ends_with(" format=json channel=b line_end=any"),
        "{line}"
    );
    let address = server.addr(2);
    let line = server.wait_log(&format!("listening address={address}"));
    assert!(
        line.ends_with(" format=text channel=b role=subscribe"),
        "{line}"
    );
}
