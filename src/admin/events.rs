//! `/events`: the status every second, to everybody who watches, made once for all of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use http_body_util::channel::{Channel, Sender};
use hyper::body::Bytes;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::history::PERIOD;
use super::view::View;

/// Who may watch at a time: less than all connections, so that open pages cannot shut others out.
const WATCHERS_MAX: usize = 16;

/// What is sent to all who watch.
#[derive(Debug)]
pub(super) struct Events {
    latest: watch::Sender<Bytes>,
    places: Arc<Semaphore>,
}

/// What one who watches is sent.
pub(super) type EventStream = Channel<Bytes, hyper::Error>;

/// Lasts while a connection has something asked of it. Raised by [`Busy::begin`].
#[derive(Debug)]
pub(super) struct Busy(Arc<AtomicBool>);

impl Busy {
    pub(super) fn begin(flag: &Arc<AtomicBool>) -> Busy {
        flag.store(true, Relaxed);
        Busy(flag.clone())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.store(false, Relaxed);
    }
}

impl Events {
    pub(super) fn new() -> Arc<Events> {
        Arc::new(Events {
            latest: watch::Sender::new(Bytes::new()),
            places: Arc::new(Semaphore::new(WATCHERS_MAX)),
        })
    }

    /// Takes a sample every second for as long as it is polled, and tells those who watch.
    pub(super) async fn run(&self, view: &Arc<View>) {
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        view.pause_samples();
        let mut last = Instant::now();
        loop {
            ticks.tick().await;
            let since_last = last.elapsed();
            last += since_last;
            let watched = self.latest.receiver_count() > 0;
            let status = view.ask(move |view| {
                view.sample(since_last);
                watched.then(|| event("status", &view.status()))
            });
            if let Some(Some(status)) = status.await {
                self.latest.send_replace(status);
            }
        }
    }

    /// A body that goes on until who watches has enough of it; `None` when too many watch.
    pub(super) fn subscribe(&self, view: Arc<View>, busy: Busy) -> Option<EventStream> {
        let place = self.places.clone().try_acquire_owned().ok()?;
        let (sender, body) = Channel::new(1);
        let updates = self.latest.subscribe();
        tokio::spawn(tell(view, updates, sender, busy, place));
        Some(body)
    }
}

/// Tells one who watches, until that one is gone. Who takes less than there is gets the latest.
async fn tell(
    view: Arc<View>,
    mut updates: watch::Receiver<Bytes>,
    mut to: Sender<Bytes, hyper::Error>,
    _busy: Busy,
    _place: OwnedSemaphorePermit,
) {
    let first = view.ask(|view| {
        let history = event("history", &view.history());
        let status = event("status", &view.status());
        [history, status].concat()
    });
    let Some(first) = first.await else { return };
    updates.mark_unchanged();
    let mut next = Bytes::from(first);
    while to.send_data(next).await.is_ok() && updates.changed().await.is_ok() {
        next = updates.borrow_and_update().clone();
    }
}

/// One event, as <https://html.spec.whatwg.org/multipage/server-sent-events.html> has it: JSON has no
/// line end in it.
fn event(name: &str, document: &impl Serialize) -> Bytes {
    let data = serde_json::to_string(document).unwrap_or_default();
    Bytes::from(format!("event: {name}\ndata: {data}\n\n"))
}
