//! Runs of whole lines.

use memchr::memchr_iter;

/// The lines that one read completed. Either run is zero or more whole lines, each ended by LF.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Lines<'a> {
    /// The line begun in earlier reads, if it is finished; and what lies before the last line that
    /// was discarded, if one was.
    pub first: Vec<u8>,
    /// The lines after those, which lie whole and side by side in this read.
    pub rest: &'a [u8],
    /// The line after these is longer than allowed. The framer takes nothing any more.
    pub too_long: bool,
    /// Lines that turned out to be longer than allowed, and are dropped.
    pub discarded: u64,
}

impl Lines<'_> {
    /// What a framer says from a line on that was too long.
    pub(super) fn too_long() -> Lines<'static> {
        Lines {
            too_long: true,
            ..Lines::default()
        }
    }

    /// Both runs, in their order. Either may be empty.
    pub fn runs(&self) -> [&[u8]; 2] {
        [&self.first, self.rest]
    }

    /// Whether no line was completed.
    pub fn is_empty(&self) -> bool {
        self.first.is_empty() && self.rest.is_empty()
    }

    /// How many lines were completed.
    pub fn count(&self) -> usize {
        let first = match self.discarded {
            0 => usize::from(!self.first.is_empty()),
            _ => count(&self.first),
        };
        first + count(self.rest)
    }

    /// The payloads as [`lines`] gives them.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.runs().into_iter().flat_map(lines)
    }
}

/// How many lines a run holds.
pub fn count(run: &[u8]) -> usize {
    memchr_iter(b'\n', run).count()
}

/// The lines of a run without their LF, but with the CR before it if there was one.
pub fn lines(run: &[u8]) -> impl Iterator<Item = &[u8]> {
    debug_assert!(run.is_empty() || run.ends_with(b"\n"));
    let mut start = 0;
    memchr_iter(b'\n', run).map(move |end| {
        let line = &run[start..end];
        start = end + 1;
        line
    })
}
