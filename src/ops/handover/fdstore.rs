//! The handover through the service manager's file-descriptor store, which keeps the state and the
//! sockets while no daemon runs.
//!
//! The sockets are queued in a socketpair, and only its two ends and the state go into the store:
//! with an entry for each socket, PID 1 takes time that is quadratic in their number (4.7 s for
//! 4,000). Both ends are stored because the queue of one is lost when the other is closed.

use std::env;
use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process;
use std::time::Duration;

use anyhow::Context;
use rustix::net::sockopt::set_socket_send_buffer_size;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};

use super::{RestoredState, State};
use crate::net::inherited::InheritedFd;
use crate::ops::fd_passing;
use crate::ops::systemd::{Notifier, PROBE_NAME, StoreError};

/// Names of the entries in the store.
const STATE: &str = "linehub-state";
const QUEUE: &str = "linehub-queue";

/// Entries that a handover needs: the state, and the two ends of the queue.
const ENTRIES: usize = 3;

/// Sockets in one message of the queue. The next daemon, of whichever version, expects no more.
const SOCKETS_A_MESSAGE: usize = 250;

/// Bytes that the queue may hold, of which each message takes about 1 KiB. The kernel bounds them by
/// `net.core.wmem_max`, which by default is enough for more than 50,000 sockets.
const QUEUE_BYTES: usize = 16 << 20;

/// How long the service manager may take to answer.
const ANSWER_TIME: Duration = Duration::from_secs(2);

/// Tries whether the service manager keeps descriptors for this daemon.
///
/// # Errors
/// The manager does not, or does not answer.
pub(crate) async fn available(notifier: &Notifier) -> Result<(), StoreError> {
    notifier.try_store(ENTRIES, ANSWER_TIME).await
}

/// Puts the state and the sockets, in this order, into the store.
///
/// # Errors
/// There are more sockets than can be queued, or the manager does not confirm that it has them. The
/// store is empty then.
pub(crate) async fn leave(
    notifier: &Notifier,
    state: &File,
    sockets: &[BorrowedFd<'_>],
) -> anyhow::Result<()> {
    let (near, far) = pack_fds(sockets)?;
    let stored = async {
        notifier.store(STATE, &[state.as_fd()]).await?;
        notifier.store(QUEUE, &[near.as_fd(), far.as_fd()]).await?;
        notifier.flush(ANSWER_TIME).await
    };
    let stored = stored.await;
    if stored.is_err() {
        clear(notifier, [STATE, QUEUE]).await;
    }
    Ok(stored?)
}

/// Takes the entries of these names out of the store.
pub(crate) async fn clear<'a>(notifier: &Notifier, names: impl IntoIterator<Item = &'a str>) {
    for name in names {
        // An entry that cannot be removed now is found, and restored or refused, at the next start.
        let _ = notifier.remove(name).await;
    }
}

/// Whether the environment says that a state came back from the store.
pub(super) fn has_state() -> bool {
    let is_for_us = env::var("LISTEN_PID").is_ok_and(|pid| pid == process::id().to_string());
    let has_state = |names: String| names.split(':').any(|name| name == STATE);
    is_for_us && env::var("LISTEN_FDNAMES").is_ok_and(has_state)
}

/// The state that came back from the store; `None` when no entry of a handover did.
pub(super) fn retrieve(stored: Vec<InheritedFd>) -> anyhow::Result<Option<RestoredState>> {
    let (mut state, mut queued) = (None, Vec::new());
    // A probe of `available` that could not be removed means nothing.
    let stored = stored
        .into_iter()
        .filter(|passed| passed.name != PROBE_NAME);
    let mut stored = stored.peekable();
    if stored.peek().is_none() {
        return Ok(None);
    }
    for passed in stored {
        match passed.name.as_str() {
            STATE => state = Some(passed.descriptor),
            // One of the two ends has all sockets, the other none.
            QUEUE => queued.extend(unpack_fds(&passed.descriptor)?),
            other => tracing::warn!(name = other, "closing an unknown descriptor from the store"),
        }
    }
    let state = state.context("the store has no state")?;
    let state = State::read(state.into()).context("cannot read the state")?;
    RestoredState::new(state, queued).map(Some)
}

/// A socketpair with these sockets queued in it.
fn pack_fds(sockets: &[BorrowedFd<'_>]) -> anyhow::Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (near, far) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    set_socket_send_buffer_size(&near, QUEUE_BYTES)?;
    for (at, sockets_of_one) in sockets.chunks(SOCKETS_A_MESSAGE).enumerate() {
        fd_passing::send(&near, &[0], sockets_of_one).with_context(|| {
            let queued = at * SOCKETS_A_MESSAGE;
            format!(
                "cannot queue more than {queued} of {} sockets",
                sockets.len()
            )
        })?;
    }
    Ok((near, far))
}

/// The sockets that are queued at this end of a socketpair.
fn unpack_fds(end: &OwnedFd) -> anyhow::Result<Vec<OwnedFd>> {
    let mut sockets = Vec::new();
    loop {
        match fd_passing::receive(end, &mut [0], RecvFlags::DONTWAIT) {
            // 0 is the end: the other one is closed.
            Ok((0, _)) => return Ok(sockets),
            Ok((_, descriptors)) => sockets.extend(descriptors),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(sockets),
            Err(error) => return Err(error).context("cannot read the queue of sockets"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn sockets_come_back_in_their_order_from_either_end() {
        let pairs: Vec<_> = (0..300).map(|_| UnixStream::pair().unwrap()).collect();
        let ours: Vec<_> = pairs.iter().map(|(ours, _)| ours.as_fd()).collect();
        let (near, far) = pack_fds(&ours).unwrap();
        let mut back = unpack_fds(&near).unwrap();
        assert!(back.is_empty());
        back.extend(unpack_fds(&far).unwrap());
        assert_eq!(back.len(), 300);
        for (n, (socket, (_, theirs))) in back.into_iter().zip(&pairs).enumerate() {
            assert!(
                !pairs
                    .iter()
                    .any(|(ours, _)| ours.as_raw_fd() == socket.as_raw_fd())
            );
            UnixStream::from(socket).write_all(&[n as u8]).unwrap();
            let mut byte = [0];
            let mut theirs = theirs;
            theirs.read_exact(&mut byte).unwrap();
            assert_eq!(byte[0], n as u8);
        }
    }

    #[test]
    fn queue_of_no_sockets_is_empty() {
        let (near, far) = pack_fds(&[]).unwrap();
        assert!(unpack_fds(&far).unwrap().is_empty());
        drop(far);
        assert!(unpack_fds(&near).unwrap().is_empty());
    }
}
