//! The start: what neither the service manager nor the daemon before left open is opened, and who was
//! connected to the daemon before is taken up.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tracing::error;

use super::reload;
use crate::client::{Authorizer, Client, ClientPolicy, Entrance, PendingHandshake, SharedOptions};
use crate::config::{Config, Live};
use crate::hub::counters::Counters;
use crate::hub::{Channels, Cluster, Histories, SavedChannels};
use crate::net::bind;
use crate::net::listener::{ListenAddr, Listener};
use crate::net::permits::ConnectionLimit;
use crate::net::stream::Stream;
use crate::net::tls::{ServerTls, TlsMaterial};
use crate::ops::admin::{AdminSocket, ResolvedAdmin};
use crate::ops::handover::exec::Executable;
use crate::ops::handover::predecessor::{Predecessor, STARTING_AFRESH};
use crate::ops::handover::{RestoredClient, RestoredHandshake, RestoredState, fdstore};
use crate::ops::lifecycle::Lifecycle;
use crate::ops::systemd::{Notifier, SystemdEnv};

/// A daemon whose listeners are open and that serves nobody yet.
#[derive(Debug)]
pub struct Server {
    pub(super) config: Live,
    pub(super) listeners: Vec<Listener>,
    pub(super) channels: Arc<Channels>,
    pub(super) policy: Arc<ClientPolicy>,
    pub(super) authorizer: Arc<Authorizer>,
    pub(super) permits: Arc<ConnectionLimit>,
    pub(super) counters: Arc<Counters>,
    pub(super) options: SharedOptions,
    pub(super) entrance: Arc<Entrance>,
    pub(super) tls: Arc<ServerTls>,
    /// The clients that were connected to the daemon before.
    pub(super) restored: Vec<Client>,
    /// The connections that were in their handshake then.
    pub(super) handshakes: Vec<PendingHandshake>,
    pub(super) admin: Option<AdminSocket>,
    pub(super) lifecycle: Lifecycle,
    pub(super) notifier: Arc<Notifier>,
    pub(super) watchdog: Option<Duration>,
    pub(super) executable: anyhow::Result<Executable>,
}

impl Server {
    /// Reads the files that a configuration names, as a start would.
    ///
    /// # Errors
    /// One of them cannot be used.
    pub fn check(config: &Config) -> anyhow::Result<()> {
        Cluster::check(config)?;
        TlsMaterial::read(config, &ServerTls::default()).map(drop)
    }

    /// Opens the listeners that neither the service manager nor the daemon before left open, and
    /// takes up the clients of the latter.
    ///
    /// # Errors
    /// A listener could not be opened: the error names it and gives the system's reason. Where there
    /// are clients to go on with, that is only logged. Or the manager passed something that is no
    /// listener.
    pub async fn bind(
        config: Config,
        systemd: SystemdEnv,
        predecessor: Predecessor,
    ) -> anyhow::Result<Server> {
        let notifier = Arc::new(systemd.notifier());
        // Before anything is made of it: what cannot be taken up must not come back again and again.
        fdstore::clear(&notifier, predecessor.in_store.iter().map(String::as_str)).await;
        let admin_before = predecessor.left.as_ref().and_then(RestoredState::admin);
        let (state, kept, counters) = match predecessor.left {
            Some(left) => {
                let (saved, kept, clients, handshakes, counters) = left.split();
                (Some((saved, clients, handshakes)), kept, counters)
            }
            None => (None, Vec::new(), Counters::default()),
        };
        let inherited = systemd.inherited.listeners;
        let (listeners, errors) = bind::open_all(&config, inherited, kept).await?;
        for error in errors {
            if state.is_none() {
                return Err(error);
            }
            error!(
                error = format!("{error:#}"),
                "serving on without a listener"
            );
        }
        let tls = Arc::new(ServerTls::default());
        match reload::read_tls(&config, &tls).await {
            Ok(material) => tls.set(material),
            Err(error) if state.is_none() => return Err(error),
            Err(error) => {
                error!(
                    error = format!("{error:#}"),
                    "serving on without TLS for newcomers"
                );
            }
        }
        let admin = open_admin(&config, admin_before).await;
        let admin = admin.or_else(|error| match state {
            None => Err(error),
            Some(_) => {
                error!(error = format!("{error:#}"), "serving on without it");
                Ok(None)
            }
        })?;
        let mut config = Live::new(config);
        let policy = config.build(
            |config| Arc::new(ClientPolicy::from(config)),
            ClientPolicy::set,
        );
        // Before the channels: see `Acceptor::join`.
        let authorizer = config.build(|config| Arc::new(Authorizer::from(config)), Authorizer::set);
        let permits = config.build(
            |config| {
                let permits = ConnectionLimit::new(config.clients_max);
                permits.set_max_per_source(config.clients_per_address_max);
                permits
            },
            |permits, config| {
                permits.set_max(config.clients_max);
                permits.set_max_per_source(config.clients_per_address_max);
            },
        );
        let entrance = config.build(|config| Arc::new(Entrance::new(config)), Entrance::set);
        let options = SharedOptions::of(&listeners);
        let histories = open_histories(&config).await;
        let cluster = Cluster::connect(&config, state.is_some()).await?;
        let are_lost = histories.is_err();
        let mut histories = histories.or_else(|error| match state {
            None => Err(error),
            Some(_) => {
                error!(
                    error = format!("{error:#}"),
                    "serving on with a history in memory"
                );
                Ok(None)
            }
        })?;
        let restored = state.and_then(|(saved, clients, handshakes)| {
            let handshakes = restore_handshakes(&options, &permits, handshakes);
            restore(
                &config,
                &options,
                &policy,
                &permits,
                saved,
                clients,
                &mut histories,
                cluster.clone(),
            )
            .map(|(channels, clients)| (channels, clients, handshakes))
            .inspect_err(|error| error!(error = format!("{error:#}"), "{STARTING_AFRESH}"))
            .ok()
        });
        if let Some(method) = predecessor.method {
            let taken_up = restored.as_ref().ok_or(());
            counters.handovers.by(method).add(&taken_up);
        }
        let (channels, restored, handshakes) = restored.unwrap_or_else(|| {
            let channels = Channels::open_all(&config, histories.take(), cluster);
            (channels, Vec::new(), Vec::new())
        });
        if are_lost {
            // A later start goes on with the numbers that are on disk.
            channels.begin_epochs();
        }
        let channels = config.build(|_| channels, Channels::set);
        Ok(Server {
            entrance,
            config,
            listeners,
            channels,
            policy,
            authorizer,
            permits,
            counters: Arc::new(counters),
            options,
            tls,
            restored,
            handshakes,
            admin,
            lifecycle: Lifecycle::new(),
            notifier,
            watchdog: systemd.watchdog,
            executable: Executable::current()
                .context("the system does not say what this process runs"),
        })
    }

    /// Where it listens: sockets that were open already first, then in the order of the
    /// configuration. A port of 0 has become a real one.
    pub fn names(&self) -> Vec<ListenAddr> {
        self.listeners
            .iter()
            .map(|listener| listener.name().clone())
            .collect()
    }

    /// The phases it will go through.
    pub fn lifecycle(&self) -> &Lifecycle {
        &self.lifecycle
    }
}

/// Opens the histories of the configuration, if they are on disk.
async fn open_histories(config: &Config) -> anyhow::Result<Option<Histories>> {
    let config = config.clone();
    let opened = tokio::task::spawn_blocking(move || Histories::open(&config)).await;
    let opened = opened.context("the history could not be opened")?;
    // It says what the system says itself.
    opened.map_err(|error| anyhow::Error::msg(error.to_string()))
}

/// Opens the admin address of the configuration, if it has one.
async fn open_admin(
    config: &Config,
    before: Option<(String, u16)>,
) -> anyhow::Result<Option<AdminSocket>> {
    let wanted = ResolvedAdmin::resolve(config).await?;
    wanted
        .map(|wanted| wanted.open_as_before(before))
        .transpose()
}

/// Takes up connections that were in their handshake. One that cannot be is closed.
fn restore_handshakes(
    options: &SharedOptions,
    permits: &Arc<ConnectionLimit>,
    handshakes: Vec<RestoredHandshake>,
) -> Vec<PendingHandshake> {
    let handshakes = handshakes.into_iter().filter_map(|(saved, socket)| {
        PendingHandshake::restore(saved, socket, options, permits.force_acquire()).ok()
    });
    handshakes.collect()
}

/// Makes clients of saved ones and of their sockets.
#[expect(clippy::too_many_arguments, reason = "each is another's")]
fn restore(
    config: &Config,
    options: &SharedOptions,
    policy: &Arc<ClientPolicy>,
    permits: &Arc<ConnectionLimit>,
    saved: SavedChannels,
    clients: Vec<RestoredClient>,
    histories: &mut Option<Histories>,
    cluster: Option<Arc<Cluster>>,
) -> anyhow::Result<(Arc<Channels>, Vec<Client>)> {
    let (channels, places) = saved.restore(config, histories, cluster)?;
    let clients = clients.into_iter().map(|(mut saved, socket)| {
        let feed = places.restore(saved.feed.clone())?;
        let mut permit = saved.has_permit.then(|| permits.force_acquire());
        if let Some(permit) = &mut permit {
            permit.force_count_by(saved.feed.connection().peer);
        }
        let socket = Stream::restore(socket, saved.tls.take());
        let socket = socket.context("cannot serve a connection")?;
        let policy = policy.clone();
        Ok(Client::restore(
            saved, socket, feed, options, policy, permit,
        ))
    });
    let clients = clients.filter_map(|client: anyhow::Result<_>| {
        // It alone is lost, and the others hear of it.
        client
            .inspect_err(|error| error!(error = format!("{error:#}"), "lost a client"))
            .ok()
    });
    let clients = clients.collect();
    // What they came in by may be gone since.
    channels.close_denied();
    Ok((channels, clients))
}
