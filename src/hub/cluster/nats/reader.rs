//! All that is behind a place of a stream, as it comes.
//!
//! The server delivers what it is asked for: so many messages and bytes at most are on their way or wait here. When
//! the last of them is taken, it is asked again. It numbers what it delivers: places that are missing although no
//! delivery is, are missing in the stream.

use std::fmt;
use std::time::Duration;

use async_nats::jetstream;
use async_nats::{Message, StatusCode, Subscriber};
use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::connection::{ConnectionState, unreadable};
use super::error::NatsError;
use super::names::Subject;
use super::stream::{ChannelStream, Entry, milliseconds};

/// Messages and bytes that the server is asked for at once.
const MESSAGES_MAX: u32 = 64;
const BYTES_MAX: usize = 8 * 1024 * 1024;

/// What a message takes at most beside its payload: its subject, and that to which it is answered.
const SUBJECTS_BYTES_MAX: usize = 4096;

/// Time for which the server keeps what it is asked for.
const REQUEST_EXPIRES: Duration = Duration::from_secs(30);

/// Time after which the server says that it has nothing, and after which it is taken for dead if it says nothing.
const HEARTBEAT: Duration = Duration::from_secs(4);
const SILENCE_MAX: Duration = Duration::from_secs(9);

/// All that is behind a place, from there on, for ever.
pub(crate) struct StreamReader {
    stage: Stage,
}

enum Stage {
    Opening(BoxFuture<'static, Result<Reading, NatsError>>),
    Reading(Box<Reading>),
    Ended(NatsError),
}

struct Reading {
    stream: ChannelStream,
    connection: watch::Receiver<ConnectionState>,
    consumer: String,
    inbox: String,
    subscriber: Subscriber,
    /// The last place, as the leader said when this began; 0 if the stream had no message.
    end: u64,
    /// Requests that were made: the last is answered to the subject of this number.
    requests: u64,
    /// Messages that are still to come of it, and the bytes that each asks for at most: a message that is larger could never
    /// be delivered.
    asked: u32,
    bytes: usize,
    /// Messages that the server has delivered.
    delivered: u64,
    heard: Instant,
}

impl ChannelStream {
    /// All that is behind `place`, for ever.
    pub(crate) fn read_behind(&self, place: u64) -> StreamReader {
        let from = json!({"deliver_policy": "by_start_sequence", "opt_start_seq": place + 1});
        StreamReader::new(self.clone(), place, from, BYTES_MAX)
    }

    /// The same for who reads a few of them and waits: not many more bytes than these come at once.
    pub(crate) fn read_slices_behind(&self, place: u64, bytes: usize) -> StreamReader {
        let from = json!({"deliver_policy": "by_start_sequence", "opt_start_seq": place + 1});
        StreamReader::new(self.clone(), place, from, bytes)
    }

    /// All that is about this, for ever.
    pub(super) fn read_of(&self, subject: Subject) -> StreamReader {
        let of = json!({"deliver_policy": "all", "filter_subject": self.subject(subject)});
        StreamReader::new(self.clone(), 0, of, BYTES_MAX)
    }
}

impl fmt::Debug for StreamReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamReader").finish_non_exhaustive()
    }
}

impl StreamReader {
    /// What a consumer of this configuration has, in a stream that reaches to this place.
    fn new(stream: ChannelStream, place: u64, consumer: Value, bytes: usize) -> StreamReader {
        let opening = Box::pin(Reading::open(stream, place, consumer, bytes));
        StreamReader {
            stage: Stage::Opening(opening),
        }
    }

    /// The next message. Cancel safe.
    ///
    /// # Errors
    /// The reader has ended, and says the same from then on: make another behind the last place that was taken.
    pub(crate) async fn next(&mut self) -> Result<Entry, NatsError> {
        let next = match self.reading().await {
            Ok(reading) => reading.next().await,
            Err(error) => Err(error),
        };
        next.inspect_err(|error| self.stage = Stage::Ended(error.clone()))
    }

    /// The last place that the stream had when this began to read; 0 if it had no message then. Cancel safe.
    ///
    /// # Errors
    /// Those of [`StreamReader::next`].
    pub(crate) async fn end(&mut self) -> Result<u64, NatsError> {
        Ok(self.reading().await?.end)
    }

    async fn reading(&mut self) -> Result<&mut Reading, NatsError> {
        if let Stage::Opening(opening) = &mut self.stage {
            self.stage = match opening.await {
                Ok(reading) => Stage::Reading(Box::new(reading)),
                Err(error) => Stage::Ended(error),
            };
        }
        match &mut self.stage {
            Stage::Reading(reading) => Ok(reading),
            Stage::Ended(error) => Err(error.clone()),
            Stage::Opening(_) => Err(NatsError::Away("it is not open".into())),
        }
    }
}

impl Reading {
    async fn open(
        stream: ChannelStream,
        place: u64,
        consumer: Value,
        bytes: usize,
    ) -> Result<Reading, NatsError> {
        let nats = &stream.nats;
        let mut connection = nats.watch();
        connection.borrow_and_update();
        let inbox = nats.client.new_inbox();
        let subject = format!("{inbox}.*");
        let subscriber = nats
            .while_connected(&subject, nats.client.subscribe(subject.clone()))
            .await?;
        let subscriber = subscriber.map_err(|error| NatsError::away(&error))?;
        let consumer = stream.make_consumer(consumer).await?;
        // Only some servers say so of the consumer: others let it wait until the stream has grown.
        let info = stream.info().await?;
        let last = info.last;
        if last < place {
            let why = format!("the stream ends at {last}, before {place}: it is another");
            return Err(NatsError::Away(why));
        }
        Ok(Reading {
            bytes: bytes.max(stream.nats.max_payload() + SUBJECTS_BYTES_MAX),
            stream,
            connection,
            consumer: consumer.name,
            inbox,
            subscriber,
            end: if info.first <= last { last } else { 0 },
            requests: 0,
            asked: 0,
            delivered: 0,
            heard: Instant::now(),
        })
    }

    async fn next(&mut self) -> Result<Entry, NatsError> {
        loop {
            if self.asked == 0 {
                self.ask().await?;
            }
            // What has come is taken first: it is good, whatever has happened to the connection since.
            let message = tokio::select! {
                biased;
                message = self.subscriber.next() => message,
                _ = self.connection.changed() => {
                    return Err(NatsError::Away("the connection to NATS was lost".into()));
                }
                () = sleep_until(self.heard + SILENCE_MAX) => {
                    return Err(NatsError::Away("the server says nothing of the stream".into()));
                }
            };
            let message = message
                .ok_or_else(|| NatsError::Away("the connection to NATS was closed".into()))?;
            self.heard = Instant::now();
            if let Some(entry) = self.take(message)? {
                return Ok(entry);
            }
        }
    }

    /// Asks for more. Cancel safe: what was not sent is not counted.
    async fn ask(&mut self) -> Result<(), NatsError> {
        let nats = &self.stream.nats;
        self.requests += 1;
        let body = json!({
            "batch": MESSAGES_MAX,
            "max_bytes": self.bytes,
            "expires": REQUEST_EXPIRES.as_nanos() as u64,
            "idle_heartbeat": HEARTBEAT.as_nanos() as u64,
        });
        let subject = format!(
            "$JS.API.CONSUMER.MSG.NEXT.{}.{}",
            self.stream.name, self.consumer
        );
        let reply = format!("{}.{}", self.inbox, self.requests);
        let sent =
            nats.client
                .publish_with_reply(subject.clone(), reply, Bytes::from(body.to_string()));
        let sent = nats.while_connected(&subject, sent).await?;
        sent.map_err(|error| NatsError::away(&error))?;
        (self.asked, self.heard) = (MESSAGES_MAX, Instant::now());
        Ok(())
    }

    /// The message, unless it is what the server says of the request.
    fn take(&mut self, message: Message) -> Result<Option<Entry>, NatsError> {
        let status = message.status.unwrap_or(StatusCode::OK);
        if status != StatusCode::OK {
            return self.note(status, &message).map(|()| None);
        }
        let context = self.stream.nats.context.clone();
        let message = jetstream::Message { message, context };
        let info = message.info().map_err(|error| unreadable(&error))?;
        if info.consumer_sequence != self.delivered + 1 {
            return Err(missed(self.delivered, info.consumer_sequence));
        }
        self.delivered += 1;
        self.asked = self.asked.saturating_sub(1);
        Ok(Some(Entry {
            place: info.stream_sequence,
            time_ms: milliseconds(info.published.unix_timestamp_nanos()),
            pending: info.pending,
            body: message.message.payload.clone(),
        }))
    }

    fn note(&mut self, status: StatusCode, message: &Message) -> Result<(), NatsError> {
        let words = message.description.as_deref().unwrap_or("nothing more");
        match status {
            StatusCode::IDLE_HEARTBEAT => {
                let headers = message.headers.as_ref();
                let last = headers.and_then(|headers| headers.get("Nats-Last-Consumer"));
                match last.and_then(|last| last.as_str().parse().ok()) {
                    Some(last) if last > self.delivered => Err(missed(self.delivered, last)),
                    _ => Ok(()),
                }
            }
            StatusCode::TIMEOUT | StatusCode::REQUEST_TERMINATED
                if matches!(
                    words,
                    "Request Timeout" | "Message Size Exceeds MaxBytes" | "Batch Completed"
                ) =>
            {
                let request = message.subject.rsplit('.').next();
                if request == Some(&self.requests.to_string()) {
                    self.asked = 0;
                }
                Ok(())
            }
            StatusCode::NO_RESPONDERS => Err(NatsError::Away(
                "the server knows this reader no more".into(),
            )),
            status => Err(NatsError::Away(format!(
                "the server ends the reading of the stream: {status} {words}"
            ))),
        }
    }
}

/// The server need not keep for 30 s what nobody asks any more.
impl Drop for Reading {
    fn drop(&mut self) {
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        let (stream, consumer) = (&self.stream.name, &self.consumer);
        let subject = format!("$JS.API.CONSUMER.DELETE.{stream}.{consumer}");
        let client = self.stream.nats.client.clone();
        runtime.spawn(async move { client.publish(subject, Bytes::new()).await });
    }
}

fn missed(delivered: u64, then: u64) -> NatsError {
    NatsError::Away(format!(
        "a message of the stream was lost on its way: delivery {then} came after {delivered}"
    ))
}
