//! Puts the rooms together, and owns their order: listeners, hub, clients, and the way down.

mod reload;
#[cfg(debug_assertions)]
mod rest;

use std::convert::Infallible;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use serde_bytes::Bytes;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use tracing::{debug, error, info, warn};

use crate::client::acceptor::{AcceptLoops, Acceptor};
use crate::client::{Client, ClientPolicy, Clients, Frozen, KnownOptions};
use crate::config::{Config, Source};
use crate::hub::clock;
use crate::hub::counters::{Counters, HandoverMethod};
use crate::hub::{self, Commands, Hub, SavedHub};
use crate::net::bind;
use crate::net::listener::{ListenAddr, Listener};
use crate::net::permits::ConnectionLimit;
use crate::net::stream::Stream;
use crate::ops::admin::{Admin, AdminSocket, AdminState, ResolvedAdmin};
use crate::ops::handover::exec::Executable;
use crate::ops::handover::{
    self, Predecessor, RestoredClient, RestoredState, STARTING_AFRESH, State, fdstore,
};
use crate::ops::lifecycle::{Command, CommandSource, Lifecycle, Phase};
use crate::ops::logging::{self, Losses};
use crate::ops::systemd::watchdog::{self, Failure, Watchdog};
use crate::ops::systemd::{Notifier, StoreError, SystemdEnv};

/// How long clients have to notice that their time is up. They need none but their own turn.
const ABORT_TIME: Duration = Duration::from_millis(500);

/// How often clients are asked in a drain whether their peer has everything: at first, and at last.
const DRAIN_PROBE: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(200));

/// How long a handover waits for the log to be written, before it holds up any client; and for its own
/// few lines, if that went well, while clients stand still.
const LOG_TIME: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(20));

/// What the end takes beyond the drain, as the service manager is told.
const EXIT_TIME: Duration = Duration::from_secs(5);

/// A daemon whose listeners are open and that serves nobody yet.
#[derive(Debug)]
pub struct Server {
    config: Config,
    listeners: Vec<Listener>,
    hub: Arc<Hub>,
    policy: Arc<ClientPolicy>,
    permits: Arc<ConnectionLimit>,
    counters: Arc<Counters>,
    /// Who was connected to the daemon before.
    restored: Vec<Client>,
    admin: Option<AdminSocket>,
    lifecycle: Lifecycle,
    notifier: Arc<Notifier>,
    watchdog: Option<Duration>,
    executable: anyhow::Result<Executable>,
}

/// A daemon that serves.
#[derive(Debug)]
struct RunningServer {
    config: Config,
    hub: Arc<Hub>,
    policy: Arc<ClientPolicy>,
    permits: Arc<ConnectionLimit>,
    counters: Arc<Counters>,
    clients: Arc<Clients>,
    acceptor: Arc<Acceptor>,
    accept_loops: AcceptLoops,
    admin: Option<Admin>,
    admin_state: Arc<AdminState>,
    lifecycle: Lifecycle,
    notifier: Arc<Notifier>,
    /// Of the last reload, if it changed nothing.
    reload_failure: watch::Sender<Option<Failure>>,
    executable: anyhow::Result<Executable>,
}

/// All that a handover passes on, with nothing of it running.
#[derive(Debug)]
struct Paused {
    listeners: Vec<Listener>,
    clients: Vec<Frozen>,
}

impl Server {
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
                let (hub, kept, clients, counters) = left.split();
                (Some((hub, clients)), kept, counters)
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
        let admin = open_admin(&config, admin_before).await;
        let admin = admin.or_else(|error| match state {
            None => Err(error),
            Some(_) => {
                error!(error = format!("{error:#}"), "serving on without it");
                Ok(None)
            }
        })?;
        let policy = Arc::new(ClientPolicy::from(&config));
        let permits = ConnectionLimit::new(config.clients_max);
        let restored = state.and_then(|(hub, clients)| {
            restore(&config, &listeners, &policy, &permits, hub, clients)
                .inspect_err(|error| error!(error = format!("{error:#}"), "{STARTING_AFRESH}"))
                .ok()
        });
        if let Some(method) = predecessor.method {
            let taken_up = restored.as_ref().ok_or(());
            counters.handovers.by(method).add(&taken_up);
        }
        let (hub, restored) = restored.unwrap_or_else(|| (Hub::new(&config), Vec::new()));
        Ok(Server {
            config,
            listeners,
            hub,
            policy,
            permits,
            counters: Arc::new(counters),
            restored,
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

    /// Serves until it is asked to stop, then drains: what clients had sent is delivered, and each
    /// connection is closed when its peer has everything, at the latest after `drain_timeout`.
    /// Asked to stop once more, it returns at once and the connections with it. Asked to reload, it
    /// goes by what `source` says then, if that is good.
    ///
    /// # Errors
    /// None yet: what goes wrong with one client or one accept is theirs.
    pub async fn run(self, mut commands: impl CommandSource, source: Source) -> anyhow::Result<()> {
        let clients = Arc::new(Clients::default());
        let acceptor = Acceptor::new(
            self.hub.clone(),
            self.policy.clone(),
            self.permits.clone(),
            clients.clone(),
            self.counters.clone(),
        );
        let admin_state = Arc::new(AdminState::new(
            self.hub.clone(),
            self.lifecycle.clone(),
            self.counters.clone(),
            self.permits.clone(),
        ));
        let mut running = RunningServer {
            config: self.config,
            hub: self.hub,
            policy: self.policy,
            permits: self.permits,
            counters: self.counters,
            clients,
            acceptor: Arc::new(acceptor),
            accept_loops: AcceptLoops::default(),
            admin: None,
            admin_state,
            lifecycle: self.lifecycle,
            notifier: self.notifier,
            reload_failure: watch::Sender::new(None),
            executable: self.executable,
        };
        for listener in &self.listeners {
            info!(address = %listener.name(), format = %listener.format(), "listening");
        }
        if let Some(socket) = self.admin {
            let admin = socket.serve(running.admin_state.clone());
            running.admin = Some(admin.context("cannot start the thread of --admin")?);
        }
        let _sweep = AbortOnDropHandle::new(tokio::spawn(hub::sweep(running.hub.clone())));
        for client in self.restored {
            running.clients.spawn(client);
        }
        running.open(self.listeners);
        running.lifecycle.enter(Phase::Running);
        let notifier = running.notifier.clone();
        notifier.ready().await;
        let hub = running.hub.clone();
        let status = watchdog::report(
            notifier.clone(),
            hub.clone(),
            running.lifecycle.watch(),
            running.reload_failure.subscribe(),
        );
        let _status = AbortOnDropHandle::new(tokio::spawn(status));
        let watchdog = self.watchdog;
        let watchdog = watchdog.map(|allowed| Watchdog::start(notifier, hub, allowed));
        let _watchdog = watchdog
            .transpose()
            .context("cannot start the watchdog's thread")?;

        let mut command = commands.next().await;
        let stop = loop {
            match command {
                stop @ (Command::Stop | Command::Terminate) => break stop,
                Command::Reload => {
                    running.lifecycle.enter(Phase::Reloading);
                    running.notifier.reloading().await;
                    let asked = running.reload(&source, &mut commands).await;
                    running.lifecycle.enter(Phase::Running);
                    let failure = running.reload_failure.borrow().clone();
                    let failure = failure.as_ref().map(Failure::words);
                    running.notifier.reloaded(failure).await;
                    if let Some(asked) = asked {
                        command = asked;
                        continue;
                    }
                }
                #[cfg(debug_assertions)]
                Command::CheckRest => {
                    tokio::spawn(crate::server::rest::check(running.hub.clone()));
                }
                Command::HandOver => {
                    if let Some(asked) = running.exec(&mut commands).await {
                        command = asked;
                        continue;
                    }
                }
            }
            command = commands.next().await;
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

/// Makes clients of saved ones and of their sockets.
fn restore(
    config: &Config,
    listeners: &[Listener],
    policy: &Arc<ClientPolicy>,
    permits: &Arc<ConnectionLimit>,
    hub: SavedHub,
    clients: Vec<RestoredClient>,
) -> anyhow::Result<(Arc<Hub>, Vec<Client>)> {
    let (hub, stream) = hub.restore(config)?;
    let mut options = KnownOptions::of(listeners);
    let clients = clients.into_iter().map(|(saved, socket)| {
        let feed = stream.restore(&hub, saved.feed.clone())?;
        let permit = saved.has_permit.then(|| permits.force_acquire());
        let socket = Stream::new(socket).context("cannot serve a connection")?;
        let policy = policy.clone();
        Ok(Client::restore(
            saved,
            socket,
            feed,
            &mut options,
            policy,
            permit,
        ))
    });
    let clients = clients.filter_map(|client: anyhow::Result<_>| {
        // It alone is lost, and the others hear of it.
        client
            .inspect_err(|error| error!(error = format!("{error:#}"), "lost a client"))
            .ok()
    });
    let clients = clients.collect();
    Ok((hub, clients))
}

/// Waits until it is asked to stop, and remembers what else it was asked for meanwhile. Cancel safe.
async fn stop_asked(commands: &mut impl CommandSource, later: &mut Option<Command>) -> Command {
    loop {
        match commands.next().await {
            stop if stop.is_stop() => return stop,
            command => *later = Some(command),
        }
    }
}

/// Waits until it is asked to stop once more.
async fn stop_again(commands: &mut impl CommandSource) {
    while !commands.next().await.is_stop() {
        warn!("already stopping: too late for this");
    }
}

impl RunningServer {
    fn open(&mut self, listeners: Vec<Listener>) {
        self.admin_state.set_listeners(listeners.iter());
        for listener in listeners {
            self.accept_loops.open(&self.acceptor, listener);
        }
    }

    /// Ends: into the service manager's hands if that was asked for and it has room for the
    /// connections, else with a drain.
    async fn shut_down(self, stop: Command, source: &Source) {
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
                    Ok(()) => return,
                    Err(error) => {
                        self.counters
                            .handovers
                            .by(HandoverMethod::Store)
                            .failed
                            .add_one();
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
            // That may have taken its time: the drain has all of its own.
            let time = self.config.drain_timeout + EXIT_TIME;
            self.notifier.stopping(time).await;
        }
        self.lifecycle.enter(Phase::Draining);
        // Closes the listeners too.
        drop(self.accept_loops.close().await);
        self.acceptor.end_handshakes().await;
        drain(&self.hub, self.clients.tasks(), self.config.drain_timeout).await;
    }

    /// Stops everything where it is.
    async fn pause(&mut self) -> Paused {
        self.lifecycle.enter(Phase::HandingOver);
        // Nobody joins while clients freeze.
        let listeners = self.accept_loops.close().await;
        self.acceptor.end_handshakes().await;
        let clients = self.clients.freeze(&self.hub).await;
        Paused { listeners, clients }
    }

    /// Goes on as if nothing had been.
    fn resume(&mut self, paused: Paused) {
        self.hub.thaw();
        paused.clients.into_iter().for_each(Frozen::thaw);
        self.open(paused.listeners);
        self.lifecycle.enter(Phase::Running);
    }

    /// Becomes the program that is at this one's path now, with all connections. Returns if that
    /// fails, which is logged, or if it was asked to stop meanwhile: the service goes on, with what
    /// it was asked for.
    async fn exec(&mut self, commands: &mut impl CommandSource) -> Option<Command> {
        let mut later = None;
        match self.try_exec(commands, &mut later).await {
            Ok(stop) => Some(stop),
            Err(error) => {
                self.counters
                    .handovers
                    .by(HandoverMethod::Exec)
                    .failed
                    .add_one();
                error!(error = format!("{error:#}"), "handover failed: serving on");
                later
            }
        }
    }

    async fn try_exec(
        &mut self,
        commands: &mut impl CommandSource,
        later: &mut Option<Command>,
    ) -> anyhow::Result<Command> {
        let executable = match &self.executable {
            Ok(executable) => executable.clone(),
            Err(error) => anyhow::bail!("{error:#}"),
        };
        let path = executable.path().display();
        tokio::select! {
            proof = preflight(&executable) => proof?,
            // The program on the side ends with the proof.
            stop = stop_asked(commands, later) => return Ok(stop),
        }
        let log_time = flush_log().await;
        let paused = self.pause().await;
        info!(clients = paused.clients.len(), program = %path, "handing over");
        if *later == Some(Command::Reload) {
            // The next daemon reads the configuration anyway, and says when it has.
            self.notifier.reloading().await;
        }
        let Err(error) = self.exec_upgrade(&executable, &paused, log_time).await;
        logging::unseal();
        self.resume(paused);
        Err(error.context(format!("cannot become {path}")))
    }

    async fn exec_upgrade(
        &self,
        executable: &Executable,
        paused: &Paused,
        log_time: Duration,
    ) -> anyhow::Result<Infallible> {
        let sockets: Vec<_> = paused.sockets(|_| true).collect();
        let mut state = paused.state(&self.hub, &self.counters, |_| true);
        state.admin = self.admin.as_ref().and_then(Admin::place);
        state.descriptors = sockets.iter().map(AsRawFd::as_raw_fd).collect();
        // The next daemon has to begin with its own beats first.
        self.notifier.watchdog().await;
        (state.log, _) = seal_log(log_time).await;
        let state = state.write().context("cannot save the state")?;
        let pass_on = |inherited| {
            sockets
                .iter()
                .try_for_each(|socket| handover::set_inheritable(*socket, inherited))
        };
        let outcome = pass_on(true)
            .map_err(anyhow::Error::from)
            .and_then(|()| executable.exec(&state));
        pass_on(false)?;
        outcome
    }

    /// Leaves all connections to the service manager, for the daemon that it starts next.
    ///
    /// # Errors
    /// That daemon would not start, or not take them up, as far as this one can see; or the manager
    /// does not say that it has them. The service goes on.
    async fn hand_over_to_systemd(&mut self, source: &Source) -> anyhow::Result<()> {
        match &self.executable {
            Ok(executable) => preflight(executable).await?,
            Err(_) => {
                let config = reload::read(source).await;
                config.context("the next daemon could not start")?;
            }
        }
        let log_time = flush_log().await;
        let paused = self.pause().await;
        // The others the manager passes to every daemon it starts.
        let ours = |listener: &Listener| !listener.is_socket_activated();
        let sockets: Vec<_> = paused.sockets(ours).collect();
        let mut state = paused.state(&self.hub, &self.counters, ours);
        state.admin = self.admin.as_ref().and_then(Admin::place);
        let (log, is_written) = seal_log(log_time).await;
        state.log = log;
        let state = state.write();
        let left = match state.context("cannot save the state") {
            Ok(state) => fdstore::leave(&self.notifier, &state, &sockets).await,
            Err(error) => Err(error),
        };
        if left.is_err() || is_written {
            logging::unseal();
        }
        match left {
            Ok(()) => {
                info!(
                    clients = paused.clients.len(),
                    "handed over to the service manager"
                );
                paused.hand_over();
                Ok(())
            }
            Err(error) => {
                self.resume(paused);
                Err(error)
            }
        }
    }
}

impl Paused {
    /// What the next daemon has to know, with these of the listeners.
    fn state<'a>(
        &'a self,
        hub: &Hub,
        counters: &'a Counters,
        which: impl Fn(&Listener) -> bool,
    ) -> State<&'a Bytes, &'a Counters> {
        let feeds = self.clients.iter().map(|frozen| frozen.client.feed());
        let listeners = self.listeners.iter().filter(|listener| which(listener));
        State {
            hub: SavedHub::save(hub, feeds),
            listeners: listeners.map(Listener::save).collect(),
            clients: self
                .clients
                .iter()
                .map(|frozen| frozen.client.save())
                .collect(),
            counters,
            admin: None,
            log: Losses::default(),
            descriptors: Vec::new(),
        }
    }

    /// The sockets, in the order of the state.
    fn sockets(&self, which: impl Fn(&Listener) -> bool) -> impl Iterator<Item = BorrowedFd<'_>> {
        let listeners = self
            .listeners
            .iter()
            .filter(move |listener| which(listener));
        let clients = self.clients.iter().map(|frozen| frozen.client.as_fd());
        listeners.map(AsFd::as_fd).chain(clients)
    }

    /// Lets go of everything without ending anything.
    fn hand_over(self) {
        self.listeners.into_iter().for_each(Listener::hand_over);
        for frozen in self.clients {
            frozen.client.hand_over();
        }
    }
}

/// Sees that what is at this path now accepts the configuration as it is now, and takes over. Cancel
/// safe.
async fn preflight(executable: &Executable) -> anyhow::Result<()> {
    let proof = executable.preflight().await;
    proof.with_context(|| format!("{} cannot take over", executable.path().display()))
}

/// Has the log written before a handover, while clients are served; returns how long to wait for what
/// comes to it later. A log that nobody reads is waited for once.
async fn flush_log() -> Duration {
    let flushed = tokio::task::spawn_blocking(|| logging::flush_within(LOG_TIME.0)).await;
    match flushed {
        Ok(true) => LOG_TIME.1,
        _ => Duration::ZERO,
    }
}

/// Ends what this daemon writes to the log, after at most so long. Returns what is missing there, and
/// whether that is nothing of late.
async fn seal_log(time: Duration) -> (Losses, bool) {
    let seal = move || {
        let is_written = logging::flush_within(time);
        (logging::seal(), is_written)
    };
    // Nothing in it panics.
    let sealed = tokio::task::spawn_blocking(seal).await;
    sealed.unwrap_or_default()
}

/// Empties the hub: first what clients had sent, then what they are owed.
async fn drain(hub: &Hub, clients: &TaskTracker, time: Duration) {
    let start = Instant::now();
    info!(clients = hub.clients(), "draining");
    tokio::select! {
        () = hub.drain() => {}
        // Senders that never pause, or a buffer that slow readers keep full.
        () = clock::sleep(time / 2) => {
            warn!("some clients were still sending: what came later is not delivered");
        }
    }
    hub.finish();
    clients.close();
    let left = time - start.elapsed().min(time / 2);
    tokio::select! {
        () = all_done(hub, clients) => {}
        () = clock::sleep(left) => {
            warn!(
                clients = clients.len(),
                "closing clients that did not take everything in time"
            );
            hub.command_all(Commands::ABORT);
            let _ = timeout(ABORT_TIME, clients.wait()).await;
        }
    }
}

/// Waits until every client has ended, because it has everything. Nobody tells when a peer has
/// acknowledged the last of it: that is asked, the less often the longer it takes.
async fn all_done(hub: &Hub, clients: &TaskTracker) {
    let (mut pause, longest) = DRAIN_PROBE;
    while timeout(pause, clients.wait()).await.is_err() {
        hub.command_all(Commands::PROBE);
        pause = (pause * 2).min(longest);
    }
}
