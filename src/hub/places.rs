//! Where each client is in a stream that was put away for a handover, and its way back there.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::chain::Node;
use super::connection::{ConnectionInfo, ConnectionMeta};
use super::counters::TrafficTotals;
use super::encoding::Encoding;
use super::encodings::{Encodings, PerEncoding};
use super::feed::{Feed, SavedPlace};
use super::order::Hub;
use super::past::{Past, SavedPast};
use super::saved_batch::CorruptState;
use super::subscriber::{Commands, Condition, Subscriber};
use crate::net::peer::Peer;
use crate::wire::channel::ChannelName;
use crate::wire::close_reason::CloseReason;
use crate::wire::ids::ClientId;
use crate::wire::session::SessionKey;

/// No count gets so far; beyond it, counting on might overflow.
pub(super) const NUMBER_MAX: u64 = 1 << 60;

/// A client's end of the hub: its number, its counters and its place in the stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SavedFeed {
    id: ClientId,
    connection: ConnectionInfo,
    messages_before: u64,
    place: SavedPlace,
    /// Its disconnect notice is out.
    left: bool,
    /// Its close has a deadline.
    leaving: bool,
    input_done: bool,
    counters: TrafficTotals,
    /// Where it is in the history, if it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    past: Option<SavedPast>,
    /// Its session: the name, whether it is told what is stored, and what it was told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    session: Option<(SessionKey, bool, Option<u64>)>,
    /// Lines of it that are not in the order that all share yet, if it waits for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unshared: Option<u64>,
}

impl SavedFeed {
    /// How the client came, and to where.
    pub(crate) fn connection(&self) -> &ConnectionInfo {
        &self.connection
    }

    /// The channel that the client is in.
    pub(super) fn channel(&self) -> &ChannelName {
        &self.connection.channel
    }
}

/// The places of a stream that was taken up, for the clients to return to.
#[derive(Debug)]
pub(crate) struct Places {
    first_index: u64,
    /// Whether clients got what was their own.
    echo: bool,
    /// One before each batch, and the end.
    nodes: Vec<Arc<Node>>,
    /// For each encoding, how many of the batches before each place cannot be seen in it.
    unseen: PerEncoding<Vec<u32>>,
}

impl Places {
    /// Places in a stream that begins here; `echo` says whether clients got what was their own.
    pub(super) fn new(first: Arc<Node>, echo: bool) -> Places {
        Places {
            first_index: first.index,
            echo,
            nodes: vec![first],
            unseen: PerEncoding::from_fn(|_| vec![0]),
        }
    }

    /// Adds the place behind the next batch, which can be seen in these encodings.
    pub(super) fn push(&mut self, encodings: Encodings, node: Arc<Node>) {
        self.nodes.push(node);
        for encoding in Encoding::ALL {
            let seen = encodings.needs(encoding.source());
            let before = &mut self.unseen[encoding];
            let unseen = before.last().map_or(0, |count| *count) + u32::from(!seen);
            before.push(unseen);
        }
    }

    /// The node that a saved place is at; `None` when it was detached from the stream.
    fn find(&self, place: &SavedPlace) -> Result<Option<Arc<Node>>, CorruptState> {
        let Some(index) = place.index else {
            return Ok(None);
        };
        let at = index.checked_sub(self.first_index);
        let at = at.and_then(|at| usize::try_from(at).ok());
        let Some((at, node)) = at.and_then(|at| Some((at, self.nodes.get(at)?))) else {
            return Err(CorruptState("a client is outside the stream"));
        };
        let end = place.end.saturating_sub(self.first_index);
        let end =
            usize::try_from(end).map_or(self.nodes.len() - 1, |end| end.min(self.nodes.len() - 1));
        for encoding in [place.current, place.encoding] {
            let unseen = &self.unseen[encoding];
            if at < end && unseen[at] != unseen[end] {
                return Err(CorruptState(
                    "a client has a batch in no encoding of its own",
                ));
            }
        }
        let next = node.next.get().filter(|_| at < end);
        let bytes = next.map_or(0, |next| next.batch.view(place.current).bytes.len());
        let parts = next.map_or(0, |next| next.batch.parts.len());
        if place.offset > bytes || place.parts_before as usize > parts {
            return Err(CorruptState("a client is beyond the end of a batch"));
        }
        Ok(Some(node.clone()))
    }

    /// Makes a client of the hub again, where it was. It has its old number and tells nobody.
    pub(super) fn restore(&self, hub: &Arc<Hub>, saved: SavedFeed) -> Result<Feed, CorruptState> {
        let cursor = self.find(&saved.place)?;
        if saved.id.0 == 0 || saved.id.0 >= hub.shared.next_id() {
            return Err(CorruptState("a client has a number that was never given"));
        }
        if !saved.counters.are_below(NUMBER_MAX) {
            return Err(CorruptState("a client has counted beyond all numbers"));
        }
        let past = saved.past.as_ref();
        let told = saved.session.as_ref().and_then(|(.., told)| *told);
        if past.is_some_and(|past| !past.is_below(NUMBER_MAX))
            || told.max(saved.unshared) > Some(NUMBER_MAX)
        {
            return Err(CorruptState("a client is beyond all numbers"));
        }
        // As if it had always been as it is now, with as much still to come as there is.
        let messages_before = match (self.echo, hub.echo) {
            (false, true) => saved.messages_before.wrapping_add(saved.counters.lines_in),
            (true, false) => saved.messages_before.wrapping_sub(saved.counters.lines_in),
            _ => saved.messages_before,
        };
        let identity = saved.connection.identity.clone();
        let subscriber = Arc::new(Subscriber::new(
            saved.id,
            identity.is_some(),
            saved.session.is_some(),
        ));
        subscriber.counters.restore(saved.counters);
        if let Some(node) = &cursor {
            subscriber.move_to(node, saved.place.offset, saved.place.encoding);
        }
        if saved.leaving {
            subscriber.set(Condition::Leaving, true);
        }
        let mut state = hub.lock();
        let role = saved.connection.role;
        if cursor.is_some() && !role.subscribes() {
            return Err(CorruptState(
                "a client that only publishes is in the stream",
            ));
        }
        if role.subscribes() {
            state.count_encoding(saved.place.encoding, 1);
        }
        let mut meta =
            ConnectionMeta::new(&saved.connection, messages_before, &mut state.listeners);
        meta.skipped = saved.counters.skipped;
        let key = hub.insert_slot(
            &mut state,
            subscriber.clone(),
            saved.place.encoding,
            meta,
            identity,
        );
        let slot = &mut state.slots[key];
        slot.input_done = saved.input_done;
        slot.left = saved.left;
        let had_session = saved.session.is_some();
        let session = saved.session.and_then(|(name, acks, told)| {
            let recording = state.recording.as_mut()?;
            recording.sessions.give_back(name, key, acks, told)
        });
        if had_session && session.is_none() {
            // Nothing is kept any more, and what it sends would be counted by nobody.
            subscriber.command(Commands::close(CloseReason::SessionEnded));
        }
        let reader = state.recording.as_ref().map(|it| it.history.reader());
        drop(state);
        if let Some(lines) = saved.unshared {
            hub.count_unshared(key, saved.id, lines);
        }
        let mut feed = Feed::restore(
            hub.clone(),
            subscriber,
            key,
            cursor,
            &saved.place,
            saved.left,
            role,
        );
        feed.set_session(session);
        if let Some(past) = saved.past {
            let reader =
                reader.ok_or(CorruptState("a client reads a history that there is not"))?;
            feed.begin_past(Past::restore(reader, past));
        }
        Ok(feed)
    }
}

impl Feed {
    /// The other end of its client's connection.
    pub(crate) fn peer(&self) -> Peer {
        let state = self.hub.lock();
        let meta = &state.slots[self.key()].meta;
        meta.connection(&state.listeners, &self.hub.name, None).peer
    }

    /// Its client's end of the hub, for a handover. The client must not be running.
    pub(crate) fn save(&self) -> SavedFeed {
        let state = self.hub.lock();
        let slot = &state.slots[self.key()];
        SavedFeed {
            id: self.subscriber.id,
            connection: self.hub.connection_of(&state, self.key()),
            messages_before: slot.meta.messages_before,
            place: self.place(),
            left: slot.left,
            leaving: self.subscriber.is(Condition::Leaving),
            input_done: slot.input_done,
            counters: slot.totals(),
            past: self.saved_past(),
            session: self.saved_session(),
            unshared: state.unshared(self.subscriber.id),
        }
    }
}
