//! What linehub does besides serving, as it is typed.

use clap::{Args, Subcommand};

#[cfg(feature = "bench")]
use super::bench::{self, BenchArgs};
#[cfg(feature = "connect")]
use super::connect::{self, ConnectArgs};
use super::history::History;
use crate::config::tokens;
use crate::config::words;
use crate::wire::channel::ChannelName;
use crate::wire::client_name::ClientName;
use crate::wire::role::Role;

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
    /// Check and print what --history-dir keeps, with the daemon running or not
    History {
        /// What to do with it.
        #[command(subcommand)]
        what: History,
    },
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
    #[cfg(feature = "connect")]
    #[command(after_help = "", after_long_help = connect::MORE)]
    Connect(Box<ConnectArgs>),
    /// Load a daemon and prove that every line reaches every reader, once, whole and in order
    ///
    /// It checks while it measures: from the first line to the last, every reader must get every line,
    /// whole, once, and in the order that is the same for all.
    #[cfg(feature = "bench")]
    #[command(after_help = "", after_long_help = bench::MORE)]
    Bench(Box<BenchArgs>),
}

/// What `linehub generate` prints.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
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
    /// A new token: the secret on stderr, and what goes into the file of --tokens on stdout
    ///
    /// Such as `linehub generate token meter-7 2> meter-7.secret >> tokens.toml`. The secret is 256 random
    /// bits and cannot be found again: the file has only its hash.
    Token(TokenArgs),
}

/// What `linehub generate token` takes.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct TokenArgs {
    /// Name of whoever comes in by it, as the log and other clients see it
    #[arg(value_name = "NAME", value_parser = tokens::client_name)]
    pub name: ClientName,

    /// Let it only publish, or only subscribe [default: both]
    #[arg(long, value_name = "both|publish|subscribe", value_parser = words::role)]
    pub role: Option<Role>,

    /// Let it join channel NAME, and no other; repeatable [default: all]
    #[arg(long, value_name = "NAME", value_parser = words::channel)]
    pub channel: Vec<ChannelName>,

    /// Let it in to the end of that day, in UTC, or to that time [default: for ever]
    #[arg(long, value_name = "DATE", value_parser = tokens::typed_expiry)]
    pub expires: Option<String>,
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
