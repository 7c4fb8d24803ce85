//! The cases with a history: what it costs who needs none, and what it gives who came late.

use std::env;
use std::path::PathBuf;

use crate::cases::{Case, LOSSLESS, MANY, Plan, Side};
use crate::dialect::Dialect;
use crate::flood::Flood;
use crate::launch::{Launch, Program};
use crate::newcomer::Newcomer;
use crate::peers::Peer;
use crate::publishing::Publishing;
use crate::resume::Resume;

/// What a flood of a few seconds does not fill.
const IN_MEMORY: &[&str] = &["--history", "256MiB"];
const ON_DISK: &[&str] = &["--history", "1GiB"];

/// Lines that a newcomer gets.
const NEWCOMERS_LINES: usize = 1_000_000;

/// Clients that come back at once, and lines that each gets: 1 MiB of them.
const RESUMING: usize = 10_000;
const RESUMED_LINES: usize = 16_132;

/// Readers that stop or crawl.
const SLOW_READERS: usize = 10;

/// Lines that a publisher may have sent before the first is acknowledged, where it does not wait for each.
const PIPELINED: u64 = 1000;

/// The binary of another state of linehub, usually the one before a change.
const BEFORE: &str = "LINEHUB_BENCH_BEFORE";

/// Where a side keeps its history.
#[derive(Clone, Copy, Debug)]
enum Kept {
    Nowhere,
    InMemory,
    OnDisk,
}

impl Kept {
    fn flags(self) -> &'static [&'static str] {
        match self {
            Kept::Nowhere => &[],
            Kept::InMemory => IN_MEMORY,
            Kept::OnDisk => ON_DISK,
        }
    }
}

fn side(program: &Program, kept: Kept, flags: &[&[&str]], plan: Plan) -> Side {
    let flags = [LOSSLESS, kept.flags(), &flags.concat()].concat();
    Side {
        launch: Launch {
            on_disk: matches!(kept, Kept::OnDisk),
            ..Launch::new(program, &flags)
        },
        plan,
    }
}

/// The same, with clients that say hello.
fn with_hello(mut side: Side) -> Side {
    side.launch.hello = true;
    side
}

/// The cases with a history, and those that compare with another state of linehub. `crowd` is how many
/// clients the open-file limit allows.
pub(crate) fn cases(subject: &Program, flood: Flood, many: Flood, crowd: usize) -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |name: &str, subject: Side, against: &'static str, baseline: Side| {
        cases.push(Case {
            name: name.to_owned(),
            subject,
            baseline: Some((against, baseline)),
        });
    };
    if let Some(before) = env::var_os(BEFORE) {
        let before = Program::Linehub(PathBuf::from(before));
        for (name, plan) in [
            ("firehose/100-readers/64-bytes", Plan::Throughput(flood)),
            (MANY, Plan::Throughput(many)),
            ("memory-per-client", Plan::Memory(crowd)),
        ] {
            let [now, before] =
                [subject, &before].map(|program| side(program, Kept::Nowhere, &[], plan));
            add(&format!("before/{name}"), now, "before", before);
        }
    }
    let throughput = Plan::Throughput(flood);
    for (place, kept) in [("memory", Kept::InMemory), ("disk", Kept::OnDisk)] {
        for format in ["text", "raw"] {
            let [with, without] = [kept, Kept::Nowhere]
                .map(|kept| side(subject, kept, &[&["--format", format]], throughput));
            let name = format!("history/{place}/{format}");
            add(&name, with, "no history", without);
        }
    }
    let alone = Plan::Throughput(Flood {
        readers: 1,
        ..flood
    });
    for (place, kept) in [("memory", Kept::InMemory), ("disk", Kept::OnDisk)] {
        for format in ["raw", "json"] {
            let newcomer = Plan::Newcomer(Newcomer {
                format,
                lines: NEWCOMERS_LINES,
            });
            let newcomer = with_hello(side(subject, kept, &[], newcomer));
            let live = side(subject, Kept::Nowhere, &[&["--format", format]], alone);
            let name = format!("history/newcomer/{place}/{format}");
            add(&name, newcomer, "live", live);
        }
    }
    for (peer, against, dialect) in [
        (Peer::Redis, "Redis", Dialect::Redis),
        (Peer::Nats, "NATS", Dialect::Nats),
    ] {
        for publishers in [1, 64] {
            for (how, in_flight) in [("each-acknowledged", 1), ("pipelined", PIPELINED)] {
                let publishing = Publishing {
                    publishers,
                    in_flight,
                };
                let always = ["--history-sync", "always"];
                let plan = Plan::Publishing(publishing, Dialect::Linehub);
                let ours = with_hello(side(subject, Kept::OnDisk, &[&always], plan));
                let theirs = Side {
                    launch: Launch::new(&Program::Peer(peer), &[]),
                    plan: Plan::Publishing(publishing, dialect),
                };
                let name = format!("history/publish-always/{publishers}/{how}");
                add(&name, ours, against, theirs);
            }
        }
    }
    let clients = RESUMING.min(crowd);
    for (place, kept) in [("memory", Kept::InMemory), ("disk", Kept::OnDisk)] {
        let [with, without] = [clients, 0].map(|clients| {
            let plan = Plan::Resume(Resume {
                clients,
                lines: RESUMED_LINES,
            });
            with_hello(side(subject, kept, &[], plan))
        });
        let name = format!("history/resume/{place}/{clients}");
        add(&name, with, "nobody comes", without);
    }
    let catch_up = [
        "--slow-client",
        "catch-up",
        "--slow-grace",
        "100ms",
        "--buffer",
        "8MiB",
    ];
    for (place, kept) in [("memory", Kept::InMemory), ("disk", Kept::OnDisk)] {
        let [with, without] = [SLOW_READERS, 0].map(|slow| {
            let plan = Plan::Throughput(Flood { slow, ..flood });
            let mut side = side(subject, kept, &[], plan);
            // In place of what loses nothing since everybody waits.
            let flags = ["--no-notices", "--worker-threads", "1"].iter();
            let flags = flags.chain(&catch_up).chain(&["--history", "2GiB"]);
            side.launch.flags = flags.map(ToString::to_string).collect();
            side
        });
        let name = format!("history/catch-up/{place}");
        add(&name, with, "no slow readers", without);
    }
    cases
}
