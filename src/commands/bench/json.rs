//! What was measured, for programs.

use std::time::Duration;

use serde_json::{Value, json};

use super::histogram::Histogram;
use super::latency::Point;
use super::outcome::{Closed, Outcome};

/// One run as a document.
pub(super) fn of_run(outcome: &Outcome) -> Value {
    let run = &outcome.run;
    let mut check = json!(outcome.faults);
    check["ok"] = outcome.is_good().into();
    check["complete"] = outcome.complete.into();
    check["delivered"] = outcome.delivered.into();
    let mut document = json!({
        "address": outcome.address.to_string(),
        "tls": outcome.is_tls,
        "own_daemon": outcome.is_own,
        "format": outcome.format.name(),
        "senders": run.senders,
        "readers": run.readers,
        "stuck": run.stuck,
        "size_bytes": run.size,
        "rate_lines_per_second": run.rate,
        "duration_seconds": outcome.elapsed.as_secs_f64(),
        "interrupted": outcome.interrupted,
        "connects": run.connections(),
        "connects_per_second": outcome.connects_per_second(),
        "lines_in": outcome.sent,
        "lines_in_per_second": outcome.lines_in_per_second(),
        "bytes_in_per_second": outcome.bytes_in_per_second(),
        "lines_out": outcome.received,
        "lines_out_per_second": outcome.lines_out_per_second(),
        "bytes_out_per_second": outcome.bytes_out_per_second(),
        "latency_microseconds": histogram(&outcome.latencies.all),
        "sent_late_microseconds": outcome.late.as_ref().map(histogram),
        "daemon": outcome.daemon.map(|daemon| json!({
            "pid": daemon.pid,
            "cpu_percent": daemon.cpu * 100.0,
            "memory_bytes": daemon.rss,
            "memory_peak_bytes": daemon.rss_peak,
        })),
        "load_cpu_percent": outcome.load_cpu.map(|cpu| cpu * 100.0),
        "check": check,
        "closed": outcome.closed.iter().map(closed).collect::<Vec<_>>(),
        "stuck_open": outcome.stuck_open,
        "over_time": outcome.latencies.points.iter().map(point).collect::<Vec<_>>(),
    });
    if let Some(channel) = &outcome.channel {
        document["channel"] = channel.as_str().into();
    }
    document
}

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

fn histogram(histogram: &Histogram) -> Value {
    let percentile = |percent| histogram.percentile(percent).map(micros);
    json!({
        "p50": percentile(50.0),
        "p90": percentile(90.0),
        "p99": percentile(99.0),
        "p99_9": percentile(99.9),
        "max": histogram.max().map(micros),
        "lines": histogram.count(),
    })
}

fn closed(closed: &Closed) -> Value {
    let (role, number) = closed.role.named();
    json!({
        "role": role,
        "number": number,
        "reason": closed.reason,
        "detail": closed.detail,
    })
}

fn point(point: &Point) -> Value {
    let length = point.length.as_secs_f64();
    json!({
        "at_seconds": point.at.as_secs_f64(),
        "lines_in_per_second": point.sent as f64 / length,
        "lines_out_per_second": point.delivered as f64 / length,
        "latency_p50_microseconds": point.latency.map(|(p50, _)| micros(p50)),
        "latency_p99_microseconds": point.latency.map(|(_, p99)| micros(p99)),
    })
}
