//! Senders whose lines are counted over all nodes.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use rustix::process::Signal;

use super::scene::{Publisher, Scene, publish_at};
use super::{greet, is_ready, launch, next_message, node, nodes};
use crate::common::nats::Nats;
use crate::common::{Client, Event, PATIENCE, Server};

/// The last acknowledgement that comes, which is this.
#[track_caller]
fn acknowledged(client: &mut Client, count: u64) {
    loop {
        let event = client.read_json();
        match event["event"].as_str() {
            Some("ack") if event["taken"] == count => return,
            Some("ack" | "connect" | "disconnect") => {}
            _ => panic!("not an acknowledgement: {event}"),
        }
    }
}

#[test]
fn session_that_is_idle_at_a_stop_leaves_nothing_unsent() {
    let Some(nats) = Nats::start() else { return };
    let mut server = node(&nats, &[]);
    let (mut sender, _) = greet(&server, "role=publish session=s ack");
    sender.send_line("one");
    acknowledged(&mut sender, 1);
    server.stop();
    assert_eq!(server.count_log("is not shared"), 0);
}

#[test]
fn session_counts_its_lines_over_all_nodes() {
    let Some(nats) = Nats::start() else { return };
    let servers = nodes(&nats, 3, &[]);
    let (mut reader, _) = greet(&servers[2], "role=subscribe");
    for n in 0..9 {
        let (mut client, answer) = greet(&servers[n % 3], "role=publish session=meter ack");
        assert_eq!(answer["taken"], n);
        client.send_line(&n.to_string());
        acknowledged(&mut client, n as u64 + 1);
        assert_eq!(next_message(&mut reader)["data"], n.to_string());
    }
}

#[test]
fn session_that_is_taken_over_at_another_node_closes_the_connection_before() {
    let Some(nats) = Nats::start() else { return };
    let [one, two] = &nodes(&nats, 2, &[])[..] else {
        unreachable!()
    };
    let (mut reader, _) = greet(one, "role=subscribe");
    let (mut first, _) = greet(one, "role=publish session=s ack");
    first.send_line("1");
    acknowledged(&mut first, 1);
    let (mut second, answer) = greet(two, "role=publish session=s ack");
    assert_eq!(answer["taken"], 1);
    let error = first.read_json();
    assert_eq!(error["reason"], "session_taken", "{error}");
    first.send_line("not heard");
    first.finish();
    first.expect_eof();
    one.wait_log("client disconnected reason=session_taken");
    second.send_line("2");
    acknowledged(&mut second, 2);
    for line in ["1", "2"] {
        assert_eq!(next_message(&mut reader)["data"], line);
    }
}

#[test]
fn of_many_at_once_at_all_nodes_one_has_the_session() {
    let Some(nats) = Nats::start() else { return };
    let servers = nodes(&nats, 3, &["--no-notices"]);
    let mut clients: Vec<_> = (0..30)
        .map(|n| {
            let mut client = Client::dial(servers[n % 3].addr(super::JSON));
            client.send_line("LINEHUB/1 role=publish session=s");
            client.send_line("line");
            client
        })
        .collect();
    for client in &mut clients {
        client.finish();
        while let Event::Line(_) = client.next() {}
    }
    let (_, answer) = greet(&servers[0], "role=publish session=s");
    let taken = answer["taken"].as_u64().unwrap();
    let (mut reader, answer) = greet(&servers[1], "role=subscribe history=1000");
    let head = answer["seq"].as_u64().unwrap();
    super::say(&servers[2], "end\n");
    let mut published = 0;
    while next_message(&mut reader)["data"] == "line" {
        published += 1;
    }
    assert!((1..=30).contains(&published), "{published} from {head} on");
    assert_eq!(published, taken);
}

#[test]
fn lines_that_were_sent_before_a_takeover_are_counted_or_not_in_the_stream() {
    let Some(nats) = Nats::start() else { return };
    let servers = nodes(&nats, 2, &[]);
    let all: Vec<&Server> = servers.iter().collect();
    let scene = Scene::begin(&all, 1);
    let mut publisher = Publisher::new("s");
    let mut turn = 0;
    // Each connection breaks with lines under way, and the next comes to the other node.
    publisher.breaks_after = Some(200);
    publisher.publish(2000, || {
        turn += 1;
        publish_at(&servers[turn % 2])
    });
    assert!(publisher.connections > 5, "{}", publisher.connections);
    scene.end(&servers[0]).is_gapless().has_all("s", 2000);
}

#[test]
fn session_of_a_frozen_node_is_taken_over_and_closed_when_it_runs_again() {
    let Some(nats) = Nats::start() else { return };
    let [one, two] = &nodes(&nats, 2, &[])[..] else {
        unreachable!()
    };
    let (mut first, _) = greet(one, "role=publish session=s ack");
    first.send_line("1");
    acknowledged(&mut first, 1);
    one.freeze();
    first.send_line("2");
    let (mut second, answer) = greet(two, "role=publish session=s ack");
    assert_eq!(answer["taken"], 1);
    second.send_line("2");
    acknowledged(&mut second, 2);
    one.signal(Signal::CONT);
    // It is told nothing of what it has sent since.
    let mut events = Vec::new();
    while let Event::Line(line) = first.next() {
        events.push(String::from_utf8(line).unwrap());
    }
    assert!(
        !events.iter().any(|line| line.contains("ack")),
        "{events:?}"
    );
    let (mut reader, _) = greet(two, "role=subscribe history=100");
    super::say(one, "end\n");
    for line in ["1", "2", "end"] {
        assert_eq!(next_message(&mut reader)["data"], line);
    }
}

/// A node that may be killed and started again while others ask where it is.
struct Mortal {
    server: Option<Server>,
    address: SocketAddr,
}

#[test]
fn twenty_rounds_of_crashes_of_nodes_nats_and_clients_lose_and_double_nothing() {
    let Some(nats) = Nats::start() else { return };
    let args = [format!("--nats={}", nats.url())];
    let begin = || {
        let server = launch(&[&args[0]]).start();
        is_ready(&server);
        server
    };
    let steady = begin();
    let scene = Scene::begin(&[&steady], 2);
    let mortal = || {
        let server = begin();
        let address = publish_at(&server);
        Mutex::new(Mortal {
            server: Some(server),
            address,
        })
    };
    let mortals = [mortal(), mortal()];
    let nats = Mutex::new(nats);
    let done = AtomicBool::new(false);
    let publishers: Vec<Publisher> = std::thread::scope(|scope| {
        let publish = |k: usize| {
            let (mortals, done, steady) = (&mortals, &done, &steady);
            scope.spawn(move || {
                let mut rng = fastrand::Rng::with_seed(k as u64);
                let mut publisher = Publisher::new(&format!("s{k}"));
                publisher.chunk = 10;
                publisher.pace = Duration::from_millis(2);
                while !done.load(Relaxed) {
                    publisher.breaks_after = rng.bool().then(|| rng.u64(1..500));
                    let to = publisher.acked + 200;
                    publisher.publish(to, || match rng.usize(..3) {
                        2 => publish_at(steady),
                        i => mortals[i].lock().unwrap().address,
                    });
                }
                // Whatever breaks it still, it is done in the end.
                publisher.breaks_after = None;
                let to = publisher.acked + 100;
                publisher.publish(to, || publish_at(steady));
                publisher
            })
        };
        let senders: Vec<_> = (0..4).map(publish).collect();
        let trouble = || {
            let mut rng = fastrand::Rng::with_seed(7);
            for _ in 0..20 {
                std::thread::sleep(Duration::from_millis(rng.u64(50..300)));
                match rng.usize(..4) {
                    3 => {
                        let mut nats = nats.lock().unwrap();
                        nats.kill();
                        std::thread::sleep(Duration::from_millis(rng.u64(0..500)));
                        nats.restart();
                    }
                    2 => {
                        let nats = nats.lock().unwrap();
                        nats.stop();
                        std::thread::sleep(Duration::from_millis(rng.u64(0..500)));
                        nats.go_on();
                    }
                    i => {
                        let mut server = mortals[i].lock().unwrap().server.take().unwrap();
                        server.signal(Signal::KILL);
                        server.wait_exit(PATIENCE);
                        drop(server);
                        let server = begin();
                        let address = publish_at(&server);
                        *mortals[i].lock().unwrap() = Mortal {
                            server: Some(server),
                            address,
                        };
                    }
                }
            }
        };
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(trouble));
        done.store(true, Relaxed);
        let publishers = senders
            .into_iter()
            .map(|sender| sender.join().unwrap())
            .collect();
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
        publishers
    });
    is_ready(&steady);
    let seen = scene.end(&steady);
    seen.is_gapless();
    for publisher in publishers {
        seen.has_all(&publisher.name, publisher.acked);
    }
}
