//! The other end of a connection.

use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// The other end of a connection. Displays as it is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Peer {
    /// An IPv4 peer of a dual-stack listener is shown as the IPv4 peer it is.
    Tcp(SocketAddr),
    /// Unix sockets of clients have no names.
    Unix,
}

impl Peer {
    /// The address without its port, as it is told to people.
    pub(crate) fn address(&self) -> String {
        match self {
            Peer::Tcp(address) => address.ip().to_canonical().to_string(),
            Peer::Unix => self.to_string(),
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::Tcp(address) => address.fmt(f),
            Peer::Unix => f.write_str("unix"),
        }
    }
}
