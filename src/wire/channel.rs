//! The name of a channel: what listeners, tables of the file and hello lines call it by.

pub use super::name::InvalidChannelName;
use super::name::{is_name, name_type};

/// Name of the channel of listeners that name none.
pub const MAIN: &str = "main";

name_type! {
    is_name,
    /// Name of a channel: 1 to 64 of `A-Z a-z 0-9 . _ -`, and neither `.` nor `..`, so that it can be the
    /// name of a directory, a label of a metric and a word in a log. Clones share the text.
    ChannelName
}

impl ChannelName {
    /// [`MAIN`].
    pub fn main() -> ChannelName {
        ChannelName(MAIN.into())
    }

    /// The name, where it is worth a word: it is not [`MAIN`].
    pub fn as_unusual(&self) -> Option<&str> {
        (self.as_str() != MAIN).then_some(self.as_str())
    }
}

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
