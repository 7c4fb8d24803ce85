//! From what the configuration says to listen on to open listeners: names are looked up, sockets that
//! are open already are claimed, and the others are opened.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use rustix::fs::Mode;
use rustix::io::Errno;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::inherited::{InheritedFd, InheritedListeners};
use super::listener::{BACKLOG, ListenAddr, Listener, Origin, RestoredListener, takes_all_ipv4};
use super::sockopt::set_tcp_options;
use super::unix::{Permissions, SocketFile, remove_stale};
use crate::config::{Address, Config, ListenerDefaults, ListenerOptions};
use crate::wire::format::Format;

/// An entry of the configuration, and the addresses that it stands for.
#[derive(Clone, Debug)]
pub(super) struct ResolvedListen {
    pub(super) options: Arc<ListenerOptions>,
    /// A host name may have several: all of them are listened on.
    names: Vec<ListenAddr>,
    permissions: Permissions,
    /// A Unix socket is for its user alone.
    is_private: bool,
}

/// An address for the daemon's own use, and the addresses that it stands for.
#[derive(Clone, Debug)]
pub(crate) struct ResolvedPrivate(ResolvedListen);

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
    let mut note = |options: &ListenerOptions, error: anyhow::Error| {
        errors.push(error.context(format!("cannot listen on {}", options.address)));
    };
    let mut missing = Vec::new();
    for options in specs {
        match ResolvedListen::resolve(options)
            .await
            .and_then(|wanted| wanted.claim(&mut inherited, specs))
        {
            Ok(wanted) => missing.push((options, wanted)),
            Err(error) => note(options, error),
        }
    }
    // An address may be free only after what it was part of has been closed.
    let mut listeners = inherited.into_listeners(&config.listener_defaults())?;
    for (options, wanted) in missing {
        let others: Vec<ListenAddr> = listeners.iter().map(|other| other.name().clone()).collect();
        match wanted.open(&others, specs, |_| false) {
            Ok(opened) => listeners.extend(opened),
            Err(error) => note(options, error),
        }
    }
    Ok((listeners, errors))
}

impl ResolvedListen {
    pub(super) async fn resolve(options: &Arc<ListenerOptions>) -> anyhow::Result<ResolvedListen> {
        let names: Vec<ListenAddr> = match &options.address {
            Address::Unix(path) => vec![ListenAddr::Unix(path.clone())],
            Address::Tcp { host, port } => {
                let addresses = tokio::net::lookup_host((host.as_str(), *port)).await?;
                addresses.map(ListenAddr::Tcp).collect()
            }
        };
        anyhow::ensure!(!names.is_empty(), "{} has no address", options.address);
        Ok(ResolvedListen {
            options: options.clone(),
            names,
            permissions: Permissions::of(options)?,
            is_private: false,
        })
    }

    /// The addresses that no open socket serves: those that one does are claimed from `inherited`.
    pub(super) fn claim(
        mut self,
        inherited: &mut InheritedListeners,
        all: &[Arc<ListenerOptions>],
    ) -> anyhow::Result<ResolvedListen> {
        let mut missing = Vec::new();
        for name in self.names {
            if !inherited.claim(&name, &self.options, all)? {
                missing.push(name);
            }
        }
        self.names = missing;
        Ok(self)
    }

    /// Opens a listener for each address, beside these others and all that the configuration names. `shares` says for which
    /// addresses another socket of ours, made ready for it, still has the port.
    pub(super) fn open(
        self,
        others: &[ListenAddr],
        all: &[Arc<ListenerOptions>],
        shares: impl Fn(&SocketAddr) -> bool,
    ) -> anyhow::Result<Vec<Listener>> {
        let mut listeners: Vec<Listener> = Vec::new();
        for name in self.names {
            let listener = match name {
                ListenAddr::Unix(path) => {
                    open_unix(&path, &self.options, self.permissions, self.is_private)?
                }
                ListenAddr::Tcp(mut address) => {
                    if let Some(ListenAddr::Tcp(first)) =
                        listeners.first().map(|first| first.name())
                    {
                        // With port 0, all addresses of the name get the port of the first one.
                        address.set_port(first.port());
                    }
                    let port = address.port();
                    let only_v6 = others.iter().any(|other| other.takes_all_ipv4(port))
                        || all.iter().any(|other| takes_all_ipv4(&other.address, port));
                    let opened = open_tcp(address, only_v6, shares(&address), &self.options);
                    opened.map_err(|error| {
                        let own = listeners.iter().map(|listener| listener.name());
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

impl ResolvedPrivate {
    /// Looks the address up. Cancel safe.
    ///
    /// # Errors
    /// The address stands for none that can be listened on.
    pub(crate) async fn resolve(address: &Address) -> anyhow::Result<ResolvedPrivate> {
        // Nobody who connects there becomes a client.
        let defaults = ListenerDefaults::new(Format::Text);
        let options = ListenerOptions::new(address.clone(), &defaults);
        let wanted = ResolvedListen::resolve(&Arc::new(options)).await?;
        Ok(ResolvedPrivate(ResolvedListen {
            is_private: true,
            ..wanted
        }))
    }

    /// The same addresses on this port; `None` where the port is given, or there is none.
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

    /// Opens a listener for each address. A Unix socket is its user's alone. To be called on the runtime that is to accept from
    /// it.
    pub(crate) fn open(self) -> anyhow::Result<Vec<Listener>> {
        self.0.open(&[], &[], |_| false)
    }
}

fn open_tcp(
    address: SocketAddr,
    only_v6: bool,
    shares: bool,
    options: &Arc<ListenerOptions>,
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
    let origin = Origin::Configured(options.address.to_string());
    let name = ListenAddr::Tcp(bound);
    Ok(Listener::new(
        socket.into(),
        name,
        options.clone(),
        origin,
        None,
    )?)
}

fn open_unix(
    path: &Path,
    options: &Arc<ListenerOptions>,
    permissions: Permissions,
    is_private: bool,
) -> anyhow::Result<Listener> {
    remove_stale(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    if is_private {
        // The mode that its file gets, from the first moment on.
        rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    }
    socket.bind(&SockAddr::unix(path)?)?;
    let file = SocketFile::new(path)?;
    // Nobody can connect before it listens.
    permissions.set(path)?;
    socket.listen(BACKLOG as i32)?;
    let origin = Origin::Configured(options.address.to_string());
    let name = ListenAddr::Unix(path.to_path_buf());
    Ok(Listener::new(
        socket.into(),
        name,
        options.clone(),
        origin,
        Some(file),
    )?)
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
