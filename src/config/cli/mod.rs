//! The command line and the environment: what was typed there, kept as text with the place it came
//! from.

#[cfg(feature = "bench")]
mod bench;
mod commands;
#[cfg(feature = "connect")]
mod connect;
mod explain;
mod help;
mod history;
#[cfg(any(feature = "bench", feature = "connect"))]
mod tls;
#[cfg(any(feature = "bench", feature = "connect"))]
mod token;
mod typed;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::Styles;
use clap::builder::styling::AnsiColor;
use clap::error::ErrorKind;
use clap::{ArgAction, CommandFactory, FromArgMatches, Parser, ValueHint};

#[cfg(feature = "bench")]
pub use self::bench::BenchArgs;
pub use self::commands::{Command, Generate, StatusArgs, TokenArgs};
#[cfg(feature = "connect")]
pub use self::connect::ConnectArgs;
pub use self::explain::unknown_variables;
pub(crate) use self::help::{Body, SECTIONS, fill, wrap};
pub use self::history::{History, HistoryCheckArgs, HistoryReadArgs};
#[cfg(any(feature = "bench", feature = "connect"))]
pub use self::tls::TlsArgs;
#[cfg(feature = "bench")]
pub(crate) use self::token::TOKEN_VARIABLE;
#[cfg(any(feature = "bench", feature = "connect"))]
pub(crate) use self::token::read_token;
use super::options::PROCESS;
pub(crate) use super::raw::STATE_VARIABLE;
pub use super::raw::{Options, RawValue, ValueSource};

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

const MORE: &str = "\
Try it: start linehub, then run `nc 127.0.0.1 2345` in two terminals and type. --help says more.";

/// What was typed on the command line and in the environment.
#[derive(Clone, Debug, Default, Parser)]
#[command(
    name = "linehub",
    version,
    about = "Broadcast lines over TCP: what one client sends, every other client receives",
    long_about = "Broadcast lines over TCP: whatever one client sends as a line, every other client \
                  receives, whole and in one order that is the same for all. A client is anything \
                  that can open a socket: nc, telnet, a script, a microcontroller.\n\n\
                  A client that cannot keep up is told or disconnected; it is never left with a \
                  silent gap.",
    after_help = MORE,
    after_long_help = help::sections(),
    styles = STYLES,
    args_override_self = true,
    disable_help_flag = true,
    disable_version_flag = true,
    disable_help_subcommand = true,
    args_conflicts_with_subcommands = true,
    subcommand_help_heading = "Commands",
)]
pub struct Cli {
    /// The options that are also variables in the environment.
    #[command(flatten)]
    pub options: Options,

    /// Read what was not typed from FILE [default: none]
    ///
    /// TOML with the names of the options, as in `max-line = "64KiB"`; `linehub generate config`
    /// prints one to start from. SIGHUP reads it again. Flags and the environment win over it.
    #[arg(long, value_name = "FILE", help_heading = PROCESS, value_hint = ValueHint::FilePath)]
    #[arg(allow_hyphen_values = true)]
    pub config: Option<PathBuf>,

    /// Check the configuration and exit
    ///
    /// Prints one line and exits with 0 when the configuration, its files included, is good, with 2
    /// when it is not, and with 1 when a file of TLS cannot be used. Opens no listener.
    #[arg(long, help_heading = PROCESS)]
    pub check: bool,

    /// Log more: -v is --log debug, -vv is --log trace
    #[arg(short, long, action = ArgAction::Count, help_heading = PROCESS, conflicts_with = "log")]
    verbose: u8,

    /// Log less: -q is --log warn, -qq is --log error
    #[arg(short, long, action = ArgAction::Count, help_heading = PROCESS, conflicts_with = "log")]
    quiet: u8,

    /// Print help: -h a summary, --help everything
    #[arg(short, long, action = ArgAction::Help, help_heading = PROCESS, global = true)]
    help: Option<bool>,

    /// Print the version
    #[arg(short = 'V', long, action = ArgAction::Version, help_heading = PROCESS)]
    version: Option<bool>,

    /// What to do instead of serving.
    #[command(subcommand)]
    pub command: Option<Command>,

    /// Check the configuration, say which saved state can be taken up, and exit: what a running daemon
    /// asks the one that is to follow it, with the version of the states that it writes. No option for
    /// people, hence none of clap's.
    #[arg(skip)]
    pub check_handover: Option<u32>,
}

/// Why there is nothing to run.
#[derive(Debug)]
pub enum CliExit {
    /// Help or the version was asked for: print it to stdout and exit with 0.
    Answer(clap::Error),
    /// The command line or the environment is wrong: what is, and what is allowed. Exit with 2.
    Usage(String),
}

impl Cli {
    /// Reads the command line (the program's name first) and, for what it leaves open, the
    /// environment, where `variable` gives the value of the variable with a name.
    ///
    /// Values are kept as text. Errors here are those of the command line itself: an option that
    /// does not exist, or one without its value.
    pub fn read(
        args: impl IntoIterator<Item = OsString>,
        variable: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Cli, CliExit> {
        let mut check_handover = None;
        let args = args.into_iter().filter(|arg| {
            let version = arg.to_str().and_then(handover_version);
            check_handover = check_handover.or(version);
            version.is_none()
        });
        let mut args: Vec<OsString> = args.collect();
        // `linehub help bench`, as other programs have it.
        if args.get(1).is_some_and(|arg| arg == "help") {
            args.remove(1);
            args.push("--help".into());
        }
        let command = help::lay_out(Cli::command(), help::columns());
        let matches = command.try_get_matches_from(&args);
        let cli = matches.and_then(|matches| Cli::from_arg_matches(&matches));
        let mut cli = cli.map_err(|error| match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => CliExit::Answer(error),
            _ => CliExit::Usage(explain::explain(&Cli::command(), &error, &args)),
        })?;
        cli.check_handover = check_handover;
        cli.options = cli.options.or(level(cli.verbose, cli.quiet));
        let environment = typed::from_environment(&variable).map_err(CliExit::Usage)?;
        cli.options = cli.options.or(environment);
        let file = variable(&ValueSource::Environment.name("config"));
        cli.config = cli
            .config
            .or(file.filter(|file| !file.is_empty()).map(PathBuf::from));
        Ok(cli)
    }
}

/// What `--check-handover` asks for, if the argument is that one. Daemons that did not say their
/// version write 2.
fn handover_version(arg: &str) -> Option<u32> {
    match arg.strip_prefix("--check-handover")? {
        "" => Some(2),
        value => value.strip_prefix('=')?.parse().ok(),
    }
}

/// What so many `-v` and `-q` set in place of `--log`.
fn level(verbose: u8, quiet: u8) -> Options {
    let level = match i16::from(verbose) - i16::from(quiet) {
        _ if verbose == 0 && quiet == 0 => return Options::default(),
        ..=-2 => "error",
        -1 => "warn",
        0 => "info",
        1 => "debug",
        2.. => "trace",
    };
    Options::from_iter([("log", vec![level.into()])])
}

#[cfg(test)]
mod tests;
