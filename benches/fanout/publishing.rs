//! Publishers that are told when what they sent is safe, and send no more than so much before that.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::fd::OwnedFd;
use rustix::io::Errno;

use crate::dialect::{Answers, Dialect};
use crate::launch::{Busy, Server, Usage};
use crate::settings::Settings;
use crate::stream;

const PAYLOAD_BYTES: usize = 64;

const READ_BYTES: usize = 64 * 1024;
const EVENTS_PER_WAIT: usize = 256;

/// How long the load sleeps at most before it looks at the clock.
const TICK: Duration = Duration::from_millis(20);

/// How long a server may take to acknowledge what is on its way.
const PATIENCE: Duration = Duration::from_secs(30);

/// Publishers, each with a connection of its own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Publishing {
    pub publishers: usize,
    /// Lines that each may have sent and not been told of.
    pub in_flight: u64,
}

/// What was measured.
pub(crate) struct PublishingFigures {
    /// Lines acknowledged a second, over all publishers.
    pub lines_per_second: f64,
    pub busy: Busy,
}

impl Publishing {
    /// Publishes as fast as the server acknowledges, and proves that every line is.
    pub(crate) fn run(
        &self,
        server: &Server,
        dialect: Dialect,
        settings: &Settings,
    ) -> Result<PublishingFigures> {
        let mut crowd = Crowd::connect(self, server, dialect)?;
        // Two spans, of which only the second counts.
        let mut marks: Vec<(Usage, u64)> = Vec::new();
        for span in [settings.warm_up, settings.window] {
            let end = Instant::now() + span;
            while Instant::now() < end {
                crowd.turn()?;
            }
            marks.push((server.usage()?, crowd.acknowledged()));
        }
        crowd.stopped = true;
        let deadline = Instant::now() + PATIENCE;
        while crowd.publishers.iter().any(|one| one.outstanding() > 0) {
            ensure!(Instant::now() < deadline, "lines are not acknowledged");
            crowd.turn()?;
        }
        let busy = marks[0].0.until(&marks[1].0);
        Ok(PublishingFigures {
            lines_per_second: (marks[1].1 - marks[0].1) as f64 / busy.elapsed.as_secs_f64(),
            busy,
        })
    }
}

struct Crowd {
    epoll: OwnedFd,
    dialect: Dialect,
    in_flight: u64,
    publishers: Vec<Publisher>,
    stopped: bool,
    buffer: Vec<u8>,
}

struct Publisher {
    socket: TcpStream,
    line: Vec<u8>,
    answers: Answers,
    sent: u64,
    /// What the socket has not taken yet.
    out: Vec<u8>,
}

impl Crowd {
    fn connect(plan: &Publishing, server: &Server, dialect: Dialect) -> Result<Crowd> {
        use epoll::EventFlags as Flags;
        let address = server.address();
        dialect.prepare(address)?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let payloads = stream::payloads(plan.publishers, PAYLOAD_BYTES);
        let mut publishers = Vec::with_capacity(plan.publishers);
        for (number, payload) in payloads.iter().enumerate() {
            let socket = dialect.connect(address, number)?;
            socket.set_nonblocking(true)?;
            let data = epoll::EventData::new_u64(number as u64);
            epoll::add(&epoll, &socket, data, Flags::IN | Flags::OUT | Flags::ET)?;
            publishers.push(Publisher {
                socket,
                line: dialect.line(number, payload),
                answers: Answers::default(),
                sent: 0,
                out: Vec::new(),
            });
        }
        Ok(Crowd {
            epoll,
            dialect,
            in_flight: plan.in_flight,
            publishers,
            stopped: false,
            buffer: vec![0; READ_BYTES],
        })
    }

    /// Lines acknowledged to all.
    fn acknowledged(&self) -> u64 {
        let publishers = self.publishers.iter();
        publishers.map(|one| one.answers.acknowledged).sum()
    }

    /// Waits for something to happen, reads, and sends what may be sent.
    fn turn(&mut self) -> Result<()> {
        let mut events: Vec<epoll::Event> = Vec::with_capacity(EVENTS_PER_WAIT);
        let timeout = Timespec::try_from(TICK)?;
        match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in events {
            let publisher = &mut self.publishers[event.data.u64() as usize];
            publisher.hear(self.dialect, &mut self.buffer)?;
            if !self.stopped {
                publisher.make_lines(self.in_flight);
            }
            publisher.write()?;
        }
        Ok(())
    }
}

impl Publisher {
    fn outstanding(&self) -> u64 {
        self.sent - self.answers.acknowledged
    }

    /// Reads all there is.
    fn hear(&mut self, dialect: Dialect, buffer: &mut [u8]) -> Result<()> {
        loop {
            match self.socket.read(buffer) {
                Ok(0) => bail!("the server closed a publisher's connection"),
                Ok(count) => dialect.hear(&mut self.answers, &buffer[..count])?,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        let (acknowledged, sent) = (self.answers.acknowledged, self.sent);
        ensure!(
            acknowledged <= sent,
            "{acknowledged} lines acknowledged, {sent} sent"
        );
        Ok(())
    }

    fn make_lines(&mut self, in_flight: u64) {
        self.out.append(&mut self.answers.reply);
        for _ in self.outstanding()..in_flight {
            self.out.extend_from_slice(&self.line);
            self.sent += 1;
        }
    }

    /// Writes what the socket takes.
    fn write(&mut self) -> Result<()> {
        while !self.out.is_empty() {
            match self.socket.write(&self.out) {
                Ok(count) => drop(self.out.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}
