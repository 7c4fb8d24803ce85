//! `linehub connect`, as it is typed.

use std::path::PathBuf;

use clap::{Args, ValueHint};
use zeroize::Zeroizing;

use super::tls::TlsArgs;
use crate::config::words;
use crate::wire::channel::{ChannelName, InvalidChannelName};
use crate::wire::format::Format;
use crate::wire::hello;
use crate::wire::past::{InvalidNewest, InvalidSince, Newest, Since};
use crate::wire::session::SessionName;

/// Most bytes of a hello line and its LF, whatever is put together for it.
const HELLO_LINE_BYTES_MAX: usize = 4 * hello::HELLO_BYTES_MAX;

/// Most bytes of what a connection puts behind the line: ` since=` and a place, of an epoch of 8 digits
/// and a number of at most 20.
const PLACE_BYTES_MAX: usize = " since=5f3a9c11:18446744073709551615".len();

/// What `linehub connect --help` ends with.
pub(super) const MORE: &str = "\
Examples:
  Talk to the daemon on this machine.
    $ linehub connect

  Send a file and know whether the daemon took it all.
    $ linehub connect --send-only 127.0.0.1:2345 < lines && echo sent

  Talk to a daemon elsewhere, over TLS, with the authority that signed its certificate.
    $ linehub connect --tls --ca ca.pem hub.example:2346

  Record what comes, over restarts of the daemon.
    $ linehub connect --listen-only unix:/run/linehub.sock >> lines

  The same without a gap or a double, over its own restarts too, from a listener with `hello`.
    $ linehub connect --listen-only --resume --state place --format raw 127.0.0.1:2345 >> lines

  Publish a file exactly once, however often this is tried again.
    $ linehub connect --send-only --session import-7 127.0.0.1:2345 < lines

  Talk in a channel, by a listener with `hello`.
    $ linehub connect --channel nmea 127.0.0.1:2345

  The same where only those come in who have a token.
    $ linehub connect --channel nmea --token-file meter-7.secret 127.0.0.1:2345

Exit codes:
  0  All was sent and the daemon closed in answer; or a person left; or nobody reads standard output
     any more.
  1  No connection could be made, or it ended before that: what came after is missing, and lines may
     not have been sent. With --retry only if trying again cannot help.
  2  A wrong option or address.";

/// What `linehub connect` takes.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectArgs {
    /// The daemon to connect to [default: 127.0.0.1:2345]
    ///
    /// An IPv6 address needs brackets: `[::1]:2345`. Every address of a name is tried, each for 10 s
    /// at most.
    #[arg(value_name = "HOST:PORT|unix:PATH")]
    pub address: Option<String>,

    /// Join channel NAME of a listener with `hello`: what `--hello channel=NAME` says
    #[arg(long, value_name = "NAME", value_parser = words::channel)]
    pub channel: Option<ChannelName>,

    /// Say hello first, with these keys, to a listener with `hello`
    ///
    /// Such as 'channel=nmea role=subscribe'; '' says it without keys. Printable ASCII, the whole line at
    /// most 4 KiB. What --channel says is put before it. The line `LINEHUB/1 KEYS` is the first on each
    /// connection, and the answer is the first that comes (in `raw` there is none). A daemon that refuses
    /// it, or the channel, is not tried again. A listener without `hello` takes it for a line like any
    /// other; with --send-only, which asks for json, no more is sent before the answer.
    #[arg(long, value_name = "KEYS", value_parser = hello_keys, allow_hyphen_values = true)]
    pub hello: Option<String>,

    /// Say the token in FILE in the hello: who it is, to a daemon with --tokens
    ///
    /// FILE has the token alone, such as what `linehub generate token NAME 2> FILE` leaves there. Without
    /// it, LINEHUB_TOKEN says it. Not on the command line, which every user of the machine can read. Only for
    /// a listener with `hello`: one without takes the line for one like any other.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub token_file: Option<PathBuf>,

    /// See the stream in this format, by a listener with `hello` [default: the listener's]
    ///
    /// With --resume the default is text.
    #[arg(long, value_name = "text|json|raw", value_parser = words::format)]
    #[arg(conflicts_with = "send_only")]
    pub format: Option<Format>,

    /// Get the newest messages first: N of them, SIZE of them, or those of DURATION
    ///
    /// Such as 100, 64KiB or 5m: from a listener with `hello`, instead of what it gives by itself. On each
    /// connection, but with --resume only while there is no place to go on from.
    #[arg(long, value_name = "N|SIZE|DURATION", value_parser = newest, conflicts_with = "send_only")]
    pub history: Option<Newest>,

    /// Get what came behind this place, or within DURATION, first: from a listener with `hello`
    ///
    /// The answer to a hello says a place, as in 5f3a9c11:4711. On each connection, but with --resume only
    /// while there is no other place to go on from.
    #[arg(long, value_name = "EPOCH:SEQ|DURATION", value_parser = since, conflicts_with = "send_only")]
    pub since: Option<Since>,

    /// Remember the place over reconnects, and get what was missed
    ///
    /// From a listener with `hello` of a daemon with --history: each connection asks for what comes behind
    /// the last message or notice that was printed. Asks for json, to know the place, and prints what
    /// --format shows: text as the daemon shows it, json as it comes, and raw, where a CR before the LF is
    /// part of the line end. Only messages and notices are printed. What is gone from the history is said on
    /// stderr, with -q too. Its own lines are not printed when they come back to another connection (to a
    /// daemon with --echo they are, as all that is its own); to another process with the same --state they
    /// are those of another client.
    #[arg(long, conflicts_with = "send_only")]
    pub resume: bool,

    /// Keep the place of --resume in FILE, over restarts of this command
    ///
    /// It is written after what was printed, a read at a time, and replaced as a whole. If standard output is
    /// a regular file that is opened for append (>>), FILE says how long that is: whatever ended the command,
    /// kill -9 too, the next one cuts off what FILE does not know of, and prints it again. So nothing is
    /// missed, and nothing comes twice. Into anything else, such as a pipe, what was printed last can come
    /// once more. Nothing is synced to the disk: after a power loss the file or FILE may be older than the
    /// other; of a file that is shorter than FILE says, that is said. FILE is for one address and channel, and
    /// for one command at a time; so is the file of standard output, to which nobody else may append.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, requires = "resume")]
    #[arg(conflicts_with = "send_only")]
    pub state: Option<PathBuf>,

    /// Publish exactly once: count the lines of standard input as those of session NAME
    ///
    /// With --send-only, to a listener with `hello` and line-end=lf of a daemon with --history. The daemon
    /// says how many lines of the session it has; so many of standard input are skipped, and the rest is
    /// sent. It acknowledges lines once they are as safe as its --history-sync makes them, and only then
    /// they are forgotten here; at most 32 MiB are held, beyond which standard input is not read. After a
    /// connection that was lost, and after the command was killed, it goes on where the daemon says: run it
    /// again with the same NAME and the same input from its begin.
    ///
    /// Ends well when all lines are acknowledged. A line that the daemon refuses as too long is a failure,
    /// and so is another sender that takes the session over, and a session that the daemon does not
    /// have any more: it keeps one as long as its lines. The last line is sent with LF.
    #[arg(long, value_name = "NAME", value_parser = session, requires = "send_only")]
    #[arg(conflicts_with_all = ["listen_only", "resume", "format", "history", "since"])]
    pub session: Option<SessionName>,

    /// Connect again when the connection is gone or cannot be made [default: auto]
    ///
    /// The first pause is 100 ms, each next one twice as long, 10 s at most, and each is cut by chance
    /// to between a half and the whole of itself. After a connection that lasted longer than 10 s they
    /// begin anew. auto: true when standard input is a terminal, or with --listen-only, --resume or
    /// --session.
    ///
    /// Lines that were not sent are kept meanwhile: at most 4 MiB, beyond which standard input is not
    /// read. Sent is a line when all of it has been acknowledged by the daemon's machine (over a Unix
    /// socket: taken by it); any other is sent again, whole. So a line can come twice if only the
    /// acknowledgement was lost, and lines are lost that the daemon had not read when it was killed. A
    /// daemon that is stopped reads what has arrived. One that is full has taken nothing, and gets all
    /// of it again. A line that the daemon refuses as too long is not tried again.
    #[arg(long, value_name = "BOOL")]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub retry: Option<String>,

    /// Only print what comes in; standard input is not read
    #[arg(long, conflicts_with = "send_only")]
    pub listen_only: bool,

    /// Only send; what comes in is read and not printed
    ///
    /// Ends well when standard input has ended and the daemon has closed in answer, which says that it
    /// has read everything. If it says why it closes, or closes before, that is a failure with the
    /// reason. (In `raw` it resets a TCP connection instead; over a Unix socket it cannot tell that a
    /// line is too long: send to a listener of another format to know.) A line of only Ctrl-D, or
    /// telnet's end of file, ends a client of a `text` listener: what follows is a failure. For one
    /// that does not close (`--half-close keep`): 2 s after its machine acknowledged everything, or over
    /// a Unix socket it has read everything; but only if anything came from it, else it is a failure
    /// after 10 s: it may not even have accepted the connection.
    #[arg(long)]
    pub send_only: bool,

    /// No prompt, and nothing made visible: a terminal is read and written like a pipe
    #[arg(long, conflicts_with = "interactive")]
    pub plain: bool,

    /// A prompt, in whatever terminal standard input and output are
    #[arg(long, conflicts_with = "listen_only")]
    pub interactive: bool,

    /// Say nothing on stderr but why it failed, and what --resume misses
    #[arg(long, short)]
    pub quiet: bool,

    /// TLS of the connection.
    #[command(flatten)]
    pub tls: TlsArgs,
}

impl ConnectArgs {
    /// The line to say hello with, without its LF; `None` if nothing is to be said. The token comes last.
    /// If the answer is what it is said for, and no format is named, it asks for `json`: `raw` has none.
    ///
    /// With --resume, where to begin is not in it: [`first_place`](ConnectArgs::first_place) says it, or a
    /// connection that was.
    ///
    /// # Errors
    /// What cannot be said, in one line.
    pub fn hello_line(
        &self,
        for_answer: bool,
        token: Option<&str>,
    ) -> Result<Option<Zeroizing<String>>, String> {
        let words = self.words();
        if self.hello.is_none() && words.is_empty() && token.is_none() {
            return Ok(None);
        }
        let said = self.hello.as_deref().unwrap_or_default();
        let twice = words.iter().find(|(_, word)| names(said, key(word)));
        if let Some((option, word)) = twice {
            let key = key(word);
            let article = if key.starts_with('a') { "an" } else { "a" };
            return Err(format!(
                "{option}: --hello has {article} {key} too; allowed: one of them"
            ));
        }
        if token.is_some() && names(said, "token") {
            let wrong = "--hello: there is a token beside it; allowed: one of them";
            return Err(wrong.to_owned());
        }
        let begins = |key: &&str| self.resume && names(said, key);
        if let Some(key) = ["history", "since"].iter().find(|key| begins(key)) {
            return Err(format!(
                "--resume: --hello has {key}; allowed: --{key} instead"
            ));
        }
        // What --channel says stands before the keys, as it always has; the rest behind them.
        let is_channel = |word: &&String| key(word) == "channel";
        let words: Vec<String> = words.into_iter().map(|(_, word)| word).collect();
        let mut keys: Vec<&str> = Vec::new();
        keys.extend(words.iter().filter(is_channel).map(String::as_str));
        keys.extend(Some(said.trim()).filter(|said| !said.is_empty()));
        keys.extend(
            words
                .iter()
                .filter(|word| !is_channel(word))
                .map(String::as_str),
        );
        if self.session.is_some() && !names(said, "role") {
            keys.push("role=publish");
        }
        if for_answer && !keys.iter().any(|keys| names(keys, "format")) {
            keys.push("format=json");
        }
        // As long as it becomes, with its LF: no copy of a token is left behind where it grew.
        let mut line = Zeroizing::new(String::with_capacity(HELLO_LINE_BYTES_MAX));
        line.push_str(&hello::line(&keys.join(" ")));
        for part in token.into_iter().flat_map(|token| [" token=", token]) {
            line.push_str(part);
        }
        let place_bytes = match self.resume {
            true => PLACE_BYTES_MAX.max(self.first_place().len()),
            false => 0,
        };
        match line.len() + place_bytes {
            ..=hello::HELLO_BYTES_MAX => Ok(Some(line)),
            bytes => Err(format!(
                "--hello: the line has {bytes} bytes with what is put before it; allowed: at most {}",
                hello::HELLO_BYTES_MAX
            )),
        }
    }

    /// What is put behind the line where there is no place to go on from: `` or ` history=5m since=…`.
    pub fn first_place(&self) -> String {
        let history = self.history.map(|history| format!(" history={history}"));
        let since = self.since.map(|since| format!(" since={since}"));
        [history, since].into_iter().flatten().collect()
    }

    /// Words of the hello that options other than --hello say, each behind the option.
    fn words(&self) -> Vec<(&'static str, String)> {
        let mut words = Vec::new();
        if let Some(name) = &self.channel {
            words.push(("--channel", format!("channel={name}")));
        }
        if let Some(name) = &self.session {
            words.push(("--session", format!("session={name}")));
            words.extend(["ack", "format=json"].map(|word| ("--session", word.to_owned())));
        }
        if self.resume {
            words.push(("--resume", "format=json".to_owned()));
            return words;
        }
        let format = self.format.map(|format| format!("format={format}"));
        let history = self.history.map(|history| format!("history={history}"));
        let since = self.since.map(|since| format!("since={since}"));
        words.extend(format.map(|word| ("--format", word)));
        words.extend(history.map(|word| ("--history", word)));
        words.extend(since.map(|word| ("--since", word)));
        words
    }
}

/// Key of a word of a hello.
fn key(word: &str) -> &str {
    word.split('=').next().unwrap_or_default()
}

/// Whether the keys of a hello have this one among them.
fn names(keys: &str, key: &str) -> bool {
    keys.split(' ').any(|word| self::key(word) == key)
}

fn newest(text: &str) -> Result<Newest, String> {
    text.parse()
        .map_err(|allowed: InvalidNewest| format!("'{text}' is not allowed; allowed: {allowed}"))
}

fn since(text: &str) -> Result<Since, String> {
    text.parse()
        .map_err(|allowed: InvalidSince| format!("'{text}' is not allowed; allowed: {allowed}"))
}

fn session(text: &str) -> Result<SessionName, String> {
    text.parse().map_err(|allowed: InvalidChannelName| {
        format!("'{text}' is not a name of a session; allowed: {allowed}")
    })
}

/// Checks that a text can be part of a hello line.
fn hello_keys(text: &str) -> Result<String, String> {
    match text.chars().find(|c| !matches!(c, ' '..='~')) {
        None => Ok(text.to_owned()),
        Some(c) => Err(format!(
            "has a '{}' in it; allowed: printable ASCII such as 'channel=nmea since=5m', at most 4 KiB",
            c.escape_default()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(channel: Option<&str>, hello: Option<&str>) -> Result<Option<String>, String> {
        let args = ConnectArgs {
            channel: channel.map(|name| name.parse().unwrap()),
            hello: hello.map(str::to_owned),
            ..ConnectArgs::default()
        };
        let line = args.hello_line(false, None)?;
        Ok(line.map(|line| line.to_string()))
    }

    #[test]
    fn hello_for_its_answer_asks_for_json_unless_a_format_is_named() {
        let line = |hello: &str| {
            let args = ConnectArgs {
                hello: Some(hello.to_owned()),
                ..ConnectArgs::default()
            };
            let line = args.hello_line(true, None)?;
            Ok::<_, String>(line.map(|line| line.to_string()))
        };
        assert_eq!(line(""), Ok(Some("LINEHUB/1 format=json".to_owned())));
        assert_eq!(
            line("format=raw role=publish"),
            Ok(Some("LINEHUB/1 format=raw role=publish".to_owned()))
        );
        // With what is put behind it, the line is as long as it may be; and longer.
        let most = hello::HELLO_BYTES_MAX - "LINEHUB/1  format=json".len();
        assert_eq!(
            line(&"x".repeat(most)).unwrap().unwrap().len(),
            hello::HELLO_BYTES_MAX
        );
        assert!(line(&"x".repeat(most + 1)).is_err());
    }

    #[test]
    fn channel_is_a_key_of_the_hello() {
        assert_eq!(line(None, None), Ok(None));
        for (channel, hello, wanted) in [
            (None, Some(""), "LINEHUB/1"),
            (None, Some("  role=both "), "LINEHUB/1 role=both"),
            (Some("a"), None, "LINEHUB/1 channel=a"),
            (Some("a"), Some(""), "LINEHUB/1 channel=a"),
            (
                Some("a"),
                Some("role=publish"),
                "LINEHUB/1 channel=a role=publish",
            ),
            (
                Some("a"),
                Some("role=channel"),
                "LINEHUB/1 channel=a role=channel",
            ),
        ] {
            assert_eq!(line(channel, hello), Ok(Some(wanted.to_owned())));
        }
    }

    #[test]
    fn token_is_said_with_whatever_else_is() {
        let line = |hello: Option<&str>, for_answer| {
            let args = ConnectArgs {
                hello: hello.map(str::to_owned),
                ..ConnectArgs::default()
            };
            let line = args.hello_line(for_answer, Some("sesame"))?;
            Ok::<_, String>(line.unwrap().to_string())
        };
        assert_eq!(line(None, false).unwrap(), "LINEHUB/1 token=sesame");
        assert_eq!(
            line(Some("role=both"), true).unwrap(),
            "LINEHUB/1 role=both format=json token=sesame"
        );
        let error = line(Some("token=x"), false).unwrap_err();
        assert!(error.contains("allowed: one of them") && !error.contains("sesame"));
        let most = "x".repeat(hello::HELLO_BYTES_MAX - "LINEHUB/1  token=sesame".len());
        assert!(line(Some(&most), false).is_ok());
        assert!(
            !line(Some(&(most + "x")), false)
                .unwrap_err()
                .contains("sesame")
        );
    }

    #[test]
    fn options_of_the_past_and_sessions_are_words_of_the_hello() {
        let line = |set: fn(&mut ConnectArgs)| {
            let mut args = ConnectArgs {
                channel: Some("a".parse().unwrap()),
                hello: Some("x=1".to_owned()),
                ..ConnectArgs::default()
            };
            set(&mut args);
            let line = args.hello_line(false, Some("sesame"))?;
            Ok::<_, String>((line.unwrap().to_string(), args.first_place()))
        };
        let (said, _) = line(|args| {
            args.format = Some(Format::Raw);
            args.history = Some("5m".parse().unwrap());
            args.since = Some("5f3a9c11:4711".parse().unwrap());
        })
        .unwrap();
        let wanted = "x=1 format=raw history=5m since=5f3a9c11:4711 token=sesame";
        assert_eq!(said, format!("LINEHUB/1 channel=a {wanted}"));
        // Where to begin is said by each connection of one that resumes.
        let resumed = line(|args| {
            args.resume = true;
            args.format = Some(Format::Raw);
            args.history = Some("64KiB".parse().unwrap());
            args.since = Some("2s".parse().unwrap());
        });
        let wanted = "LINEHUB/1 channel=a x=1 format=json token=sesame";
        let first = " history=64KiB since=2s";
        assert_eq!(resumed, Ok((wanted.to_owned(), first.to_owned())));
        let (said, _) = line(|args| args.session = Some("s".parse().unwrap())).unwrap();
        let wanted = "LINEHUB/1 channel=a x=1 session=s ack format=json role=publish token=sesame";
        assert_eq!(said, wanted);
        let (said, _) = line(|args| {
            args.session = Some("s".parse().unwrap());
            args.hello = Some("role=both".to_owned());
        })
        .unwrap();
        let wanted = "LINEHUB/1 channel=a role=both session=s ack format=json token=sesame";
        assert_eq!(said, wanted);
    }

    #[test]
    fn what_an_option_says_is_not_in_hello_too() {
        let error = |hello: &str, set: fn(&mut ConnectArgs)| {
            let mut args = ConnectArgs {
                hello: Some(hello.to_owned()),
                ..ConnectArgs::default()
            };
            set(&mut args);
            args.hello_line(false, None).unwrap_err()
        };
        let session: fn(&mut ConnectArgs) = |args| args.session = Some("s".parse().unwrap());
        let resume: fn(&mut ConnectArgs) = |args| args.resume = true;
        let history: fn(&mut ConnectArgs) = |args| args.history = Some("1".parse().unwrap());
        for (hello, set, wrong) in [
            ("session=t", session, "--session: --hello has a session too"),
            ("ack", session, "--session: --hello has an ack too"),
            ("format=raw", session, "--session: --hello has a format too"),
            ("format=json", resume, "--resume: --hello has a format too"),
            (
                "since=5m",
                resume,
                "--resume: --hello has since; allowed: --since",
            ),
            (
                "history=5m",
                resume,
                "--resume: --hello has history; allowed: --history",
            ),
            (
                "history=5m",
                history,
                "--history: --hello has a history too",
            ),
        ] {
            let error = error(hello, set);
            assert!(error.starts_with(wrong), "{error}");
        }
        // The longest place fits behind the longest line.
        let keys = "x".repeat(hello::HELLO_BYTES_MAX - "LINEHUB/1  format=json".len());
        assert!(error(&keys, resume).starts_with("--hello: the line has 4132 bytes"));
    }

    #[test]
    fn channel_is_said_once() {
        for hello in ["channel=a", "role=both  channel=b", "channel", "channel="] {
            let error = line(Some("a"), Some(hello)).unwrap_err();
            assert!(
                error.starts_with("--channel: --hello has a channel too"),
                "{error}"
            );
        }
    }

    #[test]
    fn hello_is_printable_ascii() {
        for text in ["", "channel=nmea since=5m", "~"] {
            assert_eq!(hello_keys(text).as_deref(), Ok(text));
        }
        for (text, wrong) in [
            ("a\nb", "has a '\\n' in it"),
            ("caf\u{e9}", "has a '\\u{e9}' in it"),
        ] {
            let error = hello_keys(text).unwrap_err();
            assert!(error.starts_with(&format!("{wrong}; allowed: ")), "{error}");
        }
    }

    #[test]
    fn whole_line_has_4_kib_at_most() {
        let keys = "x".repeat(4096 - "LINEHUB/1 ".len());
        assert_eq!(line(None, Some(&keys)).unwrap().unwrap().len(), 4096);
        let one_more = keys.clone() + "x";
        for (channel, keys) in [(None, &one_more), (Some("a"), &keys)] {
            let error = line(channel, Some(keys)).unwrap_err();
            assert!(error.starts_with("--hello: the line has 4"), "{error}");
        }
    }
}
