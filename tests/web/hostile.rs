use std::io::{Read, Write};

use super::{HTTP, PLAIN, WsClient, reaches, start};
use crate::common::http::{connect, get};
use crate::common::{Client, eventually};

const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

#[test]
fn frames_that_mean_no_good_close_their_sender_alone() {
    let server = start(&["--no-notices"]);
    let mut plain = Client::connect_to(&server, PLAIN);
    let mut other = WsClient::connect(&server, "/ws");
    for (frame, status) in [
        (&b"\x81\x05hello"[..], 1002),
        (b"\x81\xff\x80\0\0\0\0\0\0\0\0\0\0\0", 1002),
        (b"\xc1\x80\0\0\0\0", 1002),
        (b"\x83\x80\0\0\0\0", 1002),
        (b"\x88\x81\0\0\0\0x", 1002),
        (b"\x81\x82\0\0\0\0\xc0\x80", 1007),
    ] {
        let mut client = WsClient::connect(&server, "/ws");
        client.socket.get_mut().write_all(frame).unwrap();
        assert_eq!(client.json()["reason"], "websocket");
        assert_eq!(client.close_status().0, status, "{}", frame.escape_ascii());
        reaches(&mut plain, &mut other);
    }
    // It says that it has 2^62 bytes, of which the limit of a line comes.
    let mut long = WsClient::connect(&server, "/ws");
    let frame = [&b"\x82\xff\x40\0\0\0\0\0\0\0\0\0\0\0"[..], &[b'x'; 70_000]].concat();
    long.socket.get_mut().write_all(&frame).unwrap();
    assert_eq!(long.json()["reason"], "line_too_long");
    assert_eq!(long.close_status().0, 1009);
    // Ten thousand fragments are one line.
    let mut fragments = b"\x01\x81\0\0\0\0a".to_vec();
    fragments.extend(b"\x00\x81\0\0\0\0b".repeat(9_998));
    fragments.extend(b"\x80\x81\0\0\0\0c");
    let mut patient = WsClient::connect(&server, "/ws");
    patient.socket.get_mut().write_all(&fragments).unwrap();
    plain.expect_message(patient.id, &format!("a{}c", "b".repeat(9_998)));
}

#[test]
fn pings_whose_answers_are_never_read_do_not_fill_the_memory() {
    let server = start(&["--no-notices"]);
    let mut plain = Client::connect_to(&server, PLAIN);
    let mut other = WsClient::connect(&server, "/ws");
    let flooding = WsClient::connect(&server, "/ws");
    let mut socket = flooding.socket.get_ref().try_clone().unwrap();
    socket
        .set_write_timeout(Some(std::time::Duration::from_millis(300)))
        .unwrap();
    let pings = [&b"\x89\xfd\0\0\0\0"[..], &[b'x'; 125]]
        .concat()
        .repeat(1000);
    let before = server.rss();
    let mut sent = 0;
    while sent < 200_000_000 {
        match socket.write(&pings) {
            Ok(written) => sent += written,
            Err(_) => break,
        }
    }
    assert!(sent < 200_000_000, "its window closes");
    assert!(
        server.rss() < before + 20_000_000,
        "{} of {before}",
        server.rss()
    );
    reaches(&mut plain, &mut other);
}

#[test]
fn what_stands_behind_a_request_is_no_other() {
    let server = start(&["--no-notices"]);
    let mut plain = Client::connect_to(&server, PLAIN);
    let address = server.addr(HTTP);
    let smuggled =
        format!("POST /lines HTTP/1.1\r\nHost: {address}\r\nContent-Length: 8\r\n\r\nsmuggled");
    // Behind a body that has ended, and behind a page.
    for first in [
        format!("POST /lines HTTP/1.1\r\nHost: {address}\r\nContent-Length: 2\r\n\r\na\n"),
        format!(
            "POST /lines HTTP/1.1\r\nHost: {address}\r\nTransfer-Encoding: chunked\r\n\r\n2\r\na\n\r\n0\r\n\r\n"
        ),
        format!("GET / HTTP/1.1\r\nHost: {address}\r\n\r\n"),
        format!("GET /lines?x HTTP/1.1\r\nHost: {address}\r\n\r\n"),
    ] {
        let mut connection = connect(address);
        connection
            .write_all((first.clone() + &smuggled).as_bytes())
            .unwrap();
        let mut answer = Vec::new();
        // What was not read may have it reset.
        let _ = connection.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{first}: {answer}");
        if first.starts_with("POST") {
            assert!(plain.read_line().ends_with(": a"));
        }
    }
    // Behind an upgrade there are frames.
    let mut connection = connect(address);
    let upgrade = format!("GET /ws HTTP/1.1\r\nHost: {address}\r\n{UPGRADE}\r\n");
    connection
        .write_all((upgrade + &smuggled).as_bytes())
        .unwrap();
    let mut answer = Vec::new();
    let _ = connection.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 101 ") && answer.matches("HTTP/1.1").count() == 1);
    let mut sender = Client::connect_to(&server, PLAIN);
    sender.send_line("nothing came before");
    assert!(plain.read_line().ends_with(": nothing came before"));
}

#[test]
fn other_sites_have_no_clients_here() {
    let server = start(&[]);
    let address = server.addr(HTTP);
    let ask = |path: &str, site: &str| {
        let head =
            format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nSec-Fetch-Site: {site}\r\n\r\n");
        crate::common::http::request(address, &head).status
    };
    // An image, or what a page fetches without being allowed to read it.
    for path in ["/lines", "/events"] {
        assert_eq!(
            [ask(path, "cross-site"), ask(path, "same-site")],
            [403, 403]
        );
    }
    // A link is followed.
    assert_eq!(ask("/", "cross-site"), 200);
    // Blank lines cost nothing, however many there are.
    let mut blank = connect(address);
    blank.write_all(&[b'\n'; 100_000]).unwrap();
    blank
        .write_all(format!("GET / HTTP/1.1\r\nHost: {address}\r\n\r\n").as_bytes())
        .unwrap();
    let mut status = [0; 12];
    blank.read_exact(&mut status).unwrap();
    assert_eq!(&status, b"HTTP/1.1 200");
}

#[test]
fn head_has_its_time_and_its_size_and_comes_in_pieces() {
    let server = start(&["--hello-timeout=2s", "--no-notices"]);
    let address = server.addr(HTTP);
    let mut slow = connect(address);
    slow.write_all(b"GET / HTTP/1.1\r\n").unwrap();
    let mut pieces = connect(address);
    for piece in format!("GET /ws HTTP/1.1\r\nHost: {address}\r\n{UPGRADE}\r\n")
        .as_bytes()
        .chunks(7)
    {
        pieces.write_all(piece).unwrap();
        pieces.flush().unwrap();
    }
    let mut status = [0; 12];
    pieces.read_exact(&mut status).unwrap();
    assert_eq!(&status, b"HTTP/1.1 101");
    let mut answer = String::new();
    slow.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    let mut large = connect(address);
    let head = format!(
        "GET / HTTP/1.1\r\nHost: {address}\r\nX: {}\r\n\r\n",
        "x".repeat(17_000)
    );
    large.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    large.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    assert_eq!(get(address, "/").status, 200);
}

#[test]
fn idle_clients_are_small() {
    const CLIENTS: usize = 300;
    let server = start(&["--no-notices"]);
    let mut first = WsClient::connect(&server, "/ws");
    let mut plain = Client::connect_to(&server, PLAIN);
    reaches(&mut plain, &mut first);
    let before = server.rss();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| WsClient::connect(&server, "/ws"))
        .collect();
    // Memory that was needed only to begin is given back.
    eventually("they are small", || {
        server.rss() < before + CLIENTS as u64 * 4096
    });
    drop(clients);
}

#[test]
fn what_is_no_request_is_refused_at_its_first_byte() {
    let server = start(&[]);
    let mut client = connect(server.addr(HTTP));
    // What a browser says that expects TLS.
    client.write_all(b"\x16").unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    for path in ["/ws?beat=1", "/ws?beat&format=text", "/lines?beat"] {
        assert_eq!(get(server.addr(HTTP), path).status, 400, "{path}");
    }
}
