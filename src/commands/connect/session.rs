//! From the first attempt to connect to the end of the command.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use tokio::select;
use tokio::time::sleep;

use super::backoff::Backoff;
use super::close_notice::{self, CloseNotice};
use super::dial::Connection;
use super::eot::EotGuard;
use super::outbox::Outbox;
use super::output::Output;
use super::prompt::Done;
use super::watched::Input;
use super::{CLOSE_GRACE, FAILED};
use crate::config::Address;

/// How much one read takes: what a fast stream brings while the last batch is written.
const READ_BYTES: usize = 256 * 1024;

/// Nothing tells when the server's machine acknowledges, so that is looked at this often where it is
/// waited for: when all is sent and the command is to end, or no more fits into the outbox.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// How long a server whose machine has everything, and which has not sent anything, may take to show
/// that it is there. One that makes senders wait may need a while.
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);

/// What the command is to do.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) address: Address,
    /// Whether to connect again when the connection could not be made or is gone.
    pub(super) retry: bool,
    pub(super) finish: Finish,
}

/// What happens after the input has ended and all of it is sent.
#[derive(Clone, Copy, Debug)]
pub(super) enum Finish {
    /// What comes in goes out until the server closes.
    Read,
    /// The command ends when the server closes, which says that it has read everything. One that does
    /// not is given this long after its machine acknowledged everything.
    Leave {
        grace: Duration,
        /// The command ends this long after the input did in any case, and at once if there is no
        /// connection.
        patience: Option<Duration>,
    },
}

/// Why the command ends.
#[derive(Debug)]
enum Stop {
    /// All is done, or nobody wants more of it.
    Done,
    /// It is not, and this is why.
    Failed(String),
}

/// The state that outlives a connection.
#[derive(Debug)]
pub(super) struct Session {
    plan: Plan,
    input: Input,
    outbox: Outbox,
    output: Output,
}

impl Session {
    pub(super) fn new(plan: Plan, input: Input, output: Output) -> Session {
        Session {
            outbox: Outbox::new(plan.retry),
            plan,
            input,
            output,
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
        loop {
            let mut lasted = Duration::ZERO;
            let address = self.plan.address.clone();
            let dialled = self.meanwhile(Connection::dial(&address)).await?;
            let why = match dialled {
                Err(error) => {
                    let why = format!("cannot connect to {address}: {error}");
                    self.retry_or_stop(why)? + "; "
                }
                Ok(connection) => {
                    let peer = connection
                        .peer()
                        .filter(|peer| *peer != address.to_string());
                    let peer = peer.map_or(String::new(), |peer| format!(" ({peer})"));
                    self.output
                        .say(&format!("Connect to server success: {address}{peer}"));
                    let since = Instant::now();
                    let why = self.connected(connection).await?;
                    self.output.print_error(&why);
                    lasted = since.elapsed();
                    String::new()
                }
            };
            let pause = backoff.pause(lasted);
            let seconds = pause.as_secs_f32();
            self.output
                .go_on(&format!("{why}trying again in {seconds:.1} s"));
            self.meanwhile(sleep(pause)).await?;
        }
    }

    fn retry_or_stop(&self, why: String) -> Result<String, Stop> {
        if self.plan.retry {
            Ok(why)
        } else {
            Err(Stop::Failed(why))
        }
    }

    /// Waits for something else, and meanwhile does what there is to do without a connection.
    async fn meanwhile<T>(&mut self, other: impl Future<Output = T>) -> Result<T, Stop> {
        let mut other = pin!(other);
        loop {
            self.check_left_without_connection()?;
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
        let reads = self.input.is_open() && !self.outbox.is_full();
        let room = self.outbox.room();
        let read = select! {
            happened = self.output.happen() => return happened.map_err(no_output),
            read = self.input.read(room), if reads => read,
        };
        let read = read.map_err(|e| Stop::Failed(format!("cannot read standard input: {e}")))?;
        let mut ended = read == 0;
        if self.output.takes_keys() {
            let keys = room[..read].to_vec();
            for done in self.output.press(&keys) {
                match done {
                    Done::Line(line) => self.outbox.push(format!("{line}\n").as_bytes()),
                    Done::Left => ended = true,
                }
            }
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
    async fn connected(&mut self, mut connection: Connection) -> Result<String, Stop> {
        let mut notice = CloseNotice::default();
        let mut guard = EotGuard::default();
        let ended = self
            .exchange(&mut connection, &mut notice, &mut guard)
            .await?;
        let unacknowledged = connection.unacknowledged();
        self.output.end_line();
        self.output.flush().await.map_err(no_output)?;
        self.output.say("Server connection closed");

        let has_all = self.outbox.pending().is_empty() && unacknowledged == 0;
        let asked_to_leave = guard.holds() && unacknowledged == 0;
        let reason = notice.reason();
        let why = match (&ended, &reason) {
            (_, Some(reason)) => format!("the server closed the connection: {reason}"),
            (Err(error), None) => format!("the connection is lost: {error}"),
            (Ok(()), None) if notice.is_shutdown() => {
                "the server closed the connection: it is shutting down".to_owned()
            }
            (Ok(()), None) if asked_to_leave => {
                "the server took Ctrl-D on a line of its own, or IAC EOF, as a wish to leave: what \
                 follows was not sent"
                    .to_owned()
            }
            (Ok(()), None) => "the server closed the connection".to_owned(),
        };
        // What comes while the server stops may be read no more; what came long before was.
        let is_late = connection.settled_for() < Some(CLOSE_GRACE) && notice.is_shutdown();
        let sent_all = connection.is_shut() && has_all;
        if sent_all && ended.is_ok() && reason.is_none() && !is_late {
            return Err(Stop::Done);
        }
        let is_final = reason.as_deref().is_some_and(close_notice::is_final);
        let is_refusal = reason.as_deref().is_some_and(close_notice::is_refusal);
        // Sent again, a line would be refused again; or none is left that could be, and whether the
        // last was taken is unknown.
        let sends = !matches!(self.input, Input::Absent);
        if sends && is_final || sent_all && !is_refusal {
            return Err(Stop::Failed(why));
        }
        let why = self.retry_or_stop(why)?;
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
    async fn exchange(
        &mut self,
        connection: &mut Connection,
        notice: &mut CloseNotice,
        guard: &mut EotGuard,
    ) -> Result<io::Result<()>, Stop> {
        let mut received = Vec::new();
        let mut lost = None;
        loop {
            let sent_all = self.outbox.pending().is_empty();
            if sent_all && matches!(self.input, Input::Ended(_)) && !connection.is_shut() {
                connection.shut();
            }
            // Held as long as there is room: a server that refuses has acknowledged lines by then.
            if self.outbox.is_full() {
                self.outbox.acknowledged_but(connection.unacknowledged());
            }
            let leaves = self.check_left(connection, notice)?;
            let holds = check_held(connection, notice, guard);
            let looks = leaves || holds || sent_all && self.outbox.is_full();
            self.output.stop_if_asked().await.map_err(no_output)?;
            received.reserve(READ_BYTES);
            select! {
                read = connection.receive(&mut received), if self.output.is_ready() => match read {
                    Ok(0) => return Ok(lost.map_or(Ok(()), Err)),
                    Ok(_) => {
                        notice.note(&received);
                        self.output.take(&mut received);
                    }
                    Err(error) => return Ok(Err(lost.unwrap_or(error))),
                },
                ready = connection.writable(), if !sent_all && !holds && lost.is_none() => {
                    let sendable = guard.sendable(self.outbox.pending());
                    match ready.and_then(|()| connection.send(sendable)) {
                        Ok(sent) => {
                            self.outbox.taken(sent);
                            guard.sent(sent);
                        }
                        Err(error) => {
                            connection.abandon();
                            lost = Some(error);
                        }
                    }
                }
                happened = self.happen() => happened?,
                () = sleep(LOOK_INTERVAL), if looks => {}
            }
        }
    }

    /// Ends the command when the input has ended and the server has it all, or nobody waits for that
    /// any longer. Says whether this is to be looked at again.
    fn check_left(
        &mut self,
        connection: &mut Connection,
        notice: &CloseNotice,
    ) -> Result<bool, Stop> {
        let Input::Ended(since) = self.input else {
            return Ok(false);
        };
        let settled = connection.settled_for();
        let Finish::Leave { grace, patience } = self.plan.finish else {
            return Ok(settled.is_none());
        };
        // A server that sent something has accepted the connection. One that did not may be no more
        // than a queue of its kernel.
        let is_served = connection.is_unix() || !notice.is_empty() || patience.is_some();
        if settled >= Some(grace) && is_served {
            return Err(Stop::Done);
        }
        if settled >= Some(ANSWER_PATIENCE) {
            let why = "the server does not answer: whether it took the lines is not known";
            return Err(Stop::Failed(why.to_owned()));
        }
        if patience.is_some_and(|patience| since.elapsed() >= patience) {
            // What is cut is pending too.
            let _ = self.outbox.rewind(connection.unacknowledged());
            return Err(self.leave());
        }
        Ok(true)
    }

    /// Ends the command when a person leaves while there is no connection.
    fn check_left_without_connection(&self) -> Result<(), Stop> {
        let is_person =
            matches!(self.plan.finish, Finish::Leave { patience, .. } if patience.is_some());
        match self.input {
            Input::Ended(_) if is_person => Err(self.leave()),
            _ => Ok(()),
        }
    }

    fn leave(&self) -> Stop {
        match self.outbox.pending_lines() {
            0 => Stop::Done,
            1 => Stop::Failed("1 line was not sent".to_owned()),
            lines => Stop::Failed(format!("{lines} lines were not sent")),
        }
    }
}

/// Whether what is pending is held back, because what was sent may have asked the server to close. Only
/// `text` is asked by that. Where it is not known, a server that has not closed for longer than senders
/// wait as a rule is taken for another.
fn check_held(connection: &Connection, notice: &CloseNotice, guard: &mut EotGuard) -> bool {
    if guard.holds() && connection.unacknowledged() == 0 {
        let arrived = *guard.arrived.get_or_insert_with(Instant::now);
        let stays = match notice.is_text() {
            None => arrived.elapsed() >= CLOSE_GRACE,
            Some(is_text) => !is_text,
        };
        if stays {
            guard.lift();
        }
    }
    guard.holds()
}

/// What it means that standard output cannot be written.
fn no_output(error: io::Error) -> Stop {
    match error.kind() {
        // Nobody reads it any more.
        io::ErrorKind::BrokenPipe => Stop::Done,
        _ => Stop::Failed(format!("cannot write to standard output: {error}")),
    }
}
