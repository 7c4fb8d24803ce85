//! The one order of all messages and notices, and the buffer they wait in.
//!
//! Each channel has a [`Hub`] of its own; [`Channels`] are all of them by name.
//!
//! [`Hub::join_at`] makes a connection a client and gives it a [`Feed`]: it publishes through it and
//! walks the stream with it. What was published is kept once, as a chain of batches that every
//! feed walks at its own pace without a lock ([`batch`]); its bytes are charged to one account
//! ([`budget`]); who holds the account up is found by the [`reaper`].
//!
//! - **Order**: one lock, taken once a published read, gives messages and notices their place.
//!   All feeds see the same order.
//! - **Loss**: none. A client that is too slow is ordered to skip, counted to the line, or closed.
//! - **Blocking**: publishing never waits. Senders wait beforehand, in `Feed::poll_permit`.

mod activity;
mod batch;
mod budget;
mod builder;
mod chain;
mod channels;
mod claim;
pub(crate) mod clock;
mod closed;
#[cfg_attr(
    not(feature = "nats"),
    expect(dead_code, reason = "without NATS nothing is shared")
)]
mod cluster;
mod connection;
mod contention;
pub(crate) mod counters;
mod denial;
mod drain;
mod encoding;
mod encodings;
mod entry;
mod entry_error;
mod epoch;
mod eviction;
mod feed;
mod histories;
pub(crate) mod history;
mod liveness;
mod membership;
pub mod memory;
mod open_history;
mod order;
mod part;
mod past;
mod places;
#[cfg(test)]
mod race_tests;
mod reaper;
mod recording;
mod rejoin;
mod saved_batch;
mod saved_channels;
mod sessions;
mod settings;
mod shared;
#[cfg_attr(
    not(feature = "nats"),
    expect(dead_code, reason = "without NATS nothing is shared")
)]
mod sharing;
mod snapshot;
#[cfg(test)]
mod snapshot_tests;
mod stats;
mod storing;
mod subscriber;
mod views;

pub(crate) use budget::{READ_BYTES_MAX, ReadPermit};
pub(crate) use channels::{ChannelStats, Channels, ChannelsStats, Joining};
pub(crate) use closed::ClosedClient;
pub(crate) use cluster::node::Cluster;
#[cfg(feature = "nats")]
pub(crate) use cluster::presence::run as run_cluster;
pub(crate) use cluster::stats::{ClusterStats, NodeStats, SharedChannelStats};
pub(crate) use connection::ConnectionInfo;
pub(crate) use counters::TrafficTotals;
pub(crate) use encoding::Encoding;
pub(crate) use entry::{Joined, PastRequest, SessionTaken, StartingPoint};
pub(crate) use entry_error::EntryError;
pub(crate) use feed::{Feed, More};
pub(crate) use histories::Histories;
pub(crate) use liveness::Liveness;
pub(crate) use order::Hub;
pub(crate) use places::SavedFeed;
pub(crate) use reaper::run as reap;
pub(crate) use saved_channels::SavedChannels;
pub(crate) use snapshot::SavedHub;
pub(crate) use stats::{ClientStats, HubStats};
pub(crate) use subscriber::{Commands, Condition};
