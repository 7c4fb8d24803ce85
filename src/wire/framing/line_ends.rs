//! Line ends that are not LF, made LF before the framer.

use memchr::{memchr, memchr2};
use serde::{Deserialize, Serialize};

use crate::wire::compact::keep;
use crate::wire::line_end::LineEnd;

/// Makes LF of what ends a listener's lines, in place and across reads, so that all behind it knows
/// LF alone. Two bytes; where lines end in LF it does nothing.
///
/// - `any`: LF, CR LF and CR alone each end a line, at the CR: the LF that belongs to it may be a
///   read later, and no payload has a CR.
/// - `nul`: NUL ends a line. A payload cannot have an LF on its way out, where LF ends each line in
///   every format, so that one becomes a blank: a line that came as one goes out as one, and JSON
///   means the same. One LF directly before or after the NUL belongs to the line end, as does one
///   before the end of the input, since many senders put one there (`echo` does). A CR is as it is
///   with LF: in `raw` a byte of the payload, in the others, last in a line, of its line end.
#[derive(Clone, Copy, Debug)]
pub struct LineEnds {
    line_end: LineEnd,
    state: LineEndState,
}

/// What the bytes so far mean for the next one; saved for a handover.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LineEndState {
    /// Nothing.
    #[default]
    Amid,
    /// A CR or NUL has ended a line: an LF that comes next belongs to it.
    Ended,
    /// An LF has come that belongs to a NUL if that comes next, and is a blank otherwise.
    HeldLf,
}

/// What a read brought for [`Framer::push_translated`](super::Framer::push_translated).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translated<'a> {
    /// What was held back in the read before: nothing or a blank.
    pub held: &'static [u8],
    /// The bytes after that, with an LF for each line end.
    pub data: &'a [u8],
}

impl LineEnds {
    /// Those of a client that has sent nothing.
    pub fn new(line_end: LineEnd) -> LineEnds {
        LineEnds::resume(line_end, LineEndState::default())
    }

    /// Goes on where another one's [`state`](LineEnds::state) was taken. If what ends a line has
    /// changed since, what is held is forgotten.
    pub fn resume(line_end: LineEnd, state: LineEndState) -> LineEnds {
        let state = match (line_end, state) {
            (LineEnd::Lf, _) | (LineEnd::Any, LineEndState::HeldLf) => LineEndState::Amid,
            (LineEnd::Any | LineEnd::Nul, state) => state,
        };
        LineEnds { line_end, state }
    }

    /// What ends a line.
    pub fn line_end(&self) -> LineEnd {
        self.line_end
    }

    /// All there is to know beside that.
    pub fn state(&self) -> LineEndState {
        self.state
    }

    /// Takes the bytes of one read. At the end of the input nothing is left to be asked for.
    pub fn translate<'a>(&mut self, data: &'a mut [u8]) -> Translated<'a> {
        let mut held: &[u8] = &[];
        let data = match self.line_end {
            LineEnd::Lf => data,
            _ if data.is_empty() => data,
            LineEnd::Any => self.translate_any(data),
            LineEnd::Nul => {
                if self.state == LineEndState::HeldLf && data[0] != 0 {
                    held = b" ";
                }
                self.translate_nul(data)
            }
        };
        Translated { held, data }
    }

    fn translate_any<'a>(&mut self, data: &'a mut [u8]) -> &'a [u8] {
        let mut at = self.skip_lf_of_end(data[0]);
        self.state = match data.last() {
            Some(b'\r') => LineEndState::Ended,
            _ => LineEndState::Amid,
        };
        // The bytes that stay are `data[start..kept]`.
        let start = at;
        let mut kept = at;
        while let Some(hit) = memchr(b'\r', &data[at..]).map(|hit| at + hit) {
            data[hit] = b'\n';
            kept = keep(data, kept, at..hit + 1);
            at = hit + 1;
            at += usize::from(data.get(at) == Some(&b'\n'));
        }
        kept = keep(data, kept, at..data.len());
        &data[start..kept]
    }

    fn translate_nul<'a>(&mut self, data: &'a mut [u8]) -> &'a [u8] {
        let mut at = self.skip_lf_of_end(data[0]);
        self.state = LineEndState::Amid;
        let start = at;
        let mut kept = at;
        // Bytes from `at` to `from` are looked at, and stay.
        let mut from = at;
        while let Some(hit) = memchr2(0, b'\n', &data[from..]).map(|hit| from + hit) {
            let next = data.get(hit + 1).copied();
            if data[hit] == 0 {
                data[hit] = b'\n';
                from = hit + 1;
                match next {
                    Some(b'\n') => {
                        kept = keep(data, kept, at..from);
                        from += 1;
                        at = from;
                    }
                    Some(_) => {}
                    None => self.state = LineEndState::Ended,
                }
            } else if next.is_some_and(|next| next != 0) {
                data[hit] = b' ';
                from = hit + 1;
            } else {
                if next.is_none() {
                    self.state = LineEndState::HeldLf;
                }
                kept = keep(data, kept, at..hit);
                from = hit + 1;
                at = from;
            }
        }
        kept = keep(data, kept, at..data.len());
        &data[start..kept]
    }

    /// How many bytes the LF takes that belongs to the line end of the read before.
    fn skip_lf_of_end(&self, first: u8) -> usize {
        usize::from(self.state == LineEndState::Ended && first == b'\n')
    }
}
