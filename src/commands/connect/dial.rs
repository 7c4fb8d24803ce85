//! A connection to the server, and what its socket knows of it.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::net::{RecvFlags, SendFlags, Shutdown};
use socket2::SockRef;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::time::timeout;

use super::sent_records::SentRecords;
use crate::config::Address;
use crate::net::sockopt;
use crate::net::tls_client::{TlsConnection, TlsConnector};

/// How long one address of the server is tried. The kernel itself tries for two minutes, which is
/// longer than a person waits, and than a retry needs.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Records that may have arrived before that is noticed.
const FORGOTTEN_AT_ONCE: usize = 256;

const NO_TLS: &str = "no answer to the TLS handshake: it may not speak TLS";

/// A connected stream socket.
#[derive(Debug)]
pub(super) struct Connection {
    socket: AsyncFd<OwnedFd>,
    /// Address of the server; `None` over a Unix socket.
    peer: Option<SocketAddr>,
    tls: Option<RefCell<Tls>>,
    shut: bool,
    /// Since when the server's machine is known to have everything.
    settled: Option<Instant>,
}

/// TLS of a connection, and which encrypted bytes are which bytes of lines.
#[derive(Debug)]
struct Tls {
    session: TlsConnection,
    records: SentRecords,
}

impl Connection {
    /// Connects to the first address of the server that answers.
    ///
    /// # Errors
    /// The error of the last address that was tried; of kind `InvalidData` if the server's certificate is
    /// refused.
    pub(super) async fn dial(
        address: &Address,
        tls: Option<&TlsConnector>,
    ) -> io::Result<Connection> {
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
                    let mut connection = Connection::new(stream.into_std()?, Some(peer))?;
                    let Some(tls) = tls else {
                        return Ok(connection);
                    };
                    match timeout(CONNECT_TIMEOUT, connection.agree(tls)).await {
                        Ok(Ok(())) => return Ok(connection),
                        Ok(Err(error)) => last = error,
                        Err(_) => last = io::Error::new(io::ErrorKind::TimedOut, NO_TLS),
                    }
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
            tls: None,
            shut: false,
            settled: None,
        })
    }

    /// Goes through the TLS handshake.
    async fn agree(&mut self, tls: &TlsConnector) -> io::Result<()> {
        let mut session = tls.session()?;
        let mut wanted = Interest::WRITABLE;
        loop {
            let mut ready = self.socket.ready(wanted).await?;
            match session.handshake(self.socket.as_fd()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let writes = wanted.is_writable();
                    if writes == session.waits_to_write() {
                        ready.clear_ready();
                    }
                    wanted = match session.waits_to_write() {
                        true => Interest::WRITABLE,
                        false => Interest::READABLE,
                    };
                }
                done => {
                    self.tls = Some(RefCell::new(Tls {
                        session,
                        records: SentRecords::default(),
                    }));
                    return done;
                }
            }
        }
    }

    /// Appends what comes to `bytes`, as much as they have room for without growing, and returns how
    /// much that was; 0 at the end. Cancel safe.
    ///
    /// # Errors
    /// Over TLS also an end that the server did not say.
    pub(super) async fn receive(&self, bytes: &mut Vec<u8>) -> io::Result<usize> {
        let Some(tls) = &self.tls else {
            let receive = |socket: &OwnedFd| {
                let (_, read) =
                    rustix::net::recv(socket, spare_capacity(bytes), RecvFlags::empty())?;
                Ok(read)
            };
            return self.socket.async_io(Interest::READABLE, receive).await;
        };
        let receive = |socket: &OwnedFd| {
            let begin = bytes.len();
            bytes.resize(bytes.capacity(), 0);
            let mut tls = tls.borrow_mut();
            let read = tls.session.receive(socket.as_fd(), &mut bytes[begin..]);
            bytes.truncate(begin + read.as_ref().unwrap_or(&0));
            read
        };
        self.socket.async_io(Interest::READABLE, receive).await
    }

    /// Waits until the socket may take bytes. Cancel safe.
    pub(super) async fn writable(&self) -> io::Result<()> {
        self.socket.writable().await?.retain_ready();
        Ok(())
    }

    /// Gives the socket what it takes without waiting. What it did not take is to be given again.
    pub(super) fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        let send = |socket: &OwnedFd| match &self.tls {
            None => Ok(rustix::net::send(socket, bytes, SendFlags::NOSIGNAL)?),
            Some(tls) => tls.borrow_mut().send(socket.as_fd(), bytes),
        };
        let sent = self.socket.try_io(Interest::WRITABLE, send);
        if self
            .tls
            .as_ref()
            .is_some_and(|tls| tls.borrow().is_to_forget())
        {
            self.unacknowledged();
        }
        match sent {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            sent => sent,
        }
    }

    /// Tells the server that no more comes, if the socket has room for that: else it is not shut yet.
    pub(super) fn shut(&mut self) {
        if let Some(tls) = &mut self.tls {
            let told = tls.get_mut().session.shut(self.socket.as_fd());
            if told.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
                return;
            }
        }
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
            Some(_) => {
                let bytes = self.outstanding().saturating_sub(usize::from(self.shut));
                let tls = self.tls.as_ref();
                tls.map_or(bytes, |tls| tls.borrow_mut().unacknowledged(bytes))
            }
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

impl Tls {
    fn send(&mut self, socket: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
        let sent = self.session.send(socket, bytes)?;
        self.records.push(sent, self.session.sent());
        Ok(sent)
    }

    /// Whether it is time to see which records have arrived.
    fn is_to_forget(&self) -> bool {
        self.records.len() % FORGOTTEN_AT_ONCE == FORGOTTEN_AT_ONCE - 1
    }

    /// Bytes of lines that the server's machine does not have, if so many encrypted ones are outstanding.
    fn unacknowledged(&mut self, encrypted: usize) -> usize {
        let arrived = self.session.sent().saturating_sub(encrypted as u64);
        self.records.unacknowledged(arrived)
    }
}
