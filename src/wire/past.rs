//! What a client asks for of the past of a channel.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;

use super::ids::{Epoch, Seq};

/// Most messages, or bytes of them, that are asked for: as much as a channel may keep, 1 TiB.
const AMOUNT_MAX: u64 = 1 << 40;

/// Oldest that is asked for: ten years of 365.25 days, as humantime counts them.
const AGE_MAX: Duration = Duration::from_secs(10 * 31_557_600);

/// Units of a duration, in milliseconds, from the longest.
const AGE_UNITS: [(u64, &str); 5] = [
    (86_400_000, "d"),
    (3_600_000, "h"),
    (60_000, "m"),
    (1000, "s"),
    (1, "ms"),
];

/// How much of the newest a client gets first. Reads and displays as `20`, `64KiB` or `5m`; there is no
/// blank in what it displays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Newest {
    /// So many messages, at most 2^40.
    Messages(u64),
    /// Messages whose lines have at most so many bytes, their LF included; at most 1 TiB.
    Bytes(u64),
    /// Messages that are at most so old, in whole milliseconds: at most 10 years.
    Age(Duration),
}

/// The place that a client goes on from. Reads and displays as `5f3a9c11:4711` or `5m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// Behind this message or notice.
    Place(Epoch, Seq),
    /// What is at most so old, in whole milliseconds: 1 ms to 10 years.
    Age(Duration),
}

/// A text that is no [`Newest`]. Displays what is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidNewest;

/// A text that is no [`Since`]. Displays what is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidSince;

impl Newest {
    /// Nothing: a client begins with what comes next.
    pub const NONE: Newest = Newest::Messages(0);

    /// Whether it is nothing. What was read as nothing is [`Newest::NONE`], whatever its unit was.
    pub const fn is_none(self) -> bool {
        match self {
            Newest::Messages(amount) | Newest::Bytes(amount) => amount == 0,
            Newest::Age(age) => age.is_zero(),
        }
    }
}

impl FromStr for Newest {
    type Err = InvalidNewest;

    /// A bare number is messages, a size ends in `B`, and all else is a duration.
    fn from_str(text: &str) -> Result<Newest, InvalidNewest> {
        let newest = if let Some(messages) = number(text) {
            Newest::Messages(messages)
        } else if text.ends_with(['B', 'b']) {
            let size: ByteSize = text.parse().map_err(|_| InvalidNewest)?;
            Newest::Bytes(size.as_u64())
        } else {
            Newest::Age(age(text).ok_or(InvalidNewest)?)
        };
        match newest {
            Newest::Messages(amount) | Newest::Bytes(amount) if amount > AMOUNT_MAX => {
                Err(InvalidNewest)
            }
            none if none.is_none() => Ok(Newest::NONE),
            newest => Ok(newest),
        }
    }
}

impl FromStr for Since {
    type Err = InvalidSince;

    fn from_str(text: &str) -> Result<Since, InvalidSince> {
        let since = match text.split_once(':') {
            Some((epoch, seq)) => place(epoch, seq),
            None => age(text).filter(|age| !age.is_zero()).map(Since::Age),
        };
        since.ok_or(InvalidSince)
    }
}

/// Reads the two parts of a place: 8 hexadecimal digits, and a number.
fn place(epoch: &str, seq: &str) -> Option<Since> {
    let is_epoch = epoch.len() == 8 && epoch.bytes().all(|digit| digit.is_ascii_hexdigit());
    let epoch = is_epoch.then(|| u32::from_str_radix(epoch, 16).ok())??;
    Some(Since::Place(Epoch(epoch), Seq(number(seq)?)))
}

/// Reads a number of nothing but digits.
fn number(text: &str) -> Option<u64> {
    let is_number = !text.is_empty() && text.bytes().all(|digit| digit.is_ascii_digit());
    is_number.then(|| text.parse().ok())?
}

/// Reads a duration, less what is below a millisecond. `M`, which is a month to humantime, is a million
/// to others, and refused.
fn age(text: &str) -> Option<Duration> {
    if text.contains('M') {
        return None;
    }
    let age = humantime::parse_duration(text).ok()?;
    let whole = Duration::from_millis(u64::try_from(age.as_millis()).ok()?);
    // Less than a millisecond is not nothing.
    let is_some = age.is_zero() || !whole.is_zero();
    (is_some && age <= AGE_MAX).then_some(whole)
}

impl fmt::Display for Newest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Newest::Messages(messages) => messages.fmt(f),
            Newest::Bytes(bytes) => display_size(bytes, f),
            Newest::Age(age) => display_age(age, f),
        }
    }
}

impl fmt::Display for Since {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Since::Place(epoch, seq) => write!(f, "{epoch}:{seq}"),
            Since::Age(age) => display_age(age, f),
        }
    }
}

/// Writes a size in the largest unit that holds it without a fraction.
fn display_size(bytes: u64, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut amount, mut units) = (bytes, UNITS.into_iter());
    let mut unit = units.next();
    while amount > 0 && amount.is_multiple_of(1024) && units.len() > 0 {
        amount /= 1024;
        unit = units.next();
    }
    write!(f, "{amount}{}", unit.unwrap_or_default())
}

/// Writes a duration in the longest unit that holds it without a fraction.
fn display_age(age: Duration, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let millis = age.as_millis();
    let holds = |(unit, _): &(u64, &str)| millis > 0 && millis.is_multiple_of(u128::from(*unit));
    let (unit, name) = AGE_UNITS.into_iter().find(holds).unwrap_or((1, "ms"));
    write!(f, "{}{name}", millis / u128::from(unit))
}

impl fmt::Display for InvalidNewest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "a number, a size such as 64KiB or a duration such as 5m, of at most 1TiB or 10y",
        )
    }
}

impl fmt::Display for InvalidSince {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EPOCH:SEQ such as 5f3a9c11:4711, or a duration of 1ms to 10y such as 5m")
    }
}

impl std::error::Error for InvalidNewest {}
impl std::error::Error for InvalidSince {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn newest_is_a_number_a_size_or_a_duration() {
        for (text, newest, shown) in [
            ("5", Newest::Messages(5), "5"),
            ("1099511627776", Newest::Messages(1 << 40), "1099511627776"),
            ("64KiB", Newest::Bytes(1 << 16), "64KiB"),
            ("1MB", Newest::Bytes(1_000_000), "1000000B"),
            ("10B", Newest::Bytes(10), "10B"),
            ("10b", Newest::Bytes(10), "10B"),
            ("1.5kib", Newest::Bytes(1536), "1536B"),
            ("1TiB", Newest::Bytes(1 << 40), "1TiB"),
            ("5m", Newest::Age(millis(300_000)), "5m"),
            ("90s", Newest::Age(millis(90_000)), "90s"),
            ("500ms", Newest::Age(millis(500)), "500ms"),
            ("1h", Newest::Age(millis(3_600_000)), "1h"),
            ("2d", Newest::Age(millis(172_800_000)), "2d"),
            ("1m 30s", Newest::Age(millis(90_000)), "90s"),
            ("1500us", Newest::Age(millis(1)), "1ms"),
            ("10y", Newest::Age(AGE_MAX), "87660h"),
        ] {
            assert_eq!(text.parse(), Ok(newest), "{text}");
            assert_eq!(newest.to_string(), shown);
            assert!(!newest.is_none());
        }
        for text in ["0", "00", "0B", "0KiB", "0s", "0ms"] {
            assert_eq!(text.parse(), Ok(Newest::NONE), "{text}");
        }
        assert!(Newest::NONE.is_none() && Newest::Age(Duration::ZERO).is_none());
        assert_eq!(Newest::NONE.to_string(), "0");
    }

    #[test]
    fn newest_that_can_be_misread_or_is_out_of_bounds_is_none() {
        for text in [
            "",
            " ",
            "-1",
            "+1",
            "1.5",
            "5f3a9c11:4711",
            "B",
            "KiB",
            "-1B",
            "64K",
            "1M",
            "1G",
            "5M",
            "soon",
            "off",
            "1us",
            "1099511627777",
            "99999999999999999999",
            "1.1TiB",
            "99999999999999999999EiB",
            "11y",
            "99999999999999999999s",
        ] {
            assert_eq!(text.parse::<Newest>(), Err(InvalidNewest), "{text:?}");
        }
    }

    #[test]
    fn since_is_a_place_or_a_duration() {
        for (text, since, shown) in [
            (
                "5f3a9c11:4711",
                Since::Place(Epoch(0x5f3a_9c11), Seq(4711)),
                "5f3a9c11:4711",
            ),
            (
                "5F3A9C11:0",
                Since::Place(Epoch(0x5f3a_9c11), Seq(0)),
                "5f3a9c11:0",
            ),
            (
                "0000002a:18446744073709551615",
                Since::Place(Epoch(42), Seq(u64::MAX)),
                "0000002a:18446744073709551615",
            ),
            ("5m", Since::Age(millis(300_000)), "5m"),
            ("1ms", Since::Age(millis(1)), "1ms"),
        ] {
            assert_eq!(text.parse(), Ok(since), "{text}");
            assert_eq!(since.to_string(), shown);
        }
        for text in [
            "",
            ":",
            "5f3a9c11",
            "5f3a9c11:",
            ":4711",
            "5f3a9c1:4711",
            "5f3a9c111:4711",
            "+f3a9c11:4711",
            "5f3a9c11:-1",
            "5f3a9c11:+1",
            "5f3a9c11:1:2",
            "5f3a9c11:18446744073709551616",
            "5f3a9c1g:1",
            "4711",
            "0",
            "0s",
            "1M",
            "11y",
            "\u{e4}bcdefg:1",
        ] {
            assert_eq!(text.parse::<Since>(), Err(InvalidSince), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_displayed_reads_the_same_and_has_no_blank(
            newest in prop_oneof![
                (0..=AMOUNT_MAX).prop_map(Newest::Messages),
                (1..=AMOUNT_MAX).prop_map(Newest::Bytes),
                (1..=315_576_000_000u64).prop_map(|age| Newest::Age(millis(age))),
            ],
            since in prop_oneof![
                any::<(u32, u64)>().prop_map(|(epoch, seq)| Since::Place(Epoch(epoch), Seq(seq))),
                (1..=315_576_000_000u64).prop_map(|age| Since::Age(millis(age))),
            ],
        ) {
            prop_assert_eq!(newest.to_string().parse(), Ok(newest));
            prop_assert_eq!(since.to_string().parse(), Ok(since));
            let shown = newest.to_string() + &since.to_string();
            prop_assert!(!shown.contains(char::is_whitespace));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "[0-9a-fA-FKMGTiBmshdy:. ]{0,20}") {
            if let Ok(newest) = text.parse::<Newest>() {
                prop_assert_eq!(newest.to_string().parse(), Ok(newest));
            }
            if let Ok(since) = text.parse::<Since>() {
                prop_assert_eq!(since.to_string().parse(), Ok(since));
            }
        }
    }
}
