//! The watchdog's pings and the status line, which the service manager gets at regular times.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::Duration;
use std::{fmt, io, thread};

use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tracing::error;

use super::Notifier;
use crate::hub::Channels;
use crate::ops::lifecycle::Phase;

/// How often the stats are read. The manager sends each change of the status line to all of D-Bus.
const STATUS_PERIOD: Duration = Duration::from_secs(5);

/// How often the stats are read while draining, which is over in seconds.
const DRAIN_PERIOD: Duration = Duration::from_millis(500);

/// Characters of an error in the status line: the manager takes 4 KiB in all.
const FAILURE_CHARS_MAX: usize = 500;

/// The thread that pings the manager's watchdog, until this is dropped.
#[derive(Debug)]
pub(crate) struct Watchdog {
    _stop: Sender<Infallible>,
}

impl Watchdog {
    /// Starts to ping, twice in the time that the manager allows between two pings, for as long as the
    /// hub is alive.
    ///
    /// Each ping takes the hub's locks, and needs that since the last one lines were published or the
    /// reaper checked the clients. When the hub hangs, or the runtime no longer runs its tasks, the
    /// pings end and the manager ends the daemon. The pings have a thread of their own because under
    /// load a task waits for seconds, and the manager must not end a daemon that is busy.
    ///
    /// # Errors
    /// The system refuses the thread.
    pub(crate) fn start(
        notifier: Arc<Notifier>,
        channels: Arc<Channels>,
        allowed: Duration,
    ) -> io::Result<Watchdog> {
        let (stop, stopped) = mpsc::channel();
        thread::Builder::new()
            .name("linehub-watchdog".to_owned())
            .spawn(move || ping(&notifier, &channels, allowed / 2, &stopped))?;
        Ok(Watchdog { _stop: stop })
    }
}

fn ping(
    notifier: &Notifier,
    channels: &Channels,
    period: Duration,
    stopped: &Receiver<Infallible>,
) {
    let mut last = None;
    let mut alive = true;
    loop {
        let pulse = Some(channels.pulse());
        if pulse != last {
            alive = true;
            notifier.watchdog_blocking();
        } else if alive {
            alive = false;
            error!(
                ?period,
                "the hub does nothing any more: no beat for the watchdog"
            );
        }
        last = pulse;
        // Nothing is ever sent: anything but a timeout is the drop of the `Watchdog`.
        if stopped.recv_timeout(period) != Err(RecvTimeoutError::Timeout) {
            return;
        }
    }
}

/// Keeps the manager's status line up to date. A line is sent only when it changed.
pub(crate) async fn report(
    notifier: Arc<Notifier>,
    channels: Arc<Channels>,
    mut phase: watch::Receiver<Phase>,
    mut failure: watch::Receiver<Option<Failure>>,
) {
    let mut last = (Instant::now(), channels.stats());
    let mut said = String::new();
    loop {
        let now = (Instant::now(), channels.stats());
        let phase_now = *phase.borrow_and_update();
        let status = Status {
            failure: failure.borrow_and_update().clone(),
            away: channels.cluster_stats().and_then(|cluster| cluster.away()),
            phase: phase_now,
            clients: match phase_now {
                Phase::Draining => now.1.connections,
                _ => now.1.clients,
            },
            lines_in: rate(
                last.1.totals.lines_in,
                now.1.totals.lines_in,
                now.0 - last.0,
            ),
            lines_out: rate(
                last.1.totals.lines_out,
                now.1.totals.lines_out,
                now.0 - last.0,
            ),
        };
        last = now;
        let text = status.to_string();
        if text != said {
            notifier.status(&text).await;
            said = text;
        }
        let period = match status.phase {
            Phase::Draining => DRAIN_PERIOD,
            _ => STATUS_PERIOD,
        };
        // Cancelled by the timeout, no change is lost: the next turn reads the latest values. An error
        // says that the sender is gone, and the daemon is about to end.
        let changed = async {
            tokio::select! {
                changed = phase.changed() => changed,
                changed = failure.changed() => changed,
            }
        };
        if let Ok(Err(_)) = timeout(period, changed).await {
            return;
        }
    }
}

/// Increase of a total per second, rounded.
fn rate(before: u64, now: u64, time: Duration) -> u64 {
    let seconds = time.as_secs_f64();
    if seconds < 0.001 {
        return 0;
    }
    (now.saturating_sub(before) as f64 / seconds).round() as u64
}

/// Why the last reload failed, in words for the status line.
#[derive(Clone, Debug)]
pub(crate) struct Failure(Arc<str>);

impl Failure {
    pub(crate) fn new(error: &anyhow::Error) -> Failure {
        Failure(one_line(&format!("reload failed: {error:#}")).into())
    }

    pub(crate) fn words(&self) -> &str {
        &self.0
    }
}

/// As much of a text as the status line has room for.
fn one_line(text: &str) -> String {
    let words = text.chars().take(FAILURE_CHARS_MAX);
    // A line end would begin another variable.
    words
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

/// The status line.
#[derive(Clone, Debug)]
struct Status {
    failure: Option<Failure>,
    /// Why nothing goes through the channels that other daemons share.
    away: Option<String>,
    phase: Phase,
    clients: usize,
    /// Lines a second from clients and to clients.
    lines_in: u64,
    lines_out: u64,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let clients = match self.clients {
            1 => "1 client".to_owned(),
            several => format!("{several} clients"),
        };
        match self.phase {
            Phase::Draining => write!(f, "draining, {clients} left"),
            Phase::Starting | Phase::Running | Phase::Reloading | Phase::HandingOver => {
                if let Some(failure) = &self.failure {
                    write!(f, "{}; ", failure.words())?;
                }
                if let Some(away) = &self.away {
                    write!(f, "{}; ", one_line(away))?;
                }
                write!(
                    f,
                    "{clients}, {} lines/s in, {} lines/s out",
                    self.lines_in, self.lines_out
                )
            }
            Phase::Stopped => f.write_str("stopped"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;
    use crate::config::Config;
    use crate::config::cli::Options;
    use crate::hub::ConnectionInfo;
    use crate::wire::format::Format;

    #[tokio::test]
    async fn hub_that_does_nothing_any_more_is_not_vouched_for() {
        const PERIOD: Duration = Duration::from_millis(1);
        // Of many beats that would be due in it, none comes.
        const SILENCE: Duration = Duration::from_millis(50);

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        manager.set_read_timeout(Some(SILENCE)).unwrap();
        let mut message = [0; 64];
        let mut beats = || manager.recv(&mut message).is_ok();

        let config = Config::from_options(&Options::default(), 1024).unwrap();
        let channels = Channels::new(&config);
        let notifier = Arc::new(Notifier::new(Some(path.as_os_str())));
        // Its reaper does not run.
        let _watchdog = Watchdog::start(notifier, channels.clone(), 2 * PERIOD).unwrap();
        while beats() {}
        let _feed = channels.main().join(ConnectionInfo::test(Format::Text));
        manager.set_read_timeout(None).unwrap();
        assert!(beats(), "a notice was published");
    }

    #[test]
    fn status_says_who_is_there_and_what_goes_through() {
        let status = |phase, clients| {
            let status = Status {
                failure: None,
                away: None,
                phase,
                clients,
                lines_in: 3400,
                lines_out: 68_000,
            };
            let away = Some("NATS is away: refused\nSTATUS=".to_owned());
            let (there, away) = (status.to_string(), Status { away, ..status }.to_string());
            if phase == Phase::Running {
                assert_eq!(away, format!("NATS is away: refused STATUS=; {there}"));
            }
            there
        };
        assert_eq!(
            status(Phase::Running, 12),
            "12 clients, 3400 lines/s in, 68000 lines/s out"
        );
        assert_eq!(
            status(Phase::Running, 1),
            "1 client, 3400 lines/s in, 68000 lines/s out"
        );
        assert_eq!(status(Phase::Draining, 12), "draining, 12 clients left");
        assert_eq!(status(Phase::Draining, 1), "draining, 1 client left");
    }

    #[test]
    fn rate_is_a_second_and_rounded() {
        assert_eq!(rate(100, 350, Duration::from_millis(500)), 500);
        assert_eq!(rate(0, 2, Duration::from_secs(3)), 1);
        assert_eq!(rate(5, 5, Duration::from_secs(5)), 0);
        assert_eq!(rate(0, 7, Duration::ZERO), 0, "no time has passed");
        assert_eq!(rate(7, 0, Duration::from_secs(1)), 0);
    }
}
