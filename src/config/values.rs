//! The values of options: how each is read, its bounds, and what an error says is allowed.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;

pub(crate) use super::address::whole_number;
use super::address::{Address, AddressError, host_name};
use super::capacity::CLIENTS_CEILING;

const LINE_BYTES: SizeRange = SizeRange {
    least: 1,
    // Lengths with all that formats add (six bytes for one in `json`) stay within 32 bits.
    most: GIB / 2,
    example: "65536, 64KiB or 1MiB",
    not_off: "memory would have no bound",
};
const BUFFER_BYTES: SizeRange = SizeRange {
    // Below a page the account would be taken up by what each line costs beside its bytes.
    least: 4 * KIB,
    // Sums of a few buffers must not overflow.
    most: usize::MAX / 4 + 1,
    example: "16MiB, 64MiB or 1GiB",
    not_off: "memory would have no bound",
};

/// Shortest duration: timers count in milliseconds.
const DURATION_LEAST: Duration = Duration::from_millis(1);
/// Longest duration: ten years of 365.25 days, as humantime counts them, which is longer than a daemon
/// lives and far from where adding a duration to a clock overflows.
const DURATION_MOST: Duration = Duration::from_secs(10 * 31_557_600);

const WORKER_THREADS_MOST: usize = 1024;

/// Most channels that clients may open: more than have any use, and few enough to be counted.
const OPEN_CHANNELS_MOST: usize = 1_000_000;

const KIB: usize = 1 << 10;
const GIB: usize = 1 << 30;

pub(super) fn admin(text: &str) -> Result<Option<Address>, String> {
    match text {
        "off" | "0" => Ok(None),
        _ => text
            .parse()
            .map(Some)
            .map_err(|error: AddressError| format!("{error}, or off")),
    }
}

/// Permissions of a file, in octal digits.
pub(super) fn mode(text: &str) -> Result<u32, String> {
    let is_octal = !text.is_empty() && text.bytes().all(|digit| (b'0'..=b'7').contains(&digit));
    let mode = is_octal.then(|| u32::from_str_radix(text, 8).unwrap_or(u32::MAX));
    mode.filter(|mode| *mode <= 0o777).ok_or_else(|| {
        format!("'{text}' is no mode of a socket; allowed: 0 to 0777 in octal digits, such as 0660")
    })
}

/// As [`mode`] reads it.
pub(crate) fn show_mode(mode: &u32) -> String {
    format!("{mode:04o}")
}

/// Name or number of a group. Whether there is one is found out when it is needed.
pub(super) fn group(text: &str) -> Result<String, String> {
    match text.is_empty() || text.contains([',', ':', '/', '\0']) {
        true => Err(format!(
            "'{text}' is no group; allowed: a name such as dialout, or a number"
        )),
        false => Ok(text.to_owned()),
    }
}

/// Path of a file that may be left out.
pub(super) fn file(text: &str) -> Result<Option<PathBuf>, String> {
    match text {
        "off" => Ok(None),
        "" => Err("is empty; allowed: a path, or off".to_owned()),
        path => Ok(Some(path.into())),
    }
}

/// Path of a file of one listener.
pub(super) fn path(text: &str) -> Result<PathBuf, String> {
    match text {
        "" => Err("is empty; allowed: a path".to_owned()),
        path if path.contains(',') => Err("has a comma; allowed: a path without".to_owned()),
        path => Ok(path.into()),
    }
}

/// A path as it is typed.
// A field is displayed by its own type.
#[allow(clippy::ptr_arg)]
pub(super) fn show_path(path: &PathBuf) -> String {
    path.display().to_string()
}

/// Host name without a port, in lower case.
pub(super) fn host(text: &str) -> Result<String, String> {
    host_name(text)
        .map(|host| host.to_lowercase())
        .map_err(|_| {
            format!(
                "'{text}' is no host name; allowed: a name such as status.example, without a port"
            )
        })
}

/// The origin of a page.
pub(super) fn origin(text: &str) -> Result<String, String> {
    let wrong = || format!("'{text}' is no origin; allowed: one such as https://feed.example");
    let lower = text.to_lowercase();
    let (scheme, authority) = lower.split_once("://").ok_or_else(wrong)?;
    let is_authority = authority.parse::<hyper::http::uri::Authority>();
    let is_whole = is_authority.is_ok_and(|it| !it.host().is_empty() && !authority.contains('@'));
    // Browsers leave out the port that the scheme has anyway.
    let usual = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => return Err(wrong()),
    };
    match is_whole {
        true => Ok(lower.strip_suffix(usual).unwrap_or(&lower).to_owned()),
        false => Err(wrong()),
    }
}

/// How long the oldest line of a full buffer may wait for the clients that still need it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grace {
    /// Senders wait this long: zero (never), or 1 ms to 10 years.
    For(Duration),
    /// Senders wait until those clients have the line.
    Forever,
}

/// Most clients at a time; `auto` is how many there is room for.
pub(super) fn clients(text: &str, auto: &usize) -> Result<Option<usize>, String> {
    match whole_number(text) {
        _ if text == "auto" => Ok(Some(*auto)),
        _ if text == "off" => Ok(None),
        Some(0) => Ok(None),
        Some(number) if number <= CLIENTS_CEILING => Ok(Some(number)),
        _ => {
            let wrong = not_a_number(text);
            Err(format!(
                "{wrong}; allowed: 1 to {CLIENTS_CEILING}, auto, or 0 or off for no limit"
            ))
        }
    }
}

/// Most clients at a time from one address.
pub(super) fn clients_per_address(text: &str) -> Result<Option<NonZeroUsize>, String> {
    match whole_number(text) {
        _ if text == "off" => Ok(None),
        Some(number) if number <= CLIENTS_CEILING => Ok(NonZeroUsize::new(number)),
        _ => {
            let wrong = not_a_number(text);
            Err(format!(
                "{wrong}; allowed: 1 to {CLIENTS_CEILING}, or 0 or off for no limit"
            ))
        }
    }
}

pub(super) fn worker_threads(text: &str) -> Result<usize, String> {
    let wrong = match whole_number(text) {
        _ if text == "auto" => return Ok(cpus()),
        _ if text == "off" => "cannot be off: something has to do the work".to_owned(),
        Some(0) => "cannot be 0: something has to do the work".to_owned(),
        Some(number) if number <= WORKER_THREADS_MOST => return Ok(number),
        _ => not_a_number(text),
    };
    Err(format!(
        "{wrong}; allowed: 1 to {WORKER_THREADS_MOST}, or auto"
    ))
}

pub(super) fn cpus() -> usize {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    cpus.min(WORKER_THREADS_MOST)
}

/// What is wrong with a text that is no whole number, or a number that is too large.
pub(crate) fn not_a_number(text: &str) -> String {
    match whole_number(text) {
        Some(_) => format!("{text} is too large"),
        None => format!("'{text}' is not a whole number"),
    }
}

pub(super) fn timeout(text: &str) -> Result<Option<Duration>, String> {
    duration(text).map_err(|wrong| format!("{wrong}; allowed: 1ms to 10y, such as 30s, or off"))
}

pub(super) fn drain_timeout(text: &str) -> Result<Duration, String> {
    duration(text)
        .and_then(|duration| duration.ok_or("cannot be off: shutdown needs an end".to_owned()))
        .map_err(|wrong| format!("{wrong}; allowed: 1ms to 10y, such as 5s"))
}

pub(super) fn hello_timeout(text: &str) -> Result<Duration, String> {
    duration(text)
        .and_then(|duration| {
            duration.ok_or("cannot be off: who says nothing would stay for ever".to_owned())
        })
        .map_err(|wrong| format!("{wrong}; allowed: 1ms to 10y, such as 10s"))
}

/// Most channels at a time that clients may open; 0 is none.
pub(super) fn open_channels(text: &str) -> Result<usize, String> {
    match whole_number(text) {
        _ if text == "off" => Ok(0),
        Some(number) if number <= OPEN_CHANNELS_MOST => Ok(number),
        _ => {
            let wrong = not_a_number(text);
            Err(format!(
                "{wrong}; allowed: 1 to {OPEN_CHANNELS_MOST}, or 0 or off for none"
            ))
        }
    }
}

pub(super) fn grace(text: &str) -> Result<Grace, String> {
    if text == "forever" {
        return Ok(Grace::Forever);
    }
    match duration(text) {
        Ok(grace) => Ok(Grace::For(grace.unwrap_or(Duration::ZERO))),
        Err(wrong) => Err(format!(
            "{wrong}; allowed: 1ms to 10y, such as 1s, or 0, off or forever"
        )),
    }
}

/// Reads a duration, `None` for `0` and `off`. Errors say what is wrong, not what is allowed.
pub(crate) fn duration(text: &str) -> Result<Option<Duration>, String> {
    use humantime::DurationError;

    if text == "off" || text == "0" {
        return Ok(None);
    }
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => Ok(None),
        Ok(duration) if duration < DURATION_LEAST => Err(format!("'{text}' is too short")),
        Ok(duration) if duration > DURATION_MOST => Err(format!("'{text}' is too long")),
        Ok(duration) => Ok(Some(duration)),
        Err(DurationError::UnknownUnit { unit, .. }) if unit.is_empty() => {
            Err(format!("'{text}' has no unit, write {text}s or {text}ms"))
        }
        Err(DurationError::NumberOverflow) => Err(format!("'{text}' is too long or too precise")),
        Err(_) => Err(format!("'{text}' is not a duration")),
    }
}

pub(super) fn line_bytes(text: &str) -> Result<usize, String> {
    LINE_BYTES.read(text)
}

pub(super) fn buffer_bytes(text: &str) -> Result<usize, String> {
    BUFFER_BYTES.read(text)
}

/// Bounds of a size, in bytes, and what an error says of them.
pub(crate) struct SizeRange {
    pub(crate) least: usize,
    pub(crate) most: usize,
    pub(crate) example: &'static str,
    /// Why the size cannot be off.
    pub(crate) not_off: &'static str,
}

impl SizeRange {
    /// Reads a size within the bounds, or says what is wrong and what is allowed.
    pub(crate) fn read(&self, text: &str) -> Result<usize, String> {
        let wrong = match (text, text.parse::<ByteSize>()) {
            ("off", _) => format!("cannot be off: {}", self.not_off),
            (_, Ok(ByteSize(0))) => format!("cannot be 0: {}", self.not_off),
            (_, Err(_)) => format!("'{text}' is not a size"),
            (_, Ok(ByteSize(bytes))) => match usize::try_from(bytes) {
                Ok(bytes) if (self.least..=self.most).contains(&bytes) => return Ok(bytes),
                Ok(bytes) if bytes < self.least => format!("'{text}' is too small"),
                _ => format!("'{text}' is too large"),
            },
        };
        let (least, most) = (exact(self.least), exact(self.most));
        Err(format!(
            "{wrong}; allowed: {least} to {most}, such as {}",
            self.example
        ))
    }
}

/// A size in the largest unit that holds it without a fraction.
fn exact(bytes: usize) -> String {
    const UNITS: [&str; 7] = ["bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let thousands = (bytes.trailing_zeros() / 10).min(6) as usize;
    match bytes >> (10 * thousands) {
        1 if thousands == 0 => "1 byte".to_owned(),
        number => format!("{number} {}", UNITS[thousands]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_a_number_or_off() {
        for (text, expected) in [
            ("1", Some(1)),
            ("20000", Some(20_000)),
            ("0", None),
            ("00", None),
            ("off", None),
            ("auto", Some(9)),
        ] {
            assert_eq!(clients(text, &9), Ok(expected), "{text}");
        }
        for (text, wrong) in [
            ("", "'' is not a whole number"),
            ("-1", "'-1' is not a whole number"),
            ("+1", "'+1' is not a whole number"),
            ("1.5", "'1.5' is not a whole number"),
            ("100000001", "100000001 is too large"),
            ("99999999999999999999", "99999999999999999999 is too large"),
        ] {
            let expected =
                format!("{wrong}; allowed: 1 to 100000000, auto, or 0 or off for no limit");
            assert_eq!(clients(text, &9), Err(expected), "{text}");
        }
    }

    #[test]
    fn sizes_are_read_with_and_without_units() {
        for (text, bytes) in [
            ("1", 1),
            ("65536", 65_536),
            ("64KiB", 65_536),
            ("64kib", 65_536),
            ("64 KiB", 65_536),
            ("64Ki", 65_536),
            ("64K", 64_000),
            ("64KB", 64_000),
            ("1.5KiB", 1_536),
            ("1MB", 1_000_000),
            ("512MiB", 1 << 29),
            ("536870912B", 1 << 29),
        ] {
            assert_eq!(LINE_BYTES.read(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn wrong_sizes_are_refused_with_what_is_allowed() {
        for (text, wrong) in [
            ("12xy", "'12xy' is not a size"),
            ("", "'' is not a size"),
            ("-1", "'-1' is not a size"),
            ("1e3", "'1e3' is not a size"),
            ("1_000", "'1_000' is not a size"),
            ("KiB", "'KiB' is not a size"),
            ("off", "cannot be off: memory would have no bound"),
            ("0", "cannot be 0: memory would have no bound"),
            ("0KiB", "cannot be 0: memory would have no bound"),
            ("536870913", "'536870913' is too large"),
            (
                "99999999999999999999999EiB",
                "'99999999999999999999999EiB' is too large",
            ),
        ] {
            let allowed = "; allowed: 1 byte to 512 MiB, such as 65536, 64KiB or 1MiB";
            assert_eq!(
                LINE_BYTES.read(text),
                Err(format!("{wrong}{allowed}")),
                "{text}"
            );
        }
        assert_eq!(BUFFER_BYTES.read("4KiB"), Ok(4096));
        assert_eq!(
            BUFFER_BYTES.read(&BUFFER_BYTES.most.to_string()),
            Ok(BUFFER_BYTES.most)
        );
        let small = BUFFER_BYTES.read("4095").unwrap_err();
        assert!(
            small.starts_with("'4095' is too small; allowed: 4 KiB to "),
            "{small}"
        );
        let large = BUFFER_BYTES.read("18446744073709551615").unwrap_err();
        assert!(
            large.starts_with("'18446744073709551615' is too large"),
            "{large}"
        );
    }

    #[test]
    fn exact_sizes_read_well() {
        for (bytes, expected) in [
            (1, "1 byte"),
            (2, "2 bytes"),
            (1000, "1000 bytes"),
            (4096, "4 KiB"),
            (GIB, "1 GiB"),
        ] {
            assert_eq!(exact(bytes), expected);
        }
    }

    #[test]
    fn durations_are_read_with_units() {
        for (text, millis) in [
            ("1ms", 1),
            ("500ms", 500),
            ("1s", 1_000),
            ("1.5s", 1_500),
            ("2m", 120_000),
            ("1m 30s", 90_000),
            ("1m30s", 90_000),
            ("10y", 315_576_000_000),
        ] {
            assert_eq!(
                duration(text),
                Ok(Some(Duration::from_millis(millis))),
                "{text}"
            );
        }
        for off in ["0", "off", "0s", "0ms"] {
            assert_eq!(duration(off), Ok(None), "{off}");
        }
    }

    #[test]
    fn wrong_durations_are_refused() {
        for (text, wrong) in [
            ("", "'' is not a duration"),
            ("5", "'5' has no unit, write 5s or 5ms"),
            ("1.5", "'1.5' has no unit, write 1.5s or 1.5ms"),
            ("-5s", "'-5s' is not a duration"),
            ("soon", "'soon' is not a duration"),
            ("5 parsecs", "'5 parsecs' is not a duration"),
            ("999us", "'999us' is too short"),
            ("11y", "'11y' is too long"),
            (
                "99999999999999999999s",
                "'99999999999999999999s' is too long or too precise",
            ),
        ] {
            assert_eq!(duration(text), Err(wrong.to_owned()), "{text}");
        }
    }

    #[test]
    fn grace_is_a_duration_or_forever() {
        assert_eq!(grace("2s"), Ok(Grace::For(Duration::from_secs(2))));
        assert_eq!(grace("0"), Ok(Grace::For(Duration::ZERO)));
        assert_eq!(grace("forever"), Ok(Grace::Forever));
        assert_eq!(
            grace("ever").unwrap_err(),
            "'ever' is not a duration; allowed: 1ms to 10y, such as 1s, or 0, off or forever"
        );
    }

    #[test]
    fn open_channels_are_a_number_or_off() {
        for (text, expected) in [("0", 0), ("off", 0), ("1", 1), ("1000000", 1_000_000)] {
            assert_eq!(open_channels(text), Ok(expected), "{text}");
        }
        for (text, wrong) in [
            ("1000001", "1000001 is too large"),
            ("many", "'many' is not a whole number"),
            ("-1", "'-1' is not a whole number"),
        ] {
            let expected = format!("{wrong}; allowed: 1 to 1000000, or 0 or off for none");
            assert_eq!(open_channels(text), Err(expected), "{text}");
        }
    }

    #[test]
    fn worker_threads_are_at_most_1024() {
        assert_eq!(worker_threads("1024"), Ok(1024));
        assert_eq!(
            worker_threads("1025").unwrap_err(),
            "1025 is too large; allowed: 1 to 1024, or auto"
        );
    }
}
