//! Both handovers, from top to bottom: pause, snapshot, carry, then resume or disarm.
//!
//! | step | SIGUSR2: exec in place | SIGTERM: the service manager's store |
//! |---|---|---|
//! | preflight | the new program, started on the side | the same; without its path, the configuration |
//! | pause | accept loops close, every client freezes between two polls | the same |
//! | snapshot | all listeners and clients, with the numbers of their sockets | less what the manager passes anyway |
//! | carry | sockets become inheritable, then exec | state and sockets go into the store |
//! | it went well | the same process is the next daemon | disarm: sockets and files are let go of, unclosed |
//! | it failed | resume: clients thaw, listeners open | resume, and the daemon drains instead |
//!
//! What is carried, and how, is in [`crate::ops::handover`].

use std::convert::Infallible;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Duration;

use anyhow::Context;
use tokio::time::timeout;
use tracing::{error, info};

use super::commands::stop_asked;
use super::reload;
use super::running::RunningServer;
use crate::client::{Frozen, PendingHandshake};
use crate::config::Source;
use crate::hub::SavedChannels;
use crate::hub::counters::{Counters, HandoverMethod};
use crate::net::listener::Listener;
use crate::ops::admin::Admin;
use crate::ops::handover::exec::Executable;
use crate::ops::handover::{self, State, fdstore};
use crate::ops::lifecycle::{Command, CommandSource, Phase};
use crate::ops::logging::{self, Losses};

/// How long a handover waits for the log to be written: first before it holds up any client; then, if
/// that went well, for its own few lines, while clients stand still. Nobody waits so long but for a thread that
/// does not get its turn.
const LOG_TIME: Duration = Duration::from_millis(100);

/// How long a handover waits for the history to be written, while clients stand still.
const STORE_TIME: Duration = Duration::from_secs(2);

/// Listeners and clients that a handover passes on: nobody accepts, and no client has a task.
#[derive(Debug)]
struct Paused {
    listeners: Vec<Listener>,
    clients: Vec<Frozen>,
    /// Connections in their handshake.
    handshakes: Vec<PendingHandshake>,
}

impl RunningServer {
    /// Becomes the program that is at this one's path now, with all connections.
    ///
    /// Returns if the handover fails, which is logged, or if a stop is asked for meanwhile: the service
    /// goes on, with the command that came last.
    pub(super) async fn exec(&mut self, commands: &mut CommandSource) -> Option<Command> {
        let mut later = None;
        match self.try_exec(commands, &mut later).await {
            Ok(stop) => Some(stop),
            Err(error) => {
                self.count_failure(HandoverMethod::Exec);
                error!(error = format!("{error:#}"), "handover failed: serving on");
                later
            }
        }
    }

    async fn try_exec(
        &mut self,
        commands: &mut CommandSource,
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
        let Err(error) = self.carry_by_exec(&executable, &paused, log_time).await;
        self.resume(paused);
        Err(error.context(format!("cannot become {path}")))
    }

    /// Leaves all connections to the service manager, for the daemon that it starts next.
    ///
    /// # Errors
    /// The next daemon would not start, or not take the connections up, as far as this one can see; or
    /// the manager does not say that it has them. The service goes on.
    pub(super) async fn hand_over_to_systemd(&mut self, source: &Source) -> anyhow::Result<()> {
        match &self.executable {
            Ok(executable) => preflight(executable).await?,
            Err(_) => {
                let config = reload::read(source).await;
                config.context("the next daemon could not start")?;
            }
        }
        let log_time = flush_log().await;
        let paused = self.pause().await;
        match self.carry_by_store(&paused, log_time).await {
            Ok(()) => {
                info!(
                    clients = paused.clients.len(),
                    "handed over to the service manager"
                );
                paused.disarm();
                Ok(())
            }
            Err(error) => {
                self.resume(paused);
                Err(error)
            }
        }
    }

    /// Pause: nobody is accepted, and every client stops where it is.
    async fn pause(&mut self) -> Paused {
        self.lifecycle.enter(Phase::HandingOver);
        // Nobody joins while clients freeze.
        let listeners = self.accept_loops.close().await;
        let mut handshakes = self.acceptor.park_handshakes().await;
        handshakes.retain_mut(PendingHandshake::put_away);
        let mut clients = self.clients.freeze(&self.channels).await;
        // What cannot be stored in this time is in the state, too.
        let _ = timeout(STORE_TIME, self.channels.settle_histories()).await;
        self.channels.rest_members(STORE_TIME).await;
        clients
            .iter_mut()
            .for_each(|frozen| frozen.client.put_away());
        Paused {
            listeners,
            clients,
            handshakes,
        }
    }

    /// Snapshot: what the next daemon has to know, with these of the listeners.
    fn snapshot<'a>(
        &'a self,
        paused: &'a Paused,
        which: impl Fn(&Listener) -> bool,
    ) -> State<&'a Counters> {
        let feeds = paused.clients.iter().map(|frozen| frozen.client.feed());
        let listeners = paused.listeners.iter().filter(|listener| which(listener));
        let clients = paused.clients.iter().map(|frozen| frozen.client.save());
        let saved = SavedChannels::save(&self.channels, feeds);
        State {
            hubs: saved.hubs,
            ended: saved.ended,
            listeners: listeners.map(Listener::save).collect(),
            clients: clients.collect(),
            handshakes: paused
                .handshakes
                .iter()
                .map(PendingHandshake::save)
                .collect(),
            counters: &self.counters,
            admin: self.admin.as_ref().and_then(Admin::place),
            log: Losses::default(),
            descriptors: Vec::new(),
        }
    }

    /// Carry, by exec: every socket stays open across it, and the state names their numbers. Returns
    /// only if the exec fails.
    async fn carry_by_exec(
        &self,
        executable: &Executable,
        paused: &Paused,
        log_time: Duration,
    ) -> anyhow::Result<Infallible> {
        let sockets: Vec<_> = paused.sockets(|_| true).collect();
        let mut state = self.snapshot(paused, |_| true);
        state.descriptors = sockets.iter().map(AsRawFd::as_raw_fd).collect();
        // The next daemon needs time until its own first ping.
        self.notifier.watchdog().await;
        (state.log, _) = seal_log(log_time).await;
        let pass_on = |inherited| {
            sockets
                .iter()
                .try_for_each(|socket| handover::set_inheritable(*socket, inherited))
        };
        let exec = || {
            let state = state.write().context("cannot save the state")?;
            let outcome = pass_on(true)
                .map_err(anyhow::Error::from)
                .and_then(|()| executable.exec(&state));
            pass_on(false)?;
            outcome
        };
        let failed = exec();
        logging::unseal();
        failed
    }

    /// Carry, by the service manager's store: it keeps the state and the sockets while no daemon runs.
    async fn carry_by_store(&self, paused: &Paused, log_time: Duration) -> anyhow::Result<()> {
        // The others the manager passes to every daemon it starts.
        let ours = |listener: &Listener| !listener.is_socket_activated();
        let sockets: Vec<_> = paused.sockets(ours).collect();
        let mut state = self.snapshot(paused, ours);
        let (log, is_written) = seal_log(log_time).await;
        state.log = log;
        let carried = match state.write().context("cannot save the state") {
            Ok(state) => fdstore::leave(&self.notifier, &state, &sockets).await,
            Err(error) => Err(error),
        };
        if carried.is_err() || is_written {
            logging::unseal();
        }
        carried
    }

    /// Resume: the service goes on as if nothing had been.
    fn resume(&mut self, paused: Paused) {
        self.channels.start_clock();
        self.channels.wake_members();
        self.clients.thaw(paused.clients);
        for handshake in paused.handshakes {
            self.acceptor.begin(handshake);
        }
        self.open(paused.listeners);
        self.lifecycle.enter(Phase::Running);
    }

    /// Counts a handover that this daemon did not get rid of.
    pub(super) fn count_failure(&self, method: HandoverMethod) {
        self.counters.handovers.by(method).failed.add_one();
    }
}

impl Paused {
    /// The sockets, in the order of the state.
    fn sockets(&self, which: impl Fn(&Listener) -> bool) -> impl Iterator<Item = BorrowedFd<'_>> {
        let listeners = self
            .listeners
            .iter()
            .filter(move |listener| which(listener));
        let clients = self.clients.iter().map(|frozen| frozen.client.as_fd());
        let handshakes = self.handshakes.iter().map(AsFd::as_fd);
        listeners.map(AsFd::as_fd).chain(clients).chain(handshakes)
    }

    /// Disarm: lets go of everything without ending anything.
    fn disarm(self) {
        self.listeners.into_iter().for_each(Listener::hand_over);
        for frozen in self.clients {
            frozen.client.hand_over();
        }
    }
}

/// Sees that the program at this path accepts the configuration as it is now, and takes over. Cancel
/// safe.
async fn preflight(executable: &Executable) -> anyhow::Result<()> {
    let proof = executable.preflight().await;
    proof.with_context(|| format!("{} cannot take over", executable.path().display()))
}

/// Has the log written before a handover, while clients are served; returns how long to wait for the
/// lines that come later. A log that nobody reads is waited for once.
async fn flush_log() -> Duration {
    let flushed = tokio::task::spawn_blocking(|| logging::flush_within(LOG_TIME)).await;
    match flushed {
        Ok(true) => LOG_TIME,
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
    // Neither of the two panics.
    let sealed = tokio::task::spawn_blocking(seal).await;
    sealed.unwrap_or_default()
}
