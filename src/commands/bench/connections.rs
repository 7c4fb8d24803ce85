//! All connections to the daemon, and one epoll for them.

use std::io;
use std::mem;
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, EventFlags};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};
use socket2::Socket;

use super::endpoint::Endpoint;
use super::interrupt::Interrupt;
use super::line_decoder::CloseNotice;
use super::records::Records;
use super::senders::Written;
use crate::net::tls_client::TlsConnection;
use crate::wire::close_reason::CloseReason;

/// How long the daemon may take for what it does at once.
const PATIENCE: Duration = Duration::from_secs(30);

/// Connections that are begun before what came is looked at.
const BURST: usize = 64;

/// More than the daemon's last line has.
const TAIL_BYTES: usize = 512;

const EVENTS_PER_WAIT: usize = 1024;

/// Most bytes of one read whose bytes are dropped.
const DISCARD_BYTES: usize = 1 << 20;

/// What is no connection's event.
const INTERRUPT: u64 = u64::MAX;
const TIMER: u64 = u64::MAX - 1;

/// What a connection is for, with its number among its like, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Reads what comes.
    Reader(usize),
    /// Sends, and reads what comes too.
    Sender(usize),
    /// Never reads.
    Stuck(usize),
}

impl Role {
    /// The kind, and the number among its like as people count, from 1.
    pub(super) fn named(self) -> (&'static str, usize) {
        match self {
            Role::Reader(number) => ("reader", number + 1),
            Role::Sender(number) => ("sender", number + 1),
            Role::Stuck(number) => ("stuck", number + 1),
        }
    }

    pub(super) fn is_stuck(self) -> bool {
        matches!(self, Role::Stuck(_))
    }
}

#[derive(Debug)]
struct Connection {
    socket: Socket,
    /// `None` for plain bytes.
    tls: Option<Box<TlsConnection>>,
    /// What comes is counted by its records, and not decrypted.
    records: Option<Records>,
    role: Role,
    established: bool,
    open: bool,
    /// Bytes read since the beginning or since they were last forgotten.
    received: u64,
    /// The last of them, if they were looked at: what the daemon says last is in there.
    tail: Vec<u8>,
}

/// All connections of a run, by their number in the order in which they were made.
#[derive(Debug)]
pub struct Connections {
    epoll: OwnedFd,
    timer: OwnedFd,
    all: Vec<Connection>,
    /// Where each sender is among the connections.
    senders: Vec<usize>,
    /// Space for bytes that nobody looks at.
    sink: Vec<u8>,
    /// Who has decrypted bytes that were not read: epoll does not tell of them.
    unread: Vec<usize>,
}

/// What a read brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Got {
    /// Bytes, so many.
    Bytes(usize),
    /// Nothing yet.
    Nothing,
    /// The end of the connection.
    End(CloseReason),
}

/// A connection that has something to read, room to write, or an end.
#[derive(Clone, Copy, Debug)]
pub struct Ready {
    /// The connection's number.
    pub who: usize,
    /// Whether the socket takes more.
    pub writable: bool,
    /// Whether there are bytes, or an end.
    pub readable: bool,
}

impl Connections {
    /// Makes a connection for each role, in this order and at most `at_once` at a time; `first` is made
    /// already. Returns when all are, with when the others were begun. What has come until then is
    /// dropped.
    ///
    /// Sender 0 should come last: what it says reaches the daemon after all others.
    pub fn connect(
        endpoint: &Endpoint,
        first: Option<Socket>,
        roles: &[Role],
        at_once: usize,
        interrupt: &mut Interrupt,
    ) -> Result<(Connections, Instant)> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        let data = epoll::EventData::new_u64(TIMER);
        epoll::add(&epoll, &timer, data, EventFlags::IN)?;
        if let Some(signals) = interrupt.signals() {
            let data = epoll::EventData::new_u64(INTERRUPT);
            epoll::add(&epoll, signals, data, EventFlags::IN)?;
        }
        let senders = roles.iter().filter(|role| matches!(role, Role::Sender(_)));
        let mut connections = Connections {
            epoll,
            timer,
            all: Vec::with_capacity(roles.len()),
            senders: vec![0; senders.count()],
            sink: vec![0; DISCARD_BYTES],
            unread: Vec::new(),
        };
        let mut pending = 0;
        if let Some(first) = first {
            let done = connections.add(first, roles[0], true, endpoint)?;
            pending += usize::from(!done);
        }
        // Sockets are made before the clock runs.
        let sockets = (connections.len()..roles.len())
            .rev()
            .map(|who| endpoint.socket(who, roles[who].is_stuck()));
        let mut sockets: Vec<Socket> = sockets.collect::<Result<_, _>>()?;

        let begun = Instant::now();
        let mut ready = Vec::new();
        while pending > 0 || !sockets.is_empty() {
            interrupt.check()?;
            if begun.elapsed() > PATIENCE {
                bail!("{} connections were not made", sockets.len() + pending);
            }
            let mut is_full = false;
            for _ in 0..BURST.min(at_once - pending) {
                let Some(socket) = sockets.pop() else { break };
                match endpoint.begin(&socket) {
                    Ok(is_made) => {
                        let role = roles[connections.len()];
                        let done = connections.add(socket, role, is_made, endpoint)?;
                        pending += usize::from(!done);
                    }
                    // A Unix socket's backlog is full.
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                        sockets.push(socket);
                        is_full = true;
                        break;
                    }
                    Err(error) => return Err(error).context("cannot connect"),
                }
            }
            let waits = is_full || pending == at_once || sockets.is_empty();
            connections.wait(Duration::from_millis(waits.into()), &mut ready)?;
            for event in &ready {
                if !connections.all[event.who].established {
                    if !connections.establish(event.who, endpoint)? {
                        continue;
                    }
                    pending -= 1;
                }
                if event.readable {
                    connections.read_early(event.who)?;
                }
            }
        }
        Ok((connections, begun))
    }

    /// Drops what is said before all are here, which is for nobody. A refusal comes before all else.
    fn read_early(&mut self, who: usize) -> Result<()> {
        let got = match self.all[who].received {
            0 => self.read(who, &mut [0; 4096]),
            _ => self.discard(who, DISCARD_BYTES),
        };
        if let Got::End(reason) = got {
            let notice = self.close_notice(who, reason);
            let why = Some(notice.detail).filter(|detail| !detail.is_empty());
            let why = why.unwrap_or("without a word".to_owned());
            bail!("the daemon closed a connection while others were made: {why}");
        }
        Ok(())
    }

    /// Why a connection ended: what the daemon said last, else how it ended.
    pub(super) fn close_notice(&self, who: usize, reason: CloseReason) -> CloseNotice {
        let said = CloseNotice::in_last_lines(&self.all[who].tail);
        said.unwrap_or_else(|| CloseNotice::silent(reason))
    }

    /// Adds a connection, which may be made already. Returns whether it is established.
    fn add(
        &mut self,
        socket: Socket,
        role: Role,
        is_made: bool,
        endpoint: &Endpoint,
    ) -> Result<bool> {
        let who = self.all.len();
        if let Role::Sender(number) = role {
            self.senders[number] = who;
        }
        let data = epoll::EventData::new_u64(who as u64);
        epoll::add(&self.epoll, &socket, data, EventFlags::OUT)?;
        self.all.push(Connection {
            socket,
            tls: endpoint.session()?.map(Box::new),
            records: None,
            role,
            established: false,
            open: true,
            received: 0,
            tail: Vec::new(),
        });
        match is_made {
            true => self.establish(who, endpoint),
            false => Ok(false),
        }
    }

    /// A connection has been made: what is to be said first on it is said here. What the daemon answers
    /// is dropped with all else that comes before the run. Returns whether that is done; over TLS it takes
    /// several turns.
    fn establish(&mut self, who: usize, endpoint: &Endpoint) -> Result<bool> {
        let connection = &mut self.all[who];
        if let Some(error) = connection.socket.take_error()? {
            return Err(error).context("cannot connect");
        }
        if let Some(tls) = &mut connection.tls {
            match tls.handshake(connection.socket.as_fd()) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let flags = match tls.waits_to_write() {
                        true => EventFlags::OUT,
                        false => EventFlags::IN,
                    };
                    self.watch(who, flags)?;
                    return Ok(false);
                }
                Err(error) => return Err(error).context("cannot connect"),
            }
        }
        connection.established = true;
        if let Some(hello) = endpoint.hello(who) {
            match connection.send(hello) {
                Ok(sent) if sent == hello.len() => {}
                Ok(_) => bail!("a new connection has no room for its hello"),
                // The daemon has refused it: reading tells why.
                Err(error) if is_refusal(&error) => {}
                Err(error) => return Err(error).context("cannot say hello"),
            }
        }
        let flags = match self.all[who].role {
            Role::Stuck(_) => EventFlags::empty(),
            Role::Reader(_) | Role::Sender(_) => EventFlags::IN,
        };
        self.watch(who, flags)?;
        Ok(true)
    }

    fn watch(&self, who: usize, flags: EventFlags) -> rustix::io::Result<()> {
        let data = epoll::EventData::new_u64(who as u64);
        epoll::modify(&self.epoll, &self.all[who].socket, data, flags)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// What a connection is for.
    pub fn role(&self, who: usize) -> Role {
        self.all[who].role
    }

    /// Bytes each has received since they were last forgotten.
    pub fn received(&self) -> impl Iterator<Item = u64> {
        self.all.iter().map(|connection| connection.received)
    }

    /// Bytes of one connection.
    pub fn received_by(&self, who: usize) -> u64 {
        self.all[who].received
    }

    /// Counts received bytes anew.
    pub(super) fn forget_received(&mut self) {
        for connection in &mut self.all {
            connection.received = 0;
        }
    }

    pub(super) fn socket(&self, who: usize) -> &Socket {
        &self.all[who].socket
    }

    /// Waits at most `timeout`, in whole milliseconds, or as long as [`wake_after`] says.
    ///
    /// [`wake_after`]: Connections::wake_after
    pub fn wait(&mut self, timeout: Duration, ready: &mut Vec<Ready>) -> Result<()> {
        let unread = mem::take(&mut self.unread);
        let timeout = if unread.is_empty() {
            timeout
        } else {
            Duration::ZERO
        };
        let mut events: Vec<epoll::Event> = Vec::with_capacity(EVENTS_PER_WAIT);
        let timeout = Timespec::try_from(timeout)?;
        match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error).context("epoll_wait"),
        }
        ready.clear();
        for event in events {
            let flags = event.flags;
            match event.data.u64() {
                // Whoever asks next reads it.
                INTERRUPT => {}
                TIMER => self.wake_after(Duration::ZERO)?,
                who => ready.push(Ready {
                    who: who as usize,
                    writable: flags.contains(EventFlags::OUT),
                    readable: flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR),
                }),
            }
        }
        for who in unread {
            match ready.iter_mut().find(|event| event.who == who) {
                Some(event) => event.readable = true,
                None => ready.push(Ready {
                    who,
                    writable: false,
                    readable: true,
                }),
            }
        }
        Ok(())
    }

    /// The next wait ends after this long, exact to what the kernel can do; never, if it is zero.
    pub(super) fn wake_after(&self, after: Duration) -> Result<()> {
        let timer = Itimerspec {
            it_interval: Timespec::default(),
            it_value: Timespec::try_from(after)?,
        };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &timer)?;
        Ok(())
    }

    /// Over TLS 1.3, decrypts nothing from here on: whole records count as what is in them. All that was
    /// sent so far must have been read.
    pub fn count_records(&mut self) {
        for connection in &mut self.all {
            connection.records = Some(Records::default());
        }
    }

    /// Reads once. With [`count_records`](Connections::count_records), what comes is not to be looked at.
    pub fn read(&mut self, who: usize, buffer: &mut [u8]) -> Got {
        let connection = &mut self.all[who];
        if let Some(records) = &mut connection.records {
            let read = recv(&connection.socket, &mut *buffer, RecvFlags::empty());
            return match read.map(|(_, count)| (count, records.take(&buffer[..count]))) {
                Ok((1.., 0)) => Got::Nothing,
                read => connection.count(read.map(|(_, plain)| plain).map_err(Into::into)),
            };
        }
        let read = match &mut connection.tls {
            None => recv(&connection.socket, &mut *buffer, RecvFlags::empty())
                .map(|(_, count)| count)
                .map_err(Into::into),
            Some(tls) => {
                let read = tls.receive(connection.socket.as_fd(), buffer);
                self.unread.extend(tls.has_unread().then_some(who));
                read
            }
        };
        let got = connection.count(read);
        if let Got::Bytes(count) = got {
            let last = &buffer[count.saturating_sub(TAIL_BYTES)..count];
            let before = TAIL_BYTES - last.len();
            let tail = &mut connection.tail;
            tail.drain(..tail.len().saturating_sub(before));
            tail.extend_from_slice(last);
        }
        got
    }

    /// Counts and drops up to `bytes_max` bytes of one read: plain ones the kernel need not even copy.
    pub fn discard(&mut self, who: usize, bytes_max: usize) -> Got {
        let mut sink = mem::take(&mut self.sink);
        let bytes = &mut sink[..bytes_max.min(DISCARD_BYTES)];
        let connection = &mut self.all[who];
        let got = match connection.tls {
            None => {
                let read = recv(&connection.socket, bytes, RecvFlags::TRUNC);
                connection.count(read.map(|(_, count)| count).map_err(Into::into))
            }
            Some(_) => self.read(who, bytes),
        };
        self.sink = sink;
        got
    }

    /// Sends as this sender what its socket takes. What it did not take is to be given again.
    pub fn write(&mut self, sender: usize, bytes: &[u8]) -> Written {
        let who = self.senders[sender];
        match self.all[who].send(bytes) {
            Ok(count) => Written::Bytes(count),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Written::Bytes(0),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                match self.watch(who, EventFlags::IN | EventFlags::OUT) {
                    Ok(()) => Written::Full,
                    Err(_) => Written::Gone,
                }
            }
            Err(_) => Written::Gone,
        }
    }

    /// The sender's socket takes more again.
    pub fn unwatch_writable(&self, who: usize) -> Result<()> {
        Ok(self.watch(who, EventFlags::IN)?)
    }

    /// Looks no more for what comes to a connection, whose socket is full in a while; or does so again.
    pub fn set_watched(&self, who: usize, is_watched: bool) -> Result<()> {
        let flags = match is_watched {
            true => EventFlags::IN,
            false => EventFlags::empty(),
        };
        Ok(self.watch(who, flags)?)
    }

    /// Watches a connection no more, which has ended.
    pub(super) fn close(&mut self, who: usize) {
        let connection = &mut self.all[who];
        if mem::replace(&mut connection.open, false) {
            // Fails only for a socket that is not watched.
            let _ = epoll::delete(&self.epoll, &connection.socket);
        }
    }

    /// Ends all but the first `count`.
    pub fn truncate(&mut self, count: usize) {
        self.all.truncate(count);
    }

    /// Reads on from the stuck readers too. Returns who they are.
    pub(super) fn wake_stuck(&mut self) -> Result<Vec<usize>> {
        let all = 0..self.len();
        let stuck: Vec<usize> = all.filter(|who| self.role(*who).is_stuck()).collect();
        for who in &stuck {
            // A small buffer would make it slow.
            let _ = self.all[*who].socket.set_recv_buffer_size(1 << 20);
            self.set_watched(*who, true)?;
        }
        Ok(stuck)
    }
}

impl Connection {
    fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.tls {
            None => Ok(send(&self.socket, bytes, SendFlags::NOSIGNAL)?),
            Some(tls) => tls.send(self.socket.as_fd(), bytes),
        }
    }

    fn count(&mut self, read: io::Result<usize>) -> Got {
        use io::ErrorKind::{Interrupted, WouldBlock};
        match read {
            Ok(0) => Got::End(CloseReason::Eof),
            Ok(count) => {
                self.received += count as u64;
                Got::Bytes(count)
            }
            Err(error) if matches!(error.kind(), WouldBlock | Interrupted) => Got::Nothing,
            Err(_) if self.tls.is_some() => Got::End(CloseReason::Tls),
            Err(_) => Got::End(CloseReason::Reset),
        }
    }
}

/// Whether the daemon has closed a connection before it was spoken to.
fn is_refusal(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset};
    matches!(error.kind(), BrokenPipe | ConnectionReset)
}
