//! Numbered lines, many: what was lost, cut, doubled or put in another order shows.

use super::{Client, Event};

/// What follows the prefix of the line with this number. The length varies a little, so that lines
/// end everywhere in a read.
pub(crate) fn payload(n: u64) -> String {
    const FILL: &str =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+-abcdefghijkl";
    format!("{n:010} {}", &FILL[(n % 13) as usize..])
}

/// A sender of numbered lines, from 1.
#[derive(Default)]
pub(crate) struct Flood {
    /// Lines sent so far.
    pub(crate) sent: u64,
}

impl Flood {
    /// The next lines, as bytes.
    pub(crate) fn lines(&mut self, count: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        for n in self.sent + 1..=self.sent + count {
            bytes.extend_from_slice(payload(n).as_bytes());
            bytes.push(b'\n');
        }
        self.sent += count;
        bytes
    }

    #[track_caller]
    pub(crate) fn send(&mut self, from: &mut Client, count: u64) {
        let bytes = self.lines(count);
        from.send_bytes(&bytes);
    }

    /// Reads the numbered lines `from..=to` of one sender, in `text`, and nothing else.
    #[track_caller]
    pub(crate) fn expect(reader: &mut Client, sender: u64, from: u64, to: u64) {
        for n in from..=to {
            reader.expect_message(sender, &payload(n));
        }
    }

    /// Reads numbered lines of one sender from 1 up to the line `end`, with no gap. Returns how many.
    #[track_caller]
    pub(crate) fn expect_all(reader: &mut Client, sender: u64) -> u64 {
        let prefix = format!("Message from client {sender}: ");
        for n in 1.. {
            let line = reader.read_line();
            let got = line
                .strip_prefix(&prefix)
                .unwrap_or_else(|| panic!("not a message: {line}"));
            if got == "end" {
                return n - 1;
            }
            assert_eq!(got, payload(n));
        }
        unreachable!("u64 ran out")
    }

    /// Reads what is left for a client that was closed as too slow: whole lines from 1 on with no
    /// gap, then perhaps the error line, then the end, which may be inside a line that the socket
    /// took only half of. Returns how many lines, and the error line.
    #[track_caller]
    pub(crate) fn expect_prefix(reader: &mut Client, sender: u64) -> (u64, Option<String>) {
        let line_of = |n| format!("Message from client {sender}: {}", payload(n));
        let mut count = 0;
        let mut error = None;
        loop {
            match reader.next() {
                Event::Line(line) => {
                    let line = String::from_utf8(line).expect("UTF-8");
                    assert_eq!(error, None, "{line} after the error");
                    if line.starts_with("Error: ") {
                        error = Some(line);
                    } else {
                        count += 1;
                        assert_eq!(line, line_of(count));
                    }
                }
                Event::Eof(rest) => {
                    assert!(
                        line_of(count + 1).as_bytes().starts_with(&rest),
                        "cut: {rest:?}"
                    );
                    return (count, error);
                }
                Event::Reset => return (count, error),
            }
        }
    }
}
