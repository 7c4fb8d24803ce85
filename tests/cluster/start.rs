//! What a node does before it has NATS.

use async_nats::jetstream::stream::Config;

use super::{greet, hears, is_ready, launch, misses_nats, node};
use crate::common::http::get;
use crate::common::nats::Nats;
use crate::common::{Client, eventually, run};

#[test]
fn node_that_starts_while_nats_is_away_serves_when_it_comes() {
    let Some(mut nats) = Nats::away() else { return };
    let server = launch(&[&format!("--nats={}", nats.url())]).start();
    misses_nats(&server);
    // Who comes now waits, whatever it is.
    let mut early = Client::dial(server.addr(super::JSON));
    early.send_line("LINEHUB/1");
    let mut sender = Client::dial(server.addr(super::RAW));
    sender.send_line("LINEHUB/1 role=publish");
    sender.send_line("early");
    nats.restart();
    is_ready(&server);
    assert_eq!(early.read_json()["event"], "hello");
    let (mut reader, _) = greet(&server, "history=100");
    let mut seen = Vec::new();
    while seen.last().is_none_or(|line| line != "early") {
        seen.push(
            super::next_message(&mut reader)["data"]
                .as_str()
                .unwrap()
                .to_owned(),
        );
    }
    hears(&mut reader, &server, "served");
}

#[test]
fn node_without_nats_ends_at_sigterm() {
    let Some(nats) = Nats::away() else { return };
    let mut server = launch(&[&format!("--nats={}", nats.url()), "--drain-timeout=1s"]).start();
    misses_nats(&server);
    server.stop();
}

#[test]
fn node_that_loses_nats_ends_at_sigterm() {
    let Some(mut nats) = Nats::start() else {
        return;
    };
    let mut server = node(&nats, &["--drain-timeout=1s"]);
    let (_reader, _) = greet(&server, "");
    nats.kill();
    misses_nats(&server);
    server.stop();
}

#[test]
fn node_that_gets_no_numbers_for_clients_says_so_and_draws_them() {
    let Some(nats) = Nats::start() else { return };
    nats.create(Config {
        name: "KV_linehub".into(),
        subjects: vec!["$KV.linehub.>".into()],
        ..Config::default()
    });
    nats.publish("$KV.linehub.ids", b"none");
    let server = launch(&[&format!("--nats={}", nats.url())]).start();
    eventually("it says why nobody comes in", || {
        let answer = get(&server.admin(), "/readyz");
        answer.status == 503
            && answer
                .body
                .contains("no numbers for clients yet: $KV.linehub.ids")
    });
    is_ready(&server);
    let (mut reader, answer) = greet(&server, "");
    assert!(answer["client"].as_u64() > Some(1 << 52), "{answer}");
    hears(&mut reader, &server, "served");
    let said = "no numbers for clients: they are drawn by lot";
    // It is written a moment later.
    server.wait_log(said);
    assert_eq!(server.count_log(said), 1);
}

#[test]
fn second_server_of_several_is_taken_when_the_first_is_away() {
    let Some(away) = Nats::away() else { return };
    let Some(nats) = Nats::start() else { return };
    let urls = [
        format!("--nats={}", away.url()),
        format!("--nats={}", nats.url()),
    ];
    let server = launch(&[&urls[0], &urls[1]]).start();
    is_ready(&server);
    let (mut reader, _) = greet(&server, "");
    hears(&mut reader, &node(&nats, &[]), "by the second");
}

#[test]
fn option_that_is_wrong_is_one_plain_line() {
    let url = "--nats=nats://127.0.0.1:4222";
    for (args, code, word) in [
        (&["--nats=http://127.0.0.1:4222"][..], 2, "--nats"),
        (&["--nats="], 2, "--nats"),
        (&[url, "--nats-replicas=0"], 2, "--nats-replicas"),
        (&["--nats-replicas=3"], 2, "--nats-replicas"),
        (&[url, "--nats-cert=/nowhere/cert"], 2, "--nats-key"),
        // Not the word, but the file is wrong.
        (&[url, "--nats-creds=/nowhere/creds"], 1, "/nowhere/creds"),
    ] {
        let exit = run(args, &[]);
        assert_eq!(exit.code, Some(code), "{args:?}: {exit:?}");
        assert!(exit.stderr.contains(word), "{args:?}: {exit:?}");
    }
}
