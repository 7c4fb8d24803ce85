//! What the history keeps of a batch.

use bytes::Bytes;

use crate::hub::part::Part;
use crate::wire::client_name::ClientName;
use crate::wire::ids::{ClientId, Seq};
use crate::wire::session::SessionName;

/// Consecutive messages and notices as the history keeps them: one batch, without what was formatted of
/// it.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    /// The number of the first of them; they have those that follow.
    pub(crate) first_seq: Seq,
    /// When it was published, in milliseconds since 1970; never less than in the record before.
    pub(crate) time_ms: u64,
    /// Who each part is from.
    pub(crate) origins: Box<[ClientId]>,
    /// Names of the origins that have one, by the index of the part, in its order.
    pub(crate) names: Box<[(u32, ClientName)]>,
    pub(crate) parts: Box<[Part]>,
    /// Where each part ends in `raw`.
    pub(crate) ends: Box<[u32]>,
    /// The lines as they came, each with its LF; notices have no bytes.
    pub(crate) raw: Bytes,
    /// Sessions of the parts that have one, by the index of the part, in its order; and what the session
    /// has published with it: the same number that `taken` says in a hello's answer.
    pub(crate) sessions: Box<[(u32, SessionName, u64)]>,
}

impl Record {
    /// The number behind the last of it.
    pub(crate) fn next_seq(&self) -> Seq {
        let numbers = self.parts.iter().map(|part| part.numbers());
        Seq(self.first_seq.0 + numbers.sum::<u64>())
    }

    /// Messages in it.
    pub(crate) fn messages(&self) -> u64 {
        let messages = self.parts.iter().map(|part| u64::from(part.messages));
        messages.sum()
    }
}
