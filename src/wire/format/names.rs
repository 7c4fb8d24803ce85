//! The formats and the notices, by name.

use std::fmt::{self, Display};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// How a listener's clients see the stream. What they send is read the same in all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// For people and terminals: who said it, and nothing that could control the terminal.
    Text,
    /// For programs: an object a line, with the one order's numbers.
    Json,
    /// For machines: the payloads and nothing else.
    Raw,
}

/// A word that names no [`Format`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownFormat;

/// What a notice says about a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Notice {
    /// It came.
    Connect,
    /// It left.
    Disconnect,
}

impl Format {
    /// All formats, as they are listed to people.
    pub const ALL: [Format; 3] = [Format::Text, Format::Json, Format::Raw];

    /// The format's name in options, files and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Format::Text => "text",
            Format::Json => "json",
            Format::Raw => "raw",
        }
    }
}

impl Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Format {
    type Err = UnknownFormat;

    fn from_str(name: &str) -> Result<Format, UnknownFormat> {
        Format::ALL
            .into_iter()
            .find(|format| format.name() == name)
            .ok_or(UnknownFormat)
    }
}

impl Display for UnknownFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("expected text, json or raw")
    }
}

impl std::error::Error for UnknownFormat {}

impl Notice {
    pub(super) const fn event(self) -> &'static str {
        match self {
            Notice::Connect => "connect",
            Notice::Disconnect => "disconnect",
        }
    }
}
