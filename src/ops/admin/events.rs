//! `/events`: the status every second, to everybody who watches, made once for all of them.

use std::collections::VecDeque;
use std::sync::Arc;

use http_body_util::channel::{Channel, Sender};
use hyper::body::Bytes;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::history::PERIOD;
use super::state::AdminState;

/// Who may watch at a time: less than all connections, so that open pages cannot shut others out. One
/// more ends the oldest, so that nobody can hold these permits; a page that is ended comes back.
const WATCHERS_MAX: usize = 16;

/// What is sent to all who watch.
#[derive(Debug)]
pub(super) struct Events {
    latest: watch::Sender<Bytes>,
    /// The oldest first.
    watchers: Mutex<VecDeque<AbortHandle>>,
}

/// What one who watches is sent.
pub(super) type EventStream = Channel<Bytes, hyper::Error>;

impl Events {
    pub(super) fn new() -> Arc<Events> {
        Arc::new(Events {
            latest: watch::Sender::new(Bytes::new()),
            watchers: Mutex::default(),
        })
    }

    /// Takes a sample every second for as long as it is polled, and tells those who watch.
    pub(super) async fn run(&self, view: &Arc<AdminState>) {
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
                let stats = view.sample(since_last);
                watched.then(|| event("status", &view.status_of(&stats)))
            });
            if let Some(Some(status)) = status.await {
                self.latest.send_replace(status);
            }
        }
    }

    /// A body that goes on until who watches has enough of it, or too many others watch.
    pub(super) fn subscribe(&self, view: Arc<AdminState>) -> EventStream {
        let (sender, body) = Channel::new(1);
        let updates = self.latest.subscribe();
        let watcher = tokio::spawn(tell(view, updates, sender)).abort_handle();
        let mut watchers = self.watchers.lock();
        watchers.retain(|watcher| !watcher.is_finished());
        if watchers.len() == WATCHERS_MAX
            && let Some(oldest) = watchers.pop_front()
        {
            oldest.abort();
        }
        watchers.push_back(watcher);
        body
    }
}

/// Tells one who watches, until that one is gone. Who takes less than there is gets the latest.
async fn tell(
    view: Arc<AdminState>,
    mut updates: watch::Receiver<Bytes>,
    mut to: Sender<Bytes, hyper::Error>,
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
