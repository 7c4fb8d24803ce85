//! Histories on disk: what outlives a daemon that is killed, stopped or handed over, and a disk that fails.
//!
//! What is proven is the same everywhere: of the numbers of one epoch, no reader sees one twice, in another
//! place or with another line, whatever happens to the daemon meanwhile.

mod crash;
mod damage;
mod dropped;
mod events;
mod faults;
mod gone;
mod home;
mod many;
mod restart;
mod retention;
mod slow;
mod traffic;

pub(crate) use events::{Event, Events};
pub(crate) use home::{Home, first_of};
pub(crate) use traffic::Traffic;
