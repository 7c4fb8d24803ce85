//! When numbers could be given again, and who has the directory.

use super::*;

fn written(path: &Path, boot: &str, always: bool) -> (Directory, Log) {
    let directory = directory(path, boot);
    let (log, recovered) = directory.open_log(&name(), ALL, EPOCH).unwrap();
    let record = lines(recovered.next_seq.0, 1, &["x", "y"]);
    log.append(&[Arc::new(record)], always).unwrap();
    (directory, log)
}

#[test]
fn an_epoch_survives_whatever_cannot_have_lost_a_number() {
    // How it was written, how it ended, and on which start of the machine it goes on.
    let cases = [
        (false, false, "1", true),
        (false, false, "2", false),
        (false, true, "2", true),
        (true, false, "1", true),
        (true, false, "2", true),
    ];
    for (always, is_clean, boot, is_same) in cases {
        let temp = temp();
        let (directory, log) = written(temp.path(), "1", always);
        log.sync().unwrap();
        if is_clean {
            directory.mark_clean().unwrap();
        }
        drop((directory, log));
        let (log, recovered) = open(temp.path(), boot);
        let case = format!("always {always}, clean {is_clean}, boot {boot}");
        assert_eq!(recovered.epoch == EPOCH, is_same, "{case}");
        assert_eq!(recovered.is_new_epoch, !is_same, "{case}");
        assert_eq!(recovered.next_seq, Seq(3), "{case}");
        assert_eq!(log.stats().epoch, recovered.epoch);
        // It goes on as before, and that is remembered.
        log.append(&[Arc::new(lines(3, 1, &["z"]))], always)
            .unwrap();
        drop(log);
        let (log, again) = open(temp.path(), boot);
        assert_eq!(again.epoch, recovered.epoch, "{case}");
        assert!(!again.is_new_epoch, "{case}");
        assert_eq!(read_all(&log, 1000).len(), 2, "{case}");
    }
}

#[test]
fn a_machine_that_was_down_is_remembered_for_channels_that_are_opened_later() {
    let temp = temp();
    drop(written(temp.path(), "1", false));
    // Nobody opens the channel on this start.
    drop(directory(temp.path(), "2"));
    let (log, recovered) = open(temp.path(), "2");
    assert_ne!(recovered.epoch, EPOCH);
    // Nor is anything appended: it is the epoch that clients were told.
    drop(log);
    let (log, again) = open(temp.path(), "2");
    assert_eq!(again.epoch, recovered.epoch);
    log.append(&[Arc::new(lines(3, 1, &["z"]))], false).unwrap();
    drop(log);
    assert_eq!(open(temp.path(), "2").1.epoch, recovered.epoch);
}

#[test]
fn a_machine_that_was_down_is_told_to_the_daemon_that_has_found_it_out() {
    let temp = temp();
    drop(written(temp.path(), "1", false));
    let path = last_segment(temp.path());
    let len = fs::metadata(&path).unwrap().len();
    let mut bytes = fs::read(&path).unwrap();
    bytes.extend([0; 10]);
    fs::write(&path, bytes).unwrap();
    let (_, recovered) = open(temp.path(), "2");
    assert!(recovered.is_new_epoch);
    let cut = recovered.cut.unwrap();
    assert_eq!((cut.file, cut.offset, cut.bytes), (path, len, 10));
}

#[test]
fn a_clean_mark_counts_for_one_start_only() {
    let temp = temp();
    let (directory, log) = written(temp.path(), "1", false);
    log.sync().unwrap();
    directory.mark_clean().unwrap();
    drop((directory, log));
    let (directory, log) = written(temp.path(), "2", false);
    assert_eq!(log.stats().epoch, EPOCH);
    drop((directory, log));
    assert!(open(temp.path(), "3").1.is_new_epoch);
}

#[test]
fn a_directory_whose_state_is_lost_is_taken_for_one_whose_machine_was_down() {
    let temp = temp();
    drop(written(temp.path(), "1", false));
    fs::remove_file(temp.path().join("@state")).unwrap();
    assert!(open(temp.path(), "1").1.is_new_epoch);
}

#[test]
fn an_epoch_that_was_begun_is_the_next_daemons_though_nothing_was_appended() {
    let temp = temp();
    let (directory, log) = written(temp.path(), "1", false);
    log.begin_epoch(Epoch(77)).unwrap();
    assert_eq!(log.stats().epoch, Epoch(77));
    drop((directory, log));
    let (log, recovered) = open(temp.path(), "1");
    assert_eq!(recovered.epoch, Epoch(77));
    assert_eq!(recovered.next_seq, Seq(3));
    log.append(&[Arc::new(lines(3, 1, &["z"]))], false).unwrap();
    assert_eq!(segments(temp.path()).len(), 2);
    assert!(!temp.path().join("nmea/next-epoch").exists());
    drop(log);
    assert_eq!(open(temp.path(), "1").1.epoch, Epoch(77));
}

#[test]
fn a_directory_is_one_daemons_at_a_time() {
    let temp = temp();
    let first = directory(temp.path(), "1");
    let error = Directory::open(temp.path()).unwrap_err().to_string();
    let expected = format!(
        "{} is in use by another linehub (process {})",
        temp.path().display(),
        std::process::id()
    );
    assert_eq!(error, expected);
    let (log, _) = first.open_log(&name(), ALL, EPOCH).unwrap();
    drop(first);
    // Who may still write has the lock.
    assert!(Directory::open(temp.path()).is_err());
    drop(log);
    Directory::open(temp.path()).unwrap();
}

#[test]
fn files_are_for_the_daemon_and_its_group_only() {
    use std::os::unix::fs::PermissionsExt;
    let temp = temp();
    let path = temp.path().join("new/history");
    drop(written(&path, "1", false));
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o027;
    for path in [path.join("@lock"), path.join("@state"), last_segment(&path)] {
        assert_eq!(mode(&path), 0, "{}", path.display());
    }
    for path in [path.join("nmea"), path] {
        assert_eq!(mode(&path) & 0o007, 0, "{}", path.display());
    }
}

#[test]
fn a_clean_stop_syncs_what_a_killed_daemon_has_left_in_channels_that_nobody_opened() {
    let temp = temp();
    drop(written(temp.path(), "1", false));
    let probe = Arc::new(Probe::default());
    let storage = Storage {
        probe: Some(Arc::clone(&probe)),
    };
    let directory = Directory::open_with(storage, temp.path(), Some("1".to_owned())).unwrap();
    directory.mark_clean().unwrap();
    let synced = super::super::probe::Change::Sync(last_segment(temp.path()));
    assert!(probe.changes().contains(&synced));
}

#[test]
fn a_removed_channel_is_gone_and_its_log_takes_nothing_more() {
    let temp = temp();
    let (directory, log) = written(temp.path(), "1", false);
    log.begin_epoch(Epoch(77)).unwrap();
    log.remove().unwrap();
    assert!(!temp.path().join("nmea").exists());
    assert!(directory.channels().unwrap().is_empty());
    assert!(log.append(&[Arc::new(lines(3, 1, &["z"]))], false).is_err());
    assert!(matches!(
        log.read(Seq(1), 1000).unwrap(),
        Slice::Gone { oldest: Seq(3) }
    ));
    let (_, recovered) = directory.open_log(&name(), ALL, Epoch(8)).unwrap();
    assert_eq!((recovered.epoch, recovered.next_seq), (Epoch(8), Seq(1)));
}
