//! The handshake: what happens between accept and join, before a connection is a client.
//!
//! ```text
//! accept ─► handshake ─► join
//! ```
//!
//! A connection in its handshake is no client: no id, no notice, no lines. Its permit counts it for
//! `--max-clients`. A listener that asks for nothing has its connections joined in the same turn of its
//! accept loop. A handshake that waits for the peer, as for its hello line, does so in a task of its own,
//! so that nobody else is held up; its bytes are looked at where they are, and only its own are taken.
//! Whatever refuses a connection, here or before, is a [`Refusal`].
//!
//! A drain does not wait long for a handshake: [`Handshakes::end`] tells each peer that the daemon stops,
//! and closes the connection. A handover saves it where it is.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio_util::task::TaskTracker;
use zeroize::Zeroizing;

use super::authorizer::{Authorizer, CutShort};
use super::entrance::Entrance;
use super::page;
use super::pending::{Accepted, HealthCheck, PendingHandshake, Stage};
use super::refusal::{Asking, Refusal};
use super::shared_options::SharedOptions;
use crate::config::{ListenerOptions, Token};
use crate::hub::{Channels, Hub, Joining, PastRequest, StartingPoint, clock};
use crate::net::stream::Stream;
use crate::net::tls::ServerTls;
use crate::wire::hello::{self, Hello, HelloError, HelloInput, HelloReader};
use crate::wire::http::{Asked, HeadInput, HttpError, Request, RequestReader, Response};
use crate::wire::proxy::ProxyError;
use crate::wire::session::SessionKey;

/// How long handshakes may still go on by themselves at a stop: who has connected has sent
/// its hello, as a rule, and perhaps lines that must not be lost.
const SETTLE_TIME: Duration = Duration::from_millis(100);

/// What handshakes need of the daemon.
#[derive(Debug)]
pub(crate) struct HandshakeContext {
    pub(crate) channels: Arc<Channels>,
    pub(crate) options: SharedOptions,
    pub(crate) tls: Arc<ServerTls>,
    pub(crate) authorizer: Arc<Authorizer>,
    pub(crate) entrance: Arc<Entrance>,
    pub(crate) turns: HandshakeTurns,
}

/// Steps of handshakes that are done between two turns of all others, on each core: with one, those who come while
/// many clients are served would come in one at a time.
const STEPS_A_TURN: usize = 64;

/// Turns to do a step of a handshake, a few at a time: of however many come at once, a live client waits for those
/// alone.
#[derive(Debug)]
pub(crate) struct HandshakeTurns(Semaphore);

impl Default for HandshakeTurns {
    fn default() -> HandshakeTurns {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        HandshakeTurns(Semaphore::new(STEPS_A_TURN * cores))
    }
}

impl HandshakeTurns {
    /// Waits for a turn, which lasts as long as what is returned: for nothing that waits itself. Cancel safe.
    pub(super) async fn take(&self) -> SemaphorePermit<'_> {
        let turn = self.0.acquire().await.expect("turns are never closed");
        // Whatever else is ready is looked at first. Other handshakes come to wait above by that: were each to do its
        // step at once, no turn would ever be missing.
        tokio::task::yield_now().await;
        turn
    }

    /// Whether there are more who want a turn than have one.
    fn are_missing(&self) -> bool {
        self.0.available_permits() == 0
    }
}

impl PendingHandshake {
    /// Goes through the stages that are left; what the connection is granted then. Cancel safe: it goes on in the stage
    /// that it is in, with what was taken of it. Even when it is done, the last stage can be gone through again.
    ///
    /// # Errors
    /// Why the connection does not become a client.
    pub(super) async fn run(
        &mut self,
        context: &HandshakeContext,
        time: Duration,
    ) -> Result<Granted, Refusal> {
        let joins = matches!(Stage::of_peer(&self.accepted.options), Stage::Join);
        if joins && matches!(self.stage, Stage::Proxy) {
            // Its client may be silent for as long as it likes, and so is a load balancer that sends the header
            // with the client's first bytes, as AWS's does.
            self.stream.readable().await?;
        }
        let outcome = {
            let mut stages = pin!(self.run_stages(context));
            loop {
                tokio::select! {
                    outcome = &mut stages => break Some(outcome),
                    // Time in which the daemon did not run is not the peer's, nor that in which there are more
                    // than it has turns for.
                    () = clock::sleep(time) => if !context.turns.are_missing() {
                        break None;
                    }
                }
            }
        };
        let outcome = outcome.unwrap_or_else(|| Err(self.timed_out(time)));
        let crlf = match &self.stage {
            Stage::Hello(reader) => reader.crlf(),
            _ => false,
        };
        outcome.map_err(|refusal| Refusal { crlf, ..refusal })
    }

    async fn run_stages(&mut self, context: &HandshakeContext) -> Result<Granted, Refusal> {
        let mut web = None;
        let (hello, token) = loop {
            self.end_check().await?;
            let Accepted {
                peer, certificate, ..
            } = &mut self.accepted;
            match &mut self.stage {
                Stage::Proxy => {
                    self.take_header().await?;
                    if self.check != HealthCheck::Yes {
                        context.entrance.admits(&self.accepted)?;
                        Entrance::count(&self.accepted, &mut self.permit)?;
                    }
                }
                Stage::Tls => self.agree_on_tls(&context.tls).await?,
                Stage::Hello(reader) => {
                    let line = hello_line(&mut self.stream, reader, &context.turns).await?;
                    let hello = hello::parse(&line)?;
                    reader.put_back(line);
                    let secret = hello.token.as_ref();
                    // Before anything else that may be wrong with it, so that it tells nobody else anything.
                    let cut_short = &mut self.cut_short;
                    let authorizer = &context.authorizer;
                    let token = authorizer.authorize(*peer, secret, certificate, cut_short);
                    let token = token.await?;
                    break (hello, token);
                }
                Stage::Request(reader) => {
                    let head = request_head(&mut self.stream, reader, &context.turns).await?;
                    let request = Request::parse(&head)?;
                    context.entrance.check(&request)?;
                    reader.put_back(head);
                    let origin = request.origin;
                    let response = Response {
                        origin: origin.as_deref(),
                    };
                    let asked = match request.asked {
                        Asked::Client(asked) => asked,
                        Asked::Page { is_head } => {
                            return Err(Refusal::answered(page::answer(response, is_head)));
                        }
                        Asked::Moved { to } => {
                            return Err(Refusal::answered(response.moved(&to)));
                        }
                        Asked::Preflight => return Err(Refusal::answered(response.preflight())),
                    };
                    let hello = asked.hello.clone();
                    let asking = web.insert((asked, origin));
                    let secret = hello.token.as_ref();
                    let cut_short = &mut self.cut_short;
                    let authorizer = &context.authorizer;
                    let token = authorizer.authorize(*peer, secret, certificate, cut_short);
                    let token = token.await.map_err(|refusal| refusal.of(Some(asking)))?;
                    break (hello, token);
                }
                Stage::Join => {
                    let token = context.authorizer.by_certificate(certificate);
                    break (Hello::default(), token);
                }
            }
        };
        let granted = grant(hello, token.as_deref(), &self.accepted.options, context);
        let granted = granted.map_err(|refusal| refusal.of(web.as_ref()))?;
        let granted = Granted { web, ..granted };
        self.accepted.identity = token.map(|token| token.identity.clone());
        Ok(granted)
    }

    /// Agrees on TLS, and goes on to the next stage. Cancel safe.
    ///
    /// # Errors
    /// The peer speaks something else, or TLS that is not spoken here.
    pub(super) async fn agree_on_tls(&mut self, tls: &ServerTls) -> Result<(), Refusal> {
        let begun = self.stream.is_negotiating();
        if !begun {
            match self.stream.begins_tls().await? {
                Some(true) => {}
                Some(false) => return Err(Refusal::tls_expected()),
                // Whoever only looks whether the port is open has done nothing wrong.
                None => return Err(Refusal::left()),
            }
        }
        let server = tls.of(&self.accepted.options);
        let server = server.ok_or_else(|| Refusal::tls("its certificate is no longer there"))?;
        let negotiated = self.stream.negotiate(&server).await;
        self.accepted.certificate = negotiated.map_err(|error| Refusal::tls(error.to_string()))?;
        self.stage = Stage::behind_tls(&self.accepted.options);
        Ok(())
    }

    /// Whether it cannot be saved before it has come further: TLS is half agreed on.
    pub(super) fn is_unsaveable(&self) -> bool {
        matches!(self.stage, Stage::Tls) && self.stream.is_negotiating()
    }

    /// Refusal of a peer that took longer than it had.
    fn timed_out(&self, time: Duration) -> Refusal {
        let seconds = time.as_secs_f64();
        match (self.cut_short, &self.stage) {
            (Some(CutShort::Unchecked), _) => Refusal::too_many_guesses(self.accepted.peer),
            (Some(CutShort::Wrong), _) => Refusal::unauthorized(),
            (None, Stage::Proxy) => {
                Refusal::proxy(format!("{} within {seconds}s", ProxyError::Expected))
            }
            (None, Stage::Tls) => Refusal::tls(format!("no TLS within {seconds}s")),
            (None, Stage::Request(_)) => {
                HttpError::timed_out(format!("request expected within {seconds}s")).into()
            }
            (None, Stage::Hello(_) | Stage::Join) => {
                Refusal::bad_hello(format!("hello expected within {seconds}s"))
            }
        }
    }
}

/// What a connection is granted.
#[derive(Debug)]
pub(super) struct Granted {
    /// The channel that it joins.
    pub(super) hub: Joining,
    /// The options of its listener, less what it does not get of them.
    pub(super) options: Arc<ListenerOptions>,
    /// What it wants of the channel.
    pub(super) wanted: PastRequest,
    /// The request that it comes by, and the origin of the page that sent it.
    pub(super) web: Option<Asking>,
}

/// Gives a client what its hello asks for, as far as its listener and its token let it.
fn grant(
    hello: Hello,
    token: Option<&Token>,
    options: &Arc<ListenerOptions>,
    context: &HandshakeContext,
) -> Result<Granted, Refusal> {
    let most = match token {
        Some(token) => options.role.and(token.role),
        None => Some(options.role),
    };
    let most =
        most.ok_or_else(|| Refusal::unauthorized_for(format_args!("role {}", options.role)))?;
    let asked = hello.role.unwrap_or(most);
    let Some(role) = most.narrowed_to(asked) else {
        return Err(Refusal::role(asked, most));
    };
    let format = hello.format.unwrap_or(options.format);
    let asked = hello.channel.as_ref();
    let channel = match token {
        Some(token) => token.channel(asked, &options.channel),
        None => Some(asked.unwrap_or(&options.channel)),
    };
    let channel = channel.ok_or_else(|| {
        let channel = asked.unwrap_or(&options.channel);
        Refusal::unauthorized_for(format_args!("channel {channel}"))
    })?;
    let hub = match channel == &options.channel && asked.is_none() {
        true => context.channels.of_listener(channel),
        false => context
            .channels
            .open(channel)
            .ok_or_else(Refusal::no_channel)?,
    };
    let listed = (options.role, options.format, &options.channel);
    let options = if (role, format, hub.name()) == listed {
        options.clone()
    } else {
        context.options.share(ListenerOptions {
            role,
            format,
            channel: hub.name().clone(),
            ..ListenerOptions::clone(options)
        })
    };
    if hello.session.is_some() && !role.publishes() {
        let detail = format!("\"session\" with role {role} in hello");
        return Err(Refusal::bad_hello(detail));
    }
    let newest = hello.history.unwrap_or(options.history);
    let token = token.map(|token| &token.identity.name);
    let session = hello.session.as_ref();
    let wanted = PastRequest {
        newest: (!newest.is_none()).then_some(newest),
        since: hello.since,
        session: session.map(|name| SessionKey::new(token, name)),
        acks: hello.ack,
    };
    Ok(Granted {
        hub,
        options,
        wanted,
        web: None,
    })
}

/// Looks for where a client begins in its channel that wants this. Cancel safe.
pub(super) async fn enter(
    hub: &Arc<Hub>,
    wanted: &PastRequest,
    time: Duration,
) -> Result<StartingPoint, Refusal> {
    tokio::select! {
        entry = hub.enter(wanted) => Ok(entry?),
        // What daemons share waits for others, as long as it takes.
        () = clock::sleep(time), if !hub.is_shared() => Err(Refusal::not_stored(time)),
    }
}

/// The first line that a connection sends.
async fn hello_line(
    stream: &mut Stream,
    reader: &mut HelloReader,
    turns: &HandshakeTurns,
) -> Result<Zeroizing<Vec<u8>>, Refusal> {
    if let Some(line) = reader.take_back() {
        return Ok(line);
    }
    loop {
        stream.readable().await?;
        let turn = turns.take().await;
        let mut answers = Vec::new();
        let line = stream.read_part(|bytes| {
            if bytes.is_empty() {
                return (0, Some(reader.finish().ok_or_else(Refusal::left)));
            }
            match reader.push(bytes, &mut answers) {
                HelloInput::Pending => (bytes.len(), None),
                HelloInput::Line { line, rest } => (bytes.len() - rest.len(), Some(Ok(line))),
                HelloInput::TooLong => (bytes.len(), Some(Err(HelloError::TooLong.into()))),
                HelloInput::Left => (bytes.len(), Some(Err(Refusal::left()))),
            }
        });
        // What seemed to be there may not be.
        let Some(line) = line.now_or_never() else {
            continue;
        };
        let line = line?;
        drop(turn);
        if !answers.is_empty() {
            // Nobody who takes no answers is worth more than that.
            stream.write_at_once(&answers)?;
        }
        if let Some(line) = line {
            return line;
        }
    }
}

/// The head of the request that a connection sends.
async fn request_head(
    stream: &mut Stream,
    reader: &mut RequestReader,
    turns: &HandshakeTurns,
) -> Result<Zeroizing<Vec<u8>>, Refusal> {
    if let Some(head) = reader.take_back() {
        return Ok(head);
    }
    loop {
        stream.readable().await?;
        let _turn = turns.take().await;
        let head = stream.read_part(|bytes| match reader.push(bytes) {
            _ if bytes.is_empty() => (0, Some(Err(Refusal::left()))),
            HeadInput::Pending(taken) => (taken, None),
            HeadInput::Head(head, taken) => (taken, Some(Ok(head))),
            HeadInput::TooLong => (bytes.len(), Some(Err(HttpError::too_large().into()))),
            HeadInput::NoRequest => (bytes.len(), Some(Err(HttpError::no_request().into()))),
        });
        // What seemed to be there may not be.
        if let Some(head) = head.now_or_never()
            && let Some(head) = head?
        {
            return head;
        }
    }
}

/// What becomes of handshakes that are not done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Ending {
    /// The daemon stops, and tells them.
    #[default]
    Stop,
    /// A handover saves them.
    Park,
}

/// Returns once handshakes are to end, and each time that it is called from then on. Cancel safe.
pub(super) async fn when_ended(ended: &mut watch::Receiver<Ending>) -> Ending {
    // Without its sender, too.
    let _ = ended.changed().await;
    ended.mark_changed();
    *ended.borrow()
}

/// The handshakes that wait for their peers, each in a task of its own.
#[derive(Debug, Default)]
pub(super) struct Handshakes {
    tasks: TaskTracker,
    /// Changes when all that have begun are to end.
    ended: watch::Sender<Ending>,
}

impl Handshakes {
    /// Starts the task of one handshake, which is told of an end by what `task` is given.
    pub(super) fn spawn<T>(&self, task: impl FnOnce(watch::Receiver<Ending>) -> T)
    where
        T: Future<Output = ()> + Send + 'static,
    {
        self.tasks.spawn(task(self.ended.subscribe()));
    }

    /// Ends all that have begun, and waits until each connection is parked, closed, or has become a client
    /// after all. At a stop, what has been sent already, or is on its way, has [`SETTLE_TIME`] to be taken.
    /// Those that begin later are not concerned.
    pub(super) async fn end(&self, ending: Ending) {
        self.tasks.close();
        let settle = match ending {
            Ending::Stop => SETTLE_TIME,
            Ending::Park => Duration::ZERO,
        };
        let settled = tokio::time::timeout(settle, self.tasks.wait()).await;
        if settled.is_err() {
            self.ended.send_replace(ending);
            self.tasks.wait().await;
        }
        self.tasks.reopen();
    }
}
