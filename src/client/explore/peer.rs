//! The other end of a connection, and the socket between.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use fastrand::Rng;

use super::speech::Speech;
use super::{may_miss, one_of};
use crate::config::Config;
use crate::net::stream::{Connection, PeerProgress};
use crate::wire::format::Format;
use crate::wire::hello::Hello;
use crate::wire::http::{BodyLength, WebRequest};
use crate::wire::transport::Transport;

/// What a socket holds at most each way, in bytes: small, so that all of them are full at times.
const SOCKET_BYTES_MAX: usize = 20_000;

/// How a peer reads.
#[derive(Clone, Copy, Debug)]
enum Mood {
    Reads,
    Trickles,
    Stuck,
}

/// What a peer does of its own accord, and what the system does in its name.
#[derive(Debug)]
pub(super) struct Peer {
    rng: Rng,
    pub(super) transport: Transport,
    pub(super) format: Format,
    /// How the body of its request ends, if it has one.
    pub(super) body: Option<BodyLength>,
    /// It is answered in chunks.
    pub(super) takes_chunks: bool,
    speech: Speech,
    line_bytes_max: usize,
    /// Lines that are empty cannot be told apart: not where some may be missing.
    may_send_empty: bool,
    mood: Mood,
    observes: bool,
    /// Lines it has thought of.
    numbered: usize,
    /// What it has still to send.
    outbox: Vec<u8>,
    /// What the socket has taken of it.
    pub(super) sent: Vec<u8>,
    /// What the daemon has still to read.
    incoming: Vec<u8>,
    incoming_max: usize,
    /// What the daemon has written, and it has not read.
    outgoing: Vec<u8>,
    outgoing_max: usize,
    pub(super) received: Vec<u8>,
    /// It has shut its sending side.
    ended: bool,
    /// It has broken the connection off.
    pub(super) reset: bool,
    /// The daemon has shut its sending side.
    shut: bool,
    /// Readiness as epoll reports it, edge by edge, and whom it wakes.
    readable: bool,
    writable: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
    still: Rc<Cell<bool>>,
}

/// What of a peer changes when anything happens: bytes each way, and whether it was told the end.
pub(super) type Traces = (usize, usize, bool);

impl Peer {
    pub(super) fn new(
        mut rng: Rng,
        transport: Transport,
        format: Format,
        config: &Config,
        still: Rc<Cell<bool>>,
    ) -> Peer {
        let (speech, body) = Speech::new(&mut rng, transport);
        Peer {
            transport,
            format,
            body,
            takes_chunks: rng.u8(0..3) > 0,
            speech,
            line_bytes_max: config.line_bytes_max,
            may_send_empty: !may_miss(config),
            mood: Mood::Reads,
            observes: false,
            numbered: 0,
            outbox: Vec::new(),
            sent: Vec::new(),
            incoming: Vec::new(),
            incoming_max: rng.usize(1..SOCKET_BYTES_MAX),
            outgoing: Vec::new(),
            outgoing_max: rng.usize(1..SOCKET_BYTES_MAX),
            received: Vec::new(),
            ended: false,
            reset: false,
            shut: false,
            readable: false,
            writable: true,
            reader: None,
            writer: None,
            still,
            rng,
        }
    }

    /// The request that it comes by, if it comes by HTTP.
    pub(super) fn request(&mut self) -> Option<WebRequest> {
        (self.transport != Transport::Plain).then(|| WebRequest {
            transport: self.transport,
            hello: Hello::default(),
            beats: false,
            websocket_accept: Some("key".to_owned()),
            takes_chunks: self.takes_chunks,
            body: self.body.map(|length| (length, self.rng.bool())),
        })
    }

    /// From now on it takes everything, and does nothing but read.
    pub(super) fn observe(&mut self) {
        (self.observes, self.outgoing_max) = (true, usize::MAX);
    }

    /// Does something, or nothing.
    pub(super) fn act(&mut self) {
        if self.observes {
            return self.read(usize::MAX);
        }
        match self.rng.u8(0..40) {
            0..=11 => match self.mood {
                Mood::Reads => self.read(usize::MAX),
                Mood::Trickles => {
                    let some = self.rng.usize(1..300);
                    self.read(some);
                }
                Mood::Stuck => {}
            },
            12..=20 => self.push(usize::MAX),
            21..=25 => {
                let some = self.rng.usize(1..100);
                self.push(some);
            }
            26..=35 if self.outbox.is_empty() => self.write(),
            36..=38 => {
                let moods = [Mood::Reads, Mood::Trickles, Mood::Stuck];
                self.mood = one_of(&mut self.rng, moods);
                // Some leave without having taken what is owed to them.
                if matches!(self.mood, Mood::Stuck) && self.rng.u8(0..6) == 0 {
                    self.end();
                }
            }
            39 if self.rng.u8(0..8) == 0 => self.break_off(),
            39 if self.rng.u8(0..4) == 0 || self.shut => self.end(),
            _ => {}
        }
    }

    /// What may happen at any moment of a poll.
    fn interfere(&mut self) {
        if !self.still.get() && self.rng.u8(0..4) == 0 {
            self.act();
        }
    }

    /// Reads all there is, closes if the daemon has, and may send what it has still to.
    pub(super) fn get_done(&mut self, may_send: bool) {
        self.read(usize::MAX);
        if may_send {
            self.push(usize::MAX);
        }
        if self.shut && !self.ended {
            self.end();
        }
    }

    /// Thinks of something to send.
    fn write(&mut self) {
        let kind = self.rng.u8(0..40);
        let is_telnet = self.format == Format::Text && self.transport == Transport::Plain;
        let mut lines = Vec::new();
        for _ in 0..self.rng.usize(1..20) {
            if self.outbox.len() + lines.len() > SOCKET_BYTES_MAX {
                break;
            }
            match kind {
                25..=27 if self.may_send_empty => lines.push(b'\n'),
                28 => lines.extend(vec![b'x'; self.line_bytes_max + 9]),
                29 if is_telnet => lines.extend(b"\x04\n"),
                30..=34 if is_telnet => {
                    let times = self.rng.usize(1..400);
                    lines.extend(b"\xff\xfd\x06".repeat(times));
                }
                35..=36 if is_telnet => lines.extend(b"\xff\xf6\xff\xfd\x01"),
                _ => self.write_line(kind, &mut lines),
            }
        }
        if self.rng.u8(0..8) == 0 {
            lines.extend(b"half a line");
        }
        self.speech.say(&mut self.rng, &lines, &mut self.outbox);
    }

    fn write_line(&mut self, kind: u8, lines: &mut Vec<u8>) {
        let name = format!("{}.{} ", self.incoming_max, self.numbered);
        self.numbered += 1;
        let room = self.line_bytes_max.saturating_sub(name.len());
        let padding = match kind {
            0..=14 => self.rng.usize(0..50).min(room),
            15..=24 => self.rng.usize(0..=room),
            _ => 0,
        };
        let end = if kind.is_multiple_of(2) { "\n" } else { "\r\n" };
        let padding = match kind {
            // A character of two bytes.
            0..=4 => "ä".repeat(padding / 2),
            _ => "-".repeat(padding),
        };
        let line = [name.as_str(), &padding, end].concat();
        lines.extend(line.as_bytes());
    }

    fn push(&mut self, most: usize) {
        let room = self.incoming_max - self.incoming.len();
        let bytes = self.outbox.len().min(room).min(most);
        if bytes > 0 && !self.ended && !self.reset {
            self.sent.extend(&self.outbox[..bytes]);
            self.incoming.extend(self.outbox.drain(..bytes));
            self.tell_reader();
        }
    }

    fn read(&mut self, most: usize) {
        let bytes = self.outgoing.len().min(most);
        self.received.extend(self.outgoing.drain(..bytes));
        // The system tells of room when a third of the buffer is free.
        if !self.writable && self.outgoing.len() <= self.outgoing_max / 3 * 2 {
            self.tell_writer();
        }
    }

    pub(super) fn end(&mut self) {
        self.ended = true;
        self.tell_reader();
    }

    pub(super) fn break_off(&mut self) {
        self.reset = true;
        self.tell_reader();
        self.tell_writer();
    }

    fn tell_reader(&mut self) {
        self.readable = true;
        self.reader.take().into_iter().for_each(Waker::wake);
    }

    fn tell_writer(&mut self) {
        self.writable = true;
        self.writer.take().into_iter().for_each(Waker::wake);
    }

    /// The socket has said that it takes no more.
    pub(super) fn refuses(&self) -> bool {
        !self.writable
    }

    /// What the daemon has written, and it has not read.
    pub(super) fn unread(&self) -> &[u8] {
        &self.outgoing
    }

    /// The daemon has read all that the socket has taken.
    pub(super) fn is_read(&self) -> bool {
        self.incoming.is_empty()
    }

    pub(super) fn traces(&self) -> Traces {
        (self.incoming.len(), self.outgoing.len(), self.shut)
    }

    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.readable || self.ended || self.reset {
            return Poll::Ready(());
        }
        self.reader = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// A connection to a [`Peer`], as a [`Stream`](crate::net::stream::Stream) is one to a real one.
#[derive(Debug)]
pub(super) struct Link(pub(super) Rc<RefCell<Peer>>);

impl Connection for Link {
    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut peer = self.0.borrow_mut();
        peer.interfere();
        peer.poll_readable(cx).map(Ok)
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut peer = self.0.borrow_mut();
        peer.interfere();
        ready!(peer.poll_readable(cx));
        if peer.incoming.is_empty() {
            if peer.reset {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
            if peer.ended {
                return Poll::Ready(Ok(0));
            }
            peer.readable = false;
            return peer.poll_readable(cx).map(|()| Ok(0));
        }
        let mut read = peer.incoming.len().min(buf.len());
        // As at an urgent mark: more is there, and said to be.
        let is_cut = read > 1 && peer.rng.u8(0..8) == 0;
        if is_cut {
            read = peer.rng.usize(1..read);
        }
        buf[..read].copy_from_slice(&peer.incoming[..read]);
        peer.incoming.drain(..read);
        peer.readable = is_cut || read == buf.len();
        Poll::Ready(Ok(read))
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut peer = self.0.borrow_mut();
        peer.interfere();
        if peer.reset {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let room = peer.outgoing_max - peer.outgoing.len();
        if !peer.writable || room == 0 {
            peer.writable = false;
            peer.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let mut room = room;
        if !peer.observes && peer.rng.u8(0..16) == 0 {
            // As when memory is short: the last bytes have to wait.
            let offered: usize = slices.iter().map(|slice| slice.len()).sum();
            let less = peer.rng.usize(0..3);
            room = room.min(offered.saturating_sub(less).max(1));
        }
        let mut written = 0;
        for slice in slices {
            let some = slice.len().min(room - written);
            peer.outgoing.extend(&slice[..some]);
            written += some;
            if some < slice.len() {
                peer.writable = false;
                break;
            }
        }
        Poll::Ready(Ok(written))
    }

    fn progress(&self) -> io::Result<PeerProgress> {
        let peer = self.0.borrow();
        Ok(PeerProgress {
            acknowledged: peer.received.len() as u32,
            has_all: peer.outgoing.is_empty(),
            is_gone: peer.reset,
        })
    }

    fn reset_on_close(&self) -> io::Result<()> {
        // Nobody looks at how it ends beyond what was received.
        Ok(())
    }

    fn poll_shut_write(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.borrow_mut().shut = true;
        Poll::Ready(Ok(()))
    }
}
