//! The tasks of all clients, and how a handover stops them where they are.

use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::task::coop::unconstrained;
use tokio_util::task::TaskTracker;

use super::barrier::FreezeBarrier;
use super::machine::{Client, Stop};
use crate::hub::Channels;

/// The tasks of all clients.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    tasks: TaskTracker,
    barrier: FreezeBarrier,
    /// Clients that have stopped where they are, until the caller of [`Clients::freeze`] comes.
    frozen: Mutex<Vec<Frozen>>,
}

/// A client whose task has stopped. Dropping it ends the client.
#[derive(Debug)]
pub(crate) struct Frozen {
    pub(crate) client: Client,
    task: oneshot::Sender<Client>,
}

impl Clients {
    /// Starts a client.
    pub(crate) fn spawn(self: &Arc<Clients>, client: Client) {
        self.barrier.started();
        // A client bounds what one poll does by itself. By tokio's budget, which tasks share, a socket
        // could seem to have nothing to read, and a drain would take that for all there was.
        self.tasks.spawn(unconstrained(Task {
            clients: self.clone(),
            life: TaskState::Running(client),
        }));
    }

    /// Where connections that never become clients are looked after: they are waited for too.
    pub(crate) fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }

    /// Stops all clients where they are. Nobody may join meanwhile. Not cancel safe.
    pub(crate) async fn freeze(&self, channels: &Channels) -> Vec<Frozen> {
        self.barrier.freeze(channels).await;
        mem::take(&mut *self.frozen.lock())
    }

    /// Lets these clients go on.
    pub(crate) fn thaw(&self, frozen: Vec<Frozen>) {
        for Frozen { client, task } in frozen {
            // Counted before its task has its turn: the next handover may come earlier.
            self.barrier.started();
            // The task waits for nothing else, and ends only with the runtime.
            let _ = task.send(client);
        }
    }

    fn park(&self, frozen: Frozen) {
        self.frozen.lock().push(frozen);
        // Whoever waits for the last one finds all of them there.
        self.barrier.stopped();
    }
}

/// A client's task: one for its whole life, so that whoever wakes it need not know of handovers.
#[derive(Debug)]
struct Task {
    clients: Arc<Clients>,
    life: TaskState,
}

// Boxed, every client would pay for what only a handover needs.
#[allow(clippy::large_enum_variant)]
#[derive(Debug)]
enum TaskState {
    Running(Client),
    /// The client is in other hands, and may come back.
    Frozen(oneshot::Receiver<Client>),
    /// The client has been dropped, and counts no more: only while the task is.
    Ended,
}

impl Future for Task {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            match &mut self.life {
                TaskState::Running(client) => {
                    if ready!(client.poll(cx)) == Stop::Closed {
                        return Poll::Ready(());
                    }
                    let (task, thawed) = oneshot::channel();
                    let life = mem::replace(&mut self.life, TaskState::Frozen(thawed));
                    if let TaskState::Running(client) = life {
                        self.clients.park(Frozen { client, task });
                    }
                }
                TaskState::Ended => return Poll::Ready(()),
                TaskState::Frozen(thawed) => match ready!(Pin::new(thawed).poll(cx)) {
                    Ok(client) => self.life = TaskState::Running(client),
                    Err(_) => return Poll::Ready(()),
                },
            }
        }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        let life = mem::replace(&mut self.life, TaskState::Ended);
        if matches!(life, TaskState::Running(_)) {
            // The client goes first: whoever waits finds nothing of it in the hub.
            drop(life);
            self.clients.barrier.stopped();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_client_is_small() {
        // With what the runtime puts around it, this fills three times 128 bytes, to which tasks
        // are aligned: eight bytes more cost a client 128.
        assert!(size_of::<Task>() <= 272, "{}", size_of::<Task>());
    }
}
