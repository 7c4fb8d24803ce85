//! What a client's bytes go through before they are lines: telnet, WebSocket, or the body of a request.

use serde::{Deserialize, Serialize};

use crate::wire::close_reason::CloseReason;
use crate::wire::http::{BodyDecoder, BodyEnd};
use crate::wire::telnet::{HEADROOM, Telnet, TelnetState};
use crate::wire::websocket::{DecoderEnd, FrameDecoder};

/// What a client's bytes go through before they are lines.
#[derive(Debug)]
pub(super) enum Input {
    /// Nothing.
    Plain,
    /// Telnet, for `text`, whose clients may be that.
    Telnet(Telnet),
    /// WebSocket.
    WebSocket(Box<FrameInput>),
    /// The body of a POST.
    Body(Box<BodyInput>),
}

/// WebSocket frames, and why they ended.
#[derive(Debug, Default)]
pub(super) struct FrameInput {
    decoder: FrameDecoder,
    end: Option<DecoderEnd>,
}

/// The body of a POST.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct BodyInput {
    pub(super) decoder: BodyDecoder,
    /// Lines that were published before, or dropped, and are left out.
    pub(super) skip: u64,
}

/// An [`Input`] that is not telnet, as a handover saves it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum SavedInput {
    WebSocket(FrameDecoder),
    Body(BodyInput),
}

impl Input {
    pub(super) fn telnet(telnet: Option<Telnet>) -> Input {
        telnet.map_or(Input::Plain, Input::Telnet)
    }

    pub(super) fn save(&self) -> (Option<TelnetState>, Option<SavedInput>) {
        match self {
            Input::Plain => (None, None),
            Input::Telnet(telnet) => (Some(telnet.save()), None),
            Input::WebSocket(frames) => (None, Some(SavedInput::WebSocket(frames.decoder.clone()))),
            Input::Body(body) => (None, Some(SavedInput::Body(BodyInput::clone(body)))),
        }
    }

    /// Goes on where [`Input::save`] was called.
    pub(super) fn restore(telnet: Option<&TelnetState>, saved: Option<SavedInput>) -> Input {
        match saved {
            None => Input::telnet(telnet.map(Telnet::restore)),
            Some(SavedInput::WebSocket(decoder)) => {
                Input::WebSocket(Box::new(FrameInput { decoder, end: None }))
            }
            Some(SavedInput::Body(body)) => Input::Body(Box::new(body)),
        }
    }

    /// Takes out of what was read what is of the lines, in place: see [`Telnet::filter`].
    ///
    /// The second is why nothing more is to be read, if that is so: the first is all that is still taken.
    pub(super) fn decode<'a>(
        &mut self,
        buf: &'a mut [u8],
        answers: &mut Vec<u8>,
    ) -> (&'a mut [u8], Option<CloseReason>) {
        match self {
            Input::Plain => (&mut buf[HEADROOM..], None),
            Input::Telnet(telnet) => {
                let data = telnet.filter(buf, answers);
                (data, telnet.wants_to_leave().then_some(CloseReason::Eof))
            }
            Input::WebSocket(frames) => {
                let (data, end) = frames.decoder.decode(buf, answers);
                frames.end = end;
                let reason = end.map(|end| match end {
                    DecoderEnd::Closed => CloseReason::Eof,
                    DecoderEnd::Wrong(_) | DecoderEnd::NotUtf8 => CloseReason::WebSocket,
                });
                (data, reason)
            }
            Input::Body(body) => {
                let (data, end) = body.decoder.decode(buf);
                let data = leave_out(&mut body.skip, data);
                let reason = end.map(|end| match end {
                    BodyEnd::Complete => CloseReason::Eof,
                    BodyEnd::Wrong => CloseReason::BadRequest,
                });
                (data, reason)
            }
        }
    }

    /// Whether a line that has not ended when nothing more is read is one; `by_policy` if that is not known here.
    pub(super) fn end_is_line_end(&self, by_policy: bool) -> bool {
        match self {
            Input::Plain | Input::Telnet(_) => by_policy,
            Input::WebSocket(_) => false,
            Input::Body(body) => body.decoder.is_complete(),
        }
    }

    /// Whether all that its sender means to send has come.
    pub(super) fn is_complete(&self) -> bool {
        match self {
            Input::Body(body) => body.decoder.is_complete(),
            _ => true,
        }
    }

    /// What a WebSocket peer's close is answered with: the status that it gave, if it has closed and given one.
    pub(super) fn peer_close(&self) -> Option<Option<u16>> {
        match self {
            Input::WebSocket(frames) if frames.decoder.is_closed() => Some(frames.decoder.status()),
            _ => None,
        }
    }

    /// What was wrong with a WebSocket frame.
    pub(super) fn wrong(&self) -> Option<DecoderEnd> {
        match self {
            Input::WebSocket(frames) => frames.end,
            _ => None,
        }
    }
}

/// Leaves out so many lines, the last of which may come in part.
fn leave_out<'a>(lines: &mut u64, data: &'a mut [u8]) -> &'a mut [u8] {
    let mut from = 0;
    while *lines > 0 {
        let Some(end) = memchr::memchr(b'\n', &data[from..]) else {
            return &mut [];
        };
        (*lines, from) = (*lines - 1, from + end + 1);
    }
    &mut data[from..]
}
