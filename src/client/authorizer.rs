//! By what a connection shows who it is: the token of its hello, or the certificate of its TLS.

use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until};

use super::guesses::{Attempt, Guesses};
use super::refusal::Refusal;
use crate::config::{Config, Identity, Token, Tokens};
use crate::net::peer::Peer;
use crate::wire::channel::ChannelName;
use crate::wire::hello::Secret;
use crate::wire::role::Role;

/// Who may come in, by the tokens there are now.
#[derive(Debug)]
pub(crate) struct Authorizer {
    /// `None`: everybody.
    tokens: Mutex<Option<Arc<Tokens>>>,
    guesses: Mutex<Guesses>,
}

impl From<&Config> for Authorizer {
    fn from(config: &Config) -> Authorizer {
        Authorizer {
            tokens: Mutex::new(config.tokens.clone()),
            guesses: Mutex::default(),
        }
    }
}

impl Authorizer {
    /// Goes by another configuration from now on.
    pub(crate) fn set(&self, config: &Config) {
        self.tokens.lock().clone_from(&config.tokens);
    }

    fn tokens(&self) -> Option<Arc<Tokens>> {
        self.tokens.lock().clone()
    }

    /// The token of a client whose hello has this secret, or whose certificate these names; `None` if
    /// nobody needs one. Meanwhile `cut_short` has what the peer is to be told if it cannot go on. Cancel
    /// safe.
    ///
    /// # Errors
    /// It has none that is right. All that is wrong takes the same time.
    pub(super) async fn authorize(
        &self,
        peer: Peer,
        secret: Option<&Secret>,
        certificate: &[String],
        cut_short: &mut Option<CutShort>,
    ) -> Result<Option<Arc<Token>>, Refusal> {
        let Some(tokens) = self.tokens() else {
            return Ok(None);
        };
        if secret.is_none()
            && let Some(token) = tokens.by_certificate(certificate, SystemTime::now())
        {
            return Ok(Some(token.clone()));
        }
        let told_at = loop {
            let attempt = self.guesses.lock().attempt(peer, Instant::now(), || {
                // A reload may have changed them meanwhile.
                let tokens = self.tokens()?;
                let token = tokens.by_secret(secret?.as_bytes(), SystemTime::now())?;
                Some(token.clone())
            });
            match attempt {
                Attempt::Right(token) => {
                    *cut_short = None;
                    return Ok(Some(token));
                }
                Attempt::Wrong(told_at) => break told_at,
                Attempt::Wait(until) => {
                    *cut_short = Some(CutShort::Unchecked);
                    sleep_until(until).await;
                }
            }
        };
        *cut_short = Some(CutShort::Wrong);
        sleep_until(told_at).await;
        Err(Refusal::unauthorized())
    }

    /// The token of a client that has no hello, by the names of its certificate.
    pub(super) fn by_certificate(&self, names: &[String]) -> Option<Arc<Token>> {
        let tokens = self.tokens()?;
        tokens.by_certificate(names, SystemTime::now()).cloned()
    }

    /// Whether a client that has just come in may still be there.
    pub(super) fn allows(&self, identity: &Identity, role: Role, channel: &ChannelName) -> bool {
        let tokens = self.tokens();
        tokens.is_none_or(|tokens| tokens.allow(identity, role, channel, SystemTime::now()))
    }
}

/// What a peer has to be told whose time is over while it waits on account of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CutShort {
    /// Its token was not looked at, on account of others from its address.
    Unchecked,
    /// Its token is wrong.
    Wrong,
}
