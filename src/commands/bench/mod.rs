//! `linehub bench`: load for a daemon, and proof of what it promises.
//!
//! ```text
//! plan ─► target ─► connections ─► barrier ─► load ─► outcome ─► report | json | plot
//!                                               │
//! senders ─► line ─► daemon ─► line_decoder ─► check (expected_stream, tracker) ─► latency
//! ```
//!
//! | file | what it is for |
//! |---|---|
//! | `plan` | what was asked for |
//! | `target`, `daemon` | the daemon that is loaded, and one that is a child of this process |
//! | `endpoint`, `hello`, `connections`, `barrier` | all connections, until each of them is served |
//! | `records` | TLS that is counted and not read, for `cargo bench` |
//! | `load`, `interrupt` | the run: one thread that sends, receives and checks, until it is told to end |
//! | `senders`, `line_source`, `line` | who sends what, when |
//! | `line_decoder`, `check`, `expected_stream`, `tracker` | whether it came: pure |
//! | `histogram`, `latency` | how late |
//! | `outcome`, `report`, `json`, `plot`, `progress`, `units` | what it came to, and how it is shown |
//!
//! What is public beside [`run`] is for `cargo bench`, which loads servers with the same connections
//! and senders.

mod barrier;
mod check;
mod connections;
mod daemon;
mod endpoint;
mod expected_stream;
mod hello;
mod histogram;
mod interrupt;
mod json;
mod latency;
mod line;
mod line_decoder;
mod line_source;
mod load;
mod outcome;
mod plan;
mod plot;
mod progress;
mod records;
mod report;
mod senders;
mod target;
mod tracker;
mod units;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::Result;
use serde_json::Value;

pub use self::barrier::Barrier;
pub use self::connections::{Connections, Got, Ready, Role};
pub use self::daemon::Daemon;
pub use self::endpoint::Endpoint;
pub use self::histogram::Histogram;
pub use self::interrupt::Interrupt;
pub use self::line_source::LineSource;
pub use self::outcome::{DaemonUsage, Outcome};
use self::plan::Plan;
pub use self::plan::Run;
use self::progress::Progress;
pub use self::report::verdict;
pub use self::senders::{Pace, Senders, Written};
use self::target::Target;
pub use self::units::{count, time};
use crate::config::Address;
use crate::config::cli::BenchArgs;
use crate::net::permits;
use crate::ops::logging;

/// Something is wrong with the daemon, or the load could not be run.
const FAILED: u8 = 1;
/// Something is wrong with the command line.
const MISUSED: u8 = 2;

/// Runs the command to its end: 0 if every line reached every reader, 1 if not, 2 for a wrong option.
pub fn run(args: &BenchArgs) -> ExitCode {
    let plan = match Plan::new(args, permits::raise_open_files()) {
        Ok(plan) => plan,
        Err(wrong) => {
            logging::print_error(&wrong);
            return ExitCode::from(MISUSED);
        }
    };
    match measure(&plan) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(FAILED),
        Err(error) => {
            logging::print_error(&format!("{error:#}"));
            ExitCode::from(FAILED)
        }
    }
}

/// Runs a load against the server at an address, with every byte of every reader checked.
///
/// # Errors
/// The load cannot be run. What is wrong with what was received is in the outcome.
pub fn load(run: &Run, address: SocketAddr) -> Result<Outcome> {
    let (host, port) = (address.ip().to_string(), address.port());
    let target = Target {
        address: Address::Tcp { host, port },
        endpoint: Endpoint::resetting(address),
        channel: None,
        is_tls: false,
        own: None,
    };
    let progress = Progress::new(run.duration, true);
    load::run(run, &target, None, &mut Interrupt::never(), &progress)
}

/// Runs what is planned and reports it; whether all was good.
fn measure(plan: &Plan) -> Result<bool> {
    // A file that cannot be written shows now, not after a run that may take an hour.
    plan.plot.as_deref().map(plot::try_open).transpose()?;
    let mut interrupt = Interrupt::new()?;
    let mut outcomes: Vec<Outcome> = Vec::new();
    let mut failure = None;
    for run in &plan.runs {
        let progress = Progress::new(run.duration, plan.json);
        let outcome = Target::reach(plan, run).and_then(|(target, first)| {
            load::run(run, &target, Some(first), &mut interrupt, &progress)
        });
        match outcome {
            Ok(outcome) => outcomes.push(outcome),
            // What was measured before is not lost.
            Err(error) => failure = Some(error),
        }
        if failure.is_some() || interrupt.count() > 0 {
            break;
        }
    }
    let text = match (plan.sweep, &outcomes[..]) {
        (_, []) => String::new(),
        (None, [outcome, ..]) if plan.json => format!("{:#}\n", json::of_run(outcome)),
        (Some(_), outcomes) if plan.json => {
            let runs: Vec<Value> = outcomes.iter().map(json::of_run).collect();
            format!("{:#}\n", Value::from(runs))
        }
        (None, [outcome, ..]) => report::of_run(outcome),
        (Some(axis), outcomes) => report::of_sweep(axis, outcomes),
    };
    // Who closed stdout does not want the text.
    let _ = io::stdout().write_all(text.as_bytes());
    if let (Some(path), Some(outcome)) = (&plan.plot, outcomes.first()) {
        plot::write(outcome, path)?;
    }
    match failure {
        Some(error) => Err(error),
        None => Ok(outcomes.iter().all(Outcome::is_good)),
    }
}
