//! The lines that are sent: each says which run and which sender it is of, its number, and when it
//! was due, and holds nothing that is not determined by these. So a line that was lost, doubled, cut
//! or altered shows.
//!
//! ```text
//! tag sender number due check filler
//!  4    3      5     7    1   size - 20
//! ```
//!
//! All in the 64 characters of base64url, which no format has to escape.

/// Bytes before the filler, and hence the shortest line.
pub(super) const HEAD_BYTES: usize = TAG_BYTES + SENDER + NUMBER + DUE + 1;

pub(super) const TAG_BYTES: usize = 4;
const SENDER: usize = 3;
const NUMBER: usize = 5;
const DUE: usize = 7;

/// Senders that can be told apart.
pub(super) const SENDERS_MAX: usize = 1 << (6 * SENDER);

/// Numbers are sent modulo this; who follows a sender knows which one is meant.
const NUMBERS: u64 = 1 << (6 * NUMBER);

/// What a due time counts in: 2^4 ns, which lets seven characters hold 19 hours.
const DUE_SHIFT: u32 = 4;

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// The value of each digit; above 63 for what is none.
const VALUES: [u8; 256] = {
    let mut values = [u8::MAX; 256];
    let mut value = 0;
    while value < DIGITS.len() {
        values[DIGITS[value] as usize] = value as u8;
        value += 1;
    }
    values
};

/// Coprime to the number of fillers, so that a piece of filler moved by a few bytes is another.
const FILLER_PERIOD: usize = 61;
const FILLERS: usize = 64;

/// Four characters that tell the lines of one run from all others.
pub(super) type Tag = [u8; TAG_BYTES];

/// Head of a line: who sent it, which it is, and when it was due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LineHeader {
    /// Counted from 0.
    pub(super) sender: u32,
    /// Counted from 1, modulo [`NUMBERS`].
    number: u64,
    /// Nanoseconds since the run began, exact to 16.
    pub(super) due: u64,
}

/// Writes and reads the lines of one run.
#[derive(Clone, Debug)]
pub(super) struct LineKind {
    tag: Tag,
    size: usize,
    /// The longest filler, for each number from another place on.
    filler: Vec<u8>,
}

impl LineHeader {
    /// The number that is meant when about `near` is expected.
    pub(super) fn number_near(&self, near: u64) -> u64 {
        let ahead = self.number.wrapping_sub(near) % NUMBERS;
        if ahead < NUMBERS / 2 || near + ahead < NUMBERS {
            near + ahead
        } else {
            near + ahead - NUMBERS
        }
    }
}

impl LineKind {
    /// Lines of `size` bytes, at least [`HEAD_BYTES`], not counting their LF.
    pub(super) fn new(tag: Tag, size: usize) -> LineKind {
        debug_assert!(size >= HEAD_BYTES);
        let filler = (0..size - HEAD_BYTES + FILLERS).map(|at| DIGITS[at % FILLER_PERIOD]);
        LineKind {
            tag,
            size,
            filler: filler.collect(),
        }
    }

    pub(super) fn tag(&self) -> &Tag {
        &self.tag
    }

    /// Bytes of a line without its LF.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    fn filler(&self, number: u64) -> &[u8] {
        let from = (number % FILLERS as u64) as usize;
        &self.filler[from..from + self.size - HEAD_BYTES]
    }

    /// Appends a line with its LF. `due` is in nanoseconds.
    pub(super) fn write(&self, sender: u32, number: u64, due: u64, out: &mut Vec<u8>) {
        let mut head = [0; HEAD_BYTES];
        let (tag, rest) = head.split_at_mut(TAG_BYTES);
        let (sender_digits, rest) = rest.split_at_mut(SENDER);
        let (number_digits, rest) = rest.split_at_mut(NUMBER);
        let (due_digits, check_digit) = rest.split_at_mut(DUE);
        let number = number % NUMBERS;
        let due = due >> DUE_SHIFT;
        tag.copy_from_slice(&self.tag);
        put(u64::from(sender), sender_digits);
        put(number, number_digits);
        put(due, due_digits);
        put(check(sender, number, due), check_digit);
        out.extend_from_slice(&head);
        out.extend_from_slice(self.filler(number));
        out.push(b'\n');
    }

    /// The header of a line of this run that is whole; `None` for every other line.
    pub(super) fn read(&self, line: &[u8]) -> Option<LineHeader> {
        if line.len() != self.size {
            return None;
        }
        let header = self.read_head(line)?;
        (&line[HEAD_BYTES..] == self.filler(header.number)).then_some(header)
    }

    /// The header that a line, or what is left of it, begins with.
    pub(super) fn read_head(&self, line: &[u8]) -> Option<LineHeader> {
        let head = line.get(..HEAD_BYTES)?.strip_prefix(&self.tag)?;
        let (sender, rest) = head.split_at(SENDER);
        let (number, rest) = rest.split_at(NUMBER);
        let (due, digit) = rest.split_at(DUE);
        let (sender, number, due) = (get(sender)? as u32, get(number)?, get(due)?);
        let header = LineHeader {
            sender,
            number,
            due: due << DUE_SHIFT,
        };
        (get(digit)? == check(sender, number, due)).then_some(header)
    }
}

/// Six bits that differ when any of these does, as a rule.
fn check(sender: u32, number: u64, due: u64) -> u64 {
    let mixed = (number ^ u64::from(sender).rotate_left(32) ^ due.rotate_left(20))
        .wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed >> 58
}

fn put(mut number: u64, digits: &mut [u8]) {
    for digit in digits.iter_mut().rev() {
        *digit = DIGITS[(number % 64) as usize];
        number /= 64;
    }
}

fn get(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0, |number, digit| {
        let value = VALUES[usize::from(*digit)];
        (value < 64).then_some(number << 6 | u64::from(value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(kind: &LineKind, sender: u32, number: u64, due: u64) -> Vec<u8> {
        let mut out = Vec::new();
        kind.write(sender, number, due, &mut out);
        assert_eq!(out.pop(), Some(b'\n'));
        assert_eq!(out.len(), kind.size());
        out
    }

    #[test]
    fn lines_of_every_size_are_read_as_they_were_written() {
        for size in [20, 21, 64, 1000] {
            let kind = LineKind::new(*b"runA", size);
            for (sender, number, due) in [
                (0, 1, 0),
                (7, 12_345, 1 << 20),
                (SENDERS_MAX as u32 - 1, NUMBERS - 1, 43_200_000_000_000),
            ] {
                let header = kind.read(&line(&kind, sender, number, due)).unwrap();
                assert_eq!((header.sender, header.due), (sender, due));
                assert_eq!(header.number_near(number.saturating_sub(5)), number);
            }
        }
    }

    #[test]
    fn number_goes_on_where_its_digits_begin_again() {
        let kind = LineKind::new(*b"runA", 20);
        for number in [1, NUMBERS - 1, NUMBERS, NUMBERS + 1, 5 * NUMBERS + 3] {
            let header = kind.read(&line(&kind, 0, number, 0)).unwrap();
            for near in [number.saturating_sub(1000), number, number + 1000] {
                assert_eq!(header.number_near(near), number, "near {near}");
            }
        }
    }

    #[test]
    fn line_that_was_touched_is_not_read() {
        let kind = LineKind::new(*b"runA", 40);
        let whole = line(&kind, 3, 99, 5_000);
        for at in 0..whole.len() {
            assert_eq!(kind.read(&whole[..at]), None, "cut to {at}");
            assert_eq!(kind.read(&whole[at + 1..]), None, "cut from {at}");
            let mut without = whole.clone();
            without.remove(at);
            assert_eq!(kind.read(&without), None, "without {at}");
            without.insert(at, whole[at] ^ 1);
            if !(TAG_BYTES..HEAD_BYTES).contains(&at) {
                assert_eq!(kind.read(&without), None, "altered at {at}");
            }
        }
        assert_eq!(kind.read(&[&whole[..], &whole[..]].concat()), None);
        assert_eq!(LineKind::new(*b"runB", 40).read(&whole), None);
    }
}
