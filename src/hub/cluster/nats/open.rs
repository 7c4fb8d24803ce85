//! The stream of a channel: made, or compared with what is wanted.

use std::time::Duration;

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::stream::{Config, DiscardPolicy, Info, RetentionPolicy, StorageType};
use bytes::Bytes;

use super::connection::Nats;
use super::error::{NatsError, StreamError};
use super::names;
use super::stream::ChannelStream;
use crate::wire::channel::ChannelName;

/// How long the server knows the ids of messages, unless it forgets messages sooner.
const DUPLICATES_KNOWN: Duration = Duration::from_secs(120);

/// What a stream keeps at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StreamLimits {
    pub(crate) bytes: u64,
    pub(crate) age: Option<Duration>,
}

impl Nats {
    /// The stream of a channel; made if it is missing.
    ///
    /// # Errors
    /// One exists that is another than these limits and replicas say, or the server does not make it.
    pub(crate) async fn open_stream(
        &self,
        channel: &ChannelName,
        limits: StreamLimits,
    ) -> Result<ChannelStream, StreamError> {
        let wanted = config(channel, limits, self.replicas);
        let found: Info = match self
            .api(&format!("STREAM.INFO.{}", wanted.name), Bytes::new())
            .await?
        {
            Ok(info) => info,
            Err(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND => {
                self.make_stream(&wanted).await?
            }
            Err(error) => return Err(NatsError::from(error).into()),
        };
        match differences(&found.config, &wanted) {
            None => Ok(ChannelStream::new(
                self.clone(),
                wanted.name,
                names::prefix(channel),
            )),
            Some(what) => Err(StreamError::Differs { what }),
        }
    }

    /// Makes a stream, unless there is one of that name.
    pub(super) async fn make_stream(&self, wanted: &Config) -> Result<Info, NatsError> {
        let name = &wanted.name;
        let body = serde_json::to_vec(wanted).map_err(|error| NatsError::away(&error))?;
        let what = format!("STREAM.CREATE.{name}");
        match self.api(&what, body.into()).await? {
            Ok(info) => Ok(info),
            // Another node has made it in between.
            Err(error) if error.error_code() == ErrorCode::STREAM_NAME_EXIST => {
                let what = format!("STREAM.INFO.{name}");
                Ok(self.api(&what, Bytes::new()).await??)
            }
            Err(error) => Err(match NatsError::from(error) {
                NatsError::Denied(why) => {
                    NatsError::Denied(format!("stream {name} cannot be made: {why}"))
                }
                error => error,
            }),
        }
    }
}

fn config(channel: &ChannelName, limits: StreamLimits, replicas: usize) -> Config {
    let age = limits.age.unwrap_or_default();
    Config {
        name: names::stream(channel),
        description: Some(format!("linehub: channel {channel}")),
        subjects: vec![format!("{}.>", names::prefix(channel))],
        retention: RetentionPolicy::Limits,
        discard: DiscardPolicy::Old,
        storage: StorageType::File,
        max_bytes: i64::try_from(limits.bytes).unwrap_or(i64::MAX),
        max_age: age,
        duplicate_window: limits
            .age
            .map_or(DUPLICATES_KNOWN, |age| age.min(DUPLICATES_KNOWN)),
        num_replicas: replicas,
        ..Config::default()
    }
}

/// How a stream is not what is wanted, and how to mend it.
fn differences(found: &Config, wanted: &Config) -> Option<String> {
    let name = &wanted.name;
    let limit = |value: i64| match value {
        ..=0 => "unlimited".to_owned(),
        value => value.to_string(),
    };
    let age = |age: Duration| match age.is_zero() {
        true => "unlimited".to_owned(),
        false => humantime::format_duration(age).to_string(),
    };
    // What, how it is and how it is wanted, and the option here and there by which it can be changed.
    let values = [
        (
            "subjects",
            found.subjects.join(" "),
            wanted.subjects.join(" "),
            None,
        ),
        (
            "storage",
            format!("{:?}", found.storage),
            format!("{:?}", wanted.storage),
            None,
        ),
        (
            "retention policy",
            format!("{:?}", found.retention),
            format!("{:?}", wanted.retention),
            None,
        ),
        (
            "discard policy",
            format!("{:?}", found.discard),
            format!("{:?}", wanted.discard),
            Some(("", "--discard old".to_owned())),
        ),
        (
            "limit of bytes",
            limit(found.max_bytes),
            limit(wanted.max_bytes),
            Some(("history", format!("--max-bytes {}", wanted.max_bytes))),
        ),
        (
            "limit of age",
            age(found.max_age),
            age(wanted.max_age),
            Some((
                "history-age",
                format!("--max-age {}s", wanted.max_age.as_secs()),
            )),
        ),
        (
            "replicas",
            found.num_replicas.to_string(),
            wanted.num_replicas.to_string(),
            Some((
                "--nats-replicas",
                format!("--replicas {}", wanted.num_replicas),
            )),
        ),
        (
            "limit of messages",
            limit(found.max_messages),
            limit(wanted.max_messages),
            Some(("", "--max-msgs -1".to_owned())),
        ),
        (
            "limit of messages of a subject",
            limit(found.max_messages_per_subject),
            limit(wanted.max_messages_per_subject),
            Some(("", "--max-msgs-per-subject -1".to_owned())),
        ),
        (
            "limit of a message's bytes",
            limit(found.max_message_size.into()),
            limit(wanted.max_message_size.into()),
            Some(("", "--max-msg-size -1".to_owned())),
        ),
    ];
    let differing = || {
        values
            .iter()
            .filter(|(_, found, wanted, _)| found != wanted)
    };
    let what: Vec<String> = differing()
        .map(|(what, found, wanted, _)| format!("its {what} is {found} and not {wanted}"))
        .collect();
    if what.is_empty() {
        return None;
    }
    let what = what.join(", ");
    let Some(changes) = differing()
        .map(|(.., change)| change.as_ref())
        .collect::<Option<Vec<_>>>()
    else {
        return Some(format!(
            "stream {name} is not one for this channel: {what}; it can only be removed, with all that it has: nats stream rm {name}"
        ));
    };
    let options: Vec<&str> = changes
        .iter()
        .map(|(option, _)| *option)
        .filter(|option| !option.is_empty())
        .collect();
    let flags: Vec<&str> = changes.iter().map(|(_, flag)| flag.as_str()).collect();
    let here = match options.is_empty() {
        true => String::new(),
        false => format!("set {} as it is, or ", options.join(" and ")),
    };
    Some(format!(
        "stream {name} differs from what this daemon is to use: {what}; {here}change it: nats stream edit {name} {}",
        flags.join(" ")
    ))
}
