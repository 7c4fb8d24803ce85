//! From the listeners that are open to those that another configuration asks for.

use std::net::SocketAddr;
use std::os::fd::AsFd;

use socket2::SockRef;
use tracing::info;

use super::bind::ResolvedListen;
use super::inherited::InheritedListeners;
use super::listener::{ListenAddr, Listener};
use crate::config::{Address, Config};

/// The addresses that a configuration wants listened on: what takes time to find out.
#[derive(Debug)]
pub(crate) struct ListenPlan(Vec<ResolvedListen>);

impl ListenPlan {
    /// Looks the names up. Cancel safe.
    ///
    /// # Errors
    /// The entry of the configuration that stands for no address.
    pub(crate) async fn resolve(config: &Config) -> anyhow::Result<ListenPlan> {
        let mut all = Vec::new();
        for options in &config.listen {
            let wanted = ResolvedListen::resolve(options).await;
            all.push(wanted.map_err(|error| cannot_listen(&options.address, error))?);
        }
        Ok(ListenPlan(all))
    }

    /// Opens what is wanted and not `open`, and returns what is `open` and not wanted, to be closed. A
    /// socket that is both stays, and so does one that the service manager opened.
    ///
    /// All that can fail is done first: after an error, `open` is as it was.
    ///
    /// # Errors
    /// The listener that cannot be opened.
    pub(crate) fn open(
        self,
        open: &mut Vec<Listener>,
        config: &Config,
    ) -> anyhow::Result<Vec<Listener>> {
        let mut inherited = inherited(open)?;
        let mut missing = Vec::new();
        if config.listen_given || !inherited.has_socket_activated() {
            for wanted in self.0 {
                let address = wanted.options.address.clone();
                let wanted = wanted.claim(&mut inherited, &config.listen);
                missing.push(wanted.map_err(|error| cannot_listen(&address, error))?);
            }
        }
        let all_options = inherited.options(&config.listener_defaults());
        let closing = open
            .iter()
            .zip(&all_options)
            .filter(|(_, options)| options.is_none());
        let shared = ReusePortGuard::with(closing.map(|(listener, _)| listener).collect());
        let staying = open
            .iter()
            .zip(&all_options)
            .filter(|(_, options)| options.is_some());
        let mut others: Vec<ListenAddr> = staying.map(|(other, _)| other.name().clone()).collect();
        let mut opened: Vec<Listener> = Vec::new();
        for wanted in missing {
            let address = wanted.options.address.clone();
            let shares = |address: &SocketAddr| shared.stand_in_for(address);
            let more = wanted.open(&others, &config.listen, shares);
            let more = more.map_err(|error| cannot_listen(&address, error))?;
            others.extend(more.iter().map(|other| other.name().clone()));
            opened.extend(more);
        }
        drop(shared);

        let (mut staying, mut closing) = (Vec::new(), Vec::new());
        for (mut listener, options) in open.drain(..).zip(all_options) {
            match options {
                Some(options) => {
                    let differs = options.differing_key(listener.options()).is_some();
                    listener.set_options(options);
                    if differs {
                        listener.log_listening();
                    }
                    staying.push(listener);
                }
                None => {
                    info!(address = %listener.name(), "closed a listener");
                    closing.push(listener);
                }
            }
        }
        open.extend(staying);
        for listener in &opened {
            listener.log_listening();
        }
        open.extend(opened);
        Ok(closing)
    }
}

fn cannot_listen(address: &Address, error: anyhow::Error) -> anyhow::Error {
    error.context(format!("cannot listen on {address}"))
}

/// Copies of the open sockets, so that a reload goes by the same rules as a handover.
fn inherited(open: &[Listener]) -> anyhow::Result<InheritedListeners> {
    let copies = open.iter().map(|listener| {
        let socket = listener.as_fd().try_clone_to_owned()?;
        Ok((listener.save(), socket))
    });
    InheritedListeners::of(Vec::new(), copies.collect::<anyhow::Result<_>>()?)
}

/// Listeners that are about to be closed and share their ports until then, as when `127.0.0.1:2345`
/// becomes `0.0.0.0:2345`. Otherwise the port would have to be free for a moment, in which
/// connections are refused and another program can take it.
struct ReusePortGuard<'a>(Vec<&'a Listener>);

impl<'a> ReusePortGuard<'a> {
    fn with(closing: Vec<&'a Listener>) -> ReusePortGuard<'a> {
        let tcp = |listener: &&Listener| matches!(listener.name(), ListenAddr::Tcp(_));
        let shared = ReusePortGuard(closing.into_iter().filter(tcp).collect());
        shared.set(true);
        shared
    }

    /// Whether one of the listeners is in the way of this address, which cannot be opened beside it. Only
    /// then: a port that is shared without need could be somebody else's, who shares it too.
    fn stand_in_for(&self, wanted: &SocketAddr) -> bool {
        self.0.iter().any(|listener| match listener.name() {
            ListenAddr::Tcp(open) => {
                let (open_ip, ip) = (open.ip(), wanted.ip());
                let is_any = open_ip.is_unspecified() || ip.is_unspecified();
                open.port() == wanted.port() && (open_ip == ip || is_any)
            }
            ListenAddr::Unix(_) => false,
        })
    }

    fn set(&self, shares: bool) {
        for listener in &self.0 {
            // Where it cannot be set, opening the other one fails, and says why.
            let _ = SockRef::from(listener).set_reuse_port(shares);
        }
    }
}

impl Drop for ReusePortGuard<'_> {
    fn drop(&mut self) {
        self.set(false);
    }
}
