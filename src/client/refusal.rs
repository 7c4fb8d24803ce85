//! Refusals: why a connection does not become a client, and what its peer is told.

use std::fmt;
use std::io;
use std::mem;
use std::time::Duration;

use tracing::error;

use crate::config::ListenerOptions;
use crate::hub::{Encoding, EntryError, SessionTaken};
use crate::net::peer::Peer;
use crate::net::stream::{Connection as _, Stream};
use crate::wire::close_reason::CloseReason;
use crate::wire::format::{self, Format};
use crate::wire::hello::HelloError;
use crate::wire::http::{self, HttpError, Response, WebRequest};
use crate::wire::proxy::ProxyError;
use crate::wire::role::Role;
use crate::wire::transport::Transport;
use crate::wire::websocket;

/// How long a refused connection may take to close its side.
pub(super) const REFUSAL_TIME: Duration = Duration::from_secs(2);

/// How long a peer may take to close its side at a stop or a handover, which waits for that: time for the
/// words to be on their way.
pub(super) const END_TIME: Duration = Duration::from_millis(250);

/// Why a connection does not become a client, and what its peer is told.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) reason: CloseReason,
    /// Words for the peer. A stop has words of its own, which every client is told; a peer that has gone
    /// by itself is told nothing.
    pub(super) detail: String,
    /// Its own lines end in CR LF, and so do those to it.
    pub(super) crlf: bool,
    /// Status of the answer to a request, if it is another than that of the reason.
    pub(super) status: Option<u16>,
    /// What it gets instead of words: it asked for nothing else.
    pub(super) answer: Option<Vec<u8>>,
    /// The request that is refused, if it was read.
    pub(super) request: Option<Box<RefusedRequest>>,
}

/// What of a request tells how it is to be refused.
#[derive(Debug)]
pub(super) struct RefusedRequest {
    /// What a WebSocket handshake is answered with: browsers tell their pages nothing of one that fails.
    accept: Option<String>,
    format: Format,
    origin: Option<String>,
}

/// A request to be a client, and the origin of the page that sent it.
pub(super) type Asking = (Box<WebRequest>, Option<String>);

impl Refusal {
    fn new(reason: CloseReason, detail: impl Into<String>) -> Refusal {
        Refusal {
            reason,
            detail: detail.into(),
            crlf: false,
            status: None,
            answer: None,
            request: None,
        }
    }

    /// It is what this request is answered with, if there is one.
    pub(super) fn of(self, asking: Option<&Asking>) -> Refusal {
        let request = asking.map(|(request, origin)| {
            Box::new(RefusedRequest {
                accept: request.websocket_accept.clone(),
                format: request.hello.format.unwrap_or(Format::Json),
                origin: origin.clone(),
            })
        });
        Refusal { request, ..self }
    }

    /// It gets what it asked for, and is no client.
    pub(super) fn answered(answer: Vec<u8>) -> Refusal {
        Refusal {
            answer: Some(answer),
            ..Refusal::left()
        }
    }

    /// The server has as many clients as it may have.
    pub(super) fn full(max: usize) -> Refusal {
        Refusal::new(CloseReason::Full, format!("server full ({max} clients)"))
    }

    /// The daemon stops, or another takes its place.
    pub(super) fn stopping() -> Refusal {
        Refusal::new(CloseReason::Shutdown, "")
    }

    pub(super) fn bad_hello(detail: impl Into<String>) -> Refusal {
        Refusal::new(CloseReason::BadHello, detail)
    }

    /// What it goes on from is not stored yet, or the history not opened yet, and may never be.
    pub(super) fn not_stored(time: Duration) -> Refusal {
        let seconds = time.as_secs_f64();
        let detail = format!("the history cannot be written (waited for {seconds}s)");
        Refusal::new(CloseReason::Internal, detail)
    }

    /// Another connection has come for its session.
    pub(super) fn session_taken() -> Refusal {
        let detail = "session taken over by another connection";
        Refusal::new(CloseReason::SessionTaken, detail)
    }

    /// Its token is missing, wrong or has expired: which of them is not told.
    pub(super) fn unauthorized() -> Refusal {
        Refusal::new(CloseReason::Unauthorized, "not authorized")
    }

    /// Its token is right, and not for this.
    pub(super) fn unauthorized_for(what: impl fmt::Display) -> Refusal {
        Refusal {
            status: Some(403),
            ..Refusal::new(
                CloseReason::Unauthorized,
                format!("not authorized for {what}"),
            )
        }
    }

    /// Its address has brought so many wrong tokens that none of it was looked at in time.
    pub(super) fn too_many_guesses(peer: Peer) -> Refusal {
        let detail = format!("too many wrong tokens from {}", peer.address());
        Refusal::new(CloseReason::TooMany, detail)
    }

    /// It asks for more than its listener and its token give it.
    pub(super) fn role(asked: Role, most: Role) -> Refusal {
        let detail = format!("role {asked} is not allowed here, only {most}");
        Refusal {
            status: Some(403),
            ..Refusal::bad_hello(detail)
        }
    }

    pub(super) fn no_channel() -> Refusal {
        Refusal::new(CloseReason::NoChannel, "no such channel")
    }

    /// Its address may not connect.
    pub(super) fn denied() -> Refusal {
        Refusal::new(CloseReason::Denied, "not allowed")
    }

    /// Its address has as many clients, or comes as often, as it may.
    pub(super) fn too_many(peer: Peer) -> Refusal {
        let detail = format!("too many connections from {}", peer.address());
        Refusal::new(CloseReason::TooMany, detail)
    }

    pub(super) fn proxy(detail: impl Into<String>) -> Refusal {
        Refusal::new(CloseReason::Proxy, detail)
    }

    /// TLS could not be agreed on. The peer has been told as TLS has it.
    pub(super) fn tls(detail: impl Into<String>) -> Refusal {
        Refusal::new(CloseReason::Tls, detail)
    }

    /// The peer does not speak TLS.
    pub(super) fn tls_expected() -> Refusal {
        Refusal::new(CloseReason::Tls, "TLS expected")
    }

    /// The peer has shut its sending side, or asked to leave.
    pub(super) fn left() -> Refusal {
        Refusal::new(CloseReason::Eof, "")
    }

    /// Tells the peer, and shuts the sending side. Returns the connection if the words need it open for
    /// a while (see [`linger`]).
    ///
    /// In `raw`, which has no words, a reset says it: an end would look as if what was sent had been
    /// taken. Who is to speak TLS and does not yet would not understand words.
    pub(super) fn tell(&self, mut stream: Stream, options: &ListenerOptions) -> Option<Stream> {
        let format = options.format;
        let mut words = Vec::new();
        let is_plain = !options.tls || self.reason == CloseReason::Tls;
        match self.reason {
            _ if !stream.takes_words(is_plain) => {}
            CloseReason::Eof | CloseReason::Reset => return None,
            reason if options.http => {
                let status = self.status.unwrap_or(http::status_of(reason));
                let error = HttpError {
                    status,
                    detail: match reason {
                        CloseReason::Shutdown => "server shutting down".into(),
                        _ => self.detail.clone().into(),
                    },
                };
                let request = self.request.as_deref();
                let response = Response {
                    origin: request.and_then(|request| request.origin.as_deref()),
                };
                let upgrade =
                    request.and_then(|request| request.accept.as_ref().zip(Some(request)));
                words = match upgrade {
                    Some((accept, request)) => {
                        let (format, transport) = (request.format, Transport::WebSocket);
                        let mut line = Vec::new();
                        format::error(format, reason, &error.detail, &mut line);
                        let mut words = response.switching(accept);
                        Encoding::of(format, transport).dress(&line, None, &mut words);
                        let status = websocket::status_of(reason, None);
                        websocket::close_frame(status, reason.label(), &mut words);
                        words
                    }
                    None => response.error(reason, &error),
                };
            }
            _ if format == Format::Raw => {
                // Without the reset, the connection ends all the same.
                let _ = stream.reset_on_close();
                return None;
            }
            CloseReason::Shutdown => format::shutdown(format, &mut words),
            reason => format::error(format, reason, &self.detail, &mut words),
        }
        if self.crlf && format == Format::Text && !options.http {
            let lines = mem::take(&mut words);
            format::crlf(&lines, &mut words);
        }
        let told = stream.end_at_once(&words);
        told.is_ok().then_some(stream)
    }
}

impl From<HttpError> for Refusal {
    fn from(wrong: HttpError) -> Refusal {
        Refusal {
            status: Some(wrong.status),
            ..Refusal::new(CloseReason::BadRequest, wrong.detail)
        }
    }
}

impl From<HelloError> for Refusal {
    fn from(wrong: HelloError) -> Refusal {
        Refusal::bad_hello(wrong.to_string())
    }
}

impl From<EntryError> for Refusal {
    fn from(wrong: EntryError) -> Refusal {
        match wrong {
            EntryError::NoHistory => {
                Refusal::bad_hello("a session is asked for, but this channel keeps no history")
            }
            EntryError::TooManySessions => {
                Refusal::bad_hello("a session is asked for, but this channel has too many")
            }
            EntryError::Unreadable(error) => {
                error!(%error, "cannot read the history");
                Refusal::new(CloseReason::Internal, "the history cannot be read")
            }
        }
    }
}

impl From<SessionTaken> for Refusal {
    fn from(_: SessionTaken) -> Refusal {
        Refusal::session_taken()
    }
}

impl From<ProxyError> for Refusal {
    fn from(wrong: ProxyError) -> Refusal {
        Refusal::proxy(wrong.to_string())
    }
}

/// The connection broke in its handshake.
impl From<io::Error> for Refusal {
    fn from(_: io::Error) -> Refusal {
        Refusal::new(CloseReason::Reset, "")
    }
}

/// Waits until the peer of a refused connection closes its side, at most so long. A close over input that
/// was not read would make the kernel reset the connection, and the words with it. Cancel safe.
pub(super) async fn linger(mut stream: Stream, time: Duration) {
    // Nothing is left to be done after an error or the end of the time.
    let _ = tokio::time::timeout(time, stream.discard_input()).await;
}
