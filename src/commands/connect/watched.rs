//! Standard input and output, which others share: they are waited for without being made
//! nonblocking.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::net::sockopt::register;

/// Whether something of it is so now. An error and an end always count.
fn is_now(descriptor: &impl AsFd, what: PollFlags) -> bool {
    let mut polled = [PollFd::new(descriptor, what)];
    poll(&mut polled, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
}

/// Writes all of it, and returns its room. Blocks, also where the descriptor is nonblocking, as another
/// program that shares it may have made it.
pub(super) fn write_all(to: impl AsFd, bytes: Vec<u8>) -> io::Result<Vec<u8>> {
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        match rustix::io::write(&to, rest) {
            Ok(written) => rest = &rest[written..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                // Whatever the poll says, the next write finds out.
                let _ = poll(&mut [PollFd::new(&to, PollFlags::OUT)], None);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(bytes)
}

/// Source of the lines to send.
#[derive(Debug)]
pub(super) enum Input {
    /// No source, and no end either.
    Absent,
    /// Standard input that can be waited for: a pipe, a terminal, a socket.
    Watched(AsyncFd<OwnedFd>),
    /// Standard input that is there at once: a file.
    File(OwnedFd),
    /// No source any more, since then.
    Ended(Instant),
}

impl Input {
    /// Standard input, of which nothing is changed: other processes share it.
    pub(super) fn stdin() -> io::Result<Input> {
        let stdin = || io::stdin().as_fd().try_clone_to_owned();
        Ok(match register(stdin()?, Interest::READABLE) {
            Ok(watched) => Input::Watched(watched),
            Err(_) => Input::File(stdin()?),
        })
    }

    /// Reads what there is, 0 at the end; never returns after that. Cancel safe: what is read is
    /// returned.
    ///
    /// Standard input is not made nonblocking, as that would hold for whoever shares it; but what is
    /// there is read without waiting.
    pub(super) async fn read(&self, room: &mut [u8]) -> io::Result<usize> {
        let read = |input: &OwnedFd, room: &mut [u8]| match rustix::io::read(input, room) {
            // A terminal that is gone.
            Err(Errno::IO) => Ok(0),
            read => read,
        };
        loop {
            let read = match self {
                Input::Absent | Input::Ended(_) => return std::future::pending().await,
                Input::File(input) => read(input, room),
                Input::Watched(input) => {
                    let mut guard = input.readable().await?;
                    if !is_now(input, PollFlags::IN) {
                        guard.clear_ready();
                        continue;
                    }
                    read(input.get_ref(), room)
                }
            };
            match read {
                Err(Errno::INTR | Errno::AGAIN) => {}
                read => return Ok(read?),
            }
        }
    }
}

/// Standard output, watched for that nobody reads it any more.
#[derive(Debug)]
pub(super) struct Readers(Option<AsyncFd<OwnedFd>>);

impl Readers {
    pub(super) fn of_stdout() -> io::Result<Readers> {
        let stdout = io::stdout().as_fd().try_clone_to_owned()?;
        // A file has no readers to lose.
        Ok(Readers(
            register(stdout, Interest::READABLE | Interest::ERROR).ok(),
        ))
    }

    /// Returns when there are none. Cancel safe.
    pub(super) async fn gone(&self) -> io::Result<()> {
        let Some(stdout) = &self.0 else {
            return std::future::pending().await;
        };
        loop {
            let mut guard = stdout.ready(Interest::READABLE | Interest::ERROR).await?;
            if is_now(stdout, PollFlags::empty()) {
                return Ok(());
            }
            guard.clear_ready();
        }
    }
}
