//! `linehub connect`, as it is typed.

use std::path::PathBuf;

use clap::{Args, ValueHint};
use zeroize::Zeroizing;

use super::tls::TlsArgs;
use crate::config::words;
use crate::wire::channel::ChannelName;
use crate::wire::hello;

/// Most bytes of a hello line and its LF, whatever is put together for it.
const HELLO_LINE_BYTES_MAX: usize = 4 * hello::HELLO_BYTES_MAX;

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

    /// Connect again when the connection is gone or cannot be made [default: auto]
    ///
    /// The first pause is 100 ms, each next one twice as long, 10 s at most, and each is cut by chance
    /// to between a half and the whole of itself. After a connection that lasted longer than 10 s they
    /// begin anew. auto: true when standard input is a terminal or with --listen-only.
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

    /// Say nothing on stderr but why it failed
    #[arg(long, short)]
    pub quiet: bool,

    /// TLS of the connection.
    #[command(flatten)]
    pub tls: TlsArgs,
}

impl ConnectArgs {
    /// The line to say hello with, without its LF; `None` if nothing is to be said. The token comes last. If the answer is what
    /// it is said for, and no format is named, it asks for `json`: `raw` has none.
    ///
    /// # Errors
    /// What cannot be said, in one line.
    pub fn hello_line(
        &self,
        for_answer: bool,
        token: Option<&str>,
    ) -> Result<Option<Zeroizing<String>>, String> {
        let channel = self.channel.as_ref().map(|name| format!("channel={name}"));
        let keys = match (channel, &self.hello) {
            (None, None) if token.is_none() => return Ok(None),
            (Some(_), Some(keys)) if names(keys, "channel") => {
                return Err("--channel: --hello has a channel too; allowed: one of them".to_owned());
            }
            (_, Some(keys)) if token.is_some() && names(keys, "token") => {
                let wrong = "--hello: there is a token beside it; allowed: one of them";
                return Err(wrong.to_owned());
            }
            (channel, keys) => [channel, keys.clone()].map(Option::unwrap_or_default),
        };
        let mut keys = keys.join(" ").trim().to_owned();
        if for_answer && !names(&keys, "format") {
            keys.push_str(" format=json");
        }
        // As long as it becomes, with its LF: no copy of a token is left behind where it grew.
        let mut line = Zeroizing::new(String::with_capacity(HELLO_LINE_BYTES_MAX));
        line.push_str(&hello::line(keys.trim()));
        for part in token.into_iter().flat_map(|token| [" token=", token]) {
            line.push_str(part);
        }
        match line.len() {
            ..=hello::HELLO_BYTES_MAX => Ok(Some(line)),
            bytes => Err(format!(
                "--hello: the line has {bytes} bytes with what is put before it; allowed: at most {}",
                hello::HELLO_BYTES_MAX
            )),
        }
    }
}

/// Whether the keys of a hello have this one among them.
fn names(keys: &str, key: &str) -> bool {
    let mut words = keys.split(' ');
    words.any(|word| word.split('=').next() == Some(key))
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
