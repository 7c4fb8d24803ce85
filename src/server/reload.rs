//! A reload: the configuration is read again, and the daemon goes by it while its clients stay.
//!
//! It happens whole or not at all: the configuration is read and checked, and new listeners are
//! opened, before anything changes, and nothing that changes then can fail.

use anyhow::Context;
use tracing::{error, info, warn};

use super::{Service, stop_asked};
use crate::config::{Config, Source};
use crate::lifecycle::{Request, Requests};
use crate::listen::WantedAll;
use crate::logging;

/// What stays as it was until the daemon is started anew: a client may be in the middle of a line
/// of its own, and threads are there for life.
const FIXED: [&str; 2] = ["echo", "worker-threads"];

/// Another configuration, read and checked, and the addresses that it wants listened on.
#[derive(Debug)]
pub(super) struct Reload {
    config: Config,
    wanted: WantedAll,
}

impl Reload {
    /// Does what takes time: reads the file, and looks names up. Cancel safe.
    pub(super) async fn prepare(source: &Source) -> anyhow::Result<Reload> {
        let source = source.clone();
        // A file may be on a disk that does not answer: clients are served meanwhile.
        let config = tokio::task::spawn_blocking(move || source.read())
            .await
            .context("reading the configuration was given up")??;
        let wanted = WantedAll::resolve(&config).await?;
        Ok(Reload { config, wanted })
    }
}

impl Service {
    /// Reads the configuration again and goes by it, unless it is asked to stop before that is read.
    /// Returns what it was asked for meanwhile.
    pub(super) async fn reload(
        &mut self,
        source: &Source,
        requests: &mut impl Requests,
    ) -> Option<Request> {
        let mut later = None;
        let prepared = tokio::select! {
            prepared = Reload::prepare(source) => prepared,
            // What was being prepared is dropped: it has changed nothing yet.
            stop = stop_asked(requests, &mut later) => return Some(stop),
        };
        self.adopt(prepared, source).await;
        later
    }

    /// Goes by what was prepared from now on; or, if that cannot be, says why and goes on as before.
    /// Nobody is accepted for a moment, and who connects meanwhile waits in the backlog. Not cancel
    /// safe.
    async fn adopt(&mut self, prepared: anyhow::Result<Reload>, source: &Source) {
        let adopted = match prepared {
            Ok(reload) => {
                let mut listeners = self.doors.close().await;
                let opened = reload.wanted.open(&mut listeners, &reload.config);
                self.open(listeners);
                opened.map(|closing| {
                    for listener in &closing {
                        // Who had connected to it while the others were opened.
                        self.reception.accept_rest(listener);
                    }
                    self.go_by(reload.config, source);
                })
            }
            Err(error) => Err(error),
        };
        self.counters.reloads.add(&adopted);
        if let Err(error) = adopted {
            error!(
                error = format!("{error:#}"),
                "configuration not reloaded, nothing changed"
            );
        }
    }

    fn go_by(&mut self, mut config: Config, source: &Source) {
        let mut changed = self.config.differences(&config);
        changed.retain(|option| {
            let fixed = FIXED.contains(option);
            if fixed {
                warn!(option, "takes effect at the next restart");
            }
            !fixed
        });
        config.echo = self.config.echo;
        config.worker_threads = self.config.worker_threads;

        self.hub.set(&config);
        self.rules.set(&config);
        self.places.set_max(config.clients_max);
        source.advise(&config);
        self.config = config;
        // Before the level changes, and perhaps hides it.
        info!(changed = changed.join(","), "configuration reloaded");
        logging::set_level(self.config.log);
    }
}
