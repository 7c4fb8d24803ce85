//! Who comes to a channel and who goes: slots, notices, and the encodings that are in use.

use std::mem;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::connection::{ConnectionInfo, ConnectionMeta};
use super::encoding::Encoding;
use super::encodings::Encodings;
use super::entry::{Joined, SessionTaken, StartingPoint};
use super::feed::{Feed, JoinPoint};
use super::order::{Hub, Phase, State};
use super::part::Kind;
use super::past::Past;
use super::subscriber::{Slot, Subscriber};
use crate::config::Identity;
use crate::wire::format::Notice;
use crate::wire::hello::Answer;
use crate::wire::ids::{ClientId, Seq};

/// Numbers at the begin of a history that may have to go for what is published but not in it yet.
const AT_RISK: u64 = 4096;

impl Hub {
    /// Makes a connection a client.
    #[cfg(test)]
    pub(crate) fn join(self: &Arc<Hub>, connection: ConnectionInfo) -> Feed {
        let joined = self.join_at(connection, StartingPoint::default());
        joined.expect("without a session, anybody may join").feed
    }

    /// Makes a connection a client, which begins where `entry` says: gives it the next id and tells everybody.
    ///
    /// # Errors
    /// Another connection has claimed its session since.
    pub(crate) fn join_at(
        self: &Arc<Hub>,
        connection: ConnectionInfo,
        entry: StartingPoint,
    ) -> Result<Joined, SessionTaken> {
        let encoding = Encoding::of(connection.format, connection.transport);
        let mut state = self.lock();
        let session = match &entry.claim {
            None => None,
            Some(claim) => {
                let key = state.slots.vacant_key();
                let sessions = state.recording.as_mut().map(|it| &mut it.sessions);
                let session = sessions.and_then(|them| {
                    them.give(
                        (&claim.name, claim.number),
                        key,
                        entry.acks,
                        encoding.is_raw(),
                    )
                });
                Some(session.ok_or(SessionTaken)?)
            }
        };
        let id = self.shared.take_id();
        state.joined += 1;
        let subscribes = connection.role.subscribes();
        if subscribes {
            state.count_encoding(encoding, 1);
        }
        let start = state.start();
        let next = Seq(state.next_seq);
        let identity = connection.identity.clone();
        let subscriber = Subscriber::new(id, identity.is_some(), session.is_some());
        let subscriber = Arc::new(subscriber);
        let meta = ConnectionMeta::new(&connection, 0, &mut state.listeners);
        if subscribes {
            subscriber.move_to(&start.node, 0, encoding);
        }
        let key = self.insert_slot(&mut state, subscriber.clone(), encoding, meta, identity);
        let mut own_end = 0;
        let is_said = state.settings.notices;
        if is_said {
            if let Some(outbox) = &mut state.outbox {
                outbox.own.join(id);
            }
            own_end = self.notify(&mut state, Kind::Notice(Notice::Connect), id, key) + 1;
        }
        let (past, is_whole) = state.begin_past(&entry, next, subscribes);
        let first = match &past {
            Some(past) => past.next,
            None if subscribes => next,
            // Nothing follows for it: a place that holds whatever becomes of the daemon.
            None => {
                let recording = state.recording.as_ref();
                recording.map_or(next, |it| it.history.next().min(next))
            }
        };
        let answer = Answer {
            client: id,
            epoch: self.epoch(),
            channel: self.name.clone(),
            seq: Seq(first.0 - 1),
            recovered: entry.recovered.map(|recovered| recovered && is_whole),
            taken: session.as_ref().map(|session| session.taken),
            echo: self.echo,
            role: None,
        };
        let ahead = state.recording.as_ref().map_or(0, |recording| {
            let ahead = recording.ledger.messages(first.0, next.0);
            let missed = past.as_ref().map_or(entry.missed, |past| past.missed);
            ahead.unwrap_or(next.0 - first.0) + missed
        });
        state.slots[key].meta.messages_before = state.messages.saturating_sub(ahead);
        if is_said {
            self.release_and_wake(state, key);
        } else {
            drop(state);
        }
        let (hub, role) = (self.clone(), connection.role);
        let mut feed = Feed::new(hub, subscriber, key, start, own_end, encoding, role);
        feed.set_session(session);
        if let Some(past) = past {
            feed.begin_past(past);
        }
        Ok(Joined { feed, answer })
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
    pub(super) fn leave(self: &Arc<Hub>, key: usize, id: ClientId) -> Option<u64> {
        let mut state = self.lock();
        state.slots[key].left = true;
        self.finish_input(&mut state, key);
        if state.phase == Phase::Sealed {
            return None;
        }
        let is_said = match &mut state.outbox {
            // Another node may be about to say so.
            Some(outbox) => outbox.leave(id),
            None => state.settings.notices,
        };
        if !is_said {
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
        let sessions = state.recording.as_mut().map(|it| &mut it.sessions);
        if let Some((name, claim)) = sessions.and_then(|them| them.leave(key)) {
            self.queue_claim(&mut state, &name, claim, true);
        }
        let slot = state.slots.remove(key);
        if let Some(outbox) = &mut state.outbox {
            outbox.waiting.remove(&slot.subscriber.id);
        }
        state.departed.add(slot.totals());
        state.unpark(&slot);
        if slot.meta.role.subscribes() {
            state.count_encoding(slot.encoding, -1);
        }
        if state.slots.is_empty() {
            match state.recording {
                // It has numbers, which what comes next goes on from.
                Some(_) => drop(state.flush()),
                // Nobody will come for it.
                None => state.builder.clear(),
            }
            if self.is_open.load(Relaxed) {
                self.shared.note_unused();
            }
        }
        self.active_encodings_changed(&mut state);
    }

    /// Clients, or their encodings, have changed: what a read is prepared in and charged for.
    pub(super) fn active_encodings_changed(&self, state: &mut State) {
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
        let is_heard = self.slots.len() > 1 || echo;
        if is_heard || self.recording.is_some() || self.outbox.is_some() {
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

    /// What a client gets of the past that joins with this number, once it is announced; and whether that is all that
    /// it asked for. What is published is in the history by then, as far as that may push out of it what is to come.
    fn begin_past(
        &mut self,
        entry: &StartingPoint,
        next: Seq,
        subscribes: bool,
    ) -> (Option<Past>, bool) {
        // Who has missed something is told, even if nothing is left.
        let from = entry.from.filter(|from| *from < next || entry.missed > 0);
        let Some(from) = from else {
            return (None, true);
        };
        let history = self.recording.as_ref().map(|it| it.history.clone());
        // Without a history, what was published since is lost to it.
        let Some(history) = history.filter(|_| subscribes) else {
            return (None, false);
        };
        if from.0 < history.oldest().0 + AT_RISK {
            self.flush();
        }
        let first = from.max(history.oldest().min(next));
        let recording = self.recording.as_ref();
        let gone = recording.and_then(|it| it.ledger.messages(from.0, first.0));
        // Who asks for the newest gets those that there are.
        let gone = entry
            .recovered
            .map_or(0, |_| gone.unwrap_or(first.0 - from.0));
        if first == next && entry.missed + gone == 0 {
            return (None, from == first);
        }
        let notices_from = if entry.with_notices { Seq(0) } else { next };
        let mut past = Past::new(history.reader(), first, next, notices_from);
        past.miss_already(entry.missed + gone);
        (Some(past), from == first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::config::cli::Options;
    use crate::wire::format::Format;
    use crate::wire::framing::Lines;

    #[test]
    fn what_the_last_client_published_is_kept() {
        let mut config = Config::from_options(&Options::default(), 1024).unwrap();
        config.history_bytes = 1 << 20;
        // Without options of its own, the channel goes by those of all.
        config.channels.clear();
        let hub = Hub::new(&config);
        let mut feed = hub.join(ConnectionInfo::test(Format::Raw));
        let lines = Lines {
            rest: b"the last\n",
            ..Lines::default()
        };
        feed.publish(None, &lines);
        drop(feed);
        let history = hub.history().unwrap();
        assert_eq!(history.next(), hub.next_seq());
        assert_eq!(history.records().last().unwrap().next_seq(), hub.next_seq());
    }
}
