//! What comes in, and where it goes.

use std::io;
use std::mem;
use std::os::fd::{AsFd, BorrowedFd};

use memchr::memrchr;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use super::terminal::Printer;
use crate::format;

/// A line longer than this is broken on a screen, so that the memory for one that never ends is
/// bounded. Nobody reads so long a line.
const SHOWN_LINE_BYTES_MAX: usize = 1024 * 1024;

/// Where incoming bytes go.
pub(super) enum Output {
    /// Nowhere.
    Discard,
    /// To standard output, exactly as they come.
    Stdout,
    /// To a screen: whole lines, with control characters made visible.
    Screen(Screen),
}

/// Lines for a person.
pub(super) struct Screen {
    printer: Printer,
    unfinished: Vec<u8>,
}

impl Output {
    /// Takes what one read brought, and has it out when it returns.
    ///
    /// # Errors
    /// `BrokenPipe` when nobody reads standard output any more.
    pub(super) fn take(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Output::Discard => Ok(()),
            Output::Stdout => write_all(io::stdout().as_fd(), bytes),
            Output::Screen(screen) => screen.take(bytes),
        }
    }

    /// The connection has ended: what it brought of a line is shown.
    pub(super) fn end(&mut self) -> io::Result<()> {
        match self {
            Output::Screen(screen) => screen.break_line(),
            Output::Discard | Output::Stdout => Ok(()),
        }
    }
}

impl Screen {
    pub(super) fn new(printer: Printer) -> Screen {
        Screen {
            printer,
            unfinished: Vec::new(),
        }
    }

    fn take(&mut self, bytes: &[u8]) -> io::Result<()> {
        let whole = memrchr(b'\n', bytes).map_or(0, |at| at + 1);
        let (whole, begun) = bytes.split_at(whole);
        if !whole.is_empty() {
            let mut lines = mem::take(&mut self.unfinished);
            lines.extend_from_slice(whole);
            self.show(&lines)?;
        }
        self.unfinished.extend_from_slice(begun);
        if self.unfinished.len() > SHOWN_LINE_BYTES_MAX {
            self.break_line()?;
        }
        Ok(())
    }

    fn break_line(&mut self) -> io::Result<()> {
        if self.unfinished.is_empty() {
            return Ok(());
        }
        let mut line = mem::take(&mut self.unfinished);
        line.push(b'\n');
        self.show(&line)
    }

    fn show(&mut self, lines: &[u8]) -> io::Result<()> {
        let mut shown = Vec::with_capacity(lines.len());
        format::visible_lines(lines, &mut shown);
        self.printer.print(&String::from_utf8_lossy(&shown))
    }
}

/// Writes all of it. Waits where the descriptor is nonblocking, as another program that shares it may
/// have made it.
pub(super) fn write_all(to: BorrowedFd<'_>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(to, bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                let mut writable = [PollFd::from_borrowed_fd(to, PollFlags::OUT)];
                match poll(&mut writable, None) {
                    Ok(_) | Err(Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{PipeReader, Read};

    fn screen() -> (Screen, PipeReader) {
        let (reader, writer) = io::pipe().unwrap();
        (Screen::new(Printer::Plain(writer.into())), reader)
    }

    fn shown(reads: &[&[u8]]) -> String {
        let (mut screen, mut reader) = screen();
        for read in reads {
            screen.take(read).unwrap();
        }
        screen.break_line().unwrap();
        drop(screen);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn screen_shows_lines_the_same_wherever_reads_are_cut() {
        let bytes = "grüße\tdu\r\n\x1b[31mrot\n\nend".as_bytes();
        let wanted = "grüße\tdu\n\\x1b[31mrot\n\nend\n";
        for at in 0..=bytes.len() {
            assert_eq!(shown(&[&bytes[..at], &bytes[at..]]), wanted, "{at}");
        }
    }

    #[test]
    fn screen_breaks_a_line_that_does_not_end() {
        let (mut screen, mut reader) = screen();
        let reads = SHOWN_LINE_BYTES_MAX / 4096 + 1;
        let reader = std::thread::spawn(move || {
            let mut text = String::new();
            reader.read_to_string(&mut text).map(|_| text)
        });
        for _ in 0..reads {
            screen.take(&[b'x'; 4096]).unwrap();
        }
        assert!(screen.unfinished.is_empty());
        drop(screen);
        let text = reader.join().unwrap().unwrap();
        assert_eq!(text.len(), reads * 4096 + 1);
    }
}
