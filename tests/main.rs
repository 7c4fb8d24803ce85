//! linehub over real sockets: the built binary, driven from outside. One module a theme.

// Helpers outside `#[test]` functions are tests too: a panic is how they report.
#![allow(clippy::unwrap_used)]

mod common;

/// Who may come in: addresses, how many and how often from each, the mode of a Unix socket.
mod access;
/// What an operator sees: metrics, lists, health, and `linehub status`.
mod admin;
/// `linehub bench`: load, and proof that it finds what is wrong.
#[cfg(feature = "bench")]
mod bench;
/// Channels: each an order of its own, with a buffer of its own.
mod channels;
/// Channels that several daemons share, through a real nats-server.
#[cfg(feature = "nats")]
mod cluster;
/// The configuration file, `generate`, and SIGHUP.
mod configuration;
/// `linehub connect`, in pipes and in a terminal.
#[cfg(feature = "connect")]
mod connect;
/// `linehub connect` that goes on where it was: `--resume`, `--state`, `--session`.
#[cfg(feature = "connect")]
mod connect_resume;
/// Formats side by side: `text`, `json`, `raw`, over IPv4, IPv6 and Unix sockets.
mod formats;
/// Connections that outlive a daemon: SIGUSR2, and a service manager's restart.
mod handover;
/// The hello line: what a client may ask for, and what it is told.
mod hello;
/// What is kept for who comes late, falls behind or comes back.
mod history;
/// `linehub history`, beside the daemon and after its end.
mod history_command;
/// Histories on disk, through crashes, restarts and faults.
mod history_disk;
/// Clients that mean no good, or are broken.
mod hostile;
/// Full servers, idle clients, no more file descriptors.
mod limits;
/// What ends a line: LF, CR, NUL.
mod line_ends;
/// Listeners with options, side by side, through reloads and handovers.
mod listeners;
/// What the operator reads.
mod logging;
/// Connect and disconnect notices, ids, `--echo`, `--no-notices`.
mod notices;
/// One order for all.
mod order;
/// What the Debian package does when it comes and goes.
mod package;
/// The status page, in a browser.
mod page;
/// The programs people really use: nc, ncat, socat.
mod programs;
/// Connections of proxies: headers of the PROXY protocol, and a real haproxy.
mod proxy;
/// Clients that are held to a rate of lines or bytes.
mod rates;
/// What clients may do in their channel: `publish`, `subscribe`.
mod roles;
/// What keeps keys out of cores.
mod secrets;
/// SIGTERM, SIGINT and what clients see of it.
mod shutdown;
/// Readers that do not read, and what they cost the others.
mod slow;
/// Command line, environment, listeners, exit codes.
mod startup;
/// The map of the source, and what holds the wings to it.
mod structure;
/// What a service manager hands over and is told.
mod systemd;
/// Telnet negotiation, by hand and with the real program in a terminal.
mod telnet;
/// TLS of the daemon: versions, certificates, ends, handovers, and who means no good.
mod tls;
/// TLS from the client's side: `connect --tls`, `bench --tls`.
#[cfg(feature = "connect")]
mod tls_client;
/// Tokens: who comes in by a listener with a hello, under which name, and for how long.
mod tokens;
/// The systemd units that the binary prints, as systemd itself sees them.
mod units;
/// Taking over from a daemon of the build before.
mod upgrade;
/// Wake-ups that must not be lost: nobody waits for what has come already.
mod wakeups;
/// Clients that speak HTTP: WebSocket, server-sent events, streams, POST, and the page.
mod web;
/// Bytes to lines.
mod wire;
