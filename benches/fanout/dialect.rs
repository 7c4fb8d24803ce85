//! How lines are published to each server so that it says when they are safe: three protocols, as far as
//! that takes.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use memchr::memmem;

/// How long a server may take for an answer to a greeting.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a NATS stream and a Redis stream are called, and the subject of the first.
const STREAM: &str = "bench";

/// The protocol of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// A session with `ack` for each publisher.
    Linehub,
    /// An XADD for each line.
    Redis,
    /// A request for each line: a publish with an inbox, in which the stream answers.
    Nats,
}

/// What has been acknowledged to one publisher.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    /// Lines.
    pub acknowledged: u64,
    /// What is to be said to the server besides lines.
    pub reply: Vec<u8>,
    unread: Vec<u8>,
}

impl Dialect {
    /// Prepares the server for all publishers.
    pub(crate) fn prepare(self, address: SocketAddr) -> Result<()> {
        if self != Dialect::Nats {
            return Ok(());
        }
        let mut socket = self.connect(address, 0)?;
        let stream = format!(
            "{{\"name\":\"{STREAM}\",\"subjects\":[\"{STREAM}\"],\"storage\":\"file\",\"num_replicas\":1}}"
        );
        let request = format!(
            "PUB $JS.API.STREAM.CREATE.{STREAM} _INBOX.0.1 {}\r\n{stream}\r\n",
            stream.len()
        );
        socket.write_all(request.as_bytes())?;
        let answer = read_until(&mut socket, b"}\r\n")?;
        ensure!(
            !answer.contains("\"error\""),
            "no stream: {}",
            answer.trim_end()
        );
        Ok(())
    }

    /// A connection on which this publisher publishes, and nothing is left to be read.
    pub(crate) fn connect(self, address: SocketAddr, publisher: usize) -> Result<TcpStream> {
        let mut socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let (greeting, end) = match self {
            Dialect::Linehub => (
                format!("LINEHUB/1 session=bench-{publisher} ack role=publish\n"),
                "\n",
            ),
            Dialect::Redis => ("PING\r\n".to_owned(), "+PONG\r\n"),
            Dialect::Nats => (
                format!("CONNECT {{\"verbose\":false}}\r\nSUB _INBOX.{publisher}.* 1\r\nPING\r\n"),
                "PONG\r\n",
            ),
        };
        socket.write_all(greeting.as_bytes())?;
        let answer = read_until(&mut socket, end.as_bytes())?;
        let is_taken = self != Dialect::Linehub || answer.ends_with(", taken 0\n");
        ensure!(is_taken, "the greeting is answered with {answer:?}");
        Ok(socket)
    }

    /// What publishes a line.
    pub(crate) fn line(self, publisher: usize, payload: &[u8]) -> Vec<u8> {
        let bytes = payload.len();
        let (before, after) = match self {
            Dialect::Linehub => (String::new(), "\n"),
            Dialect::Redis => (
                format!(
                    "*5\r\n$4\r\nXADD\r\n${}\r\n{STREAM}\r\n$1\r\n*\r\n$1\r\nl\r\n${bytes}\r\n",
                    STREAM.len()
                ),
                "\r\n",
            ),
            Dialect::Nats => (
                format!("PUB {STREAM} _INBOX.{publisher}.1 {bytes}\r\n"),
                "\r\n",
            ),
        };
        [before.as_bytes(), payload, after.as_bytes()].concat()
    }

    /// Takes in what the server has said.
    pub(crate) fn hear(self, answers: &mut Answers, bytes: &[u8]) -> Result<()> {
        answers.unread.extend_from_slice(bytes);
        let mut unread = &answers.unread[..];
        while let Some(end) = memchr::memchr(b'\n', unread) {
            let line = str::from_utf8(&unread[..end])?.trim_end();
            // Bytes that follow the line and belong to it.
            let mut body = 0;
            match self {
                Dialect::Linehub => {
                    let taken = line.strip_prefix("Taken ");
                    let taken = taken.with_context(|| format!("linehub says {line}"))?;
                    answers.acknowledged = taken.parse()?;
                }
                Dialect::Redis => {
                    let bytes = line.strip_prefix('$');
                    let bytes: usize = bytes
                        .with_context(|| format!("Redis says {line}"))?
                        .parse()?;
                    body = bytes + 2;
                }
                Dialect::Nats => match line.split_once(' ').unwrap_or((line, "")) {
                    ("MSG", words) => {
                        let bytes = words.rsplit(' ').next().context("an empty MSG")?;
                        body = bytes.parse::<usize>()? + 2;
                    }
                    ("PING", _) => answers.reply.extend_from_slice(b"PONG\r\n"),
                    ("INFO" | "PONG", _) => {}
                    _ => bail!("NATS says {line}"),
                },
            }
            let Some(rest) = unread.get(end + 1 + body..) else {
                break;
            };
            if body > 0 {
                let body = &unread[end + 1..end + 1 + body];
                let is_refused = memmem::find(body, b"\"error\"").is_some();
                ensure!(
                    !is_refused,
                    "not published: {}",
                    String::from_utf8_lossy(body)
                );
                answers.acknowledged += 1;
            }
            unread = rest;
        }
        let read = answers.unread.len() - unread.len();
        answers.unread.drain(..read);
        Ok(())
    }
}

/// Reads until what has come ends so.
fn read_until(socket: &mut TcpStream, end: &[u8]) -> Result<String> {
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    while !answer.ends_with(end) {
        let count = socket.read(&mut buffer)?;
        ensure!(
            count > 0,
            "refused: {}",
            String::from_utf8_lossy(&answer).trim_end()
        );
        answer.extend_from_slice(&buffer[..count]);
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
