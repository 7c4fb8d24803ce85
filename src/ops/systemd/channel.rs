//! The socket by which messages go to the service manager.

use std::ffi::OsStr;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::SocketAddrUnix;
use tokio::io::Interest;
use tokio::net::UnixDatagram;
use tokio::time::timeout;
use tracing::{debug, warn};

use crate::ops::fd_passing;

/// How long a message may wait for a manager whose queue is full. Some 500 messages fit in the queue.
const SEND_TIME: Duration = Duration::from_millis(500);

/// The socket and the manager's address. The socket stays open, so that a watchdog's ping needs no
/// descriptor when none are left.
#[derive(Debug)]
pub(super) struct Channel {
    socket: UnixDatagram,
    address: SocketAddrUnix,
    /// The last message could not be sent, and that has been logged.
    failing: AtomicBool,
}

impl Channel {
    /// Opens a socket for messages to this address, which is that of NOTIFY_SOCKET.
    pub(super) fn open(address: &OsStr) -> io::Result<Channel> {
        let address = match address.as_bytes() {
            [b'@', name @ ..] => SocketAddrUnix::new_abstract_name(name)?,
            path @ [b'/', ..] => SocketAddrUnix::new(path)?,
            _ => {
                let wrong = "NOTIFY_SOCKET is neither a path nor an abstract name";
                return Err(io::Error::new(io::ErrorKind::Unsupported, wrong));
            }
        };
        let channel = Channel {
            socket: UnixDatagram::unbound()?,
            address,
            failing: AtomicBool::new(false),
        };
        // A manager that is not there now may be there when the first message is sent.
        let _ = channel.connect();
        Ok(channel)
    }

    fn connect(&self) -> io::Result<()> {
        Ok(rustix::net::connect(&self.socket, &self.address)?)
    }

    /// Sends one message, whole. Cancel safe: the message is sent or it is not.
    pub(super) async fn send(&self, text: &str, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let once = || fd_passing::send(&self.socket, text.as_bytes(), descriptors);
        let sending = async {
            let sent = self.socket.async_io(Interest::WRITABLE, once).await;
            if sent.is_ok() {
                return sent;
            }
            // A manager that was started anew has a new socket at the old address.
            self.connect()?;
            self.socket.async_io(Interest::WRITABLE, once).await
        };
        timeout(SEND_TIME, sending)
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    /// [`Channel::send`] without a runtime and without descriptors.
    pub(super) fn send_blocking(&self, text: &str) -> io::Result<()> {
        let once = || {
            let mut writable = [PollFd::new(&self.socket, PollFlags::OUT)];
            let time = Timespec::try_from(SEND_TIME).map_err(io::Error::other)?;
            match poll(&mut writable, Some(&time))? {
                0 => Err(io::ErrorKind::TimedOut.into()),
                _ => fd_passing::send(&self.socket, text.as_bytes(), &[]),
            }
        };
        once().or_else(|error| {
            if error.kind() == io::ErrorKind::TimedOut {
                return Err(error);
            }
            self.connect()?;
            once()
        })
    }

    /// Logs a message that could not be sent: the first of a row as a warning.
    pub(super) fn log(&self, text: &str, sent: io::Result<()>) {
        match sent {
            Ok(()) => self.failing.store(false, Relaxed),
            Err(error) if self.failing.swap(true, Relaxed) => {
                debug!(%error, text, "cannot notify the service manager");
            }
            Err(error) => warn!(%error, text, "cannot notify the service manager"),
        }
    }
}
