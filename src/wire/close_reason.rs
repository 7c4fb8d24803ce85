//! Why a connection ends: one list for the log, the counters and what the client itself is told.
//!
//! To add a reason: put it at the end of the enum and of `ALL`, and write what the compiler asks for, its
//! label and its words. The compiler does not ask for [`CloseReason::is_abrupt`], for `is_untold` of the
//! client, for `REASONS` of the status page, for `DaemonLine`, for the README and for the saved forms.

use serde::{Deserialize, Serialize};

/// Every reason a connection is closed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum CloseReason {
    /// The client shut its sending side, or asked to leave (Ctrl-D and IAC EOF on telnet).
    Eof = 1,
    /// The connection broke: reset, timed out, unreachable.
    Reset,
    /// It sent a line longer than `--max-line`.
    LineTooLong,
    /// It still needed the oldest line when the buffer had been full for `--slow-grace`.
    Slow,
    /// Its socket took no byte of its pending output for `--stall-timeout`.
    Stalled,
    /// It neither sent nor took a byte for `--idle-timeout`.
    Idle,
    /// `--max-clients` were connected already. Such a connection never becomes a client.
    Full,
    /// The daemon stops.
    Shutdown,
    /// Its task ended without a reason of its own: a bug in linehub, held to that one client.
    Internal,
    /// Its first line was an HTTP request (`--http-guard`).
    Http,
    /// It asked for a channel that there is none of (`--open-channels`). It never becomes a client.
    NoChannel,
    /// Its listener asks for a hello line, and its first line was none that is allowed, or did not come
    /// within `--hello-timeout`. It never becomes a client.
    BadHello,
    /// TLS could not be agreed on, or its records were wrong.
    Tls,
    /// Its token was missing or wrong (`--tokens`). It never becomes a client.
    Unauthorized,
    /// Its address is not allowed (`--allow`, `--deny`), or what it came in by is not any more.
    Denied,
    /// Its address had as many clients, or came as often, as it may (`--max-clients-per-address`,
    /// `--connects-per-address`). It never becomes a client.
    TooMany,
    /// Its PROXY protocol header was wrong or missing. It never becomes a client.
    Proxy,
    /// Another connection goes on with its session. Nothing more that it sends is published, and it gets
    /// what it was owed.
    SessionTaken,
    /// Nothing is kept in its channel any more, and so nothing of its session (`--history-error drop`, or a reload).
    SessionEnded,
    /// Its HTTP request was none that is served. It never becomes a client.
    BadRequest,
    /// Its WebSocket frames were wrong.
    WebSocket,
}

impl CloseReason {
    /// All reasons, in the order of their codes.
    pub const ALL: [CloseReason; 21] = [
        CloseReason::Eof,
        CloseReason::Reset,
        CloseReason::LineTooLong,
        CloseReason::Slow,
        CloseReason::Stalled,
        CloseReason::Idle,
        CloseReason::Full,
        CloseReason::Shutdown,
        CloseReason::Internal,
        CloseReason::Http,
        CloseReason::NoChannel,
        CloseReason::BadHello,
        CloseReason::Tls,
        CloseReason::Unauthorized,
        CloseReason::Denied,
        CloseReason::TooMany,
        CloseReason::Proxy,
        CloseReason::SessionTaken,
        CloseReason::SessionEnded,
        CloseReason::BadRequest,
        CloseReason::WebSocket,
    ];

    /// The label used in the log, in counters and in `json`.
    pub const fn label(self) -> &'static str {
        match self {
            CloseReason::Eof => "eof",
            CloseReason::Reset => "reset",
            CloseReason::LineTooLong => "line_too_long",
            CloseReason::Slow => "slow",
            CloseReason::Stalled => "stalled",
            CloseReason::Idle => "idle",
            CloseReason::Full => "full",
            CloseReason::Shutdown => "shutdown",
            CloseReason::Internal => "internal",
            CloseReason::Http => "http",
            CloseReason::NoChannel => "no_channel",
            CloseReason::BadHello => "bad_hello",
            CloseReason::Tls => "tls",
            CloseReason::Unauthorized => "unauthorized",
            CloseReason::Denied => "denied",
            CloseReason::TooMany => "too_many",
            CloseReason::Proxy => "proxy",
            CloseReason::SessionTaken => "session_taken",
            CloseReason::SessionEnded => "session_ended",
            CloseReason::BadRequest => "bad_request",
            CloseReason::WebSocket => "websocket",
        }
    }

    /// Whether a client that is closed for it does not get what it was owed.
    pub const fn is_abrupt(self) -> bool {
        matches!(self, CloseReason::Slow | CloseReason::Stalled)
    }

    /// Its place in [`CloseReason::ALL`].
    pub const fn index(self) -> usize {
        self as usize - 1
    }

    /// The reason with this code, if there is one.
    pub fn from_code(code: u8) -> Option<CloseReason> {
        CloseReason::ALL
            .into_iter()
            .find(|reason| *reason as u8 == code)
    }
}
