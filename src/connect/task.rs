//! Work that blocks, on a thread of its own, whose end can be waited for beside other things.

use std::io::{self, PipeReader};
use std::os::fd::{AsFd, BorrowedFd};
use std::panic;
use std::thread::{self, JoinHandle};

/// A thread that works, and a pipe that ends when it is done.
#[derive(Debug)]
pub(super) struct Task<T> {
    thread: JoinHandle<T>,
    ended: PipeReader,
}

impl<T: Send + 'static> Task<T> {
    /// Starts to work.
    ///
    /// # Errors
    /// The system has no thread or no descriptors for it.
    pub(super) fn start(
        name: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<Task<T>> {
        let (ended, open) = io::pipe()?;
        let work = move || {
            let result = work();
            drop(open);
            result
        };
        let thread = thread::Builder::new().name(name.to_owned()).spawn(work)?;
        Ok(Task { thread, ended })
    }

    /// Waits for the end of the work.
    pub(super) fn join(self) -> T {
        match self.thread.join() {
            Ok(result) => result,
            Err(panicked) => panic::resume_unwind(panicked),
        }
    }
}

/// Readable once the work is done.
impl<T> AsFd for Task<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ended.as_fd()
    }
}
