//! Who connects, as far as limits tell addresses apart, and how often each may.

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroU64;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::peer::Peer;
use super::rate::Bucket;

/// Sources that are remembered at a time, each in about 32 bytes: more than connect within a second, the
/// time after which one is forgotten.
const SOURCES_MAX: usize = 65_536;

/// An IPv4 address, or the /64 of an IPv6 one: all of that is one subscriber's, as a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Source {
    V4([u8; 4]),
    V6([u8; 8]),
}

/// How often each source may connect.
#[derive(Debug)]
pub(crate) struct ConnectRate(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Most connects a second. `None`: as many as it likes.
    rate: Option<NonZeroU64>,
    /// Sources that have connected within the last second. One that is not in it has its whole burst.
    buckets: HashMap<Source, Bucket>,
}

impl Source {
    /// Source of a peer. Peers of Unix sockets have no address, and are not told apart.
    pub(crate) fn of(peer: Peer) -> Option<Source> {
        let Peer::Tcp(address) = peer else {
            return None;
        };
        Some(match address.ip().to_canonical() {
            IpAddr::V4(ip) => Source::V4(ip.octets()),
            IpAddr::V6(ip) => {
                let [a, b, c, d, e, f, g, h, ..] = ip.octets();
                Source::V6([a, b, c, d, e, f, g, h])
            }
        })
    }
}

impl ConnectRate {
    pub(crate) fn new(rate: Option<NonZeroU64>) -> ConnectRate {
        ConnectRate(Mutex::new(State {
            rate,
            ..State::default()
        }))
    }

    /// Has sources go by another rate from now on.
    pub(crate) fn set(&self, rate: Option<NonZeroU64>) {
        let mut state = self.0.lock();
        state.rate = rate;
        if rate.is_none() {
            state.buckets = HashMap::new();
        }
    }

    /// Whether this peer may connect now, which is counted if so.
    pub(crate) fn admits(&self, peer: Peer) -> bool {
        let mut state = self.0.lock();
        let (Some(rate), Some(source)) = (state.rate, Source::of(peer)) else {
            return true;
        };
        state.admits(source, rate, Instant::now())
    }
}

impl State {
    fn admits(&mut self, source: Source, rate: NonZeroU64, now: Instant) -> bool {
        if self.buckets.len() >= SOURCES_MAX && !self.buckets.contains_key(&source) {
            self.make_room(rate, now);
        }
        let full = || Bucket::full_at(now);
        let bucket = self.buckets.entry(source).or_insert_with(full);
        // What rounding adds up to in a burst is none of the peer's doing.
        let rounding = Duration::from_secs_f64(0.5 / rate.get() as f64);
        let admits = bucket.time_until(1, rate, now) <= rounding;
        if admits {
            bucket.take(1, rate, now);
        }
        admits
    }

    /// Forgets at least half of the sources: those that have their whole burst again, then, if many have
    /// come within a second, those that have used less than half of it, then all. Who is forgotten gets a
    /// new burst, so that a crowd of addresses locks nobody out.
    fn make_room(&mut self, rate: NonZeroU64, now: Instant) {
        for left in [rate.get(), rate.get() / 2, 0] {
            self.buckets
                .retain(|_, bucket| bucket.available(rate, now) < left);
            if self.buckets.len() <= SOURCES_MAX / 2 {
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn source(ip: &str) -> Source {
        Source::of(Peer::Tcp((ip.parse::<IpAddr>().unwrap(), 1).into())).unwrap()
    }

    fn rate(rate: u64) -> NonZeroU64 {
        NonZeroU64::new(rate).unwrap()
    }

    #[test]
    fn sources_are_ipv4_addresses_and_ipv6_networks() {
        assert_eq!(source("10.0.0.1"), source("::ffff:10.0.0.1"));
        assert_ne!(source("10.0.0.1"), source("10.0.0.2"));
        assert_ne!(source("10.0.0.1"), source("::10.0.0.1"));
        assert_eq!(source("2001:db8:1:2::1"), source("2001:db8:1:2:ffff::"));
        assert_ne!(source("2001:db8:1:2::"), source("2001:db8:1:3::"));
        assert_eq!(Source::of(Peer::Unix), None);
    }

    #[tokio::test(start_paused = true)]
    async fn each_source_has_its_rate_and_a_burst_of_a_second() {
        let limit = ConnectRate::new(Some(rate(3)));
        let peer = |ip: &str| Peer::Tcp((ip.parse::<IpAddr>().unwrap(), 1).into());
        let admits = |ip: &str| limit.admits(peer(ip));
        let mut tries = (0..5).map(|_| admits("10.0.0.1"));
        assert!(tries.by_ref().take(3).all(|admitted| admitted));
        assert!(tries.all(|admitted| !admitted));
        assert!(admits("10.0.0.2"), "another has its own");
        tokio::time::advance(Duration::from_millis(334)).await;
        assert!(admits("10.0.0.1") && !admits("10.0.0.1"));
        assert!((0..9).all(|_| limit.admits(Peer::Unix)));
        limit.set(None);
        assert!((0..9).all(|_| admits("10.0.0.1")));
        assert_eq!(limit.0.lock().buckets.capacity(), 0);
    }

    #[test]
    fn million_addresses_are_bounded_and_lock_nobody_out() {
        let (now, rate) = (Instant::now(), rate(10));
        let mut state = State::default();
        let flooder = source("192.0.2.1");
        let mut admitted = 0;
        for at in 0..1_000_000_u32 {
            assert!(state.admits(Source::V4(at.to_be_bytes()), rate, now));
            // One that is at its limit stays there while the crowd comes by once each.
            admitted += usize::from(state.admits(flooder, rate, now));
            assert!(state.buckets.len() <= SOURCES_MAX);
        }
        assert_eq!(admitted, 10);
        assert!(state.buckets.capacity() < 4 * SOURCES_MAX);
        let later = now + Duration::from_secs(1);
        state.make_room(rate, later);
        assert!(state.buckets.is_empty(), "nothing is left of what is over");
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn sources_are_equal_where_their_first_64_bits_are(one: u128, other: u128, same: bool) {
            let other = if same { one >> 64 << 64 | other & u128::from(u64::MAX) } else { other };
            let of = |bits: u128| {
                let ip = std::net::Ipv6Addr::from(bits | 1 << 127);
                Source::of(Peer::Tcp((IpAddr::V6(ip), 1).into()))
            };
            let prefix = |bits: u128| (bits | 1 << 127) >> 64;
            prop_assert_eq!(of(one) == of(other), prefix(one) == prefix(other));
        }
    }
}
