//! Reading and looking for places.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::wire::past::Newest;

const SMALL: Retention = Retention {
    bytes: 1,
    age: None,
};

#[test]
fn reads_go_on_from_any_number_in_pieces_of_any_size() {
    let temp = temp();
    let directory = directory(temp.path(), "1");
    let (log, _) = directory.open_log(&name(), SMALL, EPOCH).unwrap();
    let records = random_records(30, 200, 20_000);
    for group in records.chunks(7) {
        log.append(group, false).unwrap();
    }
    assert!(log.stats().segments > 5);
    for step in [0, 1, 100, 5000, 100_000, 10_000_000] {
        assert_same(&read_all(&log, step), &records);
    }
    // Of segments whose index is not made yet, too.
    drop(log);
    let (log, _) = directory.open_log(&name(), SMALL, EPOCH).unwrap();
    for seq in (1..log.next().0).rev() {
        let Slice::Records(read) = log.read(Seq(seq), 1000).unwrap() else {
            panic!("{seq} is kept");
        };
        assert!(read[0].first_seq <= Seq(seq) && Seq(seq) < read[0].next_seq());
        let at = records.partition_point(|record| record.first_seq <= Seq(seq)) - 1;
        assert_same(&read, &records[at..at + read.len()]);
    }
    assert!(matches!(log.read(log.next(), 1000).unwrap(), Slice::End));
    assert!(matches!(log.read(Seq(u64::MAX), 1000).unwrap(), Slice::End));
    assert!(matches!(
        log.read(Seq(0), 1000).unwrap(),
        Slice::Gone { oldest: Seq(1) }
    ));
}

#[test]
fn a_read_has_at_most_the_bytes_it_may_unless_one_record_has_more() {
    let temp = temp();
    let (log, _) = open(temp.path(), "1");
    let records = random_records(31, 100, 5000);
    log.append(&records, false).unwrap();
    let size = |record: &Record| record.raw.len();
    for bytes_max in [1, 2000, 20_000] {
        let mut next = Seq(1);
        while let Slice::Records(read) = log.read(next, bytes_max).unwrap() {
            let bytes: usize = read.iter().map(size).sum();
            assert!(read.len() == 1 || bytes <= bytes_max);
            next = read.last().unwrap().next_seq();
        }
    }
}

#[test]
fn lines_of_a_read_share_one_buffer() {
    let temp = temp();
    let (log, _) = open(temp.path(), "1");
    let records: Vec<_> = (1..10)
        .map(|seq| Arc::new(lines(seq, 1, &["some line"])))
        .collect();
    log.append(&records, false).unwrap();
    let Slice::Records(read) = log.read(Seq(1), 10_000).unwrap() else {
        panic!("it is kept");
    };
    let distances = read
        .windows(2)
        .map(|two| two[1].raw.as_ptr() as usize - two[0].raw.as_ptr() as usize);
    let mut distances: Vec<usize> = distances.collect();
    distances.dedup();
    assert_eq!(distances.len(), 1, "{distances:?}");
    assert!(distances[0] < 100);
}

/// A message: its number, when it was published, and its bytes.
type Message = (Seq, u64, u64);

fn messages(records: &[Arc<Record>]) -> Vec<Message> {
    let mut messages = Vec::new();
    for record in records {
        let mut seq = record.first_seq;
        let mut lines = record.raw.split_inclusive(|byte| *byte == b'\n');
        for part in &record.parts {
            for _ in 0..part.messages {
                let len = lines.next().unwrap().len() as u64;
                messages.push((seq, record.time_ms, len));
                seq = Seq(seq.0 + 1);
            }
            if part.kind != Kind::Lines {
                seq = Seq(seq.0 + 1);
            }
        }
    }
    messages
}

/// The first of the newest messages of which `is_in` says that they are wanted.
fn naive(messages: &[Message], next: Seq, mut is_in: impl FnMut(&Message) -> bool) -> Seq {
    let newest = messages.iter().rev().take_while(|message| is_in(message));
    newest.last().map_or(next, |message| message.0)
}

#[test]
fn the_newest_are_found_to_the_line() {
    let temp = temp();
    let directory = directory(temp.path(), "1");
    let (log, _) = directory.open_log(&name(), SMALL, EPOCH).unwrap();
    assert_eq!(log.locate(Newest::Messages(5)).unwrap(), Seq(1));
    assert_eq!(log.locate(Newest::Bytes(5)).unwrap(), Seq(1));
    assert_eq!(log.locate(Newest::Age(hours(1))).unwrap(), Seq(1));
    let mut records = random_records(32, 300, 15_000);
    log.append(&records, false).unwrap();
    // The oldest go, in part.
    log.retain(Retention {
        bytes: 500_000,
        age: None,
    })
    .unwrap();
    let oldest = log.oldest();
    assert!(oldest > Seq(1));
    records.retain(|record| record.first_seq >= oldest);
    drop(log);
    let (log, _) = directory.open_log(&name(), SMALL, EPOCH).unwrap();
    let all = messages(&records);
    let next = log.next();
    for count in 0..all.len() as u64 + 3 {
        let mut left = count;
        let expected = naive(&all, next, |_| {
            left = left.wrapping_sub(1);
            left != u64::MAX
        });
        assert_eq!(
            log.locate(Newest::Messages(count)).unwrap(),
            expected,
            "{count}"
        );
    }
    let bytes: u64 = all.iter().map(|message| message.2).sum();
    let mut random = fastrand::Rng::with_seed(33);
    let near = (0..300).map(|bytes| bytes * 3);
    let far: Vec<u64> = (0..500).map(|_| random.u64(..bytes + 100)).collect();
    for count in near
        .chain(far)
        .chain([bytes - 1, bytes, bytes + 1, u64::MAX])
    {
        let mut left = Some(count);
        let expected = naive(&all, next, |message| {
            left = left.and_then(|left| left.checked_sub(message.2));
            left.is_some()
        });
        assert_eq!(
            log.locate(Newest::Bytes(count)).unwrap(),
            expected,
            "{count}"
        );
    }
}

#[test]
fn the_newest_of_an_age_are_found_by_when_they_were_published() {
    let temp = temp();
    let (log, probe) = probed(temp.path(), SMALL);
    let now = log.shared.files.storage.wall_ms();
    let mut records = Vec::new();
    for (seq, ago) in (1..).zip((0..2000).rev()) {
        let mut record = lines(seq, 1, &[&"x".repeat(2000)]);
        // A second ago, two seconds ago...
        record.time_ms = now - ago * 1000;
        records.push(Arc::new(record));
    }
    log.append(&records, false).unwrap();
    assert!(log.stats().segments > 10);
    for ago in [0, 1, 2, 50, 1000, 1998, 1999, 5000] {
        // The test takes less than half a second, or it is repeated with what it has taken.
        let found = loop {
            let took = log.shared.files.storage.wall_ms() - now;
            let age = Duration::from_millis(ago * 1000 + took + 400);
            let found = log.locate(Newest::Age(age)).unwrap();
            if log.shared.files.storage.wall_ms() - now < took + 400 {
                break found;
            }
        };
        assert_eq!(found, Seq(2000 - ago.min(1999)), "{ago}");
    }
    // A clock that is set back: the last record is of now.
    probe.set_clocks(0, -3_600_000);
    let found = log
        .locate(Newest::Age(Duration::from_millis(10_500)))
        .unwrap();
    assert_eq!(found, Seq(1990));
}

#[test]
fn readers_see_whole_records_in_order_while_others_are_appended_and_removed() {
    let temp = temp();
    let directory = directory(temp.path(), "1");
    let retention = Retention {
        bytes: 600_000,
        age: None,
    };
    let (log, _) = directory.open_log(&name(), retention, EPOCH).unwrap();
    let records = random_records(34, 3000, 6000);
    let is_done = AtomicBool::new(false);
    std::thread::scope(|threads| {
        let readers: Vec<_> = (0..3)
            .map(|at| {
                threads.spawn({
                    let (log, records, is_done) = (&log, &records, &is_done);
                    move || {
                        let mut next = Seq(1);
                        let (mut read_from, mut gone) = (0, 0);
                        loop {
                            let is_last = is_done.load(Ordering::SeqCst);
                            match log.read(next, 3000 + 40_000 * at).unwrap() {
                                Slice::Records(read) => {
                                    let first = read[0].first_seq;
                                    let at =
                                        records.partition_point(|record| record.first_seq < first);
                                    assert_same(&read, &records[at..at + read.len()]);
                                    next = read.last().unwrap().next_seq();
                                    read_from += read.len();
                                }
                                Slice::Gone { oldest } => {
                                    assert!(oldest > next);
                                    next = oldest;
                                    gone += 1;
                                }
                                Slice::End if is_last => return (next, read_from, gone),
                                Slice::End => std::thread::yield_now(),
                            }
                            log.locate(Newest::Messages(50)).unwrap();
                            log.locate(Newest::Bytes(50_000)).unwrap();
                        }
                    }
                })
            })
            .collect();
        for group in records.chunks(10) {
            log.append(group, false).unwrap();
            log.retain(retention).unwrap();
        }
        is_done.store(true, Ordering::SeqCst);
        for reader in readers {
            let (next, read, _) = reader.join().unwrap();
            assert_eq!(next, log.next());
            assert!(read > 0);
        }
    });
}

#[test]
fn a_read_that_has_begun_ends_although_its_file_is_removed() {
    let temp = temp();
    let directory = directory(temp.path(), "1");
    let (log, _) = directory.open_log(&name(), SMALL, EPOCH).unwrap();
    let records = random_records(35, 100, 20_000);
    log.append(&records, false).unwrap();
    let oldest = Arc::clone(&log.shared.kept.lock().segments[0]);
    let _file = oldest.file().unwrap();
    log.retain(SMALL).unwrap();
    assert!(!oldest.path.exists());
    let read = oldest.read(Seq(1), 1_000_000).unwrap();
    assert_same(&read, &records[..read.len()]);
    assert!(matches!(
        log.read(Seq(1), 1000).unwrap(),
        Slice::Gone { .. }
    ));
}
