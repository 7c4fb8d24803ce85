//! What senders send.

use super::line::LineKind;

/// Lines of one length.
#[derive(Clone, Debug)]
pub struct LineSource(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Headed(LineKind),
    Rotating(Rotation),
}

/// Lines of one length that everybody sends in turn.
#[derive(Clone, Debug)]
struct Rotation {
    lines: Vec<u8>,
    line_bytes: usize,
}

impl Rotation {
    fn new(payloads: &[Vec<u8>]) -> Rotation {
        let lines = payloads.iter().flat_map(|line| [line, &b"\n"[..]].concat());
        Rotation {
            lines: lines.collect(),
            line_bytes: payloads.first().map_or(1, |line| line.len() + 1),
        }
    }

    /// Appends `count` lines, of which the first is number `number`.
    fn write(&self, number: u64, count: u64, out: &mut Vec<u8>) {
        let all = (self.lines.len() / self.line_bytes) as u64;
        let mut from = (number % all) as usize * self.line_bytes;
        let mut left = count as usize * self.line_bytes;
        while left > 0 {
            let run = &self.lines[from..self.lines.len().min(from + left)];
            out.extend_from_slice(run);
            left -= run.len();
            from = 0;
        }
    }
}

impl LineSource {
    /// Lines that say who sent them, which they are and when they were due.
    pub(super) fn headed(kind: LineKind) -> LineSource {
        LineSource(Kind::Headed(kind))
    }

    /// A few lines over and over, as cheap as can be. All payloads have one length.
    pub fn rotating(payloads: &[Vec<u8>]) -> LineSource {
        LineSource(Kind::Rotating(Rotation::new(payloads)))
    }

    /// Bytes of a line with its LF.
    pub(super) fn line_bytes(&self) -> usize {
        match &self.0 {
            Kind::Headed(kind) => kind.size() + 1,
            Kind::Rotating(rotation) => rotation.line_bytes,
        }
    }

    /// Appends `count` lines that follow this sender's line `number`, all due at `due`.
    pub(super) fn write(&self, sender: u32, number: u64, count: u64, due: u64, out: &mut Vec<u8>) {
        match &self.0 {
            Kind::Headed(kind) => {
                for number in number + 1..=number + count {
                    kind.write(sender, number, due, out);
                }
            }
            Kind::Rotating(rotation) => rotation.write(number, count, out),
        }
    }
}
