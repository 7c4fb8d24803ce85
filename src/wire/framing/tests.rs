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

pub(super) fn cut<'a>(input: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
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
fn cr_inside_a_line_is_seen_unfinished_and_too_long() {
    let has_inner_cr = |chunks: &[&[u8]], discard| {
        let mut framer = Framer::new(5);
        let limit = LineLimit {
            bytes_max: 5,
            discard,
        };
        for chunk in chunks {
            framer.push_within(limit, chunk);
        }
        framer.has_inner_cr()
    };
    let with: [&[&[u8]]; 8] = [
        &[b"a\rb"],
        &[b"a\r", b"b"],
        &[b"a\r", b"\r"],
        &[b"x\na\rb"],
        &[b"abc\rdef"],
        &[b"abc\r", b"def"],
        &[b"abc", b"\rdef"],
        &[b"abcd\r", b"e"],
    ];
    let without: [&[&[u8]]; 7] = [
        &[],
        &[b"abc"],
        &[b"abc\r"],
        &[b"abc", b"\r"],
        &[b"abcdefg"],
        &[b"a\rb\n"],
        &[b"a\rb", b"\n"],
    ];
    for discard in [false, true] {
        for chunks in with {
            assert!(has_inner_cr(chunks, discard), "{chunks:?}");
        }
        for chunks in without {
            assert!(!has_inner_cr(chunks, discard), "{chunks:?}");
        }
    }
    // Too long with its LF, and nothing is taken after it.
    assert!(has_inner_cr(&[b"abc\rdef\n"], false));
    assert!(!has_inner_cr(&[b"abc\rdef\n"], true));
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
