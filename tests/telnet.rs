use std::process::Command;

use crate::common::{Client, Program, Server, marker, tool};

const EOF: u8 = 0xec;
const AYT: u8 = 0xf6;
const IP: u8 = 0xf4;
const SE: u8 = 0xf0;
const SB: u8 = 0xfa;
const WILL: u8 = 0xfb;
const WONT: u8 = 0xfc;
const DO: u8 = 0xfd;
const DONT: u8 = 0xfe;
const IAC: u8 = 0xff;
const TIMING_MARK: u8 = 6;

/// A daemon without notices, a client that speaks telnet and one that does not.
fn pair() -> (Server, Client, Client) {
    let server = Server::start(&["--no-notices"]);
    let telnet = Client::connect(&server);
    let plain = Client::connect(&server);
    (server, telnet, plain)
}

/// The telnet client's next line, which ends in CRLF, is this one of the plain client.
fn crlf_marker(plain: &mut Client, telnet: &mut Client) {
    plain.send_line("marker");
    telnet.expect_message(plain.id(), "marker\r");
}

#[test]
fn the_daemon_sends_no_telnet_command_first() {
    let (_server, mut telnet, mut plain) = pair();
    marker(&mut plain, &mut telnet);
}

#[test]
fn negotiation_is_refused_once_an_option() {
    let (_server, mut telnet, mut plain) = pair();
    telnet.send_bytes(&[
        IAC, WILL, 1, IAC, DO, 3, IAC, WILL, 1, IAC, DO, 3, IAC, WILL, 31,
    ]);
    assert_eq!(
        telnet.read_bytes(9),
        [IAC, DONT, 1, IAC, WONT, 3, IAC, DONT, 31]
    );
    // WONT and DONT ask for nothing.
    telnet.send_bytes(&[
        IAC, WONT, 1, IAC, DONT, 3, IAC, WONT, 40, IAC, DONT, 41, b'x', b'\n',
    ]);
    plain.expect_message(telnet.id(), "x");
    crlf_marker(&mut plain, &mut telnet);
}

#[test]
fn negotiation_split_over_reads_is_answered_once() {
    let (_server, mut telnet, mut plain) = pair();
    let mut stream = Vec::new();
    let mut between = |plain: &mut Client, telnet: &mut Client| {
        plain.send_line("between");
        stream.extend(telnet.read_line_bytes());
        stream.push(b'\n');
    };
    for byte in [
        IAC, WILL, 24, IAC, SB, 24, 0, b'x', IAC, IAC, b'y', IAC, SE, IAC, DO, 1,
    ] {
        telnet.send_bytes(&[byte]);
        // A line goes round between any two bytes, so that each very likely is a read of its own.
        between(&mut plain, &mut telnet);
    }
    telnet.send_bytes(b"hello\n");
    between(&mut plain, &mut telnet);
    plain.expect_message(telnet.id(), "hello");
    between(&mut plain, &mut telnet);

    for answer in [[IAC, DONT, 24], [IAC, WONT, 1]] {
        let found: Vec<_> = memchr::memmem::find_iter(&stream, &answer).collect();
        assert_eq!(
            found.len(),
            1,
            "{answer:?} in {:?}",
            String::from_utf8_lossy(&stream)
        );
        stream.drain(found[0]..found[0] + answer.len());
    }
    let text = String::from_utf8(stream).expect("nothing but the two answers");
    let (before, after) = text.split_at(text.find('\r').expect("CRLF, after a telnet command") + 2);
    assert!(
        after
            .lines()
            .all(|line| line == "Message from client 2: between"),
        "{text:?}"
    );
    assert!(!before.trim_end_matches("\r\n").contains('\r'), "{text:?}");
    assert_eq!(
        after.matches("\r\n").count(),
        after.matches('\n').count(),
        "LF again: {text:?}"
    );
}

#[test]
fn timing_mark_is_answered_every_time() {
    let (_server, mut telnet, mut plain) = pair();
    for _ in 0..5 {
        // What telnet sends for Ctrl-C.
        telnet.send_bytes(&[IAC, IP, IAC, DO, TIMING_MARK]);
        assert_eq!(telnet.read_bytes(3), [IAC, WONT, TIMING_MARK]);
        crlf_marker(&mut plain, &mut telnet);
    }
}

#[test]
fn are_you_there_is_answered_with_text() {
    let (_server, mut telnet, mut plain) = pair();
    telnet.send_bytes(&[IAC, AYT]);
    let answer = telnet.read_line_bytes();
    let text = String::from_utf8(answer).unwrap();
    let text = text
        .strip_suffix('\r')
        .expect("CRLF, after a telnet command");
    assert!(
        !text.is_empty() && !text.contains(char::is_control),
        "{text:?}"
    );
    crlf_marker(&mut plain, &mut telnet);
}

#[test]
fn subnegotiation_is_swallowed() {
    let (_server, mut telnet, mut plain) = pair();
    let mut bytes = vec![b'a', IAC, SB, 24, 0, b'\n', b'x', IAC, IAC, IAC, SE];
    bytes.extend_from_slice(b"b\n");
    telnet.send_bytes(&bytes);
    plain.expect_message(telnet.id(), "ab");
    marker(&mut telnet, &mut plain);
}

#[test]
fn a_doubled_iac_is_a_stray_byte_and_shown() {
    let (_server, mut telnet, mut plain) = pair();
    telnet.send_bytes(&[b'a', IAC, IAC, b'b', b'\n']);
    plain.expect_message(telnet.id(), "a\\xffb");
}

#[test]
fn telnet_commands_inside_a_line_leave_no_trace_in_it() {
    let server = Server::start(&[
        "--no-notices",
        "--listen=127.0.0.1:0",
        "--listen=127.0.0.1:0,format=raw",
    ]);
    let mut telnet = Client::connect(&server);
    let mut plain = Client::connect(&server);
    let mut raw = Client::connect_to(&server, 1);
    telnet.send_bytes(&[b'o', IAC, 0xf1, b'n', IAC, WILL, 1, b'e', b'\n']);
    plain.expect_message(1, "one");
    raw.expect_line("one");
}

#[test]
fn a_line_of_only_ctrl_d_means_that_the_client_leaves() {
    for bytes in [&b"\x04\n"[..], b"\x04\r\n", b"\x04\r\0"] {
        let server = Server::start(&[]);
        let mut plain = Client::connect(&server);
        let mut telnet = Client::connect(&server);
        plain.expect_line("New client connected: 2");
        telnet.send_bytes(&[b"bye\n", bytes].concat());
        plain.expect_message(2, "bye");
        plain.expect_line("Client disconnected: 2");
        telnet.expect_eof();
        drop(telnet);
        server.wait_log("client disconnected client=2 reason=eof lines_in=1");
    }
}

#[test]
fn ctrl_d_among_other_characters_is_only_a_character() {
    let (_server, mut telnet, mut plain) = pair();
    telnet.send_bytes(b"a\x04b\n\x04\x04\n");
    plain.expect_message(telnet.id(), "a\\x04b");
    plain.expect_message(telnet.id(), "\\x04\\x04");
    marker(&mut telnet, &mut plain);
}

#[test]
fn iac_eof_means_that_the_client_leaves() {
    let server = Server::start(&[]);
    let mut plain = Client::connect(&server);
    let mut telnet = Client::connect(&server);
    plain.expect_line("New client connected: 2");
    telnet.send_bytes(&[b'b', b'y', b'e', b'\n', IAC, EOF]);
    plain.expect_message(2, "bye");
    plain.expect_line("Client disconnected: 2");
    telnet.expect_eof();
}

#[test]
fn lines_end_in_crlf_once_the_client_sent_one() {
    let (_server, mut telnet, mut plain) = pair();
    plain.send_line("before");
    telnet.expect_message(plain.id(), "before");
    telnet.send_bytes(b"x\n");
    plain.expect_message(telnet.id(), "x");
    plain.send_line("still before");
    telnet.expect_message(plain.id(), "still before");
    telnet.send_bytes(b"x\r\n");
    plain.expect_message(telnet.id(), "x");
    plain.send_line("after");
    telnet.expect_message(plain.id(), "after\r");
    // Each client for itself.
    telnet.send_bytes(b"x\r\n");
    plain.expect_message(telnet.id(), "x");
}

#[test]
fn iac_is_an_ordinary_byte_where_the_format_is_not_text() {
    let server = Server::start(&["--no-notices", "--format=raw"]);
    let mut one = Client::connect(&server);
    let mut two = Client::connect(&server);
    let bytes = [IAC, DO, TIMING_MARK, IAC, EOF, b'\n', 4, b'\n'];
    one.send_bytes(&bytes);
    assert_eq!(two.read_bytes(bytes.len()), bytes);
    two.send_line("marker");
    one.expect_line("marker");
}

/// The real telnet in a terminal of its own, connected.
fn real_telnet(server: &Server) -> Option<Program> {
    let (telnet, script) = (tool("telnet")?, tool("script")?);
    let port = server.addr(0).port();
    let program = Program::spawn(
        Command::new(script)
            .arg("-qec")
            .arg(format!("{} 127.0.0.1 {port}", telnet.display()))
            .arg("/dev/null")
            .env("TERM", "xterm"),
    );
    program.wait_output("Escape character is");
    Some(program)
}

#[test]
fn a_telnet_user_who_pressed_ctrl_c_goes_on_seeing_lines() {
    let server = Server::start(&[]);
    let mut plain = Client::connect(&server);
    let Some(mut telnet) = real_telnet(&server) else {
        return;
    };
    plain.expect_line("New client connected: 2");
    telnet.type_in(b"hello from telnet\r");
    plain.expect_message(2, "hello from telnet");
    plain.send_line("before ctrl-c");
    telnet.wait_output("Message from client 1: before ctrl-c\r\n");

    for n in 0..3 {
        telnet.type_in(b"\x03");
        // The line it sends after Ctrl-C shows that the daemon has read Ctrl-C.
        telnet.type_in(format!("typed {n}\r").as_bytes());
        plain.expect_message(2, &format!("typed {n}"));
        plain.send_line(&format!("after ctrl-c {n}"));
        telnet.wait_output(&format!("Message from client 1: after ctrl-c {n}\r\n"));
    }
}

#[test]
fn a_telnet_user_who_presses_ctrl_d_leaves() {
    let server = Server::start(&[]);
    let mut plain = Client::connect(&server);
    let Some(mut telnet) = real_telnet(&server) else {
        return;
    };
    plain.expect_line("New client connected: 2");
    telnet.type_in(b"bye\r");
    plain.expect_message(2, "bye");
    telnet.type_in(b"\x04");
    // Where telnet sends Ctrl-D as a character, Enter sends it off.
    telnet.type_in(b"\r");
    plain.expect_line("Client disconnected: 2");
    telnet.wait_output("Connection closed by foreign host");
}
