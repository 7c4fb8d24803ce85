//! All connections to the daemon, and one epoll for them.

use std::io;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};
use socket2::Socket;

use super::plan::Run;
use super::senders::Written;
use super::target::Endpoint;
use crate::wire::close_reason::CloseReason;

/// Connections that are being made at a time. The daemon's backlog is larger.
const DIALLED_MAX: usize = 512;

/// How long the daemon may take for what it does at once.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

const EVENTS_PER_WAIT: usize = 1024;

/// What is no connection's event.
const INTERRUPT: u64 = u64::MAX;
const TIMER: u64 = u64::MAX - 1;

/// What a connection is for, with its number among its like, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Reader(usize),
    Sender(usize),
    Stuck(usize),
}

#[derive(Debug)]
struct Connection {
    socket: Socket,
    role: Role,
    established: bool,
    open: bool,
}

/// All connections of a run.
#[derive(Debug)]
pub(super) struct Connections {
    epoll: OwnedFd,
    timer: OwnedFd,
    connections: Vec<Connection>,
    /// Where each sender is among the connections.
    senders: Vec<usize>,
}

/// Ctrl-C and SIGTERM. They end nothing by themselves any more.
#[derive(Debug)]
pub(super) struct Interrupt {
    signals: SignalFd,
    count: u32,
}

/// What a read brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Got {
    Bytes(usize),
    Nothing,
    End(CloseReason),
}

/// A connection that has something to read, room to write, or an end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ready {
    pub(super) who: usize,
    pub(super) writable: bool,
    pub(super) readable: bool,
}

impl Interrupt {
    /// To be called before any thread is started: it holds for those that are started after it.
    pub(super) fn new() -> Result<Interrupt> {
        let mut signals = SigSet::empty();
        signals.add(Signal::SIGINT);
        signals.add(Signal::SIGTERM);
        signals.thread_block()?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        Ok(Interrupt {
            signals: SignalFd::with_flags(&signals, flags)?,
            count: 0,
        })
    }

    /// How often it was asked to end.
    pub(super) fn count(&mut self) -> u32 {
        while let Ok(Some(_)) = self.signals.read_signal() {
            self.count += 1;
        }
        self.count
    }

    /// Fails if it was asked to end before there is anything to report.
    pub(super) fn check(&mut self) -> Result<()> {
        if self.count() > 0 {
            bail!("interrupted before anything was measured");
        }
        Ok(())
    }
}

impl Connections {
    /// Connects everybody. `first` is connected already.
    ///
    /// The sender who will speak first comes last: what it says reaches the daemon after all others.
    pub(super) fn connect(
        run: &Run,
        endpoint: &Endpoint,
        first: Socket,
        interrupt: &mut Interrupt,
    ) -> Result<Connections> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        let data = epoll::EventData::new_u64(TIMER);
        epoll::add(&epoll, &timer, data, epoll::EventFlags::IN)?;
        let data = epoll::EventData::new_u64(INTERRUPT);
        epoll::add(&epoll, &interrupt.signals, data, epoll::EventFlags::IN)?;
        let mut connections = Connections {
            epoll,
            timer,
            connections: Vec::with_capacity(run.connections()),
            senders: vec![0; run.senders],
        };

        first.set_nonblocking(true)?;
        connections.add(first, Role::Reader(0), true)?;
        let mut roles = (0..run.stuck)
            .map(Role::Stuck)
            .chain((1..run.readers).map(Role::Reader))
            .chain((0..run.senders).rev().map(Role::Sender))
            .peekable();
        let mut dialled = 0;
        let deadline = Instant::now() + PATIENCE;
        let mut ready = Vec::new();
        let mut scratch = vec![0; 64 * 1024];
        while dialled > 0 || roles.peek().is_some() {
            interrupt.check()?;
            if Instant::now() > deadline {
                bail!(
                    "{} connections were not made",
                    run.connections() - connections.len() + dialled
                );
            }
            while let Some(role) = roles.peek().filter(|_| dialled < DIALLED_MAX) {
                let is_stuck = matches!(role, Role::Stuck(_));
                match endpoint.dial(is_stuck) {
                    Ok((socket, established)) => {
                        dialled += usize::from(!established);
                        connections.add(socket, *role, established)?;
                        roles.next();
                    }
                    // A Unix socket's backlog is full.
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error).context("cannot connect"),
                }
            }
            connections.wait(Duration::from_millis(1), &mut ready)?;
            for event in &ready {
                dialled -= usize::from(connections.establish(event)?);
                // What is said before all are here is for nobody.
                if event.readable && connections.connections[event.who].established {
                    match connections.read(event.who, &mut scratch) {
                        Got::End(_) => bail!("{}", refused(&scratch)),
                        Got::Bytes(_) | Got::Nothing => {}
                    }
                }
            }
        }
        Ok(connections)
    }

    fn add(&mut self, socket: Socket, role: Role, established: bool) -> Result<()> {
        let who = self.connections.len();
        let flags = match (established, role) {
            (true, Role::Stuck(_)) => epoll::EventFlags::empty(),
            (true, _) => epoll::EventFlags::IN,
            (false, _) => epoll::EventFlags::OUT,
        };
        if let Role::Sender(number) = role {
            self.senders[number] = who;
        }
        let data = epoll::EventData::new_u64(who as u64);
        epoll::add(&self.epoll, &socket, data, flags)?;
        self.connections.push(Connection {
            socket,
            role,
            established,
            open: true,
        });
        Ok(())
    }

    /// Whether an event is that a connection has been made.
    fn establish(&mut self, event: &Ready) -> Result<bool> {
        let connection = &mut self.connections[event.who];
        if connection.established {
            return Ok(false);
        }
        if let Some(error) = connection.socket.take_error()? {
            return Err(error).context("cannot connect");
        }
        connection.established = true;
        let watched = match connection.role {
            Role::Stuck(_) => epoll::EventFlags::empty(),
            _ => epoll::EventFlags::IN,
        };
        self.watch(event.who, watched)?;
        Ok(true)
    }

    fn watch(&self, who: usize, flags: epoll::EventFlags) -> rustix::io::Result<()> {
        let data = epoll::EventData::new_u64(who as u64);
        epoll::modify(&self.epoll, &self.connections[who].socket, data, flags)
    }

    pub(super) fn len(&self) -> usize {
        self.connections.len()
    }

    pub(super) fn role(&self, who: usize) -> Role {
        self.connections[who].role
    }

    pub(super) fn socket(&self, who: usize) -> &Socket {
        &self.connections[who].socket
    }

    /// Waits at most `timeout`, in whole milliseconds, or until [`Connections::wake_at`].
    pub(super) fn wait(&self, timeout: Duration, ready: &mut Vec<Ready>) -> Result<()> {
        use epoll::EventFlags as Flags;
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
                TIMER => self.stop_timer()?,
                who => ready.push(Ready {
                    who: who as usize,
                    writable: flags.contains(Flags::OUT),
                    readable: flags.intersects(Flags::IN | Flags::HUP | Flags::ERR),
                }),
            }
        }
        Ok(())
    }

    fn stop_timer(&self) -> Result<()> {
        self.wake_after(Duration::ZERO)
    }

    /// The next wait ends after this long, exact to what the kernel can do; never, if it is zero.
    pub(super) fn wake_after(&self, after: Duration) -> Result<()> {
        let timer = Itimerspec {
            it_interval: Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            },
            it_value: Timespec::try_from(after)?,
        };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &timer)?;
        Ok(())
    }

    pub(super) fn read(&self, who: usize, buffer: &mut [u8]) -> Got {
        match recv(
            &self.connections[who].socket,
            &mut *buffer,
            RecvFlags::empty(),
        ) {
            Ok((0, _)) => Got::End(CloseReason::Eof),
            Ok((count, _)) => Got::Bytes(count),
            Err(Errno::AGAIN | Errno::INTR) => Got::Nothing,
            Err(_) => Got::End(CloseReason::Reset),
        }
    }

    /// Sends as this sender what its socket takes.
    pub(super) fn write(&self, sender: usize, bytes: &[u8]) -> Written {
        let who = self.senders[sender];
        match send(&self.connections[who].socket, bytes, SendFlags::NOSIGNAL) {
            Ok(count) => Written::Bytes(count),
            Err(Errno::INTR) => Written::Bytes(0),
            Err(Errno::AGAIN) => {
                let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT;
                match self.watch(who, flags) {
                    Ok(()) => Written::Full,
                    Err(_) => Written::Gone,
                }
            }
            Err(_) => Written::Gone,
        }
    }

    /// The sender's socket takes more again.
    pub(super) fn unwatch_writable(&self, who: usize) -> Result<()> {
        Ok(self.watch(who, epoll::EventFlags::IN)?)
    }

    /// Nothing more is expected of a connection.
    pub(super) fn close(&mut self, who: usize) {
        let connection = &mut self.connections[who];
        if std::mem::replace(&mut connection.open, false) {
            // It can fail only for what is not there.
            let _ = epoll::delete(&self.epoll, &connection.socket);
        }
    }

    /// Reads on from the stuck readers too. Returns who they are.
    pub(super) fn wake_stuck(&mut self) -> Result<Vec<usize>> {
        let is_stuck = |who: &usize| matches!(self.role(*who), Role::Stuck(_));
        let stuck: Vec<usize> = (0..self.len()).filter(is_stuck).collect();
        for who in &stuck {
            // A small buffer would make it slow.
            let _ = self.connections[*who].socket.set_recv_buffer_size(1 << 20);
            self.watch(*who, epoll::EventFlags::IN)?;
        }
        Ok(stuck)
    }
}

/// Why a connection ended that had only just begun.
fn refused(last: &[u8]) -> String {
    let end = last
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(last.len());
    let notice = super::line_decoder::CloseNotice::in_last_lines(&last[..end]);
    let why = notice.map_or("without a word".to_owned(), |notice| notice.detail);
    format!("the daemon closed a connection while others were made: {why}")
}
