//! What senders send.

use super::line::LineKind;

/// Lines of one length.
#[derive(Clone, Debug)]
pub struct LineSource(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Headed(LineKind),
    /// Lines that everybody sends in turn, and how long each is.
    Rotating(Vec<u8>, usize),
}

impl LineSource {
    /// Lines that say who sent them, which they are and when they were due.
    pub(super) fn headed(kind: LineKind) -> LineSource {
        LineSource(Kind::Headed(kind))
    }

    /// A few lines over and over, as cheap as can be. All payloads have one length.
    pub fn rotating(payloads: &[Vec<u8>]) -> LineSource {
        let lines = payloads.iter().flat_map(|line| [line, &b"\n"[..]].concat());
        let line_bytes = payloads.first().map_or(1, |line| line.len() + 1);
        LineSource(Kind::Rotating(lines.collect(), line_bytes))
    }

    /// Bytes of a line with its LF.
    pub(super) fn line_bytes(&self) -> usize {
        match &self.0 {
            Kind::Headed(kind) => kind.size() + 1,
            Kind::Rotating(_, line_bytes) => *line_bytes,
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
            Kind::Rotating(lines, line_bytes) => {
                let mut from = number as usize * line_bytes % lines.len();
                let mut left = count as usize * line_bytes;
                while left > 0 {
                    let run = &lines[from..lines.len().min(from + left)];
                    out.extend_from_slice(run);
                    left -= run.len();
                    from = 0;
                }
            }
        }
    }
}
