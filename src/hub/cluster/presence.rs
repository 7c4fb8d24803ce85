//! This daemon's presence among those that share channels, for as long as its channels are served.

use std::sync::Arc;

use tokio::time::{MissedTickBehavior, interval};

use super::node::Cluster;
use crate::hub::channels::Channels;

/// Times that a daemon says that it lives in the time after which it is taken for gone.
const SIGNS_OF_LIFE: u32 = 5;

/// Is a daemon among others, for as long as it is polled: once all clients of the daemon before are there.
pub(crate) async fn run(channels: Arc<Channels>) {
    let shared = channels.shared();
    let (Some(cluster), Some(ids)) = (shared.cluster.get(), shared.ids.get()) else {
        return;
    };
    cluster.begun.cancel();
    tokio::join!(
        keep_alive(cluster, &channels),
        cluster.listen(),
        cluster.take_ids(ids),
    );
}

/// Says now and then that this daemon lives.
async fn keep_alive(cluster: &Cluster, channels: &Channels) {
    let mut pause = interval(cluster.node_timeout / SIGNS_OF_LIFE);
    pause.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        pause.tick().await;
        cluster.say_alive(channels.clients() as u64, false).await;
        cluster.forget_silent();
    }
}
