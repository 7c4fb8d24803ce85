//! Many clients that do next to nothing: connecting them, keeping them, reaching all of them.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::launch::Server;
use crate::load::{Events, Load, PATIENCE, TICK};
use crate::table::nearest_rank;

/// How long all notices of a storm may take: there are a hundred million of them.
const NOTICES_PATIENCE: Duration = Duration::from_secs(180);

/// How long a single line may take to reach everyone.
const LINE_PATIENCE: Duration = Duration::from_secs(10);

/// Connects `clients` and returns when each is proven to be served, with how long that took. The
/// proof: a line from the last of them has reached all others.
fn gather(load: &mut Load, clients: usize) -> Result<Duration> {
    let started = load.storm(clients)?;
    let mut events = Events::new();
    while !load.all_connected() {
        ensure!(
            started.elapsed() < PATIENCE,
            "not all clients could connect"
        );
        load.absorb(TICK, &mut events)?;
    }
    load.rendezvous(clients - 1)?;
    Ok(started.elapsed())
}

/// Seconds until all of `clients`, connecting at once, are connected and served.
/// A server that accepts too slowly for its queue pays in whole seconds: the kernel drops what does
/// not fit, and clients try again only after one second, then two, then four.
pub(crate) fn connect_storm(server: &Server, clients: usize) -> Result<f64> {
    let mut load = Load::new(server.address())?;
    Ok(gather(&mut load, clients)?.as_secs_f64())
}

/// What a storm with notices costs.
pub(crate) struct NoticeStorm {
    /// Until the last notice was delivered.
    pub seconds: f64,
    /// The same for the notices of half of them leaving at once.
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
    let mut load = Load::new(server.address())?;
    let started = load.storm(clients)?;
    let mut events = Events::new();
    loop {
        let received: u64 = load.received().sum();
        if received == expected && load.all_connected() {
            break;
        }
        ensure!(
            received <= expected,
            "more notices than clients account for"
        );
        ensure!(
            started.elapsed() < NOTICES_PATIENCE,
            "received {received} of {expected} bytes of notices"
        );
        load.absorb(TICK, &mut events)?;
    }
    let seconds = started.elapsed().as_secs_f64();

    // The earlier a client was accepted, the more it heard: that tells the numbers of those who go.
    let stay = clients / 2;
    let mut heard: Vec<(u64, usize)> = load.received().zip(0..).collect();
    heard.sort_unstable_by(|a, b| b.cmp(a));
    let leaving: u64 = (1..)
        .zip(&heard)
        .filter(|(_, (_, who))| *who >= stay)
        .map(|(id, _): (usize, _)| format!("Client disconnected: {id}\n").len() as u64)
        .sum();
    let expected = load.received().take(stay).sum::<u64>() + leaving * stay as u64;
    let started = Instant::now();
    load.truncate(stay);
    while load.received().sum::<u64>() < expected {
        ensure!(
            started.elapsed() < NOTICES_PATIENCE,
            "not all heard of all who left"
        );
        load.absorb(TICK, &mut events)?;
    }
    let leave_seconds = started.elapsed().as_secs_f64();
    ensure!(
        load.received().sum::<u64>() == expected,
        "more notices than clients account for"
    );
    Ok(NoticeStorm {
        seconds,
        leave_seconds,
        resident_bytes_max: server.resident_bytes_max()? as f64,
    })
}

/// Seconds from sending one line until the last of `clients` idle ones has it; the median of
/// `repetitions`.
pub(crate) fn one_line(server: &Server, clients: usize, repetitions: usize) -> Result<f64> {
    let mut load = Load::new(server.address())?;
    gather(&mut load, clients + 1)?;
    let mut times = Vec::new();
    for repetition in 0..repetitions {
        let tag = format!("line{repetition:06}");
        let started = Instant::now();
        ensure!(
            load.announce(clients, &tag, LINE_PATIENCE)?,
            "the line did not reach all"
        );
        times.push(started.elapsed().as_nanos() as u64);
    }
    times.sort_unstable();
    Ok(nearest_rank(&times, 0.5).map_or(0.0, |nanos| nanos as f64 / 1e9))
}

/// Bytes that become resident for each of `clients`, which connect, receive one line, and stay.
pub(crate) fn memory(server: &Server, clients: usize) -> Result<f64> {
    let before = server.resident_bytes()?;
    let mut load = Load::new(server.address())?;
    gather(&mut load, clients)?;
    let after = server.resident_bytes()?;
    Ok(after.saturating_sub(before) as f64 / clients as f64)
}
