//! The phases of the daemon's life, and the signals that move it from one to the next.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd, siginfo};
use parking_lot::Mutex;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tracing::info;

/// A phase of the daemon's life. Phases follow one another in this order; `Reloading` and `HandingOver`
/// are entered only on command, and may go back to `Running`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Listeners are open; nobody is served yet.
    Starting,
    /// Clients are accepted and served.
    Running,
    /// Clients are served, and the configuration is being read again.
    Reloading,
    /// Every client is paused, for another daemon to restore. A failure leads back to `Running`.
    HandingOver,
    /// Nobody is accepted any more. Input already received is published, and pending output written.
    Draining,
    /// All connections are closed.
    Stopped,
}

impl Phase {
    /// All phases, in their order.
    pub const ALL: [Phase; 6] = [
        Phase::Starting,
        Phase::Running,
        Phase::Reloading,
        Phase::HandingOver,
        Phase::Draining,
        Phase::Stopped,
    ];
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

/// The phase of the daemon, which anyone can watch.
#[derive(Clone, Debug)]
pub struct Lifecycle {
    phase: watch::Sender<Phase>,
    entered: Arc<Mutex<Instant>>,
}

impl Lifecycle {
    pub(crate) fn new() -> Lifecycle {
        Lifecycle {
            phase: watch::Sender::new(Phase::Starting),
            entered: Arc::new(Mutex::new(Instant::now())),
        }
    }

    pub(crate) fn enter(&self, phase: Phase) {
        *self.entered.lock() = Instant::now();
        self.phase.send_replace(phase);
        // Whoever reads that finds it so.
        info!(%phase, "phase");
    }

    /// The phase, and the time since it was entered.
    pub(crate) fn phase(&self) -> (Phase, Duration) {
        let entered = *self.entered.lock();
        (*self.phase.borrow(), entered.elapsed())
    }

    /// Watches the phase.
    pub fn watch(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }
}

/// A command to the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Drain and stop; at the second time, stop at once.
    Stop,
    /// [`Command::Stop`], but if the service manager stores descriptors, hand the connections over to
    /// the daemon that it starts next. SIGTERM means this, SIGINT never.
    Terminate,
    /// Read the configuration again.
    Reload,
    /// Hand over to the program that is now at the path of this one.
    HandOver,
    /// Poll everything once more, to find lost wake-ups: see `server::rest`.
    #[cfg(debug_assertions)]
    CheckRest,
}

impl Command {
    /// Whether the daemon is to end.
    pub fn is_stop(self) -> bool {
        matches!(self, Command::Stop | Command::Terminate)
    }
}

/// Where commands come from: signals in the daemon, a list in a test. The end of them is a stop. Waiting
/// for the next one is cancel safe.
pub type CommandSource = BoxStream<'static, Command>;

/// Holds back the signals that make commands, until [`signals`] are read. To be called before there
/// are threads: each has the mask of the one that started it.
///
/// # Errors
/// The system refuses a signal mask.
pub fn block_signals() -> io::Result<()> {
    Ok(requested().thread_block()?)
}

/// The commands that signals make. To be called on the runtime.
///
/// Signals are held back and read from a descriptor instead of handled: one that nobody has read
/// yet stays pending, from the start on and across an exec, and is not lost to a handler of a
/// program that is no more.
///
/// # Errors
/// The system has no descriptor for them.
#[allow(unsafe_code)]
pub fn signals() -> io::Result<CommandSource> {
    let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
    let signals = SignalFd::with_flags(&requested(), flags)?;
    // SAFETY: a `SignalFd` owns its descriptor, which stays open and the same for as long as it
    // lives, and the `AsyncFd` that it is moved into gives it to nobody who could close it.
    let signals = unsafe { AsyncFd::register_with_interest(signals, Interest::READABLE) };
    let signals = signals.map_err(|refused| refused.into_parts().1)?;
    let received = stream::unfold(signals, async |signals| {
        let read = signals.async_io(Interest::READABLE, |signals| {
            signals
                .read_signal()?
                .ok_or(io::ErrorKind::WouldBlock.into())
        });
        Some((read.await, signals))
    });
    // The descriptor is whole for as long as it is open: reading it does not fail.
    Ok(received
        .filter_map(async |received| command(&received.ok()?))
        .boxed())
}

/// The signals that [`signals`] makes commands of.
fn requested() -> SigSet {
    [
        Signal::SIGHUP,
        Signal::SIGINT,
        Signal::SIGTERM,
        Signal::SIGUSR2,
        #[cfg(debug_assertions)]
        Signal::SIGUSR1,
    ]
    .into_iter()
    .collect()
}

/// The command that a signal stands for.
fn command(received: &siginfo) -> Option<Command> {
    let signal = Signal::try_from(received.ssi_signo as i32).ok()?;
    let command = match signal {
        Signal::SIGHUP => Command::Reload,
        Signal::SIGINT => Command::Stop,
        Signal::SIGUSR2 => Command::HandOver,
        Signal::SIGTERM => Command::Terminate,
        #[cfg(debug_assertions)]
        Signal::SIGUSR1 => return Some(Command::CheckRest),
        _ => return None,
    };
    info!(signal = signal.as_str(), "signal");
    Some(command)
}
