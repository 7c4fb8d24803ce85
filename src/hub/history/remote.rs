//! A history that is kept elsewhere, for all who share a channel.

use std::fmt;
use std::io;
use std::sync::Arc;

use futures::future::BoxFuture;

use super::kept::Slice;
use super::record::Record;
use crate::wire::ids::Seq;
use crate::wire::past::Newest;

/// What is kept elsewhere. What is asked of it waits until it can be had: who reads is in no hurry, and is not to be
/// closed because the way there is cut for a while.
pub(in crate::hub) trait Remote: fmt::Debug + Send + Sync {
    /// Records from the one on that holds `from`, of about so many bytes. Cancel safe.
    fn read(
        self: Arc<Self>,
        from: Seq,
        bytes_max: usize,
    ) -> BoxFuture<'static, io::Result<Slice<Arc<Record>>>>;

    /// The first number of the newest that is asked for, of what is kept. Cancel safe.
    fn locate(self: Arc<Self>, newest: Newest) -> BoxFuture<'static, io::Result<Seq>>;

    /// Waits until it is known what there is. Cancel safe.
    fn known(self: Arc<Self>) -> BoxFuture<'static, ()>;

    /// What there is.
    fn extent(&self) -> RemoteExtent;
}

/// What is kept elsewhere, as it was last seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::hub) struct RemoteExtent {
    pub(in crate::hub) bytes: u64,
    /// The oldest number that is kept; `None` as long as that is not known.
    pub(in crate::hub) oldest: Option<Seq>,
    /// Messages that were published before that.
    pub(in crate::hub) messages_before: u64,
    /// When the oldest was published.
    pub(in crate::hub) oldest_ms: Option<u64>,
}
