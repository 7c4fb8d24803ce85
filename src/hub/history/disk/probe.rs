//! What tests see of the storage, and what they do to it.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, Ordering};

use parking_lot::Mutex;

/// Something that was done to files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    CreateFolder(PathBuf),
    Create(PathBuf),
    Write(PathBuf, u64, Vec<u8>),
    Truncate(PathBuf, u64),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
    Sync(PathBuf),
    SyncFolder(PathBuf),
}

/// Decides whether a change fails.
type Fault = Box<dyn FnMut(&Change) -> Option<rustix::io::Errno> + Send>;

/// All changes that were made, in their order, and what lets some of them fail.
#[derive(Default)]
pub(super) struct Probe {
    changes: Mutex<Vec<Change>>,
    fault: Mutex<Option<Fault>>,
    boot_ahead_ms: AtomicI64,
    wall_ahead_ms: AtomicI64,
}

impl std::fmt::Debug for Probe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Probe")
    }
}

impl Probe {
    pub(super) fn note(&self, change: Change) -> io::Result<()> {
        if let Some(fault) = &mut *self.fault.lock()
            && let Some(error) = fault(&change)
        {
            return Err(error.into());
        }
        self.changes.lock().push(change);
        Ok(())
    }

    /// Lets changes fail from now on.
    pub(super) fn fail(
        &self,
        fault: impl FnMut(&Change) -> Option<rustix::io::Errno> + Send + 'static,
    ) {
        *self.fault.lock() = Some(Box::new(fault));
    }

    pub(super) fn heal(&self) {
        *self.fault.lock() = None;
    }

    pub(super) fn changes(&self) -> Vec<Change> {
        self.changes.lock().clone()
    }

    /// Sets the clocks so far ahead of the system's.
    pub(super) fn set_clocks(&self, boot_ahead_ms: i64, wall_ahead_ms: i64) {
        self.boot_ahead_ms.store(boot_ahead_ms, Ordering::SeqCst);
        self.wall_ahead_ms.store(wall_ahead_ms, Ordering::SeqCst);
    }

    pub(super) fn boot_ahead_ms(&self) -> i64 {
        self.boot_ahead_ms.load(Ordering::SeqCst)
    }

    pub(super) fn wall_ahead_ms(&self) -> i64 {
        self.wall_ahead_ms.load(Ordering::SeqCst)
    }
}
