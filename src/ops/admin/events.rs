//! `/events`: the status every second, to everybody who watches, made once for all of them.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;

use futures::stream::{self, Stream, StreamExt};
use hyper::body::Bytes;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::samples::PERIOD;
use super::state::AdminState;

/// Who may watch at a time: less than all connections, so that open pages cannot shut others out. One
/// more ends the oldest, so that nobody can hold these permits; a page that is ended comes back.
const WATCHERS_MAX: usize = 16;

/// What is sent to all who watch.
#[derive(Debug)]
pub(super) struct Events {
    latest: watch::Sender<Bytes>,
    /// Dropping one ends what its watcher is sent. The oldest first.
    watchers: Mutex<VecDeque<oneshot::Sender<Infallible>>>,
}

/// One who watches, and has been sent the samples or not yet.
struct Watcher {
    state: Arc<AdminState>,
    updates: watch::Receiver<Bytes>,
    has_first: bool,
}

impl Events {
    pub(super) fn new() -> Arc<Events> {
        Arc::new(Events {
            latest: watch::Sender::new(Bytes::new()),
            watchers: Mutex::default(),
        })
    }

    /// Takes a sample every second for as long as it is polled, and tells those who watch.
    pub(super) async fn run(&self, state: &Arc<AdminState>) {
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        state.pause_samples();
        let mut last = Instant::now();
        loop {
            ticks.tick().await;
            let since_last = last.elapsed();
            last += since_last;
            let watched = self.latest.receiver_count() > 0;
            let status = state.ask(move |state| {
                let stats = state.sample(since_last);
                watched.then(|| event("status", &state.status_of(&stats)))
            });
            if let Some(Some(status)) = status.await {
                self.latest.send_replace(status);
            }
        }
    }

    /// What one who watches is sent, until too many others watch.
    pub(super) fn subscribe(
        &self,
        state: Arc<AdminState>,
    ) -> impl Stream<Item = Bytes> + Send + use<> {
        let (end, ended) = oneshot::channel();
        let mut watchers = self.watchers.lock();
        watchers.retain(|end| !end.is_closed());
        if watchers.len() == WATCHERS_MAX {
            watchers.pop_front();
        }
        watchers.push_back(end);
        let watcher = Watcher {
            state,
            updates: self.latest.subscribe(),
            has_first: false,
        };
        stream::unfold(watcher, Watcher::next).take_until(ended)
    }
}

impl Watcher {
    /// The next event: first the samples of the last ten minutes with the status there is, then each status. Who takes less than
    /// there is gets the latest.
    async fn next(mut self) -> Option<(Bytes, Watcher)> {
        if self.has_first {
            self.updates.changed().await.ok()?;
            let status = self.updates.borrow_and_update().clone();
            return Some((status, self));
        }
        let first = self.state.ask(|state| {
            let samples = event("samples", &state.samples());
            let status = event("status", &state.status());
            [samples, status].concat()
        });
        let first = first.await?;
        self.updates.mark_unchanged();
        self.has_first = true;
        Some((Bytes::from(first), self))
    }
}

/// One event, as <https://html.spec.whatwg.org/multipage/server-sent-events.html> has it: JSON has no
/// line end in it.
fn event(name: &str, document: &impl Serialize) -> Bytes {
    let data = serde_json::to_string(document).unwrap_or_default();
    Bytes::from(format!("event: {name}\ndata: {data}\n\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::config::cli::Options;
    use crate::hub::Channels;
    use crate::net::permits::ConnectionLimit;
    use crate::ops::lifecycle::Lifecycle;

    #[tokio::test]
    async fn watchers_that_left_end_nobody_and_one_too_many_ends_the_oldest() {
        let config = Config::from_options(&Options::default(), 1024).unwrap();
        let state = Arc::new(AdminState::new(
            Channels::new(&config),
            Lifecycle::new(),
            Arc::default(),
            ConnectionLimit::new(None),
            Arc::default(),
        ));
        let events = Events::new();
        let subscribe = || Box::pin(events.subscribe(state.clone()));
        let mut oldest = subscribe();
        for _ in 0..2 * WATCHERS_MAX {
            drop(subscribe());
        }
        let first = oldest.next().await.unwrap();
        assert!(first.starts_with(b"event: samples\n"), "{first:?}");
        let mut others: Vec<_> = (0..WATCHERS_MAX).map(|_| subscribe()).collect();
        assert_eq!(oldest.next().await, None);
        for other in &mut others {
            assert!(other.next().await.is_some());
        }
        assert_eq!(events.latest.receiver_count(), 1 + WATCHERS_MAX);
        drop((oldest, others));
        assert_eq!(events.latest.receiver_count(), 0);
    }
}
