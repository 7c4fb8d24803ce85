//! Channels that several daemons share, beside NATS alone with the same clients.
//!
//! The daemons and their nats-server are on the servers' core together: one machine stands for three, and each
//! line is paid for three times where a cluster would pay on three.

use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{self, Command};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use linehub::commands::bench::{Daemon, Histogram};
use linehub::ops::procfs;
use memchr::memchr;
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use tempfile::TempDir;

use crate::cases::{Case, Figure, LOSSLESS, Plan, Side};
use crate::launch::{Busy, Cores, Launch, Program};
use crate::peers::{self, Peer};
use crate::settings::Settings;
use crate::table::Unit;

const PAYLOAD_BYTES: usize = 64;

/// The subject of NATS alone.
const SUBJECT: &str = "bench";

/// What ends the last line before the run.
const START: &str = "!start";

/// Stands before the time at which a line was due.
const DUE: u8 = b'#';
const DUE_DIGITS: usize = 20;

/// Lines of a lone sender that may be on their way, and of each of many.
const LONE_IN_FLIGHT: u64 = 64 * 1024;
const LINES_IN_FLIGHT: u64 = 32;

/// Lines that a sender has in rotation.
const BLOCK_LINES: usize = 1000;

const READ_BYTES: usize = 1 << 20;
const EVENTS_PER_WAIT: usize = 1024;
const TICK: Duration = Duration::from_millis(20);

/// How long servers may take until all clients hear a line, or have what is on its way.
const PATIENCE: Duration = Duration::from_secs(30);

/// How often a line is sent until all clients have heard one.
const AGAIN_AFTER: Duration = Duration::from_millis(100);

/// Clients over some daemons that share a channel, by turns; or of NATS alone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cluster {
    /// Daemons; with none, clients are NATS's own.
    nodes: usize,
    senders: usize,
    /// Beside senders, which hear all others, too.
    readers: usize,
    /// Lines a second, whose time on their way is measured; `None`: as many as are taken.
    rate: Option<u32>,
}

/// The rows, each beside NATS alone.
pub(crate) fn cases(subject: &Program) -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |name: &str, format: &str, cluster: Cluster, against, nodes| {
        let side = |cluster| Side {
            launch: Launch::new(subject, &[LOSSLESS, &["--format", format]].concat()),
            plan: Plan::Cluster(cluster),
        };
        let baseline = Cluster { nodes, ..cluster };
        cases.push(Case {
            name: format!("cluster/{name}"),
            subject: side(cluster),
            baseline: Some((against, side(baseline))),
        });
    };
    let cluster = |senders, readers, rate| Cluster {
        nodes: 2,
        senders,
        readers,
        rate,
    };
    for format in ["raw", "text"] {
        add(
            &format!("flood/{format}"),
            format,
            cluster(1, 200, None),
            "NATS",
            0,
        );
    }
    let latency = cluster(1, 1, Some(1000));
    for (against, nodes) in [("NATS", 0), ("one linehub", 1)] {
        add("latency", "raw", latency, against, nodes);
    }
    add("senders/500x500", "raw", cluster(500, 500, None), "NATS", 0);
    cases
}

impl Cluster {
    /// Starts all servers, measures, ends them.
    pub(crate) fn run(
        &self,
        launch: &Launch,
        cores: &Cores,
        settings: &Settings,
    ) -> Result<Vec<Figure>> {
        let servers = cores.on_the_servers(|| Servers::start(self.nodes, launch))??;
        let mut crowd = Crowd::connect(self, &servers.addresses)?;
        crowd.begin()?;
        // Two spans, of which only the second counts.
        let mut marks = Vec::new();
        let started = Instant::now();
        let mut end = started;
        for span in [settings.warm_up, settings.window] {
            end += span;
            crowd.latencies = Histogram::default();
            while Instant::now() < end {
                match self.rate {
                    Some(rate) => crowd.send_due(rate, started)?,
                    None => crowd.send_what_may_be()?,
                }
            }
            let load = procfs::cpu_time(process::id()).context("no CPU time")?;
            marks.push((Instant::now(), crowd.lines(), servers.cpu()?, load));
        }
        crowd.settle()?;
        let [
            (from, before, server, load),
            (to, after, server_now, load_now),
        ] = marks[..]
        else {
            bail!("two spans");
        };
        let busy = Busy {
            elapsed: to - from,
            server: server_now - server,
            load: load_now - load,
        };
        if self.rate.is_none() {
            let rate = (after - before) as f64 / busy.elapsed.as_secs_f64();
            return Ok(vec![
                Figure::new("", Unit::LinesPerSecond, rate).while_busy(busy),
            ]);
        }
        let percentiles = [("/p50", 50.0), ("/p99", 99.0)]
            .iter()
            .map(|(suffix, percent)| {
                let latency = crowd
                    .latencies
                    .percentile(*percent)
                    .context("nothing arrived")?;
                Ok(Figure::seconds(suffix, latency.as_secs_f64()).while_busy(busy))
            });
        percentiles.collect()
    }
}

/// All servers of a side.
struct Servers {
    daemons: Vec<Daemon>,
    /// Where clients are connected to, by turns.
    addresses: Vec<SocketAddr>,
    _folder: TempDir,
}

impl Servers {
    fn start(nodes: usize, launch: &Launch) -> Result<Servers> {
        let folder = tempfile::tempdir()?;
        let (mut daemons, mut addresses) = (Vec::new(), Vec::new());
        let mut nats = None;
        if nodes != 1 {
            let (command, address) = nats_command(folder.path(), nodes > 0)?;
            let mut daemon = Daemon::start(command)?;
            peers::wait_for(&mut daemon, address)?;
            daemons.push(daemon);
            nats = Some(address);
        }
        for _ in 0..nodes {
            let Program::Linehub(path) = &launch.program else {
                bail!("only linehub shares channels");
            };
            let mut command = Command::new(path);
            command.env_clear();
            command
                .args(["--listen", "127.0.0.1:0"])
                .args(&launch.flags);
            if let Some(nats) = nats {
                command.args(["--nats", &format!("nats://{nats}")]);
            }
            let mut daemon = Daemon::start(command)?;
            addresses.push(daemon.address("listening")?);
            daemons.push(daemon);
        }
        if addresses.is_empty() {
            addresses.extend(nats);
        }
        Ok(Servers {
            daemons,
            addresses,
            _folder: folder,
        })
    }

    /// CPU time of all of them.
    fn cpu(&self) -> Result<Duration> {
        let all = self.daemons.iter();
        let times = all.map(|one| procfs::cpu_time(one.pid()).context("a server is gone"));
        times.sum()
    }
}

/// A nats-server, with JetStream in files as it is by default or without.
fn nats_command(folder: &Path, has_stream: bool) -> Result<(Command, SocketAddr)> {
    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let path = Peer::Nats.path().context("no nats-server")?;
    let configuration = folder.join("nats.conf");
    let mut text = format!("listen: {:?}\n", address.to_string());
    if has_stream {
        let store = folder.join("store");
        text += &format!("jetstream {{ store_dir: {store:?} }}\n");
    }
    fs::write(&configuration, text)?;
    let mut command = Command::new(path);
    command.env_clear().env("GOMAXPROCS", "1");
    command.arg("-c").arg(configuration);
    Ok((command, address))
}

/// Clients of all nodes.
struct Crowd {
    epoll: OwnedFd,
    is_nats: bool,
    readers: usize,
    clients: Vec<Client>,
    /// Bytes of a line as it is sent, and as it is received.
    sent_bytes: usize,
    line_bytes: usize,
    block: Vec<u8>,
    buffer: Vec<u8>,
    /// Bytes that have come to all.
    received: u64,
    /// Lines that were due.
    due: u64,
    latencies: Histogram,
    started: Instant,
}

struct Client {
    socket: TcpStream,
    /// Bytes.
    sent: u64,
    received: u64,
    /// What came last, where that is looked at.
    unread: Vec<u8>,
    heard: bool,
}

impl Crowd {
    fn connect(plan: &Cluster, addresses: &[SocketAddr]) -> Result<Crowd> {
        let is_nats = plan.nodes == 0;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let mut clients = Vec::new();
        for number in 0..plan.readers + plan.senders {
            // The lone reader is not where the sender is.
            let is_sender = number >= plan.readers;
            let turn = if is_sender {
                number - plan.readers
            } else {
                number + 1
            };
            let mut socket = TcpStream::connect(addresses[turn % addresses.len()])?;
            socket.set_nodelay(true)?;
            if is_nats {
                let words = "CONNECT {\"verbose\":false,\"echo\":false}\r\nSUB bench 1\r\nPING\r\n";
                socket.write_all(words.as_bytes())?;
                socket.set_read_timeout(Some(PATIENCE))?;
                let mut answer = Vec::new();
                while !answer.ends_with(b"PONG\r\n") {
                    let mut bytes = [0; 4096];
                    let count = socket.read(&mut bytes)?;
                    ensure!(count > 0, "NATS refuses a client");
                    answer.extend_from_slice(&bytes[..count]);
                }
            }
            socket.set_nonblocking(true)?;
            let data = epoll::EventData::new_u64(number as u64);
            epoll::add(&epoll, &socket, data, epoll::EventFlags::IN)?;
            clients.push(Client {
                socket,
                sent: 0,
                received: 0,
                unread: Vec::new(),
                heard: false,
            });
        }
        let mut crowd = Crowd {
            epoll,
            is_nats,
            readers: plan.readers,
            clients,
            sent_bytes: 0,
            line_bytes: 0,
            block: Vec::new(),
            buffer: vec![0; READ_BYTES],
            received: 0,
            due: 0,
            latencies: Histogram::default(),
            started: Instant::now(),
        };
        let payloads = crate::stream::payloads(BLOCK_LINES, PAYLOAD_BYTES);
        crowd.block = payloads
            .iter()
            .flat_map(|payload| crowd.line(payload))
            .collect();
        crowd.sent_bytes = crowd.block.len() / BLOCK_LINES;
        Ok(crowd)
    }

    /// What sends a line.
    fn line(&self, payload: &[u8]) -> Vec<u8> {
        if self.is_nats {
            let head = format!("PUB {SUBJECT} {}\r\n", payload.len());
            [head.as_bytes(), payload, b"\r\n"].concat()
        } else {
            [payload, b"\n"].concat()
        }
    }

    /// Has the first sender speak until everybody hears, and counts what comes from there.
    fn begin(&mut self) -> Result<()> {
        let first = self.readers;
        let deadline = Instant::now() + PATIENCE;
        for (word, again) in [("!probe", true), (START, false)] {
            let line = self.line(format!("{word:x>PAYLOAD_BYTES$}").as_bytes());
            let mut next = Some(Instant::now());
            self.clients
                .iter_mut()
                .for_each(|client| client.heard = false);
            self.clients[first].heard = true;
            while self.clients.iter().any(|client| !client.heard) {
                ensure!(Instant::now() < deadline, "clients hear no {word}");
                if next.is_some_and(|next| Instant::now() >= next) {
                    self.clients[first].socket.write_all(&line)?;
                    next = again.then(|| Instant::now() + AGAIN_AFTER);
                }
                for who in self.wait(TICK)? {
                    let count = read(
                        &self.clients[who].socket,
                        &mut self.buffer,
                        RecvFlags::empty(),
                    )?;
                    let client = &mut self.clients[who];
                    client.unread.extend_from_slice(&self.buffer[..count]);
                    let end = client.unread.trim_ascii_end();
                    client.heard |=
                        client.unread.ends_with(b"\n") && end.ends_with(word.as_bytes());
                }
            }
        }
        let heard = self.clients[0].unread.trim_ascii_end();
        let mut begin = memchr::memrchr(b'\n', heard).map_or(0, |at| at + 1);
        if self.is_nats {
            begin = memchr::memrchr(b'\n', &heard[..begin - 1]).map_or(0, |at| at + 1);
        }
        self.line_bytes = self.clients[0].unread.len() - begin;
        self.clients
            .iter_mut()
            .for_each(|client| client.unread.clear());
        self.started = Instant::now();
        Ok(())
    }

    /// Who has something to read.
    fn wait(&self, timeout: Duration) -> Result<Vec<usize>> {
        let mut events: Vec<epoll::Event> = Vec::with_capacity(EVENTS_PER_WAIT);
        let timeout = Timespec::try_from(timeout)?;
        match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(events
            .iter()
            .map(|event| event.data.u64() as usize)
            .collect())
    }

    /// Lines that have arrived, over all clients.
    fn lines(&self) -> u64 {
        self.received / self.line_bytes as u64
    }

    /// Floods, with so much on its way that the servers always have something to read.
    fn send_what_may_be(&mut self) -> Result<()> {
        let senders = (self.clients.len() - self.readers) as u64;
        let in_flight = if senders > 1 {
            LINES_IN_FLIGHT
        } else {
            LONE_IN_FLIGHT
        };
        let listeners = self.clients.len() as u64 - 1;
        let may = self.lines() / listeners / senders + in_flight;
        let may = may * self.sent_bytes as u64;
        let least = in_flight / 2 * self.sent_bytes as u64;
        for client in &mut self.clients[self.readers..] {
            let left = may.saturating_sub(client.sent);
            let within = client.sent % self.sent_bytes as u64;
            if left >= least || within > 0 {
                let at = (client.sent % self.block.len() as u64) as usize;
                let end = self.block.len().min(at + left as usize);
                client.send(&self.block[at..end])?;
            }
        }
        self.receive(Duration::from_millis(1))
    }

    /// Sends each line when it is due, and looks at what comes all the time.
    fn send_due(&mut self, rate: u32, started: Instant) -> Result<()> {
        let due = Duration::from_secs(1) / rate * self.due as u32;
        if started.elapsed() >= due {
            self.due += 1;
            let at = (started + due).duration_since(self.started).as_nanos();
            let head = format!("{}{at:0DUE_DIGITS$}", char::from(DUE));
            let line = self.line(format!("{head:x<PAYLOAD_BYTES$}").as_bytes());
            let count = self.clients[self.readers].send(&line)?;
            ensure!(count == line.len(), "a line is not taken");
        }
        for who in self.wait(Duration::ZERO)? {
            let count = read(
                &self.clients[who].socket,
                &mut self.buffer,
                RecvFlags::empty(),
            )?;
            let client = &mut self.clients[who];
            client.received += count as u64;
            self.received += count as u64;
            client.unread.extend_from_slice(&self.buffer[..count]);
            let mut unread = &client.unread[..];
            while let Some(at) = memchr(DUE, unread)
                && let Some(digits) = unread.get(at + 1..at + 1 + DUE_DIGITS)
            {
                let due: u64 = str::from_utf8(digits)?.parse()?;
                let now = self.started.elapsed();
                let late = (now.as_nanos() as u64).saturating_sub(due);
                self.latencies.record(late, 1);
                unread = &unread[at + 1 + DUE_DIGITS..];
            }
            let done = client.unread.len() - unread.len();
            client.unread.drain(..done);
        }
        Ok(())
    }

    /// Counts what has come.
    fn receive(&mut self, pause: Duration) -> Result<()> {
        for who in self.wait(pause)? {
            let client = &mut self.clients[who];
            let count = read(&client.socket, &mut self.buffer, RecvFlags::TRUNC)?;
            client.received += count as u64;
            self.received += count as u64;
        }
        Ok(())
    }

    /// Receives until every client has exactly the lines that others sent.
    fn settle(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        for number in self.readers..self.clients.len() {
            // What a line lacks.
            while !self.clients[number]
                .sent
                .is_multiple_of(self.sent_bytes as u64)
            {
                let client = &mut self.clients[number];
                let at = (client.sent % self.block.len() as u64) as usize;
                let end = at.next_multiple_of(self.sent_bytes);
                client.send(&self.block[at..end])?;
                ensure!(Instant::now() < deadline, "a line is not taken");
                self.receive(Duration::ZERO)?;
            }
        }
        let sent_bytes = self.sent_bytes as u64;
        let total: u64 = self
            .clients
            .iter()
            .map(|client| client.sent / sent_bytes)
            .sum();
        loop {
            let mut missing = 0;
            for client in &self.clients {
                let (owed, own) = (total - client.sent / sent_bytes, client.received);
                // A PING of NATS is less than a line.
                let lines = own / self.line_bytes as u64;
                ensure!(lines <= owed, "a client received more than was sent");
                missing += u64::from(lines < owed);
            }
            if missing == 0 {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{missing} clients lack bytes");
            self.receive(TICK)?;
        }
    }
}

impl Client {
    /// Sends what the socket takes.
    fn send(&mut self, bytes: &[u8]) -> Result<usize> {
        let count = match self.socket.write(bytes) {
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error.into()),
        };
        self.sent += count as u64;
        Ok(count)
    }
}

/// Reads once; no server here may close a connection.
fn read(socket: &TcpStream, buffer: &mut [u8], flags: RecvFlags) -> Result<usize> {
    match recv(socket, buffer, flags) {
        Ok((_, 0)) => bail!("a server closed a connection"),
        Ok((_, count)) => Ok(count),
        Err(Errno::AGAIN | Errno::INTR) => Ok(0),
        Err(error) => Err(error.into()),
    }
}
