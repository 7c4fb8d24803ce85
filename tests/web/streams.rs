use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::process::Command;

use serde_json::{Value, json};

use super::{HTTP, PLAIN, data, start};
use crate::common::http::{connect, get, request};
use crate::common::{Address, Authority, Client, Program, Server, tool};

/// Reads the body of an answer as it comes, chunks taken apart.
struct Body {
    from: BufReader<Box<dyn crate::common::http::Connection>>,
    head: String,
    is_chunked: bool,
    rest: Vec<u8>,
}

impl Body {
    #[track_caller]
    fn get(address: &Address, path: &str, version: &str, more: &str) -> Body {
        let mut connection = connect(address);
        let request = format!("GET {path} HTTP/{version}\r\nHost: {address}\r\n{more}\r\n");
        connection.write_all(request.as_bytes()).unwrap();
        let mut from = BufReader::new(connection);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(from.read_line(&mut head).unwrap() > 0, "{head}");
        }
        Body {
            is_chunked: head.contains("Transfer-Encoding: chunked"),
            from,
            head,
            rest: Vec::new(),
        }
    }

    /// The next line; `None` at the end, which has to be said where there are chunks.
    #[track_caller]
    fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line = self.rest.drain(..=end).collect::<Vec<u8>>();
                return Some(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            if !self.is_chunked {
                let read = self.from.read_until(b'\n', &mut self.rest).unwrap();
                if read == 0 {
                    return None;
                }
                continue;
            }
            let mut size = String::new();
            assert!(
                self.from.read_line(&mut size).unwrap() > 0,
                "a chunk is missing"
            );
            let size = usize::from_str_radix(size.trim_end(), 16).expect("a size");
            let mut chunk = vec![0; size + 2];
            self.from.read_exact(&mut chunk).unwrap();
            assert!(chunk.ends_with(b"\r\n"));
            if size == 0 {
                return None;
            }
            self.rest.extend_from_slice(&chunk[..size]);
        }
    }

    #[track_caller]
    fn json(&mut self) -> Value {
        serde_json::from_str(&self.line().expect("a line")).expect("JSON")
    }

    /// The next event: its id, if it has one, and its data.
    #[track_caller]
    fn event(&mut self) -> (Option<String>, Value) {
        let (mut id, mut data) = (None, None);
        loop {
            let line = self.line().expect("an event");
            match line.split_once(": ") {
                Some(("id", value)) => id = Some(value.to_owned()),
                Some(("data", value)) => data = Some(serde_json::from_str(value).unwrap()),
                _ if line.is_empty() && data.is_some() => return (id, data.unwrap()),
                _ => {}
            }
        }
    }
}

#[test]
fn stream_is_the_body_of_an_answer_in_every_format() {
    let server = start(&["--no-notices"]);
    let mut sender = Client::connect_to(&server, PLAIN);
    let mut json = Body::get(server.addr(HTTP), "/lines", "1.1", "");
    assert!(json.is_chunked && json.head.contains("Content-Type: application/x-ndjson\r\n"));
    assert_eq!(json.json()["event"], "hello");
    let mut text = Body::get(server.addr(HTTP), "/main/lines?format=text", "1.1", "");
    assert!(
        text.head
            .contains("Content-Type: text/plain; charset=utf-8\r\n")
    );
    assert!(text.line().unwrap().starts_with("Hello client 3"));
    let mut raw = Body::get(server.addr(HTTP), "/lines?format=raw", "1.0", "");
    assert!(!raw.is_chunked && raw.head.contains("application/octet-stream"));
    for line in ["hello", "", "x".repeat(60_000).as_str()] {
        sender.send_line(line);
        assert_eq!(json.json()["data"], line);
        assert_eq!(
            text.line().unwrap(),
            format!("Message from client 1: {line}")
        );
        assert_eq!(raw.line().unwrap(), line);
    }
    server.signal(rustix::process::Signal::TERM);
    assert_eq!(json.json(), json!({"event": "shutdown"}));
    assert_eq!(text.line().unwrap(), "Server shutting down");
    assert_eq!([json.line(), text.line(), raw.line()], [None, None, None]);
}

#[test]
fn event_has_its_place_and_a_browser_goes_on_from_it() {
    let server = start(&["--history=1MiB"]);
    let mut events = Body::get(
        server.addr(HTTP),
        "/events",
        "1.1",
        "Accept: text/event-stream\r\n",
    );
    assert!(events.head.contains("Content-Type: text/event-stream\r\n"));
    let date = events.head.lines().find_map(|it| it.strip_prefix("Date: "));
    httpdate::parse_http_date(date.expect("a date")).expect("a date of HTTP");
    let (id, hello) = events.event();
    let epoch = hello["epoch"].as_str().unwrap().to_owned();
    assert_eq!(id.unwrap(), format!("{epoch}:{}", hello["seq"]));
    let mut sender = Client::connect_to(&server, PLAIN);
    for line in ["1", "2", "3"] {
        sender.send_line(line);
    }
    let mut ids = Vec::new();
    for _ in 0..4 {
        let (id, event) = events.event();
        let id = id.expect("a place");
        assert_eq!(id, format!("{epoch}:{}", event["seq"]));
        ids.push(id);
    }
    drop(events);
    // As `Last-Event-ID`, and as who cannot send fields says it.
    for (path, more) in [
        (
            "/events".to_owned(),
            format!("Last-Event-ID: {}\r\n", ids[1]),
        ),
        (format!("/events?lastEventID={}", ids[1]), String::new()),
        (format!("/events?since={}", ids[1]), String::new()),
    ] {
        let mut back = Body::get(server.addr(HTTP), &path, "1.1", &more);
        assert_eq!(back.event().1["recovered"], true);
        assert_eq!(
            [data(|| back.event().1), data(|| back.event().1)],
            ["2", "3"]
        );
    }
}

#[test]
fn own_site_may_read_and_others_only_if_they_are_allowed() {
    let server = start(&["--http-origin=https://feed.example", "--history=1MiB"]);
    let address = server.addr(HTTP);
    let ask = |host: &str, origin: &str| {
        let head = format!("GET / HTTP/1.1\r\nHost: {host}\r\nOrigin: {origin}\r\n\r\n");
        request(address, &head)
    };
    let own = address.to_string();
    assert_eq!(ask(&own, &format!("http://{own}")).status, 200);
    let allowed = ask(&own, "https://feed.example");
    assert_eq!(allowed.status, 200);
    assert!(allowed.has("access-control-allow-origin: https://feed.example"));
    assert_eq!(ask("feed.example", "https://feed.example").status, 200);
    assert_eq!(ask(&own, "https://evil.example").status, 403);
    assert_eq!(ask("evil.example", "http://evil.example").status, 421);
    assert_eq!(get(address, "/none/lines").status, 404);
}

#[test]
fn curl_reads_on_and_on() {
    let Some(curl) = tool("curl") else { return };
    let server = start(&["--no-notices"]);
    let mut sender = Client::connect_to(&server, PLAIN);
    let url = format!("http://{}/lines?format=text", server.addr(HTTP));
    let mut command = Command::new(curl);
    let mut program = Program::spawn(command.args(["-sN", "--noproxy", "*", &url]));
    program.wait_output("Hello client 2");
    sender.send_line("to curl");
    program.wait_output("Message from client 1: to curl\n");
    server.signal(rustix::process::Signal::TERM);
    let (status, _) = program.wait_end();
    assert!(status.success(), "the body has its end: {status}");
}

#[test]
fn it_goes_over_tls_too() {
    let Some(curl) = tool("curl") else { return };
    let authority = Authority::new();
    let pair = authority.server();
    let server = Server::start(&[
        "--listen=127.0.0.1:0",
        "--listen=127.0.0.1:0,http,tls",
        "--no-notices",
        "--tls-cert",
        &pair.certificate,
        "--tls-key",
        &pair.key,
    ]);
    let mut plain = Client::connect_to(&server, PLAIN);
    let url = format!("https://{}/lines?format=text", server.addr(HTTP));
    let ask = [
        "-sN",
        "--noproxy",
        "*",
        "--http1.1",
        "--cacert",
        &authority.certificate,
    ];
    let mut command = Command::new(&curl);
    let mut program = Program::spawn(command.args(ask).arg(&url));
    program.wait_output("Hello client 2");
    plain.send_line("over TLS");
    program.wait_output("Message from client 1: over TLS\n");
    let url = format!("https://{}/lines", server.addr(HTTP));
    let mut command = Command::new(curl);
    let post = command
        .args(ask)
        .args(["-d", "from TLS"])
        .arg(url)
        .output()
        .unwrap();
    assert_eq!(post.stdout, b"{\"taken\":1}\n");
    plain.expect_message(3, "from TLS");
    program.wait_output("Message from client 3: from TLS\n");
    server.signal(rustix::process::Signal::TERM);
    assert!(program.wait_end().0.success());
}

#[test]
fn channel_that_a_person_types_leads_to_its_page() {
    let server = start(&[]);
    let address = server.addr(HTTP);
    let ask = |path: &str, accept: &str| {
        request(
            address,
            &format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nAccept: {accept}\r\n\r\n"),
        )
    };
    let html = "text/html,application/xhtml+xml";
    for (path, to) in [("/main", "main/"), ("/main?history=5", "main/?history=5")] {
        let answer = ask(path, html);
        assert_eq!(answer.status, 308, "{answer:?}");
        assert!(answer.has(&format!("Location: {to}")), "{answer:?}");
    }
    assert_eq!(ask("/main", "*/*").status, 404);
    assert_eq!(ask("/main/lines/", html).status, 404);
}
