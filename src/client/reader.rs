//! A client's input: bytes from its socket, through telnet and framing, into the hub.

use std::cell::RefCell;
use std::io;
use std::mem;
use std::task::{Context, Poll, ready};

use memchr::memchr;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use tracing::info;

use super::input::{Input, SavedInput};
use crate::config::ListenerOptions;
use crate::hub::{Feed, READ_BYTES_MAX, ReadPermit};
use crate::net::stream::Connection;
use crate::wire::close_reason::CloseReason;
use crate::wire::format::Format;
use crate::wire::framing::{Framer, LineEndState, LineEnds, LineLimit, Lines, Translated};
use crate::wire::http_guard;
use crate::wire::line_end::LineEnd;
use crate::wire::telnet::{self, Telnet, TelnetState};
use crate::wire::tls_guard;

/// Bytes of a line that has not ended after which it is looked at for CR.
const MUCH_BYTES: usize = 1024;

/// Bytes that are read at once of what is thrown away. Few: who is heard must not wait long for one
/// after the other of those who are not.
const IGNORED_READ_BYTES: usize = 4 * 1024;

thread_local! {
    /// Where a read arrives. One a thread instead of one a client: between two polls, a client
    /// keeps only the line it has not finished.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; telnet::HEADROOM + READ_BYTES_MAX]);
}

/// Turns one client's bytes into published lines.
#[derive(Debug)]
pub(super) struct Reader {
    framer: Framer,
    pub(super) input: Input,
    /// What its lines end in.
    line_ends: LineEnds,
    /// A whole line has come: the first one may be a web browser's.
    has_begun: bool,
    /// The log has said that a line of this client was dropped.
    has_discarded: bool,
    /// To be told once: see [`Reader::takes_cr_for_text`].
    takes_cr_for_text: bool,
}

/// A [`Reader`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SavedReader {
    /// The line that has not ended yet.
    pub(super) unfinished: ByteBuf,
    /// The limit that it was begun under.
    pub(super) line_bytes_max: usize,
    /// `None` where telnet commands are not looked for.
    pub(super) telnet: Option<TelnetState>,
    /// A whole line has come.
    #[serde(default = "yes")]
    pub(super) has_begun: bool,
    /// The unfinished line is dropped up to its end.
    #[serde(default)]
    pub(super) is_discarding: bool,
    #[serde(default)]
    pub(super) line_ends: LineEndState,
    /// What its bytes go through instead of telnet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) input: Option<SavedInput>,
}

/// For states of before, whose clients were not asked.
fn yes() -> bool {
    true
}

/// Rules that a read is held to.
#[derive(Clone, Copy, Debug)]
pub(super) struct InputPolicy {
    /// For lines that begin from here on.
    pub(super) line: LineLimit,
    /// Whether a first line that is an HTTP request ends the client.
    pub(super) http_guard: bool,
    /// Whether lines are published; if not, they are thrown away.
    pub(super) publishes: bool,
    /// Whether the end of the input ends a line: not if the peer never said that there is an end.
    pub(super) end_is_line_end: bool,
    /// Bytes that the read may bring at most.
    pub(super) read_bytes_max: usize,
}

/// Outcome of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Read {
    /// So many bytes, published as far as they are whole lines, of which there were so many.
    Brought { bytes: usize, lines: usize },
    /// The peer shut its sending side. All it sent is published.
    End,
    /// The client is to be closed, for this reason. What came before it is published.
    Over(CloseReason),
}

impl Reader {
    /// A reader of a client with these options that has sent nothing.
    pub(super) fn new(options: &ListenerOptions, line_bytes_max: usize) -> Reader {
        let line_end = options.line_end;
        let telnet = (options.format == Format::Text).then(|| Telnet::for_lines_in(line_end));
        Reader {
            has_begun: false,
            ..Reader::behind_hello(
                Input::telnet(telnet),
                LineEnds::new(line_end),
                line_bytes_max,
            )
        }
    }

    /// A reader behind a hello or a request, which came first: it goes on where its input and the line ends stand.
    pub(super) fn behind_hello(input: Input, line_ends: LineEnds, line_bytes_max: usize) -> Reader {
        Reader {
            framer: Framer::new(line_bytes_max),
            input,
            line_ends,
            has_begun: true,
            has_discarded: false,
            takes_cr_for_text: false,
        }
    }

    pub(super) fn save(&self) -> SavedReader {
        let (telnet, input) = self.input.save();
        SavedReader {
            unfinished: ByteBuf::from(self.framer.unfinished()),
            line_bytes_max: self.framer.line_bytes_max(),
            telnet,
            input,
            has_begun: self.has_begun,
            is_discarding: self.framer.is_discarding(),
            line_ends: self.line_ends.state(),
        }
    }

    /// Goes on where [`Reader::save`] was called.
    pub(super) fn restore(saved: SavedReader, line_end: LineEnd) -> Reader {
        let framer = match saved.is_discarding {
            true => Framer::resume_discarding(saved.line_bytes_max),
            false => Framer::resume(saved.line_bytes_max, saved.unfinished.into_vec()),
        };
        Reader {
            framer,
            input: Input::restore(saved.telnet.as_ref(), saved.input),
            line_ends: LineEnds::resume(line_end, saved.line_ends),
            has_begun: saved.has_begun,
            has_discarded: false,
            takes_cr_for_text: false,
        }
    }

    /// Whether much has come with CR in it and no LF, which alone ends its lines.
    pub(super) fn takes_cr_for_text(&mut self) -> bool {
        mem::take(&mut self.takes_cr_for_text)
    }

    /// The limit that its last line was held to.
    pub(super) fn line_bytes_max(&self) -> usize {
        self.framer.line_bytes_max()
    }

    /// Whether the client's own lines end in CRLF, so that it is to be answered in kind.
    pub(super) fn crlf(&self) -> bool {
        matches!(&self.input, Input::Telnet(telnet) if telnet.crlf())
    }

    /// Reads once and publishes what it brought. Telnet's answers are appended to `answers`.
    ///
    /// Pending while nothing is there to read or the buffer has no room; nothing is read then.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut impl Connection,
        feed: &mut Feed,
        policy: InputPolicy,
        answers: &mut Vec<u8>,
    ) -> Poll<Read> {
        if ready!(stream.poll_readable(cx)).is_err() {
            return Poll::Ready(Read::Over(CloseReason::Reset));
        }
        // What is thrown away needs no room.
        let permit = match policy.publishes {
            true => Some(ready!(feed.poll_permit(cx))),
            false => None,
        };
        let most = permit
            .as_ref()
            .map_or(IGNORED_READ_BYTES, ReadPermit::read_bytes_max)
            .min(policy.read_bytes_max);
        SCRATCH.with_borrow_mut(|scratch| {
            let space = &mut scratch[telnet::HEADROOM..][..most];
            let read = match ready!(stream.poll_read(cx, space)) {
                Ok(0) => return Poll::Ready(self.finish(feed, permit, policy)),
                Ok(read) => read,
                // A peer that has closed resets, too, when something more comes for it: what it
                // sent is still all there.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                    self.finish(feed, permit, policy);
                    return Poll::Ready(Read::Over(CloseReason::Reset));
                }
                // TLS ended without its word for that: what has no end may have been cut.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return Poll::Ready(Read::End);
                }
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    return Poll::Ready(Read::Over(CloseReason::Tls));
                }
                Err(_) => return Poll::Ready(Read::Over(CloseReason::Reset)),
            };
            feed.subscriber().counters.bytes_in.add(read as u64);
            let buf = &mut scratch[..telnet::HEADROOM + read];
            if policy.http_guard && !self.has_begun && self.begins_tls(&buf[telnet::HEADROOM..]) {
                return Poll::Ready(Read::Over(CloseReason::Tls));
            }
            let (data, over) = self.input.decode(buf, answers);
            let read_in = self.line_ends.translate(data);
            let hides_request = !self.has_begun && self.hides_request(read_in, policy);
            let begun = self.framer.unfinished().len();
            let mut lines = self.framer.push_translated(policy.line, read_in);
            let is_much = begun < MUCH_BYTES && self.framer.unfinished().len() >= MUCH_BYTES;
            if is_much || lines.too_long || lines.discarded > 0 {
                let is_lf = self.line_ends.line_end() == LineEnd::Lf;
                // Lines of one who may not publish are nothing to anybody, whatever ends them.
                let is_asked = is_lf && policy.publishes;
                self.takes_cr_for_text = is_asked && self.framer.has_inner_cr();
            }
            if hides_request && lines.discarded > 0 {
                return Poll::Ready(Read::Over(CloseReason::Http));
            }
            let lines = match self.take_in(feed, permit, &mut lines, policy) {
                Ok(lines) => lines,
                Err(over) => return Poll::Ready(over),
            };
            match over {
                Some(CloseReason::Eof) => Poll::Ready(match self.finish(feed, None, policy) {
                    Read::End => Read::Over(CloseReason::Eof),
                    over => over,
                }),
                Some(reason) => Poll::Ready(Read::Over(reason)),
                None => Poll::Ready(Read::Brought { bytes: read, lines }),
            }
        })
    }

    /// Whether the first that came is TLS, which is not spoken here.
    fn begins_tls(&self, data: &[u8]) -> bool {
        let begun = self.framer.unfinished().iter();
        let begin = begun.chain(data).copied().take(tls_guard::BEGIN_BYTES);
        tls_guard::begins_hello(&begin.collect::<Vec<u8>>())
    }

    /// Whether the first line begins as an HTTP request does and is, with this data, too long to be kept:
    /// nothing would be left of it to tell it by.
    fn hides_request(&self, read: Translated<'_>, policy: InputPolicy) -> bool {
        let begun = self.framer.unfinished();
        let end = memchr(b'\n', read.data).unwrap_or(read.data.len());
        let length = begun.len() + read.held.len() + end;
        if !policy.http_guard || length <= self.framer.line_bytes_max() {
            return false;
        }
        let begin: Vec<u8> = begun
            .iter()
            .chain(read.held)
            .chain(read.data)
            .copied()
            .take(http_guard::BEGIN_BYTES)
            .collect();
        http_guard::begins_request(&begin)
    }

    /// The input has ended: what is left of it is a line too.
    fn finish(&mut self, feed: &mut Feed, permit: Option<ReadPermit>, policy: InputPolicy) -> Read {
        if !self.input.end_is_line_end(policy.end_is_line_end) {
            return Read::End;
        }
        let stray = match &mut self.input {
            Input::Telnet(telnet) => telnet.finish(),
            _ => None,
        };
        let mut last = stray.map(|byte| [byte]);
        let last = last.as_mut().map_or(&mut [][..], |last| last);
        let last = self.line_ends.translate(last);
        let before = self.framer.push_translated(policy.line, last);
        let mut rest = self.framer.finish();
        rest.too_long |= before.too_long;
        rest.discarded += before.discarded;
        match self.take_in(feed, permit, &mut rest, policy) {
            Ok(_) | Err(Read::Over(CloseReason::Eof)) => Read::End,
            Err(over) => over,
        }
    }

    /// Publishes lines that have come in, as far as they are messages; how many there were, or what is to
    /// become of the client, if they decide that.
    fn take_in(
        &mut self,
        feed: &mut Feed,
        permit: Option<ReadPermit>,
        lines: &mut Lines<'_>,
        policy: InputPolicy,
    ) -> Result<usize, Read> {
        let first = if self.has_begun {
            None
        } else {
            lines.iter().next()
        };
        if let Some(first) = first {
            self.has_begun = true;
            if policy.http_guard && http_guard::opens_request(first, self.line_ends.line_end()) {
                return Err(Read::Over(CloseReason::Http));
            }
        }
        let leaves = matches!(self.input, Input::Telnet(_)) && cut_at_eot_line(lines);
        let mut came = lines.discarded as usize;
        if policy.publishes {
            came += feed.publish(permit, lines);
        } else {
            came += lines.count();
            lines.discarded = 0;
            feed.ignore(came as u64);
        }
        if lines.discarded > 0 {
            feed.note_discarded(lines.discarded);
            if !mem::replace(&mut self.has_discarded, true) {
                info!(
                    client = feed.subscriber().id.0,
                    limit = self.framer.line_bytes_max(),
                    "dropped a line that is too long"
                );
            }
        }
        if leaves {
            Err(Read::Over(CloseReason::Eof))
        } else if lines.too_long {
            Err(Read::Over(CloseReason::LineTooLong))
        } else {
            Ok(came)
        }
    }

    /// Reads once and forgets what it brought; `Ready(Ok(0))` at the end.
    pub(super) fn poll_discard(
        cx: &mut Context<'_>,
        stream: &mut impl Connection,
    ) -> Poll<io::Result<usize>> {
        SCRATCH.with_borrow_mut(|scratch| stream.poll_read(cx, scratch))
    }
}

/// Ctrl-D on a line of its own: the client wants to leave. It and what follows are no messages.
fn cut_at_eot_line(lines: &mut Lines<'_>) -> bool {
    if let Some(at) = telnet::find_eot_line(&lines.first) {
        lines.first.truncate(at);
        lines.rest = &[];
    } else if let Some(at) = telnet::find_eot_line(lines.rest) {
        lines.rest = &lines.rest[..at];
    } else {
        return false;
    }
    lines.too_long = false;
    true
}
