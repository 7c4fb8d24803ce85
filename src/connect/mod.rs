//! `linehub connect`: a client that does it well.
//!
//! Lines from standard input go to the server, and what comes from there goes to standard output:
//!
//! ```text
//! stdin, or lines typed at a terminal ─► outbox ─► server ─► receive ─► output ─► stdout, or a screen
//!                                        └── session: connects, again if need be, and ends ──┘
//! ```

mod backoff;
mod dial;
mod outbox;
mod output;
mod receive;
mod session;
mod status;
mod task;
mod terminal;
mod wait;

use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::time::Duration;

use crate::cli::ConnectArgs;
use crate::config::{self, Address};
use crate::logging;

use output::{Output, Screen};
use session::{Ended, Finish, Input, Plan, Session, Stop};
use status::Status;
use terminal::{Printer, Terminal};

/// It could not connect, or the connection ended before all was done.
const FAILED: u8 = 1;
/// An argument is wrong.
const MISUSED: u8 = 2;

/// How long a server that has everything may take to close. One that reads on after the end of input
/// (`--half-close keep`) never does, and one that does tells by it that it has read all.
const CLOSE_GRACE: Duration = Duration::from_secs(2);

/// The same where a person waits, who has typed little.
const CLOSE_GRACE_OF_A_PERSON: Duration = Duration::from_millis(200);

/// How long a person who leaves waits for the last lines to be taken.
const LEAVE_PATIENCE: Duration = Duration::from_secs(2);

/// Runs the command to its end.
pub fn run(args: &ConnectArgs) -> ExitCode {
    let (address, retry) = match understand(args) {
        Ok(understood) => understood,
        Err(wrong) => {
            logging::complain(&wrong);
            return ExitCode::from(MISUSED);
        }
    };
    match connect(args, address, retry) {
        Ok(code) => code,
        Err(error) => {
            logging::complain(&error.to_string());
            ExitCode::from(FAILED)
        }
    }
}

/// Where to, and whether to try again.
fn understand(args: &ConnectArgs) -> Result<(Address, bool), String> {
    let address: Address = args.address.parse().map_err(|wrong| format!("{wrong}"))?;
    if matches!(address, Address::Tcp { port: 0, .. }) {
        return Err(format!("'{address}' has port 0, where nobody listens"));
    }
    let retry = match &args.retry {
        Some(text) => config::switch(text).map_err(|wrong| format!("--retry: {wrong}"))?,
        None => args.listen_only || io::stdin().is_terminal(),
    };
    Ok((address, retry))
}

fn connect(args: &ConnectArgs, address: Address, retry: bool) -> io::Result<ExitCode> {
    let terminal = match args.listen_only {
        true => None,
        false => Terminal::open()?,
    };
    let (terminal, input) = match terminal {
        Some((terminal, lines)) => (Some(terminal), Input::Open(lines.into())),
        None if args.listen_only => (None, Input::Absent),
        None => (None, Input::Open(stdin()?)),
    };
    let output = match &terminal {
        _ if args.send_only => Output::Discard,
        Some(terminal) => Output::Screen(Screen::new(terminal.printer())),
        None if io::stdout().is_terminal() => Output::Screen(Screen::new(Printer::stdout()?)),
        None => Output::Stdout,
    };
    let finish = match terminal {
        Some(_) => Finish::Leave {
            grace: CLOSE_GRACE_OF_A_PERSON,
            patience: Some(LEAVE_PATIENCE),
        },
        None if args.send_only => Finish::Leave {
            grace: CLOSE_GRACE,
            patience: None,
        },
        None => Finish::Read,
    };
    let plan = Plan {
        address,
        retry,
        prints: !args.send_only,
        finish,
    };
    let status = Status::new(terminal.as_ref().map(Terminal::printer));
    let ended = Session::new(plan, input, output, status).run();
    Ok(end(ended, terminal))
}

/// Says why the command ended, and leaves the terminal as it was.
fn end(ended: Ended, terminal: Option<Terminal>) -> ExitCode {
    let Ended {
        stop,
        mut status,
        left,
    } = ended;
    if let Stop::Failed(why) = &stop {
        status.complain(why);
    }
    if let Some(terminal) = terminal {
        terminal.close(left);
    }
    match stop {
        Stop::Done => ExitCode::SUCCESS,
        Stop::Failed(_) => ExitCode::from(FAILED),
    }
}

fn stdin() -> io::Result<OwnedFd> {
    io::stdin().as_fd().try_clone_to_owned()
}
