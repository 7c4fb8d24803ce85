//! Connections to the admin server, and what they are held to.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::task::AbortHandle;
use tokio::time::sleep;
use tokio_io_timeout::TimeoutStream;
use tracing::{debug, warn};

use super::routes::Router;
use crate::client::acceptor::is_exhaustion;
use crate::config::ADMIN_CONNECTIONS_MAX;
use crate::net::listener::Listener;
use crate::net::stream::Stream;

/// How long a connection keeps its place while others wait for one. An answer takes milliseconds.
const TURN: Duration = Duration::from_millis(200);

/// How often it is looked whether a place is free, while there is none.
const ROOM_PERIOD: Duration = Duration::from_millis(5);

/// How long a request may take to arrive.
const REQUEST_TIME: Duration = Duration::from_secs(10);

/// How long a peer may take no byte of an answer.
const STALL_TIME: Duration = Duration::from_secs(10);

/// What a request may have in all, in bytes, before its body; and how many headers.
const REQUEST_BYTES_MAX: usize = 16 * 1024;
const HEADERS_MAX: usize = 64;

/// How long to wait when the system has no descriptor or memory left.
const BACKOFF: Duration = Duration::from_millis(200);

/// The connections there are, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Connections(Mutex<VecDeque<Connection>>);

#[derive(Debug)]
struct Connection {
    task: AbortHandle,
    since: Instant,
    /// It is sent events for as long as it is there.
    watches: Arc<AtomicBool>,
}

impl Connections {
    /// Accepts from this listener for as long as it is polled.
    pub(super) async fn accept(self: Arc<Connections>, listener: Listener, router: Router) {
        let mut exhausted = false;
        loop {
            let accepted = match listener.ready().await {
                Ok(()) => {
                    self.make_room().await;
                    listener.accept()
                }
                Err(error) => Err(error),
            };
            let error = match accepted {
                Ok((socket, _peer)) => match Stream::new(socket) {
                    Ok(stream) => {
                        self.take(stream, router.clone());
                        exhausted = false;
                        continue;
                    }
                    Err(error) => error,
                },
                Err(error) => error,
            };
            if is_exhaustion(&error) {
                if !exhausted {
                    warn!(listener = %listener.name(), %error, "cannot accept");
                }
                exhausted = true;
                sleep(BACKOFF).await;
            }
        }
    }

    /// Waits until there is a place, for as long as a turn may take at most.
    async fn make_room(&self) {
        while !self.has_room() {
            sleep(ROOM_PERIOD).await;
        }
    }

    /// Whether there is a place, or one has been made.
    fn has_room(&self) -> bool {
        let mut connections = self.0.lock();
        connections.retain(|connection| !connection.task.is_finished());
        if connections.len() < ADMIN_CONNECTIONS_MAX {
            return true;
        }
        let asks = |connection: &Connection| !connection.watches.load(Relaxed);
        // There are fewer who watch than connections.
        let oldest = connections.iter().position(asks).unwrap_or(0);
        if connections[oldest].since.elapsed() < TURN {
            return false;
        }
        debug!("too many connections to the admin address: closing one");
        connections[oldest].task.abort();
        connections.remove(oldest);
        true
    }

    fn take(&self, stream: Stream, router: Router) {
        let watches = Arc::new(AtomicBool::new(false));
        let task = tokio::spawn(serve_connection(stream, router, watches.clone())).abort_handle();
        self.0.lock().push_back(Connection {
            task,
            since: Instant::now(),
            watches,
        });
    }
}

/// Answers the one request of a connection.
async fn serve_connection(stream: Stream, router: Router, watches: Arc<AtomicBool>) {
    let mut stream = TimeoutStream::new(stream);
    // Reading has its time from hyper, which knows when a request is due.
    stream.set_write_timeout(Some(STALL_TIME));
    let answer = service_fn(move |request| {
        let (router, watches) = (router.clone(), watches.clone());
        async move { Ok::<_, Infallible>(router.answer(request, watches).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(false)
        .header_read_timeout(REQUEST_TIME)
        .max_buf_size(REQUEST_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(Box::pin(stream)), answer);
    if let Err(error) = served.await {
        debug!(%error, "an admin connection failed");
    }
}
