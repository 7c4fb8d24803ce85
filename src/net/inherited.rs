//! Sockets that are open already, and which of them `--listen` means: sockets that the service manager
//! opened, and sockets of the daemon before.
//!
//! - Every socket of the manager's is listened on. An address of the configuration that a socket
//!   covers is not opened again, and the socket gets its format.
//! - A socket that no address of the configuration means has the format that its name says
//!   (`FileDescriptorName=json`), else the default one.
//! - A socket of the daemon before is closed unless the configuration still names its very address.
//! - An inherited socket that is no listening stream socket is an error.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use anyhow::{Context, bail};
use tracing::{info, warn};

use super::inherited_listener::InheritedListener;
use super::listener::{ListenAddr, Listener, Origin, RestoredListener, SavedListener};
use super::unix::SocketFile;
use crate::config::{ListenerDefaults, ListenerOptions};
use crate::wire::format::Format;

/// A passed descriptor and its name.
#[derive(Debug)]
pub struct InheritedFd {
    /// FileDescriptorName= of the socket unit, or the name in the store.
    pub name: String,
    /// The descriptor, which no child inherits.
    pub descriptor: OwnedFd,
}

/// The inherited sockets, with the options of the configuration that were found for them so far.
#[derive(Debug, Default)]
pub(super) struct InheritedListeners(Vec<InheritedListener>);

impl InheritedFd {
    /// Whether the descriptor is a listening socket.
    pub(crate) fn listens(&self) -> bool {
        rustix::net::sockopt::socket_acceptconn(&self.descriptor).unwrap_or(false)
    }
}

impl InheritedListeners {
    /// Checks the sockets. The error names the one that is no listener, and says why.
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
        // Nobody can connect to a socket whose file is gone: the address is opened anew.
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

    /// Whether one of the sockets listens at this address of the configuration already. That socket
    /// gets the options of the address.
    pub(super) fn claim(
        &mut self,
        name: &ListenAddr,
        options: &Arc<ListenerOptions>,
        all: &[Arc<ListenerOptions>],
    ) -> anyhow::Result<bool> {
        // A socket for just this address goes before a wildcard.
        let exact = self
            .0
            .iter()
            .position(|inherited| inherited.name == *name && inherited.has_families_wanted(all));
        let other = || {
            self.0.iter().position(|inherited| match &inherited.origin {
                Origin::Manager(_) => inherited.covers(name),
                // At the port that was picked for port 0, or by another path to the same file.
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

    /// Options to listen with on each socket, in their order; `None` for a socket to be closed.
    pub(super) fn options(&self, defaults: &ListenerDefaults) -> Vec<Option<Arc<ListenerOptions>>> {
        let options = |inherited: &InheritedListener| match (&inherited.options, &inherited.origin)
        {
            (Some(options), _) => Some(options.clone()),
            (None, Origin::Manager(name)) => {
                let defaults = ListenerDefaults {
                    format: format_named(name).unwrap_or(defaults.format),
                    ..defaults.clone()
                };
                let bound = inherited.name.to_string();
                Some(Arc::new(ListenerOptions::unlisted(&bound, &defaults)))
            }
            (None, Origin::Configured(_)) => None,
        };
        self.0.iter().map(options).collect()
    }

    /// Listeners of the sockets, in their order. Sockets without options are closed.
    pub(super) fn into_listeners(
        self,
        defaults: &ListenerDefaults,
    ) -> anyhow::Result<Vec<Listener>> {
        let mut listeners = Vec::new();
        let options = self.options(defaults);
        for (inherited, options) in self.0.into_iter().zip(options) {
            let file = match (inherited.file, &inherited.name) {
                (Some(identity), ListenAddr::Unix(path)) => Some(SocketFile {
                    path: path.clone(),
                    identity,
                }),
                // The file of the manager's socket stays: the manager goes on listening on it.
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
            let socket = inherited.socket.into();
            let listener = Listener::new(socket, inherited.name, options, origin, file)?;
            listener.set_permissions();
            listeners.push(listener);
        }
        Ok(listeners)
    }
}

/// The format that the name of a passed socket says.
fn format_named(name: &str) -> Option<Format> {
    Format::ALL.into_iter().find(|format| format.name() == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::role::Role;

    fn options(address: &str, format: Format) -> Arc<ListenerOptions> {
        let defaults = ListenerDefaults::new(format);
        Arc::new(ListenerOptions::new(address.parse().unwrap(), &defaults))
    }

    #[test]
    fn socket_of_the_daemon_before_serves_just_the_address_it_was_opened_for() {
        let before = |bound: &str, typed: &str| {
            let mut inherited = InheritedListener::test(bound, false);
            inherited.origin = Origin::Configured(typed.into());
            inherited
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
    fn socket_for_just_the_address_goes_before_a_wildcard() {
        let mut inherited = InheritedListeners(vec![
            InheritedListener::test("0.0.0.0:1", false),
            InheritedListener::test("127.0.0.1:1", false),
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
        let mut inherited = InheritedListeners(vec![InheritedListener::test("[::]:1", false)]);
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
}
