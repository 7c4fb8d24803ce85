//! Many channels, each with its own files.

use super::{Event, Events, Home};
use crate::common::{PATIENCE, Server, eventually};

/// How many channels there are; more by hand.
fn channels() -> u64 {
    let channels = std::env::var("MANY_CHANNELS").ok();
    channels.map_or(200, |channels| channels.parse().expect("a number"))
}

fn threads(server: &Server) -> usize {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", server.pid()));
    tasks.expect("the daemon is alive").count()
}

#[test]
fn channels_come_back_with_what_they_kept_and_end_when_it_has_expired() {
    let channels = channels();
    let open = format!("--open-channels={channels}");
    let mut home = Home::new(&["--history=64KiB", &open]);
    let server = home.start();
    for n in 1..=channels {
        let words = format!("channel=c{n} session=s ack role=publish");
        let mut sender = Events::join(&home.address(), &words);
        sender.send(&format!("line {n}"));
        assert_eq!(sender.next(), Event::Ack(1));
    }
    let said = format!(
        "{} threads, {} files, {} MiB",
        threads(&server),
        server.open_files(),
        server.rss() >> 20
    );
    eprintln!("{channels} channels: {said}");
    // A file each that is written to, and what any daemon has.
    assert!(server.open_files() as u64 <= channels + 60, "{said}");
    let mut server = server;
    server.signal(rustix::process::Signal::KILL);
    server.wait_exit(PATIENCE);

    let begun = std::time::Instant::now();
    let mut server = home.start();
    eprintln!(
        "{channels} channels: started again in {:?}",
        begun.elapsed()
    );
    for n in 1..=channels {
        let mut reader = Events::join(&home.address(), &format!("channel=c{n} history=1"));
        assert_eq!(reader.message(), (1, format!("line {n}")));
    }
    server.stop();

    home.push("--history-age=1s");
    let mut server = home.start();
    let folders = || {
        let entries = std::fs::read_dir(home.histories()).unwrap();
        let folders = entries.filter(|entry| entry.as_ref().unwrap().path().is_dir());
        folders.count()
    };
    // But for `main`, which is no open channel.
    eventually("all has expired", || folders() == 1);
    server.stop();
}
