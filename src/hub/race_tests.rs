//! What the schedule explorer cannot show: threads that run inside each other's looks at the stream.

use std::hint;
use std::io::IoSlice;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::sync::mpsc;
use std::task::{Context, Poll, Waker};
use std::thread;

use super::{ConnectionInfo, Feed, Hub};
use crate::config::Config;
use crate::config::cli::Options;
use crate::wire::format::Format;

/// Rounds that a test goes through: the fault that it was written for showed in the first few hundred.
const ROUNDS: u64 = 20_000;

/// All that a feed has still to show, as far as it is published; without a lock unless there is something.
fn rest_of(feed: &mut Feed) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut cx = Context::from_waker(Waker::noop());
    while feed.poll_more(&mut cx) == Poll::Ready(super::feed::More::Bytes) {
        let mut slices = [IoSlice::new(&[])];
        feed.gather(&mut slices);
        bytes.extend_from_slice(&slices[0]);
        feed.advance(slices[0].len());
    }
    bytes
}

/// Of those who join in one turn of an accept loop, the last looks for the first time at the moment
/// in which the turn's notices become a batch: they are from before it.
#[test]
fn a_newcomer_gets_nothing_of_what_becomes_a_batch_while_it_looks() {
    let hub = Hub::new(&Config::from_options(&Options::default(), 1024).unwrap());
    let (newcomers, looks) = mpsc::sync_channel::<Feed>(1);
    let round = AtomicU64::new(0);
    let mut faults = Vec::new();
    let (hub, round, found) = (&hub, &round, &mut faults);
    thread::scope(move |scope| {
        scope.spawn(move || {
            for number in 1..=ROUNDS {
                let first = hub.join(ConnectionInfo::test(Format::Text));
                let last = hub.join(ConnectionInfo::test(Format::Text));
                if newcomers.send(last).is_err() {
                    // It has failed.
                    return;
                }
                // Until it begins to look.
                for _ in 0..1_000_000 {
                    if round.load(Acquire) == number {
                        break;
                    }
                    hint::spin_loop();
                }
                hub.end();
                drop(first);
            }
        });
        // Dropped by a failure here, which ends the other thread.
        let looks = looks;
        for number in 1..=ROUNDS {
            let mut last = looks.recv().unwrap();
            round.store(number, Release);
            // Somewhere among these waits is the one that meets the other thread.
            for _ in 0..number % 512 {
                hint::spin_loop();
            }
            let seen = String::from_utf8(rest_of(&mut last)).unwrap();
            let before = format!("New client connected: {}\n", last.subscriber().id.0 - 1);
            if seen.contains(&before) {
                found.push((number, seen));
            }
        }
    });
    assert_eq!(faults, []);
}
