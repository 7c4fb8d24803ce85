//! What a value that is not allowed is refused with.

use std::fmt::{self, Write as _};

use super::raw::RawValue;

/// A value that is not allowed: where it was typed, what is wrong, what is allowed. One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    pub(super) place: String,
    pub(super) reason: String,
}

impl ConfigError {
    /// The value of an option is wrong for this reason.
    pub(super) fn at(option: &str, value: &RawValue, reason: String) -> ConfigError {
        ConfigError {
            place: value.place.name(option),
            reason,
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A file can have any character in a name or a value.
        for c in format!("{}: {}", self.place, self.reason).chars() {
            match c.is_control() {
                true => write!(f, "{}", c.escape_default())?,
                false => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}
