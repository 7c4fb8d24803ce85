//! The hello line out of the bytes that come first, and nothing of those after it.

use std::mem;

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use zeroize::Zeroizing;

use super::line::HELLO_BYTES_MAX;
use crate::wire::format::Format;
use crate::wire::framing::{LineEndState, LineEnds, Translated};
use crate::wire::line_end::LineEnd;
use crate::wire::telnet::{HEADROOM, Telnet, TelnetState, YES};

/// Most bytes that are taken up to the end of the hello line: four times as many as it may have. The
/// others are telnet commands, of which a client sends some 60 bytes first.
pub(super) const INPUT_BYTES_MAX: usize = 4 * HELLO_BYTES_MAX;

/// Reads one hello line, across reads. How its bytes arrive makes no difference, and what stands
/// behind it is left alone, for the client's reader to take as if it had just been read.
#[derive(Debug)]
pub struct HelloReader {
    /// For a listener of `text`, whose clients may be telnet.
    telnet: Option<Telnet>,
    line_ends: LineEnds,
    /// What there is of the line, which may have a token in it.
    line: Zeroizing<Vec<u8>>,
    /// Bytes taken so far.
    taken: usize,
    /// "Are you there" was answered, which is done once before the hello.
    said_yes: bool,
    /// The line is whole: it was put back.
    is_whole: bool,
}

/// A [`HelloReader`] as a handover saves it, less what ends its lines.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HelloReaderState {
    telnet: Option<TelnetState>,
    line_ends: LineEndState,
    line: ByteBuf,
    taken: usize,
    said_yes: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    is_whole: bool,
}

fn is_false(it: &bool) -> bool {
    !it
}

/// What has come of the hello line.
#[derive(Debug, PartialEq, Eq)]
pub enum HelloInput<'a> {
    /// A part of it.
    Pending,
    /// All of it.
    Line {
        /// The line for [`parse`](super::parse): without its LF, but with the CR before that.
        line: Zeroizing<Vec<u8>>,
        /// Bytes of this read that come after its line end, as they arrived.
        rest: &'a [u8],
    },
    /// It is longer than it may be, whatever follows.
    TooLong,
    /// None, and none will come: the client wants to leave, by the command for that.
    Left,
}

impl HelloReader {
    /// That of a connection by a listener with this format and line end.
    pub fn new(format: Format, line_end: LineEnd) -> HelloReader {
        HelloReader {
            telnet: (format == Format::Text).then(|| Telnet::for_lines_in(line_end)),
            line_ends: LineEnds::new(line_end),
            line: Zeroizing::default(),
            taken: 0,
            said_yes: false,
            is_whole: false,
        }
    }

    /// How far it has come.
    pub fn save(&self) -> HelloReaderState {
        HelloReaderState {
            telnet: self.telnet.as_ref().map(Telnet::save),
            line_ends: self.line_ends.state(),
            line: ByteBuf::from(self.line.as_slice()),
            taken: self.taken,
            said_yes: self.said_yes,
            is_whole: self.is_whole,
        }
    }

    /// Goes on where [`save`](HelloReader::save) was called.
    pub fn restore(saved: HelloReaderState, line_end: LineEnd) -> HelloReader {
        HelloReader {
            telnet: saved.telnet.as_ref().map(Telnet::restore),
            line_ends: LineEnds::resume(line_end, saved.line_ends),
            line: Zeroizing::new(saved.line.into_vec()),
            // Whatever is written there, it has no more than its bytes to come.
            taken: saved.taken.min(INPUT_BYTES_MAX + 1),
            said_yes: saved.said_yes,
            is_whole: saved.is_whole,
        }
    }

    /// Puts the line back that was taken, to be taken again by [`take_back`](HelloReader::take_back): perhaps in
    /// another daemon.
    pub fn put_back(&mut self, line: Zeroizing<Vec<u8>>) {
        (self.line, self.is_whole) = (line, true);
    }

    /// The line, if it was put back.
    pub fn take_back(&mut self) -> Option<Zeroizing<Vec<u8>>> {
        mem::take(&mut self.is_whole).then(|| mem::take(&mut self.line))
    }

    /// Takes the bytes of one read up to the end of the hello line. Answers to telnet commands are
    /// appended to `answers`, and are no longer than these but for one of 16 bytes.
    pub fn push<'a>(&mut self, bytes: &'a [u8], answers: &mut Vec<u8>) -> HelloInput<'a> {
        for (at, byte) in bytes.iter().enumerate() {
            if self.is_too_long() {
                break;
            }
            if self.take(*byte, answers) {
                return HelloInput::Line {
                    line: mem::take(&mut self.line),
                    rest: &bytes[at + 1..],
                };
            }
        }
        if self.is_too_long() {
            HelloInput::TooLong
        } else if self.telnet.as_ref().is_some_and(Telnet::wants_to_leave) {
            HelloInput::Left
        } else {
            HelloInput::Pending
        }
    }

    /// The input has ended: what there is of the line is all of it. `None` if that is nothing.
    pub fn finish(&mut self) -> Option<Zeroizing<Vec<u8>>> {
        let stray = self.telnet.as_mut().and_then(Telnet::finish);
        self.append(stray.as_slice());
        (!self.line.is_empty()).then(|| mem::take(&mut self.line))
    }

    /// Whether an answer in `text` is to end in CR LF, since the client's own line did.
    pub fn crlf(&self) -> bool {
        self.telnet.as_ref().is_some_and(Telnet::crlf)
    }

    /// What a client with this format goes on with behind its hello.
    pub fn into_input(self, format: Format) -> (Option<Telnet>, LineEnds) {
        let fresh = || Telnet::for_lines_in(self.line_ends.line_end());
        let telnet = (format == Format::Text).then(|| self.telnet.unwrap_or_else(fresh));
        (telnet, self.line_ends)
    }

    /// Takes one byte. Whether the line has ended with it.
    ///
    /// One at a time, since telnet and line ends are to stand as they are behind the last byte of the
    /// line, and no line is long.
    fn take(&mut self, byte: u8, answers: &mut Vec<u8>) -> bool {
        self.taken += 1;
        let mut buf = [0; HEADROOM + 1];
        buf[HEADROOM] = byte;
        let mut answer = Vec::new();
        let data = match &mut self.telnet {
            Some(telnet) => telnet.filter(&mut buf, &mut answer),
            None => &mut buf[HEADROOM..],
        };
        if answer != YES || !mem::replace(&mut self.said_yes, true) {
            answers.extend_from_slice(&answer);
        }
        let Translated { held, data } = self.line_ends.translate(data);
        // What was held back before the byte is no LF, so that only the last can be one.
        let payload = data.strip_suffix(b"\n");
        self.append(held);
        self.append(payload.unwrap_or(data));
        payload.is_some()
    }

    /// Appends to the line. Memory that it grows out of is overwritten.
    fn append(&mut self, bytes: &[u8]) {
        let len = self.line.len() + bytes.len();
        if len > self.line.capacity() {
            let mut grown = Zeroizing::new(Vec::with_capacity(len.next_power_of_two().max(64)));
            grown.extend_from_slice(&self.line);
            self.line = grown;
        }
        self.line.extend_from_slice(bytes);
    }

    /// Whether the line is too long already. A CR at its end may be one of its line end.
    fn is_too_long(&self) -> bool {
        let line = self.line.strip_suffix(b"\r").unwrap_or(&self.line);
        line.len() > HELLO_BYTES_MAX || self.taken > INPUT_BYTES_MAX
    }
}
