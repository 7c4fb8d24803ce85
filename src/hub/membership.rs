//! Who comes to a channel and who goes: slots, notices, and the encodings that are in use.

use std::mem;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::connection::{ConnectionInfo, ConnectionMeta};
use super::encoding::{Encoding, Encodings};
use super::feed::{Feed, JoinPoint};
use super::order::{Hub, Phase, State};
use super::part::Kind;
use super::subscriber::{Slot, Subscriber};
use crate::config::Identity;
use crate::wire::format::Notice;
use crate::wire::ids::{ClientId, Seq};

impl Hub {
    /// Makes a connection a client.
    #[cfg(test)]
    pub(crate) fn join(self: &Arc<Hub>, connection: ConnectionInfo) -> Feed {
        self.join_behind(connection).0
    }

    /// Makes a connection a client: gives it the next id and tells everybody. Returns also the number of
    /// the last message or notice before all that the client gets.
    pub(crate) fn join_behind(self: &Arc<Hub>, connection: ConnectionInfo) -> (Feed, Seq) {
        let encoding = Encoding::from(connection.format);
        let mut state = self.lock();
        let id = self.shared.take_id();
        state.joined += 1;
        let subscribes = connection.role.subscribes();
        if subscribes {
            state.count_encoding(encoding, 1);
        }
        let start = state.start();
        let before = Seq(state.next_seq - 1);
        let identity = connection.identity.clone();
        let subscriber = Arc::new(Subscriber::new(id, identity.is_some()));
        let messages_before = state.messages;
        let meta = ConnectionMeta::new(&connection, messages_before, &mut state.listeners);
        if subscribes {
            subscriber.move_to(&start.node, 0, encoding);
        }
        let key = self.insert_slot(&mut state, subscriber.clone(), encoding, meta, identity);
        let mut own_end = 0;
        if state.settings.notices {
            own_end = self.notify(&mut state, Kind::Notice(Notice::Connect), id, key) + 1;
            self.release_and_wake(state, key);
        }
        let (hub, role) = (self.clone(), connection.role);
        let feed = Feed::new(hub, subscriber, key, start, own_end, encoding, role);
        (feed, before)
    }

    /// Gives a client its slot. Its encoding has been counted, if it subscribes.
    pub(super) fn insert_slot(
        &self,
        state: &mut State,
        subscriber: Arc<Subscriber>,
        encoding: Encoding,
        meta: ConnectionMeta,
        identity: Option<Arc<Identity>>,
    ) -> usize {
        let key = state.slots.insert(Slot {
            subscriber,
            encoding,
            parked: (0, 0),
            meta: Box::new(meta),
            input_done: false,
            left: false,
        });
        if let Some(identity) = identity {
            state.identities.insert(key, identity);
        }
        self.active_encodings_changed(state);
        key
    }

    /// Tells everybody that the client in `key` is gone. Returns the index its own parts end
    /// before, if that adds one.
    pub(super) fn leave(&self, key: usize, id: ClientId) -> Option<u64> {
        let mut state = self.lock();
        state.slots[key].left = true;
        self.finish_input(&mut state, key);
        if !state.settings.notices || state.phase == Phase::Sealed {
            return None;
        }
        let own = self.notify(&mut state, Kind::Notice(Notice::Disconnect), id, key);
        self.release_and_wake(state, key);
        Some(own + 1)
    }

    /// Whether nobody is in it, nor owed anything.
    pub(super) fn has_no_clients(&self) -> bool {
        self.lock().slots.is_empty()
    }

    /// Gives the slot of a client back.
    pub(super) fn remove(&self, key: usize) {
        let mut state = self.lock();
        self.finish_input(&mut state, key);
        state.pending.remove(&key);
        state.identities.remove(&key);
        let slot = state.slots.remove(key);
        state.departed.add(slot.totals());
        state.unpark(&slot);
        if slot.meta.role.subscribes() {
            state.count_encoding(slot.encoding, -1);
        }
        if state.slots.is_empty() {
            // Nobody will come for it.
            state.builder.clear();
            if self.is_open.load(Relaxed) {
                self.shared.note_unused();
            }
        }
        self.active_encodings_changed(&mut state);
    }

    /// Clients, or their encodings, have changed: what a read is prepared in and charged for.
    fn active_encodings_changed(&self, state: &mut State) {
        let active_encodings = state.active_encodings(self.echo);
        self.active_encodings.store(active_encodings.0, Relaxed);
        let expansion = active_encodings.expansion(!state.identities.is_empty());
        if mem::replace(&mut state.expansion, expansion) != expansion {
            self.budget.set_expansion(expansion);
        }
    }

    pub(super) fn finish_input(&self, state: &mut State, key: usize) {
        let done = mem::replace(&mut state.slots[key].input_done, true);
        if !done && state.phase == Phase::Draining {
            state.draining -= 1;
            if state.draining == 0 {
                self.drained.notify_one();
            }
        }
    }

    pub(super) fn change_encoding(&self, key: usize, to: Encoding) {
        let mut state = self.lock();
        let slot = &mut state.slots[key];
        let from = mem::replace(&mut slot.encoding, to);
        if !slot.meta.role.subscribes() {
            return;
        }
        state.count_encoding(from, -1);
        state.count_encoding(to, 1);
        self.active_encodings_changed(&mut state);
    }
}

impl State {
    /// The encodings that what is published now has to be in; none when nobody would hear it.
    pub(super) fn active_encodings(&self, echo: bool) -> Encodings {
        if self.slots.len() > 1 || echo {
            self.encodings
        } else {
            Encodings::default()
        }
    }

    /// Counts a client more or less with this encoding.
    pub(super) fn count_encoding(&mut self, encoding: Encoding, change: isize) {
        let count = &mut self.encoded[encoding];
        *count = count.wrapping_add_signed(change);
        let encodings = match *count {
            0 => self.encodings.without(encoding),
            _ => self.encodings.with(encoding),
        };
        if encodings != self.encodings {
            // A batch is in the same encodings throughout.
            self.flush();
            self.encodings = encodings;
        }
    }

    /// The end of all that was published, for a client to start from.
    ///
    /// Notices are not cut off for that: those of all who join in one turn of an accept loop go out
    /// as one batch. Behind messages a batch begins, which keeps the counting of them simple.
    pub(super) fn start(&mut self) -> JoinPoint {
        let parts_before = self.builder.notices_only().unwrap_or_else(|| {
            self.flush();
            0
        });
        JoinPoint {
            node: self.tail.clone(),
            parts_before,
        }
    }
}
