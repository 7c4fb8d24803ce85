//! TLS of one connection.

use std::fmt;
use std::io::{self, IoSlice};
use std::mem;
use std::os::fd::{AsFd, BorrowedFd};
use std::task::{Context, Poll, ready};

use rustix::io::Errno;
use rustix::net::RecvFlags;
use s2n_tls::config::Config;
use s2n_tls::connection::Connection;
use s2n_tls::enums::Blinding;
use s2n_tls::error::{Error, ErrorType};
use tokio::io::unix::AsyncFd;
use zeroize::Zeroizing;

use super::exchange::{self, Outcome};
use super::records::{self, Whole};
use super::revocation::RevocationLists;
use super::settings::SEAL_BYTES_MAX;

/// Ciphertext that is read at a time.
const READ_BYTES_MAX: usize = 64 * 1024;

/// Ciphertext in a row, in bytes, that may hold nothing to be read: a poll goes on over that, and whoever sends
/// more of it would keep a thread from all others. A few milliseconds of work.
const EMPTY_BYTES_MAX: usize = 256 * 1024;

/// TLS of one connection, as a server.
pub(crate) struct TlsSession {
    /// `None` while it is put away, and when nothing more is to be encrypted or decrypted.
    pub(super) connection: Option<Connection>,
    /// Keys of a connection that is put away. Whoever makes a connection of them takes them from here:
    /// two with the same keys would use a nonce twice.
    pub(super) keys: Option<Zeroizing<Vec<u8>>>,
    /// The handshake is not done.
    pub(super) is_negotiating: bool,
    /// Ciphertext that has come and is not decrypted yet.
    pub(super) incoming: Vec<u8>,
    /// Plaintext that was decrypted, and is not read yet.
    pub(super) plain: Zeroizing<Vec<u8>>,
    /// Ciphertext that the socket has not taken yet.
    pub(super) outgoing: Vec<u8>,
    /// Bytes of `outgoing` that it has.
    pub(super) sent: usize,
    /// The peer has said that it sends no more.
    pub(super) peer_closed: bool,
    /// The peer has been told that no more comes.
    pub(super) closed: bool,
    /// The peer asked for new keys, and has not got them yet.
    pub(super) owes_key_update: bool,
    /// Certificates that the peer has shown, each in DER, its own first. Empty if it was asked for none.
    pub(super) chain: Vec<Vec<u8>>,
    /// What is wrong behind the bytes that were read last.
    pub(super) failed: Option<io::Error>,
}

impl TlsSession {
    pub(super) fn over(connection: Option<Connection>) -> TlsSession {
        TlsSession {
            connection,
            keys: None,
            is_negotiating: false,
            incoming: Vec::new(),
            plain: Zeroizing::default(),
            outgoing: Vec::new(),
            sent: 0,
            peer_closed: false,
            closed: false,
            owes_key_update: false,
            chain: Vec::new(),
            failed: None,
        }
    }

    /// Whether the peer's certificate is in these lists.
    pub(crate) fn is_revoked(&self, lists: &RevocationLists) -> bool {
        lists.revoke(&self.chain)
    }

    /// Whether something can be said over it.
    pub(crate) fn is_established(&self) -> bool {
        !self.is_negotiating && (self.connection.is_some() || self.keys.is_some())
    }

    /// Whether the handshake is not done.
    pub(crate) fn is_negotiating(&self) -> bool {
        self.is_negotiating
    }

    /// Whether a read brings something without the socket.
    pub(crate) fn has_input(&self) -> bool {
        !self.plain.is_empty()
            || self.peer_closed
            || self.failed.is_some()
            || self.connection.as_ref().is_some_and(|c| c.peek_len() > 0)
            || records::whole(&self.incoming).bytes > 0
    }

    /// Puts decrypted bytes back that were read and not used.
    pub(crate) fn unread(&mut self, bytes: &[u8]) {
        self.plain.splice(..0, bytes.iter().copied());
    }

    /// Reads and decrypts what is there; 0 when the peer has said that it sends no more.
    ///
    /// Once the end was said, nothing is decrypted any more: it only looks for the peer's own end.
    ///
    /// # Errors
    /// `UnexpectedEof` if the stream ends and the peer has not said so, `InvalidData` if what came is not
    /// what it sent, or is nothing but empty records.
    pub(crate) fn poll_read<S: AsFd + std::os::fd::AsRawFd>(
        &mut self,
        io: &AsyncFd<S>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut empty_bytes = 0;
        loop {
            if self.closed {
                self.incoming.clear();
                return self.poll_receive(io, cx, buf.len().clamp(1, READ_BYTES_MAX));
            }
            if !self.plain.is_empty() {
                let read = self.plain.len().min(buf.len());
                buf[..read].copy_from_slice(&self.plain[..read]);
                self.plain.drain(..read);
                return Poll::Ready(Ok(read));
            }
            if self.peer_closed {
                return Poll::Ready(Ok(0));
            }
            if let Some(error) = self.failed.take() {
                return Poll::Ready(Err(error));
            }
            let whole = records::whole(&self.incoming);
            match self.decrypt(io, whole, buf)? {
                0 if self.peer_closed => continue,
                0 if whole.bytes > 0 => {
                    empty_bytes += whole.bytes;
                    if empty_bytes > EMPTY_BYTES_MAX {
                        self.connection = None;
                        return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
                    }
                    continue;
                }
                0 => {}
                read => return Poll::Ready(Ok(read)),
            }
            let wanted = buf.len().saturating_sub(self.incoming.len());
            let wanted = wanted.min(READ_BYTES_MAX).max(whole.missing);
            if ready!(self.poll_receive(io, cx, wanted))? == 0 {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    /// Decrypts whole records that are there, as much of them as `buf` holds.
    fn decrypt<S: AsFd + std::os::fd::AsRawFd>(
        &mut self,
        io: &AsyncFd<S>,
        whole: Whole,
        buf: &mut [u8],
    ) -> io::Result<usize> {
        let is_held = self.connection.as_ref().is_some_and(|c| c.peek_len() > 0);
        if !is_held && whole.bytes == 0 {
            return Ok(0);
        }
        let ends = !is_held && records::may_be_alert(&self.incoming[whole.last..whole.bytes]);
        let input = match (is_held, ends) {
            (true, _) => Vec::new(),
            // What comes before it is not put at risk with it.
            (_, true) if whole.last > 0 => self.take_records(whole.last),
            _ => self.take_records(whole.bytes),
        };
        // A connection that has seen the end of its input cannot be put away, so that another one looks
        // at it.
        let before = match ends && whole.last == 0 {
            true => {
                self.make_keys().map_err(invalid)?;
                self.keys.clone().map(|keys| (keys, self.owes_key_update))
            }
            false => None,
        };
        let connection = self.connection()?;
        let connection = connection.ok_or(io::ErrorKind::NotConnected)?;
        let (decrypted, outcome) = exchange::with(input, Some(io.as_fd()), || {
            let mut read = 0;
            while read < buf.len() {
                match connection.poll_recv(&mut buf[read..]) {
                    Poll::Pending => break,
                    Poll::Ready(Ok(0)) => return (read, Ok(true)),
                    Poll::Ready(Ok(some)) => read += some,
                    Poll::Ready(Err(error)) => return (read, Err(error)),
                }
            }
            (read, Ok(false))
        });
        self.take_back(outcome)?;
        let (read, is_end) = decrypted;
        let is_end = is_end.or_else(|error| match (read, self.fail(io, error)) {
            (0, error) => Err(error),
            // What came before it is whole.
            (_, error) => {
                self.failed = Some(error);
                Ok(false)
            }
        })?;
        if is_end {
            self.peer_closed = true;
            if let Some((keys, owes_key_update)) = before {
                // The one that saw it has sent nothing with them.
                self.connection = None;
                (self.keys, self.owes_key_update) = (Some(keys), owes_key_update);
            }
        }
        Ok(read)
    }

    /// Encrypts as much of `slices` as goes at once, and writes what the socket takes of it: what it does
    /// not take is kept, and is written before anything else.
    pub(crate) fn poll_write<S: AsFd + std::os::fd::AsRawFd>(
        &mut self,
        io: &AsyncFd<S>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_flush(io, cx))?;
        Poll::Ready(self.encrypt(io.as_fd(), slices))
    }

    /// [`TlsSession::poll_write`] without waiting. What comes behind ciphertext that the socket has not taken is
    /// kept, too.
    pub(crate) fn encrypt(
        &mut self,
        socket: BorrowedFd<'_>,
        slices: &[IoSlice<'_>],
    ) -> io::Result<usize> {
        let gathered: Vec<u8>;
        let plain = match slices {
            [first, ..] if first.len() >= SEAL_BYTES_MAX || slices.len() == 1 => {
                &first[..first.len().min(SEAL_BYTES_MAX)]
            }
            // Records of their own would cost more than the copy.
            slices => {
                gathered = gather(slices);
                &gathered
            }
        };
        let socket = self.is_flushed().then_some(socket);
        let connection = self.connection()?;
        let connection = connection.ok_or(io::ErrorKind::NotConnected)?;
        let (sent, outcome) = exchange::with(Vec::new(), socket, || connection.poll_send(plain));
        self.take_back(outcome)?;
        match sent {
            Poll::Ready(Ok(sent)) => {
                self.owes_key_update = false;
                Ok(sent)
            }
            Poll::Ready(Err(error)) => Err(invalid(error)),
            // What it gives is always taken.
            Poll::Pending => Err(io::ErrorKind::Other.into()),
        }
    }

    /// Says that no more comes, behind what was written.
    pub(crate) fn close(&mut self, socket: BorrowedFd<'_>) -> io::Result<()> {
        if mem::replace(&mut self.closed, true) {
            return Ok(());
        }
        let socket = self.is_flushed().then_some(socket);
        if let Ok(Some(connection)) = self.connection() {
            let (_, outcome) = exchange::with(Vec::new(), socket, || {
                connection.poll_shutdown_send().map_ok(drop)
            });
            self.take_back(outcome)?;
        }
        self.connection = None;
        Ok(())
    }

    /// Ready when all that was encrypted is with the socket.
    pub(crate) fn poll_flush<S: AsFd + std::os::fd::AsRawFd>(
        &mut self,
        io: &AsyncFd<S>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while !self.is_flushed() {
            let mut guard = ready!(io.poll_write_ready(cx))?;
            self.sent += exchange::send_now(io.as_fd(), &self.outgoing[self.sent..])?;
            if self.sent < self.outgoing.len() {
                guard.clear_ready();
            } else {
                (self.outgoing, self.sent) = (Vec::new(), 0);
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Whether all that was encrypted is with the socket.
    pub(crate) fn is_flushed(&self) -> bool {
        self.outgoing.is_empty()
    }

    /// Gives back the memory that work at this moment needs; whether there is a connection, which can be
    /// put away.
    pub(crate) fn rest(&mut self) -> bool {
        let Some(connection) = &mut self.connection else {
            return false;
        };
        // What is still to be read of a record stays.
        let _ = connection.release_buffers();
        true
    }

    /// Receives ciphertext, at most `wanted` bytes; how many.
    pub(super) fn poll_receive<S: AsFd + std::os::fd::AsRawFd>(
        &mut self,
        io: &AsyncFd<S>,
        cx: &mut Context<'_>,
        wanted: usize,
    ) -> Poll<io::Result<usize>> {
        let before = self.incoming.len();
        loop {
            let mut guard = ready!(io.poll_read_ready(cx))?;
            self.incoming.reserve_exact(wanted);
            let space = rustix::buffer::spare_capacity(&mut self.incoming);
            match rustix::net::recv(io.as_fd(), space, RecvFlags::empty()) {
                Ok(_) => return Poll::Ready(Ok(self.incoming.len() - before)),
                Err(Errno::AGAIN) => {
                    guard.clear_ready();
                    self.incoming.shrink_to_fit();
                }
                Err(Errno::INTR) => {}
                // A line that has not ended is none, as nobody knows whether it was cut.
                Err(Errno::CONNRESET) => {
                    return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
                }
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }

    /// Takes so many bytes from the front of the ciphertext.
    pub(super) fn take_records(&mut self, bytes: usize) -> Vec<u8> {
        let rest = self.incoming.split_off(bytes);
        mem::replace(&mut self.incoming, rest)
    }

    /// Keeps what some work has left.
    pub(super) fn take_back(&mut self, outcome: Outcome) -> io::Result<()> {
        let Outcome {
            rest,
            output,
            error,
        } = outcome;
        self.incoming.splice(..0, rest);
        match self.outgoing.is_empty() {
            true => self.outgoing = output,
            false => self.outgoing.extend(output),
        }
        error.map_or(Ok(()), Err)
    }

    /// Tells the peer of an error, as far as it takes that at once, and ends the connection.
    pub(super) fn fail<S: AsFd + std::os::fd::AsRawFd>(
        &mut self,
        io: &AsyncFd<S>,
        error: Error,
    ) -> io::Error {
        if let Some(mut connection) = self.connection.take() {
            let (_, outcome) = exchange::with(Vec::new(), None, || {
                connection.poll_shutdown_send().map_ok(drop)
            });
            // Most errors are a close_notify to s2n-tls. A peer whose handshake is done took that for a good
            // end, and its lines for read.
            if records::is_open_error(&outcome.output) {
                // The alert is all that there is to be said: nothing becomes of an error here.
                let _ = exchange::send_now(io.as_fd(), &outcome.output);
            }
        }
        invalid(error)
    }
}

/// A connection of a server that has sent and received nothing.
pub(super) fn connection(config: &Config) -> Result<Connection, Error> {
    let mut connection = Connection::new_server();
    connection.set_config(config.clone())?;
    connection.set_blinding(Blinding::SelfService)?;
    exchange::attach(&mut connection)?;
    Ok(connection)
}

/// What comes first of these, as much as is encrypted at a time.
fn gather(slices: &[IoSlice<'_>]) -> Vec<u8> {
    let bytes: usize = slices.iter().map(|slice| slice.len()).sum();
    let mut gathered = Vec::with_capacity(bytes.min(SEAL_BYTES_MAX));
    for slice in slices {
        let room = SEAL_BYTES_MAX - gathered.len();
        gathered.extend_from_slice(&slice[..slice.len().min(room)]);
    }
    gathered
}

/// An error of TLS, as one of the connection.
pub(super) fn invalid(error: Error) -> io::Error {
    let kind = match error.kind() {
        ErrorType::ConnectionClosed => io::ErrorKind::ConnectionAborted,
        _ => io::ErrorKind::InvalidData,
    };
    io::Error::new(kind, format!("{} ({})", error.message(), error.name()))
}

impl fmt::Debug for TlsSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // No keys, and nothing of what is said.
        f.debug_struct("TlsSession")
            .field("peer_closed", &self.peer_closed)
            .field("closed", &self.closed)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
