#![allow(dead_code, unused, missing_docs)]
mod stream;
use super::batch::NodeId;
use crate::wire::channel::ChannelName;
use bytes::Bytes;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;
pub(crate) use stream::*;
use tokio::sync::watch;
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NatsOptions {
    pub(crate) urls: Vec<String>,
    pub(crate) creds: Option<PathBuf>,
    pub(crate) nkey: Option<PathBuf>,
    pub(crate) ca: Option<PathBuf>,
    pub(crate) cert: Option<(PathBuf, PathBuf)>,
    pub(crate) replicas: usize,
}
#[derive(Clone, Debug)]
pub(crate) struct Nats {}
#[derive(Debug)]
pub(crate) enum NatsError {
    NoStream,
}
impl std::fmt::Display for NatsError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        todo!()
    }
}
pub(crate) enum StreamError {
    Away(NatsError),
    Differs { what: String },
    Denied(String),
}
impl Nats {
    pub(crate) async fn connect(options: &NatsOptions, name: &str) -> anyhow::Result<Nats> {
        todo!()
    }
    pub(crate) fn status(&self) -> NatsStatus {
        todo!()
    }
    pub(crate) fn watch(&self) -> watch::Receiver<ConnectionState> {
        todo!()
    }
    pub(crate) fn max_payload(&self) -> usize {
        todo!()
    }
    pub(crate) async fn take_ids(
        &self,
        count: u64,
        at_least: u64,
    ) -> Result<Range<u64>, NatsError> {
        todo!()
    }
    pub(crate) async fn say_alive(&self, node: NodeId, body: Bytes) -> Result<(), NatsError> {
        todo!()
    }
    pub(crate) async fn listen_alive(
        &self,
    ) -> Result<futures::stream::BoxStream<'static, (NodeId, Bytes)>, NatsError> {
        todo!()
    }
    pub(crate) async fn open_stream(
        &self,
        channel: &ChannelName,
        limits: StreamLimits,
    ) -> Result<ChannelStream, StreamError> {
        todo!()
    }
}
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StreamLimits {
    pub(crate) bytes: u64,
    pub(crate) age: Option<Duration>,
}
#[derive(Clone, Debug, Default)]
pub(crate) struct NatsStatus {
    pub(crate) is_connected: bool,
    pub(crate) server: Option<String>,
    pub(crate) reconnects: u64,
    pub(crate) error: Option<String>,
}
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ConnectionState {
    pub(crate) is_connected: bool,
    pub(crate) connections: u64,
}
