//! The encodings that clients take the stream in, and what is kept for each of them.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::wire::format::Format;

/// How a client's bytes look: its listener's format, and in `text` which line end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u8)]
pub(crate) enum Encoding {
    Text,
    /// `text` for a client that itself ends its lines in CRLF.
    TextCrlf,
    Json,
    Raw,
}

impl Encoding {
    pub(super) const ALL: [Encoding; 4] = [
        Encoding::Text,
        Encoding::TextCrlf,
        Encoding::Json,
        Encoding::Raw,
    ];
}

impl From<Format> for Encoding {
    fn from(format: Format) -> Encoding {
        match format {
            Format::Text => Encoding::Text,
            Format::Json => Encoding::Json,
            Format::Raw => Encoding::Raw,
        }
    }
}

/// A set of encodings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Encodings(pub(super) u8);

impl Encodings {
    pub(super) fn with(self, encoding: Encoding) -> Encodings {
        Encodings(self.0 | 1 << encoding as u8)
    }

    pub(super) fn exclude(self, encoding: Encoding) -> Encodings {
        Encodings(self.0 & !(1 << encoding as u8))
    }

    pub(super) fn contains(self, encoding: Encoding) -> bool {
        self.0 & 1 << encoding as u8 != 0
    }

    /// What a byte that is read may become at worst, which is an LF: a prefix for each encoding, with
    /// numbers of eight digits for a client and of fourteen for `seq`.
    pub(super) fn expansion(self) -> usize {
        let text = if self.needs_text() { 32 } else { 0 };
        let crlf = if self.contains(Encoding::TextCrlf) {
            33
        } else {
            0
        };
        let raw = usize::from(self.needs_raw());
        let json = if self.contains(Encoding::Json) { 76 } else { 0 };
        text + crlf + raw + json
    }

    /// Whether batches have to carry text: CRLF text is made from it.
    pub(super) fn needs_text(self) -> bool {
        self.contains(Encoding::Text) || self.contains(Encoding::TextCrlf)
    }

    /// Whether batches have to carry the lines as they came: `json` is made from them.
    pub(super) fn needs_raw(self) -> bool {
        self.contains(Encoding::Raw) || self.contains(Encoding::Json)
    }
}

/// Bytes in each encoding, none in those that are not in use; `json` at most so many, as its numbers
/// are counted at their longest until it is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sizes([u64; 4]);

impl Sizes {
    pub(super) fn of(self, encoding: Encoding) -> u64 {
        self.0[encoding as usize]
    }

    pub(super) fn add(&mut self, encoding: Encoding, bytes: usize) {
        self.0[encoding as usize] += bytes as u64;
    }

    /// What both have together.
    pub(super) fn plus(self, other: Sizes) -> Sizes {
        Sizes(std::array::from_fn(|at| {
            self.0[at].saturating_add(other.0[at])
        }))
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
