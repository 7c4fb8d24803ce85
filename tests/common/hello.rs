//! Clients of listeners with `hello`.

use rustix::process::Signal;

use super::{Address, Client, Server};

/// Where a client stands, as the answer to its hello says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) client: u64,
    pub(crate) channel: String,
    pub(crate) epoch: String,
    pub(crate) seq: u64,
}

impl Place {
    /// Takes an answer in `text` apart, which is to be this and nothing else.
    #[track_caller]
    pub(crate) fn parse(answer: &str) -> Place {
        let place = || {
            let (client, rest) = answer
                .strip_prefix("Hello client ")?
                .split_once(": channel ")?;
            let (channel, at) = rest.split_once(", at ")?;
            let (epoch, seq) = at.split_once(':')?;
            let is_hex = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
            let is_epoch = epoch.len() == 8 && epoch.chars().all(is_hex);
            is_epoch.then_some(Place {
                client: client.parse().ok()?,
                channel: channel.to_owned(),
                epoch: epoch.to_owned(),
                seq: seq.parse().ok()?,
            })
        };
        place().unwrap_or_else(|| panic!("no answer to a hello: {answer:?}"))
    }
}

impl Client {
    /// A client of a listener of `text` with `hello`, which asks for this and is granted it.
    #[track_caller]
    pub(crate) fn introduced(address: &Address, words: &str) -> (Client, Place) {
        Client::dial(address).introduce(words)
    }

    /// The same, on a connection that is there.
    #[track_caller]
    pub(crate) fn introduce(mut self, words: &str) -> (Client, Place) {
        self.send_line(&format!("LINEHUB/1 {words}"));
        let place = Place::parse(&self.read_line());
        (self.numbered(place.client), place)
    }

    /// A client of this channel, by a listener of `text` with `hello`.
    #[track_caller]
    pub(crate) fn in_channel(address: &Address, channel: &str) -> Client {
        let (client, place) = Client::introduced(address, &format!("channel={channel}"));
        assert_eq!(place.channel, channel);
        client
    }
}

/// Replaces the daemon by itself and waits until it serves again.
#[track_caller]
pub(crate) fn exec(server: &Server) {
    // Clients may come before it is logged.
    server.wait_log("phase=running");
    let before = server.count_log("phase=running");
    server.signal(Signal::USR2);
    server.wait_log_count("phase=running", before + 1);
    assert_eq!(server.count_log("handover failed: serving on"), 0);
}
