//! The values of the options about NATS: how each is read, its bounds, and what an error says is allowed.

use std::fmt;
use std::net::Ipv6Addr;

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

    /// Who to be, if it says so.
    pub(super) fn user(&self) -> Option<&str> {
        self.user.as_deref()
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
        // What is no word may be the front of a password.
        Some((other, _)) if other.chars().all(|c| c.is_ascii_alphanumeric()) => {
            return Err(format!("cannot connect by '{other}'; {allowed}"));
        }
        Some(_) => return Err(format!("is no address of a NATS server; {allowed}")),
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let (user, host) = match rest.rsplit_once('@') {
        Some((user, host)) => (Some(user.to_owned()), host),
        None => (None, rest),
    };
    // In a URL these end the host, which would be the user then, and be looked up and logged.
    if user
        .as_ref()
        .is_some_and(|user| user.contains(['/', '?', '#']))
    {
        let escaped = "its user or password has a /, ? or #; allowed: %2F, %3F and %23 for them";
        return Err(escaped.to_owned());
    }
    let (name, port) = match host.rsplit_once(':') {
        // A colon within brackets is an IPv6 address's.
        Some((name, port)) if !port.ends_with(']') => (name, port.parse().ok()),
        _ => (host, Some(PORT)),
    };
    let in_brackets = name.strip_prefix('[').and_then(|ip| ip.strip_suffix(']'));
    let is_ipv6 = in_brackets.is_some_and(|ip| ip.parse::<Ipv6Addr>().is_ok());
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
            "[hidden]:1",
            "[1:2]:1",
            "u:hidden://@h",
        ] {
            let error = url(text).unwrap_err();
            assert!(
                error.contains("nats://HOST:PORT") && !error.contains("hidden"),
                "{error}"
            );
        }
    }

    #[test]
    fn password_that_would_end_the_host_is_refused_with_how_to_write_it() {
        for text in [
            "u:12/hidden@h",
            "nats://u:12?hidden@h",
            "tls://u:12#hidden@h",
        ] {
            let error = url(text).unwrap_err();
            assert!(
                error.contains("%2F") && !error.contains("12") && !error.contains("hidden"),
                "{error}"
            );
        }
        assert_eq!(url("u:12%2F@h").unwrap().reveal(), "nats://u:12%2F@h:4222");
    }
}
