use std::fs;
use std::io::{IoSlice, Write};
use std::mem::MaybeUninit;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::MemfdFlags;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use rustix::process::Signal;
use socket2::Socket;

use crate::common::{Client, Manager};

/// What the binary of the last build (state version 5) left to the service manager.
///
/// It was started under a manager that keeps descriptors, with `--slow-grace=forever` and [`LISTEN`].
/// In this order
/// - clients 1 and 2 came to `text`, 3 to `json`, 4 to `raw`, and 5 and 6 to `text`; all but 5 read;
/// - 2 sent CR LF; 1 sent `whole`, and then lines of [`payload`] until 5, with a receive buffer of
///   4 KiB, had output that its socket did not take; and then `later 1` and `later 2`;
/// - 3 sent `grüß ESC [2J` with CR LF, 4 sent FF with CR LF, and 6 left;
/// - 1 sent `half a `, 4 sent `raw FE half CR`, and 2 sent `enter CR`, none of which ends a line;
/// - SIGTERM came, and the bytes of the memfd were copied.
const STATE: &[u8] = include_bytes!("fixtures/state-5.bin");

const LISTEN: [&str; 3] = [
    "--listen=127.0.0.1:0",
    "--listen=127.0.0.1:0,format=json",
    "--listen=127.0.0.1:0,format=raw",
];

/// The clients that are there, in the order of the state.
const CLIENTS: [u64; 5] = [1, 2, 3, 5, 4];

/// The line of which client 5 had taken [`TAKEN`] bytes.
const CUT_LINE: u32 = 2909;
const TAKEN: usize = 110;

/// The last of those lines.
const LAST_LINE: u32 = 2913;

/// The number of the last message or notice in the order.
const LAST_SEQ: u64 = 2926;

fn payload(line: u32) -> String {
    format!("{line:05} {}", "abcdefghij".repeat(100))
}

fn memory(bytes: &[u8]) -> OwnedFd {
    let memory = rustix::fs::memfd_create("state", MemfdFlags::CLOEXEC).expect("a memfd");
    let mut file = fs::File::from(memory);
    file.write_all(bytes).expect("memory");
    file.into()
}

/// Both ends of a queue that these sockets wait in, as a daemon leaves them in the store.
fn queue(sockets: &[BorrowedFd<'_>]) -> (OwnedFd, OwnedFd) {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (near, far) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
            .expect("a socketpair");
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(sockets)));
    let byte = [IoSlice::new(&[0])];
    rustix::net::sendmsg(&near, &byte, &mut control, SendFlags::empty()).expect("it is queued");
    (near, far)
}

#[test]
fn state_that_the_last_build_wrote_is_taken_up_by_this_one() {
    let listeners = LISTEN.map(|_| TcpListener::bind("127.0.0.1:0").expect("a port"));
    let addresses = listeners
        .each_ref()
        .map(|listener| listener.local_addr().expect("bound").to_string());
    let meeting = TcpListener::bind("127.0.0.1:0").expect("a port");
    let meet = |id| {
        let client = TcpStream::connect(meeting.local_addr().expect("bound")).expect("a client");
        client.set_nodelay(true).expect("TCP_NODELAY");
        let (server, _) = meeting.accept().expect("its other end");
        (server, Client::over(Socket::from(client), id))
    };
    let (servers, clients): (Vec<_>, Vec<_>) = CLIENTS.map(meet).into_iter().unzip();
    let ours = listeners.iter().map(AsFd::as_fd);
    let sockets: Vec<_> = ours.chain(servers.iter().map(AsFd::as_fd)).collect();
    let (near, far) = queue(&sockets);
    drop((listeners, servers));

    let manager = Manager::keeping();
    let args = [&LISTEN[..], &["--slow-grace=forever"]].concat();
    let server = manager
        .launch(&args)
        .listeners(LISTEN.len())
        .pass("linehub-state", memory(STATE))
        .pass("linehub-queue", near)
        .pass("linehub-queue", far)
        .start();
    server.wait_log("taking over from the daemon before clients=5");
    for (i, address) in addresses.iter().enumerate() {
        assert_eq!(&server.addr(i).to_string(), address, "the socket is kept");
    }
    let Ok([mut one, mut two, mut json, mut behind, mut raw]) = <[Client; 5]>::try_from(clients)
    else {
        panic!("there are five");
    };

    // What was not sent yet comes, from the very byte on.
    let cut = format!("Message from client 1: {}", payload(CUT_LINE));
    behind.expect_line(&cut[TAKEN..]);
    for line in CUT_LINE + 1..=LAST_LINE {
        behind.expect_message(1, &payload(line));
    }
    behind.expect_message(1, "later 1");
    behind.expect_message(1, "later 2");
    behind.expect_message(3, r"grüß \x1b[2J");
    behind.expect_message(4, r"\xff");
    behind.expect_line("Client disconnected: 6");

    // Half a line is completed, in every format, and the numbers count on.
    one.send_bytes(b"line\n");
    behind.expect_message(1, "half a line");
    two.expect_message(1, "half a line\r");
    raw.expect_line("half a line");
    json.expect_line(&format!(
        r#"{{"event":"message","seq":{},"client":1,"data":"half a line"}}"#,
        LAST_SEQ + 1
    ));
    raw.send_bytes(b"\n");
    one.expect_message(4, r"raw \xfe half");
    behind.expect_message(4, r"raw \xfe half");
    two.expect_message(4, "raw \\xfe half\r");
    let message = json.read_json();
    assert_eq!(message["seq"], LAST_SEQ + 2);
    assert_eq!(message["data_base64"], "cmF3IP4gaGFsZg==");
    // The second byte of Enter is no part of the next line.
    two.send_bytes(b"\0next\r\n");
    for reader in [&mut one, &mut behind] {
        reader.expect_message(2, "enter");
        reader.expect_message(2, "next");
    }
    assert_eq!(json.read_json()["data"], "enter");
    assert_eq!(json.read_json()["seq"], LAST_SEQ + 4);
    for line in ["enter\r", "next\r"] {
        raw.expect_line(line);
    }

    // Who comes gets a number that nobody had, and is told to those who are there.
    let mut late = Client::connect_to(&server, 1);
    assert_eq!(late.id(), 7);
    one.expect_line("New client connected: 7");
    behind.expect_line("New client connected: 7");
    two.expect_line("New client connected: 7\r");
    drop(behind);
    one.expect_line("Client disconnected: 5");
    two.expect_line("Client disconnected: 5\r");
    let left = late.read_json();
    assert_eq!(left["event"], "disconnect");
    assert_eq!(left["seq"], LAST_SEQ + 6);

    server.signal(Signal::INT);
    one.expect_line("Server shutting down");
    one.expect_eof();
    assert_eq!(server.count_log("ERROR"), 0, "{:?}", server.log());
}
