//! Puts the wings together, and owns their order: listeners, hub, clients, and the way down.
//!
//! ```text
//! start ─► run ─┬─► reload      SIGHUP: the configuration is read again, whole or not at all
//!               ├─► upgrade     SIGUSR2, SIGTERM under systemd: both handovers, top to bottom
//!               └─► shutdown    SIGTERM, SIGINT: a handover where one is wanted, else the drain
//! ```
//!
//! [`Server::bind`] (`start`) opens everything and serves nobody; [`Server::run`] (`run`) starts what
//! runs, and then does what it is asked to, one command after another.

mod commands;
mod reload;
#[cfg(debug_assertions)]
mod rest;
mod run;
mod running;
mod shutdown;
mod start;
mod upgrade;

pub use start::Server;
