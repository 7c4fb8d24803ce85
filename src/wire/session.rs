//! The name of a session: by what a sender that comes back is known.

use super::name::name_type;

name_type! {
    /// Name of a session, of the alphabet of channel names: what one sender publishes over all its
    /// connections is counted under it. Clones share the text.
    SessionName
}
