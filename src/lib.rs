//! linehub broadcasts lines over TCP: whatever one client sends as a line, every other client
//! receives, in one order that is the same for all.
//!
//! This is the map of the house. The binary, `main.rs`, parses the command line,
//! starts the log and the runtime, and turns the outcome into an exit code.
//!
//! ```text
//! bytes ─► telnet ─► framing ─► HUB (budget, order) ─► Feed ─► format (once per format) ─► bytes
//!               client/reader        hub                            client/writer
//! ```
//!
//! | room | what it is for |
//! |---|---|
//! | [`cli`] → [`config`] | what a person types → what the daemon runs on: validated once, immutable |
//! | [`server`] | puts the rooms together and owns their order |
//! | [`lifecycle`] | phases and signals |
//! | [`listen`] | TCP, Unix and inherited sockets → one `Listener`, one `Stream` |
//! | [`accept`] | the accept loop: admission, refusal, errors |
//! | [`limits`] | the open-file limit, and the places for clients under it |
//! | [`client`] | one client: its life, its reader, its writer |
//! | [`close`] | every reason a connection ends for |
//! | [`framing`], [`telnet`], [`mod@format`] | bytes ↔ lines, telnet out of bytes, lines → `text`, `json`, `raw` |
//! | [`handover`] | saved state, and its two ways to the next daemon |
//! | [`hub`] | publish, subscribe, the buffer's budget, who is behind |
//! | [`generate`] | units, configuration, man page and completions that the binary prints |
//! | [`admin`] | the status page, the metrics and what else an operator sees, over HTTP |
//! | [`counters`] | what happens to the daemon itself, counted |
//! | [`ids`], [`peer`] | the numbers a client can see, and who it is |
//! | [`logging`], `log_queue` | log lines to stderr, for people or for the journal; nobody waits for who reads them |
//! | `clock`, [`memory`] | time in which the process ran; what is asked of the allocator |
//! | `http` | what a request looks like, so that a web page is no client |
//! | `rest` | in debug builds: at rest, one more poll of everything changes nothing |
//! | [`systemd`] | the service manager: inherited sockets, notifications, watchdog, descriptor store |
//!
//! Beside the daemon, from its outside like any other client of it:
//!
//! | room | what it is for |
//! |---|---|
//! | [`status`] | `linehub status`: what the admin server of a daemon says, in a terminal |
//! | [`connect`] | `linehub connect`: a client that does it well |
//! | [`mod@bench`] | `linehub bench`: load for a daemon, and proof of what it promises |
//! | [`table`] | columns that line up, for what these print |
//!
//! The rules of the rooms:
//!
//! 1. `framing`, `telnet`, `format` are pure: no await, no log, no clock, no socket.
//! 2. Only `hub` knows how lines travel. Only `listen`, `systemd` and `handover` know
//!    kinds of sockets; of the commands, what connects them.
//! 3. A client never sees another client: only the hub and its feed.
//! 4. No lock is held across an await; a published read takes the hub's lock once.
//! 5. Every queue has a bound, in the configuration or named beside the queue.
//! 6. One word for one idea: client, line, message, notice, feed, batch, buffer, drain.

mod accept;
mod admin;
pub mod bench;
pub mod cli;
mod client;
mod clock;
pub mod close;
pub mod config;
pub mod connect;
mod counters;
pub mod format;
pub mod framing;
pub mod generate;
pub mod handover;
mod http;
mod hub;
pub mod ids;
pub mod lifecycle;
pub mod limits;
pub mod listen;
mod log_queue;
pub mod logging;
pub mod memory;
mod peer;
#[cfg(debug_assertions)]
mod rest;
pub mod server;
pub mod status;
pub mod systemd;
mod table;
pub mod telnet;
