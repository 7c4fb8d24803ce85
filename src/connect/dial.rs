//! A connection to the server, and what its socket knows of it.

use std::io;
use std::net::ToSocketAddrs;
use std::os::fd::AsRawFd;
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::config::Address;
use crate::listen;

/// How long one address of the server is tried. The kernel itself tries for two minutes, which is
/// longer than a person waits, and than a retry needs.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Connects to the first address of the server that answers. Blocks.
///
/// # Errors
/// What the last of its addresses said.
pub(super) fn dial(address: &Address) -> io::Result<Socket> {
    match address {
        Address::Unix(path) => {
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
            socket.connect_timeout(&SockAddr::unix(path)?, CONNECT_TIMEOUT)?;
            Ok(socket)
        }
        Address::Tcp { host, port } => {
            let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
            for address in (host.as_str(), *port).to_socket_addrs()? {
                match dial_tcp(&address.into()) {
                    Ok(socket) => return Ok(socket),
                    Err(error) => last = error,
                }
            }
            Err(last)
        }
    }
}

fn dial_tcp(address: &SockAddr) -> io::Result<Socket> {
    let socket = Socket::new(address.domain(), Type::STREAM, Some(Protocol::TCP))?;
    listen::set_tcp_options(&socket)?;
    socket.connect_timeout(address, CONNECT_TIMEOUT)?;
    // While nobody listens on a port of this machine, an attempt that is given that very port for its
    // own end connects to itself, and would keep the server from listening there again.
    if socket.local_addr()? == *address {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    Ok(socket)
}

/// How many bytes of what the socket took have not been acknowledged, the end of output counted as
/// one of them. For a Unix socket it is only known whether all has been read, when it is 0.
#[allow(unsafe_code)]
pub(super) fn unacknowledged(socket: &Socket) -> usize {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the descriptor is open for as long as the socket is borrowed, and the kernel writes one
    // int through the pointer, as tcp(7) and unix(7) say of SIOCOUTQ, which is TIOCOUTQ.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    // It fails for no connected stream socket.
    if result == 0 {
        usize::try_from(bytes).unwrap_or(0)
    } else {
        0
    }
}
