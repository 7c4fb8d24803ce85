//! The linehub daemon: parse, log, runtime, exit code.

use std::env;
use std::io::{self, Write};
use std::mem;
use std::process::ExitCode;

use anyhow::Context;
use linehub::config::cli::{self, Cli, CliExit, Command};
use linehub::config::{Config, Source};
use linehub::ops::handover::{self, predecessor::Predecessor};
use linehub::ops::systemd::SystemdEnv;
use linehub::server::Server;
use linehub::{
    commands::generate, commands::history, commands::status, hub::memory, net::bind, net::permits,
    ops::lifecycle, ops::logging,
};
use tokio::runtime::{Builder, Runtime};
use tracing::warn;

/// It could not serve: a listener could not be opened, or the system refused what it needs.
const FAILED: u8 = 1;
/// A flag, a variable or a line of the configuration file is wrong. Starting again would change
/// nothing.
const MISUSED: u8 = 2;

fn main() -> ExitCode {
    let cli = match Cli::read(env::args_os(), |name| env::var_os(name)) {
        Ok(cli) => cli,
        Err(CliExit::Answer(answer)) => {
            // As below: who closed stdout does not want the text.
            let _ = answer.print();
            return ExitCode::SUCCESS;
        }
        Err(CliExit::Usage(reason)) => return refuse(misused(), &reason),
    };
    if let Some(command) = &cli.command {
        return run(command);
    }
    memory::share_one_arena();
    let source = Source::new(&cli, permits::raise_open_files());
    let config = match source.read() {
        Ok(config) => config,
        Err(error) => return refuse(misused(), &error.to_string()),
    };
    if (cli.check || cli.check_handover.is_some())
        && let Err(error) = Server::check(&config)
    {
        return refuse(FAILED, &format!("{error:#}"));
    }
    if let Some(version) = cli.check_handover {
        let _ = write!(io::stdout(), "{}", handover::answer(version));
        return ExitCode::SUCCESS;
    }
    let unknown = cli::unknown_variables(env::vars_os());
    if cli.check {
        unknown.iter().for_each(|hint| logging::print_error(hint));
        let _ = writeln!(io::stdout(), "configuration ok");
        return ExitCode::SUCCESS;
    }

    // First of all: from here on a signal must not end what clients were handed over to.
    let started = lifecycle::block_signals().context("cannot hold signals back");
    let started =
        started.and_then(|()| logging::start(config.log).context("cannot start the log's thread"));
    if let Err(error) = started {
        return refuse(FAILED, &format!("{error:#}"));
    }
    unknown.iter().for_each(|hint| warn!("{hint}"));
    source.advise(&config);
    match serve(config, source) {
        Ok(()) => {
            logging::flush();
            ExitCode::SUCCESS
        }
        Err(error) => {
            let code = if bind::is_for_good(&error) {
                MISUSED
            } else {
                FAILED
            };
            refuse(code, &format!("{error:#}"))
        }
    }
}

/// Does what linehub does besides serving.
fn run(command: &Command) -> ExitCode {
    match command {
        Command::Generate { what } => {
            let (text, aside) = match generate::text(what) {
                Ok(text) => text,
                Err(error) => return refuse(FAILED, &format!("{error:#}")),
            };
            // Who closed stdout does not want the text.
            let _ = io::stdout().write_all(text.as_bytes());
            let _ = io::stderr().write_all(aside.as_bytes());
            ExitCode::SUCCESS
        }
        Command::Status(args) => status::run(args),
        Command::History { what } => history::run(what),
        #[cfg(feature = "connect")]
        Command::Connect(args) => linehub::commands::connect::run(args),
        #[cfg(feature = "bench")]
        Command::Bench(args) => linehub::commands::bench::run(args),
    }
}

fn serve(config: Config, source: Source) -> anyhow::Result<()> {
    // Before anything else is opened: what the runtime opens must not be taken for inherited.
    let mut systemd = SystemdEnv::from_environment()?;
    let predecessor = Predecessor::restore(mem::take(&mut systemd.inherited.stored));
    let runtime = runtime(config.worker_threads).context("cannot start the runtime")?;
    let served = runtime.block_on(async {
        let server = Server::bind(config, systemd, predecessor).await?;
        server.run(lifecycle::signals()?, source).await
    });
    // Whoever still blocks a thread, such as a name look-up, must not hold up the exit.
    runtime.shutdown_background();
    served
}

fn runtime(worker_threads: usize) -> io::Result<Runtime> {
    match worker_threads {
        1 => Builder::new_current_thread().enable_all().build(),
        several => Builder::new_multi_thread()
            .worker_threads(several)
            .thread_name("linehub-worker")
            .enable_all()
            .build(),
    }
}

/// What a wrong flag, variable or configuration file ends with. With clients to take up it is not to be
/// left at that, as a service manager would: the next start may go well.
fn misused() -> u8 {
    match Predecessor::is_waiting() {
        true => FAILED,
        false => MISUSED,
    }
}

fn refuse(code: u8, reason: &str) -> ExitCode {
    logging::print_error(reason);
    ExitCode::from(code)
}
