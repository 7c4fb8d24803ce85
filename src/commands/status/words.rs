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

/// A number of seconds that may be months, in a narrow column: from a day on, the largest unit alone.
pub(super) fn age(seconds: f64) -> String {
    const DAY: f64 = 86_400.0;
    let text = duration(seconds);
    match text.split_once(' ') {
        Some((largest, _)) if seconds >= DAY => largest.to_owned(),
        _ => text,
    }
}

/// A number of seconds that is small as long as all is well: to a tenth while it is.
pub(super) fn lag(seconds: f64) -> String {
    match seconds {
        short if short > 0.0 && short < 10.0 => {
            format!("{:.1}s", (short * 10.0).floor().max(1.0) / 10.0)
        }
        _ => duration(seconds),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn age_is_short_enough_for_a_column() {
        for (seconds, said) in [
            (0.4, "0s"),
            (86_399.0, "23h 59m"),
            (86_400.0, "1day"),
            (90_061.0, "1day"),
            (6.0e6, "2months"),
        ] {
            assert_eq!(age(seconds), said, "{seconds}");
        }
    }

    #[test]
    fn lag_is_never_nothing_while_there_is_one() {
        for (seconds, said) in [
            (0.0, "0s"),
            (0.001, "0.1s"),
            (1.26, "1.2s"),
            (9.96, "9.9s"),
            (10.0, "10s"),
            (75.5, "1m 15s"),
        ] {
            assert_eq!(lag(seconds), said, "{seconds}");
        }
    }
}
