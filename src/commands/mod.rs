//! The commands beside the daemon, which look at it from outside as any client does.

#[cfg(feature = "bench")]
pub mod bench;
#[cfg(feature = "connect")]
pub mod connect;
#[cfg(any(feature = "bench", feature = "connect"))]
mod daemon_line;
pub mod generate;
pub mod history;
pub mod status;
pub mod table;
mod terminal;
