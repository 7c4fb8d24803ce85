//! Which addresses may connect: the lists of a listener, and what they say of a peer.

use std::net::IpAddr;

use ipnet::IpNet;

use super::peer::Peer;
use crate::config::ListenerOptions;

/// Whether a listener with these options lets this peer in. What is denied is out; once there is something
/// that is allowed, the rest is out too. A peer of a Unix socket is always in: its file has a mode.
pub(crate) fn admits(options: &ListenerOptions, peer: Peer) -> bool {
    let Peer::Tcp(address) = peer else {
        return true;
    };
    let ip = address.ip();
    let is_allowed = || options.allow.is_empty() || contain(&options.allow, ip);
    !contain(&options.deny, ip) && is_allowed()
}

/// Whether an address is in one of these networks. An IPv4-mapped one is IPv4.
pub(crate) fn contain(networks: &[IpNet], ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    networks.iter().any(|network| network.contains(&ip))
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    fn options(keys: &str) -> ListenerOptions {
        ListenerOptions::restore(&format!("h:1,format=raw{keys}")).unwrap()
    }

    fn admitted(keys: &str, ip: &str) -> bool {
        let peer = Peer::Tcp((ip.parse::<IpAddr>().unwrap(), 1).into());
        admits(&options(keys), peer)
    }

    #[test]
    fn deny_wins_and_an_allow_keeps_the_rest_out() {
        assert!(admitted("", "10.0.0.1"));
        for (ip, expected) in [
            ("10.0.0.1", true),
            ("10.1.255.255", false),
            ("10.1.0.0", false),
            ("10.2.0.0", true),
            ("11.0.0.0", false),
            ("::ffff:10.0.0.1", true),
            ("::ffff:10.1.0.1", false),
            ("::10.0.0.1", false),
            ("::1", true),
            ("::2", false),
        ] {
            let keys = ",allow=10.0.0.0/8,allow=::1,deny=10.1.0.0/16";
            assert_eq!(admitted(keys, ip), expected, "{ip}");
        }
        assert!(!admitted(",allow=127.0.0.1,deny=127.0.0.1", "127.0.0.1"));
        assert!(!admitted(",deny=0.0.0.0/0", "255.255.255.255"));
        assert!(admitted(",deny=0.0.0.0/0", "::1"));
        assert!(admitted(",allow=0.0.0.0/0", "::ffff:1.2.3.4"));
        assert!(!admitted(",allow=::/0", "1.2.3.4"));
        assert!(!admitted(",allow=::ffff:10.0.0.0/104", "11.0.0.1"));
        assert!(admitted(",allow=::ffff:10.0.0.0/104", "10.0.0.1"));
    }

    #[test]
    fn peer_of_a_unix_socket_is_always_in() {
        let options = options(",allow=10.0.0.0/8,deny=0.0.0.0/0,deny=::/0");
        assert!(admits(&options, Peer::Unix));
    }

    /// Address and prefix length of a network, of few addresses, so that some of them meet.
    fn near() -> impl Strategy<Value = IpAddr> {
        let last = || prop_oneof![0..4u8, any::<u8>()];
        let v4 = (last(), last()).prop_map(|(b, d)| Ipv4Addr::new(10, b, 0, d));
        let v6 = (last(), last())
            .prop_map(|(b, d)| Ipv6Addr::new(0x2001, u16::from(b), 0, 0, 0, 0, 0, u16::from(d)));
        prop_oneof![
            v4.clone().prop_map(IpAddr::V4),
            v4.prop_map(|ip| IpAddr::V6(ip.to_ipv6_mapped())),
            v6.prop_map(IpAddr::V6),
        ]
    }

    /// The bits of an address as text, and whether it is IPv4: what the naive model compares.
    fn bits(ip: IpAddr) -> (bool, String) {
        match ip {
            IpAddr::V4(ip) => (true, format!("{:032b}", u32::from(ip))),
            IpAddr::V6(ip) => match format!("{:0128b}", u128::from(ip)) {
                bits if bits[..96] == format!("{:080b}{:016b}", 0, 0xffff) => {
                    (true, bits[96..].to_owned())
                }
                bits => (false, bits),
            },
        }
    }

    fn is_in(ip: IpAddr, network: IpAddr, length: usize) -> bool {
        let ((v4, ip), (network_v4, network)) = (bits(ip), bits(network));
        v4 == network_v4 && ip[..length] == network[..length]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn lists_say_what_a_naive_reading_of_them_says(
            ip in near(),
            allow in prop::collection::vec((near(), 0..=32usize), 0..4),
            deny in prop::collection::vec((near(), 0..=32usize), 0..4),
        ) {
            // A mapped network has its 96 bits in front; an IPv6 one here has 0, 4, up to 128.
            let length = |network: IpAddr, length: usize| match network {
                IpAddr::V4(_) => (length, length),
                IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => (length, 96 + length),
                IpAddr::V6(_) => (4 * length, 4 * length),
            };
            let keys = |name: &str, list: &[(IpAddr, usize)]| -> String {
                let key = |(ip, bits): &(IpAddr, usize)| format!(",{name}={ip}/{}", length(*ip, *bits).1);
                list.iter().map(key).collect()
            };
            let options = options(&(keys("allow", &allow) + &keys("deny", &deny)));
            let any = |list: &[(IpAddr, usize)]| {
                list.iter().any(|(network, bits)| is_in(ip, *network, length(*network, *bits).0))
            };
            let expected = !any(&deny) && (allow.is_empty() || any(&allow));
            prop_assert_eq!(admits(&options, Peer::Tcp((ip, 1).into())), expected);
        }
    }
}
