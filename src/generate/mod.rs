//! What `linehub generate` prints: all that belongs beside the binary, so that the one binary
//! carries everything a package needs. What explains options is made from the options themselves.

mod configuration;
mod manual;
mod units;

use clap::CommandFactory;

use crate::cli::{Cli, Generate};

/// The text of one of them, ready to be written to a file.
pub fn text(what: Generate) -> String {
    match what {
        Generate::Service { socket_activated } => units::service(socket_activated),
        Generate::Socket => units::SOCKET.to_owned(),
        Generate::Dropin => units::DROPIN.to_owned(),
        Generate::Config => configuration::toml(&mut Cli::command()),
        Generate::Man => manual::roff(&mut Cli::command()),
        Generate::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "linehub", &mut script);
            String::from_utf8_lossy(&script).into_owned()
        }
    }
}
