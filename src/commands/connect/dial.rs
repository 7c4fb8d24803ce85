//! A connection to the server, and what its socket knows of it.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::net::{RecvFlags, SendFlags, Shutdown};
use socket2::SockRef;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::time::timeout;

use crate::config::Address;
use crate::net::sockopt;

/// How long one address of the server is tried. The kernel itself tries for two minutes, which is
/// longer than a person waits, and than a retry needs.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A connected stream socket.
#[derive(Debug)]
pub(super) struct Connection {
    socket: AsyncFd<OwnedFd>,
    /// Address of the server; `None` over a Unix socket.
    peer: Option<SocketAddr>,
    shut: bool,
    /// Since when the server's machine is known to have everything.
    settled: Option<Instant>,
}

impl Connection {
    /// Connects to the first address of the server that answers.
    ///
    /// # Errors
    /// The error of the last address that was tried.
    pub(super) async fn dial(address: &Address) -> io::Result<Connection> {
        let (host, port) = match address {
            Address::Unix(path) => {
                let stream = UnixStream::connect(path).await?;
                return Connection::new(stream.into_std()?, None);
            }
            Address::Tcp { host, port } => (host.as_str(), *port),
        };
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
        for peer in lookup_host((host, port)).await? {
            match timeout(CONNECT_TIMEOUT, TcpStream::connect(peer)).await {
                Err(_) => last = io::Error::new(io::ErrorKind::TimedOut, "no answer"),
                Ok(Err(error)) => last = error,
                // While nobody listens on a port of this machine, an attempt that is given that very
                // port for its own end connects to itself, and would keep the server from listening
                // there again.
                Ok(Ok(stream)) if stream.local_addr()? == peer => {
                    last = io::ErrorKind::ConnectionRefused.into();
                }
                Ok(Ok(stream)) => {
                    sockopt::set_tcp_options(&SockRef::from(&stream))?;
                    return Connection::new(stream.into_std()?, Some(peer));
                }
            }
        }
        Err(last)
    }

    fn new(socket: impl Into<OwnedFd>, peer: Option<SocketAddr>) -> io::Result<Connection> {
        let both = Interest::READABLE | Interest::WRITABLE;
        Ok(Connection {
            socket: sockopt::register(socket.into(), both)?,
            peer,
            shut: false,
            settled: None,
        })
    }

    /// Appends what comes to `bytes`, as much as they have room for without growing, and returns how
    /// much that was; 0 at the end. Cancel safe.
    pub(super) async fn receive(&self, bytes: &mut Vec<u8>) -> io::Result<usize> {
        let receive = |socket: &OwnedFd| {
            let (_, read) = rustix::net::recv(socket, spare_capacity(bytes), RecvFlags::empty())?;
            Ok(read)
        };
        self.socket.async_io(Interest::READABLE, receive).await
    }

    /// Waits until the socket may take bytes. Cancel safe.
    pub(super) async fn writable(&self) -> io::Result<()> {
        self.socket.writable().await?.retain_ready();
        Ok(())
    }

    /// Gives the socket what it takes without waiting.
    pub(super) fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        let send = |socket: &OwnedFd| Ok(rustix::net::send(socket, bytes, SendFlags::NOSIGNAL)?);
        match self.socket.try_io(Interest::WRITABLE, send) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            sent => sent,
        }
    }

    /// Tells the server that no more comes.
    pub(super) fn shut(&mut self) {
        self.shut = true;
        // The call fails for a connection that is gone, which reading tells too.
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Write);
    }

    /// Whether the server was told that no more comes.
    pub(super) fn is_shut(&self) -> bool {
        self.shut
    }

    /// Gives the connection up: what has come can still be received, and then an end.
    pub(super) fn abandon(&self) {
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Both);
    }

    /// Whom it is connected to; `None` over a Unix socket: what the server's machine has, the server
    /// itself has then.
    pub(super) fn peer(&self) -> Option<SocketAddr> {
        self.peer
    }

    /// How many bytes of lines are not in the hands of the server's machine.
    pub(super) fn unacknowledged(&self) -> usize {
        match self.peer {
            Some(_) => self.outstanding().saturating_sub(usize::from(self.shut)),
            // Bytes that a Unix socket takes are there at once.
            None => 0,
        }
    }

    /// For how long the server's machine has had everything, the end too; over a Unix socket, for
    /// how long the server itself has.
    pub(super) fn settled_for(&mut self) -> Option<Duration> {
        if self.shut && self.outstanding() == 0 {
            self.settled.get_or_insert_with(Instant::now);
        }
        Some(self.settled?.elapsed())
    }

    fn outstanding(&self) -> usize {
        // The call fails for no connected stream socket.
        sockopt::outstanding_bytes(self.socket.as_fd()).unwrap_or(0)
    }
}
