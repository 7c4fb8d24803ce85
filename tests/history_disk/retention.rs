//! How much is kept, and what readers are told of what is not.

use std::io::Write;

use super::{Event, Events, Home};
use crate::common::http::{get, get_json};
use crate::common::{Address, eventually};

const MIB: u64 = 1 << 20;

/// Sends so many lines of 1 KiB in a session, from this number on, and returns when they are stored.
fn fill(home: &Home, from: u64, count: u64) {
    let mut sender = Events::join(&home.address(), "role=publish session=fill ack");
    assert_eq!(sender.taken(), from);
    let mut stream = sender.stream();
    let sent = std::thread::spawn(move || {
        for n in from + 1..=from + count {
            stream.write_all(line(n).as_bytes())?;
            stream.write_all(b"\n")?;
        }
        std::io::Result::Ok(())
    });
    while sender.next() != Event::Ack(from + count) {}
    sent.join().expect("no panic").expect("all is taken");
}

fn line(n: u64) -> String {
    format!("{n:08} {}", "x".repeat(1000))
}

fn kept(admin: &Address) -> serde_json::Value {
    get_json(admin, "/status")["channels"][0]["history"].clone()
}

fn file_bytes(home: &Home) -> u64 {
    let segments = home.segments("main");
    let bytes = segments
        .iter()
        .map(|path| path.metadata().map_or(0, |it| it.len()));
    bytes.sum()
}

#[test]
fn what_status_says_is_what_the_files_have() {
    let home = Home::new(&["--history=2MiB", "--admin=127.0.0.1:0"]);
    let server = home.start();
    let admin = server.admin();
    for round in 0..8 {
        fill(&home, round * 1000, 1000);
        eventually("old segments go", || file_bytes(&home) <= 2 * MIB);
        let kept = kept(&admin);
        assert_eq!(kept["bytes"], file_bytes(&home), "{kept}");
        assert_eq!(kept["segments"], home.segments("main").len(), "{kept}");
        assert_eq!(kept["next_seq"], (round + 1) * 1000 + 1, "{kept}");
        let first = home.segments("main")[0].clone();
        let first = first.file_stem().unwrap().to_str().unwrap().to_owned();
        assert_eq!(kept["oldest_seq"], first.parse::<u64>().unwrap(), "{kept}");
        let bytes = "linehub_history_bytes{channel=\"main\"}";
        assert_eq!(
            get(&admin, "/metrics").sample(bytes),
            file_bytes(&home) as f64
        );
    }
    // Exact to a segment, of which there are sixteen.
    assert!(
        file_bytes(&home) > 2 * MIB - MIB / 4,
        "{}",
        file_bytes(&home)
    );
}

#[test]
fn slow_reader_is_told_how_much_went_before_it_came_to_it() {
    let home = Home::new(&["--history=2MiB"]);
    let _server = home.start();
    fill(&home, 0, 1000);
    let mut readers: Vec<_> = (0..3)
        .map(|_| Events::join(&home.address(), "history=1GiB"))
        .collect();
    // Their sockets have the beginning by then, and the rest of what they are to get is removed.
    for reader in &mut readers {
        assert_eq!(reader.message(), (1, line(1)));
    }
    fill(&home, 1000, 6000);
    for mut reader in readers {
        let (mut last, mut skipped) = (1, 0);
        while last < 7000 {
            match reader.next() {
                Event::Message { seq, data } => {
                    assert_eq!((seq, data), (last + skipped + 1, line(last + skipped + 1)));
                    (last, skipped) = (seq, 0);
                }
                Event::Skip(count) => skipped += count,
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn who_resumes_too_late_is_told_how_much_is_gone() {
    let home = Home::new(&["--history=1MiB"]);
    let _server = home.start();
    fill(&home, 0, 4000);
    let first = Events::join(&home.address(), "history=1GiB");
    let mut late = Events::join(&home.address(), &format!("since={}:10", first.epoch()));
    assert_eq!(late.hello["recovered"], false);
    let Event::Skip(count) = late.next() else {
        panic!("nothing was skipped")
    };
    assert_eq!(late.message(), (10 + count + 1, line(10 + count + 1)));
}
