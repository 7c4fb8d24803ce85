use std::cell::RefCell;

use base64::Engine as _;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::json;

use crate::common::{Client, Server, marker};

/// Runs a property on one daemon, whose clients the closure keeps.
fn check<S: Strategy>(strategy: &S, test: impl Fn(S::Value)) {
    let config = Config {
        cases: 64,
        failure_persistence: None,
        ..Config::default()
    };
    TestRunner::new(config)
        .run(strategy, |value| {
            test(value);
            Ok(())
        })
        .unwrap();
}

/// A listener's address on the IPv6 loopback, or nothing where there is none.
fn ipv6() -> bool {
    let there = std::net::TcpListener::bind("[::1]:0").is_ok();
    if !there {
        eprintln!("skipped: no IPv6 loopback");
    }
    there
}

#[test]
fn three_formats_on_ipv4_ipv6_and_unix_see_the_same_stream_each_in_its_own_way() {
    let dir = tempfile::tempdir().unwrap();
    let unix = format!("unix:{},format=raw", dir.path().join("hub.sock").display());
    let v6 = if ipv6() {
        "[::1]:0,format=json"
    } else {
        "127.0.0.1:0,format=json"
    };
    let server = Server::start(&["--listen", "127.0.0.1:0", "--listen", v6, "--listen", &unix]);

    let mut text = Client::connect_to(&server, 0);
    let mut json = Client::connect_to(&server, 1);
    let mut raw = Client::connect_to(&server, 2);
    assert_eq!((text.id(), json.id(), raw.id()), (1, 2, 3));
    text.expect_line("New client connected: 2");
    text.expect_line("New client connected: 3");
    assert_eq!(
        json.read_json(),
        json!({"event": "connect", "seq": 3, "client": 3})
    );

    text.send_line("from text");
    assert_eq!(
        json.read_json(),
        json!({"event": "message", "seq": 4, "client": 1, "data": "from text"})
    );
    raw.expect_line("from text");

    json.send_line("from json");
    text.expect_message(2, "from json");
    raw.expect_line("from json");

    raw.send_line("from raw");
    text.expect_message(3, "from raw");
    // 5 was its own.
    assert_eq!(
        json.read_json(),
        json!({"event": "message", "seq": 6, "client": 3, "data": "from raw"})
    );

    drop(raw);
    text.expect_line("Client disconnected: 3");
    assert_eq!(
        json.read_json(),
        json!({"event": "disconnect", "seq": 7, "client": 3})
    );
}

#[test]
fn format_is_the_default_of_listeners_that_name_none() {
    let server = Server::start(&[
        "--format=json",
        "--listen=127.0.0.1:0",
        "--listen=127.0.0.1:0,format=text",
    ]);
    server.wait_log("listening format=json");
    server.wait_log("listening format=text");
    let mut json = Client::connect_to(&server, 0);
    let mut text = Client::connect_to(&server, 1);
    assert_eq!(json.read_json()["event"], "connect");
    json.send_line("{\"is\": \"only data\"}");
    text.expect_message(1, "{\"is\": \"only data\"}");
}

#[test]
fn two_listeners_of_one_format_share_one_stream() {
    let server = Server::start(&["--listen=127.0.0.1:0", "--listen=127.0.0.1:0"]);
    let mut one = Client::connect_to(&server, 0);
    let mut two = Client::connect_to(&server, 1);
    one.expect_line("New client connected: 2");
    marker(&mut one, &mut two);
    marker(&mut two, &mut one);
}

#[test]
fn raw_is_exact_for_any_bytes_however_they_are_cut() {
    let server = Server::start(&["--format", "raw"]);
    let sender = RefCell::new(Client::connect(&server));
    let reader = RefCell::new(Client::connect(&server));
    let bytes = prop_oneof![
        3 => any::<u8>(),
        // What other formats treat as special, more often than chance has it.
        1 => proptest::sample::select(&[b'\n', b'\r', 0, 4, 0xff, 0xfd, 0x1b][..]),
    ];
    let pieces = proptest::collection::vec(proptest::collection::vec(bytes, 0..300), 1..8);
    check(&pieces, |pieces| {
        let mut whole = Vec::new();
        for piece in &pieces {
            sender.borrow_mut().send_bytes(piece);
            whole.extend_from_slice(piece);
        }
        // The line end that makes the rest a line is part of the stream, too.
        sender.borrow_mut().send_bytes(b"\n");
        whole.push(b'\n');
        assert_eq!(reader.borrow_mut().read_bytes(whole.len()), whole);
    });
    sender.borrow_mut().send_line("end");
    reader.borrow_mut().expect_line("end");
}

#[test]
fn raw_keeps_the_carriage_return_that_text_and_json_leave_out() {
    let server = Server::start(&[
        "--no-notices",
        "--listen=127.0.0.1:0,format=raw",
        "--listen=127.0.0.1:0,format=text",
        "--listen=127.0.0.1:0,format=json",
    ]);
    let mut sender = Client::connect(&server);
    let mut raw = Client::connect(&server);
    let mut text = Client::connect_to(&server, 1);
    let mut json = Client::connect_to(&server, 2);
    sender.send_bytes(b"$GPGGA,1*00\r\n\r\n");
    assert_eq!(raw.read_bytes(15), b"$GPGGA,1*00\r\n\r\n");
    text.expect_message(1, "$GPGGA,1*00");
    text.expect_message(1, "");
    assert_eq!(json.read_json()["data"], "$GPGGA,1*00");
    assert_eq!(json.read_json()["data"], "");
}

#[test]
fn a_raw_client_is_told_nothing_but_lines() {
    let server = Server::start(&[
        "--max-line=100",
        "--listen=127.0.0.1:0,format=raw",
        "--listen=127.0.0.1:0",
    ]);
    let mut raw = Client::connect(&server);
    let mut text = Client::connect_to(&server, 1);
    text.send_line("a line");
    raw.expect_line("a line");
    raw.send_bytes(&[b'x'; 200]);
    raw.expect_eof();
    text.expect_line("Client disconnected: 1");
}

/// What `text` makes of a payload, written a second time: printable UTF-8 and TAB as they are,
/// every other byte as `\xNN`.
fn shown(payload: &[u8]) -> String {
    let mut text = String::new();
    for chunk in payload.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() && c != '\t' {
                let mut bytes = [0; 4];
                for byte in c.encode_utf8(&mut bytes).bytes() {
                    text += &format!("\\x{byte:02x}");
                }
            } else {
                text.push(c);
            }
        }
        for byte in chunk.invalid() {
            text += &format!("\\x{byte:02x}");
        }
    }
    text
}

#[test]
fn text_shows_what_is_not_printable_and_leaves_the_rest() {
    let server = Server::start(&["--no-notices"]);
    let mut sender = Client::connect(&server);
    let mut reader = Client::connect(&server);
    for (payload, wanted) in [
        (&b"tab\tstays"[..], "tab\tstays"),
        ("grüße, 世界 🎉".as_bytes(), "grüße, 世界 🎉"),
        (b"\x1b[2J\x1b]0;title\x07", "\\x1b[2J\\x1b]0;title\\x07"),
        (b"a\x08b\x7fc", "a\\x08b\\x7fc"),
        (b"over\rwritten", "over\\x0dwritten"),
        // The C1 control CSI, as UTF-8 and as the single byte that old terminals obey.
        (b"\xc2\x9b31m", "\\xc2\\x9b31m"),
        (b"\x9b31m", "\\x9b31m"),
        (b"cut \xe4\xb8", "cut \\xe4\\xb8"),
        (b"overlong \xc0\xaf", "overlong \\xc0\\xaf"),
        (b"surrogate \xed\xa0\x80", "surrogate \\xed\\xa0\\x80"),
        (b"nul \0.", "nul \\x00."),
        // A backslash is printable, so it stays one.
        (b"\\x1b", "\\x1b"),
    ] {
        assert_eq!(shown(payload), wanted);
        sender.send_bytes(&[payload, b"\n"].concat());
        reader.expect_message(1, wanted);
    }
}

#[test]
fn text_shows_any_payload_of_a_raw_client_as_it_promises() {
    let server = Server::start(&[
        "--no-notices",
        "--listen=127.0.0.1:0,format=raw",
        "--listen=127.0.0.1:0",
    ]);
    let sender = RefCell::new(Client::connect(&server));
    let reader = RefCell::new(Client::connect_to(&server, 1));
    let payload = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..200),
        "\\PC{0,60}".prop_map(String::into_bytes),
        any::<String>().prop_map(String::into_bytes),
    ];
    // A line end of any sort inside would make it another payload.
    let payload = payload.prop_map(|mut bytes| {
        bytes.retain(|byte| !b"\n\r".contains(byte));
        bytes
    });
    check(&payload, |payload| {
        sender
            .borrow_mut()
            .send_bytes(&[&payload[..], b"\n"].concat());
        reader.borrow_mut().expect_message(1, &shown(&payload));
    });
}

#[test]
fn no_bytes_of_a_text_client_put_a_control_character_on_anothers_terminal() {
    let server = Server::start(&["--no-notices"]);
    let reader = RefCell::new(Client::connect(&server));
    let mut witness = Client::connect(&server);
    let witness = RefCell::new(&mut witness);
    let bytes = prop_oneof![
        2 => any::<u8>(),
        1 => proptest::sample::select(&[0x1b, b'[', 0x9b, 0xc2, b'\r', b'\n', 0, 0xff, 0xf0, 0xfa, 8][..]),
    ];
    check(&proptest::collection::vec(bytes, 0..400), |bytes| {
        // A client of its own for each case: some of these bytes mean that it leaves.
        let mut sender = Client::connect(&server);
        let _ = std::io::Write::write_all(&mut sender.sender(), &bytes);
        sender.finish();
        server.wait_log(&format!("client disconnected client={}", sender.id()));
        witness.borrow_mut().send_line("end");
        let end = format!("Message from client {}: end", witness.borrow().id());
        for line in reader.borrow_mut().lines_until(&end) {
            assert!(line.starts_with("Message from client "), "{line:?}");
            let control = |c: char| c.is_control() && c != '\t';
            assert!(!line.contains(control), "{line:?}");
        }
    });
}

#[test]
fn json_carries_any_payload_as_text_or_base64_and_numbers_without_gaps() {
    let server = Server::start(&[
        "--no-notices",
        "--listen=127.0.0.1:0,format=raw",
        "--listen=127.0.0.1:0,format=json",
    ]);
    let sender = RefCell::new(Client::connect(&server));
    let reader = RefCell::new(Client::connect_to(&server, 1));
    let seq = RefCell::new(None);
    let payload = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..200),
        any::<String>().prop_map(String::into_bytes),
    ];
    let payload = payload.prop_map(|mut bytes| {
        bytes.retain(|byte| *byte != b'\n');
        while bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
        bytes
    });
    check(&payload, |payload| {
        sender
            .borrow_mut()
            .send_bytes(&[&payload[..], b"\n"].concat());
        let message = reader.borrow_mut().read_json();
        assert_eq!(message["event"], "message");
        assert_eq!(message["client"], 1);
        let number = message["seq"].as_u64().unwrap();
        if let Some(last) = seq.replace(Some(number)) {
            assert_eq!(number, last + 1);
        }
        match std::str::from_utf8(&payload) {
            Ok(text) => {
                assert_eq!(message["data"], text);
                assert_eq!(message.get("data_base64"), None);
            }
            Err(_) => {
                let base64 = base64::engine::general_purpose::STANDARD.encode(&payload);
                assert_eq!(message["data_base64"], base64);
                assert_eq!(message.get("data"), None);
            }
        }
    });
}

#[test]
fn json_sees_gaps_in_seq_only_for_its_own_lines() {
    let server = Server::start(&["--no-notices", "--format", "json"]);
    let mut one = Client::connect(&server);
    let mut two = Client::connect(&server);
    one.send_line("a");
    let first = two.read_json()["seq"].as_u64().unwrap();
    two.send_bytes(b"b\nc\nd\n");
    for n in 1..=3 {
        assert_eq!(one.read_json()["seq"], first + n);
    }
    one.send_line("e");
    assert_eq!(two.read_json()["seq"], first + 4);
}

#[test]
fn json_is_told_why_it_is_closed() {
    let server = Server::start(&["--format=json", "--max-line=100"]);
    let mut client = Client::connect(&server);
    client.send_bytes(&[b'x'; 101]);
    let error = client.read_json();
    assert_eq!(error["event"], "error");
    assert_eq!(error["reason"], "line_too_long");
    let detail = error["detail"].as_str().unwrap();
    assert!(detail.contains("limit 100 bytes"), "{detail}");
    client.expect_eof();
}
