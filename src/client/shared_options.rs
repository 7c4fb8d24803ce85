//! Options that clients share.

use std::collections::HashSet;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::config::ListenerOptions;
use crate::net::listener::Listener;

/// Options of clients, one value for all whose options are the same.
#[derive(Debug, Default)]
pub(crate) struct SharedOptions(Mutex<HashSet<Arc<ListenerOptions>>>);

impl SharedOptions {
    /// Options of these listeners.
    pub(crate) fn of(listeners: &[Listener]) -> SharedOptions {
        let options = listeners.iter().map(|listener| listener.options().clone());
        SharedOptions(Mutex::new(options.collect()))
    }

    /// The one value for these options.
    pub(super) fn share(&self, options: ListenerOptions) -> Arc<ListenerOptions> {
        let mut known = self.0.lock();
        if let Some(known) = known.get(&options) {
            return known.clone();
        }
        if known.len() == known.capacity() {
            // Instead of growing for those that nobody has any more.
            known.retain(|options| Arc::strong_count(options) > 1);
            let left = known.len();
            known.reserve(left + 1);
        }
        let options = Arc::new(options);
        known.insert(options.clone());
        options
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_options_are_one_value_and_those_that_nobody_has_go() {
        let options = |channel: &str| {
            let text = format!("127.0.0.1:1,format=text,channel={channel}");
            ListenerOptions::restore(&text).unwrap()
        };
        let shared = SharedOptions::default();
        let held = shared.share(options("held"));
        assert!(Arc::ptr_eq(&shared.share(options("held")), &held));
        for at in 0..10_000 {
            drop(shared.share(options(&format!("c{at}"))));
        }
        let known = shared.0.lock().len();
        assert!(known < 100, "{known}");
        assert!(Arc::ptr_eq(&shared.share(options("held")), &held));
    }
}
