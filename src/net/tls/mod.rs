//! TLS 1.2 and 1.3: what a connection needs for it, and where the certificates come from.
//!
//! s2n-tls does the cryptography, and is given bytes and asked for bytes: it never sees a socket, and it is
//! only ever given whole records. So all that stands half way is kept here, and [`session`] can put a
//! connection away for a handover at any moment: the record that has come in part, what is decrypted and
//! not read, what is encrypted and not sent.
//!
//! | file | what it has |
//! |---|---|
//! | [`records`] | where records begin and end |
//! | [`exchange`] | the bytes that s2n-tls takes and gives, and the only callbacks |
//! | [`settings`] | what is spoken, and in which pieces |
//! | [`session`] | one connection: decrypting, encrypting, its end |
//! | [`negotiation`], [`saved`] | before that, and while it is put away |
//! | [`server`] | certificates and keys from files, for listeners |
//! | [`pem`] | what is in those files |
//! | [`revocation`] | certificates of clients that were revoked |

mod exchange;
mod negotiation;
mod pem;
mod records;
pub(crate) mod revocation;
mod saved;
pub(crate) mod server;
pub(crate) mod session;
mod settings;

pub(crate) use self::negotiation::PeerNames;
pub(crate) use self::records::begins_handshake as begins;
pub(crate) use self::revocation::RevocationLists;
pub(crate) use self::saved::{SavedTls, take_put_away};
pub(crate) use self::server::{CertificateEnd, LoadedTls, ServerTls, TlsMaterial};
pub(crate) use self::session::TlsSession;
