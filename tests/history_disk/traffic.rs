//! Readers and senders that outlive daemons, and what they all must have seen in the end.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread::{JoinHandle, spawn};
use std::time::Duration;

use super::{Event, Events, Home};
use crate::common::Address;

/// The last line of a test.
const END: &str = "end";

/// Follows the channel over all daemons up to [`END`]: all its lines, each of which comes with the number
/// behind the last.
fn follow(address: Address) -> JoinHandle<Vec<String>> {
    spawn(move || {
        let mut lines = Vec::new();
        let mut events = Events::join(&address, "since=1h");
        let epoch = events.epoch().to_owned();
        assert_eq!(events.seq(), 0);
        loop {
            match events.next() {
                Event::Message { seq, data } => {
                    assert_eq!(seq, lines.len() as u64 + 1, "{data}");
                    lines.push(data);
                    if lines.last().is_some_and(|line| line == END) {
                        return lines;
                    }
                }
                Event::End => {
                    let place = format!("since={epoch}:{}", lines.len());
                    events = Events::join(&address, &place);
                    assert_eq!(events.epoch(), epoch, "behind {}", lines.len());
                    assert_eq!(events.hello["recovered"], true, "{}", events.hello);
                    assert_eq!(events.seq(), lines.len() as u64);
                }
                Event::Other(event) if event["event"] == "shutdown" => {}
                other => panic!("{other:?} behind line {}", lines.len()),
            }
        }
    })
}

/// Sends numbered lines without ever looking back, anew to each daemon, until it is told to stop.
fn flood(address: Address, name: &'static str, stop: Arc<AtomicBool>) -> JoinHandle<()> {
    spawn(move || {
        for life in 0.. {
            let events = Events::join(&address, "role=publish");
            let mut stream = events.stream();
            for n in 0.. {
                let lines = (100 * n..100 * (n + 1)).map(|n| format!("{name} {life} {n}\n"));
                let lines: String = lines.collect();
                if stream.write_all(lines.as_bytes()).is_err() {
                    break;
                }
                if stop.load(SeqCst) {
                    return;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    })
}

/// Sends numbered lines in a session, and goes on where it is told to; how many, once all of them are safe.
fn send_once(address: Address, stop: Arc<AtomicBool>) -> JoinHandle<u64> {
    spawn(move || {
        let acked = Arc::new(AtomicU64::new(0));
        let mut count = u64::MAX;
        loop {
            let events = Events::join(&address, "role=publish session=s ack");
            let mut next = events.taken();
            let told = acked.load(SeqCst);
            assert!(next >= told, "{next} were taken, and {told} were safe");
            let mut stream = events.stream();
            let goal = Arc::new(AtomicU64::new(count));
            let acks = read_acks(events, acked.clone(), goal.clone());
            while next < count {
                if stop.load(SeqCst) {
                    // Before the last line is sent, whose ack ends it all.
                    count = count.min(next + 1);
                    goal.store(count, SeqCst);
                }
                let to = (next + 50).min(count);
                let lines: String = (next..to).map(|n| format!("once {n}\n")).collect();
                if stream.write_all(lines.as_bytes()).is_err() {
                    break;
                }
                next = to;
                std::thread::sleep(Duration::from_millis(1));
            }
            if acks.join().expect("the reader of acks") {
                return count;
            }
        }
    })
}

/// Reads acks, up to that of the goal; whether it came. They only rise.
fn read_acks(mut events: Events, acked: Arc<AtomicU64>, goal: Arc<AtomicU64>) -> JoinHandle<bool> {
    spawn(move || {
        let mut taken = events.taken();
        while taken < goal.load(SeqCst) {
            taken = match events.next() {
                Event::Ack(taken) => taken,
                Event::End => return false,
                other => panic!("{other:?}"),
            };
            let before = acked.fetch_max(taken, SeqCst);
            assert!(taken >= before, "{taken} after {before}");
        }
        true
    })
}

/// Looks through the lines of a test: each sender's are there once, in order and without a gap.
fn check_lines(lines: &[String]) -> u64 {
    let mut next = std::collections::HashMap::new();
    let mut once = 0;
    for line in lines.iter().filter(|line| *line != END) {
        let (sender, n) = line.rsplit_once(' ').expect("a number");
        let n: u64 = n.parse().expect("a number");
        let next: &mut u64 = next.entry(sender.to_owned()).or_default();
        assert_eq!(n, *next, "{line}");
        *next += 1;
        once += u64::from(sender == "once");
    }
    once
}

/// All of them, in one channel.
pub(crate) struct Traffic {
    stop: Arc<AtomicBool>,
    readers: Vec<JoinHandle<Vec<String>>>,
    senders: [JoinHandle<()>; 2],
    once: JoinHandle<u64>,
}

impl Traffic {
    pub(crate) fn start(home: &Home) -> Traffic {
        let stop = Arc::new(AtomicBool::new(false));
        Traffic {
            readers: (0..3).map(|_| follow(home.address())).collect(),
            senders: ["a", "b"].map(|name| flood(home.address(), name, stop.clone())),
            once: send_once(home.address(), stop.clone()),
            stop,
        }
    }

    /// Ends it all, and sees that all readers had the same: each line once, in order.
    #[track_caller]
    pub(crate) fn finish(self, home: &Home) {
        self.stop.store(true, SeqCst);
        for sender in self.senders {
            sender.join().expect("a sender");
        }
        let count = self.once.join().expect("the sender of a session");
        Events::join(&home.address(), "role=publish").send(END);
        let mut first: Option<Vec<String>> = None;
        for reader in self.readers {
            let lines = reader.join().expect("a reader");
            assert_eq!(check_lines(&lines), count);
            // Not with `assert_eq`, which would print all of them.
            let first = first.get_or_insert_with(|| lines.clone());
            assert!(*first == lines, "two readers had other lines");
        }
    }
}
