//! Disks that are full or broken.

use std::io;

use rustix::io::Errno;

use super::*;
use crate::hub::history::disk::probe::Change;

fn is_write(change: &Change) -> bool {
    matches!(change, Change::Write(..))
}

#[test]
fn a_failed_append_leaves_nothing_and_the_next_goes_on() {
    // With a segment that is there, one that is begun, and one that is begun within the append.
    let cases: [(usize, usize); 5] = [(0, 3), (3, 6), (3, 40), (0, 40), (1, 2)];
    for (before, until) in cases {
        for fault in 0.. {
            let temp = temp();
            let retention = Retention {
                bytes: 1,
                age: None,
            };
            let (log, probe) = probed(temp.path(), retention);
            let records = random_records(20, 50, 40_000);
            append_each(&log, &records[..before]);
            let expected: Vec<_> = read_all(&log, 1000);
            let files: Vec<_> = contents(temp.path());
            let mut changes = 0;
            probe.fail(move |_| {
                changes += 1;
                (changes == fault + 1).then_some(Errno::NOSPC)
            });
            let appended = log.append(&records[before..until], false);
            probe.heal();
            let Err(error) = appended else {
                // It has fewer changes than that.
                assert!(fault > 0);
                assert_same(&read_all(&log, 1000), &records[..until]);
                break;
            };
            assert_eq!(error.kind(), io::ErrorKind::StorageFull);
            assert!(error.to_string().contains("nmea"), "{error}");
            assert_eq!(contents(temp.path()), files, "fault {fault}");
            assert_same(&read_all(&log, 1000), &expected);
            assert_eq!(log.next(), records[before].first_seq);

            log.append(&records[before..], false).unwrap();
            assert_same(&read_all(&log, 1000), &records);
            drop(log);
            let (log, recovered) = open(temp.path(), "1");
            assert_eq!(recovered.cut, None);
            assert_same(&read_all(&log, 1000), &records);
        }
    }
}

/// All segments, with what they hold.
fn contents(path: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let Ok(files) = fs::read_dir(path.join("nmea")) else {
        return Vec::new();
    };
    let files = files.map(|file| file.unwrap().path());
    let mut files: Vec<_> = files
        .map(|file| (file.clone(), fs::read(file).unwrap()))
        .collect();
    files.sort();
    files
}

#[test]
fn sessions_of_a_failed_append_are_not_counted() {
    let temp = temp();
    let (log, probe) = probed(temp.path(), ALL);
    let with_session = |seq, taken| {
        let mut record = lines(seq, 1, &["x"]);
        record.sessions = [(0, "a".parse().unwrap(), taken)].into();
        [Arc::new(record)]
    };
    log.append(&with_session(1, 1), false).unwrap();
    probe.fail(|change| is_write(change).then_some(Errno::IO));
    assert!(log.append(&with_session(2, 2), false).is_err());
    probe.heal();
    log.begin_epoch(Epoch(1)).unwrap();
    log.append(&[Arc::new(lines(2, 1, &["other"]))], false)
        .unwrap();
    drop(log);
    let (_, recovered) = open(temp.path(), "1");
    assert_eq!(recovered.sessions, [("a".parse().unwrap(), 1, Seq(1))]);
}

#[test]
fn an_append_that_cannot_be_taken_back_is_the_last() {
    let temp = temp();
    let (log, probe) = probed(temp.path(), ALL);
    let records = random_records(21, 5, 1000);
    append_each(&log, &records[..2]);
    probe.fail(|change| {
        let fails = is_write(change) || matches!(change, Change::Truncate(..));
        fails.then_some(Errno::IO)
    });
    assert!(log.append(&records[2..3], false).is_err());
    probe.heal();
    let error = log.append(&records[2..3], false).unwrap_err().to_string();
    assert!(error.contains("cannot truncate"), "{error}");
    assert_same(&read_all(&log, 1000), &records[..2]);
}

#[test]
fn a_sync_that_failed_is_never_taken_back() {
    for is_folder in [false, true] {
        let temp = temp();
        let (log, probe) = probed(temp.path(), ALL);
        let records = random_records(22, 5, 1000);
        append_each(&log, &records[..2]);
        probe.fail(move |change| {
            let fails = match change {
                Change::Sync(_) => !is_folder,
                Change::SyncFolder(_) => is_folder,
                _ => false,
            };
            fails.then_some(Errno::IO)
        });
        let first = log.sync().unwrap_err();
        assert!(first.to_string().contains("cannot sync "), "{first}");
        probe.heal();
        let later = log.sync().unwrap_err();
        // Whatever it was: it is not to be tried again.
        assert_eq!(
            (later.kind(), later.to_string()),
            (std::io::ErrorKind::Other, first.to_string())
        );
        let append = log.append(&records[2..3], true).unwrap_err();
        assert_eq!(append.to_string(), first.to_string());
        // What is there can be read.
        assert_same(&read_all(&log, 1000), &records[..2]);
    }
}

#[test]
fn a_sync_covers_all_segments_and_their_names() {
    let temp = temp();
    let retention = Retention {
        bytes: 1,
        age: None,
    };
    let (log, probe) = probed(temp.path(), retention);
    let records = random_records(23, 40, 40_000);
    log.append(&records, false).unwrap();
    let before = probe.changes().len();
    log.sync().unwrap();
    let files = segments(temp.path());
    assert!(files.len() > 2);
    let mut expected: Vec<_> = files.into_iter().map(Change::Sync).collect();
    expected.push(Change::SyncFolder(temp.path().join("nmea")));
    expected.push(Change::SyncFolder(temp.path().to_owned()));
    assert_eq!(probe.changes()[before..], expected);
    log.sync().unwrap();
    assert_eq!(probe.changes().len(), before + expected.len());
}

#[test]
fn a_segment_of_always_begins_once_all_before_it_is_synced() {
    let temp = temp();
    let (log, probe) = probed(temp.path(), ALL);
    let records = random_records(24, 3, 1000);
    log.append(&records[..1], false).unwrap();
    log.append(&records[1..2], true).unwrap();
    let [first, second]: [PathBuf; 2] = segments(temp.path()).try_into().unwrap();
    let changes = probe.changes();
    let at = |wanted: &Change| changes.iter().position(|change| change == wanted).unwrap();
    let begun = at(&Change::Rename(
        second.with_extension("new"),
        second.clone(),
    ));
    assert!(at(&Change::Sync(first)) < begun);
    assert!(at(&Change::Sync(second.with_extension("new"))) < begun);
}

#[test]
fn a_record_that_does_not_follow_is_refused() {
    let temp = temp();
    let (log, _) = open(temp.path(), "1");
    let error = log
        .append(&[Arc::new(lines(5, 1, &["x"]))], false)
        .unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    assert!(segments_or_none(temp.path()).is_empty());
}

fn segments_or_none(path: &Path) -> Vec<PathBuf> {
    let is_there = path.join("nmea").exists();
    if is_there { segments(path) } else { Vec::new() }
}

#[test]
fn a_file_that_cannot_be_removed_is_still_kept() {
    let temp = temp();
    let retention = Retention {
        bytes: 1,
        age: None,
    };
    let (log, probe) = probed(temp.path(), retention);
    let records = random_records(25, 40, 40_000);
    log.append(&records, false).unwrap();
    probe.fail(|change| matches!(change, Change::Remove(_)).then_some(Errno::ROFS));
    let error = log.retain(retention).unwrap_err().to_string();
    assert!(error.contains("cannot remove "), "{error}");
    assert_same(&read_all(&log, 1000), &records);
    probe.heal();
    log.retain(retention).unwrap();
    assert_eq!(segments(temp.path()).len(), 1);
}

#[test]
fn a_directory_that_cannot_be_written_to_says_so() {
    let temp = temp();
    let path = temp.path().join("file");
    fs::write(&path, "").unwrap();
    let error = Directory::open(&path).unwrap_err().to_string();
    assert!(
        error.contains(&format!("cannot create {}", path.display())),
        "{error}"
    );
}
