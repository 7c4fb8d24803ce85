//! Who is there and what went through, counted for whoever watches.
//!
//! Clients count for themselves, without a lock
//! ([`ClientCounters`](super::counters::ClientCounters)); what is added up and compared here is read
//! from them when somebody asks, so that counting costs the stream nothing more.

use std::ops::AddAssign;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::activity::Micros;
use super::chain::DETACHED;
use super::closed::{ByReason, ClosedClient};
use super::connection::ConnectionInfo;
use super::counters::TrafficTotals;
use super::order::{Hub, State};
use super::subscriber::{Condition, Slot};
use crate::wire::close_reason::CloseReason;
use crate::wire::ids::ClientId;

/// One channel in stats, or all of them together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct HubStats {
    /// Clients that have not left.
    pub(crate) clients: usize,
    /// Clients, and those that have left while output is pending for them.
    pub(crate) connections: usize,
    /// Clients that ever joined.
    pub(crate) joined: u64,
    /// Traffic of all clients that ever joined.
    pub(crate) totals: TrafficTotals,
    /// Messages that have a place in the one order.
    pub(crate) messages: u64,
    /// Notices that have a place in the one order.
    pub(crate) notices: u64,
    /// Lines that were dropped for being too long.
    pub(crate) discarded: u64,
    /// Reads that had to wait for a client's rates.
    pub(crate) throttled: u64,
    /// Lines that were thrown away, from clients that may not publish.
    pub(crate) ignored: u64,
    /// Clients that were closed, by the reason.
    pub(crate) closed: ByReason,
    /// Bytes in the buffer, and how many it may hold.
    pub(crate) buffer_used: usize,
    /// See `buffer_used`.
    pub(crate) buffer_limit: usize,
    /// Senders that wait for the buffer now.
    pub(crate) senders_waiting: usize,
    /// Time that senders waited for the buffer so far, added up.
    pub(crate) waited: Duration,
}

/// One client in stats.
#[derive(Clone, Debug)]
pub(crate) struct ClientStats {
    pub(crate) id: ClientId,
    pub(crate) connection: ConnectionInfo,
    pub(crate) totals: TrafficTotals,
    /// Bytes pending for the client, in its encoding; its own lines between them count too.
    pub(crate) bytes_pending: u64,
    /// Messages it is still to get. Those of a batch that it has a part of count as if it had none.
    pub(crate) messages_behind: u64,
    /// For how long it has neither sent nor taken a byte; seen to about an eighth of a second, and only
    /// since the last handover.
    pub(crate) idle: Duration,
    /// It has left, and is still owed something: at most what is said to wait for it.
    pub(crate) leaving: bool,
    /// It has something to send, and its rates make it wait.
    pub(crate) throttled: bool,
    /// It reads from the history now.
    pub(crate) catching_up: bool,
}

impl AddAssign for HubStats {
    fn add_assign(&mut self, other: HubStats) {
        self.clients += other.clients;
        self.connections += other.connections;
        self.joined += other.joined;
        self.totals.add(other.totals);
        self.messages += other.messages;
        self.notices += other.notices;
        self.discarded += other.discarded;
        self.throttled += other.throttled;
        self.ignored += other.ignored;
        self.closed += other.closed;
        self.buffer_used += other.buffer_used;
        self.buffer_limit += other.buffer_limit;
        self.senders_waiting += other.senders_waiting;
        self.waited += other.waited;
    }
}

impl HubStats {
    /// What goes on counting when the channel is no more.
    pub(super) fn counters(self) -> HubStats {
        HubStats {
            clients: 0,
            connections: 0,
            buffer_used: 0,
            buffer_limit: 0,
            senders_waiting: 0,
            ..self
        }
    }
}

impl HubStats {
    /// Whether all that goes on counting is below `limit`, and no sum of it can overflow.
    pub(super) fn are_below(&self, limit: u64) -> bool {
        let numbers = [
            self.joined,
            self.messages,
            self.notices,
            self.discarded,
            self.throttled,
            self.ignored,
        ];
        let counts = self.closed.counts().chain(numbers);
        self.totals.are_below(limit)
            && counts.max().is_none_or(|most| most < limit)
            && self.waited < Duration::from_nanos(limit)
    }
}

impl Hub {
    /// Clients that have not left.
    pub(crate) fn clients(&self) -> usize {
        self.lock()
            .slots
            .iter()
            .filter(|(_, slot)| !slot.left)
            .count()
    }

    /// What went through so far. Takes the lock that every publish takes for one look at each client.
    pub(crate) fn stats(&self) -> HubStats {
        let buffer = self.budget.stats();
        let state = self.lock();
        let mut stats = HubStats {
            connections: state.slots.len(),
            joined: state.joined,
            totals: state.departed,
            messages: state.messages,
            notices: (state.next_seq - 1).saturating_sub(state.messages),
            discarded: self.discarded.load(Relaxed),
            throttled: self.throttled.load(Relaxed),
            ignored: self.ignored.load(Relaxed),
            closed: state.closed,
            buffer_used: buffer.used,
            buffer_limit: buffer.limit,
            senders_waiting: buffer.waiting + state.senders_storing(),
            waited: buffer.waited,
            ..HubStats::default()
        };
        for (_, slot) in &state.slots {
            stats.clients += usize::from(!slot.left);
            stats.totals.add(slot.totals());
        }
        stats
    }

    /// Every client, those that are still owed something after they have left among them, in no
    /// particular order. Takes the lock that every publish takes for one look at each client.
    pub(crate) fn client_stats(&self) -> Vec<ClientStats> {
        let now = self.shared.moment();
        let mut state = self.lock();
        // What is being assembled waits for clients too.
        state.flush();
        let all = state.slots.iter();
        all.map(|(key, slot)| self.stats_of(&state, key, slot, now))
            .collect()
    }

    /// What would be different if anything had happened.
    #[cfg(debug_assertions)]
    pub(crate) fn traces(&self) -> String {
        let stats = self.stats();
        let version = self.version();
        format!(
            "version {version}, {:?}",
            HubStats {
                waited: Duration::ZERO,
                ..stats
            }
        )
    }

    fn stats_of(&self, state: &State, key: usize, slot: &Slot, now: Micros) -> ClientStats {
        let totals = slot.totals();
        let (bytes_pending, messages_behind) = self.owed(state, slot, &totals);
        let moved = totals.bytes_in.wrapping_add(totals.bytes_out);
        let still_since = slot.meta.activity.still_since(moved).unwrap_or(now);
        ClientStats {
            id: slot.subscriber.id,
            connection: self.connection_of(state, key),
            totals,
            bytes_pending,
            messages_behind,
            idle: now.since(still_since),
            leaving: slot.left,
            throttled: slot.subscriber.is(Condition::Throttled),
            catching_up: slot.subscriber.is(Condition::CatchingUp),
        }
    }

    /// How the client in `key` came.
    pub(super) fn connection_of(&self, state: &State, key: usize) -> ConnectionInfo {
        let identity = state.identities.get(&key);
        let meta = &state.slots[key].meta;
        meta.connection(&state.listeners, &self.name, identity)
    }

    /// The bytes and the messages that wait for a client.
    fn owed(&self, state: &State, slot: &Slot, totals: &TrafficTotals) -> (u64, u64) {
        let subscriber = &slot.subscriber;
        let (mut bytes_pending, mut messages_behind) = (0, 0);
        let position = subscriber.position.load(Relaxed);
        let is_in_past = subscriber.is(Condition::CatchingUp);
        if position < state.tail.cost_before && !is_in_past {
            let lead = subscriber.lead.load(Relaxed);
            let end = state.tail.sizes_before.of(slot.encoding);
            bytes_pending = end.wrapping_sub(lead.wrapping_add(totals.bytes_out));
            if bytes_pending > end {
                // It moved on between two of these looks, and has everything.
                bytes_pending = 0;
            }
        }
        if position < state.tail.cost_before || is_in_past {
            let own = if self.echo { 0 } else { totals.lines_in };
            messages_behind = state
                .messages
                .wrapping_sub(slot.meta.messages_before)
                .saturating_sub(own)
                .saturating_sub(totals.lines_out)
                .saturating_sub(totals.skipped);
        }
        debug_assert!(position <= state.tail.cost_before || position == DETACHED);
        (bytes_pending, messages_behind)
    }

    /// The client in `key` takes no more from the stream: what it was owed is remembered.
    pub(super) fn note_detached(&self, key: usize) {
        let mut state = self.lock();
        state.flush();
        let slot = &state.slots[key];
        let owed = self.owed(&state, slot, &slot.totals());
        if owed != (0, 0) {
            state.pending.insert(key, owed);
        }
    }

    /// The connection of the client in `key` ends, for this reason. Returns what went through it.
    pub(super) fn note_closed(&self, key: usize, reason: CloseReason) -> TrafficTotals {
        let mut state = self.lock();
        let (bytes_pending, messages_behind) = state.pending.remove(&key).unwrap_or_default();
        let slot = &state.slots[key];
        let totals = slot.totals();
        let client = ClosedClient {
            id: slot.subscriber.id,
            connection: self.connection_of(&state, key),
            totals,
            reason,
            at: SystemTime::now(),
            bytes_pending,
            messages_behind,
        };
        state.closed[reason] += 1;
        drop(state);
        self.shared.closed.lock().push(client);
        totals
    }

    /// The client in `key` missed so many messages.
    pub(super) fn note_skipped(&self, key: usize, missed: u64) {
        self.lock().slots[key].meta.skipped += missed;
    }
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;
    use std::sync::Arc;
    use std::task::{Context, Waker};

    use super::super::closed::CLOSED_MAX;
    use super::super::feed::Feed;
    use super::super::snapshot::SavedHub;
    use super::*;
    use crate::config::Config;
    use crate::config::cli::Options;
    use crate::wire::format::Format;
    use crate::wire::framing::Lines;

    fn hub() -> Arc<Hub> {
        Hub::new(&Config::from_options(&Options::default(), 1024).unwrap())
    }

    fn join(hub: &Arc<Hub>, format: Format) -> Feed {
        hub.join(ConnectionInfo::test(format))
    }

    fn publish(feed: &mut Feed, rest: &[u8]) {
        let lines = Lines {
            rest,
            ..Lines::default()
        };
        feed.publish(None, &lines);
    }

    /// Takes at most so many bytes, of which it is shown one slice at a time.
    fn take(feed: &mut Feed, mut most: usize) -> usize {
        let mut taken = 0;
        let mut cx = Context::from_waker(Waker::noop());
        while most > 0 && feed.poll_more(&mut cx).is_ready() {
            let mut slices = [IoSlice::new(&[])];
            feed.gather(&mut slices);
            let some = slices[0].len().min(most);
            feed.advance(some);
            most -= some;
            taken += some;
        }
        taken
    }

    fn of(hub: &Hub, feed: &Feed) -> ClientStats {
        let all = hub.client_stats();
        assert!(all.iter().all(|one| !one.leaving));
        let this = all.into_iter().find(|one| one.id == feed.subscriber().id);
        this.expect("it has not left")
    }

    /// Bytes pending and messages behind.
    fn waits(hub: &Hub, feed: &Feed) -> (u64, u64) {
        let stats = of(hub, feed);
        (stats.bytes_pending, stats.messages_behind)
    }

    #[test]
    fn what_waits_is_counted_to_the_byte_and_to_the_message() {
        for format in Format::ALL {
            let hub = hub();
            let mut reader = join(&hub, format);
            let mut sender = join(&hub, Format::Text);
            take(&mut reader, usize::MAX);
            take(&mut sender, usize::MAX);
            assert_eq!(waits(&hub, &reader), (0, 0), "{format}");

            publish(&mut sender, b"one\ntwo\n");
            publish(&mut sender, &b"a longer line\n".repeat(1000));
            assert_eq!(waits(&hub, &reader).1, 1002, "{format}");
            let half = take(&mut reader, 7000) as u64;
            let (pending, behind) = waits(&hub, &reader);
            assert_eq!(
                behind, 1000,
                "{format}: the first batch is through, the second is not"
            );
            let rest = take(&mut reader, usize::MAX) as u64;
            // The numbers in json are counted at their longest beforehand.
            let slack = if format == Format::Json { 20 * 1002 } else { 0 };
            assert!(
                (rest..=rest + slack).contains(&pending),
                "{format}: {half} and {rest}, not {pending}"
            );
            assert_eq!(waits(&hub, &reader), (0, 0), "{format}");
            // Its own lines do not wait for the sender.
            take(&mut sender, usize::MAX);
            assert_eq!(waits(&hub, &sender), (0, 0), "{format}");
        }
    }

    #[test]
    fn own_lines_leave_a_client_behind_by_the_others_alone() {
        let hub = hub();
        let mut one = join(&hub, Format::Raw);
        let mut two = join(&hub, Format::Raw);
        publish(&mut one, b"mine\n");
        publish(&mut two, b"yours\nand more\n");
        publish(&mut one, b"mine\n");
        assert_eq!(waits(&hub, &one).1, 2);
        assert_eq!(waits(&hub, &two).1, 2);
        one.skip();
        assert_eq!(waits(&hub, &one), (0, 0));
        assert_eq!(of(&hub, &one).totals.skipped, 2);
        assert_eq!(hub.stats().messages, 4);
        assert_eq!(hub.stats().notices, 2);
    }

    #[test]
    fn what_a_closed_client_never_got_is_remembered() {
        let hub = hub();
        let mut reader = join(&hub, Format::Raw);
        let mut sender = join(&hub, Format::Raw);
        publish(&mut sender, b"one\ntwo\n");
        reader.leave();
        assert!(hub.client_stats().iter().any(|one| one.leaving));
        reader.detach();
        reader.closed(CloseReason::Slow);
        let (latest, _) = hub.shared.closed.lock().page(0, 1);
        assert_eq!((latest[0].bytes_pending, latest[0].messages_behind), (8, 2));
    }

    #[test]
    fn change_to_crlf_goes_on_counting() {
        let hub = hub();
        let mut reader = join(&hub, Format::Text);
        let mut sender = join(&hub, Format::Text);
        publish(&mut sender, b"before\n");
        take(&mut reader, usize::MAX);
        reader.use_crlf();
        publish(&mut sender, b"after\n");
        let line = "Message from client 2: after\r\n";
        assert_eq!(waits(&hub, &reader), (line.len() as u64, 1));
        take(&mut reader, usize::MAX);
        assert_eq!(waits(&hub, &reader), (0, 0));
    }

    #[test]
    fn only_the_last_closed_clients_are_remembered_and_all_are_counted() {
        let hub = hub();
        for _ in 0..CLOSED_MAX + 3 {
            join(&hub, Format::Raw).closed(CloseReason::Eof);
        }
        join(&hub, Format::Raw).closed(CloseReason::Slow);
        let (page, all) = hub.shared.closed.lock().page(1, 2);
        assert_eq!(all, CLOSED_MAX);
        let ids: Vec<u64> = page.iter().map(|client| client.id.0).collect();
        assert_eq!(ids, [1003, 1002]);
        let (latest, _) = hub.shared.closed.lock().page(0, 1);
        assert_eq!(latest[0].reason, CloseReason::Slow);
        let stats = hub.stats();
        assert_eq!(stats.closed[CloseReason::Eof], 1003);
        assert_eq!(stats.closed.counts().sum::<u64>(), stats.joined);
    }

    #[test]
    fn restored_hub_counts_on() {
        let hub = hub();
        let mut reader = join(&hub, Format::Text);
        let mut sender = join(&hub, Format::Raw);
        take(&mut reader, usize::MAX);
        publish(&mut sender, b"one\n");
        publish(&mut sender, b"two\n");
        take(&mut reader, 3);
        drop(join(&hub, Format::Text));
        let before = (hub.stats(), waits(&hub, &reader));
        let saved = SavedHub::save(&hub, [&reader, &sender].into_iter());
        let saved = rmp_serde::to_vec_named(&saved).unwrap();
        let saved: SavedHub = rmp_serde::from_slice(&saved).unwrap();
        let config = Config::from_options(&Options::default(), 1024).unwrap();
        let (next, places) = saved.restore(&config, &Arc::default()).unwrap();
        let again = places.restore(&next, reader.save()).unwrap();
        let _sender = places.restore(&next, sender.save()).unwrap();
        let (stats, (pending, behind)) = before;
        assert_eq!(next.stats(), stats);
        // That it had three bytes of the batch is known, and counted.
        assert_eq!(waits(&next, &again), (pending, behind));
    }
}
