//! A client's end of the hub: what it publishes, and its own walk along the stream.

mod in_past;
mod sending;

use std::io::IoSlice;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};

use serde::{Deserialize, Serialize};

use super::budget::WaiterId;
use super::chain::{DETACHED, Node};
use super::encoding::Encoding;
use super::order::{Hub, Park};
use super::past::Past;
use super::sessions::SessionHandle;
use super::subscriber::Subscriber;
use crate::config::Grace;
use crate::wire::ids::ClientId;
use crate::wire::role::Role;

/// A client's membership of the hub. Leaving, with its notice, happens at the latest in its drop.
///
/// The feed sees every message and notice from the moment it joined, once, in the one order, less
/// its own (unless `--echo`). Its bytes are borrowed from the shared batches: a client that is up
/// to date holds none. Polled by one task for its whole life.
#[derive(Debug)]
pub(crate) struct Feed {
    pub(super) hub: Arc<Hub>,
    pub(super) subscriber: Arc<Subscriber>,
    /// Node before the first batch not yet delivered whole; `None` once the feed is detached.
    cursor: Option<Arc<Node>>,
    /// Bytes of that batch's view that are delivered, or are not for this client.
    offset: usize,
    /// Its slot in the hub: four bytes, because there is one for every client.
    key: u32,
    /// What the peer had acknowledged when it was last probed: see [`Feed::note_acknowledged`].
    acknowledged: u32,
    /// It joined behind so many parts of the batch that its cursor stands at, which was not in the
    /// stream yet: they become bytes of `offset` once it is.
    parts_before: u32,
    /// Index from which on batches hold nothing of this client's own.
    own_end: u64,
    /// Version of the hub for which the task waits to be woken; 0 when the task does not wait.
    parked: u64,
    waiter: Option<WaiterId>,
    /// Encoding of the batch at the cursor; `encoding` is that of all later ones.
    current: Encoding,
    encoding: Encoding,
    left: bool,
    /// Whether its client gets lines and notices at all.
    subscribes: bool,
    /// What few feeds have: boxed, as it must not make every client larger.
    rare: Option<Box<Rare>>,
}

/// What few feeds have at a time.
#[derive(Debug)]
struct Rare {
    /// Index of the first batch that is not delivered any more: set once the client has left.
    end: u64,
    /// Where it is in the history, as long as it is not live. Its cursor is then in a chain of its own, at
    /// index 0, or nowhere.
    past: Option<Past>,
    /// Its session, if it came with one.
    session: Option<SessionHandle>,
    /// Lines of it were not published.
    was_refused: bool,
}

impl Default for Rare {
    fn default() -> Rare {
        Rare {
            end: ENDLESS,
            past: None,
            session: None,
            was_refused: false,
        }
    }
}

/// What [`Feed::poll_more`] has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum More {
    /// Bytes to write.
    Bytes,
    /// Messages that it missed, so many, because they have left the history.
    Missed(u64),
    /// Nothing more will come.
    End,
}

/// Where a feed is in the stream; the fields are those of [`Feed`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SavedPlace {
    /// `None` once it takes no more.
    pub(super) index: Option<u64>,
    pub(super) offset: usize,
    pub(super) parts_before: u32,
    pub(super) end: u64,
    pub(super) own_end: u64,
    pub(super) current: Encoding,
    pub(super) encoding: Encoding,
}

/// The end of a feed that has not left.
const ENDLESS: u64 = u64::MAX;

/// Where the stream begins for a client that joins.
#[derive(Debug)]
pub(super) struct JoinPoint {
    pub(super) node: Arc<Node>,
    /// Parts of the next batch that were published before the client joined.
    pub(super) parts_before: u32,
}

impl Feed {
    /// The feed of a client that joins; whoever only publishes gets nothing.
    pub(super) fn new(
        hub: Arc<Hub>,
        subscriber: Arc<Subscriber>,
        key: usize,
        start: JoinPoint,
        own_end: u64,
        encoding: Encoding,
        role: Role,
    ) -> Feed {
        let subscribes = role.subscribes();
        Feed {
            hub,
            subscriber,
            key: slot_number(key),
            acknowledged: 0,
            cursor: subscribes.then_some(start.node),
            offset: 0,
            parts_before: start.parts_before,
            own_end,
            parked: 0,
            waiter: None,
            current: encoding,
            encoding,
            left: false,
            subscribes,
            rare: None,
        }
    }

    /// A feed that goes on where [`Feed::place`] was taken, now from `cursor`.
    pub(super) fn restore(
        hub: Arc<Hub>,
        subscriber: Arc<Subscriber>,
        key: usize,
        cursor: Option<Arc<Node>>,
        place: &SavedPlace,
        left: bool,
        role: Role,
    ) -> Feed {
        let mut feed = Feed {
            hub,
            subscriber,
            key: slot_number(key),
            acknowledged: 0,
            cursor,
            offset: place.offset,
            parts_before: place.parts_before,
            own_end: place.own_end,
            parked: 0,
            waiter: None,
            current: place.current,
            encoding: place.encoding,
            left,
            subscribes: role.subscribes(),
            rare: None,
        };
        if place.end != ENDLESS {
            feed.rare().end = place.end;
        }
        feed
    }

    fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    /// Index of the first batch that is not delivered any more.
    #[inline]
    fn end(&self) -> u64 {
        self.rare.as_ref().map_or(ENDLESS, |rare| rare.end)
    }

    fn past(&self) -> Option<&Past> {
        self.rare.as_ref()?.past.as_ref()
    }

    fn session(&self) -> Option<&SessionHandle> {
        self.rare.as_ref()?.session.as_ref()
    }

    /// Where it is, for a handover. Its client must not be running.
    pub(super) fn place(&self) -> SavedPlace {
        SavedPlace {
            index: self.cursor.as_ref().map(|node| node.index),
            offset: self.offset,
            parts_before: self.parts_before,
            end: self.end(),
            own_end: self.own_end,
            current: self.current,
            encoding: self.encoding,
        }
    }

    /// Node that the feed has come to; `None` once the feed is detached.
    pub(super) fn node(&self) -> Option<&Arc<Node>> {
        self.cursor.as_ref()
    }

    /// Its slot in the hub.
    pub(super) fn key(&self) -> usize {
        self.key as usize
    }

    /// What the hub and this client share.
    pub(crate) fn subscriber(&self) -> &Subscriber {
        &self.subscriber
    }

    /// Whether its lines end in CRLF: for `text` alone.
    pub(crate) fn crlf(&self) -> bool {
        self.encoding == Encoding::TextCrlf
    }

    /// The encoding of all that is to come.
    pub(crate) fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// From the next batch on, its lines end in CRLF. Only for `text`.
    pub(crate) fn use_crlf(&mut self) {
        if self.encoding == Encoding::Text {
            self.hub.change_encoding(self.key(), Encoding::TextCrlf);
            self.encoding = Encoding::TextCrlf;
            if let Some(place) = &self.cursor {
                self.subscriber.move_to(place, self.offset, self.encoding);
            }
            if self.offset == 0 {
                self.current = self.encoding;
            }
        }
    }

    /// Ready when there is something to write, or when nothing will come any more; else the task is woken when
    /// something is published.
    pub(crate) fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<More> {
        self.fix_end();
        loop {
            if self.skip_own() {
                return Poll::Ready(More::Bytes);
            }
            if self.past().is_some() {
                match ready!(self.poll_past(cx)) {
                    Some(more) => return Poll::Ready(more),
                    None => continue,
                }
            }
            let Some(cursor) = &self.cursor else {
                // Whoever only publishes is told nothing while it is there.
                return if self.subscribes || self.left {
                    Poll::Ready(More::End)
                } else {
                    Poll::Pending
                };
            };
            if cursor.index >= self.end() {
                // What comes after its end is nothing to it, and must not wait for it.
                self.detach();
                return Poll::Ready(More::End);
            }
            if self.parked == self.hub.version() {
                return Poll::Pending;
            }
            match self.hub.park(cursor, self.key(), cx.waker()) {
                Park::MoreCame => {}
                Park::Parked { version } => {
                    self.parked = version;
                    return Poll::Pending;
                }
            }
        }
    }

    /// One that has left gets what had been published by the first time that it looked.
    pub(crate) fn fix_end(&mut self) {
        if !self.left {
            return;
        }
        if self.end() == ENDLESS {
            let (end, seq) = self.hub.end();
            let rare = self.rare();
            rare.end = end;
            if let Some(past) = &mut rare.past {
                past.end = Some(seq);
            }
        }
        // What comes after its end must not wait for it, nor for what it is still told.
        let place = self.cursor.as_ref();
        if place.is_some_and(|place| place.index >= self.end()) {
            self.detach();
        }
    }

    /// Fills `slices` with the next bytes to write, from its place on; returns how many it filled.
    pub(crate) fn gather<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut filled = 0;
        let mut from = self.offset;
        let mut encoding = self.current;
        let mut place = self.cursor.as_deref();
        while let Some((node, next)) = place.and_then(|node| Some((node, node.next.get()?))) {
            if node.index >= self.end() {
                break;
            }
            let view = next.batch.view(encoding);
            for span in next.batch.spans(view, self.exclude(node.index), from) {
                if filled == slices.len() {
                    return filled;
                }
                slices[filled] = IoSlice::new(&view.bytes[span]);
                filled += 1;
            }
            from = 0;
            encoding = self.encoding;
            place = Some(&next.node);
        }
        filled
    }

    /// Moves on by `written` bytes of what [`Feed::gather`] showed.
    pub(crate) fn advance(&mut self, mut written: usize) {
        let counters = &self.subscriber.counters;
        counters.bytes_out.add(written as u64);
        // The walk is by reference; only the place it ends at is taken hold of.
        let Some(start) = self.cursor.as_ref() else {
            return;
        };
        let mut place = start;
        while let Some(next) = place.next.get().filter(|_| place.index < self.end()) {
            let exclude = self.exclude(place.index);
            let view = next.batch.view(self.current);
            let mut left = None;
            for span in next.batch.spans(view, exclude, self.offset) {
                if written < span.len() {
                    left = Some(span.start + written);
                    break;
                }
                written -= span.len();
            }
            if let Some(offset) = left {
                self.offset = offset;
                break;
            }
            counters.lines_out.add(next.batch.messages_for(exclude));
            self.offset = 0;
            self.current = self.encoding;
            place = &next.node;
        }
        if !Arc::ptr_eq(place, start) {
            // Frees what it leaves before it is seen to have left it: else another would be taken for who holds that.
            let place = self.cursor.insert(place.clone());
            self.subscriber.move_to(place, self.offset, self.encoding);
        }
    }

    /// Moves past what is not for this client; whether bytes for it follow.
    fn skip_own(&mut self) -> bool {
        let Some(next) = self.cursor.as_ref().and_then(|node| node.next.get()) else {
            // Not looked at again: what comes meanwhile would be walked without `parts_before`.
            return false;
        };
        let parts_before = mem::take(&mut self.parts_before) as usize;
        let start = next.batch.view(self.current).start_of(parts_before);
        self.offset = self.offset.max(start);
        self.advance(0);
        self.cursor
            .as_ref()
            .is_some_and(|node| node.index < self.end() && node.next.get().is_some())
    }

    /// Takes the rest of a line of which the socket has only the beginning, so that something else
    /// can be written after it.
    ///
    /// Lent, and copied by whoever queues it: a slice of the batch's `Bytes` would keep the whole batch
    /// in memory when its reservation has long been released.
    pub(crate) fn take_rest_of_line(&mut self) -> Option<&[u8]> {
        let next = self.cursor.as_ref()?.next.get()?;
        let end = next.batch.end_of_begun_unit(self.current, self.offset)?;
        let bytes = &next.batch.view(self.current).bytes;
        let rest = &bytes[self.offset..end];
        self.offset = end;
        Some(rest)
    }

    /// Jumps to the newest line; returns how many messages that misses. Not in the middle of a
    /// line: [`Feed::take_rest_of_line`] first.
    pub(crate) fn skip(&mut self) -> u64 {
        if self.past().is_some() {
            return 0;
        }
        self.fix_end();
        let mut missed = 0;
        if self.offset > 0 {
            missed += self.count_begun().unwrap_or(0);
        }
        let mut begun = self.offset > 0;
        let Some(mut place) = self.cursor.take() else {
            return 0;
        };
        while let Some(next) = place.next.get().filter(|_| place.index < self.end()) {
            if !mem::take(&mut begun) {
                missed += next.batch.messages_for(self.exclude(place.index));
            }
            // Each step lets go of the one before: the chain is freed as it is counted.
            place = next.node.clone();
            self.parts_before = 0;
        }
        self.offset = 0;
        self.current = self.encoding;
        self.subscriber.move_to(&place, 0, self.encoding);
        self.hub.note_skipped(self.key(), missed);
        let is_at_end = place.index >= self.end();
        self.cursor = Some(place);
        if is_at_end {
            self.detach();
        }
        missed
    }

    /// Counts what it had of a batch it leaves halfway; returns the messages that were still to
    /// come in it.
    fn count_begun(&self) -> Option<u64> {
        let node = self.cursor.as_ref()?;
        let batch = &node.next.get()?.batch;
        let exclude = self.exclude(node.index);
        let missed = batch.messages_after(self.current, exclude, self.offset);
        self.subscriber
            .counters
            .lines_out
            .add(batch.messages_for(exclude) - missed);
        Some(missed)
    }

    /// How long senders of its channel wait for whoever is behind.
    pub(crate) fn slow_grace(&self) -> Grace {
        self.hub.lock().settings.slow_grace
    }

    /// What the peer has acknowledged by now: a number that changes with it. What is acknowledged counts as taken.
    pub(crate) fn note_acknowledged(&mut self, acknowledged: u32) {
        if mem::replace(&mut self.acknowledged, acknowledged) != acknowledged {
            self.subscriber.progressed.store(true, Relaxed);
        }
    }

    /// Takes no more from the stream, and lets go of what it has not had.
    pub(crate) fn detach(&mut self) {
        if self.offset > 0 {
            self.count_begun();
        }
        if self.cursor.take().is_some() || self.past().is_some() {
            self.hub.note_detached(self.key());
        }
        self.leave_past();
        self.offset = 0;
        self.subscriber.position.store(DETACHED, Relaxed);
    }

    /// Whether it keeps what comes after its end, of which it gets nothing.
    #[cfg(test)]
    pub(crate) fn keeps_more_than_its_own(&self) -> bool {
        self.cursor
            .as_ref()
            .is_some_and(|place| place.index >= self.end())
    }

    /// Whose parts of a batch are left out.
    fn exclude(&self, index: u64) -> Option<ClientId> {
        (index < self.own_end && !self.hub.echo).then_some(self.subscriber.id)
    }
}

/// Clients have descriptors, of which there are fewer than 2^31.
fn slot_number(key: usize) -> u32 {
    u32::try_from(key).expect("there are fewer clients than descriptors")
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.give_up_permit();
        self.detach();
        self.leave();
        self.hub.remove(self.key());
    }
}
