//! What a node has of its connection to the stream, and what is under way over that.

use std::time::{Duration, Instant};

use futures::future::BoxFuture;

use crate::hub::cluster::batch::NodeId;
use crate::hub::cluster::nats::stream::{ChannelStream, Entry, PublishError, Stored, StreamInfo};
use crate::hub::cluster::nats::{NatsError, StreamError};

/// What is under way for a batch: it is sent, or looked for.
pub(super) enum Done {
    Sent(NodeId, u64, Result<Stored, PublishError>),
    Found(Result<Option<Entry>, NatsError>),
}

/// What is under way beside that.
pub(super) enum Chore {
    Info(Result<StreamInfo, NatsError>),
    Sent,
    /// How the stream is not what a reload wants.
    Compared(Option<StreamError>),
}

/// What a connection to the stream has.
pub(super) struct Connection {
    pub(super) stream: ChannelStream,
    pub(super) info: StreamInfo,
    /// When that was asked for; `None`: it is to be asked for anew.
    pub(super) info_at: Option<Instant>,
    /// Place of the order when that was asked for, and nodes that had come by then.
    pub(super) info_place: u64,
    pub(super) newcomers: u64,
    /// All up to here was taken, or is of no use.
    pub(super) read: u64,
    /// Since when all there is was taken, and still it is not known what it means.
    pub(super) lost_since: Option<Instant>,
    pub(super) way: Option<BoxFuture<'static, Done>>,
    pub(super) chore: Option<BoxFuture<'static, Chore>>,
    pub(super) retry: (Instant, Duration),
    /// It was said that a checkpoint is too large.
    pub(super) has_warned: bool,
}

/// What is under way, when it is done.
pub(super) async fn on<T>(way: &mut Option<BoxFuture<'static, T>>) -> T {
    match way {
        Some(way) => way.await,
        None => std::future::pending().await,
    }
}
