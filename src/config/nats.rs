//! The values of the options about NATS: how each is read, its bounds, and what an error says is allowed.

use std::fmt;

/// Most copies that a NATS server keeps of a stream.
const REPLICAS_MAX: usize = 5;

/// Port of a NATS server whose URL names none.
const PORT: u16 = 4222;

/// URL of a NATS server: `nats://` or `tls://`, maybe who to be there, host and port.
///
/// Displays as it was typed, but for who to be: that may be a password.
#[derive(Clone, PartialEq, Eq)]
pub struct NatsUrl {
    scheme: &'static str,
    /// User and password, or a token.
    user: Option<String>,
    host: String,
}

impl NatsUrl {
    /// All of it, as it connects.
    #[cfg(any(test, feature = "nats"))]
    pub(crate) fn reveal(&self) -> String {
        let NatsUrl { scheme, host, user } = self;
        match user {
            Some(user) => format!("{scheme}://{user}@{host}"),
            None => format!("{scheme}://{host}"),
        }
    }
}

impl fmt::Display for NatsUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.host)
    }
}

impl fmt::Debug for NatsUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// URL of a NATS server. What is wrong with it is said without it: it may have a password.
pub(super) fn url(text: &str) -> Result<NatsUrl, String> {
    let allowed = "allowed: nats://HOST:PORT, tls://HOST:PORT, or HOST:PORT, with USER:PASSWORD@ or TOKEN@ in \
                   front of HOST if the server wants that";
    let (scheme, rest) = match text.split_once("://") {
        None => ("nats", text),
        Some(("nats", rest)) => ("nats", rest),
        Some(("tls", rest)) => ("tls", rest),
        Some((other, _)) => return Err(format!("cannot connect by '{other}'; {allowed}")),
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let (user, host) = match rest.rsplit_once('@') {
        Some((user, host)) => (Some(user.to_owned()), host),
        None => (None, rest),
    };
    let (name, port) = match host.rsplit_once(':') {
        // A colon within brackets is an IPv6 address's.
        Some((name, port)) if !port.ends_with(']') => (name, port.parse().ok()),
        _ => (host, Some(PORT)),
    };
    let is_ipv6 = name.starts_with('[') && name.ends_with(']');
    let is_host = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
    let is_name = !name.is_empty() && (is_ipv6 || name.chars().all(is_host));
    match port.filter(|port| is_name && *port != 0) {
        Some(port) => Ok(NatsUrl {
            scheme,
            user,
            host: format!("{name}:{port}"),
        }),
        None => Err(format!("is no address of a NATS server; {allowed}")),
    }
}

/// Copies of a stream: 1 to 5.
pub(super) fn replicas(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number @ 1..=REPLICAS_MAX) => Ok(number),
        _ => Err(format!(
            "'{text}' is not a number of copies; allowed: 1 to {REPLICAS_MAX}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_and_shown_without_who_to_be() {
        for (text, shown, revealed) in [
            (
                "a.example",
                "nats://a.example:4222",
                "nats://a.example:4222",
            ),
            (
                "nats://127.0.0.1:4333/",
                "nats://127.0.0.1:4333",
                "nats://127.0.0.1:4333",
            ),
            ("tls://me:pa@ss@h:1", "tls://h:1", "tls://me:pa@ss@h:1"),
            (
                "t0ken@[::1]",
                "nats://[::1]:4222",
                "nats://t0ken@[::1]:4222",
            ),
        ] {
            let url = url(text).unwrap();
            assert_eq!(
                (url.to_string(), url.reveal()),
                (shown.to_owned(), revealed.to_owned())
            );
            assert_eq!(format!("{url:?}"), shown);
        }
    }

    #[test]
    fn what_is_no_url_is_refused_without_its_password() {
        for text in [
            "",
            "ws://u:hidden@h",
            "nats://u:hidden@",
            "u:hidden@h:0",
            "h:x",
            "a b",
            "h:70000",
        ] {
            let error = url(text).unwrap_err();
            assert!(
                error.contains("nats://HOST:PORT") && !error.contains("hidden"),
                "{error}"
            );
        }
    }
}
