//! The keyboard while `--watch` draws: `q` ends it, and whatever else ends or stops it leaves the
//! terminal as it was.

use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::task::Poll;
use std::time::Duration;

use nix::sys::signal::{Signal, raise};
use rustix::termios::{LocalModes, SpecialCodeIndex};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{Signal as Signals, SignalKind, signal};
use tokio::time::interval;

use crate::commands::terminal::{self, Modes};
use crate::net::sockopt::register;

/// What ends or stops the process; it has to happen to the terminal first.
const SIGNALS: [Signal; 5] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGTSTP,
];

/// How often the terminal is taken again, in case it was another program's meanwhile.
const PERIOD: Duration = Duration::from_secs(1);

/// What ends it: `q`, and Ctrl-D, which the terminal does not make an end of any more.
const QUIT: &[u8] = b"qQ\x04";

/// Standard input, whose keys come one by one and are not shown.
#[derive(Debug)]
pub(super) struct Keys {
    terminal: AsyncFd<OwnedFd>,
    modes: Modes,
    signals: Vec<(Signal, Signals)>,
}

/// What comes with `Keys::end`: why to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// `q` was typed, or the keyboard is gone.
    Asked,
    /// By this signal, which ends the process once the terminal is as it was.
    Signal(Signal),
}

impl Keys {
    /// Takes the keys over; `None` where nobody types: standard input is no terminal, or another
    /// program has it. To be called on the runtime.
    pub(super) fn take() -> io::Result<Option<Keys>> {
        if !terminal::is_in_foreground(io::stdin()) {
            return Ok(None);
        }
        let signals = SIGNALS.map(|kind| {
            let stream = signal(SignalKind::from_raw(kind as i32))?;
            Ok((kind, stream))
        });
        let keys = Keys {
            // Each key comes at once and none is shown; a read takes what is there.
            modes: Modes::change(|modes| {
                modes.local_modes -= LocalModes::ICANON | LocalModes::ECHO;
                modes.special_codes[SpecialCodeIndex::VMIN] = 0;
                modes.special_codes[SpecialCodeIndex::VTIME] = 0;
            })?,
            terminal: register(
                io::stdin().as_fd().try_clone_to_owned()?,
                Interest::READABLE,
            )?,
            signals: signals.into_iter().collect::<io::Result<_>>()?,
        };
        Ok(Some(keys))
    }

    /// Waits for the end; meanwhile, Ctrl-Z stops the process as it would any other. Cancel safe.
    pub(super) async fn end(&mut self) -> End {
        let mut again = interval(PERIOD);
        loop {
            let Keys {
                terminal, signals, ..
            } = &mut *self;
            let next_signal = poll_fn(|cx| {
                let mut signals = signals.iter_mut();
                let came = signals
                    .find_map(|(kind, stream)| stream.poll_recv(cx).is_ready().then_some(*kind));
                came.map_or(Poll::Pending, Poll::Ready)
            });
            tokio::select! {
                () = quit(terminal) => return End::Asked,
                signal = next_signal => match signal {
                    Signal::SIGTSTP => {
                        self.modes.restore();
                        // Goes on here when it is continued.
                        let _ = raise(Signal::SIGSTOP);
                        self.hold();
                    }
                    signal => return End::Signal(signal),
                },
                _ = again.tick() => self.hold(),
            }
        }
    }

    /// Sets the modes again. Not while the terminal is another program's, which would be disturbed by
    /// that, and this one stopped.
    fn hold(&self) {
        if terminal::is_in_foreground(io::stdin()) {
            self.modes.set();
        }
    }
}

/// Reads keys until the one that ends it, or until there are none to come. Cancel safe: a key that was
/// read was not that one.
async fn quit(terminal: &AsyncFd<OwnedFd>) {
    let mut keys = [0; 64];
    while let Ok(mut ready) = terminal.readable().await {
        // What is typed for the program in the foreground stays there for it.
        let read = match terminal::is_in_foreground(io::stdin()) {
            true => rustix::io::read(terminal, &mut keys),
            false => Ok(0),
        };
        match read {
            Ok(0) => ready.clear_ready(),
            Ok(count) if keys[..count].iter().any(|key| QUIT.contains(key)) => return,
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return,
        }
    }
}

impl End {
    /// Ends the process if a signal asked for that.
    pub(super) fn obey(self) {
        if let End::Signal(signal) = self {
            // As a shell would say of it.
            std::process::exit(128 + signal as i32);
        }
    }
}
