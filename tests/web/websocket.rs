use serde_json::json;
use tungstenite::protocol::CloseFrame;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::{Bytes, Message};

use super::{HTTP, PLAIN, WsClient, data, reaches, start};
use crate::common::{Client, PATIENCE, Program, Server, tool};

#[test]
fn message_is_a_line_both_ways_in_every_format() {
    let server = start(&["--no-notices"]);
    let mut plain = Client::connect_to(&server, PLAIN);
    let mut json = WsClient::connect(&server, "/ws");
    let mut text = WsClient::dial(server.addr(HTTP), "/main/ws?format=text");
    assert!(text.text().starts_with("Hello client "));
    let mut raw = WsClient::dial(server.addr(HTTP), "/ws?format=raw");
    json.send("hello");
    let id = json.id;
    plain.expect_message(id, "hello");
    assert_eq!(text.text(), format!("Message from client {id}: hello"));
    assert_eq!(raw.next(), Message::Binary(Bytes::from_static(b"hello")));
    plain.send_line("from nc");
    let message = json.json();
    let expected = json!({"event": "message", "seq": 2, "client": plain.id(), "data": "from nc"});
    assert_eq!(message, expected);
    // Bytes, the empty message, and one of several lines.
    raw.socket.send(Message::binary(&b"\xff\0"[..])).unwrap();
    assert_eq!(json.json()["data_base64"], "/wA=");
    text.send("");
    assert_eq!(json.json()["data"], "");
    text.send("two\nlines\n");
    assert_eq!(
        [json.json()["data"].clone(), json.json()["data"].clone()],
        ["two", "lines"]
    );
    for len in [125, 126, 65_535, 65_536] {
        let long = "x".repeat(len);
        text.send(&long);
        assert_eq!(json.json()["data"], long.as_str());
    }
}

#[test]
fn client_is_one_like_any_other() {
    let server = start(&[]);
    let mut plain = Client::connect_to(&server, PLAIN);
    let mut client = WsClient::connect(&server, "/ws");
    plain.expect_line(&format!("New client connected: {}", client.id));
    client.send("x");
    plain.expect_message(client.id, "x");
    let close = CloseFrame {
        code: CloseCode::Library(4711),
        reason: "bye".into(),
    };
    client.socket.close(Some(close)).unwrap();
    assert_eq!(client.close_status(), (4711, String::new()));
    plain.expect_line(&format!("Client disconnected: {}", client.id));
    server.wait_log("client disconnected client=2 reason=eof lines_in=1");
}

#[test]
fn close_says_why() {
    let server = start(&["--no-notices", "--max-line=10", "--history=1MiB"]);
    let mut long = WsClient::connect(&server, "/ws");
    long.send("12345678901");
    let error = long.json();
    assert_eq!(
        (&error["event"], &error["reason"]),
        (&json!("error"), &json!("line_too_long"))
    );
    assert_eq!(long.close_status(), (1009, "line_too_long".into()));

    let mut first = WsClient::connect(&server, "/ws?session=s");
    let _second = WsClient::connect(&server, "/ws?session=s");
    assert_eq!(first.json()["reason"], "session_taken");
    assert_eq!(first.close_status(), (1008, "session_taken".into()));

    let mut wrong = WsClient::connect(&server, "/ws");
    wrong.socket.get_mut().set_nodelay(true).unwrap();
    std::io::Write::write_all(wrong.socket.get_mut(), b"\x81\x81\0\0\0\0\xff").unwrap();
    assert_eq!(wrong.json()["reason"], "websocket");
    assert_eq!(wrong.close_status().0, 1007);

    let mut last = WsClient::connect(&server, "/ws");
    server.signal(rustix::process::Signal::TERM);
    assert_eq!(last.json(), json!({"event": "shutdown"}));
    assert_eq!(last.close_status(), (1001, "shutdown".into()));
}

#[test]
fn reader_that_does_not_read_is_closed_as_slow_and_holds_up_nobody() {
    let server = start(&["--no-notices", "--buffer=256KiB", "--slow-grace=100ms"]);
    let stuck = WsClient::connect(&server, "/ws");
    let mut reader = WsClient::connect(&server, "/ws");
    let mut sender = Client::connect_to(&server, PLAIN);
    let line = "x".repeat(60_000);
    for _ in 0..400 {
        sender.send_line(&line);
        assert_eq!(reader.json()["data"], line.as_str());
    }
    server.wait_log(&format!(
        "client disconnected client={} reason=slow",
        stuck.id
    ));
}

#[test]
fn place_is_gone_on_from_and_the_past_is_given() {
    let server = start(&["--no-notices", "--history=1MiB"]);
    let mut sender = Client::connect_to(&server, PLAIN);
    let mut reader = WsClient::dial(server.addr(HTTP), "/ws");
    let hello = reader.json();
    let epoch = hello["epoch"].as_str().unwrap().to_owned();
    for line in ["1", "2", "3", "4"] {
        sender.send_line(line);
        assert_eq!(data(|| reader.json()), line);
    }
    let mut back = WsClient::dial(server.addr(HTTP), &format!("/ws?since={epoch}:2"));
    assert_eq!(back.json()["recovered"], true);
    assert_eq!([data(|| back.json()), data(|| back.json())], ["3", "4"]);
    let mut newest = WsClient::connect(&server, "/ws?history=1");
    assert_eq!(data(|| newest.json()), "4");
    let mut session = WsClient::connect(&server, "/ws?session=s&ack&role=publish");
    session.send("5");
    assert_eq!(session.json(), json!({"event": "ack", "taken": 1}));
}

#[test]
fn token_is_asked_for_and_may_come_in_two_ways() {
    let folder = tempfile::tempdir().unwrap();
    let tokens = folder.path().join("tokens");
    // What `abc` and `def` hash to.
    let stanza = |name: &str, hash: &str, more: &str| {
        format!("[[token]]\nname = \"{name}\"\nsha256 = \"{hash}\"\n{more}\n")
    };
    let text = stanza(
        "abc",
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        "",
    ) + &stanza(
        "def",
        "cb8379ac2098aa165029e3938a51da0bcecfc008fd6795f401178647f96c5b34",
        "role = \"subscribe\"",
    );
    std::fs::write(&tokens, text).unwrap();
    let server = start(&[&format!("--tokens={}", tokens.display())]);
    let mut plain = Client::connect_to(&server, PLAIN);
    let mut named = WsClient::connect(&server, "/ws?token=abc");
    named.send("x");
    plain.expect_line(&format!("New client connected: {}", named.id));
    plain.expect_message(named.id, "x");
    server.wait_log("client connected client=2 name=abc");
    let status = |path: &str, more: &str| {
        let address = server.addr(HTTP);
        let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n{more}\r\n");
        crate::common::http::request(address, &request).status
    };
    assert_eq!(status("/lines", ""), 401);
    assert_eq!(status("/lines?token=wrong", ""), 401);
    let post = |token: &str| {
        let address = server.addr(HTTP);
        let request = format!(
            "POST /lines HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\n\
             Content-Length: 2\r\n\r\nx\n"
        );
        crate::common::http::request(address, &request).status
    };
    assert_eq!([post("abc"), post("def"), post("x")], [200, 403, 401]);
    // Who may only read, and did not choose to, is told.
    for (path, role) in [
        ("/ws?token=abc", json!(null)),
        ("/ws?token=abc&role=subscribe", json!(null)),
        ("/ws?token=def", json!("subscribe")),
    ] {
        let hello = WsClient::dial(server.addr(HTTP), path).json();
        assert_eq!((&hello["event"], &hello["role"]), (&json!("hello"), &role));
    }
    // A browser tells its page nothing but how the connection was closed.
    for (path, label) in [
        ("/ws?token=wrong", "unauthorized"),
        ("/none/ws?token=abc", "no_channel"),
    ] {
        let mut refused = WsClient::dial(server.addr(HTTP), path);
        assert_eq!(refused.json()["reason"], label);
        assert_eq!(refused.close_status(), (1008, label.into()));
    }
    assert!(
        !server.log().iter().any(|line| line.contains("wrong")),
        "no token is logged"
    );
}

/// The library that Python's users have.
#[test]
fn python_reads_and_writes() {
    // A package of Debian is for Debian's own.
    let pythons = [Some("/usr/bin/python3".into()), tool("python3")];
    let has_it = |python: &std::path::PathBuf| {
        let mut command = std::process::Command::new(python);
        let status = command
            .args(["-c", "import websockets"])
            .stderr(std::process::Stdio::null())
            .status();
        status.is_ok_and(|status| status.success())
    };
    let Some(python) = pythons.into_iter().flatten().find(has_it) else {
        assert!(
            std::env::var_os("CI").is_none(),
            "python3-websockets is missing"
        );
        return;
    };
    let server = Server::start(&[
        "--listen=127.0.0.1:0",
        "--listen=127.0.0.1:0,http",
        "--no-notices",
    ]);
    let mut plain = Client::connect_to(&server, PLAIN);
    let script = format!(
        "import asyncio, websockets\n\
         async def main():\n\
         \x20async with websockets.connect('ws://{}/ws?format=text') as ws:\n\
         \x20 print(await ws.recv(), flush=True)\n\
         \x20 await ws.send('from python')\n\
         \x20 await (await ws.ping())\n\
         \x20 print(await ws.recv(), flush=True)\n\
         \x20 await ws.close(1000)\n\
         \x20 print(ws.close_code, flush=True)\n\
         asyncio.run(main())\n",
        server.addr(HTTP)
    );
    let mut command = std::process::Command::new(python);
    command.args(["-c", &script]).env("no_proxy", "*");
    let mut program = Program::spawn(&mut command);
    program.wait_output("Hello client 2");
    plain.expect_message(2, "from python");
    plain.send_line("to python");
    program.wait_output("Message from client 1: to python\n1000\n");
    assert!(program.wait_end().0.success());
}

#[test]
fn client_that_answers_no_ping_is_gone_before_the_next_but_one() {
    let server = start(&["--no-notices"]);
    let mut plain = Client::connect_to(&server, PLAIN);
    let mut awake = WsClient::connect(&server, "/ws?beat");
    // The library answers while something is read.
    let asleep = WsClient::connect(&server, "/ws");
    let stream = awake.socket.get_ref();
    stream.set_read_timeout(Some(2 * PATIENCE)).unwrap();
    for _ in 0..2 {
        let ping = awake.socket.read().unwrap();
        assert!(ping.is_ping(), "{ping:?}");
        // Who cannot see that has asked for a message, too.
        assert_eq!(awake.json(), json!({"event": "beat"}));
    }
    awake.send("still here");
    server.wait_log(&format!(
        "client disconnected client={} reason=reset",
        asleep.id
    ));
    plain.expect_message(awake.id, "still here");
    reaches(&mut plain, &mut awake);
}
