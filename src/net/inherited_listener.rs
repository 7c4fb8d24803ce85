//! One inherited socket: the check that it is a listener, and which addresses it serves.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use socket2::{Domain, Protocol, Socket, Type};
use tracing::warn;

use super::listener::{ListenAddr, Origin, SavedListener, takes_all_ipv4};
use super::sockopt::set_tcp_options;
use super::unix::{FileIdentity, abstract_label, is_same_file};
use crate::config::ListenerOptions;

/// One inherited socket, checked to be a listener.
#[derive(Debug)]
pub(super) struct InheritedListener {
    pub(super) socket: Socket,
    pub(super) name: ListenAddr,
    only_v6: bool,
    pub(super) origin: Origin,
    pub(super) file: Option<FileIdentity>,
    /// Options of the entry of the configuration that means this socket, once one was found.
    pub(super) options: Option<Arc<ListenerOptions>>,
}

impl InheritedListener {
    /// Checks that a descriptor is a listening stream socket, TCP or Unix.
    pub(super) fn check(
        saved: SavedListener,
        descriptor: OwnedFd,
    ) -> anyhow::Result<InheritedListener> {
        let socket = Socket::from(descriptor);
        let kind = socket
            .r#type()
            .context("no socket; allowed: what ListenStream= opens")?;
        ensure!(
            kind == Type::STREAM,
            "not a stream socket; allowed: what ListenStream= opens"
        );
        ensure!(
            socket.is_listener()?,
            "a connection, not a listener; allowed: a socket unit with Accept=no"
        );
        let domain = socket.domain()?;
        let address = socket.local_addr()?;
        let name = if let Some(bound) = address.as_socket() {
            let protocol = socket.protocol()?;
            ensure!(
                matches!(protocol, Some(Protocol::TCP | Protocol::MPTCP)),
                "not a TCP socket; allowed: TCP and Unix sockets"
            );
            if let Err(error) = set_tcp_options(&socket) {
                // The socket works without the options; peers that lost power are noticed later.
                warn!(address = %bound, %error, "cannot set the options of an inherited socket");
            }
            ListenAddr::Tcp(SocketAddr::new(bound.ip().to_canonical(), bound.port()))
        } else if domain == Domain::UNIX {
            let path = address.as_pathname().map(Path::to_path_buf);
            let label = || address.as_abstract_namespace().map(abstract_label);
            ListenAddr::Unix(path.or_else(label).unwrap_or_default())
        } else {
            bail!("neither TCP nor Unix; allowed: TCP and Unix sockets");
        };
        // The manager's own copy becomes nonblocking too, which does no harm.
        socket.set_nonblocking(true)?;
        Ok(InheritedListener {
            only_v6: domain == Domain::IPV6 && socket.only_v6()?,
            socket,
            name,
            origin: saved.origin,
            file: saved.file,
            options: None,
        })
    }

    /// Whether the socket's file, if there is one, is still the one at its path.
    pub(super) fn is_reachable(&self) -> bool {
        match (self.file, &self.name) {
            (Some(file), ListenAddr::Unix(path)) => {
                FileIdentity::of(path).is_ok_and(|now| now == file)
            }
            _ => true,
        }
    }

    /// Whether the socket takes IPv4 too exactly if a new socket would, beside `all` listeners.
    pub(super) fn has_families_wanted(&self, all: &[Arc<ListenerOptions>]) -> bool {
        match (&self.origin, &self.name) {
            (Origin::Configured(_), ListenAddr::Tcp(own)) if own.ip() == Ipv6Addr::UNSPECIFIED => {
                let only_v6 = all
                    .iter()
                    .any(|spec| takes_all_ipv4(&spec.address, own.port()));
                self.only_v6 == only_v6
            }
            _ => true,
        }
    }

    /// Whether the socket is bound to this address, in which port 0 stands for any port.
    pub(super) fn is_at(&self, name: &ListenAddr) -> bool {
        match (&self.name, name) {
            (ListenAddr::Tcp(own), ListenAddr::Tcp(other)) => {
                own.ip() == other.ip() && (other.port() == 0 || own.port() == other.port())
            }
            (ListenAddr::Unix(own), ListenAddr::Unix(other)) => {
                own == other || is_same_file(own, other)
            }
            _ => false,
        }
    }

    /// Whether who connects to `name` arrives at this socket.
    pub(super) fn covers(&self, name: &ListenAddr) -> bool {
        match (&self.name, name) {
            (ListenAddr::Tcp(own), ListenAddr::Tcp(other)) => {
                let any_ipv6 = own.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED);
                let any_ipv4 = own.ip() == IpAddr::V4(Ipv4Addr::UNSPECIFIED);
                own.port() == other.port()
                    && match other.ip() {
                        ip if ip == own.ip() => true,
                        IpAddr::V4(_) => any_ipv4 || any_ipv6 && !self.only_v6,
                        IpAddr::V6(_) => any_ipv6,
                    }
            }
            (ListenAddr::Unix(_), ListenAddr::Unix(_)) => self.is_at(name),
            _ => false,
        }
    }

    /// The service manager's socket at this TCP address.
    #[cfg(test)]
    pub(super) fn test(bound: &str, only_v6: bool) -> InheritedListener {
        InheritedListener {
            socket: Socket::new(Domain::UNIX, Type::STREAM, None).unwrap(),
            name: ListenAddr::Tcp(bound.parse().unwrap()),
            only_v6,
            origin: Origin::Manager(String::new()),
            file: None,
            options: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcard_covers_the_addresses_of_its_families() {
        for (bound, only_v6, covered, others) in [
            (
                "127.0.0.1:1",
                false,
                &["127.0.0.1:1"][..],
                &["127.0.0.1:2", "0.0.0.0:1", "[::1]:1"][..],
            ),
            (
                "0.0.0.0:1",
                false,
                &["0.0.0.0:1", "127.0.0.1:1"],
                &["[::]:1", "[::1]:1", "0.0.0.0:2"],
            ),
            (
                "[::]:1",
                false,
                &["[::]:1", "[::1]:1", "0.0.0.0:1", "127.0.0.1:1"],
                &["[::]:2"],
            ),
            (
                "[::]:1",
                true,
                &["[::]:1", "[::1]:1"],
                &["0.0.0.0:1", "127.0.0.1:1"],
            ),
            ("[::1]:1", false, &["[::1]:1"], &["[::]:1", "127.0.0.1:1"]),
        ] {
            let inherited = InheritedListener::test(bound, only_v6);
            let covers = |other: &str| inherited.covers(&ListenAddr::Tcp(other.parse().unwrap()));
            for other in covered {
                assert!(covers(other), "{bound} {only_v6} {other}");
            }
            for other in others {
                assert!(!covers(other), "{bound} {only_v6} {other}");
            }
        }
    }

    #[test]
    fn unix_sockets_are_known_by_any_path_to_them() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path(), &link).unwrap();
        let path = dir.path().join("hub.sock");
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let mut inherited = InheritedListener::test("0.0.0.0:1", false);
        inherited.name = ListenAddr::Unix(path.clone());
        assert!(inherited.covers(&ListenAddr::Unix(path)));
        assert!(inherited.covers(&ListenAddr::Unix(link.join("hub.sock"))));
        assert!(!inherited.covers(&ListenAddr::Unix(dir.path().join("other.sock"))));
    }
}
