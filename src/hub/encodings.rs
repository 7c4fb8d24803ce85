//! Sets of encodings, and what there is for each.

use std::array;
use std::ops::{Index, IndexMut};

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use super::encoding::Encoding;

/// A set of encodings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Encodings(pub(super) u8);

const _: () = assert!(Encoding::COUNT <= u8::BITS as usize);

impl Encodings {
    /// All there are.
    pub(super) const ALL: Encodings = Encodings(u8::MAX >> (u8::BITS as usize - Encoding::COUNT));

    pub(super) fn with(self, encoding: Encoding) -> Encodings {
        Encodings(self.0 | 1 << encoding as u8)
    }

    pub(super) fn without(self, encoding: Encoding) -> Encodings {
        Encodings(self.0 & !(1 << encoding as u8))
    }

    pub(super) fn contains(self, encoding: Encoding) -> bool {
        self.0 & 1 << encoding as u8 != 0
    }

    /// Whether batches have to carry `source`: an encoding in use is made from it.
    pub(super) fn needs(self, source: Encoding) -> bool {
        self.0 & MADE_FROM[source as usize] != 0
    }

    /// Bytes that a byte which is read may become at worst, in all encodings that a batch then has.
    pub(super) fn expansion(self, named: bool) -> usize {
        let all = Encoding::ALL.into_iter();
        all.filter(|encoding| self.contains(*encoding) || self.needs(*encoding))
            .map(|encoding| encoding.expansion(named))
            .sum()
    }
}

/// For each source, the set of those made from it: worked out beforehand, as every publish asks for it.
const MADE_FROM: [u8; Encoding::COUNT] = {
    let mut made_from = [0; Encoding::COUNT];
    let mut at = 0;
    while at < Encoding::COUNT {
        made_from[Encoding::ALL[at].source() as usize] |= 1 << at;
        at += 1;
    }
    made_from
};

/// One value for each encoding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct PerEncoding<T>([T; Encoding::COUNT]);

impl<T> PerEncoding<T> {
    pub(super) fn from_fn(mut value: impl FnMut(Encoding) -> T) -> PerEncoding<T> {
        PerEncoding(array::from_fn(|at| value(Encoding::ALL[at])))
    }
}

impl<T> Index<Encoding> for PerEncoding<T> {
    type Output = T;

    fn index(&self, encoding: Encoding) -> &T {
        &self.0[encoding as usize]
    }
}

impl<T> IndexMut<Encoding> for PerEncoding<T> {
    fn index_mut(&mut self, encoding: Encoding) -> &mut T {
        &mut self.0[encoding as usize]
    }
}

/// Bytes in each encoding, none in those that are not in use; `json` at most so many, as its numbers
/// are counted at their longest until it is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sizes(#[serde(deserialize_with = "padded")] [u64; Encoding::COUNT]);

/// Encodings are only ever added behind those there are.
fn padded<'de, D: Deserializer<'de>>(saved: D) -> Result<[u64; Encoding::COUNT], D::Error> {
    let mut sizes = Vec::deserialize(saved)?;
    sizes.resize(sizes.len().max(Encoding::COUNT), 0);
    sizes
        .try_into()
        .map_err(|_| D::Error::custom("more encodings than there are"))
}

impl Sizes {
    pub(super) fn of(self, encoding: Encoding) -> u64 {
        self.0[encoding as usize]
    }

    pub(super) fn add(&mut self, encoding: Encoding, bytes: usize) {
        self.0[encoding as usize] += bytes as u64;
    }

    /// What both have together.
    pub(super) fn plus(self, other: Sizes) -> Sizes {
        Sizes(array::from_fn(|at| self.0[at].saturating_add(other.0[at])))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A daemon with one encoding more still reads what one without it has saved.
    #[test]
    fn sizes_of_encodings_that_were_not_there_yet_are_none() {
        let saved = rmp_serde::to_vec(&[7_u64, 8]).unwrap();
        let sizes: Sizes = rmp_serde::from_slice(&saved).unwrap();
        assert_eq!(sizes.0[..3], [7, 8, 0]);
        let saved = rmp_serde::to_vec(&[0_u64; Encoding::COUNT + 1]).unwrap();
        assert!(rmp_serde::from_slice::<Sizes>(&saved).is_err());
    }
}
