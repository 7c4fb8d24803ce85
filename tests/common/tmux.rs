//! A real terminal, driven and looked at: tmux, which wraps its rows anew when its window is resized.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use rustix::termios::tcgetwinsize;

use super::{PATIENCE, eventually, tool};

/// A window with a shell that has job control, and `$ ` for its prompt. Dropping it ends it.
pub(crate) struct Tmux {
    program: PathBuf,
    socket: tempfile::TempDir,
}

impl Tmux {
    pub(crate) fn new(columns: u16, rows: u16) -> Option<Tmux> {
        let tmux = Tmux {
            program: tool("tmux")?,
            socket: tempfile::tempdir().unwrap(),
        };
        let (columns, rows) = (columns.to_string(), rows.to_string());
        let shell = "env PS1='$ ' LC_ALL=C.UTF-8 bash --norc --noprofile -i";
        tmux.run(&["new-session", "-d", "-x", &columns, "-y", &rows, shell]);
        tmux.wait("the shell", |screen| screen.ends_with('$'));
        Some(tmux)
    }

    #[track_caller]
    fn run(&self, args: &[&str]) -> Output {
        let output = Command::new(&self.program)
            .env_remove("TMUX")
            .args(["-u", "-f", "/dev/null", "-S"])
            .arg(self.socket.path().join("socket"))
            .args(args)
            .output()
            .unwrap();
        assert!(output.status.success(), "{args:?}: {output:?}");
        output
    }

    /// Presses keys, which have names in tmux (`Enter`, `C-z`), or types text.
    #[track_caller]
    pub(crate) fn press(&self, keys: &[&str]) {
        self.run(&[&["send-keys"], keys].concat());
    }

    /// Gives the window another size, and waits until whoever runs in it can know that.
    #[track_caller]
    pub(crate) fn resize(&self, columns: u16, rows: u16) {
        let (width, height) = (columns.to_string(), rows.to_string());
        self.run(&["resize-window", "-x", &width, "-y", &height]);
        let tty = self.run(&["display-message", "-p", "#{pane_tty}"]).stdout;
        let tty = String::from_utf8(tty).unwrap();
        let tty = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOCTTY)
            .open(tty.trim())
            .unwrap();
        eventually("the terminal's new size", || {
            let size = tcgetwinsize(&tty).unwrap();
            (size.ws_col, size.ws_row) == (columns, rows)
        });
    }

    /// All that it shows and that can be scrolled back to, rows that were wrapped as one line.
    pub(crate) fn screen(&self) -> String {
        let output = self.run(&["capture-pane", "-p", "-J", "-S", "-"]);
        let screen = String::from_utf8_lossy(&output.stdout).into_owned();
        let lines: Vec<&str> = screen.trim_end().lines().map(str::trim_end).collect();
        lines.join("\n")
    }

    /// Waits until what it shows is as it should be.
    #[track_caller]
    pub(crate) fn wait(&self, what: &str, shows: impl Fn(&str) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let screen = self.screen();
            if shows(&screen) {
                return;
            }
            assert!(Instant::now() < deadline, "{what}: not on\n{screen}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        self.run(&["kill-server"]);
    }
}
