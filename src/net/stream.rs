//! One connection, whatever kind of socket it is.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, Shutdown};
use socket2::SockRef;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use zeroize::{Zeroize as _, Zeroizing};

use super::sockopt::{outstanding_bytes, register};
use super::tls::{self, LoadedTls, PeerNames, RevocationLists, SavedTls, TlsSession};

/// How long a peer may be silent that owes an answer: gone within a minute, as a silent one that owes
/// none. Not left to TCP_USER_TIMEOUT, which also ends a peer that answers every probe of its closed
/// window, and only reads slowly.
const SILENCE_MAX: Duration = Duration::from_secs(50);

/// Bytes that [`Stream::read_part`] shows at a time.
const PART_BYTES: usize = 4096;

/// One connection.
#[derive(Debug)]
pub(crate) struct Stream {
    io: AsyncFd<StreamSocket>,
    /// `None`: what is written is what is sent. Boxed: others must not be larger for it.
    tls: Option<Box<TlsSession>>,
}

/// What a client asks of its connection: a [`Stream`], or what a test has in its place.
///
/// Whatever is `Pending` has the task woken when that changes.
pub(crate) trait Connection {
    /// Ready when a read may bring something.
    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Reads what is there, at most `buf`; 0 when the peer shut its sending side.
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>>;

    /// Writes as much of `slices` as the connection takes, at least one byte of a non-empty one.
    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>>;

    /// Ready when the connection holds nothing of what it was given to write.
    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Gives back what work at this moment needs; whether the connection holds more that only work needs.
    fn rest(&mut self) -> bool {
        false
    }

    /// Gives back that, too. What comes next takes longer.
    fn rest_long(&mut self) {}

    /// Whether the peer has shown a certificate that is in these lists.
    fn is_revoked(&self, _: &RevocationLists) -> bool {
        false
    }

    /// How far the peer has come in taking the output.
    ///
    /// # Errors
    /// The system does not say.
    fn progress(&self) -> io::Result<PeerProgress>;

    /// Has its close reset the connection: the peer is told by that, and what it has not acknowledged is
    /// lost to it. A Unix socket is reset only if the peer had sent what was not read.
    fn reset_on_close(&self) -> io::Result<()>;

    /// Shuts the sending side: the peer gets what was sent, then the end.
    fn poll_shut_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
}

/// The socket of a connection.
#[derive(Debug)]
struct StreamSocket {
    fd: OwnedFd,
    is_tcp: bool,
}

/// How far the other end of a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PeerProgress {
    /// Changes whenever the peer acknowledges something.
    pub(crate) acknowledged: u32,
    /// The peer has acknowledged everything, the end of the output included.
    pub(crate) has_all: bool,
    /// The peer is gone: the connection has ended, or no answer has come for [`SILENCE_MAX`].
    pub(crate) is_gone: bool,
}

impl Stream {
    /// Takes over a connected, nonblocking socket. To be called on the runtime.
    pub(crate) fn new(socket: OwnedFd) -> io::Result<Stream> {
        let is_tcp = rustix::net::sockopt::socket_domain(&socket)? != AddressFamily::UNIX;
        if !is_tcp {
            // TCP sockets have it from their listener.
            SockRef::from(&socket).set_out_of_band_inline(true)?;
        }
        let socket = StreamSocket { fd: socket, is_tcp };
        Ok(Stream {
            io: register(
                socket,
                Interest::READABLE | Interest::WRITABLE | Interest::PRIORITY,
            )?,
            tls: None,
        })
    }

    /// A connection of a predecessor, with its TLS.
    pub(crate) fn restore(socket: OwnedFd, tls: Option<SavedTls>) -> io::Result<Stream> {
        let mut stream = Stream::new(socket)?;
        stream.tls = tls.map(|saved| Box::new(TlsSession::restore(saved)));
        Ok(stream)
    }

    /// Gets ready for [`Stream::save_tls`]: nothing may be read or written until then.
    ///
    /// # Errors
    /// The connection is broken.
    pub(crate) fn put_away(&mut self) -> io::Result<()> {
        self.tls.as_mut().map_or(Ok(()), |tls| tls.put_away())
    }

    /// What the next daemon needs beside the socket.
    pub(crate) fn save_tls(&self) -> Option<SavedTls> {
        self.tls.as_ref().map(|tls| tls.save())
    }

    /// Whether the peer has sent something that begins as TLS does, once something is there; `None` if it has
    /// shut its sending side instead. Nothing is read. Cancel safe.
    pub(crate) async fn begins_tls(&mut self) -> io::Result<Option<bool>> {
        self.read_part(|bytes| (0, (!bytes.is_empty()).then(|| tls::begins(bytes))))
            .await
    }

    /// Whether the peer understands what is written: not before it has agreed on TLS, unless it speaks none
    /// (`is_plain`).
    pub(crate) fn takes_words(&self, is_plain: bool) -> bool {
        match &self.tls {
            Some(tls) => tls.is_established(),
            None => is_plain,
        }
    }

    /// Whether a TLS handshake has begun and is not done: then it cannot be saved.
    pub(crate) fn is_negotiating(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.is_negotiating())
    }

    /// Has the peer agree on TLS with this server. Cancel safe: called again, it goes on.
    ///
    /// # Errors
    /// Why it does not. The peer has been told as TLS has it.
    pub(crate) async fn negotiate(&mut self, server: &LoadedTls) -> io::Result<PeerNames> {
        let Stream { io, tls } = self;
        if tls.is_none() {
            *tls = Some(Box::new(TlsSession::new(server)?));
        }
        let tls = tls.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        poll_fn(|cx| tls.poll_negotiate(io, cx)).await?;
        tls.finish_handshake(server)
    }

    /// Whether a read that brought less than it could has emptied the socket, as a rule: edge-triggered
    /// epoll tells what comes next, so that the read which would only find nothing is saved.
    ///
    /// The exceptions end a read early: TCP's urgent mark, which epoll reports as priority with
    /// whatever it belongs to; and, on a Unix socket, descriptors that were passed along. An end of
    /// input stays readable.
    fn is_emptied_by_short_read(&self) -> bool {
        let is_urgent = || self.io.try_io(Interest::PRIORITY, |_| Ok(())).is_ok();
        self.io.get_ref().is_tcp && !is_urgent()
    }

    /// Writes what a fresh socket takes without waiting: a line always fits.
    pub(crate) fn write_at_once(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(tls) = &mut self.tls {
            return tls.encrypt(self.io.as_fd(), &[IoSlice::new(bytes)]);
        }
        Ok(rustix::net::send(
            self.io.as_fd(),
            bytes,
            SendFlags::NOSIGNAL,
        )?)
    }

    /// Writes what a fresh socket takes without waiting, and shuts the sending side.
    pub(crate) fn end_at_once(&mut self, bytes: &[u8]) -> io::Result<()> {
        if !bytes.is_empty() {
            self.write_at_once(bytes)?;
        }
        if let Some(tls) = &mut self.tls {
            tls.close(self.io.as_fd())?;
        }
        Ok(rustix::net::shutdown(self.io.as_fd(), Shutdown::Write)?)
    }

    /// Shows `take` what is there to be read, once, and reads as much of it as `take` says: what is behind
    /// that, the next read gets. Nothing is shown when the peer shut its sending side. Cancel safe.
    pub(crate) async fn read_part<T>(
        &mut self,
        mut take: impl FnMut(&[u8]) -> (usize, T),
    ) -> io::Result<T> {
        if self.tls.is_some() {
            let mut bytes = Zeroizing::new(vec![0; PART_BYTES]);
            let read = poll_fn(|cx| Connection::poll_read(self, cx, &mut bytes)).await?;
            let (part, taken) = take(&bytes[..read]);
            if let Some(tls) = &mut self.tls {
                tls.unread(&bytes[part..read]);
            }
            return Ok(taken);
        }
        loop {
            let mut guard = self.io.ready(Interest::READABLE).await?;
            match self.read_part_now(&mut take) {
                Ok(taken) => return Ok(taken),
                Err(Errno::AGAIN) => guard.clear_ready(),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Shows `look` what there is to be read, and whether nothing more will come, until it makes something
    /// of that, as it has to at the end. Nothing is read. Cancel safe.
    ///
    /// More than 4,096 bytes are not shown, so that what is looked for has to be in these.
    pub(crate) async fn peek<T>(
        &mut self,
        mut look: impl FnMut(&[u8], bool) -> Option<T>,
    ) -> io::Result<T> {
        loop {
            let mut guard = self.io.ready(Interest::READABLE).await?;
            // What came before the end is there by now.
            let has_ended = guard.ready().is_read_closed();
            let look = |bytes: &[u8]| (0, look(bytes, has_ended || bytes.is_empty()));
            match self.read_part_now(&mut { look }) {
                Ok(Some(seen)) => return Ok(seen),
                // Epoll is edge-triggered: it tells of more, and not again of what has been seen.
                Ok(None) | Err(Errno::AGAIN) => guard.clear_ready(),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Reads and forgets so many bytes that [`Stream::peek`] has shown.
    pub(crate) fn skip(&mut self, bytes: usize) -> io::Result<()> {
        let mut scratch = [0; PART_BYTES];
        Ok(self.read_seen(&mut scratch[..bytes])?)
    }

    /// Waits until something can be read, or the end. Cancel safe.
    pub(crate) async fn readable(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.poll_readable(cx)).await
    }

    /// [`Stream::read_part`] of what is there now. Its bytes are on the stack, and not in a future.
    fn read_part_now<T>(&self, take: &mut impl FnMut(&[u8]) -> (usize, T)) -> Result<T, Errno> {
        let mut bytes = [0; PART_BYTES];
        let (seen, _) = rustix::net::recv(self.io.as_fd(), &mut bytes, RecvFlags::PEEK)?;
        let (part, taken) = take(&bytes[..seen]);
        let read = self.read_seen(&mut bytes[..part]);
        // A hello may have a token in it. Each byte is a write of its own: no more than there are.
        bytes[..seen].zeroize();
        read.map(|()| taken)
    }

    /// Reads bytes that are known to be there.
    fn read_seen(&self, mut part: &mut [u8]) -> Result<(), Errno> {
        while !part.is_empty() {
            match rustix::net::recv(self.io.as_fd(), &mut *part, RecvFlags::empty()) {
                Ok((read, _)) => part = &mut part[read..],
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads and forgets until the peer shuts its sending side. Cancel safe.
    pub(crate) async fn discard_input(&mut self) -> io::Result<()> {
        let mut scratch = [0; 512];
        while poll_fn(|cx| Connection::poll_read(self, cx, &mut scratch)).await? > 0 {}
        Ok(())
    }
}

impl Connection for Stream {
    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.tls.as_ref().is_some_and(|tls| tls.has_input()) {
            return Poll::Ready(Ok(()));
        }
        self.io
            .poll_read_ready(cx)
            .map_ok(|mut guard| guard.retain_ready())
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        if let Some(tls) = &mut self.tls {
            return tls.poll_read(&self.io, cx, buf);
        }
        loop {
            let mut guard = ready!(self.io.poll_read_ready(cx))?;
            match rustix::net::recv(self.io.as_fd(), &mut *buf, RecvFlags::empty()) {
                Ok((read, _)) => {
                    if 0 < read && read < buf.len() && self.is_emptied_by_short_read() {
                        guard.clear_ready();
                    }
                    return Poll::Ready(Ok(read));
                }
                Err(Errno::AGAIN) => guard.clear_ready(),
                Err(Errno::INTR) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let Some(tls) = &mut self.tls {
            return tls.poll_write(&self.io, cx, slices);
        }
        let bytes: usize = slices.iter().map(|slice| slice.len()).sum();
        loop {
            let mut guard = ready!(self.io.poll_write_ready(cx))?;
            let written = match slices {
                // A plain send costs the kernel less than a vector of one.
                [slice] => rustix::net::send(self.io.as_fd(), slice, SendFlags::NOSIGNAL),
                // Where `SIGPIPE` is ignored, as Rust does at start, this is the same.
                slices => rustix::io::writev(self.io.as_fd(), slices),
            };
            match written {
                Ok(written) => {
                    if written < bytes {
                        guard.clear_ready();
                    }
                    return Poll::Ready(Ok(written));
                }
                Err(Errno::AGAIN) => guard.clear_ready(),
                Err(Errno::INTR) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.tls {
            Some(tls) => tls.poll_flush(&self.io, cx),
            None => Poll::Ready(Ok(())),
        }
    }

    fn rest(&mut self) -> bool {
        self.tls.as_mut().is_some_and(|tls| tls.rest())
    }

    fn rest_long(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.rest_long();
        }
    }

    fn is_revoked(&self, lists: &RevocationLists) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.is_revoked(lists))
    }

    fn progress(&self) -> io::Result<PeerProgress> {
        let progress = match self.io.get_ref().is_tcp {
            true => tcp_progress(self.io.as_fd())?,
            false => unix_progress(self.io.as_fd())?,
        };
        let is_flushed = self.tls.as_ref().is_none_or(|tls| tls.is_flushed());
        Ok(PeerProgress {
            has_all: progress.has_all && is_flushed,
            ..progress
        })
    }

    fn reset_on_close(&self) -> io::Result<()> {
        SockRef::from(&self.io).set_linger(Some(Duration::ZERO))
    }

    fn poll_shut_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(tls) = &mut self.tls {
            ready!(tls.poll_flush(&self.io, cx))?;
            tls.close(self.io.as_fd())?;
            ready!(tls.poll_flush(&self.io, cx))?;
        }
        let shut = rustix::net::shutdown(self.io.as_fd(), Shutdown::Write);
        Poll::Ready(shut.map_err(io::Error::from))
    }
}

/// For what speaks a protocol of its own over a connection; clients use the methods.
impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = ready!(Connection::poll_read(
            &mut *self,
            cx,
            buf.initialize_unfilled()
        ))?;
        buf.advance(read);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Connection::poll_write(&mut *self, cx, &[IoSlice::new(buf)])
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_shut_write(cx)
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.io.as_fd()
    }
}

impl AsRawFd for StreamSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl From<StreamSocket> for OwnedFd {
    fn from(socket: StreamSocket) -> OwnedFd {
        socket.fd
    }
}

impl AsFd for StreamSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// See tcp(7), TCP_INFO. What is read here is at these places since Linux 4.6.
#[allow(unsafe_code)]
fn tcp_progress(socket: BorrowedFd<'_>) -> io::Result<PeerProgress> {
    const TCP_CLOSE: u8 = 7;
    let mut info = [0_u8; 192];
    let mut length = info.len() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `info`, which are any bytes, and then says
    // how many; the descriptor is open.
    let outcome = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if outcome != 0 {
        return Err(io::Error::last_os_error());
    }
    let u32_at = |at: usize| u32::from_ne_bytes(std::array::from_fn(|byte| info[at + byte]));
    let [state, retransmits, probes] = [info[0], info[2], info[3]];
    let (unacknowledged, last_ack_ms) = (u32_at(24), u32_at(56));
    let acknowledged = u64::from_ne_bytes(std::array::from_fn(|byte| info[120 + byte]));
    let unsent = u32_at(144);
    let owes_answer = retransmits > 0 || probes > 0;
    let is_silent = u128::from(last_ack_ms) >= SILENCE_MAX.as_millis();
    Ok(PeerProgress {
        acknowledged: acknowledged as u32,
        has_all: unacknowledged == 0 && unsent == 0,
        is_gone: state == TCP_CLOSE || (owes_answer && is_silent),
    })
}

fn unix_progress(socket: BorrowedFd<'_>) -> io::Result<PeerProgress> {
    Ok(PeerProgress {
        acknowledged: outstanding_bytes(socket)? as u32,
        // What was written is in the peer's own queue, and stays there when this end is closed.
        has_all: true,
        is_gone: false,
    })
}
