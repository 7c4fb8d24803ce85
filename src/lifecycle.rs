//! The phases of the daemon's life, and the signals that move it from one to the next.

use std::fmt;
use std::io;

use nix::sys::signal::SigSet;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tracing::info;

/// Where the daemon is in its life. Phases follow one another in this order; only `Reloading` and
/// `HandingOver` are left out unless they are asked for, and may go back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Listeners are open; nobody is served yet.
    Starting,
    /// Clients are accepted and served.
    Running,
    /// Clients are served as before, and the configuration is being read again.
    Reloading,
    /// Every client has stopped where it is, to be taken over by another daemon. Goes back to
    /// `Running` if that fails.
    HandingOver,
    /// Nobody is accepted any more. What clients had sent is published, what they are owed is
    /// written.
    Draining,
    /// All connections are closed.
    Stopped,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Phase::Starting => "starting",
            Phase::Running => "running",
            Phase::Reloading => "reloading",
            Phase::HandingOver => "handing over",
            Phase::Draining => "draining",
            Phase::Stopped => "stopped",
        })
    }
}

/// The one place where the phase is kept.
#[derive(Clone, Debug)]
pub struct Lifecycle(watch::Sender<Phase>);

impl Lifecycle {
    pub(crate) fn new() -> Lifecycle {
        Lifecycle(watch::Sender::new(Phase::Starting))
    }

    pub(crate) fn enter(&self, phase: Phase) {
        info!(%phase, "phase");
        self.0.send_replace(phase);
    }

    /// Watches the phase.
    pub fn watch(&self) -> watch::Receiver<Phase> {
        self.0.subscribe()
    }
}

/// What the world asks of the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Stop, cleanly; asked again, at once.
    Stop,
    /// The same; but if the service manager keeps the connections, leave them to it and to the
    /// daemon that it starts next.
    Terminate,
    /// Read the configuration again.
    Reload,
    /// Go on as the program that is now at the path of this one.
    HandOver,
}

impl Request {
    /// Whether the daemon is to end.
    pub fn is_stop(self) -> bool {
        matches!(self, Request::Stop | Request::Terminate)
    }
}

/// Where requests come from: signals in the daemon, a channel in a test.
pub trait Requests {
    /// The next request. Cancel safe: none is lost.
    fn next(&mut self) -> impl Future<Output = Request> + Send;
}

/// The requests that signals make.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    hand_over: Signal,
}

/// Starts to listen for signals. From here on they no longer end the process by themselves.
///
/// # Errors
/// The system refuses a handler.
pub fn signals() -> io::Result<Signals> {
    let signals = Signals {
        terminate: signal(SignalKind::terminate())?,
        interrupt: signal(SignalKind::interrupt())?,
        hangup: signal(SignalKind::hangup())?,
        hand_over: signal(SignalKind::user_defined2())?,
    };
    // What came during an exec comes now.
    handled().thread_unblock()?;
    Ok(signals)
}

/// Holds signals back while the process becomes another program: it would end at one for which that
/// has no handler yet. They come when [`signals`] is called, there or here.
pub(crate) fn hold_signals() -> io::Result<SignalsHeld> {
    handled().thread_block()?;
    Ok(SignalsHeld(()))
}

/// Lets signals through again when dropped.
#[derive(Debug)]
pub(crate) struct SignalsHeld(());

impl Drop for SignalsHeld {
    fn drop(&mut self) {
        // It only fails for a signal set that does not exist.
        let _ = handled().thread_unblock();
    }
}

/// The signals that [`Signals`] makes requests of.
fn handled() -> SigSet {
    use nix::sys::signal::Signal::{SIGHUP, SIGINT, SIGTERM, SIGUSR2};
    [SIGHUP, SIGINT, SIGTERM, SIGUSR2].into_iter().collect()
}

impl Requests for Signals {
    async fn next(&mut self) -> Request {
        // `recv` is cancel safe; a signal that the other arm loses to stays for the next call.
        let (name, request) = tokio::select! {
            // In this order, so that a stop goes before a handover that was asked for with it.
            biased;
            _ = self.interrupt.recv() => ("SIGINT", Request::Stop),
            _ = self.terminate.recv() => ("SIGTERM", Request::Terminate),
            _ = self.hangup.recv() => ("SIGHUP", Request::Reload),
            _ = self.hand_over.recv() => ("SIGUSR2", Request::HandOver),
        };
        info!(signal = name, "signal");
        request
    }
}
