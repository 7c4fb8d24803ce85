//! Values that are one of a few words: what each word means, and how it is read.

use crate::wire::channel::{ChannelName, InvalidChannelName};
use crate::wire::format::Format;
use crate::wire::line_end::LineEnd;
use crate::wire::role::Role;

/// What metrics call all channels together that clients opened: no channel of the configuration has
/// this name.
const OPEN: &str = "open";

/// What the end of a client's input means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HalfClose {
    /// Client leaves: it gets what was queued for it and is closed.
    Close,
    /// Client stays as a reader until it closes.
    Keep,
}

/// What happens when a client sends a line longer than `--max-line`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LongLine {
    /// Client is told and closed.
    Close,
    /// Line alone is dropped, counted and, once a client, logged.
    Discard,
}

/// What happens to a client that needs the oldest line of a full buffer for longer than the grace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlowClient {
    /// Client is told and closed.
    Disconnect,
    /// Client goes on with the newest line and is told how many lines it missed.
    Skip,
    /// Client reads on from the history, and misses nothing that is kept.
    CatchUp,
}

/// Least important events that are logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// Failures that ended the daemon, or would have.
    Error,
    /// Events that an operator should look at.
    Warn,
    /// Clients that came and left, and what the daemon does.
    Info,
    /// Mistakes of clients, and how each module sees them.
    Debug,
    /// Everything, the contents of lines included.
    Trace,
}

pub(crate) fn format(text: &str) -> Result<Format, String> {
    text.parse()
        .map_err(|_| format!("'{text}' is not a format; allowed: text, json or raw"))
}

pub(super) fn role(text: &str) -> Result<Role, String> {
    text.parse()
        .map_err(|_| format!("'{text}' is not a role; allowed: both, publish or subscribe"))
}

pub(super) fn line_end(text: &str) -> Result<LineEnd, String> {
    text.parse()
        .map_err(|_| format!("'{text}' is not a line end; allowed: lf, any or nul"))
}

/// Name of a channel that clients ask for.
pub(crate) fn channel(text: &str) -> Result<ChannelName, String> {
    text.parse().map_err(|allowed: InvalidChannelName| {
        format!("'{text}' is not a channel name; allowed: {allowed}")
    })
}

/// Name of a channel that the configuration sets up.
pub(super) fn named_channel(text: &str) -> Result<ChannelName, String> {
    match text {
        OPEN => Err(format!(
            "'{text}' stands in the metrics for all channels that clients opened; allowed: any \
             other name"
        )),
        _ => channel(text),
    }
}

/// How a switch is written, as [`parse_bool`] reads it.
pub(super) fn on_or_off(switch: &bool) -> String {
    if *switch { "on" } else { "off" }.to_owned()
}

pub(crate) fn parse_bool(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Ok(true),
        "false" | "no" | "off" | "0" => Ok(false),
        _ => Err(format!(
            "'{text}' is neither true nor false; allowed: true, yes, on, 1, false, no, off or 0"
        )),
    }
}

/// The opposite of [`parse_bool`], for a switch that turns something off.
pub(super) fn parse_not(text: &str) -> Result<bool, String> {
    parse_bool(text).map(|switch| !switch)
}

pub(super) fn half_close(text: &str) -> Result<HalfClose, String> {
    match text {
        "close" => Ok(HalfClose::Close),
        "keep" => Ok(HalfClose::Keep),
        _ => Err(format!("'{text}' is unknown; allowed: close or keep")),
    }
}

pub(super) fn long_line(text: &str) -> Result<LongLine, String> {
    match text {
        "close" => Ok(LongLine::Close),
        "discard" => Ok(LongLine::Discard),
        _ => Err(format!("'{text}' is unknown; allowed: close or discard")),
    }
}

pub(super) fn slow_client(text: &str) -> Result<SlowClient, String> {
    match text {
        "disconnect" => Ok(SlowClient::Disconnect),
        "skip" => Ok(SlowClient::Skip),
        "catch-up" => Ok(SlowClient::CatchUp),
        _ => Err(format!(
            "'{text}' is unknown; allowed: disconnect, skip or catch-up"
        )),
    }
}

pub(super) fn log_level(text: &str) -> Result<LogLevel, String> {
    match text {
        "error" => Ok(LogLevel::Error),
        "warn" => Ok(LogLevel::Warn),
        "info" => Ok(LogLevel::Info),
        "debug" => Ok(LogLevel::Debug),
        "trace" => Ok(LogLevel::Trace),
        _ => Err(format!(
            "'{text}' is not a level; allowed: error, warn, info, debug or trace"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_or_refused_with_the_ones_there_are() {
        assert_eq!(half_close("keep"), Ok(HalfClose::Keep));
        assert_eq!(
            half_close("open").unwrap_err(),
            "'open' is unknown; allowed: close or keep"
        );
        assert_eq!(long_line("discard"), Ok(LongLine::Discard));
        assert_eq!(
            long_line("cut").unwrap_err(),
            "'cut' is unknown; allowed: close or discard"
        );
        assert_eq!(slow_client("skip"), Ok(SlowClient::Skip));
        assert_eq!(
            slow_client("kill").unwrap_err(),
            "'kill' is unknown; allowed: disconnect, skip or catch-up"
        );
        assert_eq!(slow_client("catch-up"), Ok(SlowClient::CatchUp));
        assert_eq!(
            format("xml").unwrap_err(),
            "'xml' is not a format; allowed: text, json or raw"
        );
        for text in ["true", "yes", "ON", "1"] {
            assert_eq!(parse_bool(text), Ok(true), "{text}");
        }
        for text in ["False", "no", "off", "0"] {
            assert_eq!(parse_bool(text), Ok(false), "{text}");
        }
        assert!(parse_bool("").is_err() && parse_bool("2").is_err());
        assert_eq!(role("publish"), Ok(Role::Publish));
        assert_eq!(
            role("x").unwrap_err(),
            "'x' is not a role; allowed: both, publish or subscribe"
        );
        assert_eq!(line_end("nul"), Ok(LineEnd::Nul));
        assert_eq!(
            line_end("cr").unwrap_err(),
            "'cr' is not a line end; allowed: lf, any or nul"
        );
        assert_eq!(
            channel("a/b").unwrap_err(),
            "'a/b' is not a channel name; allowed: 1 to 64 of A-Z a-z 0-9 . _ -, and neither . nor .."
        );
        assert_eq!(channel("open").unwrap().as_str(), "open");
        assert_eq!(
            named_channel("open").unwrap_err(),
            "'open' stands in the metrics for all channels that clients opened; allowed: any other name"
        );
        assert_eq!(log_level("warn"), Ok(LogLevel::Warn));
        assert_eq!(
            log_level("loud").unwrap_err(),
            "'loud' is not a level; allowed: error, warn, info, debug or trace"
        );
    }
}
