//! Connections over TLS that outlive a daemon, in whatever state they are.

use std::io::Write as _;
use std::sync::Arc;

use rustix::process::Signal;
use rustls::ClientConfig;

use super::{TLS, configs, marker};
use crate::common::{
    Authority, BINARY, Client, Launch, Manager, Server, TlsClient, TlsEvent, copied, eventually,
    exec, http, payload, replace, restart,
};

/// Handovers, one after the other: exec, the service manager's, and some that fail.
const WAYS: [&str; 3] = ["exec", "restart", "fails"];

/// A daemon, and how it is handed over.
struct Daemon {
    server: Server,
    way: &'static str,
    manager: Manager,
    args: Vec<String>,
    folder: tempfile::TempDir,
    _authority: Authority,
    configs: [Arc<ClientConfig>; 2],
}

impl Daemon {
    #[track_caller]
    fn start(way: &'static str, more: &[&str]) -> Daemon {
        let (authority, manager) = (Authority::new(), Manager::keeping());
        let pair = authority.server();
        let folder = tempfile::tempdir().unwrap();
        let args: Vec<String> = ["--listen=127.0.0.1:0", "--listen=127.0.0.1:0,tls"]
            .into_iter()
            .chain(["--tls-cert", &pair.certificate, "--tls-key", &pair.key])
            .chain(more.iter().copied())
            .map(str::to_owned)
            .collect();
        let refs: Vec<&str> = args.iter().map(String::as_str).collect();
        let launch = match way {
            "restart" => manager.launch(&refs),
            "fails" => Launch::new(&refs).binary(&copied(folder.path())),
            _ => Launch::new(&refs),
        };
        let configs = configs(&authority);
        Daemon {
            server: launch.start(),
            way,
            manager,
            args,
            folder,
            _authority: authority,
            configs,
        }
    }

    /// Hands over, and waits until somebody serves again.
    #[track_caller]
    fn hand_over(mut self) -> Daemon {
        match self.way {
            "restart" => {
                let args: Vec<&str> = self.args.iter().map(String::as_str).collect();
                self.server = restart(&self.manager, self.server, &args);
            }
            "fails" => {
                let path = self.folder.path().join("linehub");
                // The trial goes well, and there is nothing any more to become.
                let script = format!("#!/bin/sh\nrm {}; exec {BINARY} \"$@\"\n", path.display());
                replace(&path, &script);
                let before = self.server.count_log("handover failed: serving on");
                self.server.signal(Signal::USR2);
                let lines = self
                    .server
                    .wait_log_count("handover failed: serving on", before + 1);
                assert!(lines[before].contains("cannot become"), "{lines:?}");
            }
            _ => exec(&self.server),
        }
        self
    }
}

#[test]
fn records_that_have_come_in_part_go_on() {
    for way in WAYS {
        let mut daemon = Daemon::start(way, &["--no-notices"]);
        let mut watcher = Client::connect(&daemon.server);
        let mut clients = Vec::new();
        for config in &daemon.configs {
            for cut in [1, 4, 5, 6, 20, usize::MAX] {
                let mut client = TlsClient::connect(&daemon.server, TLS, config);
                // A line that is begun; and a record that is begun, behind a whole one in one packet.
                client.send("a");
                let mut records = client.seal("b");
                let record = client.seal(" c\nd");
                let cut = cut.min(record.len() - 1);
                records.extend(&record[..cut]);
                client.send_raw(&records);
                client.wait_taken();
                clients.push((client, record[cut..].to_vec()));
            }
        }
        // What each one is sent is under the numbers that come next.
        watcher.send_line("before");
        for (client, _) in &mut clients {
            client.expect_message(watcher.id(), "before");
        }
        for turn in 0..3 {
            daemon = daemon.hand_over();
            let text = format!("after {turn}");
            watcher.send_line(&text);
            for (client, _) in &mut clients {
                client.expect_message(watcher.id(), &text);
            }
        }
        let mut said = Vec::new();
        for (client, rest) in &mut clients {
            client.send_raw(rest);
            watcher.expect_message(client.id(), "ab c");
            said.push((client.id(), "ab c"));
            client.close_notify();
            watcher.expect_message(client.id(), "d");
            said.push((client.id(), "d"));
        }
        for (client, _) in &mut clients {
            // Of what the next ones say, it may get something.
            let own = client.id();
            for (id, text) in said.iter().filter(|(id, _)| *id < own) {
                client.expect_message(*id, text);
            }
            let mut next = said.iter().filter(|(id, _)| *id > own);
            let end = loop {
                match (client.next(), next.next()) {
                    (TlsEvent::Line(line), Some((id, text))) => {
                        assert_eq!(line, format!("Message from client {id}: {text}"));
                    }
                    (end, _) => break end,
                }
            };
            assert_eq!(end, TlsEvent::End(String::new()));
        }
    }
}

#[test]
fn records_that_are_sent_in_part_go_on() {
    for way in WAYS {
        let args = [
            "--no-notices",
            "--slow-grace=forever",
            "--stall-timeout=off",
        ];
        let mut daemon = Daemon::start(way, &args);
        let mut sender = Client::connect(&daemon.server);
        let mut done = Client::connect(&daemon.server);
        let mut stuck: Vec<_> = daemon
            .configs
            .iter()
            .map(|config| TlsClient::stuck(&daemon.server, TLS, config))
            .collect();
        // Others that leave while they are owed something, and one that is closed for what it sent.
        let mut leaving: Vec<_> = daemon
            .configs
            .iter()
            .map(|config| TlsClient::stuck(&daemon.server, TLS, config))
            .collect();
        let mut closed: Vec<_> = daemon
            .configs
            .iter()
            .map(|config| TlsClient::stuck(&daemon.server, TLS, config))
            .collect();
        let mut sent = 0;
        let mut flood = |sender: &mut Client, done: &mut Client, count| {
            let mut bytes = Vec::new();
            for n in sent + 1..=sent + count {
                bytes.extend(format!("{}\n", payload(n)).into_bytes());
            }
            sender.send_bytes(&bytes);
            for n in sent + 1..=sent + count {
                done.expect_message(sender.id(), &payload(n));
            }
            sent += count;
        };
        flood(&mut sender, &mut done, 60_000);
        for client in &mut leaving {
            client.close_notify();
        }
        for client in &mut closed {
            client.send("x".repeat(70_000));
        }
        for client in &mut leaving {
            client.wait_taken();
        }
        for client in &mut closed {
            client.wait_taken();
        }
        for _ in 0..3 {
            daemon = daemon.hand_over();
            flood(&mut sender, &mut done, 500);
        }
        let from = sender.id();
        for client in &mut stuck {
            client.wake();
            for n in 1..=61_500 {
                client.expect_message(from, &payload(n));
            }
        }
        // What comes when one has left is not for it; it may be found to have only after a handover.
        let is_owed = |lines: &[String]| {
            for (line, n) in lines.iter().zip(1..) {
                assert_eq!(*line, format!("Message from client {from}: {}", payload(n)));
            }
            assert!((60_000..=61_500).contains(&lines.len()), "{}", lines.len());
        };
        for client in &mut leaving {
            client.wake();
            is_owed(&client.lines_to_end());
        }
        for client in &mut closed {
            client.wake();
            let mut lines = client.lines_to_end();
            let last = lines.pop();
            assert_eq!(
                last.as_deref(),
                Some("Error: line too long (limit 65536 bytes)")
            );
            is_owed(&lines);
        }
        let (one, two) = stuck.split_at_mut(1);
        marker(&mut one[0], &mut two[0]);
    }
}

#[test]
fn bytes_that_are_decrypted_and_not_read_go_on() {
    for way in WAYS {
        let args = ["--no-notices", "--rate-bytes=30KiB/s"];
        let mut daemon = Daemon::start(way, &args);
        let mut watcher = Client::connect(&daemon.server);
        let mut clients: Vec<_> = daemon
            .configs
            .iter()
            .map(|config| TlsClient::connect(&daemon.server, TLS, config))
            .collect();
        // Each in one piece, of records that are larger than what is left of a rate.
        let lines: Vec<String> = (1..=900).map(payload).collect();
        for client in &mut clients {
            client.send(lines.join("\n") + "\n");
        }
        let mut expected: Vec<_> = clients
            .iter()
            .map(|client| (client.id(), lines.iter()))
            .collect();
        let mut expect = |count: usize| {
            for _ in 0..count {
                let line = watcher.read_line();
                let (from, text) = line
                    .strip_prefix("Message from client ")
                    .unwrap()
                    .split_once(": ")
                    .unwrap();
                let its = expected
                    .iter_mut()
                    .find(|(id, _)| id.to_string() == from)
                    .unwrap();
                assert_eq!(its.1.next().map(String::as_str), Some(text));
            }
        };
        expect(600);
        for _ in 0..3 {
            daemon = daemon.hand_over();
        }
        expect(1200);
        for client in &mut clients {
            client.send("end");
            client.close_notify();
            assert!(watcher.read_line().ends_with(": end"));
        }
    }
}

#[test]
fn senders_that_wait_for_room_go_on() {
    for way in WAYS {
        let args = [
            "--no-notices",
            "--slow-grace=forever",
            "--stall-timeout=off",
            "--buffer=1MiB",
            "--listen=127.0.0.1:0,tls,role=publish",
            "--admin=127.0.0.1:0",
        ];
        let mut daemon = Daemon::start(way, &args);
        let mut stuck = Client::connect_stuck(&daemon.server, 0);
        let mut senders: Vec<_> = daemon
            .configs
            .iter()
            .map(|config| TlsClient::connect(&daemon.server, 2, config))
            .collect();
        let lines: Vec<String> = (1..=1_500)
            .map(|n| format!("{n} {}", "x".repeat(10_000)))
            .collect();
        let bytes = lines.join("\n") + "\n";
        let sending: Vec<_> = senders
            .iter_mut()
            .map(|sender| {
                let records = sender.seal(&bytes);
                let mut socket = sender.socket.try_clone().unwrap();
                socket.set_write_timeout(None).unwrap();
                std::thread::spawn(move || socket.write_all(&records).unwrap())
            })
            .collect();
        let admin = daemon.server.admin();
        eventually("they wait for room", || {
            http::get(&admin, "/metrics").sample("linehub_senders_waiting") == 2.0
        });
        for _ in 0..2 {
            daemon = daemon.hand_over();
        }
        stuck.wake();
        let mut next = [lines.iter(), lines.iter()];
        for _ in 0..2 * lines.len() {
            let line = stuck.read_line();
            let (from, text) = line
                .strip_prefix("Message from client ")
                .unwrap()
                .split_once(": ")
                .unwrap();
            let at = senders
                .iter()
                .position(|sender| sender.id().to_string() == from)
                .unwrap();
            assert_eq!(next[at].next().map(String::as_str), Some(text));
        }
        for it in sending {
            it.join().unwrap();
        }
    }
}

#[test]
fn keys_are_updated_before_and_behind_it() {
    for way in WAYS {
        let mut daemon = Daemon::start(way, &["--no-notices"]);
        let mut one = TlsClient::connect(&daemon.server, TLS, &daemon.configs[1]);
        let mut two = TlsClient::connect(&daemon.server, TLS, &daemon.configs[1]);
        for turn in 0..6 {
            // Asked for, with no time for an answer; half of it sent; and a line between two.
            match turn % 3 {
                0 => one.update_keys(),
                1 => {
                    one.tls.refresh_traffic_keys().unwrap();
                    let update = one.records();
                    one.send_raw(&update[..7]);
                    one.wait_taken();
                    daemon = daemon.hand_over();
                    one.send_raw(&update[7..]);
                }
                _ => {
                    one.update_keys();
                    marker(&mut one, &mut two);
                    two.update_keys();
                    one.update_keys();
                }
            }
            one.wait_taken();
            daemon = daemon.hand_over();
            marker(&mut two, &mut one);
            marker(&mut one, &mut two);
        }
        // What it has said last of the keys is said once.
        one.close_notify();
        one.expect_end();
    }
}

#[test]
fn handshakes_are_finished_or_refused() {
    for way in WAYS {
        let more = [
            "--no-notices",
            "--listen=127.0.0.1:0,tls,hello",
            "--log=debug",
        ];
        let mut daemon = Daemon::start(way, &more);
        let address = daemon.server.addr(2).clone();
        let mut clients = Vec::new();
        for config in &daemon.configs {
            let silent = TlsClient::begin(&address, config);
            let mut begun = TlsClient::begin(&address, config);
            let hello = begun.records();
            begun.send_raw(&hello[..hello.len() / 2]);
            let mut answered = TlsClient::begin(&address, config);
            let hello = answered.records();
            answered.send_raw(&hello);
            answered.wait_readable();
            let agreed = TlsClient::dial(&address, config);
            let mut half = TlsClient::dial(&address, config);
            half.send("LINEHUB/1 chan");
            let mut cut = TlsClient::dial(&address, config);
            let record = cut.seal("LINEHUB/1\n");
            cut.send_raw(&record[..20]);
            // Has begun, and the rest comes when the daemon waits for it.
            clients.push([
                ("silent", silent, vec![], "LINEHUB/1\n"),
                (
                    "begun",
                    begun,
                    hello[hello.len() / 2..].to_vec(),
                    "LINEHUB/1\n",
                ),
                ("answered", answered, vec![], "LINEHUB/1\n"),
                ("agreed", agreed, vec![], "LINEHUB/1\n"),
                ("half", half, vec![], "nel=main\n"),
                ("cut", cut, record[20..].to_vec(), ""),
            ]);
        }
        clients
            .iter_mut()
            .flatten()
            .for_each(|(_, client, ..)| client.wait_taken());
        for _ in 0..2 {
            daemon = daemon.hand_over();
        }
        for (name, client, rest, line) in clients.iter_mut().flatten() {
            let _ = client.socket.write_all(rest);
            let heard = match client.agree() {
                Ok(()) => {
                    let records = client.seal(*line);
                    let _ = client.socket.write_all(&records);
                    client.next()
                }
                Err(event) => event,
            };
            let may_be_refused = ["begun", "answered"].contains(name);
            let is_in = matches!(&heard, TlsEvent::Line(line) if line.starts_with("Hello client "));
            assert!(is_in || may_be_refused, "{way}: {name}: {heard:?}");
        }
    }
}

#[test]
fn half_closed_clients_are_written_to_on() {
    for way in WAYS {
        let args = [
            "--no-notices",
            "--half-close=keep",
            "--slow-grace=forever",
            "--stall-timeout=off",
        ];
        let mut daemon = Daemon::start(way, &args);
        let mut sender = Client::connect(&daemon.server);
        let mut done = Client::connect(&daemon.server);
        let mut clients = Vec::new();
        for config in &daemon.configs {
            for is_shut in [false, true] {
                let mut client = TlsClient::stuck(&daemon.server, TLS, config);
                client.send("last");
                client.close_notify();
                if is_shut {
                    client.finish();
                }
                sender.expect_message(client.id(), "last");
                done.expect_message(client.id(), "last");
                for (_, other) in &mut clients {
                    TlsClient::expect_message(other, client.id(), "last");
                }
                clients.push((is_shut, client));
            }
        }
        let mut sent = 0;
        for _ in 0..3 {
            let bytes: String = (sent + 1..=sent + 15_000)
                .map(|n| payload(n) + "\n")
                .collect();
            sender.send_bytes(bytes.as_bytes());
            for n in sent + 1..=sent + 15_000 {
                done.expect_message(sender.id(), &payload(n));
            }
            sent += 15_000;
            daemon = daemon.hand_over();
        }
        for (_, client) in &mut clients {
            client.wake();
            for n in 1..=sent {
                client.expect_message(sender.id(), &payload(n));
            }
        }
        sender.send_line("after");
        for (_, client) in &mut clients {
            client.expect_message(sender.id(), "after");
        }
    }
}

#[test]
fn daemon_that_nobody_takes_over_from_ends_every_client_as_tls_does() {
    let authority = Authority::new();
    let pair = authority.server();
    let manager = Manager::keeping_at_most(0);
    let args = [
        "--no-notices",
        "--listen=127.0.0.1:0",
        "--listen=127.0.0.1:0,tls",
    ];
    let tls = ["--tls-cert", &pair.certificate, "--tls-key", &pair.key];
    let mut server = manager.launch(&[&args[..], &tls].concat()).start();
    let clients = configs(&authority).map(|config| TlsClient::connect(&server, TLS, &config));
    let ends = clients.map(|mut client| {
        std::thread::spawn(move || {
            client.expect_line("Server shutting down");
            client.expect_end();
        })
    });
    server.stop();
    for end in ends {
        end.join().unwrap();
    }
}
