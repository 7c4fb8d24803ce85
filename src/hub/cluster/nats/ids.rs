//! Numbers that no node had before.

use std::fmt::Display;
use std::ops::Range;
use std::time::Duration;

use async_nats::jetstream::kv;
use async_nats::jetstream::kv::{CreateErrorKind, UpdateErrorKind};

use super::connection::{Nats, random};
use super::error::NatsError;

/// Bucket and key of the first id that no node has.
const BUCKET: &str = "linehub";
const KEY: &str = "ids";

/// Tries to be the next: each fails only because another node was, or a replica did not know of it yet.
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
        let bucket = self.bucket().await?;
        for _ in 0..TRIES_MAX {
            let entry = self.of_bucket(bucket.entry(KEY)).await?.map_err(away)?;
            let next = match &entry {
                Some(entry) => next_of(&entry.value)?,
                None => 0,
            };
            let first = next.max(at_least);
            let end = first
                .checked_add(count)
                .ok_or_else(|| NatsError::Denied("there are no more ids".into()))?;
            let value = end.to_string().into();
            let is_taken = match entry {
                Some(entry) => {
                    let update = bucket.update(KEY, value, entry.revision);
                    match self.of_bucket(update).await? {
                        Ok(_) => true,
                        Err(error) if error.kind() == UpdateErrorKind::WrongLastRevision => false,
                        Err(error) => return Err(away(error)),
                    }
                }
                None => match self.of_bucket(bucket.create(KEY, value)).await? {
                    Ok(_) => true,
                    Err(error) if error.kind() == CreateErrorKind::AlreadyExists => false,
                    Err(error) => return Err(away(error)),
                },
            };
            if is_taken {
                return Ok(first..end);
            }
            tokio::time::sleep(Duration::from_millis(u64::from(random() % 20))).await;
        }
        Err(NatsError::Away("other nodes take ids all the time".into()))
    }

    /// The bucket; made if it is missing.
    async fn bucket(&self) -> Result<kv::Store, NatsError> {
        if let Ok(bucket) = self.of_bucket(self.context.get_key_value(BUCKET)).await? {
            return Ok(bucket);
        }
        let config = kv::Config {
            bucket: BUCKET.into(),
            description: "linehub: the next id".into(),
            history: 1,
            num_replicas: self.replicas,
            ..kv::Config::default()
        };
        match self
            .of_bucket(self.context.create_key_value(config))
            .await?
        {
            Ok(bucket) => Ok(bucket),
            // Another node may have made it in between.
            Err(error) => match self.of_bucket(self.context.get_key_value(BUCKET)).await? {
                Ok(bucket) => Ok(bucket),
                Err(_) => Err(away(error)),
            },
        }
    }

    async fn of_bucket<T>(&self, what: impl Future<Output = T>) -> Result<T, NatsError> {
        Ok(self.while_connected(&format!("KV_{BUCKET}"), what).await?)
    }
}

fn next_of(value: &[u8]) -> Result<u64, NatsError> {
    let next = std::str::from_utf8(value)
        .ok()
        .and_then(|text| text.parse().ok());
    next.ok_or_else(|| {
        NatsError::Denied(format!(
            "key {KEY} of bucket {BUCKET} has no number, but what no node wrote"
        ))
    })
}

fn away(error: impl Display) -> NatsError {
    NatsError::Away(format!("bucket {BUCKET}: {error}"))
}
