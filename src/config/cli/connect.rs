//! `linehub connect`, as it is typed.

use clap::Args;

use crate::config::words;
use crate::wire::channel::ChannelName;

/// What `linehub connect --help` ends with.
pub(super) const MORE: &str = "\
Examples:
  Talk to the daemon on this machine.
    $ linehub connect

  Send a file and know whether the daemon took it all.
    $ linehub connect --send-only 127.0.0.1:2345 < lines && echo sent

  Record what comes, over restarts of the daemon.
    $ linehub connect --listen-only unix:/run/linehub.sock >> lines

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

    /// Join channel NAME: what `--hello channel=NAME` says
    #[arg(long, value_name = "NAME", value_parser = words::channel)]
    pub channel: Option<ChannelName>,

    /// Say hello first, with these keys, to a listener with `hello`
    ///
    /// Such as 'channel=nmea role=subscribe'; '' says it without keys. Printable ASCII, at most 4 KiB.
    /// What --channel says is put before it.
    #[arg(long, value_name = "KEYS", value_parser = hello_keys, allow_hyphen_values = true)]
    pub hello: Option<String>,

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
}

impl ConnectArgs {
    /// The keys to say hello with; `None` if nothing is to be said.
    pub fn hello_keys(&self) -> Option<String> {
        let channel = self.channel.as_ref().map(|name| format!("channel={name}"));
        match (channel, &self.hello) {
            (Some(channel), Some(keys)) => Some(format!("{channel} {keys}").trim_end().to_owned()),
            (channel, keys) => channel.or_else(|| keys.clone()),
        }
    }
}

/// Checks that a text can be part of a hello line.
fn hello_keys(text: &str) -> Result<String, String> {
    /// Most bytes of a hello line.
    const BYTES_MAX: usize = 4096;
    let wrong = if text.len() > BYTES_MAX {
        format!("has {} bytes", text.len())
    } else if let Some(c) = text.chars().find(|c| !matches!(c, ' '..='~')) {
        format!("has a '{}' in it", c.escape_default())
    } else {
        return Ok(text.to_owned());
    };
    Err(format!(
        "{wrong}; allowed: printable ASCII such as 'channel=nmea since=5m', at most 4 KiB"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channel_is_a_key_of_the_hello() {
        let keys = |channel: Option<&str>, hello: Option<&str>| {
            let args = ConnectArgs {
                channel: channel.map(|name| name.parse().unwrap()),
                hello: hello.map(str::to_owned),
                ..ConnectArgs::default()
            };
            args.hello_keys()
        };
        assert_eq!(keys(None, None), None);
        assert_eq!(keys(None, Some("")).as_deref(), Some(""));
        assert_eq!(keys(Some("a"), None).as_deref(), Some("channel=a"));
        assert_eq!(keys(Some("a"), Some("")).as_deref(), Some("channel=a"));
        let both = keys(Some("a"), Some("role=publish"));
        assert_eq!(both.as_deref(), Some("channel=a role=publish"));
    }

    #[test]
    fn hello_is_printable_ascii_of_4_kib() {
        for text in ["", "channel=nmea since=5m", &"x".repeat(4096)] {
            assert_eq!(hello_keys(text).as_deref(), Ok(text));
        }
        for (text, wrong) in [
            ("a\nb", "has a '\\n' in it"),
            ("caf\u{e9}", "has a '\\u{e9}' in it"),
            (&"x".repeat(4097), "has 4097 bytes"),
        ] {
            let error = hello_keys(text).unwrap_err();
            assert!(error.starts_with(&format!("{wrong}; allowed: ")), "{error}");
        }
    }
}
