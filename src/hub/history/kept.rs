//! How much is kept, and what a reader gets of it.

use std::sync::Arc;
use std::time::Duration;

use super::record::Record;
use crate::wire::ids::Seq;

/// How much of a channel is kept. A reload changes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Retention {
    /// Bytes: as records take them.
    pub(crate) bytes: u64,
    /// How old a record may become; `None`: as old as it likes.
    pub(crate) age: Option<Duration>,
}

/// Outcome of a read.
#[derive(Debug)]
pub(crate) enum Slice<R> {
    /// Records without a gap, the first of which holds the number asked for.
    Records(Vec<R>),
    /// What was asked for is not kept any more: the oldest number that is, or the next that will be.
    Gone { oldest: Seq },
    /// It has not been published, or not been stored yet.
    End,
}

impl Slice<Record> {
    /// The same, with records that are shared.
    pub(super) fn shared(self) -> Slice<Arc<Record>> {
        match self {
            Slice::Records(records) => Slice::Records(records.into_iter().map(Arc::new).collect()),
            Slice::Gone { oldest } => Slice::Gone { oldest },
            Slice::End => Slice::End,
        }
    }
}
