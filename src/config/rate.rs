//! Rates: so much a second.

use std::num::NonZeroU64;

use bytesize::ByteSize;

use super::address::whole_number;
use super::values::not_a_number;

/// Most that a rate may be: what more would be is no limit, and sums with it stay far from overflowing.
const RATE_MOST: u64 = 1 << 40;

/// Reads `N/s`, a number of anything; `None` for `0` and `off`.
pub(super) fn numbers(text: &str) -> Result<Option<NonZeroU64>, String> {
    let number = |number: &str| match whole_number(number) {
        Some(number) => Ok(number as u64),
        None => Err(not_a_number(number)),
    };
    rate(text, "100", number).map_err(|wrong| {
        format!("{wrong}; allowed: 1/s to {RATE_MOST}/s, such as 100/s, or 0 or off for no limit")
    })
}

/// Reads `SIZE/s`, a number of bytes; `None` for `0` and `off`.
pub(super) fn bytes(text: &str) -> Result<Option<NonZeroU64>, String> {
    let size = |size: &str| match size.parse() {
        Ok(ByteSize(bytes)) => Ok(bytes),
        Err(_) => Err(format!("'{size}' is not a size")),
    };
    rate(text, "64KiB", size).map_err(|wrong| {
        format!("{wrong}; allowed: 1/s to 1TiB/s, such as 64KiB/s, or 0 or off for no limit")
    })
}

/// Reads a rate of what `amount` reads. Errors say what is wrong, not what is allowed.
fn rate(
    text: &str,
    example: &str,
    amount: impl Fn(&str) -> Result<u64, String>,
) -> Result<Option<NonZeroU64>, String> {
    if text == "off" || text == "0" {
        return Ok(None);
    }
    let Some(number) = text.strip_suffix("/s") else {
        return Err(match amount(text) {
            Ok(_) => format!("'{text}' has no time, write {text}/s"),
            Err(_) => format!("'{text}' is no rate, write it as {example}/s"),
        });
    };
    match amount(number)? {
        rate if rate > RATE_MOST => Err(format!("'{text}' is too large")),
        rate => Ok(NonZeroU64::new(rate)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_with_their_time() {
        for (text, expected) in [
            ("1/s", 1),
            ("100/s", 100),
            ("1099511627776/s", 1 << 40),
            ("0", 0),
            ("0/s", 0),
            ("off", 0),
        ] {
            assert_eq!(numbers(text), Ok(NonZeroU64::new(expected)), "{text}");
            assert_eq!(bytes(text), Ok(NonZeroU64::new(expected)), "{text}");
        }
        for (text, expected) in [
            ("64KiB/s", 65_536),
            ("1.5 KiB/s", 1536),
            ("1TiB/s", 1 << 40),
        ] {
            assert_eq!(bytes(text), Ok(NonZeroU64::new(expected)), "{text}");
        }
    }

    #[test]
    fn wrong_rates_are_refused_with_what_is_allowed() {
        let allowed = "; allowed: 1/s to 1099511627776/s, such as 100/s, or 0 or off for no limit";
        for (text, wrong) in [
            ("100", "'100' has no time, write 100/s"),
            ("", "'' is no rate, write it as 100/s"),
            ("many", "'many' is no rate, write it as 100/s"),
            ("100/m", "'100/m' is no rate, write it as 100/s"),
            ("-1/s", "'-1' is not a whole number"),
            ("1.5/s", "'1.5' is not a whole number"),
            ("1099511627777/s", "'1099511627777/s' is too large"),
        ] {
            assert_eq!(numbers(text), Err(format!("{wrong}{allowed}")), "{text}");
        }
        let allowed = "; allowed: 1/s to 1TiB/s, such as 64KiB/s, or 0 or off for no limit";
        for (text, wrong) in [
            ("64KiB", "'64KiB' has no time, write 64KiB/s"),
            ("12xy/s", "'12xy' is not a size"),
            ("2TiB/s", "'2TiB/s' is too large"),
        ] {
            assert_eq!(bytes(text), Err(format!("{wrong}{allowed}")), "{text}");
        }
    }
}
