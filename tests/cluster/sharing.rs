//! One channel at several nodes, while nothing goes wrong.

use std::collections::HashSet;

use serde_json::json;

use super::scene::{Scene, fence, flood};
use super::{JSON, PLAIN, TEXT, greet, hears, launch, next_message, node, nodes, say};
use crate::common::http::{get, get_json};
use crate::common::nats::Nats;
use crate::common::{Client, Server, eventually, run};

#[test]
fn line_sent_to_one_node_is_heard_at_all_with_the_same_id_and_number() {
    let Some(nats) = Nats::start() else { return };
    let [one, two] = &nodes(&nats, 2, &[])[..] else {
        unreachable!()
    };
    let (mut at_one, answer) = greet(one, "");
    let (mut at_two, other) = greet(two, "");
    assert_eq!(answer["epoch"], other["epoch"]);
    let came = at_one.read_json();
    assert_eq!(
        (&came["event"], &came["client"]),
        (&json!("connect"), &other["client"])
    );
    let mut sender = Client::connect_to(one, PLAIN);
    let mut seen = Vec::new();
    sender.send_line("hello");
    let id = sender.id();
    sender.finish();
    for client in [&mut at_one, &mut at_two] {
        // Of one that came just before, it may hear, too.
        let of_sender = std::iter::repeat_with(|| client.read_json());
        let of_sender = of_sender.filter(|event| event["client"] == id);
        let events: Vec<_> = of_sender.take(3).collect();
        let seq = events[0]["seq"].as_u64().unwrap();
        let wanted = [
            json!({"event": "connect", "seq": seq, "client": id}),
            json!({"event": "message", "seq": seq + 1, "client": id, "data": "hello"}),
            json!({"event": "disconnect", "seq": seq + 2, "client": id}),
        ];
        assert_eq!(events, wanted);
        seen.push(events);
    }
    assert_eq!(seen[0], seen[1]);
    // And the other way.
    hears(&mut at_one, two, "back");
    assert_eq!(next_message(&mut at_two)["data"], "back");
}

#[test]
fn own_lines_come_back_to_their_sender_with_echo_only() {
    let Some(nats) = Nats::start() else { return };
    let plain = node(&nats, &[]);
    let echoing = node(&nats, &["--echo"]);
    let (mut one, _) = greet(&plain, "");
    let (mut two, _) = greet(&echoing, "");
    one.send_line("one");
    assert_eq!(next_message(&mut two)["data"], "one");
    two.send_line("two");
    assert_eq!(next_message(&mut two)["data"], "two");
    assert_eq!(next_message(&mut one)["data"], "two");
}

#[test]
fn ids_are_given_once_over_all_nodes_and_starts() {
    let Some(nats) = Nats::start() else { return };
    let mut servers = nodes(&nats, 3, &[]);
    let mut seen = HashSet::new();
    for round in 0..3 {
        for server in &servers {
            for _ in 0..20 {
                let (_, answer) = greet(server, "");
                assert!(
                    seen.insert(answer["client"].as_u64().unwrap()),
                    "{answer} again"
                );
            }
        }
        if round < 2 {
            servers[round].stop();
            servers[round] = node(&nats, &[]);
        }
    }
}

#[test]
fn sixty_readers_at_three_nodes_see_one_stream_of_a_flood_from_everywhere() {
    let Some(nats) = Nats::start() else { return };
    let servers = nodes(&nats, 3, &[]);
    let all: Vec<&Server> = servers.iter().collect();
    let scene = Scene::begin(&all, 7);
    std::thread::scope(|scope| {
        for (i, server) in servers.iter().enumerate() {
            for k in 0..2 {
                scope.spawn(move || flood(server, &format!("s{i}{k}"), 3400));
            }
        }
    });
    let seen = scene.end(&servers[1]);
    seen.is_gapless();
    for i in 0..3 {
        for k in 0..2 {
            seen.has_all(&format!("s{i}{k}"), 3400);
        }
    }
}

#[test]
fn clients_that_come_and_go_at_all_nodes_are_seen_alike() {
    let Some(nats) = Nats::start() else { return };
    let servers = nodes(&nats, 3, &[]);
    let all: Vec<&Server> = servers.iter().collect();
    let scene = Scene::begin(&all, 2);
    let ids: Vec<u64> = std::thread::scope(|scope| {
        let visit = |server| {
            move || -> Vec<u64> {
                let visit = |n: u64| {
                    let (mut client, _) =
                        Client::introduced(Server::addr(server, TEXT), "role=publish");
                    client.send_line(&format!("visit {n}"));
                    let id = client.id();
                    match n % 3 {
                        0 => client.reset(),
                        1 => drop(client),
                        _ => {
                            client.finish();
                            client.lines_to_eof();
                        }
                    }
                    id
                };
                (0..60).map(visit).collect()
            }
        };
        let visits: Vec<_> = servers
            .iter()
            .map(|server| scope.spawn(visit(server)))
            .collect();
        visits
            .into_iter()
            .flat_map(|visits| visits.join().unwrap())
            .collect()
    });
    for server in &servers {
        eventually("they have left", || {
            let answer = get(&server.admin(), "/metrics");
            let left = answer.body.lines().filter(|line| {
                line.starts_with("linehub_clients{") || line.starts_with("linehub_clients ")
            });
            let count: f64 = left
                .map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap())
                .sum();
            count <= 7.0
        });
    }
    servers.iter().for_each(fence);
    let seen = scene.end(&servers[2]);
    seen.is_gapless();
    for id in ids {
        assert_eq!(seen.notices(id), (1, 1), "client {id}");
    }
}

#[test]
fn local_channel_stays_at_its_node() {
    let Some(nats) = Nats::start() else { return };
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("linehub.toml");
    std::fs::write(&file, "[channel.here]\nlocal = true\n[channel.there]\n").unwrap();
    let args = [&format!("--config={}", file.display()) as &str];
    let [one, two] = &nodes(&nats, 2, &args)[..] else {
        unreachable!()
    };
    let at = |server: &Server, channel: &str| greet(server, &format!("channel={channel}")).0;
    for (channel, is_shared) in [("here", false), ("there", true)] {
        let mut at_one = at(one, channel);
        let mut sender = at(two, channel);
        sender.send_line("from two");
        if is_shared {
            assert_eq!(next_message(&mut at_one)["data"], "from two", "{channel}");
        }
        let mut neighbour = at(one, channel);
        neighbour.send_line("from one");
        assert_eq!(next_message(&mut at_one)["data"], "from one", "{channel}");
        assert_eq!(nats.stream(channel).is_some(), is_shared, "{channel}");
    }
}

#[test]
fn open_channels_are_shared() {
    let Some(nats) = Nats::start() else { return };
    let [one, two] = &nodes(&nats, 2, &["--open-channels=10"])[..] else {
        unreachable!()
    };
    let (mut at_one, _) = greet(one, "channel=opened");
    let (mut at_two, _) = greet(two, "channel=opened");
    at_two.send_line("there");
    assert_eq!(next_message(&mut at_one)["data"], "there");
    at_one.send_line("back");
    assert_eq!(next_message(&mut at_two)["data"], "back");
    // The other channel is another order.
    let (mut main, _) = greet(one, "");
    at_two.send_line("not heard");
    hears(&mut main, two, "heard");
}

#[test]
fn channels_of_one_node_are_streams_of_their_own() {
    let Some(nats) = Nats::start() else { return };
    let more = [
        "--listen=127.0.0.1:0,channel=a",
        "--listen=127.0.0.1:0,channel=b.c",
    ];
    let [one, two] = &nodes(&nats, 2, &more)[..] else {
        unreachable!()
    };
    let mut a = Client::connect_to(one, 5);
    let mut b = Client::connect_to(one, 6);
    let (mut sender_a, mut sender_b) = (Client::dial(two.addr(5)), Client::dial(two.addr(6)));
    sender_a.send_line("to a");
    sender_b.send_line("to b");
    for (client, line) in [(&mut a, ": to a"), (&mut b, ": to b")] {
        while !client.read_line().ends_with(line) {}
    }
}

#[test]
fn without_notices_lines_are_shared_alone() {
    let Some(nats) = Nats::start() else { return };
    let [one, two] = &nodes(&nats, 2, &["--no-notices"])[..] else {
        unreachable!()
    };
    let (mut reader, _) = greet(one, "");
    for n in 0..5 {
        say(two, format!("{n}\n"));
    }
    for n in 0..5 {
        assert_eq!(reader.read_json()["data"], n.to_string());
    }
}

#[test]
fn reader_that_is_stuck_at_one_node_holds_up_nobody_at_another() {
    let Some(nats) = Nats::start() else { return };
    let slow = node(
        &nats,
        &[
            "--slow-grace=forever",
            "--buffer=1MiB",
            "--stall-timeout=off",
        ],
    );
    let quick = node(&nats, &[]);
    let mut stuck = Client::connect_stuck(&slow, RAW_READER_OF_SLOW);
    let (mut reader, _) = greet(&quick, "role=subscribe");
    const LINES: u64 = 60_000;
    std::thread::scope(|scope| {
        scope.spawn(|| flood(&quick, "s", LINES));
        for n in 1..=LINES {
            assert_eq!(
                next_message(&mut reader)["data"],
                super::scene::line("s", n)
            );
        }
    });
    // When it reads again, it has missed nothing.
    stuck.wake();
    for n in 1..=LINES {
        stuck.expect_line(&super::scene::line("s", n));
    }
}

const RAW_READER_OF_SLOW: usize = super::RAW_READER;

#[test]
fn status_and_metrics_show_the_nodes() {
    let Some(nats) = Nats::start() else { return };
    let [one, two] = &nodes(&nats, 2, &[])[..] else {
        unreachable!()
    };
    hears(&mut greet(one, "").0, two, "both are there");
    eventually("each knows of the other", || {
        [one, two].iter().all(|server| {
            let status = get_json(&server.admin(), "/status");
            status.to_string().contains("node")
        })
    });
    let exit = run(&["status", "--admin", &one.admin().to_string()], &[]);
    assert_eq!(exit.code, Some(0), "{exit:?}");
    assert!(
        exit.stdout.to_lowercase().contains("node"),
        "{}",
        exit.stdout
    );
    let metrics = get(&one.admin(), "/metrics").body;
    assert!(metrics.contains("linehub_cluster_nodes 2"), "{metrics}");
}

#[test]
fn without_nats_nothing_of_it_is_there() {
    let server = launch(&[]).start();
    assert!(!get(&server.admin(), "/metrics").body.contains("nats"));
    let mut client = Client::dial(server.addr(JSON));
    client.send_line("LINEHUB/1");
    assert_eq!(client.read_json()["client"], 1);
}
