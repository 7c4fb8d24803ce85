//! The keyboard while `--watch` draws: `q` ends it, and whatever else ends or stops it leaves the
//! terminal as it was.

use std::io::{self, IsTerminal, Read};
use std::os::fd::AsFd;
use std::thread;

use nix::sys::signal::{Signal, raise};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetpgrp, tcsetattr};
use tokio::signal::unix::{Signal as Signals, SignalKind, signal};
use tokio::sync::oneshot;

/// Standard input, whose keys come one by one and are not shown.
#[derive(Debug)]
pub(super) struct Keys {
    before: Termios,
    /// Comes when the key that ends it was typed, or the keyboard is gone.
    quit: oneshot::Receiver<()>,
    signals: [Signals; 4],
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
    /// program has it.
    pub(super) fn take() -> io::Result<Option<Keys>> {
        let stdin = io::stdin();
        let is_ours =
            tcgetpgrp(stdin.as_fd()).is_ok_and(|group| group == rustix::process::getpgrp());
        if !stdin.is_terminal() || !is_ours {
            return Ok(None);
        }
        let kinds = [
            SignalKind::interrupt(),
            SignalKind::terminate(),
            SignalKind::hangup(),
            SignalKind::from_raw(Signal::SIGTSTP as i32),
        ];
        let [a, b, c, d] = kinds.map(signal);
        let keys = Keys {
            before: tcgetattr(stdin.as_fd())?,
            quit: listen()?,
            signals: [a?, b?, c?, d?],
        };
        keys.set()?;
        Ok(Some(keys))
    }

    fn set(&self) -> io::Result<()> {
        let mut termios = self.before.clone();
        termios.local_modes -= LocalModes::ICANON | LocalModes::ECHO;
        Ok(tcsetattr(io::stdin(), OptionalActions::Now, &termios)?)
    }

    /// Waits for the end; meanwhile, Ctrl-Z stops the process as it would any other. Cancel safe.
    pub(super) async fn end(&mut self) -> End {
        loop {
            let Keys { quit, signals, .. } = self;
            let [interrupt, terminate, hangup, stop] = signals;
            tokio::select! {
                _ = quit => return End::Asked,
                _ = interrupt.recv() => return End::Signal(Signal::SIGINT),
                _ = terminate.recv() => return End::Signal(Signal::SIGTERM),
                _ = hangup.recv() => return End::Signal(Signal::SIGHUP),
                _ = stop.recv() => {
                    self.restore();
                    // Goes on here when it is continued.
                    let _ = raise(Signal::SIGSTOP);
                    let _ = self.set();
                }
            }
        }
    }

    fn restore(&self) {
        // A terminal that is gone needs nothing.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        self.restore();
    }
}

/// Reads keys until the one that ends it. The thread ends with the process.
fn listen() -> io::Result<oneshot::Receiver<()>> {
    const CTRL_D: u8 = 4;
    let (asked, quit) = oneshot::channel();
    thread::Builder::new()
        .name("keys".to_owned())
        .spawn(move || {
            let mut keys = io::stdin().lock().bytes();
            while keys
                .next()
                .is_some_and(|key| !matches!(key, Ok(b'q' | b'Q' | CTRL_D) | Err(_)))
            {}
            let _ = asked.send(());
        })?;
    Ok(quit)
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
