//! The words of a hello line.

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;

use zeroize::Zeroizing;

use crate::wire::channel::{ChannelName, InvalidChannelName};
use crate::wire::format::{Format, UnknownFormat};
use crate::wire::past::{InvalidNewest, InvalidSince, Newest, Since};
use crate::wire::role::Role;
use crate::wire::session::SessionName;

/// Most bytes of a hello line, without its line end.
pub const HELLO_BYTES_MAX: usize = 4096;

/// The first word, with the version of what follows.
const VERSION: &str = "LINEHUB/1";

/// Most characters of an unknown key that its sender is shown: enough to find it.
const SHOWN_KEY_BYTES_MAX: usize = 32;

/// What a client asks for. What it does not name is as its listener has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hello {
    /// The channel to join.
    pub channel: Option<ChannelName>,
    /// What it means to do there. Whether it may is not looked at here.
    pub role: Option<Role>,
    /// How it wants to see the stream.
    pub format: Option<Format>,
    /// By what it shows who it is.
    pub token: Option<Secret>,
    /// What it wants first of what was there before it; with `since`, if that cannot be had.
    pub history: Option<Newest>,
    /// The place that it goes on from.
    pub since: Option<Since>,
    /// The session that its lines are counted under.
    pub session: Option<SessionName>,
    /// Whether it wants to hear how many lines of its session are safe. Only with `session`.
    pub ack: bool,
}

/// A token as it is presented. Its memory is overwritten when it is dropped, and it is never displayed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// The token itself.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl FromStr for Secret {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Secret, Infallible> {
        Ok(Secret(Zeroizing::new(text.to_owned())))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// What is wrong with a hello line. Displays what its sender is told: one line of printable ASCII, at
/// most 200 bytes, with no value in it, since that may be a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HelloError {
    /// It is none: it does not begin with the version.
    Expected,
    /// It has more than [`HELLO_BYTES_MAX`] bytes.
    TooLong,
    /// A byte of it is neither printable ASCII nor a blank.
    NotAscii,
    /// A key that there is not, as far as it is shown.
    UnknownKey(String),
    /// A key that came before.
    Repeated(&'static str),
    /// A key with nothing behind it.
    NoValue(&'static str),
    /// A word that has no value, with one.
    Valued(&'static str),
    /// `ack`, and no `session` whose lines it would be about.
    AckWithoutSession,
    /// A key whose value is none of those allowed.
    InvalidValue(&'static str),
}

/// Keys, each once a hello and with a value.
const KEYS: [&str; 7] = [
    "channel", "role", "format", "token", "history", "since", "session",
];

/// The word that has no value.
const ACK: &str = "ack";

/// The hello line of a client that asks for these keys, without its LF.
pub fn line(keys: &str) -> String {
    let mut line = format!("{VERSION} {keys}");
    line.truncate(line.trim_end().len());
    line
}

/// Reads a hello line without its LF. One CR at its end belongs to the line end.
///
/// Words are parted by one or more blanks or tabs, which may also stand at the end. Keys are in lower
/// case.
pub fn parse(line: &[u8]) -> Result<Hello, HelloError> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.len() > HELLO_BYTES_MAX {
        return Err(HelloError::TooLong);
    }
    let mut words = line.split(is_blank);
    if words.next() != Some(VERSION.as_bytes()) {
        return Err(HelloError::Expected);
    }
    let is_allowed = |byte: &u8| byte.is_ascii_graphic() || is_blank(byte);
    let line = str::from_utf8(line)
        .ok()
        .filter(|_| line.iter().all(is_allowed));
    let line = line.ok_or(HelloError::NotAscii)?;

    let mut hello = Hello::default();
    for word in line[VERSION.len()..].split_ascii_whitespace() {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        if key == ACK {
            match (word == ACK, hello.ack) {
                (false, _) => return Err(HelloError::Valued(ACK)),
                (true, true) => return Err(HelloError::Repeated(ACK)),
                (true, false) => hello.ack = true,
            }
            continue;
        }
        let Some(key) = KEYS.into_iter().find(|known| *known == key) else {
            return Err(HelloError::unknown(key));
        };
        if value.is_empty() {
            return Err(HelloError::NoValue(key));
        }
        match key {
            "channel" => set(&mut hello.channel, key, value)?,
            "role" => set(&mut hello.role, key, value)?,
            "format" => set(&mut hello.format, key, value)?,
            "history" => set(&mut hello.history, key, value)?,
            "since" => set(&mut hello.since, key, value)?,
            "session" => set(&mut hello.session, key, value)?,
            _ => set(&mut hello.token, key, value)?,
        }
    }
    match hello.ack && hello.session.is_none() {
        true => Err(HelloError::AckWithoutSession),
        false => Ok(hello),
    }
}

fn set<T: FromStr>(into: &mut Option<T>, key: &'static str, value: &str) -> Result<(), HelloError> {
    if into.is_some() {
        return Err(HelloError::Repeated(key));
    }
    let value = value.parse().map_err(|_| HelloError::InvalidValue(key))?;
    *into = Some(value);
    Ok(())
}

fn is_blank(byte: &u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

impl HelloError {
    fn unknown(key: &str) -> HelloError {
        let mut shown: String = key.chars().take(SHOWN_KEY_BYTES_MAX).collect();
        if shown.len() < key.len() {
            shown.push_str("...");
        }
        HelloError::UnknownKey(shown)
    }
}

/// What is allowed as the value of a key.
pub(in crate::wire) fn allowed(key: &str) -> String {
    match key {
        "channel" | "session" => format!("expected {InvalidChannelName}"),
        "history" => format!("expected {InvalidNewest}"),
        "since" => format!("expected {InvalidSince}"),
        "role" => "expected both, publish or subscribe".to_owned(),
        _ => UnknownFormat.to_string(),
    }
}

impl fmt::Display for HelloError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HelloError::Expected => f.write_str("hello expected"),
            HelloError::TooLong => {
                write!(f, "hello expected, of at most {HELLO_BYTES_MAX} bytes")
            }
            HelloError::NotAscii => f.write_str("hello expected, in printable ASCII"),
            HelloError::UnknownKey(key) => {
                write!(f, "unknown key \"{}\" in hello", key.escape_default())
            }
            HelloError::Repeated(key) => write!(f, "\"{key}\" given twice in hello"),
            HelloError::NoValue(key) => write!(f, "\"{key}\" without a value in hello"),
            HelloError::Valued(key) => write!(f, "\"{key}\" takes no value in hello"),
            HelloError::AckWithoutSession => f.write_str("\"ack\" without \"session\" in hello"),
            HelloError::InvalidValue(key) => {
                write!(f, "invalid value of \"{key}\" in hello: {}", allowed(key))
            }
        }
    }
}

impl std::error::Error for HelloError {}
