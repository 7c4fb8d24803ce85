//! `kill -9` under flood: what any client had is there, and goes on with the same numbers.

use std::time::Duration;

use rustix::process::Signal;

use super::{Events, Home, Traffic};
use crate::common::PATIENCE;

/// How often the daemon is killed in a test; more by hand.
const ROUNDS: u64 = 10;

/// The longest that a daemon lives, in milliseconds.
const LIFE_MS: u64 = 150;

fn rounds() -> u64 {
    let rounds = std::env::var("CRASH_ROUNDS").ok();
    rounds.map_or(ROUNDS, |rounds| rounds.parse().expect("a number"))
}

fn random(below: u64) -> u64 {
    use std::hash::BuildHasher;
    std::hash::RandomState::new().hash_one(0) % below
}

/// Kills the daemon again and again, at any moment.
fn survives_kills(args: &[&str]) {
    let home = Home::new(&[&["--history=1GiB", "--slow-grace=off"], args].concat());
    let mut server = home.start();
    let traffic = Traffic::start(&home);
    for round in 0..rounds() {
        std::thread::sleep(Duration::from_millis(random(LIFE_MS)));
        if round % 3 == 2 {
            // Some have stopped before they are killed.
            server.signal(Signal::STOP);
        }
        server.signal(Signal::KILL);
        server.wait_exit(PATIENCE);
        server = home.start();
    }
    traffic.finish(&home);
    server.stop();
}

#[test]
fn killed_daemon_loses_nothing_that_any_client_had() {
    survives_kills(&[]);
}

#[test]
fn killed_daemon_that_syncs_every_so_often_loses_nothing_that_any_client_had() {
    survives_kills(&["--history-sync=5ms"]);
}

#[test]
fn killed_daemon_that_syncs_always_loses_nothing_that_any_client_had() {
    survives_kills(&["--history-sync=always"]);
}

#[test]
fn place_in_a_channel_in_which_nothing_was_published_outlives_a_kill_and_a_stop() {
    let home = Home::new(&["--history=1GiB"]);
    let mut server = home.start();
    let place = || {
        let told = Events::join(&home.address(), "");
        (told.epoch().to_owned(), told.seq())
    };
    let (epoch, seq) = place();
    server.signal(Signal::KILL);
    server.wait_exit(PATIENCE);
    server = home.start();
    assert_eq!(place(), (epoch.clone(), seq));
    server.stop();
    server = home.start();

    let mut sender = Events::join(&home.address(), "role=publish");
    sender.send("first");
    let mut reader = Events::join(&home.address(), &format!("since={epoch}:{seq}"));
    assert_eq!(reader.hello["recovered"], true);
    assert_eq!(reader.message(), (seq + 1, "first".to_owned()));
    server.stop();
}
