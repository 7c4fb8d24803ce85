//! The handshake of a session.

use std::io;
use std::os::fd::AsFd;
use std::task::{Context, Poll, ready};

use s2n_tls::error::Error;
use tokio::io::unix::AsyncFd;

use super::exchange;
use super::records;
use super::revocation::names;
use super::server::LoadedTls;
use super::session::{TlsSession, connection, invalid};

/// Names in a client's certificate.
pub(crate) type PeerNames = Vec<String>;

impl TlsSession {
    /// A connection whose handshake is to come.
    pub(crate) fn new(server: &LoadedTls) -> io::Result<TlsSession> {
        let connection = connection(&server.config).map_err(invalid)?;
        Ok(TlsSession {
            is_negotiating: true,
            ..TlsSession::over(Some(connection))
        })
    }

    /// Goes through the handshake. Cancel safe: it goes on where it was.
    ///
    /// # Errors
    /// `InvalidData` if the peer does not speak TLS as it should, else what the socket said.
    pub(crate) fn poll_negotiate<S: AsFd + std::os::fd::AsRawFd>(
        &mut self,
        io: &AsyncFd<S>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_flush(io, cx))?;
            let connection = self.connection.as_ref();
            if connection.is_some_and(|connection| connection.handshake_complete()) {
                return Poll::Ready(Ok(()));
            }
            let whole = records::whole(&self.incoming);
            if whole.bytes > 0 {
                let input = self.take_records(whole.bytes);
                let (negotiated, outcome) = exchange::with(input, Some(io.as_fd()), || {
                    let connection = self.connection.as_mut();
                    connection.map(|connection| connection.poll_negotiate().map_ok(drop))
                });
                self.take_back(outcome)?;
                // The peer may take its time.
                self.rest();
                match negotiated {
                    Some(Poll::Ready(Err(error))) => return Poll::Ready(Err(self.fail(io, error))),
                    Some(_) => continue,
                    None => return Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
                }
            }
            if ready!(self.poll_receive(io, cx, whole.missing))? == 0 {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    /// Ends a handshake that was agreed on: names in the certificate that the peer has shown, none if it has
    /// shown none. What only the handshake needed is let go of.
    ///
    /// # Errors
    /// There has to be a certificate and is none, or it was revoked. The peer can be told.
    pub(crate) fn finish_handshake(&mut self, server: &LoadedTls) -> io::Result<PeerNames> {
        self.is_negotiating = false;
        let chain = self.peer_certificates().map_err(invalid)?;
        if server.asks_certificate && chain.is_empty() {
            let reason = "certificate of the client expected";
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        }
        if let (Some(revoked), [_, ..]) = (&server.revoked, &chain[..]) {
            let checked = revoked.check(&chain);
            checked.map_err(|reason| io::Error::new(io::ErrorKind::InvalidData, reason))?;
        }
        self.put_away()?;
        let own = chain.first().map(|own| names(own));
        self.chain = chain;
        Ok(own.unwrap_or_default())
    }

    /// What the peer has shown of itself, each certificate in DER, its own first.
    fn peer_certificates(&self) -> Result<Vec<Vec<u8>>, Error> {
        let Some(connection) = self.connection.as_ref().filter(|c| c.client_cert_used()) else {
            return Ok(Vec::new());
        };
        let chain = connection.peer_cert_chain()?;
        chain.iter().map(|one| Ok(one?.der()?.to_vec())).collect()
    }
}
