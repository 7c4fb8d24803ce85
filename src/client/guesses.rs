//! How fast tokens can be guessed: each address that was wrong has a gate, which opens later each time.
//!
//! Until it opens, no token of that address is looked at, by however many connections it is asked. Whoever
//! was wrong is told so when the gate opens, and no earlier.

use std::collections::HashMap;
use std::mem;
use std::time::Duration;

use tokio::time::Instant;

use crate::net::peer::Peer;
use crate::net::source::Source;

/// How long the gate stays closed: after the first wrong token, and at most. Each one doubles it.
const DELAY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(8));

/// How long after its gate has opened an address is forgotten.
const MEMORY_TIME: Duration = Duration::from_secs(60);

/// Addresses that are remembered are at most twice as many: about 800 KB. Whoever has more of them guesses
/// with each as if it were new.
const SOURCES_MAX: usize = 4096;

/// Who was wrong of late.
#[derive(Debug, Default)]
pub(super) struct Guesses {
    gates: HashMap<Option<Source>, Gate>,
    /// Those before: they go when there are too many again.
    older: HashMap<Option<Source>, Gate>,
}

#[derive(Clone, Copy, Debug)]
struct Gate {
    opens: Instant,
    /// How long it was closed for.
    delay: Duration,
}

/// What has come of a token.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Attempt<T> {
    /// It is right.
    Right(T),
    /// It is wrong, which is to be told then.
    Wrong(Instant),
    /// It was not looked at: that may be tried again then.
    Wait(Instant),
}

impl Guesses {
    /// Looks at a token with `check`, if the gate of its address is open.
    pub(super) fn attempt<T>(
        &mut self,
        peer: Peer,
        now: Instant,
        check: impl FnOnce() -> Option<T>,
    ) -> Attempt<T> {
        // All Unix sockets together.
        let source = Source::of(peer);
        let gate = self.gates.get(&source).or(self.older.get(&source));
        let gate = gate.filter(|gate| now < gate.opens + MEMORY_TIME).copied();
        if let Some(gate) = gate.filter(|gate| now < gate.opens) {
            return Attempt::Wait(gate.opens);
        }
        if let Some(right) = check() {
            return Attempt::Right(right);
        }
        let delay = gate.map_or(DELAY.0, |gate| (2 * gate.delay).min(DELAY.1));
        let opens = now + delay;
        if self.gates.len() >= SOURCES_MAX {
            self.older = mem::take(&mut self.gates);
        }
        self.gates.insert(source, Gate { opens, delay });
        Attempt::Wrong(opens)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(address: &str) -> Peer {
        Peer::Tcp(format!("{address}:1").parse().unwrap())
    }

    #[test]
    fn gate_opens_later_each_time_and_lets_one_wrong_token_through() {
        let mut guesses = Guesses::default();
        let begun = Instant::now();
        let after = |seconds| begun + Duration::from_secs(seconds);
        let mut wrong = |at, peer| guesses.attempt(peer, at, || None::<()>);
        let v4 = peer("192.0.2.1");
        assert_eq!(wrong(begun, v4), Attempt::Wrong(after(1)));
        for _ in 0..1000 {
            assert_eq!(wrong(begun, v4), Attempt::Wait(after(1)));
        }
        for (at, opens) in [(1, 3), (3, 7), (7, 15), (15, 23), (30, 38)] {
            assert_eq!(wrong(after(at), v4), Attempt::Wrong(after(opens)));
            assert_eq!(wrong(after(opens - 1), v4), Attempt::Wait(after(opens)));
        }
        let mapped = peer("[::ffff:192.0.2.1]");
        assert_eq!(wrong(after(30), mapped), Attempt::Wait(after(38)));
        assert_eq!(
            wrong(after(30), peer("192.0.2.2")),
            Attempt::Wrong(after(31))
        );
        let (one, other) = (peer("[2001:db8::1]"), peer("[2001:db8::ffff:0:0:1]"));
        assert_eq!(wrong(after(30), one), Attempt::Wrong(after(31)));
        assert_eq!(wrong(after(30), other), Attempt::Wait(after(31)));
        assert_eq!(wrong(after(30), Peer::Unix), Attempt::Wrong(after(31)));
        // Forgotten a minute after.
        assert_eq!(wrong(after(98), v4), Attempt::Wrong(after(99)));
    }

    #[test]
    fn right_token_waits_for_the_gate_and_leaves_it_as_it_is() {
        let mut guesses = Guesses::default();
        let begun = Instant::now();
        let after = |seconds| begun + Duration::from_secs(seconds);
        let v4 = peer("192.0.2.1");
        let mut attempt = |at, right: bool| guesses.attempt(v4, at, || right.then_some(()));
        assert_eq!(attempt(begun, true), Attempt::Right(()));
        assert_eq!(attempt(begun, false), Attempt::Wrong(after(1)));
        assert_eq!(attempt(begun, true), Attempt::Wait(after(1)));
        for _ in 0..3 {
            assert_eq!(attempt(after(1), true), Attempt::Right(()));
        }
        assert_eq!(attempt(after(1), false), Attempt::Wrong(after(3)));
    }

    #[test]
    fn memory_is_bounded_with_a_million_addresses() {
        let mut guesses = Guesses::default();
        let now = Instant::now();
        for ip in 0..1_000_000_u32 {
            let peer = Peer::Tcp((std::net::Ipv4Addr::from_bits(ip), 1).into());
            guesses.attempt(peer, now, || None::<()>);
        }
        assert!(guesses.gates.len() + guesses.older.len() <= 2 * SOURCES_MAX);
        // The last ones are known.
        let last = Peer::Tcp((std::net::Ipv4Addr::from_bits(999_999), 1).into());
        assert!(matches!(
            guesses.attempt(last, now, || Some(())),
            Attempt::Wait(_)
        ));
    }
}
