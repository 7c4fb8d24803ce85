//! Three NATS servers that are one, of which some fail.

use std::time::Duration;

use super::patient_node;
use super::scene::{Publisher, Scene, flood, publish_at};
use crate::common::Server;
use crate::common::nats::NatsCluster;

/// Nodes of all three servers, which keep streams thrice. The others hear nothing of one while its server waits for an
/// election.
#[track_caller]
fn nodes(cluster: &NatsCluster, count: usize) -> Vec<Server> {
    let mut args = cluster.options();
    args.push("--nats-replicas=3".into());
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    (0..count).map(|_| patient_node(&args)).collect()
}

#[test]
fn sixty_readers_see_one_stream_while_a_server_of_three_is_killed() {
    let Some(mut cluster) = NatsCluster::start() else {
        return;
    };
    let servers = nodes(&cluster, 3);
    let info = cluster.servers[0].stream("main").expect("a stream");
    assert_eq!(info.config.num_replicas, 3);
    let all: Vec<&Server> = servers.iter().collect();
    let scene = Scene::begin(&all, 7);
    std::thread::scope(|scope| {
        for (i, server) in servers.iter().enumerate() {
            scope.spawn(move || flood(server, &format!("s{i}"), 5000));
            scope.spawn(move || {
                let mut publisher = Publisher::new(&format!("p{i}"));
                publisher.pace = Duration::from_millis(20);
                publisher.publish(3000, || publish_at(server));
            });
        }
        let leader = cluster.leader("main");
        std::thread::sleep(Duration::from_millis(300));
        cluster.servers[leader].kill();
    });
    let seen = scene.end(&servers[1]);
    seen.is_gapless();
    for i in 0..3 {
        seen.has_all(&format!("s{i}"), 5000)
            .has_all(&format!("p{i}"), 3000);
    }
}

#[test]
fn each_server_of_three_is_killed_and_started_in_turn() {
    let Some(mut cluster) = NatsCluster::start() else {
        return;
    };
    let servers = nodes(&cluster, 2);
    let all: Vec<&Server> = servers.iter().collect();
    let scene = Scene::begin(&all, 2);
    let mut publishers = [Publisher::new("a"), Publisher::new("b")];
    for i in 0..3 {
        cluster.servers[i].kill();
        std::thread::scope(|scope| {
            for (publisher, server) in publishers.iter_mut().zip(&servers) {
                let to = publisher.acked + 500;
                scope.spawn(move || publisher.publish(to, || publish_at(server)));
            }
        });
        cluster.servers[i].restart();
        cluster.is_whole();
    }
    let seen = scene.end(&servers[1]);
    seen.is_gapless().has_all("a", 1500).has_all("b", 1500);
}
