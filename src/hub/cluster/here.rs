//! Who is here, as far as this node has seen: for the notices of clients whose node is gone, and nothing else.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::batch::NodeId;
use crate::hub::history::Record;
use crate::hub::part::Kind;
use crate::wire::client_name::ClientName;
use crate::wire::format::Notice;
use crate::wire::ids::ClientId;

/// Clients, with the names of those that have one.
pub(crate) type Clients = BTreeMap<ClientId, Option<ClientName>>;

/// Clients by the node that is to say that they left: their own, or, if that is gone, the one that said so first.
#[derive(Debug, Default)]
pub(super) struct Here {
    by_node: HashMap<NodeId, Clients>,
}

impl Here {
    /// Those that another daemon knew of.
    pub(super) fn restore(saved: &[(u64, Clients)]) -> Here {
        let by_node = saved.iter();
        let by_node = by_node.map(|(node, clients)| (NodeId(*node), clients.clone()));
        Here {
            by_node: by_node.collect(),
        }
    }

    pub(super) fn save(&self) -> Vec<(u64, Clients)> {
        let by_node = self.by_node.iter();
        by_node
            .map(|(node, clients)| (node.0, clients.clone()))
            .collect()
    }

    /// Notes the notices of a batch of this node.
    pub(super) fn note(&mut self, node: NodeId, record: &Record) {
        let mut names = record.names.iter().peekable();
        for ((part, client), index) in record.parts.iter().zip(&record.origins).zip(0..) {
            let name = names.next_if(|(at, _)| *at == index);
            match part.kind {
                Kind::Notice(Notice::Connect) => {
                    let name = name.map(|(_, name)| name.clone());
                    self.by_node.entry(node).or_default().insert(*client, name);
                }
                Kind::Notice(Notice::Disconnect) => self.remove(node, *client),
                Kind::Lines | Kind::Shutdown | Kind::Omitted | Kind::Missed => {}
            }
        }
    }

    fn remove(&mut self, node: NodeId, client: ClientId) {
        let own = self.by_node.get_mut(&node);
        if own.and_then(|clients| clients.remove(&client)).is_none() {
            for clients in self.by_node.values_mut() {
                clients.remove(&client);
            }
        }
    }

    /// A node is gone: its clients are left to another, which is told who they are.
    pub(super) fn leave(&mut self, node: NodeId, heir: NodeId) -> Clients {
        let clients = self.by_node.remove(&node).unwrap_or_default();
        if heir != node {
            let of_heir = self.by_node.entry(heir).or_default();
            of_heir.extend(clients.iter().map(|(id, name)| (*id, name.clone())));
        }
        clients
    }

    /// Part of the stream was missed: only of this node is it known who is here.
    pub(super) fn keep_only(&mut self, node: NodeId) {
        self.by_node.retain(|of, _| *of == node);
    }
}

/// This node's own clients, and what is to be said of them.
///
/// A node that was stopped for so long that another said that it is gone, goes on as a new one. That other says of
/// each of its clients that it left; behind that, this one says that they came, so that for every reader a client comes
/// and leaves in turn.
#[derive(Debug, Default)]
pub(crate) struct OwnClients {
    living: BTreeSet<ClientId>,
    /// Those for whom this node is to say that they left.
    announced: BTreeSet<ClientId>,
}

impl OwnClients {
    /// Goes on with these clients, of whom these were announced, in place of the daemon before.
    pub(crate) fn restore(living: &[ClientId], announced: &[ClientId]) -> OwnClients {
        OwnClients {
            living: living.iter().copied().collect(),
            announced: announced.iter().copied().collect(),
        }
    }

    pub(crate) fn living(&self) -> impl Iterator<Item = ClientId> {
        self.living.iter().copied()
    }

    /// A client came: its notice is to be published.
    pub(crate) fn join(&mut self, client: ClientId) {
        self.living.insert(client);
        self.announced.insert(client);
    }

    /// A client left; whether it is on this node to say so.
    pub(crate) fn leave(&mut self, client: ClientId) -> bool {
        self.living.remove(&client);
        self.announced.remove(&client)
    }

    /// These clients were left to another node: it says that they left.
    pub(crate) fn lose(&mut self, clients: &Clients) {
        self.announced
            .retain(|client| !clients.contains_key(client));
    }

    /// A client is left to this node; whether it is to be said that it left, as it is not here.
    pub(crate) fn inherit(&mut self, client: ClientId) -> bool {
        let is_here = self.is_here(client);
        if is_here {
            self.announced.insert(client);
        }
        !is_here
    }

    /// Clients for whom this node is to say that they left.
    pub(crate) fn announced(&self) -> impl Iterator<Item = ClientId> {
        self.announced.iter().copied()
    }

    pub(crate) fn is_here(&self, client: ClientId) -> bool {
        self.living.contains(&client)
    }

    /// Clients of whom another node is to say that they left.
    #[cfg(test)]
    pub(crate) fn unannounced(&self) -> impl Iterator<Item = ClientId> {
        self.living.difference(&self.announced).copied()
    }

    /// Another node said that this client left; whether it is to be said that it came, as it is still here. Of one that
    /// is announced it says so, too, if this node has become another without seeing that it is gone.
    pub(crate) fn is_back(&mut self, client: ClientId) -> bool {
        let is_here = self.is_here(client);
        if is_here {
            self.announced.insert(client);
        }
        is_here
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn client_that_another_node_says_has_left_is_said_to_be_here_whoever_was_to_say_so() {
        let mut own = OwnClients::default();
        own.join(ClientId(7));
        assert!(own.is_back(ClientId(7)));
        own.lose(&Clients::from([(ClientId(7), None)]));
        assert!(own.is_back(ClientId(7)));
        assert!(own.leave(ClientId(7)));
        assert!(!own.is_back(ClientId(7)));
    }
}
