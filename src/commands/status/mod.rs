//! `linehub status`: what the running daemon does, in a terminal.

mod ask;
mod keys;
mod lists;
mod screen;
mod words;

use std::convert::Infallible;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use crate::commands::terminal;
use crate::config::cli::StatusArgs;
use crate::config::{Address, AddressError};
use crate::ops::admin::documents::Status;
use crate::ops::logging::print_error;
use keys::{End, Keys};

/// Where the generated service has its admin address.
const ADDRESS: &str = "unix:/run/linehub/admin.sock";

/// The variable that names the admin address, to the daemon and here.
const VARIABLE: &str = "LINEHUB_ADMIN";

/// No daemon answers.
const FAILED: u8 = 1;
/// The address is none.
const MISUSED: u8 = 2;

/// How often `--watch` looks.
const PERIOD: Duration = Duration::from_secs(1);

/// Runs the command to its end.
pub fn run(args: &StatusArgs) -> ExitCode {
    let (name, text) = match (&args.admin, std::env::var(VARIABLE)) {
        (Some(typed), _) => ("--admin", typed.clone()),
        (None, Ok(set)) if !set.is_empty() => (VARIABLE, set),
        _ => ("--admin", ADDRESS.to_owned()),
    };
    let address = match text.parse() {
        Ok(address) => address,
        Err(AddressError { .. }) if text == "off" => {
            return refuse(MISUSED, &format!("{name} is off: there is nothing to ask"));
        }
        Err(error) => return refuse(MISUSED, &format!("{name}: {error}")),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let outcome = match runtime {
        Ok(runtime) => {
            let outcome = runtime.block_on(show(&address, args));
            // A name that is still being looked up holds nobody up who leaves.
            runtime.shutdown_background();
            outcome
        }
        Err(error) => Err(error.into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        // Who closed stdout has seen enough.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => refuse(FAILED, &format!("{error:#}")),
    }
}

fn refuse(code: u8, reason: &str) -> ExitCode {
    print_error(reason);
    ExitCode::from(code)
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<io::Error>();
    error.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

async fn show(address: &Address, args: &StatusArgs) -> anyhow::Result<()> {
    if !args.watch {
        let (text, status) = ask::status(address).await?;
        return print(&document(args, &text, &status, usize::MAX));
    }
    let in_place = io::stdout().is_terminal() && !args.json;
    let mut keys = if in_place { Keys::take()? } else { None };
    // Whatever the daemon does, the keyboard is listened to.
    let end = tokio::select! {
        failed = watch(address, args, in_place) => return failed.map(|never| match never {}),
        end = ended(&mut keys) => end,
    };
    drop(keys);
    end.obey();
    Ok(())
}

/// Shows the status every second, for ever.
async fn watch(address: &Address, args: &StatusArgs, in_place: bool) -> anyhow::Result<Infallible> {
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let (columns, rows) = terminal::size(io::stdout()).unwrap_or((usize::MAX, usize::MAX));
        let text = match ask::status(address).await {
            Ok((text, status)) => document(args, &text, &status, rows),
            // It may be on its way to the next one.
            Err(error) if in_place => format!("{error:#}; trying again\n"),
            Err(error) => return Err(error),
        };
        match in_place {
            true => print(&screen::redraw(&text, columns, rows))?,
            false => print(&text)?,
        }
    }
}

/// Waits for the keyboard to end it, where there is one.
async fn ended(keys: &mut Option<Keys>) -> End {
    match keys {
        Some(keys) => keys.end().await,
        None => std::future::pending().await,
    }
}

/// What is printed of one answer: within so many rows, unless it is for a program.
fn document(args: &StatusArgs, text: &str, status: &Status, rows: usize) -> String {
    match args.json {
        true => format!("{}\n", text.trim_end()),
        false => screen::text(status, rows),
    }
}

fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}
