//! What an administrator of NATS does to the stream of a channel.

use std::time::Duration;

use async_nats::jetstream::stream::{Config, DiscardPolicy};
use rustix::process::Signal;

use super::scene::{Publisher, Scene, flood, publish_at};
use super::{LISTENERS, greet, hears, is_ready, launch, node, nodes, say};
use crate::common::nats::{Nats, stream_of};
use crate::common::{Launch, Server, eventually};

/// Readers at two nodes see the same, while senders send and this is done, and newcomers come in behind it.
#[track_caller]
fn goes_on_through(nats: &Nats, trouble: impl Fn(&Nats)) {
    let servers = nodes(nats, 2, &[]);
    let all: Vec<&Server> = servers.iter().collect();
    let scene = Scene::begin(&all, 2);
    let mut publishers = [Publisher::new("a"), Publisher::new("b")];
    for round in 1..=3 {
        std::thread::scope(|scope| {
            for (publisher, server) in publishers.iter_mut().zip(&servers) {
                scope.spawn(move || {
                    publisher.chunk = 10;
                    publisher.pace = Duration::from_millis(2);
                    publisher.publish(round * 500, || publish_at(server));
                });
            }
        });
        // What no node has read yet would be lost with it: all have read this.
        for server in &servers {
            hears(
                &mut greet(server, "role=subscribe").0,
                &servers[0],
                "before it",
            );
        }
        trouble(nats);
        servers.iter().for_each(is_ready);
        let (mut one, first) = greet(&servers[0], "role=subscribe");
        let (_, second) = greet(&servers[1], "role=subscribe");
        assert_eq!(first["epoch"], second["epoch"]);
        hears(&mut one, &servers[1], "after it");
    }
    let seen = scene.end(&servers[1]);
    seen.has_all("a", 1500).has_all("b", 1500);
    // One that starts now knows as much as the others.
    let newcomer = node(nats, &[]);
    let (mut reader, answer) = greet(&newcomer, "role=subscribe");
    assert_eq!(answer["epoch"], greet(&servers[0], "").1["epoch"]);
    hears(&mut reader, &servers[0], "to the newcomer");
}

#[test]
fn stream_that_is_purged_goes_on() {
    let Some(nats) = Nats::start() else { return };
    goes_on_through(&nats, |nats| nats.purge("main"));
}

#[test]
fn newcomer_learns_where_the_order_is_from_a_node_that_is_idle_when_the_stream_was_purged() {
    let Some(nats) = Nats::start() else { return };
    let idle = node(&nats, &[]);
    let (mut reader, before) = greet(&idle, "role=subscribe");
    hears(&mut reader, &idle, "before");
    // From then on it seldom looks at the stream.
    std::thread::sleep(Duration::from_secs(3));
    nats.purge("main");
    let newcomer = node(&nats, &[]);
    let (_, after) = greet(&newcomer, "role=subscribe");
    assert_eq!(after["epoch"], before["epoch"]);
    hears(&mut reader, &newcomer, "after");
}

#[test]
fn stream_that_keeps_a_handful_of_messages_goes_on() {
    let Some(nats) = Nats::start() else { return };
    goes_on_through(&nats, |nats| {
        for _ in 0..20 {
            nats.keep("main", 5);
            std::thread::sleep(Duration::from_millis(20));
        }
    });
}

#[test]
fn stream_that_is_full_makes_senders_wait_and_goes_on_when_it_is_not() {
    let Some(nats) = Nats::start() else { return };
    let servers = nodes(&nats, 2, &[]);
    let all: Vec<&Server> = servers.iter().collect();
    let scene = Scene::begin(&all, 1);
    nats.edit("main", |config| {
        config.discard = DiscardPolicy::New;
        config.max_messages = 1;
    });
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| flood(&servers[0], "s", 1000));
        super::is_not_ready(&servers[0]);
        assert!(!sender.is_finished());
        nats.edit("main", |config| {
            config.discard = DiscardPolicy::Old;
            config.max_messages = -1;
        });
        sender.join().unwrap();
    });
    servers.iter().for_each(is_ready);
    scene.end(&servers[1]).is_gapless().has_all("s", 1000);
}

#[test]
fn stream_that_is_deleted_is_made_again_in_another_epoch() {
    let Some(nats) = Nats::start() else { return };
    let servers = nodes(&nats, 2, &[]);
    let [one, two] = &servers[..] else {
        unreachable!()
    };
    let (_, before) = greet(one, "role=subscribe");
    let (mut reader, _) = greet(two, "role=subscribe");
    hears(&mut reader, one, "before");
    nats.delete("main");
    eventually("another epoch", || {
        greet(one, "role=subscribe").1["epoch"] != before["epoch"]
    });
    servers.iter().for_each(is_ready);
    eventually("the same at both", || {
        greet(one, "role=subscribe").1["epoch"] == greet(two, "role=subscribe").1["epoch"]
    });
    hears(&mut reader, one, "after");
    let (mut newcomer, _) = greet(one, "role=subscribe");
    hears(&mut newcomer, two, "to the newcomer");
}

#[test]
fn stream_that_is_deleted_while_senders_send_doubles_nothing() {
    let Some(nats) = Nats::start() else { return };
    let servers = nodes(&nats, 2, &[]);
    let readers: Vec<_> = servers
        .iter()
        .map(|server| {
            let (mut client, _) = greet(server, "role=subscribe");
            std::thread::spawn(move || {
                let mut numbers = Vec::new();
                loop {
                    let event = client.read_json();
                    let Some(data) = event["data"].as_str() else {
                        continue;
                    };
                    if data == "end" {
                        return numbers;
                    }
                    let number = data.split(' ').nth(1).expect("a number");
                    numbers.push(number.parse::<u64>().expect("a number"));
                }
            })
        })
        .collect();
    let mut publisher = Publisher::new("s");
    publisher.chunk = 10;
    publisher.pace = Duration::from_millis(5);
    std::thread::scope(|scope| {
        scope.spawn(|| publisher.publish(3000, || publish_at(&servers[0])));
        for _ in 0..2 {
            std::thread::sleep(Duration::from_millis(300));
            nats.delete("main");
            servers.iter().for_each(|server| {
                eventually("it is there again", || nats.stream("main").is_some());
                is_ready(server);
            });
        }
    });
    say(&servers[1], "end\n");
    for reader in readers {
        let numbers = reader.join().unwrap();
        // What was in the stream alone may be missing at a node that had not read it.
        assert!(numbers.is_sorted_by(|one, next| one < next), "{numbers:?}");
        assert_eq!(numbers.last(), Some(&3000));
    }
}

#[test]
fn message_that_nobody_understands_is_passed_over() {
    let Some(nats) = Nats::start() else { return };
    let [one, two] = &nodes(&nats, 2, &[])[..] else {
        unreachable!()
    };
    let (mut reader, _) = greet(one, "role=subscribe");
    hears(&mut reader, two, "before");
    nats.publish("linehub.channel.main.batch.ffffffff", b"\0\0damaged");
    for server in [one, two] {
        server.wait_log("is passed over channel=main messages=1");
    }
    nats.publish("linehub.channel.main.checkpoint", b"");
    hears(&mut reader, two, "after");
    let (mut newcomer, _) = greet(&node(&nats, &[]), "role=subscribe");
    newcomer.finish();
    newcomer.lines_to_eof();
    say(one, "and again\n");
    assert_eq!(super::next_message(&mut reader)["data"], "and again");
}

#[test]
fn reload_of_what_is_kept_says_how_to_change_the_stream_and_serves_on() {
    let Some(mut nats) = Nats::start() else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("linehub.toml");
    std::fs::write(&file, "history = '32MiB'\n").unwrap();
    let (url, config) = (
        format!("--nats={}", nats.url()),
        format!("--config={}", file.display()),
    );
    let args = [&LISTENERS[..], &["--admin=127.0.0.1:0", &url, &config]].concat();
    let server = Launch::new(&args).shared().start();
    is_ready(&server);
    std::fs::write(&file, "history = '48MiB'\n").unwrap();
    server.signal(Signal::HUP);
    eventually("it says how to change the stream", || {
        let log = server.log().join("\n");
        log.contains("nats stream edit LINEHUB_main --max-bytes 50331648")
    });
    let (mut reader, _) = greet(&server, "role=subscribe");
    hears(&mut reader, &server, "it serves on");
    nats.edit("main", |config| config.max_bytes = 48 << 20);
    nats.kill();
    super::misses_nats(&server);
    nats.restart();
    is_ready(&server);
    hears(&mut reader, &server, "and when they agree");
}

#[test]
fn stream_that_differs_is_an_error_that_says_how_to_mend_it() {
    let Some(nats) = Nats::start() else { return };
    nats.create(Config {
        name: stream_of("main"),
        subjects: vec!["something.else".into()],
        ..Config::default()
    });
    let server = launch(&[&format!("--nats={}", nats.url())]).start();
    let answer = super::is_not_ready(&server);
    eventually("it says which stream", || {
        super::is_not_ready(&server).body.contains("LINEHUB_main")
    });
    let said = server.log().join("\n");
    assert!(said.contains("LINEHUB_main"), "{answer:?} {said}");
    // Away with it, as an administrator does who reads that.
    nats.delete("main");
    is_ready(&server);
    let (mut reader, _) = greet(&server, "role=subscribe");
    hears(&mut reader, &server, "mended");
}
