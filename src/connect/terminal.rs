//! A person at a terminal: a line to type into, which incoming lines do not tear apart.
//!
//! The line editor has a thread of its own, because it blocks, and gives the lines through a pipe:
//! what reads them cannot tell them from any other standard input. The pipe ends when the person
//! leaves, with Ctrl-C or Ctrl-D.

use std::io::{self, IsTerminal, PipeReader, PipeWriter, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal, raise};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use rustyline::config::Config;
use rustyline::{DefaultEditor, ExternalPrinter};

use super::output::write_all;

const PROMPT: &str = "> ";

/// How long the editor may take to show what it was given before the process ends: it is busy only
/// while a person searches its history.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(200);

/// Up and down again: shows nothing, wherever the cursor is.
const NOTHING: &str = "\x1b[A\n";

/// The terminal while a person types lines.
pub(super) struct Terminal {
    before: Termios,
    above: Above,
}

/// Prints whole lines for a person.
pub(super) enum Printer {
    /// To a terminal, or whatever it is, where nobody edits a line.
    Plain(OwnedFd),
    /// Above the line that is edited; where it is edited no more, below it.
    Above(Above),
}

type Above = Arc<Mutex<dyn ExternalPrinter + Send>>;

impl Terminal {
    /// Begins to edit lines and returns them as a pipe, or `None` where that is not possible:
    /// standard input or output is no terminal, or the terminal cannot move its cursor.
    ///
    /// # Errors
    /// The system has no thread or no descriptors for it.
    pub(super) fn open() -> io::Result<Option<(Terminal, PipeReader)>> {
        if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
            return Ok(None);
        }
        // A paste is lines that were typed fast, each of which goes out by itself.
        let config = Config::builder()
            .auto_add_history(true)
            .bracketed_paste(false);
        let editor = DefaultEditor::with_config(config.build());
        let Ok(mut editor) = editor else {
            return Ok(None);
        };
        let Ok(printer) = editor.create_external_printer() else {
            return Ok(None);
        };
        let before = tcgetattr(io::stdin())?;
        restore_on_signals(before.clone())?;
        let (lines, typed) = io::pipe()?;
        thread::Builder::new()
            .name("editor".to_owned())
            .spawn(move || edit(editor, typed))?;
        let above = Arc::new(Mutex::new(printer));
        Ok(Some((Terminal { before, above }, lines)))
    }

    /// Prints above the line that is edited.
    pub(super) fn printer(&self) -> Printer {
        Printer::Above(self.above.clone())
    }

    /// Ends the editing, wherever it is, after all that was printed is shown.
    pub(super) fn close(self, left: bool) {
        if !left {
            let (done, shown) = mpsc::channel();
            let mut printer = self.printer();
            thread::spawn(move || {
                // The editor holds one message back. When it takes the second, the first and all
                // before it are on the screen.
                for _ in 0..2 {
                    let _ = printer.print(NOTHING);
                }
                let _ = done.send(());
            });
            // The process ends anyway.
            let _ = shown.recv_timeout(FLUSH_TIMEOUT);
            // What was being typed is not a line.
            let _ = write_all(io::stdout().as_fd(), b"\r\x1b[J");
        }
        restore(&self.before);
    }
}

/// Gives every line that is typed, until the person leaves or nobody takes them any more.
fn edit(mut editor: DefaultEditor, mut typed: PipeWriter) {
    // Ctrl-C and Ctrl-D come as errors, and so does the end of the terminal.
    while let Ok(mut line) = editor.readline(PROMPT) {
        line.push('\n');
        if typed.write_all(line.as_bytes()).is_err() {
            return;
        }
    }
}

/// A signal that ends the process does so after the terminal is as it was. Ctrl-C is a signal only
/// while no line is edited; it means the same then, that the person leaves.
fn restore_on_signals(before: Termios) -> io::Result<()> {
    let signals = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];
    let signals: SigSet = signals.into_iter().collect();
    // Threads that start from here on hold them back too.
    signals.thread_block()?;
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            let Ok(signal) = signals.wait() else { return };
            restore(&before);
            if signal == Signal::SIGINT {
                process::exit(0);
            }
            // It ends the process, for the reason that it was sent for.
            let _ = signals.thread_unblock();
            let _ = raise(signal);
        })?;
    Ok(())
}

fn restore(before: &Termios) {
    // A terminal that is gone needs nothing.
    let _ = tcsetattr(io::stdin(), OptionalActions::Drain, before);
}

impl Printer {
    /// To standard output as it is.
    pub(super) fn stdout() -> io::Result<Printer> {
        let stdout = io::stdout().as_fd().try_clone_to_owned()?;
        Ok(Printer::Plain(stdout))
    }

    /// Prints whole lines.
    pub(super) fn print(&mut self, lines: &str) -> io::Result<()> {
        match self {
            Printer::Plain(to) => write_all(to.as_fd(), lines.as_bytes()),
            Printer::Above(above) => {
                // Nothing panics while it is held.
                let mut editor = above
                    .lock()
                    .unwrap_or_else(|poisoned| poisoned.into_inner());
                match editor.print(lines.to_owned()) {
                    Ok(()) => Ok(()),
                    // The editor has ended since.
                    Err(_) => write_all(io::stdout().as_fd(), lines.as_bytes()),
                }
            }
        }
    }
}
