//! Sessions: what one sender has published over all its connections, counted so that it knows where to go on.

mod shared;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::wire::ids::Seq;
use crate::wire::session::SessionKey;

/// Stands for the lines that are stored of a session that has ended.
const ENDED: u64 = u64::MAX;

/// The sessions of a channel.
///
/// A session is kept as long as its lines are, and while a client has it. It has one client at a time: who
/// claims it takes it over, and what the one before still sends is not published.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    by_name: HashMap<SessionKey, Session>,
    /// The session of each client that has one, by slot.
    by_key: HashMap<usize, SessionKey>,
    claims: u64,
    /// The oldest number that was kept when it was last looked for those to forget.
    oldest: Option<Seq>,
}

#[derive(Debug)]
struct Session {
    /// Lines that were taken of it, in all: published, or dropped for being too long.
    taken: u64,
    /// The last number that it was given.
    last: Seq,
    /// Lines that are as safe as they will be; a part of `taken`.
    stored: Arc<AtomicU64>,
    /// Parts of it that are published and not stored yet.
    pending: usize,
    owner: Owner,
    /// The last claim to it.
    claim: u64,
    /// Lines that were taken of it when some were last sent to other nodes.
    sent: u64,
    /// That claim is on its way through the stream that nodes share.
    is_awaited: bool,
    /// It came, and there were too many sessions.
    is_refused: bool,
}

/// Sessions that a channel has at most: each takes some 400 bytes, and a place in every segment's header.
pub(super) const SESSIONS_MAX: usize = 64 * 1024;

/// Who has a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Nobody,
    /// A connection that is about to join, by its claim.
    Claim(u64),
    /// The client in this slot.
    Client(usize),
}

/// A session in what outlives a daemon: its name, the lines that were taken of it, and its last number.
pub(super) type SavedSession = (SessionKey, u64, Seq);

/// What a client has of its session.
#[derive(Debug)]
pub(super) struct SessionHandle {
    pub(super) name: SessionKey,
    /// Whether it is told what is stored.
    pub(super) acks: bool,
    /// What it was told, if anything, and what it has sent that was taken.
    pub(super) told: Option<u64>,
    pub(super) taken: u64,
    stored: Arc<AtomicU64>,
}

impl Sessions {
    /// Those that outlived another daemon.
    pub(super) fn restore(saved: Vec<SavedSession>) -> Sessions {
        let session = |(name, taken, last)| {
            let session = Session {
                taken,
                last,
                stored: Arc::new(AtomicU64::new(taken)),
                pending: 0,
                owner: Owner::Nobody,
                claim: 0,
                sent: taken,
                is_awaited: false,
                is_refused: false,
            };
            (name, session)
        };
        Sessions {
            by_name: saved.into_iter().map(session).collect(),
            ..Sessions::default()
        }
    }

    pub(super) fn save(&self) -> Vec<SavedSession> {
        let sessions = self.by_name.iter();
        let mut saved: Vec<_> = sessions
            .map(|(name, session)| (name.clone(), session.taken, session.last))
            .collect();
        saved.sort();
        saved
    }

    /// The slots of the clients that have one.
    pub(super) fn clients(&self) -> impl Iterator<Item = usize> {
        self.by_key.keys().copied()
    }

    /// Ends all of them: nothing more is acknowledged. The slots of the clients that have one.
    pub(super) fn end(&self) -> impl Iterator<Item = usize> {
        for session in self.by_name.values() {
            session.stored.store(ENDED, Relaxed);
        }
        self.by_key.keys().copied()
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Whether a session of this name can be claimed: it is there, or may still be.
    pub(super) fn has_room_for(&self, name: &SessionKey) -> bool {
        self.by_name.len() < SESSIONS_MAX || self.by_name.contains_key(name)
    }

    /// Takes a session from whoever has it: the number of the claim, and the slot of the client that had it.
    pub(super) fn claim(&mut self, name: &SessionKey) -> (u64, Option<usize>) {
        self.claims += 1;
        let session = self.by_name.entry(name.clone()).or_insert_with(|| Session {
            taken: 0,
            last: Seq(0),
            stored: Arc::default(),
            pending: 0,
            owner: Owner::Nobody,
            claim: 0,
            sent: 0,
            is_awaited: false,
            is_refused: false,
        });
        session.claim = self.claims;
        session.is_refused = false;
        let before = std::mem::replace(&mut session.owner, Owner::Claim(self.claims));
        let before = match before {
            Owner::Client(key) => Some(key),
            Owner::Nobody | Owner::Claim(_) => None,
        };
        if let Some(key) = before {
            self.by_key.remove(&key);
        }
        (self.claims, before)
    }

    /// Whether all that was taken of a session is stored.
    pub(super) fn is_settled(&self, name: &SessionKey) -> bool {
        let session = self.by_name.get(name);
        session.is_none_or(|session| session.pending == 0 && !session.is_awaited)
    }

    /// Gives a claimed session to a client; `None` if somebody has claimed it since.
    /// `is_untold`: it has no answer to its hello that says what was taken.
    pub(super) fn give(
        &mut self,
        (name, claim): (&SessionKey, u64),
        key: usize,
        acks: bool,
        is_untold: bool,
    ) -> Option<SessionHandle> {
        let session = self.by_name.get_mut(name)?;
        if session.owner != Owner::Claim(claim) {
            return None;
        }
        session.owner = Owner::Client(key);
        self.by_key.insert(key, name.clone());
        let end = self.by_name.get(name)?;
        Some(SessionHandle {
            name: name.clone(),
            acks,
            told: (!is_untold).then_some(end.taken),
            taken: end.taken,
            stored: end.stored.clone(),
        })
    }

    /// Gives a session to the client that had it in the daemon before; `None` if there is no such session.
    pub(super) fn give_back(
        &mut self,
        name: SessionKey,
        key: usize,
        acks: bool,
        told: Option<u64>,
    ) -> Option<SessionHandle> {
        let session = self.by_name.get_mut(&name)?;
        session.owner = Owner::Client(key);
        self.by_key.insert(key, name.clone());
        Some(SessionHandle {
            name,
            acks,
            told,
            taken: session.taken,
            stored: session.stored.clone(),
        })
    }

    /// Takes so many lines of the client in `key`, the last of which has this number; they are a part that is
    /// still to be stored. Its session, and what was taken of that with them; `None`: somebody else has it.
    pub(super) fn take(&mut self, key: usize, lines: u64, last: Seq) -> Option<(SessionKey, u64)> {
        let name = self.by_key.get(&key)?;
        let session = self.by_name.get_mut(name)?;
        session.taken += lines;
        session.last = session.last.max(last);
        session.pending += 1;
        session.sent = session.taken;
        Some((name.clone(), session.taken))
    }

    /// Counts lines of the client in `key` that were dropped, and are as good as stored.
    pub(super) fn drop_lines(&mut self, key: usize, lines: u64) {
        let name = self.by_key.get(&key);
        if let Some(session) = name.and_then(|name| self.by_name.get_mut(name)) {
            session.taken += lines;
            session.settle();
        }
    }

    /// Whether the client in `key` still has its session.
    pub(super) fn has(&self, key: usize) -> bool {
        self.by_key.contains_key(&key)
    }

    /// A part of a session is published and not stored yet: so many lines, with which so much of it was taken.
    pub(super) fn note_pending(&mut self, name: &SessionKey, taken: u64, lines: u64) {
        if let Some(session) = self.by_name.get_mut(name) {
            session.pending += 1;
            session
                .stored
                .fetch_min(taken.saturating_sub(lines), Relaxed);
        }
    }

    /// A part of a session is stored, with which so much of it was taken; the slot of the client to tell, if one
    /// has it.
    pub(super) fn note_stored(&mut self, name: &SessionKey, taken: u64) -> Option<usize> {
        let session = self.by_name.get_mut(name)?;
        session.pending = session.pending.saturating_sub(1);
        session.stored.fetch_max(taken, Relaxed);
        session.settle();
        match session.owner {
            Owner::Client(key) => Some(key),
            Owner::Nobody | Owner::Claim(_) => None,
        }
    }

    /// The client in `key` is gone: the session that it had, and its claim to that.
    pub(super) fn leave(&mut self, key: usize) -> Option<(SessionKey, u64)> {
        let name = self.by_key.remove(&key)?;
        let claim = self.release(&name, Owner::Client(key))?;
        Some((name, claim))
    }

    /// A claim is given up; whether nobody else had made one since.
    pub(super) fn give_up(&mut self, name: &SessionKey, claim: u64) -> bool {
        self.release(name, Owner::Claim(claim)).is_some()
    }

    /// Nobody has a session any more that this one had. One without lines is none, and one whose lines are gone.
    fn release(&mut self, name: &SessionKey, owner: Owner) -> Option<u64> {
        let session = self.by_name.get_mut(name).filter(|it| it.owner == owner)?;
        let claim = session.claim;
        session.owner = Owner::Nobody;
        if session.taken == 0 || self.oldest.is_some_and(|oldest| session.last < oldest) {
            self.by_name.remove(name);
        }
        Some(claim)
    }

    /// Forgets those whose lines are all gone: `oldest` is the first number that is kept.
    pub(super) fn expire(&mut self, oldest: Seq) {
        if self.oldest == Some(oldest) {
            return;
        }
        self.oldest = Some(oldest);
        let is_kept = |session: &Session| session.owner != Owner::Nobody || session.last >= oldest;
        self.by_name.retain(|_, session| is_kept(session));
    }
}

impl Session {
    /// With no part to be stored, all is that was taken.
    fn settle(&mut self) {
        if self.pending == 0 {
            self.stored.fetch_max(self.taken, Relaxed);
        }
    }
}

impl SessionHandle {
    /// What is to be acknowledged, if that is more than what was.
    pub(super) fn take_ack(&mut self) -> Option<u64> {
        let stored = Some(self.stored.load(Relaxed)).filter(|stored| *stored != ENDED)?;
        let is_news = self.told.is_none_or(|told| stored > told);
        (self.acks && is_news).then(|| {
            self.told = Some(stored);
            stored
        })
    }

    /// Whether something that was taken is still to be acknowledged.
    pub(super) fn awaits_ack(&self) -> bool {
        let is_untold = self.told.is_none_or(|told| told < self.taken);
        self.acks && is_untold && self.stored.load(Relaxed) != ENDED
    }
}
