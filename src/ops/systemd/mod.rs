//! The service manager: what it passes at the start, and what it is told while the daemon runs.
//!
//! [`SystemdEnv::from_environment`] reads, once and before anything else opens descriptors, what
//! systemd put into the environment: inherited sockets ([sd_listen_fds(3)]), what the last daemon
//! left in the file-descriptor store, the watchdog's timeout and the address for notifications.
//! The [`Notifier`] tells the manager the daemon's state ([sd_notify(3)]) and puts descriptors into
//! the store; [`watchdog`] pings, and keeps the status line up to date.
//!
//! Without a manager, in a terminal or under another supervisor, all of this does nothing.
//!
//! [sd_listen_fds(3)]: https://www.freedesktop.org/software/systemd/man/latest/sd_listen_fds.html
//! [sd_notify(3)]: https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html

mod channel;
mod notify;
pub(crate) mod watchdog;

use std::env;
use std::ffi::OsString;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use anyhow::Context;

use crate::config::cli::STATE_VARIABLE;
use crate::net::inherited::InheritedFd;

pub use self::notify::{Notifier, PROBE_NAME, STORED_PREFIX, StoreError};

/// Variables that describe the passed descriptors, which are taken over once. An exec keeps the PID
/// and must remove them, or the next program would take its descriptors for passed ones.
pub const LISTEN_VARS: [&str; 4] = [
    "LISTEN_PID",
    "LISTEN_PIDFDID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
];

/// Other variables meant for this process alone. A child must get neither these nor [`LISTEN_VARS`].
pub const SERVICE_VARS: [&str; 4] = ["NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "FDSTORE"];

/// The environment that the service manager gave to this process.
#[derive(Debug, Default)]
pub struct SystemdEnv {
    /// The passed descriptors.
    pub inherited: Inherited,
    /// Longest time between two pings of the watchdog. `None`: the manager expects none.
    pub watchdog: Option<Duration>,
    /// NOTIFY_SOCKET: the address for notifications.
    address: Option<OsString>,
}

/// The descriptors that the service manager passed.
#[derive(Debug, Default)]
pub struct Inherited {
    /// Sockets to listen on. Whether each is a listener is checked when the listeners are opened.
    pub listeners: Vec<InheritedFd>,
    /// Descriptors that the last daemon left in the file-descriptor store, under names that begin with
    /// [`STORED_PREFIX`].
    pub stored: Vec<InheritedFd>,
}

impl SystemdEnv {
    /// Reads the environment and takes the descriptors over. To be called once, before anything
    /// opens descriptors of its own; a second call finds none.
    ///
    /// # Errors
    /// The variables contradict each other, or the descriptors that are open.
    pub fn from_environment() -> anyhow::Result<SystemdEnv> {
        Ok(SystemdEnv {
            inherited: Inherited::take().context("cannot take over inherited sockets")?,
            watchdog: sd_notify::watchdog_enabled(),
            address: env::var_os("NOTIFY_SOCKET"),
        })
    }

    /// A notifier for this manager. To be called on the runtime.
    pub fn notifier(&self) -> Notifier {
        Notifier::new(self.address.as_deref())
    }
}

impl Inherited {
    /// The passed descriptors, at the first call; none at later ones.
    fn take() -> anyhow::Result<Inherited> {
        static TAKEN: AtomicBool = AtomicBool::new(false);
        let mut inherited = Inherited::default();
        // After an exec, the open descriptors are those of the handover.
        if TAKEN.swap(true, Relaxed) || env::var_os(STATE_VARIABLE).is_some() {
            return Ok(inherited);
        }
        let disagree = "LISTEN_FDS, LISTEN_FDNAMES and the open descriptors do not agree";
        // LISTEN_PID may be another process: the names in LISTEN_FDNAMES do not matter then.
        if sd_notify::listen_fds().context(disagree)?.len() == 0 {
            return Ok(inherited);
        }
        let passed = sd_notify::listen_fds_with_names().context(disagree)?;
        for (descriptor, name) in passed {
            let passed = InheritedFd {
                name,
                descriptor: own(descriptor),
            };
            // A socket unit may be called linehub-json.socket: the prefix alone proves nothing.
            let stored = passed.name.starts_with(STORED_PREFIX) && !passed.listens();
            match stored {
                true => inherited.stored.push(passed),
                false => inherited.listeners.push(passed),
            }
        }
        Ok(inherited)
    }
}

#[allow(unsafe_code)]
fn own(descriptor: RawFd) -> OwnedFd {
    // SAFETY: the descriptor was open a moment ago, when CLOEXEC was set on it, and the manager opened
    // it for this process to own. `Inherited::take` runs once, before anything opens descriptors.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}
