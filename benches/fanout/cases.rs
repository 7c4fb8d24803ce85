//! The list of cases, and how each is run once.

use anyhow::{Context as _, Result, bail, ensure};
use linehub::commands::bench::{self, Run};

use crate::channels::Channels;
use crate::cluster::{self, Cluster};
use crate::dialect::Dialect;
use crate::flood::Flood;
use crate::launch::{Busy, Cores, Launch, Program, Server};
use crate::newcomer::Newcomer;
use crate::peers::Peer;
use crate::publishing::Publishing;
use crate::resume::Resume;
use crate::settings::Settings;
use crate::table::Unit;
use crate::tls::Front;
use crate::watch::Watchers;
use crate::web::{self, Web};
use crate::{history, raw_loop, storms, tls};

/// Bytes of a line without its LF, where lines are sent at a rate.
const PAYLOAD_BYTES: usize = 64;

/// What is done to a server.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Plan {
    /// Lines delivered a second.
    Throughput(Flood),
    /// Bytes of lines delivered a second, over TLS.
    TlsThroughput(Flood),
    /// Bytes a second that a core encrypts, without any server.
    Cipher,
    /// TLS handshakes a second that one core would do.
    Handshakes(usize),
    /// Lines delivered a second while the status page is open and the metrics are read.
    WatchedThroughput(Flood),
    /// CPU time a delivered line of a flood.
    FloodCost(Flood),
    /// CPU time a line delivered to each of many readers, at a rate that leaves the server mostly
    /// idle.
    SteadyCost(Run),
    /// How long lines take from when they are due, at a rate of all senders together. A line that the
    /// server held up counts from when it should have gone.
    Latency(Run),
    OneLine(usize),
    Memory(usize),
    ConnectStorm(usize),
    NoticeStorm(usize),
    /// Resident bytes a client, and lines delivered a second.
    Channels(Channels),
    /// Lines of history a second that a newcomer gets.
    Newcomer(Newcomer),
    /// Lines a second that are published and acknowledged.
    Publishing(Publishing, Dialect),
    /// How late lines reach live readers while others come back.
    Resume(Resume),
    /// Lines delivered a second to who comes by HTTP.
    Web(Web),
    /// Lines delivered a second over several daemons, or how long they take.
    Cluster(Cluster),
}

/// One number of one run. A plan yields the same figures in the same order every time.
pub(crate) struct Figure {
    /// Follows the case's name when a plan has several figures.
    pub suffix: &'static str,
    pub unit: Unit,
    pub value: f64,
    /// Bytes of a delivered line, in floods.
    pub line_bytes: Option<f64>,
    /// Use of the cores, where it tells whether the server was the limit.
    pub busy: Option<Busy>,
}

/// One server and what is done to it.
#[derive(Clone, Debug)]
pub(crate) struct Side {
    pub launch: Launch,
    pub plan: Plan,
}

impl Side {
    /// Starts the server, measures, ends the server.
    pub(crate) fn run(&self, cores: &Cores, settings: &Settings) -> Result<Vec<Figure>> {
        if let Plan::Cipher = self.plan {
            let speed = tls::cipher_speed(cores, settings)?;
            return Ok(vec![Figure::new("", Unit::BytesPerSecond, speed)]);
        }
        if let Plan::Cluster(cluster) = self.plan {
            return cluster.run(&self.launch, cores, settings);
        }
        let mut server = self.launch.start(cores)?;
        self.plan
            .run(&mut server, settings, self.launch.frames_lines())
    }
}

impl Figure {
    pub(crate) fn new(suffix: &'static str, unit: Unit, value: f64) -> Figure {
        Figure {
            suffix,
            unit,
            value,
            line_bytes: None,
            busy: None,
        }
    }

    pub(crate) fn seconds(suffix: &'static str, value: f64) -> Figure {
        Figure::new(suffix, Unit::Seconds, value)
    }

    pub(crate) fn while_busy(self, busy: Busy) -> Figure {
        Figure {
            busy: Some(busy),
            ..self
        }
    }
}

impl Plan {
    fn run(&self, server: &mut Server, settings: &Settings, framed: bool) -> Result<Vec<Figure>> {
        Ok(match *self {
            Plan::WatchedThroughput(flood) => {
                let watchers = Watchers::start(server.admin()?)?;
                let figures = Plan::Throughput(flood).run(server, settings, framed)?;
                watchers.finish()?;
                figures
            }
            Plan::Throughput(flood) => {
                let figures = flood.run(server, settings, framed)?;
                let rate = Figure::new("", Unit::LinesPerSecond, figures.lines_per_second);
                vec![Figure {
                    line_bytes: Some(figures.line_bytes),
                    ..rate.while_busy(figures.busy)
                }]
            }
            Plan::TlsThroughput(flood) => {
                let figures = flood.run(server, settings, framed)?;
                let rate = figures.lines_per_second * figures.line_bytes;
                let figure = Figure::new("", Unit::BytesPerSecond, rate);
                vec![figure.while_busy(figures.busy)]
            }
            Plan::Cipher => bail!("it needs no server"),
            Plan::Cluster(_) => bail!("it needs more than one server"),
            Plan::Handshakes(clients) => {
                let (rate, busy) = storms::handshakes(server, clients)?;
                let figure = Figure::new("", Unit::HandshakesPerSecond, rate);
                vec![figure.while_busy(busy)]
            }
            Plan::FloodCost(flood) => {
                let figures = flood.run(server, settings, framed)?;
                vec![Figure::seconds("", figures.cpu_per_line).while_busy(figures.busy)]
            }
            Plan::SteadyCost(mut run) => {
                run.duration = settings.steady;
                let (outcome, busy) = load(&run, server)?;
                let cpu = busy.server.as_secs_f64() / outcome.received as f64;
                vec![Figure::seconds("", cpu).while_busy(busy)]
            }
            Plan::Latency(mut run) => {
                (run.warm_up, run.duration) = (settings.warm_up, settings.window);
                let (outcome, busy) = load(&run, server)?;
                let percentiles = [("/p50", 50.0), ("/p99", 99.0), ("/p99.9", 99.9)];
                let figures = percentiles.iter().map(|(suffix, percent)| {
                    let latency = outcome.latency(*percent).context("nothing arrived")?;
                    Ok(Figure::seconds(suffix, latency.as_secs_f64()).while_busy(busy))
                });
                figures.collect::<Result<_>>()?
            }
            Plan::OneLine(clients) => {
                let median = storms::one_line(server, clients, settings.repetitions)?;
                vec![Figure::seconds("", median)]
            }
            Plan::Memory(clients) => {
                let bytes = storms::memory(server, clients)?;
                vec![Figure::new("", Unit::Bytes, bytes)]
            }
            Plan::ConnectStorm(clients) => {
                vec![Figure::seconds("", storms::connect_storm(server, clients)?)]
            }
            Plan::Channels(channels) => {
                let figures = channels.run(server, settings)?;
                let rate = Figure::new("/lines", Unit::LinesPerSecond, figures.lines_per_second);
                vec![
                    Figure::new("/memory-per-client", Unit::Bytes, figures.bytes_per_client),
                    rate.while_busy(figures.busy),
                ]
            }
            Plan::Newcomer(newcomer) => {
                let figures = newcomer.run(server, settings)?;
                let rate = Figure::new("", Unit::LinesPerSecond, figures.lines_per_second);
                vec![rate.while_busy(figures.busy)]
            }
            Plan::Web(web) => {
                let figures = web.run(server, settings)?;
                let rate = Figure::new("", Unit::LinesPerSecond, figures.lines_per_second);
                vec![rate.while_busy(figures.busy)]
            }
            Plan::Publishing(publishing, dialect) => {
                let figures = publishing.run(server, dialect, settings)?;
                let rate = Figure::new("", Unit::LinesPerSecond, figures.lines_per_second);
                vec![rate.while_busy(figures.busy)]
            }
            Plan::Resume(resume) => {
                let figures = resume.run(server, settings)?;
                let percentiles = [("/p50", 50.0), ("/p99", 99.0)].iter();
                let latencies = percentiles.map(|(suffix, percent)| {
                    let latency = figures.latency.percentile(*percent);
                    let latency = latency.context("nothing arrived")?;
                    Ok(Figure::seconds(suffix, latency.as_secs_f64()).while_busy(figures.busy))
                });
                let all =
                    (resume.clients > 0).then(|| Ok(Figure::seconds("/all", figures.resumed)));
                latencies.chain(all).collect::<Result<_>>()?
            }
            Plan::NoticeStorm(clients) => {
                let figures = storms::notice_storm(server, clients)?;
                vec![
                    Figure::seconds("/time", figures.seconds),
                    Figure::seconds("/half-leave", figures.leave_seconds),
                    Figure::new("/peak-memory", Unit::Bytes, figures.resident_bytes_max),
                ]
            }
        })
    }
}

/// Runs `linehub bench`'s load, which compares every byte that readers get, against a server.
fn load(run: &Run, server: &Server) -> Result<(bench::Outcome, Busy)> {
    let outcome = bench::load(run, server.address())?;
    ensure!(outcome.is_good(), "{}", bench::verdict(&outcome));
    let cpu = outcome.daemon.context("the server is gone")?.cpu;
    let elapsed = outcome.elapsed;
    let busy = Busy {
        elapsed,
        server: elapsed.mul_f64(cpu),
        load: elapsed.mul_f64(outcome.load_cpu.unwrap_or_default()),
    };
    Ok((outcome, busy))
}

/// A line of the table, or a few.
pub(crate) struct Case {
    pub name: String,
    pub subject: Side,
    /// What it is compared with, and its name.
    pub baseline: Option<(&'static str, Side)>,
}

impl Case {
    /// The program that it needs and that is not installed.
    pub(crate) fn missing(&self) -> Option<&'static str> {
        match self.subject.plan {
            Plan::Cluster(_) if Peer::Nats.path().is_none() => return Some(Peer::Nats.program()),
            _ => {}
        }
        match self.baseline.as_ref()?.1.launch.program {
            Program::Peer(peer) if peer.path().is_none() => Some(peer.program()),
            _ => None,
        }
    }
}

const RAW_LOOP: &str = "raw loop";

/// Clients in all of the case with channels, and in each of many.
const CHANNEL_CLIENTS: usize = 10_000;
const CLIENTS_A_CHANNEL: usize = 10;

pub(crate) const MANY: &str = "many-to-many/500x500";

/// Clients that only connect, over TLS.
const TLS_CLIENTS: usize = 2000;

/// Loses nothing, however slow the load is to read: the terms on which the raw loop works too.
pub(crate) const LOSSLESS: &[&str] = &[
    "--no-notices",
    "--slow-grace",
    "forever",
    "--worker-threads",
    "1",
];

/// All cases. `subject` is what stands in the linehub column; `crowd` how many clients the
/// open-file limit allows for the cases with many.
pub(crate) fn all(subject: &Program, crowd: usize) -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |name: &str, subject: Side, against: &'static str, baseline: Side| {
        cases.push(Case {
            name: name.to_owned(),
            subject,
            baseline: Some((against, baseline)),
        });
    };
    let side = |program: &Program, flags: &[&str], plan| Side {
        launch: Launch::new(program, flags),
        plan,
    };
    let read_bytes = raw_loop::READ_BYTES;
    let raw_loop = |plan| side(&Program::RawLoop { read_bytes }, &[], plan);
    let linehub = |flags: &[&[&str]], plan| side(subject, &flags.concat(), plan);
    let flood = |readers, payload_bytes| Flood {
        senders: 1,
        readers,
        payload_bytes,
        stuck: false,
        slow: 0,
        blind: false,
    };

    let mut plans = Vec::new();
    for (readers, sizes) in [
        (1, &[16, 64, 1024][..]),
        (100, &[16, 20, 64, 1024]),
        (1000, &[16, 64, 1024]),
    ] {
        for &size in sizes {
            let name = format!("firehose/{readers}-readers/{size}-bytes");
            plans.push((name, Plan::Throughput(flood(readers, size))));
        }
    }
    let many = Flood {
        senders: 500,
        ..flood(500, 64)
    };
    plans.push((MANY.into(), Plan::Throughput(many)));
    let at_rate = |senders, readers, rate| Run {
        senders,
        readers,
        rate,
        size: PAYLOAD_BYTES,
        ..Run::default()
    };
    let plan = Plan::SteadyCost(at_rate(1, 1000, 200));
    plans.push(("steady/cpu-per-line".into(), plan));
    for rate in [1_000, 10_000] {
        let plan = Plan::Latency(at_rate(10, 100, rate));
        plans.push((format!("latency/{rate}-per-s"), plan));
    }
    let clients = crowd;
    for (name, plan) in [
        ("one-line", Plan::OneLine(clients)),
        ("memory-per-client", Plan::Memory(clients)),
        ("connect-storm", Plan::ConnectStorm(clients)),
    ] {
        plans.push((format!("{name}/{clients}"), plan));
    }
    for (name, plan) in plans {
        add(&name, linehub(&[LOSSLESS], plan), RAW_LOOP, raw_loop(plan));
    }
    let plan = Plan::Throughput(flood(100, 64));
    let read_bytes = 4 * read_bytes;
    let reads_more = side(&Program::RawLoop { read_bytes }, &[], plan);
    add(
        "raw-loop/256-KiB-reads",
        reads_more,
        RAW_LOOP,
        raw_loop(plan),
    );
    if !matches!(subject, Program::Linehub(_)) {
        return cases;
    }

    let free = Plan::Throughput(flood(100, 64));
    let lossless = || linehub(&[LOSSLESS], free);
    let evict = ["--no-notices", "--slow-grace", "0", "--worker-threads", "1"];
    let stuck = Plan::Throughput(Flood {
        stuck: true,
        ..flood(100, 64)
    });
    let (stuck, without) = (linehub(&[&evict], stuck), linehub(&[&evict], free));
    add("stuck-reader", stuck, "no stuck reader", without);
    for (name, format) in [("format/raw", "raw"), ("format/json", "json")] {
        let side = linehub(&[LOSSLESS, &["--format", format]], free);
        add(name, side, "text", lossless());
    }
    for (name, plan) in [
        ("admin/open", free),
        ("admin/watched", Plan::WatchedThroughput(flood(100, 64))),
    ] {
        let side = linehub(&[LOSSLESS, &["--admin", "127.0.0.1:0"]], plan);
        add(name, side, "no admin", lossless());
    }
    let unpinned = |workers| {
        // Their number comes last.
        let flags = [&LOSSLESS[..LOSSLESS.len() - 1], &[workers]];
        let mut side = linehub(&flags, Plan::FloodCost(flood(100, 64)));
        side.launch.pinned = false;
        side
    };
    add(
        "two-workers/cpu-per-line",
        unpinned("2"),
        "one worker",
        unpinned("1"),
    );
    let clients_in_channels = clients.min(CHANNEL_CLIENTS);
    let channels = |channels: usize| {
        let open_channels = channels.to_string();
        let flags = [LOSSLESS, &["--open-channels", &open_channels]];
        let plan = Plan::Channels(Channels {
            channels,
            clients_each: clients_in_channels / channels,
        });
        let mut side = linehub(&flags, plan);
        side.launch.hello = true;
        side
    };
    let count = clients_in_channels / CLIENTS_A_CHANNEL;
    add(
        &format!("channels/{count}x{CLIENTS_A_CHANNEL}"),
        channels(count),
        "one channel",
        channels(1),
    );
    let over_tls = |front: Option<Front>, plan| {
        let mut side = linehub(&[LOSSLESS], plan);
        (side.launch.tls, side.launch.front) = (true, front);
        side
    };
    for (name, flood) in [
        ("firehose/100-readers/64-bytes", flood(100, 64)),
        (MANY, many),
    ] {
        let blind = Plan::TlsThroughput(Flood {
            blind: true,
            ..flood
        });
        let subject = || over_tls(None, blind);
        let name = format!("tls/{name}");
        add(
            &name,
            subject(),
            "openssl speed",
            over_tls(None, Plan::Cipher),
        );
        for (against, front) in [("stunnel", Front::Stunnel), ("nginx", Front::Nginx)] {
            add(&name, subject(), against, over_tls(Some(front), blind));
        }
        let (checked, plain) = (
            Plan::Throughput(flood),
            linehub(&[LOSSLESS], Plan::Throughput(flood)),
        );
        add(
            &format!("{name}/decrypted"),
            over_tls(None, checked),
            "plain",
            plain,
        );
    }
    let tls_clients = clients.min(TLS_CLIENTS);
    let plan = Plan::Memory(tls_clients);
    let name = format!("tls/memory-per-client/{tls_clients}");
    add(
        &name,
        over_tls(None, plan),
        "plain",
        linehub(&[LOSSLESS], plan),
    );
    let name = format!("tls/handshakes/{tls_clients}");
    let (ours, theirs) = [None, Some(Front::Nginx)]
        .map(|front| over_tls(front, Plan::Handshakes(tls_clients)))
        .into();
    add(&name, ours, "nginx", theirs);
    let notices = ["--slow-grace", "forever", "--worker-threads", "1"];
    let notices = linehub(&[&notices], Plan::NoticeStorm(clients));
    cases.push(Case {
        name: format!("notice-storm/{clients}"),
        subject: notices,
        baseline: None,
    });
    cases.extend(web::cases(subject, LOSSLESS, 100));
    cases.extend(cluster::cases(subject));
    cases.extend(history::cases(subject, flood(100, 64), many, crowd));
    cases
}
