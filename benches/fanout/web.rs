//! Readers that come by HTTP, beside those of plain `json`, and beside NATS's own WebSocket.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use memchr::{memchr_iter, memmem};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::cases::{Case, Plan, Side};
use crate::launch::{Busy, Launch, Program, Server};
use crate::peers::Peer;
use crate::settings::Settings;

const PAYLOAD_BYTES: usize = 64;

/// Lines that are sent at a time.
const BLOCK_LINES: usize = 500;

const READ_BYTES: usize = 256 * 1024;

/// How long a server may take over what is on its way.
const PATIENCE: Duration = Duration::from_secs(30);

/// Names the subject on NATS.
const SUBJECT: &str = "b";

/// By what lines go to and fro.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// As they are, in the format of the listener.
    Plain,
    WebSocket,
    /// The same in `raw`: the lines and nothing else, as NATS has them.
    RawWebSocket,
    /// Read as server-sent events, and sent by WebSocket in `raw`.
    Events,
    /// NATS's protocol in WebSocket frames.
    Nats,
}

/// A sender at full speed, and so many readers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Web {
    pub way: Way,
    pub readers: usize,
}

/// What was measured.
pub(crate) struct WebFigures {
    /// Lines delivered a second, over all readers.
    pub lines_per_second: f64,
    pub busy: Busy,
}

/// The cases.
pub(crate) fn cases(subject: &Program, lossless: &[&str], readers: usize) -> Vec<Case> {
    let side = |way, more: &[&str]| {
        let mut launch = Launch::new(subject, &[lossless, more].concat());
        launch.http = way != Way::Plain;
        let plan = Plan::Web(Web { way, readers });
        Side { launch, plan }
    };
    let nats = || Side {
        launch: Launch::new(&Program::Peer(Peer::NatsWebSocket), &[]),
        plan: Plan::Web(Web {
            way: Way::Nats,
            readers,
        }),
    };
    let json = || side(Way::Plain, &["--format", "json"]);
    [
        (
            "websocket",
            side(Way::WebSocket, &[]),
            "json over TCP",
            json(),
        ),
        ("events", side(Way::Events, &[]), "json over TCP", json()),
        (
            "websocket-beside-nats",
            side(Way::WebSocket, &[]),
            "NATS",
            nats(),
        ),
        (
            "websocket-raw-beside-nats",
            side(Way::RawWebSocket, &[]),
            "NATS",
            nats(),
        ),
    ]
    .map(|(name, subject, against, baseline)| Case {
        name: format!("web/{name}/{readers}-readers"),
        subject,
        baseline: Some((against, baseline)),
    })
    .into()
}

impl Web {
    pub(crate) fn run(&self, server: &Server, settings: &Settings) -> Result<WebFigures> {
        let address = server.address();
        let mut readers = Vec::new();
        for _ in 0..self.readers {
            readers.push(Reader::connect(self.way, address)?);
        }
        let mut sender = Reader::connect(self.way.of_sender(), address)?.socket;
        let block = self.way.block();
        let (mut sent, mut at) = (0, 0);
        let mut marks = Vec::new();
        for span in [settings.warm_up, settings.window] {
            let end = Instant::now() + span;
            while Instant::now() < end {
                // A flood: there is always something to be read of it.
                loop {
                    match write(&mut sender, &block[at..])? {
                        0 => break,
                        written => at += written,
                    }
                    if at == block.len() {
                        (sent, at) = (sent + BLOCK_LINES as u64, 0);
                    }
                }
                turn(&mut readers, Some(&sender))?;
            }
            let lines: u64 = readers.iter().map(|reader| reader.counter.lines).sum();
            marks.push((server.usage()?, Instant::now(), lines));
        }
        let deadline = Instant::now() + PATIENCE;
        while at > 0 && at < block.len() {
            ensure!(Instant::now() < deadline, "the server takes no more");
            at += write(&mut sender, &block[at..])?;
            turn(&mut readers, Some(&sender))?;
        }
        sent += if at > 0 { BLOCK_LINES as u64 } else { 0 };
        while readers.iter().any(|reader| reader.counter.lines < sent) {
            ensure!(Instant::now() < deadline, "not all {sent} lines came");
            turn(&mut readers, None)?;
        }
        let is_exact = readers.iter().all(|reader| reader.counter.lines == sent);
        ensure!(is_exact, "more lines came than {sent}");
        let [(before, begun, first), (after, ended, last)] = &marks[..] else {
            bail!("two spans");
        };
        Ok(WebFigures {
            lines_per_second: (last - first) as f64 / (*ended - *begun).as_secs_f64(),
            busy: before.until(after),
        })
    }
}

/// Writes what the socket takes; how many bytes that is.
fn write(sender: &mut TcpStream, bytes: &[u8]) -> Result<usize> {
    match sender.write(bytes) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
        written => Ok(written?),
    }
}

/// Reads from all that have something, and waits for that or for room to send.
fn turn(readers: &mut [Reader], sender: Option<&TcpStream>) -> Result<()> {
    let mut fds: Vec<_> = readers
        .iter()
        .map(|reader| PollFd::new(&reader.socket, PollFlags::IN))
        .collect();
    fds.extend(sender.map(|sender| PollFd::new(sender, PollFlags::OUT)));
    let tick = Timespec::try_from(Duration::from_millis(20))?;
    poll(&mut fds, Some(&tick))?;
    let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
    for (reader, _) in readers
        .iter_mut()
        .zip(ready)
        .filter(|(_, is_ready)| *is_ready)
    {
        reader.read()?;
    }
    Ok(())
}

impl Way {
    /// How the one that sends connects. What it is sent itself must be no encoding of its own to the batches, whose
    /// size goes by how many they are made in: of `raw` they have all already.
    fn of_sender(self) -> Way {
        match self {
            Way::Events => Way::RawWebSocket,
            way => way,
        }
    }

    /// Whether each line is a frame.
    fn counts_frames(self) -> bool {
        matches!(self, Way::WebSocket | Way::RawWebSocket)
    }

    /// What is sent again and again.
    fn block(self) -> Vec<u8> {
        let payload = vec![b'x'; PAYLOAD_BYTES];
        let one = match self {
            Way::Plain => [&payload[..], b"\n"].concat(),
            Way::WebSocket | Way::RawWebSocket | Way::Events => masked(0x81, &payload),
            Way::Nats => {
                let publish = format!("PUB {SUBJECT} {PAYLOAD_BYTES}\r\n");
                let publish = [publish.as_bytes(), &payload, b"\r\n"].concat();
                return masked(0x82, &publish.repeat(BLOCK_LINES));
            }
        };
        one.repeat(BLOCK_LINES)
    }
}

/// A frame whose mask changes nothing.
fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        len @ 0..126 => frame.push(0x80 | len as u8),
        len @ 126..65_536 => {
            frame.push(0x80 | 126);
            frame.extend((len as u16).to_be_bytes());
        }
        len => {
            frame.push(0x80 | 127);
            frame.extend((len as u64).to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

/// One that reads.
struct Reader {
    socket: TcpStream,
    counter: Counter,
    buffer: Vec<u8>,
}

impl Reader {
    fn connect(way: Way, address: SocketAddr) -> Result<Reader> {
        let mut socket = TcpStream::connect(address)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let (request, end) = match way {
            Way::Plain => (String::new(), &b""[..]),
            Way::WebSocket => (upgrade("/ws", address), &b"}"[..]),
            Way::RawWebSocket => (upgrade("/ws?format=raw", address), &b"\r\n\r\n"[..]),
            Way::Events => (
                format!("GET /events HTTP/1.1\r\nHost: {address}\r\n\r\n"),
                &b"\n\n\r\n"[..],
            ),
            Way::Nats => (upgrade("/", address), &b"} \r\n"[..]),
        };
        socket.write_all(request.as_bytes())?;
        // Up to the end of the greeting, and nothing of what follows.
        read_until(&mut socket, end)?;
        if way == Way::Nats {
            let greeting = format!(
                "CONNECT {{\"verbose\":false,\"echo\":false}}\r\nSUB {SUBJECT} 1\r\nPING\r\n"
            );
            socket.write_all(&masked(0x82, greeting.as_bytes()))?;
            read_until(&mut socket, b"PONG\r\n")?;
        }
        socket.set_nonblocking(true)?;
        Ok(Reader {
            socket,
            counter: Counter::new(way),
            buffer: vec![0; READ_BYTES],
        })
    }

    fn read(&mut self) -> Result<()> {
        match self.socket.read(&mut self.buffer) {
            Ok(0) => bail!("closed"),
            Ok(count) => self.counter.take(&self.buffer[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

fn upgrade(path: &str, address: SocketAddr) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
}

/// Reads until what has come ends so, a byte at a time.
fn read_until(socket: &mut TcpStream, end: &[u8]) -> Result<()> {
    let (mut answer, mut byte) = (Vec::new(), [0]);
    while !answer.ends_with(end) {
        let count = socket.read(&mut byte)?;
        ensure!(count > 0, "refused: {}", String::from_utf8_lossy(&answer));
        answer.push(byte[0]);
    }
    Ok(())
}

/// Counts lines in what comes, frames and chunks taken apart.
struct Counter {
    way: Way,
    lines: u64,
    /// LFs, or bytes of payload, that were counted.
    units: u64,
    /// Bytes of a frame or a chunk that are still to come, and what there is of the next header.
    left: usize,
    header: Vec<u8>,
}

impl Counter {
    fn new(way: Way) -> Counter {
        Counter {
            way,
            lines: 0,
            units: 0,
            left: 0,
            header: Vec::new(),
        }
    }

    fn take(&mut self, mut bytes: &[u8]) -> Result<()> {
        if self.way == Way::Plain {
            self.lines += memchr_iter(b'\n', bytes).count() as u64;
            return Ok(());
        }
        while !bytes.is_empty() {
            if self.left == 0 {
                if self.way.counts_frames() && self.header.is_empty() {
                    bytes = self.skip_frames(bytes);
                }
                let Some(next) = bytes.first() else { break };
                self.header.push(*next);
                bytes = &bytes[1..];
                match self.way {
                    Way::Events => self.begin_chunk()?,
                    _ => self.begin_frame(),
                }
                continue;
            }
            let (now, rest) = bytes.split_at(self.left.min(bytes.len()));
            (self.left, bytes) = (self.left - now.len(), rest);
            match self.way {
                // An id, the data, and nothing.
                Way::Events => {
                    self.units += memchr_iter(b'\n', now).count() as u64;
                    self.lines = self.units / 3;
                }
                Way::Nats => {
                    self.units += now.len() as u64;
                    let around = format!("MSG {SUBJECT} 1 {PAYLOAD_BYTES}\r\n\r\n").len();
                    self.lines = self.units / (around + PAYLOAD_BYTES) as u64;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Counts the frames that are here whole; what is behind them.
    fn skip_frames<'a>(&mut self, mut bytes: &'a [u8]) -> &'a [u8] {
        loop {
            let (first, len, rest) = match bytes {
                [first, len @ ..126, rest @ ..] => (first, usize::from(*len), rest),
                [first, 126, high, low, rest @ ..] => {
                    (first, u16::from_be_bytes([*high, *low]).into(), rest)
                }
                _ => return bytes,
            };
            let Some(behind) = rest.get(len..) else {
                return bytes;
            };
            // A ping is none.
            self.lines += u64::from(matches!(first, 0x81 | 0x82));
            bytes = behind;
        }
    }

    fn begin_frame(&mut self) {
        let len = match self.header[..] {
            [_, 126, high, low] => u16::from_be_bytes([high, low]).into(),
            [_, 127, .., _] if self.header.len() == 10 => {
                let len = self.header[2..].try_into().unwrap_or_default();
                u64::from_be_bytes(len) as usize
            }
            [_, len @ ..126] => len.into(),
            _ => return,
        };
        self.left = len;
        // A ping is none.
        let is_message = matches!(self.header.first(), Some(0x81 | 0x82));
        self.lines += u64::from(self.way.counts_frames() && is_message);
        self.header.clear();
    }

    /// A chunk's size stands behind the end of the one before.
    fn begin_chunk(&mut self) -> Result<()> {
        let size = self.header.strip_prefix(b"\r\n").unwrap_or(&self.header);
        if let Some(end) = memmem::find(size, b"\r\n").filter(|end| *end > 0) {
            let size = std::str::from_utf8(&size[..end])?;
            self.left = usize::from_str_radix(size, 16).context("no size of a chunk")?;
            self.header.clear();
        }
        Ok(())
    }
}
