//! Sockets, the addresses and peers at their ends, and how many there may be.

pub mod inherited;
pub mod listener;
pub(crate) mod peer;
pub mod permits;
