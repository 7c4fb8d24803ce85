//! What is kept of a client that comes by HTTP.

use serde::{Deserialize, Serialize};

use super::chunks::Chunks;
use crate::wire::format::Format;
use crate::wire::transport::Transport;

/// What says nothing between two lines: blanks before one of `json`, and empty lines before an event.
const BLANKS: &[u8] = &[b' '; 4096];
const EMPTY_LINES: &[u8] = &[b'\n'; 4096];

/// What a client has that comes by HTTP. It is saved as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Web {
    pub(super) transport: Transport,
    /// Its client gets a message with each ping.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) beats: bool,
    /// The origin of the page that it came from, if a browser said so.
    pub(super) origin: Option<Box<str>>,
    /// Why it is closed, in words.
    pub(super) detail: Option<Box<str>>,
    /// A ping was sent, and nothing has come since.
    #[serde(skip)]
    pub(super) is_asked: bool,
    /// The last that it is told has been queued.
    pub(super) is_over: bool,
    /// Around all that is written, for who reads the body of an answer.
    pub(super) chunks: Option<Chunks>,
}

impl Web {
    /// What fills a chunk whose bytes were skipped: its reader may wait for its end. Nothing where all is taken for a line.
    pub(super) fn filler(&self, format: Format) -> &'static [u8] {
        match (self.transport, format) {
            (Transport::Events, _) => EMPTY_LINES,
            (_, Format::Json) => BLANKS,
            _ => &[],
        }
    }

    /// Whether its client is told nothing but the answer at its end.
    pub(super) fn is_quiet(&self) -> bool {
        self.transport == Transport::Post
    }
}
