//! The state machine of one client: input and output in one poll, and what ends them.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use super::input::Input;
use super::policy::ClientPolicy;
use super::reader::{InputPolicy, Read, Reader};
use super::throttle::Throttle;
use super::web::Web;
use super::writer::Writer;
use crate::config::{HalfClose, ListenerOptions};
use crate::hub::{Commands, Condition, Feed};
use crate::net::permits::ConnectionPermit;
use crate::net::stream::{Connection, Stream};
use crate::wire::close_reason::CloseReason;
use crate::wire::format::Format;
use crate::wire::hello::{Answer, HelloReader};

/// Telnet's answers that may wait for a client's socket, in bytes; one that does not take them is
/// not read from until it does. One read may add as much again as it brought.
const OWN_BYTES_MAX: usize = 4 * 1024;

/// What a draining daemon counts of a read: as much as the smallest that a read may be held to, so that a
/// whole read never counts for more than it brings.
const DRAIN_BLOCK_BYTES: usize = 256;

/// Blocks that a draining daemon still reads from one client, 16 MiB: more than a sender's kernel holds
/// by default, so all that had been sent comes in, while one that never stops is cut off.
const DRAIN_BLOCKS_MAX: u16 = u16::MAX;

/// A connection that has become a client.
#[derive(Debug)]
pub(crate) struct Client<S: Connection = Stream> {
    pub(super) stream: S,
    /// Options that its listener had when it came.
    pub(super) options: Arc<ListenerOptions>,
    pub(super) feed: Feed,
    pub(super) reader: Reader,
    pub(super) writer: Writer,
    pub(super) policy: Arc<ClientPolicy>,
    pub(super) input: InputState,
    pub(super) output: OutputState,
    pub(super) reason: Option<CloseReason>,
    /// The connection broke without a word from the peer.
    pub(super) timed_out: bool,
    pub(super) permit: Option<ConnectionPermit>,
    /// What few clients have: boxed, as it must not make every client larger.
    pub(super) rare: Option<Box<Rare>>,
}

/// What few clients have.
#[derive(Debug, Default)]
pub(super) struct Rare {
    /// What its rates allow, once it has sent something under one.
    pub(super) throttle: Option<Throttle>,
    /// What it has if it comes by HTTP.
    pub(super) web: Option<Web>,
}

/// What becomes of the bytes the client sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum InputState {
    /// Bytes are published.
    Open,
    /// Bytes are published as far as they are there already, so many blocks at most: the daemon stops.
    Draining(u16),
    /// Bytes are left in the socket until the close notice has been written.
    Paused,
    /// Bytes are thrown away: the client is being closed. Not reading them would make the kernel
    /// reset the connection, over data in flight.
    Discarded,
    /// No more bytes come.
    Ended,
}

/// How far the output is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum OutputState {
    /// Output follows the stream.
    Streaming,
    /// Output that the client is owed is written, and nothing after it.
    Flushing,
    /// All is written and the write side is shut, unless a reset is to tell why; the peer has still to
    /// close.
    Shut,
    /// The peer takes nothing any more, but what it had sent is still to be read and published.
    Broken,
}

/// Why a client's task stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// The connection is over.
    Closed,
    /// A handover saves it.
    Frozen,
}

impl<S: Connection> Client<S> {
    pub(crate) fn new(
        stream: S,
        feed: Feed,
        options: Arc<ListenerOptions>,
        policy: Arc<ClientPolicy>,
        permit: ConnectionPermit,
    ) -> Client<S> {
        Client {
            reader: Reader::new(&options, policy.line_bytes_max()),
            writer: Writer::new(),
            stream,
            options,
            feed,
            policy,
            input: InputState::Open,
            output: OutputState::Streaming,
            reason: None,
            timed_out: false,
            permit: Some(permit),
            rare: None,
        }
    }

    /// Tells a new client that its hello was taken, and where it stands.
    pub(super) fn answer_hello(&mut self, hello: HelloReader, answer: &Answer) {
        let format = self.options.format;
        let mut said = Vec::new();
        answer.append(format, hello.crlf(), &mut said);
        self.writer.queue(&said);
        let (telnet, line_ends) = hello.into_input(format);
        let line_bytes_max = self.policy.line_bytes_max();
        self.reader = Reader::behind_hello(Input::telnet(telnet), line_ends, line_bytes_max);
    }

    /// Does what the hub ordered; whether to go at once.
    fn apply_commands(&mut self, commands: Commands) -> bool {
        if commands.contain(Commands::SKIP)
            && matches!(self.output, OutputState::Streaming | OutputState::Flushing)
        {
            self.writer.skip(&mut self.feed);
        }
        if commands.contain(Commands::CATCH_UP)
            && matches!(self.output, OutputState::Streaming | OutputState::Flushing)
        {
            self.writer.finish_line(&mut self.feed);
            self.feed.catch_up();
        }
        if commands.contain(Commands::REST) {
            self.stream.rest_long();
            self.feed.subscriber().set(Condition::Warm, false);
        }
        if commands.contain(Commands::PROBE) && self.probe() {
            return true;
        }
        if commands.contain(Commands::BEAT) && self.beat() {
            return true;
        }
        if commands.contain(Commands::CERTIFICATE)
            && let Some(lists) = self.policy.revoked()
            && self.stream.is_revoked(&lists)
        {
            self.close(CloseReason::Denied);
        }
        if commands.contain(Commands::COUNT)
            && let Some(permit) = &mut self.permit
        {
            permit.force_count_by(self.feed.peer());
        }
        if commands.contain(Commands::DRAIN) {
            match self.input {
                // Nobody waits for what would be thrown away.
                InputState::Open if !self.options.role.publishes() => self.pause_input(),
                InputState::Open => self.input = InputState::Draining(DRAIN_BLOCKS_MAX),
                _ => self.feed.input_done(),
            }
        }
        if let Some(reason) = commands.close_reason() {
            self.close(reason);
        }
        if commands.contain(Commands::FINISH) {
            self.close(CloseReason::Shutdown);
        }
        commands.contain(Commands::ABORT)
    }

    /// Looks how far the peer has come; whether to go at once.
    fn probe(&mut self) -> bool {
        // A peer whose state is not told is left to the timeouts.
        let Ok(peer) = self.stream.progress() else {
            return false;
        };
        self.feed.note_acknowledged(peer.acknowledged);
        let member = self.feed.subscriber();
        member.set(Condition::Unacknowledged, !peer.has_all);
        if peer.is_gone && self.output != OutputState::Broken {
            self.break_output(true);
        }
        // The end of the daemon waits for nobody who has everything, the end included.
        let is_over =
            self.output == OutputState::Shut && self.reason == Some(CloseReason::Shutdown);
        is_over && peer.has_all
    }

    /// The peer takes nothing any more. What it had sent is still there to be read.
    fn break_output(&mut self, timed_out: bool) {
        self.reason.get_or_insert(CloseReason::Reset);
        self.timed_out = timed_out;
        self.output = OutputState::Broken;
        self.feed.detach();
        self.feed.subscriber().set(Condition::Leaving, true);
    }

    /// What its rates have left it.
    #[cfg(test)]
    pub(super) fn throttle(&self) -> Option<&Throttle> {
        self.rare.as_ref()?.throttle.as_ref()
    }

    /// What it has if it comes by HTTP.
    pub(super) fn web(&mut self) -> Option<&mut Web> {
        self.rare.as_mut()?.web.as_mut()
    }

    /// Begins the end, for this reason unless it has begun for another. The others are told now;
    /// the client gets what it is owed, and why it is closed if that is not its own doing.
    pub(super) fn close(&mut self, reason: CloseReason) {
        let owed_less = reason.is_abrupt();
        if self.output == OutputState::Broken {
            self.reason.get_or_insert(reason);
            self.input = InputState::Ended;
        }
        if self.output != OutputState::Streaming
            && !(owed_less && self.output == OutputState::Flushing)
        {
            return;
        }
        if self.output == OutputState::Flushing {
            // The client was leaving by itself, and does not get what it was owed.
            self.reason = Some(reason);
        }
        self.reason.get_or_insert(reason);
        if self.input != InputState::Ended {
            self.input = InputState::Discarded;
        }
        self.output = OutputState::Flushing;
        self.permit = None;
        self.feed.give_up_permit();
        self.feed.leave();
        let line_bytes_max = self.reader.line_bytes_max();
        let policy = *self.policy.last();
        if let Some(detail) = policy.detail(reason, line_bytes_max, &self.feed) {
            let web = self.web();
            let is_over = web.as_ref().is_some_and(|web| web.is_over);
            if let Some(web) = web {
                web.detail = Some(detail.as_str().into());
            }
            // Nothing comes behind the last words.
            if !is_over {
                self.writer
                    .queue_close_notice(&mut self.feed, reason, detail);
            }
        }
        if owed_less {
            self.feed.subscriber().set(Condition::Leaving, true);
        }
    }

    /// Whether the client is closed for what it sent, and cannot be told. An end would tell a peer that shuts its
    /// sending side that all was taken: that one is reset instead, once it has acknowledged everything.
    pub(super) fn is_untold(&self) -> bool {
        matches!(
            self.reason,
            Some(
                CloseReason::LineTooLong
                    | CloseReason::Http
                    | CloseReason::Tls
                    | CloseReason::SessionTaken
            )
        ) && self.options.format == Format::Raw
            && self.rare.as_ref().is_none_or(|rare| rare.web.is_none())
    }

    /// Whether the peer has acknowledged everything. If not, the reaper has that looked at again.
    pub(super) fn peer_has_all(&self) -> bool {
        let has_all = self.stream.progress().is_ok_and(|peer| peer.has_all);
        let member = self.feed.subscriber();
        member.set(Condition::Unacknowledged, !has_all);
        has_all
    }

    /// Whether the client is not read from until its socket has taken the answers it asked for.
    pub(super) fn is_held(&self) -> bool {
        matches!(self.input, InputState::Open | InputState::Draining(_))
            // What was sent before the connection broke is still there to be read.
            && self.output != OutputState::Broken
            && self.writer.own_pending() > OWN_BYTES_MAX
    }

    /// How many bytes the next read may bring by the client's rates. Pending while there is something to be
    /// read and the rates do not allow it; a client that waits so holds nothing that others wait for.
    ///
    /// A drain does not wait for rates, nor what is thrown away because the client is being closed.
    fn poll_rates(&mut self, cx: &mut Context<'_>) -> Poll<usize> {
        let rates = self.policy.rates();
        if rates.are_off() || self.input != InputState::Open {
            let rare = self.rare.as_mut();
            if rare.and_then(|rare| rare.throttle.take()).is_some() {
                self.feed.set_throttled(false);
            }
            return Poll::Ready(usize::MAX);
        }
        // An error is found by the read.
        let _ = ready!(self.stream.poll_readable(cx));
        let rare = self.rare.get_or_insert_default();
        let throttle = rare.throttle.get_or_insert_default();
        let allowed = throttle.poll(cx, rates);
        if allowed.is_pending() {
            self.feed.give_up_permit();
        }
        self.feed.set_throttled(allowed.is_pending());
        allowed
    }

    /// Reads once; whether to go at once.
    fn poll_input(&mut self, cx: &mut Context<'_>) -> bool {
        let Poll::Ready(read_bytes_max) = self.poll_rates(cx) else {
            return false;
        };
        match self.input {
            InputState::Open | InputState::Draining(_) => {}
            InputState::Discarded => return self.poll_discard(cx),
            InputState::Paused | InputState::Ended => return false,
        }
        if self.is_held() {
            self.feed.give_up_permit();
            return false;
        }
        let mut answers = Vec::new();
        let publishes = self.options.role.publishes();
        let mut line = self.policy.line();
        // What is thrown away closes nobody.
        line.discard |= !publishes;
        let policy = InputPolicy {
            line,
            http_guard: self.options.http_guard,
            publishes,
            // Of a session, its sender sends again what has not ended.
            end_is_line_end: !self.timed_out && !self.feed.has_session(),
            read_bytes_max,
        };
        let read = self
            .reader
            .poll(cx, &mut self.stream, &mut self.feed, policy, &mut answers);
        match self.web() {
            Some(web) => {
                web.is_asked &= !matches!(read, Poll::Ready(Read::Brought { .. }));
                self.writer.interject(&mut self.feed, &answers);
            }
            None => self.writer.answer(&mut self.feed, answers),
        }
        if self.reader.crlf() && !self.feed.crlf() {
            self.feed.use_crlf();
        }
        if self.reader.takes_cr_for_text() && self.policy.is_first_warning_of_cr() {
            warn!(
                client = self.feed.subscriber().id.0,
                listener = %self.options.address,
                "much input with CR and without LF: if CR ends its lines, the listener needs line-end=any"
            );
        }
        if let Poll::Ready(Read::Brought { bytes, lines }) = read
            && let Some(rare) = &mut self.rare
            && let Some(throttle) = &mut rare.throttle
        {
            throttle.take(lines, bytes);
        }
        match (read, self.input) {
            (Poll::Ready(Read::Brought { bytes, .. }), InputState::Draining(left)) => {
                let read = u16::try_from(bytes.div_ceil(DRAIN_BLOCK_BYTES)).unwrap_or(u16::MAX);
                self.input = InputState::Draining(left.saturating_sub(read));
                cx.waker().wake_by_ref();
                if read >= left {
                    self.pause_input();
                }
            }
            (Poll::Ready(Read::Brought { .. }), _) => {
                // One read a poll: the others have their turn before the next. After a read that
                // emptied the socket, this only registers for what comes.
                if self.stream.poll_readable(cx).is_ready() {
                    cx.waker().wake_by_ref();
                }
            }
            (Poll::Ready(Read::End), _) => {
                self.input = InputState::Ended;
                let half_close = self.policy.last().half_close;
                // One that only publishes has nothing to stay for.
                let stays = self.options.role.subscribes() && self.output != OutputState::Broken;
                match half_close {
                    HalfClose::Keep if stays => self.feed.input_done(),
                    _ => self.close(CloseReason::Eof),
                }
            }
            (Poll::Ready(Read::Over(CloseReason::Reset)), _) => {
                self.reason.get_or_insert(CloseReason::Reset);
                return true;
            }
            (Poll::Ready(Read::Over(reason)), _) => {
                self.close(reason);
                // What it still sends, and its own close, are looked for from the next poll on.
                cx.waker().wake_by_ref();
            }
            (Poll::Pending, InputState::Draining(_)) if !self.feed.waits_for_permit() => {
                self.pause_input();
            }
            (Poll::Pending, _) => {}
        }
        false
    }

    fn pause_input(&mut self) {
        self.input = InputState::Paused;
        self.feed.give_up_permit();
        self.feed.input_done();
    }

    fn poll_discard(&mut self, cx: &mut Context<'_>) -> bool {
        match Reader::poll_discard(cx, &mut self.stream) {
            Poll::Pending => false,
            Poll::Ready(Ok(0)) => {
                self.input = InputState::Ended;
                false
            }
            Poll::Ready(Ok(_)) => {
                cx.waker().wake_by_ref();
                false
            }
            Poll::Ready(Err(_)) => true,
        }
    }

    /// Writes; whether to go at once.
    fn poll_output(&mut self, cx: &mut Context<'_>) -> bool {
        if matches!(self.output, OutputState::Shut | OutputState::Broken) {
            return false;
        }
        let format = self.options.format;
        let web = self.rare.as_mut().and_then(|rare| rare.web.as_mut());
        match self
            .writer
            .poll(cx, &mut self.stream, web, &mut self.feed, format)
        {
            Poll::Pending => false,
            Poll::Ready(Ok(())) if self.queue_last_words() => self.poll_output(cx),
            Poll::Ready(Ok(())) => {
                let shut = match self.is_untold() {
                    true => Poll::Ready(Ok(())),
                    false => self.stream.poll_shut_write(cx),
                };
                let Poll::Ready(shut) = shut else {
                    return false;
                };
                self.output = OutputState::Shut;
                if self.reason != Some(CloseReason::Shutdown) {
                    // A drain has a deadline of its own.
                    self.feed.subscriber().set(Condition::Leaving, true);
                }
                shut.is_err()
            }
            Poll::Ready(Err(error)) => {
                let was_closed = [io::ErrorKind::ConnectionReset, io::ErrorKind::BrokenPipe];
                self.break_output(!was_closed.contains(&error.kind()));
                false
            }
        }
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Stop> {
        self.feed.subscriber().wake_with(cx.waker());
        let commands = self.feed.subscriber().take_commands();
        let was_streaming = self.output == OutputState::Streaming;
        if self.apply_commands(commands) {
            return Poll::Ready(Stop::Closed);
        }
        if commands.contain(Commands::FREEZE) {
            return Poll::Ready(Stop::Frozen);
        }
        let was_held = self.is_held();
        if self.poll_input(cx) {
            return Poll::Ready(Stop::Closed);
        }
        if was_streaming && self.output == OutputState::Flushing {
            // The client has just left. The others whose turn it is may be leaving too: see `Feed::leave`.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let gone = self.poll_output(cx)
            || match self.output {
                OutputState::Shut => {
                    self.input == InputState::Ended && (!self.is_untold() || self.peer_has_all())
                }
                OutputState::Broken => {
                    !matches!(self.input, InputState::Open | InputState::Draining(_))
                }
                OutputState::Streaming | OutputState::Flushing => false,
            };
        if gone {
            return Poll::Ready(Stop::Closed);
        }
        if was_held && !self.is_held() {
            // The input was passed over in this poll, which registers for nothing.
            cx.waker().wake_by_ref();
        } else if !was_held && self.is_held() {
            // The rest of a long line of the history waits for the socket, and the input for that.
            self.feed.give_up_permit();
        }
        if self.stream.rest() {
            self.feed.subscriber().set(Condition::Warm, true);
        }
        Poll::Pending
    }
}

impl<S: Connection> Drop for Client<S> {
    fn drop(&mut self) {
        // Whoever sees the notice may come in its place.
        self.permit = None;
        self.feed.leave();
        self.feed.detach();
        if self.is_untold() && self.input == InputState::Ended && self.peer_has_all() {
            // Without it, the connection ends all the same.
            let _ = self.stream.reset_on_close();
        }
        let otherwise = match self.output {
            OutputState::Broken => CloseReason::Reset,
            _ => CloseReason::Internal,
        };
        let reason = self.reason.unwrap_or(otherwise);
        let totals = self.feed.closed(reason);
        info!(
            client = self.feed.subscriber().id.0,
            reason = reason.label(),
            channel = self.options.channel.as_unusual(),
            lines_in = totals.lines_in,
            bytes_in = totals.bytes_in,
            lines_out = totals.lines_out,
            bytes_out = totals.bytes_out,
            skipped = totals.skipped,
            "client disconnected"
        );
    }
}
