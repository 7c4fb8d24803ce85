//! The metrics of what channels keep for who comes late. There are none where no channel keeps anything.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, SystemTime};

use prometheus_client::registry::Unit;

use super::channels::{OPEN, label_of};
use super::exposition::MetricWriter;
use crate::hub::ChannelsStats;
use crate::hub::history::HistoryStats;
use crate::wire::ids::Epoch;

/// Histories in stats, by the label of their channel's series.
#[derive(Debug)]
pub(crate) struct HistoriesByChannel(BTreeMap<String, Sum>);

/// All histories under one label.
#[derive(Debug, Default)]
struct Sum {
    /// `None` under [`OPEN`]: each of those channels has its own, and clients could make up no end of
    /// them.
    epoch: Option<Epoch>,
    bytes: u64,
    bytes_max: u64,
    messages: u64,
    /// When the oldest of all was published; `None` while nothing is kept.
    oldest_at: Option<SystemTime>,
    pending_bytes: u64,
    /// The longest.
    sync_lag: Duration,
    readers: u64,
    sessions: u64,
    /// Some history cannot store anything any more.
    has_failed: bool,
    /// Where it is kept.
    kept_in: &'static str,
}

impl Sum {
    fn add(&mut self, history: &HistoryStats) {
        self.bytes += history.bytes;
        self.bytes_max += history.bytes_max;
        self.messages += history.messages;
        self.oldest_at = self.oldest_at.into_iter().chain(history.oldest_at).min();
        self.pending_bytes += history.pending_bytes;
        self.sync_lag = self.sync_lag.max(history.sync_lag);
        self.readers += history.readers as u64;
        self.sessions += history.sessions as u64;
        self.has_failed |= history.error.is_some();
    }

    /// Seconds since 1970 at which the oldest was published.
    fn oldest_timestamp(&self) -> Option<f64> {
        let since = self.oldest_at?.duration_since(SystemTime::UNIX_EPOCH);
        Some(since.unwrap_or_default().as_secs_f64())
    }
}

/// The values of a metric, each with its channel.
type Values<'a, V> = Vec<([(&'static str, &'a str); 1], V)>;

impl HistoriesByChannel {
    pub(crate) fn new(stats: &ChannelsStats) -> HistoriesByChannel {
        let mut sums = BTreeMap::new();
        for channel in &stats.each {
            let Some(history) = &channel.history else {
                continue;
            };
            let label = label_of(channel);
            let sum: &mut Sum = sums.entry(label.to_owned()).or_default();
            sum.add(history);
            sum.epoch = (label != OPEN).then_some(history.epoch);
            sum.kept_in = match (&channel.shared, history.on_disk) {
                (Some(_), _) => "stream",
                (None, true) => "disk",
                (None, false) => "memory",
            };
        }
        HistoriesByChannel(sums)
    }

    pub(super) fn write(&self, out: &mut MetricWriter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return Ok(());
        }
        self.write_kept(out)?;
        out.gauges_in(
            Unit::Bytes,
            "linehub_history_pending",
            "Bytes that were published and are not stored yet",
            &self.of(|sum| Some(sum.pending_bytes)),
        )?;
        out.gauges_in(
            Unit::Seconds,
            "linehub_history_sync_lag",
            "For how long the oldest of what was stored has waited to be synced to the disk",
            &self.of(|sum| Some(sum.sync_lag.as_secs_f64())),
        )?;
        out.gauges(
            "linehub_history_readers",
            "Clients that read from the channel's history now",
            &self.of(|sum| Some(sum.readers)),
        )?;
        out.gauges(
            "linehub_history_sessions",
            "Sessions of which the channel's history knows what they published",
            &self.of(|sum| Some(sum.sessions)),
        )?;
        out.gauges(
            "linehub_history_failed",
            "1 if nothing can be stored any more, so that the channel's senders wait",
            &self.of(|sum| Some(u64::from(sum.has_failed))),
        )?;
        let epochs = self.0.iter().filter_map(|(label, sum)| {
            let epoch = sum.epoch?.to_string();
            let kept_in = sum.kept_in.to_owned();
            let labels = [
                ("channel", label.clone()),
                ("epoch", epoch),
                ("kept_in", kept_in),
            ];
            Some((labels, 1))
        });
        out.gauges(
            "linehub_history_info",
            "Always 1, with the epoch that the channel's numbers are of, and where it is: memory, disk or stream",
            &epochs.collect::<Vec<_>>(),
        )
    }

    fn write_kept(&self, out: &mut MetricWriter<'_>) -> fmt::Result {
        out.gauges_in(
            Unit::Bytes,
            "linehub_history",
            "Bytes that the channel's history keeps",
            &self.of(|sum| Some(sum.bytes)),
        )?;
        out.gauges_in(
            Unit::Bytes,
            "linehub_history_limit",
            "Bytes that the channel's history may keep",
            &self.of(|sum| Some(sum.bytes_max)),
        )?;
        out.gauges(
            "linehub_history_messages",
            "Messages that the channel's history keeps",
            &self.of(|sum| Some(sum.messages)),
        )?;
        out.gauges_in(
            Unit::Seconds,
            "linehub_history_oldest_timestamp",
            "When the oldest that is kept was published, since the epoch; absent while nothing is",
            &self.of(Sum::oldest_timestamp),
        )
    }

    /// One number of each channel that has it.
    fn of<V>(&self, read: impl Fn(&Sum) -> Option<V>) -> Values<'_, V> {
        let channels = self.0.iter();
        channels
            .filter_map(|(label, sum)| Some(([("channel", label.as_str())], read(sum)?)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prometheus_client::collector::Collector;
    use prometheus_client::encoding::DescriptorEncoder;

    use super::super::exposition::Exposition;
    use super::*;
    use crate::hub::ChannelStats;
    use crate::ops::admin::made_up;

    impl Collector for HistoriesByChannel {
        fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
            self.write(&mut MetricWriter(encoder))
        }
    }

    /// The samples, without what describes them.
    fn samples(each: Vec<ChannelStats>) -> BTreeSet<String> {
        let stats = ChannelsStats {
            each,
            ..ChannelsStats::default()
        };
        let text = Exposition::Prometheus.encode(HistoriesByChannel::new(&stats));
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        samples.map(str::to_owned).collect()
    }

    fn open(name: &str, history: HistoryStats) -> ChannelStats {
        ChannelStats {
            is_open: true,
            ..made_up::channel(name, Some(history))
        }
    }

    #[test]
    fn history_is_counted_with_its_channel_and_its_epoch() {
        let kept = made_up::channel("nmea", Some(made_up::history()));
        let empty = HistoryStats {
            messages: 0,
            oldest_at: None,
            error: Some("Input/output error (os error 5)".to_owned()),
            ..made_up::history()
        };
        let empty = samples(vec![made_up::channel("nmea", Some(empty))]);
        let kept = samples(vec![kept, made_up::channel("main", None)]);
        let expected = [
            "linehub_history_bytes{channel=\"nmea\"} 50331648",
            "linehub_history_limit_bytes{channel=\"nmea\"} 67108864",
            "linehub_history_messages{channel=\"nmea\"} 85000",
            "linehub_history_oldest_timestamp_seconds{channel=\"nmea\"} 1900000000.25",
            "linehub_history_pending_bytes{channel=\"nmea\"} 1234",
            "linehub_history_sync_lag_seconds{channel=\"nmea\"} 1.5",
            "linehub_history_readers{channel=\"nmea\"} 2",
            "linehub_history_sessions{channel=\"nmea\"} 3",
            "linehub_history_failed{channel=\"nmea\"} 0",
            "linehub_history_info{channel=\"nmea\",epoch=\"5f3a9c11\",kept_in=\"disk\"} 1",
        ];
        assert_eq!(kept, expected.map(str::to_owned).into());
        assert_eq!(empty.len(), expected.len() - 1);
        assert!(empty.contains("linehub_history_failed{channel=\"nmea\"} 1"));
        let oldest = "linehub_history_oldest";
        assert!(!empty.iter().any(|sample| sample.starts_with(oldest)));
        let shared = samples(vec![made_up::shared("nmea", None)]);
        assert!(shared.contains(
            "linehub_history_info{channel=\"nmea\",epoch=\"5f3a9c11\",kept_in=\"stream\"} 1"
        ));
    }

    #[test]
    fn histories_that_nobody_named_are_one_without_an_epoch() {
        let worse = HistoryStats {
            oldest_at: made_up::history()
                .oldest_at
                .map(|at| at - Duration::from_secs(100)),
            sync_lag: Duration::from_secs(9),
            error: Some("Input/output error (os error 5)".to_owned()),
            ..made_up::history()
        };
        let empty = HistoryStats {
            oldest_at: None,
            ..made_up::history()
        };
        let named = made_up::channel("open", Some(made_up::history()));
        let found = samples(vec![named, open("a", worse), open("b", empty)]);
        let expected = [
            "linehub_history_bytes{channel=\"open\"} 150994944",
            "linehub_history_limit_bytes{channel=\"open\"} 201326592",
            "linehub_history_messages{channel=\"open\"} 255000",
            "linehub_history_oldest_timestamp_seconds{channel=\"open\"} 1899999900.25",
            "linehub_history_pending_bytes{channel=\"open\"} 3702",
            "linehub_history_sync_lag_seconds{channel=\"open\"} 9.0",
            "linehub_history_readers{channel=\"open\"} 6",
            "linehub_history_sessions{channel=\"open\"} 9",
            "linehub_history_failed{channel=\"open\"} 1",
        ];
        assert_eq!(found, expected.map(str::to_owned).into());
    }

    #[test]
    fn no_metric_speaks_of_a_history_where_there_is_none() {
        let stats = ChannelsStats {
            each: vec![made_up::channel("main", None)],
            open_max: 3,
            ..ChannelsStats::default()
        };
        let text = Exposition::Prometheus.encode(HistoriesByChannel::new(&stats));
        assert_eq!(text, "");
    }
}
