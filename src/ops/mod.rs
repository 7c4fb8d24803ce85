//! Operation of the daemon: signals and phases, the log, the service manager, handovers, and the admin
//! server.

pub(crate) mod admin;
mod fd_passing;
pub mod handover;
pub mod lifecycle;
mod log_format;
mod log_queue;
pub mod logging;
pub mod procfs;
pub(crate) mod secrets;
pub mod systemd;
