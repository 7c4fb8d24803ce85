//! Keeping every connection through a new daemon: what is saved, and the two ways it is carried.
//!
//! A handover stops every client between two polls, when it holds nothing but its state, and saves
//! that state and the hub's; the sockets stay open all the while. Clients notice nothing: the next
//! daemon goes on with the same byte of the same line.
//!
//! | way | asked for by | sockets | state |
//! |---|---|---|---|
//! | [`exec`]: exec in place | SIGUSR2 | stay open across the exec | a memfd, its number in the environment |
//! | [`fdstore`]: the service manager keeps them | SIGTERM, where it does | queued in one socketpair | a memfd |
//!
//! A state is one line that names its version, and then a [`State`] as MessagePack: batches are
//! bytes and no text. A daemon takes up states of its own version and of the one before, and says
//! beforehand, when it is asked (`--check-handover`), whether it can; a change to anything that is
//! saved, or to how lines look while some client has half of one, is a new version. A field that
//! may be missing is not: who does not know it goes on without.

pub(crate) mod exec;
pub(crate) mod fdstore;

use std::collections::BTreeSet;
use std::env;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Seek, Write};
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use anyhow::{Context, ensure};
use rustix::fs::MemfdFlags;
use rustix::io::FdFlags;
use serde::{Deserialize, Serialize};
use serde_bytes::{ByteBuf, Bytes};
use tracing::{error, info};

use crate::client::SavedClient;
use crate::config::cli::STATE_VARIABLE;
use crate::hub::counters::{Counters, HandoverMethod};
use crate::hub::{HubStats, SavedChannels, SavedHub};
use crate::net::inherited::InheritedFd;
use crate::net::listener::{RestoredListener, SavedListener};
use crate::ops::logging::{self, Losses};

/// The version of the states that this daemon writes, and all of those that it reads.
pub(crate) const VERSION: u32 = 5;
const VERSIONS: RangeInclusive<u32> = 4..=VERSION;

/// How a state of this version begins.
fn header(version: u32) -> String {
    format!("linehub state {version}\n")
}

/// What a daemon that writes states of this version is answered by `--check-handover`: their header,
/// if this one can read them, else that of its own.
pub fn answer(version: u32) -> String {
    header(if VERSIONS.contains(&version) {
        version
    } else {
        VERSION
    })
}

/// The first descriptor that is not standard input, output or error.
const FIRST_DESCRIPTOR: RawFd = 3;

/// What one daemon leaves to the next, less the sockets themselves.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct State<B = ByteBuf, C = Counters> {
    /// The only channel, in a state of version 4.
    #[serde(default, skip_serializing)]
    pub(crate) hub: Option<SavedHub<B>>,
    #[serde(default)]
    pub(crate) hubs: Vec<SavedHub<B>>,
    /// What was counted in channels that are no more.
    #[serde(default)]
    pub(crate) ended: HubStats,
    pub(crate) listeners: Vec<SavedListener>,
    pub(crate) clients: Vec<SavedClient>,
    pub(crate) counters: C,
    /// Where the admin server was told to listen, and the port that it had there.
    #[serde(default)]
    pub(crate) admin: Option<(String, u16)>,
    /// What is not in the log.
    #[serde(default)]
    pub(crate) log: Losses,
    /// The numbers of the sockets, of the listeners and then of the clients: for an exec, which
    /// leaves them as they are. In the store, they are queued in this order.
    pub(crate) descriptors: Vec<RawFd>,
}

/// What the daemon before this one left, if there was one.
#[derive(Debug, Default)]
pub struct Predecessor {
    pub(crate) left: Option<RestoredState>,
    /// What came from the service manager's store, and is still in there, by its names.
    pub(crate) in_store: Vec<String>,
    /// How it came, whether or not it could be read.
    pub(crate) method: Option<HandoverMethod>,
}

/// What was left, and fits together.
#[derive(Debug)]
pub(crate) struct RestoredState {
    state: State,
    /// One for each listener and then each client of the state.
    sockets: Vec<OwnedFd>,
}

/// A client that was left, and its socket.
pub(crate) type RestoredClient = (SavedClient, OwnedFd);

/// Said when what was left cannot be taken up. New clients at least are served.
pub(crate) const STARTING_AFRESH: &str = "cannot take over from the daemon before: starting afresh";

impl State<&Bytes, &Counters> {
    /// Writes it into memory that a descriptor stands for.
    pub(crate) fn write(&self) -> anyhow::Result<File> {
        let memory = rustix::fs::memfd_create("linehub-state", MemfdFlags::CLOEXEC)?;
        let mut out = BufWriter::new(File::from(memory));
        out.write_all(header(VERSION).as_bytes())?;
        rmp_serde::encode::write_named(&mut out, self)?;
        Ok(out.into_inner().map_err(io::IntoInnerError::into_error)?)
    }
}

impl State {
    fn read(mut memory: File) -> anyhow::Result<State> {
        memory.rewind()?;
        let mut input = BufReader::new(memory);
        let mut header = String::new();
        let bound = self::header(VERSION).len() as u64 + 20;
        (&mut input).take(bound).read_line(&mut header)?;
        ensure!(
            header.starts_with("linehub state "),
            "it is no state of linehub"
        );
        ensure!(
            VERSIONS
                .map(self::header)
                .any(|readable| readable == header),
            "its version is '{}', and this daemon reads '{}'",
            header.trim_end(),
            self::header(VERSION).trim_end()
        );
        let state: State = rmp_serde::from_read(input).context("it is damaged")?;
        Ok(state)
    }
}

impl Predecessor {
    /// Whether there is something to take up, by an exec or from the service manager's store. Takes
    /// nothing.
    pub fn is_waiting() -> bool {
        Predecessor::came_by_exec() || fdstore::has_state()
    }

    /// Whether there is something to take up by an exec.
    pub(crate) fn came_by_exec() -> bool {
        env::var_os(STATE_VARIABLE).is_some()
    }

    /// Takes over what the daemon before left: by an exec, or, as `stored` says, in the service
    /// manager's store. To be called once, before anything else opens descriptors.
    ///
    /// What cannot be taken up is closed, with an error in the log.
    pub fn restore(stored: Vec<InheritedFd>) -> Predecessor {
        let in_store: Vec<String> = stored.iter().map(|passed| passed.name.clone()).collect();
        let (left, method) = match env::var_os(STATE_VARIABLE) {
            Some(number) => (after_exec(&number.to_string_lossy()), HandoverMethod::Exec),
            None => match fdstore::retrieve(stored).transpose() {
                Some(left) => (left, HandoverMethod::Store),
                None => {
                    return Predecessor {
                        in_store,
                        ..Predecessor::default()
                    };
                }
            },
        };
        let left = match left {
            Ok(left) => {
                logging::resume(left.state.log);
                info!(
                    clients = left.state.clients.len(),
                    "taking over from the daemon before"
                );
                Some(left)
            }
            Err(error) => {
                error!(error = format!("{error:#}"), "{STARTING_AFRESH}");
                None
            }
        };
        Predecessor {
            left,
            in_store,
            method: Some(method),
        }
    }
}

impl RestoredState {
    fn new(state: State, sockets: Vec<OwnedFd>) -> anyhow::Result<RestoredState> {
        let (listeners, clients) = (state.listeners.len(), state.clients.len());
        ensure!(
            sockets.len() == listeners + clients,
            "{} sockets came with a state of {listeners} listeners and {clients} clients",
            sockets.len()
        );
        Ok(RestoredState { state, sockets })
    }

    /// Where the admin server was, for [`AdminSocket`](crate::ops::admin::AdminSocket).
    pub(crate) fn admin(&self) -> Option<(String, u16)> {
        self.state.admin.clone()
    }

    /// The channels, the listeners, the clients, and the counters.
    pub(crate) fn split(
        self,
    ) -> (
        SavedChannels,
        Vec<RestoredListener>,
        Vec<RestoredClient>,
        Counters,
    ) {
        let mut sockets = self.sockets.into_iter();
        let listeners = self.state.listeners.into_iter().zip(&mut sockets).collect();
        let clients = self.state.clients.into_iter().zip(sockets).collect();
        let hubs = self.state.hub.into_iter().chain(self.state.hubs);
        let channels = SavedChannels {
            hubs: hubs.collect(),
            ended: self.state.ended,
        };
        (channels, listeners, clients, self.state.counters)
    }
}

fn after_exec(number: &str) -> anyhow::Result<RestoredState> {
    let mut inherited = Inherited::default();
    let number: RawFd = number
        .parse()
        .with_context(|| format!("{STATE_VARIABLE} is no number"))?;
    let memory = inherited.take(number).with_context(|| {
        format!("descriptor {number}, which {STATE_VARIABLE} names, is not open")
    })?;
    let state = State::read(memory.into()).context("cannot read the state")?;
    let sockets = state.descriptors.iter().map(|number| {
        let socket = inherited.take(*number);
        socket.with_context(|| format!("descriptor {number} of the state is not open"))
    });
    let sockets = sockets.collect::<anyhow::Result<_>>()?;
    RestoredState::new(state, sockets)
}

/// What is open beyond standard input, output and error when a program begins after an exec. What is
/// not taken out of it closes at the end: nobody knows what it was for.
///
/// It needs no `/proc`, which may have gone since the daemon before was started.
#[derive(Debug, Default)]
struct Inherited {
    taken: BTreeSet<RawFd>,
}

impl Inherited {
    /// A descriptor, to own, which no child inherits; `None` if it is not open, or taken already.
    #[allow(unsafe_code)]
    fn take(&mut self, number: RawFd) -> Option<OwnedFd> {
        // SAFETY: it is borrowed for this question only, which any number may be asked.
        let flags = rustix::io::fcntl_getfd(unsafe { BorrowedFd::borrow_raw(number.max(0)) });
        if number < FIRST_DESCRIPTOR || flags.is_err() || !self.taken.insert(number) {
            return None;
        }
        // SAFETY: it is open, nothing here opened it, as this happens before anything else opens
        // descriptors, and it is given away once.
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
                // SAFETY: nobody owns what is open there: see `take`. A kernel before 5.9 leaves it.
                unsafe {
                    libc::syscall(libc::SYS_close_range, from, end - 1, 0);
                }
            }
            from = end.saturating_add(1);
        }
    }
}

/// Lets the next program have a descriptor, or not.
pub(crate) fn set_inheritable(descriptor: BorrowedFd<'_>, inherited: bool) -> io::Result<()> {
    let flags = match inherited {
        true => FdFlags::empty(),
        false => FdFlags::CLOEXEC,
    };
    Ok(rustix::io::fcntl_setfd(descriptor, flags)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::config::cli::Options;
    use crate::hub::Hub;

    /// A state as it was before there were fields that may be missing.
    #[derive(Serialize)]
    struct Before<'a> {
        hub: SavedHub<&'a Bytes>,
        listeners: Vec<SavedListener>,
        clients: Vec<SavedClient>,
        counters: Counters,
        descriptors: Vec<RawFd>,
    }

    #[test]
    fn state_of_the_version_before_is_read() {
        let config = Config::from_options(&Options::default(), 1024).unwrap();
        let hub = Hub::new(&config);
        let state = Before {
            hub: SavedHub::save(&hub, std::iter::empty()),
            listeners: Vec::new(),
            clients: Vec::new(),
            counters: Counters::default(),
            descriptors: vec![7],
        };
        let mut memory = tempfile::tempfile().unwrap();
        memory.write_all(header(3).as_bytes()).unwrap();
        rmp_serde::encode::write_named(&mut memory, &state).unwrap();
        let state = State::read(memory).unwrap();
        assert_eq!(state.descriptors, [7]);
        assert_eq!(state.log, Losses::default());
    }
}
