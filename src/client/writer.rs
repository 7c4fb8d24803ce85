//! A client's output: its feed, and what the daemon says to it alone, to its socket.

use std::io::{self, IoSlice};
use std::task::{Context, Poll, ready};

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::chunks::Chunks;
use super::web::Web;
use crate::hub::{Condition, Encoding, Feed, More};
use crate::net::stream::Connection;
use crate::wire::close_reason::CloseReason;
use crate::wire::format::{self, Format};
use crate::wire::telnet;

/// Batches that go into one write at most. The array lives on the stack of a poll, not in the
/// client.
const SLICES: usize = 64;

/// What one poll writes at most, in bytes, before other clients get their turn.
const WRITE_BYTES_MAX: usize = 1024 * 1024;

/// Writes what one client is owed, in order.
#[derive(Debug)]
pub(super) struct Writer {
    /// What is written before anything more of the feed: telnet's answers and the daemon's words to
    /// this client, each after a whole line.
    control_queue: Vec<u8>,
    /// Bytes of `control_queue` that are written.
    written: u32,
    /// Bytes still to be written of answers to DO TIMING-MARK, which come after `control_queue`.
    /// The answers are all the same, and as many as the client likes: a number of them costs nothing.
    marks: u32,
    /// Messages it missed and has not been told of.
    skipped: u64,
    /// Said last, when the feed has ended: the reason, and its detail. Boxed: what few clients have must
    /// not make every client larger.
    close_notice: Option<Box<(CloseReason, Box<str>)>>,
}

/// A [`Writer`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SavedWriter {
    pub(super) format: Format,
    pub(super) crlf: bool,
    /// The part of the control queue that is not written yet.
    pub(super) control_queue: ByteBuf,
    pub(super) skipped: u64,
    pub(super) close_notice: Option<(CloseReason, Box<str>)>,
}

impl Writer {
    pub(super) fn new() -> Writer {
        Writer {
            control_queue: Vec::new(),
            written: 0,
            marks: 0,
            skipped: 0,
            close_notice: None,
        }
    }

    pub(super) fn save(&self, format: Format, crlf: bool) -> SavedWriter {
        let mut own = self.own_unwritten().to_vec();
        let mut marks = self.marks;
        while marks > 0 {
            let next = telnet::timing_mark_answers(marks);
            own.extend_from_slice(next);
            marks -= next.len() as u32;
        }
        SavedWriter {
            format,
            crlf,
            control_queue: ByteBuf::from(own),
            skipped: self.skipped,
            close_notice: self.close_notice.as_deref().cloned(),
        }
    }

    /// Goes on where [`Writer::save`] was called.
    pub(super) fn restore(saved: SavedWriter) -> Writer {
        Writer {
            control_queue: saved.control_queue.into_vec(),
            written: 0,
            marks: 0,
            skipped: saved.skipped,
            close_notice: saved.close_notice.map(Box::new),
        }
    }

    /// Bytes of its own that wait for the socket.
    pub(super) fn own_pending(&self) -> usize {
        self.own_unwritten().len() + self.marks as usize
    }

    fn own_unwritten(&self) -> &[u8] {
        &self.control_queue[self.written as usize..]
    }

    /// Queues telnet's answers before the rest of the feed, but never inside a line.
    pub(super) fn answer(&mut self, feed: &mut Feed, mut answers: Vec<u8>) {
        if answers.is_empty() {
            return;
        }
        self.finish_line(feed);
        self.marks += telnet::take_timing_marks(&mut answers);
        self.queue(&answers);
    }

    /// Queues bytes for this client alone before the rest of the feed, but never inside a unit of that.
    pub(super) fn interject(&mut self, feed: &mut Feed, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.finish_line(feed);
            self.queue(bytes);
        }
    }

    /// Queues bytes for this client alone, behind those that are queued. Not in the middle of a line of the feed.
    pub(super) fn queue(&mut self, bytes: &[u8]) {
        // What is written already must not pile up before what never gets its turn.
        self.control_queue.drain(..self.written as usize);
        self.written = 0;
        // Nor may it come into the middle of an answer.
        let begun = self.marks % 3;
        self.control_queue
            .extend_from_slice(&telnet::timing_mark_answers(begun)[..begun as usize]);
        self.marks -= begun;
        self.control_queue.extend_from_slice(bytes);
    }

    /// Jumps to the newest line.
    pub(super) fn skip(&mut self, feed: &mut Feed) {
        self.finish_line(feed);
        self.skipped += feed.skip();
    }

    /// Queues the reason for closing: behind all that the feed has, or, if the feed is given up,
    /// behind the line it is in.
    pub(super) fn queue_close_notice(
        &mut self,
        feed: &mut Feed,
        reason: CloseReason,
        detail: String,
    ) {
        self.close_notice = Some(Box::new((reason, detail.into())));
        if reason.is_abrupt() {
            self.finish_line(feed);
            feed.detach();
        }
    }

    /// Writes until all is written that ever will be: `Ready(Ok(()))`.
    ///
    /// Pending when there is nothing to write now, when the socket takes no more, or when it is
    /// somebody else's turn; the task is woken for each.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut impl Connection,
        web: Option<&mut Web>,
        feed: &mut Feed,
        format: Format,
    ) -> Poll<io::Result<()>> {
        // Also for one whose socket refuses: what it is owed must not grow until that takes something again.
        feed.fix_end();
        let mut refused = false;
        let all = self.poll_all(cx, stream, web, feed, format, &mut refused);
        // Told once: the reaper must not see it taken back for a moment.
        feed.subscriber().set(Condition::Blocked, refused);
        if feed.is_in_slice() && !feed.keep_slice() {
            self.leave_slice(feed);
        }
        if refused {
            feed.give_up_turn();
        }
        all
    }

    /// [`Writer::poll`], which says whether it was the socket that took no more.
    fn poll_all(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut impl Connection,
        web: Option<&mut Web>,
        feed: &mut Feed,
        format: Format,
        refused: &mut bool,
    ) -> Poll<io::Result<()>> {
        let flushed = stream.poll_flush(cx);
        *refused = flushed.is_pending();
        ready!(flushed)?;
        // Who sends a request gets one answer, when all has come.
        let is_quiet = web.as_ref().is_some_and(|web| web.is_quiet());
        let filler = web.as_ref().map_or(&[][..], |web| web.filler(format));
        let mut chunks = web.and_then(|web| web.chunks.as_mut());
        if let Some(chunks) = &mut chunks {
            let pending = chunks.poll_pending(cx, stream);
            *refused = pending.is_pending();
            ready!(pending)?;
        }
        let mut budget = WRITE_BYTES_MAX;
        let mut write =
            |cx: &mut Context<'_>, chunks: &mut Option<&mut Chunks>, slices: &[IoSlice<'_>]| {
                let written = match chunks {
                    Some(chunks) => chunks.poll_write(cx, stream, slices),
                    None => stream.poll_write(cx, slices),
                };
                *refused = written.is_pending();
                written
            };
        loop {
            let written = if self.own_pending() > 0 {
                let own = match self.own_unwritten() {
                    [] => telnet::timing_mark_answers(self.marks),
                    own => own,
                };
                let written = ready!(write(cx, &mut chunks, &[IoSlice::new(own)]))?;
                feed.subscriber().counters.bytes_out.add(written as u64);
                self.own_written(written);
                written
            } else if self.skipped > 0 {
                let skipped = std::mem::take(&mut self.skipped);
                self.say(feed.encoding(), |out| format::skip(format, skipped, out));
                continue;
            } else if let Some(taken) = feed.take_ack() {
                if is_quiet {
                    continue;
                }
                self.finish_line(feed);
                self.say(feed.encoding(), |out| format::ack(format, taken, out));
                continue;
            } else {
                let more = feed.poll_more(cx);
                let left = chunks.as_ref().map_or(0, |chunks| chunks.left());
                let filler = &filler[..left.min(filler.len())];
                // The bytes that the chunk was to have were skipped, unless they are still to come from the history.
                let were_skipped = || !feed.subscriber().is(Condition::CatchingUp);
                if !filler.is_empty() && more.is_pending() && were_skipped() {
                    self.queue(filler);
                    continue;
                }
                if more.is_pending() && chunks.as_ref().is_some_and(|chunks| chunks.is_unended()) {
                    // Who reads chunks hands the last one on when it has its end.
                    ready!(write(cx, &mut chunks, &[]))?;
                }
                match ready!(more) {
                    More::Bytes => {
                        let mut slices = [IoSlice::new(&[]); SLICES];
                        let filled = feed.gather(&mut slices);
                        let written = ready!(write(cx, &mut chunks, &slices[..filled]))?;
                        feed.advance(written);
                        written
                    }
                    More::Missed(messages) => {
                        self.skipped += messages;
                        continue;
                    }
                    // Whoever only sends is told before it goes that all has come.
                    More::End if feed.awaits_ack() => return Poll::Pending,
                    More::End if is_quiet && feed.poll_stored(cx).is_pending() => {
                        return Poll::Pending;
                    }
                    More::End => {
                        let Some((reason, detail)) = self.take_close_notice() else {
                            if !filler.is_empty() {
                                self.queue(filler);
                                continue;
                            }
                            return Poll::Ready(Ok(()));
                        };
                        if is_quiet {
                            continue;
                        }
                        self.say(feed.encoding(), |out| {
                            format::error(format, reason, &detail, out)
                        });
                        continue;
                    }
                }
            };
            budget = budget.saturating_sub(written);
            if budget == 0 {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
    }

    fn take_close_notice(&mut self) -> Option<(CloseReason, Box<str>)> {
        self.close_notice.take().map(|notice| *notice)
    }

    fn say(&mut self, encoding: Encoding, words: impl FnOnce(&mut Vec<u8>)) {
        let mut line = Vec::new();
        words(&mut line);
        encoding.dress(&line, None, &mut self.control_queue);
    }

    fn own_written(&mut self, written: usize) {
        let written = written as u32;
        if self.control_queue.is_empty() {
            self.marks -= written;
            return;
        }
        self.written += written;
        if self.own_unwritten().is_empty() {
            // Not cleared: an idle client keeps no memory for it.
            (self.control_queue, self.written) = (Vec::new(), 0);
        }
    }

    /// Lets go of what the feed walks of the history, behind the line that it is in.
    pub(super) fn leave_slice(&mut self, feed: &mut Feed) {
        self.finish_line(feed);
        feed.leave_slice();
    }

    /// Makes the rest of a line that is half written its own, so that what is queued next comes
    /// after it.
    pub(super) fn finish_line(&mut self, feed: &mut Feed) {
        if let Some(rest) = feed.take_rest_of_line() {
            self.queue(rest);
        }
    }
}
