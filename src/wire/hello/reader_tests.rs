use proptest::prelude::*;

use super::reader::INPUT_BYTES_MAX;
use super::*;
use crate::wire::format::Format;
use crate::wire::framing::{Framer, LineLimit};
use crate::wire::line_end::LineEnd;
use crate::wire::telnet::{HEADROOM, YES};

const LIMIT: LineLimit = LineLimit {
    bytes_max: 1000,
    discard: false,
};

/// What came of all that a connection sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Session {
    /// The hello line, or how it failed.
    hello: String,
    /// Answers to telnet commands.
    answers: Vec<u8>,
    /// Whether the answer to the hello ends in CR LF.
    crlf: bool,
    /// Lines behind the hello, each with its LF.
    lines: Vec<u8>,
}

/// Format, line end, input, hello, crlf, lines.
type Case = (
    Format,
    LineEnd,
    &'static [u8],
    &'static str,
    bool,
    &'static [u8],
);

/// A connection as a handshake and then a client's reader see it.
fn session<'a>(
    format: Format,
    line_end: LineEnd,
    chunks: impl IntoIterator<Item = &'a [u8]>,
) -> Session {
    let mut session = Session::default();
    let mut reader = HelloReader::new(format, line_end);
    let mut chunks = chunks.into_iter();
    let rest = loop {
        let Some(chunk) = chunks.next() else {
            session.hello = match reader.finish() {
                Some(line) => format!("at the end: {}", line.escape_ascii()),
                None => "nothing".into(),
            };
            return session;
        };
        match reader.push(chunk, &mut session.answers) {
            HelloInput::Pending => {}
            HelloInput::Line { line, rest } => {
                session.hello = line.escape_ascii().to_string();
                break rest;
            }
            HelloInput::TooLong => {
                session.hello = "too long".into();
                assert_eq!(reader.push(b"\n", &mut Vec::new()), HelloInput::TooLong);
                return session;
            }
            HelloInput::Left => {
                session.hello = "left".into();
                return session;
            }
        }
    };
    session.crlf = reader.crlf();
    let (mut telnet, mut line_ends) = reader.into_input(format);
    let mut framer = Framer::new(LIMIT.bytes_max);
    for chunk in [rest].into_iter().chain(chunks) {
        let mut buf = [&[b'?'; HEADROOM], chunk].concat();
        let data = match &mut telnet {
            Some(telnet) => telnet.filter(&mut buf, &mut session.answers),
            None => &mut buf[HEADROOM..],
        };
        let lines = framer.push_translated(LIMIT, line_ends.translate(data));
        session.lines.extend(lines.runs().concat());
    }
    session.lines.extend(framer.finish().runs().concat());
    session
}

fn cut_at(input: &[u8], mut at: Vec<usize>) -> Vec<&[u8]> {
    at.extend([0, input.len()]);
    at.sort_unstable();
    at.windows(2).map(|ends| &input[ends[0]..ends[1]]).collect()
}

/// Checks the session of an input that arrives at once, in two and three parts, and byte by byte.
fn check(format: Format, line_end: LineEnd, input: &[u8], expected: &Session) {
    for first in 0..=input.len() {
        for second in first..=input.len() {
            let session = session(format, line_end, cut_at(input, vec![first, second]));
            let cut = format!(
                "{format} {line_end} {} {first} {second}",
                input.escape_ascii()
            );
            assert_eq!(session, *expected, "{cut}");
        }
    }
    assert_eq!(session(format, line_end, input.chunks(1)), *expected);
}

#[test]
fn hello_and_lines_are_the_same_however_they_arrive() {
    use Format::{Json, Raw, Text};
    use LineEnd::{Any, Lf, Nul};
    #[rustfmt::skip]
    let cases: [Case; 21] = [
        (Text, Lf, b"LINEHUB/1 a=b\nx\ny", "LINEHUB/1 a=b", false, b"x\ny\n"),
        (Text, Lf, b"LINEHUB/1\r\nx\r\n", "LINEHUB/1\\r", true, b"x\r\n"),
        (Text, Lf, b"LINEHUB/1\r\0x\r\0", "LINEHUB/1\\r", true, b"x\r\n"),
        (Raw, Lf, b"LINEHUB/1\r\nx\r\n", "LINEHUB/1\\r", false, b"x\r\n"),
        (Json, Lf, b"LINEHUB/1\r\0x\n\xff\n", "LINEHUB/1\\r\\x00x", false, b"\xff\n"),
        (Raw, Lf, b"\n\n", "", false, b"\n"),
        (Raw, Any, b"LINEHUB/1\rx\r\ry\n", "LINEHUB/1", false, b"x\n\ny\n"),
        (Raw, Any, b"LINEHUB/1\r\nx\n", "LINEHUB/1", false, b"x\n"),
        (Raw, Any, b"LINEHUB/1\n\nx", "LINEHUB/1", false, b"\nx\n"),
        (Text, Any, b"LINEHUB/1\r\nx\r\n", "LINEHUB/1", false, b"x\n"),
        (Text, Any, b"LINEHUB/1\r\0x\r\0", "LINEHUB/1", false, b"x\n"),
        (Text, Any, b"LINEHUB/1\r\xff\xf1\0x\r", "LINEHUB/1", false, b"x\n"),
        (Text, Nul, b"LINEHUB/1\0x\0\ny\n\0", "LINEHUB/1", false, b"x\ny\n"),
        (Raw, Nul, b"LINEHUB/1\r\n\0\nx\0", "LINEHUB/1\\r", false, b"x\n"),
        (Raw, Nul, b"LINEHUB/1\na\0\n", "LINEHUB/1 a", false, b""),
        (Text, Lf, b"", "nothing", false, b""),
        (Text, Lf, b"LINEHUB/1", "at the end: LINEHUB/1", false, b""),
        (Text, Lf, b"LINEHUB/1 \xff", "at the end: LINEHUB/1 \\xff", false, b""),
        (Text, Lf, b"LINE\xff\xecHUB/1\n", "left", false, b""),
        (Text, Lf, b"\xffLINEHUB/1\n\xffx\xff\n", "\\xffLINEHUB/1", false, b"\xffx\xff\n"),
        (Text, Lf, b"\xff\nx\n", "\\xff", false, b"x\n"),
    ];
    for (format, line_end, input, hello, crlf, lines) in cases {
        let expected = Session {
            hello: hello.into(),
            answers: Vec::new(),
            crlf,
            lines: lines.to_vec(),
        };
        check(format, line_end, input, &expected);
    }
}

#[test]
fn telnet_is_answered_before_inside_and_behind_the_hello() {
    // What PuTTY sends first; "are you there", twice; WILL of an option that was refused before.
    let input = b"\xff\xfb\x1f\xff\xfb\x20\xff\xfd\x03LINE\xff\xf6\xff\xf6HUB/1\xff\xfa\x1f\n\xff\xf0 a\r\n\
                  x\xff\xfb\x1f\xff\xfd\x06y\r\n";
    let expected = Session {
        hello: "LINEHUB/1 a\\r".into(),
        answers: [
            &b"\xff\xfe\x1f\xff\xfe\x20\xff\xfc\x03"[..],
            b"[linehub: yes]\r\n\xff\xfc\x06",
        ]
        .concat(),
        crlf: true,
        lines: b"xy\r\n".to_vec(),
    };
    check(Format::Text, LineEnd::Lf, input, &expected);

    let raw = session(Format::Raw, LineEnd::Lf, [&b"\xff\xfb\x1fLINEHUB/1\n"[..]]);
    assert_eq!(raw.hello, "\\xff\\xfb\\x1fLINEHUB/1");
    assert_eq!(raw.answers, b"");
}

#[test]
fn line_is_there_with_its_cr_where_that_ends_it() {
    let mut reader = HelloReader::new(Format::Raw, LineEnd::Any);
    assert_eq!(
        reader.push(b"LINEHUB/1\r", &mut Vec::new()),
        HelloInput::Line {
            line: b"LINEHUB/1".to_vec().into(),
            rest: b""
        }
    );
}

#[test]
fn line_over_the_limit_is_told_at_its_first_byte_too_many() {
    let hello = |line_end, more: &[u8], chunk: usize| {
        let input = [&[b'a'; HELLO_BYTES_MAX][..], more].concat();
        session(Format::Text, line_end, input.chunks(chunk)).hello
    };
    let all = "a".repeat(HELLO_BYTES_MAX);
    for chunk in [1, 7, 4096, 4097, 10_000] {
        for line_end in [LineEnd::Lf, LineEnd::Any] {
            assert_eq!(hello(line_end, b"\n", chunk), all);
            assert_eq!(hello(line_end, b"a", chunk), "too long");
            assert_eq!(hello(line_end, b"a\n", chunk), "too long");
        }
        assert_eq!(hello(LineEnd::Lf, b"\r\n", chunk), format!("{all}\\r"));
        assert_eq!(hello(LineEnd::Lf, b"\r\r\n", chunk), "too long");
        assert_eq!(hello(LineEnd::Lf, b"\ra", chunk), "too long");
        assert_eq!(hello(LineEnd::Any, b"\ra", chunk), all);
        assert_eq!(hello(LineEnd::Nul, b"\n\0", chunk), all);
        assert_eq!(hello(LineEnd::Nul, b"\na\0", chunk), "too long");
    }
}

#[test]
fn telnet_commands_without_a_line_come_to_an_end() {
    let (mut reader, mut answers) = (HelloReader::new(Format::Text, LineEnd::Lf), Vec::new());
    let commands = [&b"\xff\xf6"[..]; 1000].concat();
    let reads = (1..).find(|_| reader.push(&commands, &mut answers) == HelloInput::TooLong);
    assert_eq!(reads, Some(INPUT_BYTES_MAX / commands.len() + 1));
    assert_eq!(answers, YES);
}

#[test]
fn format_of_the_hello_decides_on_telnet_behind_it() {
    let telnet = |listener, client| {
        let mut reader = HelloReader::new(listener, LineEnd::Lf);
        let input = reader.push(b"LINEHUB/1\r\n", &mut Vec::new());
        assert!(matches!(input, HelloInput::Line { .. }));
        let (telnet, line_ends) = reader.into_input(client);
        assert_eq!(line_ends.line_end(), LineEnd::Lf);
        telnet.map(|telnet| telnet.crlf())
    };
    assert_eq!(telnet(Format::Text, Format::Text), Some(true));
    assert_eq!(telnet(Format::Text, Format::Json), None);
    assert_eq!(telnet(Format::Raw, Format::Text), Some(false));
    assert_eq!(telnet(Format::Raw, Format::Raw), None);
}

#[test]
fn line_that_is_put_back_is_taken_again_in_another_daemon() {
    let mut reader = HelloReader::new(Format::Text, LineEnd::Lf);
    let HelloInput::Line { line, rest } = reader.push(b"LINEHUB/1 ack\r\nhi\n", &mut Vec::new())
    else {
        panic!("the line is whole")
    };
    assert_eq!(rest, b"hi\n");
    assert!(reader.take_back().is_none());
    reader.put_back(line.clone());
    let mut next = HelloReader::restore(reader.save(), LineEnd::Lf);
    assert_eq!(next.take_back(), Some(line));
    assert!(next.take_back().is_none());
    assert!(next.crlf());
}

proptest! {
    #[test]
    fn any_input_cut_anywhere_is_read_the_same(
        format in prop::sample::select(Format::ALL.as_slice()),
        line_end in prop::sample::select(LineEnd::ALL.as_slice()),
        input in prop::collection::vec(
            prop::sample::select(b"ab\r\n\0\xff\xff\xf1\xfa\xf0\xfb\xfd\x01\x06\xec".as_slice()),
            0..80,
        ),
        cuts in prop::collection::vec(any::<usize>(), 0..8),
    ) {
        let at = cuts.iter().map(|cut| cut % (input.len() + 1)).collect();
        let expected = session(format, line_end, [&input[..]]);
        prop_assert_eq!(&session(format, line_end, cut_at(&input, at)), &expected);
        prop_assert_eq!(&session(format, line_end, input.chunks(1)), &expected);
    }
}
