//! A channel's files, checked from the first byte to the last.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;

use super::chain::{Ended, Opened, follows, is_torn};
use super::error::{Damage, HistoryError};
use super::folder::{half_made_in, segments_in};
use super::header::{Header, NoHeader};
use super::index::Place;
use super::segment::first_of;
use super::storage;
use super::window::{Bad, Found, Window, read_at};
use crate::wire::ids::{Epoch, Seq};

/// How often, and at which intervals, an end that is not whole is looked at before it is one.
const SETTLE_LOOKS: u32 = 5;
const SETTLE_INTERVAL: Duration = Duration::from_millis(20);

/// Bytes that are read at once.
const STEP: usize = 1024 * 1024;

/// What is in a channel's files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    /// That of the last segment.
    pub(crate) epoch: Option<Epoch>,
    pub(crate) segments: u64,
    pub(crate) records: u64,
    pub(crate) messages: u64,
    /// Bytes of all files.
    pub(crate) bytes: u64,
    /// The first number and the last.
    pub(crate) numbers: Option<(Seq, Seq)>,
    /// When the first record and the last were published, in milliseconds since 1970.
    pub(crate) times_ms: Option<(u64, u64)>,
    pub(crate) damages: Vec<Damage>,
    /// Files of which a daemon that was killed has left an end that is not whole, and what the next start makes of
    /// it.
    pub(crate) unfinished: Vec<(PathBuf, String)>,
}

/// Reads all segments in a folder.
///
/// # Errors
/// The system's. Damage is in the report.
pub(crate) fn check(folder: &Path) -> Result<Report, HistoryError> {
    let mut report = Report::default();
    let paths = segments_in(folder)?;
    let mut before: Option<Opened> = None;
    for (at, path) in paths.iter().enumerate() {
        let is_last = at + 1 == paths.len();
        let file = match storage::open(path) {
            // It has just been removed as the oldest.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(HistoryError::Damaged(damage)) => {
                report.damages.push(damage);
                before = None;
                continue;
            }
            file => Arc::new(file?),
        };
        report.segments += 1;
        let opened = match Header::read(&file, path) {
            Ok((header, header_len, len)) => Opened {
                path: path.clone(),
                file,
                header,
                header_len,
                len,
            },
            Err(NoHeader::Refused(HistoryError::Damaged(damage))) => {
                report.damages.push(damage);
                before = None;
                continue;
            }
            Err(NoHeader::Refused(error)) => return Err(error),
            Err(NoHeader::Bad(what)) if is_last && is_torn(&file, path, Ended::Killed)? => {
                let what = format!("has no whole header: {what}; the next start removes it");
                report.unfinished.push((path.clone(), what));
                continue;
            }
            Err(NoHeader::Bad(what)) => {
                report.damage(path, 0, what);
                before = None;
                continue;
            }
        };
        report.epoch = Some(opened.header.epoch);
        report.bytes += opened.len;
        if first_of(path) != Some(opened.header.first_seq) {
            let what = format!("its records begin with {}", opened.header.first_seq);
            report.damage(path, 0, what);
        }
        if let Some(before) = &mut before
            && let Err(gap) = follows(before, &opened.header, Ended::Killed)
        {
            report.damage(&gap.file, gap.offset, gap.what);
        }
        let walked = report.walk(&opened, is_last);
        let next = walked.map_err(HistoryError::of("read", path))?;
        let following = paths.get(at + 1).and_then(|path| first_of(path));
        if let (Some(next), Some(following)) = (next, following)
            && next != following
        {
            let what =
                format!("its records end before {next}, and the next file begins with {following}");
            report.damage(path, opened.len, what);
        }
        before = Some(opened);
    }
    let half_made = half_made_in(folder)?.into_iter();
    // One that a daemon is making has its name in a moment.
    let stays = |path: &PathBuf| settles(|| path.exists());
    let what = "is half made; the next start removes it";
    let half_made = half_made.filter(stays).map(|path| (path, what.to_owned()));
    report.unfinished.extend(half_made);
    Ok(report)
}

/// Whether this is so, and stays so for as long as a daemon takes for a write.
fn settles(is_so: impl Fn() -> bool) -> bool {
    (0..SETTLE_LOOKS).all(|look| {
        if look > 0 {
            sleep(SETTLE_INTERVAL);
        }
        is_so()
    })
}

impl Report {
    fn damage(&mut self, file: &Path, offset: u64, what: impl Into<String>) {
        self.damages.push(Damage {
            file: PathBuf::from(file),
            offset,
            what: what.into(),
        });
    }

    /// Reads the records of a segment: the number behind them, if nothing was wrong.
    fn walk(&mut self, opened: &Opened, is_last: bool) -> io::Result<Option<Seq>> {
        let Opened {
            path, file, header, ..
        } = opened;
        let first = Place::first(header, opened.header_len);
        let mut window = Window::new(file, header.salt, first.at, opened.len, STEP);
        window.ends_in_zeros = is_last && header.is_always;
        let mut next = first.seq;
        let mut is_whole = true;
        loop {
            // It is checked as far as it went when that began, and to the end of the record that was written then.
            if window.at() >= opened.len {
                return Ok(is_whole.then_some(next));
            }
            let bad = match window.head(next)? {
                Found::End => return Ok(is_whole.then_some(next)),
                Found::Bad(bad) => bad,
                Found::Record(head) => match window.record(&head)? {
                    Found::End => return Ok(is_whole.then_some(next)),
                    Found::Bad(bad) => bad,
                    Found::Record(_) => {
                        self.records += 1;
                        self.messages += u64::from(head.messages);
                        next = head.next_seq();
                        let last = Seq(next.0.saturating_sub(1));
                        let first = self.numbers.map_or(head.first_seq, |(first, _)| first);
                        self.numbers = Some((first, last));
                        let oldest = self.times_ms.map_or(head.time_ms, |(oldest, _)| oldest);
                        self.times_ms = Some((oldest, head.time_ms));
                        continue;
                    }
                },
            };
            let at = window.at();
            if is_last {
                // A daemon that writes comes to the end of the record, or takes it back.
                let found = read_at(file, at, STEP)?;
                if !settles(|| read_at(file, at, STEP).is_ok_and(|now| now == found)) {
                    window.look_again(file.metadata()?.len());
                    continue;
                }
            }
            is_whole = false;
            match window.search(next)? {
                Some((found, seq)) => {
                    let Bad { what, .. } = bad;
                    let what = format!("{what}; the next good one is {seq}, at byte {found}");
                    self.damage(path, at, what);
                    window.go_to(found);
                    next = seq;
                }
                None if is_last && (bad.is_unfinished || !window.is_marked()?) => {
                    let (what, then) = match bad.is_unfinished {
                        true => ("of a record that is not complete", ""),
                        false => ("that are no record", ", and begins a new epoch"),
                    };
                    let end = format!(
                        "ends at byte {at} with {} bytes {what}",
                        window.limit() - at
                    );
                    let what = format!("{end}; the next start cuts them off{then}");
                    self.unfinished.push((path.clone(), what));
                    return Ok(None);
                }
                None => {
                    let what = format!(
                        "{}; none follows in {} bytes",
                        bad.what,
                        window.limit() - at
                    );
                    self.damage(path, at, what);
                    return Ok(None);
                }
            }
        }
    }
}
