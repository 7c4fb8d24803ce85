//! A feed's way through the history: slices of records, each walked like the stream itself, until it is live
//! again.
//!
//! Between two polls a reader that waits holds nothing of what it reads but the rest of a line of which its
//! socket has the beginning. However many read, and however slowly, memory does not grow with the history.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use serde::{Deserialize, Serialize};
use tokio::sync::OwnedSemaphorePermit;
#[cfg(test)]
use tokio::sync::Semaphore;
use tracing::error;

use super::chain::{Link, Node};
use super::history::disk::is_lost;
use super::history::{Reader, Record, Slice};
use super::order::Hub;
use super::rejoin::Rejoin;
use crate::wire::ids::{Epoch, Seq};

/// Weight up to which records are walked as one batch.
const JOINED_BYTES_MAX: usize = 64 * 1024;

type Fetched = (OwnedSemaphorePermit, io::Result<Slice<Arc<Record>>>);

/// Where a feed is in the past.
pub(super) struct Past {
    reader: Reader,
    /// The next number that it gets.
    pub(super) next: Seq,
    /// The first number at which it may be live again: see [`Hub::rejoin`].
    live_from: Seq,
    /// Notices from before this are left out.
    pub(super) notices_from: Seq,
    /// Once its client has left: the number from which on it gets nothing.
    pub(super) end: Option<Seq>,
    /// Messages that it has missed and is still to be told of.
    pub(super) missed: u64,
    /// A slice that is being read.
    fetch: Option<Pin<Box<dyn Future<Output = Fetched> + Send>>>,
    /// The number behind the slice that its feed walks; and the turn in which it does, or its room to be kept.
    walking: Option<(Seq, OwnedSemaphorePermit)>,
    is_kept: bool,
}

/// A [`Past`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SavedPast {
    next: Seq,
    live_from: Seq,
    notices_from: Seq,
    end: Option<Seq>,
    missed: u64,
}

impl SavedPast {
    /// Whether none of its numbers is beyond this.
    pub(super) fn is_below(&self, most: u64) -> bool {
        let places = [self.next, self.live_from, self.notices_from];
        let mut places = places.into_iter().chain(self.end);
        places.all(|place| place.0 <= most) && self.missed <= most
    }
}

/// What comes next for a feed in the past.
#[derive(Debug)]
pub(super) enum Step {
    /// A slice to walk.
    Walk(Arc<Node>),
    /// It missed so many messages, which are not kept any more.
    Missed(u64),
    /// It is live again, at this place.
    Live(Arc<Node>),
    /// It has had all that it gets.
    End,
}

impl Past {
    /// From `next` on, for a feed that may be live again from `live_from` on.
    pub(super) fn new(reader: Reader, next: Seq, live_from: Seq, notices_from: Seq) -> Past {
        Past {
            reader,
            next,
            live_from,
            notices_from,
            end: None,
            missed: 0,
            fetch: None,
            walking: None,
            is_kept: false,
        }
    }

    pub(super) fn save(&self) -> SavedPast {
        SavedPast {
            next: self.next,
            live_from: self.live_from,
            notices_from: self.notices_from,
            end: self.end,
            missed: self.missed,
        }
    }

    /// Goes on where [`Past::save`] was called.
    pub(super) fn restore(reader: Reader, saved: SavedPast) -> Past {
        Past {
            end: saved.end,
            missed: saved.missed,
            ..Past::new(reader, saved.next, saved.live_from, saved.notices_from)
        }
    }

    /// It has missed so many messages before it begins.
    pub(super) fn miss_already(&mut self, messages: u64) {
        self.missed += messages;
    }

    /// Looks for what comes next, once the slice before has been walked.
    pub(super) fn poll(&mut self, hub: &Arc<Hub>, cx: &mut Context<'_>) -> Poll<Step> {
        self.finish_walk();
        loop {
            if self.missed > 0 {
                return Poll::Ready(Step::Missed(std::mem::take(&mut self.missed)));
            }
            if self.end.is_some_and(|end| self.next >= end) {
                let shutdown = hub.before_shutdown(self.next);
                return Poll::Ready(shutdown.map_or(Step::End, Step::Live));
            }
            if self.fetch.is_none() {
                match hub.rejoin(self.next, self.live_from) {
                    Rejoin::At(node) => return Poll::Ready(Step::Live(node)),
                    Rejoin::Ended(node, next) => {
                        self.miss(hub, next);
                        if self.missed == 0 {
                            return Poll::Ready(Step::Live(node));
                        }
                        continue;
                    }
                    Rejoin::InHistory(history) => {
                        // A reload may have ended the one that it read, and begun another.
                        if !Arc::ptr_eq(&history, self.reader.history()) {
                            self.reader = history.reader();
                        }
                        let (hub, next) = (hub.clone(), self.next);
                        self.fetch = Some(Box::pin(async move {
                            hub.stored(&history, next).await;
                            history.read(next).await
                        }));
                    }
                }
            }
            let Some(fetch) = &mut self.fetch else {
                continue;
            };
            let (turn, slice) = ready!(fetch.as_mut().poll(cx));
            self.fetch = None;
            match slice {
                Ok(Slice::Records(records)) => {
                    let (first, behind) = self.chain(&records, hub.epoch());
                    (self.walking, self.is_kept) = (Some((behind, turn)), false);
                    return Poll::Ready(Step::Walk(first));
                }
                Ok(Slice::Gone { oldest }) => self.miss(hub, oldest),
                // What is kept has changed meanwhile.
                Ok(Slice::End) => {}
                Err(error) => {
                    let channel = hub.name();
                    let is_news = self.reader.history().note_unreadable(&error);
                    if !is_lost(&error) {
                        // It may go well another time: its client comes again.
                        error!(%channel, %error, "cannot read the history: a client is closed");
                        return Poll::Ready(Step::End);
                    }
                    if is_news {
                        error!(%channel, %error, "cannot read the history: who reads it goes on behind that");
                    }
                    let behind = self.reader.history().behind(self.next);
                    self.miss(hub, behind);
                }
            }
        }
    }

    /// What comes before `to` is not kept any more. With a number in between that nobody counts any more, all
    /// of them are taken for messages.
    fn miss(&mut self, hub: &Hub, to: Seq) {
        let to = self.end.map_or(to, |end| end.min(to));
        let numbers = to.0.saturating_sub(self.next.0);
        self.missed += hub.messages_between(self.next, to).unwrap_or(numbers);
        self.next = self.next.max(to);
    }

    /// A chain of these records, and the number behind them.
    fn chain(&self, records: &[Arc<Record>], epoch: Epoch) -> (Arc<Node>, Seq) {
        let first = Node::apart();
        let (mut last, mut behind) = (first.clone(), self.next);
        let end = |record: &&Arc<Record>| self.end.is_none_or(|end| record.first_seq < end);
        let mut rest = &records[..records.iter().take_while(end).count()];
        while !rest.is_empty() {
            let mut bytes = 0;
            let fit = rest.iter().take_while(|record| {
                bytes += record.weight();
                bytes <= JOINED_BYTES_MAX
            });
            let (group, behind_it) = rest.split_at(fit.count().max(1));
            rest = behind_it;
            let joined = match group {
                [_] => None,
                small => Record::joined(small),
            };
            let record = joined.as_ref().or(group.first().map(Arc::as_ref));
            let Some(record) = record else {
                break;
            };
            let mut batch = record.batch_from(self.next, self.notices_from);
            batch.epoch = epoch;
            let node = Node::apart();
            behind = batch.next_seq();
            last.link(Link {
                batch,
                node: node.clone(),
            });
            last = node;
        }
        (first, behind)
    }

    /// Lets go of the slice that is walked, before this number: it is read again when it is needed.
    pub(super) fn let_go(&mut self, next: Seq) {
        self.walking = None;
        self.next = next;
    }

    /// Asks for its turn again when it needs one.
    pub(super) fn give_up_turn(&mut self) {
        self.fetch = None;
    }

    /// Keeps the slice that is walked, and gives its turn to another; whether there is room for that.
    pub(super) fn keep(&mut self) -> bool {
        let Some((_, permit)) = &mut self.walking else {
            return false;
        };
        if !self.is_kept {
            let Some(kept) = self.reader.history().try_keep() else {
                return false;
            };
            (*permit, self.is_kept) = (kept, true);
        }
        true
    }

    /// The slice has been walked to its end.
    pub(super) fn finish_walk(&mut self) {
        if let Some((behind, _turn)) = self.walking.take() {
            self.next = behind;
        }
    }

    /// Whether a slice is walked now.
    pub(super) fn is_walking(&self) -> bool {
        self.walking.is_some()
    }
}

impl fmt::Debug for Past {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut past = f.debug_struct("Past");
        past.field("next", &self.next).finish_non_exhaustive()
    }
}

#[cfg(test)]
impl Hub {
    /// The turns of those who read a history.
    pub(crate) fn turns(&self) -> Arc<Semaphore> {
        self.shared.turns.reading.clone()
    }
}
