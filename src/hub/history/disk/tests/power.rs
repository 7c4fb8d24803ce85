//! The loss of power: what was written down of a run is played again up to any moment, without what the disk
//! need not have had by then.

use std::collections::HashMap;
use std::os::unix::fs::FileExt;

use super::*;
use crate::hub::history::disk::probe::Change;

/// Plays changes into `to` that were made in `from`. Names are changed in order, as a journal keeps them, as far
/// as a sync of a folder came; beyond that up to a random one. Of what was written, that is missing which was
/// not synced, at random.
fn play(changes: &[Change], from: &Path, to: &Path, random: &mut fastrand::Rng) {
    let in_to = |path: &Path| to.join(path.strip_prefix(from).unwrap());
    let is_folder_sync = |change: &Change| matches!(change, Change::SyncFolder(_));
    let named = changes
        .iter()
        .rposition(is_folder_sync)
        .map_or(0, |at| at + 1);
    let named = random.usize(named..=changes.len());
    // The file that has a name: a number for each that was created.
    let mut ids: HashMap<PathBuf, usize> = HashMap::new();
    let mut file_of = Vec::new();
    let mut synced_until: HashMap<usize, usize> = HashMap::new();
    for (at, change) in changes.iter().enumerate() {
        let mut file = None;
        match change {
            Change::Create(path) => {
                ids.insert(path.clone(), at);
            }
            Change::Rename(old, new) => {
                let id = ids.remove(old).unwrap();
                ids.insert(new.clone(), id);
            }
            Change::Remove(path) => {
                ids.remove(path);
            }
            Change::Write(path, ..) | Change::Truncate(path, _) => {
                // The lock is not created through it.
                file = ids.get(path).copied();
            }
            Change::Sync(path) => {
                synced_until.insert(ids[path], at);
            }
            Change::CreateFolder(_) | Change::SyncFolder(_) => {}
        }
        file_of.push(file);
    }
    let mut open: HashMap<usize, fs::File> = HashMap::new();
    for (at, change) in changes.iter().enumerate() {
        let is_named = at < named;
        match change {
            Change::CreateFolder(path) if is_named => fs::create_dir_all(in_to(path)).unwrap(),
            Change::Create(path) if is_named => {
                open.insert(at, fs::File::create(in_to(path)).unwrap());
            }
            Change::Rename(old, new) if is_named => fs::rename(in_to(old), in_to(new)).unwrap(),
            Change::Remove(path) if is_named => {
                let _ = fs::remove_file(in_to(path));
            }
            Change::Write(_, offset, bytes) => {
                let Some(file) = file_of[at].and_then(|id| open.get(&id)) else {
                    continue;
                };
                let is_synced = file_of[at].and_then(|id| synced_until.get(&id)) > Some(&at);
                match random.u8(0..4) {
                    _ if is_synced => file.write_all_at(bytes, *offset).unwrap(),
                    0 | 1 => file.write_all_at(bytes, *offset).unwrap(),
                    2 => file
                        .write_all_at(&bytes[..random.usize(..=bytes.len())], *offset)
                        .unwrap(),
                    _ => {}
                }
            }
            Change::Truncate(_, len) => {
                if let Some(file) = file_of[at].and_then(|id| open.get(&id)) {
                    file.set_len(*len).unwrap();
                }
            }
            _ => {}
        }
    }
}

/// What has been promised when so many changes were made.
struct Promise {
    changes: usize,
    records: usize,
}

/// Appends records, and syncs after every `sync_every`th: what was done, and what was promised when.
fn run(
    path: &Path,
    records: &[Arc<Record>],
    sync_every: usize,
    always: bool,
) -> (Vec<Change>, Vec<Promise>) {
    let retention = Retention {
        bytes: 1,
        age: None,
    };
    let (log, probe) = probed(path, retention);
    let mut promises = vec![Promise {
        changes: probe.changes().len(),
        records: 0,
    }];
    for (at, record) in (1..).zip(records) {
        log.append(&[Arc::clone(record)], always).unwrap();
        if at % sync_every == 0 {
            log.sync().unwrap();
            promises.push(Promise {
                changes: probe.changes().len(),
                records: at,
            });
        }
    }
    (probe.changes(), promises)
}

fn check(always: bool, sync_every: usize, seed: u64) {
    let original = temp();
    let records = random_records(seed, 24, 30_000);
    let (changes, promises) = run(original.path(), &records, sync_every, always);
    let mut random = fastrand::Rng::with_seed(seed);
    for end in promises[0].changes..=changes.len() {
        let temp = temp();
        play(&changes[..end], original.path(), temp.path(), &mut random);
        let promised = promises.iter().rfind(|promise| promise.changes <= end);
        let promised = promised.map_or(0, |promise| promise.records);
        let (log, recovered) = match try_open(temp.path(), "2") {
            Ok(opened) => opened,
            Err(error) => panic!("after {end} changes: {error}"),
        };
        // What was not synced may be missing anywhere, which shows at the latest when it is read.
        let mut read = Vec::new();
        let mut next = log.oldest();
        while let Ok(Slice::Records(more)) = log.read(next, 10_000) {
            next = more.last().unwrap().next_seq();
            read.extend(more);
        }
        assert!(
            read.len() >= promised,
            "after {end} changes: {} of {promised}",
            read.len()
        );
        assert_same(&read, &records[..read.len()]);
        if always && promised > 0 {
            assert_eq!(next, recovered.next_seq);
            let is_same = recovered.epoch == EPOCH;
            assert!(is_same || sync_every > 1, "after {end} changes");
        }
        let is_there = recovered.next_seq > Seq(1);
        if !always && is_there {
            assert_ne!(recovered.epoch, EPOCH);
        }
        // It goes on.
        let more = Arc::new(lines(recovered.next_seq.0, 1, &["on"]));
        log.append(&[Arc::clone(&more)], always).unwrap();
        drop(log);
        let (log, again) = open(temp.path(), "2");
        assert_eq!(again.epoch, recovered.epoch);
        assert_eq!(log.next(), more.next_seq());
    }
}

#[test]
fn what_was_synced_with_always_survives_the_loss_of_power() {
    for seed in 50..54 {
        check(true, 1, seed);
        check(true, 3, seed);
    }
}

#[test]
fn what_was_synced_now_and_then_survives_the_loss_of_power() {
    for seed in 60..64 {
        check(false, 5, seed);
    }
}

#[test]
fn nothing_that_was_never_synced_stops_a_daemon_after_the_loss_of_power() {
    for seed in 70..74 {
        check(false, usize::MAX, seed);
    }
}
