//! TLS as a client speaks it, over a connected socket that does not block.

use std::ffi::{c_int, c_void};
use std::net::IpAddr;
use std::os::fd::{AsRawFd as _, BorrowedFd, RawFd};
use std::path::Path;
use std::task::Poll;
use std::{fs, io};

use s2n_tls::callbacks::VerifyHostNameCallback;
use s2n_tls::config::Config;
use s2n_tls::connection::Connection;
use s2n_tls::enums::Blinding;
use s2n_tls::error::{Error, ErrorType};
use s2n_tls::security::Policy;
use zeroize::Zeroizing;

use crate::config::Address;
use crate::config::cli::TlsArgs;

/// TLS 1.3 alone: in 1.2, who says that nothing more comes can read nothing more either (RFC 5246, section
/// 7.2.1), and what was on its way is lost.
const POLICY: &str = "AWS-CRT-SDK-TLSv1.3-2023";

/// Bytes of lines in the largest record, which one call of [`TlsConnection::send`] takes at most.
const RECORD_BYTES_MAX: usize = 16 * 1024;

/// Types of TLS records are from here to here.
const RECORD_TYPES: std::ops::RangeInclusive<u8> = 20..=24;

/// Whom a client trusts, whom it wants to reach, and what it shows of itself.
#[derive(Clone, Debug)]
pub(crate) struct TlsConnector {
    config: Config,
    server_name: String,
}

/// One connection's TLS. Whoever has the socket gives it to each call; an error of kind `WouldBlock` says
/// that the call is to be repeated when the socket is [ready](TlsConnection::waits_to_write).
#[derive(Debug)]
pub(crate) struct TlsConnection {
    s2n: Connection,
    wire: Wire,
    server_name: String,
    has_begun: bool,
}

/// The socket as the library's callbacks see it.
#[derive(Debug)]
struct Wire {
    /// Valid during a call of [`TlsConnection::call`].
    fd: RawFd,
    /// Encrypted bytes that the socket has taken.
    sent: u64,
    /// The first byte that came.
    first: Option<u8>,
    waits_to_write: bool,
}

/// Accepts the certificate of an address: those of names are compared by the library.
struct IsAddress(IpAddr);

impl TlsConnector {
    /// Reads the files that were typed; `None` if no TLS was asked for.
    ///
    /// # Errors
    /// What is wrong with which file, in one line.
    pub(crate) fn load(args: &TlsArgs, address: &Address) -> Result<Option<TlsConnector>, String> {
        let host = match address {
            _ if !args.tls => return Ok(None),
            Address::Tcp { host, .. } => host,
            Address::Unix(_) => return Err("--tls: allowed: with HOST:PORT".to_owned()),
        };
        let text = |flag: &str, path: &Path| {
            let text = fs::read(path).map(Zeroizing::new);
            text.map_err(|error| format!("{flag}: cannot read {}: {error}", path.display()))
        };
        let broken = |error: Error| format!("TLS cannot be set up: {}", error.message());
        let mut config = Config::builder();
        let policy = Policy::from_version(POLICY).map_err(broken)?;
        config.set_security_policy(&policy).map_err(broken)?;
        config.set_max_blinding_delay(0).map_err(broken)?;
        if let Some(path) = &args.ca {
            config.with_system_certs(false).map_err(broken)?;
            let trusted = config.trust_pem(&text("--ca", path)?);
            trusted.map_err(|_| {
                let path = path.display();
                format!("--ca: {path} has no certificates that can be read; allowed: PEM")
            })?;
        }
        if let (Some(certificate), Some(key)) = (&args.cert, &args.key) {
            let loaded = config.load_pem(&text("--cert", certificate)?, &text("--key", key)?);
            loaded.map_err(|error| {
                let (certificate, key) = (certificate.display(), key.display());
                match error.name() {
                    "S2N_ERR_KEY_MISMATCH" => {
                        format!("--key: {key} is not the key of the certificate in {certificate}")
                    }
                    _ => format!(
                        "--cert, --key: {certificate} and {key} are no certificate and its key; \
                         allowed: PEM"
                    ),
                }
            })?;
        }
        Ok(Some(TlsConnector {
            config: config.build().map_err(broken)?,
            server_name: args.server_name.as_ref().unwrap_or(host).clone(),
        }))
    }

    /// Begins TLS on a new connection.
    pub(crate) fn session(&self) -> io::Result<TlsConnection> {
        let mut s2n = Connection::new_client();
        s2n.set_config(self.config.clone())?;
        // The other kind sleeps, and all connections of this thread with it.
        s2n.set_blinding(Blinding::SelfService)?;
        s2n.set_receive_callback(Some(receive))?;
        s2n.set_send_callback(Some(send))?;
        match self.server_name.parse() {
            // An address is no server name (RFC 6066, section 3).
            Ok(address) => s2n.set_verify_host_callback(IsAddress(address))?,
            Err(_) => s2n.set_server_name(&self.server_name)?,
        };
        Ok(TlsConnection {
            s2n,
            wire: Wire {
                fd: -1,
                sent: 0,
                first: None,
                waits_to_write: false,
            },
            server_name: self.server_name.clone(),
            has_begun: false,
        })
    }
}

impl VerifyHostNameCallback for IsAddress {
    fn verify_host_name(&self, name: &str) -> bool {
        name.parse() == Ok(self.0)
    }
}

impl TlsConnection {
    /// Comes to an agreement with the server, and checks its certificate.
    ///
    /// # Errors
    /// Of kind `InvalidData`, if the certificate is refused.
    pub(crate) fn handshake(&mut self, socket: BorrowedFd<'_>) -> io::Result<()> {
        let done = self.call(socket, |s2n| s2n.poll_negotiate().map_ok(|_| ()));
        match &done {
            Ok(()) => self.has_begun = true,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // The server is told why.
            Err(_) => drop(self.shut(socket)),
        }
        done
    }

    /// Reads until there is no more room, or nothing more has come; 0 at the end.
    ///
    /// # Errors
    /// Of kind `UnexpectedEof`, if the connection ended without a close_notify: what is missing is unknown.
    pub(crate) fn receive(
        &mut self,
        socket: BorrowedFd<'_>,
        bytes: &mut [u8],
    ) -> io::Result<usize> {
        let mut received = 0;
        while received < bytes.len() {
            match self.receive_some(socket, &mut bytes[received..]) {
                Ok(0) => break,
                Ok(count) => received += count,
                // What is wrong is said again by the next call.
                Err(_) if received > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(received)
    }

    /// [`TlsConnection::receive`] of at most one record.
    pub(crate) fn receive_some(
        &mut self,
        socket: BorrowedFd<'_>,
        bytes: &mut [u8],
    ) -> io::Result<usize> {
        self.call(socket, |s2n| s2n.poll_recv(bytes))
    }

    /// Whether bytes have been decrypted that were not taken yet: the socket does not tell of them.
    pub(crate) fn has_unread(&self) -> bool {
        self.s2n.peek_len() > 0
    }

    /// Sends at most one record. After `WouldBlock`, the same bytes are to be given again, or more.
    pub(crate) fn send(&mut self, socket: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
        let bytes = &bytes[..bytes.len().min(RECORD_BYTES_MAX)];
        self.call(socket, |s2n| s2n.poll_send(bytes))
    }

    /// Says that no more comes.
    pub(crate) fn shut(&mut self, socket: BorrowedFd<'_>) -> io::Result<()> {
        self.call(socket, |s2n| s2n.poll_shutdown_send().map_ok(|_| ()))
    }

    /// Whether what has been begun waits for room in the socket; else it waits for bytes.
    pub(crate) fn waits_to_write(&self) -> bool {
        self.wire.waits_to_write
    }

    /// Encrypted bytes that the socket has taken.
    pub(crate) fn sent(&self) -> u64 {
        self.wire.sent
    }

    #[allow(unsafe_code)]
    fn call<T>(
        &mut self,
        socket: BorrowedFd<'_>,
        call: impl FnOnce(&mut Connection) -> Poll<Result<T, Error>>,
    ) -> io::Result<T> {
        self.wire.fd = socket.as_raw_fd();
        self.wire.waits_to_write = false;
        let wire: *mut c_void = (&raw mut self.wire).cast();
        // SAFETY: the library hands the pointer to the callbacks within a call that reads or writes, and
        // each of those is made here: then it points to what is borrowed for as long, and unused besides.
        unsafe {
            self.s2n.set_receive_context(wire)?;
            self.s2n.set_send_context(wire)?;
        }
        match call(&mut self.s2n) {
            Poll::Ready(done) => done.map_err(|error| self.explain(error)),
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// What went wrong, in words for a person.
    fn explain(&self, error: Error) -> io::Error {
        use io::ErrorKind::{InvalidData, Other, UnexpectedEof};
        let is_tls = |first: u8| RECORD_TYPES.contains(&first);
        if !self.has_begun && !self.wire.first.is_none_or(is_tls) {
            return io::Error::new(Other, "it does not speak TLS");
        }
        let certificate = |words: &str| {
            io::Error::new(InvalidData, format!("its certificate is refused: {words}"))
        };
        // An alert is told once, and close_notify is 0.
        if let Some(alert) = self.s2n.alert().filter(|alert| *alert != 0) {
            let words = alert_words(alert);
            return io::Error::new(Other, format!("the server ended TLS: {words}"));
        }
        match (error.kind(), error.name()) {
            (ErrorType::ConnectionClosed, _) if !self.has_begun => {
                io::Error::new(UnexpectedEof, "it closed during the TLS handshake")
            }
            (ErrorType::ConnectionClosed, _) => io::Error::new(
                UnexpectedEof,
                "it ended without the end of TLS, so something may be missing",
            ),
            (_, "S2N_ERR_CERT_UNTRUSTED") => {
                certificate("no authority that is trusted has signed it; --ca FILE names another")
            }
            (_, "S2N_ERR_CERT_INVALID_HOSTNAME") => certificate(&format!(
                "it is not for {}; --server-name NAME names another",
                self.server_name
            )),
            (_, "S2N_ERR_CERT_EXPIRED") => certificate("it has expired"),
            (_, "S2N_ERR_CERT_NOT_YET_VALID") => certificate("it is not valid yet"),
            (_, name) if name.starts_with("S2N_ERR_CERT_") => certificate(error.message()),
            (ErrorType::IOError, _) => error.into(),
            _ => io::Error::new(Other, format!("TLS failed: {}", error.message())),
        }
    }
}

/// An alert of RFC 8446, section 6, in the words that help here.
fn alert_words(alert: u8) -> String {
    let words = match alert {
        40 => "the two agree on nothing (handshake_failure)",
        42 | 43 | 46 => "it refuses the client's certificate",
        44 => "the client's certificate has been revoked",
        45 => "the client's certificate has expired",
        48 => "it does not know who signed the client's certificate",
        49 => "the client may not come in (access_denied)",
        70 => "it speaks another version of TLS",
        112 => "it knows no server of this name",
        116 => "it wants a certificate of the client: --cert FILE --key FILE",
        _ => return format!("alert {alert}"),
    };
    words.to_owned()
}

/// Reads for the library. The result is that of recv(2), with errno.
#[allow(unsafe_code)]
unsafe extern "C" fn receive(wire: *mut c_void, bytes: *mut u8, len: u32) -> c_int {
    // SAFETY: what the library passes is what `TlsConnection::call` gave it, which still borrows it.
    let wire = unsafe { &mut *wire.cast::<Wire>() };
    // SAFETY: there is room for so many bytes, and the descriptor is open.
    let count = unsafe { libc::recv(wire.fd, bytes.cast(), len as usize, 0) };
    if count > 0 && wire.first.is_none() {
        // SAFETY: there is at least one byte.
        wire.first = Some(unsafe { *bytes });
    }
    count as c_int
}

/// Writes for the library. The result is that of send(2), with errno.
#[allow(unsafe_code)]
unsafe extern "C" fn send(wire: *mut c_void, bytes: *const u8, len: u32) -> c_int {
    // SAFETY: what the library passes is what `TlsConnection::call` gave it, which still borrows it.
    let wire = unsafe { &mut *wire.cast::<Wire>() };
    // SAFETY: there are so many bytes, and the descriptor is open.
    let count = unsafe { libc::send(wire.fd, bytes.cast(), len as usize, libc::MSG_NOSIGNAL) };
    wire.waits_to_write = count < 0;
    wire.sent += u64::try_from(count).unwrap_or(0);
    count as c_int
}
