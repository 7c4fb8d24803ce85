//! Descriptors across an exec: which ones the next program inherits, and how it takes them over.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::FdFlags;

/// The first descriptor that is not standard input, output or error.
const FIRST_DESCRIPTOR: RawFd = 3;

/// Descriptors that are open when a program begins after an exec, standard input, output and error
/// excepted. Dropping this closes all that were not taken: nobody knows what they were for.
///
/// Works without `/proc`, which may have gone since the daemon before was started.
#[derive(Debug, Default)]
pub(super) struct Inherited {
    taken: BTreeSet<RawFd>,
}

impl Inherited {
    /// A descriptor, to own, which no child inherits; `None` if it is not open, or taken already.
    #[allow(unsafe_code)]
    pub(super) fn take(&mut self, number: RawFd) -> Option<OwnedFd> {
        // SAFETY: the borrow is for this question only, which any number may be asked.
        let flags = rustix::io::fcntl_getfd(unsafe { BorrowedFd::borrow_raw(number.max(0)) });
        if number < FIRST_DESCRIPTOR || flags.is_err() || !self.taken.insert(number) {
            return None;
        }
        // SAFETY: the descriptor is open, nothing in this program opened it, as this runs before
        // anything else opens descriptors, and it is given away once.
        let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
        set_inheritable(descriptor.as_fd(), false).ok()?;
        Some(descriptor)
    }
}

impl Drop for Inherited {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        let mut from = FIRST_DESCRIPTOR;
        let ends = self.taken.iter().copied().chain([RawFd::MAX]);
        for end in ends {
            if from < end {
                // SAFETY: nobody owns the descriptors in this range: see `take`. A kernel before 5.9
                // has no close_range and leaves them open.
                unsafe {
                    libc::syscall(libc::SYS_close_range, from, end - 1, 0);
                }
            }
            from = end.saturating_add(1);
        }
    }
}

/// Sets whether the next program inherits a descriptor.
pub(crate) fn set_inheritable(descriptor: BorrowedFd<'_>, inheritable: bool) -> io::Result<()> {
    let flags = match inheritable {
        true => FdFlags::empty(),
        false => FdFlags::CLOEXEC,
    };
    Ok(rustix::io::fcntl_setfd(descriptor, flags)?)
}
