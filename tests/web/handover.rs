use std::io::Write;

use serde_json::{Value, json};

use super::{HTTP, PLAIN, WsClient, data, reaches, start};
use crate::common::{Client, exec};

#[test]
fn clients_stay_over_an_exec_in_the_middle_of_a_frame() {
    let server = start(&["--no-notices"]);
    let mut plain = Client::connect_to(&server, PLAIN);
    let mut ws = WsClient::connect(&server, "/ws");
    // Half a frame that is masked, within a message of two fragments, and half a head.
    let half = [&b"\x01\x83\x01\x02\x03\x04"[..], &[b'h' ^ 1]].concat();
    ws.socket.get_mut().write_all(&half).unwrap();
    let mut head = crate::common::http::connect(server.addr(HTTP));
    let line = format!(
        "POST /lines HTTP/1.1\r\nHost: {}\r\nContent-",
        server.addr(HTTP)
    );
    head.write_all(line.as_bytes()).unwrap();
    let mut body = crate::common::http::connect(server.addr(HTTP));
    let request = format!(
        "POST /lines HTTP/1.1\r\nHost: {}\r\nTransfer-Encoding: chunked\r\n\r\n8\r\nfirst\nse",
        server.addr(HTTP)
    );
    body.write_all(request.as_bytes()).unwrap();
    assert_eq!(data(|| ws.json()), "first");
    plain.expect_message(3, "first");
    for _ in 0..3 {
        exec(&server);
        reaches(&mut plain, &mut ws);
    }
    ws.socket
        .get_mut()
        .write_all(&[b'e' ^ 2, b'l' ^ 3])
        .unwrap();
    let rest = [&b"\x80\x82\0\0\0\0"[..], b"lo"].concat();
    ws.socket.get_mut().write_all(&rest).unwrap();
    plain.expect_message(ws.id, "hello");
    body.write_all(b"\r\n5\r\ncond\n\r\n0\r\n\r\n").unwrap();
    plain.expect_message(3, "second");
    let mut answer = String::new();
    body.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("\r\n\r\n{\"taken\":2}\n"), "{answer}");
    head.write_all(b"Length: 2\r\n\r\nx\n").unwrap();
    let mut answer = String::new();
    head.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("{\"taken\":1}\n"), "{answer}");
    // The second line of the body came before.
    assert_eq!([data(|| ws.json()), data(|| ws.json())], ["second", "x"]);
}

#[test]
fn stream_of_a_slow_reader_goes_on_in_the_middle_of_a_line() {
    let server = start(&["--no-notices", "--slow-grace=forever", "--buffer=8MiB"]);
    let mut sender = Client::connect_to(&server, PLAIN);
    let mut reader = Client::dial_stuck(server.addr(HTTP));
    let request = format!("GET /lines HTTP/1.1\r\nHost: {}\r\n\r\n", server.addr(HTTP));
    reader.send_bytes(request.as_bytes());
    while !reader.read_line().contains("\"hello\"") {}
    let line = "x".repeat(50_000);
    for number in 0..40 {
        sender.send_line(&format!("{number} {line}"));
    }
    exec(&server);
    reader.wake();
    let mut numbers = Vec::new();
    let mut text = String::new();
    while numbers.len() < 40 {
        // Chunks stand between any two bytes of the body: their lines are taken out.
        let part = reader.read_line();
        match part.strip_suffix('\r') {
            Some(around) => {
                text += around.trim_end_matches(|digit: char| digit.is_ascii_hexdigit())
            }
            None => {
                text += &part;
                let event: Value =
                    serde_json::from_str(text.trim_start_matches(|c| c != '{')).unwrap();
                let number = event["data"]
                    .as_str()
                    .unwrap()
                    .split(' ')
                    .next()
                    .unwrap()
                    .to_owned();
                numbers.push(json!(number.parse::<u64>().unwrap()));
                text.clear();
            }
        }
    }
    let expected: Vec<Value> = (0..40).map(|number| json!(number)).collect();
    assert_eq!(numbers, expected);
}
