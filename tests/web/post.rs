use std::io::Write;
use std::process::Command;

use serde_json::{Value, json};

use super::{HTTP, PLAIN, start};
use crate::common::http::{Answer, get, request};
use crate::common::{Client, Server, tool};

#[track_caller]
fn post(server: &Server, fields: &str, body: &str) -> Answer {
    post_to(server, "/lines", fields, body)
}

#[track_caller]
fn post_to(server: &Server, path: &str, fields: &str, body: &str) -> Answer {
    let address = server.addr(HTTP);
    let length = match fields.contains("Transfer-Encoding") {
        true => String::new(),
        false => format!("Content-Length: {}\r\n", body.len()),
    };
    let head = format!("POST {path} HTTP/1.1\r\nHost: {address}\r\n{fields}{length}\r\n{body}");
    request(address, &head)
}

#[track_caller]
fn taken(answer: &Answer) -> u64 {
    assert_eq!(answer.status, 200, "{answer:?}");
    let body: Value = serde_json::from_str(&answer.body).unwrap();
    body["taken"].as_u64().unwrap()
}

#[test]
fn lines_of_a_body_are_published_and_counted() {
    let server = start(&[]);
    let mut reader = Client::connect_to(&server, PLAIN);
    for (body, lines) in [
        ("one\ntwo\n", &["one", "two"][..]),
        ("three", &["three"]),
        ("", &[]),
        ("\n", &[""]),
    ] {
        assert_eq!(taken(&post(&server, "", body)), lines.len() as u64);
        let connected = reader.read_line();
        let id: u64 = connected
            .strip_prefix("New client connected: ")
            .unwrap()
            .parse()
            .unwrap();
        lines
            .iter()
            .for_each(|line| reader.expect_message(id, line));
        reader.expect_line(&format!("Client disconnected: {id}"));
    }
    let chunks = "4\r\na\nb\n\r\n1\r\nc\r\n0\r\n\r\n";
    assert_eq!(
        taken(&post(&server, "Transfer-Encoding: chunked\r\n", chunks)),
        3
    );
}

#[test]
fn lines_that_nobody_hears_are_published_and_counted_too() {
    let server = start(&["--open-channels=1", "--admin=127.0.0.1:0"]);
    for path in ["/lines", "/opened/lines"] {
        for _ in 0..3 {
            let answer = post_to(&server, path, "", "a\nb\n");
            assert_eq!(taken(&answer), 2, "{path}");
        }
    }
    // They have their numbers.
    let lines = get(&server.admin(), "/metrics").body;
    assert!(
        lines.contains("\nlinehub_lines_received_total 12\n"),
        "{lines}"
    );
}

#[test]
fn key_makes_a_request_that_is_sent_again_one_request() {
    let server = start(&["--no-notices", "--history=1MiB"]);
    let mut reader = Client::connect_to(&server, PLAIN);
    let key = "Idempotency-Key: 8e03978e-40d5\r\n";
    assert_eq!(taken(&post(&server, key, "a\nb\n")), 2);
    assert_eq!(taken(&post(&server, key, "a\nb\n")), 2);
    assert_eq!(taken(&post(&server, key, "a\nb\nc")), 3);
    for (id, line) in [(2, "a"), (2, "b"), (4, "c")] {
        reader.expect_message(id, line);
    }
    // One that breaks in the middle is gone on with.
    let address = server.addr(HTTP);
    let mut broken = crate::common::http::connect(address);
    let head = format!(
        "POST /lines HTTP/1.1\r\nHost: {address}\r\nIdempotency-Key: k\r\nContent-Length: 8\r\n\r\nd\ne\nf"
    );
    broken.write_all(head.as_bytes()).unwrap();
    reader.expect_message(5, "d");
    reader.expect_message(5, "e");
    drop(broken);
    assert_eq!(
        taken(&post(&server, "Idempotency-Key: k\r\n", "d\ne\nf\ng\n")),
        4
    );
    reader.expect_message(6, "f");
    reader.expect_message(6, "g");
}

#[test]
fn lines_that_were_dropped_count_when_it_is_sent_again() {
    let args = [
        "--no-notices",
        "--history=1MiB",
        "--max-line=10",
        "--long-line=discard",
    ];
    let server = start(&args);
    let mut reader = Client::connect_to(&server, PLAIN);
    let key = "Idempotency-Key: k\r\n";
    assert_eq!(taken(&post(&server, key, "a\nlonger than ten\n")), 2);
    assert_eq!(taken(&post(&server, key, "a\nlonger than ten\nb\nc")), 4);
    assert_eq!(taken(&post(&server, key, "a\nlonger than ten\nb\nc")), 4);
    for (id, line) in [(2, "a"), (3, "b"), (3, "c")] {
        reader.expect_message(id, line);
    }
}

#[test]
fn what_was_not_taken_is_told() {
    let server = start(&["--no-notices", "--max-line=10"]);
    let mut reader = Client::connect_to(&server, PLAIN);
    let long = post(&server, "", "a\nbbbbbbbbbbbb\nc\n");
    assert_eq!(long.status, 413, "{long:?}");
    let error: Value = serde_json::from_str(&long.body).unwrap();
    assert_eq!(error["reason"], "line_too_long");
    let detail = "line too long (limit 10 bytes); 1 lines were published";
    assert_eq!(error["detail"], detail);
    reader.expect_message(2, "a");
    let wrong = post(&server, "Transfer-Encoding: chunked\r\n", "2\r\nx\nX");
    assert_eq!(wrong.status, 400, "{wrong:?}");
    let detail = "invalid chunk in the body; 1 lines were published";
    assert!(wrong.body.contains(detail), "{wrong:?}");
    reader.expect_message(3, "x");
    let mut cut = Client::dial(server.addr(HTTP));
    cut.send_bytes(
        b"POST /lines HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\nx\ny\nhalf",
    );
    cut.finish();
    let answer = cut.lines_to_eof().concat();
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    let detail = "the body has ended too early; 2 lines were published";
    assert!(answer.contains(detail), "{answer}");
    assert_eq!(
        post(&server, "Idempotency-Key: k\r\n", "x\n").status,
        400,
        "nothing is kept"
    );
    server.signal(rustix::process::Signal::TERM);
}

#[test]
fn curl_writes_what_waits_for_a_word_too() {
    let Some(curl) = tool("curl") else { return };
    let server = start(&["--no-notices", "--history=64MiB"]);
    let mut reader = Client::connect_to(&server, PLAIN);
    let url = format!("http://{}/lines", server.addr(HTTP));
    let file = tempfile::NamedTempFile::new().unwrap();
    let line = format!("{}\n", "x".repeat(999));
    file.as_file()
        .write_all(line.repeat(3000).as_bytes())
        .unwrap();
    for how in [
        vec![
            "--data-binary".to_owned(),
            format!("@{}", file.path().display()),
        ],
        vec![
            "-T".to_owned(),
            file.path().display().to_string(),
            "-X".into(),
            "POST".into(),
            "-H".into(),
            "Transfer-Encoding: chunked".into(),
        ],
    ] {
        let mut command = Command::new(&curl);
        let command = command
            .args(["-s", "--noproxy", "*", "-H", "Expect: 100-continue"])
            .args(how)
            .arg(&url);
        let child = command
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        for _ in 0..3000 {
            assert!(reader.read_line().ends_with("xxx"));
        }
        let output = child.wait_with_output().unwrap();
        let told: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(told, json!({"taken": 3000}));
    }
}

#[test]
fn answer_waits_until_it_is_on_disk() {
    let folder = tempfile::tempdir().unwrap();
    let dir = format!("--history-dir={}", folder.path().join("h").display());
    let server = start(&[
        "--no-notices",
        "--history=1MiB",
        &dir,
        "--history-sync=always",
    ]);
    for body in ["one\n", "two"] {
        assert_eq!(taken(&post(&server, "", body)), 1);
    }
}
