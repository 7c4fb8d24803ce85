//! `--session`: from the first attempt to connect to the acknowledgement of the last line.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use tokio::select;
use tokio::time::sleep;
use zeroize::Zeroizing;

use super::backlog::{Backlog, Mismatch};
use super::backoff::Backoff;
use super::close_notice::{CloseNotice, Reason};
use super::dial::Connection;
use super::events::{Event, EventLines};
use super::output::Output;
use super::plan::Plan;
use super::session::{ANSWER_PATIENCE, FAILED};
use super::watched::Input;
use crate::wire::session::SessionName;

/// How much one read takes: acknowledgements are short.
const READ_BYTES: usize = 16 * 1024;

const NO_ANSWER: &str = "the server has not answered the hello: --session needs a listener with `hello`, \
                         and others may have got it as a line; no more was sent";

/// State that outlives a connection.
#[derive(Debug)]
pub(super) struct Publisher {
    plan: Plan,
    name: SessionName,
    input: Input,
    backlog: Backlog,
    output: Output,
    /// Whether a hello was ever answered.
    known: bool,
}

/// State of one connection.
#[derive(Debug)]
struct Link {
    connection: Connection,
    /// What is still to be sent of the hello.
    hello: Zeroizing<Vec<u8>>,
    lines: EventLines,
    notice: CloseNotice,
    /// Whether the hello was answered, with the lines that the session has.
    answered: bool,
    since: Instant,
}

/// How a connection ended that was no failure of the command.
#[derive(Debug)]
enum Ended {
    /// All lines are acknowledged.
    Done,
    /// It is gone, for this reason: another one may help.
    Gone(String),
}

impl Publisher {
    pub(super) fn new(plan: Plan, name: SessionName, input: Input, output: Output) -> Publisher {
        Publisher {
            plan,
            name,
            input,
            backlog: Backlog::new(),
            output,
            known: false,
        }
    }

    /// Runs to the end of the command.
    pub(super) async fn run(mut self) -> ExitCode {
        let ended = self.serve().await;
        let taken = match self.backlog.taken() {
            1 => "1 line".to_owned(),
            lines => format!("{lines} lines"),
        };
        let taken = format!("the server has {taken} of session {}", self.name);
        match ended {
            Ok(()) => {
                self.output.say(&format!("linehub: {taken}: all"));
                ExitCode::SUCCESS
            }
            Err(why) => {
                let taken = match self.known {
                    true => format!("; {taken}"),
                    false => String::new(),
                };
                self.output.fail(&format!("{why}{taken}"));
                ExitCode::from(FAILED)
            }
        }
    }

    async fn serve(&mut self) -> Result<(), String> {
        let mut backoff = Backoff::new();
        let (address, tls) = (self.plan.address.clone(), self.plan.tls.clone());
        loop {
            let (mut lasted, mut goes_on) = (Duration::ZERO, String::new());
            let dial = Connection::dial(&address, tls.as_ref());
            match self.meanwhile(dial).await? {
                Err(error) => {
                    let why = format!("cannot connect to {address}: {error}");
                    // Another certificate does not come soon, and somebody has to look at it.
                    if !self.plan.retry || error.kind() == io::ErrorKind::InvalidData {
                        return Err(why);
                    }
                    goes_on = why + "; ";
                }
                Ok(connection) => {
                    let since = Instant::now();
                    match self.connected(connection).await? {
                        Ended::Done => return Ok(()),
                        Ended::Gone(why) if !self.plan.retry => return Err(why),
                        Ended::Gone(why) => self.output.say(&format!("linehub: {why}")),
                    }
                    lasted = since.elapsed();
                }
            }
            let pause = backoff.pause(lasted);
            goes_on += &format!("trying again in {:.1} s", pause.as_secs_f32());
            self.output.go_on(&format!("linehub: {goes_on}"));
            self.meanwhile(sleep(pause)).await?;
        }
    }

    /// Waits for something else, and meanwhile reads the input.
    async fn meanwhile<T>(&mut self, other: impl Future<Output = T>) -> Result<T, String> {
        let mut other = pin!(other);
        loop {
            select! {
                done = &mut other => return Ok(done),
                filled = self.fill() => filled?,
            }
        }
    }

    /// Takes one read of the input, or waits for ever where there is no room or no more of it. Cancel safe.
    async fn fill(&mut self) -> Result<(), String> {
        if self.backlog.is_full() {
            return std::future::pending().await;
        }
        let read = self.input.read(self.backlog.room()).await;
        let fit = match read.map_err(|error| format!("cannot read standard input: {error}"))? {
            0 => {
                self.input = Input::Ended(Instant::now());
                self.backlog.finish()
            }
            bytes => self.backlog.filled(bytes),
        };
        fit.map_err(|mismatch| mismatch.to_string())
    }

    fn has_input_ended(&self) -> bool {
        matches!(self.input, Input::Ended(_))
    }

    /// Serves one connection, to its end or that of the command.
    async fn connected(&mut self, connection: Connection) -> Result<Ended, String> {
        self.output
            .say_connected(&self.plan.address, connection.peer());
        let mut link = Link {
            connection,
            hello: self.plan.hello(""),
            lines: EventLines::default(),
            notice: CloseNotice::default(),
            answered: false,
            since: Instant::now(),
        };
        let ended = self.exchange(&mut link).await?;
        self.output.say("Server connection closed");
        let ended = match ended {
            Ok(Ended::Done) => return Ok(Ended::Done),
            Ok(Ended::Gone(why)) => why,
            Err(error) => format!("the connection is lost: {error}"),
        };
        let Some(reason) = link.notice.reason() else {
            return Ok(Ended::Gone(ended));
        };
        let why = format!("the server closed the connection: {}", reason.detail);
        // Sent again, the same line or hello would be refused again; and who took the session over is not
        // to lose it again, so that the two do not take it from each other for ever.
        let is_final =
            |reason: &Reason| reason.refuses_hello() || reason.is_final() || reason.is_taken_over();
        match is_final(&reason) {
            true => Err(why),
            false => Ok(Ended::Gone(why)),
        }
    }

    /// Sends and receives until all is acknowledged, or the connection is gone.
    async fn exchange(&mut self, link: &mut Link) -> Result<io::Result<Ended>, String> {
        let mut received = Vec::new();
        let mut lost = None;
        loop {
            if link.answered && self.has_input_ended() && self.backlog.is_empty() {
                link.connection.shut();
                return Ok(Ok(Ended::Done));
            }
            received.reserve(READ_BYTES);
            let has_hello = !link.hello.is_empty();
            let sends = has_hello || link.answered && !self.backlog.pending().is_empty();
            let patience = ANSWER_PATIENCE.saturating_sub(link.since.elapsed());
            select! {
                read = link.connection.receive(&mut received) => match read {
                    Ok(0) => return Ok(lost.map_or_else(|| Ok(Ended::closed(link)), Err)),
                    Ok(_) => {
                        link.notice.note(&received);
                        self.take(link, &received)?;
                        received.clear();
                    }
                    Err(error) => return Ok(Err(lost.unwrap_or(error))),
                },
                ready = link.connection.writable(), if sends && lost.is_none() => {
                    let pending = match has_hello {
                        true => &link.hello[..],
                        false => self.backlog.pending(),
                    };
                    match ready.and_then(|()| link.connection.send(pending)) {
                        Ok(sent) if has_hello => drop(link.hello.drain(..sent)),
                        Ok(sent) => self.backlog.sent(sent),
                        // What the server said before can still be read.
                        Err(error) => {
                            link.connection.abandon();
                            lost = Some(error);
                        }
                    }
                }
                filled = self.fill() => filled?,
                () = sleep(patience), if !link.answered => {
                    // Who answered once will again, unless it hangs.
                    if !self.known {
                        return Err(NO_ANSWER.to_owned());
                    }
                    let error = io::Error::new(io::ErrorKind::TimedOut, "no answer to the hello");
                    return Ok(Err(error));
                }
            }
        }
    }

    /// Takes what one read brought.
    fn take(&mut self, link: &mut Link, received: &[u8]) -> Result<(), String> {
        let mut lines = std::mem::take(&mut link.lines);
        let taken = lines.take(received, |line| self.take_event(link, line));
        link.lines = lines;
        taken
    }

    fn take_event(&mut self, link: &mut Link, line: &[u8]) -> Result<(), String> {
        let fit: Result<(), Mismatch> = match Event::read(line) {
            Some(Event::End) => Ok(()),
            Some(Event::Hello(answer)) if !link.answered => {
                let Some(taken) = answer.taken else {
                    return Err("the server says nothing of the session in its answer".to_owned());
                };
                link.answered = true;
                self.known = true;
                self.backlog.go_on(taken, self.has_input_ended())
            }
            _ if !link.answered => return Err(NO_ANSWER.to_owned()),
            Some(Event::Ack { taken }) => self.backlog.acknowledged(taken),
            // Messages, where the hello asked for another role.
            Some(_) => Ok(()),
            None => {
                return Err("the server sent a line that is no event of the format json".to_owned());
            }
        };
        fit.map_err(|mismatch| mismatch.to_string())
    }
}

impl Ended {
    /// The server closed without an error of the connection.
    fn closed(link: &Link) -> Ended {
        let why = match link.notice.is_shutdown() {
            true => "the server closed the connection: it is shutting down",
            false => "the server closed the connection",
        };
        Ended::Gone(why.to_owned())
    }
}
