//! The phases of the daemon's life, and the signals that move it from one to the next.

use std::fmt;
use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tracing::info;

/// Where the daemon is in its life. Phases only follow one another in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Listeners are open; nobody is served yet.
    Starting,
    /// Clients are accepted and served.
    Running,
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
            Phase::Draining => "draining",
            Phase::Stopped => "stopped",
        })
    }
}

/// The one place where the phase is kept.
#[derive(Debug)]
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
}

/// Starts to listen for signals. From here on they no longer end the process by themselves.
///
/// # Errors
/// The system refuses a handler.
pub fn signals() -> io::Result<Signals> {
    Ok(Signals {
        terminate: signal(SignalKind::terminate())?,
        interrupt: signal(SignalKind::interrupt())?,
    })
}

impl Requests for Signals {
    async fn next(&mut self) -> Request {
        // `recv` is cancel safe; a signal that the other arm loses to stays for the next call.
        let name = tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        };
        info!(signal = name, "signal");
        Request::Stop
    }
}
