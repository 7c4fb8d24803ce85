use proptest::prelude::*;

use super::tests::cut;
use super::*;
use crate::wire::line_end::LineEnd;

/// What came of an input: the runs joined, whether a line was too long, how many were dropped.
type Framed = (Vec<u8>, bool, u64);

fn framed<'a>(
    line_end: LineEnd,
    limit: LineLimit,
    chunks: impl IntoIterator<Item = &'a [u8]>,
) -> Framed {
    let mut line_ends = LineEnds::new(line_end);
    let mut framer = Framer::new(limit.bytes_max);
    let mut out: Framed = Default::default();
    let mut take = |lines: Lines<'_>| {
        out.0.extend(lines.runs().concat());
        out.1 |= lines.too_long;
        out.2 += lines.discarded;
    };
    for chunk in chunks {
        let mut chunk = chunk.to_vec();
        take(framer.push_translated(limit, line_ends.translate(&mut chunk)));
        // As in a handover.
        let saved = serde_json::to_string(&line_ends.state()).unwrap();
        line_ends = LineEnds::resume(line_end, serde_json::from_str(&saved).unwrap());
        framer = match (framer.is_discarding(), &framer.begun) {
            (true, _) => Framer::resume_discarding(framer.line_bytes_max()),
            (_, Begun::Closed { .. }) => framer,
            _ => Framer::resume(framer.line_bytes_max(), framer.unfinished().to_vec()),
        };
    }
    take(framer.finish());
    out
}

/// The payloads, and whether the last one had no line end, said as plainly as can be.
fn split(line_end: LineEnd, input: &[u8]) -> Vec<Vec<u8>> {
    let plain = |end: u8| input.split(move |byte| *byte == end).map(<[u8]>::to_vec);
    let mut payloads: Vec<Vec<u8>> = match line_end {
        LineEnd::Lf => plain(b'\n').collect(),
        LineEnd::Any => {
            let text: String = input.iter().map(|byte| char::from(*byte)).collect();
            let text = text.replace("\r\n", "\n").replace('\r', "\n");
            text.split('\n')
                .map(|line| line.chars().map(|c| c as u8).collect())
                .collect()
        }
        LineEnd::Nul => plain(0)
            .enumerate()
            .map(|(at, payload)| {
                let behind = if at > 0 {
                    payload.strip_prefix(b"\n")
                } else {
                    None
                };
                let payload = behind.unwrap_or(&payload);
                let payload = payload.strip_suffix(b"\n").unwrap_or(payload);
                let blank = |byte: &u8| if *byte == b'\n' { b' ' } else { *byte };
                payload.iter().map(blank).collect()
            })
            .collect(),
    };
    payloads.pop_if(|last| last.is_empty());
    payloads
}

fn reference(line_end: LineEnd, limit: LineLimit, input: &[u8]) -> Framed {
    let mut out: Framed = Default::default();
    for line in split(line_end, input) {
        let payload = line.strip_suffix(b"\r").unwrap_or(&line);
        if payload.len() <= limit.bytes_max {
            out.0.extend([&line, &b"\n"[..]].concat());
        } else if limit.discard {
            out.2 += 1;
        } else {
            out.1 = true;
            break;
        }
    }
    out
}

fn limit(bytes_max: usize, discard: bool) -> LineLimit {
    LineLimit { bytes_max, discard }
}

const NO_LIMIT: LineLimit = LineLimit {
    bytes_max: usize::MAX,
    discard: false,
};

fn lines_of(line_end: LineEnd, input: &[u8]) -> String {
    let framed = framed(line_end, NO_LIMIT, [input]);
    String::from_utf8(framed.0).unwrap()
}

#[test]
fn cr_lf_and_both_end_a_line_each_where_any_does() {
    for (input, lines) in [
        ("a\nb\r\nc\rd", "a\nb\nc\nd\n"),
        ("\r\r\n\n\r", "\n\n\n\n"),
        ("\n\r", "\n\n"),
        ("a\r", "a\n"),
        ("", ""),
    ] {
        assert_eq!(lines_of(LineEnd::Any, input.as_bytes()), lines, "{input:?}");
    }
}

#[test]
fn nul_ends_a_line_and_lf_in_it_becomes_a_blank() {
    for (input, lines) in [
        ("a\0b\0", "a\nb\n"),
        ("a\0b", "a\nb\n"),
        ("\0\0", "\n\n"),
        ("{\n \"a\": 1\n}\0", "{  \"a\": 1 }\n"),
        ("a\n\nb\0", "a  b\n"),
        // An LF beside the NUL, or before the end.
        ("a\n\0b\n\0", "a\nb\n"),
        ("a\0\nb\0\n", "a\nb\n"),
        ("a\n", "a\n"),
        ("\n", ""),
        ("a\n\n\0\n\nb\0", "a \n b\n"),
        ("a\r\n\0b\r\0c\rd\0", "a\r\nb\r\nc\rd\n"),
    ] {
        assert_eq!(lines_of(LineEnd::Nul, input.as_bytes()), lines, "{input:?}");
    }
}

#[test]
fn line_is_there_at_its_cr_and_the_lf_behind_it_is_none() {
    let (mut line_ends, mut framer) = (LineEnds::new(LineEnd::Any), Framer::new(10));
    let mut lines_of = |chunk: &[u8]| {
        let mut chunk = chunk.to_vec();
        let lines = framer.push_translated(NO_LIMIT, line_ends.translate(&mut chunk));
        (lines.runs().concat(), line_ends.state())
    };
    assert_eq!(lines_of(b"a\r"), (b"a\n".to_vec(), LineEndState::Ended));
    assert_eq!(lines_of(b""), (vec![], LineEndState::Ended));
    assert_eq!(lines_of(b"\n"), (vec![], LineEndState::Amid));
    assert_eq!(lines_of(b"\n"), (b"\n".to_vec(), LineEndState::Amid));
}

#[test]
fn limit_is_held_to_without_what_belongs_to_the_line_end() {
    for (line_end, input, too_long) in [
        (LineEnd::Any, &b"abc\r"[..], false),
        (LineEnd::Any, b"abc\r\n", false),
        (LineEnd::Any, b"abcd", true),
        (LineEnd::Nul, b"abc\0", false),
        (LineEnd::Nul, b"abc\r\n\0\nabc\n", false),
        (LineEnd::Nul, b"abc\nd\0", true),
        (LineEnd::Nul, b"abc\n\n\0", true),
    ] {
        for at in 0..=input.len() {
            let framed = framed(line_end, limit(3, false), cut(input, &[at]));
            assert_eq!(framed.1, too_long, "{line_end} {input:?} cut at {at}");
        }
    }
}

#[test]
fn lines_that_end_in_lf_are_not_touched_and_the_type_is_small() {
    let mut line_ends = LineEnds::new(LineEnd::Lf);
    let mut data = b"a\r\n\0\n\r".to_vec();
    let translated = line_ends.translate(&mut data);
    assert_eq!(
        (translated.held, translated.data),
        (&b""[..], &b"a\r\n\0\n\r"[..])
    );
    assert_eq!(line_ends.state(), LineEndState::Amid);
    assert_eq!(size_of::<LineEnds>(), 2);
}

proptest! {
    #[test]
    fn any_input_cut_anywhere_gives_what_the_reference_gives(
        line_end in prop::sample::select(LineEnd::ALL.as_slice()),
        input in prop::collection::vec(prop::sample::select(b"ab\r\n\0".as_slice()), 0..120),
        cuts in prop::collection::vec(any::<usize>(), 0..16),
        bytes_max in 0usize..8,
        discard in any::<bool>(),
    ) {
        let limit = limit(bytes_max, discard);
        let expected = reference(line_end, limit, &input);
        prop_assert_eq!(framed(line_end, limit, cut(&input, &cuts)), expected.clone());
        prop_assert_eq!(framed(line_end, limit, input.chunks(1)), expected);
    }
}
