//! A client put away for a handover, and taken up again.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::reader::Reader;
use super::writer::Writer;
use super::{Client, ClientPolicy, InputState, OutputState};
use crate::hub::{Feed, SavedFeed};
use crate::net::listener::Stream;
use crate::net::permits::ConnectionPermit;
use crate::wire::close_reason::CloseReason;
use crate::wire::format::Format;
use crate::wire::telnet::TelnetState;

/// A client without its socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SavedClient {
    /// Its end of the hub.
    pub(crate) feed: SavedFeed,
    input: InputState,
    output: OutputState,
    reason: Option<CloseReason>,
    reader: SavedReader,
    writer: SavedWriter,
    /// It counts against `--max-clients`.
    #[serde(alias = "has_place")]
    pub(crate) has_permit: bool,
}

/// A [`Reader`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SavedReader {
    /// The line that has not ended yet.
    pub(super) unfinished: ByteBuf,
    /// The limit that it was begun under.
    pub(super) line_bytes_max: usize,
    /// `None` where it is not looked for.
    pub(super) telnet: Option<TelnetState>,
    /// A whole line has come.
    #[serde(default = "yes")]
    pub(super) has_begun: bool,
    /// The unfinished line is dropped up to its end.
    #[serde(default)]
    pub(super) is_discarding: bool,
}

/// For states of before, whose clients were not asked.
fn yes() -> bool {
    true
}

/// A [`Writer`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SavedWriter {
    pub(super) format: Format,
    pub(super) crlf: bool,
    /// What of its own queue is not written yet.
    #[serde(alias = "own")]
    pub(super) control_queue: ByteBuf,
    pub(super) skipped: u64,
    #[serde(alias = "farewell")]
    pub(super) close_notice: Option<(CloseReason, Box<str>)>,
}

impl Client {
    /// All there is to know of a client that has stopped, save its socket.
    pub(crate) fn save(&self) -> SavedClient {
        SavedClient {
            feed: self.feed.save(),
            input: self.input,
            output: self.output,
            reason: self.reason,
            reader: self.reader.save(),
            writer: self.writer.save(),
            has_permit: self.permit.is_some(),
        }
    }

    /// Goes on where [`Client::save`] was called, by the policy of today.
    pub(crate) fn restore(
        saved: SavedClient,
        stream: Stream,
        mut feed: Feed,
        policy: Arc<ClientPolicy>,
        permit: Option<ConnectionPermit>,
    ) -> Client {
        let mut writer = Writer::restore(saved.writer);
        // The line it has half of was begun by other policy (`--echo`), and ends by them.
        writer.finish_line(&mut feed);
        Client {
            stream,
            feed,
            reader: Reader::restore(saved.reader),
            writer,
            policy,
            input: saved.input,
            output: saved.output,
            reason: saved.reason,
            acknowledged: 0,
            timed_out: false,
            permit,
        }
    }

    /// What the hub holds for it, for [`SavedHub::save`](crate::hub::SavedHub::save).
    pub(crate) fn feed(&self) -> &Feed {
        &self.feed
    }

    /// Leaves the connection to whoever has its socket now: nobody is told anything.
    pub(crate) fn hand_over(self) {
        // What its drop would say is not true. The process, and with it all that is not dropped
        // here, ends next.
        std::mem::forget(self);
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::counters::Counters;
    use crate::wire::golden::{NEW_FORM, unescape};

    #[test]
    fn form_of_the_version_before_is_read() {
        type Before = (
            [InputState; 5],
            [OutputState; 4],
            Vec<CloseReason>,
            [Format; 3],
            SavedReader,
            SavedWriter,
            Counters,
        );
        let form = unescape(include_str!("saved-3.golden"));
        let (.., reasons, _, reader, writer, _): Before = rmp_serde::from_slice(&form).unwrap();
        assert_eq!(reasons, CloseReason::ALL);
        assert_eq!(reader.unfinished.as_ref(), b"half a line");
        assert!(reader.has_begun && !reader.is_discarding);
        assert_eq!(writer.control_queue.as_ref(), b"own");
    }

    /// A daemon of the same version must be able to read this for ever.
    #[test]
    fn saved_form_is_the_one_of_this_version() {
        let inputs = [
            InputState::Open,
            InputState::Draining(7),
            InputState::Paused,
            InputState::Discarded,
            InputState::Ended,
        ];
        let outputs = [
            OutputState::Streaming,
            OutputState::Flushing,
            OutputState::Shut,
            OutputState::Broken,
        ];
        let reader = SavedReader {
            unfinished: ByteBuf::from("half a line"),
            line_bytes_max: 65536,
            telnet: Some(TelnetState::default()),
            has_begun: true,
            is_discarding: false,
        };
        let writer = SavedWriter {
            format: Format::Text,
            crlf: true,
            control_queue: ByteBuf::from("own"),
            skipped: 3,
            close_notice: Some((CloseReason::Slow, "too slow".into())),
        };
        let parts = (
            inputs,
            outputs,
            CloseReason::ALL,
            Format::ALL,
            reader,
            writer,
            Counters::default(),
        );
        let form = rmp_serde::to_vec_named(&parts).unwrap();
        let form = form.escape_ascii().to_string();
        assert_eq!(form, include_str!("saved.golden").trim_end(), "{NEW_FORM}");
    }
}
