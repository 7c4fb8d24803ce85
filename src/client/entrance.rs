//! Who may come in: by address, by how many there are from it, and by how often it comes.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

use super::pending::Accepted;
use super::refusal::Refusal;
use crate::config::{Address, Config, ListenerOptions};
use crate::net::access;
use crate::net::listener::Listener;
use crate::net::peer::Peer;
use crate::net::permits::ConnectionPermit;
use crate::net::source::ConnectRate;
use crate::wire::http::{HttpError, Request};

/// What decides who may come in, for all listeners.
#[derive(Debug)]
pub(crate) struct Entrance {
    rate: ConnectRate,
    lists: Mutex<Lists>,
    pages: Mutex<Pages>,
}

/// Whose pages may have browsers send requests here.
#[derive(Debug)]
struct Pages {
    /// Names of this host, beside its addresses.
    hosts: Vec<String>,
    /// Origins of other sites.
    origins: Vec<String>,
}

impl From<&Config> for Pages {
    fn from(config: &Config) -> Pages {
        let mut hosts = config.admin_hosts.clone();
        let origins = config.http_origins.iter();
        let authorities = origins.filter_map(|origin| origin.split_once("://"));
        // A name has no port, and an address needs none of this.
        hosts.extend(authorities.map(|(_, at)| at.split(':').next().unwrap_or(at).to_owned()));
        Pages {
            hosts,
            origins: config.http_origins.clone(),
        }
    }
}

/// Lists of addresses that are in force.
#[derive(Debug)]
pub(super) struct Lists {
    /// Options of each listener, by what it is logged as.
    listeners: HashMap<Arc<str>, Arc<ListenerOptions>>,
    /// Those for clients whose listener is no more.
    others: ListenerOptions,
}

impl Entrance {
    pub(crate) fn new(config: &Config) -> Entrance {
        Entrance {
            rate: ConnectRate::new(config.connects_per_address),
            lists: Mutex::new(Lists {
                listeners: HashMap::new(),
                others: others(config),
            }),
            pages: Mutex::new(Pages::from(config)),
        }
    }

    /// Goes by another configuration from now on.
    pub(crate) fn set(&self, config: &Config) {
        self.rate.set(config.connects_per_address);
        self.lists.lock().others = others(config);
        *self.pages.lock() = Pages::from(config);
    }

    /// Whether a request may be answered: see [`Request::check`].
    pub(super) fn check(&self, request: &Request) -> Result<(), HttpError> {
        let pages = self.pages.lock();
        request.check(&pages.hosts, &pages.origins)
    }

    /// Goes by the options that these listeners have now.
    pub(super) fn set_listeners(&self, listeners: &[Listener]) {
        let options = listeners.iter();
        let options = options.map(|listener| (listener.label(), listener.options().clone()));
        self.lists.lock().listeners = options.collect();
    }

    /// The lists, which do not change while they are held.
    pub(super) fn lists(&self) -> MutexGuard<'_, Lists> {
        self.lists.lock()
    }

    /// Whether a peer may come in now: by its address, and by how often it came. Each call counts.
    pub(super) fn admits(&self, accepted: &Accepted) -> Result<(), Refusal> {
        if !access::admits(&accepted.options, accepted.peer) {
            return Err(Refusal::denied());
        }
        match self.rate.admits(accepted.peer) {
            true => Ok(()),
            false => Err(Refusal::too_many(accepted.peer)),
        }
    }

    /// Counts a connection for its address, unless that has as many as it may.
    pub(super) fn count(accepted: &Accepted, permit: &mut ConnectionPermit) -> Result<(), Refusal> {
        let counted = permit.count_by(accepted.peer);
        counted.map_err(|_| Refusal::too_many(accepted.peer))
    }
}

impl Lists {
    /// Whether they let in who came by this listener.
    pub(super) fn admit(&self, listener: &str, peer: Peer) -> bool {
        let options = self.listeners.get(listener).map(|options| &**options);
        access::admits(options.unwrap_or(&self.others), peer)
    }
}

/// Options of a listener that the configuration does not name.
fn others(config: &Config) -> ListenerOptions {
    ListenerOptions::new(Address::Unix("".into()), &config.listener_defaults())
}
