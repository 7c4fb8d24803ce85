//! What is counted over all records of a channel that there ever were.

use std::collections::HashMap;

use super::header::Published;
use crate::hub::history::record::Record;
use crate::wire::ids::{Epoch, Seq};
use crate::wire::session::SessionKey;

/// What the next record goes on from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) epoch: Epoch,
    pub(super) next: Seq,
    /// Messages ever, and the bytes of their lines.
    pub(super) messages: u64,
    pub(super) bytes: u64,
    /// Above every client's that is named in a record.
    pub(super) next_id: u64,
    pub(super) last_time_ms: u64,
}

/// Sessions by name.
pub(super) type Sessions = HashMap<SessionKey, Published>;

/// What the sessions were before records were taken in; the oldest first.
pub(super) type Before = Vec<(SessionKey, Option<Published>)>;

impl Totals {
    /// Takes in the next record.
    pub(super) fn add(&mut self, record: &Record) {
        self.next = record.next_seq();
        self.messages += record.messages();
        self.bytes += record.raw.len() as u64;
        self.last_time_ms = self.last_time_ms.max(record.time_ms);
        let highest = record.origins.iter().map(|origin| origin.0).max();
        let above = highest.map_or(0, |highest| highest.saturating_add(1));
        self.next_id = self.next_id.max(above);
    }
}

/// Takes in the sessions of a record.
pub(super) fn add_sessions(sessions: &mut Sessions, record: &Record, before: &mut Before) {
    if record.sessions.is_empty() {
        return;
    }
    let mut behind = record.first_seq;
    let mut last_of = Vec::with_capacity(record.parts.len());
    for part in &record.parts {
        behind = Seq(behind.0 + part.numbers());
        last_of.push(Seq(behind.0.saturating_sub(1)));
    }
    for (part, name, taken) in &record.sessions {
        let Some(last) = last_of.get(*part as usize) else {
            continue;
        };
        let published = Published {
            taken: *taken,
            last: *last,
        };
        let old = sessions.insert(name.clone(), published);
        before.push((name.clone(), old));
    }
}

/// Takes what was added out again.
pub(super) fn restore_sessions(sessions: &mut Sessions, before: Before) {
    for (name, old) in before.into_iter().rev() {
        match old {
            Some(old) => sessions.insert(name, old),
            None => sessions.remove(&name),
        };
    }
}
