use proptest::prelude::*;

use super::*;
use crate::wire::framing::{Framer, LineEnds, LineLimit};

/// What came of an input: data, answers less those to AYT, crlf, wants to leave.
type Filtered = (Vec<u8>, Vec<u8>, bool, bool);

fn read(telnet: &mut Telnet, chunk: &[u8], answers: &mut Vec<u8>) -> Vec<u8> {
    let mut buf = [&[b'?'; HEADROOM], chunk].concat();
    telnet.filter(&mut buf, answers).to_vec()
}

fn filtered<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Filtered {
    let mut telnet = Telnet::new();
    let (mut data, mut answers) = (Vec::new(), Vec::new());
    for chunk in chunks {
        let mut said = Vec::new();
        data.extend(read(&mut telnet, chunk, &mut said));
        assert!(said.len() <= chunk.len() + YES.len());
        if let Some(at) = memchr::memmem::find(&said, YES) {
            said.drain(at..at + YES.len());
        }
        answers.extend(said);
        let saved = telnet.save();
        let json = serde_json::to_string(&saved).unwrap();
        telnet = Telnet::restore(&serde_json::from_str(&json).unwrap());
        assert_eq!(telnet.save(), saved);
    }
    data.extend(telnet.finish());
    (data, answers, telnet.crlf(), telnet.wants_to_leave())
}

fn cut<'a>(input: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let mut at: Vec<usize> = cuts.iter().map(|cut| cut % (input.len() + 1)).collect();
    at.extend([0, input.len()]);
    at.sort_unstable();
    at.windows(2).map(|ends| &input[ends[0]..ends[1]]).collect()
}

/// Input, data, answers, crlf, wants to leave.
type Fixture = (&'static [u8], &'static [u8], &'static [u8], bool, bool);

#[rustfmt::skip]
const FIXTURES: [Fixture; 24] = [
    (b"", b"", b"", false, false),
    (b"hello\n", b"hello\n", b"", false, false),
    (b"hello\r\nyou\r\n", b"hello\r\nyou\r\n", b"", true, false),
    (b"hello\r\0you\r\0", b"hello\r\nyou\r\n", b"", true, false),
    (b"a\rb\r\rc\0\n", b"a\rb\r\rc\0\n", b"", false, false),
    (b"\r\r\0\0\n", b"\r\r\n\0\n", b"", true, false),
    // Ctrl-C and Ctrl-\ in telnet.
    (b"a\xff\xf4\xff\xfd\x06b\n", b"ab\n", b"\xff\xfc\x06", true, false),
    (b"\xff\xf3\xff\xfd\x06\xff\xfd\x06", b"", b"\xff\xfc\x06\xff\xfc\x06", true, false),
    // The options are refused once each, WILL and DO apart.
    (b"\xff\xfb\x01\xff\xfb\x01\xff\xfb\x03x", b"x", b"\xff\xfe\x01\xff\xfe\x03", true, false),
    (b"\xff\xfd\x01\xff\xfb\x01\xff\xfd\x01", b"", b"\xff\xfc\x01\xff\xfe\x01", true, false),
    (b"\xff\xfd\xff\xff\xfb\0x\n", b"x\n", b"\xff\xfc\xff\xff\xfe\0", true, false),
    (b"\xff\xfb\x06\xff\xfb\x06", b"", b"\xff\xfe\x06", true, false),
    (b"x\xff\xfc\x01y\xff\xfe\x01z\n", b"xyz\n", b"", true, false),
    // Subnegotiation, with a 255 in it, and with one that was not doubled.
    (b"a\xff\xfa\x1f\0\x50\0\x18\xff\xf0b\n", b"ab\n", b"", true, false),
    (b"a\xff\xfa\x1f\xff\xff\xf0\n\xff\xf0b\n", b"ab\n", b"", true, false),
    (b"a\xff\xfa\x1f\xff\0\0\x18\xff\xf0b\n", b"ab\n", b"", true, false),
    (b"a\nb\xff\xfaforever\n", b"a\nb", b"", true, false),
    // Stray 0xFF.
    (b"a\xff\xffb\n", b"a\xffb\n", b"", false, false),
    (b"\xffa\xff\n\xff\r\xff\0\xff", b"\xffa\xff\n\xff\r\xff\0\xff", b"", false, false),
    // A command between the two bytes of Enter.
    (b"a\r\xff\xf1\nb\r\xff\xf1\0", b"a\r\nb\r\n", b"", true, false),
    (b"a\r\xff\xff\0\n", b"a\r\xff\0\n", b"", false, false),
    // "Are you there" is answered, but not counted here.
    (b"a\xff\xf6b\n", b"ab\n", b"", true, false),
    // Ctrl-D.
    (b"a\nb\xff\xec\xff\xfd\x01c\n\xff", b"a\nb", b"", true, true),
    // Ends inside a command.
    (b"a\xff\xfd", b"a", b"", true, false),
];

#[test]
fn every_fixture_cut_at_every_two_bytes_is_read_the_same() {
    for (input, data, answers, crlf, leave) in FIXTURES {
        let expected = (data.to_vec(), answers.to_vec(), crlf, leave);
        for first in 0..=input.len() {
            for second in first..=input.len() {
                assert_eq!(
                    filtered(cut(input, &[first, second])),
                    expected,
                    "{input:x?}"
                );
            }
        }
        let bytes = input.chunks(1);
        assert_eq!(filtered(bytes), expected, "{input:x?}");
    }
}

#[test]
fn every_fixture_cut_at_every_byte_gives_the_same_lines() {
    for (input, data, ..) in FIXTURES {
        let mut expected = data.to_vec();
        if !expected.is_empty() && !expected.ends_with(b"\n") {
            expected.push(b'\n');
        }
        for at in 0..=input.len() {
            let (mut telnet, mut framer) = (Telnet::new(), Framer::new(1000));
            let mut out = Vec::new();
            for chunk in cut(input, &[at]) {
                let data = read(&mut telnet, chunk, &mut Vec::new());
                out.extend(framer.push(&data).runs().concat());
            }
            if let Some(stray) = telnet.finish() {
                out.extend(framer.push(&[stray]).runs().concat());
            }
            out.extend(framer.finish().runs().concat());
            assert_eq!(out, expected, "{input:x?} cut at {at}");
        }
    }
}

#[test]
fn nul_after_cr_stays_where_it_ends_lines() {
    for input in [&b"a\r\0b\0\r"[..], b"\0\r\r\0\n\0"] {
        for at in 0..=input.len() {
            let mut telnet = Telnet::for_lines_in(LineEnd::Nul);
            let mut out = Vec::new();
            for chunk in cut(input, &[at]) {
                out.extend(read(&mut telnet, chunk, &mut Vec::new()));
                telnet = Telnet::restore(&telnet.save());
            }
            assert_eq!(out, input);
            assert!(!telnet.crlf());
        }
    }
    let saved = |line_end| serde_json::to_value(Telnet::for_lines_in(line_end).save()).unwrap();
    assert_eq!(saved(LineEnd::Nul)["nul_is_line_end"], true);
    assert_eq!(saved(LineEnd::Any).get("nul_is_line_end"), None);
}

#[test]
fn every_enter_is_one_line_end_where_any_ends_a_line() {
    let input = b"a\r\0b\r\nc\nd\r\r\0\r\xff\xf1\0e";
    for at in 0..=input.len() {
        let (mut telnet, mut framer) = (Telnet::for_lines_in(LineEnd::Any), Framer::new(9));
        let mut line_ends = LineEnds::new(LineEnd::Any);
        let limit = LineLimit {
            bytes_max: 9,
            discard: false,
        };
        let mut out = Vec::new();
        for chunk in cut(input, &[at]) {
            let mut data = read(&mut telnet, chunk, &mut Vec::new());
            let lines = framer.push_translated(limit, line_ends.translate(&mut data));
            out.extend(lines.runs().concat());
        }
        out.extend(framer.finish().runs().concat());
        assert_eq!(out, b"a\nb\nc\nd\n\n\ne\n", "cut at {at}");
    }
}

#[test]
fn are_you_there_is_answered_once_a_read() {
    let (mut telnet, mut answers) = (Telnet::new(), Vec::new());
    assert_eq!(
        read(&mut telnet, b"a\xff\xf6\xff\xf6b", &mut answers),
        b"ab"
    );
    assert_eq!(answers, YES);
    read(&mut telnet, b"\xff", &mut answers);
    read(&mut telnet, b"\xf6", &mut answers);
    assert_eq!(answers, YES.repeat(2));
}

#[test]
fn end_of_transmission_alone_on_a_line_is_a_wish_to_leave() {
    assert_eq!(find_eot_line(b"\x04\n"), Some(0));
    assert_eq!(find_eot_line(b"\x04\r\n"), Some(0));
    assert_eq!(find_eot_line(b"a\n\x04\r\nb\n\x04\n"), Some(2));
    assert_eq!(find_eot_line(b"a\x04\n\x04b\n\x04\x04\n\x04\r\r\n"), None);
    assert_eq!(find_eot_line(b""), None);
}

#[test]
fn idle_telnet_is_small() {
    assert!(size_of::<Telnet>() <= 16);
}

const INTERESTING: &[u8] = b"a\r\n\0\x01\x06\xec\xf0\xf1\xf6\xfa\xfb\xfc\xfd\xfe\xff\xff\xff";

proptest! {
    #[test]
    fn any_input_cut_anywhere_is_read_the_same(
        input in prop::collection::vec(prop::sample::select(INTERESTING), 0..200),
        cuts in prop::collection::vec(any::<usize>(), 0..12),
    ) {
        prop_assert_eq!(filtered(cut(&input, &cuts)), filtered([&input[..]]));
    }

    #[test]
    fn data_with_0xff_doubled_comes_through(
        data in prop::collection::vec(
            any::<u8>().prop_filter("NUL", |byte| *byte != 0), 0..300),
        cuts in prop::collection::vec(any::<usize>(), 0..12),
    ) {
        let sent: Vec<u8> =
            data.iter().flat_map(|b| vec![*b; if *b == IAC { 2 } else { 1 }]).collect();
        let crlf = memchr::memmem::find(&data, b"\r\n").is_some();
        prop_assert_eq!(filtered(cut(&sent, &cuts)), (data, vec![], crlf, false));
    }
}
