//! From the first attempt to connect to the end of the command.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use tokio::select;
use tokio::time::sleep;
use zeroize::Zeroizing;

use super::backoff::Backoff;
use super::close_notice::{CloseNotice, Reason};
use super::dial::Connection;
use super::eot::EotGuard;
use super::outbox::Outbox;
use super::output::Output;
use super::plan::{Finish, Plan};
use super::resume::{Resume, Told};
use super::state::StateError;
use super::watched::Input;

/// Exit code: no connection could be made, or it ended before all was done.
pub(super) const FAILED: u8 = 1;

/// How much one read takes: what a fast stream brings while the last batch is written.
const READ_BYTES: usize = 256 * 1024;

/// Interval of looking at what the server's machine has acknowledged, which nothing tells, while that is
/// waited for: when all is sent and the command is to end, or no more fits into the outbox.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// How long a server that has everything may take to close. One that reads on after the end of input
/// (`--half-close keep`) never does, and one that closes tells by it that it has read all.
const CLOSE_GRACE: Duration = Duration::from_secs(2);

/// [`CLOSE_GRACE`] where a person waits, who has typed little.
const CLOSE_GRACE_OF_A_PERSON: Duration = Duration::from_millis(200);

/// How long a person who leaves waits for the last lines to be taken.
const LEAVE_PATIENCE: Duration = Duration::from_secs(2);

/// How long a server whose machine has everything, and which has not sent anything, may take to show
/// that it is there. One that makes senders wait may need a while.
pub(super) const ANSWER_PATIENCE: Duration = Duration::from_secs(10);

const NO_ANSWER: &str = "the server has not answered the hello: its listener takes none, and others \
                         may have got it as a line; no more was sent";

/// Why the command ends.
#[derive(Debug)]
enum Stop {
    /// All is done, or nobody wants more of it.
    Done,
    /// Something is not done, for this reason.
    Failed(String),
}

/// The state that outlives a connection.
#[derive(Debug)]
pub(super) struct Session {
    plan: Plan,
    input: Input,
    outbox: Outbox,
    output: Output,
    resume: Option<Resume>,
    /// Room for what is to be printed of a read.
    shown: Vec<u8>,
}

/// The state of one connection.
#[derive(Debug)]
struct Link {
    connection: Connection,
    /// What is still to be sent of the hello. It is no part of the input, so not of the outbox either,
    /// which counts and keeps that.
    hello: Zeroizing<Vec<u8>>,
    notice: CloseNotice,
    guard: EotGuard,
    /// Whether it was said that the hello was not taken as one.
    warned: bool,
    since: Instant,
}

impl Session {
    pub(super) fn new(plan: Plan, input: Input, output: Output, resume: Option<Resume>) -> Session {
        Session {
            outbox: Outbox::new(plan.retry),
            plan,
            input,
            output,
            resume,
            shown: Vec::new(),
        }
    }

    /// Runs to the end of the command.
    pub(super) async fn run(mut self) -> ExitCode {
        let Err(stop) = self.serve().await;
        self.output.end_prompt();
        // There is nobody to tell if it cannot be written.
        let _ = self.output.flush().await;
        match stop {
            Stop::Done => ExitCode::SUCCESS,
            Stop::Failed(why) => {
                self.output.fail(&why);
                ExitCode::from(FAILED)
            }
        }
    }

    async fn serve(&mut self) -> Result<Infallible, Stop> {
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
                        return Err(Stop::Failed(why));
                    }
                    goes_on = why + "; ";
                }
                Ok(connection) => {
                    let since = Instant::now();
                    let why = self.connected(connection).await?;
                    self.output.say(&format!("linehub: {why}"));
                    lasted = since.elapsed();
                }
            }
            let pause = backoff.pause(lasted);
            goes_on += &format!("trying again in {:.1} s", pause.as_secs_f32());
            self.output.go_on(&format!("linehub: {goes_on}"));
            self.meanwhile(sleep(pause)).await?;
        }
    }

    /// Waits for something else, and meanwhile does what there is to do without a connection.
    async fn meanwhile<T>(&mut self, other: impl Future<Output = T>) -> Result<T, Stop> {
        let mut other = pin!(other);
        loop {
            if matches!(self.input, Input::Ended(_)) && self.plan.finish == Finish::Left {
                return Err(self.leave());
            }
            self.output.stop_if_asked().await.map_err(no_output)?;
            select! {
                done = &mut other => return Ok(done),
                happened = self.happen() => happened?,
            }
        }
    }

    /// Waits for input, of which it takes one read, or for what is to be done for the output. Cancel
    /// safe.
    async fn happen(&mut self) -> Result<(), Stop> {
        let has_room = !self.outbox.is_full();
        let room = self.outbox.room();
        let read = select! {
            happened = self.output.happen() => return happened.map_err(no_output),
            read = self.input.read(room), if has_room => read,
        };
        let read = read.map_err(|e| Stop::Failed(format!("cannot read standard input: {e}")))?;
        let mut ended = read == 0;
        if self.output.takes_keys() {
            let keys = room[..read].to_vec();
            let (lines, left) = self.output.press(&keys);
            self.outbox.push(lines.as_bytes());
            ended |= left;
        } else {
            self.outbox.filled(read);
        }
        if ended {
            self.output.end_prompt();
            self.input = Input::Ended(Instant::now());
        }
        Ok(())
    }

    /// Serves one connection, to its end or that of the command. Returns why it ended when there is
    /// to be another one.
    async fn connected(&mut self, connection: Connection) -> Result<String, Stop> {
        self.output
            .say_connected(&self.plan.address, connection.peer());
        let place = self.resume.as_mut().map(Resume::connect);
        let mut link = Link {
            connection,
            hello: self.plan.hello(&place.unwrap_or_default()),
            notice: CloseNotice::default(),
            guard: EotGuard::default(),
            warned: false,
            since: Instant::now(),
        };
        let ended = self.exchange(&mut link).await?;
        let unacknowledged = link.connection.unacknowledged();
        self.output.end_line();
        self.output.flush().await.map_err(no_output)?;
        self.output.say("Server connection closed");

        let has_all = self.has_sent_all(&link) && unacknowledged == 0;
        let sent_all = link.connection.is_shut() && has_all;
        let asked_to_leave = link.guard.holds() && unacknowledged == 0;
        let (reason, is_shutdown) = (link.notice.reason(), link.notice.is_shutdown());
        // Lines that come while a server stops may be read no more; those that came long before were.
        let is_late = is_shutdown && link.connection.settled_for() < Some(CLOSE_GRACE);
        let has_hello = !self.plan.hello.is_empty();
        let is_before_hello = has_hello && link.notice.is_shutdown_at_once();
        let is_late = is_late || is_before_hello;
        if sent_all && ended.is_ok() && reason.is_none() && !is_late {
            return Err(Stop::Done);
        }
        const CLOSED: &str = "the server closed the connection";
        let why = match (ended, &reason) {
            (_, Some(reason)) if reason.refuses_hello() && !has_hello => {
                let detail = &reason.detail;
                format!("{CLOSED}: {detail}; --channel NAME or --hello KEYS says it")
            }
            (_, Some(reason)) => format!("{CLOSED}: {}", reason.detail),
            (Err(error), None) if has_hello && link.notice.is_empty() => format!(
                "the connection is lost: {error}; a raw listener that refuses a hello says no more"
            ),
            (Err(error), None) => format!("the connection is lost: {error}"),
            (Ok(()), None) if is_shutdown => format!("{CLOSED}: it is shutting down"),
            (Ok(()), None) if asked_to_leave => format!(
                "{CLOSED}: it took Ctrl-D on a line of its own, or IAC EOF, as a wish to leave; what \
                 follows was not sent"
            ),
            (Ok(()), None) => CLOSED.to_owned(),
        };
        let is = |what: fn(&Reason) -> bool| reason.as_ref().is_some_and(what);
        let is_refusal = is(Reason::is_refusal) || is_before_hello;
        // Sent again, a line would be refused again, and a hello too; or none is left that could be, and
        // whether the last was taken is unknown.
        let sends = !matches!(self.input, Input::Absent);
        let is_final = is(Reason::refuses_hello) || sends && is(Reason::is_final);
        if !self.plan.retry || is_final || sent_all && !is_refusal {
            return Err(Stop::Failed(why));
        }
        if asked_to_leave {
            self.outbox.forget_sent();
        }
        let rewound = match is_refusal {
            true => self.outbox.rewind_all(),
            false => self.outbox.rewind(unacknowledged),
        };
        match rewound {
            Ok(()) => Ok(why),
            Err(lost) => Err(Stop::Failed(format!("{why}; {lost}"))),
        }
    }

    /// Sends and receives until the server has ended the connection, or it is lost.
    async fn exchange(&mut self, link: &mut Link) -> Result<io::Result<()>, Stop> {
        let mut received = Vec::new();
        let mut lost = None;
        loop {
            let looks = self.look(link)?;
            self.output.stop_if_asked().await.map_err(no_output)?;
            received.reserve(READ_BYTES);
            let awaits = self.awaits_answer(link);
            let sends =
                !self.has_sent_all(link) && !link.guard.holds() && lost.is_none() && !awaits;
            select! {
                read = link.connection.receive(&mut received), if self.output.is_ready() => match read {
                    Ok(0) => return Ok(lost.map_or(Ok(()), Err)),
                    Ok(_) => {
                        link.notice.note(&received);
                        self.show(&mut received).await?;
                        self.look_for_answer(link)?;
                    }
                    Err(error) => return Ok(Err(lost.unwrap_or(error))),
                },
                ready = link.connection.writable(), if sends => {
                    let says_hello = !link.hello.is_empty();
                    let sendable = match says_hello {
                        true => &link.hello[..],
                        false => link.guard.sendable(self.outbox.pending()),
                    };
                    match ready.and_then(|()| link.connection.send(sendable)) {
                        Ok(sent) if says_hello => drop(link.hello.drain(..sent)),
                        Ok(sent) => {
                            self.outbox.taken(sent);
                            if let Some(resume) = &mut self.resume {
                                resume.note_sent();
                            }
                            link.guard.sent(sent);
                        }
                        Err(error) => {
                            link.connection.abandon();
                            lost = Some(error);
                        }
                    }
                }
                happened = self.happen() => happened?,
                () = sleep(ANSWER_PATIENCE.saturating_sub(link.since.elapsed())), if awaits => {
                    // Who answered once will again, unless it hangs.
                    if !self.resume.as_ref().is_some_and(Resume::is_known) {
                        return Err(Stop::Failed(NO_ANSWER.to_owned()));
                    }
                    link.connection.abandon();
                    return Ok(Err(io::Error::new(io::ErrorKind::TimedOut, "no answer to the hello")));
                }
                () = sleep(LOOK_INTERVAL), if looks => {}
            }
        }
    }

    /// Whether the socket has taken the hello and all of the input so far.
    fn has_sent_all(&self, link: &Link) -> bool {
        link.hello.is_empty() && self.outbox.pending().is_empty()
    }

    /// Whether the hello is sent, and the answer that the input waits for has not come yet.
    fn awaits_answer(&self, link: &Link) -> bool {
        let is_answered = match &self.resume {
            Some(resume) => resume.is_answered(),
            None => link.notice.has_first_line(),
        };
        self.plan.awaits_answer && link.hello.is_empty() && !is_answered
    }

    /// Gives to the output what a read brought, and says what is missed.
    async fn show(&mut self, received: &mut Vec<u8>) -> Result<(), Stop> {
        let Some(resume) = &mut self.resume else {
            self.output.take(received);
            return Ok(());
        };
        let taken = resume.take(received, &mut self.shown);
        received.clear();
        for told in taken.iter().flatten() {
            match told {
                // Before any line that comes behind it.
                Told::Answered(place) => {
                    self.output.reach(resume.channel(), *place);
                    self.output.flush().await.map_err(no_output)?;
                }
                Told::Gone => self.output.warn(
                    "linehub: the server does not have all that was missed: what comes next is not what \
                     came next",
                ),
                Told::Skipped(count) => {
                    self.output.warn(&format!("linehub: {count} messages are missed"));
                }
            }
        }
        self.output.take(&mut self.shown);
        if let Some(place) = resume.place() {
            self.output.reach(resume.channel(), place);
        }
        taken.map_err(|unfit| Stop::Failed(unfit.to_string()))?;
        Ok(())
    }

    /// Says once if a listener answers a hello with what it has for all: others got it as a line.
    fn look_for_answer(&mut self, link: &mut Link) -> Result<(), Stop> {
        if self.plan.hello.is_empty() || link.warned || !link.notice.is_about_others() {
            return Ok(());
        }
        link.warned = true;
        if self.plan.finish == Finish::Taken {
            return Err(Stop::Failed(NO_ANSWER.to_owned()));
        }
        self.output.say(
            "linehub: the server has not answered the hello: its listener takes none, and others got it \
             as a line",
        );
        Ok(())
    }

    /// Does what follows from how far everything is: tells the server the end, makes room, or ends the
    /// command. Says whether this is to be looked at again before anything happens.
    fn look(&mut self, link: &mut Link) -> Result<bool, Stop> {
        let sent_all = self.has_sent_all(link);
        let connection = &mut link.connection;
        if sent_all && matches!(self.input, Input::Ended(_)) && !connection.is_shut() {
            connection.shut();
        }
        // Lines are held as long as there is room: a server that refuses has acknowledged some by then.
        if self.outbox.is_full() {
            self.outbox.acknowledged_but(connection.unacknowledged());
        }
        if link.guard.holds() && connection.unacknowledged() == 0 {
            link.guard.arrived(link.notice.is_text());
        }
        let waits = link.guard.holds() || sent_all && self.outbox.is_full();
        let Input::Ended(since) = self.input else {
            return Ok(waits);
        };
        let settled = connection.settled_for();
        let is_person = self.plan.finish == Finish::Left;
        let grace = match self.plan.finish {
            Finish::Closed => return Ok(waits || settled.is_none()),
            Finish::Taken => CLOSE_GRACE,
            Finish::Left => CLOSE_GRACE_OF_A_PERSON,
        };
        // A server that sent something has accepted the connection. One that did not may be no more
        // than a queue of its kernel.
        let is_served = connection.peer().is_none() || !link.notice.is_empty() || is_person;
        if settled >= Some(grace) && is_served {
            return Err(Stop::Done);
        }
        if settled >= Some(ANSWER_PATIENCE) {
            let why = "the server does not answer: whether it took the lines is not known";
            return Err(Stop::Failed(why.to_owned()));
        }
        if is_person && since.elapsed() >= LEAVE_PATIENCE {
            // The rest of a line that is cut is pending too.
            let _ = self.outbox.rewind(connection.unacknowledged());
            return Err(self.leave());
        }
        Ok(true)
    }

    /// A person leaves, whatever is still to be sent.
    fn leave(&self) -> Stop {
        match self.outbox.pending_lines() {
            0 => Stop::Done,
            1 => Stop::Failed("1 line was not sent".to_owned()),
            lines => Stop::Failed(format!("{lines} lines were not sent")),
        }
    }
}

/// Outcome of the command when standard output cannot be written.
fn no_output(error: io::Error) -> Stop {
    match error.kind() {
        _ if error.get_ref().is_some_and(|why| why.is::<StateError>()) => {
            Stop::Failed(error.to_string())
        }
        // Nobody reads it any more.
        io::ErrorKind::BrokenPipe => Stop::Done,
        _ => Stop::Failed(format!("cannot write to standard output: {error}")),
    }
}
