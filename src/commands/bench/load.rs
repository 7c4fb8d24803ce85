//! The run itself: one thread that sends, receives and checks.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use socket2::Socket;

use super::barrier::Barrier;
use super::check::Check;
use super::connections::{Connections, Got, Ready, Role};
use super::interrupt::Interrupt;
use super::latency::Latencies;
use super::line::{LineKind, Tag};
use super::line_decoder::{CloseNotice, LineDecoder};
use super::line_source::LineSource;
use super::outcome::{Closed, DaemonUsage, Outcome};
use super::plan::Run;
use super::progress::Progress;
use super::senders::{Pace, Senders};
use super::target::Target;
use crate::ops::procfs;
use crate::wire::close_reason::CloseReason;
use crate::wire::framing;

/// Connections that are being made at a time. The daemon's backlog is larger.
const DIALLED_MAX: usize = 512;

/// What a read takes at most.
const READ_BYTES: usize = 256 * 1024;

/// What may be on its way without a rate. Enough that the daemon always has something to read, few
/// enough that latency is the daemon's and not that of a queue before it.
const WAY_BYTES: usize = 4 << 20;

/// How long the load sleeps at most.
const TICK: Duration = Duration::from_millis(20);

/// How long nothing may come before what is missing counts as lost. With stuck readers, the daemon
/// may be waiting for one: its `--stall-timeout` is 30 s.
const QUIET: Duration = Duration::from_secs(10);
const QUIET_WITH_STUCK: Duration = Duration::from_secs(45);

/// How long stuck readers have to get what is still theirs, so that their end shows.
const STUCK_QUIET: Duration = Duration::from_millis(200);
const STUCK_PATIENCE: Duration = Duration::from_secs(3);

struct Load<'a> {
    run: &'a Run,
    connections: Connections,
    check: Check,
    senders: Senders,
    latencies: Latencies,
    started: Instant,
    buffer: Vec<u8>,
    ready: Vec<Ready>,
    senders_lines: u64,
    readers_open: usize,
    closed: Vec<(usize, CloseNotice)>,
    last_read: Instant,
}

/// What was done up to a moment.
struct Mark {
    at: Duration,
    sent: u64,
    received: u64,
    received_bytes: u64,
    daemon_cpu: Option<Duration>,
    load_cpu: Option<Duration>,
}

/// Runs the load against a daemon.
pub(super) fn run(
    run: &Run,
    target: &Target,
    first: Option<Socket>,
    interrupt: &mut Interrupt,
    progress: &Progress,
) -> Result<Outcome> {
    progress.say("connecting");
    let endpoint = &target.endpoint;
    let roles = run.roles();
    let (mut connections, begun) =
        Connections::connect(endpoint, first, &roles, DIALLED_MAX, interrupt)?;
    let kind = LineKind::new(new_tag(), run.size);
    let barrier = Barrier::pass(&mut connections, *kind.tag(), interrupt)?;
    let format = barrier.format();
    if let Some(asked) = run.format.filter(|asked| *asked != format) {
        let address = &target.address;
        bail!("--format: {asked} was asked for, but {address} speaks {format}");
    }

    let mut load = Load::new(
        run,
        connections,
        LineDecoder::new(format, kind.clone()),
        kind,
    );
    for (who, role) in roles.iter().enumerate() {
        if let Role::Reader(reader) = role {
            load.check.receive(*reader, barrier.rest(who), |_, _| ());
        }
    }
    let pid = target.pid(load.connections.socket(0));
    load.started = Instant::now();
    if run.warm_up > Duration::ZERO {
        load.send_until(run.warm_up, interrupt, |_, _| ())?;
        load.latencies = Latencies::new(run.duration);
    }
    let before = load.mark(pid);
    let (mut rss, mut rss_peak) = (None, None);
    load.send_until(run.warm_up + run.duration, interrupt, |load, at| {
        rss = pid.and_then(procfs::resident_bytes);
        rss_peak = rss_peak.max(rss);
        progress.show(at, run, &load.latencies);
    })?;

    // What counts as the run's speed is what was done by now.
    let after = load.mark(pid);
    let interrupted = interrupt.count() > 0;
    load.end_interval(after.at);

    progress.say("waiting for the last lines");
    let complete = load.drain(interrupt)?;
    let faults = match complete {
        true => load.check.faults(&load.sent_by_each()),
        // What was still on its way is not known.
        false => load.check.faults_so_far(),
    };
    load.latencies.settle();
    let stuck_open = load.look_at_stuck()?;
    let elapsed = after.at - before.at;
    let share = |before: Option<Duration>, now: Option<Duration>| {
        Some(now?.saturating_sub(before?).as_secs_f64() / elapsed.as_secs_f64())
    };
    let daemon_cpu = share(before.daemon_cpu, after.daemon_cpu);
    Ok(Outcome {
        run: *run,
        format,
        address: target.address.clone(),
        channel: target.channel.clone(),
        is_tls: target.is_tls,
        is_own: target.own.is_some(),
        interrupted,
        complete,
        connect_time: barrier.served() - begun,
        elapsed,
        sent: after.sent - before.sent,
        received: after.received - before.received,
        received_bytes: after.received_bytes - before.received_bytes,
        delivered: load.check.delivered(),
        faults,
        closed: closed(&load, target),
        stuck_open,
        daemon: pid.zip(daemon_cpu).map(|(pid, cpu)| DaemonUsage {
            pid,
            cpu,
            rss,
            rss_peak,
        }),
        load_cpu: share(before.load_cpu, after.load_cpu),
        late: (run.rate > 0).then_some(load.senders.late),
        latencies: load.latencies,
    })
}

/// Connections that were closed and why, which the log of our own daemon says best.
fn closed(load: &Load<'_>, target: &Target) -> Vec<Closed> {
    let peer = |who: usize| {
        let address = load.connections.socket(who).local_addr().ok();
        let address = address.and_then(|address| address.as_socket());
        address.map_or_else(String::new, |address| address.to_string())
    };
    let peers: Vec<String> = load.closed.iter().map(|(who, _)| peer(*who)).collect();
    let own = target.own.as_ref().filter(|_| !peers.is_empty());
    let mut reasons = own.map_or_else(HashMap::new, |own| own.reasons(&peers));
    let all = load.closed.iter().zip(&peers);
    all.map(|((who, notice), peer)| Closed {
        role: load.connections.role(*who),
        reason: reasons.remove(peer).unwrap_or(notice.reason.clone()),
        detail: notice.detail.clone(),
    })
    .collect()
}

impl Load<'_> {
    fn new(run: &Run, connections: Connections, decoder: LineDecoder, kind: LineKind) -> Load<'_> {
        let pace = match run.rate {
            0 => Pace::Free((WAY_BYTES / (run.size + 1)) as u64),
            rate => Pace::Rate(rate as u64),
        };
        Load {
            run,
            check: Check::new(decoder, run.senders, run.readers),
            senders: Senders::new(LineSource::headed(kind), run.senders, pace),
            latencies: Latencies::new(run.duration),
            started: Instant::now(),
            buffer: vec![0; READ_BYTES],
            ready: Vec::new(),
            senders_lines: 0,
            readers_open: run.readers,
            closed: Vec::new(),
            last_read: Instant::now(),
            connections,
        }
    }

    fn nanos(&self) -> u64 {
        self.started.elapsed().as_nanos() as u64
    }

    /// What was done up to now.
    fn mark(&self, pid: Option<u32>) -> Mark {
        Mark {
            at: self.started.elapsed(),
            sent: self.senders.made(),
            received: self.check.delivered() + self.senders_lines,
            received_bytes: self.connections.received().sum(),
            daemon_cpu: pid.and_then(procfs::cpu_time),
            load_cpu: procfs::cpu_time(std::process::id()),
        }
    }

    /// Ends an interval of the latencies.
    fn end_interval(&mut self, at: Duration) {
        let (sent, delivered) = (self.senders.made(), self.check.delivered());
        self.latencies.end_interval(at, sent, delivered);
    }

    /// Sends until the time since the start is over, or until there is nobody left. `tick` is called
    /// after each interval.
    fn send_until(
        &mut self,
        end: Duration,
        interrupt: &mut Interrupt,
        mut tick: impl FnMut(&Self, Duration),
    ) -> Result<()> {
        let interval = self.latencies.interval();
        let mut interval_ends = self.started.elapsed() + interval;
        loop {
            let now = self.started.elapsed();
            if now >= interval_ends && now < end {
                self.end_interval(now);
                tick(self, now);
                interval_ends = now + interval;
            }
            let is_over = now >= end || interrupt.count() > 0;
            if is_over || self.readers_open == 0 || self.senders.all_closed() {
                tick(self, now);
                return Ok(());
            }
            let (connections, arrived) = (&mut self.connections, self.check.arrived());
            let mut write = |sender, bytes: &[u8]| connections.write(sender, bytes);
            let now = now.as_nanos() as u64;
            let more = self.senders.turn(now, arrived, &mut write);
            let pause = if more { Duration::ZERO } else { TICK };
            // Epoll knows nothing shorter than milliseconds.
            let left = end.saturating_sub(self.started.elapsed());
            let due = self.senders.next_due();
            let due = due.map(|due| Duration::from_nanos(due.saturating_sub(self.nanos())));
            let next = due.unwrap_or(left).min(left);
            if due.is_some() || (!more && left < TICK) {
                self.connections
                    .wake_after(next.max(Duration::from_nanos(1)))?;
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
            let connections = &mut self.connections;
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
            Got::End(reason) => return self.close(who, role, reason),
        };
        self.last_read = Instant::now();
        let bytes = &self.buffer[..count];
        match role {
            Role::Reader(reader) => {
                let now = self.last_read.duration_since(self.started).as_nanos() as u64;
                let latencies = &mut self.latencies;
                let timed = |due: u64, lines| latencies.record(now.saturating_sub(due), lines);
                self.check.receive(reader, bytes, timed);
            }
            Role::Sender(_) => self.senders_lines += framing::count(bytes) as u64,
            Role::Stuck(_) => {}
        }
    }

    fn close(&mut self, who: usize, role: Role, reason: CloseReason) {
        self.connections.close(who);
        let notice = match role {
            Role::Reader(reader) => {
                self.readers_open -= 1;
                let said = self.check.close(reader);
                said.unwrap_or_else(|| CloseNotice::silent(reason))
            }
            Role::Sender(sender) => {
                self.senders.close(sender);
                self.connections.close_notice(who, reason)
            }
            Role::Stuck(_) => self.connections.close_notice(who, reason),
        };
        self.closed.push((who, notice));
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
