//! Senders that send on a schedule.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::event::epoll;

use crate::cases::Settings;
use crate::launch::Server;
use crate::load::{Events, Load, PATIENCE, TICK};
use crate::procfs::Busy;
use crate::stream::{self, Stream};
use crate::table::nearest_rank;

/// Bytes of a line without its LF.
const PAYLOAD_BYTES: usize = 64;

/// Decimal digits of a time stamp, in nanoseconds since the first line was due.
const STAMP_DIGITS: usize = 20;

/// Lines due at fixed times, whether or not those before them could be sent.
struct Schedule {
    start: Instant,
    lines_per_second: f64,
    sent: u64,
}

impl Schedule {
    fn new(lines_per_second: f64) -> Schedule {
        Schedule {
            start: Instant::now(),
            lines_per_second,
            sent: 0,
        }
    }

    /// When line `index` is due, since the start.
    fn due(&self, index: u64) -> Duration {
        Duration::from_secs_f64(index as f64 / self.lines_per_second)
    }

    /// How long the load may sleep: to the millisecond before the next line is due, since epoll
    /// knows nothing shorter.
    fn pause(&self) -> Duration {
        let left = self
            .due(self.sent)
            .saturating_sub(self.start.elapsed())
            .min(TICK);
        Duration::from_millis(left.as_millis() as u64)
    }
}

/// One sender to many readers at a rate that leaves the server mostly idle.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Steady {
    pub readers: usize,
    pub lines_per_second: f64,
}

impl Steady {
    /// CPU time of the server for one delivered line, in seconds.
    pub(crate) fn run(&self, server: &Server, settings: &Settings) -> Result<(f64, Busy)> {
        let mut load = Load::new(server.address())?;
        load.connect(self.readers)?;
        let sender = load.len();
        load.connect(1)?;
        let payloads = stream::payloads(1000, PAYLOAD_BYTES);
        let (probe, example) = load.rendezvous(sender)?;
        let stream = Stream::learn(&example, probe.as_bytes(), payloads.clone(), false)?;

        let mut schedule = Schedule::new(self.lines_per_second);
        let end = schedule.start + settings.steady;
        let before = server.usage()?;
        let mut events = Events::new();
        while Instant::now() < end {
            while schedule.due(schedule.sent) <= schedule.start.elapsed() {
                let payload = &payloads[schedule.sent as usize % payloads.len()];
                if !load.send_line(sender, &[payload, &b"\n"[..]].concat())? {
                    break;
                }
                schedule.sent += 1;
            }
            load.wait(schedule.pause(), &mut events)?;
            for event in &events {
                load.receive(event.data.u64() as usize, Some(&stream))?;
            }
        }
        let sent = schedule.sent;
        let expected = |who| {
            if who == sender {
                0
            } else {
                stream.bytes_of(sent)
            }
        };
        load.settle(expected, Some(&stream))?;

        let busy = before.until(&server.usage()?);
        Ok((
            busy.server.as_secs_f64() / (sent * self.readers as u64) as f64,
            busy,
        ))
    }
}

/// Several senders to many readers; each line carries the time at which it was due, so that a line
/// the server held up counts from when it should have gone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Latency {
    pub senders: usize,
    pub readers: usize,
    /// Of all senders together.
    pub lines_per_second: f64,
}

/// Seconds from a line's due time to its arrival.
pub(crate) struct LatencyFigures {
    pub p50: f64,
    pub p99: f64,
    pub p999: f64,
    pub busy: Busy,
}

impl Latency {
    /// Measures every line at every reader, down to the last one.
    pub(crate) fn run(&self, server: &Server, settings: &Settings) -> Result<LatencyFigures> {
        let mut load = Load::new(server.address())?;
        load.connect(self.readers)?;
        let first = load.len();
        load.connect(self.senders)?;
        let filler = stream::payloads(1, PAYLOAD_BYTES - STAMP_DIGITS).concat();
        let (probe, example) = load.rendezvous(first)?;
        let payloads = stream::payloads(1, PAYLOAD_BYTES);
        let stream = Stream::learn(&example, probe.as_bytes(), payloads, true)?;
        let line_bytes = stream.line_bytes() as usize;

        let mut schedule = Schedule::new(self.lines_per_second);
        let total = ((settings.warm_up + settings.window).as_secs_f64() * self.lines_per_second)
            .ceil() as u64;
        let counted_from = settings.warm_up.as_nanos() as u64;
        let mut latencies: Vec<u64> = Vec::with_capacity(total as usize * self.readers);
        let mut wanted = total * self.readers as u64;
        let before = server.usage()?;
        let deadline = schedule.start + settings.warm_up + settings.window + PATIENCE;
        let mut events = Events::new();
        while wanted > 0 {
            ensure!(Instant::now() < deadline, "{wanted} lines did not arrive");
            while schedule.sent < total && schedule.due(schedule.sent) <= schedule.start.elapsed() {
                let sender = first + schedule.sent as usize % self.senders;
                let stamp = schedule.due(schedule.sent).as_nanos();
                let mut line = format!("{stamp:0STAMP_DIGITS$}").into_bytes();
                line.extend_from_slice(&filler);
                line.push(b'\n');
                if !load.send_line(sender, &line)? {
                    break;
                }
                schedule.sent += 1;
            }
            let pause = if schedule.sent < total {
                schedule.pause()
            } else {
                TICK
            };
            load.wait(pause, &mut events)?;
            for event in &events {
                let (who, flags) = (event.data.u64() as usize, event.flags);
                if !flags.contains(epoll::EventFlags::IN) {
                    continue;
                }
                let recent = load.read(who)?;
                let arrived = schedule.start.elapsed().as_nanos() as u64;
                let whole = recent.len() - recent.len() % line_bytes;
                if who < self.readers {
                    for line in recent[..whole].chunks_exact(line_bytes) {
                        ensure!(line.ends_with(b"\n"), "client {who} received a torn line");
                        let at = stream.payload_offset();
                        let due = stamp(&line[at..at + STAMP_DIGITS]).context("no time stamp")?;
                        wanted -= 1;
                        if due >= counted_from {
                            latencies.push(arrived.saturating_sub(due));
                        }
                    }
                }
                recent.drain(..whole);
            }
        }
        let busy = before.until(&server.usage()?);
        latencies.sort_unstable();
        let [p50, p99, p999] = [0.5, 0.99, 0.999]
            .map(|share| nearest_rank(&latencies, share).map_or(0.0, |nanos| nanos as f64 / 1e9));
        Ok(LatencyFigures {
            p50,
            p99,
            p999,
            busy,
        })
    }
}

fn stamp(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0_u64, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}
