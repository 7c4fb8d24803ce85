//! The stream of a channel: what is asked of it, and what is stored in it.

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::datetime::parse_rfc3339;
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::response::Response;
use async_nats::jetstream::{self, ErrorCode, stream::Info};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::connection::{ANSWER_TIMEOUT, Nats, unreadable};
use super::error::{NatsError, Unanswered, words};
use super::names::{self, Subject};
use crate::hub::cluster::batch::NodeId;

/// Message of the server when the last sequence is not the expected one and it does not say what it is.
const WRONG_LAST_SEQUENCE_CONSTANT: ErrorCode = ErrorCode(10164);

/// Times in which a consumer is there, unless the server that leads the others has given it to one that is not: some do
/// so for as long as they do not know that it is dead. Another is asked for then.
const CONSUMER_TIMES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(2)];

/// The stream of a channel. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct ChannelStream {
    pub(super) nats: Nats,
    pub(super) name: String,
    prefix: String,
}

/// What a stream has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StreamInfo {
    /// When the server created it, in nanoseconds since 1970: tells streams of the same name apart.
    pub(crate) id: u64,
    /// Place of the first message. Of a stream without one: behind the last, or 0 if there never was one.
    pub(crate) first: u64,
    /// Place of the last message that it had; 0 before the first.
    pub(crate) last: u64,
    pub(crate) bytes: u64,
    pub(crate) messages: u64,
}

/// A message with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) place: u64,
    /// When the server stored it, in milliseconds since 1970.
    pub(crate) time_ms: u64,
    pub(crate) body: Bytes,
    /// Messages behind it in the stream, as the server said; 0 if it was looked up.
    pub(crate) pending: u64,
}

/// A message is in the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stored {
    At(u64),
    /// The server had this message id already; nothing is known of where.
    Duplicate,
}

/// Why a message is not known to be in the stream. In words for a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PublishError {
    /// The last place was another: it is certain that nothing was stored.
    NotLast,
    /// It is certain that nothing was stored.
    Refused(String),
    /// It may be stored, or be stored yet.
    Unknown(String),
}

#[derive(Deserialize)]
struct Found {
    message: RawMessage,
}

#[derive(Deserialize)]
struct RawMessage {
    seq: u64,
    #[serde(default)]
    data: String,
    time: String,
}

/// What a consumer is when it was made.
#[derive(Deserialize)]
pub(super) struct Consumer {
    pub(super) name: String,
}

impl ChannelStream {
    pub(super) fn new(nats: Nats, name: String, prefix: String) -> ChannelStream {
        ChannelStream { nats, name, prefix }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// What the stream has, as its leader says.
    pub(crate) async fn info(&self) -> Result<StreamInfo, NatsError> {
        let info: Info = self
            .api(&format!("STREAM.INFO.{}", self.name), Value::Null)
            .await??;
        let state = info.state;
        Ok(StreamInfo {
            id: u64::try_from(info.created.unix_timestamp_nanos()).unwrap_or(0),
            first: state.first_sequence,
            last: state.last_sequence,
            bytes: state.bytes,
            messages: state.messages,
        })
    }

    /// The last message that is a checkpoint.
    pub(crate) async fn last_checkpoint(&self) -> Result<Option<Entry>, NatsError> {
        self.find(json!({"last_by_subj": self.subject(Subject::Checkpoint)}))
            .await
    }

    /// The last batch of this node that the stream has.
    pub(crate) async fn last_batch_of(&self, node: NodeId) -> Result<Option<Entry>, NatsError> {
        self.find(json!({"last_by_subj": self.subject(Subject::Batch(node))}))
            .await
    }

    /// Shows all checkpoints that the stream has, in their order.
    pub(crate) async fn checkpoints(&self, mut visit: impl FnMut(&Entry)) -> Result<(), NatsError> {
        let Some(last) = self.last_checkpoint().await? else {
            return Ok(());
        };
        let mut reader = self.read_of(Subject::Checkpoint);
        loop {
            let late = |_| NatsError::Away("a checkpoint did not come in time".to_owned());
            let entry = timeout(ANSWER_TIMEOUT, reader.next())
                .await
                .map_err(late)??;
            visit(&entry);
            if entry.place >= last.place {
                return Ok(());
            }
        }
    }

    /// Stores a message; waits for the answer for 5 s at most. `id`: another message with the same one is not stored, as
    /// long as the server knows it. `expected_last`: nothing is stored if the last place is another.
    ///
    /// # Errors
    /// See there. Not cancel safe in that the message may be stored.
    pub(crate) async fn publish(
        &self,
        subject: Subject,
        body: Bytes,
        id: Option<String>,
        expected_last: Option<u64>,
    ) -> Result<Stored, PublishError> {
        let mut headers = HeaderMap::new();
        if let Some(id) = id {
            headers.insert("Nats-Msg-Id", id);
        }
        if let Some(last) = expected_last {
            headers.insert("Nats-Expected-Last-Sequence", last.to_string());
        }
        self.nats.store(self.subject(subject), body, headers).await
    }

    pub(super) fn subject(&self, subject: Subject) -> String {
        names::subject(&self.prefix, subject)
    }

    async fn api<T: DeserializeOwned>(
        &self,
        what: &str,
        body: Value,
    ) -> Result<Result<T, jetstream::Error>, NatsError> {
        let body = match body.is_null() {
            true => Bytes::new(),
            false => body.to_string().into(),
        };
        self.nats.api(what, body).await
    }

    async fn find(&self, which: Value) -> Result<Option<Entry>, NatsError> {
        self.nats.find(&self.name, which).await
    }

    /// Makes a consumer without acks that lasts as long as it is used.
    pub(super) async fn make_consumer(&self, from: Value) -> Result<Consumer, NatsError> {
        let mut config = json!({
            "ack_policy": "none",
            "replay_policy": "instant",
            "inactive_threshold": 30_000_000_000_u64,
            "num_replicas": 1,
            "mem_storage": true,
        });
        if let (Some(config), Value::Object(from)) = (config.as_object_mut(), from) {
            config.extend(from);
        }
        let what = format!("CONSUMER.CREATE.{}", self.name);
        let body = json!({"stream_name": self.name, "config": config});
        for time in CONSUMER_TIMES {
            if let Ok(made) = timeout(time, self.api(&what, body.clone())).await {
                return Ok(made??);
            }
        }
        Ok(self.api(&what, body).await??)
    }
}

impl Nats {
    /// Stores a message in the stream that takes this subject.
    pub(super) async fn store(
        &self,
        subject: String,
        body: Bytes,
        headers: HeaderMap,
    ) -> Result<Stored, PublishError> {
        let answer = self.request(subject, body, Some(headers)).await;
        let answer = answer.map_err(|why| match why {
            Unanswered::Away(why) => PublishError::Unknown(why),
            Unanswered::Denied(why) => PublishError::Refused(why),
            Unanswered::NobodyThere => PublishError::Refused(
                "no stream takes it: it does not exist, or has no leader".into(),
            ),
        })?;
        match serde_json::from_slice(&answer.payload) {
            Ok(Response::Ok(PublishAck {
                duplicate: true, ..
            })) => Ok(Stored::Duplicate),
            Ok(Response::Ok(PublishAck { sequence, .. })) => Ok(Stored::At(sequence)),
            Ok(Response::Err { error }) => Err(publish_error(&error)),
            Err(error) => Err(PublishError::Unknown(unreadable(&error).to_string())),
        }
    }

    /// The message of a stream, as its leader has it.
    pub(super) async fn find(
        &self,
        stream: &str,
        which: Value,
    ) -> Result<Option<Entry>, NatsError> {
        let what = format!("STREAM.MSG.GET.{stream}");
        let found: Found = match self.api(&what, which.to_string().into()).await? {
            Ok(found) => found,
            Err(error) if error.error_code() == ErrorCode::NO_MESSAGE_FOUND => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let message = found.message;
        let time = parse_rfc3339(&message.time).map_err(|error| unreadable(&error))?;
        let body = STANDARD.decode(message.data);
        Ok(Some(Entry {
            place: message.seq,
            time_ms: milliseconds(time.unix_timestamp_nanos()),
            body: body.map_err(|error| unreadable(&error))?.into(),
            pending: 0,
        }))
    }
}

pub(super) fn milliseconds(nanoseconds: i128) -> u64 {
    u64::try_from(nanoseconds / 1_000_000).unwrap_or(0)
}

fn publish_error(error: &jetstream::Error) -> PublishError {
    let why = words(error);
    match error.error_code() {
        ErrorCode::STREAM_WRONG_LAST_SEQUENCE | WRONG_LAST_SEQUENCE_CONSTANT => {
            PublishError::NotLast
        }
        // It was about to be stored; only if a limit is named, it was not.
        ErrorCode::STREAM_STORE_FAILED if !why.contains("exceed") => PublishError::Unknown(why),
        _ => PublishError::Refused(why),
    }
}
