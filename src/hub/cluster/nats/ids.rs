//! Numbers that no node had before: the value of a key, by compare and swap.

use std::ops::Range;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::stream::{Config, DiscardPolicy};
use serde_json::json;

use super::connection::{Nats, random};
use super::error::NatsError;
use super::stream::{PublishError, Stored};

/// The stream that is the bucket `linehub`, and the subject that is its key `ids`.
const BUCKET: &str = "KV_linehub";
const SUBJECTS: &str = "$KV.linehub.>";
const KEY: &str = "$KV.linehub.ids";

/// Tries to be the next: each fails only because another node was.
const TRIES_MAX: u32 = 50;

impl Nats {
    /// Takes a block of `count` ids that no node had before, none of them below `at_least`.
    ///
    /// # Errors
    /// The ids may be taken, and are nobody's then.
    pub(crate) async fn take_ids(
        &self,
        count: u64,
        at_least: u64,
    ) -> Result<Range<u64>, NatsError> {
        for _ in 0..TRIES_MAX {
            let entry = match self.find(BUCKET, json!({"last_by_subj": KEY})).await {
                Err(NatsError::NoStream) => {
                    self.make_bucket().await?;
                    None
                }
                entry => entry?,
            };
            let (next, revision) = match entry {
                Some(entry) => (next_of(&entry.body)?, entry.place),
                None => (0, 0),
            };
            let first = next.max(at_least);
            let end = first.checked_add(count);
            let end = end.ok_or_else(|| NatsError::Denied("there are no more ids".into()))?;
            let mut headers = HeaderMap::new();
            headers.insert(
                "Nats-Expected-Last-Subject-Sequence",
                revision.to_string().as_str(),
            );
            let value = end.to_string().into();
            match self.store(KEY.into(), value, headers).await {
                Ok(Stored::At(_)) => return Ok(first..end),
                Err(PublishError::Refused(why) | PublishError::Unknown(why)) => {
                    return Err(NatsError::Away(why));
                }
                Ok(Stored::Duplicate) | Err(PublishError::NotLast) => {}
            }
            tokio::time::sleep(Duration::from_millis(u64::from(random() % 20))).await;
        }
        Err(NatsError::Away("other nodes take ids all the time".into()))
    }

    async fn make_bucket(&self) -> Result<(), NatsError> {
        self.make_stream(&Config {
            name: BUCKET.into(),
            description: Some("linehub: the first id that no node has".into()),
            subjects: vec![SUBJECTS.into()],
            discard: DiscardPolicy::New,
            max_messages_per_subject: 1,
            num_replicas: self.replicas,
            allow_rollup: true,
            deny_delete: true,
            allow_direct: true,
            ..Config::default()
        })
        .await?;
        Ok(())
    }
}

fn next_of(value: &[u8]) -> Result<u64, NatsError> {
    let next = std::str::from_utf8(value).ok();
    let next = next.and_then(|text| text.parse().ok());
    next.ok_or_else(|| NatsError::Denied(format!("{KEY} is no number: no node wrote that")))
}
