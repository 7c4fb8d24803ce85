//! Histories on disk: `DIR/CHANNEL/` has the segments of a channel, append-only files named after their first
//! number.
//!
//! [`Directory`] is the lock and what is known of the daemon before; [`Log`] is one channel. All of it is
//! synchronous: nothing here knows of tasks.
//!
//! - **Order**: records follow each other without a gap, in a file ([`codec`]) and from file to file
//!   ([`header`]).
//! - **Loss**: an append is whole or not there. What a crash leaves unfinished is cut off and said; other damage
//!   is refused with the file and the offset.
//! - **Epoch**: kept unless a number that somebody has seen could be given again.
//! - **Blocking**: readers and the one who writes never wait for each other's files.

mod active;
mod archive;
mod carried;
mod chain;
mod check;
mod codec;
mod create;
mod directory;
mod error;
mod folder;
mod group;
mod header;
mod in_place;
mod index;
mod log;
#[cfg(test)]
mod probe;
mod reading;
mod recovery;
mod retain;
mod scan;
mod segment;
mod shared;
mod storage;
#[cfg(test)]
mod tests;
mod totals;
mod undo;
mod window;
mod writer;

pub(crate) use archive::{Archive, channels};
pub(crate) use carried::SavedRecords;
pub(crate) use check::{Report, check};
pub(crate) use directory::Directory;
pub(crate) use error::{HistoryError, is_lost};
pub(crate) use log::Log;
pub(crate) use recovery::Recovered;
