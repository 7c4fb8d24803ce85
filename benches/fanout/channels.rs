//! Many channels, each with a sender and some readers, at full speed. What comes is looked at as in
//! `flood`.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use linehub::commands::bench::{Connections, Endpoint, Got, Interrupt, Ready, Role, Written};
use memchr::memchr;

use crate::flood::count;
use crate::launch::{Busy, Server, Usage};
use crate::settings::Settings;
use crate::stream::{self, Stream};

const PAYLOAD_BYTES: usize = 64;

/// Lines that a sender writes at a time.
const BLOCK_LINES: usize = 100;

/// Blocks that a sender may be ahead of its slowest reader: the server has something to read while the
/// readers of its channel catch up.
const BLOCKS_AHEAD: usize = 2;

/// What each sender says before all else.
const PROBE: &str = "probe";

/// Connections that are being made at a time.
const DIALLED_MAX: usize = 512;

/// What a read takes whose bytes are looked at, and one read in so many is.
const SAMPLE_BYTES: usize = 64 * 1024;
const SAMPLE_EVERY: u64 = 64;

/// How long the load sleeps at most before it looks at the clock.
const TICK: Duration = Duration::from_millis(20);

/// How long a server may take until all have joined, or have what was sent.
const PATIENCE: Duration = Duration::from_secs(60);

/// Channels with as many clients each, one of which sends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Channels {
    pub channels: usize,
    pub clients_each: usize,
}

/// What was measured.
pub(crate) struct ChannelFigures {
    /// Resident bytes of the server for each client that has joined and got a line.
    pub bytes_per_client: f64,
    /// Lines delivered a second, over all clients.
    pub lines_per_second: f64,
    pub busy: Busy,
}

impl Channels {
    /// Floods all channels of `server`, and proves that every line reached every reader of its channel
    /// and nobody else.
    pub(crate) fn run(&self, server: &Server, settings: &Settings) -> Result<ChannelFigures> {
        let before = server.resident_bytes()?;
        let mut crowd = Crowd::connect(self, server)?;
        let grown = server.resident_bytes()?.saturating_sub(before);

        // Two spans, of which only the second counts.
        let mut marks: Vec<(Usage, u64)> = Vec::new();
        for span in [settings.warm_up, settings.window] {
            let end = Instant::now() + span;
            while Instant::now() < end {
                crowd.turn(false)?;
            }
            marks.push((server.usage()?, crowd.lines()));
        }
        crowd.settle()?;
        let busy = marks[0].0.until(&marks[1].0);
        let delivered = (marks[1].1 - marks[0].1) as f64;
        Ok(ChannelFigures {
            bytes_per_client: grown as f64 / crowd.connections.len() as f64,
            lines_per_second: delivered / busy.elapsed.as_secs_f64(),
            busy,
        })
    }

    fn hellos(&self) -> impl Iterator<Item = String> {
        (0..self.channels).map(|number| format!("LINEHUB/1 channel=number-{number}"))
    }
}

/// All clients. Connection `n` is in channel `n`, modulo their number, and the first of each channel is
/// its sender.
struct Crowd {
    connections: Connections,
    readers_each: usize,
    channels: Vec<Channel>,
    /// What each had received before the flood.
    base: Vec<u64>,
    /// Whole blocks that each has.
    blocks: Vec<u64>,
    block: Vec<u8>,
    stopped: bool,
    reads: u64,
    ready: Vec<Ready>,
    sample: Vec<u8>,
}

struct Channel {
    stream: Stream,
    /// Blocks that the sender has begun, and bytes of the last that are still to be written.
    begun: u64,
    unwritten: usize,
    /// Blocks that all readers have, and how many readers have each of the next ones.
    done: u64,
    ahead: [usize; BLOCKS_AHEAD],
}

impl Crowd {
    fn connect(plan: &Channels, server: &Server) -> Result<Crowd> {
        let readers = plan.channels * (plan.clients_each - 1);
        let senders = (0..plan.channels).map(Role::Sender);
        let roles: Vec<Role> = senders.chain((0..readers).map(Role::Reader)).collect();
        let endpoint = Endpoint::resetting(server.address()).saying(plan.hellos());
        let never = &mut Interrupt::never();
        let (mut connections, _) =
            Connections::connect(&endpoint, None, &roles, DIALLED_MAX, never)?;
        join(&mut connections)?;
        let examples = probe(&mut connections, plan.channels)?;
        let payloads = stream::payloads(BLOCK_LINES, PAYLOAD_BYTES);
        let channel = |example: Vec<u8>| {
            Ok(Channel {
                stream: Stream::learn(&example, PROBE.as_bytes(), payloads.clone(), false)?,
                begun: 0,
                unwritten: 0,
                done: 0,
                ahead: [0; BLOCKS_AHEAD],
            })
        };
        let channels = examples.into_iter().map(channel).collect::<Result<_>>()?;
        let lines = payloads.iter().flat_map(|line| [line, &b"\n"[..]].concat());
        let mut crowd = Crowd {
            readers_each: plan.clients_each - 1,
            channels,
            base: connections.received().collect(),
            blocks: vec![0; connections.len()],
            connections,
            block: lines.collect(),
            stopped: false,
            reads: 0,
            ready: Vec::new(),
            sample: vec![0; SAMPLE_BYTES],
        };
        for channel in 0..plan.channels {
            crowd.send(channel)?;
        }
        Ok(crowd)
    }

    /// Lines that have arrived, over all clients.
    fn lines(&self) -> u64 {
        let received = self.connections.received().zip(&self.base).enumerate();
        let lines = received.map(|(who, (received, base))| {
            let channel = &self.channels[who % self.channels.len()];
            channel.stream.lines_in(received - base)
        });
        lines.sum()
    }

    /// Writes what the sender of a channel may, and its socket takes.
    fn send(&mut self, number: usize) -> Result<()> {
        let channel = &mut self.channels[number];
        loop {
            let has_room = channel.begun < channel.done + BLOCKS_AHEAD as u64;
            if channel.unwritten == 0 {
                if !has_room || self.stopped {
                    return Ok(());
                }
                channel.begun += 1;
                channel.unwritten = self.block.len();
            }
            let left = &self.block[self.block.len() - channel.unwritten..];
            match self.connections.write(number, left) {
                Written::Bytes(count) => channel.unwritten -= count,
                Written::Full => return Ok(()),
                Written::Gone => bail!("the server closed the sender of channel {number}"),
            }
        }
    }

    /// Waits for something to happen, reads, and sends on. Looks at all that is read if it is told to.
    fn turn(&mut self, looks: bool) -> Result<()> {
        let mut ready = std::mem::take(&mut self.ready);
        self.connections.wait(TICK, &mut ready)?;
        for event in &ready {
            let channel = event.who % self.channels.len();
            if event.writable {
                self.connections.unwatch_writable(event.who)?;
                self.send(channel)?;
            }
            if event.readable {
                self.reads += 1;
                self.read(event.who, looks || self.reads.is_multiple_of(SAMPLE_EVERY))?;
                self.advance(event.who)?;
            }
        }
        self.ready = ready;
        Ok(())
    }

    fn read(&mut self, who: usize, looks: bool) -> Result<()> {
        if !looks {
            count(who, self.connections.discard(who, usize::MAX))?;
            return Ok(());
        }
        let offset = self.connections.received_by(who) - self.base[who];
        let bytes = count(who, self.connections.read(who, &mut self.sample))?;
        let stream = &self.channels[who % self.channels.len()].stream;
        ensure!(
            stream.matches(offset, &self.sample[..bytes]),
            "client {who} received something else after {offset} bytes"
        );
        Ok(())
    }

    /// Sends on in a reader's channel if that was the last one to have a block.
    fn advance(&mut self, who: usize) -> Result<()> {
        let number = who % self.channels.len();
        ensure!(who != number, "the sender of channel {number} gets lines");
        let channel = &mut self.channels[number];
        let received = self.connections.received_by(who) - self.base[who];
        let blocks = received / channel.stream.bytes_of(BLOCK_LINES as u64);
        ensure!(
            blocks <= channel.begun,
            "client {who} received more than was sent to it"
        );
        for block in std::mem::replace(&mut self.blocks[who], blocks)..blocks {
            channel.ahead[(block - channel.done) as usize] += 1;
        }
        let done = channel.done;
        while channel.ahead[0] == self.readers_each {
            channel.ahead.rotate_left(1);
            channel.ahead[BLOCKS_AHEAD - 1] = 0;
            channel.done += 1;
        }
        if channel.done > done {
            self.send(number)?;
        }
        Ok(())
    }

    /// Receives until every reader has exactly what was sent in its channel.
    fn settle(&mut self) -> Result<()> {
        self.stopped = true;
        let deadline = Instant::now() + PATIENCE;
        while self
            .channels
            .iter()
            .any(|channel| channel.done < channel.begun)
        {
            ensure!(Instant::now() < deadline, "clients lack lines");
            self.turn(true)?;
        }
        let received = self.connections.received().zip(&self.base).enumerate();
        for (who, (received, base)) in received.skip(self.channels.len()) {
            let channel = &self.channels[who % self.channels.len()];
            let sent = channel.stream.bytes_of(channel.begun * BLOCK_LINES as u64);
            ensure!(
                received - base == sent,
                "client {who} received more than was sent to it"
            );
        }
        Ok(())
    }
}

/// Waits until each has the answer to its hello, which is the first that comes: it has joined.
fn join(connections: &mut Connections) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let mut ready = Vec::new();
    loop {
        let missing = connections.received().filter(|bytes| *bytes == 0).count();
        if missing == 0 {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "{missing} hellos are not answered"
        );
        connections.wait(TICK, &mut ready)?;
        for event in ready.iter().filter(|event| event.readable) {
            count(event.who, connections.discard(event.who, usize::MAX))?;
        }
    }
}

/// Has the sender of each channel say something. Returns what the server makes of it, with the LF.
fn probe(connections: &mut Connections, channels: usize) -> Result<Vec<Vec<u8>>> {
    let line = format!("{PROBE}\n");
    for sender in 0..channels {
        let written = connections.write(sender, line.as_bytes());
        ensure!(
            written == Written::Bytes(line.len()),
            "the first line is not taken"
        );
    }
    let deadline = Instant::now() + PATIENCE;
    let mut ready = Vec::new();
    let mut buffer = [0; 1024];
    let mut lines: Vec<Vec<u8>> = vec![Vec::new(); connections.len()];
    let mut missing = connections.len() - channels;
    while missing > 0 {
        ensure!(
            Instant::now() < deadline,
            "{missing} clients lack the first line"
        );
        connections.wait(TICK, &mut ready)?;
        for event in ready.iter().filter(|event| event.readable) {
            let bytes = match connections.read(event.who, &mut buffer) {
                Got::Bytes(bytes) => bytes,
                got => count(event.who, got)?,
            };
            let line = &mut lines[event.who];
            line.extend_from_slice(&buffer[..bytes]);
            missing -= usize::from(memchr(b'\n', line) == line.len().checked_sub(1));
        }
    }
    let (first, rest) = lines.split_at(channels).1.split_at(channels);
    let is_same = |(who, line): (usize, &Vec<u8>)| *line == first[who % channels];
    ensure!(
        rest.iter().enumerate().all(is_same),
        "readers of one channel got different first lines"
    );
    Ok(first.to_vec())
}
