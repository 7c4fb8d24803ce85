//! What comes in, and what the command says of itself, and where they go.

use std::future::{Future, pending};
use std::io::{self, IsTerminal, Write};
use std::mem;

use memchr::memrchr;
use tokio::task::{JoinHandle, spawn_blocking};

use super::prompt::Prompt;
use super::watched::{Readers, write_all};
use crate::commands::terminal;
use crate::ops::logging;
use crate::wire::format;

/// A line longer than this is broken on a screen, so that the memory for one that never ends is
/// bounded. Nobody reads so long a line.
const SHOWN_LINE_BYTES_MAX: usize = 1024 * 1024;

/// Standard output, and standard error.
#[derive(Debug)]
pub(super) struct Output {
    /// Prompt of a person, as long as they type lines.
    prompt: Option<Prompt>,
    /// Lines for a screen; without, bytes go out exactly as they come.
    lines: Option<VisibleLines>,
    /// Whether bytes that come in go nowhere; then standard output needs no reader either.
    discards: bool,
    quiet: bool,
    readers: Readers,
    /// Bytes to be written.
    pending: Vec<u8>,
    /// Write that is under way, on a thread: others share standard output, so it has to block.
    writing: Option<JoinHandle<io::Result<Vec<u8>>>>,
    /// Buffer of the last write, to be used again.
    spare: Vec<u8>,
    /// How many rows of standard error the next status replaces.
    rows_to_replace: usize,
}

/// Whole lines for a screen, with control characters made visible, of bytes that come in pieces.
#[derive(Debug, Default)]
pub(super) struct VisibleLines {
    begun: Vec<u8>,
}

impl Output {
    pub(super) fn new(
        prompt: Option<Prompt>,
        lines: Option<VisibleLines>,
        discards: bool,
        quiet: bool,
    ) -> io::Result<Output> {
        let mut output = Output {
            prompt,
            lines,
            discards,
            quiet,
            readers: Readers::of_stdout()?,
            pending: Vec::new(),
            writing: None,
            spare: Vec::new(),
            rows_to_replace: 0,
        };
        output.draw();
        Ok(output)
    }

    /// Whether it takes more.
    pub(super) fn is_ready(&self) -> bool {
        self.pending.is_empty() && !self.prompt.as_ref().is_some_and(Prompt::is_asking)
    }

    /// Takes all of what one read brought.
    pub(super) fn take(&mut self, bytes: &mut Vec<u8>) {
        match &mut self.lines {
            _ if self.discards => {}
            None => mem::swap(&mut self.pending, bytes),
            Some(lines) => {
                let lines = lines.take(bytes);
                self.print(&lines);
            }
        }
        bytes.clear();
    }

    /// The connection has ended: what it brought of a line is shown.
    pub(super) fn end_line(&mut self) {
        if let Some(lines) = &mut self.lines {
            let line = lines.end();
            self.print(&line);
        }
    }

    fn print(&mut self, lines: &[u8]) {
        match &mut self.prompt {
            Some(prompt) => prompt.print(lines),
            None => self.pending.extend_from_slice(lines),
        }
        self.draw();
    }

    /// Draws the prompt anew, where there is one.
    fn draw(&mut self) {
        if let Some(prompt) = &mut self.prompt {
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
        tokio::select! {
            written = or_never(self.writing.as_mut()) => {
                self.writing = None;
                self.spare = written??;
                self.spare.clear();
            }
            gone = self.readers.gone(), if !self.discards => {
                gone?;
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            () = or_never(self.prompt.as_mut().map(Prompt::changed)) => self.draw(),
        }
        Ok(())
    }

    /// Writes all that is pending.
    pub(super) async fn flush(&mut self) -> io::Result<()> {
        while self.writing.is_some() || !self.pending.is_empty() {
            self.happen().await?;
        }
        Ok(())
    }

    /// Whether standard input brings keys, which [`press`](Output::press) takes.
    pub(super) fn takes_keys(&self) -> bool {
        self.prompt.is_some()
    }

    /// Takes keys. Returns the lines that the person typed by them, and whether the person left.
    pub(super) fn press(&mut self, keys: &[u8]) -> (String, bool) {
        let Some(prompt) = &mut self.prompt else {
            return (String::new(), false);
        };
        let (lines, left) = prompt.take(keys, &mut self.pending);
        if left {
            prompt.leave_line(&mut self.pending);
            self.prompt = None;
        }
        self.draw();
        (lines, left)
    }

    /// Stops the process if the person has asked for that, until they continue it.
    pub(super) async fn stop_if_asked(&mut self) -> io::Result<()> {
        if let Some(prompt) = self.prompt.as_mut().filter(|prompt| prompt.is_to_stop()) {
            prompt.leave_line(&mut self.pending);
            self.flush().await?;
            or_never(self.prompt.as_mut().map(Prompt::stop)).await;
            self.draw();
        }
        Ok(())
    }

    /// Ends the typing of lines, wherever it is: what was being typed is none.
    pub(super) fn end_prompt(&mut self) {
        if let Some(mut prompt) = self.prompt.take() {
            prompt.clear(&mut self.pending);
        }
    }

    /// Says what has happened.
    pub(super) fn say(&mut self, words: &str) {
        self.tell(words, false);
    }

    /// Says what goes on until something else is said, which replaces it on a terminal.
    pub(super) fn go_on(&mut self, words: &str) {
        self.tell(words, true);
    }

    fn tell(&mut self, words: &str, goes_on: bool) {
        if self.quiet {
            return;
        }
        let line = VisibleLines::default().take(format!("{words}\n").as_bytes());
        let is_terminal = io::stderr().is_terminal();
        if let (Some(prompt), true) = (&mut self.prompt, is_terminal) {
            let (status, above) = if goes_on {
                (line, vec![])
            } else {
                (vec![], line)
            };
            prompt.set_status(&status);
            self.print(&above);
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

/// Waits for what may not be there. Cancel safe if that is.
async fn or_never<T>(future: Option<impl Future<Output = T>>) -> T {
    match future {
        Some(future) => future.await,
        None => pending().await,
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
