//! What a killed daemon leaves.

use super::*;
use crate::hub::history::disk::codec::{self, Salt};
use crate::hub::history::disk::header::Header;
use crate::hub::history::disk::{Archive, check};

/// A log with an earlier segment and, in the last one, these records.
fn killed(path: &Path, records: &[Arc<Record>]) {
    let (log, _) = open(path, "1");
    log.append(&records[..3], false).unwrap();
    // A segment more, as an epoch begins.
    log.begin_epoch(Epoch(1)).unwrap();
    append_each(&log, &records[3..]);
}

#[test]
fn what_was_appended_is_read_after_the_daemon_was_killed() {
    let temp = temp();
    let records = random_records(1, 50, 5000);
    let (log, recovered) = open(temp.path(), "1");
    assert_eq!(recovered.epoch, EPOCH);
    assert!(recovered.is_new_epoch);
    assert_eq!(recovered.next_seq, Seq(1));
    append_each(&log, &records);
    drop(log);
    let (log, recovered) = open(temp.path(), "1");
    assert_same(&read_all(&log, 7000), &records);
    assert_eq!(recovered.epoch, EPOCH);
    assert!(!recovered.is_new_epoch);
    assert_eq!(recovered.cut, None);
    assert_eq!(recovered.next_seq, records.last().unwrap().next_seq());
    let messages: u64 = records.iter().map(|record| record.messages()).sum();
    assert_eq!(recovered.messages, messages);
    let origins = records.iter().flat_map(|record| &record.origins);
    let highest = origins.map(|origin| origin.0).max().unwrap();
    assert_eq!(recovered.next_id, highest + 1);
    assert_eq!(recovered.last_time_ms, records.last().unwrap().time_ms);
}

#[test]
fn nothing_is_created_for_a_channel_before_its_first_record() {
    let temp = temp();
    let directory = directory(temp.path(), "1");
    let (log, _) = directory.open_log(&name(), ALL, EPOCH).unwrap();
    log.sync().unwrap();
    log.retain(ALL).unwrap();
    assert!(!temp.path().join("nmea").exists());
    assert!(directory.channels().unwrap().is_empty());
    log.append(&[Arc::new(lines(1, 1, &["x"]))], false).unwrap();
    assert_eq!(directory.channels().unwrap(), [name()]);
}

#[test]
fn a_last_segment_cut_at_any_byte_holds_the_records_before_it() {
    let original = temp();
    let records = random_records(2, 9, 60);
    killed(original.path(), &records);
    let last = fs::read(last_segment(original.path())).unwrap();
    let mut ends = vec![];
    for cut in 0..last.len() {
        let temp = temp();
        copy(original.path(), temp.path());
        let path = last_segment(temp.path());
        fs::write(&path, &last[..cut]).unwrap();
        let (log, recovered) = open(temp.path(), "1");
        let read = read_all(&log, 1000);
        assert!(read.len() >= 3);
        assert_same(&read, &records[..read.len()]);
        let next = recovered.next_seq;
        assert_eq!(next, read.last().unwrap().next_seq());
        match recovered.cut {
            Some(found) => {
                assert_eq!(found.file, path);
                assert_eq!(found.offset + found.bytes, cut as u64);
            }
            None => ends.push(cut),
        }
        // Without its header, nothing says that numbers were not seen that were in it.
        let has_header = path.exists();
        assert_eq!(recovered.is_new_epoch, !has_header);
        assert_eq!(recovered.epoch == Epoch(1), has_header);

        // It goes on from there, and again.
        let more = Arc::new(lines(next.0, 5, &["more", "and more"]));
        log.append(&[Arc::clone(&more)], false).unwrap();
        drop(log);
        let (log, again) = open(temp.path(), "1");
        assert_eq!(again.cut, None);
        assert_eq!(again.epoch, recovered.epoch);
        let mut expected = records[..read.len()].to_vec();
        expected.push(more);
        assert_same(&read_all(&log, 1000), &expected);
    }
    // At the end of the header and of each record but the last.
    assert_eq!(ends.len(), records.len() - 3);
}

#[test]
fn zeros_behind_the_last_record_are_cut_off_and_may_have_been_records() {
    for zeros in [1, 3, 4, 43, 44, 100, 5000, 3_000_000] {
        let temp = temp();
        let records = random_records(3, 9, 60);
        killed(temp.path(), &records);
        let path = last_segment(temp.path());
        let mut bytes = fs::read(&path).unwrap();
        let len = bytes.len();
        bytes.resize(len + zeros, 0);
        fs::write(&path, bytes).unwrap();
        let (log, recovered) = open(temp.path(), "1");
        let cut = recovered.cut.unwrap();
        assert_eq!((cut.offset, cut.bytes), (len as u64, zeros as u64));
        assert!(recovered.is_new_epoch);
        assert_same(&read_all(&log, 1000), &records);
        assert_eq!(fs::metadata(&path).unwrap().len(), len as u64);
    }
}

#[test]
fn zeros_behind_the_last_record_of_always_are_room_for_more() {
    let temp = temp();
    let records = random_records(3, 9, 60);
    let (log, _) = open(temp.path(), "1");
    for record in &records[..8] {
        log.append(std::slice::from_ref(record), true).unwrap();
        log.sync().unwrap();
    }
    let path = last_segment(temp.path());
    let whole = fs::read(&path).unwrap();
    let end = 1 + whole.iter().rposition(|byte| *byte != 0).unwrap();
    assert!(whole.len() > end + 100_000);
    assert_eq!(check(path.parent().unwrap()).unwrap().damages, []);
    let archive = Archive::open(path.parent().unwrap()).unwrap();
    assert_eq!(archive.damage(), None);
    drop(log);

    // What was being written is cut off, and the room behind it.
    for torn in [0, 1, 20, 50] {
        let (log, _) = open(temp.path(), "1");
        let written = fs::metadata(&path).unwrap().len();
        log.append(&records[8..], true).unwrap();
        drop(log);
        let mut bytes = fs::read(&path).unwrap();
        bytes[written as usize + torn..].fill(0);
        fs::write(&path, bytes).unwrap();
        let (log, recovered) = open(temp.path(), "1");
        assert_eq!(recovered.cut.is_some(), torn > 0);
        assert_same(&read_all(&log, 1000), &records[..8]);
        assert_eq!(fs::metadata(&path).unwrap().len(), written);
    }

    // A segment that is done has none.
    let (log, _) = open(temp.path(), "1");
    log.append(&records[8..], true).unwrap();
    log.begin_epoch(Epoch(1)).unwrap();
    let next = records[8].next_seq().0;
    log.append(&[Arc::new(lines(next, 1, &["x"]))], false)
        .unwrap();
    assert_ne!(fs::read(&path).unwrap().last(), Some(&0));
    assert_eq!(check(path.parent().unwrap()).unwrap().damages, []);
    drop(log);
    let (_, recovered) = open(temp.path(), "1");
    assert_eq!((recovered.cut, recovered.next_seq), (None, Seq(next + 1)));
}

#[test]
fn notices_that_a_kill_leaves_between_two_pages_are_cut_off_in_the_same_epoch() {
    let count = 3000;
    let notices = Record {
        time_ms: 1,
        origins: (1..=count).map(ClientId).collect(),
        parts: (0..count)
            .map(|_| Part {
                kind: Kind::Notice(Notice::Connect),
                messages: 0,
            })
            .collect(),
        ends: (0..count).map(|_| 0).collect(),
        raw: Vec::new().into(),
        ..lines(1, 1, &["first"])
    };
    let notices = Arc::new(Record {
        first_seq: Seq(2),
        ..notices
    });
    let temp = temp();
    let (log, _) = open(temp.path(), "1");
    log.append(&[Arc::new(lines(1, 1, &["first"]))], true)
        .unwrap();
    log.append(&[notices], true).unwrap();
    drop(log);
    let path = last_segment(temp.path());
    let whole = fs::read(&path).unwrap();
    let end = 1 + whole.iter().rposition(|byte| *byte != 0).unwrap();
    assert!(end > 3 * 4096);
    for torn in (4096..end).step_by(4096) {
        let mut bytes = whole.clone();
        bytes[torn..].fill(0);
        fs::write(&path, bytes).unwrap();
        let (log, recovered) = open(temp.path(), "1");
        assert!(recovered.cut.is_some() && !recovered.is_new_epoch, "{torn}");
        assert_eq!(recovered.next_seq, Seq(2));
        drop(log);
    }
}

#[test]
fn sectors_that_never_came_to_the_disk_were_shown_to_nobody() {
    let temp = temp();
    let records = random_records(5, 40, 600);
    let (log, _) = open(temp.path(), "1");
    log.append(&records[..10], true).unwrap();
    log.sync().unwrap();
    let path = last_segment(temp.path());
    let synced = {
        let bytes = fs::read(&path).unwrap();
        1 + bytes.iter().rposition(|byte| *byte != 0).unwrap()
    };
    // One group, of which any part may be there.
    log.append(&records[10..], true).unwrap();
    drop(log);
    let whole = fs::read(&path).unwrap();
    let end = 1 + whole.iter().rposition(|byte| *byte != 0).unwrap();
    let first = synced.next_multiple_of(512);
    assert!(end > first + 2 * 512);
    for (from, to) in [(synced, first)]
        .into_iter()
        .chain((first..end).step_by(512).map(|at| (at, at + 512)))
    {
        let mut bytes = whole.clone();
        bytes[from..to].fill(0);
        fs::write(&path, bytes).unwrap();
        let (log, recovered) = open(temp.path(), "2");
        assert!(!recovered.is_new_epoch, "{from} of {synced} to {end}");
        let read = read_all(&log, 1000);
        assert!(read.len() >= 10);
        assert_same(&read, &records[..read.len()]);
        drop(log);
        fs::remove_file(temp.path().join("@state")).unwrap_or_default();
        fs::write(temp.path().join("@state"), "boot 1\n").unwrap();
    }
}

#[test]
fn truncation_that_the_disk_had_not_heard_of_is_made_again() {
    let temp = temp();
    let (log, _) = open(temp.path(), "1");
    log.append(&[Arc::new(lines(1, 1, &["x"]))], true).unwrap();
    log.sync().unwrap();
    let first = last_segment(temp.path());
    let longer = fs::read(&first).unwrap();
    log.begin_epoch(Epoch(1)).unwrap();
    log.append(&[Arc::new(lines(2, 1, &["y"]))], true).unwrap();
    log.sync().unwrap();
    drop(log);
    fs::write(&first, longer).unwrap();
    for boot in ["2", "2", "3"] {
        let (_, recovered) = open(temp.path(), boot);
        assert_eq!((recovered.epoch, recovered.next_seq), (Epoch(1), Seq(3)));
    }
}

#[test]
fn a_file_that_was_being_created_is_no_segment() {
    let temp = temp();
    let records = random_records(4, 9, 60);
    killed(temp.path(), &records);
    let new = temp.path().join("nmea/00000000000000009999.new");
    fs::write(&new, b"LHub").unwrap();
    let (log, recovered) = open(temp.path(), "1");
    assert_eq!(recovered.cut, None);
    assert!(!new.exists());
    assert_same(&read_all(&log, 1000), &records);
}

#[test]
fn an_empty_channel_with_a_torn_file_begins_anew() {
    let temp = temp();
    fs::create_dir(temp.path().join("nmea")).unwrap();
    let path = temp.path().join("nmea/00000000000000000001.log");
    fs::write(&path, [0; 200]).unwrap();
    let (log, recovered) = open(temp.path(), "1");
    assert_eq!(recovered.next_seq, Seq(1));
    assert!(recovered.is_new_epoch);
    assert_eq!(recovered.cut.unwrap().bytes, 200);
    let record = Arc::new(lines(1, 1, &["x"]));
    log.append(&[Arc::clone(&record)], false).unwrap();
    assert_same(&read_all(&log, 1000), &[record]);
}

#[test]
fn sessions_are_recovered_from_headers_and_records() {
    let temp = temp();
    let (log, _) = open(temp.path(), "1");
    let with_session = |seq, session: &str, taken| {
        let mut record = lines(seq, 1, &["x", "y"]);
        record.sessions = [(0, session.parse().unwrap(), taken)].into();
        Arc::new(record)
    };
    log.append(&[with_session(1, "a", 2), with_session(3, "b", 2)], false)
        .unwrap();
    log.begin_epoch(Epoch(1)).unwrap();
    log.append(&[with_session(5, "a", 4)], false).unwrap();
    assert_eq!(log.stats().sessions, 2);
    drop(log);
    let (_, mut recovered) = open(temp.path(), "1");
    recovered.sessions.sort();
    let session = |name: &str, taken, last| (name.parse().unwrap(), taken, Seq(last));
    assert_eq!(recovered.sessions, [session("a", 4, 6), session("b", 2, 4)]);
}

#[test]
fn only_who_knows_a_segments_salt_can_put_a_record_into_a_line() {
    for knows_salt in [false, true] {
        let temp = temp();
        let records = random_records(5, 9, 60);
        killed(temp.path(), &records);
        let path = last_segment(temp.path());
        let (header, ..) = Header::read(&fs::File::open(&path).unwrap(), &path).unwrap();
        let salt = if knows_salt { header.salt } else { Salt(7) };
        let next = records.last().unwrap().next_seq();
        let forged = lines(next.0 + 1, 1, &["forged"]);
        let mut raw = Vec::new();
        codec::encode(&forged, salt, &mut raw).unwrap();
        raw.extend_from_slice(&forged.raw);
        let mut record = lines(next.0, 1, &["x"]);
        record.ends = [raw.len().try_into().unwrap()].into();
        record.raw = raw.into();
        let (log, _) = open(temp.path(), "1");
        log.append(&[Arc::new(record)], false).unwrap();
        drop(log);
        // A byte of the head of what holds it.
        let mut bytes = fs::read(&path).unwrap();
        let at = bytes.len() - 120;
        let at = at
            + bytes[at..]
                .windows(4)
                .position(|four| four == header.salt.marker())
                .unwrap();
        bytes[at + 20] ^= 1;
        fs::write(&path, bytes).unwrap();
        match try_open(temp.path(), "1") {
            Ok((log, recovered)) => {
                assert!(!knows_salt);
                assert!(recovered.cut.is_some());
                assert_same(&read_all(&log, 1000), &records);
            }
            Err(error) => {
                assert!(knows_salt, "{error}");
                assert!(
                    error.to_string().contains("records follow at byte"),
                    "{error}"
                );
            }
        }
    }
}

/// Copies the state and the channel of a directory.
pub(super) fn copy(from: &Path, to: &Path) {
    fs::create_dir(to.join("nmea")).unwrap();
    fs::copy(from.join("@state"), to.join("@state")).unwrap();
    for file in fs::read_dir(from.join("nmea")).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), to.join("nmea").join(file.file_name())).unwrap();
    }
}
