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
//!
//! With `--resume`, what comes in are events of `json`, and between connection and output stands what
//! prints them and knows the place: `resume`; `state` is where that outlives the process. With
//! `--session`, what goes out is held until the daemon itself has acknowledged it: `publisher` is
//! that other kind of session, and `backlog` its outbox.

mod appended;
mod backlog;
mod backoff;
mod close_notice;
mod dial;
mod editor;
mod eot;
mod events;
mod outbox;
mod output;
mod plan;
mod prompt;
mod publisher;
mod resume;
mod screen;
mod sent_records;
mod session;
mod state;
mod watched;

use std::io::{self, Write};
use std::process::ExitCode;

use tokio::runtime::Builder;
use tokio::select;
use tokio::signal::unix::{SignalKind, signal};

use crate::commands::terminal;
use crate::config::cli::ConnectArgs;
use crate::ops::logging;
use crate::wire::format::Format;

use output::{Output, VisibleLines};
use plan::{Finish, Plan};
use prompt::Prompt;
use publisher::Publisher;
use resume::Resume;
use session::{FAILED, Session};
use state::StateFile;
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
    let plan = match Plan::of(args) {
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

async fn converse(args: &ConnectArgs, plan: Plan) -> io::Result<ExitCode> {
    let is_person = plan.finish == Finish::Left;
    let prompt = is_person.then(Prompt::open).transpose()?;
    let is_screen = is_person || terminal::is_controlling(io::stdout()) && !args.plain;
    let lines = is_screen.then(VisibleLines::default);
    let input = match args.listen_only {
        true => Input::Absent,
        false => Input::stdin()?,
    };
    let mut output = Output::new(prompt, lines, args.send_only, args.quiet)?;
    if let Some(name) = &args.session {
        return Ok(Publisher::new(plan, name.clone(), input, output)
            .run()
            .await);
    }
    let resume = match args.resume {
        true => Some(resume(args, &plan, &mut output)?),
        false => None,
    };
    let session = Session::new(plan, input, output, resume);
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

/// The place to go on from, if a file has one.
fn resume(args: &ConnectArgs, plan: &Plan, output: &mut Output) -> io::Result<Resume> {
    let mut known = None;
    if let Some(path) = &args.state {
        let address = plan.address.to_string();
        let channel = plan.channel.as_ref().map(|name| name.as_str());
        let opened = StateFile::open(path, &address, channel, io::stdout())?;
        for warning in &opened.warnings {
            output.warn(&format!("linehub: {warning}"));
        }
        known = opened.known;
        output.keep_state(opened.file);
    }
    let shown = args.format.unwrap_or(Format::Text);
    Ok(Resume::new(shown, args.first_place(), known))
}
