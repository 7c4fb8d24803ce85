//! `linehub connect`: a client that does it well.
//!
//! Lines from standard input go to the server, and what comes from there goes to standard output:
//!
//! ```text
//! stdin ─► (prompt: keys ─► lines) ─► outbox ─► connection ─► output ─► (screen) ─► stdout
//!                        └── session: connects, again if need be, and ends ──┘
//! ```
//!
//! All of it is one task, which waits for whatever happens first.

mod backoff;
mod close_notice;
mod dial;
mod editor;
mod eot;
mod outbox;
mod output;
mod prompt;
mod screen;
mod session;
mod watched;

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::select;
use tokio::signal::unix::{SignalKind, signal};

use crate::config::cli::ConnectArgs;
use crate::config::{self, Address};
use crate::{commands::terminal, ops::logging};

use output::{Output, View};
use prompt::Prompt;
use session::{Finish, Plan, Session};
use watched::Input;

/// It could not connect, or the connection ended before all was done.
const FAILED: u8 = 1;
/// An argument is wrong.
const MISUSED: u8 = 2;
/// A signal ended it, of which this is added to the number, as shells do.
const SIGNALLED: u8 = 128;

/// How long a server that has everything may take to close. One that reads on after the end of input
/// (`--half-close keep`) never does, and one that closes tells by it that it has read all.
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
            logging::print_error(&wrong);
            return ExitCode::from(MISUSED);
        }
    };
    match connect(args, address, retry) {
        Ok(code) => code,
        Err(error) => {
            logging::print_error(&error.to_string());
            ExitCode::from(FAILED)
        }
    }
}

/// Where to, and whether to try again.
fn understand(args: &ConnectArgs) -> Result<(Address, bool), String> {
    let address = args.address.as_deref().unwrap_or(config::LISTEN);
    let address: Address = address.parse().map_err(|wrong| format!("{wrong}"))?;
    if matches!(address, Address::Tcp { port: 0, .. }) {
        return Err(format!("'{address}' has port 0, where nobody listens"));
    }
    if args.interactive && !(io::stdin().is_terminal() && io::stdout().is_terminal()) {
        return Err("--interactive: standard input and output are no terminal".to_owned());
    }
    let retry = match &args.retry {
        Some(text) => config::parse_bool(text).map_err(|wrong| format!("--retry: {wrong}"))?,
        None => args.listen_only || io::stdin().is_terminal(),
    };
    Ok((address, retry))
}

fn connect(args: &ConnectArgs, address: Address, retry: bool) -> io::Result<ExitCode> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let ended = runtime.block_on(converse(args, address, retry));
    // Whoever still blocks a thread, such as a name look-up, must not hold up the exit.
    runtime.shutdown_background();
    ended
}

async fn converse(args: &ConnectArgs, address: Address, retry: bool) -> io::Result<ExitCode> {
    let is_person = args.interactive
        || !args.plain && !args.listen_only && prompt::is_person() && !prompt::is_dumb();
    let view = match is_person {
        true => View::Prompt(Box::new(Prompt::open()?)),
        false if terminal::is_controlling(io::stdout()) && !args.plain => View::Lines,
        false => View::Bytes,
    };
    let finish = match () {
        () if is_person => Finish::Leave {
            grace: CLOSE_GRACE_OF_A_PERSON,
            patience: Some(LEAVE_PATIENCE),
        },
        () if args.send_only => Finish::Leave {
            grace: CLOSE_GRACE,
            patience: None,
        },
        () => Finish::Read,
    };
    let plan = Plan {
        address,
        retry,
        finish,
    };
    let input = match args.listen_only {
        true => Input::Absent,
        false => Input::stdin()?,
    };
    let output = Output::new(view, args.send_only, args.quiet)?;
    let session = Session::new(plan, input, output);
    if !is_person {
        return Ok(session.run().await);
    }
    let by_signal = |signal| SIGNALLED + u8::try_from(signal).unwrap_or(0);
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    // The terminal is as it was when the session is dropped.
    Ok(select! {
        code = session.run() => code,
        // Ctrl-C is a signal only after the person has left; it says the same again.
        _ = interrupt.recv() => ExitCode::SUCCESS,
        _ = terminate.recv() => {
            // What else is said there begins a line.
            let _ = io::stdout().write_all(b"\n");
            ExitCode::from(by_signal(libc::SIGTERM))
        }
        _ = hangup.recv() => ExitCode::from(by_signal(libc::SIGHUP)),
    })
}
