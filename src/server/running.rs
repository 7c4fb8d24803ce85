//! A daemon that serves, and what it opens.

use std::sync::Arc;

use tokio::sync::watch;

use crate::client::Clients;
use crate::client::acceptor::{AcceptLoops, Acceptor};
use crate::config::Live;
use crate::hub::Channels;
use crate::hub::counters::Counters;
use crate::net::listener::Listener;
use crate::net::tls::ServerTls;
use crate::ops::admin::{Admin, AdminState};
use crate::ops::handover::exec::Executable;
use crate::ops::lifecycle::Lifecycle;
use crate::ops::systemd::Notifier;
use crate::ops::systemd::watchdog::Failure;

/// A daemon that serves.
#[derive(Debug)]
pub(super) struct RunningServer {
    pub(super) config: Live,
    pub(super) channels: Arc<Channels>,
    pub(super) counters: Arc<Counters>,
    pub(super) clients: Arc<Clients>,
    pub(super) acceptor: Arc<Acceptor>,
    pub(super) tls: Arc<ServerTls>,
    pub(super) accept_loops: AcceptLoops,
    pub(super) admin: Option<Admin>,
    pub(super) admin_state: Arc<AdminState>,
    pub(super) lifecycle: Lifecycle,
    pub(super) notifier: Arc<Notifier>,
    /// Why the last reload changed nothing, if it did not.
    pub(super) reload_failure: watch::Sender<Option<Failure>>,
    pub(super) executable: anyhow::Result<Executable>,
}

impl RunningServer {
    /// Accepts nobody any more: what is in the backlogs is accepted, and whoever is in a handshake is
    /// told. Nobody joins after it.
    pub(super) async fn stop_accepting(&mut self) -> Vec<Listener> {
        let listeners = self.accept_loops.close().await;
        self.acceptor.end_handshakes().await;
        listeners
    }

    /// Accepts from these listeners from now on.
    pub(super) fn open(&mut self, listeners: Vec<Listener>) {
        self.admin_state.set_listeners(listeners.iter());
        self.acceptor.set_listeners(&listeners);
        for listener in listeners {
            self.accept_loops.open(&self.acceptor, listener);
        }
    }
}
