//! The daemon before this one, and the state that it left by an exec or in the store.

use std::env;
use std::os::fd::RawFd;

use anyhow::Context;
use tracing::{error, info};

use super::descriptors::Inherited;
use super::{RestoredState, State, fdstore};
use crate::config::cli::STATE_VARIABLE;
use crate::hub::counters::HandoverMethod;
use crate::net::inherited::InheritedFd;
use crate::ops::logging;
use crate::ops::secrets;

/// Log message for a state that cannot be restored. The daemon serves new clients all the same.
pub(crate) const STARTING_AFRESH: &str = "cannot take over from the daemon before: starting afresh";

/// What the daemon before this one left, if there was one.
#[derive(Debug, Default)]
pub struct Predecessor {
    pub(crate) left: Option<RestoredState>,
    /// Names of the entries that came from the service manager's store and are still in there.
    pub(crate) in_store: Vec<String>,
    /// How a state came, whether or not it could be restored; `None` if none came.
    pub(crate) method: Option<HandoverMethod>,
}

impl Predecessor {
    /// Whether a state waits to be restored, by either method. Takes nothing.
    pub fn is_waiting() -> bool {
        env::var_os(STATE_VARIABLE).is_some() || fdstore::has_state()
    }

    /// Restores the state that came by an exec, or else in these entries of the service manager's
    /// store. To be called once, before anything else opens descriptors.
    ///
    /// Descriptors of a state that cannot be restored are closed, with an error in the log.
    pub fn restore(stored: Vec<InheritedFd>) -> Predecessor {
        let in_store = stored.iter().map(|entry| entry.name.clone()).collect();
        let restored = match env::var_os(STATE_VARIABLE) {
            Some(number) => Some((HandoverMethod::Exec, after_exec(&number.to_string_lossy()))),
            None => {
                let restored = fdstore::retrieve(stored).transpose();
                restored.map(|restored| (HandoverMethod::Store, restored))
            }
        };
        let (method, restored) = restored.unzip();
        let left = restored.and_then(|restored| match restored {
            Ok(left) => {
                logging::resume(left.state.log);
                if left.state.has_keys()
                    && let Err(error) = secrets::keep_out_of_cores()
                {
                    error!(%error, "cannot keep the keys of TLS clients out of cores");
                }
                let clients = left.state.clients.len();
                info!(clients, "taking over from the daemon before");
                Some(left)
            }
            Err(error) => {
                error!(error = format!("{error:#}"), "{STARTING_AFRESH}");
                None
            }
        });
        Predecessor {
            left,
            in_store,
            method,
        }
    }
}

/// The state in the memory that descriptor `number` stands for.
fn after_exec(number: &str) -> anyhow::Result<RestoredState> {
    let mut inherited = Inherited::default();
    let number: RawFd = number
        .parse()
        .with_context(|| format!("{STATE_VARIABLE} is no number"))?;
    let memory = inherited.take(number).with_context(|| {
        format!("descriptor {number}, which {STATE_VARIABLE} names, is not open")
    })?;
    let state = State::read(memory.into()).context("cannot read the state")?;
    let sockets = state.descriptors.iter().map(|number| {
        let socket = inherited.take(*number);
        socket.with_context(|| format!("descriptor {number} of the state is not open"))
    });
    let sockets = sockets.collect::<anyhow::Result<_>>()?;
    RestoredState::new(state, sockets)
}
