//! How much is measured.

use std::time::Duration;

/// How long and how often to measure.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Runs of each side of a case; they alternate.
    pub runs: usize,
    /// Time before the figures count.
    pub warm_up: Duration,
    /// Time while they count.
    pub window: Duration,
    /// Window of the steady case, which is mostly idle and needs longer.
    pub steady: Duration,
    /// How often one line is sent to an idle crowd.
    pub repetitions: usize,
}

impl Settings {
    /// Settings for figures to rely on.
    pub(crate) const THOROUGH: Settings = Settings {
        runs: 3,
        warm_up: Duration::from_millis(500),
        window: Duration::from_secs(2),
        steady: Duration::from_secs(10),
        repetitions: 30,
    };

    /// Settings for a first look.
    pub(crate) const QUICK: Settings = Settings {
        runs: 1,
        warm_up: Duration::from_millis(200),
        window: Duration::from_millis(500),
        steady: Duration::from_millis(2500),
        repetitions: 5,
    };
}
