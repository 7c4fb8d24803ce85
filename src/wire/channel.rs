//! The name of a channel: what listeners, tables of the file and hello lines call it by.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Name of the channel of listeners that name none.
pub const MAIN: &str = "main";

/// Most characters of a name.
const NAME_BYTES_MAX: usize = 64;

/// Name of a channel: 1 to 64 of `A-Z a-z 0-9 . _ -`, and neither `.` nor `..`, so that it can be the
/// name of a directory, a label of a metric and a word in a log. Clones share the text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ChannelName(Arc<str>);

/// A text that is no [`ChannelName`]. Displays what is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidChannelName;

impl ChannelName {
    /// [`MAIN`].
    pub fn main() -> ChannelName {
        ChannelName(MAIN.into())
    }

    /// The name as it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name, where it is worth a word: it is not [`MAIN`].
    pub fn as_unusual(&self) -> Option<&str> {
        (self.as_str() != MAIN).then_some(self.as_str())
    }
}

impl FromStr for ChannelName {
    type Err = InvalidChannelName;

    fn from_str(name: &str) -> Result<ChannelName, InvalidChannelName> {
        match is_name(name) {
            true => Ok(ChannelName(name.into())),
            false => Err(InvalidChannelName),
        }
    }
}

/// Whether a text is what [`InvalidChannelName`] displays.
pub(super) fn is_name(text: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=NAME_BYTES_MAX).contains(&text.len())
        && text.bytes().all(is_allowed)
        && !matches!(text, "." | "..")
}

impl TryFrom<String> for ChannelName {
    type Error = InvalidChannelName;

    fn try_from(name: String) -> Result<ChannelName, InvalidChannelName> {
        name.parse()
    }
}

impl From<ChannelName> for String {
    fn from(name: ChannelName) -> String {
        name.0.as_ref().to_owned()
    }
}

impl fmt::Display for ChannelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Display for InvalidChannelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("1 to 64 of A-Z a-z 0-9 . _ -, and neither . nor ..")
    }
}

impl std::error::Error for InvalidChannelName {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_words_and_never_paths_or_escapes() {
        let longest = "n".repeat(64);
        for name in [
            "main",
            "nmea-0183",
            "A.b_c",
            ".x",
            "...",
            "-",
            "7",
            &longest,
        ] {
            let read: ChannelName = name.parse().unwrap();
            assert_eq!(read.as_str(), name);
        }
        let too_long = "n".repeat(65);
        for name in [
            "", ".", "..", "a/b", "../x", "a b", "a\n", "\x1b[31m", "a\"b", "a{b}", "ä", "a\0",
            "a,b", "a=b", &too_long,
        ] {
            assert_eq!(
                name.parse::<ChannelName>(),
                Err(InvalidChannelName),
                "{name:?}"
            );
        }
    }

    #[test]
    fn a_saved_name_is_checked_when_it_is_read() {
        let name: ChannelName = "nmea".parse().unwrap();
        let saved = serde_json::to_string(&name).unwrap();
        assert_eq!(saved, "\"nmea\"");
        assert_eq!(serde_json::from_str::<ChannelName>(&saved).unwrap(), name);
        assert!(serde_json::from_str::<ChannelName>("\"../x\"").is_err());
    }
}
