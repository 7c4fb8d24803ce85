//! What a reader must receive, byte for byte.
//!
//! Nothing here knows a format: a probe line is sent first, and what the server made of it shows
//! what it puts around a payload.

use anyhow::{Context as _, Result, bail};
use memchr::memmem;

/// Stands for any digit in an expected line.
const ANY_DIGIT: u8 = b'?';

/// A stream of lines: `before [seq] between payload after`, with the payloads in rotation.
#[derive(Debug)]
pub(crate) struct Stream {
    before: Vec<u8>,
    /// The number of the stream's first line, in formats that number their lines.
    seq: Option<u64>,
    between: Vec<u8>,
    payloads: Vec<Vec<u8>>,
    after: Vec<u8>,
}

impl Stream {
    /// The stream that follows `example`, which is what the server made of the payload `probe`.
    /// All `payloads` have one length. With `many_senders`, lines may name any client whose number
    /// has as many digits as the probe's.
    pub(crate) fn learn(
        example: &[u8],
        probe: &[u8],
        payloads: Vec<Vec<u8>>,
        many_senders: bool,
    ) -> Result<Stream> {
        const SEQ: &[u8] = b"\"seq\":";
        let at = memmem::find(example, probe).context("the probe came back without its payload")?;
        let (head, after) = (&example[..at], &example[at + probe.len()..]);
        if after.last() != Some(&b'\n') {
            bail!("the probe came back without its line end");
        }
        let (before, seq, between) = match memmem::find(head, SEQ) {
            None => (&[][..], None, head),
            Some(at) => {
                let (before, rest) = head.split_at(at + SEQ.len());
                let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
                let (number, between) = rest.split_at(digits);
                (
                    before,
                    Some(str::from_utf8(number)?.parse::<u64>()? + 1),
                    between,
                )
            }
        };
        let mut between = between.to_vec();
        if many_senders {
            for byte in between.iter_mut().filter(|byte| byte.is_ascii_digit()) {
                *byte = ANY_DIGIT;
            }
        }
        Ok(Stream {
            before: before.to_vec(),
            seq,
            between,
            payloads,
            after: after.to_vec(),
        })
    }

    /// Bytes of a line without its number.
    fn line_bytes(&self) -> u64 {
        let payload = self.payloads.first().map_or(0, Vec::len);
        (self.before.len() + self.between.len() + payload + self.after.len()) as u64
    }

    /// How many bytes the first `lines` lines have.
    pub(crate) fn bytes_of(&self, lines: u64) -> u64 {
        let numbers = self.classes(|seen, _| lines - seen);
        lines * self.line_bytes() + numbers.map_or(0, |(_, digits)| digits)
    }

    /// How many whole lines the first `bytes` bytes hold.
    pub(crate) fn lines_in(&self, bytes: u64) -> u64 {
        let line = self.line_bytes();
        let numbered = self.classes(|seen, number_bytes| {
            let digits = self.seq.map_or(0, |seq| decimal_digits(seq + seen));
            (bytes - seen * line - number_bytes) / (line + digits)
        });
        numbered.map_or(bytes / line, |(lines, _)| lines)
    }

    /// Goes through the lines by how many digits their number has. `wanted` says, given the lines
    /// passed and the bytes of their numbers, how many more are wanted if all had as many digits
    /// as the next. Returns lines and bytes of numbers; `None` if lines have no number.
    fn classes(&self, wanted: impl Fn(u64, u64) -> u64) -> Option<(u64, u64)> {
        let seq = self.seq?;
        let (mut lines, mut number_bytes) = (0, 0);
        loop {
            let digits = decimal_digits(seq + lines);
            let left_in_class = 10_u64.pow(digits as u32) - (seq + lines);
            let wanted = wanted(lines, number_bytes);
            let step = wanted.min(left_in_class);
            lines += step;
            number_bytes += step * digits;
            if wanted <= left_in_class {
                return Some((lines, number_bytes));
            }
        }
    }

    /// Whether `sample` is what the stream holds from `offset` on.
    pub(crate) fn matches(&self, offset: u64, sample: &[u8]) -> bool {
        let mut index = self.lines_in(offset);
        let mut skip = (offset - self.bytes_of(index)) as usize;
        let mut sample = sample;
        let mut line = Vec::with_capacity(self.line_bytes() as usize + 20);
        while !sample.is_empty() {
            line.clear();
            self.write_line(index, &mut line);
            let expected = &line[skip..];
            let count = expected.len().min(sample.len());
            let (now, later) = sample.split_at(count);
            let same = now == &expected[..count]
                || now.iter().zip(expected).all(|(byte, expected)| {
                    byte == expected || (*expected == ANY_DIGIT && byte.is_ascii_digit())
                });
            if !same {
                return false;
            }
            (sample, skip, index) = (later, 0, index + 1);
        }
        true
    }

    fn write_line(&self, index: u64, line: &mut Vec<u8>) {
        line.extend_from_slice(&self.before);
        if let Some(seq) = self.seq {
            line.extend_from_slice((seq + index).to_string().as_bytes());
        }
        line.extend_from_slice(&self.between);
        line.extend_from_slice(&self.payloads[(index % self.payloads.len() as u64) as usize]);
        line.extend_from_slice(&self.after);
    }
}

/// `count` payloads of `bytes` bytes that differ in their first four, so that a line lost or
/// doubled shows.
pub(crate) fn payloads(count: usize, bytes: usize) -> Vec<Vec<u8>> {
    let filler = b" the quick brown fox jumps over the lazy dog"
        .iter()
        .cycle();
    (0..count)
        .map(|index| {
            let mut payload = format!("{:04}", index % 10_000).into_bytes();
            payload.extend(filler.clone().take(bytes.saturating_sub(4)));
            payload
        })
        .collect()
}

fn decimal_digits(number: u64) -> u64 {
    u64::from(number.checked_ilog10().unwrap_or(0)) + 1
}
