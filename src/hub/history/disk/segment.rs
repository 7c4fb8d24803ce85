//! One file of a history, as its readers see it.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::codec::{HEAD_BYTES, Head};
use super::error::HistoryError;
use super::header::Header;
use super::index::{Entry, Index, Later, Place, STEP};
use super::storage;
use super::window::{Found, Window, read_at};
use crate::hub::history::record::Record;
use crate::hub::part::Kind;
use crate::wire::ids::Seq;

/// Ends of the last reads that are remembered: readers who go on from there find their place at once.
const READS: usize = 64;

/// A segment. What its file holds up to [`Stored::end`] does not change any more; nothing reads behind that.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) path: PathBuf,
    /// Without its sessions.
    pub(super) header: Header,
    pub(super) header_len: u64,
    /// Opened by the first who needs it and shared for as long as somebody does: it stays readable when it
    /// has lost its name.
    file: Mutex<Weak<File>>,
    stored: Mutex<Stored>,
    /// Held while the file is read for the index: those who need the same one wait for it, and nobody else.
    indexing: Mutex<()>,
}

/// What readers get to see of a segment.
#[derive(Debug)]
struct Stored {
    end: Place,
    times: Option<Times>,
    index: Option<Index>,
    /// Numbers that reads ended before, and where those begin.
    reads: Vec<(Seq, u64)>,
}

/// When the records of a segment were published.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Times {
    /// The first, by the wall clock.
    pub(super) first_ms: u64,
    /// The last, by the clock that goes on steadily.
    pub(super) last_boot_ms: i64,
}

/// Records that were written and are to be seen.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) segment: Arc<Segment>,
    pub(super) end: Place,
    pub(super) times: Times,
    pub(super) entries: Vec<Entry>,
}

impl Segment {
    /// A segment of which all before `end` is to be seen. Without an index, the first who needs it makes it.
    pub(super) fn new(
        path: PathBuf,
        mut header: Header,
        header_len: u64,
        file: &Arc<File>,
        end: Place,
        times: Option<Times>,
        index: Option<Index>,
    ) -> Segment {
        header.sessions = Vec::new();
        Segment {
            path,
            header,
            header_len,
            file: Mutex::new(Arc::downgrade(file)),
            stored: Mutex::new(Stored {
                end,
                times,
                index,
                reads: Vec::new(),
            }),
            indexing: Mutex::new(()),
        }
    }

    /// Where what is to be seen ends.
    pub(super) fn end(&self) -> Place {
        self.stored.lock().end
    }

    /// When its records were published; `None` if it has none.
    pub(super) fn times(&self) -> Option<Times> {
        self.stored.lock().times
    }

    pub(super) fn is_empty(&self) -> bool {
        self.end().at == self.header_len
    }

    /// To go on with the index. A segment that is written to has one.
    pub(super) fn later(&self) -> Later {
        let stored = self.stored.lock();
        stored.index.as_ref().map(Index::later).unwrap_or_default()
    }

    /// Lets readers see what was written.
    pub(super) fn show(&self, written: Written) {
        let mut stored = self.stored.lock();
        stored.end = written.end;
        let times = stored.times.get_or_insert(written.times);
        times.last_boot_ms = written.times.last_boot_ms;
        if let Some(index) = &mut stored.index {
            index.append(written.entries);
        }
    }

    /// The index is to be made anew by the next who needs it.
    pub(super) fn forget_index(&self) {
        self.stored.lock().index = None;
    }

    /// The file, to be read.
    pub(super) fn file(&self) -> io::Result<Arc<File>> {
        let mut shared = self.file.lock();
        if let Some(file) = shared.upgrade() {
            return Ok(file);
        }
        let file = storage::open(&self.path)?;
        let file = Arc::new(file);
        *shared = Arc::downgrade(&file);
        Ok(file)
    }

    /// Records from the one that holds `from` on: one at least, more as long as they have at most `bytes_max`
    /// bytes together.
    pub(super) fn read(&self, from: Seq, bytes_max: usize) -> io::Result<Vec<Record>> {
        let file = self.file()?;
        let limit = self.end().at;
        let (seq, at) = self.place_of(&file, from)?;
        // What lies between the entry of the index and the record is read as well.
        let before = if seq == from { 0 } else { STEP as usize };
        let step = bytes_max.max(HEAD_BYTES).saturating_add(before);
        let mut window = Window::new(&file, self.header.salt, at, limit, step);
        let mut next = seq;
        let mut records = Vec::new();
        let mut bytes = 0;
        loop {
            let at = window.at();
            let head = match window.head(next)? {
                Found::Record(head) => head,
                Found::End => break,
                Found::Bad(_) if !records.is_empty() => break,
                Found::Bad(bad) => return Err(self.damaged(at, bad.what)),
            };
            let behind = head.next_seq();
            if behind <= from {
                window.skip(&head);
                next = behind;
                continue;
            }
            bytes += head.record_len();
            let is_enough = bytes > bytes_max as u64 || !window.has(&head);
            if is_enough && !records.is_empty() {
                break;
            }
            match window.record(&head)? {
                Found::Record(record) => records.push(record),
                // Whoever asks for it next is told.
                _ if !records.is_empty() => break,
                Found::Bad(bad) => return Err(self.damaged(at, bad.what)),
                Found::End => break,
            }
            next = behind;
        }
        if records.is_empty() {
            return Err(self.damaged(window.at(), "a record is missing"));
        }
        self.remember(next, window.at());
        Ok(records)
    }

    /// A record at or before the one that holds `seq`.
    fn place_of(&self, file: &File, seq: Seq) -> io::Result<(Seq, u64)> {
        if let Some(read) = self.stored.lock().reads.get(slot(seq))
            && read.0 == seq
        {
            return Ok(*read);
        }
        let place = self.place_before(file, |entry| entry.place.seq <= seq)?;
        Ok((place.seq, place.at))
    }

    fn remember(&self, next: Seq, at: u64) {
        let mut stored = self.stored.lock();
        if stored.reads.is_empty() {
            stored.reads = vec![(Seq(0), 0); READS];
        }
        stored.reads[slot(next)] = (next, at);
    }

    /// The last entry of the index of which `is_before` is true, else the start of the segment.
    fn place_before(&self, file: &File, is_before: impl Fn(&Entry) -> bool) -> io::Result<Place> {
        let start = Place::first(&self.header, self.header_len);
        let found = |index: &Index| index.last(&is_before).unwrap_or(start);
        if let Some(index) = &self.stored.lock().index {
            return Ok(found(index));
        }
        let _alone = self.indexing.lock();
        if let Some(index) = &self.stored.lock().index {
            return Ok(found(index));
        }
        let index = self.make_index(file)?;
        let place = found(&index);
        self.stored.lock().index = Some(index);
        Ok(place)
    }

    /// Reads the heads of all records. It ends at damage: who reads there is told.
    fn make_index(&self, file: &File) -> io::Result<Index> {
        let mut index = Index::default();
        self.walk(
            file,
            Place::first(&self.header, self.header_len),
            |place, head| {
                index.add(place, head);
                false
            },
        )?;
        Ok(index)
    }

    /// Reads heads from `place` on until `is_found`, the end or damage: the place that it came to, and the
    /// head if it was found.
    fn walk(
        &self,
        file: &File,
        mut place: Place,
        mut is_found: impl FnMut(Place, &Head) -> bool,
    ) -> io::Result<(Place, Option<Head>)> {
        let limit = self.end().at;
        let mut window = Window::new(file, self.header.salt, place.at, limit, STEP as usize);
        while let Found::Record(head) = window.head(place.seq)? {
            if is_found(place, &head) {
                return Ok((place, Some(head)));
            }
            window.skip(&head);
            place = place.behind(&head);
        }
        Ok((place, None))
    }

    /// The number of a message of the segment, which is counted from the first there ever was, 0.
    pub(super) fn seq_of(&self, message: u64) -> io::Result<Seq> {
        let file = self.file()?;
        let start = self.place_before(&file, |entry| entry.place.messages <= message)?;
        let holds = |place: Place, head: &Head| place.behind(head).messages > message;
        let (place, found) = self.walk(&file, start, holds)?;
        let record = self.record(&file, place, found)?;
        let mut seq = record.first_seq;
        let mut ahead = message.saturating_sub(place.messages);
        for part in &record.parts {
            if part.kind == Kind::Lines && ahead < u64::from(part.messages) {
                break;
            }
            ahead = ahead.saturating_sub(part.messages.into());
            seq = Seq(seq.0 + part.numbers());
        }
        Ok(Seq(seq.0 + ahead))
    }

    /// The first message whose line begins at this byte or behind it. Both are counted from the first there
    /// ever was, 0.
    pub(super) fn message_from_byte(&self, byte: u64) -> io::Result<u64> {
        let file = self.file()?;
        let start = self.place_before(&file, |entry| entry.place.bytes <= byte)?;
        let holds = |place: Place, head: &Head| place.behind(head).bytes > byte;
        let (place, found) = self.walk(&file, start, holds)?;
        let ahead = byte.saturating_sub(place.bytes) as usize;
        if ahead == 0 {
            return Ok(place.messages);
        }
        let record = self.record(&file, place, found)?;
        // Whether a line begins right there is said by the byte before.
        let begun = record.raw.get(..ahead - 1).unwrap_or(&record.raw);
        let lines = memchr::memchr_iter(b'\n', begun).count() as u64;
        Ok(place.messages + lines + 1)
    }

    /// The first message of the first record that is not older.
    pub(super) fn message_since(&self, time_ms: u64) -> io::Result<u64> {
        let file = self.file()?;
        let start = self.place_before(&file, |entry| entry.time_ms < time_ms)?;
        let (place, _) = self.walk(&file, start, |_, head| head.time_ms >= time_ms)?;
        Ok(place.messages)
    }

    fn record(&self, file: &File, place: Place, found: Option<Head>) -> io::Result<Record> {
        let Some(head) = found else {
            return Err(self.damaged(place.at, "a record is missing"));
        };
        let end = place.behind(&head).at;
        let mut window = Window::new(file, self.header.salt, place.at, end, 0);
        match window.record(&head)? {
            Found::Record(record) => Ok(record),
            Found::Bad(bad) => Err(self.damaged(place.at, bad.what)),
            Found::End => Err(self.damaged(place.at, "a record is missing")),
        }
    }

    fn damaged(&self, at: u64, what: &str) -> io::Error {
        HistoryError::damaged(&self.path, at, what).into()
    }
}

/// Where the end of a read before this number is remembered.
fn slot(seq: Seq) -> usize {
    (seq.0 % READS as u64) as usize
}

/// When the first record of a segment was published, as far as its head can be read.
pub(super) fn first_time(file: &File, header: &Header, header_len: u64) -> Option<u64> {
    let bytes = read_at(file, header_len, HEAD_BYTES).ok()?;
    let head = Head::read(header.salt, bytes[..].try_into().ok()?).ok()?;
    Some(head.time_ms)
}

/// Name of the file of a segment.
pub(super) fn file_name(first: Seq) -> String {
    format!("{:020}.log", first.0)
}

/// The first number of a segment, by its file.
pub(super) fn first_of(path: &Path) -> Option<Seq> {
    let name = path.file_name()?.to_str()?;
    let digits = name.strip_suffix(".log")?;
    let is_number = digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| digits.parse().ok().map(Seq))?
}
