//! Daemons that end in order: restarts and handovers, and directories that cannot be had.

use std::time::{Duration, SystemTime};

use super::{Event, Events, Home, Traffic};
use crate::common::{Launch, Manager, PATIENCE, exec, restart};

/// Enough to be read in many turns, while the daemon is replaced several times.
const LINES: u64 = 40_000;

/// Sends `LINES` numbered lines, and returns when they are stored.
fn fill(home: &Home) {
    let mut sender = Events::join(&home.address(), "role=publish session=fill ack");
    let lines: String = (1..=LINES).map(line).collect();
    let mut stream = sender.stream();
    let sent = std::thread::spawn(move || std::io::Write::write_all(&mut stream, lines.as_bytes()));
    while sender.next() != Event::Ack(LINES) {}
    sent.join().expect("no panic").expect("all is taken");
}

fn line(n: u64) -> String {
    format!("{n} {}\n", "x".repeat(100))
}

/// Reads what [`fill`] sent, slowly enough to see all that is done meanwhile.
fn read_slowly(home: &Home, meanwhile: impl FnMut()) {
    let mut meanwhile = meanwhile;
    let mut reader = Events::join(&home.address(), "history=1GiB");
    assert_eq!(reader.seq(), 0);
    for n in 1..=LINES {
        if n % (LINES / 5) == LINES / 10 {
            meanwhile();
        }
        assert_eq!(reader.message(), (n, line(n).trim_end().to_owned()));
    }
}

#[test]
fn restarts_lose_nothing() {
    let home = Home::new(&[
        "--history=1GiB",
        "--slow-grace=off",
        "--drain-timeout=200ms",
    ]);
    let mut server = home.start();
    let traffic = Traffic::start(&home);
    for _ in 0..5 {
        std::thread::sleep(Duration::from_millis(50));
        server.stop();
        server = home.start();
    }
    traffic.finish(&home);
    server.stop();
}

#[test]
fn files_of_the_future_are_gone_on_with() {
    let home = Home::new(&["--history=1MiB", "--history-age=1h"]);
    let mut server = home.start();
    let mut sender = Events::join(&home.address(), "role=publish session=s ack");
    let epoch = sender.epoch().to_owned();
    sender.send("one");
    assert_eq!(sender.next(), Event::Ack(1));
    server.stop();
    for segment in home.segments("main") {
        let file = std::fs::File::options().write(true).open(segment).unwrap();
        file.set_modified(SystemTime::now() + Duration::from_secs(1 << 30))
            .unwrap();
    }
    let _server = home.start();
    let mut reader = Events::join(&home.address(), &format!("since={epoch}:0"));
    assert_eq!(reader.hello["recovered"], true);
    assert_eq!(reader.message(), (1, "one".to_owned()));
}

#[test]
fn handovers_by_exec_lose_nothing() {
    let home = Home::new(&["--history=1GiB", "--slow-grace=off"]);
    let mut server = home.start();
    let traffic = Traffic::start(&home);
    for _ in 0..5 {
        std::thread::sleep(Duration::from_millis(50));
        exec(&server);
    }
    traffic.finish(&home);
    server.stop();
}

#[test]
fn slow_newcomer_reads_on_through_handovers_by_exec() {
    let home = Home::new(&["--history=1GiB"]);
    let server = home.start();
    fill(&home);
    read_slowly(&home, || exec(&server));
}

#[test]
fn slow_newcomer_reads_on_through_restarts_by_the_service_manager() {
    let manager = Manager::keeping();
    let home = Home::new(&["--history=1GiB"]);
    let args = home.args();
    let mut server = Some(manager.launch(&args).start());
    fill(&home);
    read_slowly(&home, || {
        server = server.take().map(|server| restart(&manager, server, &args));
    });
}

#[test]
fn restarts_by_the_service_manager_lose_nothing() {
    let manager = Manager::keeping();
    let home = Home::new(&["--history=1GiB", "--slow-grace=off"]);
    let args = home.args();
    let mut server = manager.launch(&args).start();
    let traffic = Traffic::start(&home);
    for _ in 0..5 {
        std::thread::sleep(Duration::from_millis(50));
        server = restart(&manager, server, &args);
    }
    traffic.finish(&home);
}

#[test]
fn directory_has_one_daemon_at_a_time() {
    let home = Home::new(&["--history=1MiB"]);
    let server = home.start();
    let histories = format!("--history-dir={}", home.histories().display());
    let exit = Launch::new(&["--listen=127.0.0.1:0", "--history=1MiB", &histories]).run();
    assert_eq!(exit.code, Some(1), "{exit:?}");
    let directory = home.histories();
    let reason = format!(
        "linehub: {} is in use by another linehub (process {})\n",
        directory.display(),
        server.pid()
    );
    assert_eq!(exit.stderr, reason);
    // The first has not noticed.
    let mut sender = Events::join(&home.address(), "session=s ack");
    sender.send("one");
    assert_eq!(sender.next(), Event::Ack(1));
}

#[test]
fn directory_inside_of_another_is_refused_and_left_alone() {
    let home = Home::new(&["--history=1MiB"]);
    let mut server = home.start();
    let (outer, main) = (home.histories(), home.histories().join("main"));
    #[track_caller]
    fn refused(directory: &std::path::Path, what: &str) {
        let histories = format!("--history-dir={}", directory.display());
        let exit = Launch::new(&["--listen=127.0.0.1:0", "--history=1MiB", &histories]).run();
        assert_eq!(exit.code, Some(1), "{exit:?}");
        let reason = format!("linehub: --history-dir: {} {what}\n", directory.display());
        assert_eq!(exit.stderr, reason);
        assert!(!directory.join("@lock").exists());
    }
    let outer_name = outer.display();
    let folder =
        format!("is the folder of one channel, with its segments; allowed: such as {outer_name}");
    refused(&main, &folder);
    let in_use = format!(
        "a history directory: {outer_name} is in use by another linehub (process {})",
        server.pid()
    );
    refused(&outer.join("other"), &format!("is in {in_use}"));
    refused(
        home.path(),
        &format!("has {}", in_use.replacen(':', " in it:", 1)),
    );
    server.stop();
    // While nobody goes by the outer one, its channel's folder still is one.
    refused(&main, &folder);
    home.start().stop();
}

#[test]
fn directory_that_cannot_be_one_is_refused_in_one_line() {
    let home = Home::new(&[]);
    let file = home.path().join("file");
    std::fs::write(&file, "").unwrap();
    // Not even root may write there.
    let read_only = std::path::PathBuf::from("/proc/self/history");
    for (directory, wanted) in [
        (file.clone(), "cannot create"),
        (file.join("in"), "cannot create"),
        (read_only, "cannot create"),
    ] {
        let histories = format!("--history-dir={}", directory.display());
        let exit = Launch::new(&["--listen=127.0.0.1:0", "--history=1MiB", &histories]).run();
        assert_eq!(exit.code, Some(1), "{exit:?}");
        let line = exit.stderr.strip_suffix('\n').expect("a line");
        assert!(!line.contains('\n'), "{line}");
        let begin = format!("linehub: {wanted} {}: ", directory.display());
        assert!(line.starts_with(&begin), "{line}");
    }
}

#[test]
fn history_on_disk_begins_and_ends_at_restarts() {
    let home = Home::new(&["--history=1MiB"]);
    let say = |home: &Home, line: &str| {
        let mut sender = Events::join(&home.address(), "session=s ack role=publish");
        sender.send(line);
        assert!(matches!(sender.next(), Event::Ack(_)));
        sender.epoch().to_owned()
    };
    let mut server = home.start();
    let first = say(&home, "one");
    server.stop();
    // Between two daemons that keep it on disk, one that does not.
    let listen = format!("--listen={},hello", home.address());
    let mut server = Launch::new(&[&listen, "--history=1MiB", "--no-notices"]).start();
    let second = say(&home, "two");
    assert_ne!(second, first);
    server.stop();
    let mut server = home.start();
    let third = say(&home, "three");
    assert_eq!(third, first);
    let mut reader = Events::join(&home.address(), &format!("since={second}:1"));
    assert_eq!(reader.hello["recovered"], false);
    reader = Events::join(&home.address(), &format!("since={first}:0"));
    assert_eq!(reader.hello["recovered"], true);
    assert_eq!(reader.message(), (1, "one".to_owned()));
    assert_eq!(reader.message(), (2, "three".to_owned()));
    server.signal(rustix::process::Signal::KILL);
    server.wait_exit(PATIENCE);
}
