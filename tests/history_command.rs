use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use rustix::process::Signal;

use crate::common::{BINARY, Client, PATIENCE, Program, Server, run};

/// A daemon that keeps a history in this directory, with a listener of `text`, one of `json` and one of
/// another channel.
fn keeping(dir: &Path) -> Server {
    Server::start(&[
        "--history=1MiB",
        "--history-dir",
        dir.to_str().unwrap(),
        "--listen=127.0.0.1:0",
        "--listen=127.0.0.1:0,format=json",
        "--listen=127.0.0.1:0,channel=other",
    ])
}

/// `linehub history`, to its end: what it prints.
#[track_caller]
fn history(args: &[&str]) -> String {
    let args = [&["history"], args].concat();
    let exit = run(&args, &[]);
    assert_eq!(exit.code, Some(0), "{exit:?}");
    assert_eq!(exit.stderr, "");
    exit.stdout
}

/// Returns when all that was sent has come, and so is stored.
fn all_came(sender: &mut Client, reader: &mut Client) {
    sender.send_line("the end");
    reader.lines_until(&format!("Message from client {}: the end", sender.id()));
}

/// A directory, and a channel's folder in it.
fn directory() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let main = dir.path().join("main");
    (dir, main)
}

#[test]
fn cat_prints_beside_the_daemon_what_clients_got() {
    let (dir, main) = directory();
    let server = keeping(dir.path());
    let mut reader = Client::connect_to(&server, 1);
    let mut sender = Client::connect_to(&server, 0);
    sender.send_bytes(b"one\n\"two\"\nthree\n");
    let mut got: Vec<String> = Vec::new();
    while !got.last().is_some_and(|line| line.contains("three")) {
        got.push(reader.read_line());
    }
    let main = main.to_str().unwrap();
    let json = history(&["cat", main, "--format", "json"]);
    let json: Vec<&str> = json.lines().collect();
    assert!(
        json.ends_with(&got.iter().map(|line| line.trim_end()).collect::<Vec<_>>()),
        "{json:?} and {got:?}"
    );
    assert_eq!(
        history(&["cat", main, "--format", "raw"]),
        "one\n\"two\"\nthree\n"
    );
    assert_eq!(
        history(&["cat", main, "--format", "raw", "--last", "2"]),
        "\"two\"\nthree\n"
    );
    assert_eq!(
        history(&["cat", main, "--format", "raw", "--since", "1h"]),
        "one\n\"two\"\nthree\n"
    );
    let text = history(&["cat", main]);
    let id = sender.id();
    let end = format!(
        "Message from client {id}: one\nMessage from client {id}: \"two\"\nMessage from client {id}: three\n"
    );
    assert!(text.ends_with(&end), "{text}");
    assert!(
        text.contains(&format!("New client connected: {id}\n")),
        "{text}"
    );
}

#[test]
fn cat_goes_on_behind_a_place() {
    let (dir, main) = directory();
    let server = keeping(dir.path());
    let mut reader = Client::connect_to(&server, 1);
    let mut sender = Client::connect_to(&server, 0);
    sender.send_bytes(b"one\ntwo\nthree\n");
    let seq = loop {
        let message = reader.read_json();
        if message["data"] == "two" {
            break message["seq"].as_u64().unwrap();
        }
    };
    assert_eq!(reader.read_json()["data"], "three");
    let main = main.to_str().unwrap();
    let checked = history(&["check", main]);
    let epoch = checked
        .lines()
        .nth(1)
        .and_then(|row| row.split_whitespace().nth(1))
        .unwrap();
    let since = format!("{epoch}:{seq}");
    assert_eq!(
        history(&["cat", main, "--format", "raw", "--since", &since]),
        "three\n"
    );
    for (place, words) in [
        (format!("00000000:{seq}"), "is no place of this history"),
        (
            format!("{epoch}:{}", seq + 1000),
            "is no place of this history",
        ),
    ] {
        let exit = run(&["history", "cat", main, "--since", &place], &[]);
        assert_eq!(exit.code, Some(1));
        assert!(exit.stderr.contains(words), "{}", exit.stderr);
    }
}

#[test]
fn tail_goes_on_with_what_comes_and_over_a_daemons_end() {
    let (dir, main) = directory();
    let mut server = keeping(dir.path());
    let [mut sender, mut reader] = [0, 0].map(|i| Client::connect_to(&server, i));
    for n in 0..20 {
        sender.send_line(&format!("line {n}"));
    }
    all_came(&mut sender, &mut reader);
    let mut command = Command::new(BINARY);
    command.args(["history", "tail", "--format", "raw", "--last", "3"]);
    let tail = Program::spawn(command.arg(&main));
    tail.wait_output("line 18\nline 19\nthe end\n");
    sender.send_line("while it looks");
    tail.wait_output("\nwhile it looks\n");
    server.signal(Signal::KILL);
    server.wait_exit(PATIENCE);
    let server = keeping(dir.path());
    let mut sender = Client::connect_to(&server, 0);
    sender.send_line("of the next daemon");
    tail.wait_output("\nof the next daemon\n");
}

#[test]
fn check_has_a_line_for_each_channel_and_says_what_is_damaged() {
    let (dir, main) = directory();
    let mut server = keeping(dir.path());
    for (i, lines) in [(0, "one\ntwo\n"), (2, "three\n")] {
        let [mut sender, mut reader] = [i, i].map(|i| Client::connect_to(&server, i));
        sender.send_bytes(lines.as_bytes());
        all_came(&mut sender, &mut reader);
    }
    let path = dir.path().to_str().unwrap();
    let checked = history(&["check", path]);
    let channel = |line: &str| line.split_whitespace().next().unwrap().to_owned();
    let channels: Vec<String> = checked.lines().map(channel).collect();
    assert_eq!(channels, ["channel", "main", "other"], "{checked}");
    let exit = run(&["history", "cat", path], &[]);
    assert_eq!(exit.code, Some(2));
    assert!(
        exit.stderr.contains("with --channel: main, other"),
        "{}",
        exit.stderr
    );
    let other = history(&["cat", path, "--channel", "other", "--format", "raw"]);
    assert!(other.starts_with("three\n"), "{other}");

    server.signal(Signal::KILL);
    server.wait_exit(PATIENCE);
    let segment = main.join("00000000000000000001.log");
    let mut bytes = fs::read(&segment).unwrap();
    let at = bytes.windows(4).position(|four| four == b"one\n").unwrap();
    bytes[at] ^= 1;
    fs::write(&segment, bytes).unwrap();
    let exit = run(&["history", "check", path], &[]);
    assert_eq!(exit.code, Some(1));
    let damage = format!("{} is damaged at byte ", segment.display());
    assert!(exit.stdout.contains(&damage), "{}", exit.stdout);
    let exit = run(&["history", "cat", main.to_str().unwrap()], &[]);
    assert_eq!(exit.code, Some(1));
    assert!(exit.stderr.contains(&damage), "{}", exit.stderr);
}

#[test]
fn who_has_seen_enough_is_no_error() {
    let (dir, main) = directory();
    let server = keeping(dir.path());
    let [mut sender, mut reader] = [0, 0].map(|i| Client::connect_to(&server, i));
    for _ in 0..200 {
        sender.send_line(&"x".repeat(1000));
    }
    all_came(&mut sender, &mut reader);
    // More than a pipe takes.
    let mut cat = Command::new(BINARY)
        .args(["history", "cat"])
        .arg(&main)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(cat.stdout.take());
    let output = cat.wait_with_output().unwrap();
    assert!(output.status.success());
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn a_directory_without_a_history_is_refused() {
    let (dir, main) = directory();
    let path = dir.path().to_str().unwrap();
    for what in ["check", "cat", "tail"] {
        let exit = run(&["history", what, path], &[]);
        assert_eq!(exit.code, Some(2), "{exit:?}");
        assert!(
            exit.stderr.contains("no history in there"),
            "{}",
            exit.stderr
        );
        let exit = run(&["history", what, main.to_str().unwrap()], &[]);
        assert_eq!(exit.code, Some(1), "{exit:?}");
        assert!(exit.stderr.contains("cannot read "), "{}", exit.stderr);
    }
}

#[test]
fn what_is_no_file_among_the_segments_is_said_and_holds_up_nobody() {
    let (dir, main) = directory();
    let path = dir.path().to_str().unwrap();
    let mut server = keeping(dir.path());
    let [mut sender, mut reader] = [0, 0].map(|i| Client::connect_to(&server, i));
    all_came(&mut sender, &mut reader);
    server.stop();
    let odd = main.join(format!("{:020}.log", 9999));
    let mut socket = None;
    for kind in ["FIFO", "socket", "directory", "symbolic link"] {
        match kind {
            "FIFO" => {
                let mode = rustix::fs::Mode::from_raw_mode(0o644);
                let (at, fifo) = (rustix::fs::CWD, rustix::fs::FileType::Fifo);
                rustix::fs::mknodat(at, &odd, fifo, mode, 0).unwrap();
            }
            "socket" => socket = Some(UnixListener::bind(&odd).unwrap()),
            "directory" => fs::create_dir(&odd).unwrap(),
            _ => symlink(main.join(format!("{:020}.log", 1)), &odd).unwrap(),
        }
        let said = format!(
            "{} is damaged at byte 0: it is a {kind}, and no regular file",
            odd.display()
        );
        for what in ["check", "cat", "tail"] {
            let exit = run(&["history", what, main.to_str().unwrap()], &[]);
            assert_eq!(exit.code, Some(1), "{what} {kind}: {exit:?}");
            let text = if what == "check" {
                &exit.stdout
            } else {
                &exit.stderr
            };
            assert!(text.contains(&said), "{what} {kind}: {text}");
        }
        let exit = run(&["--history=1MiB", "--history-dir", path], &[]);
        assert_eq!(exit.code, Some(1), "{kind}: {exit:?}");
        assert!(exit.stderr.contains(&said), "{kind}: {}", exit.stderr);
        match kind {
            "directory" => fs::remove_dir(&odd).unwrap(),
            _ => fs::remove_file(&odd).unwrap(),
        }
    }
    drop(socket);
    // Under another name it is nothing of the history; it holds up no end either, not that of one who was killed.
    fs::create_dir(main.join("of somebody else")).unwrap();
    let mode = rustix::fs::Mode::from_raw_mode(0o644);
    let fifo = main.join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let mut server = keeping(dir.path());
    server.signal(Signal::KILL);
    server.wait_exit(PATIENCE);
    keeping(dir.path()).stop();
}

/// What a daemon that was killed may leave, each as the next one finds it.
#[test]
fn end_that_the_next_start_cuts_off_is_no_damage() {
    let (dir, main) = directory();
    let path = dir.path().to_str().unwrap();
    let mut server = keeping(dir.path());
    let [mut sender, mut reader] = [0, 0].map(|i| Client::connect_to(&server, i));
    all_came(&mut sender, &mut reader);
    server.signal(Signal::KILL);
    server.wait_exit(PATIENCE);
    let segment = main.join(format!("{:020}.log", 1));
    let whole = fs::read(&segment).unwrap();
    let kept = history(&["cat", "--channel=main", path]);
    assert!(!kept.is_empty());
    // Behind two notices and the line.
    let next = main.join(format!("{:020}.log", 4));
    let half_made = next.with_extension("new");
    let cut = " bytes of a record that is not complete; the next start cuts them off\n";
    let garbage =
        " with 3 bytes that are no record; the next start cuts them off, and begins a new epoch\n";
    let torn = "has no whole header: the header is not complete; the next start removes it\n";
    for (file, bytes, said) in [
        (&segment, &whole[..whole.len() - 1], cut),
        (&segment, &[&*whole, b"xyz"].concat(), garbage),
        (&next, b"", torn),
        (&next, &whole[..50], torn),
        (
            &half_made,
            b"LHub",
            "is half made; the next start removes it\n",
        ),
    ] {
        fs::write(file, bytes).unwrap();
        let checked = history(&["check", path]);
        let begin = format!("\n{} ", file.display());
        assert!(
            checked.contains(&begin) && checked.ends_with(said),
            "{checked}"
        );
        // All before it is there.
        let printed = history(&["cat", "--channel=main", path]);
        match said == cut {
            true => assert!(kept.starts_with(&printed), "{printed}"),
            false => assert_eq!(printed, kept),
        }
        let copy = tempfile::tempdir().unwrap();
        for at in ["", "main"] {
            fs::create_dir_all(copy.path().join(at)).unwrap();
            for entry in fs::read_dir(dir.path().join(at)).unwrap() {
                let from = entry.unwrap().path();
                if from.is_file() {
                    fs::copy(&from, copy.path().join(at).join(from.file_name().unwrap())).unwrap();
                }
            }
        }
        keeping(copy.path()).stop();
        let checked = history(&["check", copy.path().to_str().unwrap()]);
        assert!(
            !checked.contains(copy.path().to_str().unwrap()),
            "{checked}"
        );
        fs::remove_file(file).unwrap();
        fs::write(&segment, &whole).unwrap();
    }
    assert!(!history(&["check", path]).contains(path));
    // What was whole and is another now is damage, though nothing follows.
    let mut bytes = whole.clone();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&segment, bytes).unwrap();
    let exit = run(&["history", "check", path], &[]);
    assert_eq!(exit.code, Some(1), "{exit:?}");
    assert!(exit.stdout.contains("wrong checksum"), "{exit:?}");
}

#[test]
fn check_beside_a_daemon_that_writes_finds_nothing_torn() {
    let (dir, _) = directory();
    let path = dir.path().to_str().unwrap();
    let server = keeping(dir.path());
    let mut sender = Client::connect_to(&server, 0).sender();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let lines = format!("{}\n", "x".repeat(20_000)).repeat(50);
            while !stop.load(Relaxed) {
                sender.write_all(lines.as_bytes()).unwrap();
            }
        });
        for _ in 0..20 {
            let exit = run(&["history", "check", path], &[]);
            let is_whole = exit.code == Some(0) && !exit.stdout.contains(path);
            if !is_whole {
                stop.store(true, Relaxed);
            }
            assert!(is_whole, "{exit:?}");
        }
        stop.store(true, Relaxed);
    });
}
