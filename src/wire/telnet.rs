//! Telnet commands out of the bytes of `text` clients, and the answers to them.
//!
//! linehub is no telnet server: it never sends a command first, refuses every option (RFC 854,
//! RFC 860) and turns the Enter of a telnet client into a line end. A client that is no telnet
//! client either notices nothing, since 0xFF never occurs in UTF-8.

use std::ops::Range;

use memchr::{memchr, memchr_iter, memchr2};
use serde::{Deserialize, Serialize};

/// What Ctrl-D sends.
pub const END_OF_TRANSMISSION: u8 = 0x04;

/// The bytes to keep free before those of a read: [`Telnet::filter`] may have one held back from
/// the read before that turns out to be data.
pub const HEADROOM: usize = 1;

/// Sent for "are you there". Short, because it goes to whoever asks.
const YES: &[u8] = b"[linehub: yes]\r\n";

/// "End of file", and the lowest command: a byte below it after IAC makes no command.
pub(crate) const EOF: u8 = 236;
const SE: u8 = 240;
const AYT: u8 = 246;
const SB: u8 = 250;
const WILL: u8 = 251;
const WONT: u8 = 252;
const DO: u8 = 253;
const DONT: u8 = 254;
/// "Interpret as command": what begins one.
pub(crate) const IAC: u8 = 255;

/// The option that asks for nothing but an answer. After Ctrl-C, telnet shows nothing until it has
/// one.
const TIMING_MARK: u8 = 6;

/// The answer to DO TIMING-MARK.
const WONT_TIMING_MARK: [u8; 3] = [IAC, WONT, TIMING_MARK];

/// [`WONT_TIMING_MARK`] again and again, to write many of them at a time.
static TIMING_MARK_ANSWERS: [[u8; 3]; 1024] = [WONT_TIMING_MARK; 1024];

/// Takes the answers to DO TIMING-MARK out of what [`Telnet::filter`] answered; returns their
/// length. Whatever else there is comes to at most 1,600 bytes in a client's life, and 16 a call.
pub fn take_timing_marks(answers: &mut Vec<u8>) -> u32 {
    let all = answers.len();
    let mut others = Vec::new();
    let mut rest = &answers[..];
    while !rest.is_empty() {
        // An answer is three bytes, but for YES, which begins as no other.
        let (answer, more) = rest.split_at(if rest[0] == IAC { 3 } else { YES.len() });
        if answer != WONT_TIMING_MARK {
            others.extend_from_slice(answer);
        }
        rest = more;
    }
    *answers = others;
    (all - answers.len()) as u32
}

/// The next bytes of answers to DO TIMING-MARK of which so many bytes are still to be written: all
/// of them, or as many as lie in one piece.
pub fn timing_mark_answers(unwritten: u32) -> &'static [u8] {
    let from = (3 - unwritten as usize % 3) % 3;
    let bytes = TIMING_MARK_ANSWERS.as_flattened();
    &bytes[from..bytes.len().min(from + unwritten as usize)]
}

/// Reads one client's telnet commands, across reads. 16 bytes, and 80 more once it was asked for
/// an option.
#[derive(Debug, Default)]
pub struct Telnet {
    state: State,
    /// The last byte of data was a CR.
    after_cr: bool,
    crlf: bool,
    answered: Option<Box<Answered>>,
}

/// What a [`Telnet`] knows, for a handover.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TelnetState {
    state: State,
    after_cr: bool,
    crlf: bool,
    /// The options for which a WILL or a DO was answered.
    answered_will: Vec<u8>,
    answered_do: Vec<u8>,
}

/// What the next byte is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum State {
    #[default]
    Data,
    /// What follows an IAC.
    Command,
    /// The option of a WILL.
    Will,
    /// The option of a DO.
    Do,
    /// The option of a WONT or DONT, which need no answer: nothing was ever agreed.
    Refusal,
    /// Inside SB … IAC SE.
    Subnegotiation,
    /// What follows an IAC in there.
    SubnegotiationCommand,
    /// Anything: the client wants to leave.
    Left,
}

/// Answering an option more than once could go back and forth for ever.
#[derive(Debug, Default)]
struct Answered {
    to_will: OptionSet,
    to_do: OptionSet,
}

#[derive(Debug, Default)]
struct OptionSet([u64; 4]);

impl Telnet {
    /// The state of a client that has sent nothing.
    pub fn new() -> Telnet {
        Telnet::default()
    }

    /// Takes the telnet commands out of what was read, in place, and appends the answers to them.
    ///
    /// The bytes read are `buf[HEADROOM..]`; those of `buf[..HEADROOM]` are free to be overwritten. Returns
    /// the data, which is the bytes read less the commands and with CR LF for CR NUL.
    ///
    /// The answers are no longer than what asked for them, but for "are you there", which gets 16
    /// bytes and is answered once a call.
    pub fn filter<'a>(&mut self, buf: &'a mut [u8], answers: &mut Vec<u8>) -> &'a [u8] {
        let held_back = usize::from(self.state == State::Command);
        let start = HEADROOM - held_back;
        // `buf[start..kept]` is data in its place, `buf[from..at]` data that may have to move.
        let (mut kept, mut from, mut at) = (start, HEADROOM, HEADROOM);
        let mut said_yes = false;

        while at < buf.len() {
            match self.state {
                State::Data => {
                    // Not CR but NUL, so that a feed with CR LF passes as fast as one with LF.
                    let Some(hit) = memchr2(0, IAC, &buf[at..]).map(|hit| at + hit) else {
                        break;
                    };
                    at = hit + 1;
                    if buf[hit] == IAC {
                        kept = keep(buf, kept, from..hit);
                        self.state = State::Command;
                    } else {
                        let before = buf[from..hit].last().or(buf[start..kept].last());
                        if before.map_or(self.after_cr, |byte| *byte == b'\r') {
                            buf[hit] = b'\n';
                        }
                    }
                }
                State::Command if buf[at] < EOF || buf[at] == IAC => {
                    // A stray 0xFF, or one that was sent twice to say so.
                    from = at + usize::from(buf[at] == IAC);
                    at = from;
                    buf[kept] = IAC;
                    kept += 1;
                    self.state = State::Data;
                }
                State::Command => {
                    let command = buf[at];
                    at += 1;
                    from = at;
                    self.crlf = true;
                    self.state = match command {
                        EOF => State::Left,
                        SB => State::Subnegotiation,
                        WILL => State::Will,
                        DO => State::Do,
                        WONT | DONT => State::Refusal,
                        _ => State::Data,
                    };
                    if command == AYT && !said_yes {
                        said_yes = true;
                        answers.extend_from_slice(YES);
                    }
                }
                State::Will | State::Do | State::Refusal => {
                    self.answer(buf[at], answers);
                    at += 1;
                    from = at;
                    self.state = State::Data;
                }
                State::Subnegotiation => match memchr(IAC, &buf[at..]) {
                    Some(hit) => {
                        at += hit + 1;
                        self.state = State::SubnegotiationCommand;
                    }
                    None => at = buf.len(),
                },
                State::SubnegotiationCommand => {
                    // Whatever else follows is taken as part of it, since clients exist that send
                    // a 255 in there only once.
                    self.state = match buf[at] {
                        SE => State::Data,
                        _ => State::Subnegotiation,
                    };
                    at += 1;
                    from = at;
                }
                State::Left => break,
            }
        }
        if self.state == State::Data {
            kept = keep(buf, kept, from..buf.len());
        }

        let data = &buf[start..kept];
        self.crlf = self.crlf || self.ends_a_line_in_crlf(data);
        self.after_cr = data.last().map_or(self.after_cr, |last| *last == b'\r');
        data
    }

    /// The input has ended. After a lone IAC that was no command: it is one more byte of data.
    pub fn finish(&mut self) -> Option<u8> {
        let stray = self.state == State::Command;
        if stray {
            self.state = State::Data;
            self.after_cr = false;
        }
        stray.then_some(IAC)
    }

    /// Whether the client's output lines end in CR LF: it has sent CR LF, CR NUL or a command.
    pub fn crlf(&self) -> bool {
        self.crlf
    }

    /// Whether the client has sent IAC EOF. What it sent before is still data, what comes after is
    /// not.
    pub fn wants_to_leave(&self) -> bool {
        self.state == State::Left
    }

    /// Whether the next byte belongs to a command, or is none of the client's any more.
    #[cfg(feature = "connect")]
    pub(crate) fn is_amid_command(&self) -> bool {
        self.state != State::Data
    }

    /// All there is to know, for [`restore`](Telnet::restore).
    pub fn save(&self) -> TelnetState {
        let answered = self.answered.as_deref();
        TelnetState {
            state: self.state,
            after_cr: self.after_cr,
            crlf: self.crlf,
            answered_will: answered.map_or_else(Vec::new, |answered| answered.to_will.to_vec()),
            answered_do: answered.map_or_else(Vec::new, |answered| answered.to_do.to_vec()),
        }
    }

    /// Goes on where [`save`](Telnet::save) was called.
    pub fn restore(saved: &TelnetState) -> Telnet {
        let any = !saved.answered_will.is_empty() || !saved.answered_do.is_empty();
        Telnet {
            state: saved.state,
            after_cr: saved.after_cr,
            crlf: saved.crlf,
            answered: any.then(|| {
                Box::new(Answered {
                    to_will: OptionSet::of(&saved.answered_will),
                    to_do: OptionSet::of(&saved.answered_do),
                })
            }),
        }
    }

    /// Refuses the option of the WILL or DO that is being read.
    fn answer(&mut self, option: u8, answers: &mut Vec<u8>) {
        let (is_new, verb) = match self.state {
            State::Will => (self.answered().to_will.insert(option), DONT),
            State::Do => (self.answered().to_do.insert(option), WONT),
            _ => return,
        };
        if is_new || (verb, option) == (WONT, TIMING_MARK) {
            answers.extend_from_slice(&[IAC, verb, option]);
        }
    }

    fn answered(&mut self) -> &mut Answered {
        self.answered.get_or_insert_default()
    }

    fn ends_a_line_in_crlf(&self, data: &[u8]) -> bool {
        (self.after_cr && data.starts_with(b"\n"))
            || memchr_iter(b'\r', data).any(|at| data.get(at + 1) == Some(&b'\n'))
    }
}

impl OptionSet {
    fn of(options: &[u8]) -> OptionSet {
        let mut set = OptionSet::default();
        for option in options {
            set.insert(*option);
        }
        set
    }

    /// Whether the option was new.
    fn insert(&mut self, option: u8) -> bool {
        let word = &mut self.0[usize::from(option / 64)];
        let before = *word;
        *word |= 1 << (option % 64);
        *word != before
    }

    fn to_vec(&self) -> Vec<u8> {
        let holds = |option: &u8| self.0[usize::from(option / 64)] >> (option % 64) & 1 == 1;
        (0..=u8::MAX).filter(holds).collect()
    }
}

/// Moves a span of data to the end of what is kept, if anything was taken out before it. Returns
/// the new end.
fn keep(buf: &mut [u8], kept: usize, span: Range<usize>) -> usize {
    let end = kept + span.len();
    if kept != span.start {
        buf.copy_within(span, kept);
    }
    end
}

/// Where in a run of whole lines the first one starts that holds nothing but
/// [`END_OF_TRANSMISSION`]: the client wants to leave.
pub fn find_eot_line(run: &[u8]) -> Option<usize> {
    memchr_iter(END_OF_TRANSMISSION, run).find(|at| {
        let (before, after) = (&run[..*at], &run[at + 1..]);
        (before.is_empty() || before.ends_with(b"\n"))
            && (after.starts_with(b"\n") || after.starts_with(b"\r\n"))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::framing::Framer;

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
}
