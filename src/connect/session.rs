//! From the first attempt to connect to the end of the command.
//!
//! One thread waits for all that can happen and sends; connecting and receiving, which block, are
//! [tasks](Task) whose end it waits for too.

use std::convert::Infallible;
use std::io;
use std::mem;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{SendFlags, Shutdown};
use socket2::Socket;

use super::backoff::Backoff;
use super::dial::{dial, unacknowledged};
use super::outbox::Outbox;
use super::output::Output;
use super::receive::{self, Ending, Received, receive};
use super::status::Status;
use super::task::Task;
use super::wait::Wanted;
use crate::config::Address;

/// Nothing tells when the server's machine acknowledges, so that is looked at this often where it is
/// waited for: when all is sent and the command is to end, or no more fits into the outbox.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// What the command is to do.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) address: Address,
    /// Whether to connect again when the connection could not be made or is gone.
    pub(super) retry: bool,
    /// Whether what comes in goes to standard output; when nobody reads that, the command ends.
    pub(super) prints: bool,
    pub(super) finish: Finish,
}

/// What happens after the input has ended and all of it is sent.
#[derive(Clone, Copy, Debug)]
pub(super) enum Finish {
    /// What comes in goes out until the server closes.
    Read,
    /// The command ends when the server closes, which says that it has read everything, or this long
    /// after its machine acknowledged everything.
    Leave {
        grace: Duration,
        /// The command ends this long after the input did in any case, and at once if there is no
        /// connection.
        patience: Option<Duration>,
    },
}

/// Where lines to send come from.
#[derive(Debug)]
pub(super) enum Input {
    /// There is none, and there never ends one.
    Absent,
    Open(OwnedFd),
    Ended(Instant),
}

/// Why the command ends.
#[derive(Debug)]
pub(super) enum Stop {
    /// All is done, or nobody wants more of it.
    Done,
    /// It is not, and this is why.
    Failed(String),
}

/// What is left when the command has ended.
pub(super) struct Ended {
    pub(super) stop: Stop,
    pub(super) status: Status,
    /// Whether the input had ended.
    pub(super) left: bool,
}

/// The state that outlives a connection.
pub(super) struct Session {
    plan: Plan,
    input: Input,
    outbox: Outbox,
    output: Output,
    status: Status,
}

/// The sending half of a connection.
struct Connection {
    socket: Arc<Socket>,
    is_unix: bool,
    /// Whether the end of the input is sent.
    shut: bool,
    /// Since when everything, that end too, is known to be acknowledged.
    settled: Option<Instant>,
}

impl Session {
    pub(super) fn new(plan: Plan, input: Input, output: Output, status: Status) -> Session {
        Session {
            outbox: Outbox::new(plan.retry),
            plan,
            input,
            output,
            status,
        }
    }

    /// Runs to the end of the command. Blocks.
    pub(super) fn run(mut self) -> Ended {
        let Err(stop) = self.serve();
        Ended {
            stop,
            status: self.status,
            left: matches!(self.input, Input::Ended(_)),
        }
    }

    fn serve(&mut self) -> Result<Infallible, Stop> {
        let mut backoff = Backoff::new();
        loop {
            let mut lasted = Duration::ZERO;
            let why = match self.dial()? {
                Err(error) => {
                    let why = format!("cannot connect to {}: {error}", self.plan.address);
                    self.retry_or_stop(why)?
                }
                Ok(socket) => {
                    self.status.connected();
                    let since = Instant::now();
                    let why = self.connected(socket)?;
                    lasted = since.elapsed();
                    why
                }
            };
            let pause = backoff.pause(lasted);
            let seconds = pause.as_secs_f32();
            self.status
                .complain(&format!("{why}; trying again in {seconds:.1} s"));
            self.pause(pause)?;
        }
    }

    fn retry_or_stop(&self, why: String) -> Result<String, Stop> {
        if self.plan.retry {
            Ok(why)
        } else {
            Err(Stop::Failed(why))
        }
    }

    /// Connects, and meanwhile takes input.
    fn dial(&mut self) -> Result<io::Result<Socket>, Stop> {
        let address = self.plan.address.clone();
        let task = Task::start("dial", move || dial(&address)).map_err(no_thread)?;
        loop {
            self.check_left_without_connection()?;
            if self.wait(Some(task.as_fd()), None, None)? {
                return Ok(task.join());
            }
        }
    }

    /// Lets time pass, and meanwhile takes input.
    fn pause(&mut self, pause: Duration) -> Result<(), Stop> {
        let until = Instant::now() + pause;
        loop {
            self.check_left_without_connection()?;
            let rest = until.saturating_duration_since(Instant::now());
            if rest.is_zero() {
                return Ok(());
            }
            self.wait(None, None, Some(rest))?;
        }
    }

    /// Serves one connection, to its end or that of the command. Returns why it ended when there is
    /// to be another one.
    fn connected(&mut self, socket: Socket) -> Result<String, Stop> {
        let mut connection = Connection {
            socket: Arc::new(socket),
            is_unix: matches!(self.plan.address, Address::Unix(_)),
            shut: false,
            settled: None,
        };
        let output = mem::replace(&mut self.output, Output::Discard);
        let receiver = Task::start("receive", {
            let socket = connection.socket.clone();
            move || receive(&socket, output)
        })
        .map_err(no_thread)?;

        let sent = self.send_all(&mut connection, &receiver)?;
        // Asked for before it is closed: then it would count for as much as it is.
        let unacknowledged = connection.unacknowledged();
        if sent.is_err() {
            // The receiver takes what has come, and then sees an end.
            let _ = rustix::net::shutdown(&connection.socket, Shutdown::Both);
        }
        let Received {
            output,
            ending,
            words,
        } = receiver.join();
        self.output = output;
        if ending.is_closed_output() {
            return Err(Stop::Done);
        }
        self.status.closed();

        let has_all = self.outbox.pending().is_empty() && unacknowledged == 0;
        let reason = words.reason();
        let why = match (sent, ending) {
            (_, Ending::OutputFailed(error)) => {
                return Err(Stop::Failed(format!(
                    "cannot write to standard output: {error}"
                )));
            }
            (Ok(()), Ending::Closed) if connection.shut && has_all => return Err(Stop::Done),
            (Ok(()), Ending::Closed) => match &reason {
                Some(reason) => format!("the server closed the connection: {reason}"),
                None => "the server closed the connection".to_owned(),
            },
            (Err(error), _) | (_, Ending::Lost(error)) => {
                let why = format!("the connection is lost: {error}");
                if connection.shut && has_all {
                    // Nothing is left that could be sent again, and whether it was read is unknown.
                    return Err(Stop::Failed(why));
                }
                why
            }
        };
        let sends = !matches!(self.input, Input::Absent);
        if sends && reason.as_deref().is_some_and(receive::is_final) {
            return Err(Stop::Failed(why));
        }
        let why = self.retry_or_stop(why)?;
        match self.outbox.rewind(unacknowledged) {
            Ok(()) => Ok(why),
            Err(cut) => Err(Stop::Failed(format!("{why}; {cut}"))),
        }
    }

    /// Sends what there is and what comes until the receiver has seen the end, or an error says so.
    fn send_all(
        &mut self,
        connection: &mut Connection,
        receiver: &Task<Received>,
    ) -> Result<io::Result<()>, Stop> {
        loop {
            while !self.outbox.pending().is_empty() {
                match connection.send(self.outbox.pending()) {
                    Ok(bytes) => self.outbox.taken(bytes),
                    Err(Errno::AGAIN) => break,
                    Err(Errno::INTR) => {}
                    Err(error) => return Ok(Err(error.into())),
                }
            }
            let sent_all = self.outbox.pending().is_empty();
            if sent_all && matches!(self.input, Input::Ended(_)) && !connection.shut {
                connection.shut = true;
                // It fails for a connection that is gone, which the receiver sees too.
                let _ = rustix::net::shutdown(&connection.socket, Shutdown::Write);
            }
            let unacknowledged = connection.unacknowledged();
            self.outbox.acknowledged_but(unacknowledged);
            let leaves = self.check_left(connection)?;
            let looks = leaves || sent_all && self.outbox.is_full();
            let socket = (!sent_all).then(|| connection.socket.clone());
            let socket = socket.as_ref().map(|socket| socket.as_fd());
            let timeout = looks.then_some(LOOK_INTERVAL);
            if self.wait(Some(receiver.as_fd()), socket, timeout)? {
                return Ok(Ok(()));
            }
        }
    }

    /// Ends the command when the input has ended and the server has it all, or nobody waits for that
    /// any longer. Says whether this is to be looked at again.
    fn check_left(&mut self, connection: &mut Connection) -> Result<bool, Stop> {
        let (Finish::Leave { grace, patience }, Input::Ended(since)) =
            (self.plan.finish, &self.input)
        else {
            return Ok(false);
        };
        let waited = since.elapsed();
        // This, also of a Unix socket, says that everything is there, or read.
        if connection.shut && unacknowledged(&connection.socket) == 0 {
            let settled = *connection.settled.get_or_insert_with(Instant::now);
            if settled.elapsed() >= grace {
                return Err(Stop::Done);
            }
        }
        if patience.is_some_and(|patience| waited >= patience) {
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

    /// Waits until the task has ended, which it says, or the socket takes bytes, or time is up, or
    /// there is input, of which it takes one read. Ends the command when nobody reads its output.
    fn wait(
        &mut self,
        task: Option<BorrowedFd<'_>>,
        socket: Option<BorrowedFd<'_>>,
        timeout: Option<Duration>,
    ) -> Result<bool, Stop> {
        let stdout = io::stdout();
        let input = match &self.input {
            Input::Open(input) if !self.outbox.is_full() => Some(input),
            _ => None,
        };
        let wanted = Wanted {
            task,
            socket,
            input: input.map(|input| input.as_fd()),
            output: self.plan.prints.then(|| stdout.as_fd()),
            timeout,
        };
        let happened = wanted
            .wait()
            .map_err(|error| Stop::Failed(format!("cannot wait: {error}")))?;
        if happened.output {
            return Err(Stop::Done);
        }
        if let (true, Some(input)) = (happened.input, input) {
            match rustix::io::read(input, self.outbox.room()) {
                // A terminal that is gone reads as an error.
                Ok(0) | Err(Errno::IO) => self.input = Input::Ended(Instant::now()),
                Ok(bytes) => self.outbox.filled(bytes),
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(error) => {
                    let error = io::Error::from(error);
                    return Err(Stop::Failed(format!("cannot read standard input: {error}")));
                }
            }
        }
        Ok(happened.task)
    }
}

impl Connection {
    /// Gives the socket what it takes without waiting.
    fn send(&self, bytes: &[u8]) -> Result<usize, Errno> {
        rustix::net::send(
            &self.socket,
            bytes,
            SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
        )
    }

    /// How many bytes of lines are not in the hands of the server's machine.
    fn unacknowledged(&self) -> usize {
        match self.is_unix {
            // What a Unix socket takes is there at once.
            true => 0,
            false => unacknowledged(&self.socket).saturating_sub(usize::from(self.shut)),
        }
    }
}

fn no_thread(error: io::Error) -> Stop {
    Stop::Failed(format!("cannot start a thread: {error}"))
}
