//! The clients of a server under test: one thread, one epoll, and as little work a line as can be,
//! so that the server is what is measured.

use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, connect, recv, send,
    socket_with, sockopt,
};

use crate::stream::{Stream, find};

/// What one read takes at most.
const READ_BYTES: usize = 1 << 20;

/// What a read takes whose bytes are looked at.
const SAMPLE_BYTES: usize = 64 * 1024;

/// One read in so many has its bytes looked at; the others only count.
const SAMPLE_EVERY: u64 = 256;

/// How much of a stream's end is looked at whatever the sampling says.
const END_BYTES: u64 = 4096;

/// Events taken at once. Also bounds how long a sender waits for its turn among readers.
const EVENTS_PER_WAIT: usize = 1024;

/// Connections from one source address, well below the number of ports it has.
const CLIENTS_PER_SOURCE: usize = 4096;

/// How long a server may take to do what it must before the run counts as failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// How long nothing may arrive before a lost probe is taken to be the reason.
const PROBE_PATIENCE: Duration = Duration::from_millis(300);

/// How long the load sleeps at most before it looks at the clock.
pub(crate) const TICK: Duration = Duration::from_millis(20);

/// One connection.
pub(crate) struct Client {
    socket: OwnedFd,
    /// Bytes that count: those since the last rendezvous.
    received: u64,
    /// Bytes that were read to be looked at.
    recent: Vec<u8>,
    /// It has the line that was announced.
    told: bool,
    connected: bool,
}

/// All connections to one server.
pub(crate) struct Load {
    server: SocketAddrV4,
    epoll: OwnedFd,
    clients: Vec<Client>,
    /// Connections that nobody reads.
    stuck: Vec<OwnedFd>,
    buffer: Vec<u8>,
    reads: u64,
}

/// What epoll reported. Handed out and back, so that it can be walked while clients change.
pub(crate) type Events = Vec<epoll::Event>;

impl Load {
    /// No connections yet.
    pub(crate) fn new(server: SocketAddrV4) -> Result<Load> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let (clients, stuck) = (Vec::new(), Vec::new());
        Ok(Load {
            server,
            epoll,
            clients,
            stuck,
            buffer: vec![0; READ_BYTES],
            reads: 0,
        })
    }

    /// Connects `count` clients one after another, so that the server numbers them in this order.
    pub(crate) fn connect(&mut self, count: usize) -> Result<()> {
        for _ in 0..count {
            let socket = self.connected_socket()?;
            self.add(socket, epoll::EventFlags::IN, true)?;
        }
        Ok(())
    }

    /// Connects one client that will never read.
    pub(crate) fn connect_stuck(&mut self) -> Result<()> {
        let socket = self.connected_socket()?;
        self.stuck.push(socket);
        Ok(())
    }

    fn connected_socket(&self) -> Result<OwnedFd> {
        let socket = TcpStream::connect(self.server).context("cannot connect to the server")?;
        socket.set_nonblocking(true)?;
        Ok(OwnedFd::from(socket))
    }

    /// Connects `count` clients all at once and returns when the first of them set out. Whether
    /// they have arrived shows in `all_connected`.
    pub(crate) fn storm(&mut self, count: usize) -> Result<Instant> {
        use epoll::EventFlags as Flags;
        let first = self.clients.len();
        for index in 0..count {
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
            let source = Ipv4Addr::new(127, 0, 1, 1 + (index / CLIENTS_PER_SOURCE) as u8);
            bind(&socket, &SocketAddrV4::new(source, 0)).context("no source port is free")?;
            self.add(socket, Flags::IN | Flags::OUT | Flags::ET, false)?;
        }
        // Sockets that are not connected report that once.
        let mut events = Events::new();
        while self.wait(Duration::ZERO, &mut events)? > 0 {}

        let started = Instant::now();
        for who in first..first + count {
            match connect(&self.clients[who].socket, &self.server) {
                Ok(()) | Err(Errno::INPROGRESS) => {}
                Err(error) => return Err(error).context("cannot connect to the server"),
            }
            if who % 64 == 63 {
                self.absorb(Duration::ZERO, &mut events)?;
            }
        }
        Ok(started)
    }

    fn add(&mut self, socket: OwnedFd, watched: epoll::EventFlags, connected: bool) -> Result<()> {
        sockopt::set_tcp_nodelay(&socket, true)?;
        // Closing resets the connection and leaves no port in TIME_WAIT for the next run to miss.
        sockopt::set_socket_linger(&socket, Some(Duration::ZERO))?;
        let data = epoll::EventData::new_u64(self.clients.len() as u64);
        epoll::add(&self.epoll, &socket, data, watched)?;
        let recent = Vec::new();
        self.clients.push(Client {
            socket,
            received: 0,
            recent,
            told: false,
            connected,
        });
        Ok(())
    }

    /// Closes all but the first `count` clients.
    pub(crate) fn truncate(&mut self, count: usize) {
        self.clients.truncate(count);
    }

    /// Number of clients, without stuck ones.
    pub(crate) fn len(&self) -> usize {
        self.clients.len()
    }

    /// Bytes each client has received since the last rendezvous.
    pub(crate) fn received(&self) -> impl Iterator<Item = u64> {
        self.clients.iter().map(|client| client.received)
    }

    /// Bytes of client `who`.
    pub(crate) fn received_by(&self, who: usize) -> u64 {
        self.clients[who].received
    }

    /// Whether every connection of a storm is established.
    pub(crate) fn all_connected(&self) -> bool {
        self.clients.iter().all(|client| client.connected)
    }

    /// Also reports when client `who` can be written to.
    pub(crate) fn watch_writable(&self, who: usize, wanted: bool) -> Result<()> {
        use epoll::EventFlags as Flags;
        let flags = if wanted {
            Flags::IN | Flags::OUT
        } else {
            Flags::IN
        };
        let data = epoll::EventData::new_u64(who as u64);
        Ok(epoll::modify(
            &self.epoll,
            &self.clients[who].socket,
            data,
            flags,
        )?)
    }

    /// Waits at most `timeout`, in whole milliseconds, for something to happen.
    pub(crate) fn wait(&self, timeout: Duration, events: &mut Events) -> Result<usize> {
        events.clear();
        events.reserve(EVENTS_PER_WAIT);
        let timeout = Timespec::try_from(timeout)?;
        match epoll::wait(&self.epoll, spare_capacity(events), Some(&timeout)) {
            Ok(count) => Ok(count),
            Err(Errno::INTR) => Ok(0),
            Err(error) => Err(error).context("epoll_wait"),
        }
    }

    /// Waits, reads and drops whatever came, and notes who has connected.
    pub(crate) fn absorb(&mut self, timeout: Duration, events: &mut Events) -> Result<()> {
        self.wait(timeout, events)?;
        for event in events {
            let who = event.data.u64() as usize;
            let flags = event.flags;
            if flags.intersects(epoll::EventFlags::ERR | epoll::EventFlags::HUP) {
                sockopt::socket_error(&self.clients[who].socket)?
                    .with_context(|| format!("client {who} could not connect"))?;
            }
            self.clients[who].connected |= flags.contains(epoll::EventFlags::OUT);
            if flags.contains(epoll::EventFlags::IN) {
                while self.discard(who, READ_BYTES)? == READ_BYTES {}
            }
        }
        Ok(())
    }

    /// Counts and drops up to `bytes_max` bytes without looking at them: the kernel need not even
    /// copy them.
    fn discard(&mut self, who: usize, bytes_max: usize) -> Result<usize> {
        let space = &mut self.buffer[..bytes_max.min(READ_BYTES)];
        let client = &mut self.clients[who];
        let count = taken(recv(&client.socket, space, RecvFlags::TRUNC), who)?;
        client.received += count as u64;
        Ok(count)
    }

    /// Reads what has arrived for client `who` and returns it together with what an earlier call
    /// left in there.
    pub(crate) fn read(&mut self, who: usize) -> Result<&mut Vec<u8>> {
        loop {
            let client = &mut self.clients[who];
            let space = &mut self.buffer[..SAMPLE_BYTES];
            let count = taken(recv(&client.socket, space, RecvFlags::empty()), who)?;
            client.recent.extend_from_slice(&self.buffer[..count]);
            client.received += count as u64;
            if count < SAMPLE_BYTES {
                return Ok(&mut self.clients[who].recent);
            }
        }
    }

    /// One read for client `who`. The stream's first bytes, and some on the way, must be what
    /// `stream` says.
    pub(crate) fn receive(&mut self, who: usize, stream: Option<&Stream>) -> Result<()> {
        self.reads += 1;
        if self.clients[who].received == 0 || self.reads.is_multiple_of(SAMPLE_EVERY) {
            self.receive_checked(who, stream)
        } else {
            self.discard(who, READ_BYTES).map(drop)
        }
    }

    fn receive_checked(&mut self, who: usize, stream: Option<&Stream>) -> Result<()> {
        let offset = self.clients[who].received;
        let space = &mut self.buffer[..SAMPLE_BYTES];
        let count = taken(
            recv(&self.clients[who].socket, space, RecvFlags::empty()),
            who,
        )?;
        self.clients[who].received += count as u64;
        if let Some(stream) = stream {
            let same = stream.matches(offset, &self.buffer[..count]);
            ensure!(
                same,
                "client {who} received something else after {offset} bytes"
            );
        }
        Ok(())
    }

    /// Receives until every client has exactly the bytes `expected` says, the last of them checked.
    pub(crate) fn settle(
        &mut self,
        expected: impl Fn(usize) -> u64,
        stream: Option<&Stream>,
    ) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let mut events = Events::new();
        loop {
            let mut missing = self.clients.iter().enumerate().filter_map(|(who, client)| {
                (client.received != expected(who)).then_some((who, client.received))
            });
            let Some((who, received)) = missing.next() else {
                return Ok(());
            };
            let expected_bytes = expected(who);
            ensure!(
                received < expected_bytes,
                "client {who} received more than was sent"
            );
            ensure!(
                Instant::now() < deadline,
                "client {who} and {} others lack bytes: it has {received} of {expected_bytes}",
                missing.count()
            );
            // Looking at every client is for once in a while, not for every batch of events.
            for _ in 0..64 {
                self.wait(TICK, &mut events)?;
                if events.is_empty() {
                    break;
                }
                for event in &events {
                    let who = event.data.u64() as usize;
                    let left = expected(who).saturating_sub(self.clients[who].received);
                    if left > SAMPLE_BYTES as u64 {
                        self.discard(who, (left - END_BYTES) as usize)?;
                    } else {
                        self.receive_checked(who, stream)?;
                    }
                }
            }
        }
    }

    /// Sends what client `who`'s socket takes of `bytes`.
    pub(crate) fn send(&self, who: usize, bytes: &[u8]) -> Result<usize> {
        match send(&self.clients[who].socket, bytes, SendFlags::NOSIGNAL) {
            Ok(count) => Ok(count),
            Err(Errno::AGAIN | Errno::INTR) => Ok(0),
            Err(error) => Err(error).with_context(|| format!("client {who} cannot send")),
        }
    }

    /// Sends one line whole, or nothing: `false` if the socket takes none of it now.
    pub(crate) fn send_line(&self, who: usize, line: &[u8]) -> Result<bool> {
        let mut sent = self.send(who, line)?;
        if sent == 0 {
            return Ok(false);
        }
        let deadline = Instant::now() + PATIENCE;
        while sent < line.len() {
            ensure!(
                Instant::now() < deadline,
                "client {who} could send only half a line"
            );
            sent += self.send(who, &line[sent..])?;
        }
        Ok(true)
    }

    /// Has `sender` send `tag` as a line and waits until all others have it. `false` if nothing
    /// arrived for `patience`.
    pub(crate) fn announce(
        &mut self,
        sender: usize,
        tag: &str,
        patience: Duration,
    ) -> Result<bool> {
        for client in &mut self.clients {
            client.told = false;
            client.recent.clear();
        }
        let mut missing = self.clients.len() - 1;
        let mut last_arrival = Instant::now();
        let line = format!("{tag}\n");
        ensure!(
            self.send_line(sender, line.as_bytes())?,
            "client {sender} cannot send"
        );
        let mut events = Events::new();
        while missing > 0 {
            self.wait(TICK, &mut events)?;
            if !events.is_empty() {
                last_arrival = Instant::now();
            } else if last_arrival.elapsed() > patience {
                return Ok(false);
            }
            for event in &events {
                let who = event.data.u64() as usize;
                let flags = event.flags;
                if !flags.contains(epoll::EventFlags::IN) {
                    continue;
                }
                let recent = self.read(who)?;
                let has_it = recent.ends_with(b"\n") && find(recent, tag.as_bytes()).is_some();
                if has_it && !self.clients[who].told && who != sender {
                    self.clients[who].told = true;
                    missing -= 1;
                }
            }
        }
        Ok(true)
    }

    /// Proves that the server serves every client, and leaves no byte on its way: `sender` sends a
    /// line until all have one and the same. Counting starts again at zero. Returns the line's
    /// payload and what another client received.
    pub(crate) fn rendezvous(&mut self, sender: usize) -> Result<(String, Vec<u8>)> {
        let deadline = Instant::now() + PATIENCE;
        let mut round = 0;
        let tag = loop {
            let tag = format!("probe{round:06}");
            if self.announce(sender, &tag, PROBE_PATIENCE)? {
                break tag;
            }
            if Instant::now() > deadline {
                let missing = self.clients.iter().filter(|client| !client.told).count() - 1;
                bail!("{missing} clients are not served");
            }
            round += 1;
        };
        let witness = usize::from(sender == 0);
        let seen = self
            .clients
            .get(witness)
            .map_or(&[][..], |client| &client.recent);
        let text = seen.strip_suffix(b"\n").unwrap_or(seen);
        let start = text
            .iter()
            .rposition(|&byte| byte == b'\n')
            .map_or(0, |at| at + 1);
        let example = seen[start..].to_vec();
        for client in &mut self.clients {
            client.received = 0;
            client.recent.clear();
        }
        Ok((tag, example))
    }
}

/// The count of a read: nothing now is zero, and an end is an error, for no server here may close.
fn taken<T>(read: rustix::io::Result<(T, usize)>, who: usize) -> Result<usize> {
    match read {
        Ok((_, 0)) => bail!("the server closed client {who}"),
        Ok((_, count)) => Ok(count),
        Err(Errno::AGAIN | Errno::INTR) => Ok(0),
        Err(error) => Err(error).with_context(|| format!("the server closed client {who}")),
    }
}
