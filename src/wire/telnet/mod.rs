//! Telnet commands out of the bytes of `text` clients, and the answers to them.
//!
//! linehub is no telnet server: it never sends a command first, refuses every option (RFC 854,
//! RFC 860) and turns the Enter of a telnet client into a line end. A client that is no telnet
//! client either notices nothing, since 0xFF never occurs in UTF-8.

use memchr::{memchr, memchr_iter, memchr2};
use serde::{Deserialize, Serialize};

mod answers;
#[cfg(test)]
mod tests;

pub(in crate::wire) use self::answers::YES;
pub(crate) use self::answers::{EOF, IAC};
pub use self::answers::{take_timing_marks, timing_mark_answers};

use self::answers::{AYT, Answered, DO, DONT, OptionSet, SB, SE, TIMING_MARK, WILL, WONT};
use super::compact::keep;
use super::line_end::LineEnd;

/// What Ctrl-D sends.
pub const END_OF_TRANSMISSION: u8 = 0x04;

/// The bytes to keep free before those of a read: [`Telnet::filter`] may have one held back from
/// the read before that turns out to be data.
pub const HEADROOM: usize = 1;

/// Reads one client's telnet commands, across reads. 16 bytes, and 80 more once it was asked for
/// an option.
#[derive(Debug, Default)]
pub struct Telnet {
    state: State,
    /// The last byte of data was a CR.
    after_cr: bool,
    crlf: bool,
    /// A NUL ends a line, so that one after a CR is no Enter.
    nul_is_line_end: bool,
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
    /// Left out where it is not so, as it was before lines could end so.
    #[serde(default, skip_serializing_if = "is_no")]
    nul_is_line_end: bool,
}

fn is_no(yes: &bool) -> bool {
    !yes
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

impl Telnet {
    /// The state of a client that has sent nothing.
    pub fn new() -> Telnet {
        Telnet::default()
    }

    /// The same of a client whose lines end so. Where they end in NUL, one after a CR stays a NUL.
    pub fn for_lines_in(line_end: LineEnd) -> Telnet {
        Telnet {
            nul_is_line_end: line_end == LineEnd::Nul,
            ..Telnet::default()
        }
    }

    /// Takes the telnet commands out of what was read, in place, and appends the answers to them.
    ///
    /// The bytes read are `buf[HEADROOM..]`; those of `buf[..HEADROOM]` are free to be overwritten. Returns
    /// the data, which is the bytes read less the commands and with CR LF for CR NUL (which stays one
    /// where lines end in NUL).
    ///
    /// The answers are no longer than what asked for them, but for "are you there", which gets 16
    /// bytes and is answered once a call.
    pub fn filter<'a>(&mut self, buf: &'a mut [u8], answers: &mut Vec<u8>) -> &'a mut [u8] {
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
                        let after_cr = before.map_or(self.after_cr, |byte| *byte == b'\r');
                        if after_cr && !self.nul_is_line_end {
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

        let data = &mut buf[start..kept];
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
            nul_is_line_end: self.nul_is_line_end,
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
            nul_is_line_end: saved.nul_is_line_end,
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

/// Where in a run of whole lines the first one starts that holds nothing but
/// [`END_OF_TRANSMISSION`]: the client wants to leave.
pub fn find_eot_line(run: &[u8]) -> Option<usize> {
    memchr_iter(END_OF_TRANSMISSION, run).find(|at| {
        let (before, after) = (&run[..*at], &run[at + 1..]);
        (before.is_empty() || before.ends_with(b"\n"))
            && (after.starts_with(b"\n") || after.starts_with(b"\r\n"))
    })
}
