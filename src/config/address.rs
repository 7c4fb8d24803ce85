//! Where a listener listens, as it is typed and logged.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::str::FromStr;

/// Where a listener listens. Reads and displays as `HOST:PORT`, `[IPV6]:PORT` or `unix:PATH`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// A TCP port.
    Tcp {
        /// A name or an IP address, IPv6 without brackets.
        host: String,
        /// The port: 1 to 65535, or 0 for a free one.
        port: u16,
    },
    /// The path of a Unix socket, at most 107 bytes.
    Unix(PathBuf),
}

/// Why a text is no [`Address`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressError(String);

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Address, AddressError> {
        let address = match text.strip_prefix("unix:") {
            Some(path) => unix_path(path),
            None => host_and_port(text),
        };
        address.map_err(|wrong| {
            let hint = meant(text).map(|meant| format!("; did you mean {meant}?"));
            let hint = hint.unwrap_or_default();
            AddressError(format!(
                "{wrong}; allowed: HOST:PORT, [IPV6]:PORT or unix:PATH{hint}"
            ))
        })
    }
}

/// What a text that is no address was probably meant to say: the ways of other programs.
fn meant(text: &str) -> Option<String> {
    let is_port = |port: &str| port.parse::<u16>().is_ok();
    if let Some(port) = text.strip_prefix("*:").filter(|port| is_port(port)) {
        return Some(format!("0.0.0.0:{port}, or [::]:{port} for IPv6 too"));
    }
    if let Some(port) = text.strip_prefix(':').filter(|port| is_port(port)) {
        return Some(format!(
            "127.0.0.1:{port}, or [::]:{port} for every interface"
        ));
    }
    let is_path = text.starts_with(['/', '.', '~']) || text.ends_with(".sock");
    if is_path && !text.contains(':') {
        return Some(format!("unix:{text}"));
    }
    if let Some((host, port)) = text.split_once(' ') {
        let meant = format!("{host}:{}", port.trim());
        return meant.parse::<Address>().is_ok().then_some(meant);
    }
    let (scheme, rest) = text.split_once("://")?;
    let rest = rest.trim_end_matches('/');
    let meant = match scheme {
        "unix" => format!("unix:{rest}"),
        _ => rest.to_owned(),
    };
    meant.parse::<Address>().is_ok().then_some(meant)
}

fn unix_path(path: &str) -> Result<Address, String> {
    // What fits into `sockaddr_un::sun_path` with the NUL that ends it.
    const PATH_BYTES_MAX: usize = 107;

    match path {
        "" => Err("'unix:' has no path".to_owned()),
        _ if path.contains('\0') => Err(format!("'unix:{path}' has a NUL in its path")),
        _ if path.len() > PATH_BYTES_MAX => Err(format!(
            "'unix:{path}' has a path of {} bytes, and a socket's can have {PATH_BYTES_MAX}",
            path.len()
        )),
        _ => Ok(Address::Unix(path.into())),
    }
}

fn host_and_port(text: &str) -> Result<Address, String> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest
                .split_once(']')
                .ok_or_else(|| format!("'{text}' has no ']' to close the '['"))?;
            (
                ipv6(host).ok_or_else(|| format!("'{host}' is not an IPv6 address"))?,
                port,
            )
        }
        None if ipv6_without_brackets(text) => {
            return Err(format!(
                "'{text}' looks like IPv6, which needs brackets: [::1]:2345"
            ));
        }
        None => {
            let (host, port) = text.split_at(text.find(':').unwrap_or(text.len()));
            if port.is_empty() && whole_number(host).is_some() {
                return Err(format!("'{text}' has no host, write 127.0.0.1:{text}"));
            }
            (
                host_name(host).map_err(|wrong| format!("'{text}' {wrong}"))?,
                port,
            )
        }
    };
    let port = port.strip_prefix(':').filter(|port| !port.is_empty());
    let port = port.ok_or_else(|| format!("'{text}' has no port"))?;
    match whole_number(port) {
        Some(number) => u16::try_from(number)
            .map(|port| Address::Tcp { host, port })
            .map_err(|_| format!("'{text}' has port {port}, and ports go from 0 to 65535")),
        None => Err(format!("'{text}' has no port number after the ':'")),
    }
}

/// An IPv6 address in its shortest form, so that two spellings of one address are equal. A zone
/// (`fe80::1%eth0`) is kept as it is.
fn ipv6(host: &str) -> Option<String> {
    let (address, zone) = host.split_at(host.find('%').unwrap_or(host.len()));
    let address: Ipv6Addr = address.parse().ok()?;
    (zone != "%").then(|| format!("{address}{zone}"))
}

/// Whether the text is an IPv6 address, alone or with a port.
fn ipv6_without_brackets(text: &str) -> bool {
    ipv6(text).is_some()
        || text
            .rsplit_once(':')
            .is_some_and(|(host, _)| ipv6(host).is_some())
}

pub(super) fn host_name(host: &str) -> Result<String, &'static str> {
    if host.is_empty() {
        return Err("has no host");
    }
    if host
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.')
    {
        let address: Ipv4Addr = host.parse().map_err(|_| "has a wrong IPv4 address")?;
        return Ok(address.to_string());
    }
    let allowed = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_');
    if host.starts_with('-') || !host.chars().all(allowed) {
        return Err("has a wrong host name");
    }
    Ok(host.to_owned())
}

/// Whole number in digits only; one too large to hold reads as the largest.
pub(crate) fn whole_number(text: &str) -> Option<usize> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(usize::MAX))
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Address::Tcp { host, port } => write!(f, "{host}:{port}"),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for AddressError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16) -> Address {
        Address::Tcp {
            host: host.into(),
            port,
        }
    }

    #[test]
    fn addresses_are_read_and_displayed() {
        for (text, address) in [
            ("127.0.0.1:2345", tcp("127.0.0.1", 2345)),
            ("localhost:0", tcp("localhost", 0)),
            ("my_host-1.example:65535", tcp("my_host-1.example", 65535)),
            ("[::]:2345", tcp("::", 2345)),
            ("[fe80::1%eth0]:1", tcp("fe80::1%eth0", 1)),
            ("unix:/run/x.sock", Address::Unix("/run/x.sock".into())),
            ("unix:a b:c", Address::Unix("a b:c".into())),
        ] {
            assert_eq!(text.parse(), Ok(address.clone()), "{text}");
            assert_eq!(address.to_string(), text);
        }
        assert_eq!(
            "[0:0::1]:1".parse(),
            Ok(tcp("::1", 1)),
            "one spelling for one address"
        );
    }

    #[test]
    fn wrong_addresses_are_explained() {
        let long = format!("unix:/{}", "x".repeat(107));
        for (text, wrong) in [
            ("", "'' has no host"),
            ("2345", "'2345' has no host, write 127.0.0.1:2345"),
            (":2345", "':2345' has no host"),
            ("localhost", "'localhost' has no port"),
            ("localhost:", "'localhost:' has no port"),
            ("[::1]", "'[::1]' has no port"),
            ("[::1]2345", "'[::1]2345' has no port"),
            ("[::1", "'[::1' has no ']' to close the '['"),
            ("[127.0.0.1]:1", "'127.0.0.1' is not an IPv6 address"),
            (
                "::1",
                "'::1' looks like IPv6, which needs brackets: [::1]:2345",
            ),
            (
                "fe80::1:2345",
                "'fe80::1:2345' looks like IPv6, which needs brackets: [::1]:2345",
            ),
            (
                "localhost:http",
                "'localhost:http' has no port number after the ':'",
            ),
            ("tcp://h:1", "'tcp://h:1' has no port number after the ':'"),
            (
                "h:65536",
                "'h:65536' has port 65536, and ports go from 0 to 65535",
            ),
            ("h:-1", "'h:-1' has no port number after the ':'"),
            ("127.0.0.256:1", "'127.0.0.256:1' has a wrong IPv4 address"),
            ("*:1", "'*:1' has a wrong host name"),
            ("--echo", "'--echo' has a wrong host name"),
            ("/run/x.sock", "'/run/x.sock' has a wrong host name"),
            ("x.sock", "'x.sock' has no port"),
            ("h 1", "'h 1' has a wrong host name"),
            ("unix:", "'unix:' has no path"),
            (
                &long,
                &format!("'{long}' has a path of 108 bytes, and a socket's can have 107"),
            ),
        ] {
            let hint = match text {
                ":2345" => "; did you mean 127.0.0.1:2345, or [::]:2345 for every interface?",
                "tcp://h:1" => "; did you mean h:1?",
                "*:1" => "; did you mean 0.0.0.0:1, or [::]:1 for IPv6 too?",
                "/run/x.sock" => "; did you mean unix:/run/x.sock?",
                "x.sock" => "; did you mean unix:x.sock?",
                "h 1" => "; did you mean h:1?",
                _ => "",
            };
            let expected = format!("{wrong}; allowed: HOST:PORT, [IPV6]:PORT or unix:PATH{hint}");
            assert_eq!(
                text.parse::<Address>(),
                Err(AddressError(expected)),
                "{text}"
            );
        }
    }
}
