//! What linehub does besides serving, as it is typed.

use clap::{Args, Subcommand};

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
    Connect(ConnectArgs),
    /// Load a daemon and prove that every line reaches every reader, once, whole and in order
    Bench(BenchArgs),
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

    /// Go on, every second, in place; Ctrl-C ends it
    #[arg(long)]
    pub watch: bool,

    /// Print what the daemon says as JSON; with --watch, a line every second
    #[arg(long)]
    pub json: bool,
}

/// What `linehub connect` takes.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct ConnectArgs {
    /// The daemon to connect to
    #[arg(value_name = "HOST:PORT|unix:PATH")]
    pub address: String,
}

/// What `linehub bench` takes.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct BenchArgs {
    /// The daemon to load; without one, a daemon of its own on a free port
    #[arg(value_name = "HOST:PORT|unix:PATH")]
    pub address: Option<String>,
}
