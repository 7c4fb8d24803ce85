//! The bytes of telnet commands, and what is answered to them.

/// "End of file", and the lowest command: a byte below it after IAC makes no command.
pub(crate) const EOF: u8 = 236;
pub(super) const SE: u8 = 240;
pub(super) const AYT: u8 = 246;
pub(super) const SB: u8 = 250;
pub(super) const WILL: u8 = 251;
pub(super) const WONT: u8 = 252;
pub(super) const DO: u8 = 253;
pub(super) const DONT: u8 = 254;
/// "Interpret as command": what begins one.
pub(crate) const IAC: u8 = 255;

/// Sent for "are you there". Short, because it goes to whoever asks.
pub(in crate::wire) const YES: &[u8] = b"[linehub: yes]\r\n";

/// The option that asks for nothing but an answer. After Ctrl-C, telnet shows nothing until it has
/// one.
pub(super) const TIMING_MARK: u8 = 6;

/// The answer to DO TIMING-MARK.
const WONT_TIMING_MARK: [u8; 3] = [IAC, WONT, TIMING_MARK];

/// [`WONT_TIMING_MARK`] again and again, to write many of them at a time.
static TIMING_MARK_ANSWERS: [[u8; 3]; 1024] = [WONT_TIMING_MARK; 1024];

/// Takes the answers to DO TIMING-MARK out of what [`Telnet::filter`](super::Telnet::filter) answered; returns their
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

/// Answering an option more than once could go back and forth for ever.
#[derive(Debug, Default)]
pub(super) struct Answered {
    pub(super) to_will: OptionSet,
    pub(super) to_do: OptionSet,
}

/// Numbers of options, 256 bits.
#[derive(Debug, Default)]
pub(super) struct OptionSet([u64; 4]);

impl OptionSet {
    pub(super) fn of(options: &[u8]) -> OptionSet {
        let mut set = OptionSet::default();
        for option in options {
            set.insert(*option);
        }
        set
    }

    /// Whether the option was new.
    pub(super) fn insert(&mut self, option: u8) -> bool {
        let word = &mut self.0[usize::from(option / 64)];
        let before = *word;
        *word |= 1 << (option % 64);
        *word != before
    }

    pub(super) fn to_vec(&self) -> Vec<u8> {
        let holds = |option: &u8| self.0[usize::from(option / 64)] >> (option % 64) & 1 == 1;
        (0..=u8::MAX).filter(holds).collect()
    }
}
