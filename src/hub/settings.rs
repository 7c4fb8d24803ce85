//! What of the configuration a channel goes by.

use std::time::Duration;

use super::history::{HistorySettings, Retention};
use crate::config::{Config, Grace, SlowClient};
use crate::wire::channel::ChannelName;

/// The part of the configuration that a channel goes by and that a reload changes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settings {
    pub(super) buffer_bytes: usize,
    /// Other daemons have no part in it, whatever others do.
    pub(super) is_local: bool,
    /// What is kept for who comes late; `None`: nothing.
    pub(super) history: Option<HistorySettings>,
    pub(super) notices: bool,
    pub(super) slow_client: SlowClient,
    pub(super) slow_grace: Grace,
    pub(super) stall_timeout: Option<Duration>,
    pub(super) idle_timeout: Option<Duration>,
}

impl Settings {
    /// What the configuration says of this channel.
    pub(super) fn of(config: &Config, channel: &ChannelName) -> Settings {
        let options = config.channel_options(channel);
        Settings {
            buffer_bytes: options.buffer_bytes,
            is_local: options.local,
            history: (options.history_bytes > 0).then_some(HistorySettings {
                retention: Retention {
                    bytes: options.history_bytes,
                    age: options.history_age,
                },
                sync: config.history_sync,
                on_error: config.on_history_error,
            }),
            notices: options.notices,
            slow_client: options.slow_client,
            slow_grace: options.slow_grace,
            stall_timeout: config.stall_timeout,
            idle_timeout: config.idle_timeout,
        }
    }
}
