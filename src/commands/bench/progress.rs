//! The bar on stderr while a run goes on.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::latency::Latencies;
use super::plan::Run;
use super::units::count;

/// A progress bar. Nobody sees it when stderr is no terminal.
#[derive(Debug)]
pub(super) struct Progress(ProgressBar);

impl Progress {
    /// The bar of a run of this length.
    pub(super) fn new(duration: Duration, hidden: bool) -> Progress {
        let target = if hidden {
            ProgressDrawTarget::hidden()
        } else {
            ProgressDrawTarget::stderr()
        };
        let bar = ProgressBar::with_draw_target(Some(duration.as_millis() as u64), target);
        let style = ProgressStyle::with_template("{bar:30} {percent:>3} %  {wide_msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Progress(bar)
    }

    pub(super) fn say(&self, what: &'static str) {
        self.0.set_message(what);
        self.0.tick();
    }

    /// Shows how much of the run is over, and what was done last.
    pub(super) fn show(&self, at: Duration, run: &Run, latencies: &Latencies) {
        let Some(point) = latencies.points.last().filter(|_| !self.0.is_hidden()) else {
            return;
        };
        let rate = |lines: u64| count(lines as f64 / point.length.as_secs_f64());
        let (sent, delivered) = (rate(point.sent), rate(point.delivered));
        let readers = run.readers;
        self.0.set_message(format!(
            "{sent} lines/s in, {delivered} out to {readers} readers"
        ));
        self.0.set_position(at.as_millis() as u64);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
