//! One client, from its connect notice to the end of its connection.
//!
//! A client is a single task that reads and writes in the same poll: a sender that waits for the
//! buffer still takes what is its own, so it never waits for itself. It has no timer and, while
//! nothing happens, no buffer; the hub's sweep tells it when its time is up.

pub(crate) mod acceptor;
mod reader;
mod snapshot;
mod writer;

use std::future::Future;
use std::io;
use std::mem;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tokio::task::coop::unconstrained;
use tokio_util::task::TaskTracker;
use tracing::info;

use crate::config::{Config, Grace, HalfClose, LongLine};
use crate::hub::{Condition, Feed, Hub, Orders};
use crate::net::listener::Stream;
use crate::net::permits::Place;
use crate::wire::close_reason::CloseReason;
use crate::wire::format::Format;
use crate::wire::framing::LineLimit;

use reader::{InputRules, Read, Reader};
pub(crate) use snapshot::SavedClient;
use writer::Writer;

/// Telnet's answers that may wait for a client's socket, in bytes; one that does not take them is
/// not read from until it does. One read may add as much again as it brought.
const OWN_BYTES_MAX: usize = 4 * 1024;

/// What a draining daemon still reads from one client, in bytes: more than a sender's kernel holds
/// by default, so all that had been sent comes in, while one that never stops is cut off.
const DRAIN_BYTES_MAX: u32 = 16 * 1024 * 1024;

/// What all clients go by. A reload changes it for those that are connected, too.
#[derive(Debug)]
pub(crate) struct Rules {
    /// Looked at in every read: the rest is not.
    line_bytes_max: AtomicUsize,
    discards_long_lines: AtomicBool,
    http_guard: AtomicBool,
    last: Mutex<LastRules>,
}

/// What matters once, when a client's input or the client ends.
#[derive(Clone, Copy, Debug)]
struct LastRules {
    half_close: HalfClose,
    slow_grace: Grace,
    idle_timeout: Option<Duration>,
    stall_timeout: Option<Duration>,
}

impl From<&Config> for Rules {
    fn from(config: &Config) -> Rules {
        Rules {
            line_bytes_max: AtomicUsize::new(config.line_bytes_max),
            discards_long_lines: AtomicBool::new(config.long_line == LongLine::Discard),
            http_guard: AtomicBool::new(config.http_guard),
            last: Mutex::new(LastRules::from(config)),
        }
    }
}

impl From<&Config> for LastRules {
    fn from(config: &Config) -> LastRules {
        LastRules {
            half_close: config.half_close,
            slow_grace: config.slow_grace,
            idle_timeout: config.idle_timeout,
            stall_timeout: config.stall_timeout,
        }
    }
}

impl Rules {
    /// Has all clients go by another configuration from now on.
    pub(crate) fn set(&self, config: &Config) {
        self.line_bytes_max.store(config.line_bytes_max, Relaxed);
        let discards = config.long_line == LongLine::Discard;
        self.discards_long_lines.store(discards, Relaxed);
        self.http_guard.store(config.http_guard, Relaxed);
        *self.last() = LastRules::from(config);
    }

    fn line_bytes_max(&self) -> usize {
        self.line_bytes_max.load(Relaxed)
    }

    fn line(&self) -> LineLimit {
        LineLimit {
            bytes_max: self.line_bytes_max(),
            discard: self.discards_long_lines.load(Relaxed),
        }
    }

    fn last(&self) -> MutexGuard<'_, LastRules> {
        // Nothing panics while it is held.
        self.last
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl LastRules {
    /// What a client is told when it is closed for this reason; nothing when it knows, or when no
    /// word can reach it. `line_bytes_max` is the limit that its last line was held to.
    fn detail(self, reason: CloseReason, line_bytes_max: usize) -> Option<String> {
        let seconds = |time: Option<Duration>| time.unwrap_or_default().as_secs_f64();
        match reason {
            CloseReason::LineTooLong => {
                Some(format!("line too long (limit {line_bytes_max} bytes)"))
            }
            CloseReason::Slow => Some(match self.slow_grace {
                Grace::For(grace) if !grace.is_zero() => {
                    format!(
                        "too slow (behind for {}s with a full buffer)",
                        seconds(Some(grace))
                    )
                }
                _ => "too slow (behind with a full buffer)".to_owned(),
            }),
            CloseReason::Stalled => Some(format!("stalled for {}s", seconds(self.stall_timeout))),
            CloseReason::Idle => Some(format!("idle for {}s", seconds(self.idle_timeout))),
            CloseReason::Http => Some("HTTP request, but this is no HTTP server".to_owned()),
            CloseReason::Eof
            | CloseReason::Reset
            | CloseReason::Full
            | CloseReason::Shutdown
            | CloseReason::Internal => None,
        }
    }
}

/// A connection that has become a client.
#[derive(Debug)]
pub(crate) struct Client {
    stream: Stream,
    feed: Feed,
    reader: Reader,
    writer: Writer,
    rules: Arc<Rules>,
    input: Input,
    output: Output,
    reason: Option<CloseReason>,
    /// What its peer had acknowledged when it was last probed.
    acknowledged: u32,
    /// The connection broke without a word from the peer.
    timed_out: bool,
    place: Option<Place>,
}

/// What becomes of the bytes the client sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Input {
    /// They are published.
    Open,
    /// They are published, so many of them, as far as they are there already: the daemon stops.
    Draining(u32),
    /// They are left in the socket until the last word has been said.
    Paused,
    /// They are thrown away: the client is being closed. Not reading them would make the kernel
    /// reset the connection, over data in flight.
    Discarded,
    /// There are none any more.
    Ended,
}

/// How far the output is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Output {
    /// It follows the stream.
    Streaming,
    /// What the client is owed is written, and nothing after it.
    Flushing,
    /// All is written and the write side is shut; the peer has still to close.
    Shut,
    /// The peer takes nothing any more, but what it had sent is still to be read and published.
    Broken,
}

/// Why a client's task stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    /// The connection is over.
    Gone,
    /// A handover saves it.
    Frozen,
}

/// The tasks of all clients.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    tasks: TaskTracker,
    /// Those that have stopped where they are, until the caller of [`Clients::freeze`] comes.
    frozen: Mutex<Vec<Frozen>>,
}

/// A client whose task has stopped. Dropping it ends the client.
#[derive(Debug)]
pub(crate) struct Frozen {
    pub(crate) client: Client,
    task: oneshot::Sender<Client>,
}

impl Clients {
    /// Starts a client.
    pub(crate) fn spawn(self: &Arc<Clients>, client: Client) {
        // A client bounds what one poll does by itself. By tokio's budget, which tasks share, a socket
        // could seem to have nothing to read, and a drain would take that for all there was.
        self.tasks.spawn(unconstrained(Task {
            clients: self.clone(),
            life: Life::Running(client),
        }));
    }

    /// Where connections that never become clients are looked after: they are waited for too.
    pub(crate) fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }

    /// Stops all clients where they are. Nobody may join meanwhile. Not cancel safe.
    pub(crate) async fn freeze(&self, hub: &Hub) -> Vec<Frozen> {
        hub.freeze().await;
        mem::take(&mut *self.frozen())
    }

    fn lay_down(&self, frozen: Frozen) {
        let mut all = self.frozen();
        all.push(frozen);
        // Whoever waits for the last one finds all of them here.
        if let Some(Frozen { client, .. }) = all.last() {
            client.feed.freeze_done();
        }
    }

    fn frozen(&self) -> MutexGuard<'_, Vec<Frozen>> {
        // Nothing panics while it is held.
        self.frozen
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// A client's task: one for its whole life, so that whoever wakes it need not know of handovers.
#[derive(Debug)]
struct Task {
    clients: Arc<Clients>,
    life: Life,
}

// Boxed, every client would pay for what only a handover needs.
#[allow(clippy::large_enum_variant)]
#[derive(Debug)]
enum Life {
    Running(Client),
    /// The client is in other hands, and may come back.
    Frozen(oneshot::Receiver<Client>),
}

impl Future for Task {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            match &mut self.life {
                Life::Running(client) => {
                    if ready!(client.poll(cx)) == Stop::Gone {
                        return Poll::Ready(());
                    }
                    let (task, thawed) = oneshot::channel();
                    let life = mem::replace(&mut self.life, Life::Frozen(thawed));
                    if let Life::Running(client) = life {
                        self.clients.lay_down(Frozen { client, task });
                    }
                }
                Life::Frozen(thawed) => match ready!(Pin::new(thawed).poll(cx)) {
                    Ok(client) => self.life = Life::Running(client),
                    Err(_) => return Poll::Ready(()),
                },
            }
        }
    }
}

impl Frozen {
    /// Lets the client go on.
    pub(crate) fn thaw(self) {
        // Its task waits for nothing else, and ends only with the runtime.
        let _ = self.task.send(self.client);
    }
}

impl Client {
    pub(crate) fn new(
        stream: Stream,
        feed: Feed,
        format: Format,
        rules: Arc<Rules>,
        place: Place,
    ) -> Client {
        Client {
            reader: Reader::new(format, rules.line_bytes_max()),
            writer: Writer::new(format),
            stream,
            feed,
            rules,
            input: Input::Open,
            output: Output::Streaming,
            reason: None,
            acknowledged: 0,
            timed_out: false,
            place: Some(place),
        }
    }

    /// Does what the hub ordered; whether to go at once.
    fn obey(&mut self, orders: Orders) -> bool {
        if orders.contain(Orders::SKIP)
            && matches!(self.output, Output::Streaming | Output::Flushing)
        {
            self.writer.skip(&mut self.feed);
        }
        if orders.contain(Orders::PROBE) && self.probe() {
            return true;
        }
        if orders.contain(Orders::DRAIN) {
            match self.input {
                Input::Open => self.input = Input::Draining(DRAIN_BYTES_MAX),
                _ => self.feed.input_done(),
            }
        }
        if let Some(reason) = orders.close_reason() {
            self.close(reason);
        }
        if orders.contain(Orders::FINISH) {
            self.close(CloseReason::Shutdown);
        }
        orders.contain(Orders::ABORT)
    }

    /// Looks how far the peer has come; whether to go at once.
    fn probe(&mut self) -> bool {
        // One whose state is not told is left to the timeouts.
        let Ok(peer) = self.stream.progress() else {
            return false;
        };
        let member = self.feed.member();
        if mem::replace(&mut self.acknowledged, peer.acknowledged) != peer.acknowledged {
            member.note_progress();
        }
        member.set(Condition::Unacknowledged, !peer.has_all);
        if peer.is_gone && self.output != Output::Broken {
            self.break_output(true);
        }
        // The end of the daemon waits for nobody who has everything, the end included.
        let is_over = self.output == Output::Shut && self.reason == Some(CloseReason::Shutdown);
        is_over && peer.has_all
    }

    /// The peer takes nothing any more. What it had sent is still there to be read.
    fn break_output(&mut self, timed_out: bool) {
        self.reason.get_or_insert(CloseReason::Reset);
        self.timed_out = timed_out;
        self.output = Output::Broken;
        self.feed.detach();
        self.feed.member().set(Condition::Leaving, true);
    }

    /// Begins the end, for this reason unless it has begun for another. The others are told now;
    /// the client gets what it is owed, and why it is closed if that is not its own doing.
    fn close(&mut self, reason: CloseReason) {
        let owed_less = matches!(reason, CloseReason::Slow | CloseReason::Stalled);
        if self.output == Output::Broken {
            self.reason.get_or_insert(reason);
            self.input = Input::Ended;
        }
        if self.output != Output::Streaming && !(owed_less && self.output == Output::Flushing) {
            return;
        }
        if self.output == Output::Flushing {
            // It was leaving by itself, and does not get what it was owed.
            self.reason = Some(reason);
        }
        self.reason.get_or_insert(reason);
        if self.input != Input::Ended {
            self.input = Input::Discarded;
        }
        self.output = Output::Flushing;
        self.place = None;
        self.feed.give_up_admission();
        self.feed.leave();
        let line_bytes_max = self.reader.line_bytes_max();
        if let Some(detail) = self.rules.last().detail(reason, line_bytes_max) {
            self.writer.say_goodbye(&mut self.feed, reason, detail);
        }
        if owed_less {
            self.feed.member().set(Condition::Leaving, true);
        }
    }

    /// It is not read from until its socket has taken what it asked for.
    fn is_held(&self) -> bool {
        matches!(self.input, Input::Open | Input::Draining(_))
            // What was sent before the connection broke is still there to be read.
            && self.output != Output::Broken
            && self.writer.own_pending() > OWN_BYTES_MAX
    }

    /// Reads once; whether to go at once.
    fn poll_input(&mut self, cx: &mut Context<'_>) -> bool {
        match self.input {
            Input::Open | Input::Draining(_) => {}
            Input::Discarded => return self.poll_discard(cx),
            Input::Paused | Input::Ended => return false,
        }
        if self.is_held() {
            self.feed.give_up_admission();
            return false;
        }
        let mut answers = Vec::new();
        let rules = InputRules {
            line: self.rules.line(),
            http_guard: self.rules.http_guard.load(Relaxed),
            end_is_line_end: !self.timed_out,
        };
        let read = self
            .reader
            .poll(cx, &self.stream, &mut self.feed, rules, &mut answers);
        self.writer.answer(&mut self.feed, answers);
        if self.reader.crlf() {
            self.writer.use_crlf(&mut self.feed);
        }
        match (read, self.input) {
            (Poll::Ready(Read::Bytes(read)), Input::Draining(left)) => {
                let read = u32::try_from(read).unwrap_or(u32::MAX);
                self.input = Input::Draining(left.saturating_sub(read));
                cx.waker().wake_by_ref();
                if read >= left {
                    self.pause_input();
                }
            }
            (Poll::Ready(Read::Bytes(_)), _) => {
                // One read a poll: the others have their turn before the next. After a read that
                // emptied the socket, this only registers for what comes.
                if self.stream.poll_readable(cx).is_ready() {
                    cx.waker().wake_by_ref();
                }
            }
            (Poll::Ready(Read::End), _) => {
                self.input = Input::Ended;
                let half_close = self.rules.last().half_close;
                match half_close {
                    HalfClose::Keep if self.output != Output::Broken => self.feed.input_done(),
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
            (Poll::Pending, Input::Draining(_)) if !self.feed.waits_for_admission() => {
                self.pause_input();
            }
            (Poll::Pending, _) => {}
        }
        false
    }

    fn pause_input(&mut self) {
        self.input = Input::Paused;
        self.feed.give_up_admission();
        self.feed.input_done();
    }

    fn poll_discard(&mut self, cx: &mut Context<'_>) -> bool {
        match Reader::poll_discard(cx, &self.stream) {
            Poll::Pending => false,
            Poll::Ready(Ok(0)) => {
                self.input = Input::Ended;
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
        if matches!(self.output, Output::Shut | Output::Broken) {
            return false;
        }
        match self.writer.poll(cx, &self.stream, &mut self.feed) {
            Poll::Pending => false,
            Poll::Ready(Ok(())) => {
                self.output = Output::Shut;
                if self.reason != Some(CloseReason::Shutdown) {
                    // A drain has a deadline of its own.
                    self.feed.member().set(Condition::Leaving, true);
                }
                self.stream.shut_write().is_err()
            }
            Poll::Ready(Err(error)) => {
                let was_closed = [io::ErrorKind::ConnectionReset, io::ErrorKind::BrokenPipe];
                self.break_output(!was_closed.contains(&error.kind()));
                false
            }
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Stop> {
        self.feed.member().wake_with(cx.waker());
        let orders = self.feed.member().take_orders();
        let was_streaming = self.output == Output::Streaming;
        if self.obey(orders) {
            return Poll::Ready(Stop::Gone);
        }
        if orders.contain(Orders::FREEZE) {
            return Poll::Ready(Stop::Frozen);
        }
        let was_held = self.is_held();
        if self.poll_input(cx) {
            return Poll::Ready(Stop::Gone);
        }
        if was_streaming && self.output == Output::Flushing {
            // It has just left. The others whose turn it is may be leaving too: see `Feed::leave`.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let gone = self.poll_output(cx)
            || match self.output {
                Output::Shut => self.input == Input::Ended,
                Output::Broken => !matches!(self.input, Input::Open | Input::Draining(_)),
                Output::Streaming | Output::Flushing => false,
            };
        if gone {
            return Poll::Ready(Stop::Gone);
        }
        if was_held && !self.is_held() {
            // Its input was passed over, which registers for nothing.
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.feed.leave();
        self.feed.detach();
        let otherwise = match self.output {
            Output::Broken => CloseReason::Reset,
            _ => CloseReason::Internal,
        };
        let reason = self.reason.unwrap_or(otherwise);
        let totals = self.feed.closed(reason);
        info!(
            client = self.feed.member().id.0,
            reason = reason.label(),
            lines_in = totals.lines_in,
            bytes_in = totals.bytes_in,
            lines_out = totals.lines_out,
            bytes_out = totals.bytes_out,
            skipped = totals.skipped,
            "client disconnected"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_client_is_small() {
        // With what the runtime puts around it, this fills three times 128 bytes, to which tasks
        // are aligned: eight bytes more cost a client 128.
        assert!(size_of::<Task>() <= 280, "{}", size_of::<Task>());
    }
}
