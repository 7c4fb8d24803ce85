//! Sockets: TCP, Unix and inherited alike become one [`Listener`] and one [`Stream`].
//!
//! Nothing else in linehub knows what kind of socket it has in hand.

mod adopt;
mod change;

use std::fmt;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use anyhow::Context as _;
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, Shutdown, SocketFlags};
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, TcpKeepalive, Type};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};

use crate::config::{Address, Config, ListenSpec};
use crate::net::inherited::InheritedFd;
use crate::net::peer::Peer;
use crate::wire::format::Format;

use adopt::InheritedListeners;
pub(crate) use change::ListenPlan;

/// Connections that the kernel completes ahead of `accept`. It cuts this to `net.core.somaxconn`;
/// the 1,024 that is usual elsewhere makes a storm of connects wait for SYN retries.
pub(crate) const BACKLOG: usize = 65_535;

/// A silent peer is asked after 30 s, then every 10 s; three questions without an answer end it.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 3;

/// How long a peer may be silent that owes an answer: gone within a minute, as a silent one that owes
/// none. Not left to TCP_USER_TIMEOUT, which also ends a peer that answers every probe of its closed
/// window, and only reads slowly.
const SILENCE_MAX: Duration = Duration::from_secs(50);

/// A socket that clients connect to.
#[derive(Debug)]
pub(crate) struct Listener {
    io: AsyncFd<OwnedFd>,
    name: ListenAddr,
    label: Arc<str>,
    format: Format,
    origin: Origin,
    file: Option<SocketFile>,
}

/// Whose a listener is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Origin {
    /// The daemon opened it, for this address of its configuration as it displays.
    Configured(String),
    /// The service manager opened it, and passed it under this name.
    Manager(String),
}

/// A listener, less its socket, for a handover.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SavedListener {
    origin: Origin,
    /// Of a Unix socket that the daemon opened.
    file: Option<FileIdentity>,
}

/// What tells a file from another that takes its path: its device and its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct FileIdentity {
    device: u64,
    inode: u64,
}

/// A listener of the daemon before, for [`Listener::open_all`].
pub(crate) type RestoredListener = (SavedListener, OwnedFd);

/// Where a listener is bound: the port is the real one. Displays as it is logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddr {
    /// An IP address and port.
    Tcp(SocketAddr),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Stream {
    io: AsyncFd<StreamSocket>,
}

/// What a client asks of its connection: a [`Stream`], or what a test has in its place.
///
/// Whatever is `Pending` has the task woken when that changes.
pub(crate) trait Connection {
    /// Ready when a read may bring something.
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Reads what is there, at most `buf`; 0 when the peer shut its sending side.
    fn poll_read(&self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>>;

    /// Writes as much of `slices` as the connection takes, at least one byte of a non-empty one.
    fn poll_write(&self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>>;

    /// How far the peer has come.
    ///
    /// # Errors
    /// The system does not say.
    fn progress(&self) -> io::Result<PeerProgress>;

    /// Has its close reset the connection: the peer is told by that, and what it has not acknowledged is
    /// lost to it. A Unix socket is reset only if the peer had sent what was not read.
    fn reset_on_close(&self) -> io::Result<()>;

    /// Shuts the sending side: the peer gets what was sent, then the end.
    fn shut_write(&self) -> io::Result<()>;
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
    /// It has acknowledged everything, the end of the output included.
    pub(crate) has_all: bool,
    /// It is gone: the connection has ended, or it has not answered for [`SILENCE_MAX`].
    pub(crate) is_gone: bool,
}

impl Listener {
    /// Takes over the sockets that the service manager passed and those that the daemon before
    /// `kept`, and opens what else the configuration names: the manager's first, in the order they
    /// came. With sockets of the manager's, the address that is listened on by default is not. What
    /// the daemon before listened on and the configuration does not name any more is closed.
    ///
    /// # Errors
    /// Each listener that could not be opened, by its name.
    pub(crate) async fn open_all(
        config: &Config,
        inherited: Vec<InheritedFd>,
        kept: Vec<RestoredListener>,
    ) -> anyhow::Result<(Vec<Listener>, Vec<anyhow::Error>)> {
        let mut inherited = InheritedListeners::of(inherited, kept)?;
        let specs = match config.listen_given || !inherited.has_socket_activated() {
            true => &config.listen[..],
            false => &[],
        };
        let mut errors = Vec::new();
        let mut note = |spec: &ListenSpec, error: anyhow::Error| {
            errors.push(error.context(format!("cannot listen on {}", spec.address)));
        };
        let mut missing = Vec::new();
        for spec in specs {
            match ResolvedListen::resolve(spec)
                .await
                .and_then(|wanted| wanted.claim(&mut inherited, specs))
            {
                Ok(wanted) => missing.push((spec, wanted)),
                Err(error) => note(spec, error),
            }
        }
        // An address may be free only after what it was part of has been closed.
        let mut listeners = inherited.into_listeners(config.format)?;
        for (spec, wanted) in missing {
            let others: Vec<ListenAddr> =
                listeners.iter().map(|other| other.name.clone()).collect();
            match wanted.open(&others, specs, |_| false) {
                Ok(opened) => listeners.extend(opened),
                Err(error) => note(spec, error),
            }
        }
        Ok((listeners, errors))
    }

    fn open_tcp(
        address: SocketAddr,
        only_v6: bool,
        shares: bool,
        spec: &ListenSpec,
    ) -> anyhow::Result<Listener> {
        let domain = Domain::for_address(address);
        let socket = Socket::new(domain, Type::STREAM.nonblocking(), Some(Protocol::TCP))
            .map_err(explain_no_family)?;
        // A restart must not wait for the last connections of the daemon before it.
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(shares)?;
        if address.is_ipv6() {
            socket.set_only_v6(only_v6)?;
        }
        set_tcp_options(&socket)?;
        socket
            .bind(&address.into())
            .map_err(|error| explain_privileged(error, address.port()))?;
        socket.listen(BACKLOG as i32)?;
        if shares {
            // Nobody else is to share the port. (The kernel remembers, and may let a program of the
            // same user do so, which could as well stop us.)
            socket.set_reuse_port(false)?;
        }
        let bound = socket
            .local_addr()?
            .as_socket()
            .context("the socket has no IP address")?;
        Ok(Listener {
            io: register(socket.into(), Interest::READABLE)?,
            label: ListenAddr::Tcp(bound).label(),
            name: ListenAddr::Tcp(bound),
            format: spec.format,
            origin: Origin::Configured(spec.address.to_string()),
            file: None,
        })
    }

    fn open_unix(path: &Path, spec: &ListenSpec, is_private: bool) -> anyhow::Result<Listener> {
        remove_stale(path)?;
        let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
        if is_private {
            // The mode that its file gets, from the first moment on.
            rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
        }
        socket.bind(&SockAddr::unix(path)?)?;
        let file = SocketFile::new(path)?;
        socket.listen(BACKLOG as i32)?;
        Ok(Listener {
            io: register(socket.into(), Interest::READABLE)?,
            label: ListenAddr::Unix(path.to_path_buf()).label(),
            name: ListenAddr::Unix(path.to_path_buf()),
            format: spec.format,
            origin: Origin::Configured(spec.address.to_string()),
            file: Some(file),
        })
    }

    /// Where it is bound.
    pub(crate) fn name(&self) -> &ListenAddr {
        &self.name
    }

    /// [`Listener::name`] as it displays: one text for all who want to keep it.
    pub(crate) fn label(&self) -> Arc<str> {
        self.label.clone()
    }

    /// How its clients see the stream.
    pub(crate) fn format(&self) -> Format {
        self.format
    }

    /// All there is to know of it, save its socket.
    pub(crate) fn save(&self) -> SavedListener {
        SavedListener {
            origin: self.origin.clone(),
            file: self.file.as_ref().map(|file| file.identity),
        }
    }

    /// Whether the service manager has it open too.
    pub(crate) fn is_socket_activated(&self) -> bool {
        matches!(self.origin, Origin::Manager(_))
    }

    /// Leaves it to whoever has its socket now: its file stays.
    pub(crate) fn hand_over(mut self) {
        if let Some(file) = self.file.take() {
            // Its drop would remove the file.
            std::mem::forget(file);
        }
    }

    /// Waits until a connection may be there to accept. Cancel safe.
    pub(crate) async fn ready(&self) -> io::Result<()> {
        // The readiness stays set until `accept` finds none.
        self.io
            .readable()
            .await
            .map(|mut guard| guard.retain_ready())
    }

    /// Accepts one connection; `WouldBlock` when there is none.
    pub(crate) fn accept(&self) -> io::Result<(OwnedFd, Peer)> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let (socket, address) = self.io.try_io(Interest::READABLE, |listener| {
            Ok(rustix::net::acceptfrom_with(listener, flags)?)
        })?;
        let address = address.and_then(|address| SocketAddr::try_from(address).ok());
        let peer = address.map_or(Peer::Unix, |address| {
            Peer::Tcp(SocketAddr::new(address.ip().to_canonical(), address.port()))
        });
        Ok((socket, peer))
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.io.as_fd()
    }
}

/// An entry of the configuration, and the addresses that it stands for.
#[derive(Clone, Debug)]
pub(crate) struct ResolvedListen {
    spec: ListenSpec,
    /// A host name may have several: all of them are listened on.
    names: Vec<ListenAddr>,
    /// Whether a Unix socket is for its user alone.
    is_private: bool,
}

impl ResolvedListen {
    async fn resolve(spec: &ListenSpec) -> anyhow::Result<ResolvedListen> {
        let names: Vec<ListenAddr> = match &spec.address {
            Address::Unix(path) => vec![ListenAddr::Unix(path.clone())],
            Address::Tcp { host, port } => {
                let addresses = tokio::net::lookup_host((host.as_str(), *port)).await?;
                addresses.map(ListenAddr::Tcp).collect()
            }
        };
        anyhow::ensure!(!names.is_empty(), "{} has no address", spec.address);
        Ok(ResolvedListen {
            spec: spec.clone(),
            names,
            is_private: false,
        })
    }

    /// What of it is missing when the sockets that are open already have been claimed.
    fn claim(
        mut self,
        inherited: &mut InheritedListeners,
        all: &[ListenSpec],
    ) -> anyhow::Result<ResolvedListen> {
        let mut missing = Vec::new();
        for name in self.names {
            if !inherited.claim(&name, &self.spec, all)? {
                missing.push(name);
            }
        }
        self.names = missing;
        Ok(self)
    }

    /// Opens it, beside these others and all that the configuration names. `shares` says for which
    /// addresses another socket of ours, made ready for it, still has the port.
    fn open(
        self,
        others: &[ListenAddr],
        all: &[ListenSpec],
        shares: impl Fn(&SocketAddr) -> bool,
    ) -> anyhow::Result<Vec<Listener>> {
        let mut listeners: Vec<Listener> = Vec::new();
        for name in self.names {
            let listener = match name {
                ListenAddr::Unix(path) => Listener::open_unix(&path, &self.spec, self.is_private)?,
                ListenAddr::Tcp(mut address) => {
                    if let Some(ListenAddr::Tcp(first)) = listeners.first().map(|first| &first.name)
                    {
                        // With port 0, all addresses of the name get the port of the first one.
                        address.set_port(first.port());
                    }
                    let port = address.port();
                    let only_v6 = others.iter().any(|other| other.takes_all_ipv4(port))
                        || all.iter().any(|other| takes_all_ipv4(&other.address, port));
                    let opened = Listener::open_tcp(address, only_v6, shares(&address), &self.spec);
                    opened.map_err(|error| {
                        let own = listeners.iter().map(|listener| &listener.name);
                        match others.iter().chain(own).find(|other| other.has_port(port)) {
                            Some(other) => error.context(format!("{other} is listened on already")),
                            None => error,
                        }
                    })?
                }
            };
            listeners.push(listener);
        }
        Ok(listeners)
    }
}

/// An address for the daemon's own use, and the addresses that it stands for.
#[derive(Clone, Debug)]
pub(crate) struct ResolvedPrivate(ResolvedListen);

impl ResolvedPrivate {
    /// Looks its name up. Cancel safe.
    ///
    /// # Errors
    /// It stands for no address.
    pub(crate) async fn resolve(address: &Address) -> anyhow::Result<ResolvedPrivate> {
        let spec = ListenSpec {
            address: address.clone(),
            // Nobody who connects there becomes a client.
            format: Format::Text,
        };
        let wanted = ResolvedListen::resolve(&spec).await?;
        Ok(ResolvedPrivate(ResolvedListen {
            is_private: true,
            ..wanted
        }))
    }

    /// The same on this port; `None` where the port is given, or there is none.
    pub(crate) fn on_port(&self, port: u16) -> Option<ResolvedPrivate> {
        let mut again = self.0.clone();
        for name in &mut again.names {
            match name {
                ListenAddr::Tcp(address) if address.port() == 0 => address.set_port(port),
                _ => return None,
            }
        }
        Some(ResolvedPrivate(again))
    }

    /// Opens it. A Unix socket is its user's alone. To be called on the runtime that is to accept from
    /// it.
    pub(crate) fn open(self) -> anyhow::Result<Vec<Listener>> {
        self.0.open(&[], &[], |_| false)
    }
}

impl ListenAddr {
    fn label(&self) -> Arc<str> {
        self.to_string().into()
    }

    /// Whether it takes the IPv4 side of `port` on every interface.
    fn takes_all_ipv4(&self, port: u16) -> bool {
        *self == ListenAddr::Tcp(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))
    }

    fn has_port(&self, port: u16) -> bool {
        matches!(self, ListenAddr::Tcp(address) if address.port() == port)
    }
}

/// Whether an error that a listener could not be opened for will be there at every start: the process
/// may not open such sockets at all.
pub fn is_for_good(error: &anyhow::Error) -> bool {
    let refused = Errno::AFNOSUPPORT.raw_os_error();
    let mut causes = error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>());
    causes.any(|cause| cause.raw_os_error() == Some(refused))
}

fn explain_no_family(error: io::Error) -> anyhow::Error {
    let explained = error.raw_os_error() == Some(Errno::AFNOSUPPORT.raw_os_error());
    let error = anyhow::Error::from(error);
    match explained {
        true => error.context(
            "this process may open no such sockets: a service without a network serves what its \
             socket unit opens, so leave `listen` out of its configuration",
        ),
        false => error,
    }
}

fn explain_privileged(error: io::Error, port: u16) -> anyhow::Error {
    let explained = error.kind() == io::ErrorKind::PermissionDenied && port < 1024;
    let error = anyhow::Error::from(error);
    match explained {
        true => error.context(
            "ports below 1024 need a privilege (CAP_NET_BIND_SERVICE), or a socket unit of the \
             service manager; one above 1023 needs nothing",
        ),
        false => error,
    }
}

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
/// It is a regular file, or something else that is never waited for.
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
        // It is in the peer's own queue, and stays there when this end is closed.
        has_all: true,
        is_gone: false,
    })
}

/// How many bytes of what a socket took its peer's machine has not acknowledged, the end of output
/// counted as one of them (tcp(7), SIOCOUTQ). Of a Unix socket it says only whether the peer has read
/// everything, when it is 0 (unix(7)).
///
/// # Errors
/// It is no stream socket.
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

/// Whether this address takes the IPv4 side of `port` on every interface. An IPv6 wildcard beside
/// it is for IPv6 only then, as both could not be opened otherwise.
fn takes_all_ipv4(address: &Address, port: u16) -> bool {
    matches!(address, Address::Tcp { host, port: other } if host == "0.0.0.0" && *other == port)
}

/// Removes a socket that a dead daemon left. One that answers, and anything that is no socket, stays
/// and is an error.
fn remove_stale(path: &Path) -> anyhow::Result<()> {
    let Ok(metadata) = path.symlink_metadata() else {
        return Ok(());
    };
    anyhow::ensure!(
        metadata.file_type().is_socket(),
        "the file exists and is no socket"
    );
    // Nonblocking: a server that does not come round to accepting is one that answers, too.
    let probe = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    match probe.connect(&SockAddr::unix(path)?) {
        Ok(()) => anyhow::bail!("a server answers there already"),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            anyhow::bail!("a server listens there already")
        }
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).context("cannot remove the socket of a dead server")
        }
        Err(error) => Err(error.into()),
    }
}

/// The file of a Unix listener. Removed when dropped, unless another took its place.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    identity: FileIdentity,
}

impl SocketFile {
    fn new(path: &Path) -> io::Result<SocketFile> {
        Ok(SocketFile {
            path: path.to_path_buf(),
            identity: FileIdentity::of(path)?,
        })
    }
}

impl FileIdentity {
    fn of(path: &Path) -> io::Result<FileIdentity> {
        let file = path.symlink_metadata()?;
        Ok(FileIdentity {
            device: file.dev(),
            inode: file.ino(),
        })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if FileIdentity::of(&self.path).is_ok_and(|now| now == self.identity) {
            // Nothing is lost if it stays: the next daemon replaces it.
            let _ = std::fs::remove_file(&self.path);
        }
    }
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
        })
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
    pub(crate) fn write_at_once(&self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::net::send(
            self.io.as_fd(),
            bytes,
            SendFlags::NOSIGNAL,
        )?)
    }

    /// Reads and forgets until the peer shuts its sending side. Cancel safe.
    pub(crate) async fn discard_input(&self) -> io::Result<()> {
        let mut scratch = [0; 512];
        while poll_fn(|cx| Connection::poll_read(self, cx, &mut scratch)).await? > 0 {}
        Ok(())
    }
}

impl Connection for Stream {
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io
            .poll_read_ready(cx)
            .map_ok(|mut guard| guard.retain_ready())
    }

    fn poll_read(&self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
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

    fn poll_write(&self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
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

    fn progress(&self) -> io::Result<PeerProgress> {
        match self.io.get_ref().is_tcp {
            true => tcp_progress(self.io.as_fd()),
            false => unix_progress(self.io.as_fd()),
        }
    }

    fn reset_on_close(&self) -> io::Result<()> {
        SockRef::from(&self.io).set_linger(Some(Duration::ZERO))
    }

    fn shut_write(&self) -> io::Result<()> {
        Ok(rustix::net::shutdown(self.io.as_fd(), Shutdown::Write)?)
    }
}

/// For what speaks a protocol of its own over a connection; clients use the methods.
impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = ready!(Connection::poll_read(&*self, cx, buf.initialize_unfilled()))?;
        buf.advance(read);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Connection::poll_write(&*self, cx, &[IoSlice::new(buf)])
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.shut_write())
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.io.as_fd()
    }
}

impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ListenAddr::Tcp(address) => address.fmt(f),
            ListenAddr::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}
