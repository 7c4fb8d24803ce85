use std::io::Write;
use std::time::Duration;

use crate::common::{Client, Server, eventually, marker};

/// Bytes without sense (xorshift64), the same in every run.
struct Garbage(u64);

impl Garbage {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        // Now and then one of the bytes that mean something to telnet or to framing.
        let special = [0xff, 0xfa, 0xf0, 0xfd, 0xf6, b'\r', b'\n', 0, 4, 0x1b];
        let mut byte = || match self.next() % 4 {
            0 => special[(self.next() >> 7) as usize % special.len()],
            _ => (self.next() >> 11) as u8,
        };
        (0..count).map(|_| byte()).collect()
    }
}

#[test]
fn random_garbage_disturbs_nobody() {
    let server = Server::start(&[
        "--no-notices",
        "--listen=127.0.0.1:0",
        "--listen=127.0.0.1:0,format=json",
        "--listen=127.0.0.1:0,format=raw",
    ]);
    let mut readers: Vec<_> = (0..3).map(|i| Client::connect_to(&server, i)).collect();
    let mut garbage = Garbage(0x9e37_79b9_7f4a_7c15);
    for n in 0..60 {
        let mut client = Client::connect_to(&server, n % 3);
        for _ in 0..8 {
            let count = (garbage.next() >> 9) as usize % 2000;
            // The daemon may have closed this one: some of it asks for that.
            if client.sender().write_all(&garbage.bytes(count)).is_err() {
                break;
            }
        }
        match n % 4 {
            0 => client.reset(),
            1 => {
                let _ = client.sender().shutdown(std::net::Shutdown::Write);
                while let crate::common::Event::Line(_) = client.next() {}
            }
            _ => drop(client),
        }
    }
    server.wait_log_count("client disconnected", 60);
    let mut sender = Client::connect(&server);
    sender.send_line("end");
    let end = format!("Message from client {}: end", sender.id());
    readers[0].lines_until(&end);
    while readers[1].read_json()["client"] != sender.id() {}
    while readers[2].read_line_bytes() != b"end" {}
}

#[test]
fn resets_in_the_middle_of_a_line_disturb_nobody() {
    let server = Server::start(&[]);
    let mut witness = Client::connect(&server);
    for id in 2..=200 {
        let mut client = Client::connect(&server);
        client.send_bytes(b"whole\nhalf a li");
        witness.expect_line(&format!("New client connected: {id}"));
        witness.expect_message(id, "whole");
        client.reset();
        let gone = format!("Client disconnected: {id}");
        let between = witness.lines_until(&gone);
        // A reset promises nothing about the rest, but nothing else may come of it.
        let rest = format!("Message from client {id}: half a li");
        assert!(between.iter().all(|line| *line == rest), "{between:?}");
    }
}

#[test]
fn clients_that_leave_before_they_are_served_leave_nothing_behind() {
    let server = Server::start(&["--no-notices"]);
    let mut one = Client::connect(&server);
    let mut two = Client::connect(&server);
    let before = server.open_files();
    for n in 0..300 {
        let client = Client::dial(server.addr(0));
        if n % 2 == 0 {
            client.reset();
        }
    }
    eventually("all their sockets are closed", || {
        server.open_files() <= before
    });
    marker(&mut one, &mut two);
    marker(&mut two, &mut one);
}

#[test]
fn a_thousand_connections_at_once_are_all_served() {
    const CLIENTS: usize = 1000;
    let server = Server::start(&["--no-notices", "--max-clients=1100"]);
    let before = server.open_files();
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| Client::dial(server.addr(0))).collect();
    server.wait_log_count("client connected", CLIENTS);
    for client in &mut clients[1..] {
        client.send_line("hello");
    }
    let first = &mut clients[0];
    for _ in 1..CLIENTS {
        let line = first.read_line();
        assert!(line.ends_with(": hello"), "{line}");
    }
    first.send_line("to all");
    for client in &mut clients[1..] {
        for _ in 0..CLIENTS - 2 {
            client.read_line_bytes();
        }
        let line = client.read_line();
        assert!(line.ends_with(": to all"), "{line}");
    }
    drop(clients);
    server.wait_log_count("client disconnected", CLIENTS);
    eventually("all their sockets are closed", || {
        server.open_files() <= before
    });
}

#[test]
fn lines_that_trickle_in_for_ever_disturb_nobody() {
    let server = Server::start(&["--no-notices"]);
    let mut one = Client::connect(&server);
    let mut two = Client::connect(&server);
    let mut slow: Vec<_> = (0..200).map(|_| Client::connect(&server)).collect();
    for _ in 0..20 {
        for client in &mut slow {
            client.send_bytes(b".");
        }
        marker(&mut one, &mut two);
        marker(&mut two, &mut one);
    }
    for client in &mut slow {
        client.send_bytes(b"\n");
        one.expect_message(client.id(), &".".repeat(20));
    }
}

#[test]
fn questions_whose_answers_are_never_read_do_not_fill_the_memory() {
    const AYT: [u8; 2] = [0xff, 0xf6];
    const DO_TIMING_MARK: [u8; 3] = [0xff, 0xfd, 6];
    let server = Server::start(&["--no-notices"]);
    let mut one = Client::connect(&server);
    let mut two = Client::connect(&server);
    let before = server.rss();
    for question in [&AYT[..], &DO_TIMING_MARK] {
        let client = Client::connect_stuck(&server, 0);
        let socket = client.sender();
        socket
            .set_write_timeout(Some(Duration::from_secs(1)))
            .unwrap();
        let questions = question.repeat(64 * 1024 / question.len());
        // Until the daemon takes no more, or closes it, or has taken a lot.
        for _ in 0..128 {
            if (&socket).write_all(&questions).is_err() {
                break;
            }
        }
        let after = server.rss();
        assert!(
            after < before + 12 * 1024 * 1024,
            "{before} bytes before, {after} after"
        );
        marker(&mut one, &mut two);
        // The last question may have gone out in part, of which a byte of 0xFF is left: a line, as its
        // connection ends.
        let id = client.id();
        drop((client, socket));
        server.wait_log(&format!("client disconnected client={id}"));
        one.send_line("it is gone");
        let left = two.lines_until("Message from client 1: it is gone");
        assert!(left.len() <= 1, "{left:?}");
        for line in left {
            assert_eq!(line, format!("Message from client {id}: \\xff"));
        }
    }
}
