//! The files of Unix sockets.

use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::Context;
use nix::unistd::{Gid, Group};
use serde::{Deserialize, Serialize};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::config::ListenerOptions;

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

/// Who may connect to a Unix socket, as its listener's options say.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Permissions {
    mode: Option<u32>,
    group: Option<Gid>,
}

impl Permissions {
    /// Permissions that the options ask for. Looks the group up.
    ///
    /// # Errors
    /// There is no such group.
    pub(super) fn of(options: &ListenerOptions) -> anyhow::Result<Permissions> {
        let group = options.group.as_deref().map(|name| {
            let group = Group::from_name(name).context("cannot look the group up")?;
            let number = || name.parse().map(Gid::from_raw).ok();
            let group = group.map(|group| group.gid).or_else(number);
            group.with_context(|| format!("there is no group '{name}'"))
        });
        Ok(Permissions {
            mode: options.mode,
            group: group.transpose()?,
        })
    }

    /// Gives them to the file of a socket. What is not asked for stays.
    pub(super) fn set(self, path: &Path) -> anyhow::Result<()> {
        if let Some(group) = self.group {
            std::os::unix::fs::lchown(path, None, Some(group.as_raw())).context(
                "cannot give the socket its group, which has to be one of this user's own",
            )?;
        }
        if let Some(mode) = self.mode {
            let mode = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(path, mode).context("cannot set the mode of the socket")?;
        }
        Ok(())
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
