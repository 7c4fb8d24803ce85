//! `linehub connect`: a client that does it well.

use std::process::ExitCode;

use crate::cli::ConnectArgs;

/// Runs the command to its end.
pub fn run(_args: &ConnectArgs) -> ExitCode {
    ExitCode::FAILURE
}
