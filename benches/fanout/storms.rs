//! Many clients that do next to nothing: connecting them, keeping them, reaching all of them.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use linehub::commands::bench::{Barrier, Connections, Got, Histogram, Interrupt, Role};

use crate::launch::{Busy, Server};

/// How long all notices of a storm may take: there are a hundred million of them.
const NOTICES_PATIENCE: Duration = Duration::from_secs(180);

/// How long the load sleeps at most.
const TICK: Duration = Duration::from_millis(20);

/// Connects `clients` at once, and returns them with when the first of them set out.
fn storm(server: &Server, clients: usize) -> Result<(Connections, Instant)> {
    let mut roles: Vec<Role> = (1..clients).map(Role::Reader).collect();
    roles.push(Role::Sender(0));
    let endpoint = server.endpoint()?;
    Connections::connect(&endpoint, None, &roles, clients, &mut Interrupt::never())
}

/// Connects `clients` and returns them when each is proven to be served, with how long that took.
/// The proof: a line from the last of them has reached all others.
fn gather(server: &Server, clients: usize) -> Result<(Connections, Barrier, Duration)> {
    let (mut connections, started) = storm(server, clients)?;
    let barrier = Barrier::pass(&mut connections, *b"load", &mut Interrupt::never())?;
    let took = barrier.served() - started;
    Ok((connections, barrier, took))
}

/// Seconds until all of `clients`, connecting at once, are connected and served.
/// A server that accepts too slowly for its queue pays in whole seconds: the kernel drops what does
/// not fit, and clients try again only after one second, then two, then four.
pub(crate) fn connect_storm(server: &Server, clients: usize) -> Result<f64> {
    let (_, _, took) = gather(server, clients)?;
    Ok(took.as_secs_f64())
}

/// Connects `clients` at once. Returns how many one core of the server would take in a second, by what
/// they cost it: the load checks certificates, which costs more than to show them.
pub(crate) fn handshakes(server: &Server, clients: usize) -> Result<(f64, Busy)> {
    let before = server.usage()?;
    gather(server, clients)?;
    let busy = before.until(&server.usage()?);
    Ok((clients as f64 / busy.server.as_secs_f64(), busy))
}

/// What a storm with notices costs.
pub(crate) struct NoticeStorm {
    /// Time until the last notice was delivered.
    pub seconds: f64,
    /// Time until the last notice of half of them leaving at once.
    pub leave_seconds: f64,
    /// The most the server had resident.
    pub resident_bytes_max: f64,
}

/// Connects `clients` at once to a server that tells everyone of everyone who comes after, and
/// waits for all `n(n-1)/2` notices, counted by their bytes.
pub(crate) fn notice_storm(server: &Server, clients: usize) -> Result<NoticeStorm> {
    let expected: u64 = (1..=clients)
        .map(|id| format!("New client connected: {id}\n").len() as u64 * (id as u64 - 1))
        .sum();
    let (mut connections, started) = storm(server, clients)?;
    receive(&mut connections, expected)?;
    let seconds = started.elapsed().as_secs_f64();

    // The earlier a client was accepted, the more it heard: that tells the numbers of those who go.
    let stay = clients / 2;
    let mut heard: Vec<(u64, usize)> = connections.received().zip(0..).collect();
    heard.sort_unstable_by(|a, b| b.cmp(a));
    let leaving: u64 = (1..)
        .zip(&heard)
        .filter(|(_, (_, who))| *who >= stay)
        .map(|(id, _): (usize, _)| format!("Client disconnected: {id}\n").len() as u64)
        .sum();
    let expected = connections.received().take(stay).sum::<u64>() + leaving * stay as u64;
    let started = Instant::now();
    connections.truncate(stay);
    receive(&mut connections, expected)?;
    Ok(NoticeStorm {
        seconds,
        leave_seconds: started.elapsed().as_secs_f64(),
        resident_bytes_max: server.resident_bytes_max()? as f64,
    })
}

/// Reads until all have received this many bytes together, and no more.
fn receive(connections: &mut Connections, expected: u64) -> Result<()> {
    let deadline = Instant::now() + NOTICES_PATIENCE;
    let mut ready = Vec::new();
    loop {
        let received: u64 = connections.received().sum();
        if received == expected {
            return Ok(());
        }
        ensure!(received < expected, "more notices than clients account for");
        ensure!(
            Instant::now() < deadline,
            "received {received} of {expected} bytes of notices"
        );
        connections.wait(TICK, &mut ready)?;
        for event in &ready {
            if let Got::End(_) = connections.discard(event.who, usize::MAX) {
                bail!("the server closed client {}", event.who);
            }
        }
    }
}

/// Seconds from sending one line until the last of `clients` idle ones has it; the median of
/// `repetitions`.
pub(crate) fn one_line(server: &Server, clients: usize, repetitions: usize) -> Result<f64> {
    let (mut connections, mut barrier, _) = gather(server, clients + 1)?;
    let mut times = Histogram::default();
    for repetition in 0..repetitions {
        let started = Instant::now();
        let (word, never) = (format!("line{repetition}"), &mut Interrupt::never());
        barrier.announce(&mut connections, &word, None, never)?;
        times.record(started.elapsed().as_nanos() as u64, 1);
    }
    Ok(times.percentile(50.0).context("no lines")?.as_secs_f64())
}

/// Bytes that become resident for each of `clients`, which connect, receive one line, and stay.
pub(crate) fn memory(server: &Server, clients: usize) -> Result<f64> {
    let before = server.resident_bytes()?;
    let _clients = gather(server, clients)?;
    let after = server.resident_bytes()?;
    Ok(after.saturating_sub(before) as f64 / clients as f64)
}
