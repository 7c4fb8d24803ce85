use super::NatsError;
use crate::hub::cluster::batch::NodeId;
use bytes::Bytes;
#[derive(Clone, Debug)]
pub(crate) struct ChannelStream {}
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StreamInfo {
    pub(crate) id: u64,
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) bytes: u64,
    pub(crate) messages: u64,
}
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) place: u64,
    pub(crate) time_ms: u64,
    pub(crate) body: Bytes,
    pub(crate) pending: u64,
}
pub(crate) enum Subject {
    Batch(NodeId),
    Checkpoint,
    Gone,
}
pub(crate) enum Stored {
    At(u64),
    Duplicate,
}
pub(crate) enum PublishError {
    NotLast,
    Refused(String),
    Unknown(String),
}
pub(crate) struct StreamReader {}
impl ChannelStream {
    pub(crate) async fn info(&self) -> Result<StreamInfo, NatsError> {
        todo!()
    }
    pub(crate) async fn last_checkpoint(&self) -> Result<Option<Entry>, NatsError> {
        todo!()
    }
    pub(crate) async fn last_batch_of(&self, node: NodeId) -> Result<Option<Entry>, NatsError> {
        todo!()
    }
    pub(crate) fn read_behind(&self, place: u64) -> StreamReader {
        todo!()
    }
    pub(crate) async fn checkpoints(&self) -> Result<Vec<Entry>, NatsError> {
        todo!()
    }
    pub(crate) async fn publish(
        &self,
        subject: Subject,
        body: Bytes,
        id: Option<String>,
        expected_last: Option<u64>,
    ) -> Result<Stored, PublishError> {
        todo!()
    }
}
impl StreamReader {
    pub(crate) async fn next(&mut self) -> Result<Entry, NatsError> {
        todo!()
    }
}
