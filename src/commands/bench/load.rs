//! The run itself: one thread that sends, receives and checks.

use std::time::{Duration, Instant};

use anyhow::Result;
use socket2::Socket;

use super::barrier::Barrier;
use super::check::Check;
use super::connections::{Connections, Got, Interrupt, Ready, Role};
use super::histogram::Histogram;
use super::latency::Latencies;
use super::line::{LineKind, Tag};
use super::line_decoder::{CloseNotice, LineDecoder};
use super::outcome::{Closed, DaemonUsage, Outcome};
use super::plan::Run;
use super::procfs;
use super::progress::Progress;
use super::senders::Senders;
use super::target::Target;
use crate::wire::framing;

/// What a read takes at most.
const READ_BYTES: usize = 256 * 1024;

/// How long the load sleeps at most.
const TICK: Duration = Duration::from_millis(20);

/// How long nothing may come before what is missing counts as lost. With stuck readers, the daemon
/// may be waiting for one: its `--stall-timeout` is 30 s.
const QUIET: Duration = Duration::from_secs(10);
const QUIET_WITH_STUCK: Duration = Duration::from_secs(45);

/// How long stuck readers have to get what is still theirs, so that their end shows.
const STUCK_QUIET: Duration = Duration::from_millis(200);
const STUCK_PATIENCE: Duration = Duration::from_secs(3);

/// The end of what a sender or stuck reader got: a notice is in there.
const TAIL_BYTES: usize = 512;

struct Load<'a> {
    run: &'a Run,
    connections: Connections,
    check: Check,
    senders: Senders,
    latencies: Latencies,
    started: Instant,
    buffer: Vec<u8>,
    ready: Vec<Ready>,
    /// The last that each sender and stuck reader got, by connection.
    tails: Vec<Vec<u8>>,
    readers_bytes: u64,
    senders_lines: u64,
    senders_bytes: u64,
    readers_open: usize,
    closed: Vec<(usize, CloseNotice)>,
    last_read: Instant,
}

/// Runs the load against a daemon.
pub(super) fn run(
    run: &Run,
    target: &Target,
    first: Socket,
    interrupt: &mut Interrupt,
    progress: &Progress,
) -> Result<Outcome> {
    progress.say("connecting");
    let dialled = Instant::now();
    let mut connections = Connections::connect(run, &target.endpoint, first, interrupt)?;
    let kind = LineKind::new(new_tag(), run.size);
    let barrier = Barrier::hold(&mut connections, kind.tag(), run.readers, interrupt)?;
    if let Some(asked) = run.format.filter(|asked| *asked != barrier.format) {
        let speaks = barrier.format;
        anyhow::bail!(
            "--format: {asked} was asked for, but {} speaks {speaks}",
            target.address
        );
    }
    let connect_time = barrier.served - dialled;
    let format = barrier.format;

    let decoder = LineDecoder::new(format, kind.clone());
    let mut load = Load {
        run,
        tails: vec![Vec::new(); connections.len()],
        check: Check::new(decoder, run.senders, run.readers),
        senders: Senders::new(run, kind),
        latencies: Latencies::new(run.duration),
        started: Instant::now(),
        buffer: vec![0; READ_BYTES],
        ready: Vec::new(),
        readers_bytes: 0,
        senders_lines: 0,
        senders_bytes: 0,
        readers_open: run.readers,
        closed: Vec::new(),
        last_read: Instant::now(),
        connections,
    };
    for (reader, rest) in barrier.rests.iter().enumerate() {
        load.check.receive(reader, rest, |_, _| ());
    }
    let pid = target.pid(load.connections.socket(0));
    let daemon_before = pid.and_then(procfs::cpu_time);
    let own_before = procfs::cpu_time(std::process::id());

    load.started = Instant::now();
    let (mut rss, mut rss_peak) = (None, None);
    load.send_for(interrupt, |load, at| {
        rss = pid.and_then(procfs::resident_bytes);
        rss_peak = rss_peak.max(rss);
        progress.show(at, run, &load.latencies);
    })?;

    // What counts as the run's speed is what was done by now.
    let elapsed = load.started.elapsed();
    let interrupted = interrupt.count() > 0;
    let share = |before: Option<Duration>, now: Option<Duration>| {
        Some(now?.saturating_sub(before?).as_secs_f64() / elapsed.as_secs_f64())
    };
    let daemon_cpu = share(daemon_before, pid.and_then(procfs::cpu_time));
    let load_cpu = share(own_before, procfs::cpu_time(std::process::id()));
    let sent = load.senders.made();
    let (delivered, readers_bytes) = (load.check.delivered(), load.readers_bytes);
    let to_senders = (load.senders_lines, load.senders_bytes);
    load.latencies.end_interval(elapsed, sent, delivered);

    progress.say("waiting for the last lines");
    let complete = load.drain(interrupt)?;
    let faults = match complete {
        true => load.check.faults(&load.sent_by_each()),
        // What was still on its way is not known.
        false => load.check.faults(&vec![0; run.senders]),
    };
    load.latencies.settle();
    let stuck_open = load.look_at_stuck()?;
    let delivered_in_all = load.check.delivered();
    let connections = &load.connections;
    let closed = load.closed.into_iter().map(|(who, notice)| Closed {
        role: connections.role(who),
        reason: target
            .reason(connections.socket(who))
            .unwrap_or(notice.reason),
        detail: notice.detail,
    });
    Ok(Outcome {
        run: *run,
        format,
        address: target.address.clone(),
        is_own: target.own.is_some(),
        interrupted,
        complete,
        connect_time,
        elapsed,
        sent,
        delivered,
        delivered_in_all,
        readers_bytes,
        senders_lines: to_senders.0,
        senders_bytes: to_senders.1,
        faults,
        closed: closed.collect(),
        stuck_open,
        daemon: pid.zip(daemon_cpu).map(|(pid, cpu)| DaemonUsage {
            pid,
            cpu,
            rss,
            rss_peak,
        }),
        load_cpu,
        late: (run.rate > 0).then(|| std::mem::replace(&mut load.senders.late, Histogram::new())),
        latencies: load.latencies,
    })
}

impl Load<'_> {
    fn nanos(&self) -> u64 {
        self.started.elapsed().as_nanos() as u64
    }

    /// Sends until the time is over, or until there is nobody left. `tick` is called after each
    /// interval.
    fn send_for(
        &mut self,
        interrupt: &mut Interrupt,
        mut tick: impl FnMut(&Self, Duration),
    ) -> Result<()> {
        let interval = self.latencies.interval();
        let mut interval_ends = interval;
        loop {
            let now = self.started.elapsed();
            if now >= interval_ends && now < self.run.duration {
                let (sent, delivered) = (self.senders.made(), self.check.delivered());
                self.latencies.end_interval(now, sent, delivered);
                tick(self, now);
                interval_ends = now + interval;
            }
            let is_over = now >= self.run.duration || interrupt.count() > 0;
            if is_over || self.readers_open == 0 || self.senders.all_closed() {
                tick(self, now);
                return Ok(());
            }
            let (connections, arrived) = (&self.connections, self.check.arrived());
            let mut write = |sender, bytes: &[u8]| connections.write(sender, bytes);
            let more = self
                .senders
                .turn(now.as_nanos() as u64, arrived, &mut write);
            let left = self.run.duration.saturating_sub(now);
            let pause = if more { Duration::ZERO } else { TICK };
            match self.senders.next_due() {
                Some(due) => {
                    let next = Duration::from_nanos(due.saturating_sub(self.nanos()).max(1));
                    self.connections
                        .wake_after(next.min(left.max(Duration::from_nanos(1))))?;
                }
                None if !more && left < TICK => {
                    self.connections
                        .wake_after(left.max(Duration::from_nanos(1)))?;
                }
                None => {}
            }
            self.receive(pause)?;
        }
    }

    /// Receives until all have everything. False if that was broken off.
    fn drain(&mut self, interrupt: &mut Interrupt) -> Result<bool> {
        let interrupts = interrupt.count();
        let quiet = match self.run.stuck {
            0 => QUIET,
            _ => QUIET_WITH_STUCK,
        };
        self.senders.finish();
        self.last_read = Instant::now();
        loop {
            let now = self.nanos();
            let connections = &self.connections;
            let mut write = |sender, bytes: &[u8]| connections.write(sender, bytes);
            let is_sent = self.senders.flush(now, &mut write);
            if is_sent && self.check.is_complete(&self.sent_by_each()) {
                return Ok(true);
            }
            if self.last_read.elapsed() > quiet {
                return Ok(true);
            }
            if interrupt.count() > interrupts {
                return Ok(false);
            }
            self.receive(TICK)?;
        }
    }

    /// What each sender sent. Of one that was closed only what has arrived is known.
    fn sent_by_each(&self) -> Vec<u64> {
        let mut sent = self.senders.made_by_each();
        for (who, _) in &self.closed {
            if let Role::Sender(sender) = self.connections.role(*who) {
                sent[sender] = sent[sender].min(self.check.arrived_of(sender));
            }
        }
        sent
    }

    /// Waits for something to happen, and reads.
    fn receive(&mut self, pause: Duration) -> Result<()> {
        let mut ready = std::mem::take(&mut self.ready);
        self.connections.wait(pause, &mut ready)?;
        for event in &ready {
            let role = self.connections.role(event.who);
            if let (true, Role::Sender(sender)) = (event.writable, role) {
                self.connections.unwatch_writable(event.who)?;
                self.senders.unblock(sender);
            }
            if event.readable {
                self.read(event.who, role);
            }
        }
        self.ready = ready;
        Ok(())
    }

    fn read(&mut self, who: usize, role: Role) {
        let count = match self.connections.read(who, &mut self.buffer) {
            Got::Nothing => return,
            Got::Bytes(count) => count,
            Got::End(reason) => {
                self.connections.close(who);
                let told = match role {
                    Role::Reader(reader) => {
                        self.readers_open -= 1;
                        self.check.close(reader)
                    }
                    Role::Sender(sender) => {
                        self.senders.close(sender);
                        CloseNotice::in_last_lines(&self.tails[who])
                    }
                    Role::Stuck(_) => CloseNotice::in_last_lines(&self.tails[who]),
                };
                self.closed
                    .push((who, told.unwrap_or_else(|| CloseNotice::silent(reason))));
                return;
            }
        };
        self.last_read = Instant::now();
        let now = self.last_read.duration_since(self.started).as_nanos() as u64;
        let bytes = &self.buffer[..count];
        if let Role::Reader(reader) = role {
            self.readers_bytes += count as u64;
            let latencies = &mut self.latencies;
            let timed = |due: u64, lines| latencies.record(now.saturating_sub(due), lines);
            self.check.receive(reader, bytes, timed);
            return;
        }
        if let Role::Sender(_) = role {
            self.senders_lines += framing::count(bytes) as u64;
            self.senders_bytes += count as u64;
        }
        let tail = &mut self.tails[who];
        tail.extend_from_slice(&bytes[count.saturating_sub(TAIL_BYTES)..]);
        tail.drain(..tail.len().saturating_sub(TAIL_BYTES));
    }

    /// Reads on from the stuck readers, so that it shows which were closed. Returns how many were
    /// not.
    fn look_at_stuck(&mut self) -> Result<usize> {
        let stuck = self.connections.wake_stuck()?;
        let is_closed = |load: &Self, who: &usize| load.closed.iter().any(|(w, _)| w == who);
        let begun = Instant::now();
        self.last_read = begun;
        while self.last_read.elapsed() < STUCK_QUIET && begun.elapsed() < STUCK_PATIENCE {
            if stuck.iter().all(|who| is_closed(self, who)) {
                return Ok(0);
            }
            self.receive(TICK)?;
        }
        Ok(stuck.iter().filter(|who| !is_closed(self, who)).count())
    }
}

/// Four characters that no other run on this daemon has, as a rule.
fn new_tag() -> Tag {
    const LETTERS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let mixed = since.unwrap_or_default().as_nanos() as u64 ^ u64::from(std::process::id()) << 32;
    let mut mixed = mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
    [(); 4].map(|()| {
        let letter = LETTERS[(mixed % 32) as usize];
        mixed /= 32;
        letter
    })
}
