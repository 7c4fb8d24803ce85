//! Histories that a reload begins, ends and changes, and channels that stay for theirs.

use std::path::Path;

use rustix::process::Signal;

use crate::common::http::get_json;
use crate::common::{Client, Flood, Launch, Server, eventually, exec, payload};

/// Has a daemon read its file anew, which it is to accept.
#[track_caller]
fn reload(server: &Server, file: &Path, text: &str) {
    server.wait_log("phase=running");
    let before = server.count_log("configuration reloaded");
    std::fs::write(file, text).unwrap();
    server.signal(Signal::HUP);
    server.wait_log_count("configuration reloaded", before + 1);
}

fn file(more: &str) -> String {
    format!(
        "no-notices = true\nadmin = \"127.0.0.1:0\"\n\
         listen = [\"127.0.0.1:0,hello,channel=kept\"]\n{more}"
    )
}

/// The first lines that a newcomer gets who asks for this, and what it was told.
#[track_caller]
fn first(server: &Server, words: &str, lines: usize) -> (String, Vec<String>) {
    let mut client = Client::dial(server.addr(0));
    client.send_line(&format!("LINEHUB/1 role=subscribe {words}"));
    let answer = client.read_line();
    let lines = (0..lines).map(|_| client.read_line()).collect();
    // Nothing but live lines comes behind them.
    said(server, "marker\n");
    assert!(client.read_line().ends_with(": marker"));
    (answer, lines)
}

#[track_caller]
fn said(server: &Server, lines: impl AsRef<[u8]>) {
    let mut client = Client::dial(server.addr(0));
    client.send_line("LINEHUB/1 role=publish");
    client.send_bytes(lines.as_ref());
    client.finish();
    client.lines_to_eof();
}

#[test]
fn reload_begins_ends_and_changes_a_history() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("linehub.toml");
    std::fs::write(&path, file("")).unwrap();
    let args = ["--config", path.to_str().unwrap()];
    let server = Launch::new(&args).listen_as_configured().start();
    let bytes = || {
        let status = get_json(&server.admin(), "/status");
        let channels = status["channels"].as_array().unwrap();
        let kept = channels.iter().find(|channel| channel["name"] == "kept");
        kept.unwrap()["history"]["bytes"].as_u64()
    };
    said(&server, "before\n");
    assert!(first(&server, "history=9", 0).1.is_empty());
    assert_eq!(bytes(), None);

    reload(
        &server,
        &path,
        &file("[channel.kept]\nhistory = \"1MiB\"\n"),
    );
    said(&server, "one\ntwo\n");
    // What was published before is not kept, but has its numbers.
    let (answer, lines) = first(&server, "history=9", 2);
    assert!(
        lines[0].ends_with(": one") && lines[1].ends_with(": two"),
        "{lines:?}"
    );
    let at = answer.rsplit_once(" at ").unwrap().1;
    let epoch = at.split_once(':').unwrap().0;
    assert_eq!(at, format!("{epoch}:2"));
    for lines in 0..40 {
        said(&server, Flood { sent: 100 * lines }.lines(100));
    }
    let large = bytes().unwrap();
    assert!(large > 200_000, "{large}");

    reload(
        &server,
        &path,
        &file("[channel.kept]\nhistory = \"64KiB\"\n"),
    );
    eventually("the rest is let go of", || bytes() <= Some(80 * 1024));
    let mut late = Client::dial(server.addr(0));
    late.send_line(&format!("LINEHUB/1 since={epoch}:4 role=subscribe"));
    assert!(late.read_line().ends_with(", not recovered"));
    let skipped = late.read_line();
    let count = skipped
        .strip_prefix("Skipped ")
        .and_then(|it| it.split(' ').next());
    // Behind the marker of before are the numbered lines, from 6 on.
    let kept_from = count.unwrap().parse::<u64>().unwrap() + 5;
    for n in kept_from..6 + 4000 {
        let line = late.read_line();
        assert!(line.ends_with(&format!(": {}", payload(n - 5))), "{line}");
    }

    reload(&server, &path, &file(""));
    assert_eq!(bytes(), None);
    let (answer, _) = first(&server, &format!("since={epoch}:5 history=9"), 0);
    assert!(answer.ends_with(", not recovered"), "{answer}");
    reload(
        &server,
        &path,
        &file("[channel.kept]\nhistory = \"1MiB\"\n"),
    );
    said(&server, "again\n");
    assert!(first(&server, "history=9", 1).1[0].ends_with(": again"));
}

#[test]
fn history_on_disk_in_which_there_is_nothing_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("linehub.toml");
    let histories = dir.path().join("h");
    let keeping = |bytes: &str| {
        let other = "[channel.other]\nhistory = \"1MiB\"";
        let kept = format!("[channel.kept]\nhistory = \"{bytes}\"");
        file(&format!("history-dir = {histories:?}\n{other}\n{kept}\n"))
    };
    std::fs::write(&path, keeping("1MiB")).unwrap();
    let args = ["--config", path.to_str().unwrap()];
    let server = Launch::new(&args).listen_as_configured().start();
    let hand_over = |bytes| {
        std::fs::write(&path, keeping(bytes)).unwrap();
        exec(&server);
    };
    for _ in 0..2 {
        hand_over("0");
        said(&server, "passes\n");
        hand_over("1MiB");
    }
    said(&server, "one\n");
    assert!(first(&server, "history=9", 1).1[0].ends_with(": one"));
    let folders = std::fs::read_dir(&histories).unwrap();
    let folders = folders.filter(|it| it.as_ref().unwrap().path().is_dir());
    assert_eq!(folders.count(), 2);
}

/// Its socket refuses all the while, so that it is in the old history, and the stream goes on in a new one.
#[test]
fn who_reads_a_history_that_a_reload_ends_is_told_what_it_misses_and_goes_on() {
    const LINES: u64 = 100_000;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("linehub.toml");
    let with = file("[channel.kept]\nhistory = \"256MiB\"\n");
    std::fs::write(&path, &with).unwrap();
    let args = ["--config", path.to_str().unwrap()];
    for ends in [true, false] {
        let server = Launch::new(&args).listen_as_configured().start();
        said(&server, Flood::default().lines(LINES));
        let mut behind = Client::dial_stuck(server.addr(0));
        behind.send_line("LINEHUB/1 history=1000000 role=subscribe");
        assert!(behind.read_line().starts_with("Hello client "));
        reload(&server, &path, &file(""));
        if !ends {
            reload(&server, &path, &with);
        }
        said(&server, "new\n");
        behind.wake();
        let mut next = 1;
        // With none again, even what came last may be gone for it.
        while next <= LINES + 1 {
            let line = behind.read_line();
            if let Some(skipped) = line.strip_prefix("Skipped ") {
                next += skipped.split(' ').next().unwrap().parse::<u64>().unwrap();
            } else if line.ends_with(": new") {
                assert_eq!(next, LINES + 1);
                break;
            } else {
                assert!(line.ends_with(&payload(next)), "{line}, not {next}");
                next += 1;
            }
        }
        said(&server, "live\n");
        assert!(behind.read_line().ends_with(": live"));
        drop(behind);
        std::fs::write(&path, &with).unwrap();
    }
}

#[test]
fn open_channel_stays_until_its_history_has_expired() {
    let server = Server::start(&[
        "--history=1MiB",
        "--history-age=2s",
        "--open-channels=1",
        "--no-notices",
        "--listen=127.0.0.1:0,hello",
    ]);
    let said_in = |channel: &str| {
        let mut client = Client::dial(server.addr(0));
        client.send_line(&format!("LINEHUB/1 channel={channel}"));
        let answer = client.read_line();
        client.send_line("kept");
        client.finish();
        client.lines_to_eof();
        answer
    };
    assert!(said_in("one").starts_with("Hello client "));
    // Nobody is in it, but there is no room for another.
    let mut reader = Client::dial(server.addr(0));
    reader.send_line("LINEHUB/1 channel=one history=9");
    assert!(reader.read_line().ends_with(":0"));
    assert!(reader.read_line().ends_with(": kept"));
    drop(reader);
    let mut other = Client::dial(server.addr(0));
    other.send_line("LINEHUB/1 channel=two");
    other.expect_line("Error: no such channel");
    eventually("it has expired", || {
        let mut other = Client::dial(server.addr(0));
        other.send_line("LINEHUB/1 channel=two");
        other.read_line().starts_with("Hello client ")
    });
}

#[test]
fn sender_in_a_session_is_closed_when_its_history_ends() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("linehub.toml");
    std::fs::write(&path, file("history = \"1MiB\"\n")).unwrap();
    let args = ["--config", path.to_str().unwrap()];
    let server = Launch::new(&args).listen_as_configured().start();
    let mut sender = Client::dial(server.addr(0));
    sender.send_line("LINEHUB/1 session=meter-7 ack");
    assert!(sender.read_line().ends_with(", taken 0"));
    sender.send_line("1");
    sender.expect_line("Taken 1");
    reload(&server, &path, &file(""));
    // What it sends could not be counted any more, nor told from what it sends again.
    sender.expect_line("Error: session ended, as its channel keeps nothing any more");
    sender.expect_eof();
}

#[test]
fn lines_on_their_way_to_the_disk_reach_everybody_when_their_history_ends() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("linehub.toml");
    let text = format!(
        "no-notices = true\nhistory-sync = \"always\"\nhistory-dir = \"{}\"\n\
         listen = [\"127.0.0.1:0,hello\"]\n[channel.main]\nhistory = \"1MiB\"\n",
        dir.path().join("kept").display()
    );
    let table = "[channel.nmea]\nhistory = \"1MiB\"\n";
    std::fs::write(&path, format!("{text}{table}")).unwrap();
    let args = ["--config", path.to_str().unwrap()];
    let server = Launch::new(&args).listen_as_configured().start();
    let mut reader = Client::dial(server.addr(0));
    reader.send_line("LINEHUB/1 channel=nmea role=subscribe");
    reader.read_line();
    let mut sender = Client::dial(server.addr(0));
    sender.send_line("LINEHUB/1 channel=nmea role=publish");
    let flood = std::thread::spawn(move || {
        (1..=20_000).for_each(|n| sender.send_line(&n.to_string()));
        sender
    });
    let mut next = 1;
    let mut expect_to = |reader: &mut Client, last| {
        while next <= last {
            let line = reader.read_line();
            assert!(line.ends_with(&format!(": {next}")), "{line}, not {next}");
            next += 1;
        }
    };
    expect_to(&mut reader, 1000);
    // The channel is left to its clients, and keeps nothing.
    reload(&server, &path, &text);
    expect_to(&mut reader, 20_000);
    drop(flood.join().unwrap());
}
