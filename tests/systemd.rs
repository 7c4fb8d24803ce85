use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::time::Duration;

use rustix::process::Signal;
use socket2::{Domain, SockRef, Socket, Type};

use crate::common::{Address, Client, Event, Flood, Launch, Manager, PATIENCE, eventually, marker};

/// A listening socket as a socket unit would open it, and its address.
fn listening(address: &str) -> (OwnedFd, String) {
    let listener = TcpListener::bind(address).unwrap();
    let address = listener.local_addr().unwrap();
    (listener.into(), address.to_string())
}

fn duplicate(descriptor: &OwnedFd) -> OwnedFd {
    descriptor.try_clone().unwrap()
}

#[test]
fn ready_is_said_first_by_the_daemon_itself_and_whoever_comes_then_is_served() {
    for manager in [Manager::start(), Manager::start_abstract()] {
        let (tcp, address) = listening("127.0.0.1:0");
        let server = manager
            .launch(&["--listen=127.0.0.1:0"])
            .pass("text", tcp)
            .start();
        let ready = manager.wait("READY=1");
        assert_eq!(ready.pid, server.pid());
        assert_eq!(manager.messages()[0].text, "READY=1");
        assert_eq!(server.addr(0).to_string(), address);
        let mut inherited = Client::connect_to(&server, 0);
        let mut opened = Client::connect_to(&server, 1);
        inherited.expect_line("New client connected: 2");
        marker(&mut inherited, &mut opened);
    }
}

#[test]
fn without_a_manager_and_with_an_empty_address_nothing_is_said_about_it() {
    for launch in [Launch::new(&[]), Launch::new(&[]).env("NOTIFY_SOCKET", "")] {
        let mut server = launch.start();
        server.stop();
        assert_eq!(server.count_log("notify"), 0, "{:?}", server.log());
    }
}

#[test]
fn a_manager_that_cannot_be_reached_is_named_once_and_the_daemon_serves() {
    let dir = tempfile::tempdir().unwrap();
    let nobody = dir.path().join("nobody").display().to_string();
    for address in [&nobody, "vsock:2:1234", "relative"] {
        let launch = Launch::new(&[]).env("NOTIFY_SOCKET", address);
        let mut server = launch.watchdog(Duration::from_millis(20)).start();
        let mut one = Client::connect(&server);
        let mut two = Client::connect(&server);
        one.expect_line("New client connected: 2");
        marker(&mut one, &mut two);
        drop((one, two));
        server.stop();
        let complaints = server.count_log("WARN cannot notify the service manager");
        assert_eq!(complaints, 1, "{address}: {:?}", server.log());
    }
}

#[test]
fn a_manager_that_takes_no_messages_holds_nobody_up() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let deaf = UnixDatagram::bind(&path).unwrap();
    let filler = UnixDatagram::unbound().unwrap();
    filler.set_nonblocking(true).unwrap();
    while filler.send_to(b"FILLED=1", &path).is_ok() {}

    let launch = Launch::new(&[]).env("NOTIFY_SOCKET", path.to_str().unwrap());
    let mut server = launch.watchdog(Duration::from_millis(20)).start();
    let mut one = Client::connect(&server);
    let mut two = Client::connect(&server);
    one.expect_line("New client connected: 2");
    marker(&mut one, &mut two);
    server.wait_log("WARN cannot notify the service manager");
    marker(&mut two, &mut one);
    drop((one, two));
    server.stop();
    drop(deaf);
}

#[test]
fn a_manager_that_was_started_anew_is_told_on() {
    let manager = Manager::start();
    let server = manager
        .launch(&[])
        .watchdog(Duration::from_millis(100))
        .start();
    manager.wait("WATCHDOG=1");
    let manager = manager.restart();
    manager.wait("WATCHDOG=1");
    drop(server);
}

#[test]
fn status_tells_clients_and_lines_and_is_sent_only_when_it_changed() {
    let manager = Manager::start();
    let server = manager.launch(&["--no-notices"]).start();
    manager.wait("READY=1");
    manager.wait("STATUS=0 clients, 0 lines/s in, 0 lines/s out");
    let mut sender = Client::connect(&server);
    let mut readers: Vec<_> = (0..3).map(|_| Client::connect(&server)).collect();
    let mut flood = Flood::default();
    flood.send(&mut sender, 1_000);
    for reader in &mut readers {
        Flood::expect(reader, sender.id(), 1, 1_000);
    }
    let lively = manager.wait_for("lively status", |message| {
        message
            .value("STATUS")
            .is_some_and(|status| status.starts_with("4 clients, "))
    });
    let number = |text: &str| text.split(' ').next().unwrap().parse::<u64>().unwrap();
    let parts: Vec<&str> = lively.value("STATUS").unwrap().split(", ").collect();
    let (lines_in, lines_out) = (number(parts[1]), number(parts[2]));
    assert!(lines_in > 0, "{lively:?}");
    assert!(lines_out.abs_diff(3 * lines_in) <= 2, "{lively:?}");
    manager.wait("STATUS=4 clients, 0 lines/s in, 0 lines/s out");
    let messages = manager.messages();
    let statuses: Vec<_> = messages.iter().filter_map(|m| m.value("STATUS")).collect();
    assert!(
        statuses.windows(2).all(|two| two[0] != two[1]),
        "{statuses:?}"
    );
}

#[test]
fn reload_that_failed_is_said_until_the_next_one_that_goes_well() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("linehub.toml");
    let write = |text: &str| std::fs::write(&file, text).unwrap();
    write("listen = '127.0.0.1:0'\n");
    let manager = Manager::start();
    let launch = manager.launch(&["--config", file.to_str().unwrap()]);
    let mut server = launch.listen_as_configured().start();
    manager.wait("READY=1");
    manager.wait("STATUS=0 clients, 0 lines/s in, 0 lines/s out");
    let mistakes = [
        (
            format!("listen = ['127.0.0.1:0', '{taken}']\n"),
            format!("cannot listen on {taken}: Address already in use"),
        ),
        (
            "listen = 'x'\n".to_owned(),
            format!("{}:1: ", file.display()),
        ),
    ];
    for (text, reason) in mistakes {
        write(&text);
        server.signal(Signal::HUP);
        manager.wait_for("reloading", |message| message.has("RELOADING=1"));
        // In the message that ends the reload, so that whoever waits for it sees why.
        let ready = manager.wait("READY=1");
        let status = ready.value("STATUS").unwrap();
        assert!(status.starts_with("reload failed: "), "{status}");
        assert!(status.contains(&reason), "{status}");
        // And with the stats, before or after that message.
        let whole = format!("STATUS={status}; 0 clients, 0 lines/s in, 0 lines/s out");
        eventually("the stats stay", || {
            manager
                .messages()
                .iter()
                .any(|message| message.text == whole)
        });
    }
    let client = Client::connect(&server);
    manager.wait_for("the client", |message| {
        let status = message.value("STATUS").unwrap_or_default();
        status.starts_with("reload failed: ") && status.contains("; 1 client, ")
    });
    write("listen = '127.0.0.1:0'\nno-notices = true\n");
    server.signal(Signal::HUP);
    let ready = manager.wait("READY=1");
    assert_eq!(ready.text, "READY=1");
    eventually("the stats are alone again", || {
        let messages = manager.messages();
        let status = messages
            .iter()
            .rev()
            .find_map(|message| message.value("STATUS"));
        status.is_some_and(|status| status.starts_with("1 client, "))
    });
    drop(client);
    server.stop();
}

#[test]
fn stopping_is_said_with_the_time_it_may_take_and_who_is_left() {
    let manager = Manager::start();
    let mut server = manager
        .launch(&["--no-notices", "--drain-timeout=10m"])
        .start();
    let mut client = Client::connect(&server);
    // More than its kernel takes: one that had everything would not be waited for.
    let stays = Client::connect_stuck(&server, 0);
    Flood::default().send(&mut client, 60_000);
    server.signal(Signal::TERM);
    let stopping = manager.wait("STOPPING=1");
    assert!(
        stopping.has("EXTEND_TIMEOUT_USEC=605000000"),
        "{stopping:?}"
    );
    client.expect_line("Server shutting down");
    client.expect_eof();
    drop(client);
    manager.wait("STATUS=draining, 1 client left");
    drop(stays);
    assert_eq!(server.wait_exit(PATIENCE).code(), Some(0));
}

#[test]
fn the_watchdog_is_fed_twice_in_its_time_and_load_does_not_starve_it() {
    const TIMEOUT: Duration = Duration::from_secs(1);
    let manager = Manager::start();
    let server = manager
        .launch(&["--no-notices", "--worker-threads=1", "--slow-grace=forever"])
        .watchdog(TIMEOUT)
        .start();
    let mut readers: Vec<_> = (0..20).map(|_| Client::connect(&server)).collect();
    let mut sender = Client::connect(&server);
    let bytes = Flood::default().lines(1_000);
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            while stopped.try_recv().is_err() {
                sender.send_bytes(&bytes);
            }
        });
        for reader in &mut readers {
            // To the end, which comes when the daemon is stopped.
            scope.spawn(move || while let Event::Line(_) = reader.next() {});
        }
        let mut last = manager.wait("WATCHDOG=1");
        for _ in 0..6 {
            let beat = manager.wait("WATCHDOG=1");
            let gap = beat.at - last.at;
            assert!(gap < TIMEOUT, "{gap:?} between two beats");
            assert_eq!(beat.pid, server.pid());
            last = beat;
        }
        stop.send(()).unwrap();
        server.signal(Signal::TERM);
    });
}

#[test]
fn connections_of_an_inherited_socket_are_served_on_by_the_next_daemon() {
    let (socket, _) = listening("127.0.0.1:0");
    let manager = Manager::keeping();
    let launch = || {
        let launch = manager.relaunch(&["--no-notices"]);
        launch.pass("x", duplicate(&socket)).listeners(1)
    };
    let mut server = launch().start();
    let mut stays = Client::connect(&server);
    server.stop();
    assert!(!manager.stored().is_empty());
    manager.wait("STOPPING=1");

    let mut server = launch().start();
    assert_eq!(manager.wait("READY=1").pid, server.pid());
    let mut comes = Client::connect(&server);
    marker(&mut stays, &mut comes);
    marker(&mut comes, &mut stays);
    assert_eq!(manager.stored(), Vec::<String>::new());
    drop((stays, comes));
    server.stop();
}

#[test]
fn the_watchdog_of_another_process_is_not_fed() {
    let manager = Manager::start();
    let launch = manager.launch(&["--no-notices"]).env("WATCHDOG_PID", "1");
    let mut server = launch.env("WATCHDOG_USEC", "100000").start();
    let mut one = Client::connect(&server);
    let mut two = Client::connect(&server);
    marker(&mut one, &mut two);
    drop((one, two));
    server.stop();
    manager.wait("STOPPING=1");
    let beat = manager
        .messages()
        .into_iter()
        .find(|message| message.has("WATCHDOG=1"));
    assert!(beat.is_none(), "{beat:?}");
}

#[test]
fn inherited_sockets_of_every_kind_are_served_in_the_format_of_their_names() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hub.sock");
    let unix = OwnedFd::from(UnixListener::bind(&path).unwrap());
    let (ipv4, ipv4_address) = listening("127.0.0.1:0");
    let (ipv6, ipv6_address) = listening("[::1]:0");
    let manager = Manager::start();
    let mut server = manager
        .launch(&["--format=raw", "--no-notices"])
        .pass("json", ipv4)
        .pass("linehub.socket", ipv6)
        .pass("text", unix)
        .start();
    manager.wait("READY=1");
    // And nothing else: the default address is not opened beside them.
    assert_eq!(server.count_log("listening"), 3, "{:?}", server.log());
    server.wait_log(&format!("listening address={ipv4_address} format=json"));
    server.wait_log(&format!("listening address={ipv6_address} format=raw"));
    let unix_address = format!("unix:{}", path.display());
    server.wait_log(&format!("listening address={unix_address} format=text"));

    let mut json = Client::connect_to(&server, 0);
    let mut raw = Client::connect_to(&server, 1);
    let mut text = Client::connect_to(&server, 2);
    text.send_line("hello");
    assert_eq!(json.read_json()["data"], "hello");
    raw.expect_line("hello");
    json.send_line("world");
    raw.expect_line("world");
    text.expect_message(json.id(), "world");
    drop((json, raw, text));

    // The file is the manager's: it stays, for the next daemon to be reached by.
    server.stop();
    assert!(path.exists());
}

#[test]
fn a_socket_unit_named_after_the_daemon_is_a_listener_like_any_other() {
    let (socket, address) = listening("127.0.0.1:0");
    let server = Launch::new(&[]).pass("linehub-json.socket", socket).start();
    assert_eq!(server.addr(0).to_string(), address);
    let mut one = Client::connect(&server);
    let mut two = Client::connect(&server);
    one.expect_line("New client connected: 2");
    marker(&mut one, &mut two);
}

#[test]
fn an_address_that_is_inherited_is_not_opened_again_and_keeps_its_typed_format() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hub.sock");
    let unix = OwnedFd::from(UnixListener::bind(&path).unwrap());
    let (tcp, address) = listening("127.0.0.1:0");
    let server = Launch::new(&[
        &format!("--listen={address},format=raw"),
        &format!("--listen=unix:{},format=json", path.display()),
        "--listen=127.0.0.1:0",
    ])
    .pass("json", tcp)
    .pass("hub", unix)
    .listeners(3)
    .start();
    server.wait_log(&format!("listening address={address} format=raw"));
    server.wait_log(&format!(
        "listening address=unix:{} format=json",
        path.display()
    ));
    server.wait_log("listening format=text");
    let mut raw = Client::connect_to(&server, 0);
    let mut text = Client::connect_to(&server, 2);
    raw.send_line("hello");
    text.expect_message(raw.id(), "hello");
    assert_eq!(server.count_log("listening"), 3, "{:?}", server.log());
}

#[test]
fn an_inherited_ipv6_wildcard_serves_the_ipv4_wildcard_of_its_port_too() {
    let (socket, address) = listening("[::]:0");
    let port = address.rsplit_once(':').unwrap().1;
    let server = Launch::new(&[&format!("--listen=0.0.0.0:{port},format=raw")])
        .pass("x", socket)
        .listeners(1)
        .start();
    server.wait_log(&format!("listening address=[::]:{port} format=raw"));
    let ipv4 = Address::Tcp(format!("127.0.0.1:{port}").parse().unwrap());
    let client = Client::dial(&ipv4);
    server.wait_log(&format!("client connected peer={}", client.local_address()));
}

#[test]
fn beside_an_inherited_ipv4_wildcard_the_ipv6_one_is_opened_for_ipv6() {
    let (socket, address) = listening("0.0.0.0:0");
    let port = address.rsplit_once(':').unwrap().1;
    let server = Launch::new(&[&format!("--listen=[::]:{port},format=raw")])
        .pass("text", socket)
        .start();
    server.wait_log(&format!("listening address=0.0.0.0:{port} format=text"));
    server.wait_log(&format!("listening address=[::]:{port} format=raw"));
}

#[test]
fn an_inherited_listener_has_the_same_options_as_one_of_our_own() {
    let (socket, _) = listening("127.0.0.1:0");
    let kept = Socket::from(duplicate(&socket));
    assert!(!kept.tcp_nodelay().unwrap() && !kept.keepalive().unwrap());
    let server = Launch::new(&[]).pass("x", socket).start();
    let client = Client::connect(&server);
    // An option of the listener's is one of every connection's that it accepts.
    assert!(kept.tcp_nodelay().unwrap());
    assert!(kept.keepalive().unwrap());
    assert!(kept.out_of_band_inline().unwrap());
    assert!(kept.nonblocking().unwrap());
    assert_eq!(kept.tcp_keepalive_time().unwrap(), Duration::from_secs(30));
    // It would end a peer that answers and only reads slowly: see `slow`.
    assert_eq!(kept.tcp_user_timeout().unwrap(), None);
    let flags = std::fs::read_to_string(format!("/proc/{}/fdinfo/3", server.pid())).unwrap();
    let flags = flags
        .lines()
        .find_map(|line| line.strip_prefix("flags:"))
        .unwrap();
    let flags = u32::from_str_radix(flags.trim(), 8).unwrap();
    assert_ne!(flags & 0o2_000_000, 0, "no CLOEXEC: {flags:o}");
    drop(client);
}

#[test]
fn who_connects_while_no_daemon_runs_is_served_by_the_next_one() {
    let (socket, address) = listening("127.0.0.1:0");
    let address = Address::Tcp(address.parse().unwrap());
    let mut early = Client::dial(&address);
    early.send_line("first");
    for round in 0..2 {
        let mut server = Launch::new(&["--no-notices"])
            .pass("x", duplicate(&socket))
            .start();
        server.wait_log(&format!("client connected peer={}", early.local_address()));
        let mut late = Client::connect(&server);
        early.send_line("second");
        // The first line may have been before its time.
        let line = late.read_line();
        assert!(
            line.ends_with(": first") || line.ends_with(": second"),
            "{round}: {line}"
        );
        server.signal(Signal::TERM);
        late.lines_until("Server shutting down");
        early.lines_until("Server shutting down");
        drop((late, early));
        assert_eq!(server.wait_exit(PATIENCE).code(), Some(0));
        early = Client::dial(&address);
        early.send_line("first");
    }
}

#[test]
fn what_is_no_listener_is_one_line_that_names_it_and_exit_1() {
    let connected = UnixStream::pair().unwrap();
    let idle = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let seqpacket = Socket::new(Domain::UNIX, Type::SEQPACKET, None).unwrap();
    let pipe = std::io::pipe().unwrap();
    let cases: [(OwnedFd, &str); 5] = [
        (
            UdpSocket::bind("127.0.0.1:0").unwrap().into(),
            "ListenStream=",
        ),
        (connected.0.into(), "Accept=no"),
        (idle.into(), "a connection, not a listener"),
        (seqpacket.into(), "ListenStream="),
        (pipe.0.into(), "no socket"),
    ];
    for (descriptor, word) in cases {
        let (good, _) = listening("127.0.0.1:0");
        let exit = Launch::new(&[])
            .pass("good", good)
            .pass("bad one", descriptor)
            .run();
        assert_eq!(exit.code, Some(1), "{word}: {}", exit.stderr);
        assert_eq!(exit.stderr.lines().count(), 1, "{word}: {}", exit.stderr);
        for part in ["bad one", "descriptor 4", word] {
            assert!(exit.stderr.contains(part), "{part}: {}", exit.stderr);
        }
    }
}

#[test]
fn variables_that_do_not_agree_with_the_descriptors_are_named_and_exit_1() {
    for (name, value) in [
        ("LISTEN_FDS", "9"),
        ("LISTEN_FDS", "many"),
        ("LISTEN_FDS", "4294967295"),
        ("LISTEN_FDNAMES", "one:two"),
    ] {
        let (socket, _) = listening("127.0.0.1:0");
        let exit = Launch::new(&[]).pass("x", socket).env(name, value).run();
        assert_eq!(exit.code, Some(1), "{name}={value}: {}", exit.stderr);
        assert_eq!(
            exit.stderr.lines().count(),
            1,
            "{name}={value}: {}",
            exit.stderr
        );
        assert!(
            exit.stderr.contains(name),
            "{name}={value}: {}",
            exit.stderr
        );
    }
}

#[test]
fn descriptors_that_are_meant_for_another_process_are_left_alone() {
    let (socket, address) = listening("127.0.0.1:0");
    let launch = Launch::new(&["--listen=127.0.0.1:0"]).pass("x", socket);
    let server = launch.env("LISTEN_PID", "1").listeners(1).start();
    assert_ne!(server.addr(0).to_string(), address);
    Client::connect(&server);
    assert_eq!(server.count_log("listening"), 1, "{:?}", server.log());
}

#[test]
fn one_inherited_socket_cannot_be_given_two_formats() {
    let (socket, address) = listening("[::]:0");
    let port = address.rsplit_once(':').unwrap().1;
    let exit = Launch::new(&[
        &format!("--listen=[::]:{port},format=raw"),
        &format!("--listen=0.0.0.0:{port},format=json"),
    ])
    .pass("x", socket)
    .run();
    assert_eq!(exit.code, Some(1), "{}", exit.stderr);
    assert!(
        exit.stderr.contains("cannot have two formats"),
        "{}",
        exit.stderr
    );
}

#[test]
fn an_inherited_address_that_is_in_the_way_of_a_typed_one_is_named() {
    let (socket, address) = listening("127.0.0.1:0");
    let wider = address.replace("127.0.0.1", "0.0.0.0");
    let exit = Launch::new(&["--listen", &wider]).pass("x", socket).run();
    assert_eq!(exit.code, Some(1), "{}", exit.stderr);
    for part in [
        format!("cannot listen on {wider}"),
        format!("{address} is listened on"),
    ] {
        assert!(exit.stderr.contains(&part), "{part}: {}", exit.stderr);
    }
}

#[test]
fn check_leaves_inherited_sockets_and_the_manager_alone() {
    let manager = Manager::start();
    let (socket, _) = listening("127.0.0.1:0");
    let kept = duplicate(&socket);
    let exit = manager.launch(&["--check"]).pass("x", socket).run();
    assert_eq!(exit.code, Some(0), "{}", exit.stderr);
    assert!(!SockRef::from(&kept.as_fd()).tcp_nodelay().unwrap());
    assert!(manager.messages().is_empty(), "{:?}", manager.messages());
}
