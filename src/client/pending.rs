//! A connection that is in its handshake, put away for a handover, and taken up again.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::authorizer::CutShort;
use super::shared_options::SharedOptions;
use crate::config::{Identity, ListenerOptions};
use crate::net::access;
use crate::net::peer::Peer;
use crate::net::permits::ConnectionPermit;
use crate::net::stream::Stream;
use crate::net::tls::SavedTls;
use crate::wire::hello::{HelloReader, HelloReaderState};
use crate::wire::http::{RequestReader, RequestReaderState};

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
    /// What its proxy has said of that.
    pub(super) check: HealthCheck,
}

/// A stage of a handshake: what the peer is waited for. A listener asks for some of them, which come in
/// this order.
#[derive(Debug)]
pub(super) enum Stage {
    /// The header that says whose connection its proxy passes on. None of it is taken before all is there.
    Proxy,
    /// It agrees on TLS.
    Tls,
    /// Its hello line.
    Hello(HelloReader),
    /// The head of its HTTP request.
    Request(RequestReader),
    /// Nothing: it becomes a client.
    Join,
}

/// Whether a connection only looks whether anybody serves it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum HealthCheck {
    /// It is a client's.
    #[default]
    No,
    /// Its header names the connection itself. That is how haproxy checks in version 1, which has no LOCAL,
    /// and ends the connection; and what a load balancer says that passes on packets under the address of
    /// its client. So it is a client's if it says something, or stays.
    Perhaps,
    /// Its header says so: LOCAL.
    Yes,
}

/// A connection in its handshake, without its socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SavedHandshake {
    peer: Peer,
    listener: Arc<str>,
    options: String,
    #[serde(default)]
    stage: SavedStage,
    #[serde(default)]
    check: HealthCheck,
    /// What has come of a hello line; `None` in another stage.
    reader: Option<HelloReaderState>,
    /// What has come of a request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    request: Option<RequestReaderState>,
    #[serde(default)]
    tls: Option<SavedTls>,
    #[serde(default)]
    certificate: Vec<String>,
}

/// Which [`Stage`] it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum SavedStage {
    Proxy,
    Tls,
    #[default]
    Hello,
    Request,
    Join,
}

impl SavedHandshake {
    /// Whether its peer has agreed on TLS.
    pub(crate) fn has_tls(&self) -> bool {
        self.tls.is_some()
    }
}

impl Stage {
    /// The stage that a connection of this peer begins with.
    pub(super) fn first(options: &ListenerOptions, peer: Peer) -> Stage {
        match peer {
            Peer::Tcp(address) if access::contain(&options.proxy, address.ip()) => Stage::Proxy,
            _ => Stage::of_peer(options),
        }
    }

    /// The stage that is the first once it is known whose connection it is.
    pub(super) fn of_peer(options: &ListenerOptions) -> Stage {
        match options.tls {
            true => Stage::Tls,
            false => Stage::behind_tls(options),
        }
    }

    /// The stage that comes when TLS is agreed on, or not asked for.
    pub(super) fn behind_tls(options: &ListenerOptions) -> Stage {
        match options.hello {
            _ if options.http => Stage::Request(RequestReader::default()),
            true => Stage::Hello(HelloReader::new(options.format, options.line_end)),
            false => Stage::Join,
        }
    }
}

impl PendingHandshake {
    /// Gets ready for [`PendingHandshake::save`]; whether it can be saved.
    pub(crate) fn put_away(&mut self) -> bool {
        self.stream.put_away().is_ok()
    }

    /// The connection as the next daemon needs it. It must not be in the hands of a task.
    pub(crate) fn save(&self) -> SavedHandshake {
        SavedHandshake {
            peer: self.accepted.peer,
            listener: self.accepted.listener.clone(),
            options: self.accepted.options.to_string(),
            stage: match &self.stage {
                Stage::Proxy => SavedStage::Proxy,
                Stage::Tls => SavedStage::Tls,
                Stage::Hello(_) => SavedStage::Hello,
                Stage::Request(_) => SavedStage::Request,
                Stage::Join => SavedStage::Join,
            },
            reader: match &self.stage {
                Stage::Hello(reader) => Some(reader.save()),
                _ => None,
            },
            request: match &self.stage {
                Stage::Request(reader) => Some(reader.save()),
                _ => None,
            },
            check: self.check,
            tls: self.stream.save_tls(),
            certificate: self.accepted.certificate.clone(),
        }
    }

    /// Goes on where [`PendingHandshake::save`] was called. Its time begins anew.
    ///
    /// # Errors
    /// The options cannot be read, or the socket cannot be served.
    pub(crate) fn restore(
        saved: SavedHandshake,
        socket: OwnedFd,
        shared: &SharedOptions,
        mut permit: ConnectionPermit,
    ) -> anyhow::Result<PendingHandshake> {
        let options = ListenerOptions::restore(&saved.options).map_err(anyhow::Error::msg)?;
        let options = shared.share(options);
        let stream = Stream::restore(socket, saved.tls)?;
        if saved.stage != SavedStage::Proxy {
            permit.force_count_by(saved.peer);
        }
        Ok(PendingHandshake {
            stage: match (saved.stage, saved.reader) {
                (SavedStage::Request, _) => {
                    let request = saved.request.map(RequestReader::restore);
                    Stage::Request(request.unwrap_or_default())
                }
                (SavedStage::Proxy, _) => Stage::Proxy,
                (SavedStage::Tls, _) => Stage::Tls,
                (SavedStage::Join, _) => Stage::Join,
                (SavedStage::Hello, Some(reader)) => {
                    Stage::Hello(HelloReader::restore(reader, options.line_end))
                }
                (SavedStage::Hello, None) => Stage::behind_tls(&options),
            },
            accepted: Accepted {
                peer: saved.peer,
                listener: saved.listener,
                options,
                certificate: saved.certificate,
                identity: None,
            },
            stream,
            permit,
            cut_short: None,
            check: saved.check,
        })
    }
}

impl AsFd for PendingHandshake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
