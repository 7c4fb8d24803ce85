use std::io::Write;
use std::time::Duration;

use rustix::process::Signal;

use crate::common::{Client, Flood, PATIENCE, Server, eventually};

#[test]
fn sigterm_and_sigint_tell_every_client_and_exit_0() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut server = Server::start(&[
            "--no-notices",
            "--listen=127.0.0.1:0",
            "--listen=127.0.0.1:0,format=json",
            "--listen=127.0.0.1:0,format=raw",
        ]);
        let mut text = Client::connect(&server);
        let mut json = Client::connect_to(&server, 1);
        let mut raw = Client::connect_to(&server, 2);
        let mut terminal = Client::connect(&server);
        terminal.send_bytes(b"x\r\n");
        text.expect_message(4, "x");
        raw.expect_line("x\r");
        assert_eq!(json.read_json()["data"], "x");

        server.signal(signal);
        text.expect_line("Server shutting down");
        text.expect_eof();
        terminal.expect_line("Server shutting down\r");
        terminal.expect_eof();
        assert_eq!(json.read_json(), serde_json::json!({"event": "shutdown"}));
        json.expect_eof();
        raw.expect_eof();
        drop((text, terminal, json, raw));
        assert_eq!(server.wait_exit(PATIENCE).code(), Some(0));
        for id in 1..=4 {
            let words = format!("client disconnected client={id} reason=shutdown");
            assert_eq!(server.count_log(&words), 1, "{words}");
        }
    }
}

#[test]
fn without_clients_the_daemon_stops_without_waiting() {
    let mut server = Server::start(&["--drain-timeout", "1h"]);
    server.stop();
}

#[test]
fn what_clients_had_sent_is_delivered_before_the_last_line() {
    const SENDERS: u64 = 20;
    // Few enough that the kernel has all of it on the daemon's side when `send` returns.
    const LINES: u64 = 150;
    for _ in 0..5 {
        let mut server = Server::start(&["--no-notices"]);
        let mut readers: Vec<_> = (0..3).map(|_| Client::connect(&server)).collect();
        let mut senders: Vec<_> = (0..SENDERS).map(|_| Client::connect(&server)).collect();
        for sender in &mut senders {
            Flood::default().send(sender, LINES);
        }
        server.signal(Signal::TERM);
        for reader in &mut readers {
            let mut lines = reader.lines_to_eof();
            assert_eq!(lines.pop().as_deref(), Some("Server shutting down"));
            assert_eq!(lines.len() as u64, SENDERS * LINES);
        }
        for sender in &mut senders {
            let mut lines = sender.lines_to_eof();
            assert_eq!(lines.pop().as_deref(), Some("Server shutting down"));
            assert_eq!(lines.len() as u64, (SENDERS - 1) * LINES);
        }
        drop((readers, senders));
        assert_eq!(server.wait_exit(PATIENCE).code(), Some(0));
    }
}

#[test]
fn queues_are_flushed_to_a_reader_that_starts_to_read_only_after_the_signal() {
    let mut server = Server::start(&[
        "--no-notices",
        "--drain-timeout=10m",
        "--slow-grace=forever",
    ]);
    let mut reader = Client::connect_stuck(&server, 0);
    let mut sender = Client::connect(&server);
    let mut witness = Client::connect(&server);
    // More than the kernel takes for the reader, so that the daemon has some of it.
    let mut flood = Flood::default();
    for _ in 0..40 {
        let next = flood.sent + 1;
        flood.send(&mut sender, 2_000);
        Flood::expect(&mut witness, sender.id(), next, flood.sent);
    }
    server.signal(Signal::TERM);
    witness.expect_line("Server shutting down");
    witness.expect_eof();
    reader.wake();
    Flood::expect(&mut reader, sender.id(), 1, flood.sent);
    reader.expect_line("Server shutting down");
    reader.expect_eof();
    drop((reader, sender, witness));
    assert_eq!(server.wait_exit(PATIENCE).code(), Some(0));
}

#[test]
fn a_client_that_goes_on_sending_sees_the_last_line_and_a_fin_but_no_reset() {
    for _ in 0..5 {
        let mut server = Server::start(&["--no-notices"]);
        let mut sender = Client::connect(&server);
        let mut other = Client::connect(&server);
        let socket = sender.sender();
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let sending = std::thread::spawn(move || {
            let mut flood = Flood::default();
            while stopped.try_recv().is_err() {
                if (&socket).write_all(&flood.lines(1)).is_err() {
                    return;
                }
            }
        });
        Flood::expect(&mut other, sender.id(), 1, 100);
        server.signal(Signal::TERM);
        let lines = other.lines_to_eof();
        assert_eq!(
            lines.last().map(String::as_str),
            Some("Server shutting down")
        );
        sender.expect_line("Server shutting down");
        sender.expect_eof();
        stop.send(()).ok();
        sending.join().expect("the sender");
        drop((sender, other));
        assert_eq!(server.wait_exit(PATIENCE).code(), Some(0));
    }
}

#[test]
fn stuck_readers_do_not_keep_the_daemon_beyond_the_drain_timeout() {
    let args = [
        "--no-notices",
        "--buffer=8MiB",
        "--drain-timeout=1s",
        "--slow-grace=forever",
    ];
    let mut server = Server::start(&args);
    let _stuck: Vec<_> = (0..5).map(|_| Client::connect_stuck(&server, 0)).collect();
    let mut sender = Client::connect(&server);
    let mut flood = Flood::default();
    while {
        let bytes = flood.lines(2_000);
        sender.send_unless_blocked(&bytes, Duration::from_secs(1))
    } {}
    // Neither they nor the sender, which waits for them, read or leave.
    server.stop();
}

#[test]
fn a_client_that_neither_reads_nor_leaves_does_not_keep_the_daemon_either() {
    let mut server = Server::start(&["--drain-timeout", "1s"]);
    let _one = Client::connect(&server);
    let _two = Client::connect(&server);
    server.stop();
}

#[test]
fn a_second_signal_ends_the_daemon_at_once() {
    for (first, second) in [(Signal::TERM, Signal::TERM), (Signal::INT, Signal::TERM)] {
        let mut server = Server::start(&["--no-notices", "--drain-timeout", "1h"]);
        let _stays = Client::connect_stuck(&server, 0);
        let mut sender = Client::connect(&server);
        let mut reader = Client::connect(&server);
        // The daemon owes the stuck client something that it does not take.
        let mut flood = Flood::default();
        for _ in 0..40 {
            let next = flood.sent + 1;
            flood.send(&mut sender, 2_000);
            Flood::expect(&mut reader, sender.id(), next, flood.sent);
        }
        server.signal(first);
        reader.expect_line("Server shutting down");
        reader.expect_eof();
        server.signal(second);
        server.wait_exit(PATIENCE);
    }
}

#[test]
fn the_socket_is_closed_to_newcomers_once_clients_are_told() {
    let mut server = Server::start(&["--drain-timeout", "1h"]);
    let mut client = Client::connect(&server);
    server.signal(Signal::TERM);
    client.expect_line("Server shutting down");
    // Refused by the kernel, or at the latest closed when the daemon ends: never served.
    let crate::common::Address::Tcp(address) = *server.addr(0) else {
        unreachable!("TCP")
    };
    eventually("newcomers are refused", || {
        std::net::TcpStream::connect(address).is_err()
    });
    drop(client);
    assert_eq!(server.wait_exit(PATIENCE).code(), Some(0));
    assert_eq!(server.count_log("client connected"), 1);
}

#[test]
fn clients_that_were_just_leaving_see_a_fin_and_their_lines_are_delivered() {
    let mut server = Server::start(&["--no-notices"]);
    let mut witness = Client::connect(&server);
    let mut clients: Vec<_> = (0..50).map(|_| Client::connect(&server)).collect();
    for client in &mut clients {
        client.send_line("hello");
        client.finish();
    }
    server.signal(Signal::TERM);
    let lines = witness.lines_to_eof();
    assert_eq!(
        lines
            .iter()
            .filter(|line| line.ends_with(": hello"))
            .count(),
        50
    );
    for client in &mut clients {
        client.lines_to_eof();
    }
    drop((witness, clients));
    assert_eq!(server.wait_exit(PATIENCE).code(), Some(0));
}

#[test]
fn client_that_has_everything_and_stays_holds_up_no_stop() {
    let mut server = Server::start(&["--no-notices", "--drain-timeout=1h"]);
    let mut one = Client::connect(&server);
    let mut two = Client::connect(&server);
    one.send_line("hello");
    two.expect_message(1, "hello");
    server.signal(Signal::TERM);
    // Neither closes. Their systems have acknowledged all of it, the end included.
    assert_eq!(server.wait_exit(PATIENCE).code(), Some(0));
    assert_eq!(server.count_log("did not take everything"), 0);
    for client in [&mut one, &mut two] {
        client.expect_line("Server shutting down");
        client.expect_eof();
    }
}
