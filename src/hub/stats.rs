//! Who is there and what went through, counted for whoever watches.
//!
//! Clients count for themselves, without a lock ([`Tally`](super::subscriber::Tally)); what is added up
//! and compared here is read from them when somebody asks, so that counting costs the stream
//! nothing more.

use std::collections::VecDeque;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime};

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use super::connection::Arrival;
use super::reaper::Moment;
use super::subscriber::DETACHED;
use super::{Hub, Seat, State};
use crate::wire::close_reason::CloseReason;
use crate::wire::ids::ClientId;

/// Closed connections that are remembered, the last ones.
const CLOSED_MAX: usize = 1000;

/// What went through one client, or through many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Totals {
    /// Messages that clients sent.
    pub(crate) lines_in: u64,
    /// Bytes read from them.
    pub(crate) bytes_in: u64,
    /// Messages that clients were sent, each counted once a client.
    pub(crate) lines_out: u64,
    /// Bytes their sockets took.
    pub(crate) bytes_out: u64,
    /// Messages they missed under `--slow-client skip`.
    pub(crate) skipped: u64,
}

/// The hub in figures.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Figures {
    /// Clients that have not left.
    pub(crate) clients: usize,
    /// Those and, with what they are still owed, the ones that have.
    pub(crate) connections: usize,
    /// Clients that ever came.
    pub(crate) joined: u64,
    /// What went through all of them.
    pub(crate) totals: Totals,
    /// Messages that have a place in the one order.
    pub(crate) messages: u64,
    /// Notices that have.
    pub(crate) notices: u64,
    /// Lines that were dropped for being too long.
    pub(crate) discarded: u64,
    /// Clients that were closed, by the code of the reason.
    pub(crate) closed: [u64; CloseReason::ALL.len()],
    /// Bytes in the buffer, and how many it may hold.
    pub(crate) buffer_used: usize,
    /// See `buffer_used`.
    pub(crate) buffer_limit: usize,
    /// Senders that wait for the buffer now.
    pub(crate) senders_waiting: usize,
    /// How long senders waited for it so far, all together.
    pub(crate) waited: Duration,
}

/// One client in figures.
#[derive(Clone, Debug)]
pub(crate) struct ClientFigures {
    pub(crate) id: ClientId,
    pub(crate) arrival: Arrival,
    pub(crate) totals: Totals,
    /// Bytes that wait for it, in its encoding; those of lines of its own between them count too.
    pub(crate) bytes_pending: u64,
    /// Messages it is still to get. Those of a batch that it has a part of count as if it had none.
    pub(crate) messages_behind: u64,
    /// For how long it has neither sent nor taken a byte; seen to about an eighth of a second, and only
    /// since the last handover.
    pub(crate) idle: Duration,
    /// It has left, and is still owed something: at most what is said to wait for it.
    pub(crate) leaving: bool,
}

/// A client that is no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ClosedClient {
    pub(crate) id: ClientId,
    pub(crate) arrival: Arrival,
    pub(crate) totals: Totals,
    pub(crate) reason: CloseReason,
    pub(crate) at: SystemTime,
    /// What it was owed at the end and never got, as in [`ClientFigures`].
    pub(crate) bytes_pending: u64,
    pub(crate) messages_behind: u64,
}

/// Clients that are no more: all of them by their reason, and the last ones.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Closed {
    #[serde(deserialize_with = "by_reason")]
    pub(super) by_reason: [u64; CloseReason::ALL.len()],
    /// Oldest first.
    pub(super) last: VecDeque<ClosedClient>,
}

/// Reasons are only ever added behind those there are.
fn by_reason<'de, D: Deserializer<'de>>(
    saved: D,
) -> Result<[u64; CloseReason::ALL.len()], D::Error> {
    let mut counts = Vec::deserialize(saved)?;
    counts.resize(CloseReason::ALL.len(), 0);
    counts
        .try_into()
        .map_err(|_| D::Error::custom("more reasons than there are"))
}

impl Totals {
    /// Adds what was counted of this client by now.
    pub(super) fn count(&mut self, seat: &Seat) {
        let tally = &seat.member.tally;
        for (total, count) in [
            (&mut self.lines_in, tally.lines_in.get()),
            (&mut self.bytes_in, tally.bytes_in.get()),
            (&mut self.lines_out, tally.lines_out.get()),
            (&mut self.bytes_out, tally.bytes_out.get()),
            (&mut self.skipped, seat.record.skipped),
        ] {
            *total = total.wrapping_add(count);
        }
    }
}

impl Totals {
    /// Whether none of them is beyond this.
    pub(super) fn are_below(&self, most: u64) -> bool {
        let all = [
            self.lines_in,
            self.bytes_in,
            self.lines_out,
            self.bytes_out,
            self.skipped,
        ];
        all.iter().all(|total| *total <= most)
    }
}

impl From<&Seat> for Totals {
    fn from(seat: &Seat) -> Totals {
        let mut totals = Totals::default();
        totals.count(seat);
        totals
    }
}

impl Closed {
    /// Adds one; of more than [`CLOSED_MAX`] the oldest is forgotten.
    pub(super) fn push(&mut self, client: ClosedClient) {
        if self.last.len() == CLOSED_MAX {
            self.last.pop_front();
        }
        self.last.push_back(client);
    }
}

impl Hub {
    /// Clients that have not left.
    pub(crate) fn clients(&self) -> usize {
        self.lock()
            .seats
            .iter()
            .filter(|(_, seat)| !seat.left)
            .count()
    }

    /// What went through so far. Takes the lock that every publish takes for one look at each client.
    pub(crate) fn figures(&self) -> Figures {
        let buffer = self.budget.figures();
        let state = self.lock();
        let mut figures = Figures {
            connections: state.seats.len(),
            joined: state.next_id - 1,
            totals: state.gone,
            messages: state.messages,
            notices: (state.next_seq - 1).saturating_sub(state.messages),
            discarded: self.discarded.load(Relaxed),
            closed: state.closed.by_reason,
            buffer_used: buffer.used,
            buffer_limit: buffer.limit,
            senders_waiting: buffer.waiting,
            waited: buffer.waited,
            ..Figures::default()
        };
        for (_, seat) in &state.seats {
            figures.clients += usize::from(!seat.left);
            figures.totals.count(seat);
        }
        figures
    }

    /// Every client, those that are still owed something after they have left among them, in no
    /// particular order. Takes the lock that every publish takes for one look at each client.
    pub(crate) fn census(&self) -> Vec<ClientFigures> {
        let now = self.moment();
        let mut state = self.lock();
        // What is being assembled waits for clients too.
        state.cut();
        let all = state.seats.iter();
        all.map(|(_, seat)| self.figures_of(&state, seat, now))
            .collect()
    }

    fn figures_of(&self, state: &State, seat: &Seat, now: Moment) -> ClientFigures {
        let totals = Totals::from(seat);
        let (bytes_pending, messages_behind) = self.owed(state, seat, &totals);
        let moved = totals.bytes_in.wrapping_add(totals.bytes_out);
        let still_since = seat.record.watch.still_since(moved).unwrap_or(now);
        ClientFigures {
            id: seat.member.id,
            arrival: seat.record.arrival(&state.listeners),
            totals,
            bytes_pending,
            messages_behind,
            idle: now.since(still_since),
            leaving: seat.left,
        }
    }

    /// The bytes and the messages that wait for a client.
    fn owed(&self, state: &State, seat: &Seat, totals: &Totals) -> (u64, u64) {
        let member = &seat.member;
        let (mut bytes_pending, mut messages_behind) = (0, 0);
        let position = member.position.load(Relaxed);
        if position < state.tail.cost_before {
            let lead = member.lead.load(Relaxed);
            let end = state.tail.sizes_before.of(seat.encoding);
            bytes_pending = end.wrapping_sub(lead.wrapping_add(totals.bytes_out));
            if bytes_pending > end {
                // It moved on between two of these looks, and has everything.
                bytes_pending = 0;
            }
            let own = if self.echo { 0 } else { totals.lines_in };
            messages_behind = state
                .messages
                .wrapping_sub(seat.record.messages_before)
                .saturating_sub(own)
                .saturating_sub(totals.lines_out)
                .saturating_sub(totals.skipped);
        }
        debug_assert!(position <= state.tail.cost_before || position == DETACHED);
        (bytes_pending, messages_behind)
    }

    /// The client in `slot` takes no more from the stream: what it was owed is remembered.
    pub(super) fn note_detached(&self, slot: usize) {
        let mut state = self.lock();
        state.cut();
        let seat = &state.seats[slot];
        let owed = self.owed(&state, seat, &Totals::from(seat));
        if owed != (0, 0) {
            state.owed.insert(slot, owed);
        }
    }

    /// The last clients that were closed, the latest first: so many of them at most, after the first
    /// `from`; and how many are remembered.
    pub(crate) fn closed(&self, from: usize, most: usize) -> (Vec<ClosedClient>, usize) {
        let state = self.lock();
        let last = &state.closed.last;
        let page = last.iter().rev().skip(from).take(most).cloned().collect();
        (page, last.len())
    }

    /// The connection of the client in `slot` ends, for this reason. Returns what went through it.
    pub(super) fn note_closed(&self, slot: usize, reason: CloseReason) -> Totals {
        let mut state = self.lock();
        let (bytes_pending, messages_behind) = state.owed.remove(&slot).unwrap_or_default();
        let seat = &state.seats[slot];
        let totals = Totals::from(seat);
        let client = ClosedClient {
            id: seat.member.id,
            arrival: seat.record.arrival(&state.listeners),
            totals,
            reason,
            at: SystemTime::now(),
            bytes_pending,
            messages_behind,
        };
        state.closed.by_reason[reason.index()] += 1;
        state.closed.push(client);
        totals
    }

    /// The client in `slot` missed so many messages.
    pub(super) fn note_skipped(&self, slot: usize, missed: u64) {
        self.lock().seats[slot].record.skipped += missed;
    }
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;
    use std::sync::Arc;
    use std::task::{Context, Waker};

    use super::super::Feed;
    use super::*;
    use crate::config::Config;
    use crate::config::cli::Options;
    use crate::wire::format::Format;
    use crate::wire::framing::Lines;

    fn hub() -> Arc<Hub> {
        Hub::new(&Config::from_options(&Options::default(), 1024).unwrap())
    }

    fn join(hub: &Arc<Hub>, format: Format) -> Feed {
        hub.join(Arrival::test(format))
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

    fn of(hub: &Hub, feed: &Feed) -> ClientFigures {
        let all = hub.census();
        assert!(all.iter().all(|one| !one.leaving));
        let this = all.into_iter().find(|one| one.id == feed.member().id);
        this.expect("it has not left")
    }

    /// Bytes pending and messages behind.
    fn waits(hub: &Hub, feed: &Feed) -> (u64, u64) {
        let figures = of(hub, feed);
        (figures.bytes_pending, figures.messages_behind)
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
        assert_eq!(hub.figures().messages, 4);
        assert_eq!(hub.figures().notices, 2);
    }

    #[test]
    fn what_a_closed_client_never_got_is_remembered() {
        let hub = hub();
        let mut reader = join(&hub, Format::Raw);
        let mut sender = join(&hub, Format::Raw);
        publish(&mut sender, b"one\ntwo\n");
        reader.leave();
        assert!(hub.census().iter().any(|one| one.leaving));
        reader.detach();
        reader.closed(CloseReason::Slow);
        let (latest, _) = hub.closed(0, 1);
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
        let (page, all) = hub.closed(1, 2);
        assert_eq!(all, CLOSED_MAX);
        let ids: Vec<u64> = page.iter().map(|client| client.id.0).collect();
        assert_eq!(ids, [1003, 1002]);
        let (latest, _) = hub.closed(0, 1);
        assert_eq!(latest[0].reason, CloseReason::Slow);
        let figures = hub.figures();
        assert_eq!(figures.closed[CloseReason::Eof.index()], 1003);
        assert_eq!(figures.closed.iter().sum::<u64>(), figures.joined);
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
        let before = (hub.figures(), waits(&hub, &reader));
        let saved = super::super::SavedHub::save(&hub, [&reader, &sender].into_iter());
        let saved = rmp_serde::to_vec_named(&saved).unwrap();
        let saved: super::super::SavedHub = rmp_serde::from_slice(&saved).unwrap();
        let config = Config::from_options(&Options::default(), 1024).unwrap();
        let (next, places) = saved.restore(&config).unwrap();
        let again = places.restore(&next, reader.save()).unwrap();
        let _sender = places.restore(&next, sender.save()).unwrap();
        let (figures, (pending, behind)) = before;
        assert_eq!(next.figures(), figures);
        // That it had three bytes of the batch is known, and counted.
        assert_eq!(waits(&next, &again), (pending, behind));
    }
}
