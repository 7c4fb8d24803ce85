//! `linehub connect`: a client that does it well.
//!
//! Lines from standard input go to the server, behind a hello if one is asked for, and what comes from
//! there goes to standard output:
//!
//! ```text
//! stdin ─► (prompt: keys ─► lines) ─► outbox ─► (eot) ─► connection ─► output ─► (screen) ─► stdout
//!                        └────── session: connects, again if need be, and ends ──────┘
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
mod sent_records;
mod session;
mod watched;

use std::io::{self, IsTerminal, Write};
use std::mem;
use std::process::ExitCode;

use tokio::runtime::Builder;
use tokio::select;
use tokio::signal::unix::{SignalKind, signal};
use zeroize::Zeroizing;

use crate::commands::terminal;
use crate::config::cli::{ConnectArgs, read_token};
use crate::config::{self, Address, words};
use crate::net::tls_client::TlsConnector;
use crate::ops::logging;
use crate::wire::format::Format;
use crate::wire::hello;

use output::{Output, VisibleLines};
use prompt::Prompt;
use session::{FAILED, Finish, Plan, Session};
use watched::Input;

/// Exit code: an argument is wrong.
const MISUSED: u8 = 2;
/// Exit code, less the number of the signal that ended the command, as shells have it.
const SIGNALLED: u8 = 128;

/// Runs the command to its end.
pub fn run(args: &ConnectArgs) -> ExitCode {
    let refuse = |code, why: &str| {
        logging::print_error(why);
        ExitCode::from(code)
    };
    let plan = match understand(args) {
        Ok(plan) => plan,
        Err(wrong) => return refuse(MISUSED, &wrong),
    };
    let runtime = Builder::new_current_thread().enable_all().build();
    let ended = runtime.and_then(|runtime| {
        let ended = runtime.block_on(converse(args, plan));
        // Whoever still blocks a thread, such as a name look-up, must not hold up the exit.
        runtime.shutdown_background();
        ended
    });
    ended.unwrap_or_else(|error| refuse(FAILED, &error.to_string()))
}

fn understand(args: &ConnectArgs) -> Result<Plan, String> {
    let address = args.address.as_deref().unwrap_or(config::LISTEN);
    let address: Address = address.parse().map_err(|wrong| format!("{wrong}"))?;
    if matches!(address, Address::Tcp { port: 0, .. }) {
        return Err(format!("'{address}' has port 0, where nobody listens"));
    }
    if args.interactive && !(io::stdin().is_terminal() && io::stdout().is_terminal()) {
        return Err("--interactive: standard input and output are no terminal".to_owned());
    }
    let retry = match &args.retry {
        Some(text) => words::parse_bool(text).map_err(|wrong| format!("--retry: {wrong}"))?,
        None => args.listen_only || io::stdin().is_terminal(),
    };
    let finish = match () {
        () if args.interactive => Finish::Left,
        () if !args.plain && !args.listen_only && prompt::is_wanted() => Finish::Left,
        () if args.send_only => Finish::Taken,
        () => Finish::Closed,
    };
    // Nothing of what comes is shown then.
    let for_answer = finish == Finish::Taken;
    let token = read_token(args.token_file.as_deref())?;
    let token = token.as_ref().map(|token| token.as_str());
    let mut hello = args.hello_line(for_answer, token)?;
    let is_raw = |line: &Zeroizing<String>| {
        hello::parse(line.as_bytes()).is_ok_and(|hello| hello.format == Some(Format::Raw))
    };
    Ok(Plan {
        tls: TlsConnector::load(&args.tls, &address)?,
        address,
        awaits_answer: for_answer && hello.as_ref().is_some_and(|line| !is_raw(line)),
        hello: hello.as_mut().map_or_else(Zeroizing::default, |line| {
            line.push('\n');
            Zeroizing::new(mem::take(&mut **line).into_bytes())
        }),
        retry,
        finish,
    })
}

async fn converse(args: &ConnectArgs, plan: Plan) -> io::Result<ExitCode> {
    let is_person = plan.finish == Finish::Left;
    let prompt = is_person.then(Prompt::open).transpose()?;
    let is_screen = is_person || terminal::is_controlling(io::stdout()) && !args.plain;
    let lines = is_screen.then(VisibleLines::default);
    let input = match args.listen_only {
        true => Input::Absent,
        false => Input::stdin()?,
    };
    let output = Output::new(prompt, lines, args.send_only, args.quiet)?;
    let session = Session::new(plan, input, output);
    if !is_person {
        return Ok(session.run().await);
    }
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    // The terminal is as it was when the session is dropped.
    Ok(select! {
        code = session.run() => code,
        // Ctrl-C is a signal only after the person has left; it says the same again.
        _ = interrupt.recv() => ExitCode::SUCCESS,
        _ = terminate.recv() => {
            // Whatever the shell says there next begins a line.
            let _ = io::stdout().write_all(b"\n");
            ExitCode::from(SIGNALLED + libc::SIGTERM as u8)
        }
        _ = hangup.recv() => ExitCode::from(SIGNALLED + libc::SIGHUP as u8),
    })
}
