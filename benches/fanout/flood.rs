//! Senders that send as fast as they are let.

use std::time::Instant;

use anyhow::Result;
use rustix::event::epoll::EventFlags;

use crate::cases::Settings;
use crate::launch::Server;
use crate::load::{Events, Load, TICK};
use crate::procfs::{Busy, Usage};
use crate::stream::{self, Stream};

/// What a lone sender writes at a time, about.
const BLOCK_BYTES: usize = 64 * 1024;

/// Lines that each of many senders may have on their way. Enough that the server always has
/// something to read from each; few enough that what is on its way at the end is soon delivered.
const LINES_IN_FLIGHT: u64 = 32;

/// Readers that connect before the senders do. With it, all senders have numbers of three digits
/// in every case with 100 readers or more, and all lines of a case one length.
const READERS_FIRST: usize = 100;

/// Who sends to whom.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flood {
    pub senders: usize,
    pub readers: usize,
    /// Bytes of a line without its LF.
    pub payload_bytes: usize,
    /// One more reader that never reads.
    pub stuck: bool,
}

/// What was measured.
pub(crate) struct FloodFigures {
    /// Lines delivered a second, over all clients.
    pub lines_per_second: f64,
    /// Bytes of one of them.
    pub line_bytes: f64,
    /// CPU time of the server for one delivered line.
    pub cpu_per_line: f64,
    pub busy: Busy,
}

/// A moment of the run.
struct Mark {
    usage: Usage,
    lines: u64,
}

impl Flood {
    /// Floods `server`, and proves that every line sent reached every other client.
    pub(crate) fn run(
        &self,
        server: &Server,
        settings: &Settings,
        frames_lines: bool,
    ) -> Result<FloodFigures> {
        let mut load = Load::new(server.address())?;
        load.connect(self.readers.min(READERS_FIRST))?;
        if self.stuck {
            load.connect_stuck()?;
        }
        let first = load.len();
        load.connect(self.senders)?;
        load.connect(self.readers.saturating_sub(READERS_FIRST))?;

        let many = self.senders > 1;
        let lines = if many {
            1
        } else {
            BLOCK_BYTES / (self.payload_bytes + 1)
        };
        let payloads = stream::payloads(lines, self.payload_bytes);
        let block: Vec<u8> = payloads
            .iter()
            .flat_map(|line| [line, &b"\n"[..]].concat())
            .collect();
        let (probe, example) = load.rendezvous(first)?;
        let stream = Stream::learn(&example, probe.as_bytes(), payloads, many)?;
        // Where lines of several senders meet, only a server that frames them keeps them whole.
        let checked = (frames_lines || !many).then_some(&stream);

        let mut senders = Senders {
            first,
            sent: vec![0; self.senders],
            block,
            offset: 0,
            next: 0,
        };
        load.watch_writable(first, !many)?;
        let mark = |load: &Load| -> Result<Mark> {
            let lines = load.received().map(|bytes| stream.lines_in(bytes)).sum();
            Ok(Mark {
                usage: server.usage()?,
                lines,
            })
        };

        // Two spans, of which only the second counts.
        let mut marks = Vec::new();
        let mut events = Events::new();
        for span in [settings.warm_up, settings.window] {
            let end = Instant::now() + span;
            while Instant::now() < end {
                if many {
                    senders.send_lines(&load, &stream)?;
                }
                load.wait(TICK, &mut events)?;
                for event in &events {
                    let (who, flags) = (event.data.u64() as usize, event.flags);
                    if flags.contains(EventFlags::IN) {
                        load.receive(who, checked)?;
                    }
                    if flags.contains(EventFlags::OUT) {
                        senders.send_blocks(&load)?;
                    }
                }
            }
            marks.push(mark(&load)?);
        }

        while senders.offset > 0 {
            senders.send_some(&load)?;
            load.wait(TICK, &mut events)?;
            for event in &events {
                load.receive(event.data.u64() as usize, checked)?;
            }
        }
        load.watch_writable(first, false)?;
        let lines_per_block = lines as u64;
        let total = senders.sent.iter().sum::<u64>() * lines_per_block;
        let own = |who: usize| {
            who.checked_sub(first)
                .and_then(|at| senders.sent.get(at))
                .map_or(0, |sent| *sent)
        };
        load.settle(
            |who| stream.bytes_of(total - own(who) * lines_per_block),
            checked,
        )?;

        let busy = marks[0].usage.until(&marks[1].usage);
        let delivered = (marks[1].lines - marks[0].lines) as f64;
        Ok(FloodFigures {
            lines_per_second: delivered / busy.elapsed.as_secs_f64(),
            line_bytes: stream.bytes_of(total) as f64 / total as f64,
            cpu_per_line: busy.server.as_secs_f64() / delivered,
            busy,
        })
    }
}

/// The sending side: one client that writes blocks, or many that write single lines.
struct Senders {
    first: usize,
    /// Blocks each has sent.
    sent: Vec<u64>,
    /// Whole lines.
    block: Vec<u8>,
    /// How much of the block under way has gone out.
    offset: usize,
    /// Whose turn it is.
    next: usize,
}

impl Senders {
    /// Writes blocks until the socket takes no more, but not so many that readers have to wait.
    fn send_blocks(&mut self, load: &Load) -> Result<()> {
        for _ in 0..4 {
            if !self.send_some(load)? {
                break;
            }
        }
        Ok(())
    }

    /// Writes on in the block under way; returns whether it went out to its end.
    fn send_some(&mut self, load: &Load) -> Result<bool> {
        self.offset += load.send(self.first, &self.block[self.offset..])?;
        let whole = self.offset == self.block.len();
        if whole {
            self.offset = 0;
            self.sent[0] += 1;
        }
        Ok(whole)
    }

    /// Lets each sender in turn write one line, until as many are under way as may be. How many
    /// have arrived is read off a client that does not send.
    fn send_lines(&mut self, load: &Load, stream: &Stream) -> Result<()> {
        let arrived = stream.lines_in(load.received_by(0));
        let sent: u64 = self.sent.iter().sum();
        let room = (LINES_IN_FLIGHT * self.sent.len() as u64).saturating_sub(sent - arrived);
        for _ in 0..room.min(256) {
            if load.send_line(self.first + self.next, &self.block)? {
                self.sent[self.next] += 1;
            }
            self.next = (self.next + 1) % self.sent.len();
        }
        Ok(())
    }
}
