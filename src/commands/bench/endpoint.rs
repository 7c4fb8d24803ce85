//! Where connections are made to, and how one is begun.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, ToSocketAddrs};
use std::os::fd::AsFd as _;
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};

use crate::config::Address;
use crate::config::cli::TlsArgs;
use crate::net::tls_client::{TlsConnection, TlsConnector};

/// Connections from one source address on loopback, well below the number of ports that it has.
const CONNECTIONS_PER_SOURCE: usize = 4096;

/// A receive buffer that is soon full. The kernel doubles it.
const STUCK_BUFFER_BYTES: usize = 4096;

/// How long the daemon may take for each word of the TLS handshake of a [`Talk`].
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Where connections are made to.
#[derive(Debug)]
pub struct Endpoint {
    address: SockAddr,
    /// Closing resets a connection and leaves no port in TIME_WAIT for the next run to miss.
    resets: bool,
    /// The lines that connections begin with, in rotation; none if they say no hello.
    hellos: Vec<String>,
    /// `None` for plain bytes.
    tls: Option<TlsConnector>,
}

/// A connection whose reads wait, perhaps over TLS.
#[derive(Debug)]
pub(super) struct Talk {
    socket: Socket,
    tls: Option<TlsConnection>,
}

impl Endpoint {
    /// The address of a server that does not mind connections that are reset.
    pub fn resetting(address: SocketAddr) -> Endpoint {
        Endpoint {
            address: address.into(),
            resets: true,
            hellos: Vec::new(),
            tls: None,
        }
    }

    /// All connections speak TLS, if that was typed.
    ///
    /// # Errors
    /// What is wrong with which file, in one line.
    pub fn over_tls(self, args: &TlsArgs, address: &Address) -> Result<Endpoint, String> {
        Ok(self.over(TlsConnector::load(args, address)?))
    }

    pub(super) fn over(self, tls: Option<TlsConnector>) -> Endpoint {
        Endpoint { tls, ..self }
    }

    /// Connection `n` begins with hello `n`, modulo their number: each a line without its LF.
    pub fn saying(self, hellos: impl IntoIterator<Item = String>) -> Endpoint {
        let hellos = hellos.into_iter().map(|hello| hello + "\n").collect();
        Endpoint { hellos, ..self }
    }

    /// The first of an address's meanings that answers, and the connection that it answered.
    pub(super) fn reach(address: &Address) -> io::Result<(Endpoint, Socket)> {
        let candidates = match address {
            Address::Unix(path) => vec![SockAddr::unix(path)?],
            Address::Tcp { host, port } => (host.as_str(), *port)
                .to_socket_addrs()?
                .map(SockAddr::from)
                .collect(),
        };
        let mut refusal = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in candidates {
            let endpoint = Endpoint {
                address,
                resets: false,
                hellos: Vec::new(),
                tls: None,
            };
            let connected = endpoint.connect().and_then(|socket| {
                socket.set_nonblocking(true)?;
                Ok(socket)
            });
            match connected {
                Ok(socket) => return Ok((endpoint, socket)),
                Err(error) => refusal = error,
            }
        }
        Err(refusal)
    }

    /// Makes a connection, and waits until it is made.
    pub(super) fn connect(&self) -> io::Result<Socket> {
        let socket = self.new_socket()?;
        socket.connect(&self.address)?;
        Ok(socket)
    }

    /// Makes a connection to talk on, one word at a time.
    pub(super) fn talk(&self) -> io::Result<Talk> {
        let socket = self.connect()?;
        let mut tls = self.session()?;
        if let Some(tls) = &mut tls {
            socket.set_read_timeout(Some(HANDSHAKE_TIMEOUT))?;
            tls.handshake(socket.as_fd())?;
        }
        Ok(Talk { socket, tls })
    }

    fn new_socket(&self) -> io::Result<Socket> {
        let socket = Socket::new(self.address.domain(), Type::STREAM, None)?;
        if self.address.domain() != Domain::UNIX {
            socket.set_tcp_nodelay(true)?;
            socket.set_linger(self.resets.then_some(Duration::ZERO))?;
        }
        Ok(socket)
    }

    /// A socket for the connection with this number. A stuck reader's takes little.
    pub(super) fn socket(&self, number: usize, stuck: bool) -> io::Result<Socket> {
        let socket = self.new_socket()?;
        socket.set_nonblocking(true)?;
        if stuck {
            socket.set_recv_buffer_size(STUCK_BUFFER_BYTES)?;
        }
        let source = (number / CONNECTIONS_PER_SOURCE) as u8;
        let is_loopback = |address: SocketAddrV4| address.ip().is_loopback();
        if source > 0 && self.address.as_socket_ipv4().is_some_and(is_loopback) {
            let source = SocketAddrV4::new(Ipv4Addr::new(127, 0, 1, source), 0);
            socket.bind(&source.into())?;
        }
        Ok(socket)
    }

    /// The hello of the connection with this number.
    pub(super) fn hello(&self, number: usize) -> Option<&[u8]> {
        let hello = self.hellos.get(number % self.hellos.len().max(1));
        hello.map(String::as_bytes)
    }

    /// TLS for one more connection; `None` for plain bytes.
    pub(super) fn session(&self) -> io::Result<Option<TlsConnection>> {
        self.tls.as_ref().map(TlsConnector::session).transpose()
    }

    /// Begins a connection; whether it is made already.
    pub(super) fn begin(&self, socket: &Socket) -> io::Result<bool> {
        match socket.connect(&self.address) {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl Talk {
    /// Says that no more comes.
    pub(super) fn shut(&mut self) -> io::Result<()> {
        if let Some(tls) = &mut self.tls {
            tls.shut(self.socket.as_fd())?;
        }
        self.socket.shutdown(Shutdown::Write)
    }

    /// How long a read waits.
    pub(super) fn set_patience(&self, patience: Duration) -> io::Result<()> {
        self.socket.set_read_timeout(Some(patience))
    }
}

impl Read for Talk {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match &mut self.tls {
            None => self.socket.read(bytes),
            // More would be waited for until it is full.
            Some(tls) => tls.receive_some(self.socket.as_fd(), bytes),
        }
    }
}

impl Write for Talk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.tls {
            None => self.socket.write(bytes),
            Some(tls) => tls.send(self.socket.as_fd(), bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
