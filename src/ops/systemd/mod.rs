//! The service manager: what it hands over at start, and what it is told while the daemon runs.
//!
//! [`SystemdEnv::from_environment`] reads, once and before anything else opens descriptors, what
//! systemd put into the environment: inherited sockets ([sd_listen_fds(3)]), what the last daemon
//! left in the file-descriptor store, the watchdog's timeout and the address for notifications.
//! From it comes the [`Notifier`], by which the daemon says how it is ([sd_notify(3)]) and puts
//! descriptors into the store; [`watchdog`] keeps the manager informed.
//!
//! Without a manager, in a terminal or under another supervisor, all of this does nothing.
//!
//! [sd_listen_fds(3)]: https://www.freedesktop.org/software/systemd/man/latest/sd_listen_fds.html
//! [sd_notify(3)]: https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html

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

/// Variables that describe the descriptors handed over at start. They are spent once read: whoever
/// replaces this process by another program under the same PID must remove them first, or it would
/// take its descriptors for inherited ones.
pub const LISTEN_VARS: [&str; 4] = [
    "LISTEN_PID",
    "LISTEN_PIDFDID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
];

/// Variables meant for this process alone: to be removed for every other program that it starts.
pub const SERVICE_VARS: [&str; 8] = [
    "LISTEN_PID",
    "LISTEN_PIDFDID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
    "FDSTORE",
];

/// What the service manager gave to this process.
#[derive(Debug, Default)]
pub struct SystemdEnv {
    /// The descriptors it passed.
    pub inherited: Inherited,
    /// How often it wants to hear from the watchdog, at the latest. `None`: never.
    pub watchdog: Option<Duration>,
    /// Where it takes notifications, as NOTIFY_SOCKET says.
    address: Option<OsString>,
}

/// The descriptors that the service manager passed.
#[derive(Debug, Default)]
pub struct Inherited {
    /// Sockets to listen on, and what is no listener but came as one: told apart when opened.
    pub listeners: Vec<InheritedFd>,
    /// What the last daemon left in the file-descriptor store, by its name there, which begins with
    /// [`STORED_PREFIX`].
    pub stored: Vec<InheritedFd>,
}

impl SystemdEnv {
    /// Reads the environment and takes the descriptors over. To be called once, before anything
    /// opens descriptors of its own; a second call finds none.
    ///
    /// # Errors
    /// The variables do not agree with each other, or with the descriptors that are open.
    pub fn from_environment() -> anyhow::Result<SystemdEnv> {
        Ok(SystemdEnv {
            inherited: Inherited::take().context("cannot take over inherited sockets")?,
            watchdog: sd_notify::watchdog_enabled(),
            address: env::var_os("NOTIFY_SOCKET"),
        })
    }

    /// The way to tell the manager something. To be called on the runtime.
    pub fn notifier(&self) -> Notifier {
        Notifier::new(self.address.as_deref())
    }
}

impl Inherited {
    fn take() -> anyhow::Result<Inherited> {
        static TAKEN: AtomicBool = AtomicBool::new(false);
        let mut inherited = Inherited::default();
        // After an exec the descriptors are the handover's, whatever else the environment says.
        if TAKEN.swap(true, Relaxed) || env::var_os(STATE_VARIABLE).is_some() {
            return Ok(inherited);
        }
        let disagree = "LISTEN_FDS, LISTEN_FDNAMES and the open descriptors do not agree";
        // Finds none when LISTEN_PID is another process; the names must not matter then.
        if sd_notify::listen_fds().context(disagree)?.len() == 0 {
            return Ok(inherited);
        }
        // Sets CLOEXEC on each.
        let passed = sd_notify::listen_fds_with_names().context(disagree)?;
        for (descriptor, name) in passed {
            let passed = InheritedFd {
                name,
                descriptor: own(descriptor),
            };
            // A socket unit may well be called linehub-json.socket: what listens is a listener.
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
    // SAFETY: it was open a moment ago, when CLOEXEC was set on it, and the manager opened it for
    // this process to own. Nothing here opened it: it is taken over once a process, first of all.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}
