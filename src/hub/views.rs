//! What a batch is in each encoding.

use std::sync::OnceLock;

use bytes::Bytes;

use super::encoding::Encoding;
use super::encodings::{Encodings, PerEncoding};

/// What a batch is in each encoding, as far as it was made. What few clients have takes no room where nobody does.
#[derive(Debug, Default)]
pub(super) struct Views {
    text: OnceLock<EncodedBatch>,
    json: OnceLock<EncodedBatch>,
    raw: OnceLock<EncodedBatch>,
    others: OnceLock<Box<PerEncoding<OnceLock<EncodedBatch>>>>,
}

impl Views {
    /// Those of a new batch: sources are there, and the others are still to be made.
    pub(super) fn of_sources(mut source: impl FnMut(Encoding) -> EncodedBatch) -> Views {
        Views {
            text: OnceLock::from(source(Encoding::Text)),
            raw: OnceLock::from(source(Encoding::Raw)),
            ..Views::default()
        }
    }

    /// Bytes that a batch has for what few clients take it in, if any of these are in use.
    pub(super) fn bytes_of_others(encodings: Encodings) -> usize {
        let usual = [Encoding::Text, Encoding::Json, Encoding::Raw];
        let others = usual.into_iter().fold(encodings, Encodings::without);
        match others == Encodings::default() {
            true => 0,
            false => size_of::<PerEncoding<OnceLock<EncodedBatch>>>(),
        }
    }

    /// What was made, if that was.
    pub(super) fn get(&self, encoding: Encoding) -> Option<&EncodedBatch> {
        match encoding {
            Encoding::Text | Encoding::Json | Encoding::Raw => self.of(encoding).get(),
            _ => self.others.get()?[encoding].get(),
        }
    }

    #[inline]
    pub(super) fn of(&self, encoding: Encoding) -> &OnceLock<EncodedBatch> {
        match encoding {
            Encoding::Text => &self.text,
            Encoding::Json => &self.json,
            Encoding::Raw => &self.raw,
            _ => &self.others.get_or_init(Box::default)[encoding],
        }
    }
}

/// A batch's bytes in one encoding, and where each part of it ends.
///
/// The bytes can be shared without a copy. Whoever keeps a clone longer than the batch keeps memory
/// that the budget no longer counts, and has to charge that elsewhere.
#[derive(Debug, Default)]
pub(super) struct EncodedBatch {
    pub(super) bytes: Bytes,
    pub(super) ends: Box<[u32]>,
}

impl EncodedBatch {
    /// Takes over `bytes`, and gives back what they have room for beyond their length. Until they are
    /// first cloned, this costs no allocation.
    pub(super) fn new(bytes: Vec<u8>, ends: Vec<u32>) -> EncodedBatch {
        EncodedBatch {
            bytes: Bytes::from(bytes.into_boxed_slice()),
            ends: ends.into(),
        }
    }

    /// A copy of exactly the size of what it holds.
    pub(super) fn copied(bytes: &[u8], ends: &[u32]) -> EncodedBatch {
        EncodedBatch {
            bytes: Bytes::copy_from_slice(bytes),
            ends: ends.into(),
        }
    }

    /// Where a part begins, or, if it is one too many, the end.
    pub(super) fn start_of(&self, part: usize) -> usize {
        part.checked_sub(1)
            .map_or(0, |before| self.ends[before] as usize)
    }

    /// The bytes of one part.
    pub(super) fn part(&self, part: usize) -> &[u8] {
        &self.bytes[self.start_of(part)..self.ends[part] as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_taken_over_and_shared_without_a_copy() {
        let bytes = b"line\n".to_vec();
        let start = bytes.as_ptr();
        let view = EncodedBatch::new(bytes, vec![5]);
        let shared = view.bytes.clone();
        assert_eq!((view.bytes.as_ptr(), shared.as_ptr()), (start, start));
    }
}
