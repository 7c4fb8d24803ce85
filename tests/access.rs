use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use rustix::process::Signal;
use socket2::{Domain, Socket, Type};

use crate::common::http::get;
use crate::common::{Client, Event, Launch, Server, eventually, exec, marker};

/// Connects from this address of loopback.
fn dial_from(server: &Server, i: usize, ip: [u8; 4]) -> Client {
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, server.addr(i).port()));
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((ip, 0)).into()).unwrap();
    socket.connect(&to.into()).unwrap();
    Client::over(socket, 0)
}

/// Connects from this address, and is a client once it gets this one's line.
fn join_from(server: &Server, ip: [u8; 4], sender: &mut Client) -> Client {
    let mut client = dial_from(server, 0, ip);
    while !sender.read_line().starts_with("New client connected: ") {}
    sender.send_line("welcome");
    client.expect_message(sender.id(), "welcome");
    client
}

fn config(text: &str) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("linehub.toml");
    std::fs::write(&path, text).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (dir, path)
}

fn reload(server: &Server, path: &str, text: &str) {
    // A reload ends with its phase.
    server.wait_log("phase=running");
    let before = server.count_log("phase=running");
    std::fs::write(path, text).unwrap();
    server.signal(Signal::HUP);
    server.wait_log_count("phase=running", before + 1);
}

fn refused(server: &Server, ip: [u8; 4], words: &str) {
    let mut client = dial_from(server, 0, ip);
    client.expect_line(words);
    client.expect_eof();
}

#[test]
fn only_allowed_addresses_come_in_and_deny_wins() {
    let server = Server::start(&[
        "--allow=127.0.0.0/8",
        "--deny=127.0.0.2",
        "--admin=127.0.0.1:0",
        "--listen=127.0.0.1:0",
        "--listen=127.0.0.1:0,allow=127.0.0.2,deny=none,format=json",
        "--listen=127.0.0.1:0,format=raw",
    ]);
    let mut one = Client::connect(&server);
    refused(&server, [127, 0, 0, 2], "Error: not allowed");
    // The lists of a listener take the place of the daemon's.
    let mut json = Client::dial(server.addr(1));
    let error = json.read_json();
    assert_eq!(
        (&error["event"], &error["reason"]),
        (&"error".into(), &"denied".into())
    );
    json.expect_eof();
    let mut raw = dial_from(&server, 2, [127, 0, 0, 2]);
    assert_eq!(raw.next(), Event::Reset);
    let _two = dial_from(&server, 1, [127, 0, 0, 2]);
    // Who was refused was no client: no id, no notice.
    one.expect_line("New client connected: 2");
    let metrics = get(&server.admin(), "/metrics");
    let refused = "linehub_connections_closed_total{reason=\"denied\"}";
    assert_eq!(metrics.sample(refused), 3.0, "{}", metrics.body);
}

#[test]
fn reload_closes_who_is_denied_and_holds_for_newcomers() {
    let listen = "listen = '127.0.0.1:0'\n";
    let (_dir, path) = config(listen);
    let server = Launch::new(&["--config", &path])
        .listen_as_configured()
        .start();
    let mut one = Client::connect(&server);
    let mut two = join_from(&server, [127, 0, 0, 2], &mut one);
    reload(&server, &path, &format!("{listen}deny = ['127.0.0.2']\n"));
    two.expect_line("Error: not allowed any more");
    two.expect_eof();
    one.expect_line("Client disconnected: 2");
    server.wait_log("client disconnected client=2 reason=denied");
    refused(&server, [127, 0, 0, 2], "Error: not allowed");
    reload(&server, &path, listen);
    let _three = join_from(&server, [127, 0, 0, 2], &mut one);
}

#[test]
fn address_has_so_many_clients_and_gets_their_places_back() {
    let server = Server::start(&["--max-clients-per-address=2", "--admin=127.0.0.1:0"]);
    let mut one = Client::connect(&server);
    let two = join_from(&server, [127, 0, 0, 2], &mut one);
    let three = join_from(&server, [127, 0, 0, 2], &mut one);
    let words = "Error: too many connections from 127.0.0.2";
    refused(&server, [127, 0, 0, 2], words);
    // However a client goes.
    two.reset();
    one.expect_line("Client disconnected: 2");
    let four = join_from(&server, [127, 0, 0, 2], &mut one);
    refused(&server, [127, 0, 0, 2], words);
    let metrics = get(&server.admin(), "/metrics");
    let refused = "linehub_connections_closed_total{reason=\"too_many\"}";
    assert_eq!(metrics.sample(refused), 2.0, "{}", metrics.body);
    drop((three, four));
}

#[test]
fn limit_per_address_counts_who_was_there_before_a_reload_or_a_handover() {
    let listen = "listen = '127.0.0.1:0'\n";
    let (_dir, path) = config(listen);
    let server = Launch::new(&["--config", &path])
        .listen_as_configured()
        .start();
    let mut one = Client::connect(&server);
    let two = join_from(&server, [127, 0, 0, 2], &mut one);
    let mut three = join_from(&server, [127, 0, 0, 2], &mut one);
    reload(
        &server,
        &path,
        &format!("{listen}max-clients-per-address = 2\n"),
    );
    // Clients count themselves when their turn comes: this one's has.
    marker(&mut one, &mut three);
    let words = "Error: too many connections from 127.0.0.2";
    refused(&server, [127, 0, 0, 2], words);
    exec(&server);
    refused(&server, [127, 0, 0, 2], words);
    two.reset();
    one.expect_line("Client disconnected: 2");
    let _four = join_from(&server, [127, 0, 0, 2], &mut one);
    refused(&server, [127, 0, 0, 2], words);
}

#[test]
fn address_that_connects_too_often_is_refused_and_no_other() {
    let server = Server::start(&["--connects-per-address=1/s", "--max-clients=100"]);
    let mut one = Client::connect(&server);
    let words = "Error: too many connections from 127.0.0.1";
    refused(&server, [127, 0, 0, 1], words);
    let _two = join_from(&server, [127, 0, 0, 2], &mut one);
    // Its time comes again.
    let before = server.count_log("client connected");
    eventually("it may connect again", || {
        let _again = dial_from(&server, 0, [127, 0, 0, 1]);
        server.count_log("client connected") > before
    });
}

#[test]
fn unix_socket_has_the_mode_and_group_that_are_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hub.sock");
    let gid = rustix::process::getegid().as_raw();
    let listen = |mode: &str| {
        format!(
            "listen = 'unix:{},mode={mode},group={gid}'\nallow = '10.0.0.0/8'\n",
            path.display()
        )
    };
    let (_dir, file) = config(&listen("0660"));
    let server = Launch::new(&["--config", &file])
        .listen_as_configured()
        .start();
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o660);
    assert_eq!(path.metadata().unwrap().gid(), gid);
    // Nobody there has an address that could be refused.
    let _one = Client::connect(&server);
    reload(&server, &file, &listen("0600"));
    assert_eq!(mode(&path), 0o600);
    std::fs::write(&file, listen("0606")).unwrap();
    exec(&server);
    assert_eq!(mode(&path), 0o606);
}

#[test]
fn unknown_group_is_the_error_of_its_listener() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hub.sock");
    let listen = format!("--listen=unix:{},group=no-such-group", path.display());
    let exit = Launch::new(&[&listen]).listen_as_configured().run();
    assert_eq!(exit.code, Some(1), "{}", exit.stderr);
    assert!(
        exit.stderr.contains("there is no group 'no-such-group'"),
        "{}",
        exit.stderr
    );
    assert!(!path.exists());
}

#[test]
fn listener_that_is_open_to_everybody_is_warned_of_once() {
    let warning = "anybody who reaches this address";
    let open = Server::start(&["--listen=0.0.0.0:0"]);
    open.wait_log("phase=running");
    assert_eq!(open.count_log(warning), 1);
    let server = Server::start(&[
        "--listen=127.0.0.1:0",
        "--listen=0.0.0.0:0,allow=127.0.0.0/8",
    ]);
    server.wait_log("phase=running");
    assert_eq!(server.count_log(warning), 0);
}
