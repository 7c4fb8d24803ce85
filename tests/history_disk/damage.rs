//! Files that are damaged under a running daemon.

use std::os::unix::fs::FileExt;

use super::{Event, Events, Home, first_of};

/// Lines of 1 KiB, which make a number of segments.
const LINES: u64 = 2000;

fn line(n: u64) -> String {
    format!("{n:08} {}", "x".repeat(1000))
}

fn filled() -> (Home, crate::common::Server) {
    let home = Home::new(&["--history=4MiB"]);
    let server = home.start();
    let mut sender = Events::join(&home.address(), "role=publish session=fill ack");
    for n in 1..=LINES {
        sender.send(&line(n));
        while n % 100 == 0 && sender.next() != Event::Ack(n) {}
    }
    assert!(home.segments("main").len() > 4);
    (home, server)
}

/// Reads from the beginning on; the numbers that are left out, each gap told in one count.
fn read_all(reader: &mut Events) -> Vec<(u64, u64)> {
    let (mut last, mut gaps) = (0, Vec::new());
    while last < LINES {
        match reader.next() {
            Event::Message { seq, data } => {
                assert_eq!((seq, data), (last + 1, line(last + 1)));
                last = seq;
            }
            Event::Skip(count) => {
                gaps.push((last + 1, last + count));
                last += count;
            }
            other => panic!("{other:?} behind {last}"),
        }
    }
    gaps
}

#[test]
fn flipped_bit_costs_its_reader_the_rest_of_the_segment_and_nobody_else_anything() {
    let (home, mut server) = filled();
    let segments = home.segments("main");
    let (damaged, next) = (&segments[2], first_of(&segments[3]));
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(damaged)
        .unwrap();
    let at = file.metadata().unwrap().len() / 2;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();

    let mut live = Events::join(&home.address(), "");
    let mut reader = Events::join(&home.address(), "history=1GiB");
    let gaps = read_all(&mut reader);
    let [(from, to)] = gaps[..] else {
        panic!("{gaps:?}")
    };
    // The first record may be the one: how lines share records is the daemon's.
    assert!(from >= first_of(damaged) && to == next - 1, "{gaps:?}");
    let said = server.wait_log("cannot read the history");
    let said: String = [said].concat();
    assert!(said.contains(damaged.to_str().unwrap()), "{said}");
    assert!(said.contains("is damaged at byte "), "{said}");

    let mut newest = Events::join(&home.address(), "history=10");
    assert_eq!(newest.message(), (LINES - 9, line(LINES - 9)));
    let mut sender = Events::join(&home.address(), "role=publish");
    sender.send("more");
    for client in [&mut live, &mut reader] {
        assert_eq!(client.message(), (LINES + 1, "more".to_owned()));
    }
    server.stop();
}

#[test]
fn segment_that_somebody_removed_is_told_as_missed() {
    let (home, mut server) = filled();
    server.stop();
    // The next daemon has none of them open.
    let _server = home.start();
    let segments = home.segments("main");
    let removed = (first_of(&segments[2]), first_of(&segments[3]) - 1);
    std::fs::remove_file(&segments[2]).unwrap();
    let mut reader = Events::join(&home.address(), "history=1GiB");
    assert_eq!(read_all(&mut reader), [removed]);
}
