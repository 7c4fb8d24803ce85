//! What the hub keeps of a client for itself: how it came, and what is counted of it under the lock.
//!
//! Packed into 104 bytes: that much finds room between the runtime's allocations for the same client,
//! which are aligned to 128, so that it costs an idle client nothing.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::activity::Activity;
use crate::config::Identity;
use crate::net::peer::Peer;
use crate::wire::channel::ChannelName;
use crate::wire::format::Format;
use crate::wire::role::Role;
use crate::wire::transport::Transport;

/// Origin of a client: what is known when it connects, and never changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ConnectionInfo {
    /// Address of the peer.
    pub(crate) peer: Peer,
    /// Listener that the client connected to, as logs name it.
    pub(crate) listener: Arc<str>,
    /// Format that the client sees the stream in.
    pub(crate) format: Format,
    #[serde(default)]
    pub(crate) role: Role,
    /// By what its lines go to and fro.
    #[serde(default)]
    pub(crate) transport: Transport,
    /// Channel that the client is in.
    #[serde(default = "ChannelName::main")]
    pub(crate) channel: ChannelName,
    /// Time of the connection, to the millisecond.
    pub(crate) at: SystemTime,
    /// Who the client is, if it has shown that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) identity: Option<Arc<Identity>>,
}

/// Part of a client's entry that only the hub sees.
#[derive(Debug)]
pub(super) struct ConnectionMeta {
    pub(super) activity: Activity,
    /// Messages that were published before the client joined.
    pub(super) messages_before: u64,
    /// Messages that the client missed under `--slow-client skip`.
    pub(super) skipped: u64,
    /// Milliseconds since the epoch.
    arrived_at: u64,
    /// An IPv4 address is mapped into IPv6.
    ip: Ipv6Addr,
    port: u16,
    listener: ListenerIndex,
    is_tcp: bool,
    format: Format,
    pub(super) role: Role,
    pub(super) transport: Transport,
}

/// The names of the listeners that clients came by, each once.
#[derive(Debug, Default)]
pub(super) struct ListenerNames(Vec<Arc<str>>);

/// A place among the [`ListenerNames`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ListenerIndex(u16);

impl ConnectionMeta {
    pub(super) fn new(
        connection: &ConnectionInfo,
        messages_before: u64,
        names: &mut ListenerNames,
    ) -> ConnectionMeta {
        let since_epoch = connection.at.duration_since(SystemTime::UNIX_EPOCH);
        let (is_tcp, ip, port) = match connection.peer {
            Peer::Tcp(address) => (true, address.ip(), address.port()),
            Peer::Unix => (false, Ipv6Addr::UNSPECIFIED.into(), 0),
        };
        ConnectionMeta {
            activity: Activity::default(),
            messages_before,
            skipped: 0,
            // A clock before the epoch is not worth a second word.
            arrived_at: since_epoch.map_or(0, |time| time.as_millis() as u64),
            ip: match ip {
                IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                IpAddr::V6(ip) => ip,
            },
            port,
            listener: names.index_of(&connection.listener),
            is_tcp,
            format: connection.format,
            role: connection.role,
            transport: connection.transport,
        }
    }

    /// What it was made of, in this channel. What only few clients have is kept beside it.
    pub(super) fn connection(
        &self,
        names: &ListenerNames,
        channel: &ChannelName,
        identity: Option<&Arc<Identity>>,
    ) -> ConnectionInfo {
        let address = SocketAddr::new(self.ip.to_canonical(), self.port);
        ConnectionInfo {
            peer: if self.is_tcp {
                Peer::Tcp(address)
            } else {
                Peer::Unix
            },
            listener: names.name(self.listener),
            format: self.format,
            role: self.role,
            transport: self.transport,
            channel: channel.clone(),
            at: SystemTime::UNIX_EPOCH + Duration::from_millis(self.arrived_at),
            identity: identity.cloned(),
        }
    }
}

impl ListenerNames {
    /// The index of this name. There are as many names as a configuration has listeners, and a few
    /// more after each reload; of more than 65,535 the last ones are not told apart.
    fn index_of(&mut self, name: &Arc<str>) -> ListenerIndex {
        let known = self.0.iter().position(|known| known == name);
        let at = known.unwrap_or_else(|| {
            if self.0.len() < usize::from(u16::MAX) {
                self.0.push(name.clone());
            }
            self.0.len() - 1
        });
        ListenerIndex(at as u16)
    }

    fn name(&self, index: ListenerIndex) -> Arc<str> {
        self.0[usize::from(index.0)].clone()
    }
}

#[cfg(test)]
impl ConnectionInfo {
    /// One at no particular place and time.
    pub(crate) fn test(format: Format) -> ConnectionInfo {
        ConnectionInfo {
            peer: Peer::Unix,
            listener: "unix:/x".into(),
            format,
            role: Role::Both,
            transport: Transport::Plain,
            channel: ChannelName::main(),
            at: SystemTime::UNIX_EPOCH,
            identity: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_fits_between_what_the_runtime_allocates() {
        assert!(
            size_of::<ConnectionMeta>() <= 104,
            "{}",
            size_of::<ConnectionMeta>()
        );
    }

    #[test]
    fn arrival_comes_out_as_it_was_put_in() {
        let mut names = ListenerNames::default();
        let peers = ["1.2.3.4:5", "[::1]:65535", "[2001:db8::7]:1"].map(|peer| peer.parse());
        let peers = peers.map(|peer| Peer::Tcp(peer.unwrap()));
        for peer in peers.into_iter().chain([Peer::Unix]) {
            for (listener, format) in [("[::]:2345", Format::Raw), ("unix:/x", Format::Text)] {
                let connection = ConnectionInfo {
                    peer,
                    listener: listener.into(),
                    format,
                    role: Role::Subscribe,
                    transport: Transport::Plain,
                    channel: ChannelName::main(),
                    at: SystemTime::UNIX_EPOCH + Duration::from_millis(1_764_000_000_123),
                    identity: None,
                };
                let meta = ConnectionMeta::new(&connection, 7, &mut names);
                assert_eq!(
                    meta.connection(&names, &connection.channel, None),
                    connection
                );
            }
        }
        assert_eq!(names.0.len(), 2);
    }
}
