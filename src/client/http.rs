//! What is different for a client that comes by HTTP: how it begins, how it is asked whether it is there, and how it
//! ends.

use super::chunks::Chunks;
use super::input::{BodyInput, Input};
use super::machine::{Client, InputState, OutputState};
use super::reader::Reader;
use super::web::Web;
use crate::hub::Condition;
use crate::net::stream::Connection;
use crate::wire::close_reason::CloseReason;
use crate::wire::format;
use crate::wire::framing::LineEnds;
use crate::wire::hello::Answer;
use crate::wire::http as answer;
use crate::wire::http::{BodyDecoder, HttpError, Response, WebRequest};
use crate::wire::line_end::LineEnd;
use crate::wire::transport::Transport;
use crate::wire::websocket::{self, Opcode};

impl<S: Connection> Client<S> {
    /// Tells a new client that its request is granted, and where it stands.
    pub(super) fn answer_request(
        &mut self,
        request: WebRequest,
        origin: Option<String>,
        answer: &Answer,
    ) {
        let WebRequest {
            transport,
            hello,
            beats,
            websocket_accept,
            takes_chunks,
            body,
        } = request;
        let response = Response {
            origin: origin.as_deref(),
        };
        let encoding = self.feed.encoding();
        let mut said = Vec::new();
        let mut input = Input::Plain;
        let mut chunks = None;
        match transport {
            Transport::WebSocket => {
                let accept = websocket_accept.unwrap_or_default();
                said = response.switching(&accept);
                input = Input::WebSocket(Box::default());
            }
            Transport::Events | Transport::Lines => {
                let head = response.stream(transport, self.options.format, takes_chunks);
                match takes_chunks {
                    true => chunks = Some(Chunks::behind(head)),
                    false => said = head,
                }
            }
            Transport::Post | Transport::Plain => {
                if !self.feed.has_session() {
                    self.feed.await_stored();
                }
                if let Some((length, waits)) = body {
                    input = Input::Body(Box::new(BodyInput {
                        decoder: BodyDecoder::new(length),
                        skip: answer.taken.unwrap_or(0),
                    }));
                    if waits {
                        said.extend_from_slice(answer::CONTINUE);
                    }
                }
            }
        }
        if transport != Transport::Post {
            let mut line = Vec::new();
            let mut answer = answer.clone();
            // Who did not choose to be without it may not know.
            let lacks_publish = !self.options.role.publishes() && hello.role.is_none();
            answer.role = lacks_publish.then_some(self.options.role);
            answer.append(self.options.format, false, &mut line);
            encoding.dress(&line, Some((answer.epoch, answer.seq)), &mut said);
        }
        self.writer.queue(&said);
        let is_complete = !matches!(input, Input::Plain) && input.is_complete();
        let line_bytes_max = self.policy.line_bytes_max();
        self.reader = Reader::behind_hello(input, LineEnds::new(LineEnd::Lf), line_bytes_max);
        self.rare.get_or_insert_default().web = Some(Web {
            transport,
            beats,
            origin: origin.map(String::into_boxed_str),
            detail: None,
            is_asked: false,
            is_over: false,
            chunks,
        });
        if transport == Transport::Post && is_complete {
            self.close(CloseReason::Eof);
        }
    }

    /// Has its peer show that it is there; whether it has not since the last time.
    pub(super) fn beat(&mut self) -> bool {
        let is_held = self.is_held();
        let subscriber = self.feed.subscriber();
        if self.output != OutputState::Streaming || subscriber.is(Condition::Blocked) {
            // What its socket does not take is the affair of the timeouts.
            return false;
        }
        // An answer that it cannot be read of is none that is missing.
        let is_unread = is_held
            || subscriber.is(Condition::Waiting)
            || subscriber.is(Condition::Throttled)
            || !matches!(self.input, InputState::Open);
        let Some(web) = self.rare.as_mut().and_then(|rare| rare.web.as_mut()) else {
            return false;
        };
        web.is_asked &= !is_unread;
        match web.transport {
            Transport::WebSocket if web.is_asked => {
                let has_all = self.stream.progress().is_ok_and(|peer| peer.has_all);
                if has_all {
                    self.reason.get_or_insert(CloseReason::Reset);
                }
                has_all
            }
            Transport::WebSocket => {
                let mut said = Vec::new();
                if !is_unread {
                    web.is_asked = true;
                    websocket::append_frame(Opcode::Ping, b"", &mut said);
                }
                if web.beats {
                    let encoding = self.feed.encoding();
                    encoding.dress(format::BEAT, None, &mut said);
                }
                if !said.is_empty() {
                    self.writer.interject(&mut self.feed, &said);
                }
                false
            }
            Transport::Events => {
                self.writer.interject(&mut self.feed, format::COMMENT);
                false
            }
            Transport::Plain | Transport::Lines | Transport::Post => false,
        }
    }

    /// Queues the last that it is told, behind all else; whether there is something.
    pub(super) fn queue_last_words(&mut self) -> bool {
        let Some(web) = self.rare.as_mut().and_then(|rare| rare.web.as_mut()) else {
            return false;
        };
        if std::mem::replace(&mut web.is_over, true) {
            return false;
        }
        let reason = self.reason.unwrap_or(CloseReason::Eof);
        let mut words = Vec::new();
        match web.transport {
            Transport::WebSocket => match (reason, self.reader.input.peer_close()) {
                (CloseReason::Reset, _) => {}
                // It gets its own status back.
                (CloseReason::Eof, Some(None)) => {
                    websocket::append_frame(Opcode::Close, b"", &mut words);
                }
                (CloseReason::Eof, Some(Some(status))) => {
                    websocket::close_frame(status, "", &mut words);
                }
                _ => {
                    // A frame may have come that is not what it is closed for.
                    let wrong = self.reader.input.wrong();
                    let wrong = wrong.filter(|_| reason == CloseReason::WebSocket);
                    let status = websocket::status_of(reason, wrong);
                    let why = wrong.map_or(reason.label(), |wrong| wrong.detail());
                    websocket::close_frame(status, why, &mut words);
                }
            },
            Transport::Events | Transport::Lines => {
                if let Some(chunks) = &mut web.chunks {
                    chunks.finish();
                }
                return web.chunks.is_some();
            }
            Transport::Post | Transport::Plain => {
                let response = Response {
                    origin: web.origin.as_deref(),
                };
                let session = self.feed.session_taken();
                let own = || self.feed.subscriber().counters.lines_in.get();
                let taken = session.unwrap_or_else(own);
                let is_cut = reason == CloseReason::Eof && !self.reader.input.is_complete();
                let reason = match reason {
                    // Others may have its session, or nobody: then nothing is said of what is stored.
                    CloseReason::Eof if session.is_some() && !self.feed.keeps_session() => {
                        CloseReason::SessionTaken
                    }
                    CloseReason::Eof if self.feed.was_refused() => CloseReason::Shutdown,
                    CloseReason::Eof if is_cut => CloseReason::BadRequest,
                    reason => reason,
                };
                words = match reason {
                    CloseReason::Eof => response.taken(taken),
                    CloseReason::Reset => Vec::new(),
                    reason => {
                        let detail = match (&web.detail, reason) {
                            (Some(detail), _) => detail.to_string(),
                            (None, CloseReason::BadRequest) if is_cut => {
                                "the body has ended too early".to_owned()
                            }
                            (None, CloseReason::BadRequest) => {
                                "invalid chunk in the body".to_owned()
                            }
                            (None, reason) => reason.label().to_owned(),
                        };
                        let detail = format!("{detail}; {taken} lines were published");
                        let status = answer::status_of(reason);
                        response.error(reason, &HttpError::new(status, detail))
                    }
                };
            }
        }
        self.writer.queue(&words);
        !words.is_empty()
    }
}
