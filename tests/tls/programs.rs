//! Other people's programs, each with TLS of its own.

use std::process::Command;

use super::{TLS, serve};
use crate::common::{Authority, Client, Program, Server, tool};

/// Talks with a program both ways, and has it end.
#[track_caller]
fn talk(server: &Server, plain: &mut Client, name: &str, mut command: Command) {
    let mut program = Program::spawn(&mut command);
    let line = plain.read_line();
    let id = line
        .strip_prefix("New client connected: ")
        .unwrap_or_else(|| panic!("{name}: {line}"));
    let id: u64 = id.parse().unwrap();
    for turn in 0..2 {
        program.type_in(format!("from {name} {turn}\n").as_bytes());
        plain.expect_message(id, &format!("from {name} {turn}"));
        plain.send_line(&format!("to {name} {turn}"));
        program.wait_output(&format!(
            "Message from client {}: to {name} {turn}\n",
            plain.id()
        ));
    }
    program.end_input();
    plain.expect_line(&format!("Client disconnected: {id}"));
    server.wait_log(&format!("client disconnected client={id} reason=eof"));
    program.wait_end();
}

#[test]
fn openssl_gnutls_ncat_and_python_talk_in_each_version() {
    let authority = Authority::new();
    let server = serve(&authority, &[]);
    let mut plain = Client::connect(&server);
    let address = server.addr(TLS).to_string();
    let port = server.addr(TLS).port().to_string();
    let ca = &authority.certificate;
    if let Some(openssl) = tool("openssl") {
        for version in ["-tls1_2", "-tls1_3"] {
            let mut command = Command::new(&openssl);
            command.args([
                "s_client",
                "-quiet",
                "-no_ign_eof",
                "-verify_return_error",
                version,
            ]);
            command.args([
                "-CAfile",
                ca,
                "-verify_hostname",
                "localhost",
                "-connect",
                &address,
            ]);
            talk(&server, &mut plain, version, command);
        }
        // Keys of the session are changed by `K`, in both directions; what follows is as before.
        let mut command = Command::new("sh");
        command.args(["-c", "exec \"$@\" 2>&1", "sh"]).arg(&openssl);
        command.args(["s_client", "-tls1_3", "-CAfile", ca, "-connect", &address]);
        let mut program = Program::spawn(&mut command);
        let line = plain.read_line();
        let id = line
            .strip_prefix("New client connected: ")
            .unwrap()
            .parse()
            .unwrap();
        for turn in 0..3 {
            // Read by itself, it is a command: new keys, with those of the other side and without.
            program.type_in(if turn == 1 { b"k\n" } else { b"K\n" });
            program.wait_count("KEYUPDATE", turn + 1);
            program.type_in(format!("{turn}\n").as_bytes());
            plain.expect_message(id, &turn.to_string());
            plain.send_line(&format!("answer {turn}"));
            program.wait_output(&format!("Message from client 1: answer {turn}\n"));
        }
        program.type_in(b"Q\n");
        plain.expect_line(&format!("Client disconnected: {id}"));
        // What 1.2 has for that is refused, and the session goes on or has its end; the others notice nothing.
        let mut command = Command::new(&openssl);
        command.args(["s_client", "-tls1_2", "-CAfile", ca, "-connect", &address]);
        let mut program = Program::spawn(&mut command);
        let line = plain.read_line();
        let id = line
            .strip_prefix("New client connected: ")
            .unwrap()
            .to_owned();
        program.type_in(b"R\n");
        program.wait_end();
        plain.expect_line(&format!("Client disconnected: {id}"));
    }
    if let Some(gnutls) = tool("gnutls-cli") {
        for version in [
            "NORMAL:-VERS-ALL:+VERS-TLS1.2",
            "NORMAL:-VERS-ALL:+VERS-TLS1.3",
        ] {
            let mut command = Command::new(&gnutls);
            command.args([
                "--x509cafile",
                ca,
                "--verify-hostname=localhost",
                "--priority",
                version,
            ]);
            command.args(["--port", &port, "127.0.0.1"]);
            talk(&server, &mut plain, version, command);
        }
    }
    if let Some(ncat) = tool("ncat") {
        let mut command = Command::new(&ncat);
        command.args(["--ssl-verify", "--ssl-trustfile", ca, "localhost", &port]);
        talk(&server, &mut plain, "ncat", command);
    }
    if let Some(python) = tool("python3") {
        for version in ["TLSv1_2", "TLSv1_3"] {
            let script = format!(
                r#"
import socket, ssl, sys
context = ssl.create_default_context(cafile={ca:?})
context.minimum_version = context.maximum_version = ssl.TLSVersion.{version}
tls = context.wrap_socket(socket.create_connection(("127.0.0.1", {port})), server_hostname="localhost")
lines = tls.makefile("r")
for line in sys.stdin:
    tls.sendall(line.encode())
    print(lines.readline(), end="", flush=True)
tls.unwrap()
"#
            );
            let mut command = Command::new(&python);
            command.arg("-c").arg(script);
            talk(&server, &mut plain, version, command);
        }
    }
}

#[test]
fn curl_is_told_that_this_is_no_web_server() {
    let Some(curl) = tool("curl") else {
        return;
    };
    let authority = Authority::new();
    let server = serve(&authority, &[]);
    let mut plain = Client::connect(&server);
    for (version, id) in [("1.2", 2), ("1.3", 3)] {
        let mut command = Command::new(&curl);
        command.args([
            "-sS",
            "--http0.9",
            "--cacert",
            &authority.certificate,
            "--tlsv1.2",
            "--tls-max",
            version,
        ]);
        command.arg(format!("https://localhost:{}/", server.addr(TLS).port()));
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.starts_with("Error: "), "{said:?} {:?}", output.stderr);
        assert!(output.status.success(), "{output:?}");
        plain.expect_line(&format!("New client connected: {id}"));
        plain.expect_line(&format!("Client disconnected: {id}"));
        server.wait_log(&format!("client disconnected client={id} reason=http"));
    }
}
