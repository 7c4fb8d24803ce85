//! Looking through a run of lines at once, for what must not go out as it is.

use std::fmt;
use std::io::Write;

/// How many decimal digits a number has.
pub fn digits(number: u64) -> usize {
    number.checked_ilog10().unwrap_or(0) as usize + 1
}

/// The payload of a line: one CR before the LF belongs to the line end.
pub(super) fn without_cr(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

pub(super) fn is_printable_ascii(byte: u8) -> bool {
    (b' '..=b'~').contains(&byte)
}

/// U+0080 to U+009F, the controls that have two bytes.
pub(super) fn is_c1(byte: u8, next: u8) -> bool {
    (byte == 0xc2) & (next < 0xa0)
}

/// A CR that is no part of a line end.
pub(super) fn is_lone_cr(byte: u8, next: u8) -> bool {
    (byte == b'\r') & (next != b'\n')
}

/// How much is looked at without a branch, so that the compiler makes vector code of it.
const BLOCK: usize = 1024;

/// Whether any byte is such a one.
pub(super) fn holds(bytes: &[u8], is_such: impl Fn(u8) -> bool) -> bool {
    let block = |block: &[u8]| block.iter().fold(false, |any, byte| any | is_such(*byte));
    bytes.chunks(BLOCK).any(block)
}

/// Whether any byte and the one after it, 0 after the last, are such a pair.
pub(super) fn holds_pair(bytes: &[u8], is_such: impl Fn(u8, u8) -> bool) -> bool {
    let Some((last, _)) = bytes.split_last() else {
        return false;
    };
    let block = |(bytes, nexts): (&[u8], &[u8])| {
        let pairs = bytes.iter().zip(nexts);
        pairs.fold(false, |any, (byte, next)| any | is_such(*byte, *next))
    };
    bytes.chunks(BLOCK).zip(bytes[1..].chunks(BLOCK)).any(block) || is_such(*last, 0)
}

pub(super) fn append(out: &mut Vec<u8>, text: fmt::Arguments<'_>) {
    out.write_fmt(text)
        .expect("memory takes all that is written");
}
