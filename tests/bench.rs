use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use rustix::process::Signal;
use serde_json::Value;

use crate::common::{BINARY, Client, Exit, Program, Server, eventually, run};

/// Runs `linehub bench` with these arguments.
fn bench(args: &[&str]) -> Exit {
    run(&[&["bench"], args].concat(), &[])
}

/// What it reports as JSON, and whether all was good.
#[track_caller]
fn measured(args: &[&str]) -> (Value, i32) {
    let exit = bench(&[args, &["--json"]].concat());
    let report = serde_json::from_str(&exit.stdout);
    let report = report.unwrap_or_else(|e| panic!("{e}: {} {}", exit.stdout, exit.stderr));
    assert_eq!(
        exit.stderr, "",
        "a program reads the report and nobody the bar"
    );
    (report, exit.code.expect("it ends by itself"))
}

fn is_running(pid: &Value) -> bool {
    Path::new(&format!("/proc/{}", pid.as_u64().expect("a pid"))).exists()
}

#[test]
fn own_daemon_delivers_every_line_in_every_format() {
    for format in ["text", "json", "raw"] {
        let load = ["--senders", "2", "--readers", "5", "--duration", "100ms"];
        let (report, code) = measured(&[&load[..], &["--format", format]].concat());
        assert_eq!(code, 0, "{report:#}");
        assert_eq!(report["format"], format);
        assert_eq!(report["own_daemon"], true);
        let check = &report["check"];
        assert_eq!(check["ok"], true);
        for fault in ["lost", "doubled", "cut", "reordered", "skipped"] {
            assert_eq!(check[fault], 0, "{report:#}");
        }
        // Each sender sends one more line, to show where it ends.
        let sent = report["lines_in"].as_u64().unwrap() + 2;
        assert_eq!(check["delivered"].as_u64(), Some(5 * sent));
        assert!(report["daemon"]["memory_peak_bytes"].as_u64() > Some(1_000_000));
        assert!(
            !is_running(&report["daemon"]["pid"]),
            "it ends with the run"
        );
    }
}

#[test]
fn report_for_programs_has_every_figure_with_its_unit() {
    let (report, _) = measured(&["--readers", "2", "--duration", "50ms", "--rate", "1000"]);
    for number in [
        "senders",
        "readers",
        "stuck",
        "size_bytes",
        "rate_lines_per_second",
        "duration_seconds",
        "connects_per_second",
        "lines_in",
        "lines_in_per_second",
        "bytes_in_per_second",
        "lines_out",
        "lines_out_per_second",
        "bytes_out_per_second",
        "load_cpu_percent",
    ] {
        assert!(report[number].is_number(), "{number} in {report:#}");
    }
    for percentile in ["p50", "p90", "p99", "p99_9", "max"] {
        assert!(
            report["latency_microseconds"][percentile].is_number(),
            "{report:#}"
        );
    }
    assert!(report["daemon"]["cpu_percent"].is_number(), "{report:#}");
    assert!(
        report["over_time"][0]["lines_out_per_second"].is_number(),
        "{report:#}"
    );
}

#[test]
fn lines_at_a_rate_are_all_sent_and_all_timed() {
    let args = [
        "--rate",
        "2000",
        "--senders",
        "3",
        "--readers",
        "4",
        "--duration",
        "300ms",
    ];
    let (report, code) = measured(&args);
    assert_eq!(code, 0, "{report:#}");
    let sent = report["lines_in"].as_u64().unwrap();
    assert!(
        (1..=601).contains(&sent),
        "{sent} at 2,000 a second in 0.3 s"
    );
    assert_eq!(
        report["sent_late_microseconds"]["lines"].as_u64(),
        Some(sent + 3)
    );
    let timed = report["latency_microseconds"]["lines"].as_u64();
    assert_eq!(timed, Some(4 * (sent + 3)), "each line at each reader");
}

#[test]
fn given_daemon_is_found_by_its_address_while_others_talk() {
    let dir = tempfile::tempdir().unwrap();
    let unix = format!("unix:{}/sock", dir.path().display());
    let unix = unix + ",format=json";
    let server = Server::start(&["--echo", "--listen=127.0.0.1:0", "--listen", &unix]);
    for (listener, format) in [(0, "text"), (1, "json")] {
        let mut other = Client::connect(&server);
        let address = server.addr(listener).to_string();
        let load = [
            "--readers",
            "3",
            "--size",
            "100",
            "--rate",
            "3000",
            "--duration",
            "200ms",
        ];
        let (report, code) = std::thread::scope(|scope| {
            let run = scope.spawn(|| measured(&[&[&address[..]], &load[..]].concat()));
            // It also reads, at least what it said itself, so that it is not slow.
            while !run.is_finished() {
                other.send_line("something else");
                other.read_line();
            }
            run.join().unwrap()
        });
        assert_eq!(code, 0, "{report:#}");
        assert_eq!(report["format"], format, "as the daemon speaks");
        assert_eq!(report["own_daemon"], false);
        assert_eq!(report["daemon"]["pid"].as_u64(), Some(server.pid().into()));
    }
}

#[test]
fn other_format_than_the_daemon_speaks_is_an_error() {
    let server = Server::start(&["--format", "raw"]);
    let exit = bench(&[&server.addr(0).to_string(), "--format", "json"]);
    assert_eq!(exit.code, Some(1));
    let wanted = format!("json was asked for, but {} speaks raw", server.addr(0));
    assert_eq!(exit.stderr, format!("linehub: --format: {wanted}\n"));
}

#[test]
fn stuck_readers_are_closed_as_slow_and_do_no_harm() {
    // Long enough for readers that wait for a core, and not for the stuck ones.
    let daemon = [("LINEHUB_BUFFER", "64KiB"), ("LINEHUB_SLOW_GRACE", "200ms")];
    let load = [
        "bench",
        "--readers",
        "2",
        "--stuck",
        "3",
        "--duration",
        "2s",
        "--json",
    ];
    // The raw format has no word for it; the daemon's log has.
    let exit = run(&[&load[..], &["--format", "raw"]].concat(), &daemon);
    let report: Value = serde_json::from_str(&exit.stdout).unwrap();
    let closed = report["closed"].as_array().unwrap();
    assert_eq!(
        (closed.len(), &report["stuck_open"]),
        (3, &Value::from(0)),
        "{report:#}"
    );
    for closed in closed {
        assert_eq!(
            (&closed["role"], &closed["reason"]),
            (&"stuck".into(), &"slow".into())
        );
    }
    assert_eq!(exit.code, Some(0), "{report:#}");
}

#[test]
fn stuck_readers_that_miss_nothing_yet_are_not_closed() {
    let exit = bench(&["--readers=1", "--stuck=2", "--rate=100", "--duration=50ms"]);
    assert_eq!(exit.code, Some(0), "{}", exit.stderr);
    let expected = "stuck: 2 of 2 not closed: what waits for them has room\n";
    assert!(exit.stdout.contains(expected), "{}", exit.stdout);
}

#[test]
fn daemon_that_is_full_is_an_error_with_its_own_words() {
    let exit = run(
        &["bench", "--readers", "5"],
        &[("LINEHUB_MAX_CLIENTS", "3")],
    );
    assert_eq!(exit.code, Some(1));
    assert!(
        exit.stderr.ends_with("Error: server full (3 clients)\n"),
        "{}",
        exit.stderr
    );
    assert_eq!(exit.stderr.lines().count(), 1, "{}", exit.stderr);
}

#[test]
fn address_where_nobody_listens_is_an_error() {
    let free = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let exit = bench(&[&free.to_string()]);
    assert_eq!(exit.code, Some(1));
    let wanted = format!("linehub: cannot connect to {free}: Connection refused");
    assert!(exit.stderr.starts_with(&wanted), "{}", exit.stderr);
}

/// What a server does to one line on its way to one client.
#[derive(Clone, Copy, Debug)]
enum Fault {
    None,
    Lose,
    Double,
    Cut,
    Merge,
    Delay,
}

/// The line and the client, both counted from 0, that the fault is for.
const BAD_LINE: u64 = 50;
const BAD_CLIENT: usize = 1;

/// A server that broadcasts raw lines and is not good at it. It ends with the test run.
fn faulty_server(fault: Fault) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let hub: Arc<Mutex<(Vec<TcpStream>, u64)>> = Arc::default();
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let stream = stream.unwrap();
            hub.lock().unwrap().0.push(stream.try_clone().unwrap());
            let hub = Arc::clone(&hub);
            std::thread::spawn(move || {
                for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
                    let (clients, lines) = &mut *hub.lock().unwrap();
                    let others = clients
                        .iter()
                        .enumerate()
                        .filter(|(other, _)| *other != number);
                    let counts = !line.contains(&b'!');
                    for (other, mut client) in others {
                        let at = if counts && other == BAD_CLIENT {
                            *lines
                        } else {
                            u64::MAX
                        };
                        // A client that is gone is no matter.
                        let _ = client.write_all(&spoil(fault, &line, at));
                    }
                    *lines += u64::from(counts);
                }
            });
        }
    });
    address
}

/// What is sent in place of a line. Of a delayed line and the next, the next goes first: both have
/// one length and differ in their first bytes only by what the run wrote there, so that the one kept
/// back is made known through a place of its own.
fn spoil(fault: Fault, line: &[u8], at: u64) -> Vec<u8> {
    static KEPT: Mutex<Vec<u8>> = Mutex::new(Vec::new());
    let whole = [line, b"\n"].concat();
    match (fault, at.wrapping_sub(BAD_LINE)) {
        (Fault::Lose, 0) => Vec::new(),
        (Fault::Double, 0) => whole.repeat(2),
        (Fault::Cut, 0) => [&line[..line.len() - 7], b"\n"].concat(),
        (Fault::Merge, 0) => line.to_vec(),
        (Fault::Delay, 0) => {
            *KEPT.lock().unwrap() = whole;
            Vec::new()
        }
        (Fault::Delay, 1) => [whole, std::mem::take(&mut *KEPT.lock().unwrap())].concat(),
        _ => whole,
    }
}

#[test]
fn fault_of_a_server_is_found_counted_and_makes_the_exit_code_1() {
    for (fault, name, count) in [
        (Fault::None, "lost", 0),
        (Fault::Lose, "lost", 1),
        (Fault::Double, "doubled", 1),
        (Fault::Cut, "cut", 1),
        (Fault::Merge, "cut", 2),
        (Fault::Delay, "reordered", 1),
    ] {
        let address = faulty_server(fault).to_string();
        let load = ["--readers", "3", "--rate", "2000", "--duration", "200ms"];
        let (report, code) = measured(&[&[&address[..]], &load[..]].concat());
        assert_eq!(code, i32::from(count > 0), "{fault:?}: {report:#}");
        for each in ["lost", "doubled", "cut", "reordered", "skipped"] {
            let expected = if each == name { count } else { 0 };
            assert_eq!(report["check"][each], expected, "{fault:?}: {report:#}");
        }
        assert_eq!(report["check"]["ok"], count == 0);
    }
}

#[test]
fn fault_is_said_to_people_too() {
    let address = faulty_server(Fault::Lose).to_string();
    let exit = bench(&[&address, "--readers=2", "--rate=2000", "--duration=100ms"]);
    assert_eq!(exit.code, Some(1));
    assert!(
        exit.stdout.contains("\ncheck: FAILED; 1 lost ("),
        "{}",
        exit.stdout
    );
}

#[test]
fn sweep_prints_a_row_for_each_value() {
    let exit = bench(&["--sweep", "readers=1,3,10", "--duration", "50ms"]);
    assert_eq!(exit.code, Some(0), "{}{}", exit.stdout, exit.stderr);
    let rows: Vec<Vec<&str>> = exit
        .stdout
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    let first: Vec<&str> = rows.iter().map(|row| row[0]).collect();
    assert_eq!(first, ["readers", "1", "3", "10"]);
    assert!(
        rows[1..].iter().all(|row| row.ends_with(&["ok"])),
        "{}",
        exit.stdout
    );

    let (report, _) = measured(&[
        "--sweep",
        "size=20,300",
        "--readers=2",
        "--duration",
        "50ms",
    ]);
    let sizes: Vec<_> = report
        .as_array()
        .unwrap()
        .iter()
        .map(|run| &run["size_bytes"])
        .collect();
    assert_eq!(sizes, [20, 300]);
}

#[test]
fn plot_shows_latency_and_throughput() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("plot.svg");
    let file = path.to_str().unwrap();
    let exit = bench(&[
        "--readers=2",
        "--duration=300ms",
        "--rate=1000",
        "--plot",
        file,
    ]);
    assert_eq!(exit.code, Some(0), "{}", exit.stderr);
    let svg = std::fs::read_to_string(&path).unwrap();
    assert!(
        svg.starts_with("<svg ") && svg.ends_with("</svg>\n"),
        "{svg}"
    );
    for words in ["Latency", "Lines a second", "p50", "p99", "in", "out"] {
        assert!(
            svg.lines().any(|line| line.trim() == words),
            "{words} in {svg}"
        );
    }
    let opened = svg.matches("<text").count();
    assert_eq!(svg.matches("</text>").count(), opened);
    assert!(svg.matches("<polyline").count() >= 4, "{svg}");
}

#[test]
fn plot_that_cannot_be_written_fails_before_the_run() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("none").join("x.svg");
    let begun = std::time::Instant::now();
    for path in [&*missing, dir.path()] {
        let exit = bench(&["--duration=1h", "--plot", path.to_str().unwrap()]);
        assert_eq!((exit.code, exit.stdout.as_str()), (Some(1), ""));
        let wrong = format!("linehub: --plot: {}: ", path.display());
        assert!(exit.stderr.starts_with(&wrong), "{}", exit.stderr);
    }
    assert!(begun.elapsed() < std::time::Duration::from_secs(60));
}

#[test]
fn wrong_values_are_explained_in_one_line() {
    for (args, expected) in [
        (
            &["--readers", "none"][..],
            "--readers: 'none' is not a whole number; allowed: 1 to 100000",
        ),
        (
            &["--size=4"],
            "--size: '4' is too small; allowed: 20 bytes to 1 MiB, such as 64, 1000 or 64KiB",
        ),
        (
            &["--duration=-1s"],
            "--duration: '-1s' is not a duration; allowed: 10ms to 12h, such as 10s",
        ),
        (
            &["2345"],
            "address: '2345' has no host, write 127.0.0.1:2345; allowed: HOST:PORT, [IPV6]:PORT or \
             unix:PATH",
        ),
        (
            &["--reader=1"],
            "--reader: no such option; did you mean --readers?",
        ),
    ] {
        let exit = bench(args);
        assert_eq!((exit.code, exit.stdout.as_str()), (Some(2), ""));
        assert_eq!(exit.stderr, format!("linehub: {expected}\n"));
    }
}

#[test]
fn ctrl_c_ends_it_early_with_a_report() {
    let server = Server::start(&[]);
    let mut witness = Client::connect(&server);
    let mut command = Command::new(BINARY);
    let address = server.addr(0).to_string();
    let load = ["--rate=1000", "--readers=2", "--duration=1h", "--json"];
    let mut program = Program::spawn(command.args(["bench", &address]).args(load));
    // What has a '!' is said before the run begins.
    let is_of_the_run = |line: &String| line.starts_with("Message") && !line.contains('!');
    while !is_of_the_run(&witness.read_line()) {}
    program.signal(Signal::INT);
    let (status, output) = program.wait_end();
    let report: Value = serde_json::from_slice(&output).unwrap();
    assert_eq!(status.code(), Some(0), "{report:#}");
    assert_eq!(report["interrupted"], true);
    assert!(report["lines_in"].as_u64() > Some(0), "{report:#}");
    assert_eq!(report["check"]["ok"], true, "{report:#}");
}

#[test]
fn own_daemon_ends_even_when_its_parent_is_killed() {
    let mut command = Command::new(BINARY);
    let program = Program::spawn(command.args(["bench", "--rate=10", "--duration=1h"]));
    let pid = program.id();
    let mut child = None;
    eventually("it starts a daemon", || {
        let path = format!("/proc/{pid}/task/{pid}/children");
        let children = std::fs::read_to_string(path).unwrap_or_default();
        child = children
            .split_whitespace()
            .next()
            .and_then(|pid| pid.parse::<u64>().ok());
        let status = child.map(|pid| std::fs::read(format!("/proc/{pid}/comm")));
        // Before it has become the daemon, it is a copy of its parent.
        status.is_some_and(|comm| comm.is_ok_and(|comm| comm == b"exe\n"))
    });
    program.signal(Signal::KILL);
    let child = Value::from(child);
    eventually("the daemon ends", || !is_running(&child));
}

#[test]
fn channel_is_loaded_over_a_hello_in_every_format() {
    let server = Server::start(&[
        "--listen=127.0.0.1:0,hello",
        "--listen=127.0.0.1:0,hello,format=json",
        "--listen=127.0.0.1:0,hello,format=raw",
        "--listen=127.0.0.1:0,channel=nmea",
    ]);
    let mut elsewhere = Client::dial(server.addr(0));
    elsewhere.send_line("LINEHUB/1 channel=main");
    elsewhere.read_line();
    let load = [
        "--channel=nmea",
        "--senders=2",
        "--readers=5",
        "--duration=100ms",
    ];
    for (listener, own, format) in [
        (0, &[][..], "text"),
        (1, &[], "json"),
        (2, &[], "raw"),
        // What the listener has otherwise, the hello asks for.
        (0, &["--format=json"], "json"),
        (1, &["--format=raw"], "raw"),
        (2, &["--format=text"], "text"),
    ] {
        let address = server.addr(listener).to_string();
        let (report, code) = measured(&[&[&address[..]], &load[..], own].concat());
        assert_eq!(code, 0, "{report:#}");
        assert_eq!(
            (&report["format"], &report["channel"]),
            (&format.into(), &"nmea".into())
        );
        let sent = report["lines_in"].as_u64().unwrap() + 2;
        assert_eq!(report["check"]["delivered"].as_u64(), Some(5 * sent));
    }
    // None of it is in another channel.
    let mut other = Client::dial(server.addr(0));
    other.send_bytes(b"LINEHUB/1 channel=main\nmarker\n");
    assert!(elsewhere.read_line().starts_with("New client connected: "));
    assert!(elsewhere.read_line().ends_with(": marker"));
}

#[test]
fn own_daemon_has_the_channel_that_is_asked_for() {
    let exit = bench(&["--channel=a", "--readers=2", "--duration=50ms"]);
    assert_eq!(exit.code, Some(0), "{exit:?}");
    let wanted = "\nagainst a daemon of its own, channel a, in text\n";
    assert!(exit.stdout.contains(wanted), "{}", exit.stdout);
}

#[test]
fn listener_that_takes_no_hello_is_an_error_and_gets_one_line_of_it() {
    let server = Server::start(&[]);
    let mut witness = Client::connect(&server);
    let address = server.addr(0).to_string();
    let load = [&address[..], "--channel=a", "--readers=20"];
    let exit = bench(&load);
    assert_eq!((exit.code, exit.stdout.as_str()), (Some(1), ""));
    let wrong = format!(
        "linehub: {address} has not answered the hello: --channel needs a listener with `hello`, as in \
         --listen {address},hello\n"
    );
    assert_eq!(exit.stderr, wrong);
    server.wait_log_count("client disconnected", 2);
    let last = Client::connect(&server);
    let seen = witness.lines_until(&format!("New client connected: {}", last.id()));
    let hellos = seen.iter().filter(|line| line.contains(": LINEHUB/1 "));
    assert_eq!(hellos.count(), 1, "{seen:?}");
}

#[test]
fn channel_that_there_is_none_of_is_an_error_with_the_daemons_words() {
    let server = Server::start(&["--listen=127.0.0.1:0,hello"]);
    let address = server.addr(0).to_string();
    let exit = bench(&[&address, "--channel=a"]);
    assert_eq!(exit.code, Some(1));
    let wanted = "linehub: the daemon refuses the hello: Error: no such channel\n";
    assert_eq!(exit.stderr, wanted);

    // Without a hello it is told what is missing.
    let exit = bench(&[&address, "--readers=2"]);
    assert_eq!(exit.code, Some(1));
    assert!(exit.stderr.contains("Error: hello expected"), "{exit:?}");
}

#[test]
fn hello_that_is_tried_first_takes_no_place_of_the_run() {
    let server = Server::start(&["--listen=127.0.0.1:0,hello", "--max-clients=4"]);
    let address = server.addr(0).to_string();
    let load = ["--channel=main", "--readers=3", "--duration=50ms"];
    let (report, code) = measured(&[&[&address[..]], &load[..]].concat());
    assert_eq!(code, 0, "{report:#}");
}
