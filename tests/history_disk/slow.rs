//! Disks that are slow or hang, and who has nothing to do with that.

use std::time::{Duration, Instant};

use super::faults::{Faults, WRITES};
use super::{Event, Events, Home};
use crate::common::http::get;
use crate::common::{PATIENCE, Server, eventually};

/// How long a slow disk takes for what it is slow at.
const SLOW: Duration = Duration::from_secs(4);

/// Others are to notice nothing: much less than they would if they waited for it once, and much more than they take.
const AT_ONCE: Duration = Duration::from_secs(2);

/// A daemon at whose channel `main` two are, with those who come and go in channels of their own.
struct Hall {
    home: Home,
    server: Server,
    reader: Events,
    sender: Events,
    lines: u64,
}

impl Hall {
    fn new(args: &[&str]) -> Hall {
        let home = Home::new(&[&["--history=1MiB", "--admin=127.0.0.1:0"], args].concat());
        let server = home.start();
        Hall {
            reader: Events::join(&home.address(), ""),
            sender: Events::join(&home.address(), "role=publish session=s ack"),
            home,
            server,
            lines: 0,
        }
    }

    /// Has these calls take their time; `None`, and said, where nothing can be traced.
    fn slow(&self, calls: &str) -> Option<Faults> {
        let delay = format!("delay_enter={}", SLOW.as_micros());
        Faults::inject(&self.server, calls, &delay)
    }

    /// Lines flow in `main`, and whoever joins it or asks how the daemon is is answered.
    #[track_caller]
    fn expect_at_once(&mut self) {
        let begun = Instant::now();
        self.lines += 1;
        let line = format!("line {}", self.lines);
        self.sender.send(&line);
        assert_eq!(self.reader.message(), (self.lines, line));
        assert_eq!(self.sender.next(), Event::Ack(self.lines));
        Events::join(&self.home.address(), "history=1").message();
        for path in ["/metrics", "/readyz"] {
            assert_eq!(get(&self.server.admin(), path).status, 200);
        }
        let took = begun.elapsed();
        assert!(took < AT_ONCE, "{took:?}");
    }

    fn folder(&self, channel: &str) -> bool {
        self.home.histories().join(channel).is_dir()
    }
}

#[test]
fn channel_that_is_opened_on_a_slow_disk_holds_up_only_who_opens_it() {
    let mut hall = Hall::new(&["--open-channels=10"]);
    hall.expect_at_once();
    let Some(faults) = hall.slow("mkdir,mkdirat") else {
        return;
    };
    let address = hall.home.address();
    let begun = Instant::now();
    let join = |words: &'static str| {
        let address = address.clone();
        std::thread::spawn(move || (Events::join(&address, words), begun.elapsed()))
    };
    let first = join("channel=slow role=publish session=s ack");
    let channels = || {
        let channels = get(&hall.server.admin(), "/metrics");
        channels.body.contains("channel=\"open\"")
    };
    eventually("the channel is there", channels);
    let second = join("channel=slow");
    while !first.is_finished() {
        hall.expect_at_once();
    }
    // All of its own comes when it is there, in the order of any channel.
    let ((mut first, waited), (mut second, _)) = (first.join().unwrap(), second.join().unwrap());
    assert!(waited >= SLOW, "{waited:?}");
    assert_eq!(first.epoch(), second.epoch());
    first.send("one");
    assert_eq!(second.message(), (1, "one".to_owned()));
    assert_eq!(first.next(), Event::Ack(1));
    faults.end();
}

#[test]
fn channel_that_ends_on_a_slow_disk_holds_up_only_who_opens_it_again() {
    let mut hall = Hall::new(&["--open-channels=10"]);
    let first = Events::join(&hall.home.address(), "channel=slow");
    let epoch = first.epoch().to_owned();
    assert!(hall.folder("slow"));
    let Some(faults) = hall.slow("rmdir") else {
        return;
    };
    drop(first);
    let segments = || hall.home.segments("slow").len();
    eventually("it is being removed", || segments() == 0);
    assert!(hall.folder("slow"));
    let address = hall.home.address();
    let again = std::thread::spawn(move || Events::join(&address, "channel=slow session=s ack"));
    while !again.is_finished() {
        hall.expect_at_once();
    }
    let mut again = again.join().unwrap();
    faults.end();
    assert_ne!(again.epoch(), epoch);
    assert_eq!((again.seq(), again.taken()), (0, 0));
    assert_eq!(hall.home.segments("slow").len(), 1);
    again.send("kept");
    assert_eq!(again.next(), Event::Ack(1));
}

#[test]
fn any_number_of_channels_on_a_disk_that_hangs_leave_threads_to_readers() {
    // More than the runtime has threads that may block.
    let channels = 600;
    let open = format!("--open-channels={channels}");
    let mut hall = Hall::new(&[&open, "--drain-timeout=1s"]);
    hall.expect_at_once();
    let join = |n| Events::join(&hall.home.address(), &format!("channel=c{n} role=publish"));
    let mut senders: Vec<_> = (0..channels).map(join).collect();
    let Some(faults) = Faults::inject(&hall.server, WRITES, "delay_enter=60000000") else {
        return;
    };
    senders.iter_mut().for_each(|sender| sender.send("waits"));
    let pending = "linehub_history_pending_bytes{channel=\"open\"}";
    eventually("all wait", || {
        let metrics = get(&hall.server.admin(), "/metrics");
        metrics.sample(pending) >= f64::from(channels) * 6.0
    });
    let mut newcomer = Events::join(&hall.home.address(), "history=1");
    assert_eq!(newcomer.message(), (1, "line 1".to_owned()));
    let tasks = std::fs::read_dir(format!("/proc/{}/task", hall.server.pid()));
    let threads = tasks.expect("the daemon is alive").count();
    assert!(threads < 150, "{threads} threads");
    hall.server.signal(rustix::process::Signal::KILL);
    faults.end();
    hall.server.wait_exit(PATIENCE);
}
