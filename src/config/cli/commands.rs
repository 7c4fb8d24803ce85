//! What linehub does besides serving, as it is typed.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};

/// The headings of `linehub bench --help`.
const LOAD: &str = "Load";
const REPORT: &str = "Report";

/// What `linehub bench --help` ends with.
const BENCH_MORE: &str = "\
Examples:
  How fast is it here?
    $ linehub bench
  How late do lines arrive when 1,000 a second are sent, whatever holds them up?
    $ linehub bench --rate 1000 --plot latency.svg
  What does the daemon do about five readers that hang?
    $ linehub bench 127.0.0.1:2345 --stuck 5

Exit codes:
  0  Every line reached every reader. Stuck readers do not count.
  1  Lines were lost, doubled, cut, reordered or skipped, a reader or sender was closed, or the load
     could not be run.
  2  A wrong option.";

/// What linehub does besides serving.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Print what belongs beside the binary: units, a configuration, the man page, completions
    Generate {
        /// Which of them.
        #[command(subcommand)]
        what: Generate,
    },
    /// Show who is connected to the running daemon, how much flows, and who is slow
    Status(StatusArgs),
    /// Connect to a daemon: standard input goes out, what comes in goes to standard output
    ///
    /// Lines from standard input go to the daemon, and what comes from there goes to standard output,
    /// unchanged, a read at a time. In the terminal that it was started from, in the foreground, there
    /// is a prompt that incoming lines do not tear apart, with the lines typed before at the arrow keys;
    /// Enter sends what was typed, and nothing if that is nothing; Ctrl-Z stops it until `fg`; Ctrl-C
    /// and Ctrl-D leave. Control characters that come in are shown in that terminal as \xNN. Any other
    /// terminal, such as a serial line, is written and read like a pipe.
    ///
    /// When standard input has ended, what still comes in is printed until the daemon closes, which it
    /// does once it has read everything (with `--half-close keep` it does not). `Connect to server
    /// success`, `Server connection closed` and what goes wrong are said on stderr. When nobody reads
    /// standard output any more, the command ends without a word.
    #[command(after_help = "", after_long_help = CONNECT_MORE)]
    Connect(ConnectArgs),
    /// Load a daemon and prove that every line reaches every reader, once, whole and in order
    ///
    /// It checks while it measures: from the first line to the last, every reader must get every line,
    /// whole, once, and in the order that is the same for all.
    #[command(after_help = "", after_long_help = BENCH_MORE)]
    Bench(Box<BenchArgs>),
}

/// What `linehub generate` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Subcommand)]
pub enum Generate {
    /// The systemd service, linehub.service
    Service {
        /// Without any network of its own: it serves what linehub.socket hands it
        #[arg(long)]
        socket_activated: bool,
    },
    /// The systemd socket unit, linehub.socket: ports below 1024, or no network for the service
    Socket,
    /// The user that the service runs as, for systemd-sysusers
    Sysusers,
    /// A drop-in for the service, for systemd 254 and later
    Dropin,
    /// A configuration file with every option at its default
    Config,
    /// The man page, linehub.1
    Man,
    /// Completions for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// What `linehub status` takes.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
pub struct StatusArgs {
    /// Ask the daemon whose --admin this is [default: unix:/run/linehub/admin.sock]
    ///
    /// Without it, LINEHUB_ADMIN says it, and then the default, which is where the service that
    /// `linehub generate service` prints has it.
    #[arg(long, value_name = "HOST:PORT|unix:PATH", allow_hyphen_values = true)]
    pub admin: Option<String>,

    /// Go on, every second, in place; q or Ctrl-C ends it
    #[arg(long)]
    pub watch: bool,

    /// Print what the daemon says as JSON; with --watch, a line every second
    #[arg(long)]
    pub json: bool,
}

/// What `linehub connect` takes.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectArgs {
    /// The daemon to connect to [default: 127.0.0.1:2345]
    ///
    /// An IPv6 address needs brackets: `[::1]:2345`. Every address of a name is tried, each for 10 s
    /// at most.
    #[arg(value_name = "HOST:PORT|unix:PATH")]
    pub address: Option<String>,

    /// Connect again when the connection is gone or cannot be made [default: auto]
    ///
    /// The first pause is 100 ms, each next one twice as long, 10 s at most, and each is cut by chance
    /// to between a half and the whole of itself. After a connection that lasted longer than 10 s they
    /// begin anew. auto: true when standard input is a terminal or with --listen-only.
    ///
    /// Lines that were not sent are kept meanwhile: at most 4 MiB, beyond which standard input is not
    /// read. Sent is a line when all of it has been acknowledged by the daemon's machine (over a Unix
    /// socket: taken by it); any other is sent again, whole. So a line can come twice if only the
    /// acknowledgement was lost, and lines are lost that the daemon had not read when it was killed. A
    /// daemon that is stopped reads what has arrived. One that is full has taken nothing, and gets all
    /// of it again. A line that the daemon refuses as too long is not tried again.
    #[arg(long, value_name = "BOOL")]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub retry: Option<String>,

    /// Only print what comes in; standard input is not read
    #[arg(long, conflicts_with = "send_only")]
    pub listen_only: bool,

    /// Only send; what comes in is read and not printed
    ///
    /// Ends well when standard input has ended and the daemon has closed in answer, which says that it
    /// has read everything. If it says why it closes, or closes before, that is a failure with the
    /// reason. (In `raw` it resets a TCP connection instead; over a Unix socket it cannot tell that a
    /// line is too long: send to a listener of another format to know.) A line of only Ctrl-D, or
    /// telnet's end of file, ends a client of a `text` listener: what follows is a failure. For one
    /// that does not close (`--half-close keep`): 2 s after its machine acknowledged everything, or over
    /// a Unix socket it has read everything; but only if anything came from it, else it is a failure
    /// after 10 s: it may not even have accepted the connection.
    #[arg(long)]
    pub send_only: bool,

    /// No prompt, and nothing made visible: a terminal is read and written like a pipe
    #[arg(long, conflicts_with = "interactive")]
    pub plain: bool,

    /// A prompt, in whatever terminal standard input and output are
    #[arg(long, conflicts_with = "listen_only")]
    pub interactive: bool,

    /// Say nothing on stderr but why it failed
    #[arg(long, short)]
    pub quiet: bool,
}

/// What `linehub connect --help` ends with.
const CONNECT_MORE: &str = "\
Examples:
  Talk to the daemon on this machine.
    $ linehub connect

  Send a file and know whether the daemon took it all.
    $ linehub connect --send-only 127.0.0.1:2345 < lines && echo sent

  Record what comes, over restarts of the daemon.
    $ linehub connect --listen-only unix:/run/linehub.sock >> lines

Exit codes:
  0  All was sent and the daemon closed in answer; or a person left; or nobody reads standard output
     any more.
  1  No connection could be made, or it ended before that: what came after is missing, and lines may
     not have been sent. With --retry only if trying again cannot help.
  2  A wrong option or address.";

/// What `linehub bench` takes: values as they were typed, which `bench::plan` reads.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
pub struct BenchArgs {
    /// The daemon to load; without one, a daemon of its own on a free port
    ///
    /// The own daemon is this very program, ended with the run. Variables such as LINEHUB_BUFFER and
    /// LINEHUB_SLOW_CLIENT set its options.
    #[arg(value_name = "HOST:PORT|unix:PATH")]
    pub address: Option<String>,

    /// Send from N connections [default: 1]
    #[arg(long, value_name = "N", help_heading = LOAD, allow_hyphen_values = true)]
    pub senders: Option<String>,

    /// Receive on N connections, each of which is checked [default: 100]
    #[arg(long, value_name = "N", help_heading = LOAD, allow_hyphen_values = true)]
    pub readers: Option<String>,

    /// Send lines of SIZE without their LF [default: 64]
    ///
    /// 20 bytes to 1MiB: a line carries who sent it, its number and when it was due.
    #[arg(long, value_name = "SIZE", help_heading = LOAD, allow_hyphen_values = true)]
    pub size: Option<String>,

    /// Send N lines a second, all senders together [default: 0]
    ///
    /// Each line has a time at which it is due, and its latency counts from then, however late it
    /// could be sent. 0: as fast as the daemon takes them, with at most 4MiB on their way.
    #[arg(long, value_name = "N", help_heading = LOAD, allow_hyphen_values = true)]
    pub rate: Option<String>,

    /// Connect N more readers that never read [default: 0]
    ///
    /// They have small receive buffers. The daemon is expected to close them as slow as soon as its
    /// buffer is full; the report lists them and why they were closed.
    #[arg(long, value_name = "N", help_heading = LOAD, allow_hyphen_values = true)]
    pub stuck: Option<String>,

    /// Send for this long [default: 10s]
    ///
    /// 10ms to 12h. Ctrl-C ends it early, and what was measured until then is reported.
    #[arg(long, value_name = "DURATION", help_heading = LOAD, allow_hyphen_values = true)]
    pub duration: Option<String>,

    /// The format of the daemon's lines: text, raw or json [default: text, or as the daemon speaks]
    #[arg(long, value_name = "FMT", help_heading = LOAD, allow_hyphen_values = true)]
    pub format: Option<String>,

    /// Run once for each of several values, as in readers=1,10,100,1000
    ///
    /// For senders, readers, size, rate or stuck. An own daemon is started anew for each run.
    #[arg(long, value_name = "NAME=A,B,...", help_heading = REPORT, allow_hyphen_values = true)]
    pub sweep: Option<String>,

    /// Print the report as one JSON document, an array with --sweep
    #[arg(long, help_heading = REPORT)]
    pub json: bool,

    /// Draw latency and throughput over time into FILE, an SVG
    #[arg(long, value_name = "FILE.svg", help_heading = REPORT, value_hint = ValueHint::FilePath)]
    #[arg(conflicts_with = "sweep")]
    pub plot: Option<PathBuf>,
}
