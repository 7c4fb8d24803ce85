//! Bytes to lines. A line ends at LF, and what is not ended yet waits here for the next read.
//!
//! Every byte is looked at once when it arrives and never again, however slowly its line grows, and
//! no line that has come in whole with one read is copied.

use memchr::{memchr, memchr_iter, memrchr};

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
    Discarded,
    /// A line was longer than allowed: nothing is taken any more.
    Closed,
}

/// What a line may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LineLimit {
    /// Bytes it may have, not counting its LF or CR LF.
    pub bytes_max: usize,
    /// Whether only a line that is longer is dropped, instead of it and all that follows.
    pub discard: bool,
}

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
            begun: Begun::Discarded,
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
            Begun::Discarded | Begun::Closed => &[],
        }
    }

    /// Whether it is in the middle of a line that is dropped.
    pub fn is_discarding(&self) -> bool {
        matches!(self.begun, Begun::Discarded)
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
            Begun::Closed => return Lines::too_long(),
            Begun::Line(line) if line.is_empty() => {}
            Begun::Line(line) => {
                let end = end();
                let more = &chunk[..end.unwrap_or(chunk.len())];
                let last = more.last().or(line.last());
                if is_too_long(line.len() + more.len(), last, self.line_bytes_max) {
                    if !limit.discard {
                        self.begun = Begun::Closed;
                        return Lines::too_long();
                    }
                    self.begun = Begun::Discarded;
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
            Begun::Discarded => {}
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
                self.begun = Begun::Closed;
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
            self.begun = Begun::Discarded;
            lines.discarded += 1;
        } else {
            self.begun = Begun::Closed;
            lines.too_long = true;
        }
        lines
    }

    /// The input has ended: what is unfinished is a line too, and gets its LF, unless it is empty.
    pub fn finish(&mut self) -> Lines<'static> {
        let line = match &mut self.begun {
            Begun::Line(line) => std::mem::take(line),
            Begun::Discarded => Vec::new(),
            Begun::Closed => return Lines::too_long(),
        };
        // Only a line resumed under a smaller limit than it was begun with can be over it here.
        if is_too_long(line.len(), line.last(), self.line_bytes_max) {
            self.begun = Begun::Closed;
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

impl Lines<'_> {
    fn too_long() -> Lines<'static> {
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

/// Whether a line of so many bytes before its LF, or so far, is over the limit. Its last byte may
/// be a CR that belongs to the line end and is not counted.
fn is_too_long(line_bytes: usize, last: Option<&u8>, line_bytes_max: usize) -> bool {
    line_bytes > line_bytes_max && (line_bytes - 1 > line_bytes_max || last != Some(&b'\r'))
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What a framer gave in all: the runs joined, and whether a line was too long.
    type Framed = (Vec<u8>, bool);

    fn framed<'a>(line_bytes_max: usize, chunks: impl IntoIterator<Item = &'a [u8]>) -> Framed {
        let mut framer = Framer::new(line_bytes_max);
        let mut out = Vec::new();
        for chunk in chunks {
            let lines = framer.push(chunk);
            assert_eq!(lines.count(), lines.iter().count());
            assert_eq!(lines.is_empty(), lines.count() == 0);
            out.extend(lines.runs().concat());
            assert!(framer.unfinished().len() <= line_bytes_max.saturating_add(1));
            let capacity = match &framer.begun {
                Begun::Line(line) => line.capacity(),
                _ => 0,
            };
            assert!(capacity <= (2 * framer.unfinished().len()).max(8));
            if framer.unfinished().is_empty() {
                assert_eq!(capacity, 0);
            }
            if lines.too_long {
                assert_eq!(framer.push(b"x\n"), Lines::too_long());
            }
        }
        let lines = framer.finish();
        out.extend(lines.runs().concat());
        assert_eq!(framer.unfinished(), b"");
        (out, lines.too_long)
    }

    /// The same, said as plainly as can be.
    fn reference(line_bytes_max: usize, input: &[u8]) -> Framed {
        let mut out = Vec::new();
        for line in input.split_inclusive(|byte| *byte == b'\n') {
            let payload = line.strip_suffix(b"\n").unwrap_or(line);
            let payload = payload.strip_suffix(b"\r").unwrap_or(payload);
            if payload.len() > line_bytes_max {
                return (out, true);
            }
            out.extend_from_slice(line.strip_suffix(b"\n").unwrap_or(line));
            out.push(b'\n');
        }
        (out, false)
    }

    fn cut<'a>(input: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
        let mut at: Vec<usize> = cuts.iter().map(|cut| cut % (input.len() + 1)).collect();
        at.extend([0, input.len()]);
        at.sort_unstable();
        at.windows(2).map(|ends| &input[ends[0]..ends[1]]).collect()
    }

    #[test]
    fn every_fixture_cut_at_every_two_bytes_gives_the_same_lines() {
        let fixtures: [&[u8]; 12] = [
            b"",
            b"\n",
            b"\n\n\n",
            b"hello\n",
            b"hello",
            b"hello\r\n",
            b"one\ntwo\r\nthree",
            b"12345\n12345\r\n12345\r",
            b"ab\n123456\nab\n",
            b"ab\n12345\r\r\nab\n",
            b"12345\rx\n",
            b"\r\n\r\r\n\n\r",
        ];
        for fixture in fixtures {
            for limit in [0, 1, 4, 5, 6, 7, usize::MAX] {
                let expected = reference(limit, fixture);
                for first in 0..=fixture.len() {
                    for second in first..=fixture.len() {
                        assert_eq!(framed(limit, cut(fixture, &[first, second])), expected);
                    }
                }
            }
        }
    }

    #[test]
    fn limit_counts_neither_lf_nor_one_cr() {
        assert_eq!(framed(3, [&b"abc\n"[..]]), (b"abc\n".to_vec(), false));
        assert_eq!(framed(3, [&b"abc\r\n"[..]]), (b"abc\r\n".to_vec(), false));
        assert_eq!(framed(3, [&b"x\nabcd\n"[..]]), (b"x\n".to_vec(), true));
        assert_eq!(framed(3, [&b"x\nabc\r\r\n"[..]]), (b"x\n".to_vec(), true));
    }

    #[test]
    fn line_without_end_is_too_long_at_its_first_byte_over_the_limit() {
        let mut framer = Framer::new(3);
        assert!(!framer.push(b"ok\nab").too_long);
        assert!(!framer.push(b"c").too_long);
        assert!(framer.push(b"d").too_long);

        let mut framer = Framer::new(3);
        assert!(!framer.push(b"abc\r").too_long);
        assert!(framer.push(b"\r").too_long);

        let mut framer = Framer::new(3);
        let lines = framer.push(b"ok\nabcd");
        assert_eq!((lines.rest, lines.too_long), (&b"ok\n"[..], true));
    }

    #[test]
    fn begun_line_is_first_and_whole_lines_are_not_copied() {
        let mut framer = Framer::new(100);
        assert!(framer.push(b"he").is_empty());
        assert_eq!(framer.unfinished(), b"he");
        let lines = framer.push(b"llo\r\none\ntwo\nthr");
        assert_eq!(lines.runs(), [&b"hello\r\n"[..], b"one\ntwo\n"]);
        assert_eq!(lines.count(), 3);
        assert_eq!(
            lines.iter().collect::<Vec<_>>(),
            [&b"hello\r"[..], b"one", b"two"]
        );

        let mut resumed = Framer::resume(100, framer.unfinished().to_vec());
        assert_eq!(resumed.push(b"ee\n").first, b"three\n");
    }

    #[test]
    fn line_resumed_under_a_smaller_limit_is_too_long() {
        assert!(Framer::resume(3, b"abcd".to_vec()).push(b"\n").too_long);
        assert!(Framer::resume(3, b"abcd".to_vec()).finish().too_long);
        assert!(!Framer::resume(3, b"abc\r".to_vec()).finish().too_long);
    }

    #[test]
    fn idle_framer_is_small() {
        assert!(size_of::<Framer>() <= 32);
    }

    proptest! {
        #[test]
        fn any_input_cut_anywhere_gives_what_the_reference_gives(
            input in prop::collection::vec(prop::sample::select(b"ab\r\n".as_slice()), 0..200),
            cuts in prop::collection::vec(any::<usize>(), 0..12),
            limit in 0usize..12,
        ) {
            prop_assert_eq!(framed(limit, cut(&input, &cuts)), reference(limit, &input));
        }

        #[test]
        fn any_bytes_cut_anywhere_give_the_same_lines(
            input in prop::collection::vec(any::<u8>(), 0..2000),
            cuts in prop::collection::vec(any::<usize>(), 0..12),
            limit in 0usize..1000,
        ) {
            prop_assert_eq!(framed(limit, cut(&input, &cuts)), reference(limit, &input));
        }
    }
}
