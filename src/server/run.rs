//! What runs, and in which order.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;
use tracing::warn;

use super::commands::{next, stop_again};
use super::running::RunningServer;
use super::start::Server;
use crate::client::acceptor::{AcceptLoops, Acceptor};
use crate::client::{Clients, HandshakeContext, HandshakeTurns};
use crate::config::Source;
use crate::hub;
use crate::net::listener::{self, Listener};
use crate::net::tls::ServerTls;
use crate::ops::admin::AdminState;
use crate::ops::lifecycle::{Command, CommandSource, Phase};
use crate::ops::systemd::watchdog::{self, Failure, Watchdog};

impl Server {
    /// Serves until it is asked to stop, then drains: what clients had sent is delivered, and each
    /// connection is closed when its peer has everything, at the latest after `drain_timeout`.
    /// Asked to stop once more, it returns at once and the connections with it. Asked to reload, it
    /// goes by what `source` says then, if that is good.
    ///
    /// # Errors
    /// The thread of the admin server or of the watchdog cannot be started. What goes wrong with one
    /// client or one accept ends nothing else.
    pub async fn run(self, mut commands: CommandSource, source: Source) -> anyhow::Result<()> {
        let clients = Arc::new(Clients::default());
        let context = HandshakeContext {
            channels: self.channels.clone(),
            options: self.options,
            tls: self.tls.clone(),
            authorizer: self.authorizer,
            entrance: self.entrance,
            turns: HandshakeTurns::default(),
        };
        let acceptor = Acceptor::new(
            context,
            self.policy,
            self.permits.clone(),
            clients.clone(),
            self.counters.clone(),
        );
        let admin_state = Arc::new(AdminState::new(
            self.channels.clone(),
            self.lifecycle.clone(),
            self.counters.clone(),
            self.permits,
            self.tls.clone(),
        ));
        let mut running = RunningServer {
            config: self.config,
            channels: self.channels,
            counters: self.counters,
            clients,
            acceptor: Arc::new(acceptor),
            tls: self.tls,
            accept_loops: AcceptLoops::default(),
            admin: None,
            admin_state,
            lifecycle: self.lifecycle,
            notifier: self.notifier,
            reload_failure: watch::Sender::new(None),
            executable: self.executable,
        };
        self.listeners.iter().for_each(Listener::log_listening);
        listener::warn_of_open(&self.listeners, running.config.tokens.is_some());
        if running.config.tokens.is_some() {
            listener::warn_of_tokens(&self.listeners);
        }
        if let Some(socket) = self.admin {
            let admin = socket.serve(running.admin_state.clone());
            running.admin = Some(admin.context("cannot start the thread of --admin")?);
        }
        let _reaper = AbortOnDropHandle::new(tokio::spawn(hub::reap(running.channels.clone())));
        #[cfg(feature = "nats")]
        let _cluster =
            AbortOnDropHandle::new(tokio::spawn(hub::run_cluster(running.channels.clone())));
        let _warnings = AbortOnDropHandle::new(tokio::spawn(warn_daily(running.tls.clone())));
        for client in self.restored {
            running.clients.spawn(client);
        }
        running.open(self.listeners);
        // Behind it, since they are held to the lists of their listeners.
        for handshake in self.handshakes {
            running.acceptor.begin(handshake);
        }
        // Clients of the daemon before are held to the lists of today.
        running.acceptor.recheck_clients();
        running.lifecycle.enter(Phase::Running);
        let notifier = running.notifier.clone();
        notifier.ready().await;
        let channels = running.channels.clone();
        let status = watchdog::report(
            notifier.clone(),
            channels.clone(),
            running.lifecycle.watch(),
            running.reload_failure.subscribe(),
        );
        let _status = AbortOnDropHandle::new(tokio::spawn(status));
        let watchdog = self.watchdog;
        let watchdog = watchdog.map(|allowed| Watchdog::start(notifier, channels, allowed));
        let _watchdog = watchdog
            .transpose()
            .context("cannot start the watchdog's thread")?;

        let mut asked = None;
        let stop = loop {
            let command = match asked.take() {
                Some(command) => command,
                None => next(&mut commands).await,
            };
            match command {
                stop @ (Command::Stop | Command::Terminate) => break stop,
                Command::Reload => {
                    running.lifecycle.enter(Phase::Reloading);
                    running.notifier.reloading().await;
                    asked = running.reload(&source, &mut commands).await;
                    running.lifecycle.enter(Phase::Running);
                    let failure = running.reload_failure.borrow().clone();
                    let failure = failure.as_ref().map(Failure::words);
                    running.notifier.reloaded(failure).await;
                }
                #[cfg(debug_assertions)]
                Command::CheckRest => {
                    tokio::spawn(crate::server::rest::check(running.channels.clone()));
                }
                Command::HandOver => asked = running.exec(&mut commands).await,
            }
        };
        let lifecycle = running.lifecycle.clone();
        tokio::select! {
            () = running.shut_down(stop, &source) => {}
            // Whatever is still open is closed with the process, as asked.
            () = stop_again(&mut commands) => warn!("stopping at once"),
        }
        lifecycle.enter(Phase::Stopped);
        Ok(())
    }
}

/// Warns of certificates that end soon, once a day. What was read has been looked at.
async fn warn_daily(tls: Arc<ServerTls>) {
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    loop {
        tokio::time::sleep(DAY).await;
        tls.warn_of_ends();
    }
}
