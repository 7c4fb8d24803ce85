//! `linehub history`: what is kept on disk, beside the daemon that writes it or without one.

mod check;
mod read;

use std::io;
use std::path::Path;
use std::process::ExitCode;

use crate::config::cli::History;
use crate::ops::logging::print_error;

/// Something is damaged, or the system refused to read it.
const FAILED: u8 = 1;
/// There is no such channel, or no one alone.
const MISUSED: u8 = 2;

/// Why a command ends before it is done.
enum Stop {
    /// With this exit code, for this reason.
    Refused(u8, String),
    /// Standard output cannot be written.
    Output(io::Error),
}

/// Runs the command to its end.
pub fn run(what: &History) -> ExitCode {
    let outcome = match what {
        History::Check(args) => check::run(&args.dir),
        History::Cat(args) => read::cat(args),
        History::Tail(args) => read::tail(args),
    };
    let (code, reason) = match outcome {
        Ok(code) => return code,
        // Who closed stdout has seen enough.
        Err(Stop::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            return ExitCode::SUCCESS;
        }
        Err(Stop::Output(error)) => (FAILED, format!("cannot write standard output: {error}")),
        Err(Stop::Refused(code, reason)) => (code, reason),
    };
    print_error(&reason);
    ExitCode::from(code)
}

/// For `map_err`: it cannot go on.
fn failed(reason: impl ToString) -> Stop {
    Stop::Refused(FAILED, reason.to_string())
}

/// There is nothing to read in a directory.
fn none_in(dir: &Path) -> Stop {
    Stop::Refused(MISUSED, format!("{}: no history in there", dir.display()))
}
