//! What linehub is compared with: the least a broadcast server can do.
//!
//! One thread, one edge-triggered epoll. What is read from one socket is written to every other;
//! nothing is parsed, so nothing is framed, numbered, or formatted. It loses nothing: what a socket
//! does not take waits in a queue, and the sender is not read again until all have its bytes.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::net::Ipv4Addr;
use std::rc::Rc;

use anyhow::{Context as _, Result};
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::fd::OwnedFd;
use rustix::io::{Errno, writev};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrV4, SocketFlags, SocketType, accept_with, bind,
    getsockname, listen, recv, send, socket_with, sockopt,
};

/// Bytes taken from one socket at a time, as such loops commonly do. linehub takes more where it
/// pays; what that alone is worth, a row of the table with a larger number here shows.
pub(crate) const READ_BYTES: usize = 64 * 1024;

/// Queued pieces offered to a socket in one `writev`.
const PIECES_PER_WRITE: usize = 64;

/// Connections that may wait to be accepted; the kernel lowers it to its own limit.
const BACKLOG: i32 = 65_535;

const EVENTS_PER_WAIT: usize = 1024;
const LISTENER: u64 = u64::MAX;
const AT_ONCE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 0,
};

/// Listens on a free port, says on stderr which, and serves until the process is ended.
pub(crate) fn run(read_bytes: usize) -> Result<()> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let listener = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    // Accepted sockets inherit this, which saves a call for each of them.
    sockopt::set_tcp_nodelay(&listener, true)?;
    bind(&listener, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0))?;
    listen(&listener, BACKLOG)?;
    let address = SocketAddrV4::try_from(getsockname(&listener)?)?;

    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let on_listener = epoll::EventData::new_u64(LISTENER);
    epoll::add(&epoll, &listener, on_listener, epoll::EventFlags::IN)?;
    eprintln!("listening address={address}");

    let buffer = vec![0; read_bytes];
    let peers = Peers {
        all: Vec::new(),
        vacant: Vec::new(),
        turns: VecDeque::new(),
    };
    RawLoop {
        epoll,
        listener,
        peers,
        buffer,
    }
    .serve()
}

/// Bytes of one read that at least one socket did not take at once: copied once, shared by all.
struct Piece {
    from: usize,
    bytes: Vec<u8>,
}

struct Peer {
    socket: OwnedFd,
    /// What the socket has not taken, oldest first; `taken` bytes of the first piece are gone.
    queue: VecDeque<Rc<Piece>>,
    taken: usize,
    /// The last read while others still wait for its bytes: until they have them, this peer is not
    /// read.
    outstanding: Option<Rc<Piece>>,
    readable: bool,
    /// The peer has shut its side: a short read is then no sign that nothing is left.
    hung_up: bool,
    /// Whether the peer stands in `turns`.
    waiting: bool,
}

struct Peers {
    all: Vec<Option<Peer>>,
    vacant: Vec<usize>,
    /// Peers to be read next. One read a turn, so that no sender keeps the others out.
    turns: VecDeque<usize>,
}

struct RawLoop {
    epoll: OwnedFd,
    listener: OwnedFd,
    peers: Peers,
    buffer: Vec<u8>,
}

impl RawLoop {
    fn serve(mut self) -> Result<()> {
        let mut events = Vec::<epoll::Event>::with_capacity(EVENTS_PER_WAIT);
        loop {
            let timeout = (!self.peers.turns.is_empty()).then_some(&AT_ONCE);
            match epoll::wait(&self.epoll, spare_capacity(&mut events), timeout) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error).context("epoll_wait"),
            }
            for event in events.drain(..) {
                let data = event.data.u64();
                if data == LISTENER {
                    self.accept_all()?;
                } else {
                    self.peers.note(data as usize, event.flags);
                }
            }
            for _ in 0..self.peers.turns.len() {
                let Some(slot) = self.peers.turns.pop_front() else {
                    break;
                };
                self.peers.relay(slot, &mut self.buffer);
            }
        }
    }

    fn accept_all(&mut self) -> Result<()> {
        use epoll::EventFlags as Flags;
        let watched = Flags::IN | Flags::OUT | Flags::RDHUP | Flags::ET;
        loop {
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            let socket = match accept_with(&self.listener, flags) {
                Ok(socket) => socket,
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR | Errno::CONNABORTED) => continue,
                Err(error) => return Err(error).context("accept4"),
            };
            let slot = self.peers.vacant.pop().unwrap_or(self.peers.all.len());
            let data = epoll::EventData::new_u64(slot as u64);
            epoll::add(&self.epoll, &socket, data, watched)?;
            let peer = Peer {
                socket,
                queue: VecDeque::new(),
                taken: 0,
                outstanding: None,
                readable: false,
                hung_up: false,
                waiting: false,
            };
            if slot == self.peers.all.len() {
                self.peers.all.push(Some(peer));
            } else {
                self.peers.all[slot] = Some(peer);
            }
        }
    }
}

impl Peers {
    /// Takes in what epoll said. An event for a slot that has changed hands since does no harm:
    /// the worst is one read or write that finds nothing to do.
    fn note(&mut self, slot: usize, flags: epoll::EventFlags) {
        use epoll::EventFlags as Flags;
        if flags.contains(Flags::OUT) {
            self.flush(slot);
        }
        let Some(peer) = self.all[slot].as_mut() else {
            return;
        };
        if flags.intersects(Flags::RDHUP | Flags::HUP | Flags::ERR) {
            peer.hung_up = true;
        }
        if flags.intersects(Flags::IN | Flags::RDHUP | Flags::HUP | Flags::ERR) {
            peer.readable = true;
            self.give_turn(slot);
        }
    }

    fn give_turn(&mut self, slot: usize) {
        let Some(peer) = self.all[slot].as_mut() else {
            return;
        };
        if peer.readable && peer.outstanding.is_none() && !peer.waiting {
            peer.waiting = true;
            self.turns.push_back(slot);
        }
    }

    /// One read from `slot`, written to all others.
    fn relay(&mut self, slot: usize, buffer: &mut [u8]) {
        let Some(sender) = self.all[slot].as_mut() else {
            return;
        };
        sender.waiting = false;
        let count = match recv(&sender.socket, &mut *buffer, RecvFlags::empty()) {
            Ok((0, _)) => return self.close(slot),
            Ok((count, _)) => count,
            Err(Errno::AGAIN) => {
                sender.readable = false;
                return;
            }
            Err(Errno::INTR) => return self.give_turn(slot),
            Err(_) => return self.close(slot),
        };
        sender.readable = count == buffer.len() || sender.hung_up;

        let bytes = &buffer[..count];
        let mut piece: Option<Rc<Piece>> = None;
        for (other, peer) in self.all.iter_mut().enumerate() {
            let Some(peer) = peer else { continue };
            if other == slot {
                continue;
            }
            let taken = if peer.queue.is_empty() {
                match send(&peer.socket, bytes, SendFlags::NOSIGNAL) {
                    Ok(taken) => taken,
                    Err(Errno::AGAIN | Errno::INTR) => 0,
                    // An event of the peer's own follows and closes it.
                    Err(_) => count,
                }
            } else {
                0
            };
            if taken < count {
                let piece = piece.get_or_insert_with(|| {
                    Rc::new(Piece {
                        from: slot,
                        bytes: bytes.to_vec(),
                    })
                });
                if peer.queue.is_empty() {
                    peer.taken = taken;
                }
                peer.queue.push_back(Rc::clone(piece));
            }
        }
        if let Some(sender) = self.all[slot].as_mut() {
            sender.outstanding = piece;
        }
        self.give_turn(slot);
    }

    /// Writes what is queued for `slot` until its socket takes no more.
    fn flush(&mut self, slot: usize) {
        while let Some(peer) = self.all[slot].as_mut() {
            if peer.queue.is_empty() {
                // Idle sockets keep no queue.
                peer.queue = VecDeque::new();
                return;
            }
            let mut pieces = [IoSlice::new(&[]); PIECES_PER_WRITE];
            let mut offered = 0;
            let mut filled = 0;
            for (space, piece) in pieces.iter_mut().zip(&peer.queue) {
                let skip = if filled == 0 { peer.taken } else { 0 };
                *space = IoSlice::new(&piece.bytes[skip..]);
                offered += space.len();
                filled += 1;
            }
            let written = match writev(&peer.socket, &pieces[..filled]) {
                Ok(written) => written,
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => return,
                Err(_) => return self.close(slot),
            };
            peer.taken += written;
            while let Some(peer) = self.all[slot].as_mut() {
                match peer.queue.front() {
                    Some(first) if peer.taken >= first.bytes.len() => {
                        peer.taken -= first.bytes.len();
                        let done = peer.queue.pop_front();
                        self.release(done);
                    }
                    _ => break,
                }
            }
            if written < offered {
                return;
            }
        }
    }

    /// Lets the sender of a piece go on when this was the last socket that waited for it.
    fn release(&mut self, piece: Option<Rc<Piece>>) {
        let Some(piece) = piece else { return };
        // Two holders are left: the sender and this function.
        if Rc::strong_count(&piece) > 2 {
            return;
        }
        let Some(sender) = self.all[piece.from].as_mut() else {
            return;
        };
        if sender
            .outstanding
            .as_ref()
            .is_some_and(|own| Rc::ptr_eq(own, &piece))
        {
            sender.outstanding = None;
            self.give_turn(piece.from);
        }
    }

    fn close(&mut self, slot: usize) {
        let Some(peer) = self.all[slot].take() else {
            return;
        };
        self.vacant.push(slot);
        for piece in peer.queue {
            self.release(Some(piece));
        }
    }
}
