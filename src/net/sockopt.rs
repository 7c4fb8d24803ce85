//! Socket options, and what the runtime and the kernel say of a socket.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use socket2::{Socket, TcpKeepalive};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A silent peer is asked after 30 s, then every 10 s; three questions without an answer end it.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 3;

/// Sets what every TCP socket of linehub has; accepted ones have it from their listener.
pub(crate) fn set_tcp_options(socket: &Socket) -> io::Result<()> {
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_PROBES);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_nodelay(true)?;
    // Telnet marks a Ctrl-C by urgent data; out of line, that byte would be lost from the middle of
    // a command.
    socket.set_out_of_band_inline(true)
}

/// Makes the runtime watch a socket, or whatever else can be waited for.
///
/// # Errors
/// The descriptor is a regular file, or something else that is never waited for.
#[allow(unsafe_code)]
pub(crate) fn register<S: AsRawFd + Into<OwnedFd>>(
    socket: S,
    interest: Interest,
) -> io::Result<AsyncFd<S>> {
    // SAFETY: what an `OwnedFd` can be made of is open and stays the same descriptor for as long as
    // it lives, and the `AsyncFd` that it is moved into gives it to nobody who could close it.
    unsafe { AsyncFd::register_with_interest(socket, interest) }
        .map_err(|refused| refused.into_parts().1)
}

/// How many bytes of what a socket took its peer's machine has not acknowledged, the end of output
/// counted as one of them (tcp(7), SIOCOUTQ). Of a Unix socket it says only whether the peer has read
/// everything, when it is 0 (unix(7)).
///
/// # Errors
/// The descriptor is no stream socket.
#[allow(unsafe_code)]
pub(crate) fn outstanding_bytes(socket: BorrowedFd<'_>) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: for this request, which is TIOCOUTQ, the kernel writes one `int` to where it is told; the
    // descriptor is open for as long as it is borrowed.
    let outcome = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if outcome != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(usize::try_from(bytes).unwrap_or(0))
}
