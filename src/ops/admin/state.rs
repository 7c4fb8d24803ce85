//! What the admin server sees of the daemon, and the documents that are made of it.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::process;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::documents::{
    CertificateRow, ChannelRow, ClientRow, ClientsPage, ClosedPage, ClosedRow, ClusterRow,
    ListenerRow, SamplesDocument, Status,
};
use super::metrics::{self, ByChannel, HistoriesByChannel, Sharing, Snapshot};
use super::process::{self as own_process, ProcessStats};
use super::query::{Order, Page};
use super::rows::{rfc3339, seconds};
use super::samples::Samples;
use crate::hub::counters::Counters;
use crate::hub::{Channels, ChannelsStats, ClientStats, Liveness};
use crate::net::listener::Listener;
use crate::net::permits::ConnectionLimit;
use crate::net::tls::ServerTls;
use crate::ops::lifecycle::{Lifecycle, Phase};
use crate::wire::channel::ChannelName;

/// How long the hub may take to answer. It takes microseconds, or it hangs.
pub(super) const ANSWER_TIME: Duration = Duration::from_secs(2);

/// All clients are looked at this often at most.
const CLIENTS_PERIOD: Duration = Duration::from_millis(50);

/// All clients, and when that was.
type ClientsThen = (Instant, Arc<Vec<ClientStats>>);

/// Clients of each kind in a status document.
const STATUS_ROWS: usize = 50;

/// Channels in a status document.
const STATUS_CHANNELS: usize = 1000;

/// The daemon, to look at. Looking may wait for the hub's locks, which a publish holds for
/// microseconds.
#[derive(Debug)]
pub(crate) struct AdminState {
    channels: Arc<Channels>,
    lifecycle: Lifecycle,
    counters: Arc<Counters>,
    permits: Arc<ConnectionLimit>,
    tls: Arc<ServerTls>,
    listeners: Mutex<Vec<ListenerRow>>,
    samples: Mutex<Samples>,
    all_clients: Mutex<Option<ClientsThen>>,
    started: SystemTime,
    /// The same, by a clock that nobody sets.
    began: Instant,
}

impl AdminState {
    pub(crate) fn new(
        channels: Arc<Channels>,
        lifecycle: Lifecycle,
        counters: Arc<Counters>,
        permits: Arc<ConnectionLimit>,
        tls: Arc<ServerTls>,
    ) -> AdminState {
        let started = own_process::started();
        let age = started.elapsed().unwrap_or_default();
        let now = Instant::now();
        AdminState {
            channels,
            lifecycle,
            counters,
            permits,
            tls,
            listeners: Mutex::default(),
            samples: Mutex::default(),
            all_clients: Mutex::default(),
            started,
            began: now.checked_sub(age).unwrap_or(now),
        }
    }

    /// These are the listeners from now on.
    pub(crate) fn set_listeners<'a>(&self, listeners: impl Iterator<Item = &'a Listener>) {
        *self.listeners.lock() = listeners.map(ListenerRow::from).collect();
    }

    /// Looks at it on a thread where waiting holds nobody else up; `None` when that takes too long.
    /// Cancel safe.
    pub(super) async fn ask<T: Send + 'static>(
        self: &Arc<AdminState>,
        look: impl FnOnce(&AdminState) -> T + Send + 'static,
    ) -> Option<T> {
        let state = self.clone();
        let looking = tokio::task::spawn_blocking(move || look(&state));
        // One that has not begun by then never does.
        let looking = AbortOnDropHandle::new(looking);
        timeout(ANSWER_TIME, looking).await.ok()?.ok()
    }

    pub(super) fn phase(&self) -> Phase {
        self.lifecycle.phase().0
    }

    pub(super) fn pulse(&self) -> Vec<Liveness> {
        self.channels.pulse()
    }

    /// Every channel in stats.
    pub(super) fn stats(&self) -> ChannelsStats {
        self.channels.each()
    }

    /// Takes a sample, `since_last` after the one before; returns what it is of.
    pub(super) fn sample(&self, since_last: Duration) -> ChannelsStats {
        let stats = self.stats();
        self.samples.lock().add(&stats.total(), since_last);
        stats
    }

    /// Nobody took samples for a while.
    pub(super) fn pause_samples(&self) {
        self.samples.lock().pause();
    }

    pub(super) fn samples(&self) -> SamplesDocument {
        self.samples.lock().document()
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let channels = self.stats();
        let stats = channels.total();
        Snapshot {
            channels: ByChannel::new(&channels),
            histories: HistoriesByChannel::new(&channels),
            sharing: Sharing::new(&channels),
            phase: self.phase(),
            clients_max: self.permits.max(),
            handshakes: self.counters.handshakes.get(),
            accept_errors: self.counters.accept_errors.get(),
            closed: metrics::closed_by_reason(&stats, &self.counters),
            handovers: metrics::handovers(&self.counters),
            reloads: metrics::pair(&self.counters.reloads),
            process: ProcessStats::now(),
            certificates: self.tls.ends(),
            started: self.started,
            stats,
        }
    }

    pub(super) fn status(&self) -> Status {
        self.status_of(&self.stats())
    }

    /// The status, with stats that were taken just now.
    pub(super) fn status_of(&self, each: &ChannelsStats) -> Status {
        let stats = each.total();
        let behind = Page {
            offset: 0,
            limit: STATUS_ROWS,
        };
        let closed = metrics::closed_by_reason(&stats, &self.counters);
        let closed_by_reason = closed.map(|(reason, count)| (reason.label().to_owned(), count));
        let now = SystemTime::now();
        let (phase, phase_lasts) = self.lifecycle.phase();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            phase: phase.to_string(),
            phase_seconds: seconds(phase_lasts),
            pid: process::id(),
            now: rfc3339(now),
            started: rfc3339(self.started),
            uptime_seconds: seconds(self.began.elapsed()),
            listeners: self.listeners.lock().clone(),
            certificates: self.tls.ends().iter().map(CertificateRow::from).collect(),
            clients: stats.clients,
            clients_max: self.permits.max(),
            handshakes: self.counters.handshakes.get(),
            clients_connected_total: stats.joined,
            lines_in: stats.totals.lines_in,
            lines_out: stats.totals.lines_out,
            bytes_in: stats.totals.bytes_in,
            bytes_out: stats.totals.bytes_out,
            rates: self.samples.lock().rates(),
            buffer_used_bytes: stats.buffer_used,
            buffer_limit_bytes: stats.buffer_limit,
            senders_waiting: stats.senders_waiting,
            sender_wait_seconds: seconds(stats.waited),
            messages_skipped: stats.totals.skipped,
            lines_discarded: stats.discarded,
            lines_ignored: stats.ignored,
            channels: channel_rows(each),
            channels_count: each.each.len(),
            cluster: each.cluster.as_ref().map(ClusterRow::from),
            closed_by_reason: BTreeMap::from(closed_by_reason),
            furthest_behind: self.clients(Order::Behind, behind, None).clients,
            recently_closed: self.closed(behind, None).closed,
        }
    }

    /// All clients, as they were after this was called. Made at most every [`CLIENTS_PERIOD`], and once
    /// for all who ask meanwhile: it holds the hub's lock for a look at each client.
    fn all_clients(&self) -> Arc<Vec<ClientStats>> {
        let asked = Instant::now();
        let mut last = self.all_clients.lock();
        if let Some((taken, all_clients)) = &*last {
            if *taken >= asked {
                return all_clients.clone();
            }
            thread::sleep(CLIENTS_PERIOD.saturating_sub(taken.elapsed()));
        }
        let taken = Instant::now();
        let all_clients = Arc::new(self.channels.client_stats());
        *last = Some((taken, all_clients.clone()));
        all_clients
    }

    /// A page of those who are connected: of all, or of one channel.
    pub(super) fn clients(
        &self,
        order: Order,
        page: Page,
        channel: Option<&ChannelName>,
    ) -> ClientsPage {
        let all_clients = self.all_clients();
        let mut clients = match channel {
            None => Vec::clone(&all_clients),
            Some(channel) => {
                let is_in = |client: &&ClientStats| client.connection.channel == *channel;
                all_clients.iter().filter(is_in).cloned().collect()
            }
        };
        let total = clients.len();
        let end = page.offset.saturating_add(page.limit).min(total);
        let start = page.offset.min(end);
        match order {
            Order::Id => sort_up_to(&mut clients, end, |client| client.id),
            Order::Behind => sort_up_to(&mut clients, end, |client| {
                let behind = (client.messages_behind, client.bytes_pending);
                (Reverse(behind), client.id)
            }),
        }
        ClientsPage {
            total,
            offset: page.offset,
            limit: page.limit,
            clients: clients[start..end].iter().map(ClientRow::from).collect(),
        }
    }

    /// A page of those who were closed: of all that are remembered, or of one channel's.
    pub(super) fn closed(&self, page: Page, channel: Option<&ChannelName>) -> ClosedPage {
        let (closed, total) = match channel {
            None => self.channels.closed(page.offset, page.limit),
            Some(channel) => {
                let (mut closed, _) = self.channels.closed(0, usize::MAX);
                closed.retain(|client| client.connection.channel == *channel);
                let total = closed.len();
                let page = closed.into_iter().skip(page.offset).take(page.limit);
                (page.collect(), total)
            }
        };
        ClosedPage {
            total,
            offset: page.offset,
            limit: page.limit,
            closed: closed.iter().map(ClosedRow::from).collect(),
        }
    }
}

/// The channels that a status document has.
fn channel_rows(stats: &ChannelsStats) -> Vec<ChannelRow> {
    // Those that exist always are not to be cut off by those that come and go.
    let named = stats.each.iter().filter(|channel| !channel.is_open);
    let open = stats.each.iter().filter(|channel| channel.is_open);
    let rows = named.chain(open).take(STATUS_CHANNELS);
    rows.map(ChannelRow::from).collect()
}

/// Puts the first `end` in their order. The rest, which may be thousands, stay in none.
fn sort_up_to<K: Ord>(clients: &mut [ClientStats], end: usize, key: impl Fn(&ClientStats) -> K) {
    if 0 < end && end < clients.len() {
        clients.select_nth_unstable_by_key(end - 1, &key);
    }
    clients[..end].sort_unstable_by_key(&key);
}

#[cfg(test)]
mod tests {
    use super::super::made_up;
    use super::*;
    use crate::config::Config;
    use crate::config::cli::Options;
    use crate::hub::{ChannelStats, ConnectionInfo};
    use crate::wire::close_reason::CloseReason;
    use crate::wire::format::Format;
    use crate::wire::framing::Lines;

    fn state() -> (AdminState, Arc<Channels>) {
        let config = Config::from_options(&Options::default(), 1024).unwrap();
        let channels = Channels::new(&config);
        let permits = ConnectionLimit::new(config.clients_max);
        let state = AdminState::new(
            channels.clone(),
            Lifecycle::new(),
            Arc::default(),
            permits,
            Arc::default(),
        );
        (state, channels)
    }

    #[test]
    fn pages_are_cut_from_the_order_asked_for() {
        let (state, channels) = state();
        let mut feeds: Vec<_> = (0..5)
            .map(|_| channels.main().join(ConnectionInfo::test(Format::Raw)))
            .collect();
        for (sender, lines) in [(0, 1), (1, 3), (3, 2)] {
            let lines = Lines {
                rest: &b"x\n".repeat(lines),
                ..Lines::default()
            };
            feeds[sender].publish(None, &lines);
        }
        let page = |order, offset, limit| {
            let page = state.clients(order, Page { offset, limit }, None);
            assert_eq!((page.total, page.offset, page.limit), (5, offset, limit));
            page.clients.iter().map(|client| client.who.id).collect()
        };
        let ids: Vec<u64> = page(Order::Id, 1, 2);
        assert_eq!(ids, [2, 3]);
        // All are behind by six, less their own.
        for (offset, limit, expected) in [
            (0, 5, &[3, 5, 1, 4, 2][..]),
            (0, 2, &[3, 5]),
            (2, 2, &[1, 4]),
            (4, 9, &[2]),
            (5, 9, &[]),
            (usize::MAX, usize::MAX, &[]),
        ] {
            let ids: Vec<u64> = page(Order::Behind, offset, limit);
            assert_eq!(ids, expected, "{offset} {limit}");
        }
    }

    #[test]
    fn status_names_every_reason() {
        let (state, _channels) = state();
        let status = state.status();
        assert_eq!(status.closed_by_reason.len(), CloseReason::ALL.len());
        assert_eq!(status.clients_max, Some(960));
    }

    #[test]
    fn status_lists_no_more_than_a_thousand_channels_and_the_named_ones_first() {
        let channel = |number: usize| ChannelStats {
            is_open: number != 1001,
            ..made_up::channel(&format!("c{number:04}"), None)
        };
        let stats = ChannelsStats {
            each: (0..1002).map(channel).collect(),
            ..ChannelsStats::default()
        };
        let (state, _channels) = state();
        let status = state.status_of(&stats);
        assert_eq!(status.channels_count, 1002);
        let names: Vec<_> = status.channels.iter().map(|row| &row.name).collect();
        assert_eq!(names.len(), 1000);
        assert_eq!((names[0].as_str(), names[999].as_str()), ("c1001", "c0998"));
    }
}
