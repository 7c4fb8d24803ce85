use std::fs;
use std::net::TcpListener;
use std::os::fd::OwnedFd;

use rustix::process::Signal;

use crate::common::{Address, Client, Launch, Manager, Server, eventually, marker};

/// A port that was free a moment ago.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// Connects by a listener that the test knows the port of.
#[track_caller]
fn connect(server: &Server, port: u16) -> Client {
    let before = server.count_log("client connected");
    let client = Client::dial(&Address::Tcp(([127, 0, 0, 1], port).into()));
    server.wait_log_count("client connected", before + 1);
    client
}

/// Replaces the program by itself and waits until it serves again.
#[track_caller]
fn exec(server: &Server) {
    server.wait_log("phase=running");
    let before = server.count_log("phase=running");
    server.signal(Signal::USR2);
    server.wait_log_count("phase=running", before + 1);
    assert_eq!(server.count_log("handover failed"), 0);
}

#[track_caller]
fn reload(server: &Server) {
    let before = server.count_log("configuration reloaded");
    server.signal(Signal::HUP);
    server.wait_log_count("configuration reloaded", before + 1);
}

#[test]
fn strings_and_tables_mean_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("linehub.toml");
    let ports = [free_port(), free_port(), free_port()];
    let address = ports.map(|port| format!("127.0.0.1:{port}"));
    let [one, two, three] = &address;
    for text in [
        format!(
            "listen = ['{one},role=subscribe,format=json', '{two},line-end=any,role=publish', \
             '{three},http-guard=off,line-end=nul,format=raw']"
        ),
        format!(
            "listen = [{{ address = '{one}', role = 'subscribe', format = 'json' }}, \
             {{ address = '{two}', line-end = 'any', role = 'publish' }}, \
             {{ address = '{three}', http-guard = false, line-end = 'nul', format = 'raw' }}]"
        ),
        format!(
            "[[listen]]\naddress = '{one}'\nrole = 'subscribe'\nformat = 'json'\n\
             [[listen]]\naddress = '{two}'\nrole = 'publish'\nline-end = 'any'\n\
             [[listen]]\naddress = '{three}'\nformat = 'raw'\nline-end = 'nul'\nhttp-guard = 'off'\n"
        ),
    ] {
        fs::write(&path, format!("no-notices = true\n{text}")).unwrap();
        let mut server = Launch::new(&["--config", path.to_str().unwrap()])
            .listen_as_configured()
            .listeners(3)
            .start();
        server.wait_log(&format!(
            "listening address={one} format=json role=subscribe"
        ));
        server.wait_log(&format!(
            "listening address={two} format=text role=publish line_end=any"
        ));
        server.wait_log(&format!(
            "listening address={three} format=raw line_end=nul http_guard=false"
        ));
        let mut subscriber = Client::connect_to(&server, 0);
        let mut publisher = Client::connect_to(&server, 1);
        let mut nul = Client::connect_to(&server, 2);
        subscriber.send_line("lost");
        publisher.send_bytes(b"one\r");
        nul.expect_line("one");
        nul.send_bytes(b"GET / HTTP/1.1\0");
        assert_eq!(subscriber.read_json()["data"], "one");
        assert_eq!(subscriber.read_json()["data"], "GET / HTTP/1.1");
        server.stop();
        publisher.expect_eof();
    }
}

#[test]
fn http_guard_of_a_listener_overrules_that_of_the_daemon() {
    for (daemon, keys, closed) in [
        ("on", "", true),
        ("on", ",http-guard=off", false),
        ("on", ",http-guard", true),
        ("off", "", false),
        ("off", ",http-guard", true),
        ("off", ",http-guard=off", false),
    ] {
        let server = Server::start(&[
            "--no-notices",
            "--listen=127.0.0.1:0",
            &format!("--http-guard={daemon}"),
            &format!("--listen=127.0.0.1:0{keys}"),
        ]);
        let mut observer = Client::connect(&server);
        let mut page = Client::connect_to(&server, 1);
        page.send_bytes(b"GET / HTTP/1.1\n");
        page.finish();
        let reason = if closed { "http" } else { "eof" };
        server.wait_log(&format!(
            "client disconnected client={} reason={reason}",
            page.id()
        ));
        if !closed {
            observer.expect_message(page.id(), "GET / HTTP/1.1");
        }
        marker(&mut Client::connect(&server), &mut observer);
    }
}

#[test]
fn reload_changes_options_for_newcomers_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("linehub.toml");
    let [plain, changing] = [free_port(), free_port()];
    let write = |keys: &str| {
        let listen = format!("listen = ['127.0.0.1:{plain}', '127.0.0.1:{changing}{keys}']");
        fs::write(&path, format!("no-notices = true\n{listen}")).unwrap();
    };
    write(",role=subscribe");
    let server = Launch::new(&["--config", path.to_str().unwrap()])
        .listen_as_configured()
        .listeners(2)
        .start();
    let mut observer = Client::connect_to(&server, 0);
    let mut subscriber = connect(&server, changing);
    for (keys, logged) in [
        (",role=publish", "role=publish"),
        (
            ",role=publish,http-guard=off",
            "role=publish http_guard=false",
        ),
        (",line-end=any", "line_end=any"),
        (",line-end=nul,format=raw", "format=raw line_end=nul"),
    ] {
        write(keys);
        reload(&server);
        server.wait_log(&format!("listening address=127.0.0.1:{changing} {logged}"));
    }
    let lines = server.count_log("listening");
    // Nothing is said of what has not changed.
    reload(&server);
    assert_eq!(server.count_log("listening"), lines);
    write(",role=publish");
    reload(&server);
    let mut publisher = connect(&server, changing);
    write(",line-end=any");
    reload(&server);
    let mut any = connect(&server, changing);
    write("");
    reload(&server);
    let mut both = connect(&server, changing);

    subscriber.send_line("lost");
    publisher.send_line("of the publisher");
    observer.expect_message(3, "of the publisher");
    any.expect_message(3, "of the publisher");
    any.send_bytes(b"of any\r");
    observer.expect_message(4, "of any");
    both.expect_message(3, "of the publisher");
    both.expect_message(4, "of any");
    both.send_bytes(b"a\rb\n");
    observer.expect_message(5, "a\\x0db");
    for (from, text) in [(3, "of the publisher"), (4, "of any"), (5, "a\\x0db")] {
        subscriber.expect_message(from, text);
    }
    // A listener that is gone leaves its clients as they are, too.
    fs::write(
        &path,
        format!("no-notices = true\nlisten = '127.0.0.1:{plain}'"),
    )
    .unwrap();
    reload(&server);
    server.wait_log(&format!("closed a listener address=127.0.0.1:{changing}"));
    subscriber.send_line("lost");
    any.send_bytes(b"x\ry\r");
    observer.expect_message(4, "x");
    observer.expect_message(4, "y");
    marker(&mut observer, &mut Client::connect_to(&server, 0));
    publisher.finish();
    publisher.expect_eof();
}

#[test]
fn socket_of_the_service_manager_has_the_options_of_its_entry() {
    let socket = || TcpListener::bind("127.0.0.1:0").unwrap();
    let sockets = [socket(), socket(), socket()];
    let addresses = [0, 1, 2].map(|i: usize| sockets[i].local_addr().unwrap());
    let [subscribe, any, unlisted] = sockets;
    let server = Launch::new(&[
        "--no-notices",
        &format!("--listen={},role=subscribe", addresses[0]),
        &format!("--listen={},line-end=any,role=publish", addresses[1]),
    ])
    .pass("raw", OwnedFd::from(subscribe))
    .pass("hub", OwnedFd::from(any))
    .pass("json", OwnedFd::from(unlisted))
    .listeners(3)
    .start();
    server.wait_log(&format!(
        "listening address={} format=text role=subscribe",
        addresses[0]
    ));
    server.wait_log(&format!(
        "listening address={} role=publish line_end=any",
        addresses[1]
    ));
    let mut subscriber = connect(&server, addresses[0].port());
    let mut publisher = connect(&server, addresses[1].port());
    let mut json = connect(&server, addresses[2].port());
    subscriber.send_line("lost");
    publisher.send_bytes(b"one\r");
    assert_eq!(json.read_json()["data"], "one");
    subscriber.expect_message(2, "one");
    json.send_line("two");
    subscriber.expect_message(3, "two");
}

#[test]
fn exec_keeps_options_and_half_lines_of_clients_whatever_the_configuration_says_then() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("linehub.toml");
    let ports: Vec<u16> = (0..6).map(|_| free_port()).collect();
    let before = [
        "",
        ",role=subscribe",
        ",role=publish",
        ",line-end=any",
        ",line-end=nul",
        ",http-guard=off",
    ];
    let after = [
        "",
        "",
        ",role=subscribe",
        ",line-end=nul",
        "",
        ",line-end=any",
    ];
    let write = |keys: &[&str; 6]| {
        let listen = ports
            .iter()
            .zip(keys)
            .map(|(port, keys)| format!("'127.0.0.1:{port}{keys}'"));
        let listen = listen.collect::<Vec<_>>().join(", ");
        fs::write(&path, format!("no-notices = true\nlisten = [{listen}]")).unwrap();
    };
    write(&before);
    let mut server = Launch::new(&["--config", path.to_str().unwrap()])
        .listen_as_configured()
        .listeners(6)
        .start();
    let mut all: Vec<_> = (0..6).map(|i| Client::connect_to(&server, i)).collect();
    let ids: Vec<_> = all.iter().map(Client::id).collect();
    let texts: [&[u8]; 6] = [
        b"x",
        b"lost, half",
        b"half",
        b"one\r",
        b"two\0three\n",
        b"half",
    ];
    for (client, text) in all.iter_mut().zip(texts) {
        client.send_bytes(text);
    }
    let mut expected = vec![(ids[3], "one"), (ids[4], "two")];
    let got: Vec<String> = (0..2).map(|_| all[0].read_line()).collect();
    for (id, text) in &expected {
        assert!(
            got.contains(&format!("Message from client {id}: {text}")),
            "{got:?}"
        );
    }
    if got[0].contains("two") {
        expected.reverse();
    }
    for _ in 0..2 {
        write(&after);
        exec(&server);
        server.wait_log(&format!(
            "listening address=127.0.0.1:{} line_end=nul",
            ports[3]
        ));
    }
    all[1].send_bytes(b" a line\nlost\n");
    let texts: [(usize, &[u8], &[&str]); 4] = [
        (2, b" a line\n", &["half a line"]),
        // The LF belongs to the CR before; so does none of what follows.
        (3, b"\na\rb\0c\r", &["a", "b\\x00c"]),
        // The LF before the handover belongs to this NUL.
        (4, b"\0x\0\n", &["three", "x"]),
        (5, b" a\rline\n", &["half a\\x0dline"]),
    ];
    for (i, text, lines) in texts {
        all[i].send_bytes(text);
        for line in lines {
            all[0].expect_message(ids[i], line);
            expected.push((ids[i], line));
        }
    }
    for (id, text) in &expected {
        all[1].expect_message(*id, text);
    }
    // Newcomers have what is configured now.
    let mut both = connect(&server, ports[1]);
    both.send_line("heard");
    all[0].expect_line(&format!("Message from client {}: heard", ids[5] + 1));
    let mut subscriber = connect(&server, ports[2]);
    subscriber.send_line("lost");
    let mut any = connect(&server, ports[5]);
    any.send_bytes(b"at once\r");
    all[0].expect_line(&format!("Message from client {}: at once", ids[5] + 3));
    subscriber.expect_line(&format!("Message from client {}: at once", ids[5] + 3));
    server.stop();
    all[2].expect_eof();
}

#[test]
fn store_keeps_options_of_clients_for_a_daemon_that_is_configured_otherwise() {
    let manager = Manager::keeping();
    let [plain, other] = [free_port(), free_port()];
    let listen = |keys: &str| {
        [
            "--no-notices".to_owned(),
            format!("--listen=127.0.0.1:{plain}"),
            format!("--listen=127.0.0.1:{other}{keys}"),
        ]
    };
    let start = |launch: Launch| launch.listeners(2).start();
    let args = listen(",role=subscribe");
    let args = args.each_ref().map(String::as_str);
    let mut server = start(manager.launch(&args));
    let mut observer = Client::connect_to(&server, 0);
    let mut subscriber = connect(&server, other);
    let mut newest: Vec<Client> = Vec::new();
    for keys in ["", ",role=publish,line-end=any", ",role=subscribe"] {
        server.stop();
        server.wait_log("handed over to the service manager");
        drop(server);
        let args = listen(keys);
        let args = args.each_ref().map(String::as_str);
        server = start(manager.relaunch(&args));
        server.wait_log("phase=running");
        eventually("the store is emptied", || manager.stored().is_empty());
        subscriber.send_line("lost");
        newest.push(connect(&server, other));
    }
    // 3 is both, 4 publishes and ends lines in CR, 5 subscribes.
    newest[2].send_line("lost");
    newest[1].send_bytes(b"four\r");
    observer.expect_message(4, "four");
    newest[0].send_bytes(b"th\rree\n");
    observer.expect_message(3, "th\\x0dree");
    for (from, text) in [(4, "four"), (3, "th\\x0dree")] {
        subscriber.expect_message(from, text);
        newest[2].expect_message(from, text);
    }
    newest[0].expect_message(4, "four");
}
