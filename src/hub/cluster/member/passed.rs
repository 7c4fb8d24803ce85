//! What has come since the last checkpoint: how much of the past cannot be found once that has left the stream.

use std::time::Duration;

use crate::hub::cluster::nats::StreamLimits;
use crate::hub::cluster::nats::stream::{Entry, StreamInfo};

/// Parts of what a stream keeps, in each of which there is a checkpoint: when the oldest leaves, no more than one part is
/// out of reach although the stream still has it.
const PARTS: u32 = 16;

/// What a message takes in a stream beside its body: its subject, id and head.
const HEAD_BYTES: u64 = 120;

/// What has come since the last checkpoint.
#[derive(Debug, Default)]
pub(super) struct Passed {
    bytes: u64,
    /// Times of the checkpoint and of the last message, as the server has them.
    since_ms: u64,
    last_ms: u64,
    was_much: bool,
}

impl Passed {
    /// The daemon is connected at `place` to a stream whose last checkpoint is this: what came between is not known, and
    /// taken for so many messages of the usual size.
    pub(super) fn connect(&mut self, place: u64, checkpoint: u64, time_ms: u64, info: StreamInfo) {
        let between = u128::from(place.saturating_sub(checkpoint));
        let bytes = between * u128::from(info.bytes) / u128::from(info.messages.max(1));
        self.bytes = self.bytes.max(u64::try_from(bytes).unwrap_or(u64::MAX));
        self.since_ms = time_ms;
        self.last_ms = self.last_ms.max(time_ms);
    }

    /// A message has come; `is_checkpoint`: one that is about another place than the one before it.
    pub(super) fn note(&mut self, entry: &Entry, is_checkpoint: bool) {
        self.last_ms = entry.time_ms;
        match is_checkpoint {
            true => (self.bytes, self.since_ms, self.was_much) = (0, entry.time_ms, false),
            false => self.bytes += entry.body.len() as u64 + HEAD_BYTES,
        }
    }

    /// Whether it is one part of what a stream of these limits keeps.
    pub(super) fn is_much(&self, limits: StreamLimits) -> bool {
        let time = Duration::from_millis(self.last_ms.saturating_sub(self.since_ms));
        let is_long = limits.age.is_some_and(|age| time >= age / PARTS);
        self.bytes >= limits.bytes / u64::from(PARTS) || is_long
    }

    /// Whether it is for the first time since then.
    pub(super) fn becomes_much(&mut self, limits: StreamLimits) -> bool {
        let is_much = self.is_much(limits);
        is_much && !std::mem::replace(&mut self.was_much, is_much)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: StreamLimits = StreamLimits {
        bytes: 16 << 20,
        age: Some(Duration::from_secs(160)),
    };

    fn entry(bytes: usize, time_ms: u64) -> Entry {
        Entry {
            place: 1,
            time_ms,
            body: vec![0; bytes].into(),
            pending: 0,
        }
    }

    #[test]
    fn checkpoint_is_due_after_a_part_of_the_bytes_or_of_the_time() {
        let mut passed = Passed::default();
        passed.note(&entry(100, 1000), true);
        passed.note(&entry(1 << 19, 1000), false);
        assert!(!passed.is_much(LIMITS));
        passed.note(&entry(1 << 19, 1000), false);
        assert!(passed.is_much(LIMITS));
        assert_eq!([(); 2].map(|()| passed.becomes_much(LIMITS)), [true, false]);
        passed.note(&entry(100, 2000), true);
        passed.note(&entry(100, 11_999), false);
        assert!(!passed.is_much(LIMITS));
        passed.note(&entry(100, 12_000), false);
        assert!(passed.is_much(LIMITS));
        assert!(!passed.is_much(StreamLimits {
            age: None,
            ..LIMITS
        }));
        // Another daemon goes on: 20 messages of 64 KiB are more than a part.
        let info = StreamInfo {
            id: 1,
            first: 1,
            last: 30,
            bytes: 30 << 16,
            messages: 30,
        };
        let mut passed = Passed::default();
        passed.connect(20, 15, 1000, info);
        assert!(!passed.is_much(LIMITS));
        passed.connect(30, 10, 1000, info);
        assert!(passed.is_much(LIMITS));
    }
}
