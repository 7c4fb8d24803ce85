//! What was measured, for people.

use std::fmt::Write as _;

use super::outcome::{Closed, Outcome};
use super::plan::SweepAxis;
use super::tracker::Faults;
use super::units::{count, megabytes, percent, plural, time};
use crate::commands::table::{Table, thousands};

/// Connections that are listed one by one.
const LISTED_MAX: usize = 10;

/// What is at the limit is not far from one CPU.
const BUSY: f64 = 0.9;

/// One run.
pub(super) fn of_run(outcome: &Outcome) -> String {
    let run = &outcome.run;
    let whose = match (outcome.is_own, &outcome.daemon) {
        (true, _) => "a daemon of its own".to_owned(),
        (false, Some(daemon)) => format!("{}, process {}", outcome.address, daemon.pid),
        (false, None) => outcome.address.to_string(),
    };
    let channel = outcome.channel.as_ref();
    let channel = channel.map_or(String::new(), |name| format!(", channel {name}"));
    let tls = if outcome.is_tls { ", over TLS" } else { "" };
    let pace = match run.rate {
        0 => "as fast as it goes".to_owned(),
        rate => format!("{} a second", thousands(rate as u64)),
    };
    let stuck = match run.stuck {
        0 => String::new(),
        stuck => format!(", {stuck} stuck"),
    };
    let ended = match outcome.interrupted {
        true => ", interrupted",
        false => "",
    };
    let (senders, readers) = (plural(run.senders, "sender"), plural(run.readers, "reader"));
    let (size, time) = (thousands(run.size as u64), time(outcome.elapsed));
    let (lines, bytes) = (outcome.lines_in_per_second(), outcome.bytes_in_per_second());
    let rate_in = vec!["in".to_owned(), count(lines), megabytes(bytes)];
    let (lines, bytes) = (
        outcome.lines_out_per_second(),
        outcome.bytes_out_per_second(),
    );
    let rate_out = vec!["out".to_owned(), count(lines), megabytes(bytes)];
    let latency = [vec!["latency".to_owned()], percentiles(outcome)].concat();
    let daemon = [vec!["daemon".to_owned()], daemon_cells(outcome)].concat();
    let load = outcome.load_cpu.map_or("-".to_owned(), percent);
    let load = vec!["load".to_owned(), load];
    let mut lines = vec![
        format!("{senders}, {readers}{stuck}, {size}-byte lines, {pace}, for {time}{ended}"),
        format!("against {whose}{channel}{tls}, in {}\n", outcome.format),
        table(&["", "lines/s", "MB/s"], [rate_in, rate_out]),
        table(&["", "p50", "p90", "p99", "p99.9", "max"], [latency]),
        table(&["", "CPU", "memory", "peak"], [daemon, load]),
    ];
    lines.extend(notes(outcome));
    lines.push(verdict(outcome));
    lines.extend(closed(outcome));
    lines.join("\n") + "\n"
}

fn table(columns: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::of_numbers(columns);
    rows.into_iter().for_each(|row| table.row(row));
    table.text()
}

/// A row for each run.
pub(super) fn of_sweep(axis: &SweepAxis, outcomes: &[Outcome]) -> String {
    let columns = [
        axis.name,
        "in/s",
        "out/s",
        "in MB/s",
        "out MB/s",
        "p50",
        "p90",
        "p99",
        "p99.9",
        "max",
        "CPU",
        "memory",
        "peak",
        "connects/s",
        "check",
    ];
    let rows = outcomes.iter().map(|outcome| {
        let mut row = vec![
            thousands(axis.of(&outcome.run) as u64),
            count(outcome.lines_in_per_second()),
            count(outcome.lines_out_per_second()),
            megabytes(outcome.bytes_in_per_second()),
            megabytes(outcome.bytes_out_per_second()),
        ];
        row.extend(percentiles(outcome));
        row.extend(daemon_cells(outcome));
        row.push(thousands(outcome.connects_per_second() as u64));
        row.push(if outcome.is_good() { "ok" } else { "FAILED" }.to_owned());
        row
    });
    let mut text = table(&columns, rows);
    for outcome in outcomes {
        let at = format!("{}={}", axis.name, axis.of(&outcome.run));
        let wrong = (!outcome.is_good()).then(|| verdict(outcome));
        for line in wrong.into_iter().chain(closed(outcome)) {
            let _ = writeln!(text, "{at}: {}", line.trim_start());
        }
    }
    text
}

fn percentiles(outcome: &Outcome) -> Vec<String> {
    let all = &outcome.latencies.all;
    let percents = [50.0, 90.0, 99.0, 99.9].map(|percent| all.percentile(percent));
    let cells = percents.into_iter().chain([all.max()]);
    cells
        .map(|latency| latency.map_or("-".to_owned(), time))
        .collect()
}

fn daemon_cells(outcome: &Outcome) -> Vec<String> {
    let bytes = |bytes: Option<u64>| {
        let text = |bytes| format!("{} MB", megabytes(bytes as f64));
        bytes.map_or("-".to_owned(), text)
    };
    match outcome.daemon {
        Some(daemon) => vec![
            percent(daemon.cpu),
            bytes(daemon.rss),
            bytes(daemon.rss_peak),
        ],
        None => vec!["-".to_owned(); 3],
    }
}

/// What a reader of the figures has to know.
fn notes(outcome: &Outcome) -> Vec<String> {
    let mut notes = vec![format!(
        "connects: {} in {}, {} a second",
        thousands(outcome.run.connections() as u64),
        time(outcome.connect_time),
        thousands(outcome.connects_per_second() as u64)
    )];
    let daemon_cpu = outcome.daemon.map_or(0.0, |daemon| daemon.cpu);
    if outcome.run.rate == 0 && outcome.load_cpu > Some(BUSY.max(daemon_cpu)) {
        notes.push("note: the load had no CPU time left; the daemon may do more".to_owned());
    }
    let asked = (outcome.run.rate as f64 * outcome.elapsed.as_secs_f64()) as u64;
    if outcome.sent < asked - asked / 100 {
        let (sent, asked) = (thousands(outcome.sent), thousands(asked));
        notes.push(format!(
            "note: {sent} of {asked} lines were sent: the rate is too high"
        ));
    }
    if let Some(late) = outcome.late.as_ref().and_then(|late| late.percentile(99.0)) {
        notes.push(format!(
            "sent late: p99 {}, which the latency includes",
            time(late)
        ));
    }
    notes
}

/// Whether all was good, else what was wrong.
pub fn verdict(outcome: &Outcome) -> String {
    let Faults {
        lost,
        doubled,
        cut,
        reordered,
        skipped,
    } = outcome.faults;
    let delivered = thousands(outcome.delivered);
    if outcome.is_good() {
        return format!(
            "check: ok; every line came to every reader, once, whole, in one order: {delivered} in all"
        );
    }
    let counts = [
        (lost, "lost"),
        (doubled, "doubled"),
        (cut, "cut"),
        (reordered, "reordered"),
        (skipped, "skipped and told"),
    ];
    let mut wrong: Vec<String> = counts
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{} {what}", thousands(*count)))
        .collect();
    let closed = outcome.unexpected().count();
    if closed > 0 {
        wrong.push(format!("{} closed", plural(closed, "connection")));
    }
    if !outcome.complete {
        wrong.push("not waited for to the end".to_owned());
    }
    format!(
        "check: FAILED; {} ({delivered} came in all)",
        wrong.join(", ")
    )
}

/// Connections that were closed and why.
fn closed(outcome: &Outcome) -> Vec<String> {
    let mut lines = Vec::new();
    let mut reasons: Vec<(String, usize)> = Vec::new();
    for why in outcome.stuck().map(why) {
        match reasons.iter_mut().find(|(known, _)| *known == why) {
            Some((_, count)) => *count += 1,
            None => reasons.push((why, 1)),
        }
    }
    let of = outcome.run.stuck;
    for (why, count) in reasons {
        lines.push(format!("stuck: {count} of {of} closed, {why}"));
    }
    if outcome.stuck_open > 0 {
        let open = outcome.stuck_open;
        lines.push(format!(
            "stuck: {open} of {of} not closed: what waits for them has room"
        ));
    }
    for closed in outcome.unexpected().take(LISTED_MAX) {
        let (role, number) = closed.role.named();
        lines.push(format!("closed: {role} {number}, {}", why(closed)));
    }
    let more = outcome.unexpected().skip(LISTED_MAX).count();
    if more > 0 {
        lines.push(format!("closed: {more} more"));
    }
    lines
}

fn why(closed: &Closed) -> String {
    match closed.detail.as_str() {
        "" => format!("reason {}", closed.reason),
        detail => format!("reason {} ({detail})", closed.reason),
    }
}
