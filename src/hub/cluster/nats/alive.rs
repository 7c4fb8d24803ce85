//! Which nodes live: what they say of themselves, to whoever listens now.

use async_nats::Message;
use bytes::Bytes;
use futures::{Stream, StreamExt};

use super::connection::Nats;
use super::error::NatsError;
use super::names;
use crate::hub::cluster::batch::NodeId;

impl Nats {
    /// Says to all nodes that this one lives. Nobody need hear it.
    pub(crate) async fn say_alive(&self, node: NodeId, body: Bytes) -> Result<(), NatsError> {
        let subject = names::node(node);
        let said = self.client.publish(subject.clone(), body);
        let said = self.while_connected(&subject, said).await?;
        said.map_err(|error| NatsError::away(&error))
    }

    /// What nodes say so (own ones too), while connected. What is not taken in time is dropped, and the log says so.
    pub(crate) async fn listen_alive(
        &self,
    ) -> Result<impl Stream<Item = (NodeId, Bytes)> + Send + Unpin + 'static, NatsError> {
        let subject = names::nodes();
        let heard = self.client.subscribe(subject.clone());
        let heard = self.while_connected(&subject, heard).await?;
        let heard = heard.map_err(|error| NatsError::away(&error))?;
        Ok(heard.filter_map(|message: Message| {
            let node = names::node_of(&message.subject);
            std::future::ready(node.map(|node| (node, message.payload)))
        }))
    }
}
