//! Why a client cannot begin as it wants to.

use std::io;

/// Why a client cannot begin as it wants to.
#[derive(Debug)]
pub(crate) enum EntryError {
    /// It wants a session, and nothing is kept in the channel.
    NoHistory,
    /// It wants a session more than a channel may have.
    TooManySessions,
    /// What is kept cannot be read.
    Unreadable(io::Error),
}
