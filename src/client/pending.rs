//! A connection that is in its handshake, put away for a handover, and taken up again.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::shared_options::SharedOptions;
use crate::config::ListenerOptions;
use crate::net::peer::Peer;
use crate::net::permits::ConnectionPermit;
use crate::net::stream::Stream;
use crate::wire::hello::{HelloReader, HelloReaderState};

/// A connection that is no client yet.
#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) peer: Peer,
    /// The listener, as it is logged.
    pub(super) listener: Arc<str>,
    pub(super) options: Arc<ListenerOptions>,
}

/// A connection that is in its handshake.
#[derive(Debug)]
pub(crate) struct PendingHello {
    pub(super) accepted: Accepted,
    pub(super) stream: Stream,
    pub(super) permit: ConnectionPermit,
    pub(super) reader: HelloReader,
}

/// A connection in its handshake, without its socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SavedHello {
    peer: Peer,
    listener: Arc<str>,
    options: String,
    reader: HelloReaderState,
}

impl PendingHello {
    /// The connection as the next daemon needs it. It must not be in the hands of a task.
    pub(crate) fn save(&self) -> SavedHello {
        SavedHello {
            peer: self.accepted.peer,
            listener: self.accepted.listener.clone(),
            options: self.accepted.options.to_string(),
            reader: self.reader.save(),
        }
    }

    /// Goes on where [`PendingHello::save`] was called. Its time for the hello begins anew.
    ///
    /// # Errors
    /// The options cannot be read.
    pub(crate) fn restore(
        saved: SavedHello,
        stream: Stream,
        shared: &SharedOptions,
        permit: ConnectionPermit,
    ) -> Result<PendingHello, String> {
        let options = shared.share(ListenerOptions::restore(&saved.options)?);
        Ok(PendingHello {
            reader: HelloReader::restore(saved.reader, options.line_end),
            accepted: Accepted {
                peer: saved.peer,
                listener: saved.listener,
                options,
            },
            stream,
            permit,
        })
    }
}

impl AsFd for PendingHello {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
