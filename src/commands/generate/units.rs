//! Units for systemd. What the two variants of the service share is there once.

/// `linehub.socket`.
pub(super) const SOCKET: &str = include_str!("units/linehub.socket");

/// The user of `linehub.service`.
pub(super) const SYSUSERS: &str = include_str!("units/sysusers.conf");

/// What systemd 254 and later can do better.
pub(super) const DROPIN: &str = include_str!("units/dropin.conf");

const SERVICE: &str = include_str!("units/linehub.service");
const NETWORK: &str = include_str!("units/network.conf");
const NO_NETWORK: &str = include_str!("units/no-network.conf");

/// The service starts when the network is there to be listened on; specific addresses may come
/// later, for which it is started again, and NATS, which it waits for by itself.
const AFTER_NETWORK: &str = "After=network.target";

/// Without its sockets the service would have nothing to serve.
const AFTER_SOCKET: &str = "Requires=linehub.socket\nAfter=linehub.socket";

/// `linehub.service`, with a network of its own or with what `linehub.socket` hands it.
pub(super) fn service(socket_activated: bool) -> String {
    let (unit, network) = match socket_activated {
        true => (AFTER_SOCKET, NO_NETWORK),
        false => (AFTER_NETWORK, NETWORK),
    };
    SERVICE
        .replace("@UNIT@", unit)
        .replace("@NETWORK@", network.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_differ_in_their_network_alone() {
        let [own, none] = [false, true].map(service);
        let only = |this: &str, other: &str| {
            let settings = this.lines().filter(|line| !line.starts_with('#'));
            settings
                .filter(|line| !other.lines().any(|other| other == *line))
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let expected = [
            "After=network.target",
            "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX",
        ];
        assert_eq!(only(&own, &none), expected);
        let expected = [
            "Requires=linehub.socket",
            "After=linehub.socket",
            "PrivateNetwork=yes",
            "RestrictAddressFamilies=AF_UNIX",
            "IPAddressDeny=any",
        ];
        assert_eq!(only(&none, &own), expected);
        assert!(
            !own.contains('@')
                || own.matches('@').count()
                    == own.matches(" @").count()
                        + own.matches("~@").count()
                        + own.matches("=@").count()
        );
    }
}
