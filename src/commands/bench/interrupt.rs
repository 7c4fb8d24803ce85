//! Ctrl-C and SIGTERM, which end a run early.

use anyhow::{Result, bail};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// Ctrl-C and SIGTERM. They end nothing by themselves any more.
#[derive(Debug)]
pub struct Interrupt {
    /// `None`: they end the process as ever.
    signals: Option<SignalFd>,
    count: u32,
}

impl Interrupt {
    /// Blocks both signals, also for threads that are started afterwards; hence the first thing to do.
    pub(super) fn new() -> Result<Interrupt> {
        let mut signals = SigSet::empty();
        signals.add(Signal::SIGINT);
        signals.add(Signal::SIGTERM);
        signals.thread_block()?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        Ok(Interrupt {
            signals: Some(SignalFd::with_flags(&signals, flags)?),
            count: 0,
        })
    }

    /// An interrupt that never comes: the signals end the process as ever.
    pub fn never() -> Interrupt {
        Interrupt {
            signals: None,
            count: 0,
        }
    }

    /// What becomes readable when one comes.
    pub(super) fn signals(&self) -> Option<&SignalFd> {
        self.signals.as_ref()
    }

    /// How often it was asked to end.
    pub(super) fn count(&mut self) -> u32 {
        while let Some(Ok(Some(_))) = self.signals.as_ref().map(SignalFd::read_signal) {
            self.count += 1;
        }
        self.count
    }

    /// Fails if it was asked to end before there is anything to report.
    pub(super) fn check(&mut self) -> Result<()> {
        if self.count() > 0 {
            bail!("interrupted before anything was measured");
        }
        Ok(())
    }
}
