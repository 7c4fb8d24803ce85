//! Every option of the daemon, one row each: all that the command line, the environment, the file,
//! `linehub generate` and a reload know of an option, and what [`Config`] makes of it.
//!
//! To add an option, add a row where `--help` is to show it: its help, `option(name, kind,
//! placeholder, heading, default as it is typed, when a reload applies it)`, and then the field of
//! `Config` with its doc, type and parser, `fn(&str) -> Result<T, String>`. That makes it
//! known: whoever goes by it takes it from the `Config` it is made of and follows (`ClientPolicy`, the
//! hub's `Settings`, or by [`Live::build`](super::Live::build)), and the README lists it.

use std::collections::BTreeMap;
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::address::Address;
use super::capacity::clients_that_fit;
use super::channels::{self, ChannelOptions};
use super::error::ConfigError;
use super::history::{self, HistorySync, OnHistoryError};
use super::listener::{LISTEN, ListenerDefaults, ListenerOptions, distinct};
use super::nats::{self, NatsUrl};
use super::network::network;
use super::rate;
use super::raw::{Options, RawValue};
use super::read::{each, one};
use super::spec::Kind::{List, Switch, Value, Word};
use super::spec::{Applies, Difference, NONE, OptionSpec, options};
use super::tokens::{self, Tokens};
use super::values::{self, Grace};
use super::words::{self, HalfClose, LogLevel, LongLine, SlowClient};
use crate::wire::channel::ChannelName;
use crate::wire::format::Format;

/// Headings of `--help`, in the order they are shown.
pub(super) const LISTENING: &str = "Listening";
pub(super) const SEEN: &str = "What clients see";
pub(super) const ACCESS: &str = "Who comes in";
pub(super) const LIMITS: &str = "Limits";
pub(super) const SLOW: &str = "Slow clients";
pub(super) const HISTORY: &str = "Who was away";
pub(super) const CLUSTER: &str = "Many machines";
pub(super) const ADMIN: &str = "Watching";
/// Heading of the options about the process, which those of [`Cli`](super::cli::Cli) itself share.
pub(super) const PROCESS: &str = "Process";

options! {
    /// Accept clients here; repeatable
    ///
    /// Repeat it to listen at several addresses. An IPv6 address needs brackets: `[::]:2345`. Port 0
    /// picks a free port, which the log names. Options of this one listener follow, as in
    /// `ADDR,format=json,role=subscribe`; see Listener options below. In the file, a listener is such
    /// a text or a table with the same keys.
    option("listen", List, "HOST:PORT|unix:PATH", LISTENING, default = LISTEN, AtOnce)
    /// Where clients are accepted: at least one listener, no address twice unless its port is 0.
    listen: Vec<Arc<ListenerOptions>> = distinct(ListenerOptions::read, listener_defaults);

    /// Show the stream as text, json or raw
    ///
    /// The format of listeners that name none.
    ///
    /// text: for people. `Message from client 7: hello`, with control characters made visible.
    ///
    /// json: for programs. One object a line: {"event":"message","seq":42,"client":7,"data":"hello"}
    ///
    /// raw: for machines. The bytes of each line exactly as they came, and nothing else.
    option("format", Word(&["text", "json", "raw"]), "FMT", SEEN, default = "text", AtOnce)
    /// Format of listeners that name none.
    format: Format = one(words::format);

    /// Send clients their own lines and notices too
    option("echo", Switch, "BOOL", SEEN, default = "false", AtRestart)
    /// Whether a client gets its own lines and notices.
    echo: bool = one(words::parse_bool);

    /// Send no notices that a client came or left
    ///
    /// Holds for every format. `raw` never has notices.
    option("no-notices", Switch, "BOOL", SEEN, default = "false", AtOnce)
    /// Whether clients are told who comes and leaves.
    notices: bool = one(words::parse_not);

    /// Close or keep a client that ends its input
    ///
    /// close: a client that shuts its sending side gets what was already queued for it and is
    /// closed, so that `printf 'x\n' | nc -N HOST PORT` ends.
    ///
    /// keep: it goes on receiving until it closes, so that `nc HOST PORT </dev/null` is a reader.
    option("half-close", Word(&["close", "keep"]), "close|keep", SEEN, default = "close", AtOnce)
    /// What the end of a client's input means.
    half_close: HalfClose = one(words::half_close);

    /// Let only clients from CIDR connect; repeatable
    ///
    /// CIDR is an address, or a network as ADDRESS/BITS: 10.0.0.0/8, 192.168.1.7 or 2001:db8::/32. Bits of
    /// ADDRESS behind the first BITS do not matter. IPv4 addresses are IPv4 on an IPv6 listener too, so
    /// that 0.0.0.0/0 and ::/0 together are everybody. Who is not allowed is told
    /// `Error: not allowed` and closed; so is, at a reload, who is allowed no more. Whoever connects by a
    /// Unix socket is allowed always. Holds for listeners that do not say it for themselves.
    option("allow", List, "CIDR", ACCESS, default = NONE, AtOnce)
    /// Addresses that alone may connect, to listeners that do not say; all if there are none.
    allow: Vec<IpNet> = each(network);

    /// Refuse clients from CIDR; repeatable
    ///
    /// Wins over --allow, and is written as that is. Holds for listeners that do not say it for
    /// themselves.
    option("deny", List, "CIDR", ACCESS, default = NONE, AtOnce)
    /// Addresses that may not connect, to listeners that do not say.
    deny: Vec<IpNet> = each(network);

    /// Connect at most N clients from one address
    ///
    /// An IPv6 address stands for its /64. One client more is told `Error: too many connections from
    /// ADDRESS` and closed. Clients of Unix sockets are not counted. Nobody is closed when a reload lowers N.
    /// 1 to 100000000; 0 or off: no limit.
    option("max-clients-per-address", Value, "N", ACCESS, default = "off", AtOnce)
    /// Most clients at a time from one IPv4 address, or one IPv6 /64: 1 to 100,000,000. `None`: as many as
    /// there may be in all.
    clients_per_address_max: Option<NonZeroUsize> = one(values::clients_per_address);

    /// Let one address connect at most N times a second
    ///
    /// As many may come at once after a quiet second. An IPv6 address stands for its /64. Who comes more
    /// often is told `Error: too many connections from ADDRESS` and closed. 1/s to 1099511627776/s; 0 or
    /// off: no limit.
    option("connects-per-address", Value, "N/s", ACCESS, default = "off", AtOnce)
    /// Most connects a second from one IPv4 address, or one IPv6 /64. `None`: as many as it likes.
    connects_per_address: Option<NonZeroU64> = one(rate::numbers);

    /// Certificate that listeners with `tls` show
    ///
    /// A PEM file: the certificate, and behind it those that lead to its authority. It turns nothing on:
    /// listeners with `tls` speak TLS, as in --listen '[::]:2346,tls'. Their own `tls-cert` wins. A reload
    /// reads the file again, for newcomers; what cannot be read then leaves the one in use. The log warns
    /// 14 days before it ends.
    option("tls-cert", Value, "FILE", ACCESS, default = "off", AtOnce)
    /// Certificates, as PEM, of listeners with TLS that name none.
    tls_cert: Option<PathBuf> = one(values::file);

    /// The key of --tls-cert
    ///
    /// A PEM file without a password. Nobody but the daemon should be able to read it.
    option("tls-key", Value, "FILE", ACCESS, default = "off", AtOnce)
    /// Key of `tls_cert`.
    tls_key: Option<PathBuf> = one(values::file);

    /// Take only TLS clients with a certificate of this authority
    ///
    /// A PEM file with the certificates of one or more authorities. Holds for all listeners with `tls`, and
    /// for no other.
    option("tls-client-ca", Value, "FILE", ACCESS, default = "off", AtOnce)
    /// Authorities, as PEM, that the clients of listeners with TLS need a certificate of.
    tls_client_ca: Option<PathBuf> = one(values::file);

    /// Refuse TLS clients whose certificate this list revokes
    ///
    /// A PEM file with a CRL of each authority in --tls-client-ca, and of those between. A client is
    /// refused, too, if the list of its authority is missing or out of date.
    option("tls-crl", Value, "FILE", ACCESS, default = "off", AtOnce)
    /// Lists, as PEM, of revoked certificates of clients.
    tls_crl: Option<PathBuf> = one(values::file);
    /// Ask clients of listeners with `hello` or `http` for a token in FILE
    ///
    /// They say `token=SECRET` in their hello. Who says none that is right is told `Error: not authorized`,
    /// later each time. Other listeners ask for nothing.
    ///
    /// FILE is TOML with a [[token]] for each: name, and the sha256 of the secret, as
    /// `linehub generate token NAME` prints them; or, in place of sha256, certificate: a CN or SAN of a TLS
    /// client certificate, which is then the token. role, channels and expires narrow what it is good for; a
    /// day in expires is good to its end, in UTC. A reload reads FILE again, and closes those whose token is
    /// gone.
    option("tokens", Value, "FILE|off", ACCESS, default = "off", AtOnce)
    /// Who comes in by listeners with `hello` or `http`. `None`: everybody.
    tokens: Option<Arc<Tokens>> = one(tokens::read);

    /// Close a client whose first line is an HTTP request
    ///
    /// Nothing of it is published then. Any web page can have a browser send such a request, with
    /// lines of its own behind it, to whatever the browser's machine can reach. off: it is a line as
    /// any other. Holds for listeners that do not say it for themselves.
    option("http-guard", Word(&["on", "off"]), "on|off", LIMITS, default = "on", AtOnce)
    /// Whether a client whose first line is an HTTP request is closed, by listeners that do not say.
    http_guard: bool = one(words::parse_bool);

    /// Let the page of another site at ORIGIN use the listeners with http
    ///
    /// What browsers send for a page is taken only if that page is from here: from the host that it was sent to, which
    /// has to be an IP address, localhost, an --admin-host, or the host of an ORIGIN. ORIGIN is as browsers
    /// say it, like https://feed.example or http://10.0.0.7:8080.
    option("http-origin", List, "ORIGIN", LIMITS, default = NONE, AtOnce)
    /// Origins of pages, in lower case, that may use listeners with `http` beside their own.
    http_origins: Vec<String> = each(values::origin);

    /// Connect at most N clients
    ///
    /// auto: the open-file limit, which is raised as far as the system lets it, less 64 descriptors
    /// for the daemon itself, and 40 more with --admin. One client more is told `Error: server full (N clients)` and closed.
    /// 1 to 100000000; with 0 or off only the open-file limit holds.
    option("max-clients", Value, "N", LIMITS, default = "auto", AtOnce)
    /// Most clients at a time: 1 to 100,000,000. `None`: as many as there are descriptors for.
    clients_max: Option<usize> = one(values::clients, clients_that_fit);

    /// Close a client that sends a longer line than SIZE
    ///
    /// Counts the line without its line end. 1 byte to 512MiB; cannot be off, because memory would
    /// then have no bound.
    option("max-line", Value, "SIZE", LIMITS, default = "64KiB", AtOnce)
    /// Longest line in bytes, without its line end: 1 to 512 MiB.
    line_bytes_max: usize = one(values::line_bytes);

    /// Close the client or discard the line when one is too long
    ///
    /// close: the client is told `Error: line too long (limit N bytes)` and closed.
    ///
    /// discard: only that line is dropped. It is counted, and logged once a client.
    option("long-line", Word(&["close", "discard"]), "close|discard", LIMITS, default = "close", AtOnce)
    /// What happens when a client sends a longer line than `line_bytes_max`.
    long_line: LongLine = one(words::long_line);

    /// Read at most N lines a second from a client
    ///
    /// As many may come at once after a quiet second. A client that sends more is not read from until its
    /// time has come: it has to wait, nothing of it is dropped, and nobody else notices. What one read brings
    /// may be more, and is made up for before the next. 1/s to 1099511627776/s; 0 or off: no limit.
    option("rate-lines", Value, "N/s", LIMITS, default = "off", AtOnce)
    /// Most lines a second from a client. `None`: as many as it likes.
    rate_lines: Option<NonZeroU64> = one(rate::numbers);

    /// Read at most SIZE a second from a client
    ///
    /// Counts the bytes that a client sends, line ends included. As many may come at once after a quiet
    /// second. A client that sends more has to wait, as with --rate-lines. 1/s to 1TiB/s; 0 or off: no
    /// limit.
    option("rate-bytes", Value, "SIZE/s", LIMITS, default = "off", AtOnce)
    /// Most bytes a second from a client. `None`: as many as it likes.
    rate_bytes: Option<NonZeroU64> = one(rate::bytes);

    /// Hold at most SIZE of lines not yet delivered
    ///
    /// One buffer for each channel, shared by its clients. When it is full, senders wait; see --slow-grace. At least
    /// 4KiB; cannot be off, because memory would then have no bound.
    option("buffer", Value, "SIZE", LIMITS, default = "64MiB", AtOnce)
    /// Most bytes of lines that wait for clients: at least 4 KiB.
    buffer_bytes: usize = one(values::buffer_bytes);

    /// Let clients open at most N channels
    ///
    /// Channels that a listener or a table of the configuration file names exist always. With N above
    /// 0, a client's hello may name so many others; each ends when its last client leaves, and has a
    /// buffer of --buffer of its own. 1 to 1000000; 0 or off: none.
    option("open-channels", Value, "N", LIMITS, default = "0", AtOnce)
    /// Most channels at a time that clients open by naming them: 0 to 1,000,000.
    open_channels: usize = one(values::open_channels);

    /// Close a client whose hello or TLS handshake takes longer than this
    ///
    /// Holds for listeners with `hello`, `http` or `tls`, whose clients have to do that first, both within this time.
    /// 1ms to 10y; cannot be off, because who says nothing would stay for ever.
    option("hello-timeout", Value, "DURATION", LIMITS, default = "10s", AtOnce)
    /// How long a client may take for its hello: 1 ms to 10 years.
    hello_timeout: Duration = one(values::hello_timeout);

    /// Close a client that is idle this long
    ///
    /// Idle is a client that neither sends nor takes a byte. 1ms to 10y; 0 or off: never.
    option("idle-timeout", Value, "DURATION", LIMITS, default = "off", AtOnce)
    /// How long a client may neither send nor take a byte: 1 ms to 10 years. `None`: for ever.
    idle_timeout: Option<Duration> = one(values::timeout);

    /// Give clients this long at shutdown
    ///
    /// They get what is still theirs meanwhile; who is not done by then is closed. 1ms to 10y;
    /// cannot be off, because shutdown needs an end.
    option("drain-timeout", Value, "DURATION", LIMITS, default = "5s", AtOnce)
    /// How long a shutdown waits for clients to take what is theirs: 1 ms to 10 years.
    drain_timeout: Duration = one(values::drain_timeout);

    /// What happens to a slow client
    ///
    /// A client is slow when it still needs the oldest line of a full buffer after --slow-grace.
    ///
    /// disconnect: it is told, if it takes the message, and closed.
    ///
    /// skip: it goes on with the newest line and is told how many it missed. In raw it cannot be
    /// told; the log says it.
    ///
    /// catch-up: it reads on from the history and comes back when it is there: it misses nothing and holds
    /// nobody up. What has left the history before it came so far is told as with skip. Needs --history.
    option("slow-client", Word(&["disconnect", "skip", "catch-up"]), "disconnect|skip|catch-up", SLOW, default = "disconnect", AtOnce)
    /// What happens to a client that is behind when the buffer is full.
    slow_client: SlowClient = one(words::slow_client);

    /// How long senders wait for a slow client
    ///
    /// How long the oldest line in a full buffer may wait for the clients that still need it. 1ms
    /// to 10y. 0 or off: senders never wait. forever: nothing is ever lost, and one stuck client
    /// holds up all senders until --stall-timeout closes it.
    option("slow-grace", Value, "DURATION|forever", SLOW, default = "1s", AtOnce)
    /// How long senders wait for a client that is behind when the buffer is full.
    slow_grace: Grace = one(values::grace);

    /// Close a client that takes nothing this long
    ///
    /// Counts while output waits for the client and its socket takes no byte of it. 1ms to 10y; 0
    /// or off: never.
    option("stall-timeout", Value, "DURATION", SLOW, default = "30s", AtOnce)
    /// How long a client's socket may take no byte while output waits for it: 1 ms to 10 years.
    /// `None`: for ever.
    stall_timeout: Option<Duration> = one(values::timeout);

    /// Keep the newest SIZE of each channel's lines
    ///
    /// They are kept after everybody has them, for who comes later, comes back or falls behind: `history`
    /// on a listener gives newcomers the newest, and a hello asks for them with history= or since=. Counts
    /// lines with their line ends, and what is known of each. In memory, so much for every channel, unless
    /// --history-dir keeps it on disk. 64KiB to 1TiB; 0 or off: nothing is kept.
    option("history", Value, "SIZE", HISTORY, default = "off", AtOnce)
    /// Most bytes that are kept of a channel's lines, for channels that do not say: 64 KiB to 1 TiB.
    /// 0: nothing is kept.
    history_bytes: u64 = one(history::bytes);

    /// Keep lines no longer than this
    ///
    /// Older ones are given up even if there is room for them: on disk a segment at a time, when all that is in it
    /// is older. 1ms to 10y; 0 or off: as long as there is room. Needs --history.
    option("history-age", Value, "DURATION", HISTORY, default = "off", AtOnce)
    /// How long lines are kept, in channels that do not say: 1 ms to 10 years. `None`: as long as there is
    /// room.
    history_age: Option<Duration> = one(values::timeout);

    /// Keep the history in this directory
    ///
    /// In files of its own for each channel, DIR/CHANNEL, so that the history outlives the daemon. DIR is made
    /// if it is missing, and belongs to one daemon at a time. In a service, StateDirectory= is the place:
    /// /var/lib/linehub. off: in memory, where it survives a reload and an upgrade. Needs --history.
    option("history-dir", Value, "DIR", HISTORY, default = "off", AtRestart)
    /// Where the history is kept. `None`: in memory.
    history_dir: Option<PathBuf> = one(values::file);

    /// How safe a line is before anybody gets it
    ///
    /// os: the system has it, so that it survives a crash of the daemon, but not a loss of power.
    ///
    /// DURATION: so too, and it is on the disk so long after: a loss of power costs that much at most. 1ms to
    /// 10y.
    ///
    /// always: it is on the disk. Lines wait for that together, so that many clients share one wait.
    ///
    /// What clients are told of their sessions goes by it, too. DURATION and always need --history-dir.
    option("history-sync", Value, "os|DURATION|always", HISTORY, default = "os", AtOnce)
    /// How safe a line is before anybody gets it.
    history_sync: HistorySync = one(history::sync);

    /// What happens when the history cannot be written
    ///
    /// stop: senders wait, and nothing that was not kept is delivered; /readyz says so. It goes on by itself
    /// when a full disk has room again. After any other error it takes a restart.
    ///
    /// drop: lines go on without being kept. The history ends, and what was in it is not continued.
    option("history-error", Word(&["stop", "drop"]), "stop|drop", HISTORY, default = "stop", AtOnce)
    /// What happens when the history cannot be written.
    on_history_error: OnHistoryError = one(history::on_error);

    /// Share channels with all daemons that name this NATS; repeatable
    ///
    /// Who sends a line to one of them is heard by the clients of all, in one order that is the same everywhere,
    /// with the same notices, ids and numbers. NATS needs JetStream. URL is nats://HOST:PORT, or tls:// for TLS,
    /// with USER:PASSWORD@ or TOKEN@ before HOST if the server wants that: in --config or the environment rather
    /// than where everybody sees it. Name several servers of one NATS, and another is taken when one is away.
    ///
    /// While NATS is away, clients stay and what they send waits. --history and --history-age say what the stream
    /// of a shared channel keeps: that is its history, so that who was away goes on at whichever daemon. Those on
    /// disk are of channels that are not shared: local = true in [channel.NAME].
    option("nats", List, "URL", CLUSTER, default = NONE, AtRestart)
    /// NATS servers by which channels are shared with other daemons; none: they are not.
    nats: Vec<NatsUrl> = each(nats::url);

    /// Keep N copies of what is shared, in a cluster of NATS servers
    ///
    /// 1 to 5; 3 goes on when one of three servers is lost. Streams are made so; for one that is there, another number is an
    /// error until it is changed: nats stream edit LINEHUB_CHANNEL --replicas N. Needs --nats.
    option("nats-replicas", Value, "N", CLUSTER, default = "1", AtRestart)
    /// Copies that a cluster of NATS servers keeps of each stream: 1 to 5.
    nats_replicas: usize = one(nats::replicas);

    /// Credentials for NATS
    ///
    /// A file with a JWT and its seed, as NATS has them (.creds). Needs --nats.
    option("nats-creds", Value, "FILE", CLUSTER, default = "off", AtRestart)
    /// File with the credentials for NATS: a JWT and its seed.
    nats_creds: Option<PathBuf> = one(values::file);

    /// Seed of an nkey for NATS
    ///
    /// A file with the seed, which begins with SU. Needs --nats, and not --nats-creds.
    option("nats-nkey", Value, "FILE", CLUSTER, default = "off", AtRestart)
    /// File with the seed of the nkey for NATS.
    nats_nkey: Option<PathBuf> = one(values::file);

    /// Authorities that certificates of NATS servers are from
    ///
    /// A PEM file, in place of the authorities of the system. Connects with TLS, whatever the URL says. Needs
    /// --nats.
    option("nats-ca", Value, "FILE", CLUSTER, default = "off", AtRestart)
    /// Authorities, as PEM, that certificates of NATS servers are from. `None`: those of the system.
    nats_ca: Option<PathBuf> = one(values::file);

    /// Certificate that is shown to NATS
    ///
    /// A PEM file. Needs --nats and --nats-key.
    option("nats-cert", Value, "FILE", CLUSTER, default = "off", AtRestart)
    /// Certificate, as PEM, that is shown to NATS servers.
    nats_cert: Option<PathBuf> = one(values::file);

    /// The key of --nats-cert
    ///
    /// A PEM file.
    option("nats-key", Value, "FILE", CLUSTER, default = "off", AtRestart)
    /// Key of `nats_cert`.
    nats_key: Option<PathBuf> = one(values::file);

    /// Serve a status page and metrics over HTTP here
    ///
    /// Where RUNTIME_DIRECTORY is set, as in a service with RuntimeDirectory=, the default is the Unix
    /// socket admin.sock there.
    ///
    /// A page for people at `/`; `/metrics` for Prometheus; `/status`, `/clients` and `/closed` as
    /// JSON; `/healthz` and `/readyz` for whoever keeps the daemon running. It can only be read, by
    /// everybody who can connect: leave it on a loopback address or a Unix socket, which `linehub
    /// status` asks. Served from a thread of its own.
    option("admin", Value, "HOST:PORT|unix:PATH", ADMIN, default = "off", AtOnce)
    /// Where the status page and the metrics are served. `None`: nowhere.
    admin: Option<Address> = one(values::admin);

    /// Answer at --admin to browsers that call it NAME; repeatable
    ///
    /// A TCP admin address answers only requests that name it by an IP address, as localhost, or by
    /// one of these names, so that no web page that somebody visits can read it through a name of
    /// its own. NAME has no port.
    option("admin-host", List, "NAME", ADMIN, default = NONE, AtOnce)
    /// Names, in lower case and without a port, that `admin` answers to beside IP addresses and
    /// `localhost`.
    admin_hosts: Vec<String> = each(values::host);

    /// Run on N threads, 1 to 1024
    ///
    /// auto: as many as there are CPUs.
    option("worker-threads", Value, "N", PROCESS, default = "auto", AtRestart)
    /// Threads that serve clients: 1 to 1024.
    worker_threads: usize = one(values::worker_threads);

    /// Log error, warn, info, debug or trace, and what is above it
    ///
    /// The log goes to stderr. RUST_LOG, when set, wins. What lines contain is logged only at trace.
    option("log", Word(&["error", "warn", "info", "debug", "trace"]), "LEVEL", PROCESS, default = "info", AtOnce)
    /// Least important events that are logged, unless RUST_LOG says otherwise.
    log: LogLevel = one(words::log_level);
}

impl Config {
    /// What listeners are told that their entry leaves open, and those without an entry.
    pub fn listener_defaults(&self) -> ListenerDefaults {
        ListenerDefaults {
            format: self.format,
            http_guard: self.http_guard,
            allow: self.allow.clone(),
            deny: self.deny.clone(),
        }
    }

    /// The options of a channel; one that is not in `channels` has those of the daemon.
    pub fn channel_options(&self, name: &ChannelName) -> ChannelOptions {
        let named = self.channels.get(name).copied();
        named.unwrap_or_else(|| self.channel_defaults())
    }

    /// The options of channels without a table.
    pub(super) fn channel_defaults(&self) -> ChannelOptions {
        ChannelOptions {
            buffer_bytes: self.buffer_bytes,
            slow_client: self.slow_client,
            slow_grace: self.slow_grace,
            history_bytes: self.history_bytes,
            history_age: self.history_age,
            notices: self.notices,
            local: false,
        }
    }

    /// Reads `channels`, when all else has been.
    fn with_channels(mut self, options: &Options) -> Result<Config, ConfigError> {
        let named = self.listen.iter().map(|listener| &listener.channel);
        let tables = options.get(channels::TABLES).unwrap_or_default();
        self.channels = channels::read(named, tables, self.channel_defaults())?;
        self.check_tls(options)?;
        self.check_history(options)?;
        self.check_nats(options)?;
        self.check_http()?;
        Ok(self)
    }
}

/// What a value may depend on beside its own text: a row names a field behind its parser.
struct Context {
    listener_defaults: ListenerDefaults,
    /// Clients that the open-file limit has room for.
    clients_that_fit: usize,
}

impl Context {
    fn read(options: &Options, open_files: u64) -> Result<Context, ConfigError> {
        let format = one("format", &values_of(options, "format"), words::format)?;
        let admin = one("admin", &values_of(options, "admin"), values::admin)?;
        let http_guard = values_of(options, "http-guard");
        let http_guard = one("http-guard", &http_guard, words::parse_bool)?;
        let allow = each("allow", &values_of(options, "allow"), network)?;
        let deny = each("deny", &values_of(options, "deny"), network)?;
        let listener_defaults = ListenerDefaults {
            format,
            http_guard,
            allow,
            deny,
        };
        Ok(Context {
            listener_defaults,
            clients_that_fit: clients_that_fit(open_files, admin.is_some()),
        })
    }
}

/// The values of an option: those that were typed, or else its default.
fn values_of(options: &Options, name: &str) -> Vec<RawValue> {
    let default = || {
        let option = OptionSpec::find(OPTIONS, name)?;
        let value = Some(option.default).filter(|default| *default != NONE)?;
        Some(vec![RawValue::from(value)])
    };
    let typed = options.get(name).map(<[RawValue]>::to_vec);
    typed.or_else(default).unwrap_or_default()
}
