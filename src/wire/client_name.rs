//! The name of a client that has shown who it is.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::channel::{InvalidChannelName, is_name};
use super::ids::ClientId;

/// Name of a client that came in by a token, of the alphabet of channel names: a word in a log, and
/// nothing that JSON would have to escape. Several clients may have one. Clones share the text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ClientName(Arc<str>);

/// Who a line or a notice is from, as `json` says it.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    /// The client's number.
    pub client: ClientId,
    /// The client's name, if it has one.
    pub name: Option<&'a ClientName>,
}

impl ClientName {
    /// The name as it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ClientName {
    type Err = InvalidChannelName;

    fn from_str(name: &str) -> Result<ClientName, InvalidChannelName> {
        match is_name(name) {
            true => Ok(ClientName(name.into())),
            false => Err(InvalidChannelName),
        }
    }
}

impl TryFrom<String> for ClientName {
    type Error = InvalidChannelName;

    fn try_from(name: String) -> Result<ClientName, InvalidChannelName> {
        name.parse()
    }
}

impl From<ClientName> for String {
    fn from(name: ClientName) -> String {
        name.as_str().to_owned()
    }
}

impl fmt::Display for ClientName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A client without a name.
impl From<ClientId> for Origin<'_> {
    fn from(client: ClientId) -> Self {
        Origin { client, name: None }
    }
}
