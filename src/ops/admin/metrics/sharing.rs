//! The metrics of what is shared with other daemons. There are none where nothing is.

use std::collections::BTreeMap;
use std::fmt;

use prometheus_client::registry::Unit;

use super::channels::label_of;
use super::exposition::MetricWriter;
use crate::hub::{ChannelsStats, ClusterStats, SharedChannelStats};

/// The daemons that share channels, and those channels by the label of their series.
#[derive(Debug)]
pub(crate) struct Sharing {
    cluster: Option<ClusterStats>,
    channels: BTreeMap<String, Sum>,
}

/// All shared channels under one label.
#[derive(Debug, Default)]
struct Sum {
    lag: u64,
    outstanding: u64,
    queued_bytes: u64,
    /// Nothing goes through some channel.
    has_stopped: bool,
}

impl Sum {
    fn add(&mut self, shared: &SharedChannelStats) {
        self.lag += shared.lag;
        self.outstanding += shared.outstanding;
        self.queued_bytes += shared.queued_bytes;
        self.has_stopped |= shared.error.is_some();
    }
}

impl Sharing {
    pub(crate) fn new(stats: &ChannelsStats) -> Sharing {
        let mut channels = BTreeMap::new();
        for channel in &stats.each {
            if let Some(shared) = &channel.shared {
                let sum: &mut Sum = channels.entry(label_of(channel).to_owned()).or_default();
                sum.add(shared);
            }
        }
        Sharing {
            cluster: stats.cluster.clone(),
            channels,
        }
    }

    pub(super) fn write(&self, out: &mut MetricWriter<'_>) -> fmt::Result {
        let Some(cluster) = &self.cluster else {
            return Ok(());
        };
        out.gauge(
            "linehub_cluster_connected",
            "1 while there is a connection to NATS",
            u64::from(cluster.is_connected),
        )?;
        out.counter(
            "linehub_cluster_reconnects",
            "Connections to NATS that this process made after the first",
            cluster.reconnects,
        )?;
        out.gauge(
            "linehub_cluster_nodes",
            "Daemons that share channels, this one among them",
            cluster.nodes.len() as u64,
        )?;
        out.gauges(
            "linehub_channel_stream_lag_messages",
            "Messages of the channel's stream that this daemon has not taken yet",
            &self.of(|sum| sum.lag),
        )?;
        out.gauges(
            "linehub_channel_unacknowledged_batches",
            "Batches of the channel that were sent and have not come back",
            &self.of(|sum| sum.outstanding),
        )?;
        out.gauges_in(
            Unit::Bytes,
            "linehub_channel_queued",
            "Bytes of the channel's lines that wait to be sent to the stream",
            &self.of(|sum| sum.queued_bytes),
        )?;
        out.gauges(
            "linehub_channel_stream_failed",
            "1 if nothing goes through the channel's stream, so that the channel's senders wait",
            &self.of(|sum| u64::from(sum.has_stopped)),
        )
    }

    /// One number of each channel.
    fn of(&self, read: impl Fn(&Sum) -> u64) -> Vec<([(&'static str, &str); 1], u64)> {
        let channels = self.channels.iter();
        channels
            .map(|(label, sum)| ([("channel", label.as_str())], read(sum)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::collector::Collector;
    use prometheus_client::encoding::DescriptorEncoder;

    use super::super::exposition::Exposition;
    use super::*;
    use crate::hub::ChannelStats;
    use crate::ops::admin::made_up;

    impl Collector for Sharing {
        fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
            self.write(&mut MetricWriter(encoder))
        }
    }

    fn samples(each: Vec<ChannelStats>, cluster: Option<ClusterStats>) -> Vec<String> {
        let stats = ChannelsStats {
            each,
            cluster,
            ..ChannelsStats::default()
        };
        let text = Exposition::Prometheus.encode(Sharing::new(&stats));
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        let mut samples: Vec<_> = samples.map(str::to_owned).collect();
        samples.sort();
        samples
    }

    #[test]
    fn nodes_and_shared_channels_are_counted_and_those_that_nobody_named_are_one() {
        let open = |name, error| ChannelStats {
            is_open: true,
            ..made_up::shared(name, error)
        };
        let each = vec![
            made_up::channel("local", None),
            made_up::shared("nmea", None),
            open("a", None),
            open("b", Some("the stream is full")),
        ];
        let expected = [
            "linehub_channel_queued_bytes{channel=\"nmea\"} 34567",
            "linehub_channel_queued_bytes{channel=\"open\"} 69134",
            "linehub_channel_stream_failed{channel=\"nmea\"} 0",
            "linehub_channel_stream_failed{channel=\"open\"} 1",
            "linehub_channel_stream_lag_messages{channel=\"nmea\"} 12",
            "linehub_channel_stream_lag_messages{channel=\"open\"} 24",
            "linehub_channel_unacknowledged_batches{channel=\"nmea\"} 1",
            "linehub_channel_unacknowledged_batches{channel=\"open\"} 2",
            "linehub_cluster_connected 1",
            "linehub_cluster_nodes 2",
            "linehub_cluster_reconnects_total 3",
        ];
        assert_eq!(samples(each, Some(made_up::cluster(true))), expected);
        let away = samples(Vec::new(), Some(made_up::cluster(false)));
        assert_eq!(away[0], "linehub_cluster_connected 0");
        assert_eq!(away.len(), 3);
    }

    #[test]
    fn no_metric_speaks_of_other_daemons_where_nothing_is_shared() {
        assert_eq!(samples(vec![made_up::channel("main", None)], None), [""; 0]);
    }
}
