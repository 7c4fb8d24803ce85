//! The one thing to know of TLS where none is spoken: how somebody begins who speaks it (RFC 8446 section
//! 4.1.2, in a record as section 5.1 has it).

/// What of the first bytes tells it.
pub(crate) const BEGIN_BYTES: usize = 6;

/// Whether the first bytes that a peer sends are a `ClientHello`, as far as they are there: a handshake
/// record of some version 3, whose first message is one.
pub(crate) fn begins_hello(bytes: &[u8]) -> bool {
    let is_record = matches!(bytes, [22, 3, 0..=4, ..]);
    is_record && bytes.get(5).is_none_or(|message| *message == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn client_hello_is_told_from_lines() {
        let hello = [22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3];
        for cut in 3..hello.len() {
            assert!(begins_hello(&hello[..cut]), "{cut}");
        }
        for line in [
            &b""[..],
            b"\x16",
            b"\x16\x03",
            b"\x16\x03\x05",
            b"hello",
            b"\x17\x03\x01",
        ] {
            assert!(!begins_hello(line), "{line:?}");
        }
        assert!(!begins_hello(&[22, 3, 1, 0, 4, 2]));
    }
}
