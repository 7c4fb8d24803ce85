//! Many clients that come back at once, while others get a paced stream.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use linehub::commands::bench::{
    Barrier, Connections, Endpoint, Histogram, Interrupt, Ready, Role, Written,
};
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use rustix::process::setpriority_process;
use socket2::{Domain, Socket, Type};

use crate::flood::count;
use crate::launch::{Busy, Server};
use crate::newcomer;
use crate::settings::Settings;

/// Clients that get the paced stream, and lines of it a second. Each of those who have come back gets it too,
/// until it leaves: more of it would be what is measured.
const LIVE_READERS: usize = 100;
const LINES_PER_SECOND: u32 = 100;

/// A line of the paced stream: when it was due, in nanoseconds since the start, in so many digits, and
/// blanks.
const LINE_BYTES: usize = 65;
const DIGITS: usize = 20;

const READ_BYTES: usize = 256 * 1024;
const EVENTS_PER_WAIT: usize = 1024;
const TICK: Duration = Duration::from_millis(20);

/// How long all of them may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// Below all others: the load must not hold up those whose time is taken.
const LEAST_PRIORITY: i32 = 19;

/// Clients that come back at once, each for the same lines; they leave when they have them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Resume {
    pub clients: usize,
    pub lines: usize,
}

/// What was measured.
pub(crate) struct ResumeFigures {
    /// How late lines reach the live readers, from when they were due.
    pub latency: Histogram,
    /// Seconds until all had what they came for.
    pub resumed: f64,
    pub busy: Busy,
}

impl Resume {
    /// Has all of them come while the stream goes on, and for as long as a window at least.
    pub(crate) fn run(&self, server: &Server, settings: &Settings) -> Result<ResumeFigures> {
        let since = newcomer::fill(server.address(), self.lines)?;
        let mut live = Live::connect(server)?;
        let before = server.usage()?;
        let (resumed, latency) = thread::scope(|scope| {
            let storm = scope.spawn(|| self.storm(server, &since));
            let end = Instant::now() + settings.window;
            let deadline = Instant::now() + PATIENCE;
            while Instant::now() < end || !storm.is_finished() {
                ensure!(Instant::now() < deadline, "not all have what they came for");
                live.turn()?;
            }
            let resumed = storm.join().ok().context("the storm panicked")??;
            Ok((resumed, live.finish()?))
        })?;
        Ok(ResumeFigures {
            latency,
            resumed: resumed.as_secs_f64(),
            busy: before.until(&server.usage()?),
        })
    }

    /// Connects all at once. Returns how long it took until the last had what it came for.
    fn storm(&self, server: &Server, since: &str) -> Result<Duration> {
        use epoll::EventFlags as Flags;
        // The thread's own, on Linux.
        setpriority_process(None, LEAST_PRIORITY)?;
        let hello = format!("LINEHUB/1 format=raw since={since} role=subscribe\n");
        let wanted = self.lines * LINE_BYTES;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let begun = Instant::now();
        let mut clients = Vec::with_capacity(self.clients);
        for number in 0..self.clients {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            socket.set_nonblocking(true)?;
            // It leaves no port in TIME_WAIT for the next run to miss.
            socket.set_linger(Some(Duration::ZERO))?;
            match socket.connect(&server.address().into()) {
                Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => {
                    return Err(error).context("cannot connect");
                }
                _ => {}
            }
            let data = epoll::EventData::new_u64(number as u64);
            epoll::add(&epoll, &socket, data, Flags::OUT)?;
            clients.push((Some(socket), 0));
        }
        let mut left = self.clients;
        let mut buffer = vec![0; READ_BYTES];
        let deadline = begun + PATIENCE;
        while left > 0 {
            ensure!(
                Instant::now() < deadline,
                "{left} have not what they came for"
            );
            let mut events: Vec<epoll::Event> = Vec::with_capacity(EVENTS_PER_WAIT);
            let timeout = Timespec::try_from(TICK)?;
            match epoll::wait(&epoll, spare_capacity(&mut events), Some(&timeout)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error).context("epoll_wait"),
            }
            for event in events {
                let (socket, received) = &mut clients[event.data.u64() as usize];
                let Some(client) = socket else { continue };
                if { event.flags }.contains(Flags::OUT) {
                    if let Some(error) = client.take_error()? {
                        return Err(error).context("cannot connect");
                    }
                    ensure!(
                        client.send(hello.as_bytes())? == hello.len(),
                        "a new connection has no room for its hello"
                    );
                    epoll::modify(&epoll, &*client, event.data, Flags::IN)?;
                    continue;
                }
                match recv(&*client, &mut buffer[..], RecvFlags::TRUNC) {
                    Ok((_, 0)) => bail!("one is closed after {received} bytes"),
                    Ok((_, count)) => *received += count,
                    Err(Errno::AGAIN | Errno::INTR) => {}
                    Err(error) => return Err(io::Error::from(error)).context("one is closed"),
                }
                if *received >= wanted {
                    *socket = None;
                    left -= 1;
                }
            }
        }
        Ok(begun.elapsed())
    }
}

/// The live readers, and who sends to them.
struct Live {
    connections: Connections,
    begun: Instant,
    sent: u32,
    /// Bytes of a line that has not ended, of each.
    unread: Vec<Vec<u8>>,
    lines: u64,
    latency: Histogram,
    ready: Vec<Ready>,
    buffer: Vec<u8>,
}

impl Live {
    fn connect(server: &Server) -> Result<Live> {
        let mut roles: Vec<Role> = (0..LIVE_READERS).map(Role::Reader).collect();
        roles.push(Role::Sender(0));
        let endpoint = Endpoint::resetting(server.address());
        let endpoint = endpoint.saying(["LINEHUB/1 format=raw".to_owned()]);
        let never = &mut Interrupt::never();
        let (mut connections, _) = Connections::connect(&endpoint, None, &roles, 1, never)?;
        Barrier::pass(&mut connections, *b"load", never)?;
        Ok(Live {
            unread: vec![Vec::new(); connections.len()],
            connections,
            begun: Instant::now(),
            sent: 0,
            lines: 0,
            latency: Histogram::default(),
            ready: Vec::new(),
            buffer: vec![0; READ_BYTES],
        })
    }

    /// Sends what is due, waits until the next line is or something happens, and reads.
    fn turn(&mut self) -> Result<()> {
        let period = Duration::from_secs(1) / LINES_PER_SECOND;
        let mut due = period * self.sent;
        while self.begun.elapsed() >= due {
            let line = format!(
                "{:0DIGITS$}{:blanks$}\n",
                due.as_nanos(),
                "",
                blanks = LINE_BYTES - 1 - DIGITS
            );
            match self.connections.write(0, line.as_bytes()) {
                Written::Bytes(LINE_BYTES) => self.sent += 1,
                other => bail!("the sender's line became {other:?}"),
            }
            due = period * self.sent;
        }
        // A wait is of whole milliseconds.
        self.receive(due.saturating_sub(self.begun.elapsed()))
    }

    fn receive(&mut self, pause: Duration) -> Result<()> {
        let mut ready = std::mem::take(&mut self.ready);
        self.connections.wait(pause, &mut ready)?;
        for event in ready.iter().filter(|event| event.readable) {
            let who = event.who;
            let bytes = count(who, self.connections.read(who, &mut self.buffer))?;
            let now = self.begun.elapsed().as_nanos();
            let unread = &mut self.unread[who];
            unread.extend_from_slice(&self.buffer[..bytes]);
            let whole = unread.len() / LINE_BYTES * LINE_BYTES;
            for line in unread[..whole].chunks(LINE_BYTES) {
                let due: u128 = str::from_utf8(&line[..DIGITS])?.parse()?;
                let late = u64::try_from(now.saturating_sub(due))?;
                self.latency.record(late, 1);
                self.lines += 1;
            }
            unread.drain(..whole);
        }
        self.ready = ready;
        Ok(())
    }

    /// Waits until all have all lines.
    fn finish(mut self) -> Result<Histogram> {
        let deadline = Instant::now() + PATIENCE;
        while self.lines < u64::from(self.sent) * LIVE_READERS as u64 {
            ensure!(Instant::now() < deadline, "live readers lack lines");
            self.receive(TICK)?;
        }
        Ok(self.latency)
    }
}
