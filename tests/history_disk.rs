//! Histories on disk: what outlives a daemon that is killed, stopped or handed over, and a disk that fails.
//!
//! What is proven is the same everywhere: of the numbers of one epoch, no reader sees one twice, in another
//! place or with another line, whatever happens to the daemon meanwhile.

mod crash;
mod events;
mod home;

pub(super) use events::{Event, Events};
pub(super) use home::Home;
