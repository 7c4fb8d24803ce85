//! The moment before the run: everybody is served, and from one line on all readers get the same.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use memchr::memmem;

use super::connections::{Connections, Got, Interrupt, PATIENCE, Role};
use super::line::{TAG_BYTES, Tag};
use super::line_decoder::{CloseNotice, format_of};
use super::senders::Written;
use crate::wire::format::Format;
use crate::wire::framing::{Framer, Lines, lines};

/// How long a line may take that those who are served should have. It is sent again then, for those
/// who were not yet.
const AGAIN_AFTER: Duration = Duration::from_millis(50);

/// No line on the way is longer, unless others are sending.
const LINE_BYTES_MAX: usize = 1 << 20;

/// What a barrier found.
#[derive(Debug)]
pub(super) struct Barrier {
    /// When the last connection was served.
    pub(super) served: Instant,
    pub(super) format: Format,
    /// What each reader has got after the line from which on all get the same.
    pub(super) rests: Vec<Vec<u8>>,
}

struct Waiting {
    framer: Framer,
    told: bool,
    rest: Option<Vec<u8>>,
}

impl Barrier {
    /// Lets sender 0 speak until everybody has heard it.
    pub(super) fn hold(
        connections: &mut Connections,
        tag: &Tag,
        readers: usize,
        interrupt: &mut Interrupt,
    ) -> Result<Barrier> {
        // A '!' is in no line of the run.
        let word = |word: &str| [&tag[..], b"!", word.as_bytes()].concat();
        let (probe, start) = (word("probe"), word("start"));
        let mut format = None;
        let mut waiting: Vec<Waiting> = (0..connections.len())
            .map(|who| Waiting {
                framer: Framer::new(LINE_BYTES_MAX),
                told: matches!(connections.role(who), Role::Stuck(_) | Role::Sender(0)),
                rest: None,
            })
            .collect();
        let deadline = Instant::now() + PATIENCE;
        let mut ready = Vec::new();
        let mut buffer = vec![0; 256 * 1024];
        let mut again = Instant::now();
        let mut served = None;
        loop {
            interrupt.check()?;
            let now = Instant::now();
            if served.is_none() && waiting.iter().all(|waiting| waiting.told) {
                served = Some(now);
                say(connections, &start)?;
            } else if served.is_none() && now >= again {
                say(connections, &probe)?;
                again = now + AGAIN_AFTER;
            }
            let started = waiting
                .iter()
                .filter(|waiting| waiting.rest.is_some())
                .count();
            if let (Some(served), true) = (served, started == readers) {
                return Ok(Barrier {
                    served,
                    format: format.unwrap_or(Format::Raw),
                    rests: rests(connections, waiting, readers),
                });
            }
            if now > deadline {
                let missing = match served {
                    None => waiting.iter().filter(|waiting| !waiting.told).count(),
                    Some(_) => readers - started,
                };
                bail!("{missing} connections were made and yet get no lines");
            }
            connections.wait(Duration::from_millis(10), &mut ready)?;
            for event in ready.iter().filter(|event| event.readable) {
                let who = event.who;
                let count = match connections.read(who, &mut buffer) {
                    Got::Bytes(count) => count,
                    Got::Nothing => continue,
                    Got::End(reason) => bail!("{}", ended(&waiting[who], reason.label())),
                };
                let is_reader = matches!(connections.role(who), Role::Reader(_));
                let waiting = &mut waiting[who];
                if let Some(rest) = &mut waiting.rest {
                    rest.extend_from_slice(&buffer[..count]);
                    continue;
                }
                let lines = waiting.framer.push(&buffer[..count]);
                if let Some(heard) = lines.iter().find(|line| holds(line, &probe)) {
                    waiting.told = true;
                    format.get_or_insert(format_of(heard, tag));
                }
                let rest = after(&lines, &start).filter(|_| is_reader);
                waiting.rest = rest.map(|rest| [&rest, waiting.framer.unfinished()].concat());
                if waiting.rest.is_none() && !lines.is_empty() {
                    keep_notice(waiting, &buffer[..count]);
                }
            }
        }
    }
}

impl Waiting {
    fn said(&self) -> Option<String> {
        CloseNotice::in_last_lines(self.framer.unfinished()).map(|notice| notice.detail)
    }
}

fn keep_notice(waiting: &mut Waiting, bytes: &[u8]) {
    if let Some(notice) = CloseNotice::in_last_lines(bytes) {
        // Nothing follows it, so that it may stand where an unfinished line would.
        waiting.framer = Framer::resume(LINE_BYTES_MAX, notice.detail.into_bytes());
    }
}

fn ended(waiting: &Waiting, reason: &str) -> String {
    let why = waiting.said().unwrap_or_else(|| reason.to_owned());
    format!("the daemon closed a connection before the run: {why}")
}

fn holds(line: &[u8], word: &[u8]) -> bool {
    memmem::find(line, word).is_some()
}

/// What follows the line with this word in what a read completed.
fn after(completed: &Lines<'_>, word: &[u8]) -> Option<Vec<u8>> {
    let [first, rest] = completed.runs();
    let after_in = |run: &[u8]| -> Option<usize> {
        let mut at = 0;
        lines(run).find_map(|line| {
            at += line.len() + 1;
            holds(line, word).then_some(at)
        })
    };
    match (after_in(first), after_in(rest)) {
        (Some(at), _) => Some([&first[at..], rest].concat()),
        (None, Some(at)) => Some(rest[at..].to_vec()),
        (None, None) => None,
    }
}

fn say(connections: &Connections, word: &[u8]) -> Result<()> {
    debug_assert!(word.len() > TAG_BYTES);
    let line = [word, b"\n"].concat();
    if connections.write(0, &line) != Written::Bytes(line.len()) {
        bail!("the daemon does not take the first line");
    }
    Ok(())
}

/// By the number of their reader.
fn rests(connections: &Connections, waiting: Vec<Waiting>, readers: usize) -> Vec<Vec<u8>> {
    let mut rests = vec![Vec::new(); readers];
    for (who, waiting) in waiting.into_iter().enumerate() {
        if let (Role::Reader(number), Some(rest)) = (connections.role(who), waiting.rest) {
            rests[number] = rest;
        }
    }
    rests
}
