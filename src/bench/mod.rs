//! `linehub bench`: load for a daemon, and proof of what it promises.

use std::process::ExitCode;

use crate::cli::BenchArgs;

/// Runs the command to its end.
pub fn run(_args: &BenchArgs) -> ExitCode {
    ExitCode::FAILURE
}
