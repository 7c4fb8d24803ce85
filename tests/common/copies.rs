//! Copies of the daemon, and programs in its place.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::BINARY;

/// Starts from a copy of the daemon that may be replaced.
pub(crate) fn copied(dir: &Path) -> PathBuf {
    let path = dir.join("linehub");
    copy_to(&path);
    path
}

/// Puts a copy of the daemon at this path.
pub(crate) fn copy_to(path: &Path) {
    write_program(path, fs::File::open(BINARY).expect("the daemon"));
}

/// Puts another program at this path, as package managers do.
pub(crate) fn replace(path: &Path, program: &str) {
    let new = path.with_extension("new");
    let text = path.with_extension("text");
    fs::write(&text, program).expect("a file");
    write_program(&new, fs::File::open(&text).expect("a file"));
    fs::rename(&new, path).expect("rename");
}

/// Writes a program that can be started at once. By another process: what this one has open for
/// writing, children of other tests have too for a moment, and the system starts no such file.
fn write_program(path: &Path, from: impl Into<Stdio>) {
    let script = r#"cat >"$0" && chmod 755 "$0""#;
    let mut shell = Command::new("sh");
    let shell = shell.arg("-c").arg(script).arg(path).stdin(from);
    assert!(shell.status().expect("a shell").success());
}
