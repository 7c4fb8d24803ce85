use std::time::{Duration, Instant};

use crate::common::{Client, Event, Launch, Server, eventually, marker};

#[test]
fn a_full_server_refuses_with_the_reason_and_then_fin() {
    let server = Server::start(&["--max-clients", "2"]);
    let mut one = Client::connect(&server);
    let mut two = Client::connect(&server);
    one.expect_line("New client connected: 2");
    let mut refused = Client::dial(server.addr(0));
    refused.expect_line("Error: server full (2 clients)");
    refused.expect_eof();
    // It was no client: no notice, no id.
    marker(&mut two, &mut one);
    drop(two);
    one.expect_line("Client disconnected: 2");
    let three = Client::connect(&server);
    assert_eq!(three.id(), 3);
    one.expect_line("New client connected: 3");
}

#[test]
fn a_refused_client_that_had_sent_something_sees_the_reason_and_no_reset() {
    let server = Server::start(&["--max-clients", "1"]);
    let _one = Client::connect(&server);
    for _ in 0..20 {
        let mut refused = Client::dial(server.addr(0));
        let _ = std::io::Write::write_all(&mut refused.sender(), b"a line nobody wants\n");
        refused.expect_line("Error: server full (1 clients)");
        refused.expect_eof();
    }
}

#[test]
fn the_refusal_speaks_the_format_of_its_listener() {
    let server = Server::start(&[
        "--max-clients=1",
        "--listen=127.0.0.1:0",
        "--listen=127.0.0.1:0,format=json",
        "--listen=127.0.0.1:0,format=raw",
    ]);
    let _one = Client::connect(&server);
    let mut json = Client::dial(server.addr(1));
    let error = json.read_json();
    assert_eq!(error["event"], "error");
    assert_eq!(error["reason"], "full");
    assert!(
        error["detail"]
            .as_str()
            .unwrap()
            .contains("server full (1 clients)"),
        "{error}"
    );
    json.expect_eof();
    // It has no words for it: an end would look as if what was sent had been taken.
    let mut raw = Client::dial(server.addr(2));
    assert_eq!(raw.next(), Event::Reset);
}

#[test]
fn an_idle_client_is_closed_and_told() {
    let server = Server::start(&["--idle-timeout", "1s"]);
    let mut client = Client::connect(&server);
    client.expect_line("Error: idle for 1s");
    client.expect_eof();
    drop(client);
    server.wait_log("client disconnected client=1 reason=idle");
}

#[test]
fn a_client_that_sends_or_takes_bytes_is_not_idle() {
    let server = Server::start(&["--idle-timeout=3s", "--no-notices"]);
    let mut sender = Client::connect(&server);
    let mut reader = Client::connect(&server);
    // A second daemon is the clock: when it closes its idle client, the time was up here, too.
    let clock = Server::start(&["--idle-timeout=3s"]);
    let _idle = Client::connect(&clock);
    while clock.count_log("client disconnected client=1 reason=idle") == 0 {
        marker(&mut sender, &mut reader);
        std::thread::sleep(Duration::from_millis(20));
    }
    marker(&mut sender, &mut reader);
    assert_eq!(server.count_log("client disconnected"), 0);
}

#[test]
fn the_soft_open_file_limit_is_raised_to_the_hard_one() {
    let server = Launch::new(&[]).ulimit("-Sn 64").start();
    let (soft, hard) = server.open_files_limit();
    assert_eq!(soft, hard);
}

#[test]
fn the_default_of_max_clients_leaves_a_reserve_of_open_files() {
    let server = Launch::new(&["--echo"]).ulimit("-n 200").start();
    let mut clients = Vec::new();
    let refusal = loop {
        let mut client = Client::dial(server.addr(0));
        // A client sees its own notice first, and a refused one the reason.
        let line = client.read_line();
        if line.starts_with("Error: ") {
            client.expect_eof();
            break line;
        }
        clients.push(client);
        assert!(clients.len() < 200, "more clients than descriptors");
        assert_eq!(line, format!("New client connected: {}", clients.len()));
    };
    assert_eq!(
        refusal,
        format!("Error: server full ({} clients)", clients.len())
    );
    assert!(
        clients.len() >= 100,
        "{} clients with 200 descriptors",
        clients.len()
    );
    let reserve = 200 - server.open_files();
    assert!(reserve >= 10, "{reserve} descriptors left");
}

#[test]
fn open_file_limit_that_leaves_room_for_few_clients_is_said() {
    let few = "the open-file limit allows only few clients";
    let mut server = Launch::new(&[]).ulimit("-n 65").start();
    let line = server.wait_log(&format!("WARN {few}"));
    assert!(
        line.contains("clients_possible=1") && line.contains("open_files=65"),
        "{line}"
    );
    let _one = Client::dial(server.addr(0));
    server.wait_log("client connected client=1");
    let mut other = Client::dial(server.addr(0));
    other.expect_line("Error: server full (1 clients)");
    server.stop();
    let server = Launch::new(&["--admin=127.0.0.1:0"])
        .ulimit("-n 130")
        .start();
    server.wait_log(&format!("WARN {few}"));
    let server = Launch::new(&[]).ulimit("-n 130").start();
    server.wait_log("phase=running");
    assert_eq!(server.count_log(few), 0);
}

#[test]
fn everyone_of_many_who_are_refused_at_once_sees_the_reason() {
    let server = Server::start(&["--max-clients", "1"]);
    let _one = Client::connect(&server);
    let mut refused: Vec<_> = (0..100).map(|_| Client::dial(server.addr(0))).collect();
    for client in &mut refused {
        client.expect_line("Error: server full (1 clients)");
        client.expect_eof();
    }
}

#[test]
fn out_of_file_descriptors_neither_ends_nor_spins_and_accepts_again_later() {
    let server = Launch::new(&["--no-notices", "--max-clients=1000"])
        .ulimit("-n 64")
        .start();
    let mut one = Client::connect(&server);
    let mut two = Client::connect(&server);
    // The kernel accepts for the daemon; what finds no descriptor waits in the backlog.
    let mut waiting: Vec<_> = (0..80).map(|_| Client::dial(server.addr(0))).collect();
    eventually("the descriptors are used up", || server.open_files() >= 63);
    // Clients that are there notice nothing.
    marker(&mut one, &mut two);
    marker(&mut two, &mut one);

    // Not synchronisation: the second is what the processor time is measured over.
    let (start, used) = (Instant::now(), server.cpu());
    std::thread::sleep(Duration::from_secs(1));
    let (span, used) = (start.elapsed(), server.cpu() - used);
    assert!(used < span / 4, "{used:?} of processor time in {span:?}");
    let errors = server
        .log()
        .iter()
        .filter(|line| line.contains("WARN"))
        .count();
    assert!(errors < 100, "{errors} warnings");
    assert!(server.count_log("client connected") < 64);

    waiting.drain(..60);
    server.wait_log_count("client connected", 82);
    let mut last = waiting.pop().expect("the last of them");
    last.send_line("served after all");
    let line = one.read_line();
    assert!(line.ends_with(": served after all"), "{line}");
}
