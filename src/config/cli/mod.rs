//! What a person types: flags, environment variables and lines of the configuration file, kept as
//! text with the place they came from. [`Config`](crate::config::Config) gives them their meaning,
//! so that a value is read, and a mistake reported, the same way wherever it was written.

#[cfg(feature = "bench")]
mod bench;
mod commands;
#[cfg(feature = "connect")]
mod connect;
mod explain;
mod help;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::builder::Styles;
use clap::builder::styling::AnsiColor;
use clap::error::ErrorKind;
use clap::{ArgAction, Args, CommandFactory, FromArgMatches, Parser, ValueHint};

#[cfg(feature = "bench")]
pub use self::bench::BenchArgs;
pub use self::commands::{Command, Generate, StatusArgs};
#[cfg(feature = "connect")]
pub use self::connect::ConnectArgs;
pub(crate) use self::explain::nearest;
pub use self::explain::unknown_variables;
pub(crate) use self::help::{Body, SECTIONS, fill, wrap};

/// Tells the daemon after an exec which descriptor the state is in.
pub(crate) const STATE_VARIABLE: &str = "LINEHUB_STATE_FD";

/// The headings of `--help`, in the order they are shown.
const LISTENING: &str = "Listening";
const SEEN: &str = "What clients see";
const LIMITS: &str = "Limits";
const SLOW: &str = "Slow clients";
const ADMIN: &str = "Watching";
const PROCESS: &str = "Process";

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
    /// Prints one line and exits with 0 when the configuration, the file included, is good, with 2
    /// when it is not. Opens no listener.
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

/// Every option of the daemon as it was typed; `None` where it was not.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Accept clients here; repeatable [default: 127.0.0.1:2345]
    ///
    /// Repeat it to listen at several addresses. An IPv6 address needs brackets: `[::]:2345`. Port 0
    /// picks a free port, which the log names. `ADDR,format=FMT` gives the clients of this one
    /// listener another format than --format.
    #[arg(long, value_name = "HOST:PORT|unix:PATH", help_heading = LISTENING)]
    #[arg(allow_hyphen_values = true)]
    pub listen: Option<Vec<RawValue>>,

    /// Show the stream as text, json or raw [default: text]
    ///
    /// The format of listeners that name none.
    ///
    /// text: for people. `Message from client 7: hello`, with control characters made visible.
    ///
    /// json: for programs. One object a line: {"event":"message","seq":42,"client":7,"data":"hello"}
    ///
    /// raw: for machines. The bytes of each line exactly as they came, and nothing else.
    #[arg(long, value_name = "FMT", help_heading = SEEN, allow_hyphen_values = true)]
    pub format: Option<RawValue>,

    /// Send clients their own lines and notices too [default: false]
    #[arg(long, value_name = "BOOL", help_heading = SEEN)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub echo: Option<RawValue>,

    /// Send no notices that a client came or left [default: false]
    ///
    /// Holds for every format. `raw` never has notices.
    #[arg(long, value_name = "BOOL", help_heading = SEEN)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub no_notices: Option<RawValue>,

    /// Close or keep a client that ends its input [default: close]
    ///
    /// close: a client that shuts its sending side gets what was already queued for it and is
    /// closed, so that `printf 'x\n' | nc -N HOST PORT` ends.
    ///
    /// keep: it goes on receiving until it closes, so that `nc HOST PORT </dev/null` is a reader.
    #[arg(long, value_name = "close|keep", help_heading = SEEN, allow_hyphen_values = true)]
    pub half_close: Option<RawValue>,

    /// Close a client whose first line is an HTTP request [default: on]
    ///
    /// Nothing of it is published then. Any web page can have a browser send such a request, with
    /// lines of its own behind it, to whatever the browser's machine can reach. off: it is a line as
    /// any other.
    #[arg(long, value_name = "on|off", help_heading = LIMITS, allow_hyphen_values = true)]
    pub http_guard: Option<RawValue>,

    /// Connect at most N clients [default: auto]
    ///
    /// auto: the open-file limit, which is raised as far as the system lets it, less 64 descriptors
    /// for the daemon itself, and 40 more with --admin. One client more is told `Error: server full (N clients)` and closed.
    /// 1 to 100000000; with 0 or off only the open-file limit holds.
    #[arg(long, value_name = "N", help_heading = LIMITS, allow_hyphen_values = true)]
    pub max_clients: Option<RawValue>,

    /// Close a client that sends a longer line than SIZE [default: 64KiB]
    ///
    /// Counts the line without its line end. 1 byte to 512MiB; cannot be off, because memory would
    /// then have no bound.
    #[arg(long, value_name = "SIZE", help_heading = LIMITS, allow_hyphen_values = true)]
    pub max_line: Option<RawValue>,

    /// Close the client or discard the line when one is too long [default: close]
    ///
    /// close: the client is told `Error: line too long (limit N bytes)` and closed.
    ///
    /// discard: only that line is dropped. It is counted, and logged once a client.
    #[arg(long, value_name = "close|discard", help_heading = LIMITS, allow_hyphen_values = true)]
    pub long_line: Option<RawValue>,

    /// Hold at most SIZE of lines not yet delivered [default: 64MiB]
    ///
    /// One buffer, shared by all clients. When it is full, senders wait; see --slow-grace. At least
    /// 4KiB; cannot be off, because memory would then have no bound.
    #[arg(long, value_name = "SIZE", help_heading = LIMITS, allow_hyphen_values = true)]
    pub buffer: Option<RawValue>,

    /// Close a client that is idle this long [default: off]
    ///
    /// Idle is a client that neither sends nor takes a byte. 1ms to 10y; 0 or off: never.
    #[arg(long, value_name = "DURATION", help_heading = LIMITS, allow_hyphen_values = true)]
    pub idle_timeout: Option<RawValue>,

    /// Give clients this long at shutdown [default: 5s]
    ///
    /// They get what is still theirs meanwhile; who is not done by then is closed. 1ms to 10y;
    /// cannot be off, because shutdown needs an end.
    #[arg(long, value_name = "DURATION", help_heading = LIMITS, allow_hyphen_values = true)]
    pub drain_timeout: Option<RawValue>,

    /// What happens to a slow client [default: disconnect]
    ///
    /// A client is slow when it still needs the oldest line of a full buffer after --slow-grace.
    ///
    /// disconnect: it is told, if it takes the message, and closed.
    ///
    /// skip: it goes on with the newest line and is told how many it missed. In raw it cannot be
    /// told; the log says it.
    #[arg(long, value_name = "disconnect|skip", help_heading = SLOW, allow_hyphen_values = true)]
    pub slow_client: Option<RawValue>,

    /// How long senders wait for a slow client [default: 1s]
    ///
    /// How long the oldest line in a full buffer may wait for the clients that still need it. 1ms
    /// to 10y. 0 or off: senders never wait. forever: nothing is ever lost, and one stuck client
    /// holds up all senders until --stall-timeout closes it.
    #[arg(long, value_name = "DURATION|forever", help_heading = SLOW, allow_hyphen_values = true)]
    pub slow_grace: Option<RawValue>,

    /// Close a client that takes nothing this long [default: 30s]
    ///
    /// Counts while output waits for the client and its socket takes no byte of it. 1ms to 10y; 0
    /// or off: never.
    #[arg(long, value_name = "DURATION", help_heading = SLOW, allow_hyphen_values = true)]
    pub stall_timeout: Option<RawValue>,

    /// Serve a status page and metrics over HTTP here [default: off]
    ///
    /// Where RUNTIME_DIRECTORY is set, as in a service with RuntimeDirectory=, the default is the Unix
    /// socket admin.sock there.
    ///
    /// A page for people at `/`; `/metrics` for Prometheus; `/status`, `/clients` and `/closed` as
    /// JSON; `/healthz` and `/readyz` for whoever keeps the daemon running. It can only be read, by
    /// everybody who can connect: leave it on a loopback address or a Unix socket, which `linehub
    /// status` asks. Served from a thread of its own.
    #[arg(long, value_name = "HOST:PORT|unix:PATH", help_heading = ADMIN)]
    #[arg(allow_hyphen_values = true)]
    pub admin: Option<RawValue>,

    /// Answer at --admin to browsers that call it NAME; repeatable [default: none]
    ///
    /// A TCP admin address answers only requests that name it by an IP address, as localhost, or by
    /// one of these names, so that no web page that somebody visits can read it through a name of
    /// its own. NAME has no port.
    #[arg(long, value_name = "NAME", help_heading = ADMIN, allow_hyphen_values = true)]
    pub admin_host: Option<Vec<RawValue>>,

    /// Run on N threads, 1 to 1024 [default: auto]
    ///
    /// auto: as many as there are CPUs.
    #[arg(long, value_name = "N", help_heading = PROCESS, allow_hyphen_values = true)]
    pub worker_threads: Option<RawValue>,

    /// Log error, warn, info, debug or trace, and what is above it [default: info]
    ///
    /// The log goes to stderr. RUST_LOG, when set, wins. What lines contain is logged only at trace.
    #[arg(long, value_name = "LEVEL", help_heading = PROCESS, allow_hyphen_values = true)]
    pub log: Option<RawValue>,
}

/// A value as it was typed, and where, so that an error can name the place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawValue {
    /// The value, unread.
    pub text: String,
    /// Where it was typed.
    pub place: ValueSource,
}

/// Where a value was typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValueSource {
    /// On the command line.
    Flag,
    /// In the environment.
    Environment,
    /// In the configuration file.
    File {
        /// The file, as it was named.
        path: Arc<Path>,
        /// Counted from 1.
        line: usize,
    },
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
            _ => CliExit::Usage(explain::explain(&error, &args)),
        })?;
        cli.check_handover = check_handover;
        cli.options.log = cli.options.log.or(level(cli.verbose, cli.quiet));
        let environment = Options::from_environment(&variable).map_err(CliExit::Usage)?;
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

/// What so many `-v` and `-q` say in place of `--log`.
fn level(verbose: u8, quiet: u8) -> Option<RawValue> {
    let level = match i16::from(verbose) - i16::from(quiet) {
        _ if verbose == 0 && quiet == 0 => return None,
        ..=-2 => "error",
        -1 => "warn",
        0 => "info",
        1 => "debug",
        2.. => "trace",
    };
    Some(level.into())
}

impl Options {
    /// These options, and for those that were not typed, the other ones.
    #[must_use]
    pub fn or(mut self, mut other: Options) -> Options {
        for ((_, mine), (_, theirs)) in self
            .several_valued()
            .into_iter()
            .zip(other.several_valued())
        {
            *mine = mine.take().or(theirs.take());
        }
        for ((_, mine), (_, theirs)) in self.single_valued().into_iter().zip(other.single_valued())
        {
            *mine = mine.take().or(theirs.take());
        }
        self
    }

    /// The options that the environment sets. An empty variable counts as unset.
    fn from_environment(variable: impl Fn(&str) -> Option<OsString>) -> Result<Options, String> {
        let read = |option: &str| {
            let name = ValueSource::Environment.name(option);
            match variable(&name)
                .filter(|value| !value.is_empty())
                .map(OsString::into_string)
            {
                None => Ok(None),
                Some(Ok(text)) => Ok(Some(RawValue {
                    text,
                    place: ValueSource::Environment,
                })),
                Some(Err(_)) => Err(format!("{name}: the value is not UTF-8")),
            }
        };
        let mut options = Options::default();
        for (option, value) in options.single_valued() {
            *value = read(option)?;
        }
        for (option, values) in options.several_valued() {
            *values = read(option)?.and_then(|several| several.split());
        }
        Ok(options)
    }

    /// The names of all.
    pub(crate) fn names() -> Vec<&'static str> {
        let mut options = Options::default();
        let mut names: Vec<&str> = options.single_valued().map(|(name, _)| name).to_vec();
        names.extend(options.several_valued().map(|(name, _)| name));
        names
    }

    /// Every option that can be given several times, under its name.
    pub(crate) fn several_valued(&mut self) -> [(&'static str, &mut Option<Vec<RawValue>>); 2] {
        [
            ("listen", &mut self.listen),
            ("admin-host", &mut self.admin_host),
        ]
    }

    /// Every option with one value, under its name.
    pub(crate) fn single_valued(&mut self) -> [(&'static str, &mut Option<RawValue>); 17] {
        [
            ("format", &mut self.format),
            ("echo", &mut self.echo),
            ("no-notices", &mut self.no_notices),
            ("half-close", &mut self.half_close),
            ("max-clients", &mut self.max_clients),
            ("http-guard", &mut self.http_guard),
            ("max-line", &mut self.max_line),
            ("long-line", &mut self.long_line),
            ("buffer", &mut self.buffer),
            ("idle-timeout", &mut self.idle_timeout),
            ("drain-timeout", &mut self.drain_timeout),
            ("slow-client", &mut self.slow_client),
            ("slow-grace", &mut self.slow_grace),
            ("stall-timeout", &mut self.stall_timeout),
            ("admin", &mut self.admin),
            ("worker-threads", &mut self.worker_threads),
            ("log", &mut self.log),
        ]
    }
}

impl RawValue {
    /// The values in a list separated by whitespace or `;`, or `None` if it holds none.
    fn split(&self) -> Option<Vec<RawValue>> {
        let values: Vec<RawValue> = self
            .text
            .split(|c: char| c.is_whitespace() || c == ';')
            .filter(|text| !text.is_empty())
            .map(|text| RawValue {
                text: text.to_owned(),
                place: self.place.clone(),
            })
            .collect();
        (!values.is_empty()).then_some(values)
    }
}

/// A value on the command line.
impl From<String> for RawValue {
    fn from(text: String) -> RawValue {
        RawValue {
            text,
            place: ValueSource::Flag,
        }
    }
}

/// A value on the command line.
impl From<&str> for RawValue {
    fn from(text: &str) -> RawValue {
        text.to_owned().into()
    }
}

impl ValueSource {
    /// What the option is called here: `max-line` is `--max-line`, `LINEHUB_MAX_LINE` or
    /// `/etc/linehub.toml:3: max-line`.
    pub fn name(&self, option: &str) -> String {
        match self {
            ValueSource::Flag => format!("--{option}"),
            ValueSource::Environment => {
                format!("LINEHUB_{}", option.to_ascii_uppercase().replace('-', "_"))
            }
            ValueSource::File { path, line } => format!("{}:{line}: {option}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(args: &[&str], environment: &[(&str, &str)]) -> Result<Cli, CliExit> {
        let args = ["linehub"].iter().chain(args).map(OsString::from);
        Cli::read(args, |name| {
            let found = environment.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| value.into())
        })
    }

    fn options(args: &[&str], environment: &[(&str, &str)]) -> Options {
        read(args, environment).unwrap().options
    }

    fn help(flag: &str) -> String {
        match read(&[flag], &[]) {
            Err(CliExit::Answer(help)) => help.to_string(),
            other => panic!("{flag} gave {other:?}"),
        }
    }

    fn variable(text: &str) -> Option<RawValue> {
        Some(RawValue {
            text: text.into(),
            place: ValueSource::Environment,
        })
    }

    #[test]
    fn command_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn nothing_typed_leaves_every_option_open() {
        assert_eq!(options(&[], &[]), Options::default());
    }

    #[test]
    fn every_option_of_the_daemon_is_a_flag_and_a_variable() {
        let command = Cli::command();
        let flags = command.get_arguments().filter_map(|arg| arg.get_long());
        let about_the_run = [
            "config",
            "check",
            "check-handover",
            "verbose",
            "quiet",
            "help",
            "version",
        ];
        let mut flags: Vec<_> = flags.filter(|flag| !about_the_run.contains(flag)).collect();
        let mut typed = Options::default();
        let mut known: Vec<_> = typed
            .single_valued()
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        known.extend(typed.several_valued().into_iter().map(|(name, _)| name));
        flags.sort_unstable();
        known.sort_unstable();
        assert_eq!(flags, known);
    }

    #[test]
    fn flag_and_variable_with_one_name_set_the_same_option() {
        for (option, _) in Options::default().single_valued() {
            let mut by_flag = options(&[&format!("--{option}=x")], &[]);
            let name = ValueSource::Environment.name(option);
            let mut by_variable = options(&[], &[(&name, "x")]);
            for ((this, flag), (_, variable)) in by_flag
                .single_valued()
                .into_iter()
                .zip(by_variable.single_valued())
            {
                assert_eq!(flag.is_some(), this == option, "--{option} and {this}");
                assert_eq!(variable.is_some(), this == option, "{name} and {this}");
            }
        }
    }

    #[test]
    fn flag_wins_over_the_environment() {
        let environment = [("LINEHUB_MAX_LINE", "1KiB"), ("LINEHUB_BUFFER", "1MiB")];
        let typed = options(&["--max-line", "2KiB"], &environment);
        assert_eq!(typed.max_line, Some("2KiB".into()));
        assert_eq!(typed.buffer, variable("1MiB"));
    }

    #[test]
    fn empty_variable_counts_as_unset() {
        let environment = [("LINEHUB_MAX_LINE", ""), ("LINEHUB_LISTEN", " ; ")];
        assert_eq!(options(&[], &environment), Options::default());
    }

    #[test]
    fn variable_that_is_not_utf8_is_named() {
        use std::os::unix::ffi::OsStringExt;
        let read = Cli::read(["linehub".into()], |name| {
            (name == "LINEHUB_FORMAT").then(|| OsString::from_vec(vec![0xff]))
        });
        let Err(CliExit::Usage(line)) = read else {
            panic!("accepted")
        };
        assert_eq!(line, "LINEHUB_FORMAT: the value is not UTF-8");
    }

    #[test]
    fn listen_variable_holds_several_addresses() {
        let typed = options(
            &[],
            &[("LINEHUB_LISTEN", " a:1;b:2  c:3,format=raw\nd:4; ")],
        );
        let texts: Vec<_> = typed
            .listen
            .unwrap()
            .into_iter()
            .map(|typed| typed.text)
            .collect();
        assert_eq!(texts, ["a:1", "b:2", "c:3,format=raw", "d:4"]);
    }

    #[test]
    fn listen_flag_repeats_and_replaces_the_variable() {
        let typed = options(
            &["--listen", "a:1", "--listen=b:2"],
            &[("LINEHUB_LISTEN", "c:3")],
        );
        assert_eq!(typed.listen, Some(vec!["a:1".into(), "b:2".into()]));
    }

    #[test]
    fn switch_alone_is_true_and_can_be_turned_off() {
        assert_eq!(options(&["--echo"], &[]).echo, Some("true".into()));
        let typed = options(&["--echo=false"], &[("LINEHUB_ECHO", "true")]);
        assert_eq!(typed.echo, Some("false".into()));
        let typed = options(&["--echo", "--no-notices"], &[]);
        assert_eq!(typed.no_notices, Some("true".into()));
    }

    #[test]
    fn last_of_a_repeated_option_counts() {
        assert_eq!(
            options(&["--buffer=1", "--buffer=2"], &[]).buffer,
            Some("2".into())
        );
    }

    #[test]
    fn verbose_and_quiet_are_short_for_a_level() {
        let environment = [("LINEHUB_LOG", "error")];
        for (args, expected) in [
            (vec![], variable("error")),
            (vec!["-v"], Some("debug".into())),
            (vec!["-vv"], Some("trace".into())),
            (vec!["-vvv"], Some("trace".into())),
            (vec!["-q"], Some("warn".into())),
            (vec!["-qq"], Some("error".into())),
            (vec!["-qqv"], Some("warn".into())),
            (vec!["-qv"], Some("info".into())),
            (vec!["--log", "loud"], Some("loud".into())),
        ] {
            assert_eq!(options(&args, &environment).log, expected, "{args:?}");
        }
    }

    #[test]
    fn configuration_file_is_named_by_flag_or_variable() {
        let environment = [("LINEHUB_CONFIG", "/b")];
        let config =
            |args: &[&str], environment: &[(&str, &str)]| read(args, environment).unwrap().config;
        assert_eq!(config(&[], &[("LINEHUB_CONFIG", "")]), None);
        assert_eq!(config(&[], &environment), Some("/b".into()));
        assert_eq!(config(&["--config=/a"], &environment), Some("/a".into()));
    }

    #[test]
    fn commands_are_told_from_options() {
        let command = |args: &[&str]| read(args, &[]).unwrap().command;
        assert_eq!(command(&[]), None);
        for (args, what) in [
            (
                &["service"][..],
                Generate::Service {
                    socket_activated: false,
                },
            ),
            (
                &["service", "--socket-activated"],
                Generate::Service {
                    socket_activated: true,
                },
            ),
            (
                &["completions", "zsh"],
                Generate::Completions {
                    shell: clap_complete::Shell::Zsh,
                },
            ),
        ] {
            let args = [&["generate"], args].concat();
            assert_eq!(command(&args), Some(Command::Generate { what }), "{args:?}");
        }
    }

    #[test]
    fn value_that_starts_with_a_hyphen_is_left_to_the_option() {
        assert_eq!(
            options(&["--max-line", "-1"], &[]).max_line,
            Some("-1".into())
        );
        assert_eq!(
            options(&["--idle-timeout", "-5s"], &[]).idle_timeout,
            Some("-5s".into())
        );
    }

    #[test]
    fn help_groups_every_option_and_fits_the_page() {
        for flag in ["-h", "--help"] {
            let help = help(flag);
            let headings = ["Commands", LISTENING, SEEN, LIMITS, SLOW, ADMIN, PROCESS];
            let places: Vec<_> = headings
                .iter()
                .map(|heading| help.find(&format!("\n{heading}:\n")))
                .collect();
            assert!(
                places.iter().all(Option::is_some) && places.is_sorted(),
                "{help}"
            );
            assert!(!help.contains("\nOptions:"), "{help}");
            let widest = help.lines().map(|line| line.chars().count()).max();
            assert!(widest <= Some(100), "{widest:?} in {help}");
        }
        assert!(help("--help").contains("printf 'backup done\\n' | nc -N 127.0.0.1 2345"));
    }
}
