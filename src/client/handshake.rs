//! The handshake: what happens between accept and join, before a connection is a client.
//!
//! ```text
//! accept ─► handshake ─► join
//! ```
//!
//! A connection in its handshake is no client: no id, no notice, no lines. Its permit counts it for
//! `--max-clients`. A listener that asks for nothing has its connections joined in the same turn of its
//! accept loop. A handshake that waits for the peer, as for its hello line, does so in a task of its own,
//! so that nobody else is held up; its bytes are looked at where they are, and only its own are taken.
//! Whatever refuses a connection, here or before, is a [`Refusal`].
//!
//! Neither a drain nor a handover waits long for a handshake: [`Handshakes::end`] tells each peer that the
//! daemon stops, and closes the connection.

use std::collections::HashSet;
use std::io;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::config::ListenerOptions;
use crate::hub::{Channels, Joining};
use crate::net::stream::{Connection, Stream};
use crate::wire::close_reason::CloseReason;
use crate::wire::format::{self, Format};
use crate::wire::hello::{self, HelloError, HelloInput, HelloReader};

/// How long a refused connection may take to close its side.
pub(super) const REFUSAL_TIME: Duration = Duration::from_secs(2);

/// How long handshakes may still go on by themselves at a stop or a handover: who has connected has sent
/// its hello, as a rule, and perhaps lines that must not be lost.
pub(super) const SETTLE_TIME: Duration = Duration::from_millis(100);

/// How long a peer may take to close its side at a stop or a handover, which waits for that: time for the
/// words to be on their way.
pub(super) const END_TIME: Duration = Duration::from_millis(250);

/// How a connection whose hello was taken becomes a client.
pub(super) struct Introduction {
    /// Its channel.
    pub(super) hub: Joining,
    /// The listener's options, less what the hello has otherwise.
    pub(super) options: Arc<ListenerOptions>,
    /// What telnet and line ends have come to.
    pub(super) reader: HelloReader,
}

/// Reads the hello line of a connection, and nothing behind it. Dropped at an await, it may have taken a
/// part of the line: the connection is to be closed then.
///
/// # Errors
/// Why the connection does not become a client.
pub(super) async fn introduce(
    stream: &Stream,
    options: &Arc<ListenerOptions>,
    channels: &Channels,
    granted: &GrantedOptions,
    time: Duration,
) -> Result<Introduction, Refusal> {
    let mut reader = HelloReader::new(options.format, options.line_end);
    let line = tokio::time::timeout(time, hello_line(stream, &mut reader)).await;
    let late = |_| {
        let detail = format!("hello expected within {}s", time.as_secs_f64());
        Err(Refusal::bad_hello(detail))
    };
    let wanted = line
        .unwrap_or_else(late)
        .and_then(|line| Ok(hello::parse(&line)?))
        .and_then(|hello| grant(hello, options, channels, granted));
    match wanted {
        Ok((hub, options)) => Ok(Introduction {
            hub,
            options,
            reader,
        }),
        Err(refusal) => Err(Refusal {
            crlf: reader.crlf(),
            ..refusal
        }),
    }
}

/// Gives a client what its hello asks for, as far as its listener lets it.
fn grant(
    hello: hello::Hello,
    options: &Arc<ListenerOptions>,
    channels: &Channels,
    granted: &GrantedOptions,
) -> Result<(Joining, Arc<ListenerOptions>), Refusal> {
    let asked = hello.role.unwrap_or(options.role);
    let Some(role) = options.role.narrowed_to(asked) else {
        let detail = format!("role {asked} is not allowed here, only {}", options.role);
        return Err(Refusal::bad_hello(detail));
    };
    let format = hello.format.unwrap_or(options.format);
    let hub = match &hello.channel {
        None => channels.of_listener(&options.channel),
        Some(name) => channels.open(name).ok_or_else(Refusal::no_channel)?,
    };
    let listed = (options.role, options.format, &options.channel);
    let options = if (role, format, hub.name()) == listed {
        options.clone()
    } else {
        granted.share(ListenerOptions {
            role,
            format,
            channel: hub.name().clone(),
            ..ListenerOptions::clone(options)
        })
    };
    Ok((hub, options))
}

/// Options that hellos were granted, which all clients with the same ones share.
#[derive(Debug, Default)]
pub(super) struct GrantedOptions(Mutex<HashSet<Arc<ListenerOptions>>>);

impl GrantedOptions {
    pub(super) fn share(&self, options: ListenerOptions) -> Arc<ListenerOptions> {
        let mut known = self.0.lock();
        if let Some(known) = known.get(&options) {
            return known.clone();
        }
        if known.len() == known.capacity() {
            // Instead of growing for those that nobody has any more.
            known.retain(|options| Arc::strong_count(options) > 1);
        }
        let options = Arc::new(options);
        known.insert(options.clone());
        options
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.lock().len()
    }
}

/// The first line that a connection sends.
async fn hello_line(stream: &Stream, reader: &mut HelloReader) -> Result<Vec<u8>, Refusal> {
    loop {
        let mut answers = Vec::new();
        let line = stream.read_part(|bytes| {
            if bytes.is_empty() {
                return (0, Some(reader.finish().ok_or_else(Refusal::left)));
            }
            match reader.push(bytes, &mut answers) {
                HelloInput::Pending => (bytes.len(), None),
                HelloInput::Line { line, rest } => (bytes.len() - rest.len(), Some(Ok(line))),
                HelloInput::TooLong => (bytes.len(), Some(Err(HelloError::TooLong.into()))),
                HelloInput::Left => (bytes.len(), Some(Err(Refusal::left()))),
            }
        });
        let line = line.await?;
        if !answers.is_empty() {
            // Nobody who takes no answers is worth more than that.
            stream.write_at_once(&answers)?;
        }
        if let Some(line) = line {
            return line;
        }
    }
}

/// Why a connection does not become a client, and what its peer is told.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) reason: CloseReason,
    /// Words for the peer. A stop has words of its own, which every client is told; a peer that has gone
    /// by itself is told nothing.
    detail: String,
    /// Its own lines end in CR LF, and so do those to it.
    crlf: bool,
}

impl Refusal {
    fn new(reason: CloseReason, detail: impl Into<String>) -> Refusal {
        Refusal {
            reason,
            detail: detail.into(),
            crlf: false,
        }
    }

    /// The server has as many clients as it may have.
    pub(super) fn full(max: usize) -> Refusal {
        Refusal::new(CloseReason::Full, format!("server full ({max} clients)"))
    }

    /// The daemon stops, or another takes its place.
    pub(super) fn stopping() -> Refusal {
        Refusal::new(CloseReason::Shutdown, "")
    }

    fn bad_hello(detail: impl Into<String>) -> Refusal {
        Refusal::new(CloseReason::BadHello, detail)
    }

    fn no_channel() -> Refusal {
        Refusal::new(CloseReason::NoChannel, "no such channel")
    }

    /// The peer has shut its sending side, or asked to leave.
    fn left() -> Refusal {
        Refusal::new(CloseReason::Eof, "")
    }

    /// Tells the peer, and shuts the sending side. Returns the connection if the words need it open for
    /// a while (see [`linger`]).
    ///
    /// In `raw`, which has no words, a reset says it: an end would look as if what was sent had been
    /// taken.
    pub(super) fn tell(&self, stream: Stream, format: Format) -> Option<Stream> {
        let mut words = Vec::new();
        match self.reason {
            CloseReason::Eof | CloseReason::Reset => return None,
            _ if format == Format::Raw => {
                // Without the reset, the connection ends all the same.
                let _ = stream.reset_on_close();
                return None;
            }
            CloseReason::Shutdown => format::shutdown(format, &mut words),
            reason => format::error(format, reason, &self.detail, &mut words),
        }
        if self.crlf && format == Format::Text {
            let lines = mem::take(&mut words);
            format::crlf(&lines, &mut words);
        }
        let told = stream
            .write_at_once(&words)
            .and_then(|_| stream.shut_write());
        told.is_ok().then_some(stream)
    }
}

impl From<HelloError> for Refusal {
    fn from(wrong: HelloError) -> Refusal {
        Refusal::bad_hello(wrong.to_string())
    }
}

/// The connection broke in its handshake.
impl From<io::Error> for Refusal {
    fn from(_: io::Error) -> Refusal {
        Refusal::new(CloseReason::Reset, "")
    }
}

/// Waits until the peer of a refused connection closes its side, at most so long. A close over input that
/// was not read would make the kernel reset the connection, and the words with it. Cancel safe.
pub(super) async fn linger(stream: Stream, time: Duration) {
    // Nothing is left to be done after an error or the end of the time.
    let _ = tokio::time::timeout(time, stream.discard_input()).await;
}

/// The handshakes that wait for their peers, each in a task of its own.
#[derive(Debug, Default)]
pub(super) struct Handshakes {
    tasks: TaskTracker,
    /// Changes when all that have begun are to end.
    ended: watch::Sender<()>,
}

impl Handshakes {
    /// Starts the task of one handshake, which is told of an end by what `task` is given.
    pub(super) fn spawn<T>(&self, task: impl FnOnce(watch::Receiver<()>) -> T)
    where
        T: Future<Output = ()> + Send + 'static,
    {
        self.tasks.spawn(task(self.ended.subscribe()));
    }

    /// Ends all that have begun, and waits until each connection is closed or has become a client after
    /// all. What has been sent already, or is on its way, has [`SETTLE_TIME`] to be taken; who is told
    /// then has [`END_TIME`]. Those that begin later are not concerned.
    pub(super) async fn end(&self) {
        self.tasks.close();
        let settled = tokio::time::timeout(SETTLE_TIME, self.tasks.wait()).await;
        if settled.is_err() {
            self.ended.send_replace(());
            self.tasks.wait().await;
        }
        self.tasks.reopen();
    }
}
