//! What ends a line that a client sends.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What ends a line that a client sends. Lines that it gets end in LF.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LineEnd {
    /// LF.
    #[default]
    Lf,
    /// LF, CR LF, or CR alone, as old instruments have it.
    Any,
    /// NUL, as GELF over TCP has it.
    Nul,
}

/// A word that names no [`LineEnd`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownLineEnd;

impl LineEnd {
    /// All line ends, as they are listed to people.
    pub const ALL: [LineEnd; 3] = [LineEnd::Lf, LineEnd::Any, LineEnd::Nul];

    /// The line end's name in options and logs.
    pub const fn name(self) -> &'static str {
        match self {
            LineEnd::Lf => "lf",
            LineEnd::Any => "any",
            LineEnd::Nul => "nul",
        }
    }
}

impl fmt::Display for LineEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for LineEnd {
    type Err = UnknownLineEnd;

    fn from_str(name: &str) -> Result<LineEnd, UnknownLineEnd> {
        LineEnd::ALL
            .into_iter()
            .find(|line_end| line_end.name() == name)
            .ok_or(UnknownLineEnd)
    }
}
