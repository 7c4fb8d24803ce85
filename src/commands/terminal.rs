//! The terminal that a command is used at: whose it is, its size and its modes.

use std::io;
use std::os::fd::AsFd;

use rustix::process::getpgrp;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetpgrp, tcgetwinsize, tcsetattr};

/// Whether this is the terminal that controls this process.
#[cfg(feature = "connect")]
pub(crate) fn is_controlling(terminal: impl AsFd) -> bool {
    tcgetpgrp(terminal).is_ok()
}

/// Whether this is the terminal that controls this process, and the process is in its foreground:
/// what a person types there is for it.
pub(crate) fn is_in_foreground(terminal: impl AsFd) -> bool {
    tcgetpgrp(terminal) == Ok(getpgrp())
}

/// Columns and rows. A pseudo-terminal that nobody gave a size has none.
pub(crate) fn size(terminal: impl AsFd) -> Option<(usize, usize)> {
    let size = tcgetwinsize(terminal).ok()?;
    (size.ws_col > 0 && size.ws_row > 0).then(|| (size.ws_col.into(), size.ws_row.into()))
}

/// Modes of the terminal at standard input. Dropping it restores those before.
#[derive(Debug)]
pub(crate) struct Modes {
    before: Termios,
    ours: Termios,
}

impl Modes {
    /// Changes the modes.
    pub(crate) fn change(change: impl FnOnce(&mut Termios)) -> io::Result<Modes> {
        let before = tcgetattr(io::stdin())?;
        let mut ours = before.clone();
        change(&mut ours);
        let modes = Modes { before, ours };
        modes.set();
        Ok(modes)
    }

    /// Sets them again. In the background, this stops the process until it is in the foreground.
    pub(crate) fn set(&self) {
        // A terminal that is gone needs nothing.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.ours);
    }

    /// Sets those that were before, for whoever has the terminal next. Not from the background: it is
    /// another program's already.
    pub(crate) fn restore(&self) {
        if !is_in_foreground(io::stdin()) {
            return;
        }
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}

impl Drop for Modes {
    fn drop(&mut self) {
        self.restore();
    }
}
