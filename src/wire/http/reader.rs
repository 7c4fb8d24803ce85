//! The head of a request out of the bytes that come first, and nothing of those after it.

use std::mem;

use memchr::memchr_iter;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// Most bytes of a request's head.
pub(super) const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Reads one request's head, across reads.
#[derive(Debug, Default)]
pub struct RequestReader {
    /// What there is of it, which may have a token in it.
    head: Zeroizing<Vec<u8>>,
    /// It is whole: it was put back.
    is_whole: bool,
}

/// A [`RequestReader`] as a handover saves it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestReaderState {
    // A sequence of numbers, as it may have a token in it.
    head: Vec<u8>,
    is_whole: bool,
}

/// What has come of the head.
#[derive(Debug, PartialEq, Eq)]
pub enum HeadInput {
    /// A part of it: so many bytes were taken.
    Pending(usize),
    /// All of it, with so many bytes of what came.
    Head(Zeroizing<Vec<u8>>, usize),
    /// It is longer than it may be, whatever follows.
    TooLong,
    /// It is none, whatever follows: as when the peer speaks TLS.
    NoRequest,
}

impl RequestReader {
    /// How far it has come.
    pub fn save(&self) -> RequestReaderState {
        RequestReaderState {
            head: self.head.to_vec(),
            is_whole: self.is_whole,
        }
    }

    /// Goes on where [`save`](RequestReader::save) was called.
    pub fn restore(saved: RequestReaderState) -> RequestReader {
        RequestReader {
            head: Zeroizing::new(saved.head),
            is_whole: saved.is_whole,
        }
    }

    /// Puts the head back that was taken, to be taken again by [`take_back`](RequestReader::take_back): perhaps in
    /// another daemon.
    pub fn put_back(&mut self, head: Zeroizing<Vec<u8>>) {
        (self.head, self.is_whole) = (head, true);
    }

    /// The head, if it was put back.
    pub fn take_back(&mut self) -> Option<Zeroizing<Vec<u8>>> {
        mem::take(&mut self.is_whole).then(|| mem::take(&mut self.head))
    }

    /// Takes the bytes of one read up to the end of the head.
    pub fn push(&mut self, bytes: &[u8]) -> HeadInput {
        if self.head.capacity() == 0 {
            // At once all that it may need, so that no memory with a part of a token is left behind.
            self.head.reserve_exact(HEAD_BYTES_MAX);
        }
        // Empty lines before it are none of it.
        let blank = match self.head.is_empty() {
            true => bytes
                .iter()
                .take_while(|byte| matches!(byte, b'\r' | b'\n'))
                .count(),
            false => 0,
        };
        let bytes = &bytes[blank..];
        let before = self.head.len();
        let fits = bytes.len().min(HEAD_BYTES_MAX - before);
        self.head.extend_from_slice(&bytes[..fits]);
        if !self.head.first().is_none_or(u8::is_ascii_graphic) {
            return HeadInput::NoRequest;
        }
        // An empty line ends it.
        let ends = memchr_iter(b'\n', &self.head[before..]).map(|at| before + at);
        for end in ends {
            if is_empty_line_at(&self.head, end) {
                self.head.truncate(end + 1);
                return HeadInput::Head(mem::take(&mut self.head), blank + end + 1 - before);
            }
        }
        match self.head.len() == HEAD_BYTES_MAX {
            true => HeadInput::TooLong,
            false => HeadInput::Pending(blank + fits),
        }
    }
}

/// Whether the LF here ends a line with nothing in it.
fn is_empty_line_at(head: &[u8], at: usize) -> bool {
    let line = &head[..at];
    line.strip_suffix(b"\r").unwrap_or(line).ends_with(b"\n")
}
