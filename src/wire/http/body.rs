//! The body of a request, across reads, out of which its bytes are taken in place.

use serde::{Deserialize, Serialize};

use crate::wire::compact::keep;
use crate::wire::telnet::HEADROOM;

/// Most bytes that stand between two chunks, or behind the last: their extensions and trailers are nothing to us.
const BETWEEN_BYTES_MAX: u16 = 4096;

/// How a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyLength {
    /// After so many bytes.
    Bytes(u64),
    /// With a chunk of no bytes.
    Chunked,
}

/// Why nothing more is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyEnd {
    /// All of it has come.
    Complete,
    /// Its chunks are not as they have to be.
    Wrong,
}

/// Reads one body, across reads. What it knows is what a handover saves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BodyDecoder {
    state: State,
    /// Bytes since the last of the data that are none.
    between: u16,
}

/// What the next byte is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum State {
    /// One of so many that are left, with nothing behind them.
    Bytes(u64),
    /// A digit of a chunk's size, which is this so far.
    Size {
        so_far: u64,
        has_begun: bool,
    },
    /// Something behind the size, which is this.
    Extension(u64),
    /// The LF behind the size.
    SizeEnd(u64),
    /// One of so many bytes of a chunk that are left.
    Data(u64),
    /// The CR behind a chunk's data, and the LF.
    DataCr,
    DataLf,
    /// A trailer, in whose line there is something already or not; and the LF that ends it.
    Trailer {
        is_empty: bool,
    },
    TrailerEnd {
        is_empty: bool,
    },
    /// None: all has come.
    Complete,
}

impl BodyDecoder {
    /// That of a body of which nothing has come.
    pub fn new(length: BodyLength) -> BodyDecoder {
        BodyDecoder {
            state: match length {
                BodyLength::Bytes(0) => State::Complete,
                BodyLength::Bytes(left) => State::Bytes(left),
                BodyLength::Chunked => SIZE,
            },
            between: 0,
        }
    }

    /// Whether all of it has come.
    pub fn is_complete(&self) -> bool {
        self.state == State::Complete
    }

    /// Takes the body out of what was read, in place.
    ///
    /// The bytes read are `buf[HEADROOM..]`. Returns those of the body, and why nothing more is read, if that is so:
    /// then what follows is not looked at.
    pub fn decode<'a>(&mut self, buf: &'a mut [u8]) -> (&'a mut [u8], Option<BodyEnd>) {
        let (mut kept, mut at) = (HEADROOM, HEADROOM);
        while self.state != State::Complete && at < buf.len() {
            if let State::Bytes(left) | State::Data(left) = &mut self.state {
                let come = usize::try_from(*left)
                    .unwrap_or(usize::MAX)
                    .min(buf.len() - at);
                kept = keep(buf, kept, at..at + come);
                at += come;
                *left -= come as u64;
                self.between = 0;
                self.state = match self.state {
                    State::Bytes(0) => State::Complete,
                    State::Data(0) => State::DataCr,
                    state => state,
                };
                continue;
            }
            self.between += 1;
            let next = self.state.behind(buf[at]);
            at += 1;
            match next.filter(|_| self.between <= BETWEEN_BYTES_MAX) {
                Some(next) => self.state = next,
                None => return (&mut buf[HEADROOM..kept], Some(BodyEnd::Wrong)),
            }
        }
        let ended = self.is_complete().then_some(BodyEnd::Complete);
        (&mut buf[HEADROOM..kept], ended)
    }
}

const SIZE: State = State::Size {
    so_far: 0,
    has_begun: false,
};

impl State {
    /// What comes behind this byte, which is none of the data; `None` if it cannot be there.
    fn behind(self, byte: u8) -> Option<State> {
        Some(match (self, byte) {
            (State::Size { so_far, has_begun }, _) => match (byte as char).to_digit(16) {
                Some(digit) => State::Size {
                    so_far: so_far.checked_mul(16)?.checked_add(digit.into())?,
                    has_begun: true,
                },
                None if !has_begun => return None,
                None if byte == b'\r' => State::SizeEnd(so_far),
                None if matches!(byte, b';' | b' ' | b'\t') => State::Extension(so_far),
                None => return None,
            },
            (State::Extension(size), b'\r') => State::SizeEnd(size),
            (State::Extension(size), 0x20.. | b'\t') => State::Extension(size),
            (State::SizeEnd(0), b'\n') => State::Trailer { is_empty: true },
            (State::SizeEnd(size), b'\n') => State::Data(size),
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => SIZE,
            (State::Trailer { is_empty }, b'\r') => State::TrailerEnd { is_empty },
            (State::Trailer { .. }, 0x20.. | b'\t') => State::Trailer { is_empty: false },
            (State::TrailerEnd { is_empty: true }, b'\n') => State::Complete,
            (State::TrailerEnd { is_empty: false }, b'\n') => State::Trailer { is_empty: true },
            _ => return None,
        })
    }
}
