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

use crate::common::{Client, Launch, Manager, PATIENCE, Server};
use serde_json::{Value, json};

/// What the binary of the last build (state version 6) left to the service manager.
///
/// It was started under a manager that keeps descriptors, with `--slow-grace=forever` and [`LISTEN`].
/// In this order
/// - clients 1 and 2 came to `text`, 3 to `json`, 4 to `raw`, and 5 and 6 to `text`; all but 5 read;
/// - 2 sent CR LF; 1 sent `whole`, and then lines of [`payload`] until 5, with a receive buffer of
///   4 KiB, had output that its socket did not take; and then `later 1` and `later 2`;
/// - 3 sent `grüß ESC [2J` with CR LF, 4 sent FF with CR LF, and 6 left;
/// - 1 sent `half a `, 4 sent `raw FE half CR`, and 2 sent `enter CR`, none of which ends a line;
/// - SIGTERM came, and the bytes of the memfd were copied.
const STATE: &[u8] = include_bytes!("fixtures/state-6.bin");

const LISTEN: [&str; 3] = [
    "--listen=127.0.0.1:0",
    "--listen=127.0.0.1:0,format=json",
    "--listen=127.0.0.1:0,format=raw",
];

/// The clients that are there, in the order of the state.
const CLIENTS: [u64; 5] = [4, 5, 2, 3, 1];

/// The line of which client 5 had taken [`TAKEN`] bytes.
const CUT_LINE: u32 = 2732;
const TAKEN: usize = 124;

/// The last of those lines.
const LAST_LINE: u32 = 2735;

/// The number of the last message or notice in the order.
const LAST_SEQ: u64 = 2748;

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

/// A daemon that has taken up the state, and its clients.
struct Upgraded {
    server: Server,
    one: Client,
    two: Client,
    json: Client,
    /// Client 5, which has got nothing yet of what was not sent before.
    behind: Client,
    raw: Client,
    /// What the daemon is to tell that it no longer needs the state.
    _manager: Manager,
}

/// Starts a daemon with [`LISTEN`] and these arguments, and gives it the state.
#[track_caller]
fn upgrade(args: &[&str]) -> Upgraded {
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
    let args = [&LISTEN[..], &["--slow-grace=forever"], args].concat();
    let listeners = args.iter().filter(|arg| arg.starts_with("--listen"));
    let server = manager
        .launch(&args)
        .listeners(listeners.count())
        .pass("linehub-state", memory(STATE))
        .pass("linehub-queue", near)
        .pass("linehub-queue", far)
        .start();
    server.wait_log("taking over from the daemon before clients=5");
    for (i, address) in addresses.iter().enumerate() {
        assert_eq!(&server.addr(i).to_string(), address, "the socket is kept");
    }
    let Ok([raw, behind, two, json, one]) = <[Client; 5]>::try_from(clients) else {
        panic!("there are five");
    };
    Upgraded {
        server,
        one,
        two,
        json,
        behind,
        raw,
        _manager: manager,
    }
}

/// What was not sent yet comes, from the very byte on.
#[track_caller]
fn expect_rest(behind: &mut Client) {
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
}

#[test]
fn state_that_the_last_build_wrote_is_taken_up_by_this_one() {
    let Upgraded {
        server,
        mut one,
        mut two,
        mut json,
        mut behind,
        mut raw,
        _manager,
    } = upgrade(&[]);
    expect_rest(&mut behind);

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

/// A listener whose clients say what of the past they want, beside [`LISTEN`].
const HELLO: &str = "--listen=127.0.0.1:0,hello,format=json";

/// A client of listener `i`, which is [`HELLO`], that asks for this; and the answer.
#[track_caller]
fn greet(server: &Server, i: usize, words: &str) -> (Client, Value) {
    let mut client = Client::dial(server.addr(i));
    client.send_line(&format!("LINEHUB/1 {words}"));
    let answer = client.read_json();
    assert_eq!(answer["event"], "hello", "{answer}");
    (client, answer)
}

/// A client that goes on behind the last number of the state, and misses nothing by that.
#[track_caller]
fn resume(server: &Server, i: usize, epoch: &str) -> Client {
    let words = format!("role=subscribe since={epoch}:{LAST_SEQ}");
    let (client, answer) = greet(server, i, &words);
    assert_eq!(answer["recovered"], true, "{answer}");
    assert_eq!(answer["epoch"], epoch);
    assert_eq!(answer["seq"], LAST_SEQ);
    client
}

/// Events in `json` up to the message of this line.
#[track_caller]
fn events_until(client: &mut Client, line: &str) -> Vec<Value> {
    let mut events = Vec::new();
    while events
        .last()
        .is_none_or(|last: &Value| last["data"] != line)
    {
        events.push(client.read_json());
    }
    events
}

/// What is published after the upgrade is kept, with numbers that go on behind the state's. Returns the epoch, and
/// what is kept so far.
#[track_caller]
fn expect_history(upgraded: &mut Upgraded) -> (String, Vec<Value>) {
    let Upgraded {
        server,
        one,
        behind,
        ..
    } = upgraded;
    let hello = LISTEN.len();
    // Nothing is known of the past: not what it said, nor how many messages.
    let (mut late, answer) = greet(server, hello, "role=subscribe history=100");
    assert_eq!(answer["client"], 7);
    assert_eq!(answer["seq"], LAST_SEQ);
    let epoch = answer["epoch"].as_str().expect("an epoch").to_owned();
    let before = format!("role=subscribe since={epoch}:{}", LAST_SEQ - 1);
    let (_before, answer) = greet(server, hello, &before);
    assert_eq!(answer["recovered"], false, "{answer}");

    one.send_bytes(b"line\n");
    expect_rest(behind);
    behind.expect_line("New client connected: 7");
    behind.expect_line("New client connected: 8");
    behind.expect_message(1, "half a line");
    let kept = [
        json!({"event": "connect", "seq": LAST_SEQ + 1, "client": 7}),
        json!({"event": "connect", "seq": LAST_SEQ + 2, "client": 8}),
        json!({"event": "message", "seq": LAST_SEQ + 3, "client": 1, "data": "half a line"}),
    ];
    assert_eq!([late.read_json(), late.read_json()], kept[1..]);
    let mut resumed = resume(server, hello, &epoch);
    assert_eq!(events_until(&mut resumed, "half a line"), kept);
    let (mut newest, _) = greet(server, hello, "role=subscribe history=100");
    assert_eq!(newest.read_json(), kept[2]);
    (epoch, kept.to_vec())
}

#[test]
fn state_from_before_there_was_a_history_is_taken_up_by_a_daemon_that_keeps_one() {
    let mut upgraded = upgrade(&[HELLO, "--history=1MiB"]);
    let (epoch, kept) = expect_history(&mut upgraded);
    // So it is where clients that are behind catch up from what is kept.
    drop(upgraded);
    let mut upgraded = upgrade(&[HELLO, "--history=1MiB", "--slow-client=catch-up"]);
    assert_eq!(expect_history(&mut upgraded), (epoch, kept));
}

#[test]
fn state_from_before_there_was_a_history_is_gone_on_with_on_disk() {
    let dir = tempfile::tempdir().expect("a directory");
    let dir = format!("--history-dir={}", dir.path().join("history").display());
    let mut upgraded = upgrade(&[HELLO, "--history=1MiB", &dir]);
    let (epoch, kept) = expect_history(&mut upgraded);
    let Upgraded { mut server, .. } = upgraded;
    server.signal(Signal::KILL);
    server.wait_exit(PATIENCE);

    // The next one has no state, and knows all the same.
    let args = [HELLO, "--listen=127.0.0.1:0", "--history=1MiB", &dir];
    let server = Launch::new(&args).start();
    let mut resumed = resume(&server, 0, &epoch);
    let mut next = Client::connect_to(&server, 1);
    assert!(next.id() > 8, "client {}", next.id());
    next.send_line("after the crash");
    let events = events_until(&mut resumed, "after the crash");
    assert_eq!(events[..kept.len()], kept);
    // But for the notice of its own, it gets every number once.
    let numbers: Vec<u64> = events.iter().filter_map(|it| it["seq"].as_u64()).collect();
    let last = LAST_SEQ + 1 + events.len() as u64;
    let missing = (LAST_SEQ + 1..=last).filter(|number| !numbers.contains(number));
    assert_eq!(missing.count(), 1, "{numbers:?}");
    assert!(numbers.is_sorted(), "{numbers:?}");
    assert_eq!(numbers.last(), Some(&last));
    assert_eq!(server.count_log("ERROR"), 0, "{:?}", server.log());
}
