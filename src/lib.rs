//! linehub broadcasts lines over TCP: whatever one client sends as a line, every other client
//! receives, in one order that is the same for all.
//!
//! This is the map. Seven wings stand in one line, and each imports only those to its left; a test
//! holds them to it. The binary, `main.rs`, parses the command line, starts the log and the runtime,
//! and turns the outcome into an exit code.
//!
//! ```text
//! wire ◄─ config ◄─ net ◄─ hub ◄─ client ◄─ ops ◄─ commands          server puts them together
//! ```
//!
//! | wing | what it is for |
//! |---|---|
//! | [`wire`] | what goes over the wire: bytes ↔ lines, telnet, the formats, the hello line, HTTP and WebSocket, why a connection ends |
//! | [`config`] | what a person types → what the daemon runs on, validated once |
//! | [`net`] | TCP, Unix and inherited sockets → one `Listener`, one `Stream`, with TLS or without; addresses, rates, permits |
//! | [`hub`] | the channels, each with its one order, buffer, budget and history; who is behind or comes back, and what is counted of all that |
//! | `client` | accepted connections and who of them comes in; one client: its life, its reader, its writer |
//! | [`ops`] | phases and signals, the log, the service manager, handovers, the admin server |
//! | [`commands`] | `connect`, `bench`, `status`, `history`, `generate`: beside the daemon, from its outside |
//! | [`server`] | what runs and in which order: start, reload, handover, drain |
//!
//! The way of the data:
//!
//! ```text
//! client   accept ─► proxy, TLS, hello or request ─► join ─► reader         writer ─► bytes
//! wire             bytes ─► telnet, frames or a body ─► framing       ▲
//! hub                                order, budget ─► batch ─► Feed ──┘
//! ```
//!
//! The same by its functions: `Client::poll` ► `Reader::poll` (permit, read, telnet, line ends, framing) ►
//! `Feed::publish` ► `Hub::publish` (the batch takes its place, readers are woken) ┄► `Client::poll` of
//! another client ► `Writer::poll` ► `Feed::poll_more`, `gather`, `advance` ► the socket.
//!
//! With a history, a batch is recorded when it is published: in memory at once, on disk by a job
//! (`Hub::store`), which links it into the stream when it is written. Who comes back joins where
//! `Hub::enter` found (`client/handshake`), walks `Past` slices of the history (`hub/past`), and is live
//! when `Hub::rejoin` finds its place in the stream.
//!
//! A channel that daemons share (`--nats`): what its clients say goes into an `Outbox` (`hub/sharing`), from there as a
//! batch into a stream of NATS, and is published by `Hub::deliver` when it comes back, as that of all others. The task
//! between is a `Member` of `hub/cluster`, whose docs say what order all daemons see, and why.
//!
//! A signal: `ops/lifecycle` ► `Server::run` ► `server/{reload,upgrade,shutdown}`. A channel is made by
//! `Channels::set` (the configuration), `of_listener` or `open` (a hello), and ended by the reaper.
//!
//! Where something is added:
//!
//! | what | where |
//! |---|---|
//! | an option of the daemon | one row in `config/options.rs` |
//! | an option of a listener | one row in `config/listener.rs`, and its field in `Listener::log_listening`; clients have it as `ListenerOptions`, and what counts over them is in `net::listener::Listener` |
//! | an option of a channel | one row in `config/channels.rs`, and its default in `Config::channel_defaults` |
//! | what options must go together | `config/checks.rs`; what a reload leaves to a restart of it, `config/changes.rs` |
//! | a key of the hello line | `wire/hello/line.rs`, and what is granted of it in `client/handshake.rs` |
//! | a key of a token | `config/tokens.rs`, and what is granted by it in `client/handshake.rs` |
//! | a step before a connection is a client | `Acceptor::admit` in `client/acceptor.rs` if it is done at once; if it waits for the peer, a `Stage` in `client/pending.rs` and its turn in `client/handshake.rs` |
//! | a reason for a connection to end | `wire/close_reason.rs`; its words in `client/policy.rs`, or in `client/refusal.rs` if it never was a client |
//! | a format | `wire/format`: a file for it, its name in `names.rs`, and what else is said in it in `said.rs` and `hello/answer.rs` |
//! | a way for lines to go to and fro (a transport) | `wire/transport.rs`, its encoding in `hub/encoding.rs`, what its bytes go through in `client/input.rs`, how it begins and ends in `client/http.rs` |
//! | an encoding, as what a client takes the stream in | `hub/encoding.rs`, whose first lines say the rest |
//! | something that is counted | of a channel: as `discarded` goes through `Hub`, `HubStats` and `SavedHub`; of a client: `ClientCounters`; of the daemon: `Counters`; and its line in `ops/admin/metrics` |
//! | something that outlives a daemon | a field with a default in a `snapshot.rs`; `ops/handover` says when it takes a new version |
//! | what a record of the history says | `hub/history/record.rs`, its bytes in `hub/history/meta.rs`, and what a reader gets of it in `Record::batch_from` |
//! | something that a client asks of the past | `wire/past.rs`, and where it begins then in `hub/entry.rs` |
//! | a command | `config/cli/commands.rs`, and a folder in `commands` |
//!
//! The rules:
//!
//! 1. `wire` is pure: no await, no log, no clock, no socket.
//! 2. Only `hub` knows how lines travel. Only `net`, `ops::systemd` and `ops::handover` know kinds of
//!    sockets; of the commands, what connects them.
//! 3. A client never sees another client: only the hub and its feed.
//! 4. No lock is held across an await; a published read takes the hub's lock once.
//! 5. Every queue has a bound, in the configuration or named beside the queue.
//! 6. One word for one idea: listener, connection, client, line, message, notice, feed, batch,
//!    buffer, permit, drain, handover.

mod client;
pub mod commands;
pub mod config;
pub mod hub;
pub mod net;
pub mod ops;
pub mod server;
pub mod wire;
