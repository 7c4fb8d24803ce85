//! Sockets that are open already, and which of them `--listen` means: those that the service manager
//! opened, and those that the daemon before had opened.
//!
//! - Every socket of the manager's is listened on. An address of the configuration that one of them
//!   covers already is not opened again, and gives that socket its format.
//! - A socket that no address of the configuration means has the format that its name says
//!   (`FileDescriptorName=json`), else the default one.
//! - A socket of the daemon before serves the very address that the configuration still names, or is
//!   closed.
//! - What is no listening stream socket is refused: served halfway, it would be a riddle.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use socket2::{Domain, Protocol, Socket, Type};
use tracing::{info, warn};

use super::listener::{
    ListenAddr, Listener, Origin, RestoredListener, SavedListener, takes_all_ipv4,
};
use super::sockopt::set_tcp_options;
use super::unix::{FileIdentity, SocketFile, abstract_label, is_same_file};
use crate::config::{ListenerDefaults, ListenerOptions};
use crate::wire::format::Format;

/// A descriptor with the name it was passed under.
#[derive(Debug)]
pub struct InheritedFd {
    /// FileDescriptorName= of its socket unit, or its name in the store.
    pub name: String,
    /// The descriptor, which no child inherits.
    pub descriptor: OwnedFd,
}

/// The inherited sockets, and what the configuration has said about them so far.
#[derive(Debug, Default)]
pub(super) struct InheritedListeners(Vec<InheritedListener>);

/// One inherited socket, checked to be a listener.
#[derive(Debug)]
struct InheritedListener {
    socket: Socket,
    name: ListenAddr,
    only_v6: bool,
    origin: Origin,
    file: Option<FileIdentity>,
    /// Options of the entry of the configuration that means it, once one does.
    options: Option<Arc<ListenerOptions>>,
}

impl InheritedFd {
    /// Whether the descriptor is a listening socket.
    pub(crate) fn listens(&self) -> bool {
        rustix::net::sockopt::socket_acceptconn(&self.descriptor).unwrap_or(false)
    }
}

impl InheritedListeners {
    /// Takes the sockets over. The error names the one that is no listener, and says why.
    pub(super) fn of(
        passed: Vec<InheritedFd>,
        kept: Vec<RestoredListener>,
    ) -> anyhow::Result<InheritedListeners> {
        let passed = passed.into_iter().map(|passed| {
            let saved = SavedListener {
                origin: Origin::Manager(passed.name),
                file: None,
            };
            (saved, passed.descriptor)
        });
        let inherited = passed.chain(kept).map(|(saved, descriptor)| {
            let (Origin::Manager(name) | Origin::Configured(name)) = &saved.origin;
            let number = descriptor.as_raw_fd();
            let label = format!("inherited socket {name:?} (descriptor {number})");
            InheritedListener::check(saved, descriptor).context(label)
        });
        let mut inherited = inherited.collect::<anyhow::Result<Vec<_>>>()?;
        // Nobody can connect to a socket whose file is gone: it is opened anew.
        inherited.retain(|inherited| {
            let reachable = inherited.is_reachable();
            if !reachable {
                warn!(address = %inherited.name, "the file of a listener is gone");
            }
            reachable
        });
        Ok(InheritedListeners(inherited))
    }

    /// Whether any socket is the service manager's.
    pub(super) fn has_socket_activated(&self) -> bool {
        self.0
            .iter()
            .any(|inherited| matches!(inherited.origin, Origin::Manager(_)))
    }

    /// Whether one of the sockets listens at this address of the configuration already; it gets its
    /// options then.
    pub(super) fn claim(
        &mut self,
        name: &ListenAddr,
        options: &Arc<ListenerOptions>,
        all: &[Arc<ListenerOptions>],
    ) -> anyhow::Result<bool> {
        // Beside a wildcard there may be a socket for just this address.
        let exact = self
            .0
            .iter()
            .position(|inherited| inherited.name == *name && inherited.has_families_wanted(all));
        let other = || {
            self.0.iter().position(|inherited| match &inherited.origin {
                Origin::Manager(_) => inherited.covers(name),
                // On a free port that was picked before; or by another path.
                Origin::Configured(address) => {
                    inherited.options.is_none()
                        && *address == options.address.to_string()
                        && inherited.is_at(name)
                        && inherited.has_families_wanted(all)
                }
            })
        };
        let Some(at) = exact.or_else(other) else {
            return Ok(false);
        };
        let inherited = &mut self.0[at];
        let Some(other) = &inherited.options else {
            inherited.options = Some(options.clone());
            return Ok(true);
        };
        if let Some(key) = other.differing_key(options) {
            bail!(
                "the inherited socket {} serves {} too, and cannot have two {key}s",
                inherited.name,
                other.address
            );
        }
        Ok(true)
    }

    /// Options that each of them is to be listened on with, in the order they came; `None` is not.
    pub(super) fn options(&self, defaults: ListenerDefaults) -> Vec<Option<Arc<ListenerOptions>>> {
        let options = |inherited: &InheritedListener| match (&inherited.options, &inherited.origin)
        {
            (Some(options), _) => Some(options.clone()),
            (None, Origin::Manager(name)) => {
                let defaults = ListenerDefaults {
                    format: format_named(name).unwrap_or(defaults.format),
                    ..defaults
                };
                let bound = inherited.name.to_string();
                Some(Arc::new(ListenerOptions::unlisted(&bound, defaults)))
            }
            (None, Origin::Configured(_)) => None,
        };
        self.0.iter().map(options).collect()
    }

    /// Listeners of all sockets that are to be listened on, in the order they came. The others are closed.
    pub(super) fn into_listeners(
        self,
        defaults: ListenerDefaults,
    ) -> anyhow::Result<Vec<Listener>> {
        let mut listeners = Vec::new();
        let options = self.options(defaults);
        for (inherited, options) in self.0.into_iter().zip(options) {
            let file = match (inherited.file, &inherited.name) {
                (Some(identity), ListenAddr::Unix(path)) => Some(SocketFile {
                    path: path.clone(),
                    identity,
                }),
                // The file of the manager's socket is the manager's, who goes on listening on it.
                _ => None,
            };
            let Some(options) = options else {
                info!(address = %inherited.name, "closed a listener");
                continue;
            };
            let origin = match inherited.origin {
                Origin::Configured(_) => Origin::Configured(options.address.to_string()),
                manager => manager,
            };
            listeners.push(Listener::new(
                inherited.socket.into(),
                inherited.name,
                options,
                origin,
                file,
            )?);
        }
        Ok(listeners)
    }
}

impl InheritedListener {
    fn check(saved: SavedListener, descriptor: OwnedFd) -> anyhow::Result<InheritedListener> {
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
                // The socket works without them; peers that lost power are noticed later.
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
        // The manager's own copy is nonblocking with it, which it has no objection to.
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
    fn is_reachable(&self) -> bool {
        match (self.file, &self.name) {
            (Some(file), ListenAddr::Unix(path)) => {
                FileIdentity::of(path).is_ok_and(|now| now == file)
            }
            _ => true,
        }
    }

    /// Whether the socket is for IPv6 only exactly if one opened anew, beside all of these, would be.
    fn has_families_wanted(&self, all: &[Arc<ListenerOptions>]) -> bool {
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

    /// Whether the socket is bound to this address, of which a port of 0 is any port.
    fn is_at(&self, name: &ListenAddr) -> bool {
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
    fn covers(&self, name: &ListenAddr) -> bool {
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
}

/// Format that the name of a passed socket says.
fn format_named(name: &str) -> Option<Format> {
    Format::ALL.into_iter().find(|format| format.name() == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::role::Role;

    fn inherited(bound: &str, only_v6: bool) -> InheritedListener {
        InheritedListener {
            socket: Socket::new(Domain::UNIX, Type::STREAM, None).unwrap(),
            name: ListenAddr::Tcp(bound.parse().unwrap()),
            only_v6,
            origin: Origin::Manager(String::new()),
            file: None,
            options: None,
        }
    }

    fn options(address: &str, format: Format) -> Arc<ListenerOptions> {
        let defaults = ListenerDefaults {
            format,
            http_guard: true,
        };
        Arc::new(ListenerOptions::new(address.parse().unwrap(), defaults))
    }

    #[test]
    fn socket_of_the_daemon_before_serves_just_the_address_it_was_opened_for() {
        let before = |bound: &str, typed: &str| InheritedListener {
            origin: Origin::Configured(typed.into()),
            ..inherited(bound, false)
        };
        let mut inherited = InheritedListeners(vec![
            before("0.0.0.0:1", "0.0.0.0:1"),
            before("127.0.0.1:4711", "localhost:0"),
            before("127.0.0.1:4712", "localhost:0"),
        ]);
        let mut claim = |name: &str, typed: &str| {
            let name = ListenAddr::Tcp(name.parse().unwrap());
            inherited
                .claim(&name, &options(typed, Format::Raw), &[])
                .unwrap()
        };
        assert!(!claim("127.0.0.1:1", "127.0.0.1:1"));
        assert!(!claim("127.0.0.1:0", "127.0.0.1:0"));
        for another in [true, true, false] {
            assert_eq!(claim("127.0.0.1:0", "localhost:0"), another);
        }
        assert!(claim("0.0.0.0:1", "0.0.0.0:1"));
    }

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
            let inherited = inherited(bound, only_v6);
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
    fn socket_for_just_the_address_goes_before_a_wildcard() {
        let mut inherited = InheritedListeners(vec![
            inherited("0.0.0.0:1", false),
            inherited("127.0.0.1:1", false),
        ]);
        let name = ListenAddr::Tcp("127.0.0.1:1".parse().unwrap());
        assert!(
            inherited
                .claim(&name, &options("127.0.0.1:1", Format::Raw), &[])
                .unwrap()
        );
        assert!(inherited.0[0].options.is_none());
        assert!(inherited.0[1].options.is_some());
    }

    #[test]
    fn one_socket_cannot_have_two_formats_or_roles() {
        let mut inherited = InheritedListeners(vec![inherited("[::]:1", false)]);
        let mut claim = |text: &str, format| {
            let name = ListenAddr::Tcp(text.parse().unwrap());
            inherited.claim(&name, &options(text, format), &[])
        };
        assert!(claim("[::]:1", Format::Raw).unwrap());
        assert!(claim("127.0.0.1:1", Format::Raw).unwrap());
        assert_eq!(
            claim("0.0.0.0:1", Format::Json).unwrap_err().to_string(),
            "the inherited socket [::]:1 serves [::]:1 too, and cannot have two formats"
        );
        assert!(!claim("0.0.0.0:2", Format::Json).unwrap());
        let subscribers = ListenerOptions {
            role: Role::Subscribe,
            ..ListenerOptions::clone(&options("0.0.0.0:1", Format::Raw))
        };
        let name = ListenAddr::Tcp("0.0.0.0:1".parse().unwrap());
        let role = inherited.claim(&name, &Arc::new(subscribers), &[]);
        assert_eq!(
            role.unwrap_err().to_string(),
            "the inherited socket [::]:1 serves [::]:1 too, and cannot have two roles"
        );
    }

    #[test]
    fn unix_sockets_are_known_by_any_path_to_them() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path(), &link).unwrap();
        let path = dir.path().join("hub.sock");
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let mut inherited = inherited("0.0.0.0:1", false);
        inherited.name = ListenAddr::Unix(path.clone());
        assert!(inherited.covers(&ListenAddr::Unix(path)));
        assert!(inherited.covers(&ListenAddr::Unix(link.join("hub.sock"))));
        assert!(!inherited.covers(&ListenAddr::Unix(dir.path().join("other.sock"))));
    }
}
