use proptest::prelude::*;

use super::*;
use crate::wire::channel::ChannelName;
use crate::wire::format::Format;
use crate::wire::ids::{Epoch, Seq};
use crate::wire::past::{Newest, Since};
use crate::wire::role::Role;
use crate::wire::telnet::HEADROOM;
use crate::wire::transport::Transport;

const WEBSOCKET: &str = "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
                         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

fn parse(line: &str, fields: &str) -> Result<Request, HttpError> {
    Request::parse(format!("{line} HTTP/1.1\r\nHost: 127.0.0.1:80\r\n{fields}\r\n").as_bytes())
}

#[track_caller]
fn client(line: &str, fields: &str) -> WebRequest {
    match parse(line, fields).unwrap().asked {
        Asked::Client(client) => *client,
        asked => panic!("{asked:?}"),
    }
}

#[track_caller]
fn status(line: &str, fields: &str) -> u16 {
    parse(line, fields).unwrap_err().status
}

#[test]
fn path_names_the_channel_and_what_is_asked_for() {
    for (line, fields, transport, role) in [
        ("GET /ws", WEBSOCKET, Transport::WebSocket, None),
        ("GET /events", "", Transport::Events, Some(Role::Subscribe)),
        ("GET /lines", "", Transport::Lines, Some(Role::Subscribe)),
        (
            "POST /lines",
            "Content-Length: 0\r\n",
            Transport::Post,
            Some(Role::Publish),
        ),
    ] {
        for channel in [None, Some("nmea"), Some("ws")] {
            let line = match channel {
                Some(channel) => line.replacen('/', &format!("/{channel}/"), 1),
                None => line.to_owned(),
            };
            let request = client(&line, fields);
            assert_eq!(
                (request.transport, request.hello.role),
                (transport, role),
                "{line}"
            );
            let channel = channel.map(|name| name.parse::<ChannelName>().unwrap());
            assert_eq!(request.hello.channel, channel, "{line}");
        }
    }
    for path in [
        "/",
        "/nmea/",
        "/?token=x",
        "http://127.0.0.1/",
        "http://localhost?x",
    ] {
        for (method, is_head) in [("GET", false), ("HEAD", true)] {
            let request = parse(&format!("{method} {path}"), "").unwrap();
            assert_eq!(request.asked, Asked::Page { is_head }, "{path}");
        }
    }
    assert_eq!(parse("OPTIONS /lines", "").unwrap().asked, Asked::Preflight);
}

#[test]
fn parameters_say_what_a_hello_says() {
    let place = Some(Since::Place(Epoch(0x5f3a_9c11), Seq(7)));
    let ws = client(
        "GET /ws?format=text&role=publish&history=20&since=5f3a9c11:7&token=a%2Bb",
        WEBSOCKET,
    );
    assert_eq!(ws.hello.format, Some(Format::Text));
    assert_eq!(ws.hello.role, Some(Role::Publish));
    assert_eq!(ws.hello.history, Some(Newest::Messages(20)));
    assert_eq!(ws.hello.since, place);
    assert_eq!(ws.hello.token.unwrap().as_bytes(), b"a+b");
    assert_eq!(ws.websocket_accept.unwrap(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    let session = client("GET /ws?session=s&ack", WEBSOCKET).hello;
    assert_eq!(
        (session.session.unwrap().as_str(), session.ack),
        ("s", true)
    );
    assert_eq!(
        client("GET /events?lastEventID=5f3a9c11:7", "").hello.since,
        place
    );
    let back = client("GET /events?since=5m", "Last-Event-ID: 5f3a9c11:7\r\n");
    assert_eq!(
        (back.hello.since, back.hello.format),
        (place, Some(Format::Json))
    );
    let nowhere = Since::Place(Epoch(0), Seq(0));
    for (line, fields) in [
        ("GET /events?since=5m", "Last-Event-ID: 4711\r\n"),
        ("GET /events?lastEventId=4711", ""),
    ] {
        assert_eq!(client(line, fields).hello.since, Some(nowhere));
    }
    let bearer = client("GET /lines", "Authorization: bearer abc\r\n").hello;
    assert_eq!(bearer.token.unwrap().as_bytes(), b"abc");
    for key in ["8e03978e-40d5", "\"8e03978e-40d5\""] {
        let fields =
            format!("Idempotency-Key: {key}\r\nContent-Length: 7\r\nExpect: 100-continue\r\n");
        let post = client("POST /lines", &fields);
        assert_eq!(post.hello.session.unwrap().as_str(), "8e03978e-40d5");
        assert_eq!(
            (post.hello.ack, post.body),
            (true, Some((BodyLength::Bytes(7), true)))
        );
    }
    let chunked = client("POST /lines", "Transfer-Encoding: chunked\r\n");
    assert_eq!(chunked.body, Some((BodyLength::Chunked, false)));
}

#[test]
fn what_is_not_served_is_told_by_its_status() {
    for (line, expected) in [
        ("GET /nothing", 404),
        ("GET /a/b/ws", 404),
        ("GET /a%20b/ws", 404),
        ("GET /ws", 426),
        ("POST /lines", 411),
        ("GET /lines?format=xml", 400),
        ("GET /lines?since=x", 400),
        ("GET /lines?histroy=5", 400),
        ("GET /lines?history=5&history=6", 400),
        ("GET /events?format=text", 400),
        ("POST /lines?role=both", 400),
    ] {
        assert_eq!(status(line, ""), expected, "{line}");
    }
    for (line, methods) in [
        ("PUT /lines", "GET, POST, OPTIONS"),
        ("POST /ws", "GET, OPTIONS"),
        ("DELETE /", "GET, HEAD, OPTIONS"),
    ] {
        let error = parse(line, "").unwrap_err();
        assert_eq!((error.status, error.allowed()), (405, Some(methods)));
    }
    let unknown = parse("GET /lines?<x>=1", "").unwrap_err();
    assert_eq!(unknown.detail, "unknown parameter \"<x>\"");
    let since = parse("GET /lines?since=secret", "").unwrap_err();
    assert!(!since.detail.contains("secret"), "{since}");
    for missing in WEBSOCKET.split_inclusive('\n') {
        let fields = WEBSOCKET.replace(missing, "");
        assert!(matches!(status("GET /ws", &fields), 400 | 426), "{missing}");
    }
    let old = Request::parse(b"GET / HTTP/2.0\r\n\r\n").unwrap_err();
    assert_eq!(old.status, 505);
    assert_eq!(
        Request::parse(b"GET / HTTP/1.1\r\n\r\n")
            .unwrap_err()
            .status,
        400,
        "no Host"
    );
    assert_eq!(Request::parse(b"hello\n\n").unwrap_err().status, 400);
    assert_eq!(status("GET /", &"X: y\r\n".repeat(200)), 431);
}

#[test]
fn body_that_could_be_understood_in_two_ways_is_refused() {
    for fields in [
        "Content-Length: 3\r\nContent-Length: 3\r\n",
        "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Content-Length: +3\r\n",
        "Content-Length: 3,3\r\n",
        "Content-Length: 0x3\r\n",
        "Content-Length: 99999999999999999999\r\n",
        "Content-Length : 3\r\n",
        "Host: other\r\nContent-Length: 3\r\n",
    ] {
        assert_eq!(status("POST /lines", fields), 400, "{fields:?}");
    }
    for fields in [
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: xchunked\r\n",
    ] {
        assert_eq!(status("POST /lines", fields), 501, "{fields:?}");
    }
    for fields in ["Content-Length: 3\r\n", "Transfer-Encoding: chunked\r\n"] {
        let with_websocket = format!("{WEBSOCKET}{fields}");
        assert_eq!(status("GET /ws", &with_websocket), 400, "{fields:?}");
    }
}

#[test]
fn page_of_another_site_is_refused_unless_it_is_allowed() {
    let origins = [
        "https://feed.example".to_owned(),
        "http://10.0.0.7:8080".to_owned(),
    ];
    let hosts = ["feed.example".to_owned()];
    let check = |host: &str, origin: &str| {
        let origin = match origin {
            "" => String::new(),
            origin => format!("Origin: {origin}\r\n"),
        };
        let head = format!("GET /lines HTTP/1.1\r\nHost: {host}\r\n{origin}\r\n");
        let request = Request::parse(head.as_bytes()).unwrap();
        request
            .check(&hosts, &origins)
            .map_err(|error| error.status)
    };
    for (host, origin) in [
        ("127.0.0.1:80", ""),
        ("127.0.0.1:80", "http://127.0.0.1:80"),
        ("LocalHost:80", "http://localhost:80"),
        ("feed.example", "https://feed.example"),
        ("127.0.0.1", "https://Feed.Example"),
        ("127.0.0.1", "http://10.0.0.7:8080"),
    ] {
        assert_eq!(check(host, origin), Ok(()), "{host} {origin}");
    }
    for (host, origin, status) in [
        ("evil.example", "", 421),
        ("evil.example", "http://evil.example", 421),
        ("127.0.0.1:80", "http://127.0.0.1", 403),
        ("127.0.0.1:80", "http://127.0.0.1:81", 403),
        ("127.0.0.1", "null", 403),
        ("127.0.0.1", "http://evil.example", 403),
        ("127.0.0.1", "https://feed.example.evil.example", 403),
        ("127.0.0.1", "ftp://127.0.0.1", 403),
    ] {
        assert_eq!(check(host, origin), Err(status), "{host} {origin}");
    }
}

/// The body that these reads have, and why nothing more is read.
fn body(length: BodyLength, reads: &[&[u8]]) -> (String, Option<BodyEnd>) {
    let mut decoder = BodyDecoder::new(length);
    let (mut body, mut ended) = (Vec::new(), None);
    for read in reads {
        let saved = rmp_serde::to_vec_named(&decoder).unwrap();
        decoder = rmp_serde::from_slice(&saved).unwrap();
        let mut buf = [&[0; HEADROOM], *read].concat();
        let (data, end) = decoder.decode(&mut buf);
        body.extend_from_slice(data);
        ended = end;
        if ended.is_some() {
            break;
        }
    }
    (String::from_utf8(body).unwrap(), ended)
}

#[test]
fn body_ends_where_its_head_says() {
    let complete = Some(BodyEnd::Complete);
    assert_eq!(
        body(BodyLength::Bytes(5), &[b"helloPOST"]),
        ("hello".into(), complete)
    );
    assert_eq!(
        body(BodyLength::Bytes(5), &[b"hell"]),
        ("hell".into(), None)
    );
    for (chunks, expected) in [
        ("5\r\nhello\r\n0\r\n\r\nrest", "hello"),
        ("5 ;a=b\r\nhello\r\n00\r\nX: y\r\nZ: \r\n\r\n", "hello"),
        ("1\r\nh\r\nA\r\nello world\r\n0;x\r\n\r\n", "hello world"),
    ] {
        assert_eq!(
            body(BodyLength::Chunked, &[chunks.as_bytes()]),
            (expected.into(), complete)
        );
    }
}

#[test]
fn wrong_chunks_are_no_body() {
    for (chunks, expected) in [
        ("5\nhello\r\n", ""),
        ("\r\n", ""),
        ("-5\r\n", ""),
        ("0x5\r\n", ""),
        ("5_\r\n", ""),
        ("10000000000000000\r\n", ""),
        ("5\r\nhelloX", "hello"),
        ("5\r\nhello\rX", "hello"),
        ("0\r\nX\nY\r\n", ""),
    ] {
        let read = body(BodyLength::Chunked, &[chunks.as_bytes()]);
        assert_eq!(read, (expected.into(), Some(BodyEnd::Wrong)), "{chunks:?}");
    }
    let endless = format!("5;{}", "x".repeat(5000));
    assert_eq!(
        body(BodyLength::Chunked, &[endless.as_bytes()]).1,
        Some(BodyEnd::Wrong)
    );
}

#[test]
fn head_is_taken_and_nothing_behind_it() {
    for (head, rest) in [
        ("GET / HTTP/1.1\r\nA: b\r\n\r\n", "body\r\n\r\n"),
        ("\r\n\r\nGET / HTTP/1.1\n\n", "\n"),
    ] {
        let bytes = [head, rest].concat();
        for cut in 0..head.len() {
            let mut reader = RequestReader::default();
            let (first, then) = bytes.as_bytes().split_at(cut);
            assert_eq!(reader.push(first), HeadInput::Pending(cut));
            let mut reader = RequestReader::restore(reader.save());
            let HeadInput::Head(found, taken) = reader.push(then) else {
                panic!("no head at {cut}");
            };
            assert_eq!(
                (found.as_slice(), taken),
                (head.trim_start().as_bytes(), head.len() - cut)
            );
        }
    }
    let mut reader = RequestReader::default();
    assert_eq!(reader.push(&[b'x'; 20_000]), HeadInput::TooLong);
}

proptest! {
    #[test]
    fn chunks_cut_anywhere_are_read_the_same(
        parts in prop::collection::vec("[a-z\r\n]{1,20}", 0..6),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let mut bytes = Vec::new();
        for part in &parts {
            bytes.extend(format!("{:X}\r\n{part}\r\n", part.len()).into_bytes());
        }
        bytes.extend(b"0\r\n\r\n");
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let reads: Vec<&[u8]> = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
        let read = body(BodyLength::Chunked, &reads);
        prop_assert_eq!(read, (parts.concat(), Some(BodyEnd::Complete)));
    }

    #[test]
    fn garbage_is_an_error_and_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = Request::parse(&bytes);
        let mut buf = [vec![0; HEADROOM], bytes].concat();
        BodyDecoder::new(BodyLength::Chunked).decode(&mut buf);
    }
}
