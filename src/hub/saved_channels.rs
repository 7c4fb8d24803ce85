//! All channels put away for a handover, and taken up again.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::channels::{Channels, Joining};
use super::cluster::node::Cluster;
use super::feed::Feed;
use super::histories::Histories;
use super::order::Hub;
use super::places::{NUMBER_MAX, Places, SavedFeed};
use super::saved_batch::CorruptState;
use super::shared::Shared;
use super::snapshot::SavedHub;
use super::stats::HubStats;
use crate::config::Config;
use crate::wire::channel::ChannelName;

/// Everything in the channels that outlives a daemon.
#[derive(Debug)]
pub(crate) struct SavedChannels {
    pub(crate) hubs: Vec<SavedHub>,
    /// What was counted in channels that are no more.
    pub(crate) ended: HubStats,
}

/// The places in all channels, for the clients of the daemon before to return to.
#[derive(Debug)]
pub(crate) struct AllPlaces(BTreeMap<ChannelName, (Joining, Places)>);

impl SavedChannels {
    /// What the channels hold and these feeds may still need. No client may be running.
    pub(crate) fn save<'a>(
        channels: &Channels,
        feeds: impl Iterator<Item = &'a Feed>,
    ) -> SavedChannels {
        let mut by_channel: BTreeMap<&ChannelName, Vec<&'a Feed>> = BTreeMap::new();
        for feed in feeds {
            by_channel.entry(&feed.hub.name).or_default().push(feed);
        }
        let save = |hub: Arc<Hub>| {
            let feeds = by_channel.get(&hub.name).into_iter().flatten();
            SavedHub::save(&hub, feeds.copied())
        };
        let (hubs, ended) = channels.hubs_and_ended();
        SavedChannels {
            hubs: hubs.into_iter().map(save).collect(),
            ended,
        }
    }
}

impl SavedChannels {
    /// Channels that go on where the saved ones stopped, still without clients, and the places they
    /// return to. Takes the histories, unless what was saved is out of range.
    pub(crate) fn restore(
        self,
        config: &Config,
        histories: &mut Option<Histories>,
        cluster: Option<Arc<Cluster>>,
    ) -> Result<(Arc<Channels>, AllPlaces), CorruptState> {
        if !self.ended.are_below(NUMBER_MAX) {
            return Err(CorruptState("a number is out of range"));
        }
        let shared = Shared::with(histories.take(), cluster);
        let mut places = BTreeMap::new();
        for saved in self.hubs {
            let (hub, places_in_it) = saved.restore(config, &shared)?;
            let name = hub.name.clone();
            let place = (Joining::new(hub), places_in_it);
            if places.insert(name, place).is_some() {
                return Err(CorruptState("two channels have one name"));
            }
        }
        let hubs = places.iter();
        let hubs = hubs.map(|(name, (hub, _))| (name.clone(), Arc::clone(hub)));
        let channels = Channels::with(config, shared, hubs.collect(), self.ended);
        Ok((channels, AllPlaces(places)))
    }
}

impl AllPlaces {
    /// Makes a client of its channel again, where it was. It has its old number and tells nobody.
    pub(crate) fn restore(&self, saved: SavedFeed) -> Result<Feed, CorruptState> {
        match self.0.get(saved.channel()) {
            Some((hub, places)) => places.restore(hub, saved),
            None => Err(CorruptState("a client is in no channel")),
        }
    }
}
