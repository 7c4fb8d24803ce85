//! What comes in, and what the command says of itself, and where they go.

use std::future::{Future, pending};
use std::io::{self, IsTerminal, Write};
use std::mem;
use std::net::SocketAddr;

use memchr::memrchr;
use tokio::task::{JoinHandle, spawn_blocking};

use super::events::Place;
use super::prompt::Prompt;
use super::state::StateFile;
use super::watched::{Readers, write_all};
use crate::commands::terminal;
use crate::config::Address;
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
    writing: Option<JoinHandle<io::Result<Written>>>,
    /// File that says how far the output has come; away with a write.
    state: Option<StateFile>,
    /// Whether there is such a file.
    keeps_state: bool,
    /// Channel, and place that the pending bytes end at, which the file does not say yet.
    reached: Option<(String, Place)>,
    /// Buffer of the last write, to be used again.
    spare: Vec<u8>,
    /// How many rows of standard error the next status replaces.
    rows_to_replace: usize,
}

/// What a write gives back: its room, and the file that was brought up to it.
type Written = (Vec<u8>, Option<StateFile>);

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
            state: None,
            keeps_state: false,
            reached: None,
            spare: Vec::new(),
            rows_to_replace: 0,
        };
        output.draw();
        Ok(output)
    }

    /// Says in this file from now on what it has come to.
    pub(super) fn keep_state(&mut self, state: StateFile) {
        self.state = Some(state);
        self.keeps_state = true;
    }

    /// What was taken so far ends at this place of this channel.
    pub(super) fn reach(&mut self, channel: &str, place: Place) {
        if self.keeps_state {
            self.reached = Some((channel.to_owned(), place));
        }
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
        if self.writing.is_none() && self.is_to_write() {
            let bytes = mem::replace(&mut self.pending, mem::take(&mut self.spare));
            // Lines that wait for the terminal are no part of the bytes.
            let is_all = !self.prompt.as_ref().is_some_and(Prompt::is_asking);
            let reached = self.reached.take_if(|_| is_all);
            let mut state = self.state.take();
            self.writing = Some(spawn_blocking(move || {
                let bytes = write_all(io::stdout(), bytes)?;
                if let (Some(state), Some((channel, place))) = (&mut state, reached) {
                    state.save(Some((&channel, place)), io::stdout())?;
                }
                Ok((bytes, state))
            }));
        }
        tokio::select! {
            written = or_never(self.writing.as_mut()) => {
                self.writing = None;
                (self.spare, self.state) = written??;
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
        while self.writing.is_some() || self.is_to_write() {
            self.happen().await?;
        }
        Ok(())
    }

    fn is_to_write(&self) -> bool {
        let is_asking = self.prompt.as_ref().is_some_and(Prompt::is_asking);
        !self.pending.is_empty() || self.reached.is_some() && !is_asking
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

    /// Says that there is a connection, by this address, to this one.
    pub(super) fn say_connected(&mut self, address: &Address, peer: Option<SocketAddr>) {
        let address = address.to_string();
        let peer = peer.map(|peer| peer.to_string());
        let peer = peer.filter(|peer| *peer != address);
        let peer = peer.map_or(String::new(), |peer| format!(" ({peer})"));
        self.say(&format!("Connect to server success: {address}{peer}"));
    }

    /// Says what is missing, to those too who want to hear nothing else.
    pub(super) fn warn(&mut self, words: &str) {
        let quiet = mem::replace(&mut self.quiet, false);
        self.tell(words, false);
        self.quiet = quiet;
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
