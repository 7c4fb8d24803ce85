//! What the command says of itself: to standard error, or where a person types, above their line.

use std::io::{self, IsTerminal, Write};

use super::terminal::Printer;
use crate::logging;

/// Where status lines go.
pub(super) enum Status {
    Stderr,
    Screen(Printer),
}

impl Status {
    /// With a printer, to the screen, unless standard error goes elsewhere.
    pub(super) fn new(printer: Option<Printer>) -> Status {
        match printer {
            Some(printer) if io::stderr().is_terminal() => Status::Screen(printer),
            _ => Status::Stderr,
        }
    }

    pub(super) fn connected(&mut self) {
        self.say("Connect to server success");
    }

    pub(super) fn closed(&mut self) {
        self.say("Server connection closed");
    }

    fn say(&mut self, words: &str) {
        // There is nobody to tell if it cannot be said.
        let _ = match self {
            Status::Stderr => io::stderr().write_all(format!("{words}\n").as_bytes()),
            Status::Screen(printer) => printer.print(&format!("{words}\n")),
        };
    }

    /// Says what is wrong, in one line.
    pub(super) fn complain(&mut self, reason: &str) {
        match self {
            Status::Stderr => logging::complain(reason),
            Status::Screen(_) => self.say(&format!("linehub: {reason}")),
        }
    }
}
