//! A daemon with a history on disk, which clients find again at the same addresses.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::common::{Address, Launch, Server};

/// A directory with the history and the sockets of a daemon that comes and goes.
pub(crate) struct Home {
    dir: TempDir,
    args: Vec<String>,
}

impl Home {
    /// Notices are off, so that every number is a line's.
    pub(crate) fn new(args: &[&str]) -> Home {
        let dir = tempfile::tempdir().expect("a directory");
        let listen = format!("--listen=unix:{},hello", dir.path().join("s").display());
        let history = format!("--history-dir={}", dir.path().join("h").display());
        let own = [listen, history, "--no-notices".to_owned()];
        let args = own.into_iter().chain(args.iter().map(ToString::to_string));
        Home {
            args: args.collect(),
            dir,
        }
    }

    /// The arguments of its daemon.
    pub(crate) fn args(&self) -> Vec<&str> {
        self.args.iter().map(String::as_str).collect()
    }

    /// The next daemon gets this argument, too.
    pub(crate) fn push(&mut self, arg: &str) {
        self.args.push(arg.to_owned());
    }

    pub(crate) fn launch(&self) -> Launch {
        Launch::new(&self.args())
    }

    #[track_caller]
    pub(crate) fn start(&self) -> Server {
        let server = self.launch().start();
        server.wait_log("phase=running");
        server
    }

    /// Where it listens: a socket with `hello`.
    pub(crate) fn address(&self) -> Address {
        Address::Unix(self.dir.path().join("s"))
    }

    /// The directory with the histories of all channels.
    pub(crate) fn histories(&self) -> PathBuf {
        self.dir.path().join("h")
    }

    /// The segments of a channel, the oldest first.
    pub(crate) fn segments(&self, channel: &str) -> Vec<PathBuf> {
        let folder = self.histories().join(channel);
        let Ok(entries) = std::fs::read_dir(folder) else {
            return Vec::new();
        };
        let paths = entries.map(|entry| entry.expect("an entry").path());
        let is_segment = |path: &PathBuf| path.extension().is_some_and(|kind| kind == "log");
        let mut segments: Vec<_> = paths.filter(is_segment).collect();
        segments.sort();
        segments
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// First number of a segment, by its name.
pub(crate) fn first_of(segment: &Path) -> u64 {
    segment
        .file_stem()
        .unwrap()
        .to_str()
        .unwrap()
        .parse()
        .unwrap()
}
