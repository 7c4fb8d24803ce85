//! The directory with the histories of all channels, which one daemon has at a time.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::fs::FlockOperation;
use tracing::warn;

use super::chain::Ended;
use super::create::write_next_epoch;
use super::error::{Cut, HistoryError};
use super::folder::{channels_in, list};
use super::header::is_segment;
use super::in_place::{LOCK, verify_in_place};
use super::log::Log;
use super::recovery::{self, Recovered};
use super::segment::first_of;
use super::shared::Files;
use super::storage::{self, Storage};
use crate::hub::epoch::epoch_after;
use crate::hub::history::kept::Retention;
use crate::wire::channel::ChannelName;
use crate::wire::ids::Epoch;

/// Files beside the channels' folders and the lock. No channel can have such a name.
const STATE: &str = "@state";
const NEW_STATE: &str = "@state.new";

/// The state that says that all was synced.
const CLEAN: &str = "clean\n";

/// The system's file that changes its content with every start of the machine.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// A directory that this process has locked, until it and all logs of it are dropped.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    storage: Storage,
    lock: Arc<OwnedFd>,
    /// How the daemon ended that had it last.
    ended: Ended,
    /// What was lost, as was found when the directory was opened, of channels that were not opened since.
    losses: Mutex<HashMap<ChannelName, Loss>>,
}

/// What a channel has lost: see [`Recovered`].
#[derive(Debug)]
struct Loss {
    cut: Option<Cut>,
    is_new_epoch: bool,
}

impl Directory {
    /// Creates the directory if there is none, locks it, and finds out what may have been lost.
    ///
    /// # Errors
    /// Another daemon has it, or the system's.
    pub(crate) fn open(path: &Path) -> Result<Directory, HistoryError> {
        Directory::open_with(Storage::default(), path, boot_id())
    }

    pub(super) fn open_with(
        storage: Storage,
        path: &Path,
        boot_id: Option<String>,
    ) -> Result<Directory, HistoryError> {
        refuse_nested(path)?;
        storage.create_folder(path)?;
        let lock = storage.open_or_create(&path.join(LOCK))?;
        Directory::take(storage, path, lock, boot_id)
    }

    fn take(
        storage: Storage,
        path: &Path,
        lock: File,
        boot_id: Option<String>,
    ) -> Result<Directory, HistoryError> {
        let file = path.join(LOCK);
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(HistoryError::InUse {
                    directory: path.to_owned(),
                    process: process_of(&file),
                });
            }
            Err(error) => return Err(HistoryError::of("lock", &file)(error.into())),
        }
        let process = format!("{}\n", std::process::id());
        lock.set_len(0)
            .map_err(HistoryError::of("write to", &file))?;
        let mut process = [IoSlice::new(process.as_bytes())];
        storage.write_at(&lock, &file, &mut process, 0)?;
        let mut directory = Directory {
            path: path.to_owned(),
            storage,
            lock: Arc::new(lock.into()),
            ended: Ended::Clean,
            losses: Mutex::default(),
        };
        directory.ended = directory.find_end(boot_id.as_deref())?;
        if directory.ended == Ended::Down {
            directory.recover_all()?;
        }
        let boot_id = boot_id.as_deref().unwrap_or("unknown");
        directory.write_state(&format!("boot {boot_id}\n"))?;
        Ok(directory)
    }

    /// How the daemon ended that had it last.
    fn find_end(&self, boot_id: Option<&str>) -> Result<Ended, HistoryError> {
        let path = self.path.join(STATE);
        let state = match storage::read_text(&path)? {
            Some(state) => state,
            None if self.channels()?.is_empty() => return Ok(Ended::Clean),
            None => String::new(),
        };
        let is_same_boot = |boot_id| state == format!("boot {boot_id}\n");
        Ok(match state.as_str() {
            CLEAN => Ended::Clean,
            _ if boot_id.is_some_and(is_same_boot) => Ended::Killed,
            boot if boot.starts_with("boot ") && boot.ends_with('\n') => Ended::Down,
            _ => {
                let file = path.display();
                warn!(
                    %file,
                    "it does not say how the last daemon ended: what was not synced is taken for lost, and histories go on in new epochs"
                );
                Ended::Down
            }
        })
    }

    /// Sees to all channels now: once the state says that this is the machine's start, nothing else tells that it
    /// had been down. What cannot be recovered gets a new epoch, should it ever be.
    fn recover_all(&self) -> Result<(), HistoryError> {
        let any = Retention {
            bytes: u64::MAX,
            age: None,
        };
        for name in self.channels()? {
            let unknown = Epoch(0);
            match recovery::open(self.files(&name), any, unknown, Ended::Down) {
                Ok((_, recovered)) => {
                    let loss = Loss {
                        cut: recovered.cut,
                        is_new_epoch: recovered.is_new_epoch,
                    };
                    self.losses.lock().insert(name, loss);
                }
                Err(_) => write_next_epoch(&self.files(&name), epoch_after(unknown))?,
            }
        }
        Ok(())
    }

    /// Channels of which something is kept.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn channels(&self) -> Result<Vec<ChannelName>, HistoryError> {
        channels_in(&self.path)
    }

    /// Opens the history of a channel, and recovers it from the end of the daemon that wrote it. Of a channel
    /// that has none, nothing is created before [`Log::begin`] or the first append; its epoch is `if_new`.
    ///
    /// # Errors
    /// The system's, and damage that no crash explains, with the file and the offset.
    pub(crate) fn open_log(
        &self,
        name: &ChannelName,
        retention: Retention,
        if_new: Epoch,
    ) -> Result<(Log, Recovered), HistoryError> {
        // What the machine had lost has been seen to by now.
        let ended = match self.ended {
            Ended::Clean => Ended::Clean,
            Ended::Killed | Ended::Down => Ended::Killed,
        };
        let (log, mut recovered) = recovery::open(self.files(name), retention, if_new, ended)?;
        if let Some(loss) = self.losses.lock().remove(name) {
            recovered.cut = recovered.cut.or(loss.cut);
            recovered.is_new_epoch |= loss.is_new_epoch;
        }
        Ok((log, recovered))
    }

    /// Puts the folder of a channel away under a name that no channel has, with the epoch that it ends with: its
    /// numbers are not gone on with.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn set_aside(&self, name: &ChannelName, epoch: Epoch) -> Result<(), HistoryError> {
        let folder = self.path.join(name.as_str());
        let mut aside = self.path.join(format!("{name}@{epoch}"));
        // A channel may leave one behind more than once and have the same epoch all the while.
        let mut count = 1;
        while aside.exists() {
            count += 1;
            aside = self.path.join(format!("{name}@{epoch}.{count}"));
        }
        self.storage.rename(&folder, &aside)?;
        self.storage.sync_folder(&self.path)
    }

    /// Says that all has been synced and nothing will be written any more, when that is so: after the last
    /// [`Log::sync`] of each log.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn mark_clean(&self) -> io::Result<()> {
        verify_in_place(&*self.lock, &self.path.join(LOCK))?;
        if self.ended != Ended::Clean {
            // Channels that nobody has opened since may have been written to before.
            self.sync_all()?;
        }
        Ok(self.write_state(CLEAN)?)
    }

    fn sync_all(&self) -> Result<(), HistoryError> {
        for name in self.channels()? {
            let folder = self.path.join(name.as_str());
            for path in list(&folder)? {
                let file = match storage::open(&path) {
                    // It is nothing that was written here.
                    Err(HistoryError::Damaged(_)) => continue,
                    file => file?,
                };
                self.storage.sync(&file, &path)?;
            }
            self.storage.sync_folder(&folder)?;
        }
        Ok(())
    }

    fn write_state(&self, state: &str) -> Result<(), HistoryError> {
        let [new, path] = [self.path.join(NEW_STATE), self.path.join(STATE)];
        let file = self.storage.create(&new)?;
        let mut state = [IoSlice::new(state.as_bytes())];
        self.storage.write_at(&file, &new, &mut state, 0)?;
        self.storage.sync(&file, &new)?;
        self.storage.rename(&new, &path)?;
        self.storage.sync_folder(&self.path)
    }

    fn files(&self, name: &ChannelName) -> Files {
        Files {
            storage: self.storage.clone(),
            folder: self.path.join(name.as_str()),
            directory: self.path.clone(),
            lock: Some(Arc::clone(&self.lock)),
        }
    }
}

/// Refuses the folder of a channel, and a directory that is in one which another daemon has, or has such a one in
/// it: what one daemon keeps there would be a channel's to the other. Nothing is changed there.
fn refuse_nested(path: &Path) -> Result<(), HistoryError> {
    let foreign = |what: String| {
        let directory = path.to_owned();
        Err(HistoryError::Foreign { directory, what })
    };
    let Ok(whole) = fs::canonicalize(path).or_else(|_| std::path::absolute(path)) else {
        return Ok(());
    };
    let above = whole.parent().unwrap_or(&whole);
    let inside = match whole.is_dir() {
        true => list(&whole)?,
        false => Vec::new(),
    };
    let mut segments = inside.iter().filter(|path| first_of(path).is_some());
    if segments.any(|path| is_segment(path)) {
        let what = "is the folder of one channel, with its segments; allowed: such as";
        return foreign(format!("{what} {}", above.display()));
    }
    if let Some(error) = in_use(above).filter(|_| above != whole) {
        return foreign(format!("is in a history directory: {error}"));
    }
    match inside.iter().find_map(|inner| in_use(inner)) {
        Some(error) => foreign(format!("has a history directory in it: {error}")),
        None => Ok(()),
    }
}

/// Why a directory cannot be had, if another daemon has it now.
fn in_use(directory: &Path) -> Option<HistoryError> {
    let path = directory.join(LOCK);
    let lock = storage::open(&path).ok()?;
    let tried = rustix::fs::flock(&lock, FlockOperation::NonBlockingLockShared);
    let error = || HistoryError::InUse {
        directory: directory.to_owned(),
        process: process_of(&path),
    };
    (tried == Err(rustix::io::Errno::WOULDBLOCK)).then(error)
}

/// The process that has said that it has the lock.
fn process_of(lock: &Path) -> Option<u32> {
    fs::read_to_string(lock).ok()?.trim_end().parse().ok()
}

/// What tells one start of the machine from another; `None` where the system does not say.
fn boot_id() -> Option<String> {
    let id = fs::read_to_string(BOOT_ID).ok()?;
    Some(id.trim_end().to_owned())
}
