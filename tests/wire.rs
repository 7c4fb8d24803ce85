use std::io::Write;

use crate::common::{Client, Event, Flood, Server, marker};

/// A daemon without notices, a sender and a reader.
fn pair(args: &[&str]) -> (Server, Client, Client) {
    let server = Server::start(&[&["--no-notices"], args].concat());
    let sender = Client::connect(&server);
    let reader = Client::connect(&server);
    (server, sender, reader)
}

#[test]
fn a_line_sent_byte_by_byte_arrives_whole() {
    let (_server, mut sender, mut reader) = pair(&[]);
    for byte in "grüße, welt\n".as_bytes() {
        sender.send_bytes(&[*byte]);
    }
    reader.expect_message(sender.id(), "grüße, welt");
}

#[test]
fn a_carriage_return_before_the_line_feed_belongs_to_the_line_end() {
    let (_server, mut sender, mut reader) = pair(&[]);
    sender.send_bytes(b"one\r\ntwo\r\n\r\nfour\n");
    for line in ["one", "two", "", "four"] {
        reader.expect_message(sender.id(), line);
    }
}

#[test]
fn crlf_split_over_two_reads_is_one_line_end() {
    let (_server, mut sender, mut reader) = pair(&[]);
    sender.send_bytes(b"one\r");
    // The daemon has very likely read the CR by the time this has gone round.
    marker(&mut reader, &mut sender);
    sender.send_bytes(b"\ntwo\n");
    reader.expect_message(sender.id(), "one");
    reader.expect_message(sender.id(), "two");
}

#[test]
fn carriage_return_and_nul_is_a_line_end() {
    let (_server, mut sender, mut reader) = pair(&[]);
    sender.send_bytes(b"one\r\0two\r");
    marker(&mut reader, &mut sender);
    sender.send_bytes(b"\0three\n");
    for line in ["one", "two", "three"] {
        reader.expect_message(sender.id(), line);
    }
}

#[test]
fn an_empty_line_is_a_message() {
    let (_server, mut sender, mut reader) = pair(&[]);
    sender.send_bytes(b"\n\n\nend\n");
    for line in ["", "", "", "end"] {
        reader.expect_message(sender.id(), line);
    }
}

#[test]
fn the_rest_of_a_line_at_fin_is_a_line() {
    let server = Server::start(&[]);
    let mut reader = Client::connect(&server);
    let mut sender = Client::connect(&server);
    sender.send_bytes(b"whole\nthe rest");
    sender.finish();
    reader.expect_line("New client connected: 2");
    reader.expect_message(2, "whole");
    reader.expect_message(2, "the rest");
    reader.expect_line("Client disconnected: 2");
}

#[test]
fn fin_after_a_line_feed_adds_no_empty_line() {
    let server = Server::start(&[]);
    let mut reader = Client::connect(&server);
    let mut sender = Client::connect(&server);
    sender.send_bytes(b"whole\n");
    sender.finish();
    reader.expect_line("New client connected: 2");
    reader.expect_message(2, "whole");
    reader.expect_line("Client disconnected: 2");
}

#[test]
fn a_line_of_exactly_the_limit_passes_with_lf_and_with_crlf() {
    let (_server, mut sender, mut reader) = pair(&["--max-line", "1000"]);
    let line = "x".repeat(1000);
    sender.send_bytes(format!("{line}\n{line}\r\n").as_bytes());
    reader.expect_message(sender.id(), &line);
    reader.expect_message(sender.id(), &line);
    // In pieces as well: the limit counts the line, not the read.
    sender.send_bytes(&line.as_bytes()[..999]);
    marker(&mut reader, &mut sender);
    sender.send_bytes(b"x\r");
    marker(&mut reader, &mut sender);
    sender.send_bytes(b"\n");
    reader.expect_message(sender.id(), &line);
}

#[test]
fn a_line_of_the_default_limit_passes_and_one_byte_more_does_not() {
    let (server, mut sender, mut reader) = pair(&[]);
    let line = "x".repeat(65536);
    sender.send_bytes(format!("{line}\n").as_bytes());
    reader.expect_message(sender.id(), &line);
    sender.send_bytes(format!("{line}x\n").as_bytes());
    sender.expect_line("Error: line too long (limit 65536 bytes)");
    sender.expect_eof();
    drop(sender);
    server.wait_log("client disconnected client=1 reason=line_too_long");
}

#[test]
fn one_byte_over_the_limit_closes_only_that_client_and_after_its_earlier_lines() {
    let server = Server::start(&["--max-line", "1000"]);
    let mut reader = Client::connect(&server);
    let mut sender = Client::connect(&server);
    let mut other = Client::connect(&server);
    let long = "x".repeat(1001);
    sender.send_bytes(format!("before\n{}\n{long}\nafter\n", "y".repeat(1000)).as_bytes());
    reader.expect_line("New client connected: 2");
    reader.expect_line("New client connected: 3");
    reader.expect_message(2, "before");
    reader.expect_message(2, &"y".repeat(1000));
    reader.expect_line("Client disconnected: 2");
    marker(&mut other, &mut reader);
    sender.expect_line("New client connected: 3");
    sender.expect_line("Error: line too long (limit 1000 bytes)");
    sender.expect_eof();
}

#[test]
fn a_line_over_the_limit_closes_its_client_though_its_end_never_comes() {
    let (server, mut sender, mut reader) = pair(&["--max-line", "1000"]);
    sender.send_bytes(b"before\n");
    sender.send_bytes("x".repeat(1000).as_bytes());
    reader.expect_message(sender.id(), "before");
    sender.send_bytes(b"xx");
    sender.expect_line("Error: line too long (limit 1000 bytes)");
    sender.expect_eof();
    drop(sender);
    server.wait_log("client disconnected client=1 reason=line_too_long");
    let mut other = Client::connect(&server);
    marker(&mut other, &mut reader);
}

#[test]
fn a_client_that_goes_on_sending_a_too_long_line_still_gets_the_reason_and_no_reset() {
    let (_server, mut sender, _reader) = pair(&["--max-line", "1000"]);
    sender.send_bytes(&vec![b'x'; 300_000]);
    sender.expect_line("Error: line too long (limit 1000 bytes)");
    sender.expect_eof();
}

#[test]
fn a_client_that_closes_when_it_is_told_to_go_is_gone_without_a_deadline() {
    let server = Server::start(&["--max-line", "1000"]);
    // This one does not close, so the daemon gives it up after a while: the clock of this test.
    let mut stays = Client::connect(&server);
    let leaves: [&[u8]; 3] = [&[b'x'; 1001], b"\x04\n", b"\xff\xec"];
    stays.send_bytes(leaves[0]);
    for bytes in leaves {
        let mut client = Client::connect(&server);
        client.send_bytes(bytes);
        while let Event::Line(_) = client.next() {}
    }
    server.wait_log("client disconnected client=1 reason=line_too_long");
    for id in 2..=4 {
        assert_eq!(
            server.count_log(&format!("client disconnected client={id}")),
            1
        );
    }
}

#[test]
fn sixty_four_kibibytes_of_lines_in_one_write_arrive_as_they_are() {
    let (_server, mut sender, mut reader) = pair(&[]);
    let mut flood = Flood::default();
    let mut bytes = flood.lines(900);
    assert!(bytes.len() > 64 * 1024);
    sender.send_bytes(&bytes);
    Flood::expect(&mut reader, sender.id(), 1, 900);

    // And the shortest lines there are: as many to a read as can be.
    bytes = b"\n".repeat(65536);
    sender.send_bytes(&bytes);
    for _ in 0..65536 {
        reader.expect_line("Message from client 1: ");
    }
    marker(&mut sender, &mut reader);
}

#[test]
fn one_line_over_a_hundred_writes_is_one_line() {
    let (_server, mut sender, mut reader) = pair(&[]);
    let mut whole = String::new();
    for n in 0..100 {
        let piece = format!("piece {n} of a line that takes its time; ");
        sender.send_bytes(piece.as_bytes());
        // Another client's line between any two pieces: neither shows in the other.
        marker(&mut reader, &mut sender);
        whole += &piece;
    }
    sender.send_bytes(b"\n");
    reader.expect_message(sender.id(), &whole);
}

#[test]
fn a_reader_that_takes_a_few_bytes_at_a_time_sees_the_same_stream() {
    let (_server, mut sender, mut reader) = pair(&[]);
    let mut flood = Flood::default();
    flood.send(&mut sender, 100);
    let wanted: String = (1..=100)
        .map(|n| format!("Message from client 1: {}\n", crate::common::payload(n)))
        .collect();
    let mut got = Vec::new();
    while got.len() < wanted.len() {
        got.extend(reader.read_bytes((wanted.len() - got.len()).min(7)));
    }
    assert_eq!(String::from_utf8(got).unwrap(), wanted);
}

#[test]
fn lines_of_many_senders_at_once_are_never_mixed() {
    let server = Server::start(&["--no-notices"]);
    let mut reader = Client::connect(&server);
    let mut senders: Vec<_> = (0..8).map(|_| Client::connect(&server)).collect();
    // Every write ends inside a line, so every sender has half a line open all the time.
    let mut floods: Vec<_> = senders
        .iter()
        .map(|_| Flood::default().lines(200))
        .collect();
    let mut left = true;
    while left {
        left = false;
        for (sender, bytes) in senders.iter_mut().zip(&mut floods) {
            let rest = bytes.split_off(bytes.len().min(331));
            sender.sender().write_all(bytes).unwrap();
            *bytes = rest;
            left |= !bytes.is_empty();
        }
    }
    let mut next = [1; 8];
    for _ in 0..8 * 200 {
        let Event::Line(line) = reader.next() else {
            panic!("the end")
        };
        let line = String::from_utf8(line).unwrap();
        let (id, got) = line
            .strip_prefix("Message from client ")
            .unwrap()
            .split_once(": ")
            .unwrap();
        let at = id.parse::<usize>().unwrap() - 2;
        assert_eq!(got, crate::common::payload(next[at]));
        next[at] += 1;
    }
    assert_eq!(next, [201; 8]);
}

/// A client that closes with something unread resets its connection, whatever it had sent before.
#[test]
fn rest_of_a_client_whose_kernel_resets_is_a_line() {
    let server = Server::start(&[]);
    let mut observer = Client::connect(&server);
    for n in 0..30 {
        let mut client = Client::connect(&server);
        let id = client.id();
        observer.expect_line(&format!("New client connected: {id}"));
        observer.send_line("unread");
        // It is there now, and not read.
        server.wait_log(&format!("client connected client={id}"));
        let rest = format!("rest {n}");
        client.send_bytes(rest.as_bytes());
        drop(client);
        observer.expect_message(id, &rest);
        observer.expect_line(&format!("Client disconnected: {id}"));
    }
}

#[test]
fn with_discard_only_the_line_that_is_too_long_is_dropped_and_counted() {
    let server = Server::start(&[
        "--no-notices",
        "--max-line=100",
        "--long-line=discard",
        "--admin=127.0.0.1:0",
    ]);
    let mut sender = Client::connect(&server);
    let mut reader = Client::connect(&server);
    let long = "x".repeat(101);
    let exact = "y".repeat(100);
    for (sent, got) in [
        (format!("one\n{long}\ntwo\n"), vec!["one", "two"]),
        (
            format!("{long}\n{long}\nthree\n{exact}\n"),
            vec!["three", &exact],
        ),
        (format!("{exact}\r\n{long}\r\nfour\n"), vec![&exact, "four"]),
    ] {
        // Whole, and a byte at a time.
        sender.send_bytes(sent.as_bytes());
        for byte in sent.bytes() {
            sender.send_bytes(&[byte]);
        }
        for _ in 0..2 {
            got.iter().for_each(|line| reader.expect_message(1, line));
        }
    }
    // The rest of one that never ends is none either.
    sender.send_bytes(long.repeat(1000).as_bytes());
    sender.finish();
    server.wait_log("client disconnected client=1 reason=eof");
    marker_alone(&server, &mut reader);
    server.wait_log("dropped a line that is too long client=1 limit=100");
    assert_eq!(server.count_log("dropped a line"), 1, "once a client");
    let status = crate::common::http::get_json(&server.admin(), "/status");
    assert_eq!(status["lines_discarded"], 9);
}

fn marker_alone(server: &Server, reader: &mut Client) {
    crate::common::marker(&mut Client::connect(server), reader);
}

#[test]
fn first_line_that_is_an_http_request_ends_the_client_before_anything_is_published() {
    let request = b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\nfrom a web page\n";
    for format in ["text", "json", "raw"] {
        let listen = format!("--listen=127.0.0.1:0,format={format}");
        let server = Server::start(&["--no-notices", "--listen=127.0.0.1:0", &listen]);
        let mut observer = Client::connect(&server);
        for cut in [1, request.len()] {
            let mut page = Client::connect_to(&server, 1);
            let id = page.id();
            for piece in request.chunks(cut) {
                if !page.send_unless_blocked(piece, std::time::Duration::from_secs(5)) {
                    break;
                }
            }
            server.wait_log(&format!("client disconnected client={id} reason=http"));
        }
        marker_alone(&server, &mut observer);
        // Only the first line: a log of requests is welcome.
        let mut log = Client::connect(&server);
        log.send_line("requests:");
        log.send_line("GET / HTTP/1.1");
        observer.expect_message(log.id(), "requests:");
        observer.expect_message(log.id(), "GET / HTTP/1.1");
    }
    // Too long to be kept is not too long to be seen.
    let server = Server::start(&["--no-notices", "--max-line=1KiB", "--long-line=discard"]);
    let mut observer = Client::connect(&server);
    let long = format!(
        "POST /{} HTTP/1.1\r\nHost: x\r\n\r\nevil\n",
        "a".repeat(5000)
    );
    for cut in [1, 700, 10_000] {
        let mut page = Client::connect(&server);
        let id = page.id();
        for piece in long.as_bytes().chunks(cut) {
            if !page.send_unless_blocked(piece, std::time::Duration::from_secs(5)) {
                break;
            }
        }
        server.wait_log(&format!("client disconnected client={id} reason=http"));
    }
    marker_alone(&server, &mut observer);
    let server = Server::start(&["--no-notices", "--http-guard=off"]);
    let mut observer = Client::connect(&server);
    let mut page = Client::connect(&server);
    page.send_bytes(request);
    observer.expect_message(2, "POST / HTTP/1.1");
}
