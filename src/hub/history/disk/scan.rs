//! The last segment, read whole.

use std::io;

use super::chain::Opened;
use super::error::HistoryError;
use super::index::{Index, Place};
use super::totals::{Sessions, Totals, add_sessions};
use super::window::{Bad, Found, Window};
use crate::hub::history::record::Record;
use crate::wire::ids::Seq;

/// Bytes that are read at once.
const STEP: usize = 1024 * 1024;

/// What the last segment holds.
pub(super) struct Scanned {
    pub(super) end: Place,
    pub(super) index: Index,
    pub(super) totals: Totals,
    pub(super) sessions: Sessions,
    pub(super) bad: Option<Damaged>,
}

/// What is wrong, and the place and number of a whole record behind it, if there is one.
type Damaged = (Bad, Option<(u64, Seq)>);

/// Reads all records of a segment.
pub(super) fn scan(last: &Opened) -> Result<Scanned, HistoryError> {
    let header = &last.header;
    let mut end = Place::first(header, last.header_len);
    let mut index = Index::default();
    let mut totals = Totals {
        epoch: header.epoch,
        next: header.first_seq,
        messages: header.messages_before,
        bytes: header.bytes_before,
        next_id: header.next_id,
        last_time_ms: header.last_time_ms,
    };
    let mut sessions: Sessions = header.sessions.iter().cloned().collect();
    let mut window = Window::new(&last.file, header.salt, end.at, last.len, STEP);
    window.ends_in_zeros = header.is_always;
    let mut read = || -> io::Result<Option<Damaged>> {
        loop {
            let head = match window.head(end.seq)? {
                Found::Record(head) => head,
                Found::End => return Ok(None),
                Found::Bad(bad) => return Ok(Some((bad, window.search(end.seq)?))),
            };
            let record: Record = match window.record(&head)? {
                Found::Record(record) => record,
                Found::End => return Ok(None),
                Found::Bad(bad) => return Ok(Some((bad, window.search(end.seq)?))),
            };
            index.add(end, &head);
            end = end.behind(&head);
            totals.add(&record);
            add_sessions(&mut sessions, &record, &mut Vec::new());
        }
    };
    let bad = read().map_err(HistoryError::of("read", &last.path))?;
    Ok(Scanned {
        end,
        index,
        totals,
        sessions,
        bad,
    })
}
