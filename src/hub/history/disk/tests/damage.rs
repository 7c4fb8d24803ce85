//! Files that hold something else than what was written to them.

use super::crash::copy;
use super::*;

/// A directory with two segments of small records; those, and how many are in the first.
fn written(path: &Path) -> (Vec<Arc<Record>>, usize) {
    let records = random_records(11, 7, 40);
    let (log, _) = open(path, "1");
    append_each(&log, &records[..3]);
    log.begin_epoch(Epoch(1)).unwrap();
    append_each(&log, &records[3..]);
    (records, 3)
}

/// Opens and reads it all: either it is the beginning of the records, with a cut that says where they end, or
/// the error says the file and an offset.
fn check(path: &Path, file: &Path, records: &[Arc<Record>]) -> Option<Recovered> {
    let (error, recovered) = match try_open(path, "1") {
        Err(error) => (error.to_string(), None),
        Ok((log, recovered)) => match try_read_all(&log, 1000) {
            Ok(read) => {
                assert_same(&read, &records[..read.len()]);
                assert_eq!(recovered.cut.is_some(), read.len() < records.len());
                return Some(recovered);
            }
            Err(error) => (error.to_string(), Some(recovered)),
        },
    };
    assert!(error.contains(&file.display().to_string()), "{error}");
    assert!(error.contains(" is damaged at byte "), "{error}");
    assert!(error.contains("see `linehub history check "), "{error}");
    assert!(recovered.is_none_or(|recovered| recovered.cut.is_none()));
    None
}

#[test]
fn each_bit_of_the_last_segment_is_checked() {
    let original = temp();
    let (records, _) = written(original.path());
    let bytes = fs::read(last_segment(original.path())).unwrap();
    let (mut cut, mut refused) = (0, 0);
    let temp = temp();
    copy(original.path(), temp.path());
    let path = last_segment(temp.path());
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let _ = fs::remove_file(temp.path().join("nmea/next-epoch"));
            let mut wrong = bytes.clone();
            wrong[at] ^= 1 << bit;
            fs::write(&path, wrong).unwrap();
            match check(temp.path(), &path, &records) {
                Some(recovered) => {
                    // Its numbers were seen, and will be given again.
                    assert!(recovered.is_new_epoch, "bit {bit} of byte {at}");
                    cut += 1;
                }
                None => refused += 1,
            }
        }
    }
    assert!(cut > 0 && refused > 0, "{cut} cut, {refused} refused");
}

#[test]
fn each_bit_of_another_segment_is_checked_when_it_is_read() {
    let original = temp();
    let (records, _) = written(original.path());
    let bytes = fs::read(&segments(original.path())[0]).unwrap();
    for at in 0..bytes.len() {
        let temp = temp();
        copy(original.path(), temp.path());
        let path = &segments(temp.path())[0];
        let mut wrong = bytes.clone();
        wrong[at] ^= 1 << (at % 8);
        fs::write(path, wrong).unwrap();
        assert!(check(temp.path(), path, &records).is_none(), "byte {at}");
    }
}

#[test]
fn another_segment_that_has_become_shorter_or_longer_is_refused() {
    let original = temp();
    let (records, _) = written(original.path());
    let bytes = fs::read(&segments(original.path())[0]).unwrap();
    for len in [0, 1, 20, 60, bytes.len() - 1, bytes.len() + 1] {
        let temp = temp();
        copy(original.path(), temp.path());
        let path = &segments(temp.path())[0];
        let mut wrong = bytes.clone();
        wrong.resize(len, 0);
        fs::write(path, wrong).unwrap();
        assert!(check(temp.path(), path, &records).is_none(), "{len} bytes");
    }
}

#[test]
fn a_segment_that_is_missing_is_refused_and_the_oldest_may_go() {
    let temp = temp();
    let records = random_records(12, 9, 40);
    let (log, _) = open(temp.path(), "1");
    for (at, three) in records.chunks(3).enumerate() {
        log.begin_epoch(Epoch(at as u32)).unwrap();
        append_each(&log, three);
    }
    drop(log);
    let files = segments(temp.path());
    let second = fs::read(&files[1]).unwrap();
    fs::remove_file(&files[1]).unwrap();
    let error = try_open(temp.path(), "1").unwrap_err().to_string();
    assert!(error.contains("is missing behind it"), "{error}");
    fs::write(&files[1], second).unwrap();
    fs::remove_file(&files[0]).unwrap();
    let (log, recovered) = open(temp.path(), "1");
    assert_same(&read_all(&log, 1000), &records[3..]);
    assert_eq!(recovered.next_seq, records[8].next_seq());
}

#[test]
fn a_segment_under_another_name_is_refused() {
    let temp = temp();
    written(temp.path());
    let path = last_segment(temp.path());
    let other = path.with_file_name("00000000000000009999.log");
    fs::rename(&path, &other).unwrap();
    let error = try_open(temp.path(), "1").unwrap_err().to_string();
    assert!(error.contains("its records begin with"), "{error}");
}

#[test]
fn nothing_that_is_refused_is_changed() {
    let temp = temp();
    written(temp.path());
    let path = last_segment(temp.path());
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let before = segments(temp.path());
    assert!(try_open(temp.path(), "1").is_err());
    assert_eq!(segments(temp.path()), before);
    assert_eq!(fs::read(&path).unwrap(), bytes);
}
