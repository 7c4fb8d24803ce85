//! Disks that are full, fail or hang while the daemon runs.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::{Event, Events, Home};
use crate::common::http::get;
use crate::common::{PATIENCE, Server, eventually, exec, tool};

/// System calls that write to a history.
pub(crate) const WRITES: &str = "pwritev,pwritev2,pwrite64";

/// System calls that sync it.
const SYNCS: &str = "fsync,fdatasync";

/// How long strace has to end by itself.
const GRACE: Duration = Duration::from_secs(1);

/// strace at a daemon, some of whose system calls fail for as long as it is there.
pub(crate) struct Faults(Child);

impl Faults {
    /// Has these calls end so. `None`, and said, where nothing can be traced.
    #[track_caller]
    pub(crate) fn inject(server: &Server, calls: &str, how: &str) -> Option<Faults> {
        Faults::inject_at(server, &[], calls, how)
    }

    /// The same for calls that concern one of these files; all where none is named.
    #[track_caller]
    pub(crate) fn inject_at(
        server: &Server,
        files: &[PathBuf],
        calls: &str,
        how: &str,
    ) -> Option<Faults> {
        let strace = tool("strace")?;
        let mut child = Command::new(strace)
            .args(["-f", "-o", "/dev/null", "-e"])
            .arg(format!("trace={calls}"))
            .arg("-e")
            .arg(format!("inject={calls}:{how}"))
            .args(files.iter().flat_map(|file| [Path::new("-P"), file]))
            .args(["-p", &server.pid().to_string()])
            .stderr(Stdio::piped())
            .spawn()
            .expect("strace starts");
        let mut said = String::new();
        let stderr = child.stderr.take().expect("piped");
        let mut stderr = BufReader::new(stderr);
        stderr.read_line(&mut said).expect("a line");
        // It says more, and ends if nobody listens.
        std::thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::sink()));
        if !said.contains("attached") {
            // Past the test harness, which would swallow what a passing test prints.
            let _ = writeln!(std::io::stderr(), "skipped: {}", said.trim_end());
            child.wait().expect("our child");
            return None;
        }
        let tasks = format!("/proc/{}/task", server.pid());
        let is_traced = |task: std::io::Result<std::fs::DirEntry>| {
            let status = std::fs::read_to_string(task.expect("a task").path().join("status"));
            // It may have ended meanwhile.
            status.is_ok_and(|status| !status.contains("TracerPid:\t0\n"))
        };
        eventually("all threads are traced", || {
            let mut tasks = std::fs::read_dir(&tasks).expect("the daemon is alive");
            tasks.all(is_traced)
        });
        Some(Faults(child))
    }

    /// All goes well from now on.
    pub(crate) fn end(mut self) {
        self.stop();
    }

    fn stop(&mut self) {
        let pid = Pid::from_raw(self.0.id() as i32).expect("a pid");
        // It may have ended with the daemon.
        let _ = kill_process(pid, Signal::TERM);
        let deadline = Instant::now() + GRACE;
        while matches!(self.0.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        // Who waits in a call that is held up is not listened to.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Faults {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A daemon whose buffer is soon full, with a reader, and a sender in a session who have talked already.
pub(crate) struct Scene {
    pub(crate) home: Home,
    pub(crate) server: Server,
    pub(crate) reader: Events,
    pub(crate) sender: Events,
    pub(crate) epoch: String,
}

impl Scene {
    pub(crate) fn new(args: &[&str]) -> Scene {
        let common = [
            "--history=64MiB",
            "--buffer=1MiB",
            "--slow-grace=200ms",
            "--drain-timeout=1s",
            "--admin=127.0.0.1:0",
        ];
        let home = Home::new(&[&common, args].concat());
        let server = home.start();
        let mut reader = Events::join(&home.address(), "");
        let mut sender = Events::join(&home.address(), "role=publish session=s ack");
        sender.send("stored");
        assert_eq!(reader.message(), (1, "stored".to_owned()));
        assert_eq!(sender.next(), Event::Ack(1));
        let epoch = reader.epoch().to_owned();
        Scene {
            home,
            server,
            reader,
            sender,
            epoch,
        }
    }

    /// Sends numbered lines until none is taken for longer than the grace of slow clients; how many were sent
    /// whole.
    fn fill_buffer(&self) -> (u64, UnixStream) {
        let sender = Events::join(&self.home.address(), "role=publish");
        let mut stream = sender.stream();
        stream
            .set_write_timeout(Some(Duration::from_secs(1)))
            .expect("a timeout");
        let mut sent = Vec::new();
        let mut written = 0;
        for n in 1_u64.. {
            sent.extend(line(n).as_bytes());
            while written < sent.len() {
                match stream.write(&sent[written..]) {
                    Ok(count) => written += count,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        stream.set_write_timeout(None).expect("no timeout");
                        // The rest follows when there is room.
                        let rest = sent[written..].to_vec();
                        let mut late = stream.try_clone().expect("dup");
                        std::thread::spawn(move || late.write_all(&rest));
                        return (n, stream);
                    }
                    Err(error) => panic!("send: {error}"),
                }
            }
            assert!(n < 1_000_000, "nothing holds the sender up");
        }
        unreachable!()
    }

    /// What the daemon says of itself: that it does not get on, and why; and that it is well all the same.
    #[track_caller]
    fn expect_not_ready(&self, why: &str) {
        let admin = self.server.admin();
        let ready = get(&admin, "/readyz");
        assert_eq!(ready.status, 503, "{ready:?}");
        assert!(
            ready.body.starts_with("history of channel main: cannot "),
            "{ready:?}"
        );
        assert!(ready.body.contains(why), "{ready:?}");
        assert_eq!(get(&admin, "/healthz").status, 200);
    }

    #[track_caller]
    fn expect_nobody_closed(&self) {
        assert_eq!(self.server.count_log("reason=slow"), 0);
        assert_eq!(self.server.count_log("reason=stalled"), 0);
    }

    /// What is stored is there for newcomers.
    #[track_caller]
    fn expect_readable(&self) {
        let mut newcomer = Events::join(&self.home.address(), "history=10");
        assert_eq!(newcomer.message(), (1, "stored".to_owned()));
    }

    /// The next daemon goes on in the same epoch, and has these lines at least.
    #[track_caller]
    fn expect_after_restart(mut self, stored: &[(u64, String)]) -> Server {
        self.server.wait_exit(PATIENCE);
        let server = self.home.start();
        let mut reader = Events::join(&self.home.address(), &format!("since={}:0", self.epoch));
        assert_eq!(reader.hello["recovered"], true, "{}", reader.hello);
        for expected in stored {
            assert_eq!(&reader.message(), expected);
        }
        drop(self.home);
        server
    }
}

fn line(n: u64) -> String {
    format!("{n} {}\n", "x".repeat(1000))
}

#[test]
fn full_disk_that_gets_room_again_goes_on_by_itself() {
    let mut scene = Scene::new(&[]);
    let Some(faults) = Faults::inject(&scene.server, WRITES, "error=ENOSPC") else {
        return;
    };
    scene.sender.send("waits");
    scene
        .server
        .wait_log("senders wait until the history can be written");
    scene.expect_readable();
    scene.expect_not_ready("No space left on device");
    let (sent, _flood) = scene.fill_buffer();
    scene.expect_nobody_closed();
    faults.end();
    scene.server.wait_log("the history is written again");
    // It was told nothing meanwhile, and now all, once.
    assert_eq!(scene.reader.message(), (2, "waits".to_owned()));
    assert_eq!(scene.sender.next(), Event::Ack(2));
    for n in 1..=sent {
        assert_eq!(
            scene.reader.message(),
            (n + 2, line(n).trim_end().to_owned())
        );
    }
    assert_eq!(get(&scene.server.admin(), "/readyz").status, 200);
    scene.server.stop();
    let stored = [(1, "stored".to_owned()), (2, "waits".to_owned())];
    scene.expect_after_restart(&stored);
}

#[test]
fn failed_write_holds_senders_up_until_a_restart() {
    let mut scene = Scene::new(&[]);
    let Some(faults) = Faults::inject(&scene.server, WRITES, "error=EIO") else {
        return;
    };
    scene.sender.send("waits");
    scene
        .server
        .wait_log("senders wait: the history cannot be written, before a restart");
    scene.expect_readable();
    scene.expect_not_ready("Input/output error");
    scene.fill_buffer();
    scene.expect_nobody_closed();
    faults.end();
    scene.expect_not_ready("Input/output error");
    scene.server.signal(Signal::TERM);
    let server = {
        let stored = [(1, "stored".to_owned())];
        // Nothing of what was not stored has been shown to anybody.
        loop {
            match scene.reader.next() {
                Event::Other(event) if event["event"] == "shutdown" => {}
                Event::End => break,
                other => panic!("{other:?}"),
            }
        }
        let mut sender = scene.sender;
        while !matches!(sender.next(), Event::End) {}
        scene.sender = sender;
        scene.expect_after_restart(&stored)
    };
    server.wait_log("phase=running");
}

#[test]
fn failed_sync_is_never_taken_back() {
    let mut scene = Scene::new(&["--history-sync=always"]);
    let Some(faults) = Faults::inject(&scene.server, SYNCS, "error=EIO:when=1") else {
        return;
    };
    scene.sender.send("waits");
    scene
        .server
        .wait_log("senders wait: the history cannot be written, before a restart");
    faults.end();
    scene.expect_readable();
    scene.expect_not_ready("Input/output error");
    scene.server.signal(Signal::TERM);
    // Its line is not acknowledged, whatever comes.
    loop {
        match scene.sender.next() {
            Event::Ack(taken) => panic!("{taken} are said to be safe"),
            Event::End => break,
            _ => {}
        }
    }
    scene
        .server
        .wait_log("the history may not outlive a loss of power");
    scene.expect_after_restart(&[(1, "stored".to_owned())]);
}

#[test]
fn failed_sync_of_a_full_disk_is_not_tried_again() {
    let mut scene = Scene::new(&["--history-sync=2s"]);
    let Some(faults) = Faults::inject(&scene.server, SYNCS, "error=ENOSPC:when=1") else {
        return;
    };
    scene.sender.send("shown");
    assert_eq!(scene.reader.message(), (2, "shown".to_owned()));
    scene.server.wait_log("the history cannot be synced");
    faults.end();
    scene.expect_not_ready("No space left on device");
    scene.sender.send("waits");
    scene
        .server
        .wait_log("senders wait: the history cannot be written, before a restart");
    scene.server.signal(Signal::KILL);
    let stored = [(1, "stored".to_owned()), (2, "shown".to_owned())];
    scene.expect_after_restart(&stored);
}

#[test]
fn hello_that_waits_for_a_full_disk_does_not_hold_a_handover_up() {
    let mut scene = Scene::new(&["--hello-timeout=1m"]);
    let Some(faults) = Faults::inject(&scene.server, WRITES, "error=ENOSPC") else {
        return;
    };
    scene.sender.send("waits");
    scene
        .server
        .wait_log("senders wait until the history can be written");
    let mut newcomer = UnixStream::connect(scene.home.path().join("s")).expect("it listens");
    newcomer
        .set_read_timeout(Some(PATIENCE))
        .expect("a timeout");
    let hello = "LINEHUB/1 format=json role=publish session=s ack\nbehind\n";
    newcomer
        .write_all(hello.as_bytes())
        .expect("it takes a line");
    // Its session is taken over, and it waits for what that has sent.
    while !matches!(scene.sender.next(), Event::End) {}
    let begun = Instant::now();
    exec(&scene.server);
    let took = begun.elapsed();
    // Well before it would have been refused.
    assert!(took < Duration::from_secs(20), "{took:?}");
    faults.end();
    let mut said = BufReader::new(newcomer).lines();
    let mut next = || said.next().expect("an answer").expect("a line");
    let hello = next();
    assert!(hello.contains("\"taken\":2"), "{hello}");
    assert!(next().contains("\"taken\":3"));
    assert_eq!(scene.reader.message(), (2, "waits".to_owned()));
    assert_eq!(scene.reader.message(), (3, "behind".to_owned()));
}

#[test]
fn hanging_disk_holds_up_neither_readers_nor_the_end() {
    let mut scene = Scene::new(&[]);
    let Some(faults) = Faults::inject(&scene.server, WRITES, "delay_enter=60000000") else {
        return;
    };
    scene.sender.send("waits");
    let admin = scene.server.admin();
    eventually("a line waits", || {
        let metrics = get(&admin, "/metrics");
        metrics.sample("linehub_history_pending_bytes{channel=\"main\"}") > 0.0
    });
    scene.expect_readable();
    scene.fill_buffer();
    scene.expect_nobody_closed();
    assert_eq!(get(&admin, "/healthz").status, 200);
    let begun = Instant::now();
    scene.server.signal(Signal::TERM);
    scene.server.wait_log("phase=stopped");
    let took = begun.elapsed();
    // The system lets no process go that somebody traces and does not look after.
    faults.end();
    let status = scene.server.wait_exit(PATIENCE);
    assert_eq!(status.code(), Some(0));
    // The drain, and what closing may take.
    assert!(took < Duration::from_secs(1 + 5), "{took:?}");
    scene.expect_after_restart(&[(1, "stored".to_owned())]);
}

/// A small file system of its own, unmounted in the end.
struct Mount(PathBuf);

impl Mount {
    /// `None`, and said, where nothing can be mounted.
    fn small(at: &Path) -> Option<Mount> {
        std::fs::create_dir_all(at).expect("a directory");
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", "size=2m", "linehub-test"])
            .arg(at);
        let output = mount.output();
        let is_mounted = output.as_ref().is_ok_and(|output| output.status.success());
        if !is_mounted {
            let _ = writeln!(std::io::stderr(), "skipped: no tmpfs: {output:?}");
            return None;
        }
        Some(Mount(at.to_owned()))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // At once, or when nothing uses it any more.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn small_disk_that_was_filled_by_others_is_gone_on_with_when_it_has_room() {
    let home = Home::new(&["--history=512KiB", "--admin=127.0.0.1:0"]);
    let Some(_mount) = Mount::small(&home.histories()) else {
        return;
    };
    let mut server = home.start();
    let mut reader = Events::join(&home.address(), "");
    let mut sender = Events::join(&home.address(), "role=publish session=s ack");
    sender.send("stored");
    assert_eq!(sender.next(), Event::Ack(1));
    let others = home.histories().join("@others");
    let mut file = std::fs::File::create(&others).unwrap();
    while file.write_all(&[0; 4096]).is_ok() {}
    drop(file);
    // Records go on in the page that there is, and need another some time.
    let mut sent = 1;
    while server.count_log("senders wait until the history can be written") == 0 {
        sent += 1;
        sender.send(line(sent).trim_end());
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(get(&server.admin(), "/readyz").status, 503);
    std::fs::remove_file(&others).unwrap();
    while sender.next() != Event::Ack(sent) {}
    server.wait_log("the history is written again");
    assert_eq!(get(&server.admin(), "/readyz").status, 200);
    assert_eq!(reader.message(), (1, "stored".to_owned()));
    for n in 2..=sent {
        assert_eq!(reader.message(), (n, line(n).trim_end().to_owned()));
    }
    server.stop();
    let _server = home.start();
    let mut newcomer = Events::join(&home.address(), "history=1");
    assert_eq!(newcomer.message(), (sent, line(sent).trim_end().to_owned()));
}
