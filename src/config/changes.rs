//! How one configuration differs from another beyond its options: in its channels, and in what becomes of
//! their histories.
//!
//! Whether a channel is shared with other daemons is what it is made for: that takes a restart.
//!
//! A history in memory begins and ends at a reload. One on disk takes a restart for that: its files are
//! opened, or left alone, when the daemon starts.

use super::channels;
use super::options::Config;
use super::spec::{Applies, Difference};
use crate::wire::channel::ChannelName;

impl Config {
    /// The channels that are only in one of two configurations, or differ in what they have of their
    /// own.
    pub(super) fn differing_channels(&self, other: &Config) -> Vec<Difference> {
        let own = |config: &Config, name| {
            let options = config.channels.get(name)?;
            Some(options.own(config.channel_defaults()))
        };
        let mut names: Vec<_> = self.channels.keys().chain(other.channels.keys()).collect();
        names.sort_unstable();
        names.dedup();
        names.retain(|name| own(self, name) != own(other, name));
        let difference = |name| Difference {
            name: format!("{}.{name}", channels::TABLES).into(),
            applies: match self.switches_history_of(other, name) || self.moves(other, name) {
                true => Applies::AtRestart,
                false => Applies::AtOnce,
            },
        };
        names.into_iter().map(difference).collect()
    }

    /// Whether channels that do not say begin or end a history on disk, by going from this configuration
    /// to the other.
    pub(super) fn switches_history(&self, other: &Config) -> bool {
        self.history_dir.is_some() && (self.history_bytes == 0) != (other.history_bytes == 0)
    }

    /// Whether a channel that is there does, by itself.
    fn switches_history_of(&self, other: &Config, name: &ChannelName) -> bool {
        let kept = |config: &Config| Some(config.channels.get(name)?.history_bytes == 0);
        let both = kept(self).zip(kept(other));
        self.history_dir.is_some() && both.is_some_and(|(before, after)| before != after)
    }

    /// Whether a channel that is there goes over to other daemons, or away from them.
    fn moves(&self, other: &Config, name: &ChannelName) -> bool {
        let is_local = |config: &Config| Some(config.channels.get(name)?.local);
        let both = is_local(self).zip(is_local(other));
        both.is_some_and(|(before, after)| before != after)
    }

    /// Takes from the configuration that is running what only a restart changes of channels: the histories that it
    /// begins or ends, and whom they are shared with.
    pub(super) fn keep_channels(&mut self, running: &Config) {
        if running.switches_history(self) {
            self.history_bytes = running.history_bytes;
        }
        let names: Vec<_> = self.channels.keys().cloned().collect();
        for name in names {
            if running.moves(self, &name)
                && let Some(options) = self.channels.get_mut(&name)
            {
                options.local = running.channel_options(&name).local;
            }
            if running.switches_history_of(self, &name)
                && let Some(options) = self.channels.get_mut(&name)
            {
                options.history_bytes = running.channel_options(&name).history_bytes;
            }
        }
    }
}
