use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use rustix::process::Signal;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;

use crate::common::{Address, Client, PATIENCE, Place, Server, exec, http, marker, run};

const REFUSED: &str = "Error: not authorized";

/// A file of tokens.
struct Tokens {
    _dir: TempDir,
    path: PathBuf,
}

impl Tokens {
    /// Tokens whose secrets are their names with `secret-` before them, each with more keys of its table.
    fn of(tokens: &[(&str, &str)]) -> Tokens {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens.toml");
        let tokens_file = Tokens { _dir: dir, path };
        tokens_file.write(tokens);
        tokens_file
    }

    fn write(&self, tokens: &[(&str, &str)]) {
        let mut text = String::new();
        for (name, more) in tokens {
            let hash = Sha256::digest(format!("secret-{name}"));
            let table = format!("[[token]]\nname = '{name}'\nsha256 = '{hash:x}'\n{more}\n");
            text.write_str(&table).unwrap();
        }
        std::fs::write(&self.path, text).unwrap();
    }

    fn flag(&self) -> String {
        format!("--tokens={}", self.path.display())
    }

    /// A daemon with listeners of text and of json that want a hello, and with a plain one of json.
    #[track_caller]
    fn start(&self, args: &[&str]) -> Server {
        let flag = self.flag();
        let own = [
            &*flag,
            "--listen=127.0.0.1:0,hello",
            "--listen=127.0.0.1:0,hello,format=json",
            "--listen=127.0.0.1:0,format=json",
        ];
        Server::start(&[args, &own].concat())
    }
}

const TEXT: usize = 0;
const JSON: usize = 1;
const PLAIN: usize = 2;

#[track_caller]
fn reload(server: &Server) {
    let words = "configuration reloaded";
    let before = server.count_log(words);
    server.signal(Signal::HUP);
    server.wait_log_count(words, before + 1);
}

/// Says a hello with these words from this address of loopback, and reads nothing.
#[track_caller]
fn said_from(server: &Server, ip: &str, words: &str) -> Client {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let ip: IpAddr = ip.parse().unwrap();
    socket.bind(&SocketAddr::new(ip, 0).into()).unwrap();
    let Address::Tcp(address) = server.addr(TEXT) else {
        panic!("the listener is TCP");
    };
    socket.connect(&(*address).into()).unwrap();
    let mut client = Client::over(socket, 0);
    client.send_line(&format!("LINEHUB/1 {words}"));
    client
}

#[test]
fn client_has_the_name_of_its_token_wherever_it_is_seen() {
    let tokens = Tokens::of(&[("meter-7", "channels = ['main']"), ("b", "")]);
    let server = tokens.start(&["--admin=127.0.0.1:0"]);
    let mut watcher = Client::connect_to(&server, PLAIN);
    let (mut meter, _) = Client::introduced(server.addr(TEXT), "token=secret-meter-7");
    server.wait_log(&format!(
        "client connected client={} name=meter-7",
        meter.id()
    ));
    let named = |event: &str, seq: u64| {
        let id = meter.id();
        format!(r#"{{"event":"{event}","seq":{seq},"client":{id},"name":"meter-7""#)
    };
    watcher.expect_line(&(named("connect", 2) + "}"));
    let (message, leaves) = (named("message", 3), named("disconnect", 1005));
    meter.send_line("hello");
    watcher.expect_line(&(message + r#","data":"hello"}"#));
    // What is a batch of its own, and a name in every line of it.
    meter.send_bytes("many of these\n".repeat(1000).as_bytes());
    for seq in 4..1004_u64 {
        assert_eq!(
            watcher.read_json(),
            json!({"event": "message", "seq": seq, "client": meter.id(), "name": "meter-7",
                   "data": "many of these"})
        );
    }
    // Who has no name is as ever.
    watcher.send_line("x");
    meter.expect_message(watcher.id(), "x");

    let clients = http::get(&server.admin(), "/clients").body;
    let clients: serde_json::Value = serde_json::from_str(&clients).unwrap();
    let names: Vec<_> = clients["clients"].as_array().unwrap().iter().collect();
    let name_of = |id: u64| {
        names
            .iter()
            .find(|row| row["id"] == id)
            .unwrap()
            .get("name")
    };
    assert_eq!(name_of(meter.id()), Some(&json!("meter-7")));
    assert_eq!(name_of(watcher.id()), None);
    let admin = format!("--admin={}", server.admin());
    let status = run(&["status", &admin], &[]).stdout;
    assert!(
        status.contains("NAME") && status.contains("meter-7"),
        "{status}"
    );

    drop(meter);
    watcher.expect_line(&(leaves + "}"));
}

#[test]
fn wrong_missing_and_expired_tokens_are_told_the_same_and_as_late() {
    let tokens = Tokens::of(&[("a", ""), ("old", "expires = 2020-01-01")]);
    let server = tokens.start(&[]);
    let begun = Instant::now();
    let all = [
        "",
        "token=secret-b",
        "token=secret-old",
        "channel=nowhere",
        "token=secret-b channel=nowhere",
        "token=secret-old role=both",
    ];
    let clients = (1..).zip(all).map(|(at, words)| {
        let client = said_from(&server, &format!("127.0.1.{at}"), words);
        (words, client)
    });
    for (words, mut client) in clients.collect::<Vec<_>>() {
        client.expect_line(REFUSED);
        client.expect_eof();
        let took = begun.elapsed();
        assert!(took >= Duration::from_millis(990), "{words}: {took:?}");
    }
    // All at once, each of an address of its own; and who is right does not wait for anybody.
    assert!(begun.elapsed() < Duration::from_secs(4));
    let mut right = said_from(&server, "127.0.1.100", "token=secret-a");
    Place::parse(&right.read_line());
    // What is wrong beside the token is told to whoever has one that is right.
    let mut right = said_from(&server, "127.0.1.100", "token=secret-a channel=nowhere");
    right.expect_line("Error: no such channel");
}

#[test]
fn guesses_of_one_address_are_looked_at_one_by_one_and_ever_later() {
    let tokens = Tokens::of(&[("a", "")]);
    let server = tokens.start(&["--hello-timeout=5s"]);
    let begun = Instant::now();
    let mut guesses: Vec<_> = (0..20)
        .map(|n| said_from(&server, "127.0.2.1", &format!("token=guess-{n}")))
        .collect();
    let mut said: Vec<(Duration, String)> = Vec::new();
    let answers: Vec<_> = guesses
        .drain(..)
        .map(|mut client| {
            std::thread::spawn(move || {
                let line = client.read_line();
                (begun.elapsed(), line)
            })
        })
        .collect();
    said.extend(answers.into_iter().map(|answer| answer.join().unwrap()));
    said.sort();
    // Looked at after 0, 1 and 3 s, and told 1, 2 and 4 s later, or when their time is over.
    let looked_at = said.iter().filter(|(_, line)| line == REFUSED);
    assert_eq!(looked_at.count(), 3, "{said:#?}");
    assert!(said[0].0 >= Duration::from_millis(990), "{said:#?}");
    assert!(said[1].0 >= Duration::from_millis(2990), "{said:#?}");
    let others = said.iter().filter(|(_, line)| line != REFUSED);
    for (_, line) in others {
        assert_eq!(line, "Error: too many wrong tokens from 127.0.2.1");
    }
    // Who is right waits for the gate, too, and then comes in.
    let mut right = said_from(&server, "127.0.2.1", "token=secret-a");
    Place::parse(&right.read_line());
    assert!(begun.elapsed() >= Duration::from_millis(6990));
    let mut other = said_from(&server, "127.0.2.2", "token=secret-a");
    Place::parse(&other.read_line());
}

#[test]
fn stop_and_handover_wait_for_no_guess() {
    let tokens = Tokens::of(&[("a", "")]);
    let mut server = tokens.start(&[]);
    for _ in 0..3 {
        let mut client = Client::dial(server.addr(TEXT));
        client.send_line("LINEHUB/1 token=x");
        client.expect_line(REFUSED);
    }
    let begun = Instant::now();
    let wait = |server: &Server| {
        let mut wrong = Client::dial(server.addr(TEXT));
        wrong.send_line("LINEHUB/1 token=x");
        // It has been read when a client that came later is there.
        let mut watcher = Client::connect_to(server, PLAIN);
        let mut other = Client::connect_to(server, PLAIN);
        other.send_line("m");
        while watcher.read_json()["data"] != "m" {}
        wrong
    };
    let mut one = wait(&server);
    exec(&server);
    let said = one.read_line();
    assert!(
        [REFUSED, "Server shutting down"].contains(&&*said),
        "{said}"
    );
    one.expect_eof();
    let mut two = wait(&server);
    server.signal(Signal::TERM);
    let said = two.read_line();
    assert!(
        [REFUSED, "Server shutting down"].contains(&&*said),
        "{said}"
    );
    server.wait_exit(Duration::from_secs(30));
    assert!(
        begun.elapsed() < Duration::from_secs(4),
        "{:?}",
        begun.elapsed()
    );
}

#[test]
fn token_narrows_role_and_channel() {
    let tokens = Tokens::of(&[
        ("pub", "role = 'publish'"),
        ("nmea", "channels = ['nmea']"),
        ("two", "channels = ['nmea', 'ais']"),
        ("sub", "role = 'subscribe'\nchannels = ['main', 'nmea']"),
    ]);
    let flag = tokens.flag();
    let server = Server::start(&[
        &flag,
        "--no-notices",
        "--open-channels=5",
        "--listen=127.0.0.1:0,hello",
        "--listen=127.0.0.1:0,hello,role=publish",
    ]);
    let refused = |i: usize, words: &str, detail: &str| {
        let mut client = Client::dial(server.addr(i));
        client.send_line(&format!("LINEHUB/1 {words}"));
        client.expect_line(&format!("Error: {detail}"));
        client.expect_eof();
    };
    let joins = |words: &str| Client::introduced(server.addr(0), words);
    let (mut publisher, place) = joins("token=secret-pub");
    assert_eq!(place.channel, "main");
    let (mut subscriber, place) = joins("token=secret-sub");
    assert_eq!(place.channel, "main");
    publisher.send_line("one");
    subscriber.expect_message(publisher.id(), "one");
    subscriber.send_line("ignored");
    marker(&mut publisher, &mut subscriber);
    refused(
        0,
        "token=secret-pub role=both",
        "role both is not allowed here, only publish",
    );
    refused(
        0,
        "token=secret-sub role=publish",
        "role publish is not allowed here, only subscribe",
    );
    refused(1, "token=secret-sub", "not authorized for role publish");

    let channel = |words: &str| joins(words).1.channel;
    assert_eq!(channel("token=secret-nmea"), "nmea");
    assert_eq!(channel("token=secret-nmea channel=nmea"), "nmea");
    assert_eq!(channel("token=secret-two channel=ais"), "ais");
    assert_eq!(channel("token=secret-sub channel=nmea"), "nmea");
    assert_eq!(channel("token=secret-pub channel=any"), "any");
    refused(
        0,
        "token=secret-nmea channel=main",
        "not authorized for channel main",
    );
    refused(0, "token=secret-two", "not authorized for channel main");
    assert_eq!(server.count_log("reason=unauthorized"), 0, "at debug only");
}

#[test]
fn reload_closes_who_may_not_be_there_any_more_and_nobody_else() {
    let tokens = Tokens::of(&[("stays", ""), ("gone", ""), ("less", ""), ("moves", "")]);
    let server = tokens.start(&["--no-notices"]);
    let join = |name: &str| {
        let words = format!("token=secret-{name}");
        Client::introduced(server.addr(TEXT), &words).0
    };
    let (mut stays, mut gone, mut less, mut moves) =
        (join("stays"), join("gone"), join("less"), join("moves"));
    let mut plain = Client::connect_to(&server, PLAIN);

    std::fs::write(
        &tokens.path,
        "[[token]]\nname = 'stays'\nsha256 = 'secret-stays'",
    )
    .unwrap();
    server.signal(Signal::HUP);
    server.wait_log("configuration not reloaded, nothing changed");
    let log = server.log();
    let wrong = format!("{}:3: sha256: is no hash", tokens.path.display());
    assert!(log.iter().any(|line| line.contains(&wrong)), "{log:#?}");
    stays.send_line("all here");
    for client in [&mut gone, &mut less, &mut moves] {
        client.expect_message(stays.id(), "all here");
    }
    let (late, _) = Client::introduced(server.addr(TEXT), "token=secret-gone");
    drop(late);

    tokens.write(&[
        ("stays", "channels = ['main', 'x']"),
        ("less", "role = 'publish'"),
        ("moves", "channels = ['x']"),
    ]);
    reload(&server);
    server.wait_log("configuration reloaded changed=tokens");
    for mut client in [gone, less, moves] {
        client.expect_line("Error: not allowed any more");
        client.expect_eof();
    }
    server.wait_log_count("client disconnected reason=denied", 3);
    plain.send_line("still there");
    stays.expect_message(plain.id(), "still there");
    let mut again = said_from(&server, "127.0.3.1", "token=secret-gone");
    again.expect_line(REFUSED);
}

#[test]
fn token_that_expires_takes_its_clients_along() {
    let expiry = SystemTime::now() + Duration::from_secs(3);
    let expires = format!("expires = {}", humantime::format_rfc3339_millis(expiry));
    let tokens = Tokens::of(&[("short", &expires), ("long", "expires = 2999-12-31")]);
    let server = tokens.start(&[]);
    let (mut short, _) = Client::introduced(server.addr(TEXT), "token=secret-short");
    let (mut long, _) = Client::introduced(server.addr(TEXT), "token=secret-long");
    short.expect_line(&format!("New client connected: {}", long.id()));
    short.expect_line("Error: not allowed any more");
    short.expect_eof();
    assert!(SystemTime::now() >= expiry);
    long.expect_line(&format!("Client disconnected: {}", short.id()));
    let mut late = said_from(&server, "127.0.4.1", "token=secret-short");
    late.expect_line(REFUSED);
}

#[test]
fn name_and_token_go_along_in_a_handover() {
    let tokens = Tokens::of(&[("meter-7", ""), ("gone", "")]);
    let server = tokens.start(&[]);
    let mut watcher = Client::connect_to(&server, PLAIN);
    let mut meter = Client::dial(server.addr(JSON));
    meter.send_line("LINEHUB/1 token=secret-meter-7");
    assert_eq!(meter.read_json()["event"], "hello");
    watcher.read_line();
    exec(&server);
    meter.send_line("hello");
    let message = watcher.read_json();
    assert_eq!(
        (&message["name"], &message["data"]),
        (&json!("meter-7"), &json!("hello"))
    );
    let (mut gone, _) = Client::introduced(server.addr(TEXT), "token=secret-gone");
    watcher.read_line();
    meter.read_line();
    // It is gone from the file, and nobody has said so to the daemon before.
    tokens.write(&[("meter-7", "")]);
    exec(&server);
    gone.expect_line("Error: not allowed any more");
    gone.expect_eof();
    let left = watcher.read_json();
    assert_eq!(
        (&left["event"], &left["name"]),
        (&json!("disconnect"), &json!("gone"))
    );
    tokens.write(&[]);
    reload(&server);
    assert_eq!(meter.read_json()["event"], "disconnect");
    assert_eq!(meter.read_json()["reason"], "denied");
}

#[test]
fn session_belongs_to_the_token_that_it_was_begun_by() {
    let (one, other) = ("o".repeat(64), "a".repeat(64));
    let tokens = Tokens::of(&[(&one, ""), (&other, "")]);
    let dir = tempfile::tempdir().unwrap();
    let dir = format!("--history-dir={}", dir.path().display());
    let args = ["--history=1MiB", &dir];
    let mut server = tokens.start(&args);
    let session = "s".repeat(64);
    let taken = |server: &Server, token: &str| {
        let mut client = Client::dial(server.addr(JSON));
        let words = format!("LINEHUB/1 role=publish token=secret-{token} session={session} ack");
        client.send_line(&words);
        (client.read_json()["taken"].as_u64(), client)
    };
    let (before, mut meter) = taken(&server, &one);
    assert_eq!(before, Some(0));
    meter.send_bytes(b"1\n2\n");
    while meter.read_json()["taken"] != 2 {}
    let (before, mut thief) = taken(&server, &other);
    assert_eq!(before, Some(0));
    thief.send_line("mine");
    assert_eq!(thief.read_json()["taken"], 1);
    // It still has its own, over a handover, too.
    exec(&server);
    meter.send_line("3");
    assert_eq!(meter.read_json()["taken"], 3);
    assert_eq!(taken(&server, &one).0, Some(3));
    assert_eq!(meter.read_json()["reason"], "session_taken");
    server.signal(Signal::KILL);
    server.wait_exit(PATIENCE);
    let server = tokens.start(&args);
    assert_eq!(taken(&server, &one).0, Some(3));
    assert_eq!(taken(&server, &other).0, Some(1));
}

#[test]
fn daemon_without_tokens_takes_everybody_and_looks_at_none() {
    let server = Server::start(&["--listen=127.0.0.1:0,hello"]);
    let (_, place) = Client::introduced(server.addr(0), "token=whatever");
    assert_eq!(place.channel, "main");
}

#[test]
fn generated_token_lets_in_and_its_file_has_no_secret() {
    let made = run(
        &[
            "generate",
            "token",
            "meter-7",
            "--role=publish",
            "--channel=main",
            "--channel=nmea",
            "--expires=2999-12-31",
        ],
        &[],
    );
    assert_eq!(made.code, Some(0));
    let secret = made.stderr.strip_suffix('\n').unwrap();
    assert_eq!(secret.len(), 43, "{secret}");
    assert!(!made.stdout.contains(secret));
    let more = "role = \"publish\"\nchannels = [\"main\", \"nmea\"]\nexpires = 2999-12-31\n";
    assert!(made.stdout.ends_with(more), "{}", made.stdout);
    let other = run(&["generate", "token", "other"], &[]);
    assert_ne!(other.stderr, made.stderr);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokens.toml");
    std::fs::write(&path, made.stdout + &other.stdout).unwrap();
    let flag = format!("--tokens={}", path.display());
    let server = Server::start(&[&flag, "--listen=127.0.0.1:0,hello"]);
    for secret in [&made.stderr, &other.stderr] {
        Client::introduced(server.addr(0), &format!("token={}", secret.trim_end()));
    }

    for (args, wrong) in [
        (&["a b"][..], "'a b' is no name"),
        (&["a", "--role=x"], "'x' is not a role"),
        (&["a", "--channel=a/b"], "'a/b' is not a channel name"),
        (
            &["a", "--expires=soon"],
            "'soon' is no time to expire at; allowed: a date such as",
        ),
        (
            &["a", "--expires=1"],
            "a number is no value for it; allowed: a date such as",
        ),
    ] {
        let exit = run(&[&["generate", "token"], args].concat(), &[]);
        assert_eq!((exit.code, &*exit.stdout), (Some(2), ""), "{exit:?}");
        assert!(exit.stderr.contains(wrong), "{exit:?}");
    }
}

#[test]
fn file_with_a_mistake_is_refused_with_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.toml");
    std::fs::write(
        &path,
        "[[token]]\nname = 'a'\ncertificate = 'a'\nrole = 'x'\n",
    )
    .unwrap();
    let flag = format!("--tokens={}", path.display());
    for check in [&[][..], &["--check"]] {
        let exit = run(&[&[&*flag, "--listen=127.0.0.1:0"], check].concat(), &[]);
        assert_eq!((exit.code, &*exit.stdout), (Some(2), ""), "{exit:?}");
        let wrong = format!(
            "linehub: --tokens: {}:4: role: 'x' is not a role; allowed: both, publish or subscribe\n",
            path.display()
        );
        assert_eq!(exit.stderr, wrong);
    }
    std::fs::remove_file(&path).unwrap();
    let exit = run(&[&flag, "--check"], &[]);
    assert_eq!(exit.code, Some(2));
    assert!(
        exit.stderr.contains("cannot be read: No such file"),
        "{exit:?}"
    );
}

#[test]
fn tokens_that_everybody_on_the_way_could_read_are_warned_of() {
    let tokens = Tokens::of(&[("a", "")]);
    let flag = tokens.flag();
    let server = Server::start(&[
        &flag,
        "--listen=0.0.0.0:0,hello",
        "--listen=127.0.0.1:0,hello",
        "--listen=0.0.0.0:0",
    ]);
    server.wait_log("phase=running");
    let warning = format!(
        "anybody on the way can read the tokens listener={}",
        server.addr(0)
    );
    server.wait_log(&warning);
    assert_eq!(server.count_log("anybody on the way"), 1);
    let server = Server::start(&[&flag]);
    server.wait_log("--tokens keeps nobody");
}

/// All that a process of ours shows of itself to others, and all that the daemon says.
#[cfg(feature = "connect")]
#[test]
fn secret_is_in_no_log_list_or_command_line() {
    use std::process::Command;

    use crate::common::{BINARY, Program, eventually};

    let tokens = Tokens::of(&[("a", ""), ("b", "")]);
    let server = tokens.start(&["-vv", "--admin=127.0.0.1:0"]);
    let mut watcher = Client::connect_to(&server, PLAIN);
    let file = tokens.path.with_extension("secret");
    std::fs::write(&file, "secret-a\n").unwrap();
    let address = server.addr(TEXT).to_string();
    let connect = |change: &dyn Fn(&mut Command)| {
        let mut command = Command::new(BINARY);
        command
            .env_remove("LINEHUB_TOKEN")
            .args(["connect", &address]);
        change(&mut command);
        command
    };
    let cmdline = |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
    let by_file = |command: &mut Command| {
        command.arg("--token-file").arg(&file);
    };
    let by_variable = |command: &mut Command| {
        command.env("LINEHUB_TOKEN", "secret-b");
    };
    for name in ["a", "b"] {
        let mut command = match name {
            "a" => connect(&by_file),
            _ => connect(&by_variable),
        };
        let mut program = Program::spawn(&mut command);
        assert_eq!(watcher.read_json()["name"], name);
        program.type_in(b"hello\n");
        let said = watcher.read_json();
        assert_eq!(
            (&said["name"], &said["data"]),
            (&json!(name), &json!("hello"))
        );
        let line = cmdline(program.id());
        assert!(
            line.contains("connect") && !line.contains("secret-"),
            "{line:?}"
        );
        program.end_input();
        assert_eq!(watcher.read_json()["event"], "disconnect");
    }
    let mut wrong = Client::dial(server.addr(TEXT));
    wrong.send_line("LINEHUB/1 token=secret-wrong x=1");
    assert!(wrong.read_line().starts_with("Error: unknown key"));
    let mut wrong = Client::dial(server.addr(JSON));
    wrong.send_line("LINEHUB/1 token=secret-wrong");
    assert_eq!(wrong.read_json()["reason"], "unauthorized");
    eventually("the refusals are logged", || {
        server.count_log("connection refused reason=unauthorized") > 0
    });
    let shown = ["/status", "/clients", "/closed", "/metrics", "/"]
        .map(|path| http::get(&server.admin(), path).body);
    let log = server.log();
    assert!(log.iter().any(|line| line.contains("name=a")), "{log:#?}");
    let all = log
        .iter()
        .map(String::as_str)
        .chain(shown.iter().map(String::as_str));
    for text in all.chain([&*cmdline(server.pid())]) {
        assert!(!text.contains("secret-"), "{text}");
    }
    let metric = "linehub_connections_closed_total{reason=\"unauthorized\"} 1";
    assert!(shown[3].contains(metric), "{}", shown[3]);
}

#[cfg(feature = "connect")]
#[test]
fn connect_without_a_token_that_is_right_ends_and_says_why() {
    let tokens = Tokens::of(&[("a", "")]);
    let server = tokens.start(&[]);
    let address = server.addr(TEXT).to_string();
    let exit = run(
        &["connect", "--retry", "--hello=", &address],
        &[("LINEHUB_TOKEN", "wrong")],
    );
    assert_eq!(exit.code, Some(1), "{exit:?}");
    assert!(exit.stderr.contains("not authorized"), "{exit:?}");
    let exit = run(&["connect", &address], &[("LINEHUB_TOKEN", "two words")]);
    assert_eq!(exit.code, Some(2), "{exit:?}");
    assert!(exit.stderr.contains("LINEHUB_TOKEN: is no token") && !exit.stderr.contains("two"));
}

#[cfg(feature = "bench")]
#[test]
fn bench_says_a_token() {
    let tokens = Tokens::of(&[("a", "")]);
    let server = tokens.start(&[]);
    let address = server.addr(TEXT).to_string();
    let args = [
        "bench",
        &address,
        "--channel=main",
        "--readers=2",
        "--duration=50ms",
        "--json",
    ];
    for format in ["--format=text", "--format=json", "--format=raw"] {
        let exit = run(
            &[&args[..], &[format]].concat(),
            &[("LINEHUB_TOKEN", "secret-a")],
        );
        assert_eq!(exit.code, Some(0), "{exit:?}");
        assert!(!exit.stdout.contains("secret-a"), "{exit:?}");
    }
    let exit = run(&args, &[]);
    assert_eq!(exit.code, Some(1), "{exit:?}");
    assert!(exit.stderr.contains("not authorized"), "{exit:?}");
}
