//! Where a handover waits until no client runs any more.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

use crate::hub::{Channels, Commands};

/// Counts the clients' tasks that run: those that have neither parked nor ended.
#[derive(Debug, Default)]
pub(super) struct FreezeBarrier {
    running: AtomicUsize,
    /// Told when the last one that ran has stopped.
    stopped: Notify,
}

impl FreezeBarrier {
    /// A client's task runs from now on.
    pub(super) fn started(&self) {
        self.running.fetch_add(1, Ordering::Relaxed);
    }

    /// A client's task has parked, or ended: it changes nothing any more that a handover saves.
    pub(super) fn stopped(&self) {
        if self.running.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.stopped.notify_one();
        }
    }

    /// Orders all clients to stop where they are, and waits until all have; no time passes for them
    /// meanwhile. Nobody may join. Not cancel safe: whoever has parked is in the hands of the caller.
    pub(super) async fn freeze(&self, channels: &Channels) {
        channels.stop_clock();
        channels.command_all(Commands::FREEZE);
        // A notice may be left over from when the last client had gone.
        while self.running.load(Ordering::Acquire) > 0 {
            self.stopped.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;
    use crate::config::Config;
    use crate::config::cli::Options;

    #[test]
    fn freeze_waits_for_all_who_run_however_often_the_last_one_had_gone_before() {
        let channels = Channels::new(&Config::from_options(&Options::default(), 1024).unwrap());
        let barrier = FreezeBarrier::default();
        barrier.started();
        barrier.stopped();
        barrier.started();
        barrier.started();
        let mut freeze = pin!(barrier.freeze(&channels));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(freeze.as_mut().poll(&mut cx).is_pending());
        barrier.stopped();
        assert!(freeze.as_mut().poll(&mut cx).is_pending());
        barrier.stopped();
        assert!(freeze.as_mut().poll(&mut cx).is_ready());
    }
}
