//! In debug builds: at rest, one more poll of every client, every accept loop and the reaper changes
//! nothing. If it does, somebody was waiting for a wake-up that had been lost.
//!
//! SIGUSR1 asks; the black-box tests do so at the end of each daemon's life. The answer is one line
//! on stderr, whatever is logged.

use std::sync::Arc;
use std::time::Duration;

use crate::hub::{Channels, Commands};

/// How often it is looked whether the channels rest, and how often in a row it has to be the same.
const LOOK: Duration = Duration::from_millis(25);
const LOOKS: u32 = 4;

/// How often it is looked at all: a daemon that is under load does not rest.
const LOOKS_MAX: u32 = 80;

/// Polls everything once more, when nothing has happened for a while, and says what came of it.
pub(crate) async fn check(channels: Arc<Channels>) {
    let who_is_there = || {
        let stats = channels.stats();
        (stats.clients, stats.connections)
    };
    let mut before = channels.traces();
    let mut same = 0;
    for _ in 0..LOOKS_MAX {
        tokio::time::sleep(LOOK).await;
        let now = channels.traces();
        same = if now == before { same + 1 } else { 0 };
        before = now;
        if same == LOOKS {
            break;
        }
    }
    // Who waits for a rate comes back by itself.
    let is_throttled = channels
        .client_stats()
        .iter()
        .any(|client| client.throttled);
    if same < LOOKS || is_throttled {
        eprintln!("rest: busy");
        return;
    }
    let there = who_is_there();
    channels.command_all(Commands::NUDGE);
    channels.nudge();
    tokio::time::sleep(LOOK).await;
    while channels.is_commanded(Commands::NUDGE) {
        tokio::time::sleep(LOOK).await;
    }
    // A task may be in the middle of the poll that saw it.
    tokio::time::sleep(LOOK).await;
    let after = channels.traces();
    if after == before {
        eprintln!("rest: quiet");
    } else if who_is_there() != there {
        // Somebody came or went just then, which is no doing of the polls.
        eprintln!("rest: busy");
    } else {
        eprintln!("rest: disturbed: {before:?} became {after:?}");
    }
}
