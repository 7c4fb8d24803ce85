//! What is too much or too old goes, a segment at a time.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::group::Group;
use super::log::{Kept, Log};
use super::segment::Segment;
use super::writer::Writer;
use crate::hub::history::Retention;

impl Writer {
    /// See [`Log::retain`].
    pub(super) fn retain(&mut self, log: &Log, retention: Retention) -> io::Result<()> {
        self.retention = retention;
        let now = log.files.storage.boot_ms();
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
            let mut group = Group::begin(self);
            match self.begin_segment(log, active.header.is_always, &mut group) {
                Ok(()) => self.show(log, group),
                Err(error) => {
                    group.take_back(self, log);
                    return Err(error.into());
                }
            }
        }
        loop {
            let mut kept = log.kept.lock();
            let is_too_much = kept.file_bytes > retention.bytes;
            let Some(oldest) = kept.segments.front().map(Arc::clone) else {
                return Ok(());
            };
            let is_to_go = is_too_much || oldest.is_empty() || is_expired(&oldest);
            if kept.segments.len() < 2 || !is_to_go {
                self.forget_sessions(&mut kept);
                return Ok(());
            }
            kept.segments.pop_front();
            kept.file_bytes -= oldest.end().at;
            drop(kept);
            if let Err(error) = log.files.storage.remove(&oldest.path) {
                let mut kept = log.kept.lock();
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

pub(super) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
