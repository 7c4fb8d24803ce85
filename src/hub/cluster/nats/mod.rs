//! JetStream, as far as channels need it: one connection, the stream of a channel, and numbers that no node had
//! before. What follows from a stream's content is known beside this module and not in it.
//!
//! | file | what it is for |
//! |---|---|
//! | `options` | what `--nats…` say → what the client library takes; files are read and URLs judged once |
//! | `connection` | how servers are chosen and retried, what is told of it, and requests that end with the connection |
//! | `ids`, `alive` | blocks of ids, and which nodes live |
//! | `open` | the stream of a channel: made, or compared with what is wanted |
//! | [`stream`] | what is asked of a stream and stored in it |
//! | [`reader`] | all that is behind a place |
//!
//! Whatever decides what was stored is asked of the stream's leader: a replica that lags may not know it.

mod alive;
mod connection;
mod error;
mod ids;
pub(crate) mod names;
mod open;
mod options;
pub(crate) mod reader;
pub(crate) mod stream;
#[cfg(test)]
mod tests;

pub(crate) use self::{
    connection::Nats,
    error::{NatsError, StreamError},
    open::StreamLimits,
    options::NatsOptions,
};
