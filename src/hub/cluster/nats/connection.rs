//! The connection to NATS.

use std::fmt::Display;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_nats::client::{Request, RequestErrorKind};
use async_nats::connection::State;
use async_nats::jetstream::{self, response::Response};
use async_nats::{
    Client, ClientError, Event, HeaderMap, Message, ReconnectToServer, Server, ServerError,
};
use bytes::Bytes;
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio::sync::{broadcast, watch};
use tracing::{error, info, warn};

use super::error::{NatsError, Unanswered};
use super::options::NatsOptions;

/// Time for a connection to be made, and for an answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Time between pings. A server that does not answer three of them is lost: within 16 s.
const PING_INTERVAL: Duration = Duration::from_secs(4);

/// Time before the first try to connect again, which doubles up to the second; each is shortened by up to half of it,
/// so that nodes do not come all at once.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(2);

/// How often it is looked whether an event was lost.
const LOOK_TIME: Duration = Duration::from_secs(2);

/// Messages that wait for a subscriber at most: more than a [reader](super::reader) ever asks for. What comes then is
/// dropped.
const SUBSCRIPTION_MESSAGES_MAX: usize = 1024;

/// Messages that wait for the connection at most.
const SEND_QUEUE_MAX: usize = 256;

/// Connection of the daemon to NATS: one, for all channels. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Nats {
    pub(super) client: Client,
    pub(super) context: jetstream::Context,
    pub(super) replicas: usize,
    shared: Arc<Shared>,
}

/// What is known of the connection, for a person.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NatsStatus {
    pub(crate) is_connected: bool,
    /// Host and port of the server that it is connected to, or was last.
    pub(crate) server: Option<String>,
    /// Connections made after the first.
    pub(crate) reconnects: u64,
    /// Why it is away.
    pub(crate) error: Option<String>,
}

/// Whether NATS is connected, and how often it has been.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ConnectionState {
    pub(crate) is_connected: bool,
    /// Connections made.
    pub(crate) connections: u64,
}

/// What the library's callbacks tell.
#[derive(Debug)]
struct Shared {
    options: NatsOptions,
    state: watch::Sender<ConnectionState>,
    said: Mutex<Said>,
    /// What the server says when it does not allow something.
    denials: broadcast::Sender<Arc<str>>,
    /// Tries to connect since the last connection, and which server comes next.
    tries: AtomicUsize,
    turn: AtomicUsize,
}

#[derive(Debug, Default)]
struct Said {
    /// The server that is tried or connected.
    server: Option<String>,
    connected_to: Option<String>,
    error: Option<String>,
}

impl Nats {
    /// Begins to connect. It goes on trying for ever in the background, and again when the connection is lost; also with
    /// [files](NatsOptions::check) that cannot be read.
    ///
    /// # Errors
    /// Only what no retry mends: a URL that is none.
    pub(crate) async fn connect(options: &NatsOptions, name: &str) -> anyhow::Result<Nats> {
        let (servers, to_library) = options.resolve()?;
        let shared = Arc::new(Shared {
            options: options.clone(),
            state: watch::Sender::new(ConnectionState::default()),
            said: Mutex::default(),
            denials: broadcast::Sender::new(16),
            tries: AtomicUsize::new(0),
            turn: AtomicUsize::new(random() as usize % servers.len()),
        });
        let (of_events, of_choice) = (Arc::clone(&shared), Arc::clone(&shared));
        let client = to_library
            .name(name)
            .retry_on_initial_connect()
            .max_reconnects(None)
            .connection_timeout(CONNECT_TIMEOUT)
            .request_timeout(Some(ANSWER_TIMEOUT))
            .ping_interval(PING_INTERVAL)
            .subscription_capacity(SUBSCRIPTION_MESSAGES_MAX)
            .client_capacity(SEND_QUEUE_MAX)
            .event_callback(move |event| {
                of_events.take(event);
                std::future::ready(())
            })
            .reconnect_to_server_callback(move |servers, _| {
                std::future::ready(of_choice.choose(&servers))
            })
            .connect(servers)
            .await?;
        tokio::spawn(look_after(Arc::downgrade(&shared), client.clone()));
        let mut context = jetstream::new(client.clone());
        context.set_timeout(ANSWER_TIMEOUT);
        Ok(Nats {
            client,
            context,
            replicas: options.replicas,
            shared,
        })
    }

    pub(crate) fn status(&self) -> NatsStatus {
        let state = *self.shared.state.borrow();
        let said = self.shared.said.lock();
        NatsStatus {
            is_connected: state.is_connected,
            server: said.connected_to.clone(),
            reconnects: state.connections.saturating_sub(1),
            error: said.error.clone().filter(|_| !state.is_connected),
        }
    }

    /// Changes whenever the connection is made or lost.
    pub(crate) fn watch(&self) -> watch::Receiver<ConnectionState> {
        self.shared.state.subscribe()
    }

    /// Bytes of a message at most, with its headers, as the server says; 1 MiB before it has.
    pub(crate) fn max_payload(&self) -> usize {
        self.client.max_payload()
    }

    /// Does this as long as the connection is there. `subject`: what the server names if it is not allowed.
    ///
    /// # Errors
    /// It may have been done, unless it is denied.
    pub(super) async fn while_connected<T>(
        &self,
        subject: &str,
        what: impl Future<Output = T>,
    ) -> Result<T, Unanswered> {
        let mut state = self.watch();
        let mut denials = self.shared.denials.subscribe();
        if !state.borrow_and_update().is_connected {
            return Err(Unanswered::Away(self.why_away()));
        }
        tokio::select! {
            biased;
            done = tokio::time::timeout(ANSWER_TIMEOUT, what) => {
                done.map_err(|_| Unanswered::Away("the server did not answer in time".into()))
            }
            _ = state.changed() => Err(Unanswered::Away("the connection to NATS was lost".into())),
            denial = denial_of(&mut denials, subject) => Err(Unanswered::Denied(denial)),
        }
    }

    fn why_away(&self) -> String {
        match &self.shared.said.lock().error {
            Some(why) => format!("not connected to NATS: {why}"),
            None => "not connected to NATS yet".into(),
        }
    }

    pub(super) async fn request(
        &self,
        subject: String,
        body: Bytes,
        headers: Option<HeaderMap>,
    ) -> Result<Message, Unanswered> {
        let mut request = Request::new().payload(body);
        if let Some(headers) = headers {
            request = request.headers(headers);
        }
        let answer = self.client.send_request(subject.clone(), request);
        self.while_connected(&subject, answer)
            .await?
            .map_err(|error| match error.kind() {
                RequestErrorKind::NoResponders => Unanswered::NobodyThere,
                RequestErrorKind::MaxPayloadExceeded | RequestErrorKind::InvalidSubject => {
                    Unanswered::Denied(error.to_string())
                }
                RequestErrorKind::TimedOut => {
                    Unanswered::Away("the server did not answer in time".into())
                }
                RequestErrorKind::Other => Unanswered::Away(error.to_string()),
            })
    }

    /// Asks JetStream's API for this.
    pub(super) async fn api<T: DeserializeOwned>(
        &self,
        what: &str,
        body: Bytes,
    ) -> Result<Result<T, jetstream::Error>, NatsError> {
        let answer = self.request(format!("$JS.API.{what}"), body, None).await?;
        match serde_json::from_slice(&answer.payload) {
            Ok(Response::Ok(answer)) => Ok(Ok(answer)),
            Ok(Response::Err { error }) => Ok(Err(error)),
            Err(error) => Err(unreadable(&error)),
        }
    }
}

/// An answer is not what it should be: as if there was none.
pub(super) fn unreadable(error: &impl Display) -> NatsError {
    NatsError::Away(format!("the server's answer cannot be read: {error}"))
}

/// Looks now and then whether the connection is as the library told: it drops events that are not taken in time. One that
/// is still to come makes no difference for so long.
async fn look_after(shared: Weak<Shared>, client: Client) {
    let mut differed = false;
    loop {
        tokio::time::sleep(LOOK_TIME).await;
        let Some(shared) = shared.upgrade() else {
            return;
        };
        let is_connected = client.connection_state() == State::Connected;
        let differs = shared.state.borrow().is_connected != is_connected;
        match differs && differed {
            true if is_connected => shared.connected(),
            true => shared.disconnected(),
            false => {}
        }
        differed = differs;
    }
}

/// What the server says about this subject when it does not allow it; the future goes on until it does.
async fn denial_of(denials: &mut broadcast::Receiver<Arc<str>>, subject: &str) -> String {
    loop {
        match denials.recv().await {
            Ok(denial) if is_about(&denial, subject) => return denial.to_string(),
            Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }
}

/// Whether the server says this of the subject, which it quotes, and not of one that begins as that does.
fn is_about(denial: &str, subject: &str) -> bool {
    denial.split('"').any(|word| word == subject)
}

impl Shared {
    /// Takes what the library says of the connection.
    fn take(&self, event: Event) {
        match event {
            Event::Connected => self.connected(),
            Event::Disconnected => self.disconnected(),
            Event::ServerError(ServerError::Other(text)) => {
                warn!(reason = text, "NATS refuses something");
                if text.starts_with("Permissions Violation") {
                    let _ = self.denials.send(text.into());
                }
            }
            Event::ServerError(error) => self.refused(error.to_string()),
            Event::SlowConsumer(_) => {
                warn!("messages of NATS were dropped: they were not taken in time")
            }
            // Other reasons are told with the server's name when the next is chosen.
            Event::ClientError(ClientError::Other(kind)) if kind == "DNS error" => {
                let server = self.said.lock().server.clone().unwrap_or_default();
                self.refused(format!("{server}: its name cannot be resolved"));
            }
            Event::ClientError(_) | Event::LameDuckMode | Event::Draining | Event::Closed => {}
        }
    }

    fn disconnected(&self) {
        let mut said = self.said.lock();
        warn!(server = said.connected_to, "lost the connection to NATS");
        // It may be known already why another cannot be made.
        said.error.get_or_insert("the connection was lost".into());
        self.state.send_modify(|state| state.is_connected = false);
    }

    fn connected(&self) {
        self.tries.store(0, Ordering::Relaxed);
        let mut said = self.said.lock();
        said.connected_to = said.server.clone();
        said.error = None;
        let server = said.server.as_deref();
        let mut is_first = true;
        self.state.send_modify(|state| {
            state.is_connected = true;
            is_first = state.connections == 0;
            state.connections += 1;
        });
        match is_first {
            true => info!(server, "connected to NATS"),
            false => info!(server, "connected to NATS again"),
        }
    }

    /// Notes why there is no connection, or why one that there still is ends. Logged once for each reason.
    fn refused(&self, why: String) {
        let mut said = self.said.lock();
        if said.error.as_ref() != Some(&why) {
            match self.state.borrow().is_connected {
                true => error!(reason = why, "NATS ends the connection"),
                false => error!(reason = why, "cannot connect to NATS, and goes on trying"),
            }
            said.error = Some(why);
        }
    }

    /// The server to try next, and when: all in turn.
    fn choose(&self, servers: &[Server]) -> Option<ReconnectToServer> {
        let last = self.said.lock().server.clone();
        let is_last = |server: &&Server| Some(name(server)) == last;
        if let Some(reason) = servers
            .iter()
            .find(is_last)
            .and_then(|server| server.last_error.as_ref())
        {
            let reason = reason.strip_prefix("IO error: ").unwrap_or(reason);
            // Which file it is that cannot be used, the library does not say.
            self.refused(match self.options.check() {
                Ok(()) => format!("{}: {reason}", last.unwrap_or_default()),
                Err(error) => format!("{error:#}"),
            });
        }
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let server = servers.get(turn.checked_rem(servers.len())?)?;
        self.said.lock().server = Some(name(server));
        let round = self.tries.fetch_add(1, Ordering::Relaxed) / servers.len();
        let delay = RETRY_MIN.saturating_mul(1 << round.min(10)).min(RETRY_MAX);
        let is_first = round == 0 && self.state.borrow().connections == 0;
        Some(ReconnectToServer {
            addr: server.addr.clone(),
            delay: Some(if is_first {
                Duration::ZERO
            } else {
                jittered(delay)
            }),
        })
    }
}

fn name(server: &Server) -> String {
    format!("{}:{}", server.addr.host(), server.addr.port())
}

/// Between half of the time and all of it.
fn jittered(delay: Duration) -> Duration {
    delay.mul_f64(1.0 - f64::from(random()) / f64::from(u32::MAX) / 2.0)
}

/// A random number; without one, all nodes wait alike.
pub(super) fn random() -> u32 {
    getrandom::u32().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn denial_is_about_the_subject_that_it_quotes() {
        let denial = r#"Permissions Violation for Publish to "$JS.API.STREAM.INFO.LINEHUB_ab""#;
        assert!(is_about(denial, "$JS.API.STREAM.INFO.LINEHUB_ab"));
        assert!(!is_about(denial, "$JS.API.STREAM.INFO.LINEHUB_a"));
        assert!(is_about(
            r#"Permissions Violation for Subscription to "_INBOX.a.*""#,
            "_INBOX.a.*"
        ));
    }
}
