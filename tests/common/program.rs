//! Other people's programs: nc, ncat, socat, telnet.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::PATIENCE;

/// The path of a program. One that is missing fails the test under CI; elsewhere it is named and
/// the test is skipped.
#[track_caller]
pub(crate) fn tool(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .map(|dir| dir.join(name))
        .find(|file| file.is_file());
    if found.is_none() {
        let ci = std::env::var_os("CI").is_some_and(|value| value == "true" || value == "1");
        assert!(!ci, "{name} is missing");
        // Past the test harness, which would swallow what a passing test prints.
        let _ = writeln!(std::io::stderr(), "skipped: {name} is missing");
    }
    found
}

/// A running program with pipes for input and output. Dropping it kills it.
pub(crate) struct Program {
    child: Child,
    stdin: Option<ChildStdin>,
    output: Arc<(Mutex<Output>, Condvar)>,
}

#[derive(Default)]
struct Output {
    bytes: Vec<u8>,
    ended: bool,
}

impl Program {
    pub(crate) fn spawn(command: &mut Command) -> Program {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit());
        let mut child = command
            .spawn()
            .unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let stdin = child.stdin.take();
        let mut stdout = child.stdout.take().expect("piped");
        let output = Arc::new((Mutex::new(Output::default()), Condvar::new()));
        std::thread::spawn({
            let output = Arc::clone(&output);
            move || {
                let mut chunk = [0; 65536];
                loop {
                    // A pty that lost its program reads as an error: an end like any other.
                    let n = stdout.read(&mut chunk).unwrap_or(0);
                    let mut state = output.0.lock().unwrap();
                    state.bytes.extend_from_slice(&chunk[..n]);
                    state.ended = n == 0;
                    output.1.notify_all();
                    if n == 0 {
                        return;
                    }
                }
            }
        });
        Program {
            child,
            stdin,
            output,
        }
    }

    #[track_caller]
    pub(crate) fn type_in(&mut self, bytes: &[u8]) {
        let stdin = self.stdin.as_mut().expect("its input is open");
        stdin
            .write_all(bytes)
            .and_then(|()| stdin.flush())
            .expect("it takes input");
    }

    /// Ends its standard input.
    pub(crate) fn end_input(&mut self) {
        self.stdin = None;
    }

    /// Waits until the output holds this text.
    #[track_caller]
    pub(crate) fn wait_output(&self, text: &str) {
        self.wait_count(text, 1);
    }

    /// Waits until the output holds this text so many times.
    #[track_caller]
    pub(crate) fn wait_count(&self, text: &str, count: usize) {
        let (state, changed) = &*self.output;
        let has_all = |state: &Output| holds(&state.bytes, text.as_bytes(), count);
        let missing = |state: &mut Output| !has_all(state) && !state.ended;
        let state = state.lock().unwrap();
        let (state, _) = changed
            .wait_timeout_while(state, PATIENCE, missing)
            .unwrap();
        assert!(
            has_all(&state),
            "no {text:?} in {:?}",
            String::from_utf8_lossy(&state.bytes)
        );
    }

    /// Waits for the program to end, and returns all of its output.
    #[track_caller]
    pub(crate) fn wait_end(&mut self) -> (ExitStatus, Vec<u8>) {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("our child") {
                break status;
            }
            let output =
                || String::from_utf8_lossy(&self.output.0.lock().unwrap().bytes).into_owned();
            assert!(
                Instant::now() < deadline,
                "it does not end; it printed {:?}",
                output()
            );
            std::thread::sleep(Duration::from_millis(5));
        };
        let state = self.output.0.lock().unwrap();
        let (state, _) = self
            .output
            .1
            .wait_timeout_while(state, PATIENCE, |state| !state.ended)
            .unwrap();
        (status, state.bytes.clone())
    }

    #[cfg(feature = "bench")]
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id() as i32).expect("a pid");
        kill_process(pid, signal).expect("it is alive");
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn holds(bytes: &[u8], text: &[u8], count: usize) -> bool {
    memchr::memmem::find_iter(bytes, text).count() >= count
}
