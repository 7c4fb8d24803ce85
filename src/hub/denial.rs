//! Clients that may not stay: their token is gone, or lets them do less, or has expired.

use std::time::SystemTime;

use super::channels::Channels;
use super::order::Hub;
use super::subscriber::Commands;
use crate::config::Tokens;
use crate::wire::close_reason::CloseReason;

impl Channels {
    /// Closes the clients that came in by a token which does not let them be there any more. With no tokens
    /// at all, everybody may.
    pub(crate) fn close_denied(&self) {
        let now = SystemTime::now();
        if let Some(tokens) = self.tokens_until(now) {
            self.hubs()
                .iter()
                .for_each(|hub| hub.close_denied(&tokens, now));
        }
    }

    /// The same, if a token has expired since.
    pub(super) fn close_expired(&self) {
        if self.has_expired(SystemTime::now()) {
            self.close_denied();
        }
    }
}

impl Hub {
    fn close_denied(&self, tokens: &Tokens, now: SystemTime) {
        let state = self.lock();
        for (key, identity) in &state.identities {
            let slot = &state.slots[*key];
            if !slot.left && !tokens.allow(identity, slot.meta.role, &self.name, now) {
                slot.subscriber
                    .command(Commands::close(CloseReason::Denied));
            }
        }
    }
}
