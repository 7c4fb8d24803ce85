//! The check of a request's host, against DNS rebinding.
//!
//! A web page elsewhere can have its own name point to an address of this machine, and its scripts
//! could then read what is served here as if it were the page's own. Their requests name the page's
//! host. So a request is answered only if its host is an IP address, this machine, or a name that the
//! operator allows.

use std::net::{IpAddr, Ipv6Addr};

/// Whether a request for this `Host` (or `:authority`), with or without a port, is to be answered:
/// an IP address, `localhost` or a name below it, or one of `allowed`, which are in lower case.
pub fn is_allowed(host: &str, allowed: &[String]) -> bool {
    let Some(name) = without_port(host) else {
        return false;
    };
    if let Some(ipv6) = name
        .strip_prefix('[')
        .and_then(|name| name.strip_suffix(']'))
    {
        return ipv6.parse::<Ipv6Addr>().is_ok();
    }
    let name = name.strip_suffix('.').unwrap_or(name).to_lowercase();
    matches!(name.parse(), Ok(IpAddr::V4(_)))
        || name == "localhost"
        || name.ends_with(".localhost")
        || allowed.contains(&name)
}

/// The host less `:PORT`; `None` where that is no port.
fn without_port(host: &str) -> Option<&str> {
    let end_of_name = host.rfind(']').map_or(0, |bracket| bracket + 1);
    match host[end_of_name..].split_once(':') {
        None if end_of_name > 0 => (end_of_name == host.len()).then_some(host),
        None => Some(host),
        Some((before, port)) => {
            let is_port = port.bytes().all(|byte| byte.is_ascii_digit());
            (is_port && (end_of_name == 0 || before.is_empty()))
                .then(|| &host[..end_of_name + before.len()])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_this_machine_and_allowed_names_are_answered() {
        let allowed = ["status.example".to_owned()];
        for host in [
            "127.0.0.1",
            "127.0.0.1:9090",
            "192.0.2.7:80",
            "[::1]",
            "[::1]:9090",
            "[2001:db8::1]:1",
            "localhost",
            "LocalHost:9090",
            "localhost.:9090",
            "a.localhost",
            "status.example",
            "STATUS.example.:8080",
        ] {
            assert!(is_allowed(host, &allowed), "{host}");
        }
    }

    #[test]
    fn other_names_and_what_is_no_host_are_not() {
        let allowed = ["status.example".to_owned()];
        for host in [
            "",
            ":80",
            "evil.example",
            "evil.example:9090",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "notlocalhost",
            "status.example.evil",
            "evil.status.example",
            "127.1",
            "2130706433",
            "0x7f.0.0.1",
            "::1",
            "[::1",
            "[evil.example]",
            "[::1]evil.example",
            "[::1]:80:80",
            "127.0.0.1:80@evil.example",
            "127.0.0.1 evil.example",
            "evil.example#127.0.0.1",
        ] {
            assert!(!is_allowed(host, &allowed), "{host}");
        }
    }
}
