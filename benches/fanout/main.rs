//! How fast linehub delivers, beside the least any broadcast server has to do.
//!
//! `cargo bench --bench fanout` runs everything, `cargo bench --bench fanout -- 100-readers` the
//! cases with that in their name, `-- --list` names them. The daemon and a raw loop
//! (`raw_loop.rs`) run in turn, each on the first core with the load on the second, and the
//! ratio is taken run by run: it holds on another machine where the figures themselves do not.
//! Every run of every case also proves that no byte was lost, and fails otherwise.
//!
//! ```text
//! cases ─► launch ─► linehub | raw_loop            a child process, on its core
//!       ├► flood (stream) | storms | bench::load   the clients, on theirs
//!       ├► watch                                   who looks at the status page meanwhile
//!       └► table
//! ```

mod cases;
mod flood;
mod launch;
mod raw_loop;
mod storms;
mod stream;
mod table;
mod watch;

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use linehub::net::permits;

use crate::cases::{Case, Figure, Settings};
use crate::launch::{Busy, Cores, Program};
use crate::table::{Report, Row, Summary};

const USAGE: &str = "\
usage: cargo bench --bench fanout -- [OPTIONS] [FILTER]...
  FILTER        run only the cases with one of these in their name
  --list        name the cases and stop
  --quick       one short run of each
  --runs N      runs of each side of a case [3]
  --self-check  put the raw loop in linehub's place: the ratios then show the noise
The binary under test is the one cargo built, or LINEHUB_BENCH_SERVER.";

/// Clients in the cases with many, if the open-file limit allows.
const CROWD: u64 = 15_000;

struct Options {
    settings: Settings,
    list: bool,
    self_check: bool,
    filters: Vec<String>,
}

fn main() -> ExitCode {
    let mut arguments = env::args_os().skip(1).peekable();
    let role = arguments
        .peek()
        .and_then(|first| first.to_str())
        .unwrap_or_default();
    let done = match role {
        launch::RAW_LOOP => read_bytes(arguments.nth(1))
            .and_then(raw_loop::run)
            .map(|()| true),
        _ => measure(),
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
    let help = env::args().any(|argument| argument == "--help" || argument == "-h");
    if help || env::args_os().len() == 1 {
        println!("{USAGE}");
        return Ok(true);
    }
    let options = parse(env::args().skip(1))?;
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
        options.filters.is_empty() || options.filters.iter().any(|part| name.contains(part))
    };
    cases.retain(|case| wanted(&case.name));
    if options.list {
        cases.iter().for_each(|case| println!("{}", case.name));
        return Ok(true);
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
        if let Err(error) = run_case(case, &cores, &options.settings, &mut report) {
            report.failure(&case.name, &format!("{error:#}"));
            complete = false;
        }
    }
    Ok(complete)
}

fn run_case(case: &Case, cores: &Cores, settings: &Settings, report: &mut Report) -> Result<()> {
    let mut subject: Vec<Vec<Figure>> = Vec::new();
    let mut baseline: Vec<Vec<Figure>> = Vec::new();
    for run in 0..settings.runs {
        // Who goes first changes, so that a machine that slows down favours nobody.
        if run % 2 == 0 {
            subject.push(case.subject.run(cores, settings)?);
        }
        if let Some((name, side)) = &case.baseline {
            baseline.push(
                side.run(cores, settings)
                    .with_context(|| (*name).to_owned())?,
            );
        }
        if run % 2 == 1 {
            subject.push(case.subject.run(cores, settings)?);
        }
    }
    for (index, first) in subject[0].iter().enumerate() {
        let of = |side: &[Vec<Figure>]| Summary::of(side.iter().map(|run| run[index].value));
        let ratio = Summary::of(
            subject
                .iter()
                .zip(&baseline)
                .map(|(ours, theirs)| ours[index].value / theirs[index].value),
        );
        let against = case.baseline.as_ref().map(|(name, _)| *name);
        let note = busy_note(
            &[&subject, &baseline]
                .map(|side| Vec::from_iter(side.iter().filter_map(|run| run[index].busy))),
        );
        let line_bytes = [&subject, &baseline]
            .map(|side| Summary::of(side.iter().filter_map(|run| run[index].line_bytes)));
        let note = match (line_bytes, ratio) {
            ([Some(ours), Some(theirs)], Some(ratio)) => {
                let ratio = ratio.median * ours.median / theirs.median;
                format!("{ratio:.2} in bytes; {note}")
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

fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Options> {
    let mut options = Options {
        settings: Settings::thorough(),
        list: false,
        self_check: false,
        filters: Vec::new(),
    };
    let mut runs = None;
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            // Cargo adds it.
            "--bench" => {}
            "--list" => options.list = true,
            "--quick" => options.settings = Settings::quick(),
            "--self-check" => options.self_check = true,
            "--runs" => {
                let number = arguments.next().and_then(|number| number.parse().ok());
                runs = Some(
                    number
                        .filter(|&runs| runs > 0)
                        .context("--runs needs a number")?,
                );
            }
            option if option.starts_with('-') => bail!("no option {option}\n{USAGE}"),
            filter => options.filters.push(filter.to_owned()),
        }
    }
    if let Some(runs) = runs {
        options.settings.runs = runs;
    }
    Ok(options)
}

/// The daemon to measure.
fn binary() -> Result<PathBuf> {
    let path = env::var_os("LINEHUB_BENCH_SERVER").map(PathBuf::from);
    path.or(option_env!("CARGO_BIN_EXE_linehub").map(PathBuf::from))
        .context("LINEHUB_BENCH_SERVER must name the daemon's binary")
}
