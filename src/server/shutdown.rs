//! The end: into the service manager's hands, or a drain.
//!
//! A drain empties the channels. Nobody is accepted any more; first comes what clients had already sent,
//! which is published, and then what they are owed, which is written. Each connection is closed when
//! its peer has everything, at the latest after `drain_timeout`.

use std::time::Duration;

use tokio::time::{Instant, timeout};
use tokio_util::task::TaskTracker;
use tracing::{debug, error, info, warn};

use super::running::RunningServer;
use crate::config::Source;
use crate::hub::counters::HandoverMethod;
use crate::hub::{Channels, Commands, clock};
use crate::ops::handover::fdstore;
use crate::ops::lifecycle::{Command, Phase};
use crate::ops::systemd::StoreError;

/// How long clients have to notice that their time is up: each needs its own turn, and nothing else.
const ABORT_TIME: Duration = Duration::from_millis(500);

/// How often clients are asked in a drain whether their peer has everything: at first, and at last.
const DRAIN_PROBE: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(200));

/// What the end takes beyond the drain, as the service manager is told.
const EXIT_TIME: Duration = Duration::from_secs(5);

impl RunningServer {
    /// Ends: into the service manager's hands if that was asked for and it has room for the
    /// connections, else with a drain.
    pub(super) async fn shut_down(self, stop: Command, source: &Source) {
        let notifier = self.notifier.clone();
        let time = self.config.drain_timeout + EXIT_TIME;
        // A manager that does not listen holds nothing up.
        tokio::join!(
            notifier.stopping(time),
            self.hand_over_or_drain(stop, source)
        );
    }

    async fn hand_over_or_drain(mut self, stop: Command, source: &Source) {
        if stop == Command::Terminate {
            match fdstore::available(&self.notifier).await {
                Ok(()) => match self.hand_over_to_systemd(source).await {
                    Ok(()) => {
                        let closed = self.channels.close_histories();
                        let _ = timeout(EXIT_TIME / 2, closed).await;
                        return;
                    }
                    Err(error) => {
                        self.count_failure(HandoverMethod::Store);
                        error!(
                            error = format!("{error:#}"),
                            "handover failed: stopping instead"
                        );
                    }
                },
                Err(StoreError::NoManager) => {}
                Err(reason @ StoreError::NotKept) => debug!(%reason, "no handover"),
                Err(reason) => warn!(%reason, "no handover"),
            }
            // The handover may have taken its time: the drain has all of its own.
            let time = self.config.drain_timeout + EXIT_TIME;
            self.notifier.stopping(time).await;
        }
        self.lifecycle.enter(Phase::Draining);
        // Closes the listeners too.
        drop(self.stop_accepting().await);
        drain(
            &self.channels,
            self.clients.tasks(),
            self.config.drain_timeout,
        )
        .await;
        // Neither a disk nor a network that hangs must keep the daemon.
        let ended = async {
            tokio::join!(
                self.channels.close_histories(),
                self.channels.leave_cluster()
            );
        };
        let _ = timeout(EXIT_TIME / 2, ended).await;
        self.channels.warn_of_unsent();
    }
}

/// Empties the channels: first what clients had sent, then what they are owed.
async fn drain(channels: &Channels, clients: &TaskTracker, time: Duration) {
    let start = Instant::now();
    info!(clients = channels.clients(), "draining");
    tokio::select! {
        () = channels.drain() => {}
        // Senders that never pause, or a buffer that slow readers keep full.
        () = clock::sleep(time / 2) => {
            warn!("some clients were still sending: what came later is not delivered");
        }
    }
    channels.finish();
    clients.close();
    let left = time - start.elapsed().min(time / 2);
    tokio::select! {
        () = all_done(channels, clients) => {}
        () = clock::sleep(left) => {
            warn!(
                clients = clients.len(),
                "closing clients that did not take everything in time"
            );
            channels.command_all(Commands::ABORT);
            let _ = timeout(ABORT_TIME, clients.wait()).await;
        }
    }
}

/// Waits until every client has ended, because it has everything. Nobody tells when a peer has
/// acknowledged the last of it: that is asked, the less often the longer it takes.
async fn all_done(channels: &Channels, clients: &TaskTracker) {
    let (mut pause, longest) = DRAIN_PROBE;
    while timeout(pause, clients.wait()).await.is_err() {
        channels.command_all(Commands::PROBE);
        pause = (pause * 2).min(longest);
    }
}
