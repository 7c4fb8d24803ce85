use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::thread;

#[cfg(feature = "bench")]
use crate::common::run;
use crate::common::{
    Authority, BINARY, Client, Exit, Pair, Program, Server, Tmux, eventually, tool,
};

/// A daemon with a plain listener and one with TLS, for which this pair speaks.
fn serve(pair: &Pair, more: &[&str]) -> Server {
    let listen = ["--listen=127.0.0.1:0", "--listen=127.0.0.1:0,tls"];
    let tls = ["--tls-cert", &pair.certificate, "--tls-key", &pair.key];
    Server::start(&[&listen[..], &tls, more].concat())
}

fn connect(authority: &Authority, args: &[&str], address: &str) -> Command {
    let mut command = Command::new(BINARY);
    command
        .args(["connect", "--tls", "--ca", &authority.certificate])
        .args(args)
        .arg(address);
    command
}

/// Runs it to its end with this standard input.
fn finish(command: Command, input: &[u8]) -> Exit {
    Exit::of(assert_cmd::Command::from_std(command).write_stdin(input))
}

/// The last line of stderr of a connect that must fail with this code.
#[track_caller]
fn failure(command: Command, code: i32) -> String {
    let exit = finish(command, b"");
    assert_eq!(exit.code, Some(code), "{exit:?}");
    exit.stderr.lines().last().unwrap_or_default().to_owned()
}

/// Passes bytes on between a client and the daemon, and can cut both off.
struct Relay {
    address: String,
    accepted: std::sync::mpsc::Receiver<TcpStream>,
}

impl Relay {
    fn to(server: &Server, i: usize) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let target = server.addr(i).to_string();
        let (sender, accepted) = std::sync::mpsc::channel();
        thread::spawn(move || {
            while let Ok((client, _)) = listener.accept() {
                let daemon = TcpStream::connect(&target).unwrap();
                for (mut from, mut to) in [(&client, &daemon), (&daemon, &client)]
                    .map(|(from, to)| (from.try_clone().unwrap(), to.try_clone().unwrap()))
                {
                    thread::spawn(move || std::io::copy(&mut from, &mut to));
                }
                if sender.send(client).is_err() {
                    return;
                }
            }
        });
        Relay { address, accepted }
    }
}

/// Certificates of the tests as OpenSSL sees them.
fn verify(authority: &Authority, pair: &Pair, more: &[&str]) -> Option<String> {
    let output = Command::new(tool("openssl")?)
        .args(["verify", "-x509_strict", "-CAfile", &authority.certificate])
        .args(more)
        .arg(&pair.certificate)
        .output()
        .unwrap();
    Some(String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
}

#[test]
fn certificates_of_the_tests_are_what_they_are_called() {
    let (authority, other) = (Authority::new(), Authority::new());
    let (server, client) = (authority.server(), authority.client("meter-7"));
    let (expired, misnamed) = (authority.expired(), authority.misnamed());
    let list = authority.revoke(&[&client]);
    let revocations = ["-crl_check", "-CRLfile", &list];
    for (by, pair, more, wanted) in [
        (
            &authority,
            &server,
            &["-verify_hostname", "localhost"][..],
            ": OK",
        ),
        (&authority, &server, &["-verify_ip", "127.0.0.1"], ": OK"),
        (
            &authority,
            &misnamed,
            &["-verify_hostname", "localhost"],
            "hostname mismatch",
        ),
        (&authority, &expired, &[], "certificate has expired"),
        (&other, &server, &[], "verification failed"),
        (&authority, &client, &revocations, "certificate revoked"),
        (&authority, &server, &revocations, ": OK"),
    ] {
        let Some(said) = verify(by, pair, more) else {
            return;
        };
        assert!(said.contains(wanted), "{wanted}: {said}");
    }
}

#[test]
fn lines_go_both_ways_over_tls() {
    let authority = Authority::new();
    let server = serve(&authority.server(), &[]);
    let mut witness = Client::connect(&server);
    let port = server.addr(1).port();
    for (i, host) in ["127.0.0.1", "localhost"].iter().enumerate() {
        let id = 2 + i as u64;
        let address = format!("{host}:{port}");
        let mut program = Program::spawn(&mut connect(&authority, &[], &address));
        witness.expect_line(&format!("New client connected: {id}"));
        program.type_in(b"hello\n");
        witness.expect_message(id, "hello");
        witness.send_line("hello yourself");
        program.wait_output("Message from client 1: hello yourself\n");
        program.end_input();
        witness.expect_line(&format!("Client disconnected: {id}"));
        let (status, _) = program.wait_end();
        assert!(status.success(), "{status}");
    }
}

#[test]
fn file_arrives_whole_and_its_sender_knows() {
    let authority = Authority::new();
    let server = serve(
        &authority.server(),
        &["--format=raw", "--slow-grace=forever"],
    );
    let lines: Vec<u8> = (0..500_000)
        .flat_map(|n| format!("{n}\n").into_bytes())
        .collect();
    for retry in ["--retry=no", "--retry"] {
        let mut reader = Client::connect(&server);
        let bytes = lines.len();
        let reader = thread::spawn(move || reader.read_bytes(bytes));
        let args = ["--send-only", "-q", retry];
        let exit = finish(
            connect(&authority, &args, &server.addr(1).to_string()),
            &lines,
        );
        assert_eq!((exit.code, &*exit.stderr), (Some(0), ""));
        assert!(reader.join().unwrap() == lines, "with {retry}");
    }
}

#[test]
fn all_that_was_sent_comes_after_the_input_has_ended() {
    let authority = Authority::new();
    let server = serve(&authority.server(), &["--half-close=keep", "--no-notices"]);
    let mut sender = Client::connect(&server);
    let mut program = Program::spawn(&mut connect(&authority, &[], &server.addr(1).to_string()));
    server.wait_log("client connected client=2");
    program.end_input();
    for n in 0..3 {
        sender.send_line(&format!("line {n}"));
        program.wait_output(&format!("Message from client 1: line {n}\n"));
    }
    server.signal(rustix::process::Signal::TERM);
    program.wait_output("Server shutting down\n");
    program.wait_end();
}

#[test]
fn certificate_that_is_not_good_is_refused_in_one_line_with_what_helps() {
    let (authority, other) = (Authority::new(), Authority::new());
    let refused = "its certificate is refused: ";
    for (pair, trusted, args, wanted) in [
        (
            authority.server(),
            &other,
            &[][..],
            "no authority that is trusted has signed it; --ca",
        ),
        (
            authority.misnamed(),
            &authority,
            &[],
            "it is not for 127.0.0.1; --server-name",
        ),
        (
            authority.server(),
            &authority,
            &["--server-name=hub.example"],
            "it is not for hub.example",
        ),
        (
            authority.server(),
            &authority,
            &["--server-name=127.0.0.2"],
            "it is not for 127.0.0.2",
        ),
        (authority.expired(), &authority, &[], "it has expired"),
    ] {
        let server = serve(&pair, &[]);
        let address = server.addr(1).to_string();
        // It is not tried again.
        for retry in ["--retry", "--retry=no"] {
            let command = connect(trusted, &[args, &[retry]].concat(), &address);
            let said = failure(command, 1);
            let begin = format!("linehub: cannot connect to {address}: {refused}{wanted}");
            assert!(said.starts_with(&begin), "{said}");
        }
    }
    // The authorities of this machine know nothing of it.
    let server = serve(&authority.server(), &[]);
    let mut command = Command::new(BINARY);
    command.args(["connect", "--tls", &server.addr(1).to_string()]);
    let said = failure(command, 1);
    assert!(said.contains("no authority that is trusted"), "{said}");
    let misnamed = serve(&authority.misnamed(), &[]);
    let named = connect(
        &authority,
        &["--server-name=other.example"],
        &misnamed.addr(1).to_string(),
    );
    assert_eq!(finish(named, b"").code, Some(0));
}

#[test]
fn files_that_are_wrong_are_named_before_anything_is_connected() {
    let (authority, other) = (Authority::new(), Authority::new());
    let (ours, theirs) = (authority.client("ours"), other.client("theirs"));
    let missing = format!("{}.not", ours.certificate);
    let cases: [(&[&str], String); 8] = [
        (
            &["--tls", "--ca", &missing],
            format!("--ca: cannot read {missing}: "),
        ),
        (
            &["--tls", "--ca", &ours.key],
            format!("--ca: {} has no certificates", ours.key),
        ),
        (
            &["--tls", "--cert", &ours.certificate, "--key", &missing],
            format!("--key: cannot read {missing}: "),
        ),
        (
            &["--tls", "--cert", &ours.certificate, "--key", &theirs.key],
            format!(
                "--key: {} is not the key of the certificate in ",
                theirs.key
            ),
        ),
        (
            &["--tls", "--cert", &ours.key, "--key", &ours.key],
            format!("--cert, --key: {0} and {0} are no certificate", ours.key),
        ),
        (&["--tls", "--cert", &ours.certificate], "--key".to_owned()),
        (&["--ca", &ours.certificate], "--tls".to_owned()),
        (
            &["--tls", "unix:/nowhere"],
            "--tls: allowed: with HOST:PORT".to_owned(),
        ),
    ];
    for (args, wanted) in cases {
        let mut command = Command::new(BINARY);
        command.arg("connect").args(args);
        let said = failure(command, 2);
        assert!(said.starts_with(&format!("linehub: {wanted}")), "{said}");
    }
}

#[test]
fn server_without_tls_is_told() {
    let authority = Authority::new();
    let puppet = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = puppet.local_addr().unwrap().to_string();
    for (says, wanted) in [
        (&b"220 mail.example ESMTP\r\n"[..], "it does not speak TLS"),
        (b"", "it closed during the TLS handshake"),
    ] {
        let program = connect(&authority, &["--retry=no"], &address)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (mut stream, _) = puppet.accept().unwrap();
        stream.write_all(says).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        stream.read_to_end(&mut Vec::new()).unwrap();
        let output = program.wait_with_output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(
            said,
            format!("linehub: cannot connect to {address}: {wanted}\n")
        );
    }
}

#[test]
fn stream_that_is_cut_is_no_end() {
    let authority = Authority::new();
    let server = serve(&authority.server(), &["--no-notices"]);
    let relay = Relay::to(&server, 1);
    let mut sender = Client::connect(&server);
    let mut command = connect(&authority, &["--listen-only", "--retry=no"], &relay.address);
    let mut program = Program::spawn(command.stderr(Stdio::piped()));
    let client = relay.accepted.recv().unwrap();
    server.wait_log("client connected client=2");
    sender.send_line("first");
    program.wait_output("Message from client 1: first\n");
    client.shutdown(Shutdown::Write).unwrap();
    let (status, _) = program.wait_end();
    assert_eq!(status.code(), Some(1), "an end that nobody has said");
}

#[test]
fn connection_comes_back_over_tls() {
    let authority = Authority::new();
    let pair = authority.server();
    let server = serve(&pair, &[]);
    let address = server.addr(1).to_string();
    let mut program = Program::spawn(&mut connect(&authority, &["--retry"], &address));
    server.wait_log("client connected client=1");
    drop(server);
    let listen = format!("--listen={address},tls");
    let tls = ["--tls-cert", &pair.certificate, "--tls-key", &pair.key];
    let server = Server::start(&[&["--listen=127.0.0.1:0", &listen][..], &tls].concat());
    server.wait_log("client connected client=1");
    let mut sender = Client::connect(&server);
    sender.send_line("back again");
    program.wait_output("Message from client 2: back again\n");
    program.type_in(b"so am I\n");
    sender.expect_message(1, "so am I");
}

#[test]
fn client_certificate_is_shown_to_who_asks() {
    let authority = Authority::new();
    let server = serve(
        &authority.server(),
        &["--tls-client-ca", &authority.certificate],
    );
    let address = server.addr(1).to_string();
    let said = failure(connect(&authority, &["--retry=no"], &address), 1);
    assert!(
        said.ends_with("certificate of the client expected"),
        "{said}"
    );
    // An end that were said would be that of a server which has read all.
    let other = Authority::new();
    let strange = other.client("meter-7");
    let shown = [
        "--retry=no",
        "--cert",
        &strange.certificate,
        "--key",
        &strange.key,
    ];
    let said = failure(connect(&authority, &shown, &address), 1);
    assert!(
        said.ends_with("it ended without the end of TLS, so something may be missing"),
        "{said}"
    );
    let pair = authority.client("meter-7");
    let shown = ["--cert", &pair.certificate, "--key", &pair.key];
    let exit = finish(connect(&authority, &shown, &address), b"hello\n");
    assert_eq!(exit.code, Some(0), "{exit:?}");
}

#[test]
fn person_types_over_tls() {
    let authority = Authority::new();
    let server = serve(&authority.server(), &["--no-notices"]);
    let Some(tmux) = Tmux::new(160, 24) else {
        return;
    };
    let mut other = Client::connect(&server);
    let address = server.addr(1).to_string();
    let ca = &authority.certificate;
    tmux.press(&[
        &format!("{BINARY} connect --tls --ca {ca} {address}"),
        "Enter",
    ]);
    tmux.wait("a prompt", |screen| screen.ends_with("\n>"));
    tmux.press(&["-l", "hello"]);
    tmux.press(&["Enter"]);
    other.expect_message(2, "hello");
    // Stopped and continued, it is there as before.
    tmux.press(&["C-z"]);
    tmux.wait("the shell", |screen| screen.ends_with("\n$"));
    other.send_line("while you were away");
    tmux.press(&["fg", "Enter"]);
    tmux.wait("the line", |screen| screen.contains("while you were away"));
    tmux.press(&["C-c"]);
    server.wait_log("client disconnected client=2");
    tmux.wait("the shell", |screen| screen.ends_with("\n$"));
}

#[cfg(feature = "bench")]
#[test]
fn bench_checks_every_line_over_tls() {
    let authority = Authority::new();
    let server = serve(&authority.server(), &["--open-channels=1"]);
    let address = server.addr(1).to_string();
    let load = [
        "bench",
        &address,
        "--readers=20",
        "--senders=3",
        "--duration=200ms",
        "--json",
    ];
    let tls = ["--tls", "--ca", &authority.certificate];
    for more in [&[][..], &["--rate=1000"], &["--size=100KiB"]] {
        let exit = run(&[&load[..], &tls, more].concat(), &[]);
        let report: serde_json::Value =
            serde_json::from_str(&exit.stdout).unwrap_or_else(|e| panic!("{e}: {exit:?}"));
        let is_long = more == ["--size=100KiB"];
        assert_eq!(report["check"]["ok"], !is_long, "{report:#}");
        assert_eq!(report["tls"], true);
        if is_long {
            let closed = report["closed"].to_string();
            assert!(closed.contains("line_too_long"), "{report:#}");
        }
    }
    let exit = run(&[&load[..], &["--tls"]].concat(), &[]);
    assert_eq!(exit.code, Some(1));
    assert!(
        exit.stderr.contains("no authority that is trusted"),
        "{exit:?}"
    );
    let exit = run(&["bench", "--tls", "--duration=50ms"], &[]);
    assert_eq!(
        (exit.code, &*exit.stderr),
        (
            Some(2),
            "linehub: --tls: allowed: with the address of a daemon\n"
        )
    );
}

#[cfg(feature = "bench")]
#[test]
fn bench_closes_stuck_readers_over_tls() {
    let authority = Authority::new();
    let server = serve(&authority.server(), &["--buffer=1MiB", "--slow-grace=0"]);
    let address = server.addr(1).to_string();
    let load = [
        "bench",
        &address,
        "--readers=3",
        "--stuck=2",
        "--duration=1s",
        "--json",
    ];
    let exit = run(
        &[&load[..], &["--tls", "--ca", &authority.certificate]].concat(),
        &[],
    );
    let report: serde_json::Value = serde_json::from_str(&exit.stdout).unwrap();
    assert_eq!(report["check"]["ok"], true, "{report:#}");
    eventually("the stuck are closed", || {
        server
            .log()
            .iter()
            .filter(|line| line.contains("reason=slow"))
            .count()
            == 2
    });
}
