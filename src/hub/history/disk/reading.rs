//! Reading, and looking for what to read.

use std::io;
use std::sync::Arc;

use super::error::is_lost;
use super::segment::Segment;
use super::shared::{Kept, Shared};
use crate::hub::history::kept::Slice;
use crate::hub::history::record::Record;
use crate::wire::ids::Seq;
use crate::wire::past::Newest;

impl Shared {
    /// Records from the one that holds `from` on: one at least, more as long as they have at most `bytes_max`
    /// bytes together. Their lines share one buffer.
    ///
    /// # Errors
    /// The system's, and damage, with the file and the offset.
    pub(super) fn read(&self, from: Seq, bytes_max: usize) -> io::Result<Slice<Record>> {
        loop {
            let segment = {
                let kept = self.kept.lock();
                let oldest = kept.oldest();
                if from < oldest {
                    return Ok(Slice::Gone { oldest });
                }
                if from >= kept.next {
                    return Ok(Slice::End);
                }
                kept.segment(|segment| segment.header.first_seq <= from)
            };
            match segment.read(from, bytes_max) {
                Err(error) if self.is_removed(&segment, &error) => {}
                read => return Ok(Slice::Records(read?)),
            }
        }
    }

    /// The first number of the newest so many; the next number to be given if that is none of them. Of what is lost,
    /// or may not be read, a number from which on so many are missed.
    ///
    /// # Errors
    /// Those of [`Shared::read`], where it may go well another time.
    pub(super) fn locate(&self, newest: Newest) -> io::Result<Seq> {
        loop {
            match self.try_locate(newest)? {
                Found::Seq(seq) => return Ok(seq),
                Found::Removed => {}
            }
        }
    }

    fn try_locate(&self, newest: Newest) -> io::Result<Found> {
        let message = match newest {
            Newest::Messages(count) => {
                let kept = self.kept.lock();
                Ok(kept.messages.saturating_sub(count))
            }
            Newest::Bytes(bytes) => {
                let kept = self.kept.lock();
                let oldest = kept.segments.front().map_or(0, |it| it.header.bytes_before);
                let byte = kept.bytes.saturating_sub(bytes).max(oldest);
                if byte >= kept.bytes {
                    return Ok(Found::Seq(kept.next));
                }
                let segment = kept.segment(|segment| segment.header.bytes_before <= byte);
                drop(kept);
                segment.message_from_byte(byte).map_err(|e| (segment, e))
            }
            Newest::Age(age) => {
                let now = self.files.storage.wall_ms();
                let kept = self.kept.lock();
                if kept.segments.is_empty() {
                    return Ok(Found::Seq(kept.next));
                }
                // A clock that was set back: the last record is of now.
                let now = now.max(kept.last_time_ms);
                let age = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
                let since = now.saturating_sub(age);
                let segment = kept.segment(|segment| segment.header.last_time_ms < since);
                drop(kept);
                segment.message_since(since).map_err(|e| (segment, e))
            }
        };
        let mut message = match message {
            Ok(message) => message,
            Err((segment, error)) => match self.is_passed(&segment, &error) {
                // All that it had is missed.
                true => segment.header.messages_before,
                false => return self.removed_or(&segment, error),
            },
        };
        let segment = {
            let kept = self.kept.lock();
            let oldest = kept
                .segments
                .front()
                .map_or(0, |it| it.header.messages_before);
            message = message.max(oldest);
            if message >= kept.messages || kept.segments.is_empty() {
                return Ok(Found::Seq(kept.next));
            }
            kept.segment(|segment| segment.header.messages_before <= message)
        };
        match segment.seq_of(message) {
            Ok(seq) => Ok(Found::Seq(seq)),
            Err(error) if self.is_passed(&segment, &error) => {
                // Who reads on from there misses as many as were asked for, is told so, and goes on behind them.
                let end = segment.end();
                let missed = end.messages.saturating_sub(message);
                let seq = end.seq.0.saturating_sub(missed);
                Ok(Found::Seq(segment.header.first_seq.max(Seq(seq))))
            }
            Err(error) => self.removed_or(&segment, error),
        }
    }

    fn removed_or(&self, segment: &Arc<Segment>, error: io::Error) -> io::Result<Found> {
        match self.is_removed(segment, &error) {
            true => Ok(Found::Removed),
            false => Err(error),
        }
    }

    /// Whether a place is found without what a segment has that is kept: it is lost, or may not be read, which the
    /// reader finds out about who gets there.
    fn is_passed(&self, segment: &Arc<Segment>, error: &io::Error) -> bool {
        let is_unreadable = is_lost(error) || error.kind() == io::ErrorKind::PermissionDenied;
        is_unreadable && !self.is_removed(segment, error)
    }

    /// Whether a segment could not be opened since it was removed meanwhile.
    fn is_removed(&self, segment: &Arc<Segment>, error: &io::Error) -> bool {
        let is_kept = |kept: &Kept| kept.segments.iter().any(|it| Arc::ptr_eq(it, segment));
        error.kind() == io::ErrorKind::NotFound && !is_kept(&self.kept.lock())
    }
}

/// Outcome of one look for a number.
enum Found {
    Seq(Seq),
    /// The segment went while it was read: to be looked for again.
    Removed,
}
