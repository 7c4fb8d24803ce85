//! All that is done to the files of a history: in one place, so that tests can write it down, make it fail,
//! and play it again up to where a machine lost its power.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice, Read as _};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{FileType, OFlags};
use rustix::time::{ClockId, clock_gettime};

use super::error::HistoryError;
#[cfg(test)]
use super::probe::{Change, Probe};

/// Mode of the directory and its folders: of the daemon's user, and for its group to read.
const FOLDER_MODE: u32 = 0o750;

/// Mode of files, as that of folders.
const FILE_MODE: u32 = 0o640;

/// Slices of one writev(2): the kernel's IOV_MAX.
const SLICES_MAX: usize = 1024;

/// No test pulls the plug, and thousands of them sync.
const SYNCS: bool = !cfg!(test);

/// The system's files and clocks.
#[derive(Clone, Debug, Default)]
pub(super) struct Storage {
    #[cfg(test)]
    pub(super) probe: Option<Arc<Probe>>,
}

impl Storage {
    /// Creates a folder and those above it; one that is there is left as it is.
    pub(super) fn create_folder(&self, path: &Path) -> Result<(), HistoryError> {
        let create = || {
            #[cfg(test)]
            self.note(|| Change::CreateFolder(path.to_owned()))?;
            create_folder(path)
        };
        create().map_err(HistoryError::of("create", path))
    }

    /// Creates a file that is empty, to be written and read.
    pub(super) fn create(&self, path: &Path) -> Result<Arc<File>, HistoryError> {
        let create = || {
            #[cfg(test)]
            self.note(|| Change::Create(path.to_owned()))?;
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(true);
            options.mode(FILE_MODE).open(path)
        };
        let file = create().map_err(HistoryError::of("create", path))?;
        Ok(Arc::new(file))
    }

    /// Opens a file to be written and read, and creates it if it is not there.
    pub(super) fn open_or_create(&self, path: &Path) -> Result<File, HistoryError> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        open_regular(path, options.mode(FILE_MODE))
    }

    /// Writes all slices from the byte `at` on. After an error, some of it may have been written.
    pub(super) fn write_at(
        &self,
        file: &File,
        path: &Path,
        mut slices: &mut [IoSlice<'_>],
        mut at: u64,
    ) -> Result<(), HistoryError> {
        let mut write = || {
            #[cfg(test)]
            self.note_write(file, path, slices, at)?;
            IoSlice::advance_slices(&mut slices, 0);
            while !slices.is_empty() {
                let group = &slices[..slices.len().min(SLICES_MAX)];
                let written = match rustix::io::pwritev(file, group, at) {
                    Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                    Ok(written) => written,
                    Err(rustix::io::Errno::INTR) => continue,
                    Err(error) => return Err(error.into()),
                };
                at += written as u64;
                IoSlice::advance_slices(&mut slices, written);
            }
            Ok(())
        };
        write().map_err(HistoryError::of("write to", path))
    }

    pub(super) fn truncate(&self, file: &File, path: &Path, len: u64) -> Result<(), HistoryError> {
        let truncate = || {
            #[cfg(test)]
            self.note(|| Change::Truncate(path.to_owned(), len))?;
            file.set_len(len)
        };
        truncate().map_err(HistoryError::of("truncate", path))
    }

    /// Gives a file its name, in the place of what had it.
    pub(super) fn rename(&self, from: &Path, to: &Path) -> Result<(), HistoryError> {
        let rename = || {
            #[cfg(test)]
            self.note(|| Change::Rename(from.to_owned(), to.to_owned()))?;
            fs::rename(from, to)
        };
        rename().map_err(HistoryError::of("rename to", to))
    }

    /// Removes a file; one that is gone is no error.
    pub(super) fn remove(&self, path: &Path) -> Result<(), HistoryError> {
        let remove = || {
            #[cfg(test)]
            self.note(|| Change::Remove(path.to_owned()))?;
            match fs::remove_file(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                removed => removed,
            }
        };
        remove().map_err(HistoryError::of("remove", path))
    }

    /// Returns when what the file holds would survive the loss of power.
    pub(super) fn sync(&self, file: &File, path: &Path) -> Result<(), HistoryError> {
        let sync = || {
            #[cfg(test)]
            self.note(|| Change::Sync(path.to_owned()))?;
            if SYNCS {
                rustix::fs::fdatasync(file.as_fd())?;
            }
            Ok(())
        };
        sync().map_err(HistoryError::of("sync", path))
    }

    /// Returns when the names in a folder would survive the loss of power.
    pub(super) fn sync_folder(&self, path: &Path) -> Result<(), HistoryError> {
        let sync = || {
            #[cfg(test)]
            self.note(|| Change::SyncFolder(path.to_owned()))?;
            let folder = File::open(path)?;
            if SYNCS {
                folder.sync_all()?;
            }
            Ok(())
        };
        sync().map_err(HistoryError::of("sync", path))
    }

    /// Milliseconds since the machine started, its sleep included: goes on steadily when the wall clock is
    /// set.
    pub(super) fn boot_ms(&self) -> i64 {
        let now = clock_gettime(ClockId::Boottime);
        let now = now.tv_sec.saturating_mul(1000) + now.tv_nsec / 1_000_000;
        #[cfg(test)]
        let now = now + self.probe.as_ref().map_or(0, |probe| probe.boot_ahead_ms());
        now
    }

    /// Milliseconds since 1970, by the wall clock.
    pub(super) fn wall_ms(&self) -> u64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = u64::try_from(now.unwrap_or_default().as_millis()).unwrap_or(u64::MAX);
        #[cfg(test)]
        let now =
            now.saturating_add_signed(self.probe.as_ref().map_or(0, |probe| probe.wall_ahead_ms()));
        now
    }
}

/// Opens a file to be read.
pub(super) fn open(path: &Path) -> Result<File, HistoryError> {
    open_regular(path, OpenOptions::new().read(true))
}

/// Text of a small file; `None` if there is none.
pub(super) fn read_text(path: &Path) -> Result<Option<String>, HistoryError> {
    let mut file = match open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let mut bytes = Vec::new();
    let read = file.read_to_end(&mut bytes);
    read.map_err(HistoryError::of("read", path))?;
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

/// Opens a file of a history, which is refused as damaged if it is none: a FIFO would hold up who opens it for as
/// long as it liked, and a link leads elsewhere.
pub(super) fn open_regular(path: &Path, options: &mut OpenOptions) -> Result<File, HistoryError> {
    let flags = OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::NOCTTY;
    let opened = options.custom_flags(flags.bits() as i32).open(path);
    let found = match &opened {
        Ok(file) => file.metadata(),
        Err(_) => fs::symlink_metadata(path),
    };
    let kind = match found.map(|found| FileType::from_raw_mode(found.mode())) {
        Err(_) | Ok(FileType::RegularFile) => {
            return opened.map_err(HistoryError::of("open", path));
        }
        Ok(FileType::Directory) => "directory",
        Ok(FileType::Symlink) => "symbolic link",
        Ok(FileType::Fifo) => "FIFO",
        Ok(FileType::Socket) => "socket",
        Ok(_) => "device",
    };
    let what = format!("it is a {kind}, and no regular file");
    Err(HistoryError::damaged(path, 0, what))
}

/// Creates a folder, and those above it, unless they are there. A umask for sockets, which leaves nobody the
/// right to enter it, does not hold.
fn create_folder(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(above) = path.parent().filter(|above| !above.as_os_str().is_empty()) {
        create_folder(above)?;
    }
    match fs::DirBuilder::new().mode(FOLDER_MODE).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {
            return Ok(());
        }
        created => created?,
    }
    fs::set_permissions(path, fs::Permissions::from_mode(FOLDER_MODE))
}

/// A duration, as the steady clock counts.
pub(super) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
impl Storage {
    fn note(&self, change: impl FnOnce() -> Change) -> io::Result<()> {
        self.probe
            .as_ref()
            .map_or(Ok(()), |probe| probe.note(change()))
    }

    fn note_write(
        &self,
        file: &File,
        path: &Path,
        slices: &[IoSlice<'_>],
        at: u64,
    ) -> io::Result<()> {
        let bytes = slices.iter().flat_map(|slice| slice.iter().copied());
        let written = self.note(|| Change::Write(path.to_owned(), at, bytes.clone().collect()));
        if written.is_err() {
            // As a disk does that becomes full: half of it is there.
            let bytes: Vec<u8> = bytes.collect();
            std::os::unix::fs::FileExt::write_all_at(file, &bytes[..bytes.len() / 2], at)?;
        }
        written
    }
}
