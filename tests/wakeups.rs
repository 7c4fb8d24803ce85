use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::thread;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::process::Signal;
use socket2::{Domain, Socket, Type};

use crate::common::{Address, Client, Server};

fn tcp(server: &Server, i: usize) -> SocketAddr {
    match server.addr(i) {
        Address::Tcp(address) => *address,
        Address::Unix(path) => panic!("{}", path.display()),
    }
}

/// Everybody sends long lines and reads all the time, in small sips. Whoever is told to skip in the
/// middle of a line has the rest of it to take first, and is not read from until then.
#[test]
fn crowd_that_skips_in_the_middle_of_long_lines_never_stands_still() {
    let server = Server::start(&[
        "--no-notices",
        "--format=raw",
        "--slow-client=skip",
        "--slow-grace=1ms",
        "--buffer=4KiB",
        "--worker-threads=4",
    ]);
    let streams: Vec<TcpStream> = (0..6)
        .map(|_| {
            // Before it connects: a window that shrinks later makes the sender wait for a timer.
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            socket.set_recv_buffer_size(16 * 1024).unwrap();
            socket.set_tcp_nodelay(true).unwrap();
            socket.connect(&tcp(&server, 0).into()).unwrap();
            socket.into()
        })
        .collect();
    let readers: Vec<_> = streams
        .iter()
        .map(|stream| {
            let mut stream = stream.try_clone().unwrap();
            thread::spawn(move || {
                let mut sip = vec![0; 64 * 1024];
                while stream.read(&mut sip).is_ok_and(|read| read > 0) {}
            })
        })
        .collect();
    let senders: Vec<_> = streams
        .into_iter()
        .enumerate()
        .map(|(n, mut stream)| {
            thread::spawn(move || {
                for round in 0..600 {
                    let mut line = vec![b'x'; [10, 100, 20_000][(n + round) % 3]];
                    line.push(b'\n');
                    stream.write_all(&line).unwrap();
                }
                stream.shutdown(std::net::Shutdown::Write).unwrap();
            })
        })
        .collect();
    // Where one of them stood still for good, so would all the others, and this.
    senders
        .into_iter()
        .for_each(|sender| sender.join().unwrap());
    readers
        .into_iter()
        .for_each(|reader| reader.join().unwrap());
}

#[test]
fn client_whose_answers_had_to_wait_is_read_from_when_they_have_gone() {
    const QUESTIONS: usize = 1_000_000;
    let server = Server::start(&["--no-notices"]);
    let mut observer = Client::connect(&server);
    let client = Client::connect(&server);
    let mut sender = client.sender();
    let asking = thread::spawn(move || {
        sender
            .write_all(&b"\xff\xfd\x06".repeat(QUESTIONS))
            .unwrap();
        sender.write_all(b"hello\n").unwrap();
    });
    // It reads only once its socket is full.
    server.wait_log("client connected client=2");
    let mut answers = client.sender();
    let mut taken = 0;
    let mut buffer = vec![0; 1 << 20];
    while taken < 3 * QUESTIONS {
        let read = answers.read(&mut buffer).unwrap();
        let expected = b"\xff\xfc\x06".iter().cycle().skip(taken % 3);
        assert!(buffer[..read].iter().eq(expected.take(read)), "at {taken}");
        taken += read;
    }
    assert_eq!(taken, 3 * QUESTIONS);
    asking.join().unwrap();
    observer.expect_message(2, "hello");
}

#[test]
fn urgent_data_ends_no_read_for_good_and_belongs_to_the_line() {
    let server = Server::start(&[
        "--no-notices",
        "--listen=127.0.0.1:0",
        "--listen=127.0.0.1:0,format=raw",
    ]);
    let mut observer = Client::connect_to(&server, 1);
    let send = |stream: &TcpStream, parts: [&[u8]; 3], stopped: bool| {
        if stopped {
            server.signal(Signal::STOP);
        }
        let flags = [SendFlags::empty(), SendFlags::OOB, SendFlags::empty()];
        for (part, flags) in parts.into_iter().zip(flags) {
            rustix::net::send(stream, part, flags).unwrap();
        }
        if stopped {
            server.signal(Signal::CONT);
        }
    };
    // Telnet's Ctrl-C: what it asks for after the mark is what its screen waits for.
    for stopped in [false, true].repeat(10) {
        let mut telnet = TcpStream::connect(tcp(&server, 0)).unwrap();
        send(
            &telnet,
            [b"\xff\xf4", b"\xff\xf2", b"\xff\xfd\x06"],
            stopped,
        );
        let mut answer = [0; 3];
        telnet.read_exact(&mut answer).unwrap();
        assert_eq!(answer, *b"\xff\xfc\x06");
    }
    for stopped in [false, true].repeat(10) {
        let mut raw = TcpStream::connect(tcp(&server, 1)).unwrap();
        send(&raw, [b"ab", b"c", b"def\n"], stopped);
        observer.expect_line("abcdef");
        raw.write_all(b"next\n").unwrap();
        observer.expect_line("next");
    }
}

#[test]
fn descriptors_that_are_passed_along_end_no_read_for_good() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hub.sock");
    let listen = format!("--listen=unix:{}", path.display());
    let server = Server::start(&[
        "--no-notices",
        "--format=raw",
        "--listen=127.0.0.1:0",
        &listen,
    ]);
    let mut observer = Client::connect(&server);
    let before = server.open_files();
    for _ in 0..10 {
        let mut client = UnixStream::connect(&path).unwrap();
        server.signal(Signal::STOP);
        let passed = [client.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&passed)));
        sendmsg(
            &client,
            &[IoSlice::new(b"ab")],
            &mut control,
            SendFlags::empty(),
        )
        .unwrap();
        client.write_all(b"cd\n").unwrap();
        server.signal(Signal::CONT);
        observer.expect_line("abcd");
    }
    crate::common::eventually("none of them is kept", || server.open_files() <= before);
}
