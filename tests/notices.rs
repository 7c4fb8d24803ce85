use rustix::process::Signal;

use crate::common::{Client, Server, marker};

#[test]
fn the_notices_have_the_wording_of_the_original_example() {
    let server = Server::start(&[]);
    let mut first = Client::connect(&server);
    let mut second = Client::connect(&server);
    first.expect_line("New client connected: 2");
    second.send_line("hello");
    first.expect_line("Message from client 2: hello");
    first.send_line("hello yourself");
    second.expect_line("Message from client 1: hello yourself");
    drop(second);
    first.expect_line("Client disconnected: 2");
}

#[test]
fn a_client_gets_neither_its_own_lines_nor_its_own_notices() {
    let server = Server::start(&[]);
    let mut first = Client::connect(&server);
    let mut second = Client::connect(&server);
    first.expect_line("New client connected: 2");
    second.send_line("to the first");
    first.expect_message(2, "to the first");
    first.send_line("to the second");
    second.expect_message(1, "to the second");
    second.finish();
    second.expect_eof();
    first.expect_line("Client disconnected: 2");
}

#[test]
fn with_echo_a_client_gets_its_own_lines_and_notices_too() {
    let server = Server::start(&["--echo"]);
    let mut first = Client::connect(&server);
    first.expect_line("New client connected: 1");
    first.send_line("hello");
    first.expect_message(1, "hello");
    let mut second = Client::connect(&server);
    second.expect_line("New client connected: 2");
    first.expect_line("New client connected: 2");
    second.send_line("hello");
    first.expect_message(2, "hello");
    second.expect_message(2, "hello");
}

#[test]
fn with_echo_what_a_client_sent_last_still_reaches_it_after_its_fin() {
    let server = Server::start(&["--echo", "--no-notices"]);
    let mut client = Client::connect(&server);
    client.send_bytes(b"one\ntwo\nthree");
    client.finish();
    client.expect_message(1, "one");
    client.expect_message(1, "two");
    client.expect_message(1, "three");
    client.expect_eof();
}

#[test]
fn without_notices_only_messages_come() {
    let server = Server::start(&[
        "--no-notices",
        "--listen=127.0.0.1:0",
        "--listen=127.0.0.1:0,format=json",
    ]);
    let mut text = Client::connect(&server);
    let mut json = Client::connect_to(&server, 1);
    let passing = Client::connect(&server);
    drop(passing);
    server.wait_log("client disconnected client=3");
    let mut sender = Client::connect(&server);
    marker(&mut sender, &mut text);
    assert_eq!(json.read_json()["event"], "message");
}

#[test]
fn a_connect_notice_comes_before_the_first_line_and_a_disconnect_notice_after_the_last() {
    let server = Server::start(&[]);
    let mut reader = Client::connect(&server);
    for id in 2..=50 {
        let mut client = Client::dial(server.addr(0));
        client.send_bytes(b"first\nlast");
        client.finish();
        reader.expect_line(&format!("New client connected: {id}"));
        reader.expect_message(id, "first");
        reader.expect_message(id, "last");
        reader.expect_line(&format!("Client disconnected: {id}"));
    }
}

#[test]
fn ids_count_up_from_one_and_are_never_used_twice() {
    let server = Server::start(&[]);
    let mut reader = Client::connect(&server);
    assert_eq!(reader.id(), 1);
    for id in 2..=40 {
        let client = Client::connect(&server);
        assert_eq!(client.id(), id);
        drop(client);
        reader.expect_line(&format!("New client connected: {id}"));
        reader.expect_line(&format!("Client disconnected: {id}"));
    }
}

#[test]
fn a_newcomer_sees_nothing_of_what_was_before() {
    let server = Server::start(&[]);
    let mut first = Client::connect(&server);
    let mut second = Client::connect(&server);
    first.expect_line("New client connected: 2");
    first.send_line("early");
    second.expect_message(1, "early");
    let mut third = Client::connect(&server);
    second.expect_line("New client connected: 3");
    marker(&mut first, &mut third);
}

#[test]
fn of_many_who_join_at_once_each_sees_those_who_join_after_it() {
    const CROWD: u64 = 300;
    for format in ["text", "json"] {
        let server = Server::start(&["--format", format]);
        // All wait to be accepted when the daemon wakes up.
        server.signal(Signal::STOP);
        let mut clients = Vec::from_iter((0..CROWD).map(|_| Client::dial(server.addr(0))));
        server.signal(Signal::CONT);
        server.wait_log_count("client connected", CROWD as usize);
        let mut last = clients.pop().expect("there is a crowd");
        last.send_line("all here");
        for (id, client) in (1..).zip(&mut clients) {
            for other in id + 1..=CROWD {
                if format == "text" {
                    client.expect_line(&format!("New client connected: {other}"));
                } else {
                    let notice = client.read_json();
                    assert_eq!(notice["event"], "connect");
                    assert_eq!(
                        (&notice["client"], &notice["seq"]),
                        (&other.into(), &other.into())
                    );
                }
            }
            if format == "text" {
                client.expect_message(CROWD, "all here");
            } else {
                assert_eq!(client.read_json()["seq"], CROWD + 1);
            }
        }
        // Nobody had anything to tell the last one until now.
        drop(clients);
        let first = last.read_line();
        assert!(first.contains("isconnect"), "{first}");
    }
}

#[test]
fn of_many_who_leave_at_once_those_who_stay_hear_once_each() {
    let server = Server::start(&[]);
    let mut staying = Vec::from_iter((0..20).map(|_| Client::connect(&server)));
    let mut leaving = Vec::from_iter((0..100).map(|_| Client::connect(&server)));
    for client in &mut staying {
        client.lines_until("New client connected: 120");
    }
    // All have left when the daemon wakes up, every other one by a reset.
    server.signal(Signal::STOP);
    for (at, client) in leaving.drain(..).enumerate() {
        if at % 2 == 0 {
            drop(client)
        } else {
            client.reset()
        }
    }
    server.signal(Signal::CONT);
    let mut wanted = Vec::from_iter((21..=120).map(|id| format!("Client disconnected: {id}")));
    wanted.sort();
    for client in &mut staying {
        let mut heard = Vec::from_iter((0..100).map(|_| client.read_line()));
        heard.sort();
        assert_eq!(heard, wanted);
    }
    staying[0].send_line("that is all");
    for client in &mut staying[1..] {
        client.expect_message(1, "that is all");
    }
}

#[test]
fn half_close_keep_goes_on_delivering_after_a_clients_fin() {
    let server = Server::start(&["--half-close", "keep"]);
    let mut sender = Client::connect(&server);
    let mut reader = Client::connect(&server);
    reader.send_bytes(b"a rest");
    reader.finish();
    sender.expect_line("New client connected: 2");
    sender.expect_message(2, "a rest");
    for _ in 0..3 {
        marker(&mut sender, &mut reader);
    }
    drop(reader);
    // That it is gone shows once something is sent to it.
    let mut third = Client::connect(&server);
    third.send_line("still here");
    let mut lines = [sender.read_line(), sender.read_line(), sender.read_line()];
    lines.sort();
    let wanted = [
        "Client disconnected: 2",
        "Message from client 3: still here",
        "New client connected: 3",
    ];
    assert_eq!(lines, wanted);
}
