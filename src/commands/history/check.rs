//! `linehub history check`.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{FAILED, Stop, failed, none_in};
use crate::commands::table::{Align, Table, thousands};
use crate::hub::history::disk::{Report, channels, check};

/// Checks all channels, and prints a line for each, and one for all that is wrong.
pub(super) fn run(dir: &Path) -> Result<ExitCode, Stop> {
    let channels = channels(dir).map_err(failed)?;
    if channels.is_empty() {
        return Err(none_in(dir));
    }
    let mut table = Table::new(&[
        ("channel", Align::Left),
        ("epoch", Align::Left),
        ("segments", Align::Right),
        ("bytes", Align::Right),
        ("records", Align::Right),
        ("messages", Align::Right),
        ("numbers", Align::Right),
        ("oldest", Align::Left),
        ("newest", Align::Left),
    ]);
    let mut remarks = String::new();
    let mut is_damaged = false;
    for (name, folder) in channels {
        let report = check(&folder).map_err(failed)?;
        table.row(row(name, &report));
        for damage in &report.damages {
            remarks.push_str(&format!("{damage}\n"));
        }
        for (file, what) in &report.unfinished {
            remarks.push_str(&format!("{} {what}\n", file.display()));
        }
        is_damaged |= !report.damages.is_empty();
    }
    let text = format!("{}{remarks}", table.text());
    io::stdout()
        .lock()
        .write_all(text.as_bytes())
        .map_err(Stop::Output)?;
    Ok(ExitCode::from(if is_damaged { FAILED } else { 0 }))
}

fn row(name: String, report: &Report) -> [String; 9] {
    let dash = || "–".to_owned();
    let numbers = report
        .numbers
        .map(|(first, last)| format!("{first}..{last}"));
    let [oldest, newest] = match report.times_ms {
        Some((oldest, newest)) => [time(oldest), time(newest)],
        None => [dash(), dash()],
    };
    [
        name,
        report.epoch.map_or_else(dash, |epoch| epoch.to_string()),
        thousands(report.segments),
        thousands(report.bytes),
        thousands(report.records),
        thousands(report.messages),
        numbers.unwrap_or_else(dash),
        oldest,
        newest,
    ]
}

/// A time as UTC, to the second; a dash for one that no clock has.
fn time(since_1970_ms: u64) -> String {
    /// The last second of the year 9999, beyond which there is no such text.
    const LAST_MS: u64 = 253_402_300_799_000;
    let time: Option<SystemTime> = (since_1970_ms <= LAST_MS)
        .then(|| UNIX_EPOCH.checked_add(Duration::from_millis(since_1970_ms)))
        .flatten();
    time.map_or("–".to_owned(), |time| {
        humantime::format_rfc3339_seconds(time).to_string()
    })
}
