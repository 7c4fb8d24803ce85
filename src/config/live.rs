//! The configuration that the daemon goes by, and whoever keeps values of it.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use super::options::Config;

/// The configuration that the daemon goes by, which a reload swaps as a whole. Dereferences to it.
///
/// What is read for every line is kept by the part of the daemon that reads it, in atomics or under the
/// lock that is held anyway. Such a part is made by [`Live::build`], which takes how it follows a
/// reload together with how it is made: neither can be forgotten.
pub(crate) struct Live {
    config: Config,
    followers: Vec<Follower>,
}

/// Has one part of the daemon go by another configuration; must not block.
type Follower = Box<dyn Fn(&Config) + Send + Sync>;

impl Live {
    pub(crate) fn new(config: Config) -> Live {
        Live {
            config,
            followers: Vec::new(),
        }
    }

    /// Makes a part of the daemon of this configuration, and has it go by each later one with `follow`.
    pub(crate) fn build<T: Send + Sync + 'static>(
        &mut self,
        make: impl FnOnce(&Config) -> Arc<T>,
        follow: impl Fn(&T, &Config) + Send + Sync + 'static,
    ) -> Arc<T> {
        let part = make(&self.config);
        let follower = part.clone();
        let follow = move |config: &Config| follow(&follower, config);
        self.followers.push(Box::new(follow));
        part
    }

    /// Has the daemon go by another configuration from now on.
    pub(crate) fn swap(&mut self, config: Config) {
        for follow in &self.followers {
            follow(&config);
        }
        self.config = config;
    }
}

impl Deref for Live {
    type Target = Config;

    fn deref(&self) -> &Config {
        &self.config
    }
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.config.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use super::*;
    use crate::config::raw::Options;

    #[test]
    fn what_is_made_of_the_configuration_follows_each_later_one() {
        let config = |buffer: &str| {
            let options = Options::from_iter([("buffer", vec![buffer.into()])]);
            Config::from_options(&options, 1024).unwrap()
        };
        let mut live = Live::new(config("5000"));
        let part = live.build(
            |config| Arc::new(AtomicUsize::new(config.buffer_bytes)),
            |part, config| part.store(config.buffer_bytes, Relaxed),
        );
        assert_eq!((part.load(Relaxed), live.buffer_bytes), (5000, 5000));
        live.swap(config("6000"));
        assert_eq!((part.load(Relaxed), live.buffer_bytes), (6000, 6000));
    }
}
