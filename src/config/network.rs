//! Networks of addresses, as `--allow` has them.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};

/// What an IPv4-mapped IPv6 network has in front of its IPv4 one, in bits: `::ffff:0:0/96`.
const MAPPED_BITS: u8 = 96;

/// Networks that a line of the log shows at most.
const SHOWN_MAX: usize = 8;

/// Reads a network. An address alone is the network of that host, and bits behind the prefix are
/// cleared: `192.168.1.7/24` is how `ip addr` shows the network that a machine is in.
pub(super) fn network(text: &str) -> Result<IpNet, String> {
    let (address, bits) = match text.split_once('/') {
        Some((address, bits)) => (address, Some(bits)),
        None => (text, None),
    };
    let address: Result<IpAddr, _> = address.parse();
    let wrong = match (address, bits.map(str::parse)) {
        (Err(_), _) => format!("'{text}' is not an IP address or network"),
        (Ok(address), None) => return Ok(unmapped(address.into())),
        (Ok(address), Some(Ok(bits))) => match IpNet::new(address, bits) {
            Ok(network) => return Ok(unmapped(network.trunc())),
            Err(_) => {
                let most = IpNet::from(address).max_prefix_len();
                format!("'{text}' has a prefix of {bits} bits, and its addresses have {most}")
            }
        },
        (Ok(_), Some(Err(_))) => format!("'{text}' has no number of bits after the '/'"),
    };
    Err(format!(
        "{wrong}; allowed: such as 10.0.0.0/8, 192.168.1.7, 2001:db8::/32 or ::1"
    ))
}

/// The network of IPv4 addresses that an IPv4-mapped one stands for; others are as they are.
fn unmapped(network: IpNet) -> IpNet {
    let v4 = || -> Option<Ipv4Net> {
        let IpNet::V6(v6) = network else { return None };
        let address: Ipv4Addr = v6.addr().to_ipv4_mapped()?;
        let bits = v6.prefix_len().checked_sub(MAPPED_BITS)?;
        Ipv4Net::new(address, bits).ok()
    };
    v4().map_or(network, IpNet::V4)
}

/// As it is typed: a host without its prefix.
pub(crate) fn show(network: &IpNet) -> String {
    match network.prefix_len() == network.max_prefix_len() {
        true => network.addr().to_string(),
        false => network.to_string(),
    }
}

/// As they are logged: some, and how many more there are.
pub(crate) fn show_all(networks: &[IpNet]) -> String {
    let (some, more) = networks.split_at(networks.len().min(SHOWN_MAX));
    let mut text = some.iter().map(show).collect::<Vec<_>>().join(" ");
    if !more.is_empty() {
        text += &format!(" and {} more", more.len());
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn networks_are_read_and_shown() {
        for (text, shown) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("192.168.1.7", "192.168.1.7"),
            ("192.168.1.7/32", "192.168.1.7"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("1.2.3.4/0", "0.0.0.0/0"),
            ("::/0", "::/0"),
            ("::1", "::1"),
            ("2001:DB8::7/32", "2001:db8::/32"),
            ("::ffff:10.1.2.3", "10.1.2.3"),
            ("::ffff:10.1.2.3/104", "10.0.0.0/8"),
            ("::ffff:0:0/96", "0.0.0.0/0"),
            ("::ffff:0:0/95", "::fffe:0:0/95"),
        ] {
            assert_eq!(
                network(text).map(|network| show(&network)).as_deref(),
                Ok(shown)
            );
        }
    }

    #[test]
    fn wrong_networks_are_refused_with_what_is_allowed() {
        for (text, wrong) in [
            ("", "'' is not an IP address or network"),
            ("localhost", "'localhost' is not an IP address or network"),
            ("10.0.0", "'10.0.0' is not an IP address or network"),
            ("10.0.0.*", "'10.0.0.*' is not an IP address or network"),
            ("[::1]", "'[::1]' is not an IP address or network"),
            (
                "fe80::1%eth0",
                "'fe80::1%eth0' is not an IP address or network",
            ),
            (
                "10.0.0.0/",
                "'10.0.0.0/' has no number of bits after the '/'",
            ),
            (
                "10.0.0.0/-1",
                "'10.0.0.0/-1' has no number of bits after the '/'",
            ),
            (
                "10.0.0.0/255.0.0.0",
                "'10.0.0.0/255.0.0.0' has no number of bits after the '/'",
            ),
            (
                "10.0.0.0/33",
                "'10.0.0.0/33' has a prefix of 33 bits, and its addresses have 32",
            ),
            (
                "::/129",
                "'::/129' has a prefix of 129 bits, and its addresses have 128",
            ),
        ] {
            let expected =
                format!("{wrong}; allowed: such as 10.0.0.0/8, 192.168.1.7, 2001:db8::/32 or ::1");
            assert_eq!(network(text), Err(expected));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn shown_network_is_read(address: IpAddr, bits in 0..=128u8) {
            let text = format!("{address}/{bits}");
            if let Ok(read) = network(&text) {
                prop_assert_eq!(network(&show(&read)), Ok(read));
            }
        }
    }
}
