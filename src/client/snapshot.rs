//! A client put away for a handover, and taken up again.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tracing::debug;

use super::machine::{Client, InputState, OutputState, Rare};
use super::policy::ClientPolicy;
use super::reader::{Reader, SavedReader};
use super::shared_options::SharedOptions;
use super::throttle::{SavedThrottle, Throttle};
use super::web::Web;
use super::writer::{SavedWriter, Writer};
use crate::config::{ListenerDefaults, ListenerOptions};
use crate::hub::{Feed, SavedFeed};
use crate::net::permits::ConnectionPermit;
use crate::net::stream::Stream;
use crate::net::tls::SavedTls;
use crate::wire::close_reason::CloseReason;

/// A client without its socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SavedClient {
    /// The client's end of the hub.
    pub(crate) feed: SavedFeed,
    input: InputState,
    output: OutputState,
    reason: Option<CloseReason>,
    reader: SavedReader,
    writer: SavedWriter,
    /// Options of the listener that it came by, as they were then; a state of version 4 has none.
    #[serde(default)]
    options: Option<String>,
    #[serde(default)]
    pub(crate) tls: Option<SavedTls>,
    /// The client counts against `--max-clients`.
    pub(crate) has_permit: bool,
    /// What its rates have left it, if it has any.
    #[serde(default)]
    throttle: Option<SavedThrottle>,
    /// What it has if it comes by HTTP.
    #[serde(default)]
    web: Option<Web>,
}

impl SavedClient {
    /// Options as they were saved; without, those of a listener that only had a format. A daemon that
    /// knows more may have written what cannot be read here.
    fn options(&self) -> ListenerOptions {
        let defaults = &ListenerDefaults::new(self.writer.format);
        let connection = self.feed.connection();
        let saved = self.options.as_deref().map(ListenerOptions::restore);
        saved
            .and_then(Result::ok)
            .unwrap_or_else(|| ListenerOptions {
                role: connection.role,
                channel: connection.channel.clone(),
                ..ListenerOptions::unlisted(&connection.listener, defaults)
            })
    }
}

impl Client {
    /// All there is to know of a client that has stopped, save its socket.
    pub(crate) fn save(&self) -> SavedClient {
        let rare = self.rare.as_deref();
        SavedClient {
            feed: self.feed.save(),
            input: self.input,
            output: self.output,
            reason: self.reason,
            reader: self.reader.save(),
            writer: self.writer.save(self.options.format, self.feed.crlf()),
            options: Some(format!("{:#}", self.options)),
            tls: self.stream.save_tls(),
            has_permit: self.permit.is_some(),
            throttle: rare.and_then(|rare| rare.throttle.as_ref().map(Throttle::save)),
            web: rare.and_then(|rare| rare.web.clone()),
        }
    }

    /// Gets ready for [`Client::save`]: the client must have stopped.
    pub(crate) fn put_away(&mut self) {
        if self.feed.is_in_slice() {
            self.writer.leave_slice(&mut self.feed);
        }
        if let Err(error) = self.stream.put_away() {
            let client = self.feed.subscriber().id.0;
            debug!(client, %error, "its TLS does not come along");
            self.reason.get_or_insert(CloseReason::Reset);
        }
    }

    /// Goes on where [`Client::save`] was called, by the policy of today.
    pub(crate) fn restore(
        saved: SavedClient,
        stream: Stream,
        mut feed: Feed,
        shared: &SharedOptions,
        policy: Arc<ClientPolicy>,
        permit: Option<ConnectionPermit>,
    ) -> Client {
        let options = shared.share(saved.options());
        let has_rare = saved.throttle.is_some() || saved.web.is_some();
        let mut writer = Writer::restore(saved.writer);
        // The line it has half of was begun by another policy (`--echo`), and ends by that.
        writer.finish_line(&mut feed);
        Client {
            stream,
            reader: Reader::restore(saved.reader, options.line_end),
            options,
            feed,
            writer,
            policy,
            input: saved.input,
            output: saved.output,
            reason: saved.reason,
            timed_out: false,
            permit,
            rare: has_rare.then(|| {
                Box::new(Rare {
                    throttle: saved.throttle.map(Throttle::restore),
                    web: saved.web,
                })
            }),
        }
    }

    /// The client's end of the hub, for [`SavedHub::save`](crate::hub::SavedHub::save).
    pub(crate) fn feed(&self) -> &Feed {
        &self.feed
    }

    /// Leaves the connection to whoever has its socket now: nobody is told anything.
    pub(crate) fn hand_over(self) {
        // The drop would log that the client has left, which is not true. The process, and with it all
        // that is not dropped here, ends next.
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
    use serde_bytes::ByteBuf;

    use super::super::chunks::Chunks;
    use super::super::input::{BodyInput, SavedInput};
    use super::*;
    use crate::hub::counters::Counters;
    use crate::wire::format::Format;
    use crate::wire::framing::LineEndState;
    use crate::wire::golden::{NEW_FORM, unescape};
    use crate::wire::http::{BodyDecoder, BodyLength};
    use crate::wire::telnet::TelnetState;
    use crate::wire::transport::Transport;
    use crate::wire::websocket::FrameDecoder;

    #[test]
    fn forms_of_the_versions_before_are_read() {
        type Before = (
            [InputState; 5],
            [OutputState; 4],
            Vec<CloseReason>,
            [Format; 3],
            SavedReader,
            SavedWriter,
            Counters,
        );
        for form in [
            include_str!("saved-6.golden"),
            include_str!("saved-7.golden"),
        ] {
            let form = unescape(form);
            let (.., reasons, _, reader, writer, _): Before = rmp_serde::from_slice(&form).unwrap();
            assert!(CloseReason::ALL.starts_with(&reasons));
            assert_eq!(reader.unfinished.as_ref(), b"half a line");
            assert!(reader.has_begun && !reader.is_discarding);
            assert_eq!(writer.control_queue.as_ref(), b"own");
        }
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
            line_ends: LineEndState::Amid,
            input: None,
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

    #[test]
    fn saved_form_of_who_comes_by_http_is_the_one_of_this_version() {
        let mut frames = FrameDecoder::default();
        let mut read = *b"\0\x01\x85\0\0\0\0\xc3\xa4\xe2";
        frames.decode(&mut read, &mut Vec::new());
        let body = BodyInput {
            decoder: BodyDecoder::new(BodyLength::Chunked),
            skip: 7,
        };
        let inputs = [SavedInput::WebSocket(frames), SavedInput::Body(body)];
        let parts = (inputs, Transport::ALL, Chunks::behind(b"head".to_vec()));
        let form = rmp_serde::to_vec_named(&parts).unwrap();
        let form = form.escape_ascii().to_string();
        assert_eq!(
            form,
            include_str!("saved_web.golden").trim_end(),
            "{NEW_FORM}"
        );
    }
}
