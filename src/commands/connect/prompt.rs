//! A person at a terminal: a line to type into, which incoming lines do not tear apart.

use std::env;
use std::ffi::OsString;
use std::io;
use std::time::Duration;

use rustix::process::{Signal, kill_current_process_group};
use tokio::signal::unix::{Signal as Signals, SignalKind, signal};
use tokio::time::{Instant, sleep_until, timeout};

use super::editor::{self, Editor, Typed};
use super::screen::Screen;
use crate::commands::terminal::{self, Modes};

const PROMPT: &str = "> ";

/// How long a terminal may take to say where its cursor is: more than a slow line takes, and less
/// than anybody minds after a window was resized.
const ANSWER_TIME: Duration = Duration::from_millis(300);

/// How long the process may take to be stopped. Where nobody could continue it, it is not.
const STOP_TIME: Duration = Duration::from_millis(100);

/// The terminal while a person types lines.
#[derive(Debug)]
pub(super) struct Prompt {
    editor: Editor,
    screen: Screen,
    /// Status above the line, which the next one replaces.
    status: String,
    /// The terminal gives keys instead of lines.
    raw: Modes,
    resized: Signals,
    continued: Signals,
    /// Until when the terminal may answer.
    answers_until: Instant,
    is_to_stop: bool,
}

/// Whether a person types here: standard input and output are the terminal that this process is
/// controlled by, and it is in the foreground. A serial line is a terminal too, with no person there.
/// The terminal must not say of itself that it cannot move its cursor.
pub(super) fn is_wanted() -> bool {
    let is_dumb = |term: OsString| term.is_empty() || term == "dumb";
    terminal::is_in_foreground(io::stdin())
        && terminal::is_in_foreground(io::stdout())
        && !env::var_os("TERM").is_none_or(is_dumb)
}

impl Prompt {
    /// Begins to take keys.
    pub(super) fn open() -> io::Result<Prompt> {
        Ok(Prompt {
            editor: Editor::default(),
            screen: Screen::default(),
            status: String::new(),
            resized: signal(SignalKind::window_change())?,
            continued: signal(SignalKind::from_raw(Signal::CONT.as_raw()))?,
            raw: Modes::change(|modes| {
                let output_modes = modes.output_modes;
                modes.make_raw();
                modes.output_modes = output_modes;
            })?,
            answers_until: Instant::now(),
            is_to_stop: false,
        })
    }

    /// Whole lines are to be printed above the line that is typed.
    pub(super) fn print(&mut self, lines: &[u8]) {
        self.screen.print(lines);
    }

    /// Shows what goes on, a line or nothing, instead of what went on before.
    pub(super) fn set_status(&mut self, line: &[u8]) {
        self.status = String::from_utf8_lossy(line).into_owned();
    }

    /// Whether what is printed now waits for the terminal.
    pub(super) fn is_asking(&self) -> bool {
        self.screen.is_asking()
    }

    /// Takes keys. Returns the lines typed by them, and whether the person left after those.
    pub(super) fn take(&mut self, keys: &[u8], out: &mut Vec<u8>) -> (String, bool) {
        let mut lines = String::new();
        for typed in self.editor.take(keys) {
            match typed {
                Typed::Line(line) => {
                    let shown = format!("{PROMPT}{}\n", editor::shown(&line));
                    self.screen.print(shown.as_bytes());
                    lines += &(line + "\n");
                }
                Typed::Leave => return (lines, true),
                Typed::Suspend => self.is_to_stop = true,
                Typed::Clear => {
                    self.screen.forget();
                    out.extend_from_slice(b"\x1b[H\x1b[2J");
                }
                Typed::Column(column) => self.screen.answered(columns(), column),
            }
        }
        (lines, false)
    }

    /// Waits for the window to change, or for the process to be continued, or for an answer that
    /// does not come. Then it is to be drawn anew. Cancel safe.
    pub(super) async fn changed(&mut self) {
        tokio::select! {
            _ = self.resized.recv() => {
                self.screen.resized();
                self.answers_until = Instant::now() + ANSWER_TIME;
            }
            _ = self.continued.recv() => self.resume(),
            () = sleep_until(self.answers_until), if self.is_asking() => {
                self.screen.settle(columns(), None);
            }
        }
    }

    /// Whether the process is to be stopped, which [`stop`](Prompt::stop) does.
    pub(super) fn is_to_stop(&self) -> bool {
        self.is_to_stop
    }

    /// Leaves the line as it is, for what comes below it.
    pub(super) fn leave_line(&mut self, out: &mut Vec<u8>) {
        self.screen.end(columns(), out);
        let (before, after) = self.editor.shown(cells_max());
        out.extend_from_slice(format!("{PROMPT}{before}{after}\r\n").as_bytes());
    }

    /// Takes the line away.
    pub(super) fn clear(&mut self, out: &mut Vec<u8>) {
        self.screen.end(columns(), out);
    }

    /// Stops the process, as the key for it does when the terminal gives lines, until it is
    /// continued. What was to be shown has been.
    pub(super) async fn stop(&mut self) {
        self.is_to_stop = false;
        self.raw.restore();
        // The call fails for nobody: this process is in that group.
        let _ = kill_current_process_group(Signal::TSTP);
        // The time runs while the process is stopped, so that it goes on at once.
        let _ = timeout(STOP_TIME, self.continued.recv()).await;
        self.resume();
    }

    /// Takes the terminal back, which others had.
    fn resume(&mut self) {
        self.raw.set();
        self.screen.forget();
    }

    /// Draws the line anew.
    pub(super) fn draw(&mut self, out: &mut Vec<u8>) {
        let (before, after) = self.editor.shown(cells_max());
        let was_asking = self.is_asking();
        let before = format!("{}{PROMPT}{before}", self.status);
        self.screen.draw(columns(), &before, &after, out);
        if self.is_asking() && !was_asking {
            self.answers_until = Instant::now() + ANSWER_TIME;
        }
    }
}

/// How many cells a line that is typed may take, with a few rows for the rest.
fn cells_max() -> usize {
    let (columns, rows) = size();
    columns * rows.saturating_sub(4).max(1) - PROMPT.len().min(columns - 1)
}

fn columns() -> usize {
    size().0
}

/// The window's columns and rows.
fn size() -> (usize, usize) {
    terminal::size(io::stdout()).unwrap_or((80, 24))
}
