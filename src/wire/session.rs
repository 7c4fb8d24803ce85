//! The name of a session: by what a sender that comes back is known.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::channel::{InvalidChannelName, is_name};

/// Name of a session, of the alphabet of channel names: what one sender publishes over all its
/// connections is counted under it. Clones share the text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SessionName(Arc<str>);

impl SessionName {
    /// The name as it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SessionName {
    type Err = InvalidChannelName;

    fn from_str(name: &str) -> Result<SessionName, InvalidChannelName> {
        match is_name(name) {
            true => Ok(SessionName(name.into())),
            false => Err(InvalidChannelName),
        }
    }
}

impl TryFrom<String> for SessionName {
    type Error = InvalidChannelName;

    fn try_from(name: String) -> Result<SessionName, InvalidChannelName> {
        name.parse()
    }
}

impl From<SessionName> for String {
    fn from(name: SessionName) -> String {
        name.as_str().to_owned()
    }
}

impl fmt::Display for SessionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}
