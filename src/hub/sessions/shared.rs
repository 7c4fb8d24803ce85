//! Sessions in a channel that daemons share: whose they are, and what was taken of them, follows from the stream.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::{Owner, Sessions};
use crate::wire::session::SessionKey;

/// What this daemon's clients do.
impl Sessions {
    /// The claim of this session is on its way.
    pub(in crate::hub) fn await_claim(&mut self, name: &SessionKey) {
        if let Some(session) = self.by_name.get_mut(name) {
            session.is_awaited = true;
        }
    }

    /// The claim by which the client in `key` has its session.
    pub(in crate::hub) fn claim_of(&self, key: usize) -> Option<u64> {
        let name = self.by_key.get(&key)?;
        Some(self.by_name.get(name)?.claim)
    }

    /// Knows nothing more of a session that nobody here has: what was taken of it, others know.
    pub(in crate::hub) fn forget(&mut self, name: &SessionKey) {
        if self
            .by_name
            .get(name)
            .is_some_and(|it| it.owner == Owner::Nobody)
        {
            self.by_name.remove(name);
        }
    }

    /// Whether this claim has come to its place, and there were too many sessions.
    pub(in crate::hub) fn is_refused(&self, name: &SessionKey, claim: u64) -> bool {
        let session = self.by_name.get(name);
        session.is_some_and(|it| it.is_refused && it.claim == claim)
    }
}

/// What comes back.
impl Sessions {
    /// A claim has come to its place, before which so much was taken; `None`: there are too many sessions.
    pub(in crate::hub) fn grant(&mut self, name: &SessionKey, claim: u64, taken: Option<u64>) {
        let session = self.by_name.get_mut(name);
        let Some(session) = session.filter(|it| it.is_awaited && it.claim == claim) else {
            return;
        };
        (session.is_awaited, session.pending) = (false, 0);
        let Some(taken) = taken else {
            session.is_refused = true;
            return;
        };
        (session.taken, session.sent) = (taken, taken);
        session.stored = Arc::new(AtomicU64::new(taken));
    }

    /// Somebody elsewhere has claimed a session: the slot of the client that had it.
    pub(in crate::hub) fn lose(&mut self, name: &SessionKey) -> Option<usize> {
        let session = self.by_name.get(name).filter(|it| !it.is_awaited)?;
        let owner = session.owner;
        self.by_name.remove(name);
        match owner {
            Owner::Client(key) => {
                self.by_key.remove(&key);
                Some(key)
            }
            Owner::Nobody | Owner::Claim(_) => None,
        }
    }

    /// Sessions that clients or claims have, with the claim of each, and whether that is still on its way.
    pub(in crate::hub) fn claims(&self) -> Vec<(SessionKey, u64, bool)> {
        let sessions = self.by_name.iter();
        let claims = sessions.filter(|(_, session)| session.owner != Owner::Nobody);
        let claims = claims.map(|(name, it)| (name.clone(), it.claim, it.is_awaited));
        claims.collect()
    }

    /// How many claims there ever were.
    pub(in crate::hub) fn last_claim(&self) -> u64 {
        self.claims
    }

    /// Goes on with the claims of the daemon before: how many there were, and the session of each that somebody has.
    pub(in crate::hub) fn restore_claims(&mut self, last: u64, claims: Vec<(SessionKey, u64)>) {
        self.claims = last;
        for (name, claim) in claims {
            if let Some(session) = self.by_name.get_mut(&name) {
                session.claim = claim;
            }
        }
    }

    /// So much of a session has come back in the order that nodes share; the slot of the client to tell, if one has it.
    pub(in crate::hub) fn note_ordered(&mut self, name: &SessionKey, taken: u64) -> Option<usize> {
        let session = self.by_name.get_mut(name)?;
        if taken >= session.sent {
            session.pending = 0;
        }
        session.stored.fetch_max(taken, Relaxed);
        session.settle();
        match session.owner {
            Owner::Client(key) => Some(key),
            Owner::Nobody | Owner::Claim(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn session_that_is_not_granted_is_told_from_one_that_somebody_took() {
        let mut sessions = Sessions::default();
        let name: SessionKey = "s".parse().unwrap();
        let claim = |sessions: &mut Sessions| {
            let (claim, _) = sessions.claim(&name);
            sessions.await_claim(&name);
            claim
        };
        let first = claim(&mut sessions);
        sessions.grant(&name, first, None);
        assert!(sessions.is_settled(&name) && sessions.is_refused(&name, first));
        assert!(sessions.give_up(&name, first));
        let second = claim(&mut sessions);
        sessions.grant(&name, second, Some(3));
        assert_eq!(sessions.lose(&name), None);
        assert!(sessions.is_settled(&name) && !sessions.is_refused(&name, second));
        assert!(sessions.give((&name, second), 1, false, false).is_none());
    }
}
