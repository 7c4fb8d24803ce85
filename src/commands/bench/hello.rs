//! The hello of all connections of a run, and whether a listener takes one.

use std::fmt;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use zeroize::Zeroizing;

use super::endpoint::{Endpoint, Talk};
use crate::commands::daemon_line::DaemonLine;
use crate::config::Address;
use crate::wire::channel::ChannelName;
use crate::wire::format::Format;
use crate::wire::hello;

/// How long a listener may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// How long the daemon may take to see that a client has left.
const LEAVE_PATIENCE: Duration = Duration::from_millis(250);

/// More than any answer has.
const ANSWER_BYTES_MAX: u64 = 1024;

/// The channel that all connections of a run join, and the token that they say.
#[derive(Clone)]
pub(super) struct Hello {
    pub(super) channel: ChannelName,
    pub(super) token: Option<Zeroizing<String>>,
}

/// Without the token.
impl fmt::Debug for Hello {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.channel.fmt(f)
    }
}

impl Hello {
    /// The line by which a connection joins, in a format if one is asked for.
    pub(super) fn line(&self, format: Option<Format>) -> String {
        let format = format.map_or(String::new(), |format| format!(" format={format}"));
        let token = self.token.as_ref();
        let token = token.map_or(String::new(), |token| format!(" token={}", **token));
        hello::line(&format!("channel={}{format}{token}", self.channel))
    }
}

/// Says hello on a connection of its own: a listener without `hello` takes it for a line, of which
/// others get this one and not one of each connection. It asks for `json`, since `raw` has no answer.
///
/// # Errors
/// The listener takes no hello, or not this one.
pub(super) fn try_out(endpoint: &Endpoint, address: &Address, hello: &Hello) -> Result<()> {
    let talk = endpoint.talk();
    let mut talk = talk.with_context(|| format!("cannot connect to {address}"))?;
    talk.set_patience(PATIENCE)?;
    let hello = hello.line(Some(Format::Json)) + "\n";
    // What fails here shows when the answer is read.
    let _ = talk.write_all(hello.as_bytes());
    let mut answer = Vec::new();
    let mut input = BufReader::new(&mut talk).take(ANSWER_BYTES_MAX);
    let read = input.read_until(b'\n', &mut answer);
    match (read, DaemonLine::read(&answer)) {
        (_, Some(DaemonLine::Hello)) => leave(talk),
        (_, Some(DaemonLine::Error { detail, .. })) => {
            bail!("the daemon refuses the hello: Error: {detail}")
        }
        (Err(error), None) if error.kind() != std::io::ErrorKind::WouldBlock => {
            bail!("the daemon refuses the hello: {error}")
        }
        _ => bail!(
            "{address} has not answered the hello: --channel needs a listener with `hello`, as in \
             --listen {address},hello"
        ),
    }
}

/// Leaves, and waits a moment for the daemon to have seen that: until then the connection counts for its
/// `--max-clients`. With `--half-close keep` it sees it when the socket is closed.
fn leave(mut talk: Talk) -> Result<()> {
    talk.shut()?;
    let begun = Instant::now();
    let mut dropped = [0; 64 * 1024];
    loop {
        let left = LEAVE_PATIENCE.saturating_sub(begun.elapsed());
        if left.is_zero() {
            return Ok(());
        }
        talk.set_patience(left)?;
        // An error is an end as well, or that of the time.
        if matches!(talk.read(&mut dropped), Ok(0) | Err(_)) {
            return Ok(());
        }
    }
}
