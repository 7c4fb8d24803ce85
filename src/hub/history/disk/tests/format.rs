//! What a file holds.

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::hub::history::disk::codec::{self, HEAD_BYTES, Head, Salt};
use crate::hub::history::disk::header::{Header, Previous, Published};
use crate::wire::golden::unescape;

const SALT: Salt = Salt(0x1122_3344_5566_7788);

/// A header and a record of each kind of part, as the first release wrote them.
const GOLDEN: &str = include_str!("segment-1.golden");

fn encoded(record: &Record) -> Vec<u8> {
    let mut bytes = Vec::new();
    codec::encode(record, SALT, &mut bytes).unwrap();
    bytes.extend_from_slice(&record.raw);
    bytes
}

fn decoded(bytes: &[u8]) -> Result<Record, &'static str> {
    let head = Head::read(SALT, bytes[..HEAD_BYTES].try_into().unwrap())?;
    codec::decode(&head, SALT, &Bytes::copy_from_slice(&bytes[HEAD_BYTES..]))
}

fn header() -> Header {
    Header {
        epoch: EPOCH,
        is_always: true,
        salt: SALT,
        first_seq: Seq(4711),
        messages_before: 4000,
        bytes_before: 64_000,
        next_id: 99,
        last_time_ms: 1_764_000_000_000,
        created_ms: 1_764_000_000_001,
        previous: Some(Previous {
            first_seq: Seq(17),
            len: 65_536,
        }),
        sessions: vec![
            (
                "a.b".parse().unwrap(),
                Published {
                    taken: 7,
                    last: Seq(4000),
                },
            ),
            (
                "c".parse().unwrap(),
                Published {
                    taken: u64::MAX,
                    last: Seq(4710),
                },
            ),
        ],
    }
}

fn golden_record() -> Record {
    let part = |kind, messages| Part { kind, messages };
    Record {
        first_seq: Seq(4711),
        time_ms: 1_764_000_000_002,
        origins: [ClientId(7), ClientId(8), ClientId(7), ClientId(0)].into(),
        names: [(1, "meter-7".parse().unwrap())].into(),
        parts: [
            part(Kind::Lines, 2),
            part(Kind::Notice(Notice::Connect), 0),
            part(Kind::Notice(Notice::Disconnect), 0),
            part(Kind::Shutdown, 0),
        ]
        .into(),
        ends: [12, 12, 12, 12].into(),
        raw: Bytes::from_static(b"hello\nworld\n"),
        sessions: [(0, "a.b".parse().unwrap(), 300)].into(),
    }
}

#[test]
fn segments_are_written_as_they_were_by_the_first_release() {
    let mut bytes = header().write().unwrap();
    bytes.extend(encoded(&golden_record()));
    let shown = bytes.escape_ascii().to_string();
    assert_eq!(
        unescape(GOLDEN),
        bytes,
        "a new form needs a new version:\n{shown}"
    );
}

#[test]
fn a_segment_of_the_first_release_is_read() {
    let temp = temp();
    let path = temp.path().join("nmea").join("00000000000000004711.log");
    fs::create_dir(path.parent().unwrap()).unwrap();
    fs::write(&path, unescape(GOLDEN)).unwrap();
    fs::write(temp.path().join("@state"), "clean\n").unwrap();
    let (log, recovered) = open(temp.path(), "1");
    assert_same(&read_all(&log, 1000), &[golden_record()]);
    assert_eq!(recovered.epoch, EPOCH);
    assert_eq!(recovered.next_seq, Seq(4715));
    assert_eq!(recovered.messages, 4002);
    assert_eq!(recovered.next_id, 99);
    assert_eq!(recovered.last_time_ms, 1_764_000_000_002);
    // The other's lines are gone.
    let session = ("a.b".parse().unwrap(), 300, Seq(4712));
    assert_eq!(recovered.sessions, [session]);
    assert_eq!(recovered.cut, None);
}

#[test]
fn a_file_of_a_later_version_is_refused_as_such() {
    let temp = temp();
    let path = temp.path().join("nmea").join("00000000000000004711.log");
    fs::create_dir(path.parent().unwrap()).unwrap();
    let mut bytes = header().write().unwrap();
    bytes[8] = 2;
    let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[..16]), &bytes[20..]);
    bytes[16..20].copy_from_slice(&crc.to_le_bytes());
    fs::write(&path, bytes).unwrap();
    let error = try_open(temp.path(), "1").unwrap_err().to_string();
    assert!(
        error.contains("it is of version 2, and this linehub reads 1"),
        "{error}"
    );
}

#[test]
fn a_header_is_read_as_it_was_written_and_no_byte_of_it_may_change() {
    let temp = temp();
    let path = temp.path().join("file");
    let bytes = header().write().unwrap();
    let read = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        Header::read(&fs::File::open(&path).unwrap(), &path)
    };
    let (same, len, _) = read(&bytes).unwrap();
    assert_eq!((same, len), (header(), bytes.len() as u64));
    for at in 0..bytes.len() {
        let mut wrong = bytes.clone();
        wrong[at] ^= 1;
        assert!(read(&wrong).is_err(), "byte {at}");
        assert!(read(&bytes[..at]).is_err(), "the first {at} bytes");
    }
}

#[test]
fn a_header_with_more_sessions_than_one_read_holds_is_read() {
    let temp = temp();
    let path = temp.path().join("file");
    let session = |at: u64| {
        let name = format!("session-{at}").parse().unwrap();
        (
            name,
            Published {
                taken: at,
                last: Seq(at),
            },
        )
    };
    let header = Header {
        sessions: (0..5000).map(session).collect(),
        ..header()
    };
    fs::write(&path, header.write().unwrap()).unwrap();
    let file = fs::File::open(&path).unwrap();
    assert_eq!(Header::read(&file, &path).unwrap().0, header);
}

#[test]
fn a_record_with_any_other_byte_is_none() {
    let bytes = encoded(&golden_record());
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut wrong = bytes.clone();
            wrong[at] ^= 1 << bit;
            assert!(decoded(&wrong).is_err(), "bit {bit} of byte {at}");
        }
    }
}

#[test]
fn a_record_of_another_segment_is_none() {
    let bytes = encoded(&golden_record());
    let head = bytes[..HEAD_BYTES].try_into().unwrap();
    assert!(Head::read(SALT, head).is_ok());
    for bit in 0..64 {
        assert!(Head::read(Salt(SALT.0 ^ (1 << bit)), head).is_err());
    }
}

proptest! {
    #[test]
    fn records_are_read_as_they_were_written(seed: u64, len_max in 12usize..100_000) {
        for record in random_records(seed, 5, len_max) {
            assert_same(&[decoded(&encoded(&record)).unwrap()], &[record]);
        }
    }

    /// Whoever could forge a checksum still makes nothing panic.
    #[test]
    fn no_meta_part_is_read_beyond_its_end(seed: u64, at in 0usize..60, byte: u8) {
        for record in random_records(seed, 5, 100) {
            let mut wrong = record.as_ref().clone();
            let mut bytes = encoded(&record);
            let meta_end = bytes.len() - record.raw.len();
            let at = HEAD_BYTES + at % (meta_end - HEAD_BYTES);
            bytes[at] = byte;
            let head = codec::forge(&bytes[HEAD_BYTES..], meta_end - HEAD_BYTES, &record, SALT);
            if let Ok(read) = codec::decode(&head, SALT, &Bytes::copy_from_slice(&bytes[HEAD_BYTES..])) {
                wrong = read;
            }
            prop_assert_eq!(wrong.messages(), record.messages());
            prop_assert_eq!(wrong.ends.last(), record.ends.last());
        }
    }
}
