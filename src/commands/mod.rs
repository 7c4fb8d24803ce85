//! The commands beside the daemon, which look at it from outside as any client does.

pub mod bench;
pub mod connect;
pub mod generate;
pub mod status;
mod table;
mod terminal;
