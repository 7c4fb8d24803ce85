//! What comes in, and what the command says of itself, and where they go.

use std::future::pending;
use std::io::{self, IsTerminal, Write};
use std::mem;

use memchr::memrchr;
use tokio::task::{JoinHandle, spawn_blocking};

use super::prompt::{Done, Prompt};
use super::watched::{Readers, write_all};
use crate::{commands::terminal, ops::logging, wire::format};

/// A line longer than this is broken on a screen, so that the memory for one that never ends is
/// bounded. Nobody reads so long a line.
const SHOWN_LINE_BYTES_MAX: usize = 1024 * 1024;

/// How what comes in is shown.
#[derive(Debug)]
pub(super) enum View {
    /// Exactly as it comes.
    Bytes,
    /// In whole lines, with control characters made visible.
    Lines,
    /// The same, above the line that a person types.
    Prompt(Box<Prompt>),
}

/// Standard output, and standard error.
#[derive(Debug)]
pub(super) struct Output {
    view: View,
    readers: Readers,
    /// What is to be written.
    pending: Vec<u8>,
    /// What is being written, on a thread: others share standard output, so it has to block.
    writing: Option<JoinHandle<io::Result<Vec<u8>>>>,
    /// The room of what was written last.
    spare: Vec<u8>,
    lines: VisibleLines,
    /// Whether what comes in goes nowhere; then standard output needs no reader either.
    discards: bool,
    quiet: bool,
    /// How many rows of standard error the next status replaces.
    rows_to_replace: usize,
}

/// Lines for a screen, of bytes that come in pieces.
#[derive(Debug, Default)]
struct VisibleLines {
    begun: Vec<u8>,
}

impl Output {
    pub(super) fn new(view: View, discards: bool, quiet: bool) -> io::Result<Output> {
        let mut output = Output {
            view,
            readers: Readers::of_stdout()?,
            pending: Vec::new(),
            writing: None,
            spare: Vec::new(),
            lines: VisibleLines::default(),
            discards,
            quiet,
            rows_to_replace: 0,
        };
        output.draw();
        Ok(output)
    }

    /// Whether it takes more.
    pub(super) fn is_ready(&self) -> bool {
        let waits = matches!(&self.view, View::Prompt(prompt) if prompt.is_asking());
        self.pending.is_empty() && !waits
    }

    /// Takes all of what one read brought.
    pub(super) fn take(&mut self, bytes: &mut Vec<u8>) {
        match &self.view {
            _ if self.discards => {}
            View::Bytes => mem::swap(&mut self.pending, bytes),
            View::Lines | View::Prompt(_) => {
                let lines = self.lines.take(bytes);
                self.print(&lines);
            }
        }
        bytes.clear();
    }

    /// The connection has ended: what it brought of a line is shown.
    pub(super) fn end_line(&mut self) {
        let line = self.lines.end();
        self.print(&line);
    }

    fn print(&mut self, lines: &[u8]) {
        match &mut self.view {
            View::Prompt(prompt) => prompt.print(lines),
            _ => self.pending.extend_from_slice(lines),
        }
        self.draw();
    }

    /// Draws the prompt anew, where there is one.
    fn draw(&mut self) {
        if let View::Prompt(prompt) = &mut self.view {
            prompt.draw(&mut self.pending);
        }
    }

    /// Waits for something to happen here, and does what there is to do. Cancel safe.
    ///
    /// # Errors
    /// Standard output cannot be written; `BrokenPipe` when nobody reads it any more.
    pub(super) async fn happen(&mut self) -> io::Result<()> {
        if self.writing.is_none() && !self.pending.is_empty() {
            let bytes = mem::replace(&mut self.pending, mem::take(&mut self.spare));
            self.writing = Some(spawn_blocking(|| write_all(io::stdout(), bytes)));
        }
        let changed = async {
            match &mut self.view {
                View::Prompt(prompt) => prompt.changed().await,
                _ => pending().await,
            }
        };
        let written = async {
            match &mut self.writing {
                Some(writing) => writing.await,
                None => pending().await,
            }
        };
        tokio::select! {
            written = written => {
                self.writing = None;
                self.spare = written??;
                self.spare.clear();
            }
            gone = self.readers.gone(), if !self.discards => {
                gone?;
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            () = changed => self.draw(),
        }
        Ok(())
    }

    /// Has all out.
    pub(super) async fn flush(&mut self) -> io::Result<()> {
        while self.writing.is_some() || !self.pending.is_empty() {
            self.happen().await?;
        }
        Ok(())
    }

    /// Whether standard input brings keys, which [`press`](Output::press) takes.
    pub(super) fn takes_keys(&self) -> bool {
        matches!(self.view, View::Prompt(_))
    }

    /// Takes keys, and returns what the person did by them.
    pub(super) fn press(&mut self, keys: &[u8]) -> Vec<Done> {
        let View::Prompt(prompt) = &mut self.view else {
            return Vec::new();
        };
        let done = prompt.take(keys, &mut self.pending);
        if done.last() == Some(&Done::Left) {
            prompt.leave_line(&mut self.pending);
            self.view = View::Lines;
        }
        self.draw();
        done
    }

    /// Stops the process if the person has asked for that, until they continue it.
    pub(super) async fn stop_if_asked(&mut self) -> io::Result<()> {
        if let View::Prompt(prompt) = &mut self.view
            && prompt.is_to_stop()
        {
            prompt.leave_line(&mut self.pending);
            self.flush().await?;
            if let View::Prompt(prompt) = &mut self.view {
                prompt.stop().await;
            }
            self.draw();
        }
        Ok(())
    }

    /// Ends the typing of lines, wherever it is: what was being typed is none.
    pub(super) fn end_prompt(&mut self) {
        if let View::Prompt(prompt) = &mut self.view {
            prompt.clear(&mut self.pending);
            self.view = View::Lines;
            self.draw();
        }
    }

    /// Says what has happened.
    pub(super) fn say(&mut self, words: &str) {
        self.tell(words, false);
    }

    /// Says what goes wrong, though it may go on.
    pub(super) fn print_error(&mut self, reason: &str) {
        self.tell(&format!("linehub: {reason}"), false);
    }

    /// Says what goes on until something else is said, which replaces it on a terminal.
    pub(super) fn go_on(&mut self, reason: &str) {
        self.tell(&format!("linehub: {reason}"), true);
    }

    fn tell(&mut self, words: &str, goes_on: bool) {
        if self.quiet {
            return;
        }
        let line = VisibleLines::default().take(format!("{words}\n").as_bytes());
        let is_terminal = io::stderr().is_terminal();
        if let (View::Prompt(prompt), true) = (&mut self.view, is_terminal) {
            prompt.set_status(if goes_on { &line } else { b"" });
            self.print(if goes_on { b"" } else { &line });
            return;
        }
        self.replace_status();
        // There is nobody to tell if it cannot be said.
        let _ = io::stderr().write_all(&line);
        // Where a person's own lines are shown too, it is not known which row it is on.
        if goes_on && is_terminal && !io::stdin().is_terminal() {
            let (columns, _) = terminal::size(io::stderr()).unwrap_or((80, 24));
            self.rows_to_replace = line.len().div_ceil(columns);
        }
    }

    fn replace_status(&mut self) {
        let rows = mem::take(&mut self.rows_to_replace);
        if rows > 0 {
            let _ = write!(io::stderr(), "\x1b[{rows}A\r\x1b[J");
        }
    }

    /// Says why the command failed, last of all.
    pub(super) fn fail(&mut self, reason: &str) {
        self.replace_status();
        logging::print_error(reason);
    }
}

impl VisibleLines {
    /// Takes bytes, and returns the whole lines that there are with them.
    fn take(&mut self, bytes: &[u8]) -> Vec<u8> {
        let whole = memrchr(b'\n', bytes).map_or(0, |at| at + 1);
        let mut lines = Vec::new();
        if whole > 0 {
            self.begun.extend_from_slice(&bytes[..whole]);
            format::visible_lines(&self.begun, &mut lines);
            self.begun.clear();
        }
        self.begun.extend_from_slice(&bytes[whole..]);
        if self.begun.len() > SHOWN_LINE_BYTES_MAX {
            lines.append(&mut self.end());
        }
        lines
    }

    /// Ends the line that has not come whole, and returns it.
    fn end(&mut self) -> Vec<u8> {
        match self.begun.is_empty() {
            true => Vec::new(),
            false => self.take(b"\n"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_the_same_wherever_reads_are_cut() {
        let bytes = "grüße\tdu\r\n\x1b[31mrot\n\nend".as_bytes();
        let wanted = "grüße\tdu\n\\x1b[31mrot\n\nend\n";
        for at in 0..=bytes.len() {
            let mut lines = VisibleLines::default();
            let all = [
                lines.take(&bytes[..at]),
                lines.take(&bytes[at..]),
                lines.end(),
            ];
            assert_eq!(String::from_utf8(all.concat()).unwrap(), wanted, "{at}");
        }
    }

    #[test]
    fn line_that_does_not_end_is_broken() {
        let mut lines = VisibleLines::default();
        let mut shown = 0;
        let reads = SHOWN_LINE_BYTES_MAX / 4096 + 1;
        for _ in 0..reads {
            shown += lines.take(&[b'x'; 4096]).len();
        }
        assert!(lines.begun.is_empty());
        assert_eq!(shown, reads * 4096 + 1);
    }
}
