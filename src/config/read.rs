//! Typed values read by the parser of their option, which sees only a text.

use super::error::ConfigError;
use super::raw::RawValue;

/// Reads an option with one value; the last one that was typed counts.
pub(super) fn one<T>(
    option: &str,
    values: &[RawValue],
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<T, ConfigError> {
    let value = values.last().cloned().unwrap_or_else(|| "".into());
    parse(&value.text).map_err(|reason| ConfigError::at(option, &value, reason))
}

/// Reads an option with several values.
pub(super) fn each<T>(
    option: &str,
    values: &[RawValue],
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<Vec<T>, ConfigError> {
    let read = |value: &RawValue| {
        parse(&value.text).map_err(|reason| ConfigError::at(option, value, reason))
    };
    values.iter().map(read).collect()
}
