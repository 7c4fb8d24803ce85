//! One client, from its connect notice to the end of its connection.
//!
//! A client is a single task that reads and writes in the same poll: a sender that waits for the
//! buffer still takes what is its own, so it never waits for itself. It has no timer, unless it is
//! held to a rate, and, while nothing happens, no buffer; the hub's reaper tells it when its time is up.
//!
//! | file | what it has |
//! |---|---|
//! | [`acceptor`] | the accept loops: who becomes a client |
//! | [`entrance`] | which addresses may come in, how many and how often |
//! | [`handshake`] | what happens before that, and how a connection is refused |
//! | [`authorizer`], [`guesses`] | by what a connection shows who it is, and how fast that can be guessed |
//! | [`machine`] | one client: the states of its input and its output |
//! | [`reader`], [`writer`] | bytes to lines, and lines to bytes |
//! | [`input`] | what bytes go through before they are lines: telnet, frames, a body |
//! | [`http`], [`web`], [`chunks`] | what is different for a client that comes by HTTP |
//! | [`page`] | the page for browsers |
//! | [`throttle`] | a client that is held to rates |
//! | [`proxied`] | whose a connection is that a proxy passes on |
//! | [`policy`] | what all clients go by |
//! | [`set`], [`barrier`] | the tasks of all clients, and where a handover waits for them |
//! | [`snapshot`] | a client put away for a handover |

pub(crate) mod acceptor;
mod authorizer;
mod barrier;
mod chunks;
mod entrance;
#[cfg(test)]
mod explore;
mod guesses;
mod handshake;
#[cfg(test)]
mod handshake_tests;
mod http;
mod input;
mod machine;
mod page;
mod pending;
mod policy;
mod proxied;
mod reader;
mod refusal;
mod set;
mod shared_options;
mod snapshot;
mod throttle;
mod web;
mod writer;

pub(crate) use authorizer::Authorizer;
pub(crate) use entrance::Entrance;
pub(crate) use handshake::{HandshakeContext, HandshakeTurns};
pub(crate) use machine::Client;
pub(crate) use pending::{PendingHandshake, SavedHandshake};
pub(crate) use policy::ClientPolicy;
pub(crate) use set::{Clients, Frozen};
pub(crate) use shared_options::SharedOptions;
pub(crate) use snapshot::SavedClient;
