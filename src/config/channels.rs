//! The options of one channel: those of the daemon, and what its `[channel.NAME]` table of the file
//! has in place of them.

use std::collections::BTreeMap;
use std::time::Duration;

use super::error::ConfigError;
use super::history;
use super::nearest::no_such_option;
use super::raw::RawValue;
use super::values::{self, Grace};
use super::words::{self, SlowClient};
use crate::wire::channel::ChannelName;

/// Key of the file that the tables of channels stand under.
pub(super) const TABLES: &str = "channel";

/// What is known of a key of a channel's table beside the field that it sets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ChannelKey {
    /// The key.
    pub(crate) name: &'static str,
    /// What it sets, in one sentence.
    pub(crate) help: &'static str,
    /// Value for an example of a table, as TOML writes it.
    pub(crate) example: &'static str,
}

/// Makes `CHANNEL_KEYS` and `ChannelOptions` from rows of this form:
///
/// ```text
/// /// Help.
/// key("name", example = "TOML")
/// /// Doc of the field.
/// field: Type = parser;
/// ```
macro_rules! channel_keys {
    ($(
        #[doc = $help:literal]
        key($name:literal, example = $example:literal)
        $(#[doc = $doc:literal])+
        $field:ident: $type:ty = $parse:path;
    )+) => {
        /// Every key of a channel's table, in the order of the help.
        pub(crate) const CHANNEL_KEYS: &[ChannelKey] = &[$(ChannelKey {
            name: $name,
            help: $help.trim_ascii_start(),
            example: $example,
        }),+];

        /// All that one channel is told. A reload makes another value, which holds at once.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct ChannelOptions {
            $($(#[doc = $doc])+ pub $field: $type,)+
        }

        impl ChannelOptions {
            /// What differs from the options of the daemon.
            pub(super) fn own(self, daemon: ChannelOptions) -> ($(Option<$type>,)+) {
                ($((self.$field != daemon.$field).then_some(self.$field),)+)
            }

            /// Sets what a key is for.
            ///
            /// # Errors
            /// What is wrong with the key or its value, and what is allowed.
            fn set(&mut self, key: &str, value: &RawValue) -> Result<(), String> {
                match key {
                    $($name => self.$field = $parse(&value.text)?,)+
                    _ => {
                        let known = CHANNEL_KEYS.iter().map(|key| key.name);
                        return Err(no_such_option(key, known));
                    }
                }
                Ok(())
            }
        }
    };
}

channel_keys! {
    /// Hold at most SIZE of its lines not yet delivered; as --buffer.
    key("buffer", example = "\"16MiB\"")
    /// Most bytes of lines that wait for clients: at least 4 KiB.
    buffer_bytes: usize = values::buffer_bytes;

    /// disconnect, skip or catch-up; as --slow-client.
    key("slow-client", example = "\"skip\"")
    /// What happens to a client that is behind when the buffer is full.
    slow_client: SlowClient = words::slow_client;

    /// How long its senders wait for a slow client; as --slow-grace.
    key("slow-grace", example = "\"500ms\"")
    /// How long senders wait for a client that is behind when the buffer is full.
    slow_grace: Grace = values::grace;

    /// Keep the newest SIZE of its lines; as --history.
    key("history", example = "\"1GiB\"")
    /// Most bytes that are kept of its lines: 64 KiB to 1 TiB. 0: nothing is kept.
    history_bytes: u64 = history::bytes;

    /// Keep its lines no longer than this; as --history-age.
    key("history-age", example = "\"24h\"")
    /// How long its lines are kept: 1 ms to 10 years. `None`: as long as there is room.
    history_age: Option<Duration> = values::timeout;

    /// Whether its clients are told who comes and leaves; the opposite of --no-notices.
    key("notices", example = "false")
    /// Whether clients are told who comes and leaves.
    notices: bool = words::parse_bool;

    /// Whether it is this daemon's alone, whatever --nats says. Takes a restart.
    key("local", example = "false")
    /// Whether it is not shared with other daemons.
    local: bool = words::parse_bool;
}

/// The options of each channel that one of these names or tables stands for, and of `main`. What a
/// table leaves open is as in `defaults`.
pub(super) fn read<'a>(
    named: impl IntoIterator<Item = &'a ChannelName>,
    tables: &[RawValue],
    defaults: ChannelOptions,
) -> Result<BTreeMap<ChannelName, ChannelOptions>, ConfigError> {
    let names = named.into_iter().cloned().chain([ChannelName::main()]);
    let mut channels: BTreeMap<_, _> = names.map(|name| (name, defaults)).collect();
    for table in tables {
        let option = format!("{TABLES}.{}", table.text);
        let name = words::named_channel(&table.text)
            .map_err(|reason| ConfigError::at(&option, table, reason))?;
        let mut options = defaults;
        for (key, value) in table.table.iter().flatten() {
            options
                .set(key, value)
                .map_err(|reason| ConfigError::at(&option, value, format!("{key}: {reason}")))?;
        }
        channels.insert(name, options);
    }
    Ok(channels)
}
