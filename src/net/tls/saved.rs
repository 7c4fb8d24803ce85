//! A session that is put away: for as long as its client is quiet, or for a handover.

use std::fmt;
use std::io;
use std::mem;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::Poll;

use s2n_tls::config::{Builder, Config};
use s2n_tls::connection::Connection;
use s2n_tls::enums::PeerKeyUpdate;
use s2n_tls::error::Error;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use zeroize::{Zeroize, Zeroizing};

use super::exchange;
use super::session::{TlsSession, connection, invalid};
use super::settings::prepare;

/// Sessions that were put away since [`take_put_away`] was last called.
static PUT_AWAY: AtomicUsize = AtomicUsize::new(0);

/// How many sessions have been put away since this was asked last: each has let go of some 12 KiB.
pub(crate) fn take_put_away() -> usize {
    PUT_AWAY.swap(0, Relaxed)
}

/// A [`TlsSession`], with its keys.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SavedTls {
    /// `None` when nothing more is to be encrypted or decrypted.
    keys: Option<Vec<u8>>,
    incoming: ByteBuf,
    plain: ByteBuf,
    outgoing: ByteBuf,
    peer_closed: bool,
    closed: bool,
    owes_key_update: bool,
    chain: Vec<ByteBuf>,
}

/// For connections whose handshake is done: they need no certificate any more.
fn resumed() -> Result<Config, Error> {
    static RESUMED: OnceLock<Config> = OnceLock::new();
    if let Some(config) = RESUMED.get() {
        return Ok(config.clone());
    }
    let mut builder = Builder::new();
    builder.with_system_certs(false)?;
    prepare(&mut builder)?;
    let config = builder.build()?;
    Ok(RESUMED.get_or_init(|| config).clone())
}

impl TlsSession {
    /// The connection, which is made of its keys if it was put away.
    pub(super) fn connection(&mut self) -> io::Result<Option<&mut Connection>> {
        self.make_connection().map_err(invalid)?;
        Ok(self.connection.as_mut())
    }

    fn make_connection(&mut self) -> Result<(), Error> {
        if let Some(keys) = self.keys.take() {
            let mut connection = connection(&resumed()?)?;
            connection.deserialize(&keys)?;
            if self.owes_key_update {
                connection.request_key_update(PeerKeyUpdate::KeyUpdateNotRequested)?;
            }
            self.connection = Some(connection);
        }
        Ok(())
    }

    /// [Puts the session away](TlsSession::put_away), unless it has seen the end of its input: that one could not
    /// be, and may still have much to say.
    pub(crate) fn rest_long(&mut self) {
        if !self.peer_closed {
            // One that is broken says so when it is needed.
            let _ = self.put_away();
        }
    }

    /// Makes keys of the connection, which is none any more until they are needed.
    ///
    /// # Errors
    /// It is broken, or its handshake is not done.
    pub(crate) fn put_away(&mut self) -> io::Result<()> {
        if self.connection.is_some() {
            PUT_AWAY.fetch_add(1, Relaxed);
        }
        self.make_keys().map_err(invalid)
    }

    pub(super) fn make_keys(&mut self) -> Result<(), Error> {
        let Some(mut connection) = self.connection.take() else {
            return Ok(());
        };
        let mut part = Zeroizing::new(vec![0; connection.peek_len()]);
        let (read, outcome) = exchange::with(Vec::new(), None, || connection.poll_recv(&mut part));
        self.outgoing.extend(outcome.output);
        if let Poll::Ready(Ok(read)) = read {
            self.plain.extend_from_slice(&part[..read]);
        }
        if let Ok(counts) = connection.key_update_counts() {
            self.owes_key_update |= counts.recv_key_updates > counts.send_key_updates;
        }
        let mut keys = Zeroizing::new(vec![0; connection.serialization_length()?]);
        connection.serialize(&mut keys)?;
        self.keys = Some(keys);
        Ok(())
    }

    /// The session as the next daemon needs it. It must be [put away](TlsSession::put_away).
    pub(crate) fn save(&self) -> SavedTls {
        SavedTls {
            keys: self.keys.as_deref().cloned(),
            incoming: ByteBuf::from(&self.incoming[..]),
            plain: ByteBuf::from(&self.plain[..]),
            outgoing: ByteBuf::from(&self.outgoing[self.sent..]),
            peer_closed: self.peer_closed,
            closed: self.closed,
            owes_key_update: self.owes_key_update,
            chain: self.chain.iter().cloned().map(ByteBuf::from).collect(),
        }
    }

    /// Goes on where [`TlsSession::save`] was called.
    pub(crate) fn restore(mut saved: SavedTls) -> TlsSession {
        let take = |bytes: &mut ByteBuf| mem::take(&mut **bytes);
        TlsSession {
            keys: saved.keys.take().map(Zeroizing::new),
            incoming: take(&mut saved.incoming),
            plain: Zeroizing::new(take(&mut saved.plain)),
            outgoing: take(&mut saved.outgoing),
            peer_closed: saved.peer_closed,
            closed: saved.closed,
            owes_key_update: saved.owes_key_update,
            chain: saved.chain.iter_mut().map(take).collect(),
            ..TlsSession::over(None)
        }
    }
}

impl fmt::Debug for SavedTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SavedTls").finish_non_exhaustive()
    }
}

impl Drop for SavedTls {
    fn drop(&mut self) {
        self.keys.iter_mut().for_each(|keys| keys.zeroize());
        self.plain.zeroize();
    }
}
