//! TLS records as they come: where they end. RFC 8446 section 5.1.

/// Bytes before the payload of a record: its type, a version, and its length.
const HEADER_BYTES: usize = 5;

/// The most that a record is, in bytes, with its header (RFC 5246 section 6.2.3).
pub(super) const RECORD_BYTES_MAX: usize = HEADER_BYTES + (1 << 14) + 2048;

/// Types of records.
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;

/// The payload of an encrypted alert in TLS 1.3: two bytes, its type, and 16 of the cipher. Two bytes of
/// application data are as long.
const SEALED_ALERT_BYTES: usize = 2 + 1 + 16;

/// What is there of a stream of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Whole {
    /// Bytes of whole records at the beginning.
    pub(super) bytes: usize,
    /// Where the last whole one of them begins.
    pub(super) last: usize,
    /// Bytes that are missing of the next one, as far as is known: at least one.
    pub(super) missing: usize,
}

/// How much of `bytes` is whole records. What is no TLS is whole: it is for the other side to refuse.
pub(super) fn whole(bytes: &[u8]) -> Whole {
    let (mut at, mut last) = (0, 0);
    loop {
        let rest = &bytes[at..];
        let [kind, major, _, high, low, ..] = *rest else {
            let is_tls = rest.first().is_none_or(|kind| is_record(*kind))
                && rest.get(1).is_none_or(|major| *major == 3);
            return match is_tls {
                true => Whole {
                    bytes: at,
                    last,
                    missing: HEADER_BYTES - rest.len(),
                },
                false => all(bytes),
            };
        };
        let size = HEADER_BYTES + usize::from(u16::from_be_bytes([high, low]));
        if !is_record(kind) || major != 3 || size > RECORD_BYTES_MAX {
            return all(bytes);
        }
        if rest.len() < size {
            return Whole {
                bytes: at,
                last,
                missing: size - rest.len(),
            };
        }
        (at, last) = (at + size, at);
    }
}

fn all(bytes: &[u8]) -> Whole {
    Whole {
        bytes: bytes.len(),
        last: 0,
        missing: 1,
    }
}

/// Whether a record begins with this byte.
fn is_record(kind: u8) -> bool {
    (20..=APPLICATION_DATA).contains(&kind)
}

/// Whether what a peer sends first begins as a handshake does: somebody speaks TLS.
pub(crate) fn begins_handshake(bytes: &[u8]) -> bool {
    bytes.first() == Some(&HANDSHAKE)
}

/// Whether these bytes are one alert that is not encrypted and that ends the connection as failed.
pub(super) fn is_open_error(bytes: &[u8]) -> bool {
    matches!(bytes, [ALERT, _, _, 0, 2, 2, _])
}

/// Whether this whole record may be an alert, as the end of a stream is one.
pub(super) fn may_be_alert(record: &[u8]) -> bool {
    match record.first() {
        Some(&ALERT) => true,
        Some(&APPLICATION_DATA) => record.len() == HEADER_BYTES + SEALED_ALERT_BYTES,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: u8, payload: usize) -> Vec<u8> {
        let length = (payload as u16).to_be_bytes();
        [&[kind, 3, 3], &length[..], &vec![7; payload]].concat()
    }

    #[test]
    fn records_end_where_they_say_cut_at_every_byte() {
        let records = [
            record(22, 300),
            record(23, 0),
            record(23, 19),
            record(21, 2),
        ];
        let stream = records.concat();
        let mut ends = vec![0];
        for record in &records {
            ends.push(ends[ends.len() - 1] + record.len());
        }
        for cut in 0..stream.len() {
            let found = whole(&stream[..cut]);
            let at = ends.iter().rposition(|end| *end <= cut).unwrap();
            assert_eq!(found.bytes, ends[at], "{cut}");
            assert_eq!(found.last, ends[at.saturating_sub(1)], "{cut}");
            let next = ends.get(at + 1).map_or(0, |end| end - cut);
            let known = cut - ends[at] >= HEADER_BYTES;
            assert!(found.missing == next || !known && found.missing < next.max(6));
        }
    }

    #[test]
    fn what_is_no_record_is_not_waited_for() {
        for bytes in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"x",
            b"\x16\x02",
            b"\x17\x03\x03\xff\xff",
        ] {
            assert_eq!(whole(bytes).bytes, bytes.len(), "{bytes:?}");
        }
        let behind = [record(23, 4), b"hello".to_vec()].concat();
        assert_eq!(whole(&behind).bytes, behind.len());
    }

    #[test]
    fn what_may_be_an_alert_is_known_by_its_form() {
        assert!(may_be_alert(&record(21, 2)) && may_be_alert(&record(23, 19)));
        assert!(!may_be_alert(&record(23, 20)) && !may_be_alert(&record(22, 19)));
        assert!(!may_be_alert(b""));
        assert!(is_open_error(b"\x15\x03\x03\0\x02\x02\x28"));
        assert!(!is_open_error(b"\x15\x03\x03\0\x02\x01\0") && !is_open_error(&record(21, 19)));
    }
}
