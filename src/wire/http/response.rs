//! What is answered.

use std::fmt::Write as _;
use std::time::SystemTime;

use super::request::HttpError;
use crate::wire::close_reason::CloseReason;
use crate::wire::format::{self, Format};
use crate::wire::transport::Transport;

/// What a request that waits for it gets before it sends its body.
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// The end of a body in chunks.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Answers to a request: their heads, and bodies that are whole. Each connection ends with its answer.
#[derive(Clone, Copy, Debug, Default)]
pub struct Response<'a> {
    /// The origin of the page that sent the request, which may read what is answered.
    pub origin: Option<&'a str>,
}

impl Response<'_> {
    /// That the client's stream follows: by this transport in this format, in chunks or up to the end.
    pub fn stream(&self, transport: Transport, format: Format, in_chunks: bool) -> Vec<u8> {
        let kind = match (transport, format) {
            (Transport::Events, _) => "text/event-stream",
            (_, Format::Json) => "application/x-ndjson",
            (_, Format::Text) => "text/plain; charset=utf-8",
            (_, Format::Raw) => "application/octet-stream",
        };
        let mut head = self.head(200);
        // A proxy that waits for more would hold lines back.
        head += &format!("Content-Type: {kind}\r\nX-Accel-Buffering: no\r\n");
        if in_chunks {
            head += "Transfer-Encoding: chunked\r\n";
        }
        head += "Connection: close\r\n\r\n";
        head.into_bytes()
    }

    /// That frames follow, to who is answered with this key.
    pub fn switching(&self, accept: &str) -> Vec<u8> {
        let mut head = "HTTP/1.1 101 Switching Protocols\r\n".to_owned();
        head += &format!(
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
        );
        head.into_bytes()
    }

    /// How many lines of a body were published, and as safe as they get.
    pub fn taken(&self, lines: u64) -> Vec<u8> {
        let body = format!("{{\"taken\":{lines}}}\n");
        self.whole(200, "application/json", "", body.as_bytes())
    }

    /// What the page of another origin may ask for.
    pub fn preflight(&self) -> Vec<u8> {
        let allowed = "Access-Control-Allow-Methods: GET, POST\r\n\
                       Access-Control-Allow-Headers: Authorization, Content-Type, Idempotency-Key, Last-Event-ID\r\n\
                       Access-Control-Max-Age: 600\r\n";
        self.whole(204, "", allowed, b"")
    }

    /// The page, or only the head of it.
    pub fn page(&self, page: &str, policy: &str, is_head: bool) -> Vec<u8> {
        let fields =
            format!("Content-Security-Policy: {policy}\r\nReferrer-Policy: no-referrer\r\n");
        let mut answer = self.whole(200, "text/html; charset=utf-8", &fields, page.as_bytes());
        if is_head {
            answer.truncate(answer.len() - page.len());
        }
        answer
    }

    /// Redirect to `to`, relative to what was asked for.
    pub fn moved(&self, to: &str) -> Vec<u8> {
        let fields = format!("Location: {to}\r\nContent-Length: 0\r\n");
        self.whole(308, "", &fields, b"")
    }

    /// Why a request is not answered as it asks.
    pub fn error(&self, reason: CloseReason, error: &HttpError) -> Vec<u8> {
        let mut body = Vec::new();
        format::error(Format::Json, reason, &error.detail, &mut body);
        let fields = match (error.status, error.allowed()) {
            (_, Some(methods)) => format!("Allow: {methods}\r\n"),
            (401, _) => "WWW-Authenticate: Bearer\r\n".to_owned(),
            (426, _) => "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n".to_owned(),
            (429 | 503, _) => "Retry-After: 1\r\n".to_owned(),
            _ => String::new(),
        };
        self.whole(error.status, "application/json", &fields, &body)
    }

    fn whole(&self, status: u16, kind: &str, fields: &str, body: &[u8]) -> Vec<u8> {
        let mut head = self.head(status);
        if !kind.is_empty() {
            head += &format!("Content-Type: {kind}\r\nContent-Length: {}\r\n", body.len());
        }
        head += fields;
        // What is asked of a listener may be what it says to upgrade to, too.
        head += match status {
            426 => "Connection: close, Upgrade\r\n\r\n",
            _ => "Connection: close\r\n\r\n",
        };
        [head.as_bytes(), body].concat()
    }

    fn head(&self, status: u16) -> String {
        let mut head = format!("HTTP/1.1 {status} {}\r\n", words_of(status));
        let date = httpdate::fmt_http_date(SystemTime::now());
        let _ = write!(head, "Date: {date}\r\n");
        head += "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n";
        if let Some(origin) = self.origin {
            let _ = write!(
                head,
                "Access-Control-Allow-Origin: {origin}\r\nVary: Origin\r\n"
            );
        }
        head
    }
}

/// Status of the answer to a request that is refused for this reason, or whose body is.
pub const fn status_of(reason: CloseReason) -> u16 {
    match reason {
        CloseReason::BadHello | CloseReason::BadRequest | CloseReason::Proxy | CloseReason::Tls => {
            400
        }
        CloseReason::Unauthorized => 401,
        CloseReason::Denied => 403,
        CloseReason::NoChannel => 404,
        CloseReason::SessionTaken | CloseReason::SessionEnded => 409,
        CloseReason::LineTooLong => 413,
        CloseReason::TooMany => 429,
        CloseReason::Idle | CloseReason::Stalled => 408,
        CloseReason::Full | CloseReason::Shutdown => 503,
        _ => 500,
    }
}

fn words_of(status: u16) -> &'static str {
    match status {
        200 => "OK",
        204 => "No Content",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        411 => "Length Required",
        413 => "Content Too Large",
        421 => "Misdirected Request",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "Internal Server Error",
    }
}
