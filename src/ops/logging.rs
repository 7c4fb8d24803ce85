//! The log, on stderr: lines for people on a terminal, priorities for the journal under systemd.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::env;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::sync::OnceLock;

use tracing::Level;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;

use crate::config::LogLevel;
use crate::ops::log_format::{OneLine, Style};
use crate::ops::log_queue::{self, LogWriter};

pub use crate::ops::log_queue::flush;
pub(crate) use crate::ops::log_queue::{Losses, flush_within, resume, seal, unseal};

/// Replaces the filter of the log. Empty until the log is started.
static REFILTER: OnceLock<Box<dyn Fn(EnvFilter) + Send + Sync>> = OnceLock::new();

/// Starts the log at this level, unless RUST_LOG is set.
///
/// To be called once: a second call changes nothing. Signals have to be blocked already, so that the
/// thread which this starts blocks them too.
///
/// # Errors
/// The system refuses the thread.
pub fn start(level: LogLevel) -> io::Result<()> {
    let (filter, complaint) = filter(level, env::var("RUST_LOG").ok().as_deref());
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(LogWriter::default)
        // A log that cannot be written, as to a pipe without a reader, must not end the daemon:
        // reporting that on the same stderr would panic.
        .log_internal_errors(false)
        .event_format(Style::of_stderr())
        .with_filter_reloading();
    let handle = log.reload_handle();
    if log.try_init().is_ok() {
        log_queue::start(loss_line)?;
        // Panics are logged too: a task that wrote to stderr itself would block.
        std::panic::set_hook(Box::new(|panic| {
            let trace = Backtrace::capture();
            match trace.status() {
                BacktraceStatus::Captured => tracing::error!("{panic}\n{trace}"),
                _ => tracing::error!("{panic}"),
            }
        }));
        let refilter = move |filter| {
            // Fails only when the log is gone.
            let _ = handle.reload(filter);
        };
        let _ = REFILTER.set(Box::new(refilter));
    }
    if let Some(complaint) = complaint {
        tracing::warn!("{complaint}");
    }
    Ok(())
}

/// Log line that says how many lines were lost.
fn loss_line(lines: u64) -> String {
    let mut line = String::new();
    // A String takes everything.
    let _ = Style::of_stderr().begin(&mut Writer::new(&mut line), Level::WARN);
    let _ = writeln!(
        line,
        "log lines were lost: stderr did not take them in time lines={lines}"
    );
    line
}

/// Log lines that were lost, because stderr did not take them in time or refused them.
pub(crate) fn lost() -> u64 {
    log_queue::lost()
}

/// Changes the level, unless RUST_LOG is set.
pub fn set_level(level: LogLevel) {
    if let Some(refilter) = REFILTER.get() {
        refilter(filter(level, env::var("RUST_LOG").ok().as_deref()).0);
    }
}

/// Prints on stderr why the daemon does not run, in one line. Works without a log.
pub fn print_error(reason: &str) {
    let mut line = String::new();
    if Style::of_stderr() == Style::Journal {
        line.push_str("<3>");
    }
    line.push_str("linehub: ");
    // A String takes everything.
    let _ = write!(OneLine(&mut line), "{reason}");
    line.push('\n');
    match REFILTER.get() {
        // An error of stderr itself has nowhere to be reported.
        None => {
            let _ = io::stderr().write_all(line.as_bytes());
        }
        // Through the log's queue, to come after the lines that are in it.
        Some(_) => {
            let _ = LogWriter.write_all(line.as_bytes());
            flush();
        }
    }
}

/// The filter for a level and RUST_LOG, and a warning if RUST_LOG cannot be used.
fn filter(level: LogLevel, rust_log: Option<&str>) -> (EnvFilter, Option<String>) {
    // Dependencies log their warnings and errors only; what the client of NATS meets, linehub itself says, once.
    let default = match level {
        LogLevel::Error => "error,async_nats=off",
        LogLevel::Warn => "warn,async_nats=off",
        LogLevel::Info => "warn,async_nats=off,linehub=info",
        LogLevel::Debug => "warn,async_nats=off,linehub=debug",
        LogLevel::Trace => "warn,async_nats=off,linehub=trace",
    };
    match rust_log
        .filter(|text| !text.is_empty())
        .map(EnvFilter::try_new)
    {
        None => (EnvFilter::new(default), None),
        Some(Ok(filter)) => (filter, None),
        Some(Err(error)) => {
            let complaint =
                format!("RUST_LOG cannot be used ({error}); logging as without it: {default}");
            (EnvFilter::new(default), Some(complaint))
        }
    }
}

#[cfg(test)]
mod tests {
    use tracing::enabled;

    use super::*;

    #[test]
    fn level_shows_itself_and_what_is_above_it() {
        use LogLevel::{Debug, Error, Info, Trace, Warn};
        for (level, shown) in [(Error, 1), (Warn, 2), (Info, 3), (Debug, 4), (Trace, 5)] {
            let (filter, complaint) = filter(level, None);
            assert_eq!(complaint, None);
            let log = tracing_subscriber::fmt().with_env_filter(filter).finish();
            let enabled = tracing::subscriber::with_default(log, || {
                [
                    enabled!(target: "linehub", Level::ERROR),
                    enabled!(target: "linehub", Level::WARN),
                    enabled!(target: "linehub", Level::INFO),
                    enabled!(target: "linehub", Level::DEBUG),
                    enabled!(target: "linehub", Level::TRACE),
                    enabled!(target: "other", Level::INFO),
                ]
            });
            let count = enabled.iter().filter(|enabled| **enabled).count();
            assert_eq!(count, shown, "{level:?}: {enabled:?}");
        }
    }

    #[test]
    fn rust_log_wins_and_a_wrong_one_is_named() {
        let (wins, complaint) = filter(LogLevel::Trace, Some("linehub=error"));
        assert_eq!(
            (wins.to_string(), complaint),
            ("linehub=error".to_owned(), None)
        );
        assert_eq!(filter(LogLevel::Info, Some("")).1, None);
        let (default, complaint) = filter(LogLevel::Info, Some("linehub=loud"));
        assert_eq!(
            default.to_string(),
            EnvFilter::new("warn,async_nats=off,linehub=info").to_string()
        );
        let complaint = complaint.unwrap();
        assert!(
            complaint.starts_with("RUST_LOG cannot be used ("),
            "{complaint}"
        );
    }
}
