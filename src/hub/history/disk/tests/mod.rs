//! Tests of histories on disk, over real files.

#![allow(clippy::unwrap_used)]

mod crash;
mod damage;
mod epochs;
mod faults;
mod format;
mod power;
mod reading;
mod retention;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::probe::Probe;
use super::recovery::Recovered;
use super::segment::first_of;
use super::storage::Storage;
use super::{Directory, HistoryError, Log};
use crate::hub::history::{Record, Retention, Slice};
use crate::hub::part::{Kind, Part};
use crate::wire::channel::ChannelName;
use crate::wire::format::Notice;
use crate::wire::ids::{ClientId, Epoch, Seq};

const EPOCH: Epoch = Epoch(0x5f3a_9c11);

const ALL: Retention = Retention {
    bytes: u64::MAX,
    age: None,
};

fn temp() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn name() -> ChannelName {
    "nmea".parse().unwrap()
}

/// A directory as a daemon opens it, on the start of the machine that is called `boot`.
fn directory(path: &Path, boot: &str) -> Directory {
    Directory::open_with(Storage::default(), path, Some(boot.to_owned())).unwrap()
}

fn try_open(path: &Path, boot: &str) -> Result<(Log, Recovered), HistoryError> {
    directory(path, boot).open_log(&name(), ALL, EPOCH)
}

/// The channel's log, opened by a daemon of its own.
fn open(path: &Path, boot: &str) -> (Log, Recovered) {
    try_open(path, boot).unwrap()
}

/// The channel's log, whose storage can be watched and made to fail.
fn probed(path: &Path, retention: Retention) -> (Log, Arc<Probe>) {
    let probe = Arc::new(Probe::default());
    let storage = Storage {
        probe: Some(Arc::clone(&probe)),
    };
    let directory = Directory::open_with(storage, path, Some("1".to_owned())).unwrap();
    let (log, _) = directory.open_log(&name(), retention, EPOCH).unwrap();
    (log, probe)
}

/// Lines of one client, published at `seq` milliseconds.
fn lines(seq: u64, client: u64, lines: &[&str]) -> Record {
    let raw: String = lines.iter().flat_map(|line| [line, "\n"]).collect();
    Record {
        first_seq: Seq(seq),
        time_ms: seq,
        origins: [ClientId(client)].into(),
        names: [].into(),
        parts: [Part {
            kind: Kind::Lines,
            messages: lines.len().try_into().unwrap(),
        }]
        .into(),
        ends: [raw.len().try_into().unwrap()].into(),
        raw: raw.into(),
        sessions: [].into(),
    }
}

/// Records of all kinds, each of up to `len_max` bytes of lines.
fn random_records(seed: u64, count: usize, len_max: usize) -> Vec<Arc<Record>> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut seq = Seq(1);
    let mut time_ms = 1_700_000_000_000;
    let mut records = Vec::new();
    for _ in 0..count {
        time_ms += random.u64(0..50);
        let record = random_record(&mut random, seq, time_ms, len_max);
        seq = record.next_seq();
        records.push(Arc::new(record));
    }
    records
}

fn random_record(
    random: &mut fastrand::Rng,
    first_seq: Seq,
    time_ms: u64,
    len_max: usize,
) -> Record {
    let count = random.usize(1..5);
    let mut raw = Vec::new();
    let (mut parts, mut ends, mut origins) = (Vec::new(), Vec::new(), Vec::new());
    let (mut names, mut sessions) = (Vec::new(), Vec::new());
    for at in 0..count {
        let mut messages = 0;
        let kind = match random.u8(0..6) {
            0 => Kind::Notice(Notice::Connect),
            1 => Kind::Notice(Notice::Disconnect),
            _ => Kind::Lines,
        };
        if kind == Kind::Lines {
            for _ in 0..random.usize(1..4) {
                let len = random.usize(0..=len_max / 12);
                raw.extend((0..len).map(|_| random.u8(b' '..)));
                raw.push(b'\n');
                messages += 1;
            }
        }
        let part = u32::try_from(at).unwrap();
        if random.bool() {
            names.push((part, format!("meter-{}", random.u8(..9)).parse().unwrap()));
        }
        if kind == Kind::Lines && random.bool() {
            let session = format!("s{}", random.u8(..4)).parse().unwrap();
            sessions.push((part, session, random.u64(..)));
        }
        parts.push(Part { kind, messages });
        origins.push(ClientId(random.u64(1..1000)));
        ends.push(raw.len().try_into().unwrap());
    }
    Record {
        first_seq,
        time_ms,
        origins: origins.into(),
        names: names.into(),
        parts: parts.into(),
        ends: ends.into(),
        raw: raw.into(),
        sessions: sessions.into(),
    }
}

fn append_each(log: &Log, records: &[Arc<Record>]) {
    for record in records {
        log.append(std::slice::from_ref(record), false).unwrap();
    }
}

/// All that is kept, read in pieces of `step` bytes.
fn read_all(log: &Log, step: usize) -> Vec<Record> {
    try_read_all(log, step).unwrap()
}

fn try_read_all(log: &Log, step: usize) -> std::io::Result<Vec<Record>> {
    let mut records: Vec<Record> = Vec::new();
    let mut next = log.oldest();
    loop {
        match log.read(next, step)? {
            Slice::Records(read) => {
                assert_eq!(read[0].first_seq, next);
                next = read.last().unwrap().next_seq();
                records.extend(read);
            }
            Slice::End => return Ok(records),
            Slice::Gone { oldest } => panic!("{next} is gone, {oldest} is the oldest"),
        }
    }
}

/// Whether two sequences of records say the same.
fn assert_same<A: std::borrow::Borrow<Record>>(read: &[Record], appended: &[A]) {
    let read: Vec<String> = read.iter().map(|record| format!("{record:?}")).collect();
    let show = |record: &A| format!("{:?}", record.borrow());
    let appended: Vec<String> = appended.iter().map(show).collect();
    assert!(read == appended, "{read:#?}\nis not\n{appended:#?}");
}

/// The segments of the channel, the oldest first.
fn segments(path: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(path.join("nmea")).unwrap();
    let files = files.map(|file| file.unwrap().path());
    let mut segments: Vec<_> = files.filter(|file| first_of(file).is_some()).collect();
    segments.sort();
    segments
}

fn last_segment(path: &Path) -> PathBuf {
    segments(path).pop().unwrap()
}

fn hours(hours: u64) -> Duration {
    Duration::from_secs(hours * 3600)
}
