//! Newcomers that get what was published before they came.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use linehub::commands::bench::Histogram;
use rustix::net::{RecvFlags, recv};

use crate::launch::{Busy, Server};
use crate::settings::Settings;
use crate::stream::{self, Stream};

const PAYLOAD_BYTES: usize = 64;

/// Lines that are published in rotation.
const ROTATION: usize = 1000;

const READ_BYTES: usize = 1 << 20;

/// How long the server may take for all of a history.
const PATIENCE: Duration = Duration::from_secs(60);

/// Newcomers, one after the other, in a format, each of which gets so many lines of history.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Newcomer {
    pub format: &'static str,
    pub lines: usize,
}

/// What was measured.
pub(crate) struct NewcomerFigures {
    /// Lines a second that a newcomer gets, from its hello on; the median of all of them.
    pub lines_per_second: f64,
    pub busy: Busy,
}

/// Publishes so many lines, and waits until all are kept. Returns where the channel stood before, as a hello
/// says it in `since`.
pub(crate) fn fill(address: SocketAddr, lines: usize) -> Result<String> {
    let mut publisher = TcpStream::connect(address)?;
    publisher.set_read_timeout(Some(PATIENCE))?;
    publisher.write_all(b"LINEHUB/1 session=fill ack role=publish\n")?;
    let answer = read_line(&mut publisher)?;
    let place = answer
        .split(" at ")
        .nth(1)
        .and_then(|rest| rest.split(',').next());
    let place = place.with_context(|| format!("the hello is answered with {answer:?}"))?;
    let block: Vec<u8> = payloads()
        .iter()
        .flat_map(|line| [line, &b"\n"[..]].concat())
        .collect();
    for from in (0..lines).step_by(ROTATION) {
        let count = ROTATION.min(lines - from);
        publisher.write_all(&block[..count * (PAYLOAD_BYTES + 1)])?;
    }
    let all = format!("Taken {lines}\n");
    while read_line(&mut publisher)? != all {}
    Ok(place.to_owned())
}

fn payloads() -> Vec<Vec<u8>> {
    stream::payloads(ROTATION, PAYLOAD_BYTES)
}

/// Reads a line with its LF, byte for byte.
fn read_line(socket: &mut TcpStream) -> Result<String> {
    let mut line = Vec::new();
    let mut byte = [0];
    while line.last() != Some(&b'\n') {
        ensure!(
            socket.read(&mut byte)? > 0,
            "closed: {}",
            String::from_utf8_lossy(&line)
        );
        line.extend_from_slice(&byte);
    }
    Ok(String::from_utf8(line)?)
}

impl Newcomer {
    /// Has one newcomer's bytes compared, and others timed.
    pub(crate) fn run(&self, server: &Server, settings: &Settings) -> Result<NewcomerFigures> {
        let address = server.address();
        fill(address, self.lines)?;
        let bytes = self.compare(address)?;
        let before = server.usage()?;
        let mut times = Histogram::default();
        for _ in 0..settings.repetitions {
            let begun = Instant::now();
            let newcomer = self.arrive(address)?;
            let mut buffer = vec![0; READ_BYTES];
            let mut received = 0;
            while received < bytes {
                // The kernel need not copy them.
                match recv(&newcomer, &mut buffer[..], RecvFlags::TRUNC)?.1 {
                    0 => bail!("closed after {received} of {bytes} bytes"),
                    count => received += count,
                }
            }
            ensure!(received == bytes, "{received} bytes instead of {bytes}");
            times.record(begun.elapsed().as_nanos() as u64, 1);
        }
        let median = times.percentile(50.0).context("nobody came")?;
        Ok(NewcomerFigures {
            lines_per_second: self.lines as f64 / median.as_secs_f64(),
            busy: before.until(&server.usage()?),
        })
    }

    /// A newcomer that has heard the answer to its hello, and nothing more.
    fn arrive(&self, address: SocketAddr) -> Result<TcpStream> {
        let mut newcomer = TcpStream::connect(address)?;
        newcomer.set_read_timeout(Some(PATIENCE))?;
        let (format, lines) = (self.format, self.lines);
        let hello = format!("LINEHUB/1 format={format} history={lines} role=subscribe\n");
        newcomer.write_all(hello.as_bytes())?;
        if format != "raw" {
            read_line(&mut newcomer)?;
        }
        Ok(newcomer)
    }

    /// Compares every byte that a newcomer gets. Returns how many there are.
    fn compare(&self, address: SocketAddr) -> Result<usize> {
        let mut newcomer = self.arrive(address)?;
        let mut payloads = payloads();
        let first = read_line(&mut newcomer)?;
        let stream = {
            let probe = payloads[0].clone();
            payloads.rotate_left(1);
            Stream::learn(first.as_bytes(), &probe, payloads, false)?
        };
        let bytes = stream.bytes_of(self.lines as u64 - 1);
        let mut buffer = vec![0; READ_BYTES];
        let mut offset = 0;
        while offset < bytes {
            let count = newcomer.read(&mut buffer)?;
            ensure!(count > 0, "closed after {offset} of {bytes} bytes");
            ensure!(
                stream.matches(offset, &buffer[..count]),
                "a newcomer received something else after {offset} bytes"
            );
            offset += count as u64;
        }
        ensure!(offset == bytes, "{offset} bytes instead of {bytes}");
        Ok(first.len() + usize::try_from(bytes)?)
    }
}
