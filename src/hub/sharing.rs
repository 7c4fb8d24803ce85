//! A channel that is shared with other daemons: what its clients say goes out, and what comes back is published.
//!
//! Nothing has a number here before it [comes back](super::order::Hub::deliver) in the order that all share. Who is at work between is
//! the channel's member of the cluster ([`cluster`](super::cluster)).

mod incoming;
mod outgoing;
mod service;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::budget::Budget;
#[cfg(not(feature = "nats"))]
use super::cluster::node::StreamPast;
#[cfg(feature = "nats")]
use super::cluster::past::StreamPast;
use super::cluster::saved::SavedMember;
use super::cluster::stats::SharedChannelStats;
use super::settings::Settings;

/// What a shared channel has beside what every channel has.
#[derive(Debug)]
pub(super) struct Sharing {
    /// Room for what is still to be sent. It is not that of what readers have still to take: neither is to wait for the
    /// other.
    pub(super) budget: Arc<Budget>,
    /// Notified when something is to be sent.
    pub(super) queued: Notify,
    /// What the stream has of the past.
    pub(super) past: Arc<StreamPast>,
    /// What the member of the cluster is to do.
    pub(super) task: watch::Sender<Task>,
    /// What was kept of the member for a handover, by the daemon before or for the next.
    pub(super) saved: Mutex<Option<SavedMember>>,
    /// Cancelled when the member has left, or stands still for a handover.
    pub(super) rests: Mutex<CancellationToken>,
    /// Times that it was to stand still.
    pub(super) rested: AtomicU64,
    pub(super) stats: Mutex<SharedChannelStats>,
}

/// What the member of the cluster does for a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Task {
    Serve,
    /// Stands still, so that it can be saved: the how manieth time, as each saves it anew.
    Rest(u64),
    /// Sends what there is, says that it is gone, and ends.
    Leave,
}

impl Sharing {
    pub(super) fn new(settings: &Settings, past: Arc<StreamPast>) -> Sharing {
        Sharing {
            budget: Budget::new(settings.buffer_bytes, Arc::default()),
            queued: Notify::new(),
            past,
            task: watch::Sender::new(Task::Serve),
            saved: Mutex::default(),
            rests: Mutex::default(),
            rested: AtomicU64::new(0),
            stats: Mutex::default(),
        }
    }
}
