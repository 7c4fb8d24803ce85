//! What s2n-tls reads and writes: bytes in memory, and for its output a socket as far as that takes them.

use std::cell::RefCell;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::slice;

use libc::{c_int, c_void};
use s2n_tls::connection::Connection;
use s2n_tls::error::Error;

thread_local! {
    /// Of the one connection that is at work on this thread.
    static EXCHANGE: RefCell<Exchange> = RefCell::default();
}

/// Bytes on their way into and out of a connection.
#[derive(Debug, Default)]
struct Exchange {
    input: Vec<u8>,
    /// Bytes of `input` that were taken.
    taken: usize,
    /// Where output goes, as far as that takes it at once.
    socket: Option<RawFd>,
    /// Output that the socket did not take.
    output: Vec<u8>,
    /// What the socket said to it.
    error: Option<io::Error>,
}

/// What has come of some work of a connection.
#[derive(Debug)]
pub(super) struct Outcome {
    /// Input that was not taken.
    pub(super) rest: Vec<u8>,
    /// Output that the socket did not take.
    pub(super) output: Vec<u8>,
    /// The socket is broken.
    pub(super) error: Option<io::Error>,
}

/// Has a connection work on `input`, whole records, and its output go to `socket`; without one, it is all
/// in the outcome.
pub(super) fn with<T>(
    input: Vec<u8>,
    socket: Option<BorrowedFd<'_>>,
    work: impl FnOnce() -> T,
) -> (T, Outcome) {
    EXCHANGE.with_borrow_mut(|exchange| {
        *exchange = Exchange {
            input,
            socket: socket.map(|socket| socket.as_raw_fd()),
            ..Exchange::default()
        }
    });
    let done = work();
    let exchange = EXCHANGE.with_borrow_mut(mem::take);
    let mut rest = exchange.input;
    rest.drain(..exchange.taken);
    let outcome = Outcome {
        rest,
        output: exchange.output,
        error: exchange.error,
    };
    (done, outcome)
}

/// Has a connection read and write in [`with`].
pub(super) fn attach(connection: &mut Connection) -> Result<(), Error> {
    connection.set_receive_callback(Some(receive))?;
    connection.set_send_callback(Some(send))?;
    Ok(())
}

/// Gives s2n-tls what is there of the input; with nothing, it would block.
#[allow(unsafe_code)]
unsafe extern "C" fn receive(_: *mut c_void, buf: *mut u8, len: u32) -> c_int {
    let taken = EXCHANGE.with_borrow_mut(|exchange| {
        let left = &exchange.input[exchange.taken..];
        let some = left.len().min(len as usize);
        // SAFETY: s2n-tls lends `len` bytes at `buf` for this call, which are no part of the input.
        unsafe { std::ptr::copy_nonoverlapping(left.as_ptr(), buf, some) };
        exchange.taken += some;
        some
    });
    match taken {
        0 => {
            would_block();
            -1
        }
        taken => taken as c_int,
    }
}

/// Takes all that s2n-tls gives, so that it never waits in the middle of a record.
#[allow(unsafe_code)]
unsafe extern "C" fn send(_: *mut c_void, buf: *const u8, len: u32) -> c_int {
    // SAFETY: s2n-tls lends `len` initialized bytes at `buf` for this call.
    let bytes = unsafe { slice::from_raw_parts(buf, len as usize) };
    EXCHANGE.with_borrow_mut(|exchange| {
        let sent = match exchange.socket {
            Some(socket) if exchange.output.is_empty() && exchange.error.is_none() => {
                // SAFETY: the descriptor is borrowed for as long as [`with`] runs.
                let socket = unsafe { BorrowedFd::borrow_raw(socket) };
                send_now(socket, bytes).unwrap_or_else(|error| {
                    exchange.error = Some(error);
                    bytes.len()
                })
            }
            _ => 0,
        };
        exchange.output.extend_from_slice(&bytes[sent..]);
    });
    len as c_int
}

/// Writes what a socket takes at once.
pub(super) fn send_now(socket: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    use rustix::io::Errno;
    use rustix::net::SendFlags;
    loop {
        return match rustix::net::send(socket, bytes, SendFlags::NOSIGNAL) {
            Ok(sent) => Ok(sent),
            Err(Errno::AGAIN) => Ok(0),
            Err(Errno::INTR) => continue,
            Err(error) => Err(error.into()),
        };
    }
}

/// Sets `errno`, which is how a callback says that it would block.
#[allow(unsafe_code)]
fn would_block() {
    // SAFETY: the C library gives each thread a place for its `errno`.
    unsafe { *libc::__errno_location() = libc::EAGAIN };
}
