//! A connection that is in its handshake, put away for a handover, and taken up again.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::authorizer::CutShort;
use super::shared_options::SharedOptions;
use crate::config::{Identity, ListenerOptions};
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
    /// Names of the certificate that its peer showed: its CN and its SANs.
    pub(super) certificate: Vec<String>,
    /// Who the peer is, if it has shown that.
    pub(super) identity: Option<Arc<Identity>>,
}

/// A connection that is in its handshake.
#[derive(Debug)]
pub(crate) struct PendingHandshake {
    pub(super) accepted: Accepted,
    pub(super) stream: Stream,
    pub(super) permit: ConnectionPermit,
    pub(super) stage: Stage,
    /// Why it cannot go on once its stage is cancelled.
    pub(super) cut_short: Option<CutShort>,
}

/// A stage of a handshake: what the peer is waited for. A listener asks for some of them, which come in
/// this order.
#[derive(Debug)]
pub(super) enum Stage {
    /// Its hello line.
    Hello(HelloReader),
    /// Nothing: it becomes a client.
    Join,
}

/// A connection in its handshake, without its socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SavedHandshake {
    peer: Peer,
    listener: Arc<str>,
    options: String,
    /// What has come of a hello line; `None` in another stage.
    reader: Option<HelloReaderState>,
}

impl Stage {
    /// The stage that a connection with these options begins with.
    pub(super) fn first(options: &ListenerOptions) -> Stage {
        match options.hello {
            true => Stage::Hello(HelloReader::new(options.format, options.line_end)),
            false => Stage::Join,
        }
    }
}

impl PendingHandshake {
    /// The connection as the next daemon needs it. It must not be in the hands of a task.
    pub(crate) fn save(&self) -> SavedHandshake {
        SavedHandshake {
            peer: self.accepted.peer,
            listener: self.accepted.listener.clone(),
            options: self.accepted.options.to_string(),
            reader: match &self.stage {
                Stage::Hello(reader) => Some(reader.save()),
                Stage::Join => None,
            },
        }
    }

    /// Goes on where [`PendingHandshake::save`] was called. Its time begins anew.
    ///
    /// # Errors
    /// The options cannot be read.
    pub(crate) fn restore(
        saved: SavedHandshake,
        stream: Stream,
        shared: &SharedOptions,
        permit: ConnectionPermit,
    ) -> Result<PendingHandshake, String> {
        let options = shared.share(ListenerOptions::restore(&saved.options)?);
        let reader = saved.reader;
        Ok(PendingHandshake {
            stage: match reader {
                Some(reader) => Stage::Hello(HelloReader::restore(reader, options.line_end)),
                None => Stage::first(&options),
            },
            accepted: Accepted {
                peer: saved.peer,
                listener: saved.listener,
                options,
                certificate: Vec::new(),
                identity: None,
            },
            stream,
            permit,
            cut_short: None,
        })
    }
}

impl AsFd for PendingHandshake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
