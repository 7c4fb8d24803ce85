//! The hub of a channel put away for a handover, and taken up again: numbers and batches.
//!
//! Batches are kept as their bytes in every encoding that was made of them ([`SavedBatch`]), so that a
//! client which has half of one goes on at the same byte, whatever the next daemon would have made of
//! it. Where each client is in them is in [`Places`].

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::chain::Node;
use super::closed::{ByReason, LastClosed};
use super::cluster::saved::SavedMember;
use super::counters::TrafficTotals;
use super::epoch::new_epoch;
use super::feed::Feed;
use super::history::disk::SavedRecords;
use super::order::Hub;
use super::places::{NUMBER_MAX, Places};
use super::saved_batch::{CorruptState, SavedBatch};
use super::sessions::SavedSession;
use super::shared::Shared;
use crate::config::Config;
use crate::wire::channel::ChannelName;
use crate::wire::ids::Epoch;

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Everything in the hub that outlives a daemon.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SavedHub {
    #[serde(default = "ChannelName::main")]
    name: ChannelName,
    #[serde(default = "new_epoch")]
    epoch: Epoch,
    /// Clients opened the channel.
    #[serde(default)]
    is_open: bool,
    /// The number that the next client gets, in whatever channel.
    next_id: u64,
    /// Clients that ever joined; before there were channels, as many as had numbers.
    #[serde(default)]
    joined: Option<u64>,
    next_seq: u64,
    /// Whether clients got what was their own.
    echo: bool,
    messages: u64,
    departed: TrafficTotals,
    closed: SavedClosed,
    waited: Duration,
    /// Lines that were dropped for being too long.
    #[serde(default)]
    discarded: u64,
    /// Reads that had to wait for a client's rates; left out where there were none, as before there were rates.
    #[serde(default, skip_serializing_if = "is_zero")]
    throttled: u64,
    /// Lines that were thrown away, from clients that may not publish.
    #[serde(default)]
    ignored: u64,
    /// The index of the first batch.
    first_index: u64,
    /// What some client has still to get, oldest first.
    batches: Vec<SavedBatch>,
    /// What is kept, if anything is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    history: Option<SavedHistory>,
    /// What it was in a channel that other daemons share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    member: Option<SavedMember>,
}

/// The history of a channel.
#[derive(Debug, Default, Serialize, Deserialize)]
struct SavedHistory {
    /// What is kept in memory.
    records: SavedRecords,
    sessions: Vec<SavedSession>,
    /// How many of the last batches are still to be stored.
    pending: usize,
    /// It is kept on disk.
    #[serde(default)]
    is_on_disk: bool,
}

/// Clients that were closed.
#[derive(Debug, Serialize, Deserialize)]
struct SavedClosed {
    by_reason: ByReason,
    /// The last ones of all channels, with `main`.
    last: LastClosed,
}

impl SavedHub {
    /// What the hub holds and these feeds may still need. No client of it may be running.
    pub(crate) fn save<'a>(hub: &Hub, feeds: impl Iterator<Item = &'a Feed>) -> SavedHub {
        let mut state = hub.lock();
        state.flush();
        let end = state.readable_end().index;
        let oldest = feeds.filter_map(Feed::node).min_by_key(|node| node.index);
        let mut batches = Vec::new();
        let mut place = oldest;
        while let Some(next) = place.and_then(|node| node.next.get()) {
            batches.push(SavedBatch::save(&next.batch));
            place = Some(&next.node);
        }
        let history = state.recording.as_ref().map(|recording| {
            let pending = recording.pending.iter();
            batches.extend(pending.map(|it| SavedBatch::save(&it.link.batch)));
            SavedHistory {
                records: SavedRecords(recording.history.records()),
                sessions: recording.sessions.save(),
                pending: recording.pending.len(),
                is_on_disk: recording.history.is_on_disk(),
            }
        });
        let last = if hub.name == ChannelName::main() {
            hub.shared.closed.lock().clone()
        } else {
            LastClosed::default()
        };
        SavedHub {
            name: hub.name.clone(),
            epoch: hub.epoch(),
            is_open: hub.is_open.load(Relaxed),
            next_id: hub.shared.next_id(),
            joined: Some(state.joined),
            next_seq: state.next_seq,
            echo: hub.echo,
            messages: state.messages,
            departed: state.departed,
            closed: SavedClosed {
                by_reason: state.closed,
                last,
            },
            waited: hub.budget.stats().waited,
            discarded: hub.discarded.load(Relaxed),
            throttled: hub.throttled.load(Relaxed),
            ignored: hub.ignored.load(Relaxed),
            first_index: oldest.map_or(end, |node| node.index),
            batches,
            history,
            member: hub.take_saved_member(),
        }
    }

    /// A hub that goes on where the saved one stopped, still without clients, and the places they
    /// return to. It shares `shared` with those of other channels.
    pub(super) fn restore(
        self,
        config: &Config,
        shared: &Arc<Shared>,
    ) -> Result<(Arc<Hub>, Places), CorruptState> {
        let costs = self.batches.iter().map(|batch| batch.cost as u64);
        let numbers = [self.first_index, costs.fold(0, u64::saturating_add)];
        let joined = self.joined.unwrap_or(self.next_id.saturating_sub(1));
        let counted = [self.next_id, self.next_seq];
        if numbers
            .iter()
            .chain(&counted)
            .any(|number| *number > NUMBER_MAX)
            || counted.contains(&0)
            || self.messages >= self.next_seq
            || !self.departed.are_below(NUMBER_MAX)
            || joined >= self.next_id
            || self
                .closed
                .by_reason
                .counts()
                .any(|count| count > NUMBER_MAX)
            || self.discarded > NUMBER_MAX
            || self.throttled > NUMBER_MAX
            || self.ignored > NUMBER_MAX
            || self.waited > Duration::from_nanos(NUMBER_MAX)
            || !self.batches.iter().all(|batch| batch.is_below(NUMBER_MAX))
        {
            return Err(CorruptState("a number is out of range"));
        }
        shared.skip_ids_to(self.next_id);
        shared.closed.lock().append(self.closed.last);
        let hub = Arc::new(Hub::of_channel(
            self.name,
            self.epoch,
            shared.clone(),
            config,
        ));
        hub.is_open.store(self.is_open, Relaxed);
        let mut state = hub.lock();
        state.joined = joined;
        state.next_seq = self.next_seq;
        state.messages = self.messages;
        state.departed = self.departed;
        state.closed = self.closed.by_reason;
        hub.budget.add_waited(self.waited);
        hub.discarded.store(self.discarded, Relaxed);
        hub.throttled.store(self.throttled, Relaxed);
        hub.ignored.store(self.ignored, Relaxed);
        state.tail = Node::first(self.first_index);
        let mut places = Places::new(state.tail.clone(), self.echo);
        let batches = self.batches.into_iter().map(|saved| {
            let cost = saved.cost;
            let mut batch = saved.restore()?;
            batch.reservation = Some(hub.budget.charge(cost));
            Ok(batch)
        });
        let mut batches = batches.collect::<Result<Vec<_>, CorruptState>>()?;
        let history = self.history.unwrap_or_default();
        let records = history.records.0.iter().map(|record| record.first_seq.0);
        let sessions = history.sessions.iter();
        let mut numbers = records.chain(sessions.flat_map(|(_, taken, last)| [*taken, last.0]));
        if numbers.any(|number| number > NUMBER_MAX) {
            return Err(CorruptState("the history is beyond all numbers"));
        }
        let stored = batches.len().checked_sub(history.pending);
        let stored = stored.ok_or(CorruptState("more is to be stored than there is"))?;
        let pending = batches.split_off(stored);
        let first_pending = pending.first().map(|batch| batch.first_seq.0);
        state.next_seq = first_pending.unwrap_or(self.next_seq).min(self.next_seq);
        for batch in batches {
            let encodings = batch.encodings;
            state.link(batch);
            places.push(encodings, state.tail.clone());
        }
        state.has_history_elsewhere = history.is_on_disk;
        hub.record(&mut state);
        if history.is_on_disk && !state.stores_first() {
            // What is there may be gone on with another time.
            hub.set_epoch(new_epoch());
        }
        if let Some(recording) = &mut state.recording {
            recording.restore(history.records.0, history.sessions)?;
        }
        for batch in pending {
            let encodings = batch.encodings;
            state.link_again(batch);
            places.push(encodings, state.tail.clone());
        }
        state.next_seq = state.next_seq.max(self.next_seq);
        hub.active_encodings_changed(&mut state);
        if state.is_storing() {
            hub.store_soon(&mut state);
        }
        drop(state);
        hub.set_saved_member(self.member);
        Ok((hub, places))
    }
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;
    use std::task::{Context, Poll, Waker};
    use std::time::SystemTime;

    use proptest::prelude::*;

    use super::super::closed::ClosedClient;
    use super::super::connection::ConnectionInfo;
    use super::super::feed::More;
    use super::super::places::SavedFeed;
    use super::*;
    use crate::config::cli::Options;
    use crate::wire::close_reason::CloseReason;
    use crate::wire::format::Format;
    use crate::wire::framing::Lines;
    use crate::wire::golden::{NEW_FORM, unescape};
    use crate::wire::ids::ClientId;

    fn config() -> Config {
        Config::from_options(&Options::default(), 1024).unwrap()
    }

    fn publish(feed: &mut Feed, rest: &[u8]) {
        feed.publish(
            None,
            &Lines {
                rest,
                ..Lines::default()
            },
        );
    }

    /// All that a feed has still to show, as far as it is published.
    fn rest_of(feed: &mut Feed) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut cx = Context::from_waker(Waker::noop());
        while feed.poll_more(&mut cx) == Poll::Ready(More::Bytes) {
            let mut slices = [IoSlice::new(&[]); 3];
            let filled = feed.gather(&mut slices);
            let before = bytes.len();
            slices[..filled]
                .iter()
                .for_each(|slice| bytes.extend_from_slice(slice));
            let shown = bytes.len() - before;
            feed.advance(shown);
        }
        bytes
    }

    /// A hub with clients of every kind, each at another place of what was published.
    fn filled() -> (Arc<Hub>, Vec<Feed>) {
        let hub = Hub::new(&config());
        let formats = [
            Format::Text,
            Format::Json,
            Format::Raw,
            Format::Text,
            Format::Text,
        ];
        let mut feeds: Vec<_> = formats
            .into_iter()
            .map(|format| hub.join(ConnectionInfo::test(format)))
            .collect();
        feeds[3].use_crlf();
        for n in 0..40_usize {
            let line = format!("line {n} \x01\u{9f}\n").repeat(1 + 211 * (n % 3));
            publish(&mut feeds[n % 5], line.as_bytes());
            let reader = &mut feeds[(n + 2) % 5];
            let mut cx = Context::from_waker(Waker::noop());
            if reader.poll_more(&mut cx) == Poll::Ready(More::Bytes) {
                let mut slices = [IoSlice::new(&[]); 1];
                reader.gather(&mut slices);
                let part = slices[0].len() / 2 + 1;
                reader.advance(part);
            }
        }
        // One has left, and is still owed something; one takes no more.
        feeds[0].leave();
        feeds[4].detach();
        publish(&mut feeds[1], b"the last\n");
        (hub, feeds)
    }

    fn save(hub: &Hub, feeds: &[Feed]) -> Vec<u8> {
        let saved = SavedHub::save(hub, feeds.iter());
        let places: Vec<_> = feeds.iter().map(Feed::save).collect();
        rmp_serde::to_vec_named(&(saved, places)).unwrap()
    }

    fn restore(saved: &[u8]) -> Option<(Arc<Hub>, Vec<Feed>)> {
        let (hub, places): (SavedHub, Vec<SavedFeed>) = rmp_serde::from_slice(saved).ok()?;
        let (hub, stream) = hub.restore(&config(), &Arc::default()).ok()?;
        let feeds = places.into_iter().map(|place| stream.restore(&hub, place));
        let feeds = feeds.collect::<Result<_, _>>().ok()?;
        Some((hub, feeds))
    }

    #[test]
    fn restored_feeds_show_what_the_saved_ones_would_have() {
        let (hub, mut feeds) = filled();
        let saved = save(&hub, &feeds);
        let (next_hub, mut next_feeds) = restore(&saved).unwrap();
        assert_eq!(save(&next_hub, &next_feeds), saved);
        assert_eq!(next_hub.budget.used(), hub.budget.used());
        for hub_feeds in [&mut feeds, &mut next_feeds] {
            publish(&mut hub_feeds[2], b"and one more\n");
            // Its disconnect notice is out; it goes without another.
            drop(hub_feeds.remove(4));
        }
        for (feed, next) in feeds.iter_mut().zip(&mut next_feeds) {
            let bytes = rest_of(feed);
            assert!(!bytes.is_empty());
            assert_eq!(
                rest_of(next).escape_ascii().to_string(),
                bytes.escape_ascii().to_string()
            );
        }
        let late = next_hub.join(ConnectionInfo::test(Format::Text));
        assert_eq!(
            late.subscriber().id,
            hub.join(ConnectionInfo::test(Format::Text)).subscriber().id
        );
    }

    #[test]
    fn forms_of_the_versions_before_are_read() {
        for form in [
            include_str!("saved-6.golden"),
            include_str!("saved-7.golden"),
        ] {
            let form = unescape(form);
            let (hub, feeds): (SavedHub, Vec<SavedFeed>) = rmp_serde::from_slice(&form).unwrap();
            let (hub, places) = hub.restore(&config(), &Arc::default()).unwrap();
            for feed in feeds {
                places.restore(&hub, feed).unwrap();
            }
        }
    }

    /// A daemon of the same version must be able to read this for ever.
    #[test]
    fn saved_form_is_the_one_of_this_version() {
        let hub = Hub::new(&config());
        let formats = [Format::Text, Format::Json, Format::Raw, Format::Text];
        let mut feeds: Vec<_> = formats
            .map(|format| hub.join(ConnectionInfo::test(format)))
            .into();
        feeds[3].use_crlf();
        publish(&mut feeds[0], b"one\ntwo\n");
        rest_of(&mut feeds[1]);
        rest_of(&mut feeds[3]);
        feeds[2].leave();
        hub.shared.closed.lock().push(ClosedClient {
            id: ClientId(1),
            connection: ConnectionInfo::test(Format::Text),
            totals: TrafficTotals::default(),
            reason: CloseReason::Slow,
            at: SystemTime::UNIX_EPOCH,
            bytes_pending: 0,
            messages_behind: 0,
        });
        hub.finish();
        let form = save(&hub, &feeds).escape_ascii().to_string();
        assert_eq!(form, include_str!("saved.golden").trim_end(), "{NEW_FORM}");
    }

    #[test]
    fn hub_without_batches_keeps_its_numbers() {
        let hub = Hub::new(&config());
        let mut one = hub.join(ConnectionInfo::test(Format::Json));
        drop(hub.join(ConnectionInfo::test(Format::Text)));
        rest_of(&mut one);
        let (next_hub, _) = restore(&save(&hub, &[])).unwrap();
        assert_eq!(
            next_hub
                .join(ConnectionInfo::test(Format::Text))
                .subscriber()
                .id,
            ClientId(3)
        );
        assert_eq!(next_hub.budget.used(), 0);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Whatever a state says: it is refused, or it can be walked without a panic.
        #[test]
        fn damaged_state_is_refused_or_harmless(
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        ) {
            let (hub, feeds) = filled();
            let mut saved = save(&hub, &feeds);
            for (at, byte) in damage {
                let at = at.index(saved.len());
                saved[at] = byte;
            }
            if let Some((hub, mut feeds)) = restore(&saved) {
                hub.client_stats();
                hub.stats();
                hub.shared.closed.lock().page(0, 1000);
                feeds.iter_mut().for_each(|feed| { rest_of(feed); });
            }
        }
    }
}
