//! From a handshake to a client, or to a refusal.

use std::future::poll_fn;
use std::io::IoSlice;
use std::pin::pin;
use std::sync::Arc;
use std::task::ready;
use std::time::{Duration, SystemTime};

use futures::FutureExt as _;
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::{debug, info};

use super::Acceptor;
use crate::client::Client;
use crate::client::authorizer::CutShort;
use crate::client::handshake::{Ending, Granted, enter, when_ended};
use crate::client::pending::{Accepted, PendingHandshake, Stage};
use crate::client::refusal::{Asking, END_TIME, REFUSAL_TIME, Refusal, linger};
use crate::hub::{Commands, ConnectionInfo, Hub, Joined, StartingPoint};
use crate::net::permits::ConnectionPermit;
use crate::net::stream::{Connection as _, Stream};
use crate::wire::close_reason::CloseReason;
use crate::wire::hello::HelloReader;
use crate::wire::ids::Seq;
use crate::wire::transport::Transport;

/// How long a handover waits for TLS that is half agreed on, as it cannot be saved then: a few times what
/// the way to the other side of the earth takes.
const TLS_TIME: Duration = Duration::from_secs(1);

/// What a connection began with.
#[derive(Debug)]
enum Opening {
    /// What is the client's.
    None,
    /// A hello line.
    Hello(HelloReader),
    /// A request.
    Request(Asking),
}

impl Acceptor {
    /// Makes a connection a client that needs no handshake. Room for its notice has been waited for.
    pub(super) fn join_at_once(
        &self,
        accepted: Accepted,
        stream: Stream,
        permit: ConnectionPermit,
        hub: &Arc<Hub>,
    ) {
        let entry = StartingPoint::default();
        let joined = self.join(accepted, stream, permit, hub, Opening::None, entry);
        if let Some((client, _)) = joined {
            self.clients.spawn(client);
        }
    }

    /// Goes through a handshake that waits, to a client or a refusal. The permit is held meanwhile.
    pub(super) async fn wait(
        self: Arc<Acceptor>,
        mut handshake: PendingHandshake,
        mut ended: watch::Receiver<Ending>,
    ) {
        let _counted = self.counters.handshakes.hold();
        let time = self.policy.last().hello_timeout;
        let outcome = tokio::select! {
            biased;
            ending = when_ended(&mut ended) => Err(ending),
            outcome = handshake.run(&self.context, time) => Ok(outcome),
        };
        let outcome = match outcome {
            Ok(Ok(granted)) => tokio::select! {
                biased;
                entry = enter(&granted.hub, &granted.wanted, time) => Ok(Ok((granted, entry))),
                // Another daemon begins anew with what was asked for.
                ending = when_ended(&mut ended) => Err(ending),
            },
            Ok(Err(refusal)) => Ok(Err(refusal)),
            Err(ending) => Err(ending),
        };
        // Who has shown a wrong token does not get away with it.
        let is_wrong = handshake.cut_short == Some(CutShort::Wrong);
        if matches!(outcome, Err(Ending::Park)) && !is_wrong {
            return self.park(handshake).await;
        }
        let PendingHandshake {
            mut accepted,
            stream,
            permit,
            stage,
            cut_short: _,
            check: _,
        } = handshake;
        match outcome {
            Ok(Ok((
                Granted {
                    hub, options, web, ..
                },
                entry,
            ))) => {
                accepted.options = options;
                let entry = match entry {
                    Ok(entry) => entry,
                    Err(refusal) => {
                        let refusal = refusal.of(web.as_ref());
                        return self.refuse(&accepted, stream, &refusal);
                    }
                };
                let opening = match (stage, web) {
                    (Stage::Hello(reader), _) => Opening::Hello(reader),
                    (_, Some(asking)) => Opening::Request(asking),
                    _ => Opening::None,
                };
                let turn = self.context.turns.take().await;
                // The connect notice goes to the buffer, too: see `run`. Room is not held while it waits for anything
                // else, nor a turn while it waits for room. At the end, the notice goes there all the same.
                let (turn, admission) = match hub.admit().now_or_never() {
                    Some(admission) => (Some(turn), Some(admission)),
                    None => {
                        drop(turn);
                        let admission = tokio::select! {
                            admission = hub.admit() => Some(admission),
                            _ = when_ended(&mut ended) => None,
                        };
                        (None, admission)
                    }
                };
                let joined = self.join_if_allowed(accepted, stream, permit, &hub, opening, entry);
                drop((turn, admission));
                let Some((client, place)) = joined else {
                    return;
                };
                // A daemon that is killed goes on behind every place that it has told.
                let stored = tokio::time::timeout(time, hub.stored_up_to(place));
                let is_stored = tokio::select! {
                    biased;
                    stored = stored => stored.is_ok(),
                    // One that ends, or is gone on with, has it in its state or tells so.
                    _ = when_ended(&mut ended) => true,
                };
                if is_stored {
                    self.clients.spawn(client);
                }
            }
            Ok(Err(Refusal {
                answer: Some(answer),
                ..
            })) => {
                let mut sending = pin!(send(stream, &answer, time));
                tokio::select! {
                    () = &mut sending => {}
                    // What has begun is to come to its end.
                    _ = when_ended(&mut ended) => drop(timeout(END_TIME, sending).await),
                }
            }
            Ok(Err(refusal)) => self.refuse(&accepted, stream, &refusal),
            Err(_) => {
                let refusal = match is_wrong {
                    true => Refusal::unauthorized(),
                    false => Refusal::stopping(),
                };
                if let Some(stream) = self.tell(&accepted, stream, &refusal) {
                    linger(stream, END_TIME).await;
                }
            }
        }
    }

    /// Leaves a handshake to a handover, once it can be saved. It has [`TLS_TIME`] to get there.
    async fn park(&self, mut handshake: PendingHandshake) {
        if handshake.is_unsaveable() {
            let agreed = handshake.agree_on_tls(&self.context.tls);
            let agreed = tokio::time::timeout(TLS_TIME, agreed).await;
            let outcome = agreed.unwrap_or_else(|_| Err(Refusal::stopping()));
            if let Err(refusal) = outcome {
                let PendingHandshake {
                    accepted, stream, ..
                } = handshake;
                self.refuse(&accepted, stream, &refusal);
                return;
            }
        }
        self.parked.lock().push(handshake);
    }

    /// Makes a connection a client, unless its address may not come in any more. A reload waits for the lists, and
    /// looks who joined when it has them.
    fn join_if_allowed(
        &self,
        accepted: Accepted,
        stream: Stream,
        permit: ConnectionPermit,
        hub: &Arc<Hub>,
        opening: Opening,
        entry: StartingPoint,
    ) -> Option<(Client, Seq)> {
        let lists = self.context.entrance.lists();
        if lists.admit(&accepted.listener, accepted.peer) {
            return self.join(accepted, stream, permit, hub, opening, entry);
        }
        drop(lists);
        self.refuse(&accepted, stream, &Refusal::denied());
        None
    }

    /// Makes a connection a client, which has a task still to get, and says what place it begins behind. Room for its
    /// notice has been waited for. `None` if it has been refused.
    fn join(
        &self,
        accepted: Accepted,
        stream: Stream,
        permit: ConnectionPermit,
        hub: &Arc<Hub>,
        opening: Opening,
        entry: StartingPoint,
    ) -> Option<(Client, Seq)> {
        let Accepted {
            peer,
            listener,
            options,
            identity,
            ..
        } = &accepted;
        let connection = ConnectionInfo {
            peer: *peer,
            listener: listener.clone(),
            format: options.format,
            role: options.role,
            transport: match &opening {
                Opening::Request((request, _)) => request.transport,
                _ => Transport::Plain,
            },
            channel: options.channel.clone(),
            at: SystemTime::now(),
            identity: identity.clone(),
        };
        let Joined { feed, answer } = match hub.join_at(connection, entry) {
            Ok(joined) => joined,
            Err(taken) => {
                self.refuse(&accepted, stream, &taken.into());
                return None;
            }
        };
        let channel = options.channel.as_unusual();
        let name = identity.as_ref().map(|identity| identity.name.as_str());
        info!(client = feed.subscriber().id.0, name, %peer, %listener, channel, "client connected");
        // A reload may have taken its token since that was looked at. One that comes now finds the client.
        if identity.as_ref().is_some_and(|it| {
            !self
                .context
                .authorizer
                .allows(it, options.role, &options.channel)
        }) {
            let denied = Commands::close(CloseReason::Denied);
            feed.subscriber().command(denied);
        }
        let mut client = Client::new(stream, feed, options.clone(), self.policy.clone(), permit);
        match opening {
            Opening::None => {}
            Opening::Hello(hello) => client.answer_hello(hello, &answer),
            Opening::Request((request, origin)) => {
                client.answer_request(*request, origin, &answer);
            }
        }
        Some((client, answer.seq))
    }

    /// Tells a connection why it does not become a client, and sees that the words arrive, without
    /// waiting for that.
    pub(super) fn refuse(&self, accepted: &Accepted, stream: Stream, refusal: &Refusal) {
        let Some(stream) = self.tell(accepted, stream, refusal) else {
            return;
        };
        let Ok(permit) = self.refusals.clone().try_acquire_owned() else {
            return;
        };
        self.clients.tasks().spawn(async move {
            let _permit = permit;
            linger(stream, REFUSAL_TIME).await;
        });
    }

    /// Counts and logs a refusal, and tells the peer: see [`Refusal::tell`].
    fn tell(&self, accepted: &Accepted, stream: Stream, refusal: &Refusal) -> Option<Stream> {
        let Accepted {
            peer,
            listener,
            options,
            ..
        } = accepted;
        if let Some(refused) = self.counters.refused_for(refusal.reason) {
            refused.add_one();
        }
        let reason = refusal.reason.label();
        let detail = Some(&*refusal.detail).filter(|detail| !detail.is_empty());
        debug!(%listener, %peer, reason, detail, "connection refused");
        refusal.tell(stream, options)
    }
}

/// Sends all of an answer, and waits until its peer has closed. Each may take so long.
async fn send(mut stream: Stream, answer: &[u8], time: Duration) {
    let mut left = answer;
    let all = poll_fn(|cx| {
        while !left.is_empty() {
            let written = ready!(stream.poll_write(cx, &[IoSlice::new(left)]))?;
            left = &left[written..];
        }
        ready!(stream.poll_flush(cx))?;
        stream.poll_shut_write(cx)
    });
    if let Ok(Ok(())) = tokio::time::timeout(time, all).await {
        linger(stream, REFUSAL_TIME).await;
    }
}
