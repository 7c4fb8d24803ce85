//! The handshake: what happens between accept and join, before a connection is a client.
//!
//! ```text
//! accept ─► handshake ─► join
//! ```
//!
//! A connection in its handshake is no client: no id, no notice, no lines. Its permit counts it for
//! `--max-clients`. A listener that asks for nothing has its connections joined in the same turn of its
//! accept loop ([`Handshake::Done`]). A handshake that waits for the peer does so in a task of its own
//! ([`Handshake::Waits`]), so that nobody else is held up. Whatever refuses a connection, here or before,
//! is a [`Refusal`].
//!
//! Neither a drain nor a handover waits for a handshake: [`Handshakes::end`] tells each peer that the
//! daemon stops, and closes the connection.

use std::pin::Pin;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::config::ListenerOptions;
use crate::net::stream::{Connection, Stream};
use crate::wire::close_reason::CloseReason;
use crate::wire::format::{self, Format};

/// How long a refused connection may take to close its side.
pub(super) const REFUSAL_TIME: Duration = Duration::from_secs(2);

/// How long a peer may take to close its side at a stop or a handover, which waits for that: time for the
/// words to be on their way.
pub(super) const END_TIME: Duration = Duration::from_millis(250);

/// Steps done on one connection before it is a client. The future may be dropped at any await: the
/// connection is closed then. How long it waits at most is for each handshake to say.
pub(super) type Steps = Box<dyn for<'a> FnOnce(&'a mut Stream) -> StepsFuture<'a> + Send>;

type StepsFuture<'a> = Pin<Box<dyn Future<Output = Result<(), Refusal>> + Send + 'a>>;

/// What a listener asks of a connection first.
pub(super) enum Handshake {
    /// Nothing: the connection is a client at once.
    Done,
    /// Steps that wait for the peer.
    #[cfg_attr(not(test), expect(dead_code, reason = "no option asks for any yet"))]
    Waits(Steps),
}

impl Handshake {
    /// What a listener with these options asks for.
    pub(super) fn of(_: &ListenerOptions) -> Handshake {
        Handshake::Done
    }
}

/// Why a connection does not become a client, and what its peer is told.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) reason: CloseReason,
    /// Words for the peer. A stop has words of its own, which every client is told.
    pub(super) detail: String,
}

impl Refusal {
    /// The server has as many clients as it may have.
    pub(super) fn full(max: usize) -> Refusal {
        Refusal {
            reason: CloseReason::Full,
            detail: format!("server full ({max} clients)"),
        }
    }

    /// The daemon stops, or another takes its place.
    pub(super) fn stopping() -> Refusal {
        Refusal {
            reason: CloseReason::Shutdown,
            detail: String::new(),
        }
    }

    /// Tells the peer, and shuts the sending side. Returns the connection if the words need it open for
    /// a while (see [`linger`]).
    ///
    /// In `raw`, which has no words, a reset says it: an end would look as if what was sent had been
    /// taken.
    pub(super) fn tell(&self, stream: Stream, format: Format) -> Option<Stream> {
        if format == Format::Raw {
            // Without the reset, the connection ends all the same.
            let _ = stream.reset_on_close();
            return None;
        }
        let mut words = Vec::new();
        match self.reason {
            CloseReason::Shutdown => format::shutdown(format, &mut words),
            reason => format::error(format, reason, &self.detail, &mut words),
        }
        let told = stream
            .write_at_once(&words)
            .and_then(|_| stream.shut_write());
        told.is_ok().then_some(stream)
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
    /// all, [`END_TIME`] at most. Those that begin later are not concerned.
    pub(super) async fn end(&self) {
        self.ended.send_replace(());
        self.tasks.close();
        self.tasks.wait().await;
        self.tasks.reopen();
    }
}
