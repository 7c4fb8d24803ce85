//! `linehub bench`: load for a daemon, and proof of what it promises.

mod check;
mod dialect;
mod line;
mod plan;
mod reference;
mod tracker;

use std::process::ExitCode;

use crate::cli::BenchArgs;

/// Runs the command to its end.
pub fn run(_args: &BenchArgs) -> ExitCode {
    ExitCode::FAILURE
}
