//! Which request gets which answer.

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use futures::StreamExt;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame};
use hyper::header::{self, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode, Version};
use serde::Serialize;
use sha2::{Digest, Sha256};
use tokio::time::{Instant, sleep};

use super::allowed_hosts::AllowedHosts;
use super::events::Events;
use super::metrics::{self, Exposition};
use super::query::Query;
use super::state::{ANSWER_TIME, AdminState};
use crate::hub::{ChannelsStats, ClusterStats};
use crate::ops::lifecycle::Phase;

/// Channels that stand still and are named at most: a full disk stops all of them.
const FAILED_MAX: usize = 100;

/// The body of an answer.
pub(super) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// How often a hub that is asked for a sign of life is looked at again.
const PULSE_PERIOD: Duration = Duration::from_millis(10);

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const HTML: &str = "text/html; charset=utf-8";

/// The page, whole: its styles and its script are in it.
const PAGE: &str = include_str!("page.html");

/// Nothing on the page comes from elsewhere or goes anywhere else, and of styles and scripts only
/// those that were built in are used, whatever might get into the page.
static PAGE_POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let [style, script] = ["style", "script"].map(|element| {
        let (_, from) = PAGE.split_once(&format!("<{element}>")).unwrap_or_default();
        let (text, _) = from
            .split_once(&format!("</{element}>"))
            .unwrap_or_default();
        BASE64_STANDARD.encode(Sha256::digest(text))
    });
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{style}'; script-src 'sha256-{script}'; \
         connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'"
    );
    HeaderValue::from_str(&policy).unwrap_or(HeaderValue::from_static("default-src 'none'"))
});

/// What there is, for who asks for something else.
const PATHS: &str = "/, /status, /clients, /closed, /events, /metrics, /healthz and /readyz";

/// The answer to a request that reached a socket of this kind.
#[derive(Clone, Debug)]
pub(super) struct Router {
    pub(super) state: Arc<AdminState>,
    pub(super) events: Arc<Events>,
    /// The names the daemon goes by.
    pub(super) hosts: Arc<AllowedHosts>,
    pub(super) is_tcp: bool,
}

impl Router {
    /// Answers a request; `watches` is set if that goes on for as long as the connection does. A body
    /// that came with it is not read.
    pub(super) async fn answer<B>(
        &self,
        request: Request<B>,
        watches: Arc<AtomicBool>,
    ) -> Response<Body> {
        let (parts, _) = request.into_parts();
        let mut response = match self.refusal(&parts) {
            None => self.route(&parts, &watches).await,
            Some(refusal) => refusal,
        };
        let headers = response.headers_mut();
        for (name, value) in [
            (header::CACHE_CONTROL, "no-store"),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (header::REFERRER_POLICY, "no-referrer"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        response
    }

    /// Why a request may not be answered, if it may not.
    fn refusal(&self, request: &Parts) -> Option<Response<Body>> {
        // A browser says where a request comes from, if it is to an address that it trusts.
        let said = |name| request.headers.get(name).map(HeaderValue::as_bytes);
        if said("sec-fetch-site") == Some(b"cross-site")
            && said("sec-fetch-mode") != Some(b"navigate")
        {
            return Some(plain(
                StatusCode::FORBIDDEN,
                "not for the pages of others\n",
            ));
        }
        if self.is_checked(request) {
            let mut named = request.headers.get_all(header::HOST).iter();
            let host = named.next().and_then(|host| host.to_str().ok());
            let host = host.filter(|_| named.next().is_none());
            let authority = request.uri.authority().map(|authority| authority.as_str());
            // HTTP/1.0 need not say where it goes, and then nobody can know.
            let Some(host) = host else {
                let why = "a request has to name one Host\n";
                return Some(plain(StatusCode::BAD_REQUEST, why));
            };
            let fine = |name: &str| self.hosts.allow(name);
            if !fine(host) || !authority.is_none_or(fine) {
                let why = "this Host is not allowed; see --admin-host\n";
                return Some(plain(StatusCode::FORBIDDEN, why));
            }
        }
        // What goes on for ever has no end that HEAD could leave out.
        let is_head = request.method == Method::HEAD && request.uri.path() != "/events";
        if request.method != Method::GET && !is_head {
            let why = "only GET and HEAD are allowed\n";
            let mut refusal = plain(StatusCode::METHOD_NOT_ALLOWED, why);
            refusal
                .headers_mut()
                .insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            return Some(refusal);
        }
        None
    }

    /// Whether the host that a request names is to be one of the daemon's own. No name leads a browser
    /// to a Unix socket; but one with a port or with a domain comes through a tunnel from a TCP port,
    /// where any may.
    fn is_checked(&self, request: &Parts) -> bool {
        let host = request.headers.get(header::HOST);
        let host = host.and_then(|host| host.to_str().ok());
        let port = host.and_then(|host| host.rsplit_once(':'));
        let has_port = port.is_some_and(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()));
        let in_names = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let has_domain = host.is_some_and(|host| host.contains('.') && host.chars().all(in_names));
        self.is_tcp || has_port || has_domain
    }

    async fn route(&self, request: &Parts, watches: &AtomicBool) -> Response<Body> {
        let query = request.uri.query().unwrap_or_default();
        let path = request.uri.path();
        let takes_query = matches!(path, "/clients" | "/closed");
        if !takes_query && !query.is_empty() && path != "/" {
            return plain(
                StatusCode::BAD_REQUEST,
                "there is nothing to ask for here\n",
            );
        }
        match path {
            "/" => page(),
            "/status" => self.look(|state| json(&state.status())).await,
            "/clients" => match Query::read(query, true) {
                Ok(Query {
                    page,
                    order,
                    channel,
                }) => {
                    self.look(move |state| json(&state.clients(order, page, channel.as_ref())))
                        .await
                }
                Err(wrong) => plain(StatusCode::BAD_REQUEST, wrong),
            },
            "/closed" => match Query::read(query, false) {
                Ok(Query { page, channel, .. }) => {
                    self.look(move |state| json(&state.closed(page, channel.as_ref())))
                        .await
                }
                Err(wrong) => plain(StatusCode::BAD_REQUEST, wrong),
            },
            "/metrics" => {
                let accept = request.headers.get(header::ACCEPT);
                let accept = accept.and_then(|accept| accept.to_str().ok());
                let exposition = Exposition::preferred(accept.unwrap_or_default());
                self.look(move |state| {
                    let text = metrics::write(state.snapshot(), exposition);
                    full(StatusCode::OK, exposition.content_type(), text)
                })
                .await
            }
            "/events" if request.version < Version::HTTP_11 => plain(
                StatusCode::HTTP_VERSION_NOT_SUPPORTED,
                "events take HTTP/1.1\n",
            ),
            "/events" => {
                watches.store(true, Relaxed);
                let events = self.events.subscribe(self.state.clone());
                let body = StreamBody::new(events.map(|event| Ok(Frame::data(event))));
                response(StatusCode::OK, "text/event-stream", body.boxed_unsync())
            }
            "/healthz" => self.health().await,
            "/readyz" => self.readiness().await,
            _ => plain(StatusCode::NOT_FOUND, format!("there is only {PATHS}\n")),
        }
    }

    /// Looks at the daemon, and gives up if the hub does not let it.
    async fn look(
        &self,
        look: impl FnOnce(&AdminState) -> Response<Body> + Send + 'static,
    ) -> Response<Body> {
        match self.state.ask(look).await {
            Some(response) => response,
            None => plain(StatusCode::SERVICE_UNAVAILABLE, NO_ANSWER),
        }
    }

    /// The hub answers, and does something: its locks can be had, and between two looks something
    /// went on in it.
    async fn health(&self) -> Response<Body> {
        let deadline = Instant::now() + ANSWER_TIME;
        let Some(first) = self.state.ask(AdminState::pulse).await else {
            return plain(StatusCode::SERVICE_UNAVAILABLE, NO_ANSWER);
        };
        while Instant::now() < deadline {
            match self.state.ask(AdminState::pulse).await {
                Some(now) if now != first => return plain(StatusCode::OK, "ok\n"),
                Some(_) => sleep(PULSE_PERIOD).await,
                None => break,
            }
        }
        plain(StatusCode::SERVICE_UNAVAILABLE, NO_ANSWER)
    }

    /// Whether somebody who connects now becomes a client, and what clients publish is taken.
    async fn readiness(&self) -> Response<Body> {
        let phase = self.state.phase();
        match phase {
            Phase::Running | Phase::Reloading => {
                let look = move |state: &AdminState| readiness(phase, &state.stats());
                self.look(look).await
            }
            Phase::Starting | Phase::HandingOver | Phase::Draining | Phase::Stopped => {
                plain(StatusCode::SERVICE_UNAVAILABLE, format!("{phase}\n"))
            }
        }
    }
}

/// The readiness of a daemon that serves these channels in this phase.
fn readiness(phase: Phase, channels: &ChannelsStats) -> Response<Body> {
    let cluster = channels.cluster.as_ref();
    let away = cluster.and_then(ClusterStats::away);
    let is_away = away.is_some();
    let shared = channels.each.iter().filter_map(|channel| {
        // Without NATS all of them stand still, for one reason.
        let error = channel
            .shared
            .as_ref()
            .filter(|_| !is_away)?
            .error
            .as_ref()?;
        Some(format!("channel {}: {error}\n", channel.name))
    });
    let histories = channels.each.iter().filter_map(|channel| {
        let error = channel.history.as_ref()?.error.as_ref()?;
        Some(format!("history of channel {}: {error}\n", channel.name))
    });
    let failed = away.map(|away| format!("{away}\n")).into_iter();
    let failed = failed.chain(shared).chain(histories);
    let failed: Vec<String> = failed.take(FAILED_MAX).collect();
    match failed.is_empty() {
        true => plain(StatusCode::OK, format!("{phase}\n")),
        false => plain(StatusCode::SERVICE_UNAVAILABLE, failed.concat()),
    }
}

const NO_ANSWER: &str = "the hub does not answer\n";

fn page() -> Response<Body> {
    let mut response = full(StatusCode::OK, HTML, PAGE);
    response
        .headers_mut()
        .insert(header::CONTENT_SECURITY_POLICY, PAGE_POLICY.clone());
    response
}

fn json(document: &impl Serialize) -> Response<Body> {
    match serde_json::to_vec(document) {
        Ok(mut text) => {
            // For who reads it in a terminal.
            text.push(b'\n');
            full(StatusCode::OK, JSON, text)
        }
        Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

fn plain(status: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    full(status, TEXT, text)
}

fn full(status: StatusCode, content_type: &'static str, text: impl Into<Bytes>) -> Response<Body> {
    response(status, content_type, Full::new(text.into()).boxed_unsync())
}

fn response(status: StatusCode, content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
mod tests;
