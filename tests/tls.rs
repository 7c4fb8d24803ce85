use std::io::{Read as _, Write as _};
use std::sync::Arc;

use rustls::ClientConfig;

use crate::common::http::get;
use crate::common::{Authority, Client, Server, TlsClient, TlsEvent, VERSIONS, speaking};

mod handover;
mod hostile;
mod programs;
mod reload;

/// Listener without TLS.
const PLAIN: usize = 0;
/// Listener with it, for `text`.
const TLS: usize = 1;

/// A daemon with a plain listener, one with TLS, and what else is asked for.
#[track_caller]
fn serve(authority: &Authority, more: &[&str]) -> Server {
    let pair = authority.server();
    Server::start(
        &[
            &["--listen=127.0.0.1:0", "--listen=127.0.0.1:0,tls"][..],
            &["--tls-cert", &pair.certificate, "--tls-key", &pair.key],
            more,
        ]
        .concat(),
    )
}

/// What clients speak that show no certificate, in each version.
fn configs(authority: &Authority) -> [Arc<ClientConfig>; 2] {
    VERSIONS.map(|version| speaking(version, authority, None))
}

/// `from` sends a line that was never sent before, and it is the next thing `to` sees.
#[track_caller]
fn marker(from: &mut TlsClient, to: &mut TlsClient) {
    let text = format!("marker-{}", fastrand::u64(..));
    from.send(format!("{text}\n"));
    to.expect_message(from.id(), &text);
}

#[test]
fn lines_notices_and_formats_are_as_over_a_plain_connection() {
    let authority = Authority::new();
    let listeners =
        ["json", "raw"].map(|format| format!("--listen=127.0.0.1:0,tls,format={format}"));
    let server = serve(&authority, &[&listeners[0], &listeners[1], "--echo"]);
    for config in configs(&authority) {
        let mut plain = Client::connect(&server);
        let own = |client: &mut TlsClient| {
            let line = format!("New client connected: {}", client.id());
            client.expect_line(&line);
        };
        let mut text = TlsClient::connect(&server, TLS, &config);
        own(&mut text);
        let mut json = TlsClient::connect(&server, 2, &config);
        let notice: serde_json::Value = serde_json::from_str(&json.read_line()).unwrap();
        assert_eq!(notice["event"], "connect");
        let mut raw = TlsClient::connect(&server, 3, &config);
        plain.lines_until(&format!("New client connected: {}", raw.id()));
        // Of several records, the last of which ends no line; one byte a record; and one line over many.
        let long = "x".repeat(65_536);
        text.send("hello\nhal");
        text.send("f\n");
        for byte in b"slow\n" {
            text.send([*byte]);
        }
        text.send(format!("{long}\n"));
        let lines = ["hello", "half", "slow", &long];
        for line in lines {
            plain.expect_message(text.id(), line);
            raw.expect_line(line);
        }
        text.expect_line(&format!("New client connected: {}", json.id()));
        text.expect_line(&format!("New client connected: {}", raw.id()));
        let is_message = |line: &serde_json::Value| line["event"] == "message";
        let mut of_json = Vec::new();
        while of_json.len() < lines.len() {
            let line: serde_json::Value = serde_json::from_str(&json.read_line()).unwrap();
            of_json.extend(is_message(&line).then(|| line["data"].as_str().unwrap().to_owned()));
        }
        assert_eq!(of_json, lines);
        for line in lines {
            text.expect_message(text.id(), line);
        }
        plain.send_line("answer");
        text.expect_message(plain.id(), "answer");
        raw.expect_line("answer");
        // One line that is too long, and its reason, which is said within TLS.
        text.send(format!("{long}x\n"));
        text.expect_line(&format!("Client disconnected: {}", text.id()));
        text.expect_line("Error: line too long (limit 65536 bytes)");
        text.expect_end();
    }
}

#[test]
fn certificates_of_clients_are_asked_for_and_checked() {
    let (authority, other) = (Authority::new(), Authority::new());
    let (good, revoked) = (authority.client("meter-7"), authority.client("meter-8"));
    let (expired, strange) = (authority.expired(), other.client("meter-7"));
    let ca = [
        "--tls-client-ca",
        &authority.certificate,
        "--admin=127.0.0.1:0",
    ];
    let list = authority.revoke(&[&revoked]);
    let lists = [
        (None, [true, false, false, false, true]),
        (Some(&list), [true, false, false, false, false]),
    ];
    let shown = [
        Some(&good),
        None,
        Some(&strange),
        Some(&expired),
        Some(&revoked),
    ];
    for (list, wanted) in lists {
        let list = list.map(|list| ["--tls-crl", list]);
        let list = list.as_ref().map_or(&[][..], |list| &list[..]);
        let server = serve(&authority, &[&ca[..], list, &["--log=debug"]].concat());
        let mut refused = 0;
        for version in VERSIONS {
            for (shown, is_let_in) in shown.into_iter().zip(wanted) {
                let mut client =
                    TlsClient::begin(server.addr(TLS), &speaking(version, &authority, shown));
                if is_let_in {
                    let mut client =
                        TlsClient::connect(&server, TLS, &speaking(version, &authority, shown));
                    client.send("I\n");
                    client.close_notify();
                    client.expect_end();
                    continue;
                }
                let heard = client.agree().err().unwrap_or_else(|| client.next());
                // What is wrong as a certificate ends the handshake, which a client of 1.3 believes done.
                let words = match shown {
                    None => Some("Error: certificate of the client expected"),
                    Some(pair) if pair == &revoked => Some("Error: CN=meter-8 is revoked"),
                    Some(_) => None,
                };
                match (heard, words) {
                    (TlsEvent::Line(line), Some(words)) => {
                        assert_eq!(line, words);
                        client.expect_end();
                    }
                    (TlsEvent::Refused(_) | TlsEvent::Cut, None) => {}
                    (heard, _) => panic!("{heard:?}"),
                }
                refused += 1;
                server.wait_log_count("connection refused reason=tls", refused);
            }
        }
        let metrics = get(&server.admin(), "/metrics");
        let counted = metrics.sample("linehub_connections_closed_total{reason=\"tls\"}");
        assert_eq!(counted, refused as f64);
    }
    // A list that says nothing of the authority, or nothing any more, lets nobody in.
    let lists = [
        (other.revoke(&[]), "no CRL of"),
        (authority.outdated_list(), "out of date"),
    ];
    for (list, why) in lists {
        let server = serve(
            &authority,
            &[&ca[..], &["--tls-crl", &list, "--log=debug"]].concat(),
        );
        for version in VERSIONS {
            let config = speaking(version, &authority, Some(&good));
            let mut client = TlsClient::begin(server.addr(TLS), &config);
            let heard = client.agree().err().unwrap_or_else(|| client.next());
            let is_told = matches!(&heard, TlsEvent::Line(words) if words.contains(why));
            assert!(is_told, "{heard:?}");
        }
        let lines = server.wait_log_count("connection refused reason=tls", 2);
        assert!(lines[0].contains(why), "{lines:?}");
    }
}

#[test]
fn hello_comes_behind_tls_and_may_come_with_its_last_record() {
    let authority = Authority::new();
    let server = serve(
        &authority,
        &["--listen=127.0.0.1:0,tls,hello", "--open-channels=9"],
    );
    // A channel for each, or the next one hears those of the last one go.
    for (config, channel) in configs(&authority).into_iter().zip('a'..) {
        let mut client = TlsClient::dial(server.addr(2), &config);
        let records = [
            client.seal("LINEHUB/1 chan"),
            client.seal(format!("nel={channel}\nfirst\nsec")),
            client.seal("ond\n"),
        ];
        client.send_raw(&records.concat());
        assert!(client.read_line().starts_with("Hello client "));
        let mut other = TlsClient::dial(server.addr(2), &config);
        other.send(format!("LINEHUB/1 channel={channel}\n"));
        let answer = other.read_line();
        assert!(
            answer.contains(&format!(": channel {channel}, at ")),
            "{answer}"
        );
        let line = client.read_line();
        assert!(line.starts_with("New client connected: "), "{line}");
        other.send("hello\n");
        assert!(client.read_line().ends_with(": hello"));
        let mut wrong = TlsClient::dial(server.addr(2), &config);
        wrong.send("GET / HTTP/1.1\r\n\r\n");
        wrong.expect_line("Error: hello expected\r");
        wrong.expect_end();
        drop((client, other));
    }
}

#[test]
fn header_of_a_proxy_comes_before_tls() {
    let authority = Authority::new();
    let server = serve(&authority, &["--listen=127.0.0.1:0,tls,proxy=127.0.0.1"]);
    let mut plain = Client::connect(&server);
    for (id, config) in (2..).zip(configs(&authority)) {
        let mut client = TlsClient::begin(server.addr(2), &config);
        let header = b"PROXY TCP4 192.0.2.7 192.0.2.1 4660 2345\r\n";
        let hello = [&header[..], &client.records()].concat();
        client.send_raw(&hello[..20]);
        client.send_raw(&hello[20..]);
        let mut client = client.agreed();
        plain.expect_line(&format!("New client connected: {id}"));
        server.wait_log(&format!("client connected client={id} peer=192.0.2.7:4660"));
        client.send("hello\n");
        plain.expect_message(id, "hello");
        client.close_notify();
        client.expect_end();
        plain.expect_line(&format!("Client disconnected: {id}"));
    }
}

#[test]
fn only_an_end_that_was_said_ends_a_line() {
    let authority = Authority::new();
    let server = serve(&authority, &[]);
    let mut plain = Client::connect(&server);
    for config in configs(&authority) {
        for end in 0..5 {
            let mut client = TlsClient::connect(&server, TLS, &config);
            plain.expect_line(&format!("New client connected: {}", client.id()));
            client.send("whole\nre");
            client.send("st");
            match end {
                // Alone, with the FIN, behind a line in the same packet.
                0 => client.close_notify(),
                1 => {
                    client.close_notify();
                    client.finish();
                }
                2 => {
                    let mut records = client.seal("");
                    client.tls.send_close_notify();
                    records.extend(client.records());
                    client.send_raw(&records);
                }
                3 => client.finish(),
                _ => {
                    // Half a record, which would have ended it.
                    let record = client.seal("\n");
                    client.send_raw(&record[..record.len() - 1]);
                    client.finish();
                }
            }
            plain.expect_message(client.id(), "whole");
            if end < 3 {
                plain.expect_message(client.id(), "rest");
            }
            plain.expect_line(&format!("Client disconnected: {}", client.id()));
            client.expect_end();
        }
        let mut client = TlsClient::connect(&server, TLS, &config);
        let id = client.id();
        plain.expect_line(&format!("New client connected: {id}"));
        client.send("whole\nrest");
        plain.expect_message(id, "whole");
        client.reset();
        plain.expect_line(&format!("Client disconnected: {id}"));
        server.wait_log(&format!("client disconnected client={id} reason=reset"));
    }
}

#[test]
fn end_comes_behind_all_that_is_owed() {
    let authority = Authority::new();
    for config in configs(&authority) {
        let mut server = serve(&authority, &["--no-notices", "--slow-grace=forever"]);
        let mut leaving = TlsClient::stuck(&server, TLS, &config);
        let mut staying = TlsClient::stuck(&server, TLS, &config);
        let mut sender = Client::connect(&server);
        let mut done = Client::connect(&server);
        let lines: Vec<String> = (0..100)
            .map(|n| format!("{n} {}", "x".repeat(60_000)))
            .collect();
        for line in &lines {
            sender.send_line(line);
            done.expect_message(sender.id(), line);
        }
        leaving.send("last words");
        leaving.close_notify();
        done.expect_message(leaving.id(), "last words");
        sender.send_line("later");
        done.expect_message(sender.id(), "later");
        leaving.wake();
        for line in &lines {
            leaving.expect_message(sender.id(), line);
        }
        // What comes when it has left is not for it, unless it had not been found to have.
        let later = format!("Message from client {}: later", sender.id());
        assert!([vec![], vec![later]].contains(&leaving.lines_to_end()));
        staying.wake();
        let reading = std::thread::spawn(move || {
            for line in &lines {
                staying.expect_message(3, line);
            }
            staying.expect_message(1, "last words");
            staying.expect_message(3, "later");
            staying.expect_line("Server shutting down");
            staying.expect_end();
        });
        server.stop();
        reading.join().unwrap();
    }
}

#[test]
fn half_closed_clients_are_delivered_to_where_that_is_asked_for() {
    let authority = Authority::new();
    let server = serve(&authority, &["--half-close=keep", "--no-notices"]);
    let mut sender = Client::connect(&server);
    for config in configs(&authority) {
        let mut said = TlsClient::connect(&server, TLS, &config);
        said.send("rest");
        said.close_notify();
        sender.expect_message(said.id(), "rest");
        let mut shut = TlsClient::connect(&server, TLS, &config);
        shut.close_notify();
        shut.finish();
        for n in 0..3 {
            sender.send_line(&n.to_string());
            said.expect_message(sender.id(), &n.to_string());
            shut.expect_message(sender.id(), &n.to_string());
        }
    }
}

#[test]
fn handshakes_that_take_their_time_delay_nobody_and_have_an_end() {
    let authority = Authority::new();
    let more = ["--hello-timeout=2s", "--admin=127.0.0.1:0", "--log=debug"];
    let server = serve(&authority, &more);
    let [_, config] = configs(&authority);
    let mut silent: Vec<_> = (0..200)
        .map(|_| TlsClient::begin(server.addr(TLS), &config))
        .collect();
    let mut slow = TlsClient::begin(server.addr(TLS), &config);
    let hello = slow.records();
    let mut bytes = hello.iter();
    let mut one = TlsClient::connect(&server, TLS, &config);
    let mut two = TlsClient::connect(&server, TLS, &config);
    one.expect_line(&format!("New client connected: {}", two.id()));
    let started = std::time::Instant::now();
    // A byte whenever the others had their turn.
    let mut turns = 0;
    while server.count_log("connection refused reason=tls") < 201 {
        assert!(started.elapsed() < crate::common::PATIENCE);
        let asked = std::time::Instant::now();
        marker(&mut one, &mut two);
        assert!(asked.elapsed().as_secs() < 1);
        turns += 1;
        if turns % 100 == 0
            && let Some(byte) = bytes.next()
        {
            let _ = slow.socket.write_all(&[*byte]);
        }
    }
    for client in &mut silent {
        // It may be none who speaks TLS.
        let mut words = String::new();
        client.socket.read_to_string(&mut words).unwrap();
        assert_eq!(words, "Error: no TLS within 2s\n");
    }
    assert_eq!(slow.next(), TlsEvent::Cut);
    let metrics = get(&server.admin(), "/metrics");
    let counted = metrics.sample("linehub_connections_closed_total{reason=\"tls\"}");
    assert_eq!(counted, 201.0);
    assert_eq!(metrics.sample("linehub_handshakes"), 0.0);
    marker(&mut two, &mut one);
}

#[test]
fn who_speaks_tls_where_none_is_spoken_and_the_other_way_round_is_told() {
    let authority = Authority::new();
    let server = serve(
        &authority,
        &[
            "--log=debug",
            "--listen=127.0.0.1:0,format=json",
            "--listen=127.0.0.1:0,tls,format=json",
        ],
    );
    let mut watcher = Client::connect(&server);
    let mut plain = Client::dial(server.addr(TLS));
    plain.send_bytes(b"hello\n");
    plain.expect_line("Error: TLS expected");
    plain.expect_eof();
    let mut json = Client::dial(server.addr(3));
    json.send_bytes(b"GET / HTTP/1.1\r\n\r\n");
    let said = json.read_json();
    assert_eq!(
        (&said["event"], &said["reason"]),
        (&"error".into(), &"tls".into())
    );
    json.expect_eof();
    // None of them has been a client.
    server.wait_log_count("connection refused reason=tls", 2);
    assert_eq!(server.count_log("connection refused"), 2);
    for (id, config) in (2..).zip(configs(&authority)) {
        let mut client = TlsClient::begin(server.addr(PLAIN), &config);
        assert!(matches!(client.agree(), Err(TlsEvent::Refused(_))));
        watcher.expect_line(&format!("New client connected: {id}"));
        watcher.expect_line(&format!("Client disconnected: {id}"));
        server.wait_log(&format!("client disconnected client={id} reason=tls"));
    }
}

#[test]
fn neither_keys_nor_tokens_nor_what_is_said_is_logged() {
    use std::sync::Mutex;

    /// Secrets of connections.
    #[derive(Debug, Default)]
    struct Secrets(Mutex<Vec<Vec<u8>>>);

    impl rustls::KeyLog for Secrets {
        fn log(&self, _: &str, _: &[u8], secret: &[u8]) {
            self.0.lock().unwrap().push(secret.to_vec());
        }
    }

    let authority = Authority::new();
    let (generated, token) = generated();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), generated).unwrap();
    let tokens = format!("--tokens={}", file.path().display());
    let server = serve(
        &authority,
        &["--listen=127.0.0.1:0,tls,hello", &tokens, "--log=trace"],
    );
    let secrets = Arc::new(Secrets::default());
    let mut words = vec![token.clone()];
    for file in std::fs::read_dir(
        std::path::Path::new(&authority.certificate)
            .parent()
            .unwrap(),
    )
    .unwrap()
    {
        let path = file.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        words.extend(text.lines().nth(1).map(str::to_owned));
    }
    let mut clients = Vec::new();
    for mut config in configs(&authority) {
        Arc::make_mut(&mut config).key_log = secrets.clone();
        let mut client = TlsClient::dial(server.addr(2), &config);
        client.send(format!("LINEHUB/1 token={token}\n"));
        assert!(client.read_line().starts_with("Hello client "));
        clients.push(client);
    }
    crate::common::exec(&server);
    for client in &mut clients {
        client.send("after\n");
    }
    clients[0].next();
    let mut server = server;
    server.stop();
    for secret in secrets.0.lock().unwrap().iter() {
        let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
        words.extend([hex.to_uppercase(), hex, format!("{secret:?}")]);
    }
    let log = server.log().join("\n");
    assert!(log.contains("name=meter-7") && words.len() > 8, "{log}");
    for word in words {
        let start: String = word.chars().take(24).collect();
        assert!(!log.contains(&start), "{start}");
    }
}

/// What `generate token` prints: a stanza, and the token.
fn generated() -> (String, String) {
    let exit = crate::common::run(&["generate", "token", "meter-7"], &[]);
    assert_eq!(exit.code, Some(0), "{exit:?}");
    let token = exit.stderr.split_whitespace().last().unwrap().to_owned();
    (exit.stdout, token)
}
