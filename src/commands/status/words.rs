//! Numbers, times and names as a person reads them.

use std::time::Duration;

use bytesize::ByteSize;

use crate::commands::table::thousands;

/// A number of seconds, as somebody would say it: the two largest units, and whole seconds.
pub(super) fn duration(seconds: f64) -> String {
    let whole = Duration::from_secs(seconds.max(0.0) as u64);
    let text = humantime::format_duration(whole).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

pub(super) fn bytes(bytes: u64) -> String {
    ByteSize(bytes).display().iec().to_string()
}

/// A rate: whole, unless it is small.
pub(super) fn rate(rate: f64) -> String {
    match rate {
        small if small < 10.0 && small.fract() > 0.0 => format!("{small:.1}"),
        _ => thousands(rate.round() as u64),
    }
}

/// Names of sockets can have any character in them: none may reach the terminal that moves it.
pub(super) fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}
