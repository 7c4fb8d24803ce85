//! The name of a client that has shown who it is.

use super::ids::ClientId;
use super::name::{is_name, name_type};

name_type! {
    is_name,
    /// Name of a client that came in by a token, of the alphabet of channel names: a word in a log, and
    /// nothing that JSON would have to escape. Several clients may have one. Clones share the text.
    ClientName
}

/// Who a line or a notice is from, as `json` says it.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    /// The client's number.
    pub client: ClientId,
    /// The client's name, if it has one.
    pub name: Option<&'a ClientName>,
}

/// A client without a name.
impl From<ClientId> for Origin<'_> {
    fn from(client: ClientId) -> Self {
        Origin { client, name: None }
    }
}
