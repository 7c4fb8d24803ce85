//! Files that somebody removes under a running daemon, or between two.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use super::{Event, Events, Home, first_of};
use crate::common::http::get;
use crate::common::{Server, eventually};

/// A daemon with a reader, and a sender in a session who have talked already.
fn talking(args: &[&str]) -> (Home, Server, Events, Events) {
    let home = Home::new(&[&["--history=1MiB", "--admin=127.0.0.1:0"], args].concat());
    let server = home.start();
    let mut reader = Events::join(&home.address(), "");
    let mut sender = Events::join(&home.address(), "role=publish session=s ack");
    sender.send("stored");
    assert_eq!(reader.message(), (1, "stored".to_owned()));
    assert_eq!(sender.next(), Event::Ack(1));
    (home, server, reader, sender)
}

/// The daemon says which file it is that is gone.
#[track_caller]
fn expect_missing(server: &Server, file: &Path) {
    let said = format!(
        "history of channel main: cannot go on with {}",
        file.display()
    );
    eventually("it is noticed", || {
        let ready = get(&server.admin(), "/readyz");
        ready.status == 503 && ready.body.starts_with(&said)
    });
    let logged = server.wait_log("the history cannot be written, before a restart");
    assert!(logged.contains(&*file.to_string_lossy()), "{logged}");
}

#[test]
fn removed_directory_holds_senders_up_until_a_restart() {
    let (home, mut server, mut reader, mut sender) = talking(&["--drain-timeout=1s"]);
    let lock = home.histories().join("@lock");
    fs::remove_dir_all(home.histories()).unwrap();
    expect_missing(&server, &lock);
    sender.send("waits");
    server.wait_log("senders wait: the history cannot be written, before a restart");
    assert!(!home.histories().exists());
    // What is pending goes to a directory of its own then.
    crate::common::exec(&server);
    assert_eq!(reader.message(), (2, "waits".to_owned()));
    assert_eq!(sender.next(), Event::Ack(2));
    eventually("it is ready", || {
        get(&server.admin(), "/readyz").status == 200
    });
    assert_eq!(home.segments("main").len(), 1);
    server.stop();
}

#[test]
fn removed_folder_of_a_channel_is_noticed_though_nobody_writes() {
    let (home, server, mut reader, mut sender) = talking(&["--history-error=drop"]);
    let segment = home.segments("main").remove(0);
    fs::remove_dir_all(home.histories().join("main")).unwrap();
    let said = server.wait_log("the history has ended: what comes is not kept");
    assert!(said.contains(&*segment.to_string_lossy()), "{said:?}");
    let Event::Other(told) = sender.next() else {
        panic!("the session goes on")
    };
    assert_eq!(told["reason"], "session_ended", "{told}");
    let mut sender = Events::join(&home.address(), "role=publish");
    assert_ne!(sender.epoch(), reader.epoch());
    sender.send("passes");
    assert_eq!(reader.message(), (2, "passes".to_owned()));
    assert_eq!(get(&server.admin(), "/readyz").status, 200);
}

#[test]
fn directory_whose_lock_another_may_have_is_not_written_to() {
    let (home, mut server, _reader, mut sender) = talking(&["--drain-timeout=1s"]);
    let lock = home.histories().join("@lock");
    fs::remove_file(&lock).unwrap();
    fs::write(&lock, "another").unwrap();
    expect_missing(&server, &lock);
    let len = || fs::metadata(&home.segments("main")[0]).unwrap().len();
    let before = len();
    sender.send("waits");
    server.wait_log("senders wait: the history cannot be written, before a restart");
    assert_eq!(len(), before);
    let state = fs::read_to_string(home.histories().join("@state")).unwrap();
    server.signal(rustix::process::Signal::TERM);
    server.wait_exit(crate::common::PATIENCE);
    // The other goes by that.
    assert_eq!(
        fs::read_to_string(home.histories().join("@state")).unwrap(),
        state
    );
}

#[test]
fn removed_directory_is_noticed_while_senders_keep_the_disk_busy() {
    let (home, server, mut reader, _sender) = talking(&["--history=4GiB", "--history-sync=always"]);
    // Nobody waits for a segment to be full: it takes much longer than that.
    let floods = [(); 4].map(|()| {
        let mut stream = Events::join(&home.address(), "role=publish").stream();
        std::thread::spawn(move || while stream.write_all(b"flood\n").is_ok() {})
    });
    for n in 2..1000 {
        assert_eq!(reader.message(), (n, "flood".to_owned()));
    }
    let lock = home.histories().join("@lock");
    fs::remove_dir_all(home.histories()).unwrap();
    let begun = Instant::now();
    std::thread::spawn(move || while !matches!(reader.next(), Event::End) {});
    expect_missing(&server, &lock);
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(8), "{took:?}");
    drop(server);
    for flood in floods {
        flood.join().unwrap();
    }
}

/// Lines of 1 KiB, which make a number of segments.
const LINES: u64 = 1000;

fn line(n: u64) -> String {
    format!("{n:08} {}", "x".repeat(1000))
}

fn filled(args: &[&str]) -> (Home, Server, String) {
    let home = Home::new(args);
    let server = home.start();
    let mut sender = Events::join(&home.address(), "role=publish session=fill ack");
    for n in 1..=LINES {
        sender.send(&line(n));
        while n % 50 == 0 && sender.next() != Event::Ack(n) {}
    }
    let epoch = sender.epoch().to_owned();
    (home, server, epoch)
}

/// Says hello with these words, and is told of so many lost lines before those that are there.
#[track_caller]
fn expect_skip(home: &Home, words: &str, count: u64, next: u64) {
    let mut newcomer = Events::join(&home.address(), words);
    assert_eq!(newcomer.next(), Event::Skip(count), "{words}");
    for n in [next, next + 1] {
        assert_eq!(newcomer.message(), (n, line(n)));
    }
}

#[test]
fn newcomers_get_what_is_left_when_the_oldest_segment_is_gone() {
    let (home, mut server, _) = filled(&["--history=4MiB"]);
    // None of the files is open then that nobody reads.
    server.stop();
    let server = home.start();
    let segments = home.segments("main");
    assert!(segments.len() > 3, "{segments:?}");
    let next = first_of(&segments[1]);
    fs::remove_file(&segments[0]).unwrap();
    for words in ["history=1TiB", "since=1h", "history=1000000000"] {
        expect_skip(&home, words, next - 1, next);
    }
    let newest = format!("history={}", LINES - next + 3);
    expect_skip(&home, &newest, 2, next);
    let said = server.count_log("cannot read the history: who reads it goes on behind that");
    assert_eq!(said, 1);
}

#[test]
fn what_left_the_history_before_a_restart_is_counted() {
    let (home, mut server, epoch) = filled(&["--history=256KiB"]);
    server.stop();
    let _server = home.start();
    let oldest = first_of(&home.segments("main")[0]);
    assert!(oldest > 100, "{oldest}");
    for seq in [0, 10, oldest - 2] {
        let words = format!("since={epoch}:{seq}");
        let reader = Events::join(&home.address(), &words);
        assert_eq!(reader.hello["recovered"], false, "{words}");
        expect_skip(&home, &words, oldest - 1 - seq, oldest);
    }
}

#[test]
fn lost_word_on_how_the_last_daemon_ended_is_told() {
    let (home, mut server, reader, _sender) = talking(&[]);
    server.stop();
    for lose in [
        (|state| fs::remove_file(state)) as fn(&Path) -> std::io::Result<()>,
        |state| fs::write(state, b"\xff\0"),
    ] {
        lose(&home.histories().join("@state")).unwrap();
        let mut server = home.start();
        server.wait_log("it does not say how the last daemon");
        let newcomer = Events::join(&home.address(), "");
        assert_ne!(newcomer.epoch(), reader.epoch());
        server.stop();
    }
}
