//! Peers that mean no good over TLS, or are broken: what they do is theirs.

use std::io::Write as _;
use std::sync::Arc;

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use rustls::ConnectionTrafficSecrets;
use socket2::Socket;

use super::{PLAIN, TLS, configs, marker, serve};
use crate::common::http::get;
use crate::common::{
    Authority, Client, Server, TlsClient, TlsEvent, eventually, payload, raise_open_files,
};

/// A record that says that it is so long, and is as long as this.
fn record(kind: u8, length: u16, payload: usize) -> Vec<u8> {
    let [high, low] = length.to_be_bytes();
    [&[kind, 3, 3, high, low], &vec![0x5a; payload][..]].concat()
}

#[test]
fn what_is_no_tls_any_more_ends_that_client_behind_its_lines() {
    let authority = Authority::new();
    let server = serve(&authority, &["--admin=127.0.0.1:0"]);
    let mut plain = Client::connect(&server);
    let wrong = [
        b"\0\xffgarbage\n".to_vec(),
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        // Not of the other side's keys; empty; too long for any; longer than its version has it.
        record(23, 64, 64),
        record(23, 19, 19),
        record(23, 0, 0),
        record(23, u16::MAX, 100),
        record(23, (1 << 14) + 2048, (1 << 14) + 2048),
        record(23, (1 << 14) + 2049, 1),
        // Alerts and a handshake that are not encrypted.
        b"\x15\x03\x03\0\x02\x02\x28".to_vec(),
        b"\x15\x03\x03\0\x02\x01\0".to_vec(),
        record(22, 200, 200),
        record(24, 20, 20),
        b"\x14\x03\x03\0\x01\x01".repeat(10_000),
    ];
    let mut closed = 0;
    for config in configs(&authority) {
        for bytes in &wrong {
            let mut client = TlsClient::connect(&server, TLS, &config);
            let id = client.id();
            plain.expect_line(&format!("New client connected: {id}"));
            let good = client.seal("whole\nunfinished");
            // The daemon may close it before it has all.
            let _ = client.socket.write_all(&[&good[..], bytes].concat());
            plain.expect_message(id, "whole");
            let _ = client.socket.shutdown(std::net::Shutdown::Write);
            plain.expect_line(&format!("Client disconnected: {id}"));
            closed += 1;
            while let TlsEvent::Line(_) = client.next() {}
        }
    }
    server.wait_log_count("client disconnected", closed);
    let metrics = get(&server.admin(), "/metrics");
    let of_tls = metrics.sample("linehub_connections_closed_total{reason=\"tls\"}");
    // What is a change of ciphers, and a record that does not end, are none of that.
    assert!(of_tls >= 18.0, "{of_tls}");
    let config = &configs(&authority)[1];
    let mut one = TlsClient::connect(&server, TLS, config);
    let mut two = TlsClient::connect(&server, TLS, config);
    one.expect_line(&format!("New client connected: {}", two.id()));
    marker(&mut one, &mut two);
}

#[test]
fn new_keys_without_end_cost_no_memory() {
    let authority = Authority::new();
    let server = serve(&authority, &["--no-notices"]);
    let config = &configs(&authority)[1];
    let mut one = TlsClient::connect(&server, TLS, config);
    let mut two = TlsClient::connect(&server, TLS, config);
    marker(&mut one, &mut two);
    let before = server.rss();
    // Each asks for an answer, and none is read.
    let mut updates = Vec::new();
    for _ in 0..5_000 {
        two.tls.refresh_traffic_keys().unwrap();
        two.tls.write_tls(&mut updates).unwrap();
    }
    two.send_raw(&updates);
    two.wait_taken();
    assert!(
        server.rss() < before + (2 << 20),
        "{} {before}",
        server.rss()
    );
    marker(&mut one, &mut two);
    marker(&mut two, &mut one);
}

#[test]
fn connections_that_are_reset_anywhere_leave_nothing_behind() {
    let authority = Authority::new();
    let server = serve(&authority, &["--no-notices"]);
    let config = &configs(&authority);
    let mut one = TlsClient::connect(&server, TLS, &config[0]);
    let mut two = TlsClient::connect(&server, TLS, &config[1]);
    marker(&mut one, &mut two);
    let before = server.open_files();
    for config in config {
        for at in 0..60 {
            let mut client = TlsClient::begin(server.addr(TLS), config);
            let hello = client.records();
            match at % 6 {
                0 => client.send_raw(&hello[..hello.len() * at / 60]),
                1 => client.send_raw(&hello),
                2 => {
                    client.send_raw(&hello);
                    client.wait_readable();
                }
                3 => {
                    client.send_raw(&hello);
                    client = client.agreed();
                }
                4 => {
                    client.send_raw(&hello);
                    client = client.agreed();
                    let record = client.seal(format!("{at}\n"));
                    client.send_raw(&record[..record.len() * at / 60]);
                }
                _ => {
                    client.send_raw(&hello);
                    client = client.agreed();
                    client.send(vec![b'x'; 1000]);
                    client.close_notify();
                }
            }
            client.reset();
        }
    }
    eventually("all are gone", || server.open_files() == before);
    while !one.read_line().ends_with("x") {}
    one.send("end\n");
    loop {
        let line = two.read_line();
        if line.ends_with(": end") {
            break;
        }
        assert!(line.ends_with('x'), "{line}");
    }
}

/// What the daemon has after so many readers who do not read were owed so much.
#[track_caller]
fn memory_with_stuck(server: &Server, stuck: impl Fn() -> Box<dyn std::any::Any>) -> u64 {
    let _stuck: Vec<_> = (0..100).map(|_| stuck()).collect();
    let mut sender = Client::connect(server);
    let mut done = Client::connect(server);
    let lines: String = (1..=50_000).map(|n| payload(n) + "\n").collect();
    sender.send_bytes(lines.as_bytes());
    for n in 1..=50_000 {
        done.expect_message(sender.id(), &payload(n));
    }
    server.rss()
}

#[test]
fn stuck_clients_cost_what_is_encrypted_for_them_and_no_more() {
    let authority = Authority::new();
    let config = &configs(&authority)[1];
    let more = ["--no-notices", "--slow-grace=forever"];
    let server = serve(&authority, &more);
    let plain = memory_with_stuck(&server, || Box::new(Client::connect_stuck(&server, PLAIN)));
    let server = serve(&authority, &more);
    let tls = memory_with_stuck(&server, || Box::new(TlsClient::stuck(&server, TLS, config)));
    let each = tls.saturating_sub(plain) / 100;
    assert!(each < 110 * 1024, "{each}");
}

#[test]
fn a_thousand_clients_at_once_are_all_served() {
    raise_open_files();
    let authority = Authority::new();
    let server = serve(&authority, &["--no-notices"]);
    let configs = configs(&authority);
    let mut one = Client::connect(&server);
    let mut clients: Vec<_> = (0..1000)
        .map(|n| {
            let mut client = TlsClient::begin(server.addr(TLS), &configs[n % 2]);
            client.flush();
            client
        })
        .collect();
    let sending = std::time::Instant::now();
    let mut other = Client::connect(&server);
    one.send_line("meanwhile");
    other.expect_message(one.id(), "meanwhile");
    let taken = sending.elapsed();
    assert!(taken < std::time::Duration::from_secs(2), "{taken:?}");
    for client in &mut clients {
        assert_eq!(client.agree(), Ok(()));
    }
    server.wait_log_count("client connected", 1002);
    one.send_line("hello");
    for client in &mut clients {
        while client.read_line() != format!("Message from client {}: hello", one.id()) {}
    }
}

/// Records of TLS 1.3 as no library makes them, with the keys of a client that was made by one.
struct Sealer {
    key: LessSafeKey,
    iv: [u8; 12],
    sequence: u64,
    socket: Socket,
}

impl Sealer {
    #[track_caller]
    fn connect(server: &Server, authority: &Authority) -> (Sealer, u64) {
        let mut config = configs(authority)[1].clone();
        Arc::make_mut(&mut config).enable_secret_extraction = true;
        let client = TlsClient::connect(server, TLS, &config);
        let id = client.id();
        let TlsClient { tls, socket, .. } = client;
        let (sequence, secrets) = tls.dangerous_extract_secrets().unwrap().tx;
        let (algorithm, key, iv) = match secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
            _ => panic!("another cipher"),
        };
        let key = LessSafeKey::new(UnboundKey::new(algorithm, key.as_ref()).unwrap());
        let iv = iv.as_ref().try_into().unwrap();
        let sealer = Sealer {
            key,
            iv,
            sequence,
            socket,
        };
        (sealer, id)
    }

    /// One record of this type, with so many bytes of padding.
    fn seal(&mut self, kind: u8, bytes: &[u8], padding: usize) -> Vec<u8> {
        let mut nonce = self.iv;
        let sequence = self.sequence.to_be_bytes();
        nonce[4..]
            .iter_mut()
            .zip(sequence)
            .for_each(|(byte, of)| *byte ^= of);
        self.sequence += 1;
        let mut payload = [bytes, &[kind], &vec![0; padding]].concat();
        let [high, low] = u16::try_from(payload.len() + 16).unwrap().to_be_bytes();
        let header = [23, 3, 3, high, low];
        let nonce = Nonce::assume_unique_for_key(nonce);
        let sealed = self
            .key
            .seal_in_place_append_tag(nonce, Aad::from(header), &mut payload);
        sealed.unwrap();
        [&header[..], &payload].concat()
    }

    #[track_caller]
    fn send(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).expect("the daemon takes it");
    }
}

#[test]
fn records_without_content_are_nothing() {
    let authority = Authority::new();
    let server = serve(&authority, &[]);
    let mut plain = Client::connect(&server);
    let (mut sealer, id) = Sealer::connect(&server, &authority);
    plain.expect_line(&format!("New client connected: {id}"));
    let empty = sealer.seal(23, b"", 0);
    sealer.send(&empty);
    let mut bytes = sealer.seal(23, b"one\ntw", 0);
    for padding in [0, 1, 500, 16_000] {
        bytes.extend(sealer.seal(23, b"", padding));
    }
    bytes.extend(sealer.seal(23, b"o\nre", 300));
    sealer.send(&bytes);
    plain.expect_message(id, "one");
    plain.expect_message(id, "two");
    let many: Vec<u8> = (0..5_000).flat_map(|_| sealer.seal(23, b"", 0)).collect();
    sealer.send(&many);
    let end = [sealer.seal(23, b"st", 0), sealer.seal(21, &[1, 0], 100)].concat();
    sealer.send(&end);
    plain.expect_message(id, "rest");
    plain.expect_line(&format!("Client disconnected: {id}"));
    server.wait_log(&format!("client disconnected client={id} reason=eof"));
}

#[test]
fn records_without_content_and_without_end_hold_up_nobody_else() {
    let authority = Authority::new();
    let server = serve(&authority, &["--no-notices"]);
    let mut one = Client::connect(&server);
    let mut two = Client::connect(&server);
    let (mut sealer, _) = Sealer::connect(&server, &authority);
    let flood: Vec<u8> = (0..200_000).flat_map(|_| sealer.seal(23, b"", 0)).collect();
    // It may be closed for that.
    let flooding = std::thread::spawn(move || sealer.socket.write_all(&flood).is_ok());
    while !flooding.is_finished() {
        crate::common::marker(&mut one, &mut two);
    }
    flooding.join().unwrap();
    crate::common::marker(&mut two, &mut one);
}

#[test]
fn messages_that_have_no_place_end_that_client() {
    let authority = Authority::new();
    let server = serve(&authority, &[]);
    let mut plain = Client::connect(&server);
    let wrong: [(u8, &[u8]); 7] = [
        // A fatal alert; half of one; a finished, a ticket, a hello; a change of keys to nothing.
        (21, &[2, 40]),
        (21, &[2]),
        (22, &[20, 0, 0, 4, 1, 2, 3, 4]),
        (22, &[4, 0, 0, 4, 1, 2, 3, 4]),
        (22, &[1, 0, 0, 4, 1, 2, 3, 4]),
        (22, &[24, 0, 0, 1, 7]),
        (99, b"nothing"),
    ];
    for (kind, bytes) in wrong {
        let (mut sealer, id) = Sealer::connect(&server, &authority);
        plain.expect_line(&format!("New client connected: {id}"));
        let bytes = [
            sealer.seal(23, b"whole\nrest", 0),
            sealer.seal(kind, bytes, 0),
        ]
        .concat();
        sealer.send(&bytes);
        plain.expect_message(id, "whole");
        plain.expect_line(&format!("Client disconnected: {id}"));
        let line = server.wait_log(&format!("client disconnected client={id}"));
        assert!(line.contains("lines_in=1"), "{kind} {line}");
    }
}

#[test]
fn who_does_not_take_what_is_encrypted_is_closed_as_any_other() {
    let authority = Authority::new();
    let more = [
        "--no-notices",
        "--buffer=1MiB",
        "--slow-grace=100ms",
        "--drain-timeout=500ms",
        "--listen=127.0.0.1:0,tls",
    ];
    let mut server = serve(&authority, &more);
    let mut stuck = configs(&authority).map(|config| TlsClient::stuck(&server, TLS, &config));
    let mut sender = Client::connect(&server);
    let mut done = Client::connect(&server);
    let mut sent = 0;
    while server.count_log("client disconnected reason=slow") < 2 {
        let lines: String = (sent + 1..=sent + 2000)
            .map(|n| payload(n) + "\n")
            .collect();
        sender.send_bytes(lines.as_bytes());
        for n in sent + 1..=sent + 2000 {
            done.expect_message(sender.id(), &payload(n));
        }
        sent += 2000;
        // It is said in the log when they are gone: they may still get what was encrypted for them.
        if sent >= 60_000 {
            break;
        }
    }
    for client in &mut stuck {
        client.wake();
        let mut next = 1;
        let end = loop {
            match client.next() {
                TlsEvent::Line(line) if line.starts_with("Error: ") => break line,
                TlsEvent::Line(line) => {
                    assert_eq!(line, format!("Message from client 3: {}", payload(next)));
                    next += 1;
                }
                other => panic!("{other:?} after {next} lines"),
            }
        };
        assert!(end.contains("slow"), "{end}");
        client.expect_end();
    }
    server.wait_log_count("client disconnected reason=slow", 2);
    // Nor does a stop wait for them longer than for others.
    let _stuck = configs(&authority).map(|config| TlsClient::stuck(&server, 2, &config));
    let lines: String = (1..=10_000).map(|n| payload(n) + "\n").collect();
    sender.send_bytes(lines.as_bytes());
    for n in 1..=10_000 {
        done.expect_message(sender.id(), &payload(n));
    }
    drop((sender, done));
    server.stop();
}
