//! Bytes to lines. A line ends at LF, and what is not ended yet waits here for the next read. Where a
//! listener's lines end in something else, [`LineEnds`] makes LF of that first.
//!
//! Every byte is looked at once when it arrives and never again, however slowly its line grows, and
//! no line that has come in whole with one read is copied.

use memchr::{memchr, memrchr};

mod line_ends;
#[cfg(test)]
mod line_ends_tests;
mod lines;
#[cfg(test)]
mod tests;

pub use self::line_ends::{LineEndState, LineEnds, Translated};
pub use self::lines::{Lines, count, lines};

/// Finds line ends across reads and holds the one line that is not finished.
///
/// Its size is 32 bytes, and it allocates nothing until a line arrives in more than one read.
#[derive(Debug)]
pub struct Framer {
    begun: Begun,
    /// Counted without the LF and without one CR before it.
    line_bytes_max: usize,
}

/// The line that has not ended yet.
#[derive(Debug)]
enum Begun {
    /// What there is of it, without an LF.
    Line(Vec<u8>),
    /// It is longer than allowed, and dropped up to its LF.
    Discarded {
        /// What there was of it had a CR inside.
        has_cr: bool,
    },
    /// A line was longer than allowed: nothing is taken any more.
    Closed {
        /// What there was of that line had a CR inside.
        has_cr: bool,
    },
}

/// What a line may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LineLimit {
    /// Bytes it may have, not counting its LF or CR LF.
    pub bytes_max: usize,
    /// Whether only a line that is longer is dropped, instead of it and all that follows.
    pub discard: bool,
}

impl Framer {
    /// A framer that allows lines of `line_bytes_max` bytes, not counting their LF or CR LF.
    pub fn new(line_bytes_max: usize) -> Framer {
        Framer::resume(line_bytes_max, Vec::new())
    }

    /// A framer that goes on with a line another one had begun: what its
    /// [`unfinished`](Framer::unfinished) said, hence without an LF.
    pub fn resume(line_bytes_max: usize, unfinished: Vec<u8>) -> Framer {
        debug_assert!(memchr(b'\n', &unfinished).is_none());
        Framer {
            begun: Begun::Line(unfinished),
            line_bytes_max,
        }
    }

    /// A framer that goes on in the middle of a line that is being dropped.
    pub fn resume_discarding(line_bytes_max: usize) -> Framer {
        Framer {
            begun: Begun::Discarded { has_cr: false },
            line_bytes_max,
        }
    }

    /// How many bytes a line may have, without its line end: the limit that the last line, or the one
    /// that was too long, was held to.
    pub fn line_bytes_max(&self) -> usize {
        self.line_bytes_max
    }

    /// The bytes of the line that has not ended yet: at most the limit and a CR.
    pub fn unfinished(&self) -> &[u8] {
        match &self.begun {
            Begun::Line(line) => line,
            Begun::Discarded { .. } | Begun::Closed { .. } => &[],
        }
    }

    /// Whether it is in the middle of a line that is dropped.
    pub fn is_discarding(&self) -> bool {
        matches!(self.begun, Begun::Discarded { .. })
    }

    /// Whether the line that has not ended yet, or was too long, has a CR before its last byte: its
    /// sender may mean each CR to end a line. Of a line that was too long, what had come of it by then
    /// is looked at. Looks at all of an unfinished line, so it is not for every read.
    pub fn has_inner_cr(&self) -> bool {
        match &self.begun {
            Begun::Line(line) => has_inner_cr(line, &[]),
            Begun::Discarded { has_cr } | Begun::Closed { has_cr } => *has_cr,
        }
    }

    /// Takes the bytes of one read and returns the lines it completed.
    ///
    /// A line over the limit is reported as soon as it is certain, ended or not. From then on
    /// nothing is taken, and every call reports it again.
    pub fn push<'a>(&mut self, chunk: &'a [u8]) -> Lines<'a> {
        let limit = LineLimit {
            bytes_max: self.line_bytes_max,
            discard: false,
        };
        self.push_within(limit, chunk)
    }

    /// [`push`](Framer::push), where lines that begin from here on are held to `limit`. The line
    /// begun in earlier reads ends under the limit that it was begun with. Of lines that are too
    /// long, with [`LineLimit::discard`], each is dropped alone and counted.
    pub fn push_within<'a>(&mut self, limit: LineLimit, chunk: &'a [u8]) -> Lines<'a> {
        let mut lines = Lines {
            rest: chunk,
            ..Lines::default()
        };
        let end = || memchr(b'\n', chunk);
        match &mut self.begun {
            Begun::Closed { .. } => return Lines::too_long(),
            Begun::Line(line) if line.is_empty() => {}
            Begun::Line(line) => {
                let end = end();
                let more = &chunk[..end.unwrap_or(chunk.len())];
                let last = more.last().or(line.last());
                if is_too_long(line.len() + more.len(), last, self.line_bytes_max) {
                    let has_cr = has_inner_cr(line, more);
                    if !limit.discard {
                        self.begun = Begun::Closed { has_cr };
                        return Lines::too_long();
                    }
                    self.begun = Begun::Discarded { has_cr };
                    lines.discarded = 1;
                } else if let Some(end) = end {
                    line.extend_from_slice(&chunk[..=end]);
                    lines.first = std::mem::take(line);
                    lines.rest = &chunk[end + 1..];
                } else {
                    append(line, chunk);
                    return Lines::default();
                }
            }
            Begun::Discarded { .. } => {}
        }
        if self.is_discarding() {
            let Some(end) = end() else {
                lines.rest = &[];
                return lines;
            };
            self.begun = Begun::Line(Vec::new());
            lines.rest = &chunk[end + 1..];
        }
        self.line_bytes_max = limit.bytes_max;

        let end = memrchr(b'\n', lines.rest).map_or(0, |at| at + 1);
        let (mut whole, begun) = lines.rest.split_at(end);
        loop {
            let allowed = whole_lines_within(whole, limit.bytes_max);
            lines.rest = &whole[..allowed];
            let Some(end) = memchr(b'\n', &whole[allowed..]) else {
                break;
            };
            if !limit.discard {
                let has_cr = has_inner_cr(&[], &whole[allowed..][..end]);
                self.begun = Begun::Closed { has_cr };
                lines.too_long = true;
                return lines;
            }
            lines.discarded += 1;
            lines.first.extend_from_slice(lines.rest);
            whole = &whole[allowed + end + 1..];
        }
        if !is_too_long(begun.len(), begun.last(), limit.bytes_max) {
            if let Begun::Line(line) = &mut self.begun {
                append(line, begun);
            }
        } else if limit.discard {
            let has_cr = has_inner_cr(&[], begun);
            self.begun = Begun::Discarded { has_cr };
            lines.discarded += 1;
        } else {
            let has_cr = has_inner_cr(&[], begun);
            self.begun = Begun::Closed { has_cr };
            lines.too_long = true;
        }
        lines
    }

    /// [`push_within`](Framer::push_within) of what [`LineEnds`] made of a read.
    pub fn push_translated<'a>(&mut self, limit: LineLimit, read: Translated<'a>) -> Lines<'a> {
        if read.held.is_empty() {
            return self.push_within(limit, read.data);
        }
        // It ends no line. If it makes one too long, the framer says that again.
        let discarded = self.push_within(limit, read.held).discarded;
        let mut lines = self.push_within(limit, read.data);
        lines.discarded += discarded;
        lines
    }

    /// The input has ended: what is unfinished is a line too, and gets its LF, unless it is empty.
    pub fn finish(&mut self) -> Lines<'static> {
        let line = match &mut self.begun {
            Begun::Line(line) => std::mem::take(line),
            Begun::Discarded { .. } => Vec::new(),
            Begun::Closed { .. } => return Lines::too_long(),
        };
        // Only a line resumed under a smaller limit than it was begun with can be over it here.
        if is_too_long(line.len(), line.last(), self.line_bytes_max) {
            let has_cr = has_inner_cr(&line, &[]);
            self.begun = Begun::Closed { has_cr };
            return Lines::too_long();
        }
        let mut first = line;
        if !first.is_empty() {
            first.push(b'\n');
        }
        Lines {
            first,
            ..Lines::default()
        }
    }
}

/// Adds to a line that may wait for long: with an eighth to spare, so that what it takes is close to
/// what it is, and what is copied for it in all is a few times as much.
fn append(line: &mut Vec<u8>, more: &[u8]) {
    if line.capacity() - line.len() < more.len() {
        line.reserve_exact(more.len() + line.len() / 8);
    }
    line.extend_from_slice(more);
}

/// Whether a line of so many bytes before its LF, or so far, is over the limit. Its last byte may
/// be a CR that belongs to the line end and is not counted.
fn is_too_long(line_bytes: usize, last: Option<&u8>, line_bytes_max: usize) -> bool {
    line_bytes > line_bytes_max && (line_bytes - 1 > line_bytes_max || last != Some(&b'\r'))
}

/// Whether a line, as it had begun and went on, has a CR before its last byte.
fn has_inner_cr(begun: &[u8], more: &[u8]) -> bool {
    let is_inner = |at: Option<usize>, bytes: &[u8]| at.is_some_and(|at| at + 1 < bytes.len());
    match memchr(b'\r', begun) {
        Some(_) if !more.is_empty() => true,
        at => is_inner(at, begun) || is_inner(memchr(b'\r', more), more),
    }
}

/// How many bytes of a run come before its first line that is too long; all if none is.
fn whole_lines_within(run: &[u8], line_bytes_max: usize) -> usize {
    let mut start = 0;
    // Any line in so few bytes is allowed, so most runs are never looked at, and in the others the
    // last LF that a line starting here may have is found without stopping at each before it.
    while run.len() - start > line_bytes_max.saturating_add(1) {
        let (allowed, after) = run[start..].split_at(line_bytes_max + 1);
        start += match memrchr(b'\n', allowed) {
            Some(at) => at + 1,
            None if allowed.ends_with(b"\r") && after.starts_with(b"\n") => allowed.len() + 1,
            None => return start,
        };
    }
    run.len()
}
