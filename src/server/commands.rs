//! Waiting for a stop, while something else is done that a stop ends.

use std::future::pending;

use futures::StreamExt;
use tracing::warn;

use crate::ops::lifecycle::{Command, CommandSource};

/// The next command. Cancel safe.
pub(super) async fn next(commands: &mut CommandSource) -> Command {
    commands.next().await.unwrap_or(Command::Stop)
}

/// Waits until it is asked to stop, and remembers what else it was asked for meanwhile. Cancel safe.
pub(super) async fn stop_asked(
    commands: &mut CommandSource,
    later: &mut Option<Command>,
) -> Command {
    loop {
        match next(commands).await {
            stop if stop.is_stop() => return stop,
            command => *later = Some(command),
        }
    }
}

/// Waits until it is asked to stop once more. Cancel safe.
pub(super) async fn stop_again(commands: &mut CommandSource) {
    while let Some(command) = commands.next().await {
        if command.is_stop() {
            return;
        }
        warn!("already stopping: too late for this");
    }
    // The end was the stop that came before.
    pending().await
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt, stream};

    use super::*;

    fn source(commands: &[Command]) -> CommandSource {
        stream::iter(commands.to_vec()).boxed()
    }

    #[tokio::test]
    async fn stop_comes_before_the_last_of_what_was_asked_for_earlier() {
        let asked = [Command::HandOver, Command::Reload, Command::Terminate];
        let mut later = None;
        let stop = stop_asked(&mut source(&asked), &mut later).await;
        assert_eq!((stop, later), (Command::Terminate, Some(Command::Reload)));
    }

    #[tokio::test]
    async fn only_a_stop_is_a_second_stop() {
        let asked = [Command::Reload, Command::Stop, Command::HandOver];
        let mut commands = source(&asked);
        stop_again(&mut commands).await;
        assert_eq!(commands.next().await, Some(Command::HandOver));
    }

    #[tokio::test]
    async fn end_of_the_commands_is_one_stop() {
        let mut commands = source(&[]);
        assert_eq!(next(&mut commands).await, Command::Stop);
        assert_eq!(stop_again(&mut commands).now_or_never(), None);
    }
}
