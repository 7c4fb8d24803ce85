//! Format of the log's lines: a priority or a time and level, the message, then `name=value` fields.

use std::env;
use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// How each line of the log begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// `<N>`, the priority, as sd-daemon(3) defines it. The journal adds the time itself.
    Journal,
    /// Time and level.
    Plain,
    /// Time and level in colour.
    Colour,
}

impl Style {
    /// The style for the stderr of this process.
    pub(super) fn of_stderr() -> Style {
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

    /// Writes what stands before the message.
    pub(super) fn begin(self, writer: &mut Writer<'_>, level: Level) -> fmt::Result {
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

/// Whether stderr is the stream with these `DEVICE:INODE` numbers, a check that systemd.exec(5) asks
/// for: JOURNAL_STREAM is inherited by children whose stderr goes elsewhere.
fn is_stderr(stream: &str) -> bool {
    rustix::fs::fstat(io::stderr())
        .is_ok_and(|stat| stream == format!("{}:{}", stat.st_dev, stat.st_ino))
}

/// One event, one line: message first, then the fields.
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
        // Readers of info and above know the daemon's name; who debugs wants the module.
        if level > Level::INFO || !(target == "linehub" || target.starts_with("linehub::")) {
            write!(writer, "{target}: ")?;
        }
        let mut text = Text::default();
        event.record(&mut text);
        let Text { message, fields } = text;
        match message.is_empty() {
            true => writeln!(writer, "{}", fields.trim_start()),
            false => writeln!(writer, "{message}{fields}"),
        }
    }
}

/// The message of an event, and its fields with a space before each.
#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        // Quoted where a reader could not tell where the value ends. A value that is quoted already,
        // as the `Debug` of a string is, stays as it is.
        let bare = !value.is_empty() && !value.contains([' ', '"', '=']);
        let quoted = value.len() > 1 && value.starts_with('"') && value.ends_with('"');
        // A String takes everything.
        let _ = match field.name() {
            "message" => OneLine(&mut self.message).write_str(value),
            _ if bare || quoted => write!(OneLine(&mut self.fields), " {field}={value}"),
            _ => write!(self.fields, " {field}={value:?}"),
        };
    }
}

/// Writes control characters as escapes, so that no value can forge a line of the log or control the
/// terminal that shows it.
pub(super) struct OneLine<'a, W>(pub(super) &'a mut W);

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

    use tracing_subscriber::EnvFilter;
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

    /// Writes of a log of this style for these events.
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
    fn journal_stream_is_believed_only_if_it_is_stderr() {
        let stat = rustix::fs::fstat(io::stderr()).unwrap();
        assert!(is_stderr(&format!("{}:{}", stat.st_dev, stat.st_ino)));
        assert!(!is_stderr(&format!("{}:{}", stat.st_dev, stat.st_ino + 1)));
        assert!(!is_stderr("") && !is_stderr("8") && !is_stderr("a:b"));
    }
}
