//! Why something of NATS was not done.

use std::fmt;

use async_nats::jetstream::{self, ErrorCode};

/// Why NATS did not do what it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NatsError {
    /// It may pass: not connected, no answer, no leader. In words for a person.
    Away(String),
    /// The stream does not exist.
    NoStream,
    /// It does not pass by itself: permissions, limits. In words for a person.
    Denied(String),
}

/// Why there is no stream for a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StreamError {
    /// One exists that is another than what is wanted: which values, and how to mend it.
    Differs { what: String },
    /// It may pass.
    Away(NatsError),
    /// It does not pass by itself. In words for a person.
    Denied(String),
}

/// Why a request has no answer.
#[derive(Debug)]
pub(super) enum Unanswered {
    /// It may have been done.
    Away(String),
    /// Nobody takes such requests now: it was not done.
    NobodyThere,
    /// It was not done.
    Denied(String),
}

impl NatsError {
    pub(super) fn away(why: &impl fmt::Display) -> NatsError {
        NatsError::Away(why.to_string())
    }
}

impl fmt::Display for NatsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NatsError::Away(why) | NatsError::Denied(why) => f.write_str(why),
            NatsError::NoStream => f.write_str("the stream does not exist"),
        }
    }
}

impl std::error::Error for NatsError {}

impl fmt::Display for StreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StreamError::Differs { what } | StreamError::Denied(what) => f.write_str(what),
            StreamError::Away(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for StreamError {}

impl From<Unanswered> for NatsError {
    fn from(why: Unanswered) -> NatsError {
        match why {
            Unanswered::Away(why) => NatsError::Away(why),
            Unanswered::Denied(why) => NatsError::Denied(why),
            Unanswered::NobodyThere => NatsError::Away(
                "JetStream does not answer: the server runs without it, or has no leader yet"
                    .into(),
            ),
        }
    }
}

impl From<jetstream::Error> for NatsError {
    fn from(error: jetstream::Error) -> NatsError {
        let why = words(&error);
        match error.error_code() {
            ErrorCode::STREAM_NOT_FOUND => NatsError::NoStream,
            _ if is_lasting(&error) => NatsError::Denied(why),
            _ => NatsError::Away(why),
        }
    }
}

impl From<NatsError> for StreamError {
    fn from(error: NatsError) -> StreamError {
        match error {
            NatsError::Denied(why) => StreamError::Denied(why),
            error => StreamError::Away(error),
        }
    }
}

/// What the server said, as a person reads it.
pub(super) fn words(error: &jetstream::Error) -> String {
    format!("the server says: {error}")
}

/// Whether what the server said does not pass by itself.
fn is_lasting(error: &jetstream::Error) -> bool {
    match error.error_code() {
        ErrorCode::JETSTREAM_NOT_ENABLED
        | ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT
        | ErrorCode::INSUFFICIENT_RESOURCES
        | ErrorCode::STORAGE_RESOURCES_EXCEEDED => true,
        // Servers may come back that make them enough.
        ErrorCode::CLUSTER_NO_PEERS | ErrorCode::CLUSTER_NOT_LEADER => false,
        _ => error.code() != 503 && error.code() != 404,
    }
}
