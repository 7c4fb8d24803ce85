//! The accept loop of one listener: who becomes a client, who is refused, and what an error means.

mod joining;

use std::io;
use std::mem;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::io::Errno;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::handshake::{Ending, HandshakeContext, Handshakes};
use super::pending::{Accepted, HealthCheck, PendingHandshake, Stage};
use super::refusal::Refusal;
use super::{ClientPolicy, Clients, Entrance};

use crate::config::ListenerOptions;
use crate::hub::counters::Counters;
use crate::hub::{Commands, Hub, Joining};
use crate::net::listener::{BACKLOG, Listener};
use crate::net::peer::Peer;
use crate::net::permits::ConnectionLimit;
use crate::net::stream::Stream;
use crate::wire::close_reason::CloseReason;

/// Connections accepted before the clients have their turn: so many, or one for so many clients
/// there are if that is more. Every turn's notices are a write to each client, so that turns which
/// did not grow with the crowd would make a storm's cost the square of its size.
const ACCEPTS_A_TURN: (usize, usize) = (256, 4);

/// How long to wait when the system has no descriptor or memory left: first, and at most.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// Refused connections that are waited for at a time. Beyond that they are told and closed at once:
/// they must not take the descriptors that were kept back for the daemon itself.
const REFUSALS_MAX: usize = 32;

/// What every accept loop needs to make clients of connections.
#[derive(Debug)]
pub(crate) struct Acceptor {
    context: HandshakeContext,
    policy: Arc<ClientPolicy>,
    permits: Arc<ConnectionLimit>,
    clients: Arc<Clients>,
    counters: Arc<Counters>,
    handshakes: Handshakes,
    parked: Mutex<Vec<PendingHandshake>>,
    refusals: Arc<Semaphore>,
    /// Connections are being refused, and that has been logged.
    full: AtomicBool,
}

/// The listeners that are accepted from, each with a task of its own.
#[derive(Debug, Default)]
pub(crate) struct AcceptLoops(Vec<AcceptLoop>);

#[derive(Debug)]
struct AcceptLoop {
    stop: CancellationToken,
    accepts: JoinHandle<Listener>,
}

impl AcceptLoops {
    /// Accepts from this listener from now on.
    pub(crate) fn open(&mut self, acceptor: &Arc<Acceptor>, listener: Listener) {
        let stop = CancellationToken::new();
        let accepts = acceptor.clone().run(listener, stop.clone());
        self.0.push(AcceptLoop {
            stop,
            accepts: tokio::spawn(accepts),
        });
    }

    /// Accepts what is in the backlogs, then no more. The listeners stay open as long as they live.
    pub(crate) async fn close(&mut self) -> Vec<Listener> {
        self.0
            .iter()
            .for_each(|accept_loop| accept_loop.stop.cancel());
        let mut listeners = Vec::new();
        for accept_loop in self.0.drain(..) {
            // A loop that panicked took its listener with it.
            listeners.extend(accept_loop.accepts.await.ok());
        }
        listeners
    }
}

impl Acceptor {
    pub(crate) fn new(
        context: HandshakeContext,
        policy: Arc<ClientPolicy>,
        permits: Arc<ConnectionLimit>,
        clients: Arc<Clients>,
        counters: Arc<Counters>,
    ) -> Acceptor {
        Acceptor {
            context,
            policy,
            permits,
            clients,
            counters,
            handshakes: Handshakes::default(),
            parked: Mutex::default(),
            refusals: Arc::new(Semaphore::new(REFUSALS_MAX)),
            full: AtomicBool::new(false),
        }
    }

    /// Accepts until told to stop, then what is in the backlog by then, and gives the listener back.
    async fn run(self: Arc<Acceptor>, listener: Listener, stop: CancellationToken) -> Listener {
        let mut backoff = BACKOFF.0;
        loop {
            let turn = async {
                tokio::select! {
                    ready = listener.ready() => ready?,
                    () = self.nudged() => {}
                }
                // Notices go to the buffer: accepting waits for room there as sending does. Who has a
                // handshake does so by itself, since its channel may be another.
                let options = listener.options();
                Ok(match Stage::of_peer(options) {
                    Stage::Join => Some(self.hub_of(options).admit().await),
                    _ => None,
                })
            };
            // Cancelling it loses nothing: no connection has been accepted yet.
            let Some(ready) = stop.run_until_cancelled(turn).await else {
                break;
            };
            let accepted = ready.and_then(|_admission| self.accept_batch(&listener));
            match accepted {
                Ok(()) => {
                    backoff = BACKOFF.0;
                    tokio::task::yield_now().await;
                }
                Err(error) => {
                    self.counters.accept_errors.add_one();
                    if backoff == BACKOFF.0 {
                        warn!(listener = %listener.name(), %error, "cannot accept");
                    }
                    let pause = tokio::time::sleep(backoff);
                    if stop.run_until_cancelled(pause).await.is_none() {
                        break;
                    }
                    backoff = (backoff * 2).min(BACKOFF.1);
                }
            }
        }
        // A client that had connected before the stop may have sent something already.
        self.drain_backlog(&listener);
        listener
    }

    /// The hub of the channel that a listener's clients join.
    fn hub_of(&self, options: &ListenerOptions) -> Joining {
        self.context.channels.of_listener(&options.channel)
    }

    /// Waits until the loop is to accept although no connection is known to be there: see `rest`.
    async fn nudged(&self) {
        #[cfg(debug_assertions)]
        self.context.channels.nudged().await;
        #[cfg(not(debug_assertions))]
        std::future::pending::<()>().await;
    }

    /// Accepts one turn's connections. An error is one that will not go away by accepting on.
    fn accept_batch(self: &Arc<Acceptor>, listener: &Listener) -> io::Result<()> {
        let (least, share) = ACCEPTS_A_TURN;
        let connections = match Stage::of_peer(listener.options()) {
            Stage::Join => least.max(self.clients.tasks().len() / share),
            // Nobody is told of it yet.
            _ => least,
        };
        self.accept_at_most(listener, connections)
    }

    /// Accepts who has connected by now, before the listener is closed.
    pub(crate) fn drain_backlog(self: &Arc<Acceptor>, listener: &Listener) {
        // What cannot be accepted now cannot be later either.
        let _ = self.accept_at_most(listener, BACKLOG);
    }

    fn accept_at_most(
        self: &Arc<Acceptor>,
        listener: &Listener,
        connections: usize,
    ) -> io::Result<()> {
        let options = listener.options();
        // A handshake may lead to another channel.
        let joins = matches!(Stage::of_peer(options), Stage::Join) && options.history.is_none();
        let hub = joins.then(|| self.hub_of(options));
        // Who comes before its history is opened waits for that.
        let hub = hub.filter(|hub| !hub.is_opening());
        for _ in 0..connections {
            match listener.accept() {
                Ok((socket, peer)) => self.admit(listener, hub.as_deref(), socket, peer),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if is_exhaustion(&error) => return Err(error),
                // What a peer did to its own connection before it was accepted: accept(2) lists
                // a dozen of these, and says to go on.
                Err(error) => debug!(listener = %listener.name(), %error, "lost a connection"),
            }
        }
        Ok(())
    }

    /// Makes a connection a client, of this hub or of the one that its handshake leads to.
    fn admit(
        self: &Arc<Acceptor>,
        listener: &Listener,
        hub: Option<&Arc<Hub>>,
        socket: OwnedFd,
        peer: Peer,
    ) {
        let stream = match Stream::new(socket) {
            Ok(stream) => stream,
            Err(error) => {
                warn!(listener = %listener.name(), %peer, %error, "cannot serve a connection");
                return;
            }
        };
        let accepted = Accepted {
            peer,
            listener: listener.label(),
            options: listener.options().clone(),
            certificate: Vec::new(),
            identity: None,
        };
        let stage = Stage::first(&accepted.options, peer);
        // Whose connection it is that a proxy passes on is not known yet.
        let is_proxied = matches!(stage, Stage::Proxy);
        if !is_proxied && let Err(refusal) = self.context.entrance.admits(&accepted) {
            return self.refuse(&accepted, stream, &refusal);
        }
        let mut permit = match self.permits.try_acquire() {
            Ok(permit) => permit,
            Err(max) => {
                self.refuse(&accepted, stream, &Refusal::full(max));
                if !self.full.swap(true, Relaxed) {
                    let reason = CloseReason::Full.label();
                    warn!(clients = max, reason, "refusing connections");
                }
                return;
            }
        };
        self.full.store(false, Relaxed);
        if !is_proxied && let Err(refusal) = Entrance::count(&accepted, &mut permit) {
            return self.refuse(&accepted, stream, &refusal);
        }
        match (stage, hub) {
            (Stage::Join, Some(hub)) => self.join_at_once(accepted, stream, permit, hub),
            (stage, _) => self.begin(PendingHandshake {
                accepted,
                stream,
                permit,
                stage,
                cut_short: None,
                check: HealthCheck::No,
            }),
        }
    }

    /// Has a handshake go on, in a task of its own.
    pub(crate) fn begin(self: &Arc<Acceptor>, handshake: PendingHandshake) {
        let acceptor = self.clone();
        self.handshakes
            .spawn(|ended| acceptor.wait(handshake, ended));
    }

    /// Goes by the options that these listeners have now.
    pub(crate) fn set_listeners(&self, listeners: &[Listener]) {
        self.context.entrance.set_listeners(listeners);
    }

    /// Closes the clients that may not come in any more, and counts those by address who came when nobody
    /// did.
    pub(crate) fn recheck_clients(&self) {
        let channels = &self.context.channels;
        let lists = self.context.entrance.lists();
        channels.close_where(CloseReason::Denied, |connection| {
            !lists.admit(&connection.listener, connection.peer)
        });
        drop(lists);
        let revoked = self.context.tls.revoked();
        let is_known = revoked.is_some();
        self.policy.set_revoked(revoked);
        if is_known {
            channels.command_all(Commands::CERTIFICATE);
        }
        if self.permits.counts_by_source() {
            channels.command_all(Commands::COUNT);
        }
    }

    /// Ends the handshakes that wait for their peers: before a drain, once the accept loops are closed, so
    /// that nobody joins after it.
    pub(crate) async fn end_handshakes(&self) {
        self.handshakes.end(Ending::Stop).await;
    }

    /// Stops the handshakes that wait for their peers, for a handover, once the accept loops are closed. Those
    /// that are returned go on when they are [begun](Acceptor::begin) again.
    pub(crate) async fn park_handshakes(&self) -> Vec<PendingHandshake> {
        self.handshakes.end(Ending::Park).await;
        mem::take(&mut *self.parked.lock())
    }
}

/// Out of descriptors or memory: accepting on would only spin until some come free.
pub(crate) fn is_exhaustion(error: &io::Error) -> bool {
    let exhaustions = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    exhaustions
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}
