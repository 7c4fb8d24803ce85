//! The files of Unix sockets.

use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::{Deserialize, Serialize};
use socket2::{Domain, SockAddr, Socket, Type};

/// The file of a Unix listener. Removed when dropped, unless another took its place.
#[derive(Debug)]
pub(super) struct SocketFile {
    pub(super) path: PathBuf,
    pub(super) identity: FileIdentity,
}

/// Device and number of a file, which tell it from another that takes its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FileIdentity {
    device: u64,
    inode: u64,
}

impl SocketFile {
    pub(super) fn new(path: &Path) -> io::Result<SocketFile> {
        Ok(SocketFile {
            path: path.to_path_buf(),
            identity: FileIdentity::of(path)?,
        })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if FileIdentity::of(&self.path).is_ok_and(|now| now == self.identity) {
            // Nothing is lost if it stays: the next daemon replaces it.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl FileIdentity {
    pub(super) fn of(path: &Path) -> io::Result<FileIdentity> {
        let file = path.symlink_metadata()?;
        Ok(FileIdentity {
            device: file.dev(),
            inode: file.ino(),
        })
    }
}

/// Removes a socket that a dead daemon left. One that answers, and anything that is no socket, stays
/// and is an error.
pub(super) fn remove_stale(path: &Path) -> anyhow::Result<()> {
    let Ok(metadata) = path.symlink_metadata() else {
        return Ok(());
    };
    anyhow::ensure!(
        metadata.file_type().is_socket(),
        "the file exists and is no socket"
    );
    // Nonblocking: a server that does not come round to accepting is one that answers, too.
    let probe = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    match probe.connect(&SockAddr::unix(path)?) {
        Ok(()) => anyhow::bail!("a server answers there already"),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            anyhow::bail!("a server listens there already")
        }
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).context("cannot remove the socket of a dead server")
        }
        Err(error) => Err(error.into()),
    }
}

/// Abstract name as systemd writes it: with an `@`.
pub(super) fn abstract_label(name: &[u8]) -> PathBuf {
    let label = [b"@", name].concat();
    PathBuf::from(std::ffi::OsString::from_vec(label))
}

/// Whether two paths lead to one file, such as `/run/x` and `/var/run/x`.
pub(super) fn is_same_file(one: &Path, other: &Path) -> bool {
    let identity = |path: &Path| path.metadata().map(|file| (file.dev(), file.ino()));
    match (identity(one), identity(other)) {
        (Ok(one), Ok(other)) => one == other,
        _ => false,
    }
}
