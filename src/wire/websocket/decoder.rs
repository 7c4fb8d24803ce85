//! A client's frames, across reads, out of which its lines are taken in place.

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::frame::{FIN, Opcode, append_frame};
use crate::wire::compact::keep;
use crate::wire::telnet::HEADROOM;

/// Bytes of the payload of a control frame at most.
const CONTROL_BYTES_MAX: u64 = 125;

/// Bytes of a header at most: two, eight of a length, four of a mask.
const HEADER_BYTES_MAX: usize = 14;

/// Reads one client's frames, across reads. What it knows is what a handover saves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrameDecoder {
    /// What there is of the header that is not whole yet.
    header: ByteBuf,
    /// The frame whose payload comes.
    frame: Option<Frame>,
    /// The message that has begun and not ended.
    message: Option<Message>,
    /// What there is of the payload of a control frame.
    control: ByteBuf,
    /// The status that the peer's close frame gave, if one has come.
    status: Option<Option<u16>>,
}

/// A frame whose payload comes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Frame {
    /// The opcode of a control frame; `None` for a part of a message.
    control: Option<u8>,
    ends_message: bool,
    /// Bytes of its payload that are still to come.
    left: u64,
    /// The mask, turned so that its first byte is that of the next byte.
    mask: [u8; 4],
}

/// A message that has begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Message {
    is_text: bool,
    /// Bytes of a character that is not whole yet.
    begun_char: ByteBuf,
    /// Whether the last byte that came of it was LF.
    ends_in_lf: bool,
}

/// Why nothing more is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecoderEnd {
    /// The peer has said that it closes.
    Closed,
    /// A frame is not as it has to be: in what way.
    Wrong(&'static str),
    /// A message of text is not UTF-8.
    NotUtf8,
}

impl DecoderEnd {
    /// In words for the peer.
    pub fn detail(self) -> &'static str {
        match self {
            DecoderEnd::Closed => "closed",
            DecoderEnd::Wrong(what) => what,
            DecoderEnd::NotUtf8 => "a text message is not UTF-8",
        }
    }
}

impl FrameDecoder {
    /// Takes the messages out of what was read, in place, each as a line: what it says, and LF unless it ends in one.
    /// Appends the answers to pings, which are shorter than these.
    ///
    /// The bytes read are `buf[HEADROOM..]`; those of `buf[..HEADROOM]` are free to be overwritten. Returns the lines,
    /// the last perhaps not whole, and why nothing more is read, if that is so: then what follows is lost.
    pub fn decode<'a>(
        &mut self,
        buf: &'a mut [u8],
        answers: &mut Vec<u8>,
    ) -> (&'a mut [u8], Option<DecoderEnd>) {
        let (mut kept, mut at) = (0, HEADROOM);
        let mut ended = None;
        // A frame without a payload ends with its header.
        while ended.is_none() && self.status.is_none() {
            let Some(frame) = &mut self.frame else {
                if at == buf.len() {
                    break;
                }
                self.header.push(buf[at]);
                at += 1;
                ended = self.read_header().err();
                continue;
            };
            if frame.left > 0 {
                if at == buf.len() {
                    break;
                }
                let come = usize::try_from(frame.left).unwrap_or(usize::MAX);
                let end = at + come.min(buf.len() - at);
                let payload = &mut buf[at..end];
                unmask(payload, &mut frame.mask);
                frame.left -= payload.len() as u64;
                match (frame.control, &mut self.message) {
                    (Some(_), _) => self.control.extend_from_slice(payload),
                    (None, Some(message)) => {
                        if message.is_text && !message.takes(payload) {
                            ended = Some(DecoderEnd::NotUtf8);
                            break;
                        }
                        message.ends_in_lf = payload.ends_with(b"\n");
                        kept = keep(buf, kept, at..end);
                    }
                    (None, None) => {}
                }
                at = end;
                continue;
            }
            let Frame {
                control,
                ends_message,
                ..
            } = *frame;
            self.frame = None;
            match control {
                Some(opcode) => ended = self.take_control(opcode, answers).err(),
                None if ends_message => {
                    let message = self.message.take();
                    if message.as_ref().is_some_and(|it| !it.begun_char.is_empty()) {
                        ended = Some(DecoderEnd::NotUtf8);
                    } else if !message.is_some_and(|it| it.ends_in_lf) {
                        // Its header had more bytes than this one.
                        buf[kept] = b'\n';
                        kept += 1;
                    }
                }
                None => {}
            }
        }
        if self.status.is_some() {
            ended = ended.or(Some(DecoderEnd::Closed));
        }
        (&mut buf[..kept], ended)
    }

    /// The status that the peer closed with, if it has closed and given one.
    pub fn status(&self) -> Option<u16> {
        self.status?
    }

    /// Whether the peer has closed.
    pub fn is_closed(&self) -> bool {
        self.status.is_some()
    }

    /// Looks at the header, if it is whole: a frame begins.
    fn read_header(&mut self) -> Result<(), DecoderEnd> {
        let header = self.header.as_slice();
        let [first, second, rest @ ..] = header else {
            return Ok(());
        };
        if second & 0x80 == 0 {
            return Err(DecoderEnd::Wrong("a frame without a mask"));
        }
        let length_bytes = match second & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        debug_assert!(header.len() <= HEADER_BYTES_MAX);
        if rest.len() < length_bytes + 4 {
            return Ok(());
        }
        let (length, mask) = rest.split_at(length_bytes);
        let left = match length.is_empty() {
            true => u64::from(second & 0x7f),
            false => length
                .iter()
                .fold(0, |so_far, byte| so_far << 8 | u64::from(*byte)),
        };
        let is_shortest = match length_bytes {
            0 => true,
            2 => left > 125,
            _ => left > u64::from(u16::MAX),
        };
        if !is_shortest || left > i64::MAX as u64 {
            return Err(DecoderEnd::Wrong("a frame with a wrong length"));
        }
        let is_last = first & FIN != 0;
        let mask = [mask[0], mask[1], mask[2], mask[3]];
        let control = match (first & 0x7f, &self.message) {
            (0x0, Some(_)) => None,
            (0x0, None) => return Err(DecoderEnd::Wrong("a continuation of nothing")),
            (0x1 | 0x2, Some(_)) => return Err(DecoderEnd::Wrong("a message within a message")),
            (opcode @ (0x1 | 0x2), None) => {
                self.message = Some(Message {
                    is_text: opcode == Opcode::Text as u8,
                    begun_char: ByteBuf::new(),
                    ends_in_lf: false,
                });
                None
            }
            (opcode @ 0x8..=0xa, _) if is_last && left <= CONTROL_BYTES_MAX => Some(opcode),
            (0x8..=0xa, _) => return Err(DecoderEnd::Wrong("a control frame that is too long")),
            (0x10.., _) => return Err(DecoderEnd::Wrong("a frame with reserved bits")),
            _ => return Err(DecoderEnd::Wrong("a frame of an unknown kind")),
        };
        self.frame = Some(Frame {
            control,
            ends_message: is_last,
            left,
            mask,
        });
        self.header = ByteBuf::new();
        Ok(())
    }

    /// A control frame is whole.
    fn take_control(&mut self, opcode: u8, answers: &mut Vec<u8>) -> Result<(), DecoderEnd> {
        let payload = std::mem::take(&mut self.control);
        if opcode == Opcode::Ping as u8 {
            append_frame(Opcode::Pong, &payload, answers);
        } else if opcode == Opcode::Close as u8 {
            self.status = Some(status_of(&payload)?);
        }
        Ok(())
    }
}

impl Message {
    /// Whether what has come of the message is UTF-8 with these bytes, too, but for a character that is not whole yet.
    fn takes(&mut self, mut bytes: &[u8]) -> bool {
        while !self.begun_char.is_empty() {
            let Some((first, rest)) = bytes.split_first() else {
                return true;
            };
            self.begun_char.push(*first);
            bytes = rest;
            match std::str::from_utf8(&self.begun_char) {
                Ok(_) => self.begun_char.clear(),
                Err(error) if error.error_len().is_some() => return false,
                Err(_) => {}
            }
        }
        match std::str::from_utf8(bytes) {
            Ok(_) => true,
            Err(error) if error.error_len().is_some() => false,
            Err(error) => {
                self.begun_char
                    .extend_from_slice(&bytes[error.valid_up_to()..]);
                true
            }
        }
    }
}

/// Status of a close frame with this payload, if it has one.
fn status_of(payload: &[u8]) -> Result<Option<u16>, DecoderEnd> {
    let (status, reason) = match payload {
        [] => return Ok(None),
        [_] => return Err(DecoderEnd::Wrong("a close frame with half a status")),
        [high, low, reason @ ..] => (u16::from_be_bytes([*high, *low]), reason),
    };
    if !matches!(status, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(DecoderEnd::Wrong(
            "a close frame with a status that there is not",
        ));
    }
    match std::str::from_utf8(reason) {
        Ok(_) => Ok(Some(status)),
        Err(_) => Err(DecoderEnd::NotUtf8),
    }
}

/// Takes the mask off, and turns it so that it goes on behind these bytes.
fn unmask(bytes: &mut [u8], mask: &mut [u8; 4]) {
    let word = u64::from_ne_bytes([
        mask[0], mask[1], mask[2], mask[3], mask[0], mask[1], mask[2], mask[3],
    ]);
    let (words, rest) = bytes.as_chunks_mut::<8>();
    for chunk in words {
        *chunk = (u64::from_ne_bytes(*chunk) ^ word).to_ne_bytes();
    }
    for (byte, of_mask) in rest.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= of_mask;
    }
    mask.rotate_left(rest.len() % 4);
}
