//! What a request asks for.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use httparse::{EMPTY_HEADER, Header, Status};

use super::body::BodyLength;
use super::host;
use crate::wire::channel::ChannelName;
use crate::wire::format::Format;
use crate::wire::hello::{Hello, allowed};
use crate::wire::ids::{Epoch, Seq};
use crate::wire::past::Since;
use crate::wire::role::Role;
use crate::wire::transport::Transport;

/// Most header fields of a request.
const HEADERS_MAX: usize = 100;

/// Most characters of something unknown that its sender is shown.
const SHOWN_CHARS_MAX: usize = 32;

/// Why a request is not answered as it asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpError {
    /// Status of the answer.
    pub status: u16,
    /// In words for its sender: one line of printable ASCII, with no value in it that may be a token.
    pub detail: Cow<'static, str>,
}

impl HttpError {
    /// The head has not come in time, in these words.
    pub fn timed_out(detail: String) -> HttpError {
        HttpError::new(408, detail)
    }

    /// The head is too long, or has too many fields.
    pub fn too_large() -> HttpError {
        HttpError::new(431, "the head of the request is too large")
    }

    /// What came is no request.
    pub fn no_request() -> HttpError {
        HttpError::new(400, "HTTP request expected")
    }

    /// An answer of this status, in these words.
    pub fn new(status: u16, detail: impl Into<Cow<'static, str>>) -> HttpError {
        HttpError {
            status,
            detail: detail.into(),
        }
    }

    /// There is no such method of what is asked for, but these.
    fn not_allowed(methods: &str) -> HttpError {
        HttpError::new(405, format!("{methods} expected"))
    }

    /// The methods that there are, if that is what is wrong.
    pub(super) fn allowed(&self) -> Option<&str> {
        let detail = self.detail.strip_suffix(" expected");
        detail.filter(|_| self.status == 405)
    }
}

impl fmt::Display for HttpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl std::error::Error for HttpError {}

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What it asks for.
    pub asked: Asked,
    /// The host that it was sent to, with its port if it says one.
    host: String,
    /// The page that sent it, if a browser says so.
    pub origin: Option<String>,
    /// A browser says that a page of another site has it sent.
    is_cross_site: bool,
}

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// The page, or only the head of that.
    Page {
        /// Whether it is `HEAD`.
        is_head: bool,
    },
    /// The page of a channel, asked for without the slash at its end.
    Moved {
        /// Where it is, relative to what was asked for.
        to: String,
    },
    /// What a page of another origin may ask for (`OPTIONS`).
    Preflight,
    /// To be a client.
    Client(Box<WebRequest>),
}

/// A request to be a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebRequest {
    /// By what.
    pub transport: Transport,
    /// What a hello would ask for.
    pub hello: Hello,
    /// Whether it wants a message with each ping, which the page in a browser does not see.
    pub beats: bool,
    /// What a WebSocket handshake is to be answered with.
    pub websocket_accept: Option<String>,
    /// Whether it understands chunks: HTTP/1.1.
    pub takes_chunks: bool,
    /// How its body ends, and whether it waits for [`CONTINUE`](super::CONTINUE) before that.
    pub body: Option<(BodyLength, bool)>,
}

impl Request {
    /// Reads a request's head, with the empty line at its end.
    ///
    /// # Errors
    /// What is wrong with it, or not served.
    pub fn parse(head: &[u8]) -> Result<Request, HttpError> {
        let mut headers = [EMPTY_HEADER; HEADERS_MAX];
        let mut parsed = httparse::Request::new(&mut headers);
        match parsed.parse(head) {
            Ok(Status::Complete(_)) => {}
            Err(httparse::Error::TooManyHeaders) => return Err(HttpError::too_large()),
            Err(httparse::Error::Version) => return Err(HttpError::new(505, "HTTP/1.1 expected")),
            Ok(Status::Partial) | Err(_) => return Err(HttpError::no_request()),
        }
        let (Some(method), Some(target), Some(version)) =
            (parsed.method, parsed.path, parsed.version)
        else {
            return Err(HttpError::no_request());
        };
        let headers = Headers(parsed.headers);
        let (authority, target) = split_target(target);
        let host = match (headers.one("host")?, authority) {
            (_, Some(authority)) => authority,
            (Some(host), None) => host,
            (None, None) => return Err(HttpError::new(400, "no Host in the request")),
        };
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let at = Place::of(path)?;
        let origin = headers.one("origin")?.map(str::to_owned);
        let is_11 = version == 1;
        let asked = match (method, at.last) {
            ("OPTIONS", _) => Asked::Preflight,
            ("GET" | "HEAD", "") => Asked::Page {
                is_head: method == "HEAD",
            },
            ("GET", "ws" | "events" | "lines") | ("POST", "lines") => {
                let client = WebRequest::read(method, at, query, &headers, is_11)?;
                Asked::Client(Box::new(client))
            }
            (_, "") => return Err(HttpError::not_allowed("GET, HEAD, OPTIONS")),
            (_, "ws" | "events") => return Err(HttpError::not_allowed("GET, OPTIONS")),
            // A person has typed it.
            ("GET" | "HEAD", name)
                if at.channel.is_none()
                    && name.parse::<ChannelName>().is_ok()
                    && headers
                        .one("accept")?
                        .is_some_and(|it| it.contains("text/html")) =>
            {
                Asked::Moved {
                    to: format!("{name}/{}", target.strip_prefix(path).unwrap_or_default()),
                }
            }
            (_, "lines") => return Err(HttpError::not_allowed("GET, POST, OPTIONS")),
            _ => {
                return Err(HttpError::new(
                    404,
                    "nothing there: try /, /ws, /events or /lines",
                ));
            }
        };
        let has_body = headers.one("content-length")?.is_some_and(|it| it != "0")
            || headers.one("transfer-encoding")?.is_some();
        if has_body && method != "POST" {
            return Err(HttpError::new(400, "no body expected"));
        }
        Ok(Request {
            asked,
            host: host.to_owned(),
            origin,
            is_cross_site: headers
                .one("sec-fetch-site")?
                .is_some_and(|site| !matches!(site, "same-origin" | "none")),
        })
    }

    /// Whether it may be answered. Its host has to be an address, this machine, or one of `hosts`; a browser's page
    /// that sent it has to be of that host, or one of `origins`. All are in lower case.
    ///
    /// # Errors
    /// What is not allowed of that.
    pub fn check(&self, hosts: &[String], origins: &[String]) -> Result<(), HttpError> {
        if !host::is_allowed(&self.host, hosts) {
            return Err(HttpError::new(
                421,
                "this Host is not allowed (--admin-host, --http-origin)",
            ));
        }
        let not_allowed = || {
            Err(HttpError::new(
                403,
                "this origin is not allowed (--http-origin)",
            ))
        };
        let Some(origin) = &self.origin else {
            // As for an image: no page of another site is to have clients here.
            return match (&self.asked, self.is_cross_site) {
                (Asked::Client(_), true) => not_allowed(),
                _ => Ok(()),
            };
        };
        let origin = origin.to_lowercase();
        let of_host = origin.split_once("://").is_some_and(|(scheme, host)| {
            matches!(scheme, "http" | "https") && host == self.host.to_lowercase()
        });
        if of_host || origins.contains(&origin) {
            return Ok(());
        }
        not_allowed()
    }
}

impl WebRequest {
    fn read(
        method: &str,
        at: Place<'_>,
        query: &str,
        headers: &Headers<'_>,
        is_11: bool,
    ) -> Result<WebRequest, HttpError> {
        let transport = match (method, at.last) {
            ("POST", _) => Transport::Post,
            (_, "ws") => Transport::WebSocket,
            (_, "events") => Transport::Events,
            _ => Transport::Lines,
        };
        let mut hello = Hello {
            channel: at.channel,
            // What is not said is not the listener's format, which clients of other ways are for.
            format: Some(Format::Json),
            ..Hello::default()
        };
        let mut beats = false;
        let mut seen: Vec<&str> = Vec::new();
        let query: Vec<_> = form_urlencoded::parse(query.as_bytes()).collect();
        for (key, value) in &query {
            if seen.contains(&&**key) {
                return Err(HttpError::new(
                    400,
                    format!("\"{}\" is given twice", shown(key)),
                ));
            }
            seen.push(key);
            match (&**key, transport) {
                ("token", _) => hello.token = value.parse().ok(),
                ("format", Transport::WebSocket | Transport::Lines) => {
                    set(&mut hello.format, key, "format", value)?
                }
                ("role", Transport::WebSocket) => set(&mut hello.role, key, "role", value)?,
                ("session", Transport::WebSocket) => {
                    set(&mut hello.session, key, "session", value)?
                }
                ("ack", Transport::WebSocket) if value.is_empty() => hello.ack = true,
                ("beat", Transport::WebSocket) if value.is_empty() => beats = true,
                ("lastEventID" | "lastEventId", Transport::Events) => {
                    hello.since = behind_event(value).or(hello.since);
                }
                ("since", Transport::WebSocket | Transport::Events | Transport::Lines) => {
                    set(&mut hello.since, key, "since", value)?;
                }
                ("history", Transport::WebSocket | Transport::Events | Transport::Lines) => {
                    set(&mut hello.history, key, "history", value)?;
                }
                _ => {
                    let key = shown(key);
                    return Err(HttpError::new(400, format!("unknown parameter \"{key}\"")));
                }
            }
        }
        if hello.ack && hello.session.is_none() {
            return Err(HttpError::new(400, "\"ack\" without \"session\""));
        }
        if beats && hello.format != Some(Format::Json) {
            return Err(HttpError::new(400, "\"beat\" is for format json"));
        }
        if let Some(authorization) = headers.one("authorization")? {
            let (scheme, token) = authorization.split_once(' ').unwrap_or((authorization, ""));
            if scheme.eq_ignore_ascii_case("bearer") {
                hello.token = token.trim().parse().ok();
            }
        }
        match transport {
            Transport::Events => {
                // A browser that comes back says where it was, whatever its URL says.
                let last = headers.one("last-event-id")?.unwrap_or_default();
                hello.since = behind_event(last).or(hello.since);
                hello.role = Some(Role::Subscribe);
            }
            Transport::Lines => hello.role = Some(Role::Subscribe),
            Transport::Post => {
                if let Some(key) = headers.one("idempotency-key")? {
                    let key = key
                        .strip_prefix('"')
                        .and_then(|key| key.strip_suffix('"'))
                        .unwrap_or(key);
                    set(&mut hello.session, "Idempotency-Key", "session", key)?;
                    hello.ack = true;
                }
                hello.role = Some(Role::Publish);
            }
            Transport::WebSocket | Transport::Plain => {}
        }
        let websocket_accept = match transport {
            Transport::WebSocket => Some(accept_websocket(headers, is_11)?),
            _ => None,
        };
        let body = match transport {
            Transport::Post => {
                let waits = headers
                    .one("expect")?
                    .is_some_and(|it| it.eq_ignore_ascii_case("100-continue"));
                Some((body_length(headers, is_11)?, waits && is_11))
            }
            _ => None,
        };
        Ok(WebRequest {
            transport,
            hello,
            beats,
            websocket_accept,
            takes_chunks: is_11,
            body,
        })
    }
}

/// What a path names.
struct Place<'a> {
    channel: Option<ChannelName>,
    last: &'a str,
}

impl Place<'_> {
    /// `/`, `/ws`, `/CHANNEL/` or `/CHANNEL/ws`.
    fn of(path: &str) -> Result<Place<'_>, HttpError> {
        let path = path.strip_prefix('/').unwrap_or(path);
        let Some((channel, last)) = path.split_once('/') else {
            return Ok(Place {
                channel: None,
                last: path,
            });
        };
        let channel = channel.parse();
        Ok(Place {
            channel: Some(channel.map_err(|_| HttpError::new(404, "no such channel"))?),
            last,
        })
    }
}

/// Header fields of a request.
struct Headers<'a>(&'a [Header<'a>]);

impl<'a> Headers<'a> {
    /// The value of a field that may be given once.
    fn one(&self, name: &str) -> Result<Option<&'a str>, HttpError> {
        let mut values = self
            .0
            .iter()
            .filter(|header| header.name.eq_ignore_ascii_case(name));
        let first = values.next();
        if values.next().is_some() {
            return Err(HttpError::new(400, format!("{name} is given twice")));
        }
        let value = first.map(|header| std::str::from_utf8(header.value));
        let value = value.transpose();
        value.map_err(|_| HttpError::new(400, format!("{name} is not ASCII")))
    }

    /// Whether a field, given any number of times, has this among the words that commas part.
    fn lists(&self, name: &str, word: &str) -> bool {
        let fields = self
            .0
            .iter()
            .filter(|header| header.name.eq_ignore_ascii_case(name));
        let mut words = fields.flat_map(|header| header.value.split(|byte| *byte == b','));
        words.any(|found| found.trim_ascii().eq_ignore_ascii_case(word.as_bytes()))
    }
}

/// The host of a target that is a whole URL, and its path.
fn split_target(target: &str) -> (Option<&str>, &str) {
    let url = target
        .strip_prefix("http://")
        .or(target.strip_prefix("https://"));
    match url {
        Some(url) => {
            let end = url.find(['/', '?']).unwrap_or(url.len());
            (Some(&url[..end]), &url[end..])
        }
        None => (None, target),
    }
}

/// Sets what a parameter is for; `word` is the key of a hello that means the same.
fn set<T: FromStr>(
    into: &mut Option<T>,
    key: &str,
    word: &'static str,
    value: &str,
) -> Result<(), HttpError> {
    let wrong = || {
        HttpError::new(
            400,
            format!("invalid value of \"{key}\": {}", allowed(word)),
        )
    };
    *into = Some(value.parse().map_err(|_| wrong())?);
    Ok(())
}

/// Where to go on that had this event last, if any. One of another server is nowhere here: told that it is wrong, a
/// browser would never come back.
fn behind_event(id: &str) -> Option<Since> {
    let nowhere = Since::Place(Epoch(0), Seq(0));
    (!id.is_empty()).then(|| id.parse().unwrap_or(nowhere))
}

/// As much of something unknown as its sender is shown.
fn shown(text: &str) -> String {
    let mut shown: String = text.chars().take(SHOWN_CHARS_MAX).collect();
    if shown.len() < text.len() {
        shown.push_str("...");
    }
    shown.escape_default().to_string()
}

/// What a WebSocket handshake is answered with (RFC 6455, section 4.2.2).
fn accept_websocket(headers: &Headers<'_>, is_11: bool) -> Result<String, HttpError> {
    if !is_11 || !headers.lists("connection", "upgrade") || !headers.lists("upgrade", "websocket") {
        return Err(HttpError::new(426, "a WebSocket handshake expected"));
    }
    if headers.one("sec-websocket-version")? != Some("13") {
        return Err(HttpError::new(426, "WebSocket version 13 expected"));
    }
    let key = headers.one("sec-websocket-key")?.unwrap_or_default();
    let is_key = STANDARD.decode(key).is_ok_and(|key| key.len() == 16);
    if !is_key {
        return Err(HttpError::new(400, "invalid Sec-WebSocket-Key"));
    }
    Ok(accept_of(key))
}

/// What the key of a WebSocket handshake is answered with.
pub(super) fn accept_of(key: &str) -> String {
    use sha1::{Digest as _, Sha1};
    let mut hash = Sha1::new();
    hash.update(key);
    hash.update("258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    STANDARD.encode(hash.finalize())
}

/// How a body ends. What could be understood in two ways is refused.
fn body_length(headers: &Headers<'_>, is_11: bool) -> Result<BodyLength, HttpError> {
    let length = headers.one("content-length")?;
    match (headers.one("transfer-encoding")?, length) {
        (Some(_), Some(_)) => Err(HttpError::new(400, "Content-Length and Transfer-Encoding")),
        (Some(coding), None) if is_11 && coding.eq_ignore_ascii_case("chunked") => {
            Ok(BodyLength::Chunked)
        }
        (Some(_), None) => Err(HttpError::new(501, "Transfer-Encoding: chunked expected")),
        (None, Some(length)) => {
            let is_number =
                !length.is_empty() && length.bytes().all(|digit| digit.is_ascii_digit());
            let length = is_number.then(|| length.parse().ok()).flatten();
            length
                .map(BodyLength::Bytes)
                .ok_or_else(|| HttpError::new(400, "invalid Content-Length"))
        }
        (None, None) => Err(HttpError::new(411, "Content-Length expected")),
    }
}
