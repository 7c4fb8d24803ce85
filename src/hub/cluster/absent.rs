//! A linehub without NATS: it shares nothing.

use std::io;
use std::sync::Arc;

use futures::future::BoxFuture;

use super::stats::ClusterStats;
use crate::config::Config;
use crate::hub::history::{Record, Remote, RemoteExtent, Slice};
use crate::wire::ids::Seq;
use crate::wire::past::Newest;

/// This daemon among others: there is none.
#[derive(Debug)]
pub(crate) enum Cluster {}

/// What a stream has of the past: there is none.
#[derive(Debug)]
pub(in crate::hub) enum StreamPast {}

impl Cluster {
    /// There is nothing to read.
    ///
    /// # Errors
    /// None.
    pub(crate) fn check(_: &Config) -> anyhow::Result<()> {
        Ok(())
    }

    /// There is none.
    ///
    /// # Errors
    /// None.
    pub(crate) async fn connect(_: &Config, _: bool) -> anyhow::Result<Option<Arc<Cluster>>> {
        Ok(None)
    }

    pub(in crate::hub) async fn say_left(&self) {
        match *self {}
    }

    pub(in crate::hub) fn past(&self) -> Arc<StreamPast> {
        match *self {}
    }

    pub(in crate::hub) fn stats(&self, _: u64) -> ClusterStats {
        match *self {}
    }
}

impl Remote for StreamPast {
    fn read(
        self: Arc<Self>,
        _: Seq,
        _: usize,
    ) -> BoxFuture<'static, io::Result<Slice<Arc<Record>>>> {
        match *self {}
    }

    fn locate(self: Arc<Self>, _: Newest) -> BoxFuture<'static, io::Result<Seq>> {
        match *self {}
    }

    fn known(self: Arc<Self>) -> BoxFuture<'static, ()> {
        match *self {}
    }

    fn extent(&self) -> RemoteExtent {
        match *self {}
    }
}
