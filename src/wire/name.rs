//! Names of channels, clients and sessions: types of their own, of one alphabet.

use std::fmt;

/// Most characters of a name.
const NAME_BYTES_MAX: usize = 64;

/// A text that is no name. Displays what is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidChannelName;

/// Whether a text is what [`InvalidChannelName`] displays.
pub(super) fn is_name(text: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=NAME_BYTES_MAX).contains(&text.len())
        && text.bytes().all(is_allowed)
        && !matches!(text, "." | "..")
}

impl fmt::Display for InvalidChannelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("1 to 64 of A-Z a-z 0-9 . _ -, and neither . nor ..")
    }
}

impl std::error::Error for InvalidChannelName {}

/// Makes a type of texts of which a function such as [`is_name`] holds. Clones share the text.
macro_rules! name_type {
    ($is_valid:path, $(#[$doc:meta])+ $name:ident) => {
        $(#[$doc])+
        #[derive(
            Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
        )]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(std::sync::Arc<str>);

        impl $name {
            /// The name as it was given.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::wire::name::InvalidChannelName;

            fn from_str(name: &str) -> Result<$name, Self::Err> {
                match $is_valid(name) {
                    true => Ok($name(name.into())),
                    false => Err($crate::wire::name::InvalidChannelName),
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = $crate::wire::name::InvalidChannelName;

            fn try_from(name: String) -> Result<$name, Self::Error> {
                name.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.as_str().to_owned()
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

pub(super) use name_type;
