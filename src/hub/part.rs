//! What batches are put together from.

use serde::{Deserialize, Serialize};

use crate::wire::format::Notice;
use crate::wire::ids::ClientId;

/// What a part of a batch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Kind {
    /// Lines that the origin sent.
    Lines,
    /// The origin came or went.
    Notice(Notice),
    /// The daemon stops; from nobody.
    Shutdown,
    /// A notice that a reader of the past does not get: of it, only its number is there.
    Omitted,
    /// Messages that the whole channel has missed: see [`missed`].
    Missed,
}

/// The origin of what the daemon itself says: no client has this number.
pub(super) const SYSTEM: ClientId = ClientId(0);

/// Set in the origin of [`Kind::Missed`], so that no client takes it for its own.
const MISSED: u64 = 1 << 59;

/// The origin of [`Kind::Missed`], which says how many messages were missed.
pub(super) fn missed(messages: u64) -> ClientId {
    ClientId(messages | MISSED)
}

/// How many messages were missed, as their origin says.
pub(super) fn missed_of(origin: ClientId) -> u64 {
    origin.0 & !MISSED
}

/// One part of a batch: what one read of one client completed, or one notice.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    pub(crate) kind: Kind,
    /// Messages in it; none in a notice.
    pub(crate) messages: u32,
}

impl Part {
    /// Places that it takes in the one order.
    pub(crate) fn numbers(self) -> u64 {
        match self.kind {
            Kind::Lines => u64::from(self.messages),
            Kind::Notice(_) | Kind::Omitted => 1,
            Kind::Shutdown | Kind::Missed => 0,
        }
    }

    /// Lines it has in `text`.
    pub(super) fn lines(&self) -> usize {
        match self.kind {
            Kind::Lines => self.messages as usize,
            Kind::Notice(_) | Kind::Shutdown | Kind::Missed => 1,
            Kind::Omitted => 0,
        }
    }
}
