//! How much is kept, and for how long.

use super::*;

#[test]
fn bytes_are_kept_exactly_to_a_segment() {
    let temp = temp();
    let retention = Retention {
        bytes: 2 * 1024 * 1024,
        age: None,
    };
    let directory = directory(temp.path(), "1");
    let (log, _) = directory.open_log(&name(), retention, EPOCH).unwrap();
    let segment = retention.bytes / 16;
    for record in random_records(40, 1500, 15_000) {
        log.append(&[record], false).unwrap();
        log.retain(retention).unwrap();
        let files = segments(temp.path());
        let sizes = files.iter().map(|file| fs::metadata(file).unwrap().len());
        let bytes: u64 = sizes.clone().sum();
        assert_eq!(log.stats().bytes, bytes);
        assert_eq!(log.stats().segments, files.len());
        assert!(bytes <= retention.bytes);
        assert!(sizes.clone().all(|size| size <= segment));
        let was_removed = log.oldest() > Seq(1);
        assert!(
            !was_removed || bytes > retention.bytes - 2 * segment,
            "{bytes}"
        );
    }
    assert!(log.oldest() > Seq(1));
    let stats = log.stats();
    let kept = read_all(&log, 100_000);
    let messages: u64 = kept.iter().map(Record::messages).sum();
    assert_eq!(stats.messages, messages);
    assert_eq!(stats.oldest_time_ms, Some(kept[0].time_ms));
    assert_eq!(stats.oldest, kept[0].first_seq);
    drop(log);
    let (log, _) = directory.open_log(&name(), retention, EPOCH).unwrap();
    let again = log.stats();
    assert_eq!(
        (again.bytes, again.messages, again.oldest),
        (stats.bytes, stats.messages, stats.oldest)
    );
    assert_eq!(again.oldest_time_ms, stats.oldest_time_ms);
}

#[test]
fn the_segment_that_is_written_to_is_kept_however_little_is_wanted() {
    let temp = temp();
    let none = Retention {
        bytes: 0,
        age: None,
    };
    let directory = directory(temp.path(), "1");
    let (log, _) = directory.open_log(&name(), none, EPOCH).unwrap();
    let long = "x".repeat(200_000);
    for seq in 1..20 {
        let line = if seq % 5 == 0 { long.as_str() } else { "short" };
        log.append(&[Arc::new(lines(seq, 1, &[line]))], false)
            .unwrap();
        log.retain(none).unwrap();
        assert_eq!(segments(temp.path()).len(), 1);
        let kept = read_all(&log, 1000);
        assert_eq!(kept.last().unwrap().next_seq(), log.next());
    }
}

#[test]
fn an_age_removes_whole_segments_by_their_last_record() {
    let temp = temp();
    let retention = Retention {
        bytes: u64::MAX,
        age: Some(hours(16)),
    };
    let (log, probe) = probed(temp.path(), retention);
    let wall = log.shared.files.storage.wall_ms();
    for hour in 0..40u64 {
        let ahead = i64::try_from(hour * 3_600_000).unwrap();
        probe.set_clocks(ahead, ahead);
        let mut record = lines(hour + 1, 1, &["x"]);
        record.time_ms = wall + hour * 3_600_000;
        log.append(&[Arc::new(record)], false).unwrap();
        log.retain(retention).unwrap();
        // A segment an hour; those whose record is more than 16 hours old are gone. The clocks go on between
        // an append and its removal.
        let oldest = hour.saturating_sub(16) + 1;
        let found = log.oldest().0;
        assert!(found == oldest || found == oldest + 1, "{found} at {hour}");
    }
    // Nothing comes any more: all goes, and what follows goes on.
    probe.set_clocks(100 * 3_600_000, 100 * 3_600_000);
    log.retain(retention).unwrap();
    assert_eq!(log.oldest(), Seq(41));
    assert_eq!(log.next(), Seq(41));
    assert_eq!(log.stats().messages, 0);
    assert_eq!(log.stats().oldest_time_ms, None);
    log.retain(retention).unwrap();
    assert_eq!(segments(temp.path()).len(), 1);
    drop(log);
    let (log, recovered) = open(temp.path(), "1");
    assert_eq!(recovered.next_seq, Seq(41));
    assert_eq!(recovered.messages, 40);
    assert_eq!(recovered.epoch, EPOCH);
    log.append(&[Arc::new(lines(41, 1, &["on"]))], false)
        .unwrap();
    assert_eq!(read_all(&log, 1000).len(), 1);
}

#[test]
fn a_wall_clock_that_jumps_removes_nothing() {
    let temp = temp();
    let retention = Retention {
        bytes: u64::MAX,
        age: Some(hours(1)),
    };
    let (log, probe) = probed(temp.path(), retention);
    let mut record = lines(1, 1, &["x"]);
    record.time_ms = log.shared.files.storage.wall_ms();
    log.append(&[Arc::new(record)], false).unwrap();
    for jump in [-50, 50] {
        probe.set_clocks(0, jump * 3_600_000);
        log.retain(retention).unwrap();
        assert_eq!(log.oldest(), Seq(1));
    }
    probe.set_clocks(2 * 3_600_000, 0);
    log.retain(retention).unwrap();
    assert_eq!(log.oldest(), Seq(2));
}

#[test]
fn a_segment_of_an_earlier_daemon_is_as_old_as_the_wall_clock_says() {
    for (published_ago, is_kept) in [(-100, true), (0, true), (10, true), (17, false)] {
        let temp = temp();
        let retention = Retention {
            bytes: u64::MAX,
            age: Some(hours(16)),
        };
        let (log, _) = open(temp.path(), "1");
        let mut record = lines(1, 1, &["x"]);
        let ago = published_ago * 3_600_000;
        record.time_ms = log
            .shared
            .files
            .storage
            .wall_ms()
            .checked_add_signed(-ago)
            .unwrap();
        log.append(&[Arc::new(record)], false).unwrap();
        drop(log);
        let (log, _) = open(temp.path(), "1");
        log.retain(retention).unwrap();
        assert_eq!(log.oldest() == Seq(1), is_kept, "{published_ago}");
    }
}

#[test]
fn a_session_is_kept_as_long_as_its_lines() {
    let temp = temp();
    let retention = Retention {
        bytes: 1,
        age: None,
    };
    let directory = directory(temp.path(), "1");
    let (log, _) = directory.open_log(&name(), retention, EPOCH).unwrap();
    let long = "x".repeat(30_000);
    for seq in 1..=6 {
        let mut record = lines(seq, 1, &[&long]);
        record.sessions = [(0, format!("s{seq}").parse().unwrap(), 1)].into();
        log.append(&[Arc::new(record)], false).unwrap();
    }
    assert_eq!(log.stats().sessions, 6);
    log.retain(retention).unwrap();
    assert_eq!(log.oldest(), Seq(5));
    assert_eq!(log.stats().sessions, 2);
    drop(log);
    let (_, mut recovered) = directory.open_log(&name(), retention, EPOCH).unwrap();
    recovered.sessions.sort();
    let session = |seq| (format!("s{seq}").parse().unwrap(), 1, Seq(seq));
    assert_eq!(recovered.sessions, [session(5), session(6)]);
}
