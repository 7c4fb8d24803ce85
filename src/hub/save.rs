//! The hub put away for a handover, and taken up again: numbers, batches, and where each client is.
//!
//! Batches are kept as their bytes in every encoding that was made of them, so that a client which
//! has half of one goes on at the same byte, whatever the next daemon would have made of it.

use std::fmt;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, OnceLock};

use serde::{Deserialize, Serialize};
use serde_bytes::{ByteBuf, Bytes};

use super::Hub;
use super::batch::{Batch, Encoding, Encodings, Kind, Node, Part, View};
use super::feed::Feed;
use super::member::{DETACHED, Member, Tally};
use crate::config::Config;
use crate::ids::{ClientId, Seq};

/// Everything in the hub that outlives a daemon. `B` is borrowed bytes on the way out and owned
/// ones on the way in.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SavedHub<B = ByteBuf> {
    next_id: u64,
    next_seq: u64,
    /// The index of the first batch.
    first_index: u64,
    /// What some client has still to get, oldest first.
    batches: Vec<SavedBatch<B>>,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedBatch<B> {
    first_seq: Seq,
    origins: Vec<ClientId>,
    /// What each part is, and the messages in it.
    parts: Vec<(Kind, u32)>,
    encodings: Encodings,
    /// Bytes of the buffer it takes.
    cost: usize,
    text: SavedView<B>,
    raw: SavedView<B>,
    crlf: Option<SavedView<B>>,
    json: Option<SavedView<B>>,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedView<B> {
    bytes: B,
    ends: Vec<u32>,
}

/// A client's end of the hub: its number, its counters and its place in the stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SavedFeed {
    id: ClientId,
    pub(super) place: SavedPlace,
    /// Its disconnect notice is out.
    pub(super) left: bool,
    /// Its goodbye has a deadline.
    leaving: bool,
    input_done: bool,
    tally: SavedTally,
}

/// Where a feed is in the stream; the fields are those of [`Feed`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SavedPlace {
    /// `None` once it takes no more.
    pub(super) index: Option<u64>,
    pub(super) offset: usize,
    pub(super) end: u64,
    pub(super) own_end: u64,
    pub(super) current: Encoding,
    pub(super) encoding: Encoding,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct SavedTally {
    lines_in: u64,
    bytes_in: u64,
    lines_out: u64,
    bytes_out: u64,
    skipped: u64,
}

/// What a saved hub or feed says cannot be so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Inconsistent(&'static str);

impl fmt::Display for Inconsistent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Inconsistent {}

/// The places of a stream that was taken up, for the clients to return to.
#[derive(Debug)]
pub(crate) struct Places {
    first_index: u64,
    /// One before each batch, and the end.
    nodes: Vec<Arc<Node>>,
    /// For each encoding, how many of the batches before each place cannot be seen in it.
    unseen: [Vec<u32>; 4],
}

impl<'a> SavedHub<&'a Bytes> {
    /// What the hub holds and these feeds may still need. No client of it may be running.
    pub(crate) fn save(hub: &Hub, feeds: impl Iterator<Item = &'a Feed>) -> SavedHub<&'a Bytes> {
        let mut state = hub.lock();
        let tail = state.cut();
        let oldest = feeds.filter_map(Feed::node).min_by_key(|node| node.index);
        let mut batches = Vec::new();
        let mut place = oldest;
        while let Some(next) = place.and_then(|node| node.next.get()) {
            batches.push(SavedBatch::save(&next.batch));
            place = Some(&next.node);
        }
        SavedHub {
            next_id: state.next_id,
            next_seq: state.next_seq,
            first_index: oldest.map_or(tail.index, |node| node.index),
            batches,
        }
    }
}

impl SavedHub {
    /// A hub that goes on where the saved one stopped, still without clients, and the places they
    /// return to.
    pub(crate) fn restore(self, config: &Config) -> Result<(Arc<Hub>, Places), Inconsistent> {
        let last_index = self.first_index.checked_add(self.batches.len() as u64);
        if self.next_id == 0 || self.next_seq == 0 || last_index.is_none() {
            return Err(Inconsistent("a number is out of range"));
        }
        let hub = Hub::new(config);
        let mut state = hub.lock();
        state.next_id = self.next_id;
        state.next_seq = self.next_seq;
        state.tail = Node::new(self.first_index);
        let mut places = Places {
            first_index: self.first_index,
            nodes: vec![state.tail.clone()],
            unseen: std::array::from_fn(|_| vec![0]),
        };
        for saved in self.batches {
            let cost = saved.cost;
            let mut batch = saved.restore()?;
            places.see(batch.encodings);
            batch.charge = Some(hub.budget.charge(cost));
            state.link(batch);
            places.nodes.push(state.tail.clone());
        }
        drop(state);
        Ok((hub, places))
    }
}

impl<'a> SavedBatch<&'a Bytes> {
    fn save(batch: &'a Batch) -> SavedBatch<&'a Bytes> {
        let parts = batch.parts.iter();
        SavedBatch {
            first_seq: batch.first_seq,
            origins: batch.origins.to_vec(),
            parts: parts.map(|part| (part.kind, part.messages)).collect(),
            encodings: batch.encodings,
            cost: batch.charge.as_ref().map_or(0, |charge| charge.bytes()),
            text: SavedView::save(&batch.text),
            raw: SavedView::save(&batch.raw),
            crlf: batch.crlf.get().map(SavedView::save),
            json: batch.json.get().map(SavedView::save),
        }
    }
}

impl SavedBatch<ByteBuf> {
    fn restore(self) -> Result<Batch, Inconsistent> {
        let parts = self.origins.len();
        let messages = self.parts.iter().map(|(_, messages)| u64::from(*messages));
        let text = self.encodings.needs_text();
        let raw = self.encodings.needs_raw();
        if parts == 0 || self.parts.len() != parts {
            return Err(Inconsistent("a batch has no parts"));
        }
        Ok(Batch {
            first_seq: self.first_seq,
            messages: messages.sum(),
            encodings: self.encodings,
            text: self.text.restore(parts, text)?,
            raw: self.raw.restore(parts, raw)?,
            crlf: restore_made(self.crlf, parts)?,
            json: restore_made(self.json, parts)?,
            charge: None,
            origins: self.origins.into(),
            parts: self
                .parts
                .into_iter()
                .map(|(kind, messages)| Part { kind, messages })
                .collect(),
        })
    }
}

/// A view that the first client in need of it makes.
fn restore_made(
    saved: Option<SavedView<ByteBuf>>,
    parts: usize,
) -> Result<OnceLock<View>, Inconsistent> {
    Ok(match saved {
        Some(view) => OnceLock::from(view.restore(parts, true)?),
        None => OnceLock::new(),
    })
}

impl<'a> SavedView<&'a Bytes> {
    fn save(view: &'a View) -> SavedView<&'a Bytes> {
        SavedView {
            bytes: Bytes::new(&view.bytes),
            ends: view.ends.to_vec(),
        }
    }
}

impl SavedView<ByteBuf> {
    fn restore(self, parts: usize, needed: bool) -> Result<View, Inconsistent> {
        let rises = self.ends.is_sorted();
        let ends_there = self
            .ends
            .last()
            .is_none_or(|end| *end as usize == self.bytes.len());
        // What is not in use has no bytes, and may have no ends.
        let whole = self.ends.len() == parts || (!needed && self.ends.is_empty());
        if !(rises && ends_there && whole) {
            return Err(Inconsistent("the parts of a batch do not fit its bytes"));
        }
        Ok(View {
            bytes: self.bytes.into_vec().into(),
            ends: self.ends.into(),
        })
    }
}

impl Places {
    /// Notes in which encodings the next batch can be seen.
    fn see(&mut self, encodings: Encodings) {
        for encoding in Encoding::ALL {
            let seen = match encoding {
                Encoding::Text | Encoding::TextCrlf => encodings.needs_text(),
                Encoding::Json | Encoding::Raw => encodings.needs_raw(),
            };
            let before = &mut self.unseen[encoding as usize];
            let unseen = before.last().map_or(0, |count| *count) + u32::from(!seen);
            before.push(unseen);
        }
    }

    /// The node that a saved place is at; `None` when it was detached from the stream.
    fn find(&self, place: &SavedPlace) -> Result<Option<Arc<Node>>, Inconsistent> {
        let Some(index) = place.index else {
            return Ok(None);
        };
        let at = index.checked_sub(self.first_index);
        let at = at.and_then(|at| usize::try_from(at).ok());
        let Some((at, node)) = at.and_then(|at| Some((at, self.nodes.get(at)?))) else {
            return Err(Inconsistent("a client is outside the stream"));
        };
        let end = place.end.saturating_sub(self.first_index);
        let end =
            usize::try_from(end).map_or(self.nodes.len() - 1, |end| end.min(self.nodes.len() - 1));
        for encoding in [place.current, place.encoding] {
            let unseen = &self.unseen[encoding as usize];
            if at < end && unseen[at] != unseen[end] {
                return Err(Inconsistent(
                    "a client has a batch in no encoding of its own",
                ));
            }
        }
        let bytes = node
            .next
            .get()
            .map_or(0, |next| next.batch.view(place.current).bytes.len());
        if place.offset > bytes {
            return Err(Inconsistent("a client is beyond the end of a batch"));
        }
        Ok(Some(node.clone()))
    }

    /// Makes a client of the hub again, where it was. It has its old number and tells nobody.
    pub(crate) fn restore(&self, hub: &Arc<Hub>, saved: SavedFeed) -> Result<Feed, Inconsistent> {
        let cursor = self.find(&saved.place)?;
        if saved.id.0 == 0 || saved.id.0 >= hub.lock().next_id {
            return Err(Inconsistent("a client has a number that was never given"));
        }
        let position = cursor.as_ref().map_or(DETACHED, |node| node.index);
        let member = Arc::new(Member::new(saved.id, position));
        saved.tally.restore(&member.tally);
        if saved.leaving {
            member.set_leaving();
        }
        let mut state = hub.lock();
        let slot = hub.seat(&mut state, member.clone(), saved.place.encoding);
        let seat = &mut state.seats[slot];
        seat.input_done = saved.input_done;
        seat.left = saved.left;
        drop(state);
        Ok(Feed::restore(hub.clone(), member, slot, cursor, &saved))
    }
}

impl SavedFeed {
    /// Where a feed of this member is.
    pub(super) fn save(hub: &Hub, member: &Member, slot: usize, place: SavedPlace) -> SavedFeed {
        let seat = &hub.lock().seats[slot];
        SavedFeed {
            id: member.id,
            place,
            left: seat.left,
            leaving: member.leaving.load(Relaxed),
            input_done: seat.input_done,
            tally: SavedTally::save(&member.tally),
        }
    }
}

impl SavedTally {
    fn save(tally: &Tally) -> SavedTally {
        SavedTally {
            lines_in: tally.lines_in.get(),
            bytes_in: tally.bytes_in.get(),
            lines_out: tally.lines_out.get(),
            bytes_out: tally.bytes_out.get(),
            skipped: tally.skipped.get(),
        }
    }

    fn restore(&self, tally: &Tally) {
        tally.lines_in.add(self.lines_in);
        tally.bytes_in.add(self.bytes_in);
        tally.lines_out.add(self.lines_out);
        tally.bytes_out.add(self.bytes_out);
        tally.skipped.add(self.skipped);
    }
}
