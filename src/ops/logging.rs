//! The log, on stderr: lines for people on a terminal, priorities for the journal under systemd.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::env;
use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal, Write as _};

use std::sync::OnceLock;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::config::LogLevel;
use crate::ops::log_queue::{self, LogWriter};

/// Puts another filter in the place of the one in force. Empty until the log is started.
static REFILTER: OnceLock<Box<dyn Fn(EnvFilter) + Send + Sync>> = OnceLock::new();

/// How a line of the log begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    /// `<N>`, the priority, as sd-daemon(3) defines it. The journal adds the time itself.
    Journal,
    /// Time and level.
    Plain,
    /// Time and level in colour.
    Colour,
}

/// Starts the log at this level. RUST_LOG, when set, takes its place.
///
/// To be called once: a second call changes nothing. Signals have to be held back already, from the
/// thread that this starts too.
///
/// # Errors
/// The system refuses the thread.
pub fn start(level: LogLevel) -> io::Result<()> {
    let (filter, complaint) = filter(level, env::var("RUST_LOG").ok().as_deref());
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(LogWriter::default)
        // A log that cannot be written (the reader of a pipe is gone) must not end the daemon, and
        // reporting it on the same stderr would panic.
        .log_internal_errors(false)
        .event_format(Style::of_stderr())
        .with_filter_reloading();
    let handle = log.reload_handle();
    if log.try_init().is_ok() {
        log_queue::start(tell_lost)?;
        // What is said of a panic goes the same way: on stderr itself, a task would wait for it.
        std::panic::set_hook(Box::new(|panic| {
            let trace = Backtrace::capture();
            match trace.status() {
                BacktraceStatus::Captured => tracing::error!("{panic}\n{trace}"),
                _ => tracing::error!("{panic}"),
            }
        }));
        let refilter = move |filter| {
            // It fails only when the log is gone.
            let _ = handle.reload(filter);
        };
        let _ = REFILTER.set(Box::new(refilter));
    }
    if let Some(complaint) = complaint {
        tracing::warn!("{complaint}");
    }
    Ok(())
}

/// A line of the log about those that are not in it.
fn tell_lost(lines: u64) -> String {
    let mut line = String::new();
    // A String takes everything.
    let _ = Style::of_stderr().begin(&mut Writer::new(&mut line), Level::WARN);
    let _ = writeln!(
        line,
        "log lines were lost: stderr did not take them in time lines={lines}"
    );
    line
}

pub use crate::ops::log_queue::flush;
pub(crate) use crate::ops::log_queue::{Losses, flush_within, resume, seal, unseal};

/// Log lines that were lost: nobody read those before them, or the system refused them.
pub(crate) fn lost() -> u64 {
    log_queue::lost()
}

/// Goes on at another level, unless RUST_LOG is set.
pub fn set_level(level: LogLevel) {
    if let Some(refilter) = REFILTER.get() {
        refilter(filter(level, env::var("RUST_LOG").ok().as_deref()).0);
    }
}

/// Says on stderr why the daemon does not run, in one line. Needs no log.
pub fn print_error(reason: &str) {
    let mut line = String::new();
    if Style::of_stderr() == Style::Journal {
        line.push_str("<3>");
    }
    line.push_str("linehub: ");
    // A String takes everything, and there is nobody to tell if stderr does not.
    let _ = write!(OneLine(&mut line), "{reason}");
    line.push('\n');
    match REFILTER.get() {
        None => {
            let _ = io::stderr().write_all(line.as_bytes());
        }
        // Behind what the log says, and no more waited for than that.
        Some(_) => {
            let _ = LogWriter.write_all(line.as_bytes());
            flush();
        }
    }
}

/// What to log, and what is wrong with `rust_log` if it cannot be used.
fn filter(level: LogLevel, rust_log: Option<&str>) -> (EnvFilter, Option<String>) {
    // Of what linehub is built on, only trouble is worth a line.
    let default = match level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "warn,linehub=info",
        LogLevel::Debug => "warn,linehub=debug",
        LogLevel::Trace => "warn,linehub=trace",
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

impl Style {
    fn of_stderr() -> Style {
        let set = |name| env::var_os(name).is_some_and(|value| !value.is_empty());
        if env::var("JOURNAL_STREAM").is_ok_and(|stream| is_stderr(&stream)) {
            Style::Journal
        } else if io::stderr().is_terminal()
            && !set("NO_COLOR")
            && env::var_os("TERM").is_none_or(|term| term != "dumb")
        {
            Style::Colour
        } else {
            Style::Plain
        }
    }

    fn begin(self, writer: &mut Writer<'_>, level: Level) -> fmt::Result {
        let (priority, colour) = match level {
            Level::ERROR => (3, 31),
            Level::WARN => (4, 33),
            Level::INFO => (6, 32),
            Level::DEBUG => (7, 34),
            Level::TRACE => (7, 35),
        };
        match self {
            Style::Journal => write!(writer, "<{priority}>"),
            Style::Plain => {
                SystemTime.format_time(writer)?;
                write!(writer, " {level} ")
            }
            Style::Colour => {
                writer.write_str("\x1b[2m")?;
                SystemTime.format_time(writer)?;
                write!(writer, "\x1b[0m \x1b[{colour}m{level}\x1b[0m ")
            }
        }
    }
}

/// Whether stderr is the stream with these `DEVICE:INODE` numbers. JOURNAL_STREAM is inherited by
/// children whose stderr goes elsewhere, which is why systemd.exec(5) asks for this check.
fn is_stderr(stream: &str) -> bool {
    rustix::fs::fstat(io::stderr())
        .is_ok_and(|stat| stream == format!("{}:{}", stat.st_dev, stat.st_ino))
}

/// One event, one line: message first, then `name=value` for each field.
impl<S, N> FormatEvent<S, N> for Style
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let level = *event.metadata().level();
        self.begin(&mut writer, level)?;
        let target = event.metadata().target();
        // Operators read info and above and know the daemon's name; who debugs wants the room.
        if level > Level::INFO || !(target == "linehub" || target.starts_with("linehub::")) {
            write!(writer, "{target}: ")?;
        }
        let mut message = Message {
            writer: &mut writer,
            written: Ok(()),
            any: false,
        };
        event.record(&mut message);
        let Message { written, any, .. } = message;
        written?;
        let mut fields = Fields {
            writer: &mut writer,
            written: Ok(()),
            any,
        };
        event.record(&mut fields);
        fields.written?;
        writer.write_char('\n')
    }
}

/// Writes the message and leaves out the fields.
struct Message<'a, 'w> {
    writer: &'a mut Writer<'w>,
    written: fmt::Result,
    any: bool,
}

impl Visit for Message<'_, '_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.written = write!(OneLine(self.writer), "{value:?}");
            self.any = true;
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }
}

/// Writes the fields and leaves out the message.
struct Fields<'a, 'w> {
    writer: &'a mut Writer<'w>,
    written: fmt::Result,
    /// Whether something stands before the next field.
    any: bool,
}

impl Visit for Fields<'_, '_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" || self.written.is_err() {
            return;
        }
        let space = if std::mem::replace(&mut self.any, true) {
            " "
        } else {
            ""
        };
        // Quoted where a reader could not tell where the value ends. What is quoted already, as
        // the `Debug` of a string is, stays as it is.
        let bare = !value.is_empty() && !value.contains([' ', '"', '=']);
        let quoted = value.len() > 1 && value.starts_with('"') && value.ends_with('"');
        self.written = match bare || quoted {
            true => write!(OneLine(self.writer), "{space}{field}={value}"),
            false => write!(self.writer, "{space}{field}={value:?}"),
        };
    }
}

/// Shows control characters instead of writing them: no value can forge a line of the log or
/// steer the terminal it is read on.
struct OneLine<'a, W>(&'a mut W);

impl<W: fmt::Write> fmt::Write for OneLine<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut written = 0;
        for (at, control) in text.match_indices(char::is_control) {
            self.0.write_str(&text[written..at])?;
            write!(self.0, "{}", control.escape_default())?;
            written = at + control.len();
        }
        self.0.write_str(&text[written..])
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::fmt::MakeWriter;

    use super::*;

    /// What the log writes, one entry a write.
    #[derive(Clone, Default)]
    struct Writes(Arc<Mutex<Vec<String>>>);

    impl io::Write for Writes {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0
                .lock()
                .unwrap()
                .push(String::from_utf8(bytes.to_vec()).unwrap());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl MakeWriter<'_> for Writes {
        type Writer = Writes;

        fn make_writer(&self) -> Writes {
            self.clone()
        }
    }

    fn log(style: Style, filter: EnvFilter, events: impl FnOnce()) -> Vec<String> {
        let writes = Writes::default();
        let log = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(writes.clone())
            .event_format(style)
            .finish();
        tracing::subscriber::with_default(log, events);
        Arc::into_inner(writes.0).map_or_else(Vec::new, |writes| writes.into_inner().unwrap())
    }

    fn journal(events: impl FnOnce()) -> Vec<String> {
        log(Style::Journal, EnvFilter::new("trace"), events)
    }

    #[test]
    fn event_is_one_write_with_the_message_first() {
        let writes = journal(|| {
            tracing::info!(target: "linehub::server", address = %"127.0.0.1:2345", n = 7, "listening");
            tracing::info!(target: "linehub", only = true);
        });
        assert_eq!(
            writes,
            [
                "<6>listening address=127.0.0.1:2345 n=7\n",
                "<6>only=true\n"
            ]
        );
    }

    #[test]
    fn journal_gets_the_priority_of_each_level() {
        let writes = journal(|| {
            tracing::error!(target: "linehub", "m");
            tracing::warn!(target: "linehub", "m");
            tracing::info!(target: "linehub", "m");
            tracing::debug!(target: "linehub::hub", "m");
            tracing::trace!(target: "linehub::hub", "m");
        });
        let expected = [
            "<3>m\n",
            "<4>m\n",
            "<6>m\n",
            "<7>linehub::hub: m\n",
            "<7>linehub::hub: m\n",
        ];
        assert_eq!(writes, expected);
    }

    #[test]
    fn foreign_events_name_where_they_come_from() {
        let writes = journal(|| tracing::info!(target: "linehubby", "m"));
        assert_eq!(writes, ["<6>linehubby: m\n"]);
    }

    #[test]
    fn plain_line_begins_with_time_and_level() {
        let info = || tracing::info!(target: "linehub", "listening");
        let writes = log(Style::Plain, EnvFilter::new("info"), info);
        let (time, rest) = writes[0].split_once(' ').unwrap();
        assert_eq!(rest, "INFO listening\n");
        assert!(time.starts_with("20") && time.ends_with('Z'), "{time}");
    }

    #[test]
    fn colour_ends_before_the_message() {
        let info = || tracing::warn!(target: "linehub", "m");
        let writes = log(Style::Colour, EnvFilter::new("info"), info);
        assert!(writes[0].starts_with("\x1b[2m20"), "{:?}", writes[0]);
        assert!(
            writes[0].ends_with("Z\x1b[0m \x1b[33mWARN\x1b[0m m\n"),
            "{:?}",
            writes[0]
        );
    }

    #[test]
    fn values_are_quoted_where_their_end_would_be_unclear() {
        let writes = journal(|| {
            tracing::info!(target: "linehub", error = %"not found", empty = "", eq = "a=b", debug = ?"a \"b\"", some = ?Some(1), "m");
        });
        let expected =
            "<6>m error=\"not found\" empty=\"\" eq=\"a=b\" debug=\"a \\\"b\\\"\" some=Some(1)\n";
        assert_eq!(writes, [expected]);
    }

    #[test]
    fn control_characters_cannot_forge_a_line() {
        let writes = journal(|| {
            tracing::info!(target: "linehub", a = "x\n<3>y", b = %"\x1b[2J z", "one\n<3>two\x7f");
        });
        let expected = "<6>one\\n<3>two\\u{7f} a=x\\n<3>y b=\"\\u{1b}[2J z\"\n";
        assert_eq!(writes, [expected]);
    }

    #[test]
    fn level_shows_itself_and_what_is_above_it() {
        use LogLevel::{Debug, Error, Info, Trace, Warn};
        for (level, shown) in [(Error, 1), (Warn, 2), (Info, 3), (Debug, 4), (Trace, 5)] {
            let (filter, complaint) = filter(level, None);
            assert_eq!(complaint, None);
            let writes = log(Style::Journal, filter, || {
                tracing::error!(target: "linehub", "m");
                tracing::warn!(target: "linehub", "m");
                tracing::info!(target: "linehub", "m");
                tracing::debug!(target: "linehub", "m");
                tracing::trace!(target: "linehub", "m");
                tracing::info!(target: "other", "m");
            });
            assert_eq!(writes.len(), shown, "{level:?}: {writes:?}");
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
            EnvFilter::new("warn,linehub=info").to_string()
        );
        let complaint = complaint.unwrap();
        assert!(
            complaint.starts_with("RUST_LOG cannot be used ("),
            "{complaint}"
        );
    }

    #[test]
    fn journal_stream_is_believed_only_if_it_is_stderr() {
        let stat = rustix::fs::fstat(io::stderr()).unwrap();
        assert!(is_stderr(&format!("{}:{}", stat.st_dev, stat.st_ino)));
        assert!(!is_stderr(&format!("{}:{}", stat.st_dev, stat.st_ino + 1)));
        assert!(!is_stderr("") && !is_stderr("8") && !is_stderr("a:b"));
    }
}
