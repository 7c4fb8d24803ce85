//! The metrics of each channel, under the names that the same ones of all channels together have.

use std::collections::BTreeMap;
use std::fmt;

use prometheus_client::registry::Unit;

use super::exposition::MetricWriter;
use crate::hub::{ChannelStats, ChannelsStats, HubStats};

/// Label of all channels together that the configuration does not name. One that it names like this
/// counts with them: no two series may have the same labels.
pub(super) const OPEN: &str = "open";

/// Channels in stats, by the label of their series: there are as many as the configuration names, and
/// one more.
#[derive(Debug)]
pub(crate) struct ByChannel(BTreeMap<String, HubStats>);

impl ByChannel {
    pub(crate) fn new(stats: &ChannelsStats) -> ByChannel {
        let mut channels = BTreeMap::new();
        if stats.open_max > 0 || stats.ended != HubStats::default() {
            // What has ended goes on counting: counters never fall.
            channels.insert(OPEN.to_owned(), stats.ended.clone());
        }
        for channel in &stats.each {
            let label = label_of(channel).to_owned();
            let sum: &mut HubStats = channels.entry(label).or_default();
            *sum += channel.stats.clone();
        }
        ByChannel(channels)
    }

    pub(super) fn write(&self, out: &mut MetricWriter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return Ok(());
        }
        out.gauges(
            "linehub_channel_clients",
            "Clients that are in the channel",
            &self.of(|stats| stats.clients as u64),
        )?;
        out.counters(
            "linehub_channel_clients_connected",
            "Clients that ever came to the channel",
            &self.of(|stats| stats.joined),
        )?;
        self.write_traffic(out)?;
        out.gauges_in(
            Unit::Bytes,
            "linehub_channel_buffer_used",
            "Bytes in the channel's buffer: lines that wait for clients",
            &self.of(|stats| stats.buffer_used as u64),
        )?;
        out.gauges_in(
            Unit::Bytes,
            "linehub_channel_buffer_limit",
            "Bytes that the channel's buffer may hold",
            &self.of(|stats| stats.buffer_limit as u64),
        )?;
        out.gauges(
            "linehub_channel_senders_waiting",
            "Clients that wait for room in the channel's buffer, as what they sent does",
            &self.of(|stats| stats.senders_waiting as u64),
        )?;
        out.counters_in(
            Unit::Seconds,
            "linehub_channel_senders_waited",
            "For how long clients waited for room in the channel's buffer, all together",
            &self.of(|stats| stats.waited.as_secs_f64()),
        )
    }

    fn write_traffic(&self, out: &mut MetricWriter<'_>) -> fmt::Result {
        for (name, help, count) in COUNTERS {
            out.counters(name, help, &self.of(count))?;
        }
        out.counters_in(
            Unit::Bytes,
            "linehub_channel_received",
            "Bytes read from clients of the channel",
            &self.of(|stats| stats.totals.bytes_in),
        )?;
        out.counters_in(
            Unit::Bytes,
            "linehub_channel_sent",
            "Bytes that the sockets of the channel's clients took",
            &self.of(|stats| stats.totals.bytes_out),
        )
    }

    /// One number of each channel.
    fn of<V>(&self, read: impl Fn(&HubStats) -> V) -> Vec<([(&'static str, &str); 1], V)> {
        let channels = self.0.iter();
        channels
            .map(|(label, stats)| ([("channel", label.as_str())], read(stats)))
            .collect()
    }
}

/// The label of the series that this channel counts in.
pub(super) fn label_of(channel: &ChannelStats) -> &str {
    match channel.is_open {
        true => OPEN,
        false => channel.name.as_str(),
    }
}

/// A counter's name, its help, and where it is read.
type Counter = (&'static str, &'static str, fn(&HubStats) -> u64);

/// Counters of lines, messages and notices.
const COUNTERS: [Counter; 7] = [
    (
        "linehub_channel_lines_received",
        "Lines that clients of the channel sent",
        |stats| stats.totals.lines_in,
    ),
    (
        "linehub_channel_lines_sent",
        "Lines that clients of the channel were sent, each counted once a client",
        |stats| stats.totals.lines_out,
    ),
    (
        "linehub_channel_messages_published",
        "Lines that got a place in the channel's order",
        |stats| stats.messages,
    ),
    (
        "linehub_channel_notices_published",
        "Notices of who came and left that got a place in the channel's order",
        |stats| stats.notices,
    ),
    (
        "linehub_channel_messages_skipped",
        "Messages that slow clients of the channel missed, each counted once a client",
        |stats| stats.totals.skipped,
    ),
    (
        "linehub_channel_lines_discarded",
        "Lines that were longer than the limit and dropped, where only they are",
        |stats| stats.discarded,
    ),
    (
        "linehub_channel_lines_ignored",
        "Lines that were thrown away, from clients that may not publish",
        |stats| stats.ignored,
    ),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::admin::made_up;

    fn channel(name: &str, is_open: bool, messages: u64) -> ChannelStats {
        let stats = HubStats {
            messages,
            ..HubStats::default()
        };
        ChannelStats {
            is_open,
            stats,
            ..made_up::channel(name, None)
        }
    }

    fn messages(stats: &ChannelsStats) -> Vec<([(&'static str, String); 1], u64)> {
        let channels = ByChannel::new(stats);
        let messages = channels.of(|stats| stats.messages).into_iter();
        messages
            .map(|([(label, name)], count)| ([(label, name.to_owned())], count))
            .collect()
    }

    fn one(name: &str, count: u64) -> ([(&'static str, String); 1], u64) {
        ([("channel", name.to_owned())], count)
    }

    #[test]
    fn channels_that_nobody_named_are_one_and_count_on_when_they_have_ended() {
        let mut stats = ChannelsStats {
            each: vec![channel("a", false, 1), channel("main", false, 2)],
            ..ChannelsStats::default()
        };
        assert_eq!(messages(&stats), [one("a", 1), one("main", 2)]);
        stats.open_max = 5;
        assert_eq!(
            messages(&stats),
            [one("a", 1), one("main", 2), one("open", 0)]
        );
        stats.open_max = 0;
        stats.each = vec![channel("b", true, 4), channel("c", true, 8)];
        assert_eq!(messages(&stats), [one("open", 12)]);
        stats.ended.messages = 16;
        assert_eq!(messages(&stats), [one("open", 28)]);
    }

    #[test]
    fn channel_that_is_named_open_makes_no_second_series_of_the_same_labels() {
        let stats = ChannelsStats {
            each: vec![channel("open", false, 1), channel("x", true, 2)],
            ..ChannelsStats::default()
        };
        assert_eq!(messages(&stats), [one("open", 3)]);
    }
}
