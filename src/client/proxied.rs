//! The stage of connections that a proxy passes on: whose they are says a header, before anything else.

use std::time::Duration;

use tracing::debug;

use super::refusal::Refusal;
use crate::net::peer::Peer;
use crate::net::stream::Stream;
use crate::wire::proxy::{self, ProxyError, ProxyHeader, ProxySource};

/// How long a connection that a proxy made for itself may take to show that it was that.
const CHECK_TIME: Duration = Duration::from_secs(1);

/// Takes the header of a connection of this proxy, and nothing behind it; whose connection it is. Cancel
/// safe: the header is taken whole, or it is still there.
///
/// A proxy that looks whether anybody serves it says so, by LOCAL, or closes before it has sent a header.
/// Version 1 cannot say so: haproxy names the connection itself then, and closes. So does a load balancer
/// that passes packets on under the address of its client, so that such a connection has [`CHECK_TIME`] to
/// send or to end, and is a client's then.
///
/// # Errors
/// Why the connection does not become a client.
pub(super) async fn take_header(stream: &mut Stream, proxy: Peer) -> Result<Peer, Refusal> {
    let header = stream.peek(|bytes, has_ended| match proxy::parse(bytes) {
        Ok(None) if !has_ended => None,
        Ok(None) if bytes.is_empty() => Some(Err(Refusal::left())),
        Ok(None) => Some(Err(ProxyError::Expected.into())),
        Ok(Some(header)) => Some(Ok(header)),
        Err(error) => Some(Err(error.into())),
    });
    let ProxyHeader { length, source } = header.await??;
    let peer = match source {
        ProxySource::Address(address) => Peer::Tcp(address),
        ProxySource::Unknown | ProxySource::Local => proxy,
    };
    let is_local = source == ProxySource::Local;
    let names_itself = matches!(source, ProxySource::Address(_)) && peer == proxy;
    if is_local || names_itself {
        let more = stream.peek(|bytes, has_ended| {
            let has_more = bytes.len() > length && !is_local;
            (has_more || has_ended).then_some(has_more)
        });
        let is_client = match tokio::time::timeout(CHECK_TIME, more).await {
            Ok(has_more) => has_more?,
            Err(_) => !is_local,
        };
        if !is_client {
            debug!(%proxy, "health check");
            stream.skip(length)?;
            return Err(Refusal::left());
        }
    }
    stream.skip(length)?;
    debug!(%proxy, %peer, "connection of a proxy");
    Ok(peer)
}
