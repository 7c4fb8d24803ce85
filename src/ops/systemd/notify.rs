//! Telling the service manager: states, the watchdog's beat, and descriptors to keep.

use std::ffi::OsStr;
use std::fmt;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix};
use sd_notify::NotifyState;
use tokio::io::Interest;
use tokio::net::UnixDatagram;
use tokio::net::unix::pipe::Receiver;
use tokio::time::timeout;
use tracing::{debug, warn};

/// How the names of our own entries in the file-descriptor store begin. Reserved: a socket unit
/// must not name anything else so (its listeners may have any name).
pub const STORED_PREFIX: &str = "linehub-";

/// How long a message may wait for a manager whose queue is full. Some 500 messages fit in it.
const SEND_TIME: Duration = Duration::from_millis(500);

/// What is stored to see whether anything is kept. Found in the store at a start, it means nothing.
pub const PROBE_NAME: &str = "linehub-probe";

/// Descriptors that one message carries at most: the kernel's SCM_MAX_FD.
const DESCRIPTORS_MAX: usize = 253;

/// Tells the service manager how the daemon is. Does nothing where there is no manager.
///
/// No method waits longer than half a second, unless it says so. A message that cannot be sent is
/// dropped; the first of a row of such failures is logged.
#[derive(Debug)]
pub struct Notifier(Option<Channel>);

/// Why the manager is not known to keep what it was to store.
#[derive(Debug)]
pub enum StoreError {
    /// There is no service manager.
    NoManager,
    /// The message could not be sent.
    NotSent(io::Error),
    /// The manager did not say within this time that it has read what was sent.
    NoAnswer(Duration),
    /// It read the message and closed the descriptor: FileDescriptorStoreMax= is 0, or too small.
    NotKept,
}

/// The way to the manager: one socket for life, so that a beat needs no descriptor when there are
/// none left.
#[derive(Debug)]
struct Channel {
    socket: UnixDatagram,
    address: SocketAddrUnix,
    /// The last message could not be sent, and that has been logged.
    failing: AtomicBool,
}

impl Notifier {
    /// Notifies at the address that NOTIFY_SOCKET gives, if it gives any.
    pub(super) fn new(address: Option<&OsStr>) -> Notifier {
        let Some(address) = address.filter(|address| !address.is_empty()) else {
            return Notifier(None);
        };
        match Channel::open(address) {
            Ok(channel) => Notifier(Some(channel)),
            Err(error) => {
                warn!(?address, %error, "cannot notify the service manager");
                Notifier(None)
            }
        }
    }

    /// Every listener accepts.
    pub async fn ready(&self) {
        self.notify(&[NotifyState::Ready]).await;
    }

    /// The reload is over; how that went, if these words say so, is in the status for whoever waited.
    pub async fn reloaded(&self, failure: Option<&str>) {
        let status = failure.map(NotifyState::Status);
        let states: Vec<_> = [NotifyState::Ready].into_iter().chain(status).collect();
        self.notify(&states).await;
    }

    /// The configuration is being read again. [`Notifier::reloaded`] must follow, whatever comes of it.
    pub async fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.notify(&[NotifyState::Reloading, now]).await,
            Err(error) => warn!(%error, "cannot read the clock: the reload is not announced"),
        }
    }

    /// The daemon is going down, and may take as long as this: longer than the manager's own
    /// timeout for it, if need be.
    pub async fn stopping(&self, time: Duration) {
        let extend = format!("EXTEND_TIMEOUT_USEC={}", time.as_micros());
        let states = [NotifyState::Stopping, NotifyState::Custom(&extend)];
        self.notify(&states).await;
    }

    /// How it is, in words for `systemctl status`.
    pub async fn status(&self, text: &str) {
        self.notify(&[NotifyState::Status(text)]).await;
    }

    /// The watchdog's beat.
    pub async fn watchdog(&self) {
        self.notify(&[NotifyState::Watchdog]).await;
    }

    /// The watchdog's beat, from a thread that may block.
    pub fn watchdog_blocking(&self) {
        let Some(channel) = &self.0 else { return };
        let text = text(&[NotifyState::Watchdog]);
        channel.log(&text, channel.send_blocking(&text));
    }

    /// Has the manager keep these descriptors under this name, which begins with
    /// [`STORED_PREFIX`], until they are removed or the service is stopped. They come back as
    /// [`Inherited::stored`](super::Inherited::stored) when it starts again.
    ///
    /// Returns once the message is on its way: [`Notifier::flush`] tells when it has been read.
    ///
    /// # Errors
    /// There is no manager, or it does not take the message within half a second.
    pub async fn store(
        &self,
        name: &str,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), StoreError> {
        debug_assert!(name.starts_with(STORED_PREFIX), "{name}");
        let fd_name = format!("FDNAME={name}");
        for descriptors in descriptors.chunks(DESCRIPTORS_MAX) {
            // Unless told not to look, the manager forgets a descriptor whose peer is gone.
            let states = [
                NotifyState::Custom("FDSTORE=1"),
                NotifyState::Custom(&fd_name),
                NotifyState::Custom("FDPOLL=0"),
            ];
            self.send(&states, descriptors).await?;
        }
        Ok(())
    }

    /// Has the manager close what it keeps under this name.
    ///
    /// # Errors
    /// There is no manager, or it does not take the message within half a second.
    pub async fn remove(&self, name: &str) -> Result<(), StoreError> {
        let fd_name = format!("FDNAME={name}");
        let states = ["FDSTOREREMOVE=1", &fd_name].map(NotifyState::Custom);
        self.send(&states, &[]).await
    }

    /// Waits until the manager has read everything sent so far, at most this long.
    ///
    /// # Errors
    /// It has not: there is no manager, the message cannot be sent, or no answer came in time.
    pub async fn flush(&self, time: Duration) -> Result<(), StoreError> {
        let exchange = async {
            // The manager closes its copy of the pipe when it has come to the barrier.
            let (answer, barrier) = io::pipe().map_err(StoreError::NotSent)?;
            self.send(&[NotifyState::Custom("BARRIER=1")], &[barrier.as_fd()])
                .await?;
            drop(barrier);
            let answer = Receiver::from_owned_fd(answer.into()).map_err(StoreError::NotSent)?;
            answer.readable().await.map_err(StoreError::NotSent)?;
            Ok(())
        };
        // Cancelled, the exchange closes its pipe; an answer to it then goes nowhere.
        timeout(time, exchange)
            .await
            .unwrap_or(Err(StoreError::NoAnswer(time)))
    }

    /// Sees whether the manager has room for so many more descriptors, which the unit has to allow
    /// (FileDescriptorStoreMax=) and no variable tells before systemd 254. Waits at most this long.
    ///
    /// # Errors
    /// It has not, or does not answer.
    pub async fn try_store(&self, count: usize, time: Duration) -> Result<(), StoreError> {
        // A pipe each: the manager keeps one of several that are the same.
        let pipes: io::Result<Vec<_>> = (0..count).map(|_| io::pipe()).collect();
        let (ours, probes): (Vec<_>, Vec<_>) =
            pipes.map_err(StoreError::NotSent)?.into_iter().unzip();
        let borrowed: Vec<_> = probes.iter().map(AsFd::as_fd).collect();
        self.store(PROBE_NAME, &borrowed).await?;
        drop(probes);
        let answered = self.flush(time).await;
        let mut hung_up: Vec<_> = ours
            .iter()
            .map(|pipe| PollFd::new(pipe, PollFlags::empty()))
            .collect();
        let closed = poll(&mut hung_up, Some(&Timespec::default()));
        // Kept or not, answered or not: it must not stay there.
        self.remove(PROBE_NAME).await?;
        answered?;
        match closed {
            Ok(0) => Ok(()),
            Ok(_) => Err(StoreError::NotKept),
            Err(error) => Err(StoreError::NotSent(error.into())),
        }
    }

    /// Sends, and logs the first of a row of failures.
    async fn notify(&self, states: &[NotifyState<'_>]) {
        // That there is no manager is no failure.
        let Some(channel) = &self.0 else { return };
        let text = text(states);
        channel.log(&text, channel.send(&text, &[]).await);
    }

    async fn send(
        &self,
        states: &[NotifyState<'_>],
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), StoreError> {
        let channel = self.0.as_ref().ok_or(StoreError::NoManager)?;
        let sent = channel.send(&text(states), descriptors).await;
        sent.map_err(StoreError::NotSent)
    }
}

/// A message: one assignment a line.
fn text(states: &[NotifyState<'_>]) -> String {
    let lines: Vec<String> = states.iter().map(NotifyState::to_string).collect();
    lines.join("\n")
}

impl Channel {
    fn open(address: &OsStr) -> io::Result<Channel> {
        let address = match address.as_bytes() {
            [b'@', name @ ..] => SocketAddrUnix::new_abstract_name(name)?,
            path @ [b'/', ..] => SocketAddrUnix::new(path)?,
            _ => {
                let wrong = "NOTIFY_SOCKET is neither a path nor an abstract name";
                return Err(io::Error::new(io::ErrorKind::Unsupported, wrong));
            }
        };
        let socket = UnixDatagram::unbound()?;
        // A manager that is not there now may be when the first message is sent.
        let _ = rustix::net::connect(&socket, &address);
        Ok(Channel {
            socket,
            address,
            failing: AtomicBool::new(false),
        })
    }

    /// Logs the first of a row of failures.
    fn log(&self, text: &str, sent: io::Result<()>) {
        match sent {
            Ok(()) => self.failing.store(false, Relaxed),
            Err(error) if self.failing.swap(true, Relaxed) => {
                debug!(%error, text, "cannot notify the service manager");
            }
            Err(error) => warn!(%error, text, "cannot notify the service manager"),
        }
    }

    /// [`Channel::send`] without a runtime and without descriptors.
    fn send_blocking(&self, text: &str) -> io::Result<()> {
        let once = || {
            let mut room = [PollFd::new(&self.socket, PollFlags::OUT)];
            let time = Timespec::try_from(SEND_TIME).map_err(io::Error::other)?;
            match poll(&mut room, Some(&time))? {
                0 => Err(io::ErrorKind::TimedOut.into()),
                _ => send(&self.socket, text, &[]),
            }
        };
        once().or_else(|error| {
            if error.kind() == io::ErrorKind::TimedOut {
                return Err(error);
            }
            rustix::net::connect(&self.socket, &self.address)?;
            once()
        })
    }

    /// Sends one message, whole. Cancel safe: it is sent or it is not.
    async fn send(&self, text: &str, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let once = || send(&self.socket, text, descriptors);
        let sending = async {
            let sent = self.socket.async_io(Interest::WRITABLE, once).await;
            if sent.is_ok() {
                return sent;
            }
            // A manager that was started anew has a new socket at the old address.
            rustix::net::connect(&self.socket, &self.address)?;
            self.socket.async_io(Interest::WRITABLE, once).await
        };
        timeout(SEND_TIME, sending)
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}

fn send(socket: &UnixDatagram, text: &str, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        let fits = control.push(SendAncillaryMessage::ScmRights(descriptors));
        debug_assert!(fits, "at most {DESCRIPTORS_MAX} descriptors a message");
    }
    let text = [IoSlice::new(text.as_bytes())];
    rustix::net::sendmsg(socket, &text, &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreError::NoManager => f.write_str("there is no service manager"),
            StoreError::NotSent(error) => {
                write!(f, "the service manager takes no message: {error}")
            }
            StoreError::NoAnswer(time) => {
                write!(
                    f,
                    "no answer from the service manager for {}s",
                    time.as_secs_f64()
                )
            }
            StoreError::NotKept => {
                f.write_str("the service manager keeps no descriptors: FileDescriptorStoreMax=")
            }
        }
    }
}

impl std::error::Error for StoreError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            StoreError::NotSent(error) => Some(error),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::IoSliceMut;
    use std::os::fd::OwnedFd;

    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
    use tokio::runtime::Builder;

    use super::*;

    /// A deadline that a test waits for to pass, and one that it never waits for.
    const SOON: Duration = Duration::from_millis(50);
    const LONG: Duration = Duration::from_secs(30);

    /// The manager's end.
    struct Manager {
        socket: std::os::unix::net::UnixDatagram,
        _dir: tempfile::TempDir,
    }

    impl Manager {
        /// The next message, and what came with it.
        fn take(&self) -> (String, Vec<OwnedFd>) {
            let mut text = [0; 1024];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let slices = &mut [IoSliceMut::new(&mut text)];
            let flags = RecvFlags::empty();
            let received = rustix::net::recvmsg(&self.socket, slices, &mut control, flags).unwrap();
            let mut descriptors = Vec::new();
            for part in control.drain() {
                if let RecvAncillaryMessage::ScmRights(passed) = part {
                    descriptors.extend(passed);
                }
            }
            let text = String::from_utf8(text[..received.bytes].to_vec()).unwrap();
            (text, descriptors)
        }

        fn expect(&self, text: &str) -> Vec<OwnedFd> {
            let (taken, descriptors) = self.take();
            assert_eq!(taken, text);
            descriptors
        }
    }

    /// Runs `daemon` beside `manager`.
    fn meet(manager: impl FnOnce(Manager) + Send, daemon: impl AsyncFnOnce(Notifier)) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| manager(Manager { socket, _dir: dir }));
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async { daemon(Notifier::new(Some(path.as_os_str()))).await });
        });
    }

    #[test]
    fn stored_descriptors_are_named_and_removed_by_name() {
        meet(
            |manager| {
                let stored = manager.expect("FDSTORE=1\nFDNAME=linehub-x\nFDPOLL=0");
                assert_eq!(stored.len(), 2);
                assert_eq!(manager.expect("BARRIER=1").len(), 1);
                let removed = manager.expect("FDSTOREREMOVE=1\nFDNAME=linehub-x");
                assert!(removed.is_empty());
            },
            async |notifier| {
                let (one, other) = io::pipe().unwrap();
                let both = [one.as_fd(), other.as_fd()];
                notifier.store("linehub-x", &both).await.unwrap();
                notifier.flush(LONG).await.unwrap();
                notifier.remove("linehub-x").await.unwrap();
            },
        );
    }

    #[test]
    fn more_descriptors_than_a_message_carries_go_in_several() {
        meet(
            |manager| {
                for count in [DESCRIPTORS_MAX, 1] {
                    assert_eq!(manager.take().1.len(), count);
                }
            },
            async |notifier| {
                let (pipe, _) = io::pipe().unwrap();
                let many = vec![pipe.as_fd(); DESCRIPTORS_MAX + 1];
                notifier.store("linehub-x", &many).await.unwrap();
            },
        );
    }

    #[test]
    fn manager_that_does_not_come_to_the_barrier_is_waited_for_only_so_long() {
        meet(
            |manager| {
                let _unanswered = manager.expect("BARRIER=1");
                manager.expect("READY=1");
            },
            async |notifier| {
                let error = notifier.flush(SOON).await.unwrap_err();
                assert!(matches!(error, StoreError::NoAnswer(_)), "{error}");
                notifier.ready().await;
            },
        );
    }

    #[test]
    fn store_is_tried_with_a_descriptor_that_is_taken_back() {
        meet(
            |manager| {
                let probe = "FDSTORE=1\nFDNAME=linehub-probe\nFDPOLL=0";
                let removal = "FDSTOREREMOVE=1\nFDNAME=linehub-probe";
                // One that keeps all, one that keeps some, and one that does not answer.
                for room in [3, 2] {
                    let mut kept = manager.expect(probe);
                    kept.truncate(room);
                    manager.expect("BARRIER=1");
                    manager.expect(removal);
                }
                let _kept = manager.expect(probe);
                let _unanswered = manager.expect("BARRIER=1");
                manager.expect(removal);
            },
            async |notifier| {
                notifier.try_store(3, LONG).await.unwrap();
                let error = notifier.try_store(3, LONG).await.unwrap_err();
                assert!(matches!(error, StoreError::NotKept), "{error}");
                let error = notifier.try_store(3, SOON).await.unwrap_err();
                assert!(matches!(error, StoreError::NoAnswer(_)), "{error}");
            },
        );
    }

    #[test]
    fn without_a_manager_nothing_is_stored() {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let notifier = Notifier::new(None);
            notifier.ready().await;
            let error = notifier.try_store(3, LONG).await.unwrap_err();
            assert!(matches!(error, StoreError::NoManager), "{error}");
            let error = notifier.flush(LONG).await.unwrap_err();
            assert!(matches!(error, StoreError::NoManager), "{error}");
        });
    }

    #[test]
    fn reload_is_announced_with_the_time_it_began() {
        meet(
            |manager| {
                let (text, _) = manager.take();
                let usec = text.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
                assert!(usec.parse::<u64>().unwrap() > 0, "{text}");
                manager.expect("READY=1");
            },
            async |notifier| {
                notifier.reloading().await;
                notifier.ready().await;
            },
        );
    }
}
