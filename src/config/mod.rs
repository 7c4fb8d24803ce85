//! What the daemon runs on: read from what was typed, validated whole, never changed. A reload reads
//! another.

mod address;
pub mod cli;
mod file;
mod listener;
pub(crate) mod values;

use std::env;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tracing::warn;

pub use self::address::{Address, AddressError};
#[cfg(test)]
pub(crate) use self::file::parse;
pub use self::listener::ListenerOptions;
use self::values::CLIENTS_CEILING;
use crate::config::cli::{Cli, Options, RawValue};
use crate::wire::format::Format;

/// Descriptors kept back from clients: listeners, the log, the runtime's own, and connections that
/// are being refused or closed.
const DESCRIPTORS_RESERVED: u64 = 64;

/// Connections of the admin server at a time, for which descriptors are kept back from clients. One more
/// takes the place of the oldest that is not there to watch, once that has had its turn.
pub(crate) const ADMIN_CONNECTIONS_MAX: usize = 32;

/// The same for the admin server: its connections, its socket, and its runtime.
const ADMIN_DESCRIPTORS_RESERVED: u64 = ADMIN_CONNECTIONS_MAX as u64 + 8;

/// Where the daemon listens, and a client looks for it, unless it is said.
pub(crate) const LISTEN: &str = "127.0.0.1:2345";
const LINE_BYTES_MAX: usize = 64 << 10;
const BUFFER_BYTES: usize = 64 << 20;
const SLOW_GRACE: Duration = Duration::from_secs(1);
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// What the daemon runs on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where clients are accepted. At least one; no address twice, unless its port is 0.
    pub listen: Vec<Arc<ListenerOptions>>,
    /// Whether that was typed. If not, inherited sockets take its place.
    pub listen_given: bool,
    /// The format of listeners that name none.
    pub format: Format,
    /// Whether a client gets its own lines and notices.
    pub echo: bool,
    /// Whether clients are told who comes and leaves.
    pub notices: bool,
    /// What the end of a client's input means.
    pub half_close: HalfClose,
    /// The most clients at a time, at least 1. `None`: as many as there are descriptors for.
    pub clients_max: Option<usize>,
    /// The longest line in bytes, without its line end: 1 to 512 MiB.
    pub line_bytes_max: usize,
    /// What happens when a client sends a longer one.
    pub long_line: LongLine,
    /// Whether a client whose first line is an HTTP request is closed.
    pub http_guard: bool,
    /// The most bytes of lines that wait for clients, at least 4 KiB.
    pub buffer_bytes: usize,
    /// What happens to a client that is behind when the buffer is full.
    pub slow_client: SlowClient,
    /// How long senders wait for it before that.
    pub slow_grace: Grace,
    /// How long a client's socket may take no byte while output waits for it. `None`: for ever.
    pub stall_timeout: Option<Duration>,
    /// How long a client may neither send nor take a byte. `None`: for ever.
    pub idle_timeout: Option<Duration>,
    /// How long a shutdown waits for clients to take what is theirs.
    pub drain_timeout: Duration,
    /// Where the status page and the metrics are served. `None`: nowhere.
    pub admin: Option<Address>,
    /// Names, in lower case, by which they may be asked for there.
    pub admin_hosts: Vec<String>,
    /// Threads that serve clients: 1 to 1024.
    pub worker_threads: usize,
    /// What is logged, unless RUST_LOG says otherwise.
    pub log: LogLevel,
}

/// Where the configuration comes from: what was typed, and the file, which can be read again.
#[derive(Clone, Debug, Default)]
pub struct Source {
    typed: Options,
    file: Option<PathBuf>,
    open_files: u64,
    /// Where the service manager has the daemon keep its sockets: RUNTIME_DIRECTORY.
    runtime_directory: Option<String>,
}

/// What the end of a client's input means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HalfClose {
    /// The client leaves: it gets what was queued for it and is closed.
    Close,
    /// The client is a reader from now on.
    Keep,
}

/// What happens when a line is too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LongLine {
    /// The client is told and closed.
    Close,
    /// Only that line is dropped.
    Discard,
}

/// What happens to a client that is behind when the buffer is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlowClient {
    /// It is told and closed.
    Disconnect,
    /// It goes on with the newest line and is told how many it missed.
    Skip,
}

/// How long the oldest line of a full buffer may wait for the clients that still need it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grace {
    /// This long. Zero: senders never wait.
    For(Duration),
    /// Until they have it.
    Forever,
}

/// The least important events that are logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// What ended the daemon, or would have.
    Error,
    /// What an operator should look at.
    Warn,
    /// Who came and left, and what the daemon does.
    Info,
    /// What clients do wrong, and how the rooms see it.
    Debug,
    /// Everything, what lines contain included.
    Trace,
}

/// A value that is not allowed: where it was typed, what is wrong, what is allowed. One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    place: String,
    reason: String,
}

impl Source {
    /// What was typed, and the file it names. `open_files` is the open-file limit in force, in
    /// descriptors; it gives the default of `--max-clients`.
    pub fn new(cli: &Cli, open_files: u64) -> Source {
        Source {
            typed: cli.options.clone(),
            file: cli.config.clone(),
            open_files,
            runtime_directory: env::var("RUNTIME_DIRECTORY").ok(),
        }
    }

    /// Reads and checks the configuration. What was typed wins over the file, and the file over the
    /// defaults. Blocks for as long as reading the file does.
    ///
    /// # Errors
    /// The first mistake in it, or why the file cannot be read.
    pub fn read(&self) -> Result<Config, ConfigError> {
        let file = self.file.as_deref().map(file::read).transpose()?;
        let mut options = self.typed.clone().or(file.unwrap_or_default());
        // As systemd.exec(5) says, there may be several.
        let directory = self.runtime_directory.as_deref();
        if let Some(directory) = directory.and_then(|all| all.split(':').next()) {
            let admin = format!("unix:{directory}/admin.sock");
            options.admin.get_or_insert_with(|| admin.as_str().into());
        }
        Config::from_options(&options, self.open_files)
    }

    /// Warns of what is allowed and yet cannot be had.
    pub fn advise(&self, config: &Config) {
        let clients_possible = clients_that_fit(self.open_files, config.admin.is_some());
        if let Some(clients_max) = config.clients_max.filter(|max| *max > clients_possible) {
            warn!(
                clients_max,
                clients_possible, "the open-file limit allows fewer clients than --max-clients"
            );
        } else if clients_possible <= CLIENTS_FEW {
            warn!(
                open_files = self.open_files,
                clients_possible, "the open-file limit allows only few clients"
            );
        }
    }
}

impl Config {
    /// Reads and checks what was typed. `open_files` is the open-file limit in force, in
    /// descriptors; it gives the default of `--max-clients`.
    pub fn from_options(options: &Options, open_files: u64) -> Result<Config, ConfigError> {
        let typed = options;
        let format = read("format", &typed.format, values::format)?.unwrap_or(Format::Text);
        let admin = read("admin", &typed.admin, values::admin)?.unwrap_or(None);
        let fit = clients_that_fit(open_files, admin.is_some());
        Ok(Config {
            listen: listeners(typed, format)?,
            listen_given: typed.listen.is_some(),
            format,
            echo: read("echo", &typed.echo, values::parse_bool)?.unwrap_or(false),
            notices: !read("no-notices", &typed.no_notices, values::parse_bool)?.unwrap_or(false),
            half_close: read("half-close", &typed.half_close, values::half_close)?
                .unwrap_or(HalfClose::Close),
            clients_max: read("max-clients", &typed.max_clients, |text| {
                values::clients(text, fit)
            })?
            .unwrap_or(Some(fit)),
            line_bytes_max: read("max-line", &typed.max_line, values::line_bytes)?
                .unwrap_or(LINE_BYTES_MAX),
            long_line: read("long-line", &typed.long_line, values::long_line)?
                .unwrap_or(LongLine::Close),
            http_guard: read("http-guard", &typed.http_guard, values::parse_bool)?.unwrap_or(true),
            buffer_bytes: read("buffer", &typed.buffer, values::buffer_bytes)?
                .unwrap_or(BUFFER_BYTES),
            slow_client: read("slow-client", &typed.slow_client, values::slow_client)?
                .unwrap_or(SlowClient::Disconnect),
            slow_grace: read("slow-grace", &typed.slow_grace, values::grace)?
                .unwrap_or(Grace::For(SLOW_GRACE)),
            stall_timeout: read("stall-timeout", &typed.stall_timeout, values::timeout)?
                .unwrap_or(Some(STALL_TIMEOUT)),
            idle_timeout: read("idle-timeout", &typed.idle_timeout, values::timeout)?
                .unwrap_or(None),
            drain_timeout: read("drain-timeout", &typed.drain_timeout, values::drain_timeout)?
                .unwrap_or(DRAIN_TIMEOUT),
            admin,
            admin_hosts: admin_hosts(typed)?,
            worker_threads: read(
                "worker-threads",
                &typed.worker_threads,
                values::worker_threads,
            )?
            .unwrap_or_else(values::cpus),
            log: read("log", &typed.log, values::log_level)?.unwrap_or(LogLevel::Info),
        })
    }

    /// The options, by name, in which another configuration differs from this one.
    pub fn differences(&self, other: &Config) -> Vec<&'static str> {
        // Taken apart, so that an option that is added cannot be left out.
        let Config {
            listen,
            listen_given,
            format,
            echo,
            notices,
            half_close,
            clients_max,
            line_bytes_max,
            long_line,
            http_guard,
            buffer_bytes,
            slow_client,
            slow_grace,
            stall_timeout,
            idle_timeout,
            drain_timeout,
            admin,
            admin_hosts,
            worker_threads,
            log,
        } = self;
        let differ = [
            (
                "listen",
                (listen, listen_given) != (&other.listen, &other.listen_given),
            ),
            ("format", *format != other.format),
            ("echo", *echo != other.echo),
            ("no-notices", *notices != other.notices),
            ("half-close", *half_close != other.half_close),
            ("max-clients", *clients_max != other.clients_max),
            ("max-line", *line_bytes_max != other.line_bytes_max),
            ("long-line", *long_line != other.long_line),
            ("http-guard", *http_guard != other.http_guard),
            ("buffer", *buffer_bytes != other.buffer_bytes),
            ("slow-client", *slow_client != other.slow_client),
            ("slow-grace", *slow_grace != other.slow_grace),
            ("stall-timeout", *stall_timeout != other.stall_timeout),
            ("idle-timeout", *idle_timeout != other.idle_timeout),
            ("drain-timeout", *drain_timeout != other.drain_timeout),
            ("admin", *admin != other.admin),
            ("admin-host", *admin_hosts != other.admin_hosts),
            ("worker-threads", *worker_threads != other.worker_threads),
            ("log", *log != other.log),
        ];
        let names = differ.into_iter().filter(|(_, differs)| *differs);
        names.map(|(name, _)| name).collect()
    }
}

/// Where the open-file limit allows no more clients than this, it was hardly meant to.
const CLIENTS_FEW: usize = 32;

/// How many clients an open-file limit has room for, beside an admin server if there is one; at
/// least 1.
fn clients_that_fit(open_files: u64, admin: bool) -> usize {
    let reserved = match admin {
        true => DESCRIPTORS_RESERVED + ADMIN_DESCRIPTORS_RESERVED,
        false => DESCRIPTORS_RESERVED,
    };
    let clients = open_files.saturating_sub(reserved);
    usize::try_from(clients)
        .unwrap_or(usize::MAX)
        .clamp(1, CLIENTS_CEILING)
}

fn read<T>(
    option: &str,
    typed: &Option<RawValue>,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<Option<T>, ConfigError> {
    let Some(typed) = typed else { return Ok(None) };
    parse(&typed.text)
        .map(Some)
        .map_err(|reason| ConfigError::at(option, typed, reason))
}

fn admin_hosts(options: &Options) -> Result<Vec<String>, ConfigError> {
    let hosts = options.admin_host.iter().flatten().map(|typed| {
        values::host(&typed.text).map_err(|reason| ConfigError::at("admin-host", typed, reason))
    });
    hosts.collect()
}

fn listeners(options: &Options, format: Format) -> Result<Vec<Arc<ListenerOptions>>, ConfigError> {
    let default = [RawValue::from(LISTEN)];
    let mut listeners: Vec<Arc<ListenerOptions>> = Vec::new();
    for typed in options.listen.as_deref().unwrap_or(&default) {
        let at_place = |reason| ConfigError::at("listen", typed, reason);
        let new = ListenerOptions::parse(&typed.text, format).map_err(at_place)?;
        let shared = !matches!(new.address, Address::Tcp { port: 0, .. });
        if shared && listeners.iter().any(|known| known.address == new.address) {
            return Err(at_place(format!(
                "{} is given twice; allowed: once",
                new.address
            )));
        }
        listeners.push(Arc::new(new));
    }
    Ok(listeners)
}

impl ConfigError {
    fn at(option: &str, typed: &RawValue, reason: String) -> ConfigError {
        ConfigError {
            place: typed.place.name(option),
            reason,
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.reason)
    }
}

impl std::error::Error for ConfigError {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::cli::ValueSource;

    fn config(options: Options) -> Config {
        Config::from_options(&options, 1024).unwrap()
    }

    fn refused(options: Options) -> String {
        Config::from_options(&options, 1024)
            .unwrap_err()
            .to_string()
    }

    fn listen(texts: &[&str]) -> Options {
        let listen = texts.iter().map(|text| RawValue::from(*text)).collect();
        Options {
            listen: Some(listen),
            ..Options::default()
        }
    }

    fn tcp(host: &str, port: u16) -> Address {
        Address::Tcp {
            host: host.into(),
            port,
        }
    }

    #[test]
    fn nothing_typed_gives_the_documented_defaults() {
        let listen = vec![Arc::new(ListenerOptions {
            address: tcp("127.0.0.1", 2345),
            format: Format::Text,
        })];
        let expected = Config {
            listen,
            listen_given: false,
            format: Format::Text,
            echo: false,
            notices: true,
            half_close: HalfClose::Close,
            clients_max: Some(960),
            line_bytes_max: 65_536,
            long_line: LongLine::Close,
            http_guard: true,
            buffer_bytes: 67_108_864,
            slow_client: SlowClient::Disconnect,
            slow_grace: Grace::For(Duration::from_secs(1)),
            stall_timeout: Some(Duration::from_secs(30)),
            idle_timeout: None,
            drain_timeout: Duration::from_secs(5),
            admin: None,
            admin_hosts: Vec::new(),
            worker_threads: std::thread::available_parallelism().unwrap().get(),
            log: LogLevel::Info,
        };
        assert_eq!(config(Options::default()), expected);
    }

    #[test]
    fn clients_fit_into_the_open_files_less_a_reserve() {
        for (open_files, clients) in [
            (0, 1),
            (64, 1),
            (65, 1),
            (66, 2),
            (1024, 960),
            (u64::MAX, CLIENTS_CEILING),
        ] {
            assert_eq!(clients_that_fit(open_files, false), clients, "{open_files}");
        }
    }

    #[test]
    fn auto_is_the_default_in_words() {
        let auto = config(Options {
            max_clients: Some("auto".into()),
            worker_threads: Some("auto".into()),
            ..Options::default()
        });
        assert_eq!(auto, config(Options::default()));
    }

    #[test]
    fn typed_values_win_over_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("linehub.toml");
        std::fs::write(&path, "max-line = 10\nbuffer = '1MiB'\n").unwrap();
        let mut source = Source {
            typed: Options {
                max_line: Some("20".into()),
                ..Options::default()
            },
            file: Some(path.clone()),
            open_files: 1024,
            runtime_directory: None,
        };
        let config = source.read().unwrap();
        assert_eq!((config.line_bytes_max, config.buffer_bytes), (20, 1 << 20));

        std::fs::write(&path, "buffer = '2MiB'\n").unwrap();
        assert_eq!(source.read().unwrap().buffer_bytes, 2 << 20, "read again");

        source.file = Some(dir.path().join("missing"));
        let error = source.read().unwrap_err().to_string();
        let expected = "missing: cannot be read: No such file or directory (os error 2)";
        assert!(error.ends_with(expected), "{error}");

        std::fs::write(&path, b"echo = true\nformat = '\xff'\n").unwrap();
        source.file = Some(path);
        let error = source.read().unwrap_err().to_string();
        assert!(
            error.ends_with("linehub.toml:2: the text is not UTF-8"),
            "{error}"
        );
    }

    #[test]
    fn differences_are_the_names_of_options() {
        let default = config(Options::default());
        assert_eq!(default.differences(&default), [""; 0]);
        let mut other = Options::default();
        for (name, value) in other.single_valued() {
            *value = Some(match name {
                "format" => "json".into(),
                "echo" | "no-notices" => "true".into(),
                "half-close" => "keep".into(),
                "http-guard" => "off".into(),
                "long-line" => "discard".into(),
                "slow-client" => "skip".into(),
                "log" => "debug".into(),
                "admin" => "unix:/x".into(),
                "max-clients" | "worker-threads" => "77".into(),
                "max-line" | "buffer" => "7777".into(),
                _ => "77s".into(),
            });
        }
        other.admin_host = Some(vec!["status.example".into()]);
        let mut names = default.differences(&config(other.clone()));
        names.sort_unstable();
        let mut expected: Vec<_> = other.single_valued().map(|(name, _)| name).to_vec();
        // With the default format, that of the listeners changes.
        expected.extend(["listen", "admin-host"]);
        expected.sort_unstable();
        assert_eq!(names, expected);
    }

    #[test]
    fn off_means_off_where_a_limit_can_be_off() {
        let off = config(Options {
            max_clients: Some("off".into()),
            idle_timeout: Some("off".into()),
            stall_timeout: Some("0".into()),
            slow_grace: Some("off".into()),
            ..Options::default()
        });
        assert_eq!(off.clients_max, None);
        assert_eq!(off.idle_timeout, None);
        assert_eq!(off.stall_timeout, None);
        assert_eq!(off.slow_grace, Grace::For(Duration::ZERO));
    }

    #[test]
    fn off_is_refused_with_a_reason_where_there_must_be_a_limit() {
        for (off, expected) in [
            (
                Options {
                    max_line: Some("off".into()),
                    ..Options::default()
                },
                "--max-line: cannot be off: memory would have no bound; allowed: 1 byte to 512 MiB, such as 65536, 64KiB or 1MiB",
            ),
            (
                Options {
                    drain_timeout: Some("off".into()),
                    ..Options::default()
                },
                "--drain-timeout: cannot be off: shutdown needs an end; allowed: 1ms to 10y, such as 5s",
            ),
            (
                Options {
                    worker_threads: Some("0".into()),
                    ..Options::default()
                },
                "--worker-threads: cannot be 0: something has to do the work; allowed: 1 to 1024, or auto",
            ),
        ] {
            assert_eq!(refused(off), expected);
        }
        let buffer = refused(Options {
            buffer: Some("0".into()),
            ..Options::default()
        });
        assert!(buffer.starts_with("--buffer: cannot be 0: memory would have no bound"));
    }

    #[test]
    fn error_names_the_place_where_the_value_was_typed() {
        let typed = |place| {
            Some(RawValue {
                text: "12xy".into(),
                place,
            })
        };
        let file = ValueSource::File {
            path: std::path::Path::new("/etc/linehub.toml").into(),
            line: 3,
        };
        for (place, name) in [
            (ValueSource::Flag, "--max-line"),
            (ValueSource::Environment, "LINEHUB_MAX_LINE"),
            (file, "/etc/linehub.toml:3: max-line"),
        ] {
            let error = refused(Options {
                max_line: typed(place),
                ..Options::default()
            });
            let wrong =
                "'12xy' is not a size; allowed: 1 byte to 512 MiB, such as 65536, 64KiB or 1MiB";
            assert_eq!(error, format!("{name}: {wrong}"));
        }
    }

    #[test]
    fn every_option_is_read_under_its_own_name() {
        type Set = fn(&mut Options, RawValue);
        let all: [(&str, Set); 19] = [
            ("--listen", |o, wrong| o.listen = Some(vec![wrong])),
            ("--admin-host", |o, wrong| o.admin_host = Some(vec![wrong])),
            ("--admin", |o, wrong| o.admin = Some(wrong)),
            ("--format", |o, wrong| o.format = Some(wrong)),
            ("--echo", |o, wrong| o.echo = Some(wrong)),
            ("--no-notices", |o, wrong| o.no_notices = Some(wrong)),
            ("--half-close", |o, wrong| o.half_close = Some(wrong)),
            ("--max-clients", |o, wrong| o.max_clients = Some(wrong)),
            ("--max-line", |o, wrong| o.max_line = Some(wrong)),
            ("--long-line", |o, wrong| o.long_line = Some(wrong)),
            ("--http-guard", |o, wrong| o.http_guard = Some(wrong)),
            ("--buffer", |o, wrong| o.buffer = Some(wrong)),
            ("--idle-timeout", |o, wrong| o.idle_timeout = Some(wrong)),
            ("--drain-timeout", |o, wrong| o.drain_timeout = Some(wrong)),
            ("--slow-client", |o, wrong| o.slow_client = Some(wrong)),
            ("--slow-grace", |o, wrong| o.slow_grace = Some(wrong)),
            ("--stall-timeout", |o, wrong| o.stall_timeout = Some(wrong)),
            ("--worker-threads", |o, wrong| {
                o.worker_threads = Some(wrong)
            }),
            ("--log", |o, wrong| o.log = Some(wrong)),
        ];
        for (name, set) in all {
            let mut options = Options::default();
            set(&mut options, "?".into());
            let error = refused(options);
            assert!(error.starts_with(&format!("{name}: ")), "{error}");
            assert!(
                error.contains("; allowed: ") && !error.contains('\n'),
                "{error}"
            );
        }
    }

    #[test]
    fn listener_has_its_own_format_or_the_default() {
        let typed = Options {
            format: Some("json".into()),
            ..listen(&[
                "127.0.0.1:1",
                "127.0.0.1:2,format=raw",
                "unix:/x,format=text",
            ])
        };
        let expected = [
            ListenerOptions {
                address: tcp("127.0.0.1", 1),
                format: Format::Json,
            },
            ListenerOptions {
                address: tcp("127.0.0.1", 2),
                format: Format::Raw,
            },
            ListenerOptions {
                address: Address::Unix("/x".into()),
                format: Format::Text,
            },
        ];
        assert_eq!(config(typed).listen, expected.map(Arc::new));
    }

    #[test]
    fn wrong_listener_options_are_refused() {
        let unknown =
            "is unknown; allowed after the address: ,format=text, ,format=json or ,format=raw";
        for (text, wrong) in [
            ("h:1,tls=yes", format!("',tls=yes' {unknown}")),
            ("h:1,", format!("',' {unknown}")),
            ("h:1,format", format!("',format' {unknown}")),
            ("unix:/a,b", format!("',b' {unknown}")),
            (
                "h:1,format=xml",
                "'xml' is not a format; allowed: text, json or raw".to_owned(),
            ),
            (
                "h:1,format=raw,format=raw",
                "'h:1,format=raw,format=raw' has two formats; allowed: one".to_owned(),
            ),
        ] {
            assert_eq!(
                refused(listen(&[text])),
                format!("--listen: {wrong}"),
                "{text}"
            );
        }
    }

    #[test]
    fn address_given_twice_is_refused_unless_the_port_is_free_choice() {
        assert_eq!(
            refused(listen(&["[::1]:1", "h:1", "[0::1]:1,format=raw"])),
            "--listen: [::1]:1 is given twice; allowed: once"
        );
        assert!(refused(listen(&["unix:/x", "unix:/x"])).contains("unix:/x is given twice"));
        assert_eq!(
            config(listen(&["127.0.0.1:0", "127.0.0.1:0"])).listen.len(),
            2
        );
    }
}
