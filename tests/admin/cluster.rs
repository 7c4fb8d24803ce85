//! The nodes that share channels, and how each stands with NATS: in the document, the metrics and the terminal.

use serde_json::{Value, json};

use crate::common::http::{get, get_json};
use crate::common::nats::Nats;
use crate::common::{Client, Launch, Server, eventually, run};

/// A node of this server that shares `main` and keeps `own` for itself, once it serves.
#[track_caller]
fn node(nats: &Nats) -> Server {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "[channel.own]\nlocal = true\n").unwrap();
    let url = nats.url();
    let args = [
        "--nats",
        &url,
        "--history=1MiB",
        "--listen=127.0.0.1:0",
        "--admin=127.0.0.1:0",
        "--config",
        file.path().to_str().unwrap(),
    ];
    let server = Launch::new(&args).shared().start();
    eventually("it is ready", || {
        get(&server.admin(), "/readyz").status == 200
    });
    server
}

/// A channel of the document.
#[track_caller]
fn channel(status: &Value, name: &str) -> Value {
    let rows = status["channels"].as_array().expect("channels");
    let row = rows.iter().find(|row| row["name"] == name);
    row.unwrap_or_else(|| panic!("no {name} in {status}"))
        .clone()
}

#[test]
fn nodes_the_connection_and_what_is_shared_are_in_sight_until_nats_is_away() {
    let Some(mut nats) = Nats::start() else {
        return;
    };
    let (one, two) = (node(&nats), node(&nats));
    let admin = one.admin();
    let mut there = Client::connect_to(&two, 0);
    let mut here = Client::connect_to(&one, 0);
    here.send_line("x");
    while !there.read_line().ends_with(": x") {}
    let mut status = Value::Null;
    eventually("it has heard of the other's client", || {
        status = get_json(&admin, "/status");
        let nodes = status["cluster"]["nodes"].as_array().expect("nodes");
        nodes.len() == 2 && nodes.iter().all(|node| node["clients"] == 1)
    });
    let cluster = &status["cluster"];
    assert_eq!(cluster["connected"], true);
    assert_eq!(cluster["error"], Value::Null);
    assert_eq!(cluster["server"], format!("127.0.0.1:{}", nats.port()));
    let own = format!(":{}", one.pid());
    let nodes = cluster["nodes"].as_array().expect("nodes");
    for node in nodes {
        let name = node["name"].as_str().expect("a name");
        assert_eq!(node["this"], name.ends_with(&own), "{cluster}");
    }
    let main = channel(&status, "main");
    assert_eq!(main["shared"]["error"], Value::Null);
    assert_eq!(main["history"]["in_stream"], true);
    let local = channel(&status, "own");
    assert_eq!(local.get("shared"), None);
    assert_eq!(local["history"]["in_stream"], false);
    let sample = |name: &str| get(&admin, "/metrics").sample(name);
    assert_eq!(sample("linehub_cluster_connected"), 1.0);
    assert_eq!(sample("linehub_cluster_nodes"), 2.0);
    let lag = "linehub_channel_stream_lag_messages{channel=\"main\"}";
    eventually("it has taken all", || sample(lag) == 0.0);
    let body = get(&admin, "/metrics").body;
    assert!(
        !body.contains("stream_lag_messages{channel=\"own\"}"),
        "{body}"
    );
    let terminal = || run(&["status", "--admin", &admin.to_string()], &[]).stdout;
    let text = terminal();
    for part in [
        "; 2 nodes, 0 reconnects\n",
        "\nmain     named, shared ",
        "  this one  ",
    ] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }

    nats.kill();
    eventually("it is not ready", || get(&admin, "/readyz").status == 503);
    let why = get(&admin, "/readyz").body;
    assert!(
        why.starts_with("NATS is away: ") && why.lines().count() == 1,
        "{why}"
    );
    assert_eq!(sample("linehub_cluster_connected"), 0.0);
    assert!(terminal().contains("\nNATS      is away: "));
    nats.restart();
    eventually("it is ready again", || get(&admin, "/readyz").status == 200);
    assert_eq!(
        get_json(&admin, "/status")["cluster"]["reconnects"],
        json!(1)
    );
    here.send_line("y");
    while !there.read_line().ends_with(": y") {}
}
