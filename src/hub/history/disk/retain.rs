//! What is too much or too old goes, a segment at a time.

use std::io;
use std::sync::Arc;

use super::segment::Segment;
use super::shared::{Kept, Shared};
use super::storage::millis;
use super::writer::Writer;
use crate::hub::history::kept::Retention;

impl Writer {
    /// See [`Log::retain`].
    pub(super) fn retain(&mut self, shared: &Shared, retention: Retention) -> io::Result<()> {
        self.retention = retention;
        let now = shared.files.storage.boot_ms();
        let is_expired = |segment: &Segment| {
            let age = segment.times().map(|times| now - times.last_boot_ms);
            age.zip(retention.age)
                .is_some_and(|(age, max)| age > millis(max))
        };
        let active = self
            .active
            .as_ref()
            .map(|active| Arc::clone(&active.segment));
        if let Some(active) = active.filter(|active| is_expired(active))
            && self.failed.is_none()
        {
            // All that is kept has expired. What goes on from it needs a file all the same.
            self.grouped(shared, |writer, group| {
                writer.begin_segment(shared, active.header.is_always, group)
            })?;
        }
        if self.is_gone {
            return Ok(());
        }
        let oldest_before = shared.kept.lock().oldest();
        loop {
            let mut kept = shared.kept.lock();
            let is_too_much = kept.file_bytes > retention.bytes;
            let Some(oldest) = kept.segments.front().map(Arc::clone) else {
                return Ok(());
            };
            let is_to_go = is_too_much || oldest.is_empty() || is_expired(&oldest);
            if kept.segments.len() < 2 || !is_to_go {
                if kept.oldest() != oldest_before {
                    self.forget_sessions(&mut kept);
                }
                return Ok(());
            }
            kept.segments.pop_front();
            kept.file_bytes -= oldest.end().at;
            drop(kept);
            let storage = &shared.files.storage;
            let lock = shared.files.verify_lock();
            if let Err(error) = lock.and_then(|()| storage.remove(&oldest.path)) {
                let mut kept = shared.kept.lock();
                kept.file_bytes += oldest.end().at;
                kept.segments.push_front(oldest);
                return Err(error.into());
            }
            self.unsynced
                .retain(|it| !Arc::ptr_eq(&it.segment, &oldest));
        }
    }

    /// Forgets the sessions whose lines are all gone.
    fn forget_sessions(&mut self, kept: &mut Kept) {
        let oldest = kept.oldest();
        self.sessions.retain(|_, it| it.last >= oldest);
        kept.sessions = self.sessions.len();
    }
}
