//! Notifications for the service manager: states, the watchdog's ping, and descriptors to store.

use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use sd_notify::NotifyState;
use tokio::net::unix::pipe::Receiver;
use tokio::time::timeout;
use tracing::warn;

use super::channel::Channel;
use crate::ops::fd_passing::DESCRIPTORS_MAX;

/// Prefix of the daemon's own entries in the file-descriptor store. A socket unit may name its
/// listeners so too, but nothing else.
pub const STORED_PREFIX: &str = "linehub-";

/// Name of the entry that is stored to see whether the manager keeps any. An entry of this name that
/// is in the store at a start means nothing.
pub const PROBE_NAME: &str = "linehub-probe";

/// Tells the service manager the daemon's state. Does nothing where there is no manager.
///
/// No method waits longer than half a second, unless it says so. A message that cannot be sent is
/// dropped; the first of a row of such failures is logged.
#[derive(Debug)]
pub struct Notifier(Option<Channel>);

/// Why the manager is not known to have stored a descriptor.
#[derive(Debug)]
pub enum StoreError {
    /// There is no service manager.
    NoManager,
    /// The message could not be sent.
    NotSent(io::Error),
    /// The manager did not confirm within this time that it has read the message.
    NoAnswer(Duration),
    /// The manager closed the descriptor: FileDescriptorStoreMax= is 0, or too small.
    NotKept,
}

impl Notifier {
    /// A notifier for the address in NOTIFY_SOCKET, if there is one.
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

    /// Says that every listener accepts.
    pub async fn ready(&self) {
        self.notify(&[NotifyState::Ready]).await;
    }

    /// Says that the reload is over. A failure goes into the status, for whoever waited.
    pub async fn reloaded(&self, failure: Option<&str>) {
        let status = failure.map(NotifyState::Status);
        let states: Vec<_> = [NotifyState::Ready].into_iter().chain(status).collect();
        self.notify(&states).await;
    }

    /// Says that the configuration is being read again. [`Notifier::reloaded`] must follow, also after
    /// a failure.
    pub async fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.notify(&[NotifyState::Reloading, now]).await,
            Err(error) => warn!(%error, "cannot read the clock: the reload is not announced"),
        }
    }

    /// Says that the daemon is shutting down and may take this long, even if the manager's own timeout
    /// is shorter.
    pub async fn stopping(&self, time: Duration) {
        let extend = format!("EXTEND_TIMEOUT_USEC={}", time.as_micros());
        let states = [NotifyState::Stopping, NotifyState::Custom(&extend)];
        self.notify(&states).await;
    }

    /// Sets the status line of `systemctl status`.
    pub async fn status(&self, text: &str) {
        self.notify(&[NotifyState::Status(text)]).await;
    }

    /// Pings the watchdog.
    pub async fn watchdog(&self) {
        self.notify(&[NotifyState::Watchdog]).await;
    }

    /// Pings the watchdog from a thread that may block.
    pub fn watchdog_blocking(&self) {
        let Some(channel) = &self.0 else { return };
        let text = text(&[NotifyState::Watchdog]);
        channel.log(&text, channel.send_blocking(&text));
    }

    /// Has the manager store these descriptors under this name, which begins with [`STORED_PREFIX`],
    /// until they are removed or the service is stopped. When the service starts again, they come
    /// back as [`Inherited::stored`](super::Inherited::stored).
    ///
    /// Returns once the message is on its way: [`Notifier::flush`] waits until it has been read.
    ///
    /// # Errors
    /// There is no manager, or the manager does not take the message within half a second.
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

    /// Has the manager close the descriptors that are stored under this name.
    ///
    /// # Errors
    /// There is no manager, or the manager does not take the message within half a second.
    pub async fn remove(&self, name: &str) -> Result<(), StoreError> {
        let fd_name = format!("FDNAME={name}");
        let states = ["FDSTOREREMOVE=1", &fd_name].map(NotifyState::Custom);
        self.send(&states, &[]).await
    }

    /// Waits until the manager has read all messages sent so far, at most this long.
    ///
    /// # Errors
    /// There is no manager, the message cannot be sent, or no answer came in time.
    pub async fn flush(&self, time: Duration) -> Result<(), StoreError> {
        let exchange = async {
            // The manager closes its copy of the pipe when it reads the barrier.
            let (answer, barrier) = io::pipe().map_err(StoreError::NotSent)?;
            self.send(&[NotifyState::Custom("BARRIER=1")], &[barrier.as_fd()])
                .await?;
            drop(barrier);
            let answer = Receiver::from_owned_fd(answer.into()).map_err(StoreError::NotSent)?;
            answer.readable().await.map_err(StoreError::NotSent)?;
            Ok(())
        };
        timeout(time, exchange)
            .await
            .unwrap_or(Err(StoreError::NoAnswer(time)))
    }

    /// Tries whether the manager has room for `count` more descriptors, at most this long. The room is
    /// FileDescriptorStoreMax= of the unit, which no variable tells before systemd 254.
    ///
    /// # Errors
    /// There is no room, no manager or no answer.
    pub async fn try_store(&self, count: usize, time: Duration) -> Result<(), StoreError> {
        // Different pipes: the manager stores a descriptor only once.
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
        // Also when there was no answer: the probes must not stay in the store.
        self.remove(PROBE_NAME).await?;
        answered?;
        match closed {
            Ok(0) => Ok(()),
            Ok(_) => Err(StoreError::NotKept),
            Err(error) => Err(StoreError::NotSent(error.into())),
        }
    }

    /// Sends a message; a failure is logged.
    async fn notify(&self, states: &[NotifyState<'_>]) {
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

/// Text of a message: one assignment a line.
fn text(states: &[NotifyState<'_>]) -> String {
    let lines: Vec<String> = states.iter().map(NotifyState::to_string).collect();
    lines.join("\n")
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreError::NoManager => f.write_str("there is no service manager"),
            StoreError::NotSent(error) => {
                write!(f, "the service manager takes no message: {error}")
            }
            StoreError::NoAnswer(time) => {
                let seconds = time.as_secs_f64();
                write!(f, "no answer from the service manager for {seconds}s")
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
    use std::os::fd::OwnedFd;

    use rustix::net::RecvFlags;
    use tokio::runtime::Builder;

    use super::*;
    use crate::ops::fd_passing;

    /// A deadline that a test waits for, and one that never passes.
    const SOON: Duration = Duration::from_millis(50);
    const LONG: Duration = Duration::from_secs(30);

    /// The manager, at the other end of the socket.
    struct Manager {
        socket: std::os::unix::net::UnixDatagram,
        _dir: tempfile::TempDir,
    }

    impl Manager {
        /// The next message and its descriptors.
        fn take(&self) -> (String, Vec<OwnedFd>) {
            let mut text = [0; 1024];
            let flags = RecvFlags::empty();
            let (bytes, descriptors) = fd_passing::receive(&self.socket, &mut text, flags).unwrap();
            let text = String::from_utf8(text[..bytes].to_vec()).unwrap();
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
