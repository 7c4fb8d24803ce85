//! How fast linehub delivers, beside the least any broadcast server has to do.
//!
//! `cargo bench --bench fanout` runs everything, `cargo bench --bench fanout -- 100-readers` the
//! cases with that in their name, `-- --list` names them. The daemon and a raw loop
//! (`raw_loop.rs`) run in turn, each on the first core with the load on the second, and the
//! ratio is taken run by run: it holds on another machine where the figures themselves do not.
//! Every run of every case also proves that no byte was lost, and fails otherwise.
//!
//! ```text
//! cases (history) ─► launch ─► linehub | raw_loop | peers     a child process, on its core
//!       ├► flood (stream) | channels | storms | bench::load   the clients, on theirs
//!       ├► newcomer | resume | publishing (dialect)           those who were away, or want to be sure
//!       ├► cluster                                 daemons that share a channel, all on one core
//!       ├► web                                     who comes by HTTP
//!       ├► watch                                   who looks at the status page meanwhile
//!       ├► tls                                     certificates, what stands before a plain daemon, a core's cipher
//!       └► table
//! ```

mod cases;
mod channels;
mod cluster;
mod dialect;
mod flood;
mod history;
mod launch;
mod newcomer;
mod peers;
mod publishing;
mod raw_loop;
mod resume;
mod settings;
mod storms;
mod stream;
mod table;
mod tls;
mod watch;
mod web;

use std::collections::BTreeSet;
use std::env;
use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{CommandFactory as _, Parser};
use linehub::net::permits;

use crate::cases::{Case, Figure};
use crate::launch::{Busy, Cores, Program};
use crate::settings::Settings;
use crate::table::{Report, Row, Summary, Unit};

/// Clients in the cases with many, if the open-file limit allows.
const CROWD: u64 = 15_000;

/// How fast linehub delivers, beside the least any broadcast server has to do.
///
/// The binary under test is the one cargo built, or LINEHUB_BENCH_SERVER.
#[derive(Parser)]
#[command(
    bin_name = "cargo bench --bench fanout --",
    disable_version_flag = true
)]
struct Options {
    /// Run only the cases with one of these in their name
    filter: Vec<String>,

    /// Name the cases and stop
    #[arg(long)]
    list: bool,

    /// One short run of each
    #[arg(long)]
    quick: bool,

    /// Runs of each side of a case [default: 3]
    #[arg(long, value_name = "N")]
    runs: Option<NonZeroUsize>,

    /// Seconds that count of a run, but of a steady one [default: 2, or half of one if --quick]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=600))]
    window: Option<u64>,

    /// Put the raw loop in linehub's place: the ratios then show the noise
    #[arg(long)]
    self_check: bool,

    /// Cargo adds it.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let mut arguments = env::args_os().skip(1);
    let is_raw_loop = arguments
        .next()
        .is_some_and(|first| first == launch::RAW_LOOP);
    let done = if is_raw_loop {
        read_bytes(arguments.next())
            .and_then(raw_loop::run)
            .map(|()| true)
    } else {
        measure()
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn read_bytes(argument: Option<OsString>) -> Result<usize> {
    let number = argument.and_then(|argument| argument.to_str()?.parse().ok());
    number.context("how many bytes to read at a time?")
}

/// Returns whether every case that ran has its figures.
fn measure() -> Result<bool> {
    // Only `cargo bench` is meant to measure; `cargo test --all-targets` starts this bare.
    if env::args_os().len() == 1 {
        Options::command().print_help()?;
        return Ok(true);
    }
    let options = Options::parse();
    let mut settings = match options.quick {
        true => Settings::QUICK,
        false => Settings::THOROUGH,
    };
    settings.runs = options.runs.map_or(settings.runs, NonZeroUsize::get);
    settings.window = options.window.map_or(settings.window, Duration::from_secs);
    let subject = if options.self_check {
        Program::RawLoop {
            read_bytes: raw_loop::READ_BYTES,
        }
    } else {
        Program::Linehub(binary()?)
    };
    let files = permits::raise_open_files();
    // The load and the server each hold one file for each client, and some for themselves.
    let crowd = CROWD.min(files / 4 * 3) as usize;
    let mut cases = cases::all(&subject, crowd);
    let wanted = |name: &str| {
        options.filter.is_empty() || options.filter.iter().any(|part| name.contains(part))
    };
    cases.retain(|case| wanted(&case.name));
    let missing: BTreeSet<&str> = cases.iter().filter_map(Case::missing).collect();
    cases.retain(|case| case.missing().is_none());
    if options.list {
        cases.iter().for_each(|case| println!("{}", case.name));
        return Ok(true);
    }

    for program in missing {
        println!("{program} is not installed: the cases against it are left out.");
    }
    let cores = Cores::available()?;
    if !cores.can_pin() {
        println!("Only one core: the server and the load share it, and nothing is pinned.");
    }
    if (crowd as u64) < CROWD {
        println!("The open-file limit is {files}: large crowds are {crowd} instead of {CROWD}.");
    }
    let longest = cases.iter().map(|case| case.name.len()).max().unwrap_or(0);
    let mut report = Report::new(longest + "/peak-memory".len());
    let mut complete = true;
    for case in &cases {
        if let Err(error) = run_case(case, &cores, &settings, &mut report) {
            report.failure(&case.name, &format!("{error:#}"));
            complete = false;
        }
    }
    Ok(complete)
}

fn run_case(case: &Case, cores: &Cores, settings: &Settings, report: &mut Report) -> Result<()> {
    let (mut subject, mut baseline) = (Vec::new(), Vec::new());
    for run in 0..settings.runs {
        // The side that goes first changes, so that a machine that slows down favours nobody.
        for is_subject in [run % 2 == 0, run % 2 == 1] {
            if is_subject {
                subject.push(case.subject.run(cores, settings)?);
            } else if let Some((name, side)) = &case.baseline {
                let figures = side.run(cores, settings);
                baseline.push(figures.with_context(|| (*name).to_owned())?);
            }
        }
    }
    for (index, first) in subject[0].iter().enumerate() {
        let of = |side: &[Vec<Figure>]| {
            Summary::of(side.iter().filter_map(|run| Some(run.get(index)?.value)))
        };
        let pairs = subject.iter().zip(&baseline);
        let ratio = |(ours, theirs): (&Vec<Figure>, &Vec<Figure>)| {
            Some(ours[index].value / theirs.get(index)?.value)
        };
        let ratio = Summary::of(pairs.filter_map(ratio));
        let against = case.baseline.as_ref().map(|(name, _)| *name);
        let note = busy_note(
            &[&subject, &baseline]
                .map(|side| Vec::from_iter(side.iter().filter_map(|run| run.get(index)?.busy))),
        );
        let line_bytes = [&subject, &baseline]
            .map(|side| Summary::of(side.iter().filter_map(|run| run.get(index)?.line_bytes)));
        let note = match (line_bytes, ratio) {
            ([Some(ours), Some(theirs)], Some(ratio)) => {
                let ratio = ratio.median * ours.median / theirs.median;
                format!("{ratio:.2} in bytes; {note}")
            }
            _ => note,
        };
        let note = match cpu_ratio(index, &subject, &baseline) {
            Some(ratio) if first.unit == Unit::LinesPerSecond => {
                format!("{:.2} by CPU; {note}", ratio.median)
            }
            _ => note,
        };
        report.row(&Row {
            name: &format!("{}{}", case.name, first.suffix),
            unit: first.unit,
            subject: of(&subject).context("no runs")?,
            baseline: against
                .zip(of(&baseline))
                .zip(ratio)
                .map(|((a, b), c)| (a, b, c)),
            note: &note,
        });
    }
    Ok(())
}

/// What the server does in a second of its CPU time, beside the baseline, run by run: that holds where other
/// programs take their share of the cores, too.
fn cpu_ratio(index: usize, subject: &[Vec<Figure>], baseline: &[Vec<Figure>]) -> Option<Summary> {
    let per_cpu = |run: &Vec<Figure>| {
        let (figure, busy) = run.get(index).and_then(|it| Some((it, it.busy?)))?;
        Some(figure.value * busy.elapsed.as_secs_f64() / busy.server.as_secs_f64())
    };
    let pairs = subject.iter().zip(baseline);
    Summary::of(pairs.filter_map(|(ours, theirs)| Some(per_cpu(ours)? / per_cpu(theirs)?)))
}

/// How busy the server and the load were on each side, in percent of one core.
fn busy_note(sides: &[Vec<Busy>; 2]) -> String {
    let percent = |cpu: fn(&Busy) -> Duration| {
        let share = |busy: &Busy| 100.0 * cpu(busy).as_secs_f64() / busy.elapsed.as_secs_f64();
        let medians = sides
            .iter()
            .filter_map(|side| Summary::of(side.iter().map(share)));
        Vec::from_iter(medians.map(|share| format!("{:.0}", share.median))).join("/")
    };
    let (server, load) = (percent(|busy| busy.server), percent(|busy| busy.load));
    if server.is_empty() {
        server
    } else {
        format!("server {server} %, load {load} %")
    }
}

/// The daemon to measure.
fn binary() -> Result<PathBuf> {
    let path = env::var_os("LINEHUB_BENCH_SERVER").map(PathBuf::from);
    path.or(option_env!("CARGO_BIN_EXE_linehub").map(PathBuf::from))
        .context("LINEHUB_BENCH_SERVER must name the daemon's binary")
}
