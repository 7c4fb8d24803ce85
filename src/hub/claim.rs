//! Taking a session over: from whoever has it, to the connection that asks for it.

use std::sync::Arc;

use super::budget::ReadPermit;
use super::entry_error::EntryError;
use super::order::Hub;
use super::subscriber::{Commands, Subscriber};
use crate::wire::close_reason::CloseReason;
use crate::wire::framing::Lines;
use crate::wire::session::SessionKey;

/// A claim to a session, from which nobody else publishes any more.
#[derive(Debug)]
pub(crate) struct Claim {
    hub: Arc<Hub>,
    pub(super) name: SessionKey,
    pub(super) number: u64,
}

impl Hub {
    /// Counts lines of the session of the client in `key` that were dropped, and came alone.
    pub(super) fn drop_lines(
        &self,
        key: usize,
        subscriber: &Subscriber,
        permit: Option<ReadPermit>,
        lines: &Lines<'_>,
    ) {
        if self.is_shared() {
            // What is taken follows from what all daemons know.
            self.send_lines(key, subscriber, permit, lines, 0);
        } else if let Some(recording) = &mut self.lock().recording {
            recording.sessions.drop_lines(key, lines.discarded);
        }
    }

    /// Takes a session from whoever has it, and waits until all that was taken of it is stored. Cancel safe: the
    /// session is nobody's then.
    ///
    /// # Errors
    /// Nothing is kept here, or there are as many sessions as there may be.
    pub(super) async fn claim_session(
        self: &Arc<Hub>,
        name: &SessionKey,
    ) -> Result<Claim, EntryError> {
        let claim = {
            let mut state = self.lock();
            let recording = state.recording.as_mut().ok_or(EntryError::NoHistory)?;
            let sessions = &mut recording.sessions;
            if !sessions.has_room_for(name) {
                return Err(EntryError::TooManySessions);
            }
            let (number, before) = sessions.claim(name);
            if self.sharing.is_some() {
                sessions.await_claim(name);
            }
            if let Some(slot) = before.and_then(|key| state.slots.get(key)) {
                let taken = Commands::close(CloseReason::SessionTaken);
                slot.subscriber.command(taken);
            }
            self.queue_claim(&mut state, name, number, false);
            Claim {
                hub: self.clone(),
                name: name.clone(),
                number,
            }
        };
        // That somebody has taken it since, joining tells.
        let is_settled = self.when_stored(|state| match &state.recording {
            Some(recording) if recording.sessions.is_refused(name, claim.number) => {
                Some(Err(EntryError::TooManySessions))
            }
            Some(recording) => recording.sessions.is_settled(name).then_some(Ok(())),
            None => Some(Err(EntryError::NoHistory)),
        });
        is_settled.await?;
        Ok(claim)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut state = self.hub.lock();
        let sessions = state.recording.as_mut().map(|it| &mut it.sessions);
        if sessions.is_some_and(|them| them.give_up(&self.name, self.number)) {
            let hub = &self.hub;
            hub.queue_claim(&mut state, &self.name, self.number, true);
        }
    }
}
