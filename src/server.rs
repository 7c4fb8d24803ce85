//! Puts the rooms together, and owns their order: listeners, hub, clients, and the way down.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use tracing::{info, warn};

use crate::accept::Reception;
use crate::client::{Clients, Rules};
use crate::config::Config;
use crate::hub::{self, Hub, Orders};
use crate::lifecycle::{Lifecycle, Phase, Request, Requests};
use crate::limits::Places;
use crate::listen::{Listener, Name};
use crate::systemd::{Manager, Notifier, report};

/// How long clients have to notice that their time is up. They need none but their own turn.
const ABORT_TIME: Duration = Duration::from_millis(500);

/// What the end takes beyond the drain, as the service manager is told.
const EXIT_TIME: Duration = Duration::from_secs(5);

/// A daemon whose listeners are open and that serves nobody yet.
#[derive(Debug)]
pub struct Server {
    config: Config,
    listeners: Vec<Listener>,
    lifecycle: Lifecycle,
    notifier: Arc<Notifier>,
    watchdog: Option<Duration>,
}

impl Server {
    /// Opens the listeners that the service manager has not opened already.
    ///
    /// # Errors
    /// One of them could not be opened: the error names it and gives the system's reason. Or the
    /// manager passed something that is no listener.
    pub async fn bind(config: Config, manager: Manager) -> anyhow::Result<Server> {
        let notifier = Arc::new(manager.notifier());
        let listeners = Listener::open_all(&config, manager.inherited.listeners).await?;
        Ok(Server {
            config,
            listeners,
            lifecycle: Lifecycle::new(),
            notifier,
            watchdog: manager.watchdog,
        })
    }

    /// Where it listens: inherited sockets first, then in the order of the configuration. A port of 0 has become a real one.
    pub fn names(&self) -> Vec<Name> {
        self.listeners
            .iter()
            .map(|listener| listener.name().clone())
            .collect()
    }

    /// The phases it will go through.
    pub fn lifecycle(&self) -> &Lifecycle {
        &self.lifecycle
    }

    /// Serves until it is asked to stop, then drains: what clients had sent is delivered, and each
    /// connection is closed when its peer has everything, at the latest after `drain_timeout`.
    /// Asked to stop once more, it returns at once and the connections with it.
    ///
    /// # Errors
    /// None yet: what goes wrong with one client or one accept is theirs.
    pub async fn run(self, mut requests: impl Requests) -> anyhow::Result<()> {
        let hub = Hub::new(&self.config);
        let clients = Arc::new(Clients::default());
        let accepts = TaskTracker::new();
        let stop = CancellationToken::new();
        let places = Places::new(self.config.clients_max);
        let rules = Rules::from(&self.config);
        let reception = Reception::new(hub.clone(), rules, places, clients.clone());
        let reception = Arc::new(reception);

        for listener in &self.listeners {
            info!(address = %listener.name(), format = %listener.format(), "listening");
        }
        let _sweep = AbortOnDropHandle::new(tokio::spawn(hub::sweep(hub.clone())));
        for listener in self.listeners {
            accepts.spawn(reception.clone().run(listener, stop.clone()));
        }
        self.lifecycle.enter(Phase::Running);
        let notifier = self.notifier;
        notifier.ready().await;
        let status = report::report(notifier.clone(), hub.clone(), self.lifecycle.watch());
        let _status = AbortOnDropHandle::new(tokio::spawn(status));
        let _beat = self.watchdog.map(|allowed| {
            let beat = report::beat(notifier.clone(), hub.clone(), allowed);
            AbortOnDropHandle::new(tokio::spawn(beat))
        });

        match requests.next().await {
            Request::Stop => {}
        }
        self.lifecycle.enter(Phase::Draining);
        let goodbye = notifier.stopping(self.config.drain_timeout + EXIT_TIME);
        let down = async {
            stop.cancel();
            accepts.close();
            accepts.wait().await;
            drain(&hub, clients.tasks(), self.config.drain_timeout).await;
        };
        tokio::select! {
            _ = async { tokio::join!(goodbye, down) } => {}
            // Whatever is still open is closed with the process, as asked.
            _ = requests.next() => warn!("stopping at once"),
        }
        self.lifecycle.enter(Phase::Stopped);
        Ok(())
    }
}

/// Empties the hub: first what clients had sent, then what they are owed.
async fn drain(hub: &Hub, clients: &TaskTracker, time: Duration) {
    let start = Instant::now();
    info!(clients = hub.clients(), "draining");
    if timeout_at(start + time / 2, hub.drain()).await.is_err() {
        // Senders that never pause, or a buffer that slow readers keep full.
        warn!("some clients were still sending: what came later is not delivered");
    }
    hub.seal();
    clients.close();
    if timeout_at(start + time, clients.wait()).await.is_err() {
        warn!(
            clients = clients.len(),
            "closing clients that did not take everything in time"
        );
        hub.order_all(Orders::ABORT);
        let _ = timeout_at(Instant::now() + ABORT_TIME, clients.wait()).await;
    }
}
