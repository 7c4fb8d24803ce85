//! `linehub bench`, as it is typed.

use std::path::PathBuf;

use clap::{Args, ValueHint};

use super::tls::TlsArgs;
use crate::config::words;
use crate::wire::channel::ChannelName;

/// The headings of `linehub bench --help`.
const LOAD: &str = "Load";
const REPORT: &str = "Report";

/// What `linehub bench --help` ends with.
pub(super) const MORE: &str = "\
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

    /// Load channel NAME of a listener with `hello`: each connection asks for it in its hello
    ///
    /// And for the format of --format. The channel has to be there, or the daemon has to have
    /// `--open-channels`. One more connection tries first whether the listener takes a hello, which to one
    /// without `hello` is a line. An own daemon has both.
    #[arg(long, value_name = "NAME", help_heading = LOAD, value_parser = words::channel)]
    pub channel: Option<ChannelName>,

    /// Say the token in FILE in each hello, to a daemon with --tokens
    ///
    /// FILE has the token alone. Without it, LINEHUB_TOKEN says it.
    #[arg(long, value_name = "FILE", help_heading = LOAD, value_hint = ValueHint::FilePath)]
    #[arg(requires = "channel")]
    pub token_file: Option<PathBuf>,

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

    /// TLS of the connections.
    #[command(flatten)]
    pub tls: TlsArgs,
}
