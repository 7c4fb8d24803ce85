//! Waiting for a stop, while something else is done that a stop ends.

use tracing::warn;

use crate::ops::lifecycle::{Command, CommandSource};

/// Waits until it is asked to stop, and remembers what else it was asked for meanwhile. Cancel safe.
pub(super) async fn stop_asked(
    commands: &mut impl CommandSource,
    later: &mut Option<Command>,
) -> Command {
    loop {
        match commands.next().await {
            stop if stop.is_stop() => return stop,
            command => *later = Some(command),
        }
    }
}

/// Waits until it is asked to stop once more.
pub(super) async fn stop_again(commands: &mut impl CommandSource) {
    while !commands.next().await.is_stop() {
        warn!("already stopping: too late for this");
    }
}
