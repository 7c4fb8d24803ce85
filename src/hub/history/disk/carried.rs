//! Records in the state that a handover carries: as in a segment, whatever keeps them here.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde::de::{Error as _, SeqAccess, Visitor};
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_bytes::ByteBuf;

use super::codec::{self, HEAD_BYTES, Head, Salt};
use crate::hub::history::record::Record;

/// Nobody can write into a state, so that its records need no marker that nobody knows.
const SALT: Salt = Salt(0);

/// Records of a history in memory. They are written, and read, one after the other: there is no second copy of
/// all of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct SavedRecords(pub(crate) Vec<Arc<Record>>);

impl Serialize for SavedRecords {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeSeq as _;
        let mut records = serializer.serialize_seq(Some(self.0.len()))?;
        let mut bytes = Vec::new();
        for record in &self.0 {
            bytes.clear();
            let encoded = codec::encode(record, SALT, &mut bytes);
            encoded.map_err(|_| S::Error::custom("a record is too large"))?;
            bytes.extend_from_slice(&record.raw);
            records.serialize_element(serde_bytes::Bytes::new(&bytes))?;
        }
        records.end()
    }
}

impl<'de> Deserialize<'de> for SavedRecords {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<SavedRecords, D::Error> {
        deserializer.deserialize_seq(RecordsVisitor)
    }
}

struct RecordsVisitor;

impl<'de> Visitor<'de> for RecordsVisitor {
    type Value = SavedRecords;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("records")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut saved: A) -> Result<SavedRecords, A::Error> {
        let mut records = Vec::new();
        while let Some(bytes) = saved.next_element::<ByteBuf>()? {
            let record = read(bytes.into_vec().into()).map_err(A::Error::custom)?;
            records.push(Arc::new(record));
        }
        Ok(SavedRecords(records))
    }
}

fn read(bytes: Bytes) -> Result<Record, &'static str> {
    let head = bytes.first_chunk::<HEAD_BYTES>();
    let head = Head::read(SALT, head.ok_or("a record is cut short")?)?;
    let body = bytes.slice(HEAD_BYTES..);
    if head.body_len() != body.len() as u64 {
        return Err("a record has another length");
    }
    codec::decode(&head, SALT, &body)
}
