//! Handovers, which keep every connection through a new daemon: the saved state, and two methods.
//!
//! A handover stops every client between two polls, when it holds nothing but its state, and saves
//! that state and the hub's; the sockets stay open all the while. Clients notice nothing: the next
//! daemon goes on with the same byte of the same line.
//!
//! | method | asked for by | sockets | state |
//! |---|---|---|---|
//! | [`exec`]: exec in place | SIGUSR2 | stay open across the exec | a memfd, its number in the environment |
//! | [`fdstore`]: the service manager keeps them | SIGTERM, where it does | queued in one socketpair | a memfd |
//!
//! The next daemon restores the state as its [`predecessor`] left it.
//!
//! The memory of a state is sealed, and what it is written and read through is zeroed. A field of secret bytes
//! is a sequence of numbers (`Vec<u8>`), and not of `serde_bytes`, which the decoder would leave a copy of.
//!
//! A state is one line that names its version, and then a [`State`] as MessagePack, since batches
//! are bytes and no text. A daemon reads states of its own version and of the two before;
//! `--check-handover` asks it beforehand whether it reads a given version. Needing a new version:
//! any change to what is saved, and any change to how lines look, of which some client may have
//! received half. So does a new reason, role or encoding, which an older daemon cannot read. A new
//! field that may be missing needs none: an older daemon ignores it.

mod descriptors;
pub(crate) mod exec;
pub(crate) mod fdstore;
pub mod predecessor;

use std::fs::File;
use std::io::{BufRead, Read, Seek, Write};
use std::ops::RangeInclusive;
use std::os::fd::{OwnedFd, RawFd};

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};

use crate::client::{SavedClient, SavedHandshake};
use crate::hub::counters::Counters;
use crate::hub::{HubStats, SavedChannels, SavedHub};
use crate::net::listener::{RestoredListener, SavedListener};
use crate::ops::logging::Losses;
use crate::ops::secrets::{SecretReader, sealed_memory};

pub(crate) use self::descriptors::set_inheritable;

/// The version of the states that this daemon writes.
pub(crate) const VERSION: u32 = 8;
/// The versions of the states that this daemon reads.
const VERSIONS: RangeInclusive<u32> = 6..=VERSION;

/// The first line of a state of this version.
fn header(version: u32) -> String {
    format!("linehub state {version}\n")
}

/// What `--check-handover=VERSION` prints: the header of that version, if this daemon reads it, else
/// the header of the version that it writes.
pub fn answer(version: u32) -> String {
    header(if VERSIONS.contains(&version) {
        version
    } else {
        VERSION
    })
}

/// State that one daemon leaves to the next, less the sockets themselves.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct State<C = Counters> {
    pub(crate) hubs: Vec<SavedHub>,
    /// What was counted in channels that are no more.
    pub(crate) ended: HubStats,
    pub(crate) listeners: Vec<SavedListener>,
    pub(crate) clients: Vec<SavedClient>,
    /// Connections in their handshake.
    #[serde(rename = "hellos")]
    pub(crate) handshakes: Vec<SavedHandshake>,
    pub(crate) counters: C,
    /// Address that the admin server was told to listen at, and the port that it had there.
    #[serde(default)]
    pub(crate) admin: Option<(String, u16)>,
    /// Log lines that were lost.
    #[serde(default)]
    pub(crate) log: Losses,
    /// Descriptor numbers of the sockets of the listeners, of the clients and of the connections in
    /// their handshake, which an exec leaves as they are. Empty in the store, where the sockets are queued in this order.
    pub(crate) descriptors: Vec<RawFd>,
}

/// A state, and the sockets that belong to it.
#[derive(Debug)]
pub(crate) struct RestoredState {
    state: State,
    /// A socket for each listener, client and connection in its handshake of the state, in this order.
    sockets: Vec<OwnedFd>,
}

/// A client of the predecessor, and its socket.
pub(crate) type RestoredClient = (SavedClient, OwnedFd);

/// A connection of the predecessor that was in its handshake, and its socket.
pub(crate) type RestoredHandshake = (SavedHandshake, OwnedFd);

impl State<&Counters> {
    /// Writes the state into memory that a descriptor stands for, and that nobody changes any more.
    pub(crate) fn write(&self) -> anyhow::Result<File> {
        sealed_memory("linehub-state", |out| {
            out.write_all(header(VERSION).as_bytes())?;
            Ok(rmp_serde::encode::write_named(out, self)?)
        })
    }
}

impl State {
    /// Whether it has keys of TLS connections.
    fn has_keys(&self) -> bool {
        let mut clients = self.clients.iter().map(|client| &client.tls);
        clients.any(Option::is_some) || self.handshakes.iter().any(SavedHandshake::has_tls)
    }

    fn read(mut memory: File) -> anyhow::Result<State> {
        memory.rewind()?;
        let mut input = SecretReader::new(memory);
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
        rmp_serde::from_read(input).context("it is damaged")
    }
}

impl RestoredState {
    fn new(state: State, sockets: Vec<OwnedFd>) -> anyhow::Result<RestoredState> {
        let listeners = state.listeners.len();
        let clients = state.clients.len() + state.handshakes.len();
        ensure!(
            sockets.len() == listeners + clients,
            "{} sockets came with a state of {listeners} listeners and {clients} clients",
            sockets.len()
        );
        Ok(RestoredState { state, sockets })
    }

    /// Address of the admin server, as [`State::admin`] has it, for [`AdminSocket`](crate::ops::admin::AdminSocket).
    pub(crate) fn admin(&self) -> Option<(String, u16)> {
        self.state.admin.clone()
    }

    /// The channels, the listeners, the clients, the connections in their handshake, and the counters.
    pub(crate) fn split(
        self,
    ) -> (
        SavedChannels,
        Vec<RestoredListener>,
        Vec<RestoredClient>,
        Vec<RestoredHandshake>,
        Counters,
    ) {
        let mut sockets = self.sockets.into_iter();
        let listeners = self.state.listeners.into_iter().zip(&mut sockets).collect();
        let clients = self.state.clients.into_iter().zip(&mut sockets).collect();
        let handshakes = self.state.handshakes.into_iter().zip(sockets).collect();
        let channels = SavedChannels {
            hubs: self.state.hubs,
            ended: self.state.ended,
        };
        (
            channels,
            listeners,
            clients,
            handshakes,
            self.state.counters,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::config::cli::Options;
    use crate::hub::Hub;

    /// A state as it was before there were fields that may be missing.
    #[derive(Serialize)]
    struct Before {
        hubs: Vec<SavedHub>,
        ended: HubStats,
        listeners: Vec<SavedListener>,
        clients: Vec<SavedClient>,
        hellos: Vec<SavedHandshake>,
        counters: Counters,
        descriptors: Vec<RawFd>,
    }

    #[test]
    fn state_of_the_version_before_is_read() {
        let config = Config::from_options(&Options::default(), 1024).unwrap();
        let hub = Hub::new(&config);
        let state = Before {
            hubs: vec![SavedHub::save(&hub, std::iter::empty())],
            ended: HubStats::default(),
            listeners: Vec::new(),
            clients: Vec::new(),
            hellos: Vec::new(),
            counters: Counters::default(),
            descriptors: vec![7],
        };
        let mut memory = tempfile::tempfile().unwrap();
        memory.write_all(header(VERSION - 2).as_bytes()).unwrap();
        rmp_serde::encode::write_named(&mut memory, &state).unwrap();
        let state = State::read(memory).unwrap();
        assert_eq!(state.descriptors, [7]);
        assert_eq!(state.log, Losses::default());
    }
}
