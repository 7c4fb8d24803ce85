//! `linehub history cat` and `tail`.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

use super::{FAILED, MISUSED, Stop, failed, none_in};
use crate::config::cli::HistoryReadArgs;
use crate::hub::history::Slice;
use crate::hub::history::disk::{Archive, channels};
use crate::ops::logging::print_error;
use crate::wire::format::Format;
use crate::wire::ids::Seq;
use crate::wire::past::{Newest, Since};

/// Bytes that are read at once.
const SLICE_BYTES: usize = 1024 * 1024;

/// How often `tail` looks for more.
const PERIOD: Duration = Duration::from_millis(100);

/// What `tail` begins with.
const LAST: u64 = 10;

/// Prints what there is.
pub(super) fn cat(args: &HistoryReadArgs) -> Result<ExitCode, Stop> {
    let mut reading = Reading::begin(args, None)?;
    reading.print()?;
    match reading.archive.damage() {
        Some(damage) => Err(Stop::Refused(FAILED, damage.to_string())),
        None => Ok(ExitCode::SUCCESS),
    }
}

/// Prints the newest, and what comes.
pub(super) fn tail(args: &HistoryReadArgs) -> Result<ExitCode, Stop> {
    let mut reading = Reading::begin(args, Some(Newest::Messages(LAST)))?;
    loop {
        reading.print()?;
        sleep(PERIOD);
        reading.archive.refresh().map_err(failed)?;
    }
}

/// Where a command is in a channel.
struct Reading<'a> {
    args: &'a HistoryReadArgs,
    archive: Archive,
    next: Seq,
}

impl Reading<'_> {
    fn begin(args: &HistoryReadArgs, newest: Option<Newest>) -> Result<Reading<'_>, Stop> {
        let archive = Archive::open(&folder(args)?).map_err(failed)?;
        let newest = args.last.map(Newest::Messages).or(newest);
        let next = match (args.since, newest) {
            (Some(Since::Place(epoch, seq)), _) => archive.behind(epoch, seq).ok_or_else(|| {
                Stop::Refused(
                    FAILED,
                    format!("--since: {epoch}:{seq} is no place of this history"),
                )
            })?,
            (Some(Since::Age(age)), _) => archive.locate(Newest::Age(age)).map_err(failed)?,
            (None, Some(newest)) => archive.locate(newest).map_err(failed)?,
            (None, None) => archive.oldest(),
        };
        Ok(Reading {
            args,
            archive,
            next,
        })
    }

    /// Prints all that there is by now.
    fn print(&mut self) -> Result<(), Stop> {
        let format = self.args.format.unwrap_or(Format::Text);
        let mut out = io::stdout().lock();
        loop {
            match self.archive.read(self.next, SLICE_BYTES) {
                Ok(Slice::Records(records)) => {
                    for record in records {
                        let bytes = record.formatted(format, self.next);
                        out.write_all(&bytes).map_err(Stop::Output)?;
                        self.next = record.next_seq();
                    }
                }
                Ok(Slice::Gone { oldest }) => {
                    let (first, last) = (self.next, oldest.0.saturating_sub(1));
                    print_error(&format!("numbers {first} to {last} are not kept any more"));
                    self.next = oldest;
                }
                Ok(Slice::End) => return out.flush().map_err(Stop::Output),
                // It was the oldest, and was removed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    self.archive.refresh().map_err(failed)?;
                    if self.archive.oldest() <= self.next {
                        return Err(failed(error));
                    }
                }
                Err(error) => return Err(failed(error)),
            }
        }
    }
}

/// The folder of the channel that is to be read.
fn folder(args: &HistoryReadArgs) -> Result<PathBuf, Stop> {
    let mut channels = channels(&args.dir).map_err(failed)?;
    if channels.is_empty() {
        return Err(none_in(&args.dir));
    }
    let names: Vec<_> = channels.iter().map(|(name, _)| name.clone()).collect();
    if let Some(wanted) = &args.channel {
        channels.retain(|(name, _)| name == wanted.as_str());
    }
    match (channels.pop(), channels.is_empty()) {
        (Some((_, folder)), true) => Ok(folder),
        (Some(_), false) => {
            let names = names.join(", ");
            Err(Stop::Refused(
                MISUSED,
                format!("say which of these channels with --channel: {names}"),
            ))
        }
        (None, _) => {
            let names = names.join(", ");
            Err(Stop::Refused(
                MISUSED,
                format!("--channel: no such channel in there; there is {names}"),
            ))
        }
    }
}
