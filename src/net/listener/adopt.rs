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
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tracing::{info, warn};

use super::{
    FileIdentity, Kept, Listener, Name, Origin, SavedListener, SocketFile, register,
    set_tcp_options, takes_all_ipv4,
};
use crate::config::{Address, ListenSpec};
use crate::ops::systemd::Passed;
use crate::wire::format::Format;

/// The inherited sockets, and what the configuration has said about them so far.
#[derive(Debug, Default)]
pub(super) struct Adoption(Vec<Adopted>);

/// One socket.
#[derive(Debug)]
struct Adopted {
    socket: Socket,
    name: Name,
    only_v6: bool,
    origin: Origin,
    file: Option<FileIdentity>,
    /// The format that `--listen` gives it, and the address it was typed with.
    typed: Option<(Format, Address)>,
}

impl Adoption {
    /// Takes the sockets over. The error names the one that is no listener, and says why.
    pub(super) fn of(passed: Vec<Passed>, kept: Vec<Kept>) -> anyhow::Result<Adoption> {
        let passed = passed.into_iter().map(|passed| {
            let saved = SavedListener {
                origin: Origin::Manager(passed.name),
                file: None,
            };
            (saved, passed.descriptor)
        });
        let adopted = passed.chain(kept).map(|(saved, descriptor)| {
            let (Origin::Manager(name) | Origin::Configured(name)) = &saved.origin;
            let number = descriptor.as_raw_fd();
            let label = format!("inherited socket {name:?} (descriptor {number})");
            Adopted::check(saved, descriptor).context(label)
        });
        let mut adopted = adopted.collect::<anyhow::Result<Vec<_>>>()?;
        // Nobody can connect to a socket whose file is gone: it is opened anew.
        adopted.retain(|adopted| {
            let reachable = adopted.is_reachable();
            if !reachable {
                warn!(address = %adopted.name, "the file of a listener is gone");
            }
            reachable
        });
        Ok(Adoption(adopted))
    }

    /// Whether any of them is the manager's.
    pub(super) fn has_managers(&self) -> bool {
        self.0
            .iter()
            .any(|adopted| matches!(adopted.origin, Origin::Manager(_)))
    }

    /// Whether one of the sockets listens at this address of the configuration already; it gets its
    /// format then.
    pub(super) fn claim(
        &mut self,
        name: &Name,
        spec: &ListenSpec,
        all: &[ListenSpec],
    ) -> anyhow::Result<bool> {
        let (typed, format) = (&spec.address, spec.format);
        // Beside a wildcard there may be a socket for just this address.
        let exact = self
            .0
            .iter()
            .position(|adopted| adopted.name == *name && adopted.has_families_wanted(all));
        let other = || {
            self.0.iter().position(|adopted| match &adopted.origin {
                Origin::Manager(_) => adopted.covers(name),
                // On a free port that was picked before; or by another path.
                Origin::Configured(address) => {
                    adopted.typed.is_none()
                        && *address == typed.to_string()
                        && adopted.is_at(name)
                        && adopted.has_families_wanted(all)
                }
            })
        };
        let Some(at) = exact.or_else(other) else {
            return Ok(false);
        };
        let adopted = &mut self.0[at];
        match &adopted.typed {
            Some((other, earlier)) if *other != format => bail!(
                "the inherited socket {} serves {earlier} too, and cannot have two formats",
                adopted.name
            ),
            Some(_) => {}
            None => adopted.typed = Some((format, typed.clone())),
        }
        Ok(true)
    }

    /// How each of them is to be listened on, in the order they came; `None` is not.
    pub(super) fn formats(&self, default: Format) -> Vec<Option<Format>> {
        let format = |adopted: &Adopted| match (&adopted.typed, &adopted.origin) {
            (Some((format, _)), _) => Some(*format),
            (None, Origin::Manager(name)) => Some(format_named(name).unwrap_or(default)),
            (None, Origin::Configured(_)) => None,
        };
        self.0.iter().map(format).collect()
    }

    /// All of them that are to be listened on, in the order they came.
    pub(super) fn into_listeners(self, default: Format) -> anyhow::Result<Vec<Listener>> {
        let mut listeners = Vec::new();
        let formats = self.formats(default);
        for (adopted, format) in self.0.into_iter().zip(formats) {
            let file = match (adopted.file, &adopted.name) {
                (Some(identity), Name::Unix(path)) => Some(SocketFile {
                    path: path.clone(),
                    identity,
                }),
                // The file of the manager's socket is the manager's, who goes on listening on it.
                _ => None,
            };
            let Some(format) = format else {
                info!(address = %adopted.name, "closed a listener");
                continue;
            };
            let origin = match (adopted.typed, adopted.origin) {
                (Some((_, typed)), Origin::Configured(_)) => Origin::Configured(typed.to_string()),
                (_, origin) => origin,
            };
            listeners.push(Listener {
                io: register(adopted.socket.into(), Interest::READABLE)?,
                label: adopted.name.label(),
                name: adopted.name,
                format,
                origin,
                file,
            });
        }
        Ok(listeners)
    }
}

impl Adopted {
    fn check(saved: SavedListener, descriptor: OwnedFd) -> anyhow::Result<Adopted> {
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
                // It works without; peers that lost power are noticed later.
                warn!(address = %bound, %error, "cannot set the options of an inherited socket");
            }
            Name::Tcp(SocketAddr::new(bound.ip().to_canonical(), bound.port()))
        } else if domain == Domain::UNIX {
            let path = address.as_pathname().map(Path::to_path_buf);
            let label = || address.as_abstract_namespace().map(abstract_label);
            Name::Unix(path.or_else(label).unwrap_or_default())
        } else {
            bail!("neither TCP nor Unix; allowed: TCP and Unix sockets");
        };
        // The manager's own copy is nonblocking with it, which it has no objection to.
        socket.set_nonblocking(true)?;
        Ok(Adopted {
            only_v6: domain == Domain::IPV6 && socket.only_v6()?,
            socket,
            name,
            origin: saved.origin,
            file: saved.file,
            typed: None,
        })
    }

    /// Whether its file, if it has one, is still the one at its path.
    fn is_reachable(&self) -> bool {
        match (self.file, &self.name) {
            (Some(file), Name::Unix(path)) => FileIdentity::of(path).is_ok_and(|now| now == file),
            _ => true,
        }
    }

    /// Whether it is for IPv6 only if, and only if, it would be opened so beside all of these.
    fn has_families_wanted(&self, all: &[ListenSpec]) -> bool {
        match (&self.origin, &self.name) {
            (Origin::Configured(_), Name::Tcp(own)) if own.ip() == Ipv6Addr::UNSPECIFIED => {
                let only_v6 = all
                    .iter()
                    .any(|spec| takes_all_ipv4(&spec.address, own.port()));
                self.only_v6 == only_v6
            }
            _ => true,
        }
    }

    /// Whether it is at this address, of which a port of 0 is any port.
    fn is_at(&self, name: &Name) -> bool {
        match (&self.name, name) {
            (Name::Tcp(own), Name::Tcp(other)) => {
                own.ip() == other.ip() && (other.port() == 0 || own.port() == other.port())
            }
            (Name::Unix(own), Name::Unix(other)) => own == other || is_same_file(own, other),
            _ => false,
        }
    }

    /// Whether who connects to `name` arrives at this socket.
    fn covers(&self, name: &Name) -> bool {
        match (&self.name, name) {
            (Name::Tcp(own), Name::Tcp(other)) => {
                let any_ipv6 = own.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED);
                let any_ipv4 = own.ip() == IpAddr::V4(Ipv4Addr::UNSPECIFIED);
                own.port() == other.port()
                    && match other.ip() {
                        ip if ip == own.ip() => true,
                        IpAddr::V4(_) => any_ipv4 || any_ipv6 && !self.only_v6,
                        IpAddr::V6(_) => any_ipv6,
                    }
            }
            (Name::Unix(_), Name::Unix(_)) => self.is_at(name),
            _ => false,
        }
    }
}

/// What the name of a passed socket says about its format.
fn format_named(name: &str) -> Option<Format> {
    Format::ALL.into_iter().find(|format| format.name() == name)
}

/// As systemd writes them: with an `@`.
fn abstract_label(name: &[u8]) -> PathBuf {
    let label = [b"@", name].concat();
    PathBuf::from(std::ffi::OsString::from_vec(label))
}

/// Whether two paths lead to one file, such as `/run/x` and `/var/run/x`.
fn is_same_file(one: &Path, other: &Path) -> bool {
    let identity = |path: &Path| path.metadata().map(|file| (file.dev(), file.ino()));
    match (identity(one), identity(other)) {
        (Ok(one), Ok(other)) => one == other,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adopted(bound: &str, only_v6: bool) -> Adopted {
        Adopted {
            socket: Socket::new(Domain::UNIX, Type::STREAM, None).unwrap(),
            name: Name::Tcp(bound.parse().unwrap()),
            only_v6,
            origin: Origin::Manager(String::new()),
            file: None,
            typed: None,
        }
    }

    fn spec(address: &str, format: Format) -> ListenSpec {
        ListenSpec {
            address: address.parse().unwrap(),
            format,
        }
    }

    #[test]
    fn socket_of_the_daemon_before_serves_just_the_address_it_was_opened_for() {
        let before = |bound: &str, typed: &str| Adopted {
            origin: Origin::Configured(typed.into()),
            ..adopted(bound, false)
        };
        let mut adoption = Adoption(vec![
            before("0.0.0.0:1", "0.0.0.0:1"),
            before("127.0.0.1:4711", "localhost:0"),
            before("127.0.0.1:4712", "localhost:0"),
        ]);
        let mut claim = |name: &str, typed: &str| {
            let name = Name::Tcp(name.parse().unwrap());
            adoption
                .claim(&name, &spec(typed, Format::Raw), &[])
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
            let adopted = adopted(bound, only_v6);
            let covers = |other: &str| adopted.covers(&Name::Tcp(other.parse().unwrap()));
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
        let mut adoption = Adoption(vec![
            adopted("0.0.0.0:1", false),
            adopted("127.0.0.1:1", false),
        ]);
        let name = Name::Tcp("127.0.0.1:1".parse().unwrap());
        assert!(
            adoption
                .claim(&name, &spec("127.0.0.1:1", Format::Raw), &[])
                .unwrap()
        );
        assert!(adoption.0[0].typed.is_none());
        assert!(adoption.0[1].typed.is_some());
    }

    #[test]
    fn one_socket_cannot_have_two_formats() {
        let mut adoption = Adoption(vec![adopted("[::]:1", false)]);
        let mut claim = |text: &str, format| {
            let name = Name::Tcp(text.parse().unwrap());
            adoption.claim(&name, &spec(text, format), &[])
        };
        assert!(claim("[::]:1", Format::Raw).unwrap());
        assert!(claim("127.0.0.1:1", Format::Raw).unwrap());
        assert_eq!(
            claim("0.0.0.0:1", Format::Json).unwrap_err().to_string(),
            "the inherited socket [::]:1 serves [::]:1 too, and cannot have two formats"
        );
        assert!(!claim("0.0.0.0:2", Format::Json).unwrap());
    }

    #[test]
    fn unix_sockets_are_known_by_any_path_to_them() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path(), &link).unwrap();
        let path = dir.path().join("hub.sock");
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let mut adopted = adopted("0.0.0.0:1", false);
        adopted.name = Name::Unix(path.clone());
        assert!(adopted.covers(&Name::Unix(path)));
        assert!(adopted.covers(&Name::Unix(link.join("hub.sock"))));
        assert!(!adopted.covers(&Name::Unix(dir.path().join("other.sock"))));
    }
}
