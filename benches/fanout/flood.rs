//! Senders that send as fast as they are let, and clients that look at some of what comes.
//!
//! `linehub bench` compares every byte. Here most reads only count, since a server may deliver more
//! than one core can look at: the first bytes of each client, one read in so many, and the last
//! bytes are looked at, and every client must have as many bytes as were sent to it.

use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use linehub::commands::bench::{
    Barrier, Connections, Got, Interrupt, LineSource, Pace, Ready, Role, Senders,
};

use crate::launch::{Busy, Server, Usage};
use crate::settings::Settings;
use crate::stream::{self, Stream};

/// Bytes of the lines that a lone sender has in rotation, about.
const BLOCK_BYTES: usize = 64 * 1024;

/// Lines that each of many senders may have on their way. Enough that the server always has
/// something to read from each; few enough that what is on its way at the end is soon delivered.
const LINES_IN_FLIGHT: u64 = 32;

/// Readers that connect before the senders do. With it, all senders have numbers of three digits
/// in every case with 100 readers or more, and all lines of a case one length.
const READERS_FIRST: usize = 100;

/// What a read takes whose bytes are looked at.
const SAMPLE_BYTES: usize = 64 * 1024;

/// One read in so many has its bytes looked at.
const SAMPLE_EVERY: u64 = 256;

/// How much of a stream's end is looked at whatever the sampling says.
const END_BYTES: u64 = 4096;

/// How long the load sleeps at most before it looks at the clock.
const TICK: Duration = Duration::from_millis(20);

/// What one that crawls reads in a tick: 800 kB/s.
const CRAWL_BYTES: usize = 16 * 1024;

/// How long a server may take to deliver what is on its way.
const PATIENCE: Duration = Duration::from_secs(60);

/// Senders that send at full speed, and readers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flood {
    pub senders: usize,
    pub readers: usize,
    /// Bytes of a line without its LF.
    pub payload_bytes: usize,
    /// One more reader that never reads.
    pub stuck: bool,
    /// So many more that stop or crawl, by turns, and read all that they are owed once nothing is sent any
    /// more.
    pub slow: usize,
    /// Over TLS, the load counts and does not decrypt: that costs as much as encrypting, and would be what
    /// is measured.
    pub blind: bool,
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

impl Flood {
    /// Floods `server`, and proves that every line sent reached every other client.
    pub(crate) fn run(
        &self,
        server: &Server,
        settings: &Settings,
        frames_lines: bool,
    ) -> Result<FloodFigures> {
        let many = self.senders > 1;
        let lines = if many {
            1
        } else {
            BLOCK_BYTES / (self.payload_bytes + 1)
        };
        let payloads = stream::payloads(lines, self.payload_bytes);
        let source = LineSource::rotating(&payloads);
        let mut clients = Clients::connect(self, server, payloads, frames_lines)?;
        let on_the_way = if many {
            LINES_IN_FLIGHT * self.senders as u64
        } else {
            u64::MAX
        };
        let mut senders = Senders::new(source, self.senders, Pace::Free(on_the_way));

        // Two spans, of which only the second counts.
        let mut marks: Vec<(Usage, u64)> = Vec::new();
        let mut next_crawl = Instant::now();
        for span in [settings.warm_up, settings.window] {
            let end = Instant::now() + span;
            while Instant::now() < end {
                if self.slow > 0 && Instant::now() >= next_crawl {
                    next_crawl += TICK;
                    clients.crawl()?;
                }
                let arrived = clients.stream.lines_in(clients.connections.received_by(0));
                let connections = &mut clients.connections;
                let more =
                    senders.turn(0, arrived, &mut |who, bytes| connections.write(who, bytes));
                clients.receive(if more { Duration::ZERO } else { TICK }, &mut senders)?;
            }
            marks.push((server.usage()?, clients.lines()));
        }

        senders.finish();
        loop {
            let connections = &mut clients.connections;
            if senders.flush(0, &mut |who, bytes| connections.write(who, bytes)) {
                break;
            }
            clients.receive(TICK, &mut senders)?;
        }
        for who in clients.slow.clone() {
            clients.connections.set_watched(who, true)?;
        }
        clients.settle(&senders)?;

        let busy = marks[0].0.until(&marks[1].0);
        let delivered = (marks[1].1 - marks[0].1) as f64;
        let total = senders.made();
        Ok(FloodFigures {
            lines_per_second: delivered / busy.elapsed.as_secs_f64(),
            line_bytes: clients.stream.bytes_of(total) as f64 / total as f64,
            cpu_per_line: busy.server.as_secs_f64() / delivered,
            busy,
        })
    }
}

/// All clients of a flood.
struct Clients {
    connections: Connections,
    stream: Stream,
    /// Whether what comes is looked at.
    checked: bool,
    /// Those that stop or crawl.
    slow: Range<usize>,
    reads: u64,
    ready: Vec<Ready>,
    sample: Vec<u8>,
}

impl Clients {
    fn connect(
        flood: &Flood,
        server: &Server,
        payloads: Vec<Vec<u8>>,
        frames_lines: bool,
    ) -> Result<Clients> {
        let first = flood.readers.min(READERS_FIRST);
        let mut roles: Vec<Role> = (0..first).map(Role::Reader).collect();
        roles.extend(flood.stuck.then_some(Role::Stuck(0)));
        let slow = roles.len()..roles.len() + flood.slow;
        roles.extend((flood.readers..).take(flood.slow).map(Role::Reader));
        roles.extend((0..flood.senders).rev().map(Role::Sender));
        roles.extend((first..flood.readers).map(Role::Reader));
        let (endpoint, mut never) = (server.endpoint()?, Interrupt::never());
        // One after another, so that the server numbers them in this order.
        let (mut connections, _) = Connections::connect(&endpoint, None, &roles, 1, &mut never)?;
        let barrier = Barrier::pass(&mut connections, *b"load", &mut never)?;
        for who in slow.clone() {
            connections.set_watched(who, false)?;
        }
        if flood.blind {
            connections.count_records();
        }
        let (example, probe) = barrier.example();
        let many = flood.senders > 1;
        Ok(Clients {
            stream: Stream::learn(example, &probe, payloads, many)?,
            // Where lines of several senders meet, only a server that frames them keeps them whole.
            checked: !flood.blind && (frames_lines || !many),
            slow,
            connections,
            reads: 0,
            ready: Vec::new(),
            sample: vec![0; SAMPLE_BYTES],
        })
    }

    /// Lines that have arrived, over all clients that read as fast as they can.
    fn lines(&self) -> u64 {
        let received = self.connections.received().enumerate();
        let fast = received.filter(|(who, _)| !self.slow.contains(who));
        fast.map(|(_, bytes)| self.stream.lines_in(bytes)).sum()
    }

    /// Every other one of those that read slowly reads a little.
    fn crawl(&mut self) -> Result<()> {
        for who in self.slow.clone().step_by(2) {
            count(who, self.connections.discard(who, CRAWL_BYTES))?;
        }
        Ok(())
    }

    /// Waits for something to happen, and reads.
    fn receive(&mut self, pause: Duration, senders: &mut Senders) -> Result<()> {
        let mut ready = std::mem::take(&mut self.ready);
        self.connections.wait(pause, &mut ready)?;
        for event in &ready {
            if let (true, Role::Sender(sender)) = (event.writable, self.connections.role(event.who))
            {
                self.connections.unwatch_writable(event.who)?;
                senders.unblock(sender);
            }
            if event.readable {
                self.reads += 1;
                let begins = self.connections.received_by(event.who) == 0;
                if begins || self.reads.is_multiple_of(SAMPLE_EVERY) {
                    self.look(event.who)?;
                } else {
                    count(event.who, self.connections.discard(event.who, usize::MAX))?;
                }
            }
        }
        self.ready = ready;
        Ok(())
    }

    /// One read that must be what the stream has there.
    fn look(&mut self, who: usize) -> Result<()> {
        let offset = self.connections.received_by(who);
        let bytes = count(who, self.connections.read(who, &mut self.sample))?;
        let same = !self.checked || self.stream.matches(offset, &self.sample[..bytes]);
        ensure!(
            same,
            "client {who} received something else after {offset} bytes"
        );
        Ok(())
    }

    /// Receives until every client has exactly the bytes that were sent to it, the last of them
    /// looked at.
    fn settle(&mut self, senders: &Senders) -> Result<()> {
        let (total, made) = (senders.made(), senders.made_by_each());
        let deadline = Instant::now() + PATIENCE;
        loop {
            let expected = |who: usize| match self.connections.role(who) {
                Role::Sender(sender) => self.stream.bytes_of(total - made[sender]),
                Role::Reader(_) => self.stream.bytes_of(total),
                Role::Stuck(_) => 0,
            };
            let left: Vec<u64> = (self.connections.received().enumerate())
                .map(|(who, received)| expected(who).checked_sub(received))
                .collect::<Option<_>>()
                .ok_or_else(|| anyhow::anyhow!("a client received more than was sent"))?;
            let missing = left.iter().filter(|left| **left > 0).count();
            if missing == 0 {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{missing} clients lack bytes");
            self.connections.wait(TICK, &mut self.ready)?;
            for event in self.ready.clone() {
                if left[event.who] > SAMPLE_BYTES as u64 {
                    let most = (left[event.who] - END_BYTES) as usize;
                    count(event.who, self.connections.discard(event.who, most))?;
                } else {
                    self.look(event.who)?;
                }
            }
        }
    }
}

/// The bytes of a read; no server here may close a connection.
pub(crate) fn count(who: usize, got: Got) -> Result<usize> {
    match got {
        Got::Bytes(count) => Ok(count),
        Got::Nothing => Ok(0),
        Got::End(reason) => bail!("the server closed client {who}: {}", reason.label()),
    }
}
