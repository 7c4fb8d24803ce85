//! The values of the options about the history: how each is read, its bounds, and what an error says is
//! allowed.

use std::time::Duration;

use bytesize::ByteSize;

use super::values::duration;
use crate::wire::past::{InvalidNewest, Newest};

/// Least that is worth keeping: the longest line that is sent unless it is said otherwise.
const BYTES_LEAST: u64 = 64 << 10;
/// Most that a channel keeps: sums with it stay far from overflowing.
const BYTES_MOST: u64 = 1 << 40;

/// How safe a line is before anybody gets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HistorySync {
    /// The system has it: it survives the daemon.
    Os,
    /// The system has it, and it is on the disk at most so much later: 1 ms to 10 years.
    Every(Duration),
    /// It is on the disk: it survives a loss of power.
    Always,
}

/// What happens when the history cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnHistoryError {
    /// Senders wait until it can be written again.
    Stop,
    /// The history ends, and lines go on without it.
    Drop,
}

/// Most bytes that are kept of a channel; 0 is none.
pub(super) fn bytes(text: &str) -> Result<u64, String> {
    let wrong = match (text, text.parse::<ByteSize>()) {
        ("off", _) | (_, Ok(ByteSize(0))) => return Ok(0),
        (_, Err(_)) => "is not a size",
        (_, Ok(ByteSize(bytes))) if bytes < BYTES_LEAST => "is too small",
        (_, Ok(ByteSize(bytes))) if bytes > BYTES_MOST => "is too large",
        (_, Ok(ByteSize(bytes))) => return Ok(bytes),
    };
    Err(format!(
        "'{text}' {wrong}; allowed: 64KiB to 1TiB, such as 64MiB or 1GiB, or 0 or off for none"
    ))
}

pub(super) fn sync(text: &str) -> Result<HistorySync, String> {
    let wrong = match text {
        "os" => return Ok(HistorySync::Os),
        "always" => return Ok(HistorySync::Always),
        _ => match duration(text) {
            Ok(Some(every)) => return Ok(HistorySync::Every(every)),
            Ok(None) => {
                format!("cannot be {text}: os leaves it to the system, always waits for it")
            }
            Err(wrong) => wrong,
        },
    };
    Err(format!(
        "{wrong}; allowed: os, always, or 1ms to 10y, such as 1s"
    ))
}

pub(super) fn on_error(text: &str) -> Result<OnHistoryError, String> {
    match text {
        "stop" => Ok(OnHistoryError::Stop),
        "drop" => Ok(OnHistoryError::Drop),
        _ => Err(format!("'{text}' is unknown; allowed: stop or drop")),
    }
}

/// How much of the newest clients of a listener get first.
pub(super) fn newest(text: &str) -> Result<Newest, String> {
    match text {
        "off" => Ok(Newest::NONE),
        _ => text.parse().map_err(|allowed: InvalidNewest| {
            format!("'{text}' is no amount of history; allowed: {allowed}, or 0 or off for nothing")
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_a_size_within_bounds_or_off() {
        for (text, expected) in [
            ("0", 0),
            ("off", 0),
            ("0MiB", 0),
            ("64KiB", 1 << 16),
            ("65536", 1 << 16),
            ("1.5GiB", 3 << 29),
            ("1TiB", 1 << 40),
        ] {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
        for (text, wrong) in [
            ("65535", "is too small"),
            ("1099511627777", "is too large"),
            ("99999999999999999999EiB", "is too large"),
            ("much", "is not a size"),
            ("-1", "is not a size"),
            ("", "is not a size"),
        ] {
            let allowed = "allowed: 64KiB to 1TiB, such as 64MiB or 1GiB, or 0 or off for none";
            assert_eq!(bytes(text), Err(format!("'{text}' {wrong}; {allowed}")));
        }
    }

    #[test]
    fn sync_is_a_word_or_a_duration() {
        for (text, expected) in [
            ("os", HistorySync::Os),
            ("always", HistorySync::Always),
            ("1s", HistorySync::Every(Duration::from_secs(1))),
            ("1ms", HistorySync::Every(Duration::from_millis(1))),
        ] {
            assert_eq!(sync(text), Ok(expected), "{text}");
        }
        for (text, wrong) in [
            ("never", "'never' is not a duration"),
            ("5", "'5' has no unit, write 5s or 5ms"),
            ("11y", "'11y' is too long"),
            (
                "off",
                "cannot be off: os leaves it to the system, always waits for it",
            ),
            (
                "0s",
                "cannot be 0s: os leaves it to the system, always waits for it",
            ),
        ] {
            let allowed = "allowed: os, always, or 1ms to 10y, such as 1s";
            assert_eq!(sync(text), Err(format!("{wrong}; {allowed}")));
        }
    }

    #[test]
    fn words_are_read_or_refused_with_the_ones_there_are() {
        assert_eq!(on_error("stop"), Ok(OnHistoryError::Stop));
        assert_eq!(on_error("drop"), Ok(OnHistoryError::Drop));
        assert_eq!(
            on_error("skip").unwrap_err(),
            "'skip' is unknown; allowed: stop or drop"
        );
    }

    #[test]
    fn newest_is_read_or_refused_with_what_is_allowed() {
        assert_eq!(newest("off"), Ok(Newest::NONE));
        assert_eq!(newest("0"), Ok(Newest::NONE));
        assert_eq!(newest("20"), Ok(Newest::Messages(20)));
        assert_eq!(
            newest("64K").unwrap_err(),
            "'64K' is no amount of history; allowed: a number, a size such as 64KiB or a duration \
             such as 5m, of at most 1TiB or 10y, or 0 or off for nothing"
        );
    }
}
