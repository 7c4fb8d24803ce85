//! Connections to the admin server, and what they are held to.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::task::AbortHandle;
use tokio::time::sleep;
use tokio_io_timeout::TimeoutStream;
use tracing::{debug, warn};

use super::answer::Desk;
use super::events::Busy;
use crate::listen::{Listener, Stream};

/// Connections at a time. One more closes the one that has waited longest without a request.
const CONNECTIONS_MAX: usize = 64;

/// How long a request may take to arrive, and a connection may be idle.
const REQUEST_TIME: Duration = Duration::from_secs(10);

/// How long a peer may take no byte of an answer.
const STALL_TIME: Duration = Duration::from_secs(10);

/// What a request may have in all, in bytes, before its body; and how many headers.
const REQUEST_BYTES_MAX: usize = 16 * 1024;
const HEADERS_MAX: usize = 64;

/// How long to wait when the system has no descriptor left.
const BACKOFF: Duration = Duration::from_millis(200);

/// The connections there are, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Connections(Mutex<VecDeque<Connection>>);

#[derive(Debug)]
struct Connection {
    task: AbortHandle,
    /// A request is being answered.
    busy: Arc<AtomicBool>,
}

impl Connections {
    /// Accepts from this listener for as long as it is polled.
    pub(super) async fn accept(self: Arc<Connections>, listener: Listener, desk: Desk) {
        loop {
            let accepted = match listener.ready().await {
                Ok(()) => listener.accept(),
                Err(error) => Err(error),
            };
            let error = match accepted {
                Ok((socket, _peer)) => match Stream::new(socket) {
                    Ok(stream) => {
                        self.take(stream, desk.clone());
                        continue;
                    }
                    Err(error) => error,
                },
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
                Err(error) => error,
            };
            warn!(listener = %listener.name(), %error, "cannot accept");
            sleep(BACKOFF).await;
        }
    }

    fn take(&self, stream: Stream, desk: Desk) {
        let mut connections = self.lock();
        connections.retain(|connection| !connection.task.is_finished());
        if connections.len() >= CONNECTIONS_MAX {
            let idle = |connection: &Connection| !connection.busy.load(Relaxed);
            let Some(at) = connections.iter().position(idle) else {
                debug!("too many connections to the admin address: closed one");
                return;
            };
            if let Some(oldest) = connections.remove(at) {
                oldest.task.abort();
            }
        }
        let busy = Arc::new(AtomicBool::new(false));
        let task = tokio::spawn(converse(stream, desk, busy.clone())).abort_handle();
        connections.push_back(Connection { task, busy });
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Connection>> {
        // Nothing panics while it is held.
        self.0
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Answers the requests of one connection until it ends.
async fn converse(stream: Stream, desk: Desk, busy: Arc<AtomicBool>) {
    let mut stream = TimeoutStream::new(stream);
    // Reading has its time from hyper, which knows when a request is due.
    stream.set_write_timeout(Some(STALL_TIME));
    let answer = service_fn(move |request| {
        let (desk, busy) = (desk.clone(), Busy::begin(&busy));
        async move { Ok::<_, Infallible>(desk.answer(request, busy).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_TIME)
        .max_buf_size(REQUEST_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(Box::pin(stream)), answer);
    if let Err(error) = served.await {
        debug!(%error, "an admin connection failed");
    }
}
