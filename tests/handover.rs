use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use rustix::process::Signal;
use socket2::Socket;

use crate::common::{
    BINARY, Client, Flood, Launch, Manager, PATIENCE, Server, copied, copy_to, eventually, exec,
    marker, payload, replace, restart, tool,
};

#[test]
fn exec_keeps_the_process_every_client_its_number_and_the_order() {
    let mut server = Server::start(&["--listen=127.0.0.1:0", "--listen=127.0.0.1:0,format=json"]);
    let mut one = Client::connect(&server);
    let mut two = Client::connect(&server);
    let mut json = Client::connect_to(&server, 1);
    one.lines_until(&format!("New client connected: {}", json.id()));
    two.lines_until(&format!("New client connected: {}", json.id()));
    one.send_line("before");
    two.expect_message(one.id(), "before");
    let before = json.read_json();
    assert_eq!(before["data"], "before");

    exec(&server);
    two.send_line("after");
    one.expect_message(two.id(), "after");
    let after = json.read_json();
    assert_eq!(after["data"], "after");
    assert_eq!(after["seq"], before["seq"].as_u64().unwrap() + 1);

    let late = Client::connect(&server);
    assert_eq!(late.id(), json.id() + 1);
    one.expect_line(&format!("New client connected: {}", late.id()));
    drop(one);
    two.expect_line(&format!("New client connected: {}", late.id()));
    two.expect_line("Client disconnected: 1");
    server.stop();
    two.expect_line("Server shutting down");
    two.expect_eof();
}

#[test]
fn exec_keeps_what_a_client_has_begun_to_say() {
    let server = Server::start(&["--no-notices"]);
    let mut reader = Client::connect(&server);
    let mut line = Client::connect(&server);
    let mut command = Client::connect(&server);
    let mut enter = Client::connect(&server);
    let beginnings: [(&mut Client, &[u8]); 3] = [
        (&mut line, b"half a "),
        (&mut command, b"x\xff\xfd"),
        (&mut enter, b"y\r"),
    ];
    for (client, beginning) in beginnings {
        client.send_bytes(b"whole\n");
        client.send_bytes(beginning);
        reader.expect_message(client.id(), "whole");
    }
    for _ in 0..2 {
        exec(&server);
    }
    line.send_bytes(b"line\n");
    reader.expect_message(line.id(), "half a line");
    enter.send_bytes(b"\0z\n");
    reader.expect_message(enter.id(), "y");
    reader.expect_message(enter.id(), "z");
    // The option that telnet began to ask for before is answered after.
    command.lines_until(&format!("Message from client {}: z\r", enter.id()));
    command.send_bytes(b"\x06z\n");
    reader.expect_message(command.id(), "xz");
    assert_eq!(command.read_bytes(3), b"\xff\xfc\x06");
}

#[test]
fn exec_keeps_what_a_client_has_not_taken_yet() {
    let server = Server::start(&[
        "--no-notices",
        "--slow-grace=forever",
        "--listen=127.0.0.1:0",
        "--listen=127.0.0.1:0,format=json",
        "--listen=127.0.0.1:0,format=raw",
    ]);
    let mut readers: Vec<_> = (0..3).map(|i| Client::connect_stuck(&server, i)).collect();
    let mut terminal = Client::connect_stuck(&server, 0);
    terminal.send_bytes(b"\r\n");
    for (i, reader) in readers.iter_mut().enumerate() {
        match i {
            0 => reader.expect_message(terminal.id(), ""),
            1 => assert_eq!(reader.read_json()["data"], ""),
            _ => reader.expect_line("\r"),
        }
    }
    let mut sender = Client::connect(&server);
    let mut done = Client::connect(&server);
    let mut flood = Flood::default();
    flood.send(&mut sender, 100_000);
    Flood::expect(&mut done, sender.id(), 1, 100_000);
    for _ in 0..3 {
        exec(&server);
    }
    flood.send(&mut sender, 1000);
    Flood::expect(&mut done, sender.id(), 100_001, 101_000);
    readers.iter().for_each(Client::wake);
    terminal.wake();
    let prefix = format!("Message from client {}: ", sender.id());
    for n in 1..=101_000 {
        readers[0].expect_message(sender.id(), &payload(n));
        // In full, and not parsed: there are many.
        readers[1].expect_line(&format!(
            r#"{{"event":"message","seq":{},"client":{},"data":"{}"}}"#,
            n + 1,
            sender.id(),
            payload(n)
        ));
        readers[2].expect_line(&payload(n));
        terminal.expect_line(&format!("{prefix}{}\r", payload(n)));
    }
}

#[test]
fn client_that_leaves_during_an_exec_gets_what_it_is_owed() {
    let server = Server::start(&["--no-notices", "--slow-grace=forever"]);
    let mut reader = Client::connect_stuck(&server, 0);
    let mut sender = Client::connect(&server);
    let mut done = Client::connect(&server);
    Flood::default().send(&mut sender, 100_000);
    Flood::expect(&mut done, sender.id(), 1, 100_000);
    reader.send_bytes(b"last words");
    reader.finish();
    done.expect_message(reader.id(), "last words");
    exec(&server);
    // Not for it any more.
    sender.send_line("later");
    done.expect_message(sender.id(), "later");
    reader.wake();
    Flood::expect(&mut reader, sender.id(), 1, 100_000);
    reader.expect_eof();
    server.wait_log(&format!(
        "client disconnected client={} reason=eof lines_in=1 lines_out=100000",
        reader.id()
    ));
}

/// A sender at full speed, in a thread of its own, until it is told to end.
fn send_until(mut socket: Socket, stop: &AtomicBool) -> u64 {
    let mut flood = Flood::default();
    while !stop.load(Relaxed) {
        let bytes = flood.lines(500);
        socket.write_all(&bytes).expect("the daemon takes it");
    }
    socket.write_all(b"end\n").expect("the daemon takes it");
    flood.sent
}

/// Many clients, each in the middle of a line; one sender at full speed; and handovers meanwhile.
#[track_caller]
fn lose_nothing(clients: usize, server: Server, handovers: impl FnOnce(Server) -> Server) {
    let mut sender = Client::connect(&server);
    let mut others: Vec<_> = (0..clients).map(|_| Client::connect(&server)).collect();
    for other in &mut others {
        other.send_bytes(b"begun, ");
    }
    let stop = AtomicBool::new(false);
    let (sent, server, mut others) = std::thread::scope(|scope| {
        let socket = sender.sender();
        let sending = scope.spawn(|| send_until(socket, &stop));
        let readers: Vec<_> = others
            .into_iter()
            .map(|mut other| {
                let from = sender.id();
                scope.spawn(move || (Flood::expect_all(&mut other, from), other))
            })
            .collect();
        let server = handovers(server);
        stop.store(true, Relaxed);
        let sent = sending.join().expect("the sender");
        let others: Vec<Client> = readers
            .into_iter()
            .map(|reader| {
                let (lines, other) = reader.join().expect("a reader");
                assert_eq!(lines, sent);
                other
            })
            .collect();
        (sent, server, others)
    });
    assert!(sent > 0);
    for other in &mut others {
        other.send_line("finished");
        sender.expect_message(other.id(), "begun, finished");
    }
    drop(server);
}

#[test]
fn three_execs_under_load_lose_nothing() {
    let server = Server::start(&["--no-notices", "--slow-grace=forever"]);
    lose_nothing(200, server, |server| {
        for _ in 0..3 {
            exec(&server);
        }
        server
    });
}

#[test]
fn execs_that_are_asked_for_at_once_do_not_end_the_daemon() {
    let server = Server::start(&["--no-notices"]);
    let mut one = Client::connect(&server);
    let mut two = Client::connect(&server);
    for _ in 0..200 {
        server.signal(Signal::USR2);
        marker(&mut one, &mut two);
    }
    let mut server = server;
    server.stop();
}

#[test]
fn a_program_that_is_not_fit_leaves_the_old_one_serving() {
    let dir = tempfile::tempdir().unwrap();
    let path = copied(dir.path());
    let mut server = Launch::new(&["--no-notices"]).binary(&path).start();
    let mut one = Client::connect(&server);
    let mut two = Client::connect(&server);
    let failures = [
        ("garbage", "it does not start"),
        ("#!/bin/sh\nexit 1\n", "it ends with exit status: 1"),
        (
            "#!/bin/sh\necho no such option >&2; exit 2\n",
            "no such option",
        ),
        ("#!/bin/sh\nexit 0\n", "it reads ''"),
        (
            "#!/bin/sh\necho linehub state 0\n",
            "it reads 'linehub state 0'",
        ),
        ("#!/bin/sh\nexec sleep 60\n", "it did not answer within 5s"),
    ];
    for (n, (program, reason)) in failures.into_iter().enumerate() {
        replace(&path, program);
        server.signal(Signal::USR2);
        marker(&mut one, &mut two);
        let lines = server.wait_log_count("handover failed: serving on", n + 1);
        assert!(lines[n].contains(reason), "{}", lines[n]);
        assert!(lines[n].contains(path.to_str().unwrap()), "{}", lines[n]);
        marker(&mut two, &mut one);
    }
    fs::remove_file(&path).unwrap();
    server.signal(Signal::USR2);
    server.wait_log_count("handover failed: serving on", failures.len() + 1);
    marker(&mut one, &mut two);
    // And once there is a good one, it goes.
    let new = dir.path().join("good");
    copy_to(&new);
    fs::rename(&new, &path).unwrap();
    server.signal(Signal::USR2);
    server.wait_log("taking over from the daemon before");
    marker(&mut one, &mut two);
    server.stop();
}

#[test]
fn configuration_that_the_next_daemon_refuses_leaves_the_old_one_serving() {
    // What is read again is the same command line: a wrapper stands for a program that refuses it.
    let dir = tempfile::tempdir().unwrap();
    let path = copied(dir.path());
    let server = Launch::new(&["--no-notices"]).binary(&path).start();
    let mut one = Client::connect(&server);
    let mut two = Client::connect(&server);
    replace(
        &path,
        &format!("#!/bin/sh\nexec {BINARY} --buffer=1 \"$@\"\n"),
    );
    server.signal(Signal::USR2);
    let line = server.wait_log("handover failed: serving on");
    assert!(line.contains("buffer"), "{line}");
    marker(&mut one, &mut two);
}

#[test]
fn exec_needs_no_proc() {
    let Some(unshare) = tool("unshare") else {
        return;
    };
    let allowed = Command::new(&unshare).args(["-rm", "true"]).output();
    if !allowed.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: no namespaces are allowed here");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let wrapper = dir.path().join("wrapper");
    let binary = copied(dir.path());
    // By a path that is relative, too.
    for name in [binary.to_str().unwrap(), "./linehub"] {
        let script = format!(
            "cd {}; mount -t tmpfs none /proc; exec {name} \"$@\"",
            dir.path().display()
        );
        let unshare = unshare.display();
        replace(
            &wrapper,
            &format!("#!/bin/sh\nexec {unshare} -rm sh -c '{script}' sh \"$@\"\n"),
        );
        let server = Launch::new(&["--no-notices"]).binary(&wrapper).start();
        let mut one = Client::connect(&server);
        let mut two = Client::connect(&server);
        two.send_bytes(b"half a ");
        exec(&server);
        let open = server.open_files();
        exec(&server);
        two.send_bytes(b"line\n");
        one.expect_message(two.id(), "half a line");
        assert_eq!(server.open_files(), open, "{name}");
        // And not for want of a trial.
        replace(&binary, "#!/bin/sh\necho no such option >&2; exit 2\n");
        server.signal(Signal::USR2);
        let line = server.wait_log("handover failed: serving on");
        assert!(line.contains("no such option"), "{line}");
        marker(&mut one, &mut two);
        fs::remove_file(&binary).unwrap();
        copied(dir.path());
    }
}

#[test]
fn stop_during_an_exec_is_a_stop() {
    for _ in 0..10 {
        let mut server = Server::start(&["--no-notices"]);
        let mut client = Client::connect(&server);
        server.signal(Signal::USR2);
        server.signal(Signal::TERM);
        client.expect_line("Server shutting down");
        client.expect_eof();
        drop(client);
        assert_eq!(server.wait_exit(PATIENCE).code(), Some(0));
    }
}

#[test]
fn stop_does_not_wait_for_a_program_that_hangs() {
    let dir = tempfile::tempdir().unwrap();
    let path = copied(dir.path());
    let mut server = Launch::new(&["--no-notices"]).binary(&path).start();
    let started = dir.path().join("started");
    replace(
        &path,
        &format!("#!/bin/sh\ntouch {}\nexec sleep 60\n", started.display()),
    );
    server.signal(Signal::USR2);
    eventually("the program is on trial", || started.exists());
    let mut client = Client::connect(&server);
    server.signal(Signal::TERM);
    client.expect_line("Server shutting down");
    client.expect_eof();
    drop(client);
    assert_eq!(server.wait_exit(PATIENCE).code(), Some(0));
    assert_eq!(server.count_log("handover failed: serving on"), 0);
}

#[test]
fn reload_is_not_lost_to_a_handover() {
    let dir = tempfile::tempdir().unwrap();
    let path = copied(dir.path());
    let file = dir.path().join("linehub.toml");
    fs::write(&file, "no-notices = true\n").unwrap();
    let config = format!("--config={}", file.display());
    let mut server = Launch::new(&[&config]).binary(&path).start();
    let started = dir.path().join("started");
    replace(
        &path,
        &format!("#!/bin/sh\ntouch {}\nexec sleep 60\n", started.display()),
    );
    server.signal(Signal::USR2);
    eventually("the program is on trial", || started.exists());
    fs::write(&file, "no-notices = true\nmax-line = 10\n").unwrap();
    server.signal(Signal::HUP);
    server.wait_log("handover failed: serving on");
    server.wait_log("configuration reloaded changed=max-line");
    server.stop();
}

#[test]
fn exec_keeps_listeners_of_every_kind_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hub.sock");
    let unix = format!("--listen=unix:{},format=raw", path.display());
    let mut server = Server::start(&["--no-notices", "--listen=127.0.0.1:0", &unix]);
    let mut tcp = Client::connect(&server);
    let mut raw = Client::connect_to(&server, 1);
    // What whoever runs the tests left open is gone after the first.
    exec(&server);
    let open = server.open_files();
    for _ in 0..3 {
        exec(&server);
        let mut late = Client::connect(&server);
        late.send_line("over TCP");
        tcp.expect_message(late.id(), "over TCP");
        raw.expect_line("over TCP");
        let mut late = Client::connect_to(&server, 1);
        late.send_line("over Unix");
        tcp.expect_message(late.id(), "over Unix");
        raw.expect_line("over Unix");
    }
    eventually("nothing is left open", || server.open_files() <= open);
    server.stop();
    assert!(!path.exists());
}

#[test]
fn restart_keeps_every_client_and_delivers_what_was_sent_meanwhile() {
    let manager = Manager::keeping();
    let args = ["--listen=127.0.0.1:0", "--listen=127.0.0.1:0,format=json"];
    let mut server = manager.launch(&args).start();
    let mut one = Client::connect(&server);
    let mut two = Client::connect(&server);
    let mut json = Client::connect_to(&server, 1);
    let last = format!("New client connected: {}", json.id());
    one.lines_until(&last);
    two.lines_until(&last);
    one.send_bytes(b"half a ");
    two.send_line("before");
    one.expect_message(two.id(), "before");
    assert_eq!(json.read_json()["seq"], 4);
    let address = server.addr(0).clone();

    server.stop();
    server.wait_log("handed over to the service manager clients=3");
    assert_eq!(server.count_log("client disconnected"), 0);
    drop(server);
    let mut stored = manager.stored();
    stored.sort();
    assert_eq!(stored, ["linehub-queue", "linehub-queue", "linehub-state"]);
    two.send_line("while it was down");
    one.send_bytes(b"line\n");
    // The listener is there too: who comes now waits and is served.
    let mut late = Client::dial(&address);
    late.send_line("in between");

    let mut server = manager.relaunch(&args).start();
    assert_eq!(server.addr(0), &address);
    let mut seen = [one.read_line(), one.read_line(), one.read_line()];
    seen.sort();
    assert_eq!(
        seen,
        [
            "Message from client 2: while it was down",
            "Message from client 4: in between",
            "New client connected: 4"
        ]
    );
    let mut lines: Vec<_> = (0..4).map(|_| json.read_json()).collect();
    lines.sort_by_key(|line| line["client"].as_u64());
    assert_eq!(lines[0]["data"], "half a line");
    assert!(lines.iter().all(|line| line["seq"].as_u64() > Some(4)));
    manager.wait("READY=1");
    eventually("the store is emptied", || manager.stored().is_empty());
    server.wait_log("client connected client=4");
    assert_eq!(server.count_log("client connected"), 1);
    server.stop();
}

#[test]
fn restarts_under_load_lose_nothing() {
    let manager = Manager::keeping();
    let args = [
        "--no-notices",
        "--slow-grace=forever",
        "--listen=127.0.0.1:0",
    ];
    let server = manager.launch(&args).start();
    lose_nothing(300, server, |mut server| {
        for _ in 0..2 {
            server = restart(&manager, server, &args);
        }
        server
    });
}

#[test]
fn exec_and_restart_follow_each_other() {
    let manager = Manager::keeping();
    let args = ["--no-notices", "--listen=127.0.0.1:0"];
    let server = manager.launch(&args).start();
    let mut one = Client::connect(&server);
    let mut two = Client::connect(&server);
    exec(&server);
    marker(&mut one, &mut two);
    let server = restart(&manager, server, &args);
    marker(&mut one, &mut two);
    exec(&server);
    marker(&mut two, &mut one);
    let server = restart(&manager, server, &args);
    marker(&mut one, &mut two);
    let late = Client::connect(&server);
    assert_eq!(late.id(), 3);
}

#[test]
fn sigint_stops_though_the_manager_keeps_descriptors() {
    let manager = Manager::keeping();
    let mut server = manager.launch(&[]).start();
    let mut client = Client::connect(&server);
    server.signal(Signal::INT);
    client.expect_line("Server shutting down");
    client.expect_eof();
    drop(client);
    assert_eq!(server.wait_exit(PATIENCE).code(), Some(0));
    assert!(manager.stored().is_empty());
}

/// The next daemon would refuse the file, and systemd 252 drops what it keeps for one that does not
/// start.
/// Restarts a daemon that does not hand over: what was on its way is delivered, clients are told, and it
/// ends well, with nothing left in the store. Returns the line of the log that says why.
fn failed_restart(
    manager: &Manager,
    server: &mut Server,
    one: &mut Client,
    two: &mut Client,
) -> String {
    one.send_line("on its way");
    server.signal(Signal::TERM);
    two.expect_message(1, "on its way");
    for client in [one, two] {
        client.expect_line("Server shutting down");
        client.expect_eof();
    }
    let line = server.wait_log("ERROR handover failed: stopping instead");
    assert_eq!(server.wait_exit(PATIENCE).code(), Some(0));
    assert!(manager.stored().is_empty());
    line
}

#[test]
fn restart_with_a_mistake_in_the_file_says_so_and_drains() {
    let manager = Manager::keeping();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("linehub.toml");
    fs::write(&file, "no-notices = true\n").unwrap();
    let args = ["--listen=127.0.0.1:0", "--config", file.to_str().unwrap()];
    let mut server = manager.launch(&args).start();
    let mut one = Client::connect(&server);
    let mut two = Client::connect(&server);
    fs::write(&file, "no-notices = maybe\n").unwrap();
    let line = failed_restart(&manager, &mut server, &mut one, &mut two);
    assert!(line.contains("linehub.toml:1: "), "{line}");
}

#[test]
fn restart_with_a_program_that_is_not_fit_says_so_and_drains() {
    let dir = tempfile::tempdir().unwrap();
    let path = copied(dir.path());
    for (program, reason) in [
        ("garbage", "it does not start"),
        (
            "#!/bin/sh\necho no such option >&2; exit 2\n",
            "no such option",
        ),
        (
            "#!/bin/sh\necho linehub state 2\n",
            "it reads 'linehub state 2'",
        ),
    ] {
        fs::remove_file(&path).unwrap();
        copied(dir.path());
        let manager = Manager::keeping();
        let mut server = manager.launch(&["--no-notices"]).binary(&path).start();
        let mut one = Client::connect(&server);
        let mut two = Client::connect(&server);
        replace(&path, program);
        let line = failed_restart(&manager, &mut server, &mut one, &mut two);
        assert!(line.contains(reason), "{line}");
        assert!(line.contains(path.to_str().unwrap()), "{line}");
    }
}

/// Of another command line or another environment in the unit, only the next daemon knows. It ends,
/// and systemd would give up, and drop the clients, if that was with 2.
#[test]
fn mistake_that_only_the_next_daemon_sees_costs_no_client() {
    let manager = Manager::keeping();
    let args = ["--no-notices", "--listen=127.0.0.1:0"];
    let mut server = manager.launch(&args).start();
    let mut one = Client::connect(&server);
    let mut two = Client::connect(&server);
    server.stop();
    drop(server);
    let mistakes = [
        ("--buffer=1", "", "--buffer"),
        ("--bufer=1MiB", "", "--bufer"),
        ("--no-notices", "1", "LINEHUB_BUFFER"),
    ];
    for (arg, buffer, named) in mistakes {
        let mut launch = manager.relaunch(&[&args[1..], &[arg]].concat());
        if !buffer.is_empty() {
            launch = launch.env("LINEHUB_BUFFER", buffer);
        }
        let exit = launch.run();
        assert_eq!(exit.code, Some(1), "{}", exit.stderr);
        assert!(exit.stderr.contains(named), "{}", exit.stderr);
        // With nobody to take up, it is for good.
        let mut launch = manager.launch(&[arg]);
        if !buffer.is_empty() {
            launch = launch.env("LINEHUB_BUFFER", buffer);
        }
        assert_eq!(launch.run().code, Some(2), "{named}");
    }
    let server = manager.relaunch(&args).start();
    server.wait_log("taking over from the daemon before clients=2");
    marker(&mut one, &mut two);
}

#[test]
fn admin_port_that_was_picked_stays_over_an_exec_and_a_restart() {
    let manager = Manager::keeping();
    let args = ["--listen=127.0.0.1:0", "--admin=127.0.0.1:0"];
    let server = manager.launch(&args).start();
    let before = server.admin();
    exec(&server);
    assert_eq!(server.admin(), before);
    let server = restart(&manager, server, &args);
    assert_eq!(server.admin(), before);
}

#[test]
fn manager_that_keeps_no_descriptors_means_a_drain() {
    let manager = Manager::start();
    let mut server = manager.launch(&[]).start();
    let mut client = Client::connect(&server);
    server.signal(Signal::TERM);
    client.expect_line("Server shutting down");
    client.expect_eof();
    drop(client);
    assert_eq!(server.wait_exit(PATIENCE).code(), Some(0));
}

#[test]
fn state_that_cannot_be_taken_up_means_a_fresh_start_and_nothing_leaks() {
    fn memory(text: &[u8]) -> OwnedFd {
        let flags = rustix::fs::MemfdFlags::CLOEXEC;
        let memory = rustix::fs::memfd_create("state", flags).expect("a memfd");
        let mut file = fs::File::from(memory);
        file.write_all(text).expect("memory");
        file.into()
    }
    let fresh = Server::start(&["--no-notices"]);
    let open = fresh.open_files();
    drop(fresh);
    let states: [(&[u8], &str); 6] = [
        (b"", "it is no state of linehub"),
        (b"\0\xff garbage", "cannot read the state"),
        (b"linehub state 999\n", "its version is 'linehub state 999'"),
        (b"linehub state 1\n", "its version is 'linehub state 1'"),
        (b"linehub state 6\n", "it is damaged"),
        (b"linehub state 6\n\x93\x01\x02\x03", "it is damaged"),
    ];
    for (state, reason) in states {
        let (_kept, queue) = std::os::unix::net::UnixStream::pair().unwrap();
        let manager = Manager::keeping();
        let server = manager
            .launch(&["--no-notices", "--listen=127.0.0.1:0"])
            .listeners(1)
            .pass("linehub-state", memory(state))
            .pass("linehub-queue", queue)
            .start();
        let line = server.wait_log("cannot take over from the daemon before: starting afresh");
        assert!(line.contains(reason), "{line}");
        manager.wait("FDNAME=linehub-state");
        manager.wait("FDNAME=linehub-queue");
        manager.wait("READY=1");
        eventually("nothing is left open", || server.open_files() <= open + 1);
        let mut one = Client::connect(&server);
        let mut two = Client::connect(&server);
        marker(&mut one, &mut two);
    }
}

#[test]
fn sockets_of_the_manager_stay_its_own_over_exec_and_restart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hub.sock");
    let unix = OwnedFd::from(UnixListener::bind(&path).unwrap());
    let tcp = OwnedFd::from(TcpListener::bind("127.0.0.1:0").unwrap());
    let passed = |launch: Launch| {
        launch
            .pass("json", tcp.try_clone().unwrap())
            .pass("text", unix.try_clone().unwrap())
            .listeners(2)
    };
    let manager = Manager::keeping();
    let mut server = passed(manager.launch(&["--no-notices"])).start();
    let mut json = Client::connect_to(&server, 0);
    let mut text = Client::connect_to(&server, 1);
    let mut check = |server: &Server, line: &str| {
        text.send_line(line);
        assert_eq!(json.read_json()["data"], line);
        // The two, in the format of their names, and nothing beside them.
        let mut late = Client::connect_to(server, 0);
        text.send_line(line);
        assert_eq!(late.read_json()["data"], line);
        assert_eq!(json.read_json()["data"], line);
        drop(late);
        Client::connect_to(server, 1);
    };
    check(&server, "before");
    manager.wait("READY=1");
    let pid = server.pid();
    exec(&server);
    // Said before, so that the next daemon has all of its time.
    assert_eq!(manager.wait("WATCHDOG=1").pid, pid);
    assert_eq!(manager.wait("READY=1").pid, pid);
    let environment = server.environment();
    assert!(
        environment
            .iter()
            .any(|line| line.starts_with("LINEHUB_STATE_FD="))
    );
    assert!(!environment.iter().any(|line| line.starts_with("LISTEN_")));
    assert_eq!(server.count_log("listening"), 4, "{:?}", server.log());
    check(&server, "after the exec");

    server.stop();
    drop(server);
    let server = passed(manager.relaunch(&["--no-notices"])).start();
    assert_eq!(server.count_log("listening"), 2, "{:?}", server.log());
    check(&server, "after the restart");
    drop(server);
    assert!(path.exists());
}

#[test]
fn listener_that_the_configuration_no_longer_names_closes_and_its_clients_stay() {
    let manager = Manager::keeping();
    let mut server = manager
        .launch(&[
            "--no-notices",
            "--listen=127.0.0.1:0",
            "--listen=127.0.0.1:0",
        ])
        .start();
    let mut one = Client::connect_to(&server, 0);
    let mut two = Client::connect_to(&server, 1);
    let gone = server.addr(1).clone();
    server.stop();
    drop(server);
    let server = manager
        .relaunch(&["--no-notices", "--listen=127.0.0.1:0", "--listen=[::1]:0"])
        .start();
    server.wait_log(&format!("closed a listener address={gone}"));
    marker(&mut one, &mut two);
    let mut late = Client::connect_to(&server, 1);
    marker(&mut late, &mut one);
    two.read_line();
    marker(&mut one, &mut two);
}

#[test]
fn listener_that_cannot_be_opened_after_a_handover_costs_no_client() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = format!("--listen={}", taken.local_addr().unwrap());
    let manager = Manager::keeping();
    let mut server = manager
        .launch(&["--no-notices", "--listen=127.0.0.1:0"])
        .start();
    let mut one = Client::connect(&server);
    let mut two = Client::connect(&server);
    server.stop();
    drop(server);
    let server = manager
        .relaunch(&["--no-notices", "--listen=127.0.0.1:0", &taken])
        .listeners(1)
        .start();
    server.wait_log("ERROR serving on without a listener");
    marker(&mut one, &mut two);
}

#[test]
fn unix_socket_whose_file_is_gone_is_opened_anew_and_costs_no_client() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hub.sock");
    let unix = format!("--listen=unix:{}", path.display());
    let args = ["--no-notices", "--listen=127.0.0.1:0", &unix];
    let manager = Manager::keeping();
    let server = manager.launch(&args).start();
    let mut tcp = Client::connect(&server);
    let mut local = Client::connect_to(&server, 1);
    fs::remove_file(&path).unwrap();
    exec(&server);
    marker(&mut tcp, &mut local);
    marker(&mut Client::connect_to(&server, 1), &mut tcp);
    local.read_line();

    fs::remove_file(&path).unwrap();
    let server = restart(&manager, server, &args);
    marker(&mut local, &mut tcp);
    marker(&mut Client::connect_to(&server, 1), &mut tcp);
    // Another daemon's file is not ours to remove.
    fs::remove_file(&path).unwrap();
    let _other = UnixListener::bind(&path).unwrap();
    let mut server = server;
    server.signal(Signal::INT);
    drop((tcp, local));
    assert_eq!(server.wait_exit(PATIENCE).code(), Some(0));
    assert!(path.exists());
}

#[test]
fn restart_keeps_unix_listeners_and_their_clients() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hub.sock");
    let unix = format!("--listen=unix:{},format=raw", path.display());
    let args = ["--no-notices", "--listen=127.0.0.1:0", &unix];
    let manager = Manager::keeping();
    let server = manager.launch(&args).start();
    let mut tcp = Client::connect(&server);
    let mut raw = Client::connect_to(&server, 1);
    raw.send_bytes(b"half a ");
    let server = restart(&manager, server, &args);
    raw.send_bytes(b"line\n");
    tcp.expect_message(raw.id(), "half a line");
    let mut late = Client::connect_to(&server, 1);
    late.send_line("x");
    raw.expect_line("x");
}

#[test]
fn line_that_is_half_written_or_half_read_ends_by_the_rules_it_began_under() {
    let long = "y".repeat(3_000_000);
    let manager = Manager::keeping();
    let before = [
        "--no-notices",
        "--listen=127.0.0.1:0",
        "--max-line=8MiB",
        "--slow-grace=forever",
        "--echo",
    ];
    let server = manager.launch(&before).start();
    let mut stuck = Client::connect_stuck(&server, 0);
    let mut reader = Client::connect(&server);
    // Its own line, of which it has not even half when `--echo` ends.
    for _ in 0..2 {
        stuck.send_line(&long);
        reader.expect_message(stuck.id(), &long);
    }
    let mut beginner = Client::connect(&server);
    beginner.send_line("ready");
    reader.expect_message(beginner.id(), "ready");
    beginner.expect_message(beginner.id(), "ready");
    beginner.send_bytes(&[b'z'; 2000]);

    let after = ["--no-notices", "--listen=127.0.0.1:0", "--max-line=1KiB"];
    let server = restart(&manager, server, &after);
    beginner.send_line("!");
    reader.expect_message(beginner.id(), &format!("{}!", "z".repeat(2000)));
    stuck.wake();
    stuck.expect_message(stuck.id(), &long);
    // What it had not begun to get is its own, and for the daemon of today to leave out.
    stuck.expect_message(beginner.id(), "ready");
    stuck.expect_message(beginner.id(), &format!("{}!", "z".repeat(2000)));
    // From now on the new limit holds.
    beginner.send_bytes(&[b'z'; 2000]);
    beginner.expect_line("Error: line too long (limit 1024 bytes)");
    drop(server);
}

#[test]
fn manager_with_too_little_room_means_a_drain() {
    let manager = Manager::keeping_at_most(2);
    let mut server = manager.launch(&["--no-notices"]).start();
    let mut client = Client::connect(&server);
    server.signal(Signal::TERM);
    client.expect_line("Server shutting down");
    client.expect_eof();
    drop(client);
    assert_eq!(server.wait_exit(PATIENCE).code(), Some(0));
    assert!(manager.stored().is_empty());
}

#[test]
fn what_a_trial_left_in_the_store_means_nothing_and_is_removed() {
    let manager = Manager::keeping();
    let (_ours, probe) = std::io::pipe().unwrap();
    let server = manager
        .launch(&["--no-notices", "--listen=127.0.0.1:0"])
        .listeners(1)
        .pass("linehub-probe", probe)
        .start();
    manager.wait("FDNAME=linehub-probe");
    manager.wait("READY=1");
    assert_eq!(server.count_log("ERROR"), 0, "{:?}", server.log());
}

#[test]
fn handover_that_is_asked_for_during_a_reload_comes_after_it() {
    let server = Server::start(&["--no-notices"]);
    let mut one = Client::connect(&server);
    let mut two = Client::connect(&server);
    for n in 1..=20 {
        server.signal(Signal::HUP);
        server.signal(Signal::USR2);
        server.wait_log_count("taking over from the daemon before", n);
        marker(&mut one, &mut two);
    }
}

#[test]
fn stop_just_before_and_after_an_exec_is_a_stop() {
    for words in ["handing over", "taking over"] {
        for _ in 0..5 {
            let mut server = Server::start(&["--no-notices"]);
            let mut client = Client::connect(&server);
            server.signal(Signal::USR2);
            server.wait_log(words);
            server.signal(Signal::TERM);
            client.expect_line("Server shutting down");
            client.expect_eof();
            drop(client);
            assert_eq!(server.wait_exit(PATIENCE).code(), Some(0));
        }
    }
}

#[test]
fn channel_that_goes_on_without_its_history_begins_another_beside_the_old_each_time() {
    let dir = tempfile::tempdir().expect("a directory");
    let history_dir = format!("--history-dir={}", dir.path().display());
    let without = ["--listen=127.0.0.1:0,hello", "--no-notices"];
    let with = [&without[..], &["--history=1MiB", &history_dir]].concat();
    let manager = Manager::keeping();
    let mut server = manager.launch(&with).start();
    let (mut one, place) = Client::introduced(server.addr(0), "");
    let (mut two, _) = Client::introduced(server.addr(0), "");
    let mut epochs = vec![place.epoch];
    for round in 0..3 {
        one.send_line("kept");
        two.expect_message(one.id(), "kept");
        server = restart(&manager, server, &without);
        one.send_line("not kept");
        two.expect_message(one.id(), "not kept");
        server = restart(&manager, server, &with);
        one.send_line("kept again");
        two.expect_message(one.id(), "kept again");

        let (mut newest, at) = Client::introduced(server.addr(0), "history=100");
        newest.expect_message(one.id(), "kept again");
        assert_eq!(at.seq, 3 * round + 2);
        // Numbers of the epoch before may be gone on with where it was left.
        assert!(!epochs.contains(&at.epoch));
        epochs.push(at.epoch);
        assert_eq!(server.count_log("ERROR"), 0, "{:?}", server.log());
    }
    let folders = fs::read_dir(dir.path()).expect("the directory");
    let folders = folders.filter(|entry| entry.as_ref().expect("an entry").path().is_dir());
    assert_eq!(folders.count(), 1 + 3, "none is lost");
}
