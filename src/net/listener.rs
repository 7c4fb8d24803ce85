//! A socket that clients connect to, and the address it is bound to.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use ipnet::IpNet;
use rustix::net::SocketFlags;
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tracing::{info, warn};

use super::peer::Peer;
use super::sockopt::register;
use super::unix::{FileIdentity, Permissions, SocketFile};
use crate::config::{Address, ListenerOptions, show_all, show_mode};
use crate::wire::format::Format;
use crate::wire::line_end::LineEnd;
use crate::wire::role::Role;

/// Connections that the kernel completes ahead of `accept`. It cuts this to `net.core.somaxconn`;
/// the 1,024 that is usual elsewhere makes a storm of connects wait for SYN retries.
pub(crate) const BACKLOG: usize = 65_535;

/// A socket that clients connect to.
#[derive(Debug)]
pub(crate) struct Listener {
    io: AsyncFd<OwnedFd>,
    name: ListenAddr,
    label: Arc<str>,
    options: Arc<ListenerOptions>,
    origin: Origin,
    file: Option<SocketFile>,
}

/// Whose a listener is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Origin {
    /// The daemon opened it, for this address of its configuration as it displays.
    Configured(String),
    /// The service manager opened it, and passed it under this name.
    Manager(String),
}

/// A listener, less its socket, for a handover.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SavedListener {
    pub(super) origin: Origin,
    /// Of a Unix socket that the daemon opened.
    pub(super) file: Option<FileIdentity>,
}

/// A listener of the daemon before, for [`bind::open_all`](super::bind::open_all).
pub(crate) type RestoredListener = (SavedListener, OwnedFd);

/// Where a listener is bound: the port is the real one. Displays as it is logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddr {
    /// An IP address and port.
    Tcp(SocketAddr),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

impl Listener {
    /// Listens on a bound, nonblocking socket. To be called on the runtime.
    pub(super) fn new(
        socket: OwnedFd,
        name: ListenAddr,
        options: Arc<ListenerOptions>,
        origin: Origin,
        file: Option<SocketFile>,
    ) -> io::Result<Listener> {
        Ok(Listener {
            io: register(socket, Interest::READABLE)?,
            label: name.to_string().into(),
            name,
            options,
            origin,
            file,
        })
    }

    /// Address that the listener is bound to.
    pub(crate) fn name(&self) -> &ListenAddr {
        &self.name
    }

    /// [`Listener::name`] as it displays: one text for all who want to keep it.
    pub(crate) fn label(&self) -> Arc<str> {
        self.label.clone()
    }

    /// Options that whoever connects to it now has.
    pub(crate) fn options(&self) -> &Arc<ListenerOptions> {
        &self.options
    }

    /// Logs where it listens, and what is not as usual.
    pub(crate) fn log_listening(&self) {
        let ListenerOptions {
            format,
            channel,
            role,
            line_end,
            http_guard,
            hello,
            http,
            history,
            allow,
            deny,
            proxy,
            mode,
            group,
            tls,
            tls_cert,
            tls_key: _,
            address: _,
        } = &*self.options;
        let networks = |networks: &[IpNet]| (!networks.is_empty()).then(|| show_all(networks));
        info!(
            address = %self.name,
            %format,
            channel = channel.as_unusual(),
            role = (*role != Role::Both).then(|| role.name()),
            line_end = (*line_end != LineEnd::Lf).then(|| line_end.name()),
            http_guard = (!http_guard).then_some(false),
            hello = hello.then_some(true),
            http = http.then_some(true),
            history = (!history.is_none()).then(|| history.to_string()),
            allow = networks(allow),
            deny = networks(deny),
            proxy = networks(proxy),
            mode = mode.as_ref().map(show_mode),
            group,
            tls = tls.then_some(true),
            tls_cert = tls_cert.as_ref().map(|path| path.display().to_string()),
            "listening"
        );
    }

    /// Whether anybody who reaches it from another machine can connect: nothing asks who it is. An
    /// `allow` says that it is meant so.
    fn is_open(&self, with_tokens: bool) -> bool {
        let asks = self.options.tls || self.options.takes_tokens() && with_tokens;
        !self.is_private() && !asks && self.options.allow.is_empty()
    }

    /// Whether what its clients say can be read by nobody on the way.
    fn is_private(&self) -> bool {
        let is_local = match &self.name {
            ListenAddr::Tcp(address) => address.ip().to_canonical().is_loopback(),
            ListenAddr::Unix(_) => true,
        };
        is_local || self.options.tls
    }

    /// Gives newcomers other options; clients that are there keep theirs.
    pub(super) fn set_options(&mut self, options: Arc<ListenerOptions>) {
        let before = std::mem::replace(&mut self.options, options);
        let is_given_up = |before: bool, now: bool| before && !now;
        if is_given_up(before.mode.is_some(), self.options.mode.is_some())
            || is_given_up(before.group.is_some(), self.options.group.is_some())
        {
            warn!(address = %self.name, "mode and group stay as they were until the next start");
        }
        self.set_permissions();
    }

    /// Gives the file of a Unix socket that was open already the permissions of its options.
    pub(super) fn set_permissions(&self) {
        if self.options.mode.is_none() && self.options.group.is_none() {
            return;
        }
        let set = match &self.file {
            Some(file) => Permissions::of(&self.options).and_then(|wanted| wanted.set(&file.path)),
            None => Err(anyhow::anyhow!(
                "it is the service manager's: its socket unit says them"
            )),
        };
        if let Err(error) = set {
            let error = format!("{error:#}");
            warn!(address = %self.name, error, "mode and group stay as they are");
        }
    }

    /// Format in which newcomers see the stream.
    pub(crate) fn format(&self) -> Format {
        self.options.format
    }

    /// All there is to know of the listener, save its socket.
    pub(crate) fn save(&self) -> SavedListener {
        SavedListener {
            origin: self.origin.clone(),
            file: self.file.as_ref().map(|file| file.identity),
        }
    }

    /// Whether the service manager opened the socket, and keeps it open too.
    pub(crate) fn is_socket_activated(&self) -> bool {
        matches!(self.origin, Origin::Manager(_))
    }

    /// Leaves the listener to whoever has its socket now: its file stays.
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

/// Warns of listeners whose clients say tokens where others can read them, and if nobody is asked for one.
pub(crate) fn warn_of_tokens(listeners: &[Listener]) {
    for listener in listeners {
        if listener.options.takes_tokens() && !listener.is_private() {
            warn!(
                listener = %listener.name,
                "anybody on the way can read the tokens of its clients: it is neither TLS, nor a Unix socket, \
                 nor on loopback"
            );
        }
    }
    let asks = |listener: &Listener| listener.options.takes_tokens() || listener.options.tls;
    if !listeners.iter().any(asks) {
        warn!("--tokens keeps nobody out: no listener has `hello` or `http`");
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.io.as_fd()
    }
}

/// Warns of listeners that anybody can connect to.
pub(crate) fn warn_of_open(listeners: &[Listener], with_tokens: bool) {
    for listener in listeners
        .iter()
        .filter(|listener| listener.is_open(with_tokens))
    {
        warn!(
            address = %listener.name,
            "anybody who reaches this address can connect: set tls, hello and --tokens, or allow=CIDR"
        );
    }
}

impl ListenAddr {
    /// Whether the address takes the IPv4 side of `port` on every interface.
    pub(super) fn takes_all_ipv4(&self, port: u16) -> bool {
        *self == ListenAddr::Tcp(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))
    }

    pub(super) fn has_port(&self, port: u16) -> bool {
        matches!(self, ListenAddr::Tcp(address) if address.port() == port)
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

/// Whether this address takes the IPv4 side of `port` on every interface. An IPv6 wildcard beside
/// it is for IPv6 only then, as both could not be opened otherwise.
pub(super) fn takes_all_ipv4(address: &Address, port: u16) -> bool {
    matches!(address, Address::Tcp { host, port: other } if host == "0.0.0.0" && *other == port)
}
