//! The stage of connections that a proxy passes on: whose they are says a header, before anything else.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tracing::debug;

use super::pending::{PendingHandshake, Stage};
use super::refusal::Refusal;
use crate::net::peer::Peer;
use crate::wire::proxy::{self, ProxyError, ProxySource};

/// How long a connection that a proxy made for itself may take to end.
const CHECK_TIME: Duration = Duration::from_secs(1);

/// Whether a connection only looks whether anybody serves it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum HealthCheck {
    /// It is a client's.
    #[default]
    No,
    /// Its header names the connection itself. That is how haproxy checks in version 1, which has no LOCAL,
    /// and ends the connection; and what a load balancer says that passes on packets under the address of
    /// its client. So it is a client's if it says something, or stays.
    Perhaps,
    /// Its header says so: LOCAL.
    Yes,
}

impl PendingHandshake {
    /// Takes the header, and nothing behind it, and goes on to the next stage. Cancel safe: none of it is
    /// taken before it is whole.
    ///
    /// # Errors
    /// There is none, or what the peer has sent is none.
    pub(super) async fn take_header(&mut self) -> Result<(), Refusal> {
        let header = self
            .stream
            .peek(|bytes, has_ended| match proxy::parse(bytes) {
                Ok(None) if !has_ended => None,
                // A proxy that checks may send none.
                Ok(None) if bytes.is_empty() => Some(Err(Refusal::left())),
                Ok(None) => Some(Err(ProxyError::Expected.into())),
                Ok(Some(header)) => Some(Ok(header)),
                Err(error) => Some(Err(error.into())),
            });
        let header = header.await??;
        self.stream.skip(header.length)?;
        let proxy = self.accepted.peer;
        self.check = match header.source {
            ProxySource::Local => HealthCheck::Yes,
            ProxySource::Address(address) if Peer::Tcp(address) == proxy => HealthCheck::Perhaps,
            ProxySource::Address(_) | ProxySource::Unknown => HealthCheck::No,
        };
        if let ProxySource::Address(address) = header.source {
            self.accepted.peer = Peer::Tcp(address);
        }
        self.stage = Stage::of_peer(&self.accepted.options);
        debug!(%proxy, peer = %self.accepted.peer, "connection of a proxy");
        Ok(())
    }

    /// Lets nobody further who only checks. Where TLS is spoken, that is agreed on all the same: it is a part
    /// of what is checked. Cancel safe.
    ///
    /// # Errors
    /// It was a check, and is over.
    pub(super) async fn end_check(&mut self) -> Result<(), Refusal> {
        let is_check = match (&self.stage, self.check) {
            (Stage::Proxy, _) | (_, HealthCheck::No) => false,
            (Stage::Tls, _) => !self.stream.is_negotiating() && self.has_ended().await,
            (_, HealthCheck::Perhaps) => tokio::time::timeout(CHECK_TIME, self.has_ended())
                .await
                .unwrap_or(false),
            (_, HealthCheck::Yes) => {
                // Whatever comes of it, the check is over then.
                let _ = tokio::time::timeout(CHECK_TIME, self.stream.discard_input()).await;
                true
            }
        };
        match is_check {
            true => {
                debug!(peer = %self.accepted.peer, "health check");
                Err(Refusal::left())
            }
            false => Ok(()),
        }
    }

    /// Waits until there is something to read, or the end; whether it is that.
    async fn has_ended(&mut self) -> bool {
        let seen = self.stream.read_part(|bytes| (0, bytes.is_empty()));
        seen.await.unwrap_or(true)
    }
}
