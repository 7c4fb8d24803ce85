//! Where a client begins in its channel: live, or with something of the past first.

use std::io;
use std::sync::Arc;

use super::claim::Claim;
use super::entry_error::EntryError;
use super::feed::Feed;
use super::order::Hub;
use crate::wire::hello::Answer;
use crate::wire::ids::Seq;
use crate::wire::past::{Newest, Since};
use crate::wire::session::SessionKey;

/// What a client asks for, beside what is to come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PastRequest {
    /// What it gets first, if it does not say since when.
    pub(crate) newest: Option<Newest>,
    pub(crate) since: Option<Since>,
    /// Key of the session that it publishes in.
    pub(crate) session: Option<SessionKey>,
    /// Whether it is told what is stored of that.
    pub(crate) acks: bool,
}

/// Where a client begins, as it was found before it joins.
#[derive(Debug, Default)]
pub(crate) struct StartingPoint {
    /// The first number that it gets, if that may be in the past.
    pub(super) from: Option<Seq>,
    /// Whether it gets notices of the past.
    pub(super) with_notices: bool,
    /// Whether it goes on where it said; `None` if it said nothing.
    pub(super) recovered: Option<bool>,
    /// Messages that it has missed for good.
    pub(super) missed: u64,
    pub(super) claim: Option<Claim>,
    pub(super) acks: bool,
}

/// A connection that has become a client.
#[derive(Debug)]
pub(crate) struct Joined {
    pub(crate) feed: Feed,
    /// What its hello is answered with.
    pub(crate) answer: Answer,
}

/// Another connection has taken the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SessionTaken;

impl Hub {
    /// Looks for where a client begins that wants this. Cancel safe.
    ///
    /// # Errors
    /// See [`EntryError`].
    pub(crate) async fn enter(
        self: &Arc<Hub>,
        wanted: &PastRequest,
    ) -> Result<StartingPoint, EntryError> {
        self.opened().await;
        let mut entry = self.find(wanted).await.map_err(EntryError::Unreadable)?;
        if let Some(session) = &wanted.session {
            entry.claim = Some(self.claim_session(session).await?);
            entry.acks = wanted.acks;
        }
        Ok(entry)
    }

    async fn find(&self, wanted: &PastRequest) -> io::Result<StartingPoint> {
        let mut newest = wanted.newest;
        let mut entry = StartingPoint::default();
        match wanted.since {
            Some(Since::Place(epoch, seq)) => {
                let next = Seq(seq.0.saturating_add(1));
                if epoch == self.epoch() {
                    self.when_there(seq).await;
                }
                let history = self.history();
                if epoch == self.epoch()
                    && let Some(history) = &history
                {
                    history.known(next).await;
                }
                let is_known = epoch == self.epoch() && next <= self.next_seq();
                let kept = history.as_ref();
                let oldest = kept.map_or(self.next_seq(), |kept| kept.oldest());
                entry.recovered = Some(is_known && next >= oldest);
                let missed = self.messages_between(next, oldest);
                let missed = missed.or_else(|| kept?.messages_gone(next, oldest));
                let missed = missed.filter(|_| is_known);
                if entry.recovered == Some(true) || missed.is_some() {
                    entry.from = Some(next.max(oldest));
                    entry.with_notices = true;
                    entry.missed = missed.unwrap_or(0);
                    return Ok(entry);
                }
            }
            Some(Since::Age(age)) => newest = Some(Newest::Age(age)),
            None => {}
        }
        if let (Some(newest), Some(history)) = (newest, self.history()) {
            entry.from = Some(history.locate(newest).await?);
        }
        Ok(entry)
    }
}
