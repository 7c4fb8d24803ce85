//! Numbers with few digits and a unit that fits them.

use std::time::Duration;

use crate::commands::table::thousands;

/// A number with three or four digits: 612 k, 61.2 M.
pub fn count(number: f64) -> String {
    let (number, unit) = match number {
        1e9.. => (number / 1e9, " G"),
        1e6.. => (number / 1e6, " M"),
        1e4.. => (number / 1e3, " k"),
        _ => return format!("{number:.0}"),
    };
    let decimals = if number >= 100.0 { 1 } else { 2 };
    format!("{number:.decimals$}{unit}")
}

/// A duration with three digits.
pub fn time(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    let (number, unit) = match seconds {
        1.0.. => (seconds, "s"),
        1e-3.. => (seconds * 1e3, "ms"),
        _ => (seconds * 1e6, "µs"),
    };
    let decimals = match number {
        100.0.. => 0,
        10.0.. => 1,
        _ => 2,
    };
    format!("{number:.decimals$} {unit}")
}

/// Millions of bytes.
pub(super) fn megabytes(bytes: f64) -> String {
    let number = bytes / 1e6;
    let decimals = if number >= 100.0 { 0 } else { 2 };
    format!("{number:.decimals$}")
}

/// A share in percent.
pub(super) fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

/// A number of things, with an s if there is not one.
pub(super) fn plural(number: usize, what: &str) -> String {
    let s = if number == 1 { "" } else { "s" };
    format!("{} {what}{s}", thousands(number as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_shown_with_few_digits_and_a_unit() {
        for (number, shown) in [
            (0.0, "0"),
            (9_999.0, "9999"),
            (61_234.0, "61.23 k"),
            (612_345.0, "612.3 k"),
            (61.2e6, "61.20 M"),
            (1.5e9, "1.50 G"),
        ] {
            assert_eq!(count(number), shown);
        }
        for (nanos, shown) in [
            (80, "0.08 µs"),
            (52_300, "52.3 µs"),
            (1_234_567, "1.23 ms"),
            (123_456_789, "123 ms"),
            (10_000_000_000, "10.0 s"),
        ] {
            assert_eq!(time(Duration::from_nanos(nanos)), shown);
        }
        assert_eq!(
            [plural(1, "sender"), plural(2, "sender")],
            ["1 sender", "2 senders"]
        );
    }
}
