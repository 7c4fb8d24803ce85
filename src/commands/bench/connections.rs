//! All connections to the daemon, and one epoll for them.

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
use super::senders::Written;
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
        };
        if let Some(first) = first {
            connections.add(first, roles[0], true, endpoint)?;
        }
        // Sockets are made before the clock runs.
        let sockets = (connections.len()..roles.len())
            .rev()
            .map(|who| endpoint.socket(who, roles[who].is_stuck()));
        let mut sockets: Vec<Socket> = sockets.collect::<Result<_, _>>()?;

        let begun = Instant::now();
        let mut pending = 0;
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
                    Ok(established) => {
                        pending += usize::from(!established);
                        let role = roles[connections.len()];
                        connections.add(socket, role, established, endpoint)?;
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
                    connections.establish(event.who, endpoint)?;
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

    fn add(
        &mut self,
        socket: Socket,
        role: Role,
        established: bool,
        endpoint: &Endpoint,
    ) -> Result<()> {
        let who = self.all.len();
        if let Role::Sender(number) = role {
            self.senders[number] = who;
        }
        let data = epoll::EventData::new_u64(who as u64);
        epoll::add(&self.epoll, &socket, data, EventFlags::OUT)?;
        self.all.push(Connection {
            socket,
            role,
            established: false,
            open: true,
            received: 0,
            tail: Vec::new(),
        });
        if established {
            self.establish(who, endpoint)?;
        }
        Ok(())
    }

    /// A connection has been made: what is to be said first on it is said here. What the daemon answers
    /// is dropped with all else that comes before the run.
    fn establish(&mut self, who: usize, endpoint: &Endpoint) -> Result<()> {
        if let Some(error) = self.all[who].socket.take_error()? {
            return Err(error).context("cannot connect");
        }
        self.all[who].established = true;
        endpoint.say_hello(who, &self.all[who].socket)?;
        let flags = match self.all[who].role {
            Role::Stuck(_) => EventFlags::empty(),
            Role::Reader(_) | Role::Sender(_) => EventFlags::IN,
        };
        Ok(self.watch(who, flags)?)
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
    pub fn wait(&self, timeout: Duration, ready: &mut Vec<Ready>) -> Result<()> {
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

    /// Reads once.
    pub fn read(&mut self, who: usize, buffer: &mut [u8]) -> Got {
        let connection = &mut self.all[who];
        let read = recv(&connection.socket, &mut *buffer, RecvFlags::empty());
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

    /// Counts and drops up to `bytes_max` bytes of one read: the kernel need not even copy them.
    pub fn discard(&mut self, who: usize, bytes_max: usize) -> Got {
        let sink = &mut self.sink[..bytes_max.min(DISCARD_BYTES)];
        let connection = &mut self.all[who];
        connection.count(recv(&connection.socket, sink, RecvFlags::TRUNC))
    }

    /// Sends as this sender what its socket takes.
    pub fn write(&self, sender: usize, bytes: &[u8]) -> Written {
        let who = self.senders[sender];
        match send(&self.all[who].socket, bytes, SendFlags::NOSIGNAL) {
            Ok(count) => Written::Bytes(count),
            Err(Errno::INTR) => Written::Bytes(0),
            Err(Errno::AGAIN) => match self.watch(who, EventFlags::IN | EventFlags::OUT) {
                Ok(()) => Written::Full,
                Err(_) => Written::Gone,
            },
            Err(_) => Written::Gone,
        }
    }

    /// The sender's socket takes more again.
    pub fn unwatch_writable(&self, who: usize) -> Result<()> {
        Ok(self.watch(who, EventFlags::IN)?)
    }

    /// Watches a connection no more, which has ended.
    pub(super) fn close(&mut self, who: usize) {
        let connection = &mut self.all[who];
        if std::mem::replace(&mut connection.open, false) {
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
            self.watch(*who, EventFlags::IN)?;
        }
        Ok(stuck)
    }
}

impl Connection {
    fn count<T>(&mut self, read: rustix::io::Result<(T, usize)>) -> Got {
        match read {
            Ok((_, 0)) => Got::End(CloseReason::Eof),
            Ok((_, count)) => {
                self.received += count as u64;
                Got::Bytes(count)
            }
            Err(Errno::AGAIN | Errno::INTR) => Got::Nothing,
            Err(_) => Got::End(CloseReason::Reset),
        }
    }
}
