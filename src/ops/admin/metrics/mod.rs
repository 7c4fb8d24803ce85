//! `/metrics`: the daemon's stats for Prometheus, by its conventions for names and units.

mod channels;
mod exposition;
mod histories;
mod sharing;

use std::fmt;
use std::time::SystemTime;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::registry::Unit;

use self::exposition::MetricWriter;
use super::process::ProcessStats;
use crate::hub::HubStats;
use crate::hub::counters::{Count, Counters, HandoverMethod, Outcomes};
use crate::net::tls::CertificateEnd;
use crate::ops::lifecycle::Phase;
use crate::ops::logging;
use crate::wire::close_reason::CloseReason;

pub(super) use self::channels::ByChannel;
pub(super) use self::exposition::Exposition;
pub(super) use self::histories::HistoriesByChannel;
pub(super) use self::sharing::Sharing;

/// The daemon's stats at one time.
#[derive(Debug)]
pub(super) struct Snapshot {
    /// All channels together.
    pub(super) stats: HubStats,
    /// Each channel that has a series of its own, by its label.
    pub(super) channels: ByChannel,
    /// What channels keep, by the same labels.
    pub(super) histories: HistoriesByChannel,
    /// What is shared with other daemons, by the same labels.
    pub(super) sharing: Sharing,
    pub(super) phase: Phase,
    pub(super) clients_max: Option<usize>,
    pub(super) handshakes: u64,
    pub(super) accept_errors: u64,
    /// Connections that were closed, by the reason, refused ones included.
    pub(super) closed: ClosedByReason,
    /// Handovers that succeeded and that failed, by method.
    pub(super) handovers: [(HandoverMethod, [u64; 2]); 2],
    /// Reloads that succeeded and that failed.
    pub(super) reloads: [u64; 2],
    pub(super) process: ProcessStats,
    pub(super) certificates: Vec<CertificateEnd>,
    pub(super) started: SystemTime,
}

/// A count for each reason, in the order of the reasons.
pub(super) type ClosedByReason = [(CloseReason, u64); CloseReason::ALL.len()];

/// Connections closed for each reason, with refused ones, which never became clients.
pub(super) fn closed_by_reason(stats: &HubStats, counters: &Counters) -> ClosedByReason {
    CloseReason::ALL.map(|reason| {
        let refused = counters.refused_for(reason).map_or(0, Count::get);
        (reason, stats.closed[reason] + refused)
    })
}

/// Handovers that succeeded and that failed, by method.
pub(super) fn handovers(counters: &Counters) -> [(HandoverMethod, [u64; 2]); 2] {
    [HandoverMethod::Exec, HandoverMethod::Store]
        .map(|method| (method, pair(counters.handovers.by(method))))
}

/// Successes and failures.
pub(super) fn pair(outcomes: &Outcomes) -> [u64; 2] {
    [outcomes.ok.get(), outcomes.failed.get()]
}

/// The text of a snapshot.
pub(super) fn write(snapshot: Snapshot, exposition: Exposition) -> String {
    exposition.encode(snapshot)
}

impl Collector for Snapshot {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut out = MetricWriter(encoder);
        self.clients(&mut out)?;
        self.lines(&mut out)?;
        self.buffer(&mut out)?;
        self.channels.write(&mut out)?;
        self.histories.write(&mut out)?;
        self.sharing.write(&mut out)?;
        self.daemon(&mut out)?;
        self.process(&mut out)
    }
}

impl Snapshot {
    fn clients(&self, out: &mut MetricWriter<'_>) -> fmt::Result {
        let stats = &self.stats;
        out.gauge(
            "linehub_clients",
            "Clients that are connected",
            stats.clients as u64,
        )?;
        out.gauge(
            "linehub_handshakes",
            "Connections that have not said their hello yet",
            self.handshakes,
        )?;
        if let Some(max) = self.clients_max {
            out.gauge(
                "linehub_clients_limit",
                "Clients that may be connected",
                max as u64,
            )?;
        }
        out.counter(
            "linehub_clients_connected",
            "Clients that ever connected",
            stats.joined,
        )?;
        let closed = self.closed;
        let closed = closed.map(|(reason, count)| ([("reason", reason.label())], count));
        out.counters(
            "linehub_connections_closed",
            "Connections that were closed, by the reason",
            &closed,
        )
    }

    fn lines(&self, out: &mut MetricWriter<'_>) -> fmt::Result {
        let (stats, totals) = (&self.stats, &self.stats.totals);
        out.counter(
            "linehub_lines_received",
            "Lines that clients sent",
            totals.lines_in,
        )?;
        out.counter(
            "linehub_lines_sent",
            "Lines that clients were sent, each counted once a client",
            totals.lines_out,
        )?;
        out.counter_in(
            Unit::Bytes,
            "linehub_received",
            "Bytes read from clients",
            totals.bytes_in,
        )?;
        out.counter_in(
            Unit::Bytes,
            "linehub_sent",
            "Bytes that clients' sockets took",
            totals.bytes_out,
        )?;
        out.counter(
            "linehub_messages_published",
            "Lines that got a place in the one order",
            stats.messages,
        )?;
        out.counter(
            "linehub_notices_published",
            "Notices of who came and left that got a place in the one order",
            stats.notices,
        )?;
        out.counter(
            "linehub_messages_skipped",
            "Messages that slow clients missed, and were told so, each counted once a client",
            totals.skipped,
        )?;
        out.counter(
            "linehub_log_lines_lost",
            "Log lines that were lost because stderr did not take them in time",
            logging::lost(),
        )?;
        out.counter(
            "linehub_lines_discarded",
            "Lines that were longer than the limit and dropped, where only they are",
            stats.discarded,
        )?;
        out.counter(
            "linehub_lines_ignored",
            "Lines that were thrown away, from clients that may not publish",
            stats.ignored,
        )?;
        out.counter(
            "linehub_reads_throttled",
            "Reads from clients that had to wait, because the client was over its rates",
            stats.throttled,
        )
    }

    fn buffer(&self, out: &mut MetricWriter<'_>) -> fmt::Result {
        let stats = &self.stats;
        out.gauge_in(
            Unit::Bytes,
            "linehub_buffer_used",
            "Bytes in the buffer: lines that wait for clients",
            stats.buffer_used as u64,
        )?;
        out.gauge_in(
            Unit::Bytes,
            "linehub_buffer_limit",
            "Bytes that the buffer may hold",
            stats.buffer_limit as u64,
        )?;
        out.gauge(
            "linehub_senders_waiting",
            "Clients that wait for room in the buffer, as what they sent does",
            stats.senders_waiting as u64,
        )?;
        out.counter_in(
            Unit::Seconds,
            "linehub_senders_waited",
            "For how long clients waited for room in the buffer, all together",
            stats.waited.as_secs_f64(),
        )
    }

    fn daemon(&self, out: &mut MetricWriter<'_>) -> fmt::Result {
        out.counter(
            "linehub_accept_errors",
            "Times that connections could not be accepted, as without descriptors",
            self.accept_errors,
        )?;
        let results = ["ok", "failed"];
        let handovers = self.handovers.map(|(method, counts)| {
            [0, 1].map(|at| {
                let labels = [("carrier", method.label()), ("result", results[at])];
                (labels, counts[at])
            })
        });
        out.counters(
            "linehub_handovers",
            "Handovers to the next daemon, by what carried them and how they went",
            handovers.as_flattened(),
        )?;
        let reloads = [0, 1].map(|at| ([("result", results[at])], self.reloads[at]));
        out.counters(
            "linehub_reloads",
            "Times the configuration was read again, by how that went",
            &reloads,
        )?;
        let ends = self.certificates.iter().map(|certificate| {
            let file = certificate.file.display().to_string();
            let end = certificate.at.duration_since(SystemTime::UNIX_EPOCH);
            ([("file", file)], end.unwrap_or_default().as_secs())
        });
        let ends: Vec<_> = ends.collect();
        out.gauges_in(
            Unit::Seconds,
            "linehub_tls_certificate_end_timestamp",
            "When the certificate that listeners show ends, since the epoch",
            &ends,
        )?;
        let phases = Phase::ALL.map(|phase| {
            let label = phase.to_string().replace(' ', "_");
            ([("phase", label)], u64::from(phase == self.phase))
        });
        out.gauges("linehub_phase", "1 for the phase the daemon is in", &phases)?;
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        out.gauges(
            "linehub_build_info",
            "Always 1, with what runs",
            &[(version, 1)],
        )
    }

    /// The metrics of the process that Prometheus' client libraries have, under the same names.
    fn process(&self, out: &mut MetricWriter<'_>) -> fmt::Result {
        let started = self.started.duration_since(SystemTime::UNIX_EPOCH);
        out.gauge_in(
            Unit::Seconds,
            "process_start_time",
            "When the process began, since the epoch",
            started.unwrap_or_default().as_secs_f64(),
        )?;
        let process = &self.process;
        if let Some(seconds) = process.cpu_seconds {
            let help = "Processor time used, user and system";
            out.counter_in(Unit::Seconds, "process_cpu", help, seconds)?;
        }
        if let Some(bytes) = process.resident_bytes {
            let name = "process_resident_memory";
            out.gauge_in(Unit::Bytes, name, "Memory in use", bytes)?;
        }
        if let Some(bytes) = process.virtual_bytes {
            let name = "process_virtual_memory";
            out.gauge_in(Unit::Bytes, name, "Memory reserved", bytes)?;
        }
        if let Some(files) = process.open_files {
            out.gauge("process_open_fds", "Open file descriptors", files)?;
        }
        if let Some(files) = process.open_files_max {
            let help = "File descriptors that may be open";
            out.gauge("process_max_fds", help, files)?;
        }
        if let Some(threads) = process.threads {
            out.gauge("process_threads", "Threads", threads)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::ChannelsStats;

    fn snapshot() -> Snapshot {
        let counters = Counters::default();
        counters.handovers.by(HandoverMethod::Exec).ok.add_one();
        let mut stats = HubStats {
            clients: 3,
            joined: 7,
            ..HubStats::default()
        };
        stats.closed[CloseReason::Slow] = 2;
        (0..4).for_each(|_| counters.refused.add_one());
        counters.bad_hello.add_one();
        Snapshot {
            channels: ByChannel::new(&ChannelsStats::default()),
            histories: HistoriesByChannel::new(&ChannelsStats::default()),
            sharing: Sharing::new(&ChannelsStats::default()),
            phase: Phase::HandingOver,
            clients_max: Some(960),
            handshakes: 5,
            accept_errors: 1,
            closed: closed_by_reason(&stats, &counters),
            handovers: handovers(&counters),
            reloads: pair(&counters.reloads),
            process: ProcessStats::now(),
            certificates: vec![CertificateEnd {
                file: "/etc/server.pem".into(),
                at: SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_900_000_000),
            }],
            started: SystemTime::UNIX_EPOCH,
            stats,
        }
    }

    #[test]
    fn names_and_values_are_as_prometheus_has_them() {
        let text = write(snapshot(), Exposition::Prometheus);
        for line in [
            "# TYPE linehub_clients gauge",
            "linehub_clients 3",
            "# TYPE linehub_clients_connected_total counter",
            "linehub_clients_connected_total 7",
            "linehub_connections_closed_total{reason=\"slow\"} 2",
            "linehub_connections_closed_total{reason=\"full\"} 4",
            "linehub_connections_closed_total{reason=\"bad_hello\"} 1",
            "linehub_handshakes 5",
            "linehub_tls_certificate_end_timestamp_seconds{file=\"/etc/server.pem\"} 1900000000",
            "linehub_connections_closed_total{reason=\"eof\"} 0",
            "linehub_received_bytes_total 0",
            "linehub_senders_waited_seconds_total 0.0",
            "linehub_handovers_total{carrier=\"exec\",result=\"ok\"} 1",
            "linehub_phase{phase=\"handing_over\"} 1",
            "linehub_phase{phase=\"running\"} 0",
            concat!(
                "linehub_build_info{version=\"",
                env!("CARGO_PKG_VERSION"),
                "\"} 1"
            ),
            "process_start_time_seconds 0.0",
        ] {
            assert!(
                text.lines().any(|found| found == line),
                "no '{line}' in {text}"
            );
        }
        assert!(!text.contains("# EOF"), "{text}");
    }

    #[test]
    fn who_asks_for_open_metrics_gets_it() {
        let asked = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.2";
        let exposition = Exposition::preferred(asked);
        assert_eq!(exposition, Exposition::OpenMetrics);
        let text = write(snapshot(), exposition);
        assert!(text.ends_with("# EOF\n"), "{text}");
        assert!(
            text.contains("# TYPE linehub_lines_received counter\n"),
            "{text}"
        );
        assert_eq!(Exposition::preferred("*/*"), Exposition::Prometheus);
    }
}
