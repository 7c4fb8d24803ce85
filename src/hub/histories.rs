//! The histories of all channels on disk: opened before the channels are, and closed after them.

use std::collections::BTreeMap;
use std::io;

use super::epoch::new_epoch;
use super::history::HistorySettings;
use super::history::disk::{Directory, HistoryError, Log, Recovered};
use super::settings::Settings;
use crate::config::Config;
use crate::wire::channel::ChannelName;
use crate::wire::ids::Epoch;
use parking_lot::Mutex;

/// The directory of the histories, which this daemon alone has, and what was found there.
#[derive(Debug)]
pub(crate) struct Histories {
    directory: Directory,
    /// Those of channels that there are not yet.
    opened: Mutex<BTreeMap<ChannelName, (Log, Recovered)>>,
}

impl Histories {
    /// Opens the histories of this configuration, if they are on disk. Blocks.
    ///
    /// # Errors
    /// The directory is another daemon's, or something in it is damaged or cannot be read.
    pub(crate) fn open(config: &Config) -> Result<Option<Histories>, HistoryError> {
        let Some(path) = &config.history_dir else {
            return Ok(None);
        };
        let directory = Directory::open(path)?;
        let mut opened = BTreeMap::new();
        for name in directory.channels()? {
            // A channel that keeps nothing now keeps what it had.
            if let Some(settings) = Settings::of(config, &name).history {
                let log = directory.open_log(&name, settings.retention, new_epoch())?;
                opened.insert(name, log);
            }
        }
        Ok(Some(Histories {
            directory,
            opened: Mutex::new(opened),
        }))
    }

    /// Channels that have one and are not there yet.
    pub(super) fn names(&self) -> Vec<ChannelName> {
        self.opened.lock().keys().cloned().collect()
    }

    /// The history of a channel, which begins with `epoch` if it has none yet.
    pub(super) fn take(
        &self,
        name: &ChannelName,
        settings: HistorySettings,
        epoch: Epoch,
    ) -> Result<(Log, Recovered), HistoryError> {
        let opened = self.opened.lock().remove(name);
        match opened {
            Some(opened) => Ok(opened),
            None => self.directory.open_log(name, settings.retention, epoch),
        }
    }

    /// Puts away what there is of a channel, which has gone on without it since this epoch.
    pub(super) fn set_aside(&self, name: &ChannelName, epoch: Epoch) -> Result<(), HistoryError> {
        self.directory.set_aside(name, epoch)
    }

    /// Says that all has been synced, when that is so.
    pub(super) fn mark_clean(&self) -> io::Result<()> {
        self.directory.mark_clean()
    }
}
