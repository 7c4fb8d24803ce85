//! Sockets that the service manager opened, and which of them `--listen` means.
//!
//! - Every inherited socket is listened on. An address of the configuration that one of them
//!   covers already is not opened again, and gives that socket its format.
//! - A socket that no address of the configuration means has the format that its name says
//!   (`FileDescriptorName=json`), else the default one.
//! - What is no listening stream socket is refused: served halfway, it would be a riddle.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use socket2::{Domain, Protocol, Socket, Type};
use tracing::warn;

use super::{Listener, Name, register, set_tcp_options};
use crate::config::Address;
use crate::format::Format;
use crate::systemd::Passed;

/// The inherited sockets, and what the configuration has said about them so far.
#[derive(Debug, Default)]
pub(super) struct Adoption(Vec<Adopted>);

/// One inherited socket.
#[derive(Debug)]
struct Adopted {
    socket: Socket,
    name: Name,
    only_v6: bool,
    /// What its name says about its format.
    named: Option<Format>,
    /// The format that `--listen` gives it, and the address it was typed with.
    typed: Option<(Format, Address)>,
}

impl Adoption {
    /// Takes the sockets over. The error names the one that is no listener, and says why.
    pub(super) fn of(passed: Vec<Passed>) -> anyhow::Result<Adoption> {
        let adopted = passed.into_iter().map(|passed| {
            let descriptor = passed.descriptor.as_raw_fd();
            let label = format!(
                "inherited socket {:?} (descriptor {descriptor})",
                passed.name
            );
            Adopted::check(passed).context(label)
        });
        Ok(Adoption(adopted.collect::<anyhow::Result<_>>()?))
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether one of them takes the IPv4 side of `port` on every interface.
    pub(super) fn takes_all_ipv4(&self, port: u16) -> bool {
        let all = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        self.0.iter().any(|adopted| adopted.name == Name::Tcp(all))
    }

    /// Whether one of the sockets listens at this address already, as `typed` in the configuration;
    /// it gets this format then.
    pub(super) fn claim(
        &mut self,
        name: &Name,
        typed: &Address,
        format: Format,
    ) -> anyhow::Result<bool> {
        // Beside a wildcard there may be a socket for just this address.
        let exact = self.0.iter().position(|adopted| adopted.name == *name);
        let covering = || self.0.iter().position(|adopted| adopted.covers(name));
        let Some(at) = exact.or_else(covering) else {
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

    /// All of them as listeners, in the order they were passed.
    pub(super) fn into_listeners(self, default: Format) -> anyhow::Result<Vec<Listener>> {
        let listener = |adopted: Adopted| {
            let typed = adopted.typed.map(|(format, _)| format);
            Ok(Listener {
                io: register(adopted.socket.into())?,
                name: adopted.name,
                format: typed.or(adopted.named).unwrap_or(default),
                // The file of a Unix socket is the manager's, who goes on listening on it.
                _file: None,
            })
        };
        self.0.into_iter().map(listener).collect()
    }
}

impl Adopted {
    fn check(passed: Passed) -> anyhow::Result<Adopted> {
        let named = match passed.name.as_str() {
            "text" => Some(Format::Text),
            "raw" => Some(Format::Raw),
            "json" => Some(Format::Json),
            _ => None,
        };
        let socket = Socket::from(passed.descriptor);
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
            named,
            typed: None,
        })
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
            (Name::Unix(own), Name::Unix(other)) => own == other || is_same_file(own, other),
            _ => false,
        }
    }
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
            named: None,
            typed: None,
        }
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
        let typed: Address = "127.0.0.1:1".parse().unwrap();
        assert!(adoption.claim(&name, &typed, Format::Raw).unwrap());
        assert!(adoption.0[0].typed.is_none());
        assert!(adoption.0[1].typed.is_some());
    }

    #[test]
    fn one_socket_cannot_have_two_formats() {
        let mut adoption = Adoption(vec![adopted("[::]:1", false)]);
        let mut claim = |text: &str, format| {
            let name = Name::Tcp(text.parse().unwrap());
            adoption.claim(&name, &text.parse().unwrap(), format)
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
