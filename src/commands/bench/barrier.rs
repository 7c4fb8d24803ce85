//! The moment before the run: everybody is served, and from one line on all get the same.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use memchr::{memchr, memmem, memrchr};

use super::connections::{Connections, Got, Ready, Role};
use super::interrupt::Interrupt;
use super::line::Tag;
use super::line_decoder::format_of;
use super::senders::Written;
use crate::wire::format::Format;

/// How long the daemon may take until all have a line.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long a line may take that those who are served should have. It is sent again then, for those
/// who were not yet.
const AGAIN_AFTER: Duration = Duration::from_millis(50);

const READ_BYTES: usize = 256 * 1024;

/// What sender 0 says until all others have heard it.
#[derive(Debug)]
pub struct Barrier {
    tag: Tag,
    waiting: Vec<Waiting>,
    buffer: Vec<u8>,
    ready: Vec<Ready>,
    /// What the daemon made of the last word, with its LF.
    example: Vec<u8>,
    served: Instant,
}

#[derive(Debug)]
struct Waiting {
    /// Whether a line must reach this connection: it is not stuck and not the one who speaks.
    listens: bool,
    /// Whether it has got the last word.
    heard: bool,
    /// What came after that word; until then, a line that has not ended.
    rest: Vec<u8>,
}

impl Barrier {
    /// Has sender 0 speak until everybody has heard it, and then say from where on all get the same.
    /// What [`Connections`] received is counted from there.
    pub fn pass(
        connections: &mut Connections,
        tag: Tag,
        interrupt: &mut Interrupt,
    ) -> Result<Barrier> {
        let waiting = |who| Waiting {
            listens: !matches!(connections.role(who), Role::Stuck(_) | Role::Sender(0)),
            heard: false,
            rest: Vec::new(),
        };
        let mut barrier = Barrier {
            tag,
            waiting: (0..connections.len()).map(waiting).collect(),
            buffer: vec![0; READ_BYTES],
            ready: Vec::new(),
            example: Vec::new(),
            served: Instant::now(),
        };
        barrier.announce(connections, "probe", Some(AGAIN_AFTER), interrupt)?;
        barrier.served = Instant::now();
        barrier.announce(connections, "start", None, interrupt)?;
        connections.forget_received();
        Ok(barrier)
    }

    /// Has sender 0 say a word, again after some time if that is given, until all others have it.
    pub fn announce(
        &mut self,
        connections: &mut Connections,
        word: &str,
        again_after: Option<Duration>,
        interrupt: &mut Interrupt,
    ) -> Result<()> {
        // A '!' is in no line of the run.
        let word = [&self.tag[..], b"!", word.as_bytes()].concat();
        self.example.clear();
        let mut missing = 0;
        for waiting in self.waiting.iter_mut().filter(|waiting| waiting.listens) {
            missing += 1;
            waiting.heard = false;
        }
        let begun = Instant::now();
        let mut next = Some(begun);
        while missing > 0 {
            interrupt.check()?;
            let now = Instant::now();
            if now - begun > PATIENCE {
                bail!("{missing} connections were made and yet get no lines");
            }
            if next.is_some_and(|next| now >= next) {
                let line = [&word[..], b"\n"].concat();
                if connections.write(0, &line) != Written::Bytes(line.len()) {
                    bail!("the daemon does not take the first line");
                }
                next = again_after.map(|after| now + after);
            }
            let mut ready = std::mem::take(&mut self.ready);
            connections.wait(Duration::from_millis(10), &mut ready)?;
            for event in ready.iter().filter(|event| event.readable) {
                missing -= usize::from(self.hear(connections, event.who, &word)?);
            }
            self.ready = ready;
        }
        Ok(())
    }

    /// Reads, and returns whether the word is in it that was not before.
    fn hear(&mut self, connections: &mut Connections, who: usize, word: &[u8]) -> Result<bool> {
        let count = match connections.read(who, &mut self.buffer) {
            Got::Bytes(count) => count,
            Got::Nothing => return Ok(false),
            Got::End(reason) => {
                let notice = connections.close_notice(who, reason);
                let why = if notice.detail.is_empty() {
                    notice.reason
                } else {
                    notice.detail
                };
                bail!("the daemon closed a connection before the run: {why}")
            }
        };
        let waiting = &mut self.waiting[who];
        if !waiting.listens {
            return Ok(false);
        }
        let rest = &mut waiting.rest;
        rest.extend_from_slice(&self.buffer[..count]);
        if waiting.heard {
            return Ok(false);
        }
        let after_line_end = |at: Option<usize>| at.map_or(0, |at| at + 1);
        let whole = after_line_end(memrchr(b'\n', rest));
        let Some(at) = memmem::find(&rest[..whole], word) else {
            rest.drain(..whole);
            return Ok(false);
        };
        let begin = after_line_end(memrchr(b'\n', &rest[..at]));
        let end = at + after_line_end(memchr(b'\n', &rest[at..]));
        if self.example.is_empty() {
            self.example = rest[begin..end].to_vec();
        }
        rest.drain(..end);
        waiting.heard = true;
        Ok(true)
    }

    /// What the daemon made of the last word, and the word.
    pub fn example(&self) -> (&[u8], Vec<u8>) {
        (&self.example, [&self.tag[..], b"!start"].concat())
    }

    /// When the last connection was served.
    pub fn served(&self) -> Instant {
        self.served
    }

    /// How the daemon shows lines.
    pub(super) fn format(&self) -> Format {
        let line = self.example.strip_suffix(b"\n").unwrap_or_default();
        format_of(line, &self.tag)
    }

    /// What a connection has got after the line from which on all get the same.
    pub(super) fn rest(&self, who: usize) -> &[u8] {
        &self.waiting[who].rest
    }
}
