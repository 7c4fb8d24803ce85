use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use command_fds::{CommandFdExt, FdMapping};
use socket2::{Domain, Socket, Type};

use crate::common::http::{get, get_json};
use crate::common::{
    Authority, Client, Event, Launch, Manager, Program, Server, exec, marker, restart, tool,
};

const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Where headers say that their client is.
const SOURCE: &str = "192.0.2.7:4660";

const LINE: &[u8] = b"PROXY TCP4 192.0.2.7 192.0.2.1 4660 2345\r\n";

/// A daemon whose listeners, in this order, take local connections for those of a proxy: a plain one, one
/// with `hello`; and one that knows of no proxy here.
#[track_caller]
fn start(args: &[&str]) -> Server {
    let listeners = [
        "--listen=127.0.0.1:0,proxy=127.0.0.1",
        "--listen=127.0.0.1:0,proxy=127.0.0.1,hello",
        "--listen=127.0.0.1:0,proxy=192.0.2.0/24",
        "--admin=127.0.0.1:0",
        "--log=debug",
    ];
    Launch::new(&[args, &listeners].concat())
        .listeners(3)
        .start()
}

const PROXIED: usize = 0;
const HELLO: usize = 1;
const PLAIN: usize = 2;

/// A header of version 2.
fn binary(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [V2, &[command, family], &length, rest].concat()
}

/// The one that an AWS Network Load Balancer sends with 84 bytes of addresses, checksum, endpoint and
/// padding, for [`SOURCE`].
fn of_nlb() -> Vec<u8> {
    let rest = [
        b"\xc0\x00\x02\x07\xc0\x00\x02\x01\x12\x34\x09\x29\x03\x00\x04\0\0\0\0",
        &b"\xea\x00\x17\x01vpce-08d2bf15fac5001c9\x04\x00\x24"[..],
        &[0; 36],
    ];
    let mut header = binary(0x21, 0x11, &rest.concat());
    assert_eq!(header.len(), 16 + 84);
    let checksum = crc32c::crc32c(&header).to_be_bytes();
    header[31..35].copy_from_slice(&checksum);
    header
}

/// Connects, and sends this in one piece.
#[track_caller]
fn dial(server: &Server, i: usize, first: impl AsRef<[u8]>) -> Client {
    let mut client = Client::dial(server.addr(i));
    client.send_bytes(first.as_ref());
    client
}

/// Where this client is, as the lists have it.
#[track_caller]
fn peer_of(server: &Server, id: u64) -> String {
    let clients = get_json(&server.admin(), "/clients");
    let clients = clients["clients"].as_array().unwrap();
    let client = clients.iter().find(|client| client["id"] == id).unwrap();
    client["peer"].as_str().unwrap().to_owned()
}

/// How many connections were closed for their header.
#[track_caller]
fn refused(server: &Server) -> f64 {
    let metrics = get(&server.admin(), "/metrics");
    metrics.sample("linehub_connections_closed_total{reason=\"proxy\"}")
}

/// The next client that comes is the one with this number, and the watcher was told of nobody before.
#[track_caller]
fn nobody_came(server: &Server, watcher: &mut Client, next: u64) {
    let client = Client::connect_to(server, PLAIN);
    watcher.expect_line(&format!("New client connected: {next}"));
    assert_eq!(client.id(), next);
    drop(client);
    watcher.expect_line(&format!("Client disconnected: {next}"));
}

#[test]
fn header_and_first_line_in_one_packet_come_from_whom_it_names() {
    let server = start(&[]);
    let mut watcher = Client::connect_to(&server, PLAIN);
    let v6 = b"\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x07\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\x12\x34\x09\x29";
    let headers = [
        (LINE.to_owned(), SOURCE),
        (of_nlb(), SOURCE),
        (binary(0x21, 0x21, v6), "[2001:db8::7]:4660"),
        (
            b"PROXY TCP6 ::ffff:192.0.2.7 ::1 4660 1\r\n".to_vec(),
            SOURCE,
        ),
    ];
    for (id, (header, peer)) in (2..).zip(headers) {
        let client = dial(&server, PROXIED, [&header, &b"hello\nhalf"[..]].concat());
        watcher.expect_line(&format!("New client connected: {id}"));
        watcher.expect_message(id, "hello");
        assert_eq!(peer_of(&server, id), peer);
        server.wait_log(&format!("client connected client={id} peer={peer}"));
        drop(client);
        watcher.expect_message(id, "half");
        watcher.expect_line(&format!("Client disconnected: {id}"));
        // The connection itself ends behind the notice.
        server.wait_log(&format!("client disconnected client={id}"));
    }
    let closed = get_json(&server.admin(), "/closed");
    assert_eq!(closed["closed"][0]["peer"], SOURCE);
}

#[test]
fn header_in_pieces_is_taken_whole_and_costs_nothing_while_it_is_awaited() {
    let server = start(&[]);
    let mut watcher = Client::connect_to(&server, PLAIN);
    for (id, header) in (2..).zip([LINE.to_owned(), of_nlb()]) {
        let bytes = [&header, &b"hello\n"[..]].concat();
        let mut client = Client::dial(server.addr(PROXIED));
        let before = server.cpu();
        for (at, byte) in bytes.iter().enumerate() {
            client.send_bytes(&[*byte]);
            if at == header.len() / 2 {
                // A daemon that looked again and again would compute all of this time.
                std::thread::sleep(Duration::from_millis(500));
                assert!(server.cpu() - before < Duration::from_millis(250));
            }
        }
        watcher.expect_line(&format!("New client connected: {id}"));
        watcher.expect_message(id, "hello");
        assert_eq!(peer_of(&server, id), SOURCE);
        drop(client);
        watcher.expect_line(&format!("Client disconnected: {id}"));
    }
}

#[test]
fn what_is_no_header_closes_the_connection_and_is_no_client() {
    let server = start(&[]);
    let mut watcher = Client::connect_to(&server, PLAIN);
    let longest = format!("PROXY UNKNOWN {}\r\n", "x".repeat(91));
    assert_eq!(longest.len(), 107);
    let client = dial(&server, PROXIED, format!("{longest}hello\n"));
    watcher.expect_line("New client connected: 2");
    watcher.expect_message(2, "hello");
    drop(client);
    watcher.expect_line("Client disconnected: 2");

    let mut wrong_checksum = of_nlb();
    wrong_checksum[34] ^= 1;
    let expected = "PROXY protocol header expected";
    let in_line = "PROXY protocol header of version 1 is invalid";
    let too_long = "PROXY protocol header is too long";
    let longer = longest.replace("\r\n", "x\r\n");
    let wrong: [(&[u8], _); 10] = [
        (b"hello\n", expected),
        (b"GET / HTTP/1.1\r\n\r\n", expected),
        (b"\x16\x03\x01\x02\x00\x01\x00", expected),
        (b"PROXY TCP4 192.0.2.7 192.0.2.1 4660 23456\n", in_line),
        (b"PROXY TCP4 192.0.2.7 192.0.2.1 4660 70000\r\n", in_line),
        (longer.as_bytes(), too_long),
        (&binary(0x21, 0x11, &[0; 5000]), too_long),
        (
            &binary(0x22, 0x11, &[0; 12]),
            "PROXY protocol header has values that are unassigned",
        ),
        (
            &binary(0x21, 0x11, &[0; 11]),
            "PROXY protocol header is shorter than what it has to hold",
        ),
        (
            &wrong_checksum,
            "PROXY protocol header has a wrong checksum",
        ),
    ];
    for (i, (bytes, words)) in wrong.iter().enumerate() {
        // With `hello`, too: the header comes first.
        for listener in [PROXIED, HELLO] {
            let mut client = dial(&server, listener, bytes);
            client.expect_line(&format!("Error: {words}"));
            client.expect_eof();
        }
        assert_eq!(refused(&server), 2.0 * (i + 1) as f64);
    }
    // One that ends inside its header is none, and one that ends before it is no mistake.
    let mut half = dial(&server, PROXIED, &LINE[..20]);
    half.finish();
    half.expect_line(&format!("Error: {expected}"));
    half.expect_eof();
    let mut none = Client::dial(server.addr(PROXIED));
    none.finish();
    none.expect_eof();
    assert_eq!(refused(&server), 21.0);
    server.wait_log_count("connection refused reason=proxy", 21);
    nobody_came(&server, &mut watcher, 3);
    assert_eq!(server.count_log("WARN"), 0);
}

#[test]
fn whoever_is_no_proxy_is_not_looked_at_for_a_header() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let unix = format!("--listen=unix:{},proxy=0.0.0.0/0", path.display());
    let listeners = [
        "--listen=127.0.0.1:0,proxy=127.0.0.2",
        unix.as_str(),
        "--admin=127.0.0.1:0",
    ];
    let server = Launch::new(&listeners).listeners(2).start();
    let mut watcher = Client::connect(&server);
    let line = "PROXY TCP4 192.0.2.7 192.0.2.1 4660 2345";
    for (id, i) in [(2, 0), (3, 1)] {
        let mut client = Client::connect_to(&server, i);
        watcher.expect_line(&format!("New client connected: {id}"));
        client.send_line(line);
        watcher.expect_message(id, line);
        drop(client);
        watcher.expect_line(&format!("Client disconnected: {id}"));
    }
    // On the same listener, from the address that is one.
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let from: SocketAddr = (Ipv4Addr::new(127, 0, 0, 2), 0).into();
    socket.bind(&from.into()).unwrap();
    let to: SocketAddr = server.addr(0).to_string().parse().unwrap();
    socket.connect(&to.into()).unwrap();
    let mut proxied = Client::over(socket, 4);
    proxied.send_bytes(&[LINE, b"hello\n"].concat());
    watcher.expect_line("New client connected: 4");
    watcher.expect_message(4, "hello");
    assert_eq!(peer_of(&server, 4), SOURCE);
}

#[test]
fn health_check_is_no_client_and_makes_no_noise() {
    let server = start(&[]);
    let mut watcher = Client::connect_to(&server, PLAIN);
    let checks = [
        binary(0x20, 0x00, &[]),
        // As haproxy sends it with a checksum.
        binary(0x20, 0x00, b"\x03\x00\x04\xa9\xb8~\x8f"),
        binary(0x20, 0x11, &[0; 12]),
        binary(0x20, 0x00, &[0x55; 3000]),
    ];
    for (i, header) in checks.iter().enumerate() {
        for (listener, resets) in [(PROXIED, false), (PROXIED, true), (HELLO, false)] {
            let mut check = dial(&server, listener, header);
            match resets {
                true => check.reset(),
                false => {
                    check.finish();
                    check.expect_eof();
                }
            }
        }
        server.wait_log_count("health check", 3 * (i + 1));
    }
    // One that does not close is closed, and so is one that goes on to speak.
    let mut stays = dial(&server, PROXIED, &checks[0]);
    assert!(matches!(stays.next(), Event::Eof(_) | Event::Reset));
    let mut speaks = dial(&server, PROXIED, [&checks[0], &b"hello\n"[..]].concat());
    assert!(matches!(speaks.next(), Event::Eof(_) | Event::Reset));
    // Version 1 has no LOCAL: haproxy names the connection itself, and closes it.
    let mut itself = Client::dial(server.addr(PROXIED));
    let (from, to) = (itself.local_address().port(), server.addr(PROXIED).port());
    itself.send_bytes(format!("PROXY TCP4 127.0.0.1 127.0.0.1 {from} {to}\r\n").as_bytes());
    itself.reset();
    server.wait_log_count("health check", 15);
    nobody_came(&server, &mut watcher, 2);
    assert_eq!(refused(&server), 0.0);
    let noise = server.log().into_iter().filter(|line| {
        let is_debug = line.contains("DEBUG");
        !is_debug && line.contains(&server.addr(PROXIED).to_string()) && !line.contains("listening")
    });
    assert_eq!(noise.collect::<Vec<_>>(), Vec::<String>::new());
}

#[test]
fn connection_whose_client_is_not_named_is_the_proxys() {
    let server = start(&[]);
    let mut watcher = Client::connect_to(&server, PLAIN);
    let headers = [
        b"PROXY UNKNOWN\r\n".to_vec(),
        binary(0x21, 0x00, &[]),
        binary(0x21, 0x31, &[b'/'; 216]),
    ];
    for (id, header) in (2..).zip(headers) {
        let client = dial(&server, PROXIED, header);
        watcher.expect_line(&format!("New client connected: {id}"));
        assert_eq!(peer_of(&server, id), client.local_address().to_string());
        drop(client);
        watcher.expect_line(&format!("Client disconnected: {id}"));
    }
    // One that is named by the connection's own address is a client if it speaks or stays.
    for (id, line) in [(5, "hello\n"), (6, "")] {
        let mut client = Client::dial(server.addr(PROXIED));
        let own = client.local_address().port();
        let header = format!("PROXY TCP4 127.0.0.1 127.0.0.1 {own} 1\r\n{line}");
        client.send_bytes(header.as_bytes());
        watcher.expect_line(&format!("New client connected: {id}"));
        if !line.is_empty() {
            watcher.expect_message(id, "hello");
        }
        drop(client);
        watcher.expect_line(&format!("Client disconnected: {id}"));
    }
}

#[test]
fn header_comes_before_the_hello() {
    let server = start(&[]);
    let mut watcher = Client::connect_to(&server, PLAIN);
    let first = [LINE, b"LINEHUB/1 role=publish\nhello\n"].concat();
    let mut client = dial(&server, HELLO, first);
    watcher.expect_line("New client connected: 2");
    watcher.expect_message(2, "hello");
    assert!(client.read_line().starts_with("Hello client 2: "));
    assert_eq!(peer_of(&server, 2), SOURCE);
    let mut wrong = dial(&server, HELLO, [LINE, b"hello\n"].concat());
    wrong.expect_line("Error: hello expected");
    wrong.expect_eof();
    server.wait_log(&format!(
        "connection refused peer={SOURCE} reason=bad_hello"
    ));
}

#[test]
fn header_has_its_time_from_the_first_byte_on() {
    let server = start(&["--hello-timeout=500ms"]);
    let mut watcher = Client::connect_to(&server, PLAIN);
    // Who listens only is silent, and so may be its load balancer until it speaks.
    let mut silent = Client::dial(server.addr(PROXIED));
    for (listener, first) in [(PROXIED, &LINE[..9]), (HELLO, &LINE[..9]), (HELLO, b"")] {
        let mut client = dial(&server, listener, first);
        client.expect_line("Error: PROXY protocol header expected within 0.5s");
        client.expect_eof();
    }
    assert_eq!(refused(&server), 3.0);
    silent.send_bytes(LINE);
    watcher.expect_line("New client connected: 2");
    assert_eq!(peer_of(&server, 2), SOURCE);
    let mut slow = dial(&server, HELLO, LINE);
    slow.expect_line("Error: hello expected within 0.5s");
    slow.expect_eof();
}

#[test]
fn half_a_header_is_finished_with_the_next_daemon() {
    let manager = Manager::keeping();
    let args = [
        "--no-notices",
        "--listen=127.0.0.1:0,proxy=127.0.0.1",
        "--listen=127.0.0.1:0,proxy=127.0.0.1,hello",
        "--listen=127.0.0.1:0",
    ];
    let mut server = manager.launch(&args).start();
    let mut watcher = Client::connect_to(&server, PLAIN);
    let nlb = of_nlb();
    for by_exec in [true, false, true] {
        let mut silent = Client::dial(server.addr(PROXIED));
        let mut line = dial(&server, PROXIED, &LINE[..LINE.len() - 1]);
        let mut binary = dial(&server, PROXIED, &nlb[..90]);
        // Its header is taken, and half of its hello.
        let mut hello = dial(&server, HELLO, [LINE, b"LINE"].concat());
        // A client of a proxy stays where it was.
        let mut client = dial(&server, PROXIED, [LINE, b"before\n"].concat());
        assert!(watcher.read_line().ends_with(": before"));
        if by_exec {
            exec(&server);
        } else {
            server = restart(&manager, server, &args);
        }
        silent.send_bytes(&[LINE, b"silent\n"].concat());
        assert!(watcher.read_line().ends_with(": silent"));
        line.send_bytes(b"\nline\n");
        assert!(watcher.read_line().ends_with(": line"));
        binary.send_bytes(&[&nlb[90..], b"binary\n"].concat());
        assert!(watcher.read_line().ends_with(": binary"));
        hello.send_bytes(b"HUB/1\nhello\n");
        assert!(watcher.read_line().ends_with(": hello"));
        client.send_line("after");
        assert!(watcher.read_line().ends_with(": after"));
    }
}

/// Starts haproxy with these sections, in which `fd@3` and the next are sockets at the addresses that are
/// returned; `None` if there is no haproxy here.
fn haproxy(sections: &str) -> Option<(Haproxy, [SocketAddr; FRONTS])> {
    // Debian has it where only root looks.
    let debian = PathBuf::from("/usr/sbin/haproxy");
    let program = debian
        .is_file()
        .then_some(debian)
        .or_else(|| tool("haproxy"))?;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("haproxy.cfg");
    let defaults = "mode tcp\n timeout connect 10s\n timeout client 1h\n timeout server 1h";
    std::fs::write(&file, format!("defaults\n {defaults}\n{sections}\n")).unwrap();
    let fronts = [(); FRONTS].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let addresses = fronts.each_ref().map(|front| front.local_addr().unwrap());
    let mappings = fronts
        .into_iter()
        .zip(3..)
        .map(|(front, child_fd)| FdMapping {
            parent_fd: front.into(),
            child_fd,
        });
    let mut command = Command::new(program);
    command.arg("-f").arg(&file);
    command.fd_mappings(mappings.collect()).unwrap();
    Some(((Program::spawn(&mut command), dir), addresses))
}

/// A running haproxy, with the place of its file.
type Haproxy = (Program, tempfile::TempDir);

/// The sockets of a [`haproxy`] that clients connect to.
const FRONTS: usize = 3;

#[test]
fn haproxy_brings_its_clients_and_checks_without_a_notice() {
    let server = start(&[]);
    let mut watcher = Client::connect_to(&server, PLAIN);
    let to = server.addr(PROXIED);
    let Some((_haproxy, fronts)) = haproxy(&format!(
        "listen v1\n bind fd@3\n server s {to} send-proxy check inter 100ms\n\
         listen v2\n bind fd@4\n server s {to} send-proxy-v2 check check-send-proxy inter 100ms\n\
         listen checksum\n bind fd@5\n unique-id-format %ci:%cp\n server s {to} send-proxy-v2 \
         proxy-v2-options crc32c,unique-id check inter 100ms"
    )) else {
        return;
    };
    server.wait_log_count("health check", 20);
    for (id, front) in (2..).zip(fronts) {
        let socket = std::net::TcpStream::connect(front).unwrap();
        let mut client = Client::over(socket.into(), id);
        let peer = client.local_address();
        watcher.expect_line(&format!("New client connected: {id}"));
        server.wait_log(&format!("client connected client={id} peer={peer}"));
        assert_eq!(peer_of(&server, id), peer.to_string());
        marker(&mut client, &mut watcher);
        marker(&mut watcher, &mut client);
        client.send_bytes(b"rest");
        client.finish();
        watcher.expect_message(id, "rest");
        watcher.expect_line(&format!("Client disconnected: {id}"));
        client.expect_eof();
    }
    let checks = server.count_log("health check");
    server.wait_log_count("health check", checks + 10);
    nobody_came(&server, &mut watcher, 5);
    assert_eq!(refused(&server), 0.0);
    assert_eq!(server.count_log("INFO client connected"), 5);
}

#[test]
fn haproxy_that_sends_no_header_is_refused() {
    let server = start(&[]);
    let to = server.addr(PROXIED);
    let section = format!("listen none\n bind fd@3\n server s {to}");
    let Some((_haproxy, fronts)) = haproxy(&section) else {
        return;
    };
    let socket = std::net::TcpStream::connect(fronts[0]).unwrap();
    let mut client = Client::over(socket.into(), 0);
    client.send_line("hello");
    client.expect_line("Error: PROXY protocol header expected");
    client.expect_eof();
    assert_eq!(refused(&server), 1.0);
}

/// haproxy in front of a listener with TLS: it passes on the TLS of its clients, or speaks it itself.
#[test]
fn header_comes_before_tls_and_checks_over_tls_succeed() {
    let authority = Authority::new();
    let pair = authority.server();
    let server = Launch::new(&[
        "--listen=127.0.0.1:0,tls,proxy=127.0.0.1",
        "--listen=127.0.0.1:0",
        &format!("--tls-cert={}", pair.certificate),
        &format!("--tls-key={}", pair.key),
        "--admin=127.0.0.1:0",
        "--log=debug",
    ])
    .listeners(2)
    .start();
    let mut watcher = Client::connect_to(&server, 1);
    let (to, trust) = (server.addr(0), &authority.certificate);
    let checked = "check fall 1 rise 1 inter 100ms";
    let Some((_haproxy, fronts)) = haproxy(&format!(
        "listen passes\n bind fd@3\n server s {to} send-proxy-v2 {checked}\n\
         listen speaks\n bind fd@4\n server s {to} ssl ca-file {trust} verify required \
         sni str(localhost) send-proxy-v2 {checked}\n\
         listen version-1\n bind fd@5\n server s {to} ssl ca-file {trust} verify required \
         sni str(localhost) send-proxy {checked}"
    )) else {
        return;
    };
    // A check that fails once takes the server away, and with it those that follow it less often.
    server.wait_log_count("health check", 30);
    for (id, front) in (2..).zip(&fronts[1..]) {
        let socket = std::net::TcpStream::connect(front).unwrap();
        let mut client = Client::over(socket.into(), id);
        let peer = client.local_address().to_string();
        watcher.expect_line(&format!("New client connected: {id}"));
        assert_eq!(peer_of(&server, id), peer);
        marker(&mut client, &mut watcher);
        marker(&mut watcher, &mut client);
        drop(client);
        watcher.expect_line(&format!("Client disconnected: {id}"));
    }
    if let Some(openssl) = tool("openssl") {
        let mut command = Command::new(openssl);
        command.args([
            "s_client",
            "-quiet",
            "-verify_return_error",
            "-CAfile",
            trust,
        ]);
        let mut client = Program::spawn(command.args(["-connect", &fronts[0].to_string()]));
        watcher.expect_line("New client connected: 4");
        client.type_in(b"hello\n");
        watcher.expect_message(4, "hello");
    }
    let metrics = get(&server.admin(), "/metrics");
    for reason in ["tls", "proxy"] {
        let sample = format!("linehub_connections_closed_total{{reason=\"{reason}\"}}");
        assert_eq!(metrics.sample(&sample), 0.0, "{reason}");
    }
}
