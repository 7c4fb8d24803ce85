//! What stands before each of many lines and has their number in it.

use std::ops::Range;

use super::scan::append;
use crate::wire::ids::Seq;

/// Bytes with a number in them. Counting it up in place costs less than writing each.
pub(super) struct Numbered {
    bytes: Vec<u8>,
    number: Range<usize>,
}

impl Numbered {
    pub(super) fn new(before: &str, first: Seq, behind: &str) -> Numbered {
        let mut bytes = before.as_bytes().to_vec();
        append(&mut bytes, format_args!("{first}"));
        let number = before.len()..bytes.len();
        bytes.extend_from_slice(behind.as_bytes());
        Numbered { bytes, number }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn count_up(&mut self) {
        for digit in self.bytes[self.number.clone()].iter_mut().rev() {
            if *digit < b'9' {
                *digit += 1;
                return;
            }
            *digit = b'0';
        }
        self.bytes.insert(self.number.start, b'1');
        self.number.end += 1;
    }
}
