//! What to run: read from what was typed, with the mistakes named.

use std::path::PathBuf;
use std::time::Duration;

use super::connections::Role;
use super::hello::Hello;
use super::line::{HEAD_BYTES, SENDERS_MAX};
use crate::config::Address;
use crate::config::cli::{BenchArgs, read_token};
use crate::config::values::{self, SizeRange};
use crate::config::words;
use crate::net::tls_client::TlsConnector;
use crate::wire::format::Format;

/// Connections of one kind. More than one machine has ports for.
const CONNECTIONS_MAX: usize = 100_000;
const RATE_MAX: usize = 100_000_000;

const SIZE: SizeRange = SizeRange {
    least: HEAD_BYTES,
    most: 1 << 20,
    example: "64, 1000 or 64KiB",
    not_off: "a line carries who sent it, its number and when it was due",
};

/// The clock of the latencies turns once in this.
const DURATION_LEAST: Duration = Duration::from_millis(10);
/// Longest run, well within what a line has digits for.
const DURATION_MOST: Duration = Duration::from_secs(12 * 3600);

/// Descriptors that are not connections: standard streams, epoll, the child's log and so on.
const DESCRIPTORS_RESERVED: u64 = 32;

/// What was asked for.
#[derive(Debug)]
pub(super) struct Plan {
    /// The daemon to load. `None`: one of its own.
    pub(super) address: Option<Address>,
    /// What to load, which is asked for in a hello. `None`: whatever the listener's is.
    pub(super) hello: Option<Hello>,
    /// `None` for plain bytes.
    pub(super) tls: Option<TlsConnector>,
    /// What to run, one after another. One without a sweep.
    pub(super) runs: Vec<Run>,
    /// The axis option.
    pub(super) sweep: Option<&'static SweepAxis>,
    pub(super) json: bool,
    pub(super) plot: Option<PathBuf>,
}

/// One run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Connections that send.
    pub senders: usize,
    /// Connections that are checked.
    pub readers: usize,
    /// Bytes of a line without its LF.
    pub size: usize,
    /// Lines a second of all senders together. 0: as fast as the daemon takes them.
    pub rate: usize,
    /// Readers that never read.
    pub stuck: usize,
    /// Sent for this long before anything counts, except what is wrong.
    pub warm_up: Duration,
    /// Sent for this long.
    pub duration: Duration,
    /// `None`: whatever the daemon speaks.
    pub format: Option<Format>,
}

/// An option that can be axis: a number of a run.
#[derive(Debug)]
pub(super) struct SweepAxis {
    pub(super) name: &'static str,
    typed: fn(&BenchArgs) -> Option<&str>,
    read: fn(&str) -> Result<usize, String>,
    field: fn(&mut Run) -> &mut usize,
}

const AXES: [SweepAxis; 5] = [
    SweepAxis {
        name: "senders",
        typed: |args| args.senders.as_deref(),
        read: |text| number(text, 1, CONNECTIONS_MAX.min(SENDERS_MAX)),
        field: |run| &mut run.senders,
    },
    SweepAxis {
        name: "readers",
        typed: |args| args.readers.as_deref(),
        read: |text| number(text, 1, CONNECTIONS_MAX),
        field: |run| &mut run.readers,
    },
    SweepAxis {
        name: "size",
        typed: |args| args.size.as_deref(),
        read: |text| SIZE.read(text),
        field: |run| &mut run.size,
    },
    SweepAxis {
        name: "rate",
        typed: |args| args.rate.as_deref(),
        read: |text| number(text, 0, RATE_MAX),
        field: |run| &mut run.rate,
    },
    SweepAxis {
        name: "stuck",
        typed: |args| args.stuck.as_deref(),
        read: |text| number(text, 0, CONNECTIONS_MAX),
        field: |run| &mut run.stuck,
    },
];

impl Plan {
    /// Reads what was typed. Errors are one line that names the option and what is allowed.
    /// `open_files` is the limit in force.
    pub(super) fn new(args: &BenchArgs, open_files: u64) -> Result<Plan, String> {
        let address = args.address.as_deref().map(str::parse).transpose();
        let address = address.map_err(|error| format!("address: {error}"))?;
        if let Some(Address::Tcp { port: 0, .. }) = address {
            return Err("address: port 0 is nobody's; allowed: 1 to 65535".to_owned());
        }
        let tls = match &address {
            Some(address) => TlsConnector::load(&args.tls, address)?,
            None if args.tls.tls => {
                return Err("--tls: allowed: with the address of a daemon".to_owned());
            }
            None => None,
        };
        let mut run = Run::default();
        for axis in &AXES {
            if let Some(text) = (axis.typed)(args) {
                let wrong = |wrong| format!("--{}: {wrong}", axis.name);
                *(axis.field)(&mut run) = (axis.read)(text).map_err(wrong)?;
            }
        }
        if let Some(text) = &args.duration {
            run.duration = duration(text).map_err(|wrong| format!("--duration: {wrong}"))?;
        }
        if let Some(text) = &args.format {
            let format = words::format(text).map_err(|wrong| format!("--format: {wrong}"))?;
            run.format = Some(format);
        }
        let (sweep, runs) = match &args.sweep {
            None => (None, vec![run]),
            Some(text) => {
                let (axis, runs) = sweep(run, text).map_err(|wrong| format!("--sweep: {wrong}"))?;
                (Some(axis), runs)
            }
        };
        let fit = open_files.saturating_sub(DESCRIPTORS_RESERVED);
        if let Some(run) = runs.iter().find(|run| run.connections() as u64 > fit) {
            let asked = run.connections();
            return Err(format!(
                "--readers, --senders and --stuck: {asked} connections are more than the open-file \
                 limit lets; allowed: {fit} in all"
            ));
        }
        let channel = args.channel.clone();
        let hello = channel.map(|channel| {
            let token = read_token(args.token_file.as_deref())?;
            Ok::<_, String>(Hello { channel, token })
        });
        Ok(Plan {
            address,
            hello: hello.transpose()?,
            tls,
            runs,
            sweep,
            json: args.json,
            plot: args.plot.clone(),
        })
    }
}

impl Run {
    pub(super) fn connections(&self) -> usize {
        self.senders + self.readers + self.stuck
    }

    /// What the connections are for, in the order in which they are made. The sender who speaks first
    /// comes last.
    pub(super) fn roles(&self) -> Vec<Role> {
        let mut roles = vec![Role::Reader(0)];
        roles.extend((0..self.stuck).map(Role::Stuck));
        roles.extend((1..self.readers).map(Role::Reader));
        roles.extend((0..self.senders).rev().map(Role::Sender));
        roles
    }
}

impl Default for Run {
    fn default() -> Run {
        Run {
            senders: 1,
            readers: 100,
            size: 64,
            rate: 0,
            stuck: 0,
            warm_up: Duration::ZERO,
            duration: Duration::from_secs(10),
            format: None,
        }
    }
}

impl SweepAxis {
    /// The axis value of a run.
    pub(super) fn of(&self, run: &Run) -> usize {
        *(self.field)(&mut run.clone())
    }
}

fn number(text: &str, least: usize, most: usize) -> Result<usize, String> {
    let wrong = match values::whole_number(text) {
        Some(number) if (least..=most).contains(&number) => return Ok(number),
        Some(number) if number < least => format!("{text} is too small"),
        _ => values::not_a_number(text),
    };
    Err(format!("{wrong}; allowed: {least} to {most}"))
}

fn duration(text: &str) -> Result<Duration, String> {
    let wrong = match values::duration(text) {
        Ok(None) => format!("'{text}' is no time to measure in"),
        Ok(Some(duration)) if duration < DURATION_LEAST => format!("'{text}' is too short"),
        Ok(Some(duration)) if duration > DURATION_MOST => format!("'{text}' is too long"),
        Ok(Some(duration)) => return Ok(duration),
        Err(wrong) => wrong,
    };
    Err(format!("{wrong}; allowed: 10ms to 12h, such as 10s"))
}

/// The runs of `readers=1,10,100`.
fn sweep(run: Run, text: &str) -> Result<(&'static SweepAxis, Vec<Run>), String> {
    const ALLOWED: &str = "allowed: senders, readers, size, rate or stuck, and its values, such as \
                           readers=1,10,100,1000";
    let Some((name, several)) = text.split_once('=') else {
        return Err(format!("'{text}' has no values; {ALLOWED}"));
    };
    let known = AXES.iter().find(|axis| axis.name == name);
    let axis = known.ok_or_else(|| format!("'{name}' cannot be axis; {ALLOWED}"))?;
    let run_with = |text: &str| {
        let mut run = run;
        *(axis.field)(&mut run) = (axis.read)(text.trim())?;
        Ok(run)
    };
    let runs: Result<Vec<Run>, String> = several.split(',').map(run_with).collect();
    runs.map(|runs| (axis, runs))
        .map_err(|wrong| format!("{name}: {wrong}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(set: impl FnOnce(&mut BenchArgs)) -> Result<Plan, String> {
        let mut args = BenchArgs::default();
        set(&mut args);
        Plan::new(&args, 1024)
    }

    #[test]
    fn nothing_typed_is_one_sender_to_a_hundred_readers_for_ten_seconds() {
        let plan = typed(|_| ()).unwrap();
        let [run] = plan.runs[..] else {
            panic!("{plan:?}")
        };
        assert_eq!(
            (run.senders, run.readers, run.size, run.rate),
            (1, 100, 64, 0)
        );
        assert_eq!((run.stuck, run.duration), (0, Duration::from_secs(10)));
        assert_eq!((plan.address, run.format), (None, None));
    }

    #[test]
    fn sweep_is_a_run_for_each_value() {
        let plan = typed(|args| args.sweep = Some("size=20,64, 1KiB".into())).unwrap();
        let sizes: Vec<usize> = plan.runs.iter().map(|run| run.size).collect();
        assert_eq!(sizes, [20, 64, 1024]);
        assert_eq!(plan.sweep.unwrap().name, "size");
    }

    #[test]
    fn wrong_values_are_refused_with_what_is_allowed() {
        type Set = fn(&mut BenchArgs);
        let cases: [(Set, &str); 12] = [
            (
                |args| args.readers = Some("0".into()),
                "--readers: 0 is too small; allowed: 1 to 100000",
            ),
            (
                |args| args.senders = Some("-1".into()),
                "--senders: '-1' is not a whole number; allowed: 1 to 100000",
            ),
            (
                |args| args.rate = Some("1e9".into()),
                "--rate: '1e9' is not a whole number; allowed: 0 to 100000000",
            ),
            (
                |args| args.stuck = Some("100001".into()),
                "--stuck: 100001 is too large; allowed: 0 to 100000",
            ),
            (
                |args| args.size = Some("19".into()),
                "--size: '19' is too small; allowed: 20 bytes to 1 MiB, such as 64, 1000 or 64KiB",
            ),
            (
                |args| args.duration = Some("off".into()),
                "--duration: 'off' is no time to measure in; allowed: 10ms to 12h, such as 10s",
            ),
            (
                |args| args.duration = Some("10".into()),
                "--duration: '10' has no unit, write 10s or 10ms; allowed: 10ms to 12h, such as 10s",
            ),
            (
                |args| args.format = Some("xml".into()),
                "--format: 'xml' is not a format; allowed: text, json or raw",
            ),
            (
                |args| args.sweep = Some("readers".into()),
                "--sweep: 'readers' has no values; allowed: senders, readers, size, rate or stuck, \
                 and its values, such as readers=1,10,100,1000",
            ),
            (
                |args| args.sweep = Some("readers=1,,2".into()),
                "--sweep: readers: '' is not a whole number; allowed: 1 to 100000",
            ),
            (
                |args| args.address = Some("nowhere".into()),
                "address: 'nowhere' has no port; allowed: HOST:PORT, [IPV6]:PORT or unix:PATH",
            ),
            (
                |args| args.readers = Some("1000".into()),
                "--readers, --senders and --stuck: 1001 connections are more than the open-file \
                 limit lets; allowed: 992 in all",
            ),
        ];
        for (set, expected) in cases {
            assert_eq!(typed(set).unwrap_err(), expected);
        }
    }
}
