//! `linehub status`: what the running daemon does, in a terminal.

use std::process::ExitCode;

use crate::cli::StatusArgs;

/// Runs the command to its end.
pub fn run(_args: &StatusArgs) -> ExitCode {
    ExitCode::FAILURE
}
