//! What all clients go by, and what they are told when they are closed.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};

use super::throttle::Rates;
use crate::config::{Config, Grace, HalfClose, LongLine};
use crate::hub::Feed;
use crate::net::tls::RevocationLists;
use crate::wire::close_reason::CloseReason;
use crate::wire::framing::LineLimit;

/// Policy that all clients go by. A reload changes it for connected clients, too.
#[derive(Debug)]
pub(crate) struct ClientPolicy {
    /// Looked at in every read: the rest is not.
    line_bytes_max: AtomicUsize,
    discards_long_lines: AtomicBool,
    /// Lines and bytes a second from a client; 0 is no limit.
    rates: [AtomicU64; 2],
    /// Whether the log has said of some client that its lines seem to end in CR.
    has_warned_of_cr: AtomicBool,
    last: Mutex<ClosePolicy>,
    /// Certificates that are revoked.
    revoked: Mutex<Option<Arc<RevocationLists>>>,
}

/// Policy that matters once, when a client's input or the client ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct ClosePolicy {
    pub(super) half_close: HalfClose,
    idle_timeout: Option<Duration>,
    stall_timeout: Option<Duration>,
    /// How long a connection may take over its hello.
    pub(super) hello_timeout: Duration,
}

impl From<&Config> for ClientPolicy {
    fn from(config: &Config) -> ClientPolicy {
        ClientPolicy {
            line_bytes_max: AtomicUsize::new(config.line_bytes_max),
            discards_long_lines: AtomicBool::new(config.long_line == LongLine::Discard),
            rates: rates(config).map(AtomicU64::new),
            has_warned_of_cr: AtomicBool::new(false),
            last: Mutex::new(ClosePolicy::from(config)),
            revoked: Mutex::default(),
        }
    }
}

impl From<&Config> for ClosePolicy {
    fn from(config: &Config) -> ClosePolicy {
        ClosePolicy {
            half_close: config.half_close,
            idle_timeout: config.idle_timeout,
            stall_timeout: config.stall_timeout,
            hello_timeout: config.hello_timeout,
        }
    }
}

impl ClientPolicy {
    /// Has all clients go by another configuration from now on.
    pub(crate) fn set(&self, config: &Config) {
        self.line_bytes_max.store(config.line_bytes_max, Relaxed);
        let discards = config.long_line == LongLine::Discard;
        self.discards_long_lines.store(discards, Relaxed);
        for (rate, new) in self.rates.iter().zip(rates(config)) {
            rate.store(new, Relaxed);
        }
        self.has_warned_of_cr.store(false, Relaxed);
        *self.last() = ClosePolicy::from(config);
    }

    pub(super) fn revoked(&self) -> Option<Arc<RevocationLists>> {
        self.revoked.lock().clone()
    }

    /// Has clients asked for their certificate go by these lists from now on.
    pub(super) fn set_revoked(&self, lists: Option<Arc<RevocationLists>>) {
        *self.revoked.lock() = lists;
    }

    /// Whether nobody has been warned yet that the lines of a client seem to end in CR; once is enough.
    pub(super) fn is_first_warning_of_cr(&self) -> bool {
        !self.has_warned_of_cr.swap(true, Relaxed)
    }

    pub(super) fn line_bytes_max(&self) -> usize {
        self.line_bytes_max.load(Relaxed)
    }

    pub(super) fn line(&self) -> LineLimit {
        LineLimit {
            bytes_max: self.line_bytes_max(),
            discard: self.discards_long_lines.load(Relaxed),
        }
    }

    /// Rates that each client is held to.
    pub(super) fn rates(&self) -> Rates {
        let [lines, bytes] = &self.rates;
        Rates {
            lines: NonZeroU64::new(lines.load(Relaxed)),
            bytes: NonZeroU64::new(bytes.load(Relaxed)),
        }
    }

    pub(super) fn last(&self) -> MutexGuard<'_, ClosePolicy> {
        self.last.lock()
    }
}

fn rates(config: &Config) -> [u64; 2] {
    [config.rate_lines, config.rate_bytes].map(|rate| rate.map_or(0, NonZeroU64::get))
}

impl ClosePolicy {
    /// What a client is told when it is closed for this reason; nothing when it knows, or when no
    /// word can reach it. `line_bytes_max` is the limit that its last line was held to.
    pub(super) fn detail(
        self,
        reason: CloseReason,
        line_bytes_max: usize,
        feed: &Feed,
    ) -> Option<String> {
        let seconds = |time: Option<Duration>| time.unwrap_or_default().as_secs_f64();
        match reason {
            CloseReason::LineTooLong => {
                Some(format!("line too long (limit {line_bytes_max} bytes)"))
            }
            CloseReason::Slow => Some(match feed.slow_grace() {
                Grace::For(grace) if !grace.is_zero() => {
                    format!(
                        "too slow (behind for {}s with a full buffer)",
                        seconds(Some(grace))
                    )
                }
                _ => "too slow (behind with a full buffer)".to_owned(),
            }),
            CloseReason::Stalled => Some(format!("stalled for {}s", seconds(self.stall_timeout))),
            CloseReason::Idle => Some(format!("idle for {}s", seconds(self.idle_timeout))),
            CloseReason::Denied => Some("not allowed any more".to_owned()),
            CloseReason::SessionTaken => {
                Some("session taken over by another connection".to_owned())
            }
            CloseReason::SessionEnded => {
                Some("session ended, as its channel keeps nothing any more".to_owned())
            }
            CloseReason::WebSocket => Some("wrong WebSocket frame".to_owned()),
            CloseReason::Tls => Some("TLS, but this listener speaks none".to_owned()),
            CloseReason::Http => Some("HTTP request, but this is no HTTP server".to_owned()),
            CloseReason::Eof
            | CloseReason::Reset
            | CloseReason::Full
            | CloseReason::NoChannel
            | CloseReason::BadHello
            | CloseReason::BadRequest
            | CloseReason::Unauthorized
            | CloseReason::TooMany
            | CloseReason::Proxy
            | CloseReason::Shutdown
            | CloseReason::Internal => None,
        }
    }
}
