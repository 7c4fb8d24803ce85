//! Nodes that die, stop, are stopped, and come back.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use rustix::process::Signal;

use super::scene::{Publisher, Scene, flood, lines, publish_at};
use super::{
    GONE, JSON, LISTENERS, PLAIN, TEXT, greet, hears, is_ready, launch, next_message, node, nodes,
    patient_node, say,
};
use crate::common::nats::Nats;
use crate::common::{Client, Manager, PATIENCE, Server, exec, restart};

/// Ends a node as a crash does.
#[track_caller]
fn crash(mut server: Server) {
    server.signal(Signal::KILL);
    server.wait_exit(PATIENCE);
}

/// Reads until this is said of all of these clients.
#[track_caller]
fn until_each(watcher: &mut Client, event: &str, clients: &[u64]) {
    let mut missing = clients.to_vec();
    while !missing.is_empty() {
        let next = watcher.read_json();
        if next["event"] == event {
            missing.retain(|id| next["client"] != *id);
        }
    }
}

/// So many clients of a node, and their ids.
#[track_caller]
fn visitors(server: &Server, count: usize) -> (Vec<Client>, Vec<u64>) {
    let visitor = |_| Client::introduced(server.addr(TEXT), "").0;
    let clients: Vec<Client> = (0..count).map(visitor).collect();
    let ids = clients.iter().map(Client::id).collect();
    (clients, ids)
}

#[test]
fn clients_of_a_node_that_is_killed_are_said_to_have_left_once_at_all_others() {
    let Some(nats) = Nats::start() else { return };
    let mut servers = nodes(&nats, 4, &[]);
    let doomed = servers.pop().unwrap();
    let all: Vec<&Server> = servers.iter().collect();
    let scene = Scene::begin(&all, 2);
    let (mut watcher, _) = greet(&servers[2], "role=subscribe");
    let (_visitors, ids) = visitors(&doomed, 30);
    // One that has left before is not said to leave again.
    let (mut left, gone) = visitors(&doomed, 1);
    left.clear();
    until_each(&mut watcher, "disconnect", &gone);
    crash(doomed);
    until_each(&mut watcher, "disconnect", &ids);
    // Longer than anybody would need to say it again.
    let (_more, others) = visitors(&servers[1], 3);
    until_each(&mut watcher, "connect", &others);
    let seen = scene.end(&servers[1]);
    seen.is_gapless();
    for id in ids.iter().chain(&gone) {
        assert_eq!(seen.notices(*id), (1, 1), "client {id}");
    }
    for id in &others {
        assert_eq!(seen.notices(*id), (1, 0), "client {id}");
    }
}

#[test]
fn clients_of_two_nodes_that_die_one_after_the_other_are_said_to_have_left_once() {
    let Some(nats) = Nats::start() else { return };
    let mut servers = nodes(&nats, 4, &[]);
    let (mut watcher, _) = greet(&servers[0], "role=subscribe");
    let (first, second) = (servers.pop().unwrap(), servers.pop().unwrap());
    let (_a, a) = visitors(&first, 20);
    let (_b, b) = visitors(&second, 20);
    until_each(&mut watcher, "connect", &[a.clone(), b.clone()].concat());
    let all: Vec<&Server> = servers.iter().collect();
    let scene = Scene::begin(&all, 1);
    crash(first);
    crash(second);
    let ids = [a, b].concat();
    until_each(&mut watcher, "disconnect", &ids);
    let seen = scene.end(&servers[1]);
    seen.is_gapless();
    for id in ids {
        assert_eq!(seen.notices(id), (0, 1), "client {id}");
    }
}

#[test]
fn session_of_a_node_that_is_killed_goes_on_at_another() {
    let Some(nats) = Nats::start() else { return };
    let mut servers = nodes(&nats, 3, &[]);
    let doomed = servers.pop().unwrap();
    let all: Vec<&Server> = servers.iter().collect();
    let scene = Scene::begin(&all, 1);
    let (mut watcher, _) = greet(&servers[0], "role=subscribe");
    let addresses = [
        publish_at(&doomed),
        publish_at(&servers[0]),
        publish_at(&servers[1]),
    ];
    let publisher = std::thread::spawn(move || {
        let mut publisher = Publisher::new("s");
        let mut at = addresses.into_iter().cycle();
        publisher.publish(20_000, || at.next().expect("a cycle"));
        publisher
    });
    while next_message(&mut watcher)["data"] != super::scene::line("s", 500) {}
    crash(doomed);
    let publisher = publisher.join().unwrap();
    assert!(publisher.connections >= 2, "it was killed too late");
    scene.end(&servers[1]).is_gapless().has_all("s", 20_000);
}

#[test]
fn node_that_is_handed_over_is_noticed_by_nobody() {
    let Some(nats) = Nats::start() else { return };
    let servers = nodes(&nats, 2, &[]);
    let all: Vec<&Server> = servers.iter().collect();
    let scene = Scene::begin(&all, 3);
    let (mut idle, ids) = visitors(&servers[0], 3);
    let done = AtomicBool::new(false);
    let publishers: Vec<Publisher> = std::thread::scope(|scope| {
        let publish = |(i, server)| {
            let done = &done;
            scope.spawn(move || {
                let mut publisher = Publisher::new(&format!("s{i}"));
                publisher.pace = Duration::from_millis(1);
                while !done.load(Relaxed) {
                    let to = publisher.acked + 2000;
                    publisher.publish(to, || publish_at(server));
                }
                publisher
            })
        };
        let senders: Vec<_> = servers.iter().enumerate().map(publish).collect();
        scope.spawn(|| flood(&servers[0], "f", 5000));
        for _ in 0..3 {
            exec(&servers[0]);
        }
        done.store(true, Relaxed);
        senders
            .into_iter()
            .map(|sender| sender.join().unwrap())
            .collect()
    });
    servers.iter().for_each(is_ready);
    let seen = scene.end(&servers[1]);
    seen.is_gapless().nobody_left().has_all("f", 5000);
    for publisher in publishers {
        seen.has_all(&publisher.name, publisher.acked);
    }
    for id in ids {
        assert_eq!(seen.notices(id), (1, 0), "client {id}");
    }
    idle[0].send_line("still here");
    let wanted = format!("Message from client {}: still here", idle[0].id());
    while idle[1].read_line() != wanted {}
}

#[test]
fn clients_from_before_there_were_other_nodes_keep_their_numbers_for_themselves() {
    let Some(nats) = Nats::start() else { return };
    let other = node(&nats, &[]);
    let (mut same, answer) = greet(&other, "");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("linehub.toml");
    std::fs::write(&path, "").unwrap();
    let server = launch(&["--config", path.to_str().unwrap()]).start();
    let mut old = Client::connect_to(&server, PLAIN);
    assert_eq!(answer["client"], old.id());
    old.send_line("alone");
    std::fs::write(&path, format!("nats = ['{}']\n", nats.url())).unwrap();
    exec(&server);
    is_ready(&server);
    let (_newcomer, answer) = greet(&server, "");
    assert!(answer["client"].as_u64() > Some(old.id()), "{answer}");
    old.send_line("shared");
    while next_message(&mut same)["data"] != "shared" {}
    same.send_line("from the other");
    let wanted = format!("Message from client {}: from the other", old.id());
    while old.read_line() != wanted {}
}

#[test]
fn node_that_a_service_manager_restarts_is_noticed_by_nobody() {
    let Some(nats) = Nats::start() else { return };
    let url = format!("--nats={}", nats.url());
    // A machine that is busy restarts it more slowly than the other nodes of these tests wait.
    let other = patient_node(&[&url]);
    let manager = Manager::keeping();
    let args = [
        &LISTENERS[..],
        &["--history=64MiB", "--admin=127.0.0.1:0", &url],
    ]
    .concat();
    let mut server = manager.launch(&args).shared().start();
    is_ready(&server);
    let scene = Scene::begin(&[&other, &server], 2);
    let (mut idle, ids) = visitors(&server, 2);
    let address = publish_at(&other);
    let publisher = std::thread::spawn(move || {
        let mut publisher = Publisher::new("s");
        publisher.pace = Duration::from_millis(5);
        publisher.publish(10_000, || address);
        publisher
    });
    for _ in 0..2 {
        idle[0].send_line("before");
        server = restart(&manager, server, &args);
        idle[0].send_line("after");
    }
    is_ready(&server);
    publisher.join().unwrap();
    let seen = scene.end(&server);
    seen.is_gapless().nobody_left().has_all("s", 10_000);
    for id in ids {
        assert_eq!(seen.notices(id), (1, 0), "client {id}");
    }
    let said = seen
        .events
        .iter()
        .filter(|event| event["client"] == idle[0].id());
    let said: Vec<&str> = said.filter_map(|event| event["data"].as_str()).collect();
    assert_eq!(said, ["before", "after", "before", "after"]);
}

#[test]
fn node_that_is_stopped_says_once_that_its_clients_left_and_goes_on_when_started_again() {
    let Some(nats) = Nats::start() else { return };
    let mut servers = nodes(&nats, 3, &[]);
    let mut leaving = servers.pop().unwrap();
    let all: Vec<&Server> = servers.iter().collect();
    let scene = Scene::begin(&all, 2);
    let (mut watcher, answer) = greet(&servers[1], "role=subscribe");
    let (mut visitors_of, ids) = visitors(&leaving, 10);
    until_each(&mut watcher, "connect", &ids);
    visitors_of[0].send_line("last words");
    std::thread::scope(|scope| {
        scope.spawn(|| leaving.stop());
        for visitor in &mut visitors_of {
            let lines = visitor.lines_to_eof();
            assert_eq!(lines.last().unwrap(), "Server shutting down");
        }
    });
    until_each(&mut watcher, "disconnect", &ids);
    let again = node(&nats, &[]);
    let (mut reader, now) = greet(&again, "role=subscribe");
    assert_eq!(now["epoch"], answer["epoch"]);
    hears(&mut reader, &servers[0], "to who came back");
    hears(&mut reader, &again, "from who came back");
    let seen = scene.end(&servers[0]);
    seen.is_gapless();
    for id in ids {
        assert_eq!(seen.notices(id), (1, 1), "client {id}");
    }
    for line in ["last words", "to who came back", "from who came back"] {
        let is = |event: &&serde_json::Value| event["data"] == line;
        assert_eq!(seen.events.iter().filter(is).count(), 1, "{line}");
    }
}

#[test]
fn all_nodes_killed_and_started_again_go_on_with_epoch_numbers_and_sessions() {
    let Some(nats) = Nats::start() else { return };
    let servers = nodes(&nats, 2, &[]);
    let mut publisher = Publisher::new("s");
    publisher.publish(1000, || publish_at(&servers[0]));
    let (_, before) = greet(&servers[1], "role=subscribe");
    servers.into_iter().for_each(crash);
    let servers = nodes(&nats, 2, &[]);
    publisher.publish(2000, || publish_at(&servers[1]));
    let (mut reader, after) = greet(&servers[0], "history=100000");
    assert_eq!(before["epoch"], after["epoch"]);
    let mut last = 0;
    for n in 1..=2000 {
        let message = next_message(&mut reader);
        assert_eq!(message["data"], super::scene::line("s", n));
        last = message["seq"].as_u64().expect("a number");
    }
    assert!(Some(last) >= before["seq"].as_u64().map(|seq| seq + 1000));
}

#[test]
fn node_that_does_not_run_for_a_while_is_gone_and_comes_again() {
    let Some(nats) = Nats::start() else { return };
    let servers = nodes(&nats, 3, &[]);
    let all: Vec<&Server> = servers.iter().collect();
    let scene = Scene::begin(&all, 1);
    let (mut watcher, _) = greet(&servers[0], "role=subscribe");
    let (mut frozen, ids) = visitors(&servers[2], 5);
    let mut publisher = Publisher::new("s");
    publisher.publish(100, || publish_at(&servers[2]));
    until_each(&mut watcher, "connect", &ids);
    servers[2].freeze();
    until_each(&mut watcher, "disconnect", &ids);
    say(&servers[1], "while it was away\n");
    let mut gone = frozen.pop().unwrap();
    for client in frozen.iter_mut().chain([&mut gone]) {
        client.send_bytes(&lines(&format!("at {}", client.id()), 1..=10));
    }
    gone.finish();
    servers[2].signal(Signal::CONT);
    until_each(&mut watcher, "connect", &ids);
    publisher.publish(200, || publish_at(&servers[2]));
    frozen[0].send_line("here again");
    let wanted = format!("Message from client {}: here again", frozen[0].id());
    while frozen[1].read_line() != wanted {}
    let seen = scene.end(&servers[1]);
    seen.is_gapless().has_all("s", 200);
    for id in ids {
        seen.has_all(&format!("at {id}"), 10);
        let left = if id == gone.id() { 2 } else { 1 };
        assert_eq!(seen.notices(id), (2, left), "client {id}");
    }
}

#[test]
fn node_that_is_frozen_for_less_than_the_silence_is_not_gone() {
    let Some(nats) = Nats::start() else { return };
    let servers = nodes(&nats, 2, &[]);
    let (mut watcher, _) = greet(&servers[0], "role=subscribe");
    let (_there, ids) = visitors(&servers[1], 5);
    until_each(&mut watcher, "connect", &ids);
    servers[1].freeze();
    std::thread::sleep(GONE / 4);
    servers[1].signal(Signal::CONT);
    let mut sender = Client::dial(servers[1].addr(JSON));
    sender.send_line("LINEHUB/1 role=publish");
    sender.send_line("it is there");
    loop {
        let event = watcher.read_json();
        assert_ne!(event["event"], "disconnect", "{event}");
        if event["data"] == "it is there" {
            break;
        }
    }
}
