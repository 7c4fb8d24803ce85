//! The name of a session: by what a sender that comes back is known.

use super::client_name::ClientName;
use super::name::{is_name, name_type};

name_type! {
    is_name,
    /// Name of a session, of the alphabet of channel names: what one sender publishes over all its
    /// connections is counted under it. Clones share the text.
    SessionName
}

name_type! {
    is_key,
    /// What a session is kept under, so that nobody has another's: its name, and before that, with a `/` between,
    /// the name of the token that its sender came in by, if there was one. At most 129 bytes, and the same text in
    /// segments and in what outlives a daemon. Clones share the text.
    SessionKey
}

impl SessionKey {
    /// Key of the session of this name that is of who came in by this token, or by none.
    pub(crate) fn new(token: Option<&ClientName>, session: &SessionName) -> SessionKey {
        SessionKey(match token {
            Some(token) => format!("{token}/{session}").into(),
            None => session.as_str().into(),
        })
    }
}

fn is_key(text: &str) -> bool {
    let (token, session) = text
        .split_once('/')
        .map_or((None, text), |(a, b)| (Some(a), b));
    token.is_none_or(is_name) && is_name(session)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_is_one_text_that_is_read_again() {
        let session: SessionName = "s.1".parse().unwrap();
        let alone = SessionKey::new(None, &session);
        assert_eq!(alone.as_str(), "s.1");
        let token = "t".repeat(64).parse().unwrap();
        let longest = SessionKey::new(Some(&token), &"s".repeat(64).parse().unwrap());
        assert_eq!(longest.as_str().len(), 129);
        for key in [alone, longest, SessionKey::new(Some(&token), &session)] {
            assert_eq!(key.as_str().parse(), Ok(key));
        }
        for text in ["", "/s", "t/", "a/b/c", "../s", "t s"] {
            assert!(text.parse::<SessionKey>().is_err(), "{text}");
        }
    }
}
