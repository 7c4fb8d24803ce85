//! What a person types, and the configuration that the daemon runs on.
//!
//! ```text
//! cli: flags, variables ─┐
//!                        ├─► raw: text with its place ─► options: the table of options ─► Config
//! file: keys ────────────┘                               words, values, rate, history, listener, channels: the parsers
//!                                                        checks: what must go together
//! ```
//!
//! A value is kept as text with the place it came from until its row in `options` gives it a meaning,
//! so that it is read, and a mistake in it reported, the same way wherever it was typed. The first
//! lines of `options` say how an option is added.

mod address;
mod capacity;
mod changes;
mod channels;
mod checks;
pub mod cli;
mod error;
mod file;
mod history;
mod key;
mod listener;
mod live;
mod nats;
mod nearest;
mod network;
mod options;
mod rate;
mod raw;
mod read;
mod source;
mod spec;
#[cfg(test)]
mod tests;
mod text;
mod tokens;
pub(crate) mod values;
pub(crate) mod words;

pub use self::address::{Address, AddressError};
pub(crate) use self::capacity::ADMIN_CONNECTIONS_MAX;
pub(crate) use self::channels::CHANNEL_KEYS;
pub use self::channels::ChannelOptions;
pub use self::error::ConfigError;
#[cfg(test)]
pub(crate) use self::file::parse;
pub use self::history::{HistorySync, OnHistoryError};
#[cfg(feature = "connect")]
pub(crate) use self::listener::LISTEN;
pub(crate) use self::listener::LISTENER_KEYS;
pub use self::listener::{ListenerDefaults, ListenerOptions};
pub(crate) use self::live::Live;
pub use self::nats::NatsUrl;
pub(crate) use self::network::show_all;
pub use self::options::Config;
pub(crate) use self::options::OPTIONS;
pub use self::source::Source;
pub(crate) use self::spec::{Applies, Kind, OptionSpec};
pub(crate) use self::tokens::Identity;
pub use self::tokens::{Token, Tokens};
pub use self::values::Grace;
pub(crate) use self::values::show_mode;
pub use self::words::{HalfClose, LogLevel, LongLine, SlowClient};
