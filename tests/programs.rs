use std::process::{Command, Stdio};

use rustix::process::Signal;

use crate::common::{Client, Flood, Program, Server, tool};

/// OpenBSD's nc: where several programs are called nc, Debian gives it this name, too.
fn nc() -> Option<Command> {
    let openbsd = ["/usr/bin/nc.openbsd", "/bin/nc.openbsd"];
    let path = openbsd
        .into_iter()
        .find(|path| std::path::Path::new(path).is_file());
    path.map(Command::new)
        .or_else(|| tool("nc").map(Command::new))
}

fn port(server: &Server) -> String {
    server.addr(0).port().to_string()
}

#[test]
fn two_nc_and_a_client_talk_to_each_other() {
    let Some(mut command) = nc() else { return };
    let server = Server::start(&[]);
    command.args(["127.0.0.1", &port(&server)]);
    let mut one = Program::spawn(&mut command);
    server.wait_log("client connected client=1");
    let mut two = Program::spawn(&mut command);
    one.wait_output("New client connected: 2\n");
    two.type_in(b"hello\n");
    one.wait_output("Message from client 2: hello\n");
    one.type_in(b"hello yourself\n");
    two.wait_output("Message from client 1: hello yourself\n");
    let mut third = Client::connect(&server);
    two.wait_output("New client connected: 3\n");
    third.send_line("hello all");
    one.wait_output("Message from client 3: hello all\n");
    two.wait_output("Message from client 3: hello all\n");
}

#[test]
fn ctrl_c_in_nc_gives_its_disconnect_notice_at_once() {
    let Some(nc) = nc() else { return };
    let server = Server::start(&[]);
    let mut witness = Client::connect(&server);
    // A shell's background job ignores Ctrl-C, and so would all that it starts.
    let mut command = Command::new("env");
    command.arg("--default-signal=INT").arg(nc.get_program());
    let program = Program::spawn(command.args(["127.0.0.1", &port(&server)]));
    witness.expect_line("New client connected: 2");
    program.signal(Signal::INT);
    witness.expect_line("Client disconnected: 2");
}

#[test]
fn nc_with_n_ends_with_what_it_was_owed() {
    let Some(mut command) = nc() else { return };
    let server = Server::start(&["--echo"]);
    let mut program = Program::spawn(command.args(["-N", "127.0.0.1", &port(&server)]));
    program.type_in(b"one\ntwo\nrest");
    program.end_input();
    let (status, output) = program.wait_end();
    assert!(status.success(), "{status}");
    let output = String::from_utf8(output).unwrap();
    let wanted = "New client connected: 1\nMessage from client 1: one\n\
        Message from client 1: two\nMessage from client 1: rest\n";
    assert!(output.starts_with(wanted), "{output}");
}

#[test]
fn a_file_piped_through_nc_arrives_whole() {
    let Some(mut command) = nc() else { return };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lines");
    let mut flood = Flood::default();
    let bytes = [flood.lines(50_000), b"end\n".to_vec()].concat();
    std::fs::write(&path, bytes).unwrap();

    let server = Server::start(&[]);
    let mut witness = Client::connect(&server);
    command.args(["-N", "127.0.0.1", &port(&server)]);
    let file = std::fs::File::open(&path).unwrap();
    let mut child = command.stdin(file).stdout(Stdio::null()).spawn().unwrap();
    witness.expect_line("New client connected: 2");
    assert_eq!(Flood::expect_all(&mut witness, 2), flood.sent);
    witness.expect_line("Client disconnected: 2");
    assert!(child.wait().unwrap().success());
}

#[test]
fn nc_speaks_to_a_unix_socket() {
    let Some(mut command) = nc() else { return };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hub.sock");
    let server = Server::start(&["--listen", &format!("unix:{}", path.display())]);
    let mut witness = Client::connect(&server);
    let mut program = Program::spawn(command.arg("-U").arg(&path));
    witness.expect_line("New client connected: 2");
    program.type_in(b"hello\n");
    witness.expect_message(2, "hello");
    witness.send_line("hello yourself");
    program.wait_output("Message from client 1: hello yourself\n");
}

#[test]
fn ncat_sends_and_receives() {
    let Some(ncat) = tool("ncat") else { return };
    let server = Server::start(&[]);
    let mut witness = Client::connect(&server);
    let mut program = Program::spawn(Command::new(ncat).args(["127.0.0.1", &port(&server)]));
    witness.expect_line("New client connected: 2");
    program.type_in(b"hello\n");
    witness.expect_message(2, "hello");
    witness.send_line("hello yourself");
    program.wait_output("Message from client 1: hello yourself\n");
    program.end_input();
    witness.expect_line("Client disconnected: 2");
    program.wait_end();
}

#[test]
fn ncat_without_input_is_a_pure_reader_where_half_close_is_kept() {
    let Some(ncat) = tool("ncat") else { return };
    let server = Server::start(&["--half-close", "keep"]);
    let mut sender = Client::connect(&server);
    let mut program = Program::spawn(Command::new(ncat).args(["127.0.0.1", &port(&server)]));
    program.end_input();
    sender.expect_line("New client connected: 2");
    for n in 0..3 {
        sender.send_line(&format!("line {n}"));
        program.wait_output(&format!("Message from client 1: line {n}\n"));
    }
}

#[test]
fn socat_sends_and_receives() {
    let Some(socat) = tool("socat") else { return };
    let server = Server::start(&[]);
    let mut witness = Client::connect(&server);
    let address = format!("TCP:127.0.0.1:{}", port(&server));
    let mut program = Program::spawn(Command::new(socat).args(["-", &address]));
    witness.expect_line("New client connected: 2");
    program.type_in(b"hello\n");
    witness.expect_message(2, "hello");
    witness.send_line("hello yourself");
    program.wait_output("Message from client 1: hello yourself\n");
    program.end_input();
    witness.expect_line("Client disconnected: 2");
    let (status, _) = program.wait_end();
    assert!(status.success(), "{status}");
}
